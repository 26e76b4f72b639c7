"""main.py: reading MovieLens, the errors a user can meet, the tables and the figure."""

import ast
import contextlib
import hashlib
import http.client
import re
import subprocess
import sys
import time
import traceback
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from common import drawn
from small import (
    MOVIES,
    OURS_FACTORS,
    RATINGS,
    TAGS,
    evaluated,
    make_folder,
    refused,
    save_embeddings,
    save_tuning,
)

import fuse
import main
import metrics
import pmf

ROOT = Path(__file__).parents[1]


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
    for name, end in (("report", "Drama War slow"), ("no-tags", "2 Drama War")):
        line = (out / f"documents-{name}.txt").read_text().splitlines()[two]
        assert line.endswith(end) and line.count("slow") == end.count("slow")
    assert metrics.provenance(out / "ratings.safetensors")["settings"]["edition"] != "2018-09"


def test_prepare_twice_writes_the_same_bytes(folder):
    for out in ("a", "b"):
        main.prepare(["--data", str(folder), "--out", str(folder.parent / out)])
    files = [sorted(filter(Path.is_file, (folder.parent / out).iterdir())) for out in ("a", "b")]
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
        ("ratings.csv", ",", ";", "ratings.csv:1: header is userId;movieId,rating"),
        ("ratings.csv", "1,2,1.0,", "1,2,good,", "ratings.csv:3: 'good' is not a number"),
        ("ratings.csv", "1,2,1.0,", "1,2,,", "ratings.csv:3: '' is not a number"),
        ("ratings.csv", "1,2,1.0,", "1,2,1.0.0,", "ratings.csv:3: '1.0.0' is not a number"),
        ("ratings.csv", "1,2,1.0,", f"1,2,{2**63},", f"ratings.csv:3: {2**63} is beyond 64 bits"),
        ("ratings.csv", "1,2,1.0,", f"1,2,{'9' * 400},", "9999 is beyond 64 bits"),
        ("ratings.csv", "1,2,1.0,", "1,2,-1,", "ratings.csv:3: '-1' is not a number of 0 or more"),
        ("ratings.csv", "\n1,2,1.0,", "\n\n\r\n1,1,2,", "ratings.csv:5: the user of 1,1,2,1012"),
        ("ratings.csv", "1,2,1.0,", "1,2,nan,", "ratings.csv:3: 'nan' is not a number"),
        ("ratings.csv", "1,2,1.0,", "1,2,-0,", "ratings.csv:3: '-0' is not a number of 0"),
        ("ratings.csv", "1,2,1.0,", "1,2,1e,", "ratings.csv:3: '1e' is not a number"),
        ("ratings.csv", "1,2,1.0,", "1.5,2,1.0,", "ratings.csv:3: '1.5' is not a whole number"),
        ("ratings.csv", "1,2,1.0,", "1_0,2,1.0,", "ratings.csv:3: '1_0' is not a whole number"),
        ("ratings.csv", "1,2,1.0,", "1,1 2,1.0,", "ratings.csv:3: '1 2' is not a whole number"),
        (
            "ratings.csv",
            "1,2,1.0,",
            f"1,{10**19},1.0,",
            "ratings.csv:3: 10000000000000000000 is be",
        ),
        ("ratings.csv", "1,2,1.0,1012", f"1,2,1.0,{2**63}", f"ratings.csv:3: {2**63} is beyond 64"),
        ("ratings.csv", "1,2,1.0,", f"1,{'7' * 5000},1.0,", "is beyond 64 bits"),
        ("ratings.csv", "1,2,1.0,", '"1"2,2,1.0,', "ratings.csv:3: ',' expected after"),
        ("ratings.csv", RATINGS[-5:], '"10', "unexpected end of data; is a quote missing"),
        ("ratings.csv", "1,2,1.0,", "1,1,1.0,", "ratings.csv:3: the user of 1,1,1.0,1012 has"),
        (
            "ratings.csv",
            "1,2,1.0,1012",
            "1,2,1.0",
            "ratings.csv:3: 3 cells, not 4; one with",
        ),
        ("ratings.csv", "1,2,1.0,1012", "1,2,1.0,1012,", "ratings.csv:3: 5 cells, not 4"),
        ("ratings.csv", "1,2,1.0,", "1,88,1.0,", "movies.csv: movie 88 is rated but has no title"),
        ("ratings.csv", RATINGS, "", "ratings.csv is empty"),
        ("ratings.csv", RATINGS[32:], "", "ratings.csv holds no rating"),
        ("ratings.csv", RATINGS[32:], "\n\n", "ratings.csv holds no rating"),
        ("movies.csv", '"Film, The 2 (1982)"', "", "movies.csv:3: movie 2 has no title"),
        ("movies.csv", MOVIES, "", "movies.csv is empty"),
        ("movies.csv", "\n3,", "\n2,", "movies.csv:4: movieId 2 is there twice"),
        ("movies.csv", "\n3,", "\nx,", "movies.csv:4: 'x' is not a whole number, as those"),
        ("movies.csv", '1982)"', "1982)", "movies.csv:3: ',' expected after '\"'"),
        ("tags.csv", "1,2,Slow", '1,2,"Slow\nor not', "tags.csv:2: unexpected end of data; is a q"),
        (
            "tags.csv",
            "Slow,9",
            '"' + "Slow\n" * 40_000,
            "tags.csv:2: field larger than field limit",
        ),
        ("tags.csv", "2,2,slow", '1,3,"a\nb",7\n2,77,slow', "tags.csv:5: movieId 77 is not in"),
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


