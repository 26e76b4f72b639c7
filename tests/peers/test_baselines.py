"""baselines.py: closed forms without an item-item matrix beside those with one."""

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
    scores = baselines.ease(task, None, 0, target, 7)(np.arange(20), task.seen)
    assert scores == pytest.approx(X @ B, abs=1e-10)


def ease_among_items(Z, ridge):
    inverse = np.linalg.inv(Z.T @ Z + ridge * np.eye(Z.shape[1]))  # (I, I)
    return np.eye(Z.shape[1]) - inverse / np.diag(inverse)


def test_collective_ease_is_ease_of_the_longer_table(task):
    X, text = baselines.matrix(task, 0.5), np.random.default_rng(1).normal(size=(12, 3))
    B = ease_among_items(np.vstack([X, np.sqrt(2.5) * text.T]), 7)
    scores = baselines.ease(task, text, 0, 0.5, 7, weight=2.5)(np.arange(20), task.seen)
    assert scores == pytest.approx(X @ B, abs=1e-10)


def test_l3ae_is_the_minimum_of_its_objective(task):
    """Column j alone, without its own item: a ridge regression with a target for B."""
    X, text = baselines.matrix(task, 0.5), np.random.default_rng(1).normal(size=(12, 3))
    S, ridge, pull = ease_among_items(text.T, 0.7), 5.0, 11.0
    B = np.zeros((12, 12))
    for j in range(12):
        rest = np.arange(12) != j
        Z = X[:, rest]  # (U, I - 1)
        system = Z.T @ Z + (ridge + pull) * np.eye(11)
        B[rest, j] = np.linalg.solve(system, Z.T @ X[:, j] + pull * S[rest, j])
    scores = baselines.l3ae(task, text, 0, 0.5, ridge, pull, 0.7)(np.arange(20), task.seen)
    assert scores == pytest.approx(X @ B, abs=1e-10)


def test_weighted_mf_fits_the_rated_cells(task):
    rated = np.zeros((20, 12), dtype=bool)
    rated[task.users, task.items] = True
    ranker = baselines.weighted_implicit(task, None, 0, factors=8, missing=0.1, reg=0.02, liked=2.0)
    scores = ranker(np.arange(20), task.seen)
    assert scores[rated].mean() > 0.8
    assert scores[~rated].mean() < 0.5


def test_a_quick_run_does_not_replace_the_record(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["baselines.py", "--quick"])
    with pytest.raises(metrics.BadInput, match=r"--quick would replace results.baselines\.json"):
        baselines.main()
