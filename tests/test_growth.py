"""growth.py: synthetic ratings that look like MovieLens's, and the tables of cost."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import growth
import numpy as np
import pytest

import pmf


@pytest.fixture(scope="module")
def ratings():
    return growth.generate(100_000)


def test_same_seed_same_bytes_other_seed_others(ratings):
    again, other = growth.generate(100_000), growth.generate(100_000, seed=1)
    for a, b, c in zip(ratings[:3], again, other, strict=False):
        assert a.tobytes() == b.tobytes() != c.tobytes()


def test_every_history_is_long_enough_and_holds_no_movie_twice(ratings):
    users, items, values, n_users, n_items = ratings
    assert len(users) == len(items) == len(values) == 100_000
    assert (np.diff(users) >= 0).all() and users[-1] == n_users - 1
    assert np.bincount(users).min() >= 20
    assert items.min() >= 0 and items.max() < n_items
    assert len(np.unique(users.astype(np.int64) * n_items + items)) == 100_000


def test_histories_and_popularity_are_skewed_as_in_ml_latest_small(ratings):
    """There: median 70.5, mean 165.3, Gini .604 of histories, .716 of movies, 60 % to a tenth."""
    users, items, values, _, n_items = ratings
    lengths, counts = np.bincount(users), np.sort(np.bincount(items, minlength=n_items))[::-1]
    assert np.median(lengths) == pytest.approx(70.5, abs=8)
    assert lengths.mean() == pytest.approx(165.3, abs=2)
    assert growth.gini(lengths) == pytest.approx(0.604, abs=0.03)
    assert growth.gini(counts) == pytest.approx(0.716, abs=0.02)
    assert counts[: n_items // 10].sum() / 100_000 == pytest.approx(0.60, abs=0.05)
    shares = np.bincount((2 * values).astype(int))[1:] / 100_000
    assert shares == pytest.approx(growth.SHARES, abs=0.02)


def test_popular_movies_do_not_come_first_in_a_history(ratings):
    users, items, *_ = ratings
    ends = np.cumsum(np.bincount(users))  # (U,)
    middles = ends - np.bincount(users) // 2  # (U,)
    counts, early = np.bincount(items), np.arange(len(users)) < middles[users]
    assert counts[items[early]].mean() == pytest.approx(counts[items[~early]].mean(), rel=0.03)


def test_users_and_movies_grow_through_two_editions():
    assert growth.shape_of(100_836) == (610, 9_724)
    assert growth.shape_of(32_000_204) == (200_948, 84_432)


def test_gini_by_hand():
    assert growth.gini(np.array([2, 2, 2])) == 0
    assert growth.gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert growth.gini(np.array([1, 3])) == pytest.approx(1 / 4)


def test_fits_in_threads_give_the_same_bytes(ratings):
    small = (*(column[:3000] for column in ratings[:3]), *ratings[3:])
    alone = [growth.fit(small, 5, 2, False, seed)[0] for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: growth.fit(small, 5, 2, False, seed)[0], (1, 2)))
    for a, b in zip(alone, together, strict=True):
        assert a.tobytes() == b.tobytes()


def test_final_loss_by_hand():
    data = (np.array([0, 0]), np.array([0, 1]), np.array([1.0, 5.0]), 1, 2)
    U, V = np.array([[2.0]]), np.array([[0.0], [1.0]])
    wanted = (0.5**2 + (1 - 1 / (1 + np.exp(-2))) ** 2) / 2  # ratings scaled to 0 and 1
    assert growth.loss(data, U, V) == pytest.approx(wanted, rel=1e-12)


def test_figure_and_table_of_a_row():
    row = {"ratings": 1000, "users": 10, "items": 50, "k": 4, "peak_bytes": 2e9}
    row |= {name: {"epochs": [1e-6, 3e-6, 9e-6]} for name in ("strict", "fast")}
    row["evaluation"] = {"users": 5, "seconds": 1e-3}
    assert growth.per_rating(row, "fast") == pytest.approx(3)  # 3 us of 1000 ratings
    assert growth.per_cell(row) == pytest.approx(4000)  # 1 ms of 5 x 50
    assert growth.dense_bytes(row) == 8 * 10 * 50
    assert "| 1,000 | 10 | 50 | 3.00e-06 | 3 |" in growth.size_table([row])
    assert growth.figure4({"sizes": [row, row | {"ratings": 10_000}]}).count("<circle") == 10


def test_padding_to_whole_vectors_keeps_the_values():
    X = np.arange(10.0).reshape(2, 5)
    got = pmf.whole_vectors(X)
    assert got.shape == (2, 8) and np.array_equal(got[:, :5], X) and not got[:, 5:].any()


def test_the_recorded_tables_come_from_the_recorded_measurement():
    recorded = Path(__file__).parent / "recorded"
    results = json.loads((recorded / "growth.json").read_text(encoding="utf-8"))
    assert (recorded / "growth.md").read_text(encoding="utf-8") == growth.report(results)
    assert (recorded / "figure4.svg").read_text(encoding="utf-8") == growth.figure4(results)
    assert max(row["peak_bytes"] for row in results["sizes"]) < 16 * 2**30
