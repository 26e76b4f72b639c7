"""pmf.py's PMF for ranking against implicit's weighted MF by exact alternating least squares.

Without text, t = 1 and power 0, (R) is m times implicit's objective at confidence w / m and
regularisation reg / m: a missing entry has confidence 1 there.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # implicit asks for it: it has threads of its own
from common import ranking_objective
from implicit.cpu.als import AlternatingLeastSquares

import metrics
import pmf

REAL = Path(__file__).parents[2] / "out" / "ratings.safetensors"
MISSING, REG, K = 0.1, 4.0, 16


@pytest.fixture(scope="module")
def case():
    """(users, items, targets, weights, U, I): the real train rows, or a small random matrix."""
    if REAL.is_file():
        data = metrics.load(REAL)
        users, items, ratings = (data[f"train_{x}"] for x in ("users", "items", "ratings"))
    else:
        rng = np.random.default_rng(0)
        pairs = np.unique(rng.integers(0, 200 * 300, 6000)).astype(np.int32)
        users, items, ratings = pairs // 300, pairs % 300, rng.integers(1, 11, len(pairs)) / 2
    weights = 0.5 + 1.5 * (ratings >= 4)  # (N,)
    return users, items, np.ones(len(users)), weights, users.max() + 1, items.max() + 1


@pytest.fixture(scope="module")
def theirs(case):
    """implicit's factors after 60 exact sweeps."""
    users, items, _, weights, *shape = case
    confidence = scipy.sparse.csr_matrix((weights / MISSING, (users, items)), shape=shape)
    model = AlternatingLeastSquares(
        factors=K,
        regularization=REG / MISSING,
        alpha=1.0,
        iterations=60,
        use_cg=False,
        dtype=np.float64,
        random_state=0,
        num_threads=1,
    )
    model.fit(confidence, show_progress=False)
    return model.user_factors, model.item_factors


def settings(sweeps=60):
    return pmf.Ranking(k=K, missing=MISSING, reg=REG, power=0.0, sweeps=sweeps)


def test_the_objective_is_as_low_as_implicits(case, theirs):
    ours = pmf.fit_ranking(*case, settings())
    no_text = np.zeros((0, K))
    value = ranking_objective(*ours, *case[:4], settings())
    assert value == pytest.approx(
        ranking_objective(*theirs, no_text, *case[:4], settings()), rel=2e-3
    )


def test_one_sweep_leaves_implicits_solution_where_it_is(case, theirs):
    """Its item factors are exact for its user factors: no coordinate of them can still move."""
    users, items, targets, weights, n_users, n_items = case
    spectrum, P, Q = pmf.turned(*theirs)
    moved, prior = Q.copy(), np.zeros_like(Q)
    by_item = pmf.by_row(items, users, targets, weights, n_items)
    reg = pmf.strengths(items, n_items, n_users, settings())
    pmf.half_sweep(*by_item, MISSING, moved, P, spectrum, prior, reg)
    assert np.abs(moved - Q).max() < 1e-9 * np.abs(Q).max()
    wrong = Q.copy()
    pmf.half_sweep(*by_item, 1.1 * MISSING, wrong, P, spectrum, prior, reg)
    assert np.abs(wrong - Q).max() > 1e-3 * np.abs(Q).max()  # the check can fail
