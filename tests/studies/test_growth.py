"""growth.py: synthetic ratings that look like MovieLens's, and the tables of cost."""

import json
import os
import time
from xml.etree import ElementTree

import growth
import numpy as np
import pytest
from common import gini, squared_error

import main
import metrics
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
    assert gini(lengths) == pytest.approx(0.604, abs=0.03)
    assert gini(counts) == pytest.approx(0.716, abs=0.02)
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
    assert gini(np.array([2, 2, 2])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert gini(np.array([1, 3])) == pytest.approx(1 / 4)


def test_a_fit_is_timed_by_the_epoch_and_is_pmfs_own(ratings):
    small = (*(column[:3000] for column in ratings[:3]), *ratings[3:])
    start = time.perf_counter()
    spent, U, V = growth.fit(small, 3, {"threads": 1})
    assert len(spent) == 3 and min(spent) > 0 and sum(spent) < time.perf_counter() - start
    for a, b in zip((U, V), pmf.fit_fast(*small, pmf.PMF(epochs=3))[:2], strict=True):
        assert a.tobytes() == b.tobytes()


def test_what_is_done_apart_has_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("SOMETHING", "as here")
    assert growth.apart(os.getpid) != os.getpid()
    assert growth.apart(os.getenv, "SOMETHING") == "as here"


def test_loss_by_hand():
    users, items, targets = np.array([0, 0]), np.array([0, 1]), np.array([0.0, 1.0])
    U, V = np.array([[2.0]]), np.array([[0.0], [1.0]])
    wanted = (0.5**2 + (1 - 1 / (1 + np.exp(-2))) ** 2) / 2
    assert squared_error(U, V, users, items, targets) == pytest.approx(wanted, rel=1e-12)


def test_hidden_are_liked(ratings):
    users, items, values, n_users, _ = ratings
    seen, relevant = growth.hide_a_fifth(ratings)
    counts, lengths = np.diff(relevant[0]), np.bincount(users)
    assert len(counts) == len(lengths) == n_users and 0.95 < (counts > 0).mean() <= 1
    assert np.array_equal(np.diff(seen[0]), lengths - np.ceil(0.2 * lengths))
    liked = set(zip(users[values >= 4], items[values >= 4], strict=True))
    assert set(zip(np.repeat(np.arange(n_users), counts), relevant[1], strict=True)) <= liked


def rows():
    """Two sizes as measure_size gives them, ten times apart in everything but the users."""
    row = {"ratings": 1000, "users": 10, "items": 50, "k": 4, "peak_bytes": 2e9}
    row["epochs"] = {name: [1e-6, 3e-6, 9e-6] for name in growth.RUNS}
    row["evaluation"] = {"users": 5, "seconds": 1e-3}
    return [row, row | {"ratings": 10_000, "peak_bytes": 3e9}]


def test_table_and_curves_of_a_row():
    row = rows()[0]
    assert growth.per_rating(row, "fast") == pytest.approx(3)  # 3 us of 1000 ratings
    assert growth.per_cell(row) == pytest.approx(4000)  # 1 ms of 5 x 50
    assert growth.dense_bytes(row) == 8 * 10 * 50
    line = "| 1,000 | 10 | 50 | 3 | 3 | 3 | 5 | 0.00100 | 4000.0 | 2.00 | 0.00 |"
    assert line in growth.size_table(rows())
    curves = growth.curves(rows())
    assert curves["seconds"]["PMF fast, an epoch"] == [3e-6, 3e-6]
    assert curves["seconds"]["evaluation, all users"] == pytest.approx([2e-3, 2e-3])
    assert curves["GB"] == {"peak memory": [2, 3], "users x movies, never held": [4e-6, 4e-6]}


def test_table_of_fits():
    found = {"ratings": 80, "runs": {"strict": {"epochs": [2.0, 2.0], "loss": 0.05}}}
    found["runs"]["fast"] = {"epochs": [0.5, 0.5], "loss": 0.0505}
    assert "| fast | 1.0 | 4.00 | 0.05050 | +1.00% |" in growth.fit_table(found)


def test_table_of_stages_by_hand():
    """1 and 4 million ratings; the evaluation has 2,000 x 500 = a million users and movies."""
    stages = {name: {"seconds": 2.0, "peak_bytes": 3e9} for name in growth.STAGES}
    one = {"ratings": 10**6, "evaluated": 2000, "items": 500, "stages": stages}
    four = one | {"ratings": 4 * 10**6, "evaluated": 4000}
    section = growth.stage_section([one, four])
    assert "| prepare | 2.0, 3.00, 2,000 | 2.0, 3.00, 500 | 1.00 |" in section
    assert "| evaluation | 2.0, 3.00, 2,000 | 2.0, 3.00, 1,000 | 1.00 |" in section
    slow = four | {"stages": stages | {"prepare": {"seconds": 12.0, "peak_bytes": 3e9}}}
    small = one | {"ratings": 10**5}  # start-up: no part of the ratio
    assert "| 12.0, 3.00, 3,000 | 1.50 |" in growth.stage_section([small, one, slow])


def test_the_files_hold_the_ratings_that_are_generated(tmp_path, ratings):
    found = growth.write_files(tmp_path, 100_000)
    read = main.read_ratings(tmp_path / "data/ratings.csv")
    columns = read.user_ids[read.users], read.movie_ids[read.movies], read.values
    for column, expected in zip(columns, ratings, strict=False):
        assert np.array_equal(column, expected)
    assert read.times[[0, -1]].tolist() == [10**9, 10**9 + 99_999]
    assert len(main.read_movies(tmp_path / "data/movies.csv")) == ratings[4] == found["items"]


def test_a_stage_that_fails_is_named():
    with pytest.raises(
        metrics.BadInput, match=r"main.py prepare --data nowhere ended with status 2"
    ):
        growth.timed("main.py", "prepare", "--data", "nowhere", folder=".")


def test_figure4_draws_every_curve(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is of tests/requirements-peers.txt")
    growth.draw_figure4(tmp_path / "f.svg", rows())
    ElementTree.parse(tmp_path / "f.svg")
    text = (tmp_path / "f.svg").read_text()
    for label in ("PMF strict, an epoch", "peak memory", "never held"):
        assert label in text


def test_the_whole_study_on_one_small_size(tmp_path, monkeypatch, few_draws, capsys):
    """What has a process of its own is called here."""
    monkeypatch.setattr(growth, "apart", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(growth, "FIT_SIZE", 100_000)
    monkeypatch.setattr(growth, "FIT_EPOCHS", 2)
    monkeypatch.setattr(growth, "ONE_THREAD", {})  # for new processes; Numba runs here
    monkeypatch.setattr(growth, "draw_figure4", lambda path, rows: path.write_text("drawn"))
    monkeypatch.setitem(growth.STAGES, "PMF --fast", growth.STAGES["PMF --fast"] + " --epochs 2")
    monkeypatch.setitem(growth.STAGES, "ranking PMF", growth.STAGES["ranking PMF"] + " --sweeps 1")
    monkeypatch.setitem(main.FACTORS, "pmf-ours", ("minilm-no-leak", {}))  # so few sweeps too
    line = ["growth.py", "--out", str(tmp_path), "--sizes", "1"]
    monkeypatch.setattr(growth.sys, "argv", line)
    growth.main_growth()
    results = json.loads((tmp_path / "growth.json").read_text())
    assert (tmp_path / "growth.md").read_text() == growth.report(results)
    assert results["epochs"][0]["peak_bytes"] > 2**24
    assert {len(x) for x in results["epochs"][0]["epochs"].values()} == {20}
    stages = results["stages"][0]
    assert list(stages["stages"]) == list(growth.STAGES) and 580 < stages["evaluated"] <= 605
    assert all(s["seconds"] > 0 and s["peak_bytes"] > 2**24 for s in stages["stages"].values())
    names = [p.name for p in sorted(tmp_path.iterdir()) if p.is_file()]
    assert names == ["figure4.svg", "growth.json", "growth.md"]
    assert (tmp_path / "figure4.svg").read_text() == "drawn"
