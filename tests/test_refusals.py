"""Bad input is one line and status 2, before any work; nothing foreign is replaced or read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from small import (
    MOVIES,
    RATINGS,
    ended,
    evaluated,
    refused,
    save_embeddings,
    save_tuning,
)

import main
import metrics
import pmf

ROOT = Path(__file__).parents[1]

# A. Nothing of the user's is deleted


@pytest.fixture
def mine(tmp_path):
    """A folder with something of the user's."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    return tmp_path / "mine"


def test_factors_never_replace_a_folder(artefacts, mine, monkeypatch, capsys):
    ratings = artefacts / "ratings.safetensors"
    monkeypatch.chdir(mine)
    for command in ([], ["ranking"]):
        for out in (mine, artefacts, ".", ".."):
            arguments = [*command, "--ratings", ratings, "--out", out]
            assert "is no file" in ended(pmf, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert (mine / "thesis.txt").read_text() == "x"


def test_a_fetch_replaces_only_what_a_fetch_wrote(folder, mine, capsys):
    archive = mine.parent / "no.zip"  # the refusal comes before it is looked for
    for to in (mine, folder, mine.parent, mine / "thesis.txt"):
        error = refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
        assert "not written by this command" in error or "is no folder" in error
    assert (mine / "thesis.txt").read_text() == "x" and (folder / "ratings.csv").exists()


def test_a_path_below_a_file_is_refused_before_any_work(artefacts, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    arguments = ["--ratings", artefacts / "ratings.safetensors", "--out", tmp_path / "file/x/y"]
    monkeypatch.setattr(pmf, "fit", None)
    error = ended(pmf, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert "file is not a folder that can be written to" in error


# B. An artefact is used only for what it was made for


@pytest.fixture
def other(folder):
    """An out/ folder of the same data by another split."""
    out = folder.parent / "other"
    main.prepare(["--data", str(folder), "--out", str(out), "--seed", "7"])
    for suffix in ("", "-report", "-no-leak"):
        name, text = f"minilm{suffix}", f"documents{suffix}.txt"
        save_embeddings(out, name, text, np.random.default_rng(9))
    return out


def test_texts_of_another_split_are_refused(artefacts, other, monkeypatch, capsys):
    for name in ("minilm-report", "minilm", "minilm-no-leak"):
        (artefacts / f"{name}.safetensors").write_bytes(
            (other / f"{name}.safetensors").read_bytes()
        )
    assert "was made with documents" in refused("evaluate", "--out", artefacts, capsys=capsys)
    ratings, text = artefacts / "ratings.safetensors", other / "minilm-report.safetensors"
    arguments = ["--ratings", ratings, "--embeddings", text, "--out", artefacts / "new.safetensors"]
    catch = {"monkeypatch": monkeypatch, "capsys": capsys}
    assert "another data set or split" in ended(pmf, "ranking", *arguments, **catch)


def test_titles_of_another_data_set_are_refused(artefacts, capsys):
    path = artefacts / "movies.csv"
    path.write_text(path.read_text().replace("Film", "Movie"))
    error = refused("recommend", "--user", 5, "--out", artefacts, capsys=capsys)
    assert f"{path} belongs to another data set" in error


def resave(path, **settings):
    """The same arrays of the same inputs, said to be made with other settings."""
    made = metrics.provenance(path)
    inputs = [p for p in path.parent.iterdir() if p.name in made["inputs"]]
    metrics.save(path, metrics.load(path), made["settings"] | settings, inputs)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pmf", {"fit_part": True}, "fit_part = True, not False"),
        ("pmf-fit", {"fit_part": False}, "fit_part = False, not True"),
        ("pmf", {"variant": "linear"}, "variant = 'linear', not 'sigmoid'"),
        ("pmf-ours", {"all": True}, "all = True, not False"),
        ("minilm", {"nf4": True}, "nf4 = True, not False"),
        ("minilm", {"encoder": "out/minilm-tuned"}, "encoder = 'out/minilm-tuned', not 'minilm'"),
        ("minilm-report", {"adapter": "out/x"}, "adapter = 'out/x', not ''"),
        ("pmf", {"epochs": 3}, "epochs = 3, not 200"),
        ("pmf", {"lr": 0.01}, "lr = 0.01, not 0.005"),
        ("pmf", {"seed": 43}, "seed = 43, not 42"),
        ("pmf-fit", {"k": 20}, "k = 20, not 2"),  # pmf has 2
        ("pmf-ranking", {"sweeps": 1}, "sweeps = 1, not 15"),
        ("pmf-ours", {"power": 0.5}, "power = 0.5, not 1.0"),
        ("pmf-ours", {"k": 128}, "k = 128, not 3"),
        ("pmf-ours", {"missing": 0.5}, "missing = 0.5, not 0.1"),
        ("minilm", {"dtype": "bfloat16"}, "dtype = 'bfloat16', not 'float32'"),
        ("minilm-no-leak", {"dtype": "bfloat16"}, "dtype = 'bfloat16', not 'float32'"),
    ],
)
def test_what_was_made_with_other_settings_is_refused(artefacts, capsys, name, settings, message):
    resave(artefacts / f"{name}.safetensors", **settings)
    error = refused("evaluate", "--out", artefacts, "--k", 2, capsys=capsys)
    assert f"{name}.safetensors was made with {message}" in error


def test_recommend_refuses_what_evaluate_refuses(artefacts, capsys):
    resave(artefacts / "pmf-all.safetensors", power=0.5)  # folding in knows no power
    error = refused("recommend", "--user", 5, "--out", artefacts, capsys=capsys)
    assert "power = 0.5, not 1.0" in error
    resave(artefacts / "minilm.safetensors", nf4=True)
    error = refused("recommend", "--user", 5, "--out", artefacts, capsys=capsys)
    assert "nf4 = True, not False" in error


def test_factors_with_a_text_prior_are_not_those_without(artefacts, capsys):
    ours, plain = artefacts / "pmf-ours.safetensors", artefacts / "pmf-ranking.safetensors"
    plain.write_bytes(ours.read_bytes())
    assert f"{plain} was made from" in refused("evaluate", "--out", artefacts, capsys=capsys)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "ours"}, "recipe = 'ours', not 'notebook'"),
        ({"max_steps": 20}, "max_steps = 20"),
        ({"encoder": "mpnet"}, "encoder = 'mpnet', not 'minilm'"),
        ({"seed": 43}, "seed = 43, not 42"),
        ({"epochs": 1}, "epochs = 1, not 2"),
        ({"lr": 2e-4}, "lr = 0.0002, not 2e-05"),
        ({"lora": True}, "lora = True, not False"),
    ],
)
def test_an_encoder_that_was_tuned_for_something_else_is_refused(
    artefacts, capsys, settings, message
):
    save_tuning(artefacts, "minilm-tuned", np.random.default_rng(4), **settings)
    assert message in refused("evaluate", "--out", artefacts, "--k", 2, capsys=capsys)


