"""fuse.py against two-dimensional cases by hand and against plain loops."""

import math
from itertools import pairwise

import numpy as np
import pytest

import fuse
import metrics

E2 = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])  # (I, D) three unit embeddings


def test_centroid_of_two_likes_is_their_unit_sum():
    got = fuse.centroids(np.array([0, 0]), np.array([0, 1]), E2, 2)
    assert got[0] == pytest.approx([1 / math.sqrt(2)] * 2)
    assert got[1].tolist() == [0, 0]  # liked nothing: cosine 0 to all


def test_eq1_by_hand():
    got = fuse.eq1(np.array([[0.0, math.log(3)]]), np.array([[0.5, -1.0]]), 0.75)
    assert got[0] == pytest.approx([0.75 * 1 / 2 + 0.25 * 0.5, 0.75 * 3 / 4 - 0.25], rel=1e-15)


def test_sigmoid_is_finite_far_out():
    assert fuse.sigmoid(np.array([-1e9, 0, 1e9])).tolist() == [0, 0.5, 1]


def test_notebook_profile_weighs_recency_and_rating():
    users, items = np.array([0, 0, 1]), np.array([0, 1, 2])
    ratings, times = np.array([5.0, 2.5, 4.0]), np.array([10, 11, 7])
    old, new = math.exp(0) * 5 / 5, math.exp(1) * 2.5 / 5
    got = fuse.notebook_profiles(users, items, ratings, times, E2, 3, 5.0)
    assert got[0] == pytest.approx([old / (old + new), new / (old + new)], rel=1e-15)
    assert got[1] == pytest.approx(E2[2])  # a single time: its weight cancels
    assert got[2].tolist() == [0, 0]


def test_notebook_profile_of_one_low_rating_is_that_item():
    one = np.array([0]), np.array([2]), np.array([0.5]), np.array([9])
    assert fuse.notebook_profiles(*one, E2, 1, 5.0)[0] == pytest.approx(E2[2])


def test_notebook_profile_equals_the_double_loop():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 5, 60), rng.integers(0, 9, 60)
    ratings, times = rng.integers(1, 11, 60) / 2, rng.integers(0, 1000, 60)
    e = rng.normal(size=(9, 4))
    got = fuse.notebook_profiles(users, items, ratings, times, e, 5, 5.0) @ e.T  # (U, I)
    for u in range(5):
        rows = np.flatnonzero(users == u)
        low, high = times[rows].min(), times[rows].max()
        w = [math.exp((times[n] - low) / (high - low)) * ratings[n] / 5 for n in rows]
        for i in range(9):
            cosines = sum(x * (e[i] @ e[items[n]]) for x, n in zip(w, rows, strict=True))
            assert got[u, i] == pytest.approx(cosines / sum(w), rel=1e-12)


def test_min_max_over_all_or_among_some():
    scores = np.array([[2.0, 4, 6, 10]])
    assert fuse.min_max(scores)[0] == pytest.approx([0, 2 / 8, 4 / 8, 1])
    among = np.array([[True, True, True, False]])
    assert fuse.min_max(scores, among)[0][:3] == pytest.approx([0, 1 / 2, 1])
    assert fuse.min_max(np.ones((1, 3)))[0].tolist() == [0, 0, 0]
    assert fuse.min_max(scores, np.zeros((1, 4), dtype=bool))[0].tolist() == [0, 0, 0, 0]


def data_of(users, items, ratings, valid, test):
    """The arrays of a ratings.safetensors by hand; test: its users, items, ratings."""
    train = [np.array(users), np.array(items), np.array(ratings), np.arange(len(users))]
    test = [*map(np.array, test), np.zeros(len(test[0]))]
    arrays = {"user_ids": np.arange(10, 13), "valid": np.array(valid, dtype=bool)}
    arrays |= {"liked": np.array(4.0), "highest": np.array(5.0)}
    for part, columns in (("train", train), ("test", test)):
        names = ("users", "items", "ratings", "times")
        arrays |= {f"{part}_{name}": x for name, x in zip(names, columns, strict=True)}
    return arrays


DATA = data_of(
    users=[0, 0, 0, 1, 1, 2],
    items=[0, 1, 2, 0, 3, 2],
    ratings=[5.0, 4.0, 3.5, 4.0, 4.5, 2.0],
    valid=[0, 1, 0, 0, 1, 0],
    test=([0, 1, 2, 2], [3, 1, 0, 4], [4.0, 3.5, 5.0, 5.0]),  # item 4 is not in train
)


def pairs(grouped):
    indptr, items = grouped
    return [items[a:b].tolist() for a, b in pairwise(indptr)]


