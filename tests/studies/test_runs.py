"""tests/studies/runs.py: the files hold every list of Table I and what was to be found."""

from functools import partial

import numpy as np
import runs
from small import ended

import fuse
import main
import metrics


def test_runs_hold_every_list_and_what_was_to_be_found(artefacts, monkeypatch):
    out = artefacts
    monkeypatch.setattr("sys.argv", ["runs.py", "--out", str(out), "--k", "3"])
    runs.main()
    files = main.Artefacts(out)
    ids, movies, task = files.data["user_ids"], files.data["movie_ids"], files.task
    wanted = {
        (f"{ids[u]}", f"{movies[i]}")
        for u in range(3)
        for i in task.relevant[1][task.relevant[0][u] : task.relevant[0][u + 1]]
    }
    qrels = [line.split() for line in (out / "runs/qrels").read_text().splitlines()]
    assert {(user, movie) for user, _, movie, _ in qrels} == wanted
    assert all(line[1::2] == ["0", "1"] for line in qrels)
    U, V = files.factors("pmf")
    users = np.flatnonzero(np.diff(task.relevant[0]))
    best = metrics.best_items(partial(fuse.mf_scores, U=U, V=V), task.seen, users, 3)
    name = "notebook.mf-only"
    lines = [
        f"{ids[u]} Q0 {movies[i]} {rank} {4 - rank} {name}"
        for u, row in zip(users, best, strict=True)
        for rank, i in enumerate(row[row >= 0], 1)
    ]
    assert (out / f"runs/{name}.run").read_text().splitlines() == lines
    assert {p.stem for p in out.glob("runs/*.run")} >= {
        "notebook.random",
        "ours.ranking-pmf-no-text",
        "report.mf-minilm-base",
    }


def test_an_id_with_a_blank_is_refused_before_any_work(artefacts, monkeypatch, capsys):
    monkeypatch.setattr(main.Artefacts, "ids", lambda self, name: ["reader one"])
    monkeypatch.setattr(runs, "all_rows", None)
    error = ended(runs, "--out", artefacts, monkeypatch=monkeypatch, capsys=capsys)
    assert "id 'reader one'" in error
