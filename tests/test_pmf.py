"""pmf.py: one step on paper, a plain loop, finite differences, and Cornac's recorded factors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import pmf
from metrics import BadInput

RECORDED = json.loads((Path(__file__).parent / "recorded" / "cornac_pmf.json").read_text())


def settings(**changes):
    return pmf.Settings(ratings=Path("r"), out=Path("o"), **changes)


def small():
    columns = (np.array(RECORDED[name]) for name in ("users", "items", "ratings"))
    users, items, ratings = columns
    return users.astype(np.int32), items.astype(np.int32), ratings.astype(np.float32)


@pytest.mark.parametrize("variant", ["sigmoid", "linear"])
def test_factors_are_bit_identical_to_cornacs(variant):
    U, V, loss = pmf.fit(*small(), 6, 8, settings(k=5, epochs=20, variant=variant))
    assert np.array_equal(U, RECORDED[variant]["U"])
    assert np.array_equal(V, RECORDED[variant]["V"])
    assert loss[-1] < loss[0]


def test_one_linear_step_on_paper():
    one = np.zeros(1, dtype=np.int32)
    U, V = np.array([[0.5]]), np.array([[2.0]])
    cu, cv = np.zeros((1, 1)), np.zeros((1, 1))
    lr, reg, gamma = 0.1, 0.01, 0.9
    step = (lr, reg, gamma, 1 - gamma, 1e-8)
    squares = pmf._epoch_strict(one, one, np.array([3.0]), U, V, cu, cv, step, False)
    assert squares == (3 - 0.5 * 2) ** 2
    gu = 2 * 2.0 - reg * 0.5  # error 2, times v
    u = 0.5 + lr * gu / (math.sqrt((1 - gamma) * gu**2) + 1e-8)
    gv = 2 * u - reg * 2.0  # the same error, times the MOVED u
    v = 2.0 + lr * gv / (math.sqrt((1 - gamma) * gv**2) + 1e-8)
    assert U[0, 0] == pytest.approx(u, rel=1e-14)
    assert V[0, 0] == pytest.approx(v, rel=1e-14)
    assert cu[0, 0] == pytest.approx((1 - gamma) * gu**2, rel=1e-14)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_the_step_follows_the_gradient_of_the_objective(sigmoid):
    """With gamma = 0 and a huge epsilon the RMSprop step is lr / eps times the gradient."""
    rng = np.random.default_rng(0)
    U, V = rng.normal(0, 0.5, (1, 4)), rng.normal(0, 0.5, (1, 4))
    reg, big = 0.05, 1e9

    def objective(u):
        s = u @ V[0]
        g = 1 / (1 + math.exp(-s)) if sigmoid else s
        return 0.5 * (0.8 - g) ** 2 + 0.5 * reg * (u @ u)

    h = 1e-6
    slope = [(objective(U[0] + h * e) - objective(U[0] - h * e)) / (2 * h) for e in np.eye(4)]
    moved, zero = U.copy(), np.zeros(1, dtype=np.int32)
    step = (big, reg, 0.0, 1.0, big)
    caches = np.zeros_like(U), np.zeros_like(V)
    pmf._epoch_strict(zero, zero, np.array([0.8]), moved, V.copy(), *caches, step, sigmoid)
    assert moved[0] - U[0] == pytest.approx(-np.array(slope), abs=2e-7)  # g is float32


def test_the_kernel_equals_its_own_plain_python():
    users, items, ratings = small()
    rng = np.random.default_rng(1)
    step = tuple(map(np.float64, (0.005, 0.001, 0.9, 0.1, 1e-8)))
    start = [rng.normal(0, 0.1, (6, 3)), rng.normal(0, 0.1, (8, 3)), np.zeros((6, 3)),
             np.zeros((8, 3))]  # fmt: skip
    results = []
    for epoch in (pmf._epoch_strict, pmf._epoch):
        arrays = [array.copy() for array in start]
        epoch(users, items, ratings.astype(np.float64), *arrays, step, False)
        results.append(arrays)
    for compiled, plain in zip(*results, strict=True):
        assert np.array_equal(compiled, plain)


def test_same_seed_same_bytes_other_seed_other_factors():
    runs = [pmf.fit(*small(), 6, 8, settings(k=4, epochs=3, seed=s))[0] for s in (1, 1, 2)]
    assert runs[0].tobytes() == runs[1].tobytes() != runs[2].tobytes()


def test_fast_is_float32_and_learns_the_same():
    strict = pmf.fit(*small(), 6, 8, settings(k=5, epochs=20))
    fast = pmf.fit(*small(), 6, 8, settings(k=5, epochs=20, fast=True))
    assert fast[0].dtype == np.float32
    assert fast[2][-1] == pytest.approx(strict[2][-1], rel=1e-3)


@pytest.mark.filterwarnings("ignore:overflow")
def test_equal_ratings_and_divergence_are_clear_errors():
    users, items, ratings = small()
    with pytest.raises(BadInput, match="nothing to learn"):
        pmf.fit(users, items, np.full_like(ratings, 4), 6, 8, settings(k=2, epochs=1))
    with pytest.raises(BadInput, match="diverged in epoch"):
        pmf.fit(users, items, ratings, 6, 8, settings(k=2, epochs=9, lr=1e39))
