"""pmf.py: one step on paper, a plain loop, finite differences, and Cornac's recorded factors.

The ranking PMF: one coordinate on paper, a descent that never rises, and the closed-form optimum.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from common import ranking_objective

import metrics
import pmf
from metrics import BadInput

ROOT = Path(__file__).parents[1]

RECORDED = json.loads((Path(__file__).parent / "recorded" / "cornac_pmf.json").read_text())


settings = pmf.PMF


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


def test_the_logistic_function_is_cut_beyond_6():
    above, below = np.nextafter(np.float32(6), np.float32(7)), -6.0001
    got = [pmf._logistic(np.float64(s)) for s in (0, 1, 6, above, -6, below)]
    exact = [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-6)), 1, 1 / (1 + math.exp(6)), 0]
    assert got == pytest.approx(exact, rel=1e-6) and got[3] == 1 and got[5] == 0 < got[4]
    assert got[2] < 1 and type(got[0]) is not int


def test_scaled_ratings_by_hand():
    assert pmf.scale_ratings(np.float32([1, 5, 2, 3])).tolist() == [0, 1, 0.25, 0.5]
    tenth = pmf.scale_ratings(np.arange(2, 13) / 2)[1]  # from 1 to 6: a tenth, in float32
    assert tenth == np.float32(0.1) and tenth.dtype == np.float32


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


def test_one_sigmoid_step_on_paper_to_the_last_bit():
    """The pull is (error g) (1 - g); error (g (1 - g)) has another last bit at this score."""
    score, target, one = -5.768804058534401, np.float64(np.float32(0.18421401)), np.zeros(1, int)
    U, V, cu, cv = np.array([[score]]), np.ones((1, 1)), np.zeros((1, 1)), np.zeros((1, 1))
    pmf._epoch_strict(one, one, np.array([target]), U, V, cu, cv, (0.1, 0.0, 0.9, 0.1, 1e-8), True)
    g = np.float64(pmf._logistic(score))
    pull = (target - g) * g * (1 - g)
    assert cu[0, 0] == 0.1 * (pull * pull)
    assert U[0, 0] == score + 0.1 * (pull / (math.sqrt(cu[0, 0]) + 1e-8))
    assert cv[0, 0] == 0.1 * ((pull * U[0, 0]) * (pull * U[0, 0]))
    assert pull != (target - g) * (g * (1 - g))


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


@pytest.mark.parametrize(("variant", "first"), [("linear", (1 + 4 + 25) / 3), ("sigmoid", None)])
def test_the_loss_of_an_epoch_is_the_mean_of_the_squares(variant, first):
    """At the start all scores are next to 0, so g is 0 or 1/2; nobody shares a row here."""
    ids, ratings = np.arange(3, dtype=np.int32), np.float32([1, 2, 5])
    loss = pmf.fit(ids, ids, ratings, 3, 3, settings(k=4, epochs=2, variant=variant))[2]
    scaled = (0.5**2 + (0.25 - 0.5) ** 2 + 0.5**2) / 3
    assert loss[0] == pytest.approx(first or scaled, rel=1e-4)
    assert loss[1] < loss[0]


def test_one_rating_is_enough_for_the_linear_variant():
    one = np.zeros(1, dtype=np.int32)
    assert pmf.fit(one, one, np.float32([3]), 1, 1, settings(epochs=1, variant="linear"))[2] > 8


def test_every_epoch_is_shown(monkeypatch):
    shown = []

    class Bar(contextlib.nullcontext):
        update = staticmethod(lambda: shown.append("epoch"))
        set_postfix_str = shown.append

    monkeypatch.setattr(
        metrics, "progress", lambda total, *_, **__: shown.append(total) or Bar(Bar)
    )
    loss = pmf.fit(*small(), 6, 8, settings(k=2, epochs=2))[2]
    assert shown == [2, f"mse {loss[0]:.5f}", "epoch", f"mse {loss[1]:.5f}", "epoch"]
    shown.clear()
    pmf.fit_ranking(*ranking_case()[0], pmf.Ranking(k=2, sweeps=3))
    assert shown == [3, "epoch", "epoch", "epoch"]


def test_same_seed_same_bytes_other_seed_other_factors():
    runs = [pmf.fit(*small(), 6, 8, settings(k=4, epochs=3, seed=s))[0] for s in (1, 1, 2)]
    assert runs[0].tobytes() == runs[1].tobytes() != runs[2].tobytes()


def test_fast_is_float32_and_learns_the_same():
    strict = pmf.fit(*small(), 6, 8, settings(k=5, epochs=20))
    fast = pmf.fit_fast(*small(), 6, 8, settings(k=5, epochs=20))
    assert fast[0].dtype == np.float32
    assert fast[2][-1] == pytest.approx(strict[2][-1], rel=1e-3)


def many(n=3000, n_users=40, n_items=60, seed=0):
    """Ratings of popular and rare items, sorted by user: columns (n,), U, I."""
    rng = np.random.default_rng(seed)
    users = np.sort(rng.integers(n_users, size=n)).astype(np.int32)
    items = (n_items * rng.random(n) ** 2).astype(np.int32)
    return users, items, rng.integers(1, 11, n).astype(np.float32) / 2, n_users, n_items


@pytest.mark.parametrize(
    ("parts", "threads", "groups"), [(2, 1, 2), (7, 1, 2), (2, 2, 2), (3, 3, 3), (8, 3, 3)]
)
def test_blocks_visit_every_rating_once_and_share_no_row_in_a_round(parts, threads, groups):
    users, items, *_ = many()
    rounds = pmf.rounds_of(users, items, np.arange(len(users)), parts, threads)
    assert [len(blocks) for blocks in rounds] == [groups] * parts
    rows = [rows for blocks in rounds for *_, rows in blocks]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(len(users)))
    for blocks in rounds:
        for side, ids in enumerate((users, items)):
            owners = [set(block[side]) for block in blocks]
            assert sum(map(len, owners)) == len(set().union(*owners))
            assert all(np.array_equal(block[side], ids[block[2]]) for block in blocks)
        for *_, rows in blocks:
            assert (np.diff(rows) > 0).all()
    for r, blocks in enumerate(rounds):
        for a, (_, _, rows) in enumerate(blocks):
            assert set(pmf.parts_of(users, groups)[rows]) <= {a}
            assert set(pmf.parts_of(items, parts)[rows]) <= {(a + r) % parts}


def test_no_part_of_the_items_is_the_last_one_of_all_users():
    users, items, ratings, *_ = many()
    last = pmf.rounds_of(users, items, ratings, 4)[-1]
    assert not set(last[0][1]) & set(last[1][1])


def test_one_block_is_the_order_given():
    columns = [column[::-1] for column in many()[:3]]
    [[block]] = pmf.rounds_of(*columns, 1)
    for column, wanted in zip(block, columns, strict=True):
        assert np.array_equal(column, wanted)


def test_parts_are_cut_where_the_ratings_are_even():
    ids = np.array([3, 0, 0, 1, 1, 1, 1, 2])  # two ratings of 0, four of 1, one of 2 and of 3
    assert pmf.parts_of(ids, 2).tolist() == [1, 0, 0, 0, 0, 0, 0, 1]  # 0, 2, 6 and 7 of 8 before
    assert pmf.parts_of(ids, 4).tolist() == [3, 0, 0, 1, 1, 1, 1, 3]
    assert pmf.parts_of(ids, 1).tolist() == [0] * 8
    items = many()[1]
    sizes = np.bincount(pmf.parts_of(items, 5))
    assert len(sizes) == 5 and abs(sizes - len(items) / 5).max() < np.bincount(items).max()


SIZE = 2 * 60 * 9 * 4  # bytes of 60 items of 9 factors in float32, and of their caches


@pytest.mark.parametrize(
    ("block", "large", "parts"), [(SIZE // 2, SIZE, 1), (SIZE // 2, SIZE - 1, 2), (999, 0, 5)]
)
def test_fast_takes_blocks_where_the_items_and_caches_outgrow_the_cache(
    block, large, parts, monkeypatch
):
    case, asked, whole = many(), [], pmf.rounds_of
    monkeypatch.setattr(pmf, "rounds_of", lambda *a: asked.append(a[3]) or whole(*a))
    monkeypatch.setattr(pmf, "BLOCK", block)
    monkeypatch.setattr(pmf, "LARGE", large)
    pmf.fit_fast(*case, settings(k=9, epochs=1))
    assert asked == [parts]


def test_threads_give_the_bytes_of_one_thread_on_the_rounds_one_after_the_other():
    users, items, ratings, *shape = many()
    s = settings(k=9, epochs=4)
    blocks = [block for blocks in pmf.rounds_of(users, items, ratings, 2) for block in blocks]
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    plain = pmf.fit_fast(*columns, *shape, s)
    for _ in range(3):
        dealt = pmf.fit_fast(users, items, ratings, *shape, s, threads=2)
        assert dealt[0].tobytes() == plain[0].tobytes()
        assert dealt[1].tobytes() == plain[1].tobytes()
        assert dealt[2] == pytest.approx(plain[2], rel=1e-12)


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (0, 3, -1, "users are -1 to 5, not within 0 to 5"),
        (0, 29, 6, "users are 0 to 6, not within 0 to 5"),
        (1, 0, -2, "items are -2 to 7, not within 0 to 7"),
        (1, 5, 8, "items are 0 to 8, not within 0 to 7"),
        (2, 5, np.nan, "all finite"),
        (2, 5, np.inf, "all finite"),
    ],
)
def test_what_the_kernels_would_read_or_write_amiss_is_refused(column, row, value, message):
    columns = small()
    columns[column][row] = value
    with pytest.raises(BadInput, match=message):
        pmf.fit(*columns, 6, 8, settings(k=2, epochs=1))
    with pytest.raises(BadInput, match=message):
        pmf.fit_ranking(*columns, np.ones(30), 6, 8, pmf.Ranking(k=2, sweeps=1))


@pytest.mark.parametrize("lengths", [(30, 29, 30), (29, 30, 30), (30, 30, 29), (0, 0, 0)])
def test_columns_are_of_one_length_and_not_empty(lengths):
    columns = [column[:n] for column, n in zip(small(), lengths, strict=True)]
    with pytest.raises(BadInput, match="as many"):
        pmf.fit(*columns, 6, 8, settings(k=2, epochs=1))


@pytest.mark.filterwarnings("ignore:overflow")
def test_equal_ratings_and_divergence_are_clear_errors():
    users, items, ratings = small()
    with pytest.raises(BadInput, match="nothing to learn"):
        pmf.fit(users, items, np.full_like(ratings, 4), 6, 8, settings(k=2, epochs=1))
    with pytest.raises(BadInput, match="diverged in epoch"):
        pmf.fit(users, items, ratings, 6, 8, settings(k=2, epochs=9, lr=1e39))


# PMF for ranking


@pytest.fixture(autouse=True)
def one_thread():
    """The sweeps here are short: on a busy machine threads would mostly wait for each other."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(threads)


