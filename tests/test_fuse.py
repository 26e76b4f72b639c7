"""fuse.py against two-dimensional cases by hand and against plain loops."""

import math

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


def test_published_profile_weighs_recency_and_rating():
    users, items = np.array([0, 0, 1]), np.array([0, 1, 2])
    ratings, times = np.array([5.0, 2.5, 4.0]), np.array([10, 20, 7])
    old, new = math.exp(0) * 5 / 5, math.exp(1) * 2.5 / 5
    got = fuse.published_profiles(users, items, ratings, times, E2, 3)
    assert got[0] == pytest.approx([old / (old + new), new / (old + new)], rel=1e-15)
    assert got[1] == pytest.approx(E2[2])  # a single time: 1.0 in place of the share
    assert got[2].tolist() == [0, 0]


def test_published_profile_equals_the_double_loop():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 5, 60), rng.integers(0, 9, 60)
    ratings, times = rng.integers(1, 11, 60) / 2, rng.integers(0, 1000, 60)
    e = rng.normal(size=(9, 4))
    got = fuse.published_profiles(users, items, ratings, times, e, 5) @ e.T  # (U, I)
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


def test_standardise_by_hand_over_the_candidates():
    scores = np.array([[1.0, 3, 8], [2, 2, 9]])
    among = np.array([[True, True, False], [True, True, False]])  # mean 2, sd 1; then no spread
    assert fuse.standardise(scores, among).tolist() == [[-1, 1, 6], [0, 0, 0]]
    assert fuse.standardise(scores, np.zeros((2, 3), dtype=bool)).tolist() == [[0] * 3] * 2
    same = np.full((1, 3), 0.7)
    assert fuse.standardise(same, same > 0).tolist() == [[0, 0, 0]]  # rounding is no difference


def test_text_scores_by_hand():
    """A user at (1, 0); items at cosines 1, 0, .6 with 0, 7, 1 likes."""
    got = fuse.text_scores(np.array([[1.0, 0.0]]), E2, np.array([0, 7, 1]), popularity=0.5)
    assert got[0] == pytest.approx([1, 0.5 * math.log(8), 0.6 + 0.5 * math.log(2)])


def test_ours_by_hand():
    """CF scores 1, 3 and text scores 1, 0 over the two candidates: z = (-1, 1) and (1, -1)."""
    P, Q = np.array([[1.0]]), np.array([[1.0], [3.0], [9.0]])
    seen = metrics.group_by_user(np.array([0]), np.array([2]), 1)
    profiles, likes = np.array([[1.0, 0.0]]), np.zeros(3)
    scorer = fuse.ours_scorer(P, Q, profiles, E2, likes, seen, alpha=0.7)
    got = scorer(np.array([0]))
    assert got[0, :2] == pytest.approx([0.7 * -1 + 0.3 * 1, 0.7 * 1 + 0.3 * -1])


def test_published_fusion_scales_cf_over_all_and_content_over_candidates():
    cf, content = np.array([[0.0, 1, 2]]), np.array([[1.0, 3, 9]])
    free = np.array([[True, True, False]])  # the third item is seen
    got = fuse.published_fusion(cf, content, free, 0.85)
    assert got[0, :2] == pytest.approx([0.85 * 0 + 0.15 * 0, 0.85 * 1 / 2 + 0.15 * 1])


def test_grid_search_tries_both_ends_and_prefers_cf_among_equals():
    seen = metrics.group_by_user(np.array([], int), np.array([], int), 1)
    relevant = metrics.group_by_user(np.array([0]), np.array([1]), 1)
    good, bad = np.array([[0.0, 1, 0]]), np.array([[1.0, 0, 0.5]])
    blend = lambda a: lambda users: a * bad + (1 - a) * good  # noqa: E731
    alpha, curve = fuse.grid_search(blend, seen, relevant, k=1)
    assert [row["alpha"] for row in curve][:: len(curve) - 1] == [0, 1]
    assert alpha == 0.45  # 1 - a > a alone ranks item 1 first: a < .5, and the largest such
    assert curve[0]["ndcg"] == 1 and curve[-1]["ndcg"] == 0


def test_recommendation_scorers_agree_with_their_parts_at_the_ends():
    rng = np.random.default_rng(1)
    U, V, e = rng.normal(size=(3, 2)), rng.normal(size=(5, 2)), rng.normal(size=(5, 4))
    profiles, users = rng.normal(size=(3, 4)), np.arange(3)
    cf = fuse.eq1_scorer(U, V, profiles, e, 1.0)(users)
    assert cf == pytest.approx(fuse.sigmoid(U @ V.T))
    assert fuse.eq1_scorer(U, V, profiles, e, 0.0)(users) == pytest.approx(profiles @ e.T)


def test_ours_at_its_ends_ranks_as_its_parts():
    rng = np.random.default_rng(2)
    P, Q, e = rng.normal(size=(4, 3)), rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    profiles, likes, users = rng.normal(size=(4, 2)), rng.integers(0, 30, 9), np.arange(4)
    seen = metrics.group_by_user(np.array([0, 2]), np.array([1, 5]), 4)
    cf = fuse.ours_scorer(P, Q, profiles, e, likes, seen, alpha=1.0)(users)
    text = fuse.ours_scorer(P, Q, profiles, e, likes, seen, alpha=0.0)(users)
    assert np.array_equal(cf.argsort(1), (P @ Q.T).argsort(1))
    assert np.array_equal(text.argsort(1), fuse.text_scores(profiles, e, likes).argsort(1))
