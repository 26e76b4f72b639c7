"""bench.py: its checks can fail, and its table says so. Nothing is timed here."""

import os

import bench
import numpy as np
import pytest

import metrics

A, B = np.arange(6.0).reshape(2, 3), np.ones((4, 3))
UP = np.nextafter(A, np.inf)  # the last bit of each number


@pytest.mark.parametrize(
    ("check", "ours", "good", "bad"),
    [
        (bench.same_bits, (A, B), (A.copy(), B), (UP, B)),
        (bench.same_bits, (A, B), (A, B), (A, B[:3])),
        (bench.same_metrics, [A[0], A[1]], [UP[0], UP[1]], [A[0], A[1] + 1e-8]),
        (bench.same_metrics, [A[0], A[1]], [list(A[0]), list(A[1])], [A[0][:2], A[1][:2]]),
        (bench.same_vectors, A, A + 1e-6, A + 1e-4),
        (bench.same_vectors, A, A, A * np.nan),
        (bench.same_losses, [3.0, 2, 1], [3.0, 2, 1.00001], [3.0, 2, 1.01]),
        (bench.same_losses, [3.0, 2, 1], [3.0, 2, 1], [3.0, 2]),
    ],
)
def test_a_check_passes_the_same_work_and_no_other(check, ours, good, bad):
    assert check(ours, good, bench.Settings())[0]
    assert not check(ours, bad, bench.Settings())[0]


@pytest.fixture
def ratings(tmp_path):
    """Settings with the ratings of two users and three items; two rows are validation."""
    arrays = {
        "train_users": [0, 0, 0, 1],
        "train_items": [0, 1, 2, 1],
        "train_ratings": [5, 4, 3, 5],
    }
    arrays = {name: np.array(values, dtype=np.int32) for name, values in arrays.items()}
    arrays["valid"] = np.array([True, True, False, False])  # (N,)
    metrics.save(tmp_path / "ratings.safetensors", arrays, {})
    return bench.Settings(out=tmp_path)


def test_the_fit_part_numbers_its_items_by_first_appearance(ratings):
    """Item 2 comes first, then item 1; item 0 has no rating but the held one, which is left out."""
    fit, held = bench.fit_and_validation(ratings)
    assert [list(column) for column in fit] == [[0, 1], [0, 1], [3, 5]]
    assert [list(column) for column in held] == [[0], [1], [4]]


def test_the_same_loss_is_within_one_percent_on_the_validation_part(ratings):
    """r' = 7/9 there, so a logit of 0 has the loss (7/9 - 1/2)^2 = (5/18)^2.

    A small logit x moves it by 2 (5/18) x / 4, which is 1 % of it at x = .02 (5/18) = .0056.
    """
    V = np.array([[9.0, 0.0], [0.0, 1.0]])  # (I, K); item 0 of the fit part is in no held row
    at = lambda logit: (np.array([[5.0, logit], [7.0, 7.0]]), V)  # noqa: E731
    same, text = bench.same_loss(at(0.0), at(0.0), ratings)
    assert same and f"{(5 / 18) ** 2:.5f}" in text
    assert bench.same_loss(at(0.005), at(0.0), ratings)[0]
    assert not bench.same_loss(at(0.006), at(0.0), ratings)[0]
    assert not bench.same_loss(at(-0.006), at(0.0), ratings)[0]


def test_the_same_objective_is_one_that_is_no_higher(ratings):
    """Zero factors miss each of the four ratings by 1; factors of ones miss each by 127."""
    zeros, ones = ([of((rows, 128)) for rows in (2, 3)] for of in (np.zeros, np.ones))
    same, text = bench.same_objective(zeros, ones, ratings)
    assert same and text.startswith("objective 4, the peer's ")
    assert not bench.same_objective(ones, zeros, ratings)[0]


def test_every_job_has_its_row():
    assert list(bench.JOBS) == list(bench.ROWS)


def counting_side(s):
    """A side whose call tells its process, how often it was called, and its threads."""
    calls = []

    def call():
        calls.append(None)
        return os.getpid(), len(calls), os.environ["NUMBA_NUM_THREADS"], s.epochs

    return call


def test_a_job_runs_its_sides_in_processes_of_their_own(monkeypatch):
    for name in ("OMP", "MKL", "NUMBA", "OPENBLAS"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", "1")  # what the job sets is put back
    seen = []
    check = lambda *found: (seen.extend(found), (False, "why"))[1]  # noqa: E731
    monkeypatch.setitem(bench.JOBS, "pmf", bench.Job(counting_side, counting_side, check, 3))
    record = bench.run_job("pmf", bench.Settings(rounds=1, epochs=7))
    (pid_a, *ours), (pid_b, *theirs), s = seen
    assert len({pid_a, pid_b, os.getpid()}) == 3 and s.epochs == 7
    assert ours == theirs == [2, "3", 7]  # the call after the warm-up is what is compared
    assert len(record["ours"]) == len(record["theirs"]) == 1 and min(record["ours"]) >= 0
    assert record["threads"] == 3 and (record["same"], record["check"]) == (False, "why")


def test_the_table_shows_the_median_its_range_and_what_is_not_so():
    row = {"job": "als", "threads": 2, "ours": [1.0, 2, 1], "theirs": [3.0, 4, 5]}
    row |= {"memory": [1e6, 2e6], "same": True, "check": "vectors agree"}
    record = {"machine": "Some CPU", "settings": {"rounds": 3, "quick": False}}
    record["rows"] = [row, row | {"job": "pmf", "same": False}]
    record["start"] = {"main.py": [0.1, 0.3, 0.2]}
    lines = bench.table(record).splitlines()
    assert lines[0] == "Some CPU; rounds: 3; medians."
    assert lines[4].endswith("| 1 | 4 | 3.00 (2.00..5.00) | 1 | 1, 2 | vectors agree |")
    assert lines[5].startswith("| PMF, notebook's settings | Cornac PMF | 2 | 1 | 4 | 3.00")
    assert lines[5].endswith("| 2.5 | 1, 2 | NO: vectors agree |")
    record["rows"][1] |= {"job": "fast"}
    assert "| 10: missed |" in bench.table(record)
    assert "| `main.py` | 0.200 (0.100..0.300) |" in lines
    record["settings"]["quick"] = True
    assert bench.table(record).startswith("**A shortened run")