def test_a_shortened_tuning_is_shown_in_a_quick_table_alone(artefacts):
    save_tuning(artefacts, "minilm-tuned", np.random.default_rng(4), max_steps=20)
    evaluated(artefacts, "--quick")
    assert "Quick run" in (artefacts / "table1.md").read_text()


def test_embeddings_of_other_tuned_weights_are_refused(artefacts, capsys):
    save_tuning(artefacts, "minilm-tuned", np.random.default_rng(4))
    metrics.save(artefacts / "minilm-tuned/model.safetensors", {"w": np.zeros(3)}, {})
    error = refused("evaluate", "--out", artefacts, "--k", 2, capsys=capsys)
    assert "minilm-tuned.safetensors was made with model.safetensors" in error


# C. Numbers are finite


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_or_factors_that_are_not_finite_are_refused(artefacts, capsys, value):
    for name, array in (("minilm", "embeddings"), ("pmf", "item_factors")):
        path, kept = artefacts / f"{name}.safetensors", None
        kept = path.read_bytes()
        arrays, made = metrics.load(path), metrics.provenance(path)
        arrays[array][3, 1] = value
        inputs = [artefacts / source for source in made["inputs"]]
        metrics.save(path, arrays, made["settings"], inputs)
        error = refused("evaluate", "--out", artefacts, capsys=capsys)
        assert f"{path}: row 3 of {array} is not finite" in error
        path.write_bytes(kept)


