"""Own data: string ids, a scale of 1 to 10, no times, genres or tags; from the files to a list.

Six readers of each of two kinds rate forty books, high in their own kind.
"""

import csv
import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from small import ended, evaluated, make_artefacts, refused

import fuse
import main
import metrics

pytestmark = pytest.mark.usefixtures("few_draws")

BOOKS = {f"b-{n:02}": f"{('Quiet', 'Loud')[n % 2]} Book {n}" for n in range(40)}
READERS = [f"reader{n}" for n in range(12, 0, -1)]  # not ascending, and 10 is before 2


def rows_of(seed=0):
    """[(reader, book, rating)]: two thirds of the books each, 7 to 10 in one half, else 1 to 6."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, reader in enumerate(READERS):
        for n in rng.permutation(40)[:27]:
            own = n % 2 == number % 2
            rows.append(
                (reader, f"b-{n:02}", int(rng.integers(7, 11) if own else rng.integers(1, 7)))
            )
    return rows


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    write(folder, rows_of())
    return folder


def write(folder, rows, ratings="userId,itemId,rating", movies="itemId,title", titles=BOOKS):
    for name, head, lines in (
        ("ratings.csv", ratings, rows),
        ("movies.csv", movies, titles.items()),
    ):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([head.split(","), *lines])
    return folder


@pytest.fixture(scope="module")
def out(books, tiny):
    """What `make all DATA=books` makes, by its command lines, with a tiny encoder as MiniLM."""
    import encode
    import pmf

    out = books.parent / "out-books"
    ratings, text = out / "ratings.safetensors", out / "minilm-no-leak.safetensors"
    facts = dataclasses.replace(encode.QWEN_06B, sha256="", parameters=0)
    everything = out / "pmf-all.safetensors"
    ranking = f"pmf.py ranking --ratings {ratings} --k 4"
    encoder = f"encode.py --encoder minilm --weights {tiny}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encode.ENCODERS, "minilm", facts)
        for script, line in (
            (main, f"main.py prepare --data {books} --out {out}"),
            (
                pmf,
                f"pmf.py --ratings {ratings} --out {out}/pmf.safetensors --k 4 --fast",
            ),
            (encode, f"{encoder} --texts {out}/documents-no-leak.txt --out {text}"),
            (pmf, f"{ranking} --out {out}/pmf-ranking.safetensors"),
            (pmf, f"{ranking} --out {out}/pmf-ours.safetensors --embeddings {text}"),
            (encode, f"{encoder} --texts {out}/documents.txt --out {out}/minilm.safetensors"),
            (pmf, f"{ranking} --all --out {everything} --embeddings {out}/minilm.safetensors"),
        ):
            patch.setattr(sys, "argv", line.split())
            script.main()
    return out


def test_the_arrays_are_the_file(out):
    """Every rating is in train or in test, by the strings in the metadata; users ascend."""
    data, files = metrics.load(out / "ratings.safetensors"), main.Artefacts(out)
    users, books = files.ids("user_ids"), files.ids("movie_ids")
    assert users == sorted(READERS) and sorted(books) == sorted(BOOKS)
    found = set()
    for part in ("train", "test"):
        columns = (data[f"{part}_{x}"].tolist() for x in ("users", "items", "ratings", "times"))
        for user, item, rating, time in zip(*columns, strict=True):
            found.add((users[user], books[item], int(rating)))
            assert time == 0
    assert found == set(rows_of()) and len(data["test_users"]) == 12 * 6  # ceil(.2 27)
    assert float(data["highest"]) == 10 and float(data["liked"]) == 8
    titles = [BOOKS[book] for book in books]
    assert files.titles() == titles == (out / "documents.txt").read_text().splitlines()
    assert files.task.liked == 8 and files.task.highest == 10


def test_the_table_has_its_own_rows_and_nothing_of_the_report(out, capsys):
    rows = evaluated(out)
    assert list(rows) == [
        ("notebook", "Random"),
        ("notebook", "Most popular"),
        ("notebook", "MF only"),
        ("notebook", "MF + MiniLM (base)"),
        ("ours", "Ranking PMF, no text"),
        ("ours", "Ranking PMF, MiniLM as prior"),
    ]
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert not (out / "table2.md").exists()  # it is of the report's user 400
    shown = capsys.readouterr().out + (out / "table1.md").read_text()
    shown += (out / "figure1.svg").read_text()
    for word in ("not run", "report's hits", "dashes", "report:", "Qwen", "user 400"):
        assert word not in shown
    assert main.OWN in shown
    by_hand = hits_of_most_popular(rows_of(), out)
    assert rows["notebook", "Most popular"]["hits"] == by_hand
    assert (
        rows["ours", "Ranking PMF, MiniLM as prior"]["hits"] > by_hand
    )  # the halves are there to be found


def hits_of_most_popular(rows, out, k=2):
    """By strings and plain Python: of the split only, which rows are train, is taken from out."""
    data, files = metrics.load(out / "ratings.safetensors"), main.Artefacts(out)
    users, books = files.ids("user_ids"), files.ids("movie_ids")
    pairs = zip(data["train_users"].tolist(), data["train_items"].tolist(), strict=True)
    train = {(users[user], books[item]) for user, item in pairs}
    counts = {book: sum(b == book for _, b in train) for book in books}
    hits = 0
    for reader in READERS:
        free = [book for book in books if counts[book] and (reader, book) not in train]
        best = sorted(free, key=lambda book: -counts[book])[:k]  # stable: by first appearance
        liked = {b for r, b, rating in rows if r == reader and rating >= 8 and (r, b) not in train}
        hits += len(liked & set(best)) if liked & set(free) else 0
    return hits


def test_table2_is_made_when_a_user_is_named(out):
    evaluated(out, "--user", "reader10")
    table = (out / "table2.md").read_text()
    (out / "table2.md").unlink()
    last = [BOOKS[b] for r, b, rating in rows_of() if r == "reader10" and rating >= 9]
    profile = table.split("rated 9 or more in train, newest first: ")[1].split(".\n")[0]
    assert "user reader10" in table and set(profile.split("; ")) <= set(last)
    assert "not run" not in table and "Reservoir Dogs" not in table


def test_notebook_profiles_without_times_weigh_by_rating_alone(out):
    task = main.Artefacts(out).task
    e = np.random.default_rng(1).normal(size=(task.n_items, 3))
    columns = task.users, task.items, task.ratings, task.times
    profiles = fuse.notebook_profiles(*columns, e, task.n_users, task.highest)
    mine = task.users == 4
    weights, vectors = task.ratings[mine] / 10, e[task.items[mine]]
    assert profiles[4] == pytest.approx(weights @ vectors / weights.sum())


def test_a_user_of_the_data_is_recommended_books(out, books, capsys):
    main.recommend(["--user", "reader10", "--out", str(out)])
    head, _, *lines = capsys.readouterr().out.splitlines()
    expected = f"user reader10 of {books.name}, by all its ratings and MiniLM ({out}/)"
    assert head == expected and len(lines) == 5  # whose data, and from where
    found = {line.split(maxsplit=2)[2].partition(" <- ")[0] for line in lines}
    assert found <= set(BOOKS.values())
    error = refused("recommend", "--user", "reader99", "--out", out, capsys=capsys)
    assert "--user: id reader99 is not in the data; ids go from reader1 to reader9" in error


def test_liked_and_disliked_follow_the_scale(out, tiny, tmp_path):
    import contrastive

    data = metrics.load(out / "ratings.safetensors")
    columns = (data[f"train_{name}"] for name in ("users", "items", "ratings"))
    rating = {(user, item): r for user, item, r in zip(*columns, strict=True)}
    report = contrastive.Report(data, contrastive.Settings("", *[Path()] * 3, seed=0))
    pairs = [(user, *items) for user, items in zip(report.users, report.items, strict=True)]
    assert len(pairs) > 50 and min(rating[user, good] for user, good, _ in pairs) == 8
    assert max(rating[user, bad] for user, _, bad in pairs) == 5


@pytest.mark.parametrize(
    ("ratings", "movies"),
    [
        ("userId,movieId,rating,timestamp\n1,7,3,0\n2,7,4,0\n", "movieId,title,genres\n7,Seven,\n"),
        ("userId,itemId,rating\n1,7,3\n2,7,4\n", "itemId,title\n7,Seven\n"),
        ("userId,movieId,rating\n1,7,3\n2,7,4\n", "itemId,title,genres\n7,Seven,\n"),
        ('userId,movieId,rating\n"1",7,3\n2,7,4\n', "movieId,title\n7.0,Seven\n"),
    ],
)
def test_the_forms_of_a_header_read_the_same(tmp_path, ratings, movies):
    (tmp_path / "ratings.csv").write_text(ratings)
    (tmp_path / "movies.csv").write_text(movies)
    columns = [column.tolist() for column in main.read_ratings(tmp_path / "ratings.csv")]
    assert columns == [[1, 2], [0, 1], [7], [0, 0], [3, 4], [0, 0]]
    assert main.read_movies(tmp_path / "movies.csv") == {7: ("Seven", "")}


def test_users_may_be_numbers_and_movies_strings(tmp_path):
    rows = [(READERS.index(reader) + 1, book, rating) for reader, book, rating in rows_of()]
    main.prepare(["--data", str(write(tmp_path, rows)), "--out", str(tmp_path / "out")])
    files = main.Artefacts(tmp_path / "out")
    assert files.ids("user_ids") == list(range(1, 13)) and set(files.ids("movie_ids")) == set(BOOKS)
    assert files.index("user_ids", "7", "--user") == 6


@pytest.mark.parametrize("wide", [False, True])
def test_a_rating_at_the_limit_is_liked_however_it_is_rounded(tmp_path, wide):
    """.8 of 7 is 5.6, which float32 and float64 round to different sides."""
    rows = [(reader, book, (7, 5.6, 5.5)[rating % 3]) for reader, book, rating in rows_of()]
    limit = ["--liked", "5.6"] if wide else []
    main.prepare(["--data", str(write(tmp_path, rows)), "--out", str(tmp_path / "out"), *limit])
    task = main.Artefacts(tmp_path / "out").task
    assert np.array_equal(task.ratings >= task.liked, task.ratings > 5.55)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("ratings.csv", ",b-06,", ",6,", "movies.csv: movie 6 is rated but has no title"),
        ("ratings.csv", "reader11,", ",", "ratings.csv:29: '' is not an id"),
        ("ratings.csv", "reader11,", "\0,", "ratings.csv:29: '\\x00' is not an id"),
        ("ratings.csv", "reader11,", f"{'r' * 201},", "1 to 200 characters"),
        (
            "ratings.csv",
            "itemId",
            "bookId",
            "header is userId,bookId,rating, expected userId,movie",
        ),
        ("ratings.csv", ",itemId", "", "header is userId,rating, expected"),
        ("ratings.csv", ",b-06,", ",b-99,", "movies.csv: movie b-99 is rated but has no title"),
        ("movies.csv", "b-01", "1", "movies.csv: movie b-01 is rated but has no title"),
        ("movies.csv", "b-01,", "b-02,", "movies.csv:4: movieId b-02 is there twice"),
        ("movies.csv", "itemId,title", "title,itemId", "movies.csv:1: header is title,itemId"),
    ],
)
def test_ids_of_two_kinds_and_other_damage_are_one_line(tmp_path, capsys, name, old, new, message):
    folder, out = write(tmp_path, rows_of()), tmp_path / "out"
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    assert message in refused("prepare", "--data", folder, "--out", out, capsys=capsys)
    assert not out.exists()


def test_whole_numbers_first_and_then_a_string_are_one_line(folder, capsys):
    """The kind is that of the first rating; tags and movies are held to it too."""
    kept = {name: (folder / name).read_text() for name in main.FILES}
    for name, old, new in (
        ("ratings.csv", "\n2,1,", "\nu2,1,"),
        ("movies.csv", "\n3,", "\nm3,"),
        ("tags.csv", "2,2,slow", "u2,2,slow"),
    ):
        (folder / name).write_text(kept[name].replace(old, new))
        error = refused("prepare", "--data", folder, "--out", folder / "out", capsys=capsys)
        assert f"{folder / name}:" in error and "is not a whole number" in error
        (folder / name).write_text(kept[name])


@pytest.mark.parametrize("liked", ["5.5", "nan", "-1", "inf", "x"])
def test_liked_must_be_on_the_scale(folder, capsys, liked):
    arguments = ["--data", folder, "--out", folder.parent / "out", "--liked", liked]
    assert "--liked" in refused("prepare", *arguments, capsys=capsys)
    assert not (folder.parent / "out").exists()


def test_liked_is_what_was_asked_for(folder):
    out = folder.parent / "out"
    main.prepare(["--data", str(folder), "--out", str(out), "--liked", "3"])
    task, data = main.Artefacts(out).task, metrics.load(out / "ratings.safetensors")
    assert (task.liked, task.highest) == (3, 5)
    known = data["test_items"] < task.n_items
    assert len(task.relevant[1]) == np.sum(known & (data["test_ratings"] >= 3))


def test_ratings_of_nothing_but_zeros_are_refused(folder, capsys):
    text = "userId,movieId,rating\n" + "".join(f"1,{movie},0\n" for movie in range(1, 9))
    (folder / "ratings.csv").write_text(text)
    error = refused("prepare", "--data", folder, "--out", folder.parent / "out", capsys=capsys)
    assert "every rating is 0, so no movie is liked" in error


def test_a_folder_of_data_is_never_the_one_to_write_to(folder, capsys):
    """Its own data, under another name, or somebody's other data."""
    other = shutil.copytree(folder, folder.parent / "other")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for out in (folder.parent / "data" / ".." / "data", other):
        error = refused("prepare", "--data", folder, "--out", out, capsys=capsys)
        assert f"{out.resolve()}/movies.csv was not written by this command" in error
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_somebodys_movies_are_never_overwritten_prepares_own_are(folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/movies.csv").write_text("my own list")
    error = refused("prepare", "--data", folder, "--out", tmp_path / "mine", capsys=capsys)
    assert "mine/movies.csv was not written by this command" in error
    assert (tmp_path / "mine/movies.csv").read_text() == "my own list"
    for _ in range(2):
        main.prepare(["--data", str(folder), "--out", str(tmp_path / "out")])
    (tmp_path / "out/ratings.safetensors").unlink()  # as messages about a damaged one advise
    main.prepare(["--data", str(folder), "--out", str(tmp_path / "out")])


def test_factors_are_of_ratings_that_say_their_scale(out, tmp_path, monkeypatch, capsys):
    """A ratings file of an older version has no highest rating: one line, not a guess."""
    import pmf

    arrays = metrics.load(out / "ratings.safetensors")
    del arrays["highest"]
    metrics.save(tmp_path / "ratings.safetensors", arrays, {})
    arguments = ["ranking", "--ratings", tmp_path / "ratings.safetensors", "--out", tmp_path / "x"]
    error = ended(pmf, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert "but no highest" in error


def test_results_of_the_reports_edition_still_list_what_was_not_run(artefacts, monkeypatch):
    """The other lane: the same folder, taken for the report's."""
    monkeypatch.setitem(main.EDITIONS, "its sha256", main.OWN)
    monkeypatch.setattr(main, "CASE_USER", "2")
    rows = evaluated(artefacts)
    assert rows["notebook", "MF + Qwen3-4B (tuned)"]["status"].startswith("not run: ")
    assert "user 2" in (artefacts / "table2.md").read_text()


def prepared(folder, rows, capsys=None, **files):
    """The Artefacts of some rows; with capsys, the refusal."""
    write(folder, rows, **files)
    line = ["--data", str(folder), "--out", str(folder / "out")]
    if capsys:
        return refused("prepare", *line, capsys=capsys)
    main.prepare(line)
    return main.Artefacts(folder / "out")


SIX = {f"{n}": f"Book {n}" for n in range(1, 7)}


def rated(*ids, users=("u1", "u2")):
    return [(user, book, n % 3 + 3) for user in users for n, book in enumerate(ids)]


def test_ids_that_a_spreadsheet_shortened_are_refused_in_every_file(tmp_path, capsys):
    """Those of other users may have become the same."""
    short = "1.23457E+11"
    for name, rows, titles in (
        ("ratings.csv:2", rated("a", "b", users=(short,)), {"a": "A", "b": "B"}),
        ("ratings.csv:2", rated(short, "b"), {short: "A", "b": "B"}),
        ("ratings.csv:4", rated("1", "2", users=("7", "1e+09")), {"1": "A", "2": "B"}),
        ("movies.csv:3", rated("1", "2"), {"1": "A", "1,23457E+11": "B", "2": "C"}),
    ):
        error = prepared(tmp_path, rows, capsys, titles=titles)
        assert f"{name}: id " in error and "was shortened by a spreadsheet" in error
    (tmp_path / "tags.csv").write_text(f"userId,movieId,tag\n{short},1,x\n")
    error = prepared(tmp_path, rated("1", "2"), capsys, titles={"1": "A", "2": "B"})
    assert f"tags.csv:2: id {short} was shortened" in error


def test_letters_with_accents_are_one_id_and_one_title_however_composed(tmp_path, capsys):
    one, other = "caf\u00e9", "cafe\u0301"
    rows = [(one, "b1", 4), (other, "b2", 3), ("u2", "b1", 5), ("u2", "b2", 2)]
    files = prepared(tmp_path, rows, titles={"b1": one, "b2": other})
    assert files.ids("user_ids") == [one, "u2"] and files.index("user_ids", other, "--user") == 0
    assert sorted(files.titles()) == [f"{one} [b1]", f"{one} [b2]"]
    rows = [("u1", one, 4), ("u1", other, 3)]
    error = prepared(tmp_path / "..", rows, capsys, titles={one: "A"})
    assert "has rated this movie before, on line 2" in error


def test_ids_with_zeros_in_front_and_isbns_stay_as_they_are(tmp_path, capsys):
    """One of them makes its column strings; the other column stays numbers."""
    books = {"0114709": "A", "114709": "B", "031676948X": "C", "1": "D"}
    rows = rated(*books, users=("2", "10"))
    files = prepared(tmp_path, rows, titles=books)
    assert files.ids("user_ids") == [2, 10] and set(files.ids("movie_ids")) == set(books)
    text = (tmp_path / "out/movies.csv").read_text()
    assert "\n0114709,A,\n" in text and "\n031676948X,C,\n" in text
    titles = dict(zip(files.ids("movie_ids"), files.titles(), strict=True))
    assert titles == books
    item = files.index("movie_ids", "0114709", "id")
    assert files.titles()[item] == "A"
    main.prepare(["--data", str(tmp_path), "--out", str(tmp_path / "out")])  # our own file again
    assert main.Artefacts(tmp_path / "out").ids("movie_ids") == files.ids("movie_ids")
    lone = prepared(tmp_path, rated("316769487", "031676948X"), titles={"316769487": "A", **books})
    assert set(lone.ids("movie_ids")) == {"316769487", *books}


def test_zeros_behind_a_blank_stay_too(tmp_path):
    files = prepared(tmp_path, rated(" 007", "8", users=("1", "2")), titles={"007": "A", "8": "B"})
    assert files.ids("movie_ids") == ["007", "8"]


def test_zeros_in_front_in_one_file_alone_are_refused(tmp_path, capsys):
    error = prepared(tmp_path, rated("1", "2"), capsys, titles={"1": "A", "02": "B", "2": "C"})
    assert "movies.csv:3: id 02 is no plain number, as those of the ratings are" in error


@pytest.mark.parametrize("time", ["1112484580.5", "2005-04-02T23:53:47", "2005-04-02"])
def test_a_time_of_another_form_may_be_left_out(tmp_path, capsys, time):
    rows = [(*row, time) for row in rated("1", "2", users=("1", "2"))]
    head = "userId,itemId,rating,timestamp"
    error = prepared(tmp_path, rows, capsys, ratings=head, titles=SIX)
    assert f"ratings.csv:2: '{time}' is not a whole number; without times the column time" in error


def test_where_nothing_is_to_be_found_the_message_says_from_which_rating(tmp_path, capsys):
    rows = [("u1", "a", 5), ("u2", "b", 5), ("u3", "c", 3)]  # who has rated one movie has no test
    files = prepared(tmp_path, rows, titles={"a": "A", "b": "B", "c": "C"})
    error = refused("evaluate", "--out", files.folder, capsys=capsys)
    assert f"{files.ratings}: nothing in the test part is rated 4 or more" in error


def test_a_movie_rated_twice_names_both_lines(tmp_path, capsys):
    for books in (("1", "2", "3"), ("a", "b", "c")):
        rows = [("u1", book, 3) for book in (*books, books[1])]
        error = prepared(tmp_path, rows, capsys, titles={book: book.upper() for book in books})
        assert (
            f"ratings.csv:5: the user of u1,{books[1]},3 has rated this movie before, on line 3;"
            in error
        )


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv"])
def test_a_file_that_is_missing_is_named_with_its_header(folder, capsys, name):
    (folder / name).unlink()
    error = refused("prepare", "--data", folder, "--out", folder.parent / "o", capsys=capsys)
    assert f"{folder / name} is missing; expected a file with the header userId" in error.replace(
        "movieId,title", "userId"
    )


ODD = {
    "1": "two\nlines",
    "2": "a\rreturn",
    "3": "a | bar",
    "4": "\x1b[2J\x1b]0;owned\x07",
    "5": "C1 \x9b2J",
    "6": "=SUM(A1)",
    "7": "\u2028 apart",
}


def test_a_title_stays_one_row_wherever_it_is_shown(tmp_path, capsys):
    """On the screen, in Table II and in a list; and no control character is sent to a terminal."""
    rows = [row for user in (1, 2, 3) for row in rated(*ODD, users=[user])[user:]]
    rows += [(user, book, 5) for user in (1, 2, 3) for book in list(ODD)[:user]]
    write(tmp_path, rows, titles=ODD | {"8": "plain", "9": "too"})
    out = make_artefacts(tmp_path)
    capsys.readouterr()
    main.run_evaluate(["--out", str(out), "--user", "1", "--k", "2"])
    table = (out / "table2.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| MF")]
    assert len(rows) == 2 and all(row.replace("\\|", "").count("|") == 3 for row in rows)
    mine = tmp_path / "my.csv"
    mine.write_text("title,rating\nplain,4\n")
    main.recommend(["--ratings", str(mine), "--top", "9", "--out", str(out)])
    shown = capsys.readouterr().out
    assert len([line for line in shown.splitlines() if line[:4].strip().isdigit()]) == 8
    assert not any(main.unicodedata.category(x) == "Cc" for x in (table + shown).replace("\n", ""))
    main.recommend(["--all", "--top", "9", "--to", str(tmp_path / "to.csv"), "--out", str(out)])
    with open(tmp_path / "to.csv", newline="") as file:
        titles = {row["title"] for row in csv.DictReader(file)}
    assert titles <= {"plain", "too"} and len((tmp_path / "to.csv").read_text().splitlines()) == 7


# Clicks


def test_ratings_that_are_all_equal_are_ranked_and_rows_that_need_a_scale_left_out(
    tmp_path, capsys
):
    write(tmp_path, [(u, b, 1) for u, b, r in rows_of() if r > 4])
    out = make_artefacts(tmp_path)
    (out / "pmf.safetensors").unlink()  # pmf.py has nothing to fit
    capsys.readouterr()
    rows = evaluated(out)
    assert list(rows) == [
        ("notebook", "Random"),
        ("notebook", "Most popular"),
        ("ours", "Ranking PMF, no text"),
        ("ours", "Ranking PMF, MiniLM as prior"),
    ]
    table = (out / "table1.md").read_text()
    assert "All ratings are equal: rows that need a scale, as MF does, are left out." in table
    assert (
        "| NDCG - Most popular |" in table and "difference" not in rows["notebook", "Most popular"]
    )
    assert rows["ours", "Ranking PMF, no text"]["difference"][0] > 0
    main.recommend(["--user", "reader1", "--out", str(out)])
    error = refused("evaluate", "--user", "reader1", "--out", out, capsys=capsys)
    assert "Table II is of rows that need a scale" in error
