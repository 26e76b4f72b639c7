"""tests/studies/lora.py: its runs are commands that exist, and its table is that of the record."""

import dataclasses

import common
import lora
import pytest

import contrastive
from metrics import BadInput


@pytest.mark.parametrize("name", lora.RUNS)
def test_a_run_tunes_and_encodes_with_the_settings_that_its_name_says(name, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(lora, "make_missing", lambda lines: found.extend(lines.items()))
    what, flags = lora.RUNS[name]
    lora.run_of(lora.Settings(out=tmp_path), name, flags)
    (record, tuning), (vectors, encoding) = found
    assert (
        record == tmp_path / name / "training.json" and vectors == tmp_path / f"{name}.safetensors"
    )
    s = contrastive.metrics.parse(contrastive.Settings, "", tuning.split()[1:])
    assert (s.recipe, s.seed, s.lora) == ("report", 42, True)
    assert not s.nf4 and f"--adapter {tmp_path / name} " in encoding and "float32" in what
    usual = contrastive.Settings("", "", "", "", lora=True, lr=2e-4)
    changed = {
        field.name
        for field in dataclasses.fields(s)
        if field.name in ("lr", "rank", "targets", "epochs")
        and getattr(s, field.name) != getattr(usual, field.name)
    }
    words = {"rate": "lr", "layers": "targets", "embeddings": "targets"}
    assert changed == {setting for word, setting in words.items() if word in what}


def test_only_what_is_missing_is_made_and_a_failure_is_one_line(tmp_path):
    there = tmp_path / "there"
    there.touch()
    common.make_missing({there: "no_such_script.py"})
    with pytest.raises(BadInput, match=r"new was not made: no_such_script\.py --x failed"):
        common.make_missing({tmp_path / "new": "no_such_script.py --x"})


def test_the_table_has_the_difference_to_the_tuning_of_all_weights_but_for_itself():
    row = {"what": "a", "alpha": 0.5, "ndcg": 0.06, "difference": (-0.01, -0.02, 0.0)}
    tuned = {"trainable_share": 0.0065, "seconds": 90, "losses": [0.9, 0.5]}
    rows = [row | {"name": "x"}, row | tuned | {"name": lora.ALL_WEIGHTS}]
    lines = lora.table({"seed": 42, "k": 25, "rows": rows}).splitlines()
    assert lines[-2] == "| a | none |  |  | 0.50 | 0.0600 | -0.0100 [-0.0200, +0.0000] |"
    assert lines[-1] == "| a | 0.65% | 1.5 | 0.900, 0.500 | 0.50 | 0.0600 |  |"
