"""baselines.py: EASE without the item-item matrix is EASE; no peer looks at what is held out."""

import baselines
import numpy as np
import pytest
import table3


@pytest.fixture
def study():
    rng = np.random.default_rng(0)
    cells = rng.permutation(20 * 12)[:90]
    ratings = rng.integers(1, 11, 90) / 2
    return table3.Study((cells // 12, cells % 12, ratings), (20, 12), table3.Settings(k=3))


@pytest.mark.parametrize("target", ["rating", 0.0, 0.5])
def test_ease_among_users_is_ease_among_items(study, target):
    X = baselines.matrix(study, target)  # (U, I)
    inverse = np.linalg.inv(X.T @ X + 7 * np.eye(12))  # (I, I)
    B = np.eye(12) - inverse / np.diag(inverse)  # (I, I)
    assert np.abs(np.diag(B)).max() < 1e-12
    shelf = table3.Shelf(study, (study.users[:5], study.items[:5], np.full(5, 5.0)), study.known)
    scores = baselines.ease(study, 0, target, 7)(shelf)(np.arange(20))
    assert scores == pytest.approx((X @ B)[:, shelf.items], abs=1e-10)


def test_weighted_mf_of_implicit_and_ours_fit_the_rated_cells(study):
    shelf = table3.Shelf(study, (study.users[:5], study.items[:5], np.full(5, 5.0)), study.known)
    rated = np.zeros((20, 12), dtype=bool)
    rated[study.users, study.items] = True
    for fit in (baselines.weighted_implicit, baselines.weighted_scaled):
        scores = fit(study, 0, factors=8, missing=0.1, reg=0.02, liked=2.0)(shelf)(np.arange(20))
        assert scores[rated[:, shelf.items]].mean() > 0.8
        assert scores[~rated[:, shelf.items]].mean() < 0.5
