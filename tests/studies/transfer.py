"""`ours` on other data: what was chosen on one data set says little of another one.

The first set is MovieLens ml-latest-small; each other one is a folder of ratings of its own, which
`make all DATA=folder` has been run on. All models see the same split. EASE, collective EASE, L3AE
and weighted MF are tuned on the validation part of each set, `ours` and the ranking PMF without
text have the settings that pmf.py chose there; the test part is measured once.

Gives:    out/transfer.json and out/transfer.md: NDCG@25 of each row on each set, what `ours` has
          more with its 95 % interval, and the settings chosen.
Command:  make transfer SETS="books games"      (which runs make all DATA=.. first, then this)
Needs:    tests/requirements-peers.txt (implicit).

Legend: U users, I items, E users measured.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))

import table3  # beside this script
from common import interval, quiet

import metrics
from main import Artefacts, markdown, write_texts

OURS, PLAIN = "ours", "Ranking PMF, no text"
FACTORS = {PLAIN: "pmf-ranking", OURS: "pmf-ours"}  # row -> factors that `make all` fitted


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the two files to write
    sets: tuple[Path, ...] = ()  # folders that `make all` made: out, out-books, ..
    k: int = 25  # length of the list


def grids():
    """{row: (function, grid)} of the peers: coarser grids than those of Table III."""
    import baselines  # here: it needs the package implicit, and the tests of tables do not

    ease, grid = baselines.ease, baselines.grid
    return {
        "EASE": (ease, grid(target=[0.5], ridge=[20, 50, 100, 200, 500, 1000])),
        "Collective EASE": (
            ease,
            grid(target=[0.5], ridge=[50, 100, 200, 500], weight=[3, 30, 300]),
        ),
        "L3AE": (
            baselines.l3ae,
            grid(target=[0.5], ridge=[20, 50, 100, 200], pull=[50, 200, 800], text_ridge=[1, 10]),
        ),
        "Weighted MF": (
            baselines.weighted_implicit,
            grid(
                factors=[64], missing=[0.1, 0.3, 1.0], reg=[1.0, 4.0, 10.0, 25.0], liked=[1.0, 4.0]
            ),
        ),
    }


def tuned(splits, texts, fit, points, k):
    """(the settings that are best on validation, evaluate() of them on test); factors go last.

    splits, texts: by part, a Task and the (I, D) embeddings that its models see.
    """

    def ndcg(point):
        with quiet():
            ranker = fit(splits["validation"], texts["validation"], 42, **point)
        return table3.measure(splits["validation"], ranker, k)["ndcg"].mean()

    best = max(points, key=ndcg)
    if "factors" in best:
        best = max((best | {"factors": n} for n in (16, best["factors"], 128, 256)), key=ndcg)
    with quiet():
        ranker = fit(splits["test"], texts["test"], 42, **best)
    return best, table3.measure(splits["test"], ranker, k)


def study(folder, s):
    """The entry of a set: its size, its rows and the choice of `ours`."""
    lab = table3.Lab(table3.Settings(out=folder, k=s.k))
    splits, out = lab.splits(), Artefacts(folder)
    # As for `ours`, the search sees texts without tags: a tag may come from a rating held out.
    texts = {"validation": lab.embeddings("no tags"), "test": lab.embeddings("base")}  # (I, D)
    counts = table3.counts_of(splits["test"].items, lab.n_items)  # (I,)
    popular = table3.alone(lambda users: table3.fuse.constant_scores(users, counts))
    results = {"Most popular": table3.measure(splits["test"], popular, s.k)}
    rows = {"Most popular": {}}
    for row, (fit, points) in grids().items():
        with metrics.stage(s.out / "transfer.json", f"{folder.name}: {row}"):
            best, results[row] = tuned(splits, texts, fit, points, s.k)
        rows[row] = {"settings": best}
    for row, name in FACTORS.items():
        task, rows[row] = out.task, {}
        results[row] = metrics.evaluate(out.mf(name), task.seen, task.relevant, s.k)
    for row, found in results.items():
        rows[row]["ndcg"] = float(found["ndcg"].mean())
        if row != OURS:
            ours = results[OURS]["ndcg"]  # (E,)
            rows[row]["difference"] = metrics.paired_bootstrap(ours, found["ndcg"])
    made = metrics.read_json(folder / "ours.json", "chosen", "curve")
    size = lab.n_users, len(set(lab.all[1].tolist())), len(lab.all[0])
    entry = {"set": out.record.get("data", folder.name), "size": size, "rows": rows}
    return entry | {"users": len(results[OURS]["users"]), "chosen": made["chosen"]}


def table(record):
    """transfer.md."""
    names = list(record["sets"][0]["rows"])
    head = ["set", "users, items, ratings", *names, "chosen for ours: text, reg, m, K"]
    lines, apart = [], []
    for entry in record["sets"]:
        rows, chosen = entry["rows"], entry["chosen"]
        size = ", ".join(f"{n:,}" for n in entry["size"])
        settings = ", ".join(f"{chosen[name]:g}" for name in ("text", "reg", "missing", "k"))
        ndcg = [f"{rows[name]['ndcg']:.4f}" for name in names]
        lines.append([entry["set"], size, *ndcg, settings])
        differences = [interval(rows[name]["difference"]) for name in names if name != OURS]
        apart.append([entry["set"], str(entry["users"]), *differences])
    others = [name for name in names if name != OURS]
    return (
        f"NDCG@{record['k']} on the test part. EASE, collective EASE, L3AE and weighted MF (of the "
        "package implicit) are tuned on the validation part of each set; `ours` and the ranking "
        "PMF without text have the settings that `pmf.py choose` took there.\n\n"
        f"{markdown(head, lines)}\nNDCG of `ours` minus that of the row, with its 95 % paired "
        f"bootstrap interval over the users measured.\n\n"
        f"{markdown(['set', 'users', *others], apart)}"
    )


def main():
    s = metrics.parse(Settings, __doc__, k=1)
    if not s.sets:
        raise metrics.BadInput("--sets: name folders that `make all` made")
    record = {"k": s.k, "versions": metrics.versions()}
    record["sets"] = [study(folder, s) for folder in s.sets]
    texts = {"transfer.json": json.dumps(record, indent=1), "transfer.md": table(record)}
    write_texts(s.out, texts)
    print(texts["transfer.md"])


if __name__ == "__main__":
    metrics.run(main)
