"""pmf.py against Cornac 3's PMF with the notebook's settings on the real data: the same bits."""

from pathlib import Path

import bench
import numpy as np
import pytest

import main
import pmf

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "ml-latest-small"


@pytest.fixture(scope="module")
def data():
    if not (DATA / "ratings.csv").is_file():
        pytest.skip("data/ml-latest-small is missing; `make data` fetches it")
    ratings = main.read_ratings(DATA / "ratings.csv")
    movies = np.array(list(main.read_movies(DATA / "movies.csv")))
    return main.split_ratings(ratings, movies, seed=42)


@pytest.mark.parametrize(
    ("ours", "theirs", "epochs"), [("sigmoid", "non_linear", 200), ("linear", "linear", 10)]
)
def test_factors_are_bit_identical(data, ours, theirs, epochs):
    columns = [data[f"train_{name}"] for name in ("users", "items", "ratings")]
    settings = pmf.Settings(ratings=Path(), out=Path(), epochs=epochs, variant=ours)
    n_users, n_items = len(data["user_ids"]), int(columns[1].max()) + 1
    U, V, _ = pmf.fit(*columns, n_users, n_items, settings)
    theirs_U, theirs_V = bench.cornac_pmf(columns, epochs, theirs)()
    assert np.array_equal(U, theirs_U)
    assert np.array_equal(V, theirs_V)
