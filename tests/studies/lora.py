"""Why LoRA on NF4 stops short of tuning all weights in recipe `report`, on the validation part.

LoRA on 4-bit weights could lose for three reasons: the weights are rounded, the learning rate is
low, or the additions are in too few places. More than half of MiniLM's parameters are word
embeddings, which LoRA leaves as they are unless told. Each run tunes MiniLM on the triplets without
rounding, and all but the first with one thing more changed. Like the alpha of Eq. (1), the figure
is NDCG@25 on the validation part, from which no triplet comes; the test part is not looked at.

Gives:    out/lora.json and out/lora.md: four rows of `make all`, then a row for each of RUNS.
Command:  python tests/studies/lora.py --out out                                (or: make lora)
Needs:    the files of `make all` in --out, and the weights of MiniLM.
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from common import interval, make_missing  # beside this script

import fuse
import metrics
from main import REPORT, Artefacts, markdown, write_texts
from metrics import provenance, read_json, stage


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts; the runs stand in out/lora-..
    minilm: Path = Path("data/minilm")  # weights of MiniLM
    k: int = 25  # length of the list
    seed: int = 42  # of the tuning


ALL_WEIGHTS = "minilm-tuned-report"
MADE = {  # what `make all` made: name of the embeddings -> what it is
    "minilm-report": "not tuned",
    "minilm-nf4-report": "not tuned, NF4",
    "minilm-nf4-lora-report": "LoRA on NF4: rank 16, queries and values, rate 2e-4, 2 passes",
    ALL_WEIGHTS: "all weights, rate 2e-5, 2 passes",
}
RUNS = {  # name -> what is changed in that LoRA, and how contrastive.py is asked
    "lora-float32": ("float32 weights", "--lora --lr 2e-4"),
    "lora-rate": ("float32 weights, rate 1e-3", "--lora --lr 1e-3"),
    "lora-layers": (
        "float32 weights, all linear layers",
        "--lora --lr 2e-4 --targets query key value dense",
    ),
    "lora-words": (
        "float32 weights, word embeddings too",
        "--lora --lr 2e-4 --targets query value word_embeddings",
    ),
}


def run_of(s, name, flags):
    """Tune and encode, unless that was done: the folder out/<name>, and its .safetensors."""
    folder, texts = s.out / name, s.out / "documents-report.txt"
    mini = f"--encoder minilm --weights {s.minilm} --texts {texts}"
    tuning = f"--ratings {s.out / 'ratings.safetensors'} --recipe report --seed {s.seed} {flags}"
    vectors = f"--adapter {folder} --out {folder}.safetensors"
    make_missing(
        {
            folder / "training.json": f"contrastive.py {mini} --out {folder} {tuning}",
            s.out / f"{name}.safetensors": f"encode.py {mini} {vectors}",
        }
    )


def measured(out, name, s):
    """{"alpha", "ndcg" (E,), ..} of recipe report on the validation part, with these embeddings."""
    task, (U, V) = fuse.ranking_task(out.data, validation=True), out.factors("pmf-fit")
    scores = fuse.report_scorer(task, U, V, out.embeddings(name, REPORT.suffix))
    alpha, _ = fuse.grid_search(scores, task, s.k)
    result = metrics.evaluate(partial(scores, alpha=alpha), task.seen, task.relevant, s.k)
    found = {"alpha": alpha, "ndcg": result["ndcg"]}
    record = out.folder / name / "training.json"
    if record.is_file():
        cost = read_json(record, "settings", "inputs", "trainable_share", "seconds", "losses")
        metrics.require(record, cost["inputs"], {out.ratings.name: metrics.sha256(out.ratings)})
        metrics.require(record, cost["settings"], {"seed": s.seed})
        found |= {key: cost[key] for key in ("trainable_share", "seconds")}
        found["losses"] = [
            float(np.mean(part)) for part in (cost["losses"][:50], cost["losses"][-50:])
        ]
    return found


def table(record):
    """lora.md."""
    head = ["tuned", "trained", "minutes", "loss, first and last 50 steps", "alpha"]
    head += [f"NDCG@{record['k']}", "to all weights"]
    lines = []
    for row in record["rows"]:
        cells = ["none", "", ""]
        if "losses" in row:
            cells = [f"{row['trainable_share']:.2%}", f"{row['seconds'] / 60:.1f}"]
            cells.append("{:.3f}, {:.3f}".format(*row["losses"]))
        numbers = [f"{row['alpha']:.2f}", f"{row['ndcg']:.4f}"]
        difference = interval(row["difference"])
        lines.append([row["what"], *cells, *numbers, difference * (row["name"] != ALL_WEIGHTS)])
    return (
        f"Recipe `report`, MiniLM, seed {record['seed']}: NDCG@{record['k']} on the validation "
        "part, by the alpha that is best there; with its difference to the tuning of all weights "
        "and the 95 % paired bootstrap interval, drawn from the users. Each further row of LoRA "
        f"changes in the first one only what it names.\n\n{markdown(head, lines)}"
    )


def main():
    s = metrics.parse(Settings, __doc__, k=1, seed=metrics.SEEDS)
    out, rows = Artefacts(s.out), []
    reference = measured(out, ALL_WEIGHTS, s)["ndcg"]  # (E,)
    for name, what in (MADE | {name: what for name, (what, _) in RUNS.items()}).items():
        with stage(s.out / "lora.json", what):
            if name in RUNS:
                run_of(s, name, RUNS[name][1])
            found = measured(out, name, s)
            found["difference"] = metrics.paired_bootstrap(found["ndcg"], reference)
            rows.append({"name": name, "what": what} | found | {"ndcg": found["ndcg"].mean()})
    record = {"k": s.k, "seed": s.seed, "split": provenance(out.ratings)}
    record |= {"versions": metrics.versions(), "rows": rows}
    texts = {"lora.json": json.dumps(record, indent=1), "lora.md": table(record)}
    write_texts(s.out, texts)
    print(texts["lora.md"])


if __name__ == "__main__":
    metrics.run(main)