# E. A message is never a traceback


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": {}}', "\x00"])
def test_cut_or_odd_json_is_one_line(artefacts, capsys, text):
    save_tuning(artefacts, "minilm-tuned", np.random.default_rng(4))
    (artefacts / "minilm-tuned/training.json").write_text(text)
    error = refused("evaluate", "--out", artefacts, "--k", 2, capsys=capsys)
    assert "training.json" in error


def test_another_file_under_the_name_of_factors_is_one_line(artefacts, capsys):
    path = artefacts / "pmf.safetensors"
    ratings = artefacts / "ratings.safetensors"
    settings = main.FACTORS["pmf"][1] | {"k": 2, "seed": 42, "fast": False}
    metrics.save(path, {"embeddings": np.zeros((2, 2))}, settings, [ratings])
    error = refused("evaluate", "--out", artefacts, capsys=capsys)
    assert "holds embeddings, but no user_factors" in error
    path.write_bytes(ratings.read_bytes())
    assert "was made from" in refused("evaluate", "--out", artefacts, capsys=capsys)
    path.write_bytes(path.read_bytes()[:100])
    assert "is damaged" in refused("evaluate", "--out", artefacts, capsys=capsys)


def test_a_run_without_any_hit_is_still_a_table(artefacts):
    rows = evaluated(artefacts, "--k", "1")
    assert rows["notebook", "MF only"]["status"] == "ok"
    nothing = json.loads((artefacts / "results.json").read_text())
    for row in nothing["rows"]:
        row |= {name: 0.0 for name in ("hits", *main.METRICS) if row["status"] == "ok"}
    assert "MF only" in main.screen_table(nothing) and main.figure1(nothing)


def test_a_full_disk_is_one_line(artefacts, monkeypatch, capsys):
    full = lambda self, data: os.write(os.open("/dev/full", os.O_WRONLY), data)  # noqa: E731
    monkeypatch.setattr(Path, "write_bytes", full)
    arguments = ["--ratings", artefacts / "ratings.safetensors", "--epochs", 1, "--k", 8]
    out = artefacts / "new.safetensors"
    error = ended(pmf, *arguments, "--out", out, monkeypatch=monkeypatch, capsys=capsys)
    assert "No space left" in error and not out.exists()


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    line = f"{sys.executable} {ROOT / 'main.py'} --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0" and done.stderr == ""


def test_two_processes_may_write_the_same_file_or_one_says_so(tmp_path):
    """Both write the same folder a hundred times; no traceback, and what is there is whole."""
    program = """
import sys, metrics
def main():
    for n in range(100):
        with metrics.whole(sys.argv[1] + "/file") as path:
            path.write_text("whole" * 1000)
        with metrics.whole(sys.argv[1] + "/folder", folder=True) as path:
            (path / "a").write_text("whole" * 1000)
metrics.run(main)
"""
    line = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        error = process.communicate()[1]
        assert process.returncode == 0 or (process.returncode == 2 and error.count("\n") == 1)
    assert sum(process.returncode for process in both) <= 2
    for name in ("file", "folder/a"):
        assert (tmp_path / name).read_text() == "whole" * 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == [".written", "file", "folder"]
    assert sorted(p.name for p in (tmp_path / ".written").iterdir()) == ["file", "folder"]


# F. Small things that people meet