def test_ratings_in_another_form_are_read_too(folder):
    """Quoted as R and spreadsheets do, with a byte order mark, other line ends, blank lines."""
    path = folder / "ratings.csv"
    kept, text = main.read_ratings(path), path.read_text()
    body = text.split("\n", 1)[1]
    quoted = "\n".join(",".join(f'"{cell}"' for cell in x.split(",")) for x in text.split())
    forms = [quoted + "\n", quoted.split("\n", 1)[0] + "\n" + body]
    forms += ["\ufeff" + text, text.replace("\n", "\r\n"), text.replace("\n", "\r")]
    forms += [text.rstrip(), text + "\n\n", text.replace("\n", "\n\n"), text.replace(".0,", ",")]
    forms += [text.replace(".0,", ".,"), "\n" + text, text.replace("1,2,", "1.0,2.00,")]
    forms += [text.replace(",", " ,\t"), text.replace(".0,", "e0,"), quoted.replace(".0", "E+0")]
    for form in forms:
        path.write_bytes(form.encode())
        for column, expected in zip(main.read_ratings(path), kept, strict=True):
            assert np.array_equal(column, expected) and column.dtype == expected.dtype, form[:80]


def test_whole_numbers_stay_whole_from_the_file_to_the_array(folder):
    path, large = folder / "ratings.csv", 2**63 - 1
    for first in ("1", '"1"', "1.0"):
        row = f"{first},{large},4.5,{large - 1}\n{first},{large - 2},0.5,-{large}\n"
        path.write_text(f"userId,movieId,rating,timestamp\n{row}")
        found = main.read_ratings(path)
        assert found.user_ids.tolist() == [1] and found.users.tolist() == [0, 0]
        assert found.movie_ids.tolist() == [large - 2, large] and found.movies.tolist() == [1, 0]
        assert found.times.tolist() == [large - 1, -large] and found.values.tolist() == [4.5, 0.5]


def test_a_document_is_title_genres_and_tags():
    (text,) = main.documents(["Heat (1995)"], ["Crime|Drama"], [["heist", "al pacino", "heist"]])
    assert text == "Heat Crime Drama heist al pacino heist"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Heat (1995) ", "Heat"),
        ("Babylon 5", "Babylon 5"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey"),
        (
            "City (of) Lost Children, The (Cité, La) (1995)",
            "City (of) Lost Children, The (Cité, La)",
        ),
        ("Two (1999) (2000)", "Two (1999)"),
        ("Line\nbreak (1990)", "Line break"),
        (" (1965)", "(1965)"),  # nothing else is left
    ],
)
def test_titles(title, expected):
    assert main.documents([title], ["(no genres listed)"], [[]]) == [expected]


def test_a_movie_whose_title_is_a_year_keeps_it():
    assert main.documents(["(1965)"], ["Drama"], [[]]) == ["(1965) Drama"]
    assert main.documents(["(1965)"], ["(no genres listed)"], [["", "noir"]]) == ["(1965) noir"]


def test_a_list_that_is_short_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        main.documents(["Heat (1995)", "Jumanji (1995)"], ["Crime"], [[], []])


