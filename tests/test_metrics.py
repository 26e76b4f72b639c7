"""metrics.py against cases computed by hand; expectations are written as the arithmetic."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metrics

ROOT = Path(__file__).parents[1]
LOG3 = 1 / math.log2(3)  # discount of rank 2; rank 1 has 1, rank 3 has 1/2


def lists(*rows):
    """A group_by_user pair from one list of items per user."""
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return metrics.group_by_user(users, items, len(rows))


def test_metrics_of_a_list_of_three():
    got = metrics.metrics_at_k(np.array([[True, False, True]]), np.array([2]))
    assert got["hits"] == [2]
    assert got["precision"] == [2 / 3]
    assert got["recall"] == [2 / 2]
    assert got["ndcg"] == pytest.approx((1 + 1 / 2) / (1 + LOG3), rel=1e-15)
    assert got["ndcg_own_hits"] == got["ndcg"]  # both relevant items were hit


def test_true_ndcg_and_own_hits_differ_when_relevant_items_are_missed():
    got = metrics.metrics_at_k(np.array([[True, False, False]]), np.array([3]))
    assert got["ndcg"] == pytest.approx(1 / (1 + LOG3 + 1 / 2), rel=1e-15)
    assert got["ndcg_own_hits"] == [1.0]  # one hit at rank 1: the notebook's "NDCG"


def test_ideal_stops_at_k_and_recall_does_not():
    got = metrics.metrics_at_k(np.array([[True, True]]), np.array([5]))
    assert got["ndcg"] == pytest.approx(1.0, rel=1e-15)
    assert got["recall"] == [2 / 5]


def test_no_hit_is_zero_everywhere():
    got = metrics.metrics_at_k(np.zeros((1, 4), dtype=bool), np.array([2]))
    assert [got[name][0] for name in metrics.NAMES] == [0, 0, 0, 0, 0]


def test_recall_without_a_relevant_item_is_refused():
    with pytest.raises(ValueError, match="skip the user"):
        metrics.metrics_at_k(np.zeros((1, 4), dtype=bool), np.array([0]))


def test_top_k_keeps_item_order_among_equals_at_and_above_the_cut():
    scores = np.array([[1.0, 3, 2, 3, 2, 2], [0, 0, 0, 0, 0, 0]])
    assert metrics.top_k(scores, 3).tolist() == [[1, 3, 2], [0, 1, 2]]


def test_top_k_marks_missing_candidates_and_shortens_to_the_items_there_are():
    scores = np.array([[-np.inf, 5, -np.inf], [1, 2, 3]])
    assert metrics.top_k(scores, 2).tolist() == [[1, -1], [2, 1]]
    assert metrics.top_k(scores, 9).shape == (2, 3)


def test_top_k_equals_a_stable_sort_on_scores_with_many_ties():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 7, (50, 40)).astype(float)
    expected = [sorted(range(40), key=lambda i, row=row: (-row[i], i))[:10] for row in scores]
    assert metrics.top_k(scores, 10).tolist() == expected


@pytest.mark.parametrize("n_items", [1, 5, 39, 80, 1003])
def test_top_k_equals_a_stable_sort_for_any_number_of_items(n_items):
    """Items struck out, many ties, and more items than the groups of _lower_bound hold."""
    rng = np.random.default_rng(n_items)
    for values in (3, 10_000):
        scores = rng.integers(0, values, (20, n_items)).astype(float)
        scores[rng.random(scores.shape) < 0.3] = -np.inf
        scores[:3] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]  # (20, 5)
        expected = np.where(np.take_along_axis(scores, best, axis=1) == -np.inf, -1, best)
        assert np.array_equal(metrics.top_k(scores, 5), expected)


@pytest.mark.parametrize("place", [0, 500, 1002])
def test_top_k_refuses_nan_wherever_it_stands(place):
    scores = np.random.default_rng(0).random((3, 1003))
    scores[1, place] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        metrics.top_k(scores, 5)


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_refuses_no_list(k):
    with pytest.raises(ValueError, match="k >= 1"):
        metrics.top_k(np.zeros((1, 3)), k)


def test_top_k_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        metrics.top_k(np.array([[0.0, np.nan, 1.0, 2.0]]), 2)


def test_evaluate_skips_seen_items_and_users_without_relevant_ones():
    scores = np.array([[9.0, 8, 7, 6], [9, 8, 7, 6], [1, 2, 3, 4]])
    seen = lists([0], [], [3])
    relevant = lists([2], [], [0, 2])
    got = metrics.evaluate(lambda users: scores[users], seen, relevant, k=2)
    # user 0: 1, 2 -> hit at rank 2; user 1 skipped; user 2: 2, 1 -> hit at rank 1
    assert got["users"].tolist() == [0, 2] and got["skipped"] == 1
    assert got["hits"].tolist() == [1, 1]
    assert got["recall"].tolist() == [1 / 1, 1 / 2]
    assert got["ndcg"] == pytest.approx([LOG3, 1 / (1 + LOG3)], rel=1e-15)
    assert metrics.summary(got)["precision"] == (1 / 2 + 1 / 2) / 2


def test_evaluate_does_not_depend_on_blocks_or_write_to_the_scores():
    rng = np.random.default_rng(1)
    scores = rng.random((30, 50))
    kept = scores.copy()
    seen = lists(*[rng.choice(50, 10, replace=False) for _ in range(30)])
    relevant = lists(*[rng.choice(50, rng.integers(0, 5), replace=False) for _ in range(30)])
    one = metrics.evaluate(lambda u: scores[u], seen, relevant, 5, block=64)
    many = metrics.evaluate(lambda u: scores[u], seen, relevant, 5, block=7)
    for name in metrics.NAMES:
        assert np.array_equal(one[name], many[name])
    assert np.array_equal(scores, kept)


@pytest.mark.parametrize(
    ("given", "ranked"), [(np.float32, np.float32), (np.float64, np.float64), (int, np.float64)]
)
def test_scores_keep_their_float_type_and_whole_numbers_rank_too(monkeypatch, given, ranked):
    scores, top_k, types = np.array([[3, 9, 1, 7], [2, 4, 8, 6]], dtype=given), metrics.top_k, []
    monkeypatch.setattr(metrics, "top_k", lambda s, k: types.append(s.dtype) or top_k(s, k))
    best = metrics.best_items(lambda u: scores[u], lists([1], [0, 1]), np.array([0, 1]), 3)
    assert best.tolist() == [[3, 0, 2], [2, 3, -1]] and types == [ranked]


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[:]])
def test_scores_that_a_scorer_keeps_are_not_written_to(view):
    scores = np.array([[3.0, 9, 1], [2, 4, 8]])
    best = metrics.best_items(lambda u: view(scores), lists([1], [2]), np.array([0, 1]), 1)
    assert best.tolist() == [[0], [1]]
    assert scores.tolist() == [[3, 9, 1], [2, 4, 8]]


@pytest.mark.parametrize("bad", [[[4, 2, 4]], [[1, -1, 1]], [[1, -2, 3]], [[0, 0, -1]]])
def test_a_list_with_an_item_twice_or_an_id_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="twice, or an id below -1"):
        metrics.metrics_of_lists(np.array(bad), lists([4, 1]), np.array([0]), 3)


def test_a_list_may_end_early_more_than_once():
    got = metrics.metrics_of_lists(np.array([[1, -1, -1]]), lists([4, 1]), np.array([0]), 3)
    assert got["hits"] == [1] and got["recall"] == [1 / 2] and got["precision"] == [1 / 3]
    nothing = metrics.metrics_of_lists(np.array([[-1]]), lists([0]), np.array([0]), 1)
    assert nothing["hits"] == [0]  # -1 is not the last item


def test_a_list_is_25_long_unless_told():
    scores = np.arange(30.0)[None]
    got = metrics.evaluate(lambda u: scores, lists([29]), lists([0, 28]))
    assert got["precision"] == [1 / 25]  # item 28; item 0 is beyond the 25th


@pytest.mark.parametrize(("n", "block"), [(1, 4), (9, 4), (8, 4)])
def test_blocks_are_no_larger_than_asked_and_even(n, block):
    sizes, everybody = [], lists(*[[0]] * n)
    score = lambda u: sizes.append(len(u)) or np.ones((len(u), 2))  # noqa: E731
    metrics.evaluate(score, lists(*[[1]] * n), everybody, 1, block)
    assert sum(sizes) == n and max(sizes) <= block and max(sizes) - min(sizes) <= 1
    assert len(sizes) == math.ceil(n / block)


def test_evaluate_counts_a_list_longer_than_the_candidates_against_k():
    got = metrics.evaluate(lambda u: np.ones((len(u), 3)), lists([0]), lists([1]), k=5)
    assert got["precision"] == [1 / 5] and got["recall"] == [1.0]


def test_evaluate_without_any_relevant_item_is_refused():
    with pytest.raises(ValueError, match="nothing to measure"):
        metrics.evaluate(lambda u: np.ones((len(u), 3)), lists([0]), lists([]), k=5)


def test_one_user_has_no_standard_error_and_two_have_one():
    result = {"users": np.arange(1), "skipped": 2, "hits": np.array([3])}
    result |= {name: np.array([0.5]) for name in metrics.NAMES[1:]}
    row = metrics.summary(result)
    assert (row["users"], row["skipped"], row["hits"], row["recall_se"]) == (1, 2, 3, 0.0)
    two = result | {"users": np.arange(2), "ndcg": np.array([0.0, 1.0])}
    assert metrics.summary(two)["ndcg_se"] == pytest.approx(math.sqrt(1 / 2) / math.sqrt(2))


def test_standard_error_of_three_users():
    result = {"users": np.arange(3), "skipped": 0, "hits": np.array([0, 1, 2])}
    result |= {name: np.array([0.0, 1.0, 2.0]) for name in metrics.NAMES[1:]}
    row = metrics.summary(result)
    assert row["ndcg"] == 1.0 and row["ndcg_se"] == pytest.approx(1 / math.sqrt(3))


def test_split_holds_out_the_first_share_of_a_fixed_permutation():
    users = np.array([7, 7, 3, 7, 3, 7, 7])  # user 3 first: ascending ids
    kept, held = metrics.split_per_user(users, share=0.4, seed=5)
    three = np.array([2, 4])[np.random.RandomState(5).permutation(2)]
    seven = np.array([0, 1, 3, 5, 6])[np.random.RandomState(5).permutation(5)]
    assert held.tolist() == [*three[:1], *seven[:2]]  # ceil(.8) = 1, ceil(2.0) = 2
    assert kept.tolist() == [*three[1:], *seven[2:]]


def test_the_split_is_80_to_20_by_seed_42_unless_told():
    kept, held = metrics.split_per_user(np.zeros(10, dtype=int))
    assert [*held, *kept] == np.random.RandomState(42).permutation(10).tolist() and len(held) == 2


def test_split_is_a_partition_and_keeps_a_lonely_row():
    users = np.random.default_rng(2).integers(0, 40, 300)
    users = np.append(users, 99)
    kept, held = metrics.split_per_user(users)
    assert sorted([*kept, *held]) == list(range(301))
    assert 300 in kept
    for user, count in zip(*np.unique(users[users < 99], return_counts=True), strict=True):
        assert np.sum(users[held] == user) == (math.ceil(0.2 * count) if count > 1 else 0)


def test_bootstrap_brackets_a_known_difference_and_is_seeded():
    rng = np.random.default_rng(3)
    a, noise = rng.random(400), rng.normal(0, 0.1, 400)
    mean, low, high = metrics.paired_bootstrap(a + 0.05 + noise, a)
    assert low < 0.05 < high and low > 0  # sd .1 / sqrt(400) = .005: half width about .01
    assert high - low == pytest.approx(2 * 1.96 * noise.std() / 20, rel=0.1)
    assert (mean, low, high) == metrics.paired_bootstrap(a + 0.05 + noise, a)
    with pytest.raises(ValueError, match="same users"):
        metrics.paired_bootstrap(a, a[:-1])


def test_the_interval_holds_the_middle_95_of_100_draws():
    """Two users with differences 0 and 1: a draw's mean is 0, 1/2 or 1, a quarter of them 0."""
    a, b = np.array([0.0, 1.0]), np.zeros(2)
    assert metrics.paired_bootstrap(a, b) == (0.5, 0.0, 1.0)
    assert metrics.paired_bootstrap(a, b, level=0.4) == (0.5, 0.5, 0.5)
    rng = np.random.default_rng(5)
    noise = rng.normal(size=200)
    _, low, high = metrics.paired_bootstrap(noise, np.zeros(200), level=0.95)
    half = 1.96 * noise.std() / math.sqrt(200)
    assert low == pytest.approx(noise.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(noise.mean() + half, abs=0.1 * half)


def test_the_interval_of_several_seeds_draws_seeds_too():
    """Every user alike: only the seeds differ, 0 and 1, so a draw is 0, 1/2 or 1 as with users."""
    seeds = np.repeat([[0.0], [1.0]], 7, axis=1)  # (2 seeds, 7 users)
    assert metrics.paired_bootstrap(seeds, np.zeros(7)) == (0.5, 0.0, 1.0)
    assert metrics.paired_bootstrap(np.zeros(7), seeds) == (-0.5, -1.0, 0.0)
    alike = np.tile(np.random.default_rng(1).random(30), (3, 1))  # three times the same seed
    one = metrics.paired_bootstrap(alike[0], np.zeros(30), draws=500)
    assert metrics.paired_bootstrap(alike, np.zeros(30), draws=500) == pytest.approx(one, abs=0.02)
    with pytest.raises(ValueError, match="same users"):
        metrics.paired_bootstrap(seeds, np.zeros(6))


@pytest.mark.parametrize(
    ("users", "items"),
    [([0, 2], [0, 1]), ([0, -1], [0, 1]), ([0.0, 1.0], [0, 1]), ([0, 1], [0, -1])],
)
def test_what_cannot_be_grouped_is_told(users, items):
    with pytest.raises(ValueError, match=r"must be whole numbers from 0|user 2, but n_users is 2"):
        metrics.group_by_user(users, items, 2)
    starts, grouped = metrics.group_by_user([1, 0], [5, 6], 2)  # lists will do
    assert starts.tolist() == [0, 1, 2] and grouped.tolist() == [6, 5]


def test_a_relevant_item_that_is_there_twice_counts_once():
    """A list of three with hits at ranks 1 and 3, of two relevant items: recall 1."""
    relevant = metrics.group_by_user([0, 0, 0], [4, 9, 9], 1)
    found = metrics.metrics_of_lists(np.array([[4, 1, 9]]), relevant, np.array([0]), 3)
    assert found["recall"] == 1 and found["ndcg"] == pytest.approx(1.5 / (1 + 1 / np.log2(3)))


def test_the_file_needs_numpy_alone():
    """In a fresh process that has none of the packages beside it, and for these tests too."""
    others = "numba", "torch", "transformers", "peft", "bitsandbytes", "safetensors", "tqdm"
    program = f"""
import sys
sys.modules |= dict.fromkeys({others}, None)  # each import of theirs fails
import numpy as np
import metrics
scores, seen = np.array([[0.1, 0.9, 0.5]]), metrics.group_by_user([0], [1], 1)
found = metrics.evaluate(lambda users: scores, seen, metrics.group_by_user([0], [2], 1), 1)
print(found["recall"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[1.]\n", "")
