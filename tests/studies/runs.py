"""The lists of Table I as files for other programs, in the two formats of TREC.

A line of a run is `user Q0 movie rank score row`; a line of runs/qrels, what was to be found, is
`user 0 movie 1`. tests/peers/test_runs_peers.py reads them with ir_measures and ranx, which find
our figures to 1e-12.

Gives:    out/runs/qrels, and out/runs/<recipe>.<row>.run for each row that was run.
Command:  python tests/studies/runs.py --out out                                 (or: make runs)
Needs:    the files of `make all`.

Legend: E users measured, K length of the list.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import metrics
from main import Artefacts, Evaluate, all_rows, write_texts
from metrics import BadInput


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts; the files go to out/runs/
    k: int = 25  # length of the list
    seed: int = 42  # of the row Random


def qrels(out):
    """What was to be found, one line for each user and movie."""
    users = np.flatnonzero(np.diff(out.task.relevant[0]))  # (E,)
    rows, items = metrics.pairs_of_block(out.task.relevant, users)
    user_ids, movie_ids = out.ids("user_ids"), out.ids("movie_ids")
    pairs = zip(users[rows], items, strict=True)
    return "".join(f"{user_ids[user]} 0 {movie_ids[item]} 1\n" for user, item in pairs)


def run_of(out, name, users, lists, k):
    """The lists (E, K or fewer) of `users` (E,); a score is only there to give the order."""
    user_ids, movie_ids = out.ids("user_ids"), out.ids("movie_ids")
    return "".join(
        f"{user_ids[user]} Q0 {movie_ids[item]} {rank} {k - rank + 1} {name}\n"
        for user, items in zip(users, lists, strict=True)
        for rank, item in enumerate(items[items >= 0], 1)
    )


def main():
    s = metrics.parse(Settings, __doc__, k=1, seed=metrics.SEEDS)
    out = Artefacts(s.out)
    for name in map(str, out.ids("user_ids") + out.ids("movie_ids")):
        if len(name.split()) != 1:
            raise BadInput(f"{s.out}: TREC files have blanks between their cells, id {name!r} too")
    with metrics.stage(s.out / "runs/qrels", "the lists of every row as TREC files") as figure:
        texts = {"runs/qrels": qrels(out)}
        for entry, result in all_rows(out, Evaluate(out=s.out, k=s.k, seed=s.seed)):
            name = "-".join(re.findall(r"[\w.]+", f"{entry['recipe']}.{entry['row']}".lower()))
            if result is not None:
                lists = run_of(out, name, result["users"], result["lists"], s.k)
                texts[f"runs/{name}.run"] = lists
        write_texts(s.out, texts)
        figure(f"{len(texts) - 1} runs")


if __name__ == "__main__":
    metrics.run(main)