def zipped(path, texts, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, text in texts.items():
            archive.writestr(f"ml-latest-small/{name}", text)
    return path


def test_a_zip_of_other_data_or_cut_or_missing_is_refused(folder, capsys):
    to, texts = folder.parent / "new", dict(zip(main.FILES, (RATINGS, MOVIES, TAGS), strict=True))
    archive = zipped(folder.parent / "a.zip", texts | {"README.txt": ""})
    assert "sha256" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    archive.write_bytes(archive.read_bytes()[:-40])
    assert "not a complete" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    archive = zipped(archive, {"ratings.csv": RATINGS})
    assert "not a complete" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    archive.unlink()
    assert "a.zip" in refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["data"]


def test_a_zip_of_the_reports_edition_is_unpacked_once(folder, monkeypatch, capsys):
    to, texts = folder.parent / "new", dict(zip(main.FILES, (RATINGS, MOVIES, TAGS), strict=True))
    digest = hashlib.sha256("".join(texts.values()).encode()).hexdigest()
    monkeypatch.setitem(main.EDITIONS, digest, main.REPORTED)
    texts |= {"README.txt": "By GroupLens"}
    archive = zipped(folder.parent / "a.zip", texts)
    for _ in range(2):
        main.fetch(["--to", str(to), "--zip", str(archive)])
    assert {path.name: path.read_text() for path in to.iterdir()} == texts
    assert capsys.readouterr().out.endswith("holds what a zip may hold: the 2018-09 edition\n")
    (to / "tags.csv").write_text("mine")
    error = refused("fetch", "--to", to, "--zip", archive, capsys=capsys)
    assert "tags.csv was not written by this command, or has changed since" in error


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_zip_with_a_broken_stream_is_one_line_that_names_it(folder, capsys, method):
    texts = dict.fromkeys((*main.FILES, "README.txt"), "".join(map(str, range(9999))))
    archive = zipped(folder.parent / "a.zip", texts, method)
    data = bytearray(archive.read_bytes())
    data[60:400] = bytes(340)
    archive.write_bytes(data)
    error = refused("fetch", "--to", folder.parent / "new", "--zip", archive, capsys=capsys)
    assert f"{archive} is not a complete ml-latest-small.zip (" in error


def test_a_zip_that_would_fill_the_memory_is_refused_by_what_it_states(folder, capsys):
    texts = dict.fromkeys((*main.FILES, "README.txt"), "0" * 30_000_000)
    archive, start = zipped(folder.parent / "a.zip", texts, zipfile.ZIP_DEFLATED), time.monotonic()
    error = refused("fetch", "--to", folder.parent / "new", "--zip", archive, capsys=capsys)
    assert "ratings.csv would have 30,000,000 bytes" in error and time.monotonic() - start < 1


@pytest.mark.parametrize("fault", [zlib.error, NotImplementedError, RuntimeError, ValueError])
def test_a_zip_with_a_flipped_bit_is_one_line(folder, capsys, monkeypatch, fault):
    """Some of them are met before the checksum is."""
    archive = zipped(folder.parent / "a.zip", dict.fromkeys((*main.FILES, "README.txt"), ""))

    def read(*_):
        raise fault("invalid stored block lengths")

    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    error = refused("fetch", "--to", folder.parent / "new", "--zip", archive, capsys=capsys)
    assert "is not a complete ml-latest-small.zip (invalid stored block lengths)" in error


def test_a_download_that_breaks_off_falls_back(tmp_path, monkeypatch, capsys):
    class Reply(contextlib.nullcontext):
        def read(self):
            raise http.client.IncompleteRead(b"PK")

    reply = Reply()
    reply.enter_result = reply
    taken = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: reply)
    monkeypatch.setattr(main, "fetch_2016", taken.append)
    main.fetch(["--to", str(tmp_path / "ml")])
    assert taken == [tmp_path / "ml"]
    assert "gives no data (IncompleteRead(2 bytes read))" in capsys.readouterr().err
    monkeypatch.setattr(Reply, "read", lambda self: b"<html>Please log in</html>")
    main.fetch(["--to", str(tmp_path / "ml")])
    assert len(taken) == 2 and "not a complete ml-latest-small.zip" in capsys.readouterr().err