def test_a_task_from_train_to_test_finds_liked_items_of_train():
    task = fuse.ranking_task(DATA)
    assert (task.n_users, task.n_items) == (3, 4)
    assert pairs(task.seen) == [[0, 1, 2], [0, 3], [2]]
    assert pairs(task.relevant) == [[3], [], [0]]  # 3.5 is not liked
    assert task.ratings.tolist() == [5, 4, 3.5, 4, 4.5, 2] and task.times.tolist() == [*range(6)]


def test_a_task_on_validation_hides_its_rows_and_keeps_all_items_of_train():
    task = fuse.ranking_task(DATA, validation=True)
    assert task.n_items == 4
    assert pairs(task.seen) == [[0, 2], [0], [2]]
    assert pairs(task.relevant) == [[1], [3], []]
    assert task.items.tolist() == [0, 2, 0, 2] and task.times.tolist() == [0, 2, 3, 5]


def test_a_task_of_all_ratings_knows_the_test_part_and_shows_every_item():
    task = fuse.ranking_task(DATA | {"movie_ids": np.arange(6)}, whole=True)
    assert (task.n_users, task.n_items) == (3, 6)
    assert pairs(task.seen) == [[0, 1, 2, 3], [0, 3, 1], [2, 0, 4]]
    assert pairs(task.relevant) == [[], [], []]  # nothing is left to be found
    assert task.ratings.tolist() == [5, 4, 3.5, 4, 4.5, 2, 4, 3.5, 5, 5]


def test_candidates_are_the_unseen_items():
    free = fuse.candidates_of(fuse.ranking_task(DATA).seen, np.array([1, 0]), 4)
    assert free.tolist() == [[False, True, True, False], [False, False, False, True]]


def test_a_movie_without_ratings_gets_the_allowance_and_no_other_does():
    U, V = np.array([[0.0, 1], [3, 4]]), np.array([[1.0, 0], [0, 1], [1, 1]])
    known = np.array([0, 2, 2])
    assert fuse.allowances(V, known).tolist() == [0, fuse.ALLOWANCE, 0]
    given = fuse.allowances(V, known, most=0.2)
    scores = fuse.scores_with_allowance(np.array([1, 0]), U, V, given)
    assert scores.tolist() == [[3, 4 + 0.2 * 5, 7], [0, 1.2, 1]]
    assert fuse.scores_with_allowance(np.array([1]), U, V, 0 * given).tolist() == [[3, 4, 7]]


def test_the_allowance_shrinks_with_the_factors():
    """Rated movies have the lengths .06 and .08, .05 sqrt 2 is usual: the new one is not best."""
    U, V = np.array([[1.0, 0], [0, 5]]), np.array([[0.06, 0], [0.01, 0.01], [0.08, 0.0]])
    scores = fuse.scores_with_allowance(
        np.array([0, 1]), U, V, fuse.allowances(V, np.array([0, 2]))
    )
    most = 0.05 * np.sqrt(2) / 2
    np.testing.assert_allclose(scores, [[0.06, 0.01 + most, 0.08], [0, 0.05 + 5 * most, 0]])


E4 = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])  # (I, D) of DATA's items


U3 = np.array([[0.0, 1.0], [math.log(3), 0.0], [2.0, -1.0]])  # (U, K) of DATA's users
V4 = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, -2.0]])  # (I, K) of its items


def test_report_scores_are_eq1_with_the_cosine_to_the_centroid_of_the_liked():
    """User 0 liked items 0 and 1, user 1 items 0 and 3, whose vectors cancel, user 2 nothing."""
    scores = fuse.report_scorer(fuse.ranking_task(DATA), U3, V4, E4)
    half, e = math.sqrt(1 / 2), math.e
    cosines = [half, half, 1.4 * half, -half]
    logits = [0, 1, 0.5, -2]
    expected = [
        0.3 / (1 + e**-logit) + 0.7 * cosine for logit, cosine in zip(logits, cosines, strict=True)
    ]
    got = scores(np.array([1, 0]), alpha=0.3)
    assert got[1] == pytest.approx(expected, rel=1e-12)
    assert got[0, 0] == pytest.approx(0.3 * 3 / 4, rel=1e-12)  # sigma(log 3), and cosine 0
    assert scores(np.array([2]), alpha=0.0)[0].tolist() == [0, 0, 0, 0]


