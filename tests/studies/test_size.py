"""tests/studies/size.py: differences between rows of Table I. A recorded page keeps its words."""

import json

import numpy as np
import pytest
import record
import size
from small import ended, evaluated, save_embeddings, save_tuning

import main
import metrics
from main import NOTEBOOK, RECIPES


@pytest.fixture
def rows(artefacts):
    """The artefacts with two seeds of a tuned MiniLM and with an untuned MPNet, evaluated."""
    rng = np.random.default_rng(4)
    for name, seed in (("minilm-tuned", 42), ("minilm-tuned-2", 43)):
        save_tuning(artefacts, name, rng, seed=seed)
    save_embeddings(artefacts, "mpnet", "documents.txt", rng, encoder="mpnet")
    evaluated(artefacts)
    return artefacts


def test_every_row_that_is_compared_is_one_of_table_1():
    for asked in size.QUESTIONS.values():
        for recipe, *both in asked:
            (alone,) = (each.alone for each in RECIPES if each.name == recipe)
            assert set(both) <= {*main.CONTENT_ROWS, *alone}


def test_a_difference_is_that_of_the_two_rows_means_and_draws_their_seeds(rows, monkeypatch):
    results = json.loads((rows / "results.json").read_text())
    ask = [("notebook", "MF + MiniLM (tuned)", "MF + MPNet (base)")]
    monkeypatch.setattr(size, "QUESTIONS", {"why": ask})
    (found,) = size.differences(main.Artefacts(rows), results)
    a, b = (size.ndcg_of(main.Artefacts(rows), results, NOTEBOOK, row) for row in ask[0][1:])
    assert len(a) == 2 and len(b) == 1
    first = next(r for r in results["rows"] if r["row"] == ask[0][1])
    assert a[0].mean() == pytest.approx(first["ndcg"])
    mean, low, high = found["difference"]
    assert mean == pytest.approx(a.mean() - b.mean()) and low <= mean <= high


def test_a_row_that_is_missing_or_old_is_refused(rows, monkeypatch, capsys):
    arguments = ("--out", rows)
    error = ended(size, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert "lacks files of MF + MPNet (NF4 + LoRA), recipe notebook" in error
    assert not (rows / "size.md").exists()
    results = json.loads((rows / "results.json").read_text())
    for row in results["rows"]:
        row["hits"] = row["hits"] and row["hits"] + 1
    with pytest.raises(metrics.BadInput, match=r"its results\.json is old"):
        size.ndcg_of(main.Artefacts(rows), results, NOTEBOOK, "MF + MPNet (base)")


def test_the_row_table_has_the_size_of_every_encoder(rows):
    results = json.loads((rows / "results.json").read_text())
    lines = size.row_table(results | {"edition": main.REPORTED}).splitlines()
    tuned = next(line for line in lines if "MF + MiniLM (tuned)" in line)
    assert "| 22.6 M | 100.00% | 0 | 735 |" in tuned
    assert any("| MF + MPNet (base) | 109 M | none |" in line for line in lines)
    assert not any("MF only |" in line for line in lines[2:])


def test_a_recorded_page_keeps_its_words_around_the_new_table(tmp_path):
    page = tmp_path / "size.md"
    assert record.placed(page, "new\n") == "new\n"
    start, end = record.MARKS
    page.write_text(f"Words.\n{start}old\n{end}\nMore.\n")
    assert record.placed(page, "new\n") == f"Words.\n{start}new\n{end}\nMore.\n"