def ranking_case(seed=0, n_users=7, n_items=9, n_cold=2, d=3):
    """(users, items, targets, weights, U, I) with I counting cold items, and features (I, D)."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users * n_items)[:30].astype(np.int32)  # (N,)
    users, items = pairs // n_items, pairs % n_items
    targets, weights = 0.5 + rng.random(30) / 2, 0.5 + rng.random(30)
    features = rng.normal(size=(n_items + n_cold, d))
    return (users, items, targets, weights, n_users, n_items + n_cold), features


def test_one_coordinate_on_paper():
    """(R) of x alone: w (t - x y)^2 + reg (x - prior)^2; its minimum in one step, K = 1."""
    w, t, y, reg, prior, missing = 2.0, 0.8, 0.5, 0.3, 0.4, 0.1
    x, one = np.array([[7.0]]), np.zeros(1, dtype=np.int32)
    Y = np.array([[y], [3.0]])  # the row did not rate column 1: a missing zero
    ratings = (np.array([0, 1]), one, np.array([t]), np.array([w]))
    pmf.half_sweep(
        *ratings, missing, x, Y, (Y**2).sum(axis=0), np.array([[prior]]), np.array([reg])
    )
    best = (w * t * y + reg * prior) / (w * y**2 + missing * 3.0**2 + reg)
    assert x[0, 0] == pytest.approx(best, rel=1e-14)


def test_half_sweep_takes_each_coordinate_in_turn_to_its_minimum():
    """A plain loop over coordinates and all columns, rated or not."""
    users, items, targets, weights, n_users, _ = ranking_case()[0]
    rng, missing = np.random.default_rng(1), 0.3
    X, Y, prior = (rng.normal(size=(n, 4)) for n in (n_users, 9, n_users))
    spectrum, Y = pmf.turned(Y)
    reg, plain = rng.random(n_users), X.copy()
    w, t = np.full((n_users, 9), missing), np.zeros((n_users, 9))
    w[users, items], t[users, items] = weights, targets
    for x, wu, tu, b, p in zip(plain, w, t, reg, prior, strict=True):
        for k in range(4):
            rest = tu - Y @ x + Y[:, k] * x[k]  # what the other coordinates leave
            x[k] = (wu * Y[:, k] @ rest + b * p[k]) / (wu @ Y[:, k] ** 2 + b)
    by_user = pmf.by_row(users, items, targets, weights, n_users)
    pmf.half_sweep(*by_user, missing, X, Y, spectrum, prior, reg)
    assert pytest.approx(plain, rel=1e-12) == X


def test_a_sweep_of_many_rows_is_the_sweep_of_each_alone():
    rng, n_rows, K = np.random.default_rng(6), 150, 3  # more rows than parts
    spectrum, Y = pmf.turned(rng.normal(size=(7, K)))
    counts = rng.integers(0, 6, n_rows)
    starts = np.append(0, np.cumsum(counts))
    cells = rng.integers(0, 7, starts[-1]).astype(np.int32), *rng.random((2, starts[-1]))
    X, prior, reg = rng.normal(size=(n_rows, K)), rng.normal(size=(n_rows, K)), rng.random(n_rows)
    together, alone = X.copy(), X.copy()
    pmf.half_sweep(starts, *cells, 0.2, together, Y, spectrum, prior, reg)
    for r in range(n_rows):
        row = slice(r, r + 1)
        part = starts[r : r + 2], *cells, 0.2, alone[row], Y, spectrum, prior[row], reg[row]
        pmf.half_sweep(*part)
    assert np.array_equal(together, alone)
    assert np.array_equal((together != X).any(axis=1), counts > 0)


def test_turning_makes_the_gram_diagonal_and_keeps_every_score_and_length():
    rng = np.random.default_rng(3)
    Y, X = rng.normal(size=(9, 4)), rng.normal(size=(5, 4))
    spectrum, Y2, X2 = pmf.turned(Y, X)
    assert pytest.approx(np.diag(spectrum), abs=1e-12) == Y2.T @ Y2
    assert pytest.approx(X @ Y.T) == X2 @ Y2.T
    assert pytest.approx((X**2).sum(axis=1)) == (X2**2).sum(axis=1)


@pytest.mark.filterwarnings("ignore:overflow")
def test_ranking_factors_that_are_not_finite_are_a_clear_error():
    case, features = ranking_case()
    for k in (2, 8):
        with pytest.raises(BadInput, match=r"no finite factors with --reg 2.8, --power 4000"):
            pmf.fit_ranking(*case, pmf.Ranking(k=k, power=4000.0))
    features[3, 1] = np.nan  # not a number: only Q sees it
    with pytest.raises(BadInput, match="no finite factors"):
        pmf.fit_ranking(*case, pmf.Ranking(k=2, sweeps=1), features)


def test_a_tiny_regularisation_is_still_finite():
    """More factors than items: only reg keeps them from growing; |P|^2 <= the objective / reg."""
    case, _ = ranking_case()
    for missing in (0.0, 1.0):
        s = pmf.Ranking(k=20, missing=missing, reg=1e-6, power=0.0)
        P, Q, W = pmf.fit_ranking(*case, s)
        value = ranking_objective(P, Q, W, *case[:4], s)
        assert value < case[3] @ case[2] ** 2  # that of all 0
        assert 1e-6 * (np.sum(P**2) + np.sum(Q**2)) <= value


def test_ranking_starts_at_normal_draws_of_length_a_tenth_where_there_are_ratings():
    (users, items, targets, weights, n_users, n_items), _ = ranking_case()  # two items are cold
    s = pmf.Ranking(k=4, sweeps=0, seed=7)
    P, Q, W = pmf.fit_ranking(users, items, targets, weights, n_users + 1, n_items, s)
    rng = np.random.default_rng(7)
    p, q = rng.normal(0, 0.1 / 2, (n_users + 1, 4)), rng.normal(0, 0.1 / 2, (n_items, 4))
    p[n_users:], q[9:] = 0, 0
    assert np.array_equal(P, p) and np.array_equal(Q, q) and W.shape == (0, 4)


def test_text_features_of_other_items_are_refused():
    case, features = ranking_case()
    with pytest.raises(BadInput, match="text features of 10 items, ratings of 11"):
        pmf.fit_ranking(*case, pmf.Ranking(k=2), features[:10])


def test_strengths_by_hand():
    """3 ratings and 1, with .5 for each of 4 others: 5 and 3, whose mean is 4."""
    s = pmf.Ranking(reg=0.1, missing=0.5, power=2.0)
    got = pmf.strengths(np.array([0, 0, 0, 2]), 3, 4, s)
    assert got == pytest.approx([0.1 * (5 / 4) ** 2, 0, 0.1 * (3 / 4) ** 2])


def test_the_objective_equals_the_double_loop():
    (users, items, targets, weights, n_users, n_items), features = ranking_case()
    s, rng = pmf.Ranking(missing=0.2, reg=0.05, text=0.4, power=0.5), np.random.default_rng(1)
    P, Q, W = (rng.normal(size=(n, 2)) for n in (n_users, n_items, 3))
    rated = {(u, i): n for n, (u, i) in enumerate(zip(users, items, strict=True))}
    warm_users, warm_items = sorted(set(users)), sorted(set(items))
    total = 0.05 / 0.4 * sum(W.flatten() ** 2)
    mean_a = len(users) / len(warm_users) + 0.2 * len(warm_items)
    mean_b = len(users) / len(warm_items) + 0.2 * len(warm_users)
    for u in warm_users:
        a = (sum(users == u) + 0.2 * len(warm_items)) / mean_a
        total += 0.05 * a**0.5 * sum(P[u] ** 2)
        for i in warm_items:
            n = rated.get((u, i))
            w, t = (0.2, 0.0) if n is None else (weights[n], targets[n])
            total += w * (t - P[u] @ Q[i]) ** 2
    for i in warm_items:
        b = (sum(items == i) + 0.2 * len(warm_users)) / mean_b
        total += 0.05 / 0.6 * b**0.5 * sum((Q[i] - features[i] @ W) ** 2)
    got = ranking_objective(P, Q, W, users, items, targets, weights, s, features)
    assert got == pytest.approx(total, rel=1e-12)


def test_every_half_sweep_and_every_regression_lowers_the_objective():
    (users, items, targets, weights, n_users, n_items), features = ranking_case()
    s, rng = pmf.Ranking(missing=0.2, reg=0.5, text=0.3), np.random.default_rng(1)
    reg_u = pmf.strengths(users, n_users, len(np.unique(items)), s)
    reg_i = pmf.strengths(items, n_items, n_users, s) / 0.7
    P, Q = rng.normal(size=(n_users, 4)), rng.normal(size=(n_items, 4)) * (reg_i > 0)[:, None]
    W = np.zeros((3, 4))
    by_user = pmf.by_row(users, items, targets, weights, n_users)
    by_item = pmf.by_row(items, users, targets, weights, n_items)
    values = []

    def note():
        case = (users, items, targets, weights, s, features)
        values.append(ranking_objective(P, Q, W, *case))

    note()
    for _ in range(6):
        spectrum, Q, P, W = pmf.turned(Q, P, W)
        pmf.half_sweep(*by_user, s.missing, P, Q, spectrum, np.zeros_like(P), reg_u)
        note()
        W = pmf.regress(features, Q, reg_i, s.reg / s.text)
        note()
        spectrum, P, Q, W = pmf.turned(P, Q, W)
        pmf.half_sweep(*by_item, s.missing, Q, P, spectrum, features @ W, reg_i)
        note()
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("text", [True, False])
def test_the_result_is_the_closed_form_optimum_of_each_block(text):
    """After many sweeps each p_u, each q_i and W solve their own least squares in plain NumPy."""
    (*ratings, n_users, n_items), features = ranking_case()
    users, items, targets, weights = ratings
    s = pmf.Ranking(k=3, missing=0.2, reg=0.5, text=0.3, sweeps=600, seed=3)
    features = features if text else np.zeros((n_items, 0))
    P, Q, W = pmf.fit_ranking(*ratings, n_users + 2, n_items, s, features if text else None)
    assert not P[n_users:].any()  # two users without ratings, who are outside the sums
    P = P[:n_users]
    reg_u, reg_i = pmf.strengths(users, n_users, 9, s), pmf.strengths(items, n_items, n_users, s)
    reg_i = reg_i / (0.7 if text else 1)
    full_w, full_t = np.full((n_users, 9), s.missing), np.zeros((n_users, 9))  # warm items: 0 .. 8
    full_w[users, items], full_t[users, items] = weights, targets
    q, prior = Q[:9], features @ W
    for u in range(n_users):
        system = q.T @ (full_w[u][:, None] * q) + reg_u[u] * np.eye(3)
        best = np.linalg.solve(system, q.T @ (full_w[u] * full_t[u]))
        assert P[u] == pytest.approx(best, abs=1e-7)
    for i in range(9):
        system = P.T @ (full_w[:, i][:, None] * P) + reg_i[i] * np.eye(3)
        best = np.linalg.solve(system, P.T @ (full_w[:, i] * full_t[:, i]) + reg_i[i] * prior[i])
        assert Q[i] == pytest.approx(best, abs=1e-7)
    root = np.sqrt(reg_i)[:, None]
    rows = np.vstack(
        [root * features, np.sqrt(0.5 / 0.3) * np.eye(features.shape[1])]
    )  # (I + D, D)
    wanted = np.vstack([root * Q, np.zeros((features.shape[1], 3))])
    assert pytest.approx(np.linalg.lstsq(rows, wanted)[0], abs=1e-7) == W
    assert np.abs(Q[:9]).max() > 0.1  # not the trivial optimum


def test_a_rating_below_half_of_the_highest_counts_as_a_missing_one():
    (users, items, targets, weights, n_users, n_items), features = ranking_case()
    low = np.arange(30) % 3 == 0
    weak, s = np.where(low, 0.4, targets), pmf.Ranking(k=4, reg=0.5)
    got = pmf.fit_ranking(users, items, weak, weights, n_users, n_items, s, features)
    as_missing = np.where(low, 0, targets), np.where(low, s.missing, weights)
    every = dataclasses.replace(s, least=0.0)
    same = pmf.fit_ranking(users, items, *as_missing, n_users, n_items, every, features)
    other = pmf.fit_ranking(users, items, weak, weights, n_users, n_items, every, features)
    for a, b, c in zip(got, same, other, strict=True):
        assert np.array_equal(a, b) and not np.allclose(a, c)


def test_the_first_factors_are_noise_and_no_text_is_regressed_on_them():
    case, features = ranking_case()
    one, two = (pmf.fit_ranking(*case, pmf.Ranking(k=2, sweeps=n), features) for n in (1, 2))
    assert not one[2].any() and two[2].all()


def test_a_cold_item_takes_its_prior_and_moves_nobody():
    case, features = ranking_case()
    s = pmf.Ranking(k=4, sweeps=8, reg=0.5)
    P, Q, W = pmf.fit_ranking(*case, s, features)
    assert np.array_equal(Q[9:], (features @ W)[9:])
    assert np.abs(Q[9:]).min() > 0
    assert (pmf.fit_ranking(*case, s)[1][9:] == 0).all()  # no text: nothing is known of it
    changed = features.copy()
    changed[9:] *= -5
    again = pmf.fit_ranking(*case, s, changed)
    assert np.array_equal(again[0], P) and np.array_equal(again[1][:9], Q[:9])


def test_ranking_same_seed_same_bytes_whatever_the_threads():
    case, features = ranking_case()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)  # all there are
    runs = [pmf.fit_ranking(*case, pmf.Ranking(k=4, seed=s), features) for s in (1, 1, 2)]
    first, again, other = (b"".join(x.tobytes() for x in run) for run in runs)
    assert first == again != other
    numba.set_num_threads(1)
    alone = pmf.fit_ranking(*case, pmf.Ranking(k=4, seed=1), features)
    assert b"".join(x.tobytes() for x in alone) == first


def test_ranking_fast_is_float32_and_ends_at_the_same_objective():
    case, features = ranking_case()
    values = []
    for fast in (False, True):
        s = pmf.Ranking(k=4, fast=fast)
        factors = pmf.fit_ranking(*case, s, features)
        assert {x.dtype for x in factors} == {np.dtype(np.float32 if fast else np.float64)}
        factors = [x.astype(np.float64) for x in factors]
        values.append(ranking_objective(*factors, *case[:4], s, features))
    assert values[1] == pytest.approx(values[0], rel=1e-6)


def test_without_weight_of_the_text_only_cold_items_take_something_from_it():
    case, features = ranking_case()
    s = pmf.Ranking(k=4, sweeps=8, reg=0.5, text=0.0)
    P, Q, W = pmf.fit_ranking(*case, s, features)
    plain = pmf.fit_ranking(*case, s)
    assert np.array_equal(P, plain[0]) and np.array_equal(Q[:9], plain[1][:9])
    assert np.array_equal(Q[9:], features[9:] @ W) and np.abs(Q[9:]).min() > 0
    reg_i, share = pmf.strengths(case[1], 11, 7, s), pmf.Ranking.text  # as if it had that share
    assert pytest.approx(pmf.regress(features, Q, reg_i, 0.5 / share), rel=1e-12) == W


# The choice of the settings


def tastes(n_users=60, n_items=200, n_kinds=4, seed=0):
    """Users who like one kind of items: (users, items, targets, liked), the kind of each item."""
    rng = np.random.default_rng(seed)
    kinds, taste = np.arange(n_items) % n_kinds, np.arange(n_users) % n_kinds  # (I,), (U,)
    own = kinds == taste[:, None]  # (U, I)
    users, items = np.nonzero(rng.random((n_users, n_items)) < np.where(own, 0.15, 0.02))
    liked = own[users, items]  # (N,)
    columns = users.astype(np.int32), items.astype(np.int32), np.where(liked, 1.0, 0.5), liked
    return columns, kinds


@pytest.fixture
def short_search(monkeypatch):
    monkeypatch.setattr(pmf, "SEARCH", {"text": (0.0, 0.2, 0.5), "k": (4,)})
    monkeypatch.setattr(pmf, "PER_DRAW", 5000)


def test_a_text_that_is_the_truth_is_chosen_and_noise_is_not(short_search):
    columns, kinds = tastes()
    truth = np.eye(4)[kinds]  # (I, 4) unit
    noise = np.random.default_rng(1).normal(size=(200, 40))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    start = pmf.Ranking(k=4, reg=1.0)
    best, curve = pmf.choose(*columns, 60, 200, start, truth)
    assert best.text > 0 and best.reg == 1.0
    assert [row["text"] for row in curve] == [0, 0.2, 0.5]
    assert curve[1]["ndcg"] > curve[0]["ndcg"] + pmf.MARGIN
    best, _ = pmf.choose(*columns, 60, 200, start, noise)
    assert best.text == 0


def test_of_equally_good_values_the_first_is_taken_and_given_ones_stay(monkeypatch):
    """NDCG by hand: the second reg is better by the margin's half, then K = 8 pays, 16 not."""
    gains = {(2.0, 4): 0.5, (3.0, 4): 0.5005, (2.0, 8): 0.5015, (2.0, 16): 0.5024, (2.0, 32): 0.9}
    off, asked = (0.01, -0.02, 0.01), []  # of three draws
    monkeypatch.setattr(pmf, "SEARCH", {"text": (0.0, 0.2), "reg": (2.0, 3.0), "k": (4, 8, 16, 32)})
    monkeypatch.setattr(pmf, "draws_of", lambda *case: off)

    def ndcg(draw, n_users, n_items, s, features):
        asked.append((s.reg, s.k, draw))
        assert s.sweeps == pmf.SWEEPS and s.fast
        return gains[s.reg, s.k] + draw * (s.reg - 1)

    monkeypatch.setattr(pmf, "ndcg_of", ndcg)
    columns, _ = tastes()
    best, curve = pmf.choose(*columns, 60, 200, pmf.Ranking(k=4, reg=2.0, text=0.3), None)
    assert (best.text, best.reg, best.k) == (0.3, 2.0, 8)
    assert (best.sweeps, best.fast) == (pmf.Ranking.sweeps, False)
    assert [(row["reg"], row["k"]) for row in curve] == list(gains)[:4]  # K = 32 is not tried
    assert [row["ndcg"] for row in curve] == pytest.approx(list(gains.values())[:4])
    assert curve[0]["draws"] == pytest.approx([0.51, 0.48, 0.51])
    assert sorted(asked) == sorted((*point, x) for point in list(gains)[:4] for x in off)
    best, curve = pmf.choose(*columns, 60, 200, pmf.Ranking(k=4, reg=3.0), None, ("reg", "k"))
    assert (best.reg, best.k, curve) == (3.0, 4, [])


