"""The known-movie rows of Table III on five other splits, with everything as it was chosen.

A claim of one split may be luck. Each split draws every user's fifth anew (seeds 1 to 5); the
settings are those of out/ours.json, fuse.py and results/baselines.json, chosen on the validation
part of split 42, and nothing is chosen by looking at this table.

Gives:    out/splits.json and out/splits.md: NDCG@25 of each row, mean and range over the splits,
          what `ours` has more, and the same by the length of a user's history.
Command:  .venv-peers/bin/python tests/studies/splits.py --out out --splits 1 2 3 4 5
                                                                                (or: make splits)
Needs:    ratings and base embeddings in out/split-1 .. out/split-5, results/baselines.json, and
          tests/requirements-peers.txt (implicit).

Legend: S splits, U users, I items, E users measured.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))

import table3  # beside this script
from common import interval
from table3 import HISTORY, MODEL_ROWS, OURS_ROW, counts_of

import metrics
from main import METRICS, markdown, write_texts
from metrics import provenance


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the split-.. folders, and of the two files to write
    baselines: Path = Path("results/baselines.json")  # settings of EASE and weighted MF
    k: int = 25  # length of the list
    seed: int = 42  # of what starts at random
    splits: tuple[int, ...] = (1, 2, 3, 4, 5)  # seeds of the splits


def rankers_of(lab, task, s):
    """{row: ranker} of one split."""
    import baselines  # here: it needs the package implicit, and tests of the tables do not

    rankers = {"Most popular": table3.plain_rankers(lab, task)["Most popular"]}
    for row, recorded in metrics.read_json(s.baselines, "rows")["rows"].items():
        fit, _ = baselines.ROWS[row]
        rankers[row] = fit(task, lab.embeddings("base"), s.seed, **recorded["settings"])
    return rankers | dict(table3.fitted_rankers(lab, task, MODEL_ROWS, s.seed))


def measured(s):
    """({row: {metric: (S, U)}}, train ratings of each user (U,)); NaN: nothing to find there."""
    found = {}
    for split in s.splits:
        folder, choice = s.out / f"split-{split}", s.out / "ours.json"
        lab = table3.Lab(table3.Settings(folder, choice=choice, k=s.k, seed=s.seed))
        metrics.require(lab.ratings, provenance(lab.ratings)["settings"], {"seed": split})
        task = lab.splits()["test"]
        with metrics.stage(s.out / "splits.json", f"split {split}"):
            for row, ranker in rankers_of(lab, task, s).items():
                result = table3.measure(task, ranker, s.k)
                for name in METRICS:
                    values = np.full(lab.n_users, np.nan)  # (U,)
                    values[result["users"]] = result[name]
                    found.setdefault(row, {}).setdefault(name, []).append(values)
    history = counts_of(task.users, lab.n_users)  # (U,) the same in every split
    return {row: {n: np.stack(v) for n, v in m.items()} for row, m in found.items()}, history


def entry_of(row, found, inside):
    """A row's means and ranges over the splits, for the users `inside` (U,) bool.

    The interval draws users: of each, the mean over the splits in which there is something to find.
    """
    entry = {"row": row}
    for name in METRICS:
        means = np.nanmean(found[row][name][:, inside], axis=1)  # (S,)
        entry[name] = [float(x) for x in (means.mean(), means.min(), means.max())]
    if row != OURS_ROW:
        ours, other = (found[name]["ndcg"][:, inside] for name in (OURS_ROW, row))  # (S, U)
        apart = np.nanmean(ours, axis=1) - np.nanmean(other, axis=1)  # (S,)
        some = ~np.isnan(ours).all(axis=0)  # (U,)
        users = (np.nanmean(x[:, some], axis=0) for x in (ours, other))  # (E,)
        entry["difference"] = metrics.paired_bootstrap(*users)
        entry["difference_by_split"] = apart.tolist()
    return entry


def study(s):
    """The content of splits.json."""
    found, history = measured(s)
    record = {"k": s.k, "splits": s.splits, "versions": metrics.versions()}
    record["rows"] = [entry_of(row, found, history > 0) for row in found]
    record["history"] = []
    for bucket, (low, high) in HISTORY.items():
        inside = (history >= low) & (history <= high)  # (U,)
        lists = int(np.sum(~np.isnan(found[OURS_ROW]["ndcg"][:, inside])))
        rows = [entry_of(row, found, inside) for row in found]
        record["history"].append({"bucket": bucket, "lists": lists, "rows": rows})
    return record


def table(record):
    """splits.md."""
    k, n = record["k"], len(record["splits"])
    spread = "{0:.4f} ({1:.4f}..{2:.4f})".format
    head = ["row", f"P@{k}", f"R@{k}", f"NDCG@{k}", "ours - row, NDCG", "splits with ours ahead"]
    lines = []
    for row in record["rows"]:
        cells = [row["row"], *(spread(*row[name]) for name in METRICS), "", ""]
        if "difference" in row:
            ahead = sum(d > 0 for d in row["difference_by_split"])
            cells[-2:] = [
                interval(row["difference"]),
                f"{ahead} of {n}",
            ]
        lines.append(cells)
    names = [row["row"] for row in record["rows"]]
    buckets = [
        [part["bucket"], str(part["lists"]), *(f"{row['ndcg'][0]:.4f}" for row in part["rows"])]
        for part in record["history"]
    ]
    return (
        f"Known movies on {n} splits (seeds {', '.join(map(str, record['splits']))}) with the "
        "settings chosen on split 42: mean and lowest..highest split. Intervals are "
        "95 % bootstrap over users, of each the mean over the splits; splits of the same ratings "
        f"are no new users.\n\n{markdown(head, lines)}\n"
        f"NDCG@{k} by the number of a user's train ratings, the {n} splits together (lists: users "
        f"times splits).\n\n{markdown(['train ratings', 'lists', *names], buckets)}"
    )


def main():
    s = metrics.parse(Settings, __doc__, k=1, seed=metrics.SEEDS)
    record = study(s)
    texts = {"splits.json": json.dumps(record, indent=1), "splits.md": table(record)}
    write_texts(s.out, texts)
    print(texts["splits.md"])


if __name__ == "__main__":
    metrics.run(main)