def test_a_user_0_that_is_not_there_is_nobody_else(artefacts, capsys):
    error = refused("recommend", "--user", 0, "--out", artefacts, capsys=capsys)
    assert "--user: id 0 is not in the data" in error
    error = refused("evaluate", "--user", 77, "--out", artefacts, capsys=capsys)
    assert "--user: id 77 is not" in error


def test_titles_that_two_movies_share_show_what_tells_them_apart(folder):
    text = MOVIES.replace("Film, The 1 (1981)", "Emma (1996)").replace(
        "Film, The 2 (1982)", "Emma (1996)"
    )
    text = text.replace("Film, The 3 (1983)", "Heat (1995)").replace(
        "Film, The 4 (1984)", "Heat (1986)"
    )
    (folder / "movies.csv").write_text(text.replace("Film, The 5 (1985)", "Ghost, The (1990)"))
    out = folder.parent / "out"
    main.prepare(["--data", str(folder), "--out", str(out)])
    files = main.Artefacts(out)
    names = dict(zip(files.data["movie_ids"].tolist(), files.titles(), strict=True))
    assert [names[movie] for movie in (1, 2, 3, 4, 5)] == [
        "Emma (1996) [1]",
        "Emma (1996) [2]",
        "Heat (1995)",
        "Heat (1986)",
        "The Ghost (1990)",
    ]


def test_a_user_with_one_rating_is_kept_in_train(folder):
    (folder / "ratings.csv").write_text(RATINGS + "9,1,4.0,5\n")
    out = folder.parent / "out"
    main.prepare(["--data", str(folder), "--out", str(out)])
    data = metrics.load(out / "ratings.safetensors")
    assert np.count_nonzero(data["train_users"] == 3) == 1 and 3 not in data["test_users"]


def test_a_split_of_another_seed_is_not_shown_as_the_one_that_was_asked_for(folder, capsys):
    """prepare --seed 5, and then make all, whose SEED is 42."""
    out = folder.parent / "out"
    main.prepare(["--data", str(folder), "--out", str(out), "--seed", "5"])
    error = refused("evaluate", "--out", out, capsys=capsys)
    assert f"{out / 'ratings.safetensors'} was made with seed = 5, not 42" in error
    error = refused("evaluate", "--out", out, "--seed", 5, capsys=capsys)
    assert "pmf.safetensors is missing" in error


def test_another_k_of_mf_is_said_in_every_table(artefacts, capsys):
    """make all K=20 is the user's choice."""
    evaluated(artefacts)
    shown = capsys.readouterr().out
    for text in (shown, (artefacts / "table1.md").read_text()):
        assert "**MF has K = 2 factors, not 100.**" in text
    assert "factors" not in main.marks({"edition": main.REPORTED, "factors": 100})


def test_the_reports_rows_are_never_of_the_fast_pmf(artefacts, monkeypatch, capsys):
    """Its 741 or 755 hits would stand for 739. On own data it may be fast."""
    resave(artefacts / "pmf.safetensors", fast=True)
    evaluated(artefacts)
    monkeypatch.setitem(main.EDITIONS, "its sha256", main.OWN)
    monkeypatch.setattr(main, "CASE_USER", "2")
    error = refused("evaluate", "--out", artefacts, capsys=capsys)
    assert "pmf.safetensors was made with fast = True, not False" in error


def test_ratings_that_prepare_did_not_write_are_one_line(artefacts, capsys):
    path = artefacts / "ratings.safetensors"
    arrays = metrics.load(path)
    metrics.save(path, arrays, {})
    error = refused("evaluate", "--out", artefacts, capsys=capsys)
    assert "was not written by `main.py prepare`" in error
    nested = json.dumps({"provenance": "[" * 200_000 + "]" * 200_000})
    path.write_bytes(b"")
    safetensors.numpy.save_file(arrays, path, json.loads(nested))
    assert "is damaged" in refused("evaluate", "--out", artefacts, capsys=capsys)
