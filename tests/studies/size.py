"""Does size matter, and does LoRA on NF4 pay: rows of Table I beside each other, with intervals.

Table I compares every row with MF only. The report's two claims are about other differences: that
of a larger encoder to a smaller one, and that of an encoder tuned by LoRA on 4-bit weights to the
same one untuned, or tuned as a whole. Here each is taken over the same users (and drawn from the
seeds where a row has several), by NDCG@25 on the test part. Nothing is chosen here.

Gives:    out/size.json and out/size.md: the rows with an encoder, and the differences.
Command:  python tests/studies/size.py --out out                                 (or: make size)
Needs:    the files of `make all`, `make seeds` and `make mpnet` in --out.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from common import interval  # beside this script
from seeds import rows_by_seed

import metrics
from main import PARAMETERS, RECIPES, Artefacts, markdown, reported, write_texts
from metrics import BadInput, read_json, stage


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts


ONE, OTHER = "MF + MiniLM", "MF + MPNet"  # the smaller encoder, the larger
QUESTIONS = {  # what is asked -> (recipe, row, the row that is taken from it)
    "a larger encoder": [
        (recipe, f"{OTHER} ({kind})", f"{ONE} ({kind})")
        for recipe, kinds in (
            ("notebook", ("base", "NF4 + LoRA")),
            ("report", ("base", "NF4 + LoRA")),
        )
        for kind in kinds
    ]
    + [("ours", "Ranking PMF, MPNet as prior", "Ranking PMF, MiniLM as prior")],
    "weights in NF4": [
        (recipe, f"{encoder} (NF4)", f"{encoder} (base)")
        for recipe in ("notebook", "report")
        for encoder in (ONE, OTHER)
    ],
    "LoRA on NF4": [
        (recipe, f"{encoder} (NF4 + LoRA)", f"{encoder} (NF4)")
        for recipe in ("notebook", "report")
        for encoder in (ONE, OTHER)
    ],
    "all weights, not LoRA on NF4": [
        (recipe, f"{ONE} (tuned)", f"{ONE} (NF4 + LoRA)") for recipe in ("notebook", "report")
    ],
}


def ndcg_of(out, results, recipe, row):
    """(S, E) NDCG of a row of results.json, the first seed's, and of its other seeds; E users."""
    task, k = out.task, results["k"]
    if row in recipe.alone:
        scorer = out.mf(recipe.alone[row])
        found = [metrics.evaluate(scorer, task.seen, task.relevant, k)]
    else:
        found = [result for _, result in rows_by_seed(out, recipe, row, k)]
    hits = [int(result["hits"].sum()) for result in found[:1]]
    rows = [r for r in results["rows"] if (r["recipe"], r["row"]) == (recipe.name, row)]
    if not hits or hits != [r.get("hits") for r in rows]:
        what = (
            f"{out.folder} lacks files of {row}, recipe {recipe.name}, or its results.json is old"
        )
        raise BadInput(f"{what}; run `make seeds` and `make mpnet`")
    return np.array([result["ndcg"] for result in found])  # (S, E)


def differences(out, results):
    """[{"question", "recipe", "row", "other", "difference": (mean, low, high)}] of QUESTIONS."""
    found, recipes = [], {recipe.name: recipe for recipe in RECIPES}
    for question, asked in QUESTIONS.items():
        for name, row, other in asked:
            a, b = (ndcg_of(out, results, recipes[name], each) for each in (row, other))
            entry = {"question": question, "recipe": name, "row": row, "other": other}
            found.append(entry | {"difference": metrics.paired_bootstrap(a, b)})
    return found


def row_table(results):
    """The rows of Table I that have an encoder: its parameters, what was trained, and what came."""
    k = results["k"]
    head = ["recipe", "row", "parameters", "trained", "minutes", "hits, report", "hits"]
    head += [f"NDCG@{k}", "to MF only"]
    lines = []
    for row in results["rows"]:
        size = [size for name, size in PARAMETERS.items() if name in row["row"]]
        paper = "".join(map(str, reported(results, row)[-1:]))
        if size and row["status"] != "ok":
            lines.append([row["recipe"], row["row"], *size, "not run", "", paper, "", "", ""])
        elif size:
            cost, cells = row.get("tuning"), ["none", ""]
            if cost:
                cells = [f"{cost['trainable_share']:.2%}", f"{cost['seconds'] / 60:.0f}"]
            cells += [paper, f"{row['hits']:,}", f"{row['ndcg']:.4f}"]
            to_mf = interval(row["difference"])
            lines.append([row["recipe"], row["row"], *size, *cells, to_mf])
    return markdown(head, lines)


def page(record):
    """size.md: both tables."""
    results = record["table1"]
    lines = [
        [row["question"], row["recipe"], row["row"], row["other"], interval(row["difference"])]
        for row in record["differences"]
    ]
    head = ["what is added", "recipe", "row", "minus", f"NDCG@{results['k']}"]
    return (
        "Rows of Table I that have an encoder; minutes are while other jobs ran too.\n\n"
        f"{row_table(results)}\n"
        "Differences, with 95 % paired bootstrap intervals, drawn from the users and, where a row "
        f"has several, from its seeds.\n\n{markdown(head, lines)}"
    )


def main():
    s = metrics.parse(Settings, __doc__)
    out, results = Artefacts(s.out), read_json(s.out / "results.json", "rows", "k", "edition")
    with stage(s.out / "size.json", "differences between rows of Table I"):
        record = {"split": metrics.provenance(out.ratings), "versions": metrics.versions()}
        record["differences"] = differences(out, results)
        names = ("recipe", "row", "status", "hits", "ndcg", "difference", "tuning")
        kept = [{name: row[name] for name in names if name in row} for row in results["rows"]]
        record["table1"] = {"k": results["k"], "edition": results["edition"], "rows": kept}
        text = page(record)
        write_texts(s.out, {"size.json": json.dumps(record, indent=1), "size.md": text})
    print(text)


if __name__ == "__main__":
    metrics.run(main)