def test_notebook_scores_are_its_fusion_of_the_weighted_mean_of_cosines():
    scores = fuse.notebook_scorer(fuse.ranking_task(DATA), U3, V4, E4)
    w = [math.exp(0) * 4 / 5, math.exp(1) * 4.5 / 5]  # user 1: item 0, then item 3
    content = [(w[0] * E4[0] @ e + w[1] * E4[3] @ e) / sum(w) for e in E4[1:3]]  # candidates 1, 2
    logits = U3[1] @ V4.T
    low, high = min(content), max(content)
    (got,) = scores(np.array([1]), alpha=0.75)
    for item, text in zip((1, 2), content, strict=True):
        cf = (logits[item] - logits.min()) / (logits.max() - logits.min())
        expected = 0.75 * cf + 0.25 * (text - low) / (high - low)
        assert got[item] == pytest.approx(expected, rel=1e-12)


def test_notebook_fusion_scales_cf_over_all_and_content_over_candidates():
    cf, content = np.array([[0.0, 1, 2]]), np.array([[1.0, 3, 9]])
    free = np.array([[True, True, False]])  # the third item is seen
    got = fuse.notebook_fusion(cf, content, free)  # alpha is .85 unless told
    assert got[0, :2] == pytest.approx([0.85 * 0 + 0.15 * 0, 0.85 * 1 / 2 + 0.15 * 1])


def test_what_is_not_a_number_stays_so():
    assert np.isnan(fuse.min_max(np.array([[1.0, np.nan, 3]]))).all()


def hidden_task(seen, relevant):
    nothing = np.array([])
    return fuse.Task(*[nothing] * 4, 1, 3, seen, relevant, liked=4.0, highest=5.0)


def test_grid_search_tries_both_ends_and_prefers_cf_among_equals():
    seen = metrics.group_by_user(np.array([], int), np.array([], int), 1)
    relevant = metrics.group_by_user(np.array([0]), np.array([1]), 1)
    good, bad = np.array([[0.0, 1, 0]]), np.array([[1.0, 0, 0.5]])
    blend = lambda users, alpha: alpha * bad + (1 - alpha) * good  # noqa: E731
    alpha, curve = fuse.grid_search(blend, hidden_task(seen, relevant), k=1)
    assert [row["alpha"] for row in curve][:: len(curve) - 1] == [0, 1]
    assert alpha == 0.45  # 1 - a > a alone ranks item 1 first: a < .5, and the largest such
    assert curve[0]["ndcg"] == 1 and curve[-1]["ndcg"] == 0


def test_alpha_on_validation_looks_for_the_hidden_rows_with_what_is_left():
    """User 0 should find item 1, user 1 item 3. The factors know, the text points elsewhere."""
    U = np.eye(3, 2)
    V = np.array([[0.0, 0], [9, 0], [0, 0], [0, 9]])
    task = fuse.ranking_task(DATA, validation=True)
    alpha, curve = fuse.grid_search(fuse.report_scorer(task, U, V, E4), task, k=1)
    assert alpha == 1 and curve[-1]["recall"] == 1 and curve[-1]["users"] == 2
    # the text alone: of its candidates 1 (cosine .6) and 3 (-.6) user 0 gets item 1 for item 0's
    # liking; user 1, who liked item 0, gets item 2
    assert curve[0]["hits"] == 1


@pytest.mark.parametrize("fused", [fuse.notebook_scorer, fuse.report_scorer])
def test_a_late_fusion_at_its_ends_ranks_as_its_parts(fused):
    """alpha 1 ranks as the factors do; alpha 0 does not change when the factors do."""
    rng, users = np.random.default_rng(2), np.array([1, 2])  # with two candidates or more
    task, e = fuse.ranking_task(DATA), rng.normal(size=(4, 3))
    U, V = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    scores = fused(task, U, V, e)
    assert np.array_equal(scores(users, alpha=1.0).argsort(1), (U[users] @ V.T).argsort(1))
    others = fused(task, rng.normal(size=(3, 2)), V, e)
    free = fuse.candidates_of(task.seen, users, 4)
    assert np.array_equal(scores(users, alpha=0.0)[free], others(users, alpha=0.0)[free])
    assert not np.array_equal(scores(users, alpha=0.5)[free], others(users, alpha=0.5)[free])


def test_plain_scorers():
    assert fuse.constant_scores(np.arange(2), np.array([3, 1])).tolist() == [[3.0, 1.0]] * 2
    U, V = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [3.0, 4.0]])
    assert fuse.mf_scores(np.array([1, 0]), U, V).tolist() == [[0, 4], [1, 11]]
    many = fuse.random_scores(np.arange(4), 7, 5)
    assert many.shape == (4, 5) and len(np.unique(many)) == 20
    assert np.array_equal(fuse.random_scores(np.array([2]), 7, 5), many[2:3])
    assert not np.array_equal(fuse.random_scores(np.array([2]), 8, 5), many[2:3])


# (F), the closed form of one user


