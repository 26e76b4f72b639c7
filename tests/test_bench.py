"""bench.py: its checks can fail, and its table says so. Nothing is timed here."""

import json

import bench
import numpy as np
import pytest

S = bench.Settings(steps=3)
A, B = np.arange(6.0).reshape(2, 3), np.ones((4, 3))
UP = np.nextafter(A, np.inf)  # the last bit of each number


@pytest.mark.parametrize(
    ("check", "ours", "good", "bad"),
    [
        (bench.same_bits, (A, B), (A.copy(), B), (UP, B)),
        (bench.same_size, (9, (2, 3), (4, 3), 5), (9, (2, 3), (4, 3), 5), (8, (2, 3), (4, 3), 5)),
        (bench.same_metrics, [A, B], [UP, B], [A + 1e-8, B]),
        (bench.same_metrics, [A, B], [A, B], [A[:1], B]),
        (bench.same_vectors, (np.float32(A), ""), (np.float32(A), ""), (np.float32(A) + 1e-3, "")),
        (bench.same_vectors, (np.float32(A), ""), (np.float32(A), ""), (A, "")),
        (bench.same_curve, [3.0, 2, 1], [3.0, 2, 1.00001], [3.0, 2, 1.01]),
        (bench.same_curve, [3.0, 2, 1], [3.0, 2, 1], [3.0, 2]),
        (bench.same_arrays, {"a": A, "b": B}, {"a": A.copy(), "b": B}, {"a": UP, "b": B}),
        (bench.same_arrays, {"a": A, "b": B}, {"a": A, "b": B}, {"a": A}),
    ],
)
def test_a_check_passes_the_same_work_and_no_other(check, ours, good, bad):
    assert check(ours, good, S)[0]
    assert not check(ours, bad, S)[0]


def test_every_job_has_a_known_check_and_a_ratio_to_reach():
    for job in bench.JOBS.values():
        assert all(peer.check.__name__.startswith("same_") for peer in job.peers)
        assert all(peer.least >= 1 for peer in job.peers)


def test_the_table_shows_the_median_its_range_and_what_is_not_so():
    row = {"title": "job", "peer": "Peer", "threads": 2, "ours": [1.0, 2, 1], "memory": [1e6, 2e6]}
    row |= {"peers": [3.0, 4, 5], "least": 3, "same": True, "check": "same vectors"}
    start = {"title": "main.py", "seconds": [0.1, 0.3, 0.2], "heavy": ["torch"], "same": False}
    record = {"machine": "Some CPU", "rounds": 3, "quick": False, "start": [start]}
    record["floor"] = {"encoding": 2e12, "tuning": 1e12, "peak": 4e12}
    rows = [row | {"job": "encoding"}, row | {"job": "other", "least": 4, "same": False}]
    lines = bench.table(record | {"rows": rows}).splitlines()
    assert "| 3.00 (2.00..5.00) | 3, met | 1, 2 | same vectors |" in lines[4]
    assert "| 4, missed | 1, 2 | NO: same vectors |" in lines[5]
    assert "| encoding | 2.00 | 0.5 | 1.0 | 50% |" in lines
    assert "| tuning | 1.00 | 0.2 |  |  |" in lines
    assert "| `main.py` | 0.200 (0.100..0.300) | NO: torch |" in lines[-1]


def test_the_flop_of_one_layer_by_hand():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False))
    model.config = type("Config", (), {"hidden_size": 4, "num_hidden_layers": 1})
    assert bench.matrix_flop(model, [2, 5]) == 2 * 12 * 7 + 4 * 4 * (4 + 25)


def test_a_partial_run_keeps_the_other_rows_of_an_equal_run_only(tmp_path):
    path, record = tmp_path / "bench.json", {"machine": "A", "rounds": 3, "settings": {"jobs": ()}}
    rows = [{"job": "pmf", "ours": [1.0]}, {"job": "als", "ours": [2.0]}]
    path.write_text(json.dumps(record | {"rows": rows, "floor": {"peak": 1}, "start": [1]}))
    assert bench.kept(path, record, ["als"]) == {
        "rows": rows[:1],
        "floor": {"peak": 1},
        "start": [1],
    }
    nothing = {"rows": [], "floor": {}, "start": []}
    assert bench.kept(path, record, ["pmf", "als", "floor", "start"]) == nothing
    assert bench.kept(path, record | {"machine": "B"}, ["als"]) == nothing
    assert bench.kept(tmp_path / "none", record, ["als"]) == nothing
