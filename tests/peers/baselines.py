"""EASE and weighted MF, tuned on the validation users and tested once, for Table III.

    .venv-peers/bin/python tests/peers/baselines.py [--out out]        (or: make baselines)

Writes tests/recorded/baselines.json, from which `tests/table3.py` takes these rows:
  EASE                    item-item ridge (Steck, WWW 2019), solved among the users (Woodbury)
  Weighted MF (implicit)  alternating least squares of the package implicit (Hu et al. 2008)
  Weighted MF (scaled)    the same objective, regularisation scaled by the number of ratings, which
                          Rendle et al. (RecSys 2022) find to matter and implicit does not have
Every grid is searched on the validation part of the train rows (fitted without it); its best point
is fitted on all train rows and measured on test, the weighted MF from five random starts.
"""

import dataclasses
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import implicit
import numpy as np
import scipy.sparse
import table3
from conftest import ROOT
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import pmf
from metrics import parse, run, versions, whole_file

COMMAND = ".venv-peers/bin/python tests/peers/baselines.py"


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder with ratings.safetensors of `main.py prepare`
    to: Path = ROOT / "tests" / "recorded" / "baselines.json"  # the file to write
    k: int = 25  # length of the list
    starts: int = 5  # random starts of a tested weighted MF
    quick: bool = False  # two points of each grid, to try the script


# ------------------------------------------------------------------------------------------------
# The rankers: a Study and settings -> a ranker of table3.Shelf
# ------------------------------------------------------------------------------------------------


def matrix(study, target):
    """(U, I) what EASE reconstructs: the rating over 5, or 1 - w for rated and w more for liked."""
    X = np.zeros((study.n_users, study.n_items))  # (U, I)
    graded = study.ratings / 5
    if target != "rating":
        graded = (1 - target) + target * (study.ratings >= 4)
    X[study.users, study.items] = graded
    return X


def ease(study, seed, target, ridge):
    """Scores X B, B = I - M / diag(M), M = (X'X + ridge)^-1; no item explains itself.

    With A = (XX' + ridge)^-1 X it is X M = A and ridge diag(M) = 1 - diag(X'A): no I x I matrix.
    """
    X = matrix(study, target)  # (U, I)
    A = np.linalg.solve(X @ X.T + ridge * np.eye(len(X)), X)  # (U, I)
    scores = X - ridge * A / (1 - np.einsum("ui,ui->i", X, A))  # (U, I)
    return lambda shelf: lambda users: scores[np.ix_(users, shelf.items)]


def weighted_implicit(study, seed, factors, missing, reg, liked):
    """implicit's ALS: confidence w/m of a rating, w = 1 or `liked`, against 1 of a missing one."""
    weights = np.where(study.ratings >= 4, liked, 1.0) / missing  # (N,)
    shape = study.n_users, study.n_items
    table = scipy.sparse.csr_matrix((weights, (study.users, study.items)), shape=shape)
    model = implicit.als.AlternatingLeastSquares(
        factors=factors, regularization=reg / missing, iterations=20, random_state=seed
    )
    with threadpool_limits(1, "blas"):
        model.fit(table, show_progress=False)
    return table3.factor_ranker(model.user_factors, model.item_factors)


def weighted_scaled(study, seed, factors, missing, reg, liked):
    """The objective (R) of pmf.py with targets 1, no text and regularisation per rating."""
    s = pmf.Ranking(k=factors, missing=missing, reg=reg, power=1.0, seed=seed)
    weights = np.where(study.ratings >= 4, liked, 1.0)  # (N,)
    columns = study.users, study.items, np.ones(len(weights)), weights
    return table3.factor_ranker(*pmf.fit_ranking(*columns, study.n_users, study.n_items, s)[:2])


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
    "Weighted MF (scaled)": (
        weighted_scaled,
        grid(
            factors=[SMALL],
            missing=[0.1, 0.25, 0.5, 1.0],
            reg=[0.008, 0.012, 0.02, 0.03],
            liked=[1.0, 2.0, 4.0, 8.0],
        ),
    ),
}


# ------------------------------------------------------------------------------------------------
# Search on validation, test once
# ------------------------------------------------------------------------------------------------


def search(name, fit, points, study, shelf):
    """Every point with its NDCG on validation, best first."""

    def measured(points):
        for point in tqdm(points, desc=name, unit="fit", disable=None):
            found = table3.pooled([shelf.measure(fit(study, 42, **point))])
            yield dict(zip(table3.METRICS, found["seeds"][0], strict=True)) | {"settings": point}

    def best_first(rows):
        return sorted(rows, key=lambda row: -row["ndcg"])

    rows = best_first(measured(points))
    if "factors" in points[0]:
        again = [row["settings"] | {"factors": k} for k in LARGE for row in rows[:5]]
        rows = best_first([*rows, *measured(again[: 2 * len(points)])])
    return rows


def rounded(found):
    """What table3.py needs of a measurement, per user to five places."""
    users = {name: np.round(found[name], 5).tolist() for name in table3.METRICS}
    return {"seeds": np.round(found["seeds"], 6).tolist()} | users


def peer_row(lab, name, splits, quick):
    """One row of the file: grid, settings, validation, test, beyond accuracy, temporal."""
    fit, points = ROWS[name]
    start = time.perf_counter()
    tried = search(name, fit, points[:2] if quick else points, *splits["validation"])
    best = tried[0]["settings"]
    seeds = [lab.settings.seed] if fit is ease else lab.seeds
    row = {"settings": best, "grid": tried}
    for part, (study, shelf) in splits.items():
        rankers = [fit(study, seed, **best) for seed in (seeds if part == "test" else seeds[:1])]
        row[part] = rounded(table3.pooled([shelf.measure(ranker) for ranker in rankers]))
        if part == "test":
            lists = shelf.lists(rankers[0])
            row["beyond"] = table3.beyond_accuracy(lists, study.counts[shelf.items])
    return row | {"seconds": round(time.perf_counter() - start)}


def splits_of(lab):
    """{part: (study, shelf)} with the very shelves of Table III."""
    valid = lab.data["valid"]  # (N,)
    fitted, whole = lab.study(table3.choose(lab.train, ~valid)), lab.study(lab.train)
    return {
        "validation": (fitted, table3.Shelf(fitted, table3.choose(lab.train, valid), fitted.known)),
        "test": (whole, table3.Shelf(whole, lab.test, whole.known)),
        "temporal": table3.temporal_split(lab)[:2],
    }


def record():
    s = parse(Settings, __doc__)
    lab = table3.Lab(table3.Settings(out=s.out, k=s.k, starts=s.starts))
    splits = splits_of(lab)
    rows = {name: peer_row(lab, name, splits, s.quick) for name in ROWS}
    content = {"command": COMMAND, "split": table3.split_of(lab.ratings), "k": s.k}
    content |= {"versions": versions() | {"implicit": implicit.__version__}}
    content |= {"quick": s.quick, "options": dataclasses.asdict(s) | {"out": "", "to": ""}}
    with whole_file(s.to) as temporary:
        temporary.write_text(json.dumps(content | {"rows": rows}), encoding="utf-8")
    for name, row in rows.items():
        ndcg = np.mean(row["test"]["seeds"], axis=0)[2]
        print(f"{name}: {row['settings']}, NDCG@{s.k} {ndcg:.4f} on test, {row['seconds']} s")


if __name__ == "__main__":
    run(record)