def test_the_command_line_ends_without_a_traceback(tmp_path):
    run = [sys.executable, ROOT / "main.py"]
    bad = subprocess.run([*run, "prepare", "--data", tmp_path], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1
    bad = subprocess.run([*run, "recomend"], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1
    assert "'recomend' is not a command; there are fetch, prepare, evaluate, recom" in bad.stderr


def test_titles_are_shown_as_one_says_them():
    assert main.display_title("Godfather: Part II, The (1974)") == "The Godfather: Part II (1974)"
    assert main.display_title("Heat (1995) ") == "Heat (1995)"
    assert main.display_title("2001") == "2001"
    assert main.display_title("(1965)") == "(1965)"


def results(**changes):
    """A results.json by hand: two measured rows, one that was not run, of two recipes."""
    numbers = {"users": 600, "hits": 739, "precision": 0.0493, "recall": 0.0883, "ndcg": 0.0888}
    numbers |= {"ndcg_own_hits": 0.2768}
    numbers |= {f"{name}_se": 0.001 for name in metrics.NAMES[1:]}
    base = {"recipe": "notebook", "alpha": None, "seed": 42, "status": "ok"} | numbers
    tuned = base | {"row": "MF + MiniLM (tuned)", "alpha": 0.85, "hits": 740}
    tuned["difference"] = [0.01, -0.01, 0.03]
    missing = {"recipe": "notebook", "row": "MF + Qwen3-4B (base)", "hits": None, "alpha": None}
    missing["status"] = "not run: <why>"
    rows = [base | {"row": "MF only"}, tuned, missing]
    rows += [row | {"recipe": "report"} for row in rows]
    head = {"edition": "2018-09", "k": 25, "quick": False, "base": "MF only", "factors": 100}
    return head | {"rows": rows} | changes


def test_table1_has_means_reasons_and_marks():
    table = main.table1(results())
    assert "| notebook | MF only | 600 | 739 | 0.0493 ± 0.0010 |" in table
    assert "| 0.85 | 735, 0.049, 0.089, 0.282 | +0.0100 [-0.0100, +0.0300] |" in table
    assert "| not run: <why> |" in table and "762, 0.051, 0.096, 0.286" in table
    assert "edition" not in table and "Quick run" not in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert widths == {12}
    other = "2016 edition: not the report's data"
    marked = main.table1(results(edition=other, quick=True))
    assert other in marked and "Quick run" in marked


def test_a_table_of_other_data_has_no_column_of_the_report():
    table = main.table1(results(edition="mine"))
    assert "report:" not in table and "712" not in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {11}
    shown, drawn = main.screen_table(results(edition="mine")), main.figure1(results(edition="mine"))
    assert "report's hits" not in shown and not re.search(r"739 .* 739", shown)
    assert "the report" not in drawn and main.COLOURS["the report"] not in drawn


def test_the_screen_shows_a_narrow_table():
    shown = main.screen_table(results()).splitlines()
    assert max(map(len, shown)) <= 100
    assert shown[1].split() == [
        *["notebook", "MF", "only", "739", "0.0493", "0.0883", "0.0888", "739"]
    ]
    assert shown[2].split()[5:] == ["740", "0.0493", "0.0883", "0.0888", "735"]
    assert shown[3].split() == ["notebook", "MF", "+", "Qwen3-4B", "(base)", "not", "run", "762"]


def test_figure1_is_well_formed_and_its_bars_have_the_lengths_of_the_numbers():
    tree = ElementTree.fromstring(main.figure1(results()))
    bars = list(tree.iter("{http://www.w3.org/2000/svg}rect"))[3:]  # after ground and legend
    lengths = {colour: [] for colour in (*main.COLOURS.values(), "url(#hatched)")}
    for bar in bars:
        lengths[bar.get("fill")].append(float(bar.get("width")))
    ours, report, hatched = lengths.values()
    scale = 500 / 0.096  # the longest bar of all is the report's
    assert ours == pytest.approx([scale * 0.0883] * 4, abs=0.06)  # two measured rows, two recipes
    once = [scale * 0.088, scale * 0.089, scale * 0.096]  # MF only, tuned MiniLM, Qwen3-4B
    assert report == pytest.approx(2 * once, abs=0.06)
    assert hatched == pytest.approx(2 * once[2:], abs=0.06)
    texts = "".join(tree.itertext())
    assert "MF + MiniLM (tuned), 22.6 M" in texts and texts.count("not run") == 2
    assert "MF + Qwen3-4B (base), 4,022 M" in texts


def test_figure1_names_the_size_of_each_encoder():
    import encode

    for name, size in main.PARAMETERS.items():
        millions = float(size.removesuffix(" M").replace(",", ""))
        assert encode.ENCODERS[name.lower()].parameters / 1e6 == pytest.approx(millions, rel=5e-3)


def test_figure1_of_rows_without_a_hit_has_bars_of_no_length():
    found = results()
    for row in found["rows"]:
        row |= dict.fromkeys(main.METRICS, 0.0)
    ElementTree.fromstring(main.figure1(found))


def test_recommend_and_evaluate_say_what_is_missing(folder, capsys):
    out = folder.parent / "out"
    error = refused("recommend", "--user", 1, "--out", out, capsys=capsys)
    assert "ratings.safetensors is missing" in error
    main.prepare(["--data", str(folder), "--out", str(out)])
    capsys.readouterr()
    assert "pmf.safetensors" in refused("evaluate", "--out", out, capsys=capsys)


def test_evaluate_and_recommend_end_to_end_on_a_small_folder(artefacts, capsys):
    rows = evaluated(artefacts, "--user", "1")
    assert rows["report", "MF + MiniLM (base)"]["validation_curve"][0]["alpha"] == 0
    assert {row["status"] for row in rows.values()} == {"ok"}  # the report's others are not listed
    assert len({row["users"] for row in rows.values() if row["status"] == "ok"}) == 1
    assert rows["notebook", "MF only"]["seed"] == 42
    assert {row for recipe, row in rows if recipe == "ours"} == {
        "Ranking PMF, no text",
        "Ranking PMF, MiniLM as prior",
    }
    for name in ("table1.md", "table2.md", "figure1.svg"):
        assert (artefacts / name).stat().st_size > 200
    assert "the five best for user 1, recipe" in (artefacts / "table2.md").read_text().lower()
    capsys.readouterr()
    main.recommend(["--user", "5", "--top", "1", "--out", str(artefacts)])
    assert len(capsys.readouterr().out.splitlines()) == 3
    error = refused("recommend", "--user", 77, "--out", artefacts, capsys=capsys)
    assert "--user: id 77 is not in the data; ids go from 1 to 5" in error


def test_a_tuned_row_takes_its_seed_and_cost_from_its_training(artefacts):
    save_tuning(artefacts, "minilm-tuned", np.random.default_rng(4))
    row = evaluated(artefacts)["notebook", "MF + MiniLM (tuned)"]
    assert row["seed"] == 42 and row["tuning"]["seconds"] == 2.0
    mean, low, high = row["difference"]
    assert f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" in (artefacts / "table1.md").read_text()


def test_mpnet_is_the_prior_of_ours_as_well_and_rows_by_it_are_no_minilms(artefacts, capsys):
    """With its text go factors made from it: without them no row, MiniLM's are never taken."""
    rng, row = np.random.default_rng(4), ("ours", "Ranking PMF, MPNet as prior")
    assert row not in evaluated(artefacts)
    text = save_embeddings(
        artefacts, "mpnet-no-leak", "documents-no-leak.txt", rng, encoder="mpnet"
    )
    assert row not in evaluated(artefacts)  # make all makes the factors once the text is there
    factors = artefacts / "pmf-ours-mpnet.safetensors"
    line = ["--ratings", str(artefacts / "ratings.safetensors"), "--k", "3", "--out", str(factors)]
    pmf.main_ranking([*line, "--embeddings", str(text), "--reg", "0.5"])
    rows = evaluated(artefacts)
    assert rows[row]["status"] == "ok"
    names = ("pmf-ours-mpnet", "pmf-ours")
    mpnet, minilm = (main.Artefacts(artefacts).factors(name) for name in names)
    assert np.abs(mpnet[0] @ mpnet[1].T - minilm[0] @ minilm[1].T).max() > 0.01
    arrays, made = metrics.load(factors), metrics.provenance(factors)
    inputs = [artefacts / name for name in made["inputs"]]
    metrics.save(factors, arrays, made["settings"] | {"text": 9.0}, inputs)
    assert "text = 9.0, not 0.2" in refused("evaluate", "--out", artefacts, capsys=capsys)
    factors.write_bytes((artefacts / OURS_FACTORS).read_bytes())
    assert "was made from" in refused("evaluate", "--out", artefacts, capsys=capsys)


def test_the_figures_are_those_of_the_functions_by_hand(artefacts):
    """One row of each late fusion from its files with the fusions alone."""
    rows, out = evaluated(artefacts), main.Artefacts(artefacts)
    task, n = out.task, out.task.n_items
    arrays = metrics.load(out.path("pmf"))
    cf = arrays["user_factors"] @ arrays["item_factors"][:n].T  # (U, I)
    free = fuse.candidates_of(task.seen, np.arange(len(cf)), n)
    times = task.users, task.items, task.ratings, task.times
    liked = task.ratings >= task.liked
    for recipe in (main.NOTEBOOK, main.REPORT):
        entry = rows[recipe.name, "MF + MiniLM (base)"]
        e = metrics.load(out.path("minilm" + recipe.suffix))["embeddings"][:n]
        if recipe is main.NOTEBOOK:
            text = fuse.notebook_profiles(*times, e, len(cf), 5.0) @ e.T  # (U, I)
            fused = fuse.notebook_fusion(cf, text, free, entry["alpha"])
        else:
            text = fuse.centroids(task.users[liked], task.items[liked], e, len(cf)) @ e.T
            fused = fuse.eq1(cf, text, entry["alpha"])
        result = metrics.evaluate(lambda u: fused[u], task.seen, task.relevant, 2)  # noqa: B023
        assert metrics.summary(result)["ndcg"] == pytest.approx(entry["ndcg"], rel=1e-12)


LAYERS = {"main": 0, "contrastive": 1, "fuse": 1, "encode": 2, "pmf": 2, "metrics": 3}


@pytest.mark.parametrize("script", LAYERS)
def test_a_script_imports_from_lower_layers_alone(script):
    """main -> contrastive, fuse -> encode, pmf -> metrics; within functions too."""
    tree = ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    ours = found & {path.stem for path in (*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"))}
    assert all(LAYERS[name] > LAYERS[script] for name in ours)  # and nothing of the tests
    assert ("metrics" in ours) == (script != "metrics")


def test_712_passes_at_most_ten_functions_and_its_way_goes_down(artefacts, monkeypatch):
    """From the command to the division that makes a figure: main, then metrics, never back."""
    stacks, metrics_at_k = [], metrics.metrics_at_k

    def spy(*arguments):
        frames = [
            frame for frame in traceback.extract_stack() if Path(frame.filename).parent == ROOT
        ]
        stacks.append([(Path(frame.filename).name, frame.name) for frame in frames])
        return metrics_at_k(*arguments)

    monkeypatch.setattr(metrics, "metrics_at_k", spy)
    line = ["main.py", "evaluate", "--out", str(artefacts), "--k", "2"]
    monkeypatch.setattr(sys, "argv", line)
    metrics.run(main.main)
    stack = next(s for s in stacks if ("main.py", "content_row") in s)
    assert len(stack) + 1 <= 10  # with metrics_at_k itself
    layers = [LAYERS[Path(file).stem] for file, _ in stack[1:]]  # after metrics.run calls main
    assert layers == sorted(layers) and {0, 3} <= set(layers)


def test_recommend_says_what_is_missing(artefacts, capsys):
    (artefacts / "pmf-all.safetensors").unlink()
    error = refused("recommend", "--user", 5, "--out", artefacts, capsys=capsys)
    assert f"{artefacts / 'pmf-all.safetensors'} is missing; `make all` builds it" in error


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["prepare"], ["recommend", "--user", "5"]],
)
def test_neither_help_nor_prepare_nor_recommend_imports_torch_or_numba(
    artefacts, folder, arguments, tmp_path
):
    if arguments[0] == "recommend":
        arguments = [*arguments, "--out", str(artefacts)]
    if arguments[0] == "prepare":
        arguments = [*arguments, "--data", str(folder), "--out", str(tmp_path / "new")]
    line = [sys.executable, "-X", "importtime", str(ROOT / "main.py"), *arguments]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {entry.split("|")[-1].strip() for entry in done.stderr.splitlines()}
    assert "numpy" in loaded and not loaded & {"torch", "numba", "transformers", "tqdm"}


def test_another_liked_rating_is_other_data_than_the_reports(artefacts, tmp_path):
    """Other movies are to be found: nothing of the report, and no recorded row, stands beside."""
    folder = make_folder(tmp_path / "mine")
    for options, edition in (
        ([], main.OWN),
        (["--liked", "3"], f"{main.OWN}; liked from 3: not the report's"),
    ):
        main.prepare(["--data", str(folder), "--out", str(tmp_path / "o"), *options])
        made = metrics.provenance(tmp_path / "o" / "ratings.safetensors")
        assert made["settings"]["edition"] == edition
        assert main.Artefacts(tmp_path / "o").own
    usual = made | {"settings": made["settings"] | {"edition": main.REPORTED}}
    assert drawn(made) != drawn(usual)
