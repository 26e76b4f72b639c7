"""tests/studies/seeds.py: the mean over seeds, their range, and an interval that draws both."""

import json

import numpy as np
import pytest
import seeds
from small import ended, evaluated, save_tuning

import main


def test_the_difference_is_that_of_the_mean_and_the_first_seed_is_table_1s(
    artefacts, monkeypatch, capsys
):
    rng = np.random.default_rng(4)
    for name, seed in (("minilm-tuned", 42), ("minilm-tuned-2", 43), ("minilm-tuned-3", 44)):
        save_tuning(artefacts, name, rng, seed=seed)
    rows = evaluated(artefacts)
    monkeypatch.setattr("sys.argv", ["seeds.py", "--out", str(artefacts), "--k", "2"])
    seeds.main()
    (row,) = json.loads((artefacts / "seeds.json").read_text())["rows"]
    assert (row["recipe"], row["row"]) == ("notebook", "MF + MiniLM (tuned)")
    assert [seed["seed"] for seed in row["seeds"]] == [42, 43, 44]
    for name in ("hits", *main.METRICS):
        assert row["seeds"][0][name] == rows["notebook", "MF + MiniLM (tuned)"][name]
    mean, low, high = row["difference"]
    ndcg = np.mean([seed["ndcg"] for seed in row["seeds"]])
    assert mean == pytest.approx(ndcg - rows["notebook", "MF only"]["ndcg"])
    assert low <= mean <= high


def test_the_table_has_means_and_ranges():
    numbers = {"precision": 0.1, "recall": 0.2, "alpha": 0.85}
    found = [numbers | {"seed": 42, "hits": 7, "ndcg": 0.3}]
    found += [numbers | {"seed": 43, "hits": 9, "ndcg": 0.4}]
    row = {"recipe": "report", "row": "A", "seeds": found, "difference": (0.05, -0.01, 0.1)}
    table = seeds.table({"edition": main.REPORTED, "k": 25, "rows": [row]})
    assert table.splitlines()[-1] == (
        "| report | A | 42, 43 | 8 (7..9) | 0.1000 (0.1000..0.1000) | 0.2000 (0.2000..0.2000) "
        "| 0.3500 (0.3000..0.4000) | 0.85, 0.85 | +0.0500 [-0.0100, +0.1000] |"
    )


def test_without_a_second_seed_it_says_so(artefacts, monkeypatch, capsys):
    error = ended(seeds, "--out", artefacts, monkeypatch=monkeypatch, capsys=capsys)
    assert "has no embeddings of a second seed; `make seeds` makes them" in error