def test_no_more_factors_are_tried_than_there_are_users_and_items(monkeypatch):
    monkeypatch.setattr(pmf, "SEARCH", {"k": (4, 60, 61)})
    monkeypatch.setattr(pmf, "ndcg_of", lambda draw, u, i, s, features: s.k / 100)
    columns, _ = tastes()
    best, curve = pmf.choose(*columns, 60, 200, pmf.Ranking(k=4))
    assert best.k == 60 and [row["k"] for row in curve] == [4, 60]


def test_draws_hold_out_a_tenth_and_are_as_many_as_the_ratings_are_few(monkeypatch):
    (users, items, targets, liked), _ = tastes()
    monkeypatch.setattr(pmf, "PER_DRAW", 3 * len(users) + 1)
    draws = list(pmf.draws_of(users, items, targets, liked, 60))
    assert len(draws) == 3
    kept, held = metrics.split_per_user(users, 0.1, 8)
    known, relevant = draws[1]
    assert np.array_equal(known[1], items[kept]) and (known[3] == 1).all()
    found = [(u, i) for u in range(60) for i in relevant[1][relevant[0][u] : relevant[0][u + 1]]]
    held = held[liked[held]]
    assert sorted(found) == sorted(zip(users[held], items[held], strict=True))


def test_of_many_ratings_those_of_a_random_sample_of_users_are_taken(monkeypatch):
    columns, _ = tastes()
    busy = (columns[0] % 4 == 0) | (np.arange(len(columns[0])) % 5 == 0)  # a quarter of the users
    columns = [column[busy] for column in columns]
    monkeypatch.setattr(pmf, "MOST", len(columns[0]) // 2)
    wanted, room = set(), pmf.MOST
    for user in np.random.default_rng(0).permutation(60):
        room -= np.sum(columns[0] == user)
        wanted |= {user} if room >= 0 else set()
    known, _ = next(pmf.draws_of(*columns, 60))
    assert set(known[0]) == wanted and 15 < len(wanted) < 45
    assert np.isin(columns[0], list(wanted)).sum() > len(known[0])  # all theirs, but for the tenth


@pytest.mark.parametrize(("share", "n_draws"), [(0.1, 1), (1, 1), (2.5, 2), (10.5, 10), (99, 10)])
def test_there_are_1_to_10_draws(monkeypatch, share, n_draws):
    columns, _ = tastes()
    monkeypatch.setattr(pmf, "PER_DRAW", int(share * len(columns[0])))
    assert len(list(pmf.draws_of(*columns, 60))) == n_draws


def test_a_point_is_measured_by_lists_of_25_of_what_is_not_known():
    columns, _ = tastes()
    (known, relevant), s = next(pmf.draws_of(*columns, 60)), pmf.Ranking(k=4, reg=1.0)
    P, Q, _ = pmf.fit_ranking(*known, 60, 200, s)
    seen = metrics.group_by_user(known[0], known[1], 60)
    found = metrics.evaluate(lambda users: (P @ Q.T)[users], seen, relevant, 25)
    assert pmf.ndcg_of((known, relevant), 60, 200, s, None) == pytest.approx(found["ndcg"].mean())


def test_items_that_nobody_rates_change_no_list():
    """Twice the catalogue, half of it never rated: the others keep their scores."""
    (users, items, targets, _), _ = tastes()
    weights, s = np.ones(len(users)), pmf.Ranking(k=4, reg=1.0)
    features = np.random.default_rng(2).normal(size=(400, 6))
    P, Q, _ = pmf.fit_ranking(users, items, targets, weights, 60, 200, s, features[:200])
    P2, Q2, _ = pmf.fit_ranking(users, items, targets, weights, 60, 400, s, features)
    assert pytest.approx(P @ Q.T, abs=2e-3) == P2 @ Q2[:200].T  # their first draws differ


def test_data_of_which_nothing_liked_can_be_held_out_keep_the_defaults():
    one = np.zeros(1, np.int32)
    s, curve = pmf.choose(one, one, np.ones(1), np.ones(1, bool), 1, 1)
    assert (s, curve) == (pmf.Ranking(), [])


# The commands


def ranking_files(folder, n_texts=11, liked=3.0):
    (users, items, targets, _, n_users, n_items), features = ranking_case()
    arrays = {"train_users": users, "train_items": items, "train_ratings": targets * 5}
    arrays |= {"test_users": np.int32([0, 3]), "test_items": np.int32([10, 2])}
    arrays |= {"test_ratings": np.array([4.5, 1.5])}
    arrays |= {"valid": np.arange(30) % 5 == 0, "user_ids": np.arange(n_users)}
    arrays |= {"liked": np.array(liked), "highest": np.array(5.0)}
    metrics.save(folder / "r.safetensors", arrays | {"movie_ids": np.arange(n_items)}, {})
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)  # (I, D)
    metrics.save(folder / "e.safetensors", {"embeddings": unit[:n_texts]}, {})


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that calls pmf.py's main with some arguments, in a folder of ranking_files."""
    ranking_files(tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        line = ["pmf.py", *arguments, "--ratings", "r.safetensors", "--out", "o"]
        monkeypatch.setattr(sys, "argv", line)
        pmf.main()
        return metrics.load("o", ["r.safetensors"])

    return call


def train_columns(fit_part):
    data = metrics.load("r.safetensors")
    rows = ~data["valid"] if fit_part else np.ones(30, dtype=bool)
    return [data[f"train_{x}"][rows] for x in ("users", "items", "ratings")]


@pytest.mark.parametrize("fit_part", [True, False])
def test_the_pmf_command(command, capsys, fit_part):
    got = command("--k", "4", "--epochs", "2", *["--fit-part"] * fit_part)
    wanted = pmf.fit(*train_columns(fit_part), 7, 9, settings(k=4, epochs=2))  # 9: items of train
    for name, array in zip(("user_factors", "item_factors", "loss"), wanted, strict=True):
        assert np.array_equal(got[name], array)
    assert f"mse {wanted[2][1]:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize("threads", [1, 2])
def test_the_fast_pmf_command(command, threads):
    got = command("--k", "4", "--epochs", "2", "--fast", "--threads", str(threads))
    s = settings(k=4, epochs=2)
    wanted = pmf.fit_fast(*train_columns(fit_part=False), 7, 9, s, threads)
    assert got["item_factors"].tobytes() == wanted[1].tobytes()


@pytest.mark.parametrize(("text", "everything"), [(True, False), (False, False), (False, True)])
def test_the_ranking_command(command, capsys, text, everything):
    options = ["--embeddings", "e.safetensors"] * text + ["--all"] * everything
    got = command("ranking", "--k", "4", *options)
    users, items, ratings = train_columns(fit_part=False)
    if everything:  # the test part too
        users, items = np.append(users, np.int32([0, 3])), np.append(items, np.int32([10, 2]))
        ratings = np.append(ratings, [4.5, 1.5])
    e = metrics.load("e.safetensors")["embeddings"]
    features, inputs = None, {"r.safetensors"}
    if text:
        features, inputs = e, inputs | {"e.safetensors"}
    s, ones = pmf.Ranking(k=4), np.ones(len(items))
    wanted = pmf.fit_ranking(users, items, ratings / 5, ones, 7, 11, s, features)
    for name, array in zip(("user_factors", "item_factors", "text_weights"), wanted, strict=True):
        assert np.array_equal(got[name], array)
    assert set(metrics.provenance("o")["inputs"]) == inputs
    assert f"15 sweeps over {len(items)} ratings" in capsys.readouterr().out


def test_a_rating_that_the_data_call_liked_is_never_a_missing_one(command, tmp_path):
    ranking_files(tmp_path, liked=1.5)
    command("ranking", "--k", "4")
    assert metrics.provenance("o")["settings"]["least"] == 0.3  # 1.5 of 5
    command("ranking", "--k", "4", "--least", "0.2")
    assert metrics.provenance("o")["settings"]["least"] == 0.2


def test_what_is_chosen_for_these_ratings_is_what_is_fitted(command, monkeypatch):
    def ndcg(draw, n_users, n_items, s, features):
        assert (n_users, n_items) == (7, len(features)) == (7, 9)  # the items of train
        return s.reg + s.text

    monkeypatch.setattr(pmf, "SEARCH", pmf.SEARCH | {"k": (128,)})
    monkeypatch.setattr(pmf, "ndcg_of", ndcg)
    line = ["--ratings", "r.safetensors", "--embeddings", "e.safetensors", "--out", "ours.json"]
    pmf.main_choose([*line, "--missing", "0.3"])
    record = json.loads(Path("ours.json").read_text())
    assert record["chosen"] == {"text": 0.5, "reg": 4.0, "missing": 0.3, "k": 128}
    assert record["settings"] == {"missing": 0.3}
    command("ranking", "--embeddings", "e.safetensors", "--choice", "ours.json")
    made = metrics.provenance("o")["settings"]
    assert record["chosen"] == {name: made[name] for name in record["chosen"]}
    with pytest.raises(BadInput, match="--choice holds text, reg, missing, k: give them to `pmf"):
        command("ranking", "--choice", "ours.json", "--k", "3")


def test_a_choice_that_is_damaged_or_of_other_ratings_is_one_line(command):
    pmf.main_choose(["--ratings", "r.safetensors", "--out", "ours.json", "--k", "4"])
    chosen = Path("ours.json").read_text()
    other = json.dumps(metrics.with_checksum({"inputs": {}}))  # a whole file, of something else
    emptied = json.dumps(json.loads(chosen) | {"sha256": ""})
    for damaged in (chosen.replace('"k": 4', '"k": 5'), chosen[:-9], "{}", other, emptied):
        Path("ours.json").write_text(damaged)
        with pytest.raises(BadInput, match=r"^ours\.json (is damaged|is not complete|has no ')"):
            command("ranking", "--choice", "ours.json")
    Path("ours.json").write_text(chosen)
    metrics.save("r.safetensors", metrics.load("r.safetensors"), {"another": "split"})
    with pytest.raises(BadInput, match=r"ours\.json was made with r\.safetensors = "):
        command("ranking", "--choice", "ours.json")


def test_ratings_that_are_too_few_to_tell_people_apart_are_said_to_be_so(command, capsys):
    command("ranking", "--k", "4", "--reg", "0.1")
    assert "so few ratings" not in capsys.readouterr().out
    command("ranking", "--k", "4")  # 30 ratings
    assert "so few ratings that everybody gets nearly the same list" in capsys.readouterr().out


def test_embeddings_of_other_items_are_a_clear_error(command, tmp_path):
    ranking_files(tmp_path, n_texts=10)
    with pytest.raises(BadInput, match="features of 10 items, ratings of 11"):
        command("ranking", "--embeddings", "e.safetensors")


BOUNDS = ["--k 0", "--seed -1", "--seed 4294967296"]
PMF_BOUNDS = ["--epochs 0", "--lr -.1", "--reg -.1", "--gamma -.1", "--gamma 1.1", "--threads 2"]
RANKING_BOUNDS = [
    "--missing -.1",
    "--missing 1.1",
    "--reg 0",
    "--sweeps 0",
    "--text -.1",
    "--text 1",
    "--least 1.1",
    "--power -1",
]


@pytest.mark.parametrize(
    "line", [*BOUNDS, *PMF_BOUNDS, *(f"ranking {x}" for x in BOUNDS + RANKING_BOUNDS)]
)
def test_settings_out_of_their_bounds_are_refused(command, line):
    with pytest.raises(BadInput, match=line.split()[-2]):
        command(*line.split())


@pytest.mark.parametrize(
    "line",
    [
        "--k 1 --epochs 1 --lr 0 --reg 0 --gamma 0 --variant linear",
        "--k 1 --epochs 1 --gamma 1 --seed 0",
        "ranking --k 1 --missing 0 --sweeps 1 --text 0 --seed 0",
        "ranking --k 1 --missing 1 --sweeps 1 --reg 1e-6",
    ],
)
def test_settings_at_their_bounds_work(command, line):
    assert command(*line.split())["user_factors"].shape == (7, 1)


def test_where_nothing_can_be_cached_it_is_compiled_all_the_same(tmp_path):
    """A checkout and a home in which no folder for a cache can be made."""
    for name in ("pmf.py", "metrics.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "__pycache__").touch()  # a file in the place of the folder
    plain = {"HOME": "/dev/null", "PATH": os.environ["PATH"]}
    line = [sys.executable, "-c", "import pmf; print(pmf._epoch_strict, pmf.half_sweep)"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=plain)
    assert done.returncode == 0 and done.stdout.count("CPUDispatcher") == 2, done.stderr
