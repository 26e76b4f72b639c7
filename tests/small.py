"""A small MovieLens folder, an out/ folder made from it with random arrays, and refusals seen."""

import json
import sys

import numpy as np
import pytest

import main
import metrics

OURS_FACTORS = "pmf-ours.safetensors"
RATINGS = "userId,movieId,rating,timestamp\n" + "".join(
    f"{user},{movie},{1 + (user + 2 * movie) % 5}.0,{1000 + 10 * user + movie}\n"
    for user in (1, 2, 5)
    for movie in range(1, 13)
    if (user, movie) != (5, 12)
)
MOVIES = "movieId,title,genres\n" + "".join(
    f'{movie},"Film, The {movie} ({1980 + movie})",Drama|War\n' for movie in range(1, 14)
)
TAGS = "userId,movieId,tag,timestamp\n1,2,Slow,9\n2,2,slow,9\n"


def make_folder(data):
    data.mkdir()
    for name, text in zip(main.FILES, (RATINGS, MOVIES, TAGS), strict=True):
        (data / name).write_text(text)
    return data


def refused(command, *arguments, capsys):
    """The one line of error with which a command ends, its status being 2."""
    with pytest.raises(SystemExit) as leave:
        metrics.run(lambda: main.COMMANDS[command](list(map(str, arguments))))
    assert leave.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


def ended(script, *arguments, monkeypatch, capsys):
    """The same for a script with a main() that reads sys.argv."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as leave:
        metrics.run(script.main)
    assert leave.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def make_artefacts(folder):
    """An out/ folder with random factors and embeddings in the place of trained ones."""
    import pmf

    out, rng = folder.parent / "out", np.random.default_rng(0)
    main.prepare(["--data", str(folder), "--out", str(out)])
    ratings = out / "ratings.safetensors"
    data = metrics.load(ratings)
    n_users, n_items = len(data["user_ids"]), int(data["train_items"].max()) + 1
    for name in ("pmf", "pmf-fit"):
        arrays = {"user_factors": rng.normal(size=(n_users, 2))}
        arrays |= {"item_factors": rng.normal(size=(n_items, 2))}
        settings = main.MF | {"fit_part": name == "pmf-fit", "seed": 42, "k": 2, "fast": False}
        metrics.save(out / f"{name}.safetensors", arrays, settings, [ratings])
    for suffix in ("", "-report", "-no-leak"):
        save_embeddings(out, f"minilm{suffix}", f"documents{suffix}.txt", rng)
    command = ["--ratings", str(ratings), "--k", "3", "--reg", "0.5"]
    text = ["--embeddings", str(out / "minilm-no-leak.safetensors")]
    pmf.main_ranking([*command, *text, "--out", str(out / OURS_FACTORS)])
    pmf.main_ranking([*command, "--out", str(out / "pmf-ranking.safetensors")])
    text = ["--embeddings", str(out / "minilm.safetensors"), "--all"]
    pmf.main_ranking([*command, *text, "--out", str(out / "pmf-all.safetensors")])
    return out


def save_embeddings(out, name, documents, rng, inputs=(), **settings):
    n_items = len((out / documents).read_text().splitlines())
    e = rng.normal(size=(n_items, 4)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    settings = {"encoder": "minilm", "adapter": "", "nf4": False, "dtype": "float32"} | settings
    path = out / f"{name}.safetensors"
    metrics.save(path, {"embeddings": e}, settings, [out / documents, *inputs])
    return path


def save_tuning(out, name, rng, documents="documents.txt", **settings):
    """A tuned encoder's folder and embeddings, as contrastive.py and encode.py leave them."""
    weights = out / name / "model.safetensors"
    metrics.save(weights, {"w": rng.random(3)}, {})
    record = main.TUNING | {"recipe": "notebook", "encoder": "minilm", "max_steps": 0, "seed": 42}
    record |= {"lr": 2e-5, "batch": 16, "lora": False, "nf4": False, "dtype": "float32"} | settings
    numbers = {"trainable": 3, "trainable_share": 1.0, "peak_memory_bytes": 5, "seconds": 2.0}
    numbers["inputs"] = {"ratings.safetensors": metrics.sha256(out / "ratings.safetensors")}
    (out / name / "training.json").write_text(json.dumps({"settings": record} | numbers))
    return save_embeddings(out, name, documents, rng, [weights], encoder=str(out / name))


def evaluated(out, *options):
    """{(recipe, row): entry} of an evaluation of lists of two."""
    main.run_evaluate(["--out", str(out), "--k", "2", *options])
    found = json.loads((out / "results.json").read_text())
    return {(row["recipe"], row["row"]): row for row in found["rows"]}
