"""Do the rows of Table I with a tuned encoder hold for other seeds of the tuning?

Table I is of one seed. Here the tunings of three rows were repeated on the same split with the next
two seeds (of the examples, their order, LoRA's start and dropout); alpha is chosen for each again.

Gives:    out/seeds.json and out/seeds.md: means and ranges over the seeds, and the difference to MF
          only with an interval that is drawn from the users and the seeds.
Command:  python tests/studies/seeds.py --out out                               (or: make seeds)
Needs:    the files of `make all`, and out/minilm-tuned-2.safetensors, -3 and so on.

Legend: S seeds, E users measured.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from common import interval  # beside this script

import metrics
from main import (
    CONTENT_ROWS,
    METRICS,
    NOTEBOOK,
    REPORT,
    Artefacts,
    Evaluate,
    content_row,
    markdown,
    marks,
    write_texts,
)
from metrics import BadInput


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts, and of the two files to write
    k: int = 25  # length of the list


ENDS = ("", "-2", "-3")  # of the names of what was made with the first seed, and with two more


def rows_by_seed(out, recipe, row, k):
    """[(entry, evaluate() result)] of a row with late fusion, one for each seed that was run."""
    name, settings = CONTENT_ROWS[row] + recipe.suffix, Evaluate(out=out.folder, k=k)
    there = [later for later, end in enumerate(ENDS) if out.path(name + end).exists()]
    return [content_row(out, recipe, row, settings, later) for later in there]


def study(s):
    """The content of seeds.json."""
    out, rows = Artefacts(s.out), []
    base = metrics.evaluate(out.mf("pmf"), out.task.seen, out.task.relevant, s.k)
    for recipe in (NOTEBOOK, REPORT):
        for row, encoder in CONTENT_ROWS.items():
            if not out.path(encoder + recipe.suffix + ENDS[1]).exists():
                continue
            entries, results = zip(*rows_by_seed(out, recipe, row, s.k), strict=True)
            ndcg = np.array([result["ndcg"] for result in results])  # (S, E)
            kept = ("seed", "hits", "alpha", *METRICS)
            seeds = [{name: entry[name] for name in kept} for entry in entries]
            found = {"recipe": recipe.name, "row": row, "seeds": seeds}
            rows.append(found | {"difference": metrics.paired_bootstrap(ndcg, base["ndcg"])})
    if not rows:
        raise BadInput(f"{s.out} has no embeddings of a second seed; `make seeds` makes them")
    record = {"edition": out.record["edition"], "k": s.k, "split": metrics.provenance(out.ratings)}
    return record | {"versions": metrics.versions(), "rows": rows}


def spread(values, form):
    """Mean and lowest .. highest of some numbers, each in a format."""
    return f"{np.mean(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def table(record):
    """seeds.md."""
    k = record["k"]
    head = ["recipe", "row", "seeds", "hits", f"P@{k}", f"R@{k}", f"NDCG@{k}", "alpha"]
    head += ["NDCG - MF only"]
    lines = []
    for row in record["rows"]:
        columns = {name: [seed[name] for seed in row["seeds"]] for name in row["seeds"][0]}
        cells = [row["recipe"], row["row"], ", ".join(map(str, columns["seed"]))]
        cells += [spread(columns["hits"], ".0f")]
        cells += [spread(columns[name], ".4f") for name in METRICS]
        cells += [", ".join(f"{alpha:.2f}" for alpha in columns["alpha"])]
        lines.append([*cells, interval(row["difference"])])
    return (
        f"{marks(record)}Rows of Table I with other seeds of the tuning: mean and lowest..highest "
        "seed. The last column is the mean difference to MF only with its 95 % paired bootstrap "
        f"interval, drawn from the users and the seeds.\n\n{markdown(head, lines)}"
    )


def main():
    s = metrics.parse(Settings, __doc__, k=1)
    with metrics.stage(s.out / "seeds.json", "the rows of other seeds"):
        record = study(s)
        texts = {"seeds.md": table(record), "seeds.json": json.dumps(record, indent=1)}
        write_texts(s.out, texts)
    print(texts["seeds.md"])


if __name__ == "__main__":
    metrics.run(main)
