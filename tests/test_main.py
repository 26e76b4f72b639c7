"""main.py: reading MovieLens, the errors a user can meet, the tables and the figure."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import table3

import fuse
import main
import metrics
import pmf

ROOT = Path(__file__).parents[1]
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


@pytest.fixture
def folder(tmp_path):
    """A small MovieLens folder."""
    data = tmp_path / "data"
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


def test_prepare_numbers_items_by_first_appearance_and_writes_one_text_a_movie(folder):
    out = folder.parent / "out"
    main.prepare(["--data", str(folder), "--out", str(out)])
    data = metrics.load(out / "ratings.safetensors", [folder / name for name in main.FILES])
    first = dict.fromkeys(data["train_items"].tolist())
    assert list(first) == list(range(len(first)))
    assert sorted(data["movie_ids"].tolist()) == list(range(1, 14))
    assert len(data["train_users"]) == 9 + 9 + 8 and len(data["test_users"]) == 3 + 3 + 3
    lines = (out / "documents.txt").read_text().splitlines()
    two = data["movie_ids"].tolist().index(2)
    assert lines[two] == "Film, The 2 Drama War slow slow"
    assert (out / "documents-report.txt").read_text().splitlines()[two].endswith("War slow")
    assert metrics.provenance(out / "ratings.safetensors")["settings"]["edition"] != "2018-09"


def test_prepare_twice_writes_the_same_bytes(folder):
    for out in ("a", "b"):
        main.prepare(["--data", str(folder), "--out", str(folder.parent / out)])
    files = [sorted((folder.parent / out).iterdir()) for out in ("a", "b")]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_a_file_that_is_not_utf8_is_one_line_that_names_it(folder, capsys):
    for name in ("ratings.csv", "movies.csv", "tags.csv"):
        path, whole = folder / name, (folder / name).read_bytes()
        path.write_bytes(whole + b"\xe9,1,2\n")
        message = refused("prepare", "--data", folder, "--out", folder / "out", capsys=capsys)
        assert f"{path}:{len(whole.splitlines()) + 1}: not UTF-8" in message
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("ratings.csv", "userId,", "user,", "ratings.csv:1: header is user,movieId"),
        ("ratings.csv", "1,2,1.0,", "1,2,good,", "ratings.csv:3: 'good' is no number"),
        ("ratings.csv", "1,2,1.0,", "1,2,5.5,", "ratings.csv:3: the rating is outside 0.5 .. 5"),
        ("ratings.csv", "1,2,1.0,", "1,2,0,", "ratings.csv:3: the rating is outside 0.5 .. 5"),
        ("ratings.csv", "1,2,1.0,", "1,2,nan,", "ratings.csv:3: the rating is outside"),
        ("ratings.csv", "1,2,1.0,", "1.5,2,1.0,", "ratings.csv:3: an id or a timestamp"),
        ("ratings.csv", "1,2,1.0,", "1,1,1.0,", "ratings.csv:3: the user has rated this movie"),
        ("ratings.csv", "1,2,1.0,1012", "1,2,1.0", "ratings.csv:3: 3 cells, not 4"),
        ("ratings.csv", "1,2,1.0,", "9,2,1.0,", "ratings.csv:3: the user has one rating"),
        ("ratings.csv", "1,2,1.0,", "1,88,1.0,", "movies.csv: movie 88 is rated but has no title"),
        ("ratings.csv", RATINGS, "", "ratings.csv is empty"),
        ("ratings.csv", RATINGS[32:], "", "ratings.csv holds no rating"),
        ("movies.csv", '"Film, The 2 (1982)"', "", "movies.csv:3: movie 2 has no title"),
        ("movies.csv", MOVIES, "", "movies.csv is empty"),
        ("movies.csv", "3,", "2,", "movies.csv:4: movieId '2' is no number, or there twice"),
        ("tags.csv", "2,2,slow", "2,77,slow", "tags.csv:3: userId '2', movieId '77'"),
        ("tags.csv", "userId", "userid", "tags.csv:1: header is userid"),
    ],
)
def test_a_damaged_file_is_one_line_and_leaves_nothing(folder, capsys, name, old, new, message):
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    out = folder.parent / "out"
    assert message in refused("prepare", "--data", folder, "--out", out, capsys=capsys)
    assert not out.exists()


def test_a_cell_too_few_in_every_line_names_the_first(folder):
    path = folder / "ratings.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *(line.rsplit(",", 1)[0] for line in lines), ""]))
    with pytest.raises(metrics.BadInput, match=r"ratings\.csv:2: 3 cells, not 4"):
        main.read_ratings(path)


PLAIN = "1,31,2.5,1260759144\n1,1029,3.0,835355\n12,6,0.5,9\n12,163949,5.0,123456789012345\n"


@pytest.mark.parametrize("text", [PLAIN, PLAIN.replace("\n", "\r\n")])
@pytest.mark.parametrize("part", [1, 21, 22, 30, 10**6])
def test_plain_lines_are_read_by_parts_and_as_any_others(tmp_path, text, part):
    path = tmp_path / "plain.csv"
    path.write_bytes(b"header\n" + text.encode())
    plain = main.plain_columns(io.BytesIO(text.encode()), part)
    for column, expected in zip(plain, main.any_columns(path, list("umrt")), strict=True):
        assert np.array_equal(column, expected) and column.dtype == expected.dtype


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(("2.5", "2"), ("2.5", "2.50"), ("2.5", "2.x"), ("2.5", "x.5"), ("2.5", "2,5")),
        *((",31", ",+31"), (",31", ",3.1"), (",31", ","), (",31", ",31\r"), ("1,31", "1;31")),
        *(("9\n", "9\r\n"), ("9\n", "9 \n"), ("9\n", "9\n\n"), ("2345\n", "2345")),
        *(("5\n12", "5,12"), ("1,31", "\n1,31"), ("012345\n", "0123456\n"), (PLAIN, "")),
    ],
)
def test_lines_of_another_form_are_not_read_as_plain_ones(old, new):
    assert old in PLAIN
    assert main.plain_columns(io.BytesIO(PLAIN.replace(old, new, 1).encode())) is None


def test_ratings_in_another_form_are_read_too(folder):
    ratings = main.read_ratings(folder / "ratings.csv")
    path = folder / "other.csv"
    path.write_text((folder / "ratings.csv").read_text().replace(".0,", ","))
    for column, expected in zip(main.read_ratings(path), ratings, strict=True):
        assert np.array_equal(column, expected) and column.dtype == expected.dtype


def zipped(path, texts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(f"ml-latest-small/{name}", text)
    return path


def test_a_zip_of_other_data_or_cut_or_missing_is_refused(folder, capsys):
    to, texts = folder.parent / "new", dict(zip(main.FILES, (RATINGS, MOVIES, TAGS), strict=True))
    archive = zipped(folder.parent / "a.zip", texts | {"README.txt": ""})
    assert "sha256" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    archive.write_bytes(archive.read_bytes()[:-40])
    assert "no whole" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    archive = zipped(archive, {"ratings.csv": RATINGS})
    assert "no whole" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    archive.unlink()
    assert "a.zip" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["data"]


def test_the_command_line_ends_without_a_traceback(tmp_path):
    run = [sys.executable, ROOT / "main.py"]
    bad = subprocess.run([*run, "prepare", "--data", tmp_path], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1
    assert subprocess.run([*run, "nonsense"], capture_output=True).returncode == 2


def test_help_and_recommend_import_neither_torch_nor_numba(folder):
    out = folder.parent / "out"
    main.prepare(["--data", str(folder), "--out", str(out)])
    data, rng = metrics.load(out / "ratings.safetensors"), np.random.default_rng(0)
    n_users, n_items = len(data["user_ids"]), int(data["train_items"].max()) + 1
    factors = {"user_factors": rng.random((n_users, 4)), "item_factors": rng.random((n_items, 4))}
    metrics.save(out / "pmf.safetensors", factors, {}, [out / "ratings.safetensors"])
    vectors = {"embeddings": rng.random((len(data["movie_ids"]), 4))}
    metrics.save(out / "minilm.safetensors", vectors, {}, [out / "documents.txt"])
    recommend = ["recommend", "--user", "1", "--top", "1", "--encoder", "minilm"]
    recommend += ["--data", str(folder), "--out", str(out)]
    for arguments, shown in ((["--help"], "Commands"), (recommend, "user 1, recipe published")):
        line = [sys.executable, "-X", "importtime", str(ROOT / "main.py"), *arguments]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0 and shown in done.stdout
        loaded = {entry.split("|")[-1].strip() for entry in done.stderr.splitlines()}
        assert "numpy" in loaded and not loaded & {"torch", "numba", "transformers", "tqdm"}


def test_titles_are_shown_as_one_says_them():
    assert main.display_title("Godfather: Part II, The (1974)") == "The Godfather: Part II"
    assert main.display_title("Heat (1995) ") == "Heat"
    assert main.display_title("2001") == "2001"


def results(**changes):
    """A results.json by hand: one measured row, one with two seeds, one that was not run."""
    numbers = {"users": 600, "hits": 739, "precision": 0.0493, "recall": 0.0883, "ndcg": 0.0888}
    numbers |= {"ndcg_own_hits": 0.2768}
    numbers |= {f"{name}_se": 0.001 for name in metrics.NAMES[1:]}
    base = {"recipe": "published", "alpha": None, "seed": 42, "status": "ok"} | numbers
    tuned = base | {"row": "MF + MiniLM (tuned)", "alpha": 0.85}
    tuned |= {"difference_to_mf": {"ndcg": [0.01, -0.01, 0.03]}}
    missing = {"recipe": "published", "row": "MF + Qwen3-4B (base)", "status": "not run: <why>"}
    rows = [base | {"row": "MF only"}, tuned, tuned | {"hits": 741, "seed": 43}, missing]
    rows += [row | {"recipe": "report"} for row in rows]
    return {"edition": "2018-09", "k": 25, "quick": False, "rows": rows} | changes


def test_table1_has_means_ranges_reasons_and_marks():
    table = main.table1(results())
    assert "| published | MF only | 600 | 739 | 0.0493 ± 0.0010 |" in table
    assert "| 740 (739..741, 2 seeds) |" in table
    assert "| not run: <why> |" in table and "762, 0.051, 0.096, 0.286" in table
    assert "edition" not in table and "Quick run" not in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert widths == {12}
    other = "2016 edition: not the report's data"
    marked = main.table1(results(edition=other, quick=True))
    assert other in marked and "Quick run" in marked


def test_figure1_is_well_formed_and_its_bars_have_the_heights_of_the_numbers():
    tree = ElementTree.fromstring(main.figure1(results()))
    bars = [rect for rect in tree.iter("{http://www.w3.org/2000/svg}rect") if len(rect)]
    assert len(bars) == 2 * 2 * 3  # recipes x measured rows x metrics; none for "not run"
    heights = [float(bar.get("height")) for bar in bars[:3]]
    assert heights[0] / heights[1] == pytest.approx(0.0493 / 0.0883, rel=0.01)
    assert "not run" in "".join(tree.itertext())


def test_recommend_and_evaluate_say_what_is_missing(folder, capsys):
    out = folder.parent / "out"
    error = refused("recommend", "--user", 1, "--out", out, capsys=capsys)
    assert "ratings.safetensors is missing" in error
    main.prepare(["--data", str(folder), "--out", str(out)])
    capsys.readouterr()
    assert "pmf.safetensors" in refused("evaluate", "--out", out, capsys=capsys)
    assert "--recipe" in refused("recommend", "--user", 1, "--recipe", "x", capsys=capsys)


@pytest.fixture
def artefacts(folder):
    return make_artefacts(folder)


def make_artefacts(folder):
    """An out/ folder with random factors and embeddings in the place of trained ones."""
    out, rng = folder.parent / "out", np.random.default_rng(0)
    main.prepare(["--data", str(folder), "--out", str(out)])
    ratings = out / "ratings.safetensors"
    n_items = int(metrics.load(ratings)["train_items"].max()) + 1
    for name in ("pmf", "pmf-fit"):
        U, V = rng.normal(size=(3, 2)), rng.normal(size=(n_items, 2))
        arrays = {"user_factors": U, "item_factors": V}
        metrics.save(out / f"{name}.safetensors", arrays, {}, [ratings])
    for suffix in ("", "-report", "-no-leak"):
        e = rng.normal(size=(len(metrics.load(ratings)["movie_ids"]), 4)).astype(np.float32)
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        path, text = out / f"minilm{suffix}.safetensors", out / f"documents{suffix}.txt"
        metrics.save(path, {"embeddings": e}, {}, [text])
    prior = ["--embeddings", str(out / "minilm-no-leak.safetensors"), "--k", "3", "--sweeps", "2"]
    pmf.main_ranking(["--ratings", str(ratings), "--out", str(out / OURS_FACTORS), *prior])
    return out


def test_evaluate_and_recommend_end_to_end_on_a_small_folder(artefacts, folder, capsys):
    main.run_evaluate(["--data", str(folder), "--out", str(artefacts), "--k", "2", "--user", "5"])
    found = json.loads((artefacts / "results.json").read_text())
    rows = {(row["recipe"], row["row"]): row for row in found["rows"]}
    assert rows["report", "MF + MiniLM (base)"]["validation_curve"][0]["alpha"] == 0
    assert rows["published", "MF + Qwen3-4B (tuned)"]["status"].startswith("not run: ")
    same = {row["users"] for row in found["rows"] if row["status"] == "ok"}
    assert len(same) == 1
    for name in ("table1.md", "table2.md", "figure1.svg"):
        assert (artefacts / name).stat().st_size > 200
    capsys.readouterr()
    options = ["--user", "5", "--top", "1", "--encoder", "minilm", "--data", str(folder)]
    for recipe in main.RECIPES:
        main.recommend([*options, "--out", str(artefacts), "--recipe", recipe])
        title, line = capsys.readouterr().out.splitlines()[::2]
        fused, cf, content = map(float, line.split()[1:4])
        alpha = float(title.split()[-1])
        assert fused == pytest.approx(alpha * cf + (1 - alpha) * content, abs=2e-4)
    error = refused("recommend", "--user", 77, *options[2:], "--out", artefacts, capsys=capsys)
    assert "user 77 is not in the data" in error


def z(scores, free):
    """Standard scores of one user over the free items."""
    return (scores - scores[free].mean()) / scores[free].std()


@pytest.fixture
def sparse(folder):
    """The same with thirty movies of which a user has rated a third, at random."""
    rng = np.random.default_rng(3)
    cells = [(user, movie) for user in (1, 2, 5) for movie in range(30) if rng.random() < 0.4]
    rows = "".join(f"{u},{m},{rng.integers(1, 6)},{1000 + m}\n" for u, m in cells)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")
    movies = "".join(f"{m},Film {m} (1999),Drama\n" for m in range(30))
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{movies}")
    return make_artefacts(folder)


def test_recommend_ours_by_hand(sparse, folder, capsys):
    """Every score that is printed, from the files with plain arithmetic."""
    load = lambda name: metrics.load(sparse / f"{name}.safetensors")  # noqa: E731
    data, factors, e = load("ratings"), load("pmf-ours"), load("minilm-no-leak")["embeddings"]
    n = int(data["train_items"].max()) + 1
    e = e[:n].astype(np.float64) - e[:n].astype(np.float64).mean(axis=0)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    mine = data["train_users"] == 2  # of user 5
    liked = data["train_ratings"] >= 4
    free = ~np.isin(np.arange(n), data["train_items"][mine])
    profile = e[data["train_items"][mine & liked]].sum(axis=0)
    likes = np.array([np.sum(data["train_items"][liked] == item) for item in range(n)])
    text = z(e @ profile / np.linalg.norm(profile) + 0.1 * np.log(1 + likes), free)
    cf = z((factors["item_factors"] @ factors["user_factors"][2])[:n], free)
    fused = 0.6 * cf + 0.4 * text
    best = np.flatnonzero(free)[np.argsort(-fused[free])]
    arguments = ["--user", "5", "--recipe", "ours", "--data", str(folder), "--out", str(sparse)]
    main.recommend(arguments)
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title == "user 5, recipe ours, minilm, alpha 0.60" and len(lines) == 5 < len(best)
    titles = main.titles_of(main.Bench(sparse), folder)
    for line, item in zip(lines, best, strict=False):
        _, *scores, name = line.split(maxsplit=4)
        assert list(map(float, scores)) == pytest.approx(
            [fused[item], cf[item], text[item]], abs=6e-5
        )
        assert name == titles[item]


def test_recommend_ours_scores_as_table3_does(artefacts):
    bench = main.Bench(artefacts)
    lab = table3.Lab(table3.Settings(out=artefacts, factors=3, sweeps=2))
    study = lab.study(lab.train)
    features = study.features(lab.embeddings("base"))
    ranker = study.ours_ranker(*study.fit(42, features), features)
    shelf = table3.Shelf(study, lab.test, study.known)
    scores = main.recipe_fusion(bench, main.OURS, "minilm")(fuse.OURS_ALPHA)(np.arange(3))
    assert np.array_equal(scores, ranker(shelf)(np.arange(3)))


def test_recommend_ours_says_what_is_missing_or_stale(artefacts, folder, capsys):
    arguments = ["--user", 5, "--recipe", "ours", "--data", folder, "--out", artefacts]
    factors, text = artefacts / OURS_FACTORS, artefacts / "minilm-no-leak.safetensors"
    error = refused("recommend", *arguments, "--encoder", "minilm-tuned", capsys=capsys)
    assert "minilm-tuned-no-leak.safetensors is missing; `make ours` builds that of minilm" in error
    kept = text.read_bytes()
    embeddings = metrics.load(text)["embeddings"]
    metrics.save(text, {"embeddings": -embeddings}, {}, [artefacts / "documents-no-leak.txt"])
    error = refused("recommend", *arguments, capsys=capsys)
    assert f"{OURS_FACTORS} was not made from this {text}" in error
    text.write_bytes(kept)
    factors.unlink()
    error = refused("recommend", *arguments, capsys=capsys)
    assert f"{factors} is missing; `make ours` builds" in error


@pytest.mark.parametrize(("recipe", "numba"), [("published", False), ("ours", True)])
def test_recommend_imports_no_torch(artefacts, folder, recipe, numba):
    arguments = ["--user", "5", "--recipe", recipe, "--encoder", "minilm"]
    arguments += ["--data", str(folder), "--out", str(artefacts)]
    spy = f"import sys, main; main.recommend({arguments})"
    spy += "; print('torch' in sys.modules, 'numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.splitlines()[-1] == f"False {numba}", found.stderr


def test_an_artefact_of_other_inputs_is_refused(artefacts, folder, capsys):
    text = artefacts / "documents.txt"
    text.write_text(text.read_text() + "one more\n")
    arguments = ["--data", folder, "--out", artefacts, "--user", 5]
    assert "was not made from" in refused("evaluate", *arguments, capsys=capsys)
