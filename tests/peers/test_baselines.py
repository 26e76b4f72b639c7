"""baselines.py: EASE without the item-item matrix is EASE; both weighted MF fit what was rated."""

import sys

import baselines
import numpy as np
import pytest

import fuse
import metrics


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    cells = rng.permutation(20 * 12)[:90]
    columns = cells // 12, cells % 12, rng.integers(1, 11, 90) / 2, np.zeros(90)
    nothing = metrics.group_by_user(cells[:0], cells[:0], 20)
    return fuse.Task(*columns, 20, 12, nothing, nothing, liked=4.0, highest=5.0)


@pytest.mark.parametrize("target", ["rating", 0.0, 0.5])
def test_ease_among_users_is_ease_among_items(task, target):
    X = baselines.matrix(task, target)  # (U, I)
    inverse = np.linalg.inv(X.T @ X + 7 * np.eye(12))  # (I, I)
    B = np.eye(12) - inverse / np.diag(inverse)  # (I, I)
    assert np.abs(np.diag(B)).max() < 1e-12
    scores = baselines.ease(task, 0, target, 7)(np.arange(20), task.seen)
    assert scores == pytest.approx(X @ B, abs=1e-10)


def test_weighted_mf_of_implicit_and_ours_fit_the_rated_cells(task):
    rated = np.zeros((20, 12), dtype=bool)
    rated[task.users, task.items] = True
    for fit in (baselines.weighted_implicit, baselines.weighted_scaled):
        ranker = fit(task, 0, factors=8, missing=0.1, reg=0.02, liked=2.0)
        scores = ranker(np.arange(20), task.seen)
        assert scores[rated].mean() > 0.8
        assert scores[~rated].mean() < 0.5


def test_a_quick_run_does_not_replace_the_record(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["baselines.py", "--quick"])
    with pytest.raises(metrics.BadInput, match=r"--quick would replace results.baselines\.json"):
        baselines.main()