def case(seed=0, n_items=12, k=4):
    """(items, targets, Q, rated): item 11 is cold, and nobody's."""
    rng = np.random.default_rng(seed)
    rated = np.arange(n_items - 1)
    return np.array([7, 2, 5]), rng.random(3), rng.normal(size=(n_items, k)), rated


def test_a_new_user_is_the_weighted_least_squares_over_all_rated_items():
    items, targets, Q, rated = case()
    p, A = fuse.new_user(items, targets, Q, rated, 0.2, 0.05, 0.7)
    w, t = np.full(11, 0.2), np.zeros(11)
    w[items], t[items] = 1, targets
    a = 0.05 * (3 + 0.2 * 11) / (0.7 + 0.2 * 11)
    rows = np.vstack([np.sqrt(w)[:, None] * Q[:11], np.sqrt(a) * np.eye(4)])
    best = np.linalg.lstsq(rows, np.concatenate([np.sqrt(w) * t, np.zeros(4)]))[0]
    assert p == pytest.approx(best, rel=1e-10)
    assert rows.T @ rows == pytest.approx(A, rel=1e-10)
    least = np.sort(targets)[1]  # one rating is lower, one is as high and counts
    low = np.append(items, 9), np.append(targets, least / 2)  # which counts as a missing one
    some = fuse.new_user(*low, Q, rated, 0.2, 0.05, 1.7, least=least)
    w[items[targets < least]], t[items[targets < least]] = 0.2, 0
    a = 0.05 * (4 + 0.2 * 11) / (1.7 + 0.2 * 11)
    rows = np.vstack([np.sqrt(w)[:, None] * Q[:11], np.sqrt(a) * np.eye(4)])
    best = np.linalg.lstsq(rows, np.concatenate([np.sqrt(w) * t, np.zeros(4)]))[0]
    assert some[0] == pytest.approx(best, rel=1e-10)
    shared = fuse.new_user(items, targets, Q, rated, 0.2, 0.05, 0.7, gram=Q[:11].T @ Q[:11])
    assert shared[0] == pytest.approx(p, rel=1e-12)


def test_no_step_from_a_new_user_lowers_the_objective():
    """(R) of one user in plain loops: its slope at p is zero by finite differences."""
    items, targets, Q, rated = case(1)
    p, _ = fuse.new_user(items, targets, Q, rated, 0.15, 0.01, 1.0)
    t = dict(zip(items.tolist(), targets, strict=True))

    def objective(x):
        errors = [(t[i] - x @ Q[i]) ** 2 if i in t else 0.15 * (x @ Q[i]) ** 2 for i in range(11)]
        return sum(errors) + 0.01 * (3 + 0.15 * 11) / (1.0 + 0.15 * 11) * x @ x

    for step in 1e-4 * np.eye(4):
        assert objective(p + step) == pytest.approx(objective(p - step), rel=1e-12)
        assert objective(p + step) > objective(p)


# Why: the parts add up to the score


def person_case():
    """Factors of eleven movies, and somebody who rated three of the nine that are rated."""
    Q, items = np.random.default_rng(5).normal(size=(11, 4)), np.array([7, 2, 5])
    targets = np.array([1.0, 0.8, 0.5])
    p, A = fuse.new_user(items, targets, Q, np.arange(9), 0.15, 0.01, 1.0)
    return items, targets, p, A, Q


def test_the_reasons_add_up_to_the_score():
    items, targets, p, A, Q = person_case()
    shown = np.array([0, 1, 8, 9])
    parts = fuse.reasons(shown, items, targets, A, Q)  # (S, n)
    assert parts.shape == (4, 3)
    assert parts.sum(axis=1) == pytest.approx(Q[shown] @ p, rel=1e-10)


def test_a_reason_by_the_definition():
    items, targets, _, A, Q = person_case()
    (part,) = fuse.reasons([8], items, targets, A, Q)
    expected = [targets[j] * Q[items[j]] @ np.linalg.inv(A) @ Q[8] for j in range(3)]
    assert part == pytest.approx(expected, rel=1e-10)


def test_similar_by_hand():
    X, Y = np.array([[1.0, 0], [2, 0], [0, 3], [1, 1]]), np.array([[1.0], [-1], [1], [1]])
    assert fuse.similar(0, X) == pytest.approx([1, 1, 0, 0.5**0.5])
    assert fuse.similar(2, X) == pytest.approx([0, 0, 1, 0.5**0.5])  # its length is 3
    z = [(x - np.mean(x)) / np.std(x) for x in ([1, 0, 0.5**0.5], [-1, 1, 1])]
    assert fuse.similar(0, X, Y)[1:] == pytest.approx(np.mean(z, axis=0))
