"""Temperature, batch and epochs of the tuned encoder of Table III, on one draw of validation.

Each run tunes MiniLM with the loss (T) of batch_softmax.py without the validation part of
ratings.safetensors, encodes the movies, and is measured on that part in two ways: the text alone,
and the ranking PMF with this text as its prior.

Gives:    out/tuned.json and out/tuned.md, a row for each of six runs of some four minutes.
Command:  python tests/studies/tuned.py --out out                              (or: make tuned)
Needs:    the ratings and documents of `make study` in --out, and the weights of MiniLM.
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import table3  # beside this script
from common import make_missing

import fuse
import metrics
from main import markdown, write_texts
from metrics import provenance, stage


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts; the runs stand in out/tuned-..
    minilm: Path = Path("data/minilm")  # weights of MiniLM
    k: int = 25  # length of the list
    seed: int = 42  # of the tuning and of the first factors


RUNS = (  # temperature, batch, epochs: the run of `make study`, then one of them changed
    (0.2, 64, 8),
    (0.1, 64, 8),
    (0.4, 64, 8),
    (0.2, 32, 8),
    (0.2, 128, 8),
    (0.2, 64, 4),
)


def tuned(s, temperature, batch, epochs):
    """The embeddings' path of a run; a run that is there already is not made again."""
    folder = s.out / f"tuned-{temperature}-{batch}-{epochs}"
    texts = s.out / "documents-no-leak.txt"
    lines = {
        folder / "training.json": "tests/studies/batch_softmax.py --encoder minilm "
        f"--weights {s.minilm} --ratings {s.out / 'ratings.safetensors'} --texts {texts} "
        f"--out {folder} --seed {s.seed} --temperature {temperature} --batch {batch} "
        f"--epochs {epochs}",
        folder.with_suffix(f"{folder.suffix}.safetensors"): f"encode.py --encoder {folder} "
        f"--texts {texts} --out {folder.with_suffix(f'{folder.suffix}.safetensors')}",
    }
    make_missing(lines)
    record, ratings = folder / "training.json", s.out / "ratings.safetensors"
    made = metrics.read_json(record, "settings", "inputs")
    metrics.require(record, made["inputs"], {ratings.name: metrics.sha256(ratings)})
    metrics.require(record, made["settings"], {"seed": s.seed})
    return list(lines)[-1]


def measured(lab, task, path, s):
    """NDCG of the text alone, with the best weight of log(1 + likes), and as prior of the PMF."""
    texts = [lab.settings.out / "documents-no-leak.txt"]
    metrics.require(path, provenance(path)["inputs"], {texts[0].name: metrics.sha256(texts[0])})
    lab.embeddings = lambda text: metrics.load(path)["embeddings"].astype(float)

    def ndcg(ranker):
        return float(table3.measure(task, ranker, s.k)["ndcg"].mean())

    alone = max(ndcg(table3.text_ranker(lab, task, "", p)) for p in (0.1, 0.2, 0.3, 0.4))
    model = table3.fit(lab, task, table3.Fitted(""), s.seed)
    prior = ndcg(table3.alone(partial(fuse.mf_scores, U=model["U"], V=model["V"])))
    return {"text alone": alone, "as prior": prior}


def table(record):
    """tuned.md."""
    head = ["temperature", "batch", "epochs", "NDCG of the text alone", "NDCG as prior of the PMF"]
    names = ("text alone", "as prior")
    rows = [
        [*(str(row[n]) for n in head[:3]), *(f"{row[n]:.4f}" for n in names)]
        for row in record["rows"]
    ]
    return (
        f"The tuned encoder of Table III: NDCG@{record['k']} on the validation part of seed 7, one "
        "run each. Text alone is the centred cosine + the best of .1 .. .4 times log(1 + likes)."
        f"\n\n{markdown(head, rows)}"
    )


def main():
    s = metrics.parse(Settings, __doc__, k=1, seed=metrics.SEEDS)
    lab = table3.Lab(table3.Settings(out=s.out, k=s.k, seed=s.seed))
    task, rows = lab.splits()["validation"], []
    for run in RUNS:
        with stage(s.out / "tuned.json", f"temperature {run[0]}, batch {run[1]}, epochs {run[2]}"):
            found = measured(lab, task, tuned(s, *run), s)
            rows.append(dict(zip(("temperature", "batch", "epochs"), run, strict=True)) | found)
    record = {"k": s.k, "split": provenance(lab.ratings), "versions": metrics.versions()}
    record["rows"] = rows
    texts = {"tuned.json": json.dumps(record, indent=1), "tuned.md": table(record)}
    write_texts(s.out, texts)
    print(texts["tuned.md"])


if __name__ == "__main__":
    metrics.run(main)
