"""Peers of `ours`, tuned on the validation part and tested once, for Table III and transfer.md.

  EASE                    item-item ridge (Steck, WWW 2019)
  Weighted MF (implicit)  alternating least squares of the package implicit (Hu et al. 2008)
  Collective EASE         EASE with the texts' embeddings as further rows (Jeunen, Van Balen and
                          Goethals, RecSys 2020)
  L3AE                    EASE pulled towards an item-item matrix made from the texts (Moon, Park
                          and Lee, CIKM 2025)

Every grid is searched on the validation part of the train rows (fitted without it); its best point
is fitted on all train rows and measured on test, the weighted MF from five random starts. As for
`ours`, the texts of the search have no tags: a tag may come from a rating that is held out.

Gives:    results/baselines.json: NDCG@25 on test of .339 (EASE) and .327 (weighted MF).
Command:  .venv-peers/bin/python tests/peers/baselines.py [--out out]        (or: make baselines)
"""

import itertools
import json
import math
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import implicit
import numpy as np
import scipy.sparse
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import table3  # of tests/studies

import fuse
from metrics import BadInput, parse, progress, provenance, run, stage, versions

COMMAND = ".venv-peers/bin/python tests/peers/baselines.py"


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder with ratings.safetensors of `main.py prepare`
    to: Path = Path("results/baselines.json")  # the file to write
    k: int = 25  # length of the list
    starts: int = 5  # random starts of a tested weighted MF
    quick: bool = False  # two points of each grid, to try the script; needs a --to of its own


# ------------------------------------------------------------------------------------------------
# The rankers: a fuse.Task, (I, D) embeddings, a seed and settings -> a ranker of table3.py
# ------------------------------------------------------------------------------------------------


def matrix(task, target):
    """(U, I) what EASE reconstructs: rating / highest, or 1 - w for rated and w more for liked."""
    X = np.zeros((task.n_users, task.n_items))  # (U, I)
    graded = task.ratings / task.highest  # (N,)
    if target != "rating":
        graded = (1 - target) + target * (task.ratings >= task.liked)
    X[task.users, task.items] = graded
    return X


def ease(task, text, seed, target, ridge, weight=0.0):
    """Scores X B, B = I - M / diag(M), M = (Z'Z + ridge)^-1; no item explains itself.

    Z is X, or X above the embeddings' columns times sqrt(weight): collective EASE. With A = (ZZ' +
    ridge)^-1 Z it is Z M = A and ridge diag(M) = 1 - diag(Z'A): no I x I matrix.
    """
    Z = matrix(task, target)  # (U, I)
    if weight:
        Z = np.vstack([Z, math.sqrt(weight) * text.T])  # (U + D, I)
    A = np.linalg.solve(Z @ Z.T + ridge * np.eye(len(Z)), Z)  # (U + D, I)
    scores = Z - ridge * A / (1 - np.einsum("ui,ui->i", Z, A))
    return table3.alone(lambda users: scores[users])


def l3ae(task, text, seed, target, ridge, pull, text_ridge):
    """Scores X B, where B minimises |X - XB|^2 + ridge |B|^2 + pull |B - S|^2 and diag(B) = 0.

    S is the EASE of the embeddings' columns, F = text' in place of X, with text_ridge. As S = H
    diag(1 / (1 - h)) - diag(h / (1 - h)) with H = F'(FF' + text_ridge)^-1 F and h its diagonal, and
    X M = A as above with mu = ridge + pull, it needs no I x I matrix either:
    X B = X + pull A S - A diag(c), c = (mu - pull diag(X'A S)) / (1 - diag(X'A)).
    """
    X, mu = matrix(task, target), ridge + pull  # (U, I)
    A = np.linalg.solve(X @ X.T + mu * np.eye(len(X)), X)  # (U, I)
    C = np.linalg.solve(text.T @ text + text_ridge * np.eye(text.shape[1]), text.T)  # (D, I)
    h = np.einsum("id,di->i", text, C)  # (I,)
    AS = ((A @ text) @ C - A * h) / (1 - h)  # (U, I)
    c = (mu - pull * np.einsum("ui,ui->i", X, AS)) / (1 - np.einsum("ui,ui->i", X, A))  # (I,)
    scores = X + pull * AS - A * c
    return table3.alone(lambda users: scores[users])


def by_factors(U, V):
    """The ranker of factors U (U, K) and V (I, K)."""
    return table3.alone(partial(fuse.mf_scores, U=U, V=V))


def weighted_implicit(task, text, seed, factors, missing, reg, liked):
    """implicit's ALS: confidence w/m of a rating, w = 1 or `liked`, against 1 of a missing one."""
    weights = np.where(task.ratings >= task.liked, liked, 1.0) / missing  # (N,)
    shape = task.n_users, task.n_items
    table = scipy.sparse.csr_matrix((weights, (task.users, task.items)), shape=shape)
    model = implicit.als.AlternatingLeastSquares(
        factors=factors, regularization=reg / missing, iterations=20, random_state=seed
    )
    with threadpool_limits(1, "blas"):
        model.fit(table, show_progress=False)
    return by_factors(model.user_factors, model.item_factors)


def grid(**values):
    """Every combination, as keyword arguments."""
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


SMALL, LARGE = 64, (128, 256)  # factors: the whole grid, then its five best points again
ROWS = {  # row -> how to fit it, its grid
    "EASE": (
        ease,
        grid(
            target=["rating", 0.0, 0.25, 0.5, 0.75],
            ridge=[50, 100, 150, 200, 300, 500],
        ),
    ),
    "Weighted MF (implicit)": (
        weighted_implicit,
        grid(
            factors=[SMALL],
            missing=[0.1, 0.25, 0.5, 1.0],
            reg=[4.0, 8.0, 16.0, 32.0, 64.0],
            liked=[1.0, 2.0, 4.0, 8.0],
        ),
    ),
    "Collective EASE": (
        ease,
        grid(target=[0.5], ridge=[50, 100, 150, 200, 300], weight=[3, 10, 30, 100, 300]),
    ),
    "L3AE": (
        l3ae,
        grid(
            target=[0.5],
            ridge=[25, 50, 100, 200],
            pull=[25, 50, 100, 200, 400],
            text_ridge=[0.3, 1, 3, 10],
        ),
    ),
}


# ------------------------------------------------------------------------------------------------
# Search on validation, test once
# ------------------------------------------------------------------------------------------------


def search(name, fit, points, task, text, k):
    """Every point with its NDCG on validation, best first; text: (I, D) embeddings."""

    def measured(points):
        with progress(len(points), name, unit="fit") as bar:
            for point in points:
                found = table3.pooled([table3.measure(task, fit(task, text, 42, **point), k)])
                yield dict(zip(table3.METRICS, found["seeds"][0], strict=True)) | {
                    "settings": point
                }
                bar.update()

    def best_first(rows):
        return sorted(rows, key=lambda row: -row["ndcg"])

    rows = best_first(measured(points))
    if "factors" in points[0]:
        again = [row["settings"] | {"factors": n} for n in LARGE for row in rows[:5]]
        rows = best_first([*rows, *measured(again[: 2 * len(points)])])
    return rows


def rounded(found):
    """What Tables I and III need of a measurement, per user to five places."""
    users = {name: np.round(found[name], 5).tolist() for name in table3.METRICS}
    return {"seeds": np.round(found["seeds"], 6).tolist()} | users


def peer_row(name, splits, texts, s):
    """One row of the file: grid, settings, validation, test, beyond accuracy, temporal.

    splits, texts: by part, a Task and the (I, D) embeddings that its models see.
    """
    fit, points = ROWS[name]
    start = time.perf_counter()
    points = points[:2] if s.quick else points
    tried = search(name, fit, points, splits["validation"], texts["validation"], s.k)
    best = tried[0]["settings"]
    row = {"settings": best, "grid": tried}
    for part, task in splits.items():
        starts = s.starts if part == "test" and fit is weighted_implicit else 1
        rankers = [fit(task, texts[part], 42 + i, **best) for i in range(starts)]
        row[part] = rounded(table3.pooled([table3.measure(task, r, s.k) for r in rankers]))
        if part == "test":
            row["beyond"] = table3.beyond_accuracy(task, rankers[0], s.k)
    return row | {"seconds": round(time.perf_counter() - start)}


def main():
    s = parse(Settings, __doc__, k=1, starts=1)
    if s.quick and s.to == Settings.to:
        raise BadInput(f"--quick would replace {s.to}, which tables read; name a file with --to")
    lab = table3.Lab(table3.Settings(out=s.out, k=s.k))
    splits, rows = lab.splits(), {}
    texts = dict.fromkeys(splits, lab.embeddings("no tags")) | {"test": lab.embeddings("base")}
    for name in ROWS:
        with stage(name, "settings chosen on validation, then measured on test") as figure:
            rows[name] = peer_row(name, splits, texts, s)
            ndcg = np.mean(rows[name]["test"]["seeds"], axis=0)[2]
            figure(f"{rows[name]['settings']}, NDCG@{s.k} {ndcg:.4f} on test")
    record = {"command": COMMAND, "split": provenance(lab.ratings), "k": s.k, "quick": s.quick}
    record |= {"versions": versions() | {"implicit": implicit.__version__}, "rows": rows}
    s.to.write_text(json.dumps(record), encoding="utf-8")  # plainly: git keeps what was there


if __name__ == "__main__":
    run(main)
