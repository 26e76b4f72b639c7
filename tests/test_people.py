"""recommend and similar: new people, new movies, why, titles, files; by hand and by other ways."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small import make_artefacts, make_folder, refused

import fuse
import main
import metrics
from metrics import group_by_user

ROOT = Path(__file__).parents[1]
TITLES = [
    *("Heat (1995)", "Heat (1986)", "Godfather, The (1972)", "Emma (1996)", "Emma (1996)"),
    "Good, the Bad and the Ugly, The (Buono, il brutto, il cattivo, Il) (1966)",
    *("(500) Days of Summer (2009)", "Alien (1979)", "Aliens (1986)", "Ben-Hur (1959)"),
    *("Girl, The (La fille) (2009)", "Girl, The (2011)", "Ben-hur (2016)"),
    *("Dune", "Dune (Dune Chronicles, #1)"),
    *(
        "Seven (a.k.a. Se7en) (1995)",
        "Léon: The Professional (a.k.a. The Professional) (Léon) (1994)",
    ),
    *(
        "Postman, The (Postino, Il) (1994)",
        "Boot, Das (Boat, The) (1981)",
        "Schindler's List (1993)",
    ),
    *(
        "Spider-Man (2002)",
        "The Sorcerer's Stone (Harry Potter (Paperback))",
        "Avventura, L' (1960)",
    ),
    *(
        "Twins (The Pair) (1990)",
        "Couple (The Pair) (1991)",
        "Café (2001)",
        "Professional, The (1981)",
    ),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An out/ folder of thirty movies, of which three users have rated a third each."""
    folder = make_folder(tmp_path_factory.mktemp("people") / "data")
    rng = np.random.default_rng(3)
    cells = [(user, movie) for user in (1, 2, 5) for movie in range(29) if rng.random() < 0.4]
    rows = "".join(f"{u},{m},{rng.integers(1, 11) / 2},{1000 + m}\n" for u, m in cells)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")
    names = [*TITLES, *(f"Film {m} (1999)" for m in range(len(TITLES), 30))]
    movies = "".join(f'{m},"{name}",Drama\n' for m, name in enumerate(names))
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{movies}")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n")
    return make_artefacts(folder)


def folded_in(out, user):
    """(Q, the user's p by least squares, masks of the movies that anybody and that the user rated).

    Every rated movie is a row of weight m and target 0, or of weight 1 if the user rated it.
    """
    data, fitted = (metrics.load(out / f"{x}.safetensors") for x in ("ratings", "pmf-all"))
    made = metrics.provenance(out / "pmf-all.safetensors")["settings"]
    users, items, ratings = (
        np.concatenate([data[f"{part}_{x}"] for part in ("train", "test")])
        for x in ("users", "items", "ratings")
    )
    Q, own = fitted["item_factors"], users == user
    rated, mine = (np.isin(np.arange(len(Q)), some) for some in (items, items[own]))
    w, t = np.full(len(Q), made["missing"]), np.zeros(len(Q))
    good = items[own][ratings[own] >= 2.5]  # half of the highest rating
    w[good], t[good] = 1, ratings[own][ratings[own] >= 2.5] / 5
    mean, unseen = len(users) / len(set(users)), made["missing"] * rated.sum()
    a = made["reg"] * (own.sum() + unseen) / (mean + unseen)
    root = np.sqrt(w[rated])
    rows = np.vstack([root[:, None] * Q[rated], np.sqrt(a) * np.eye(Q.shape[1])])
    p = np.linalg.lstsq(rows, np.concatenate([root * t[rated], np.zeros(Q.shape[1])]))[0]
    return Q, p, rated, mine


def test_a_movie_that_was_not_rated_has_the_factors_of_its_text(out):
    Q, _, rated, _ = folded_in(out, 0)
    assert len(Q) == 30 and np.sum(~rated) > 0
    e = metrics.load(out / "minilm.safetensors")["embeddings"][~rated]
    W = metrics.load(out / "pmf-all.safetensors")["text_weights"]
    assert fuse.new_items(e, W) == pytest.approx(Q[~rated])


def shown(capsys):
    """The lines of a list: (rank, score, title, reasons)."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:4].strip().isdigit()]
    cells = [line.split(maxsplit=2) for line in lines]
    return [(int(rank), float(score), *name.partition(" <- ")[::2]) for rank, score, name in cells]


def test_recommend_ours_by_all_ratings_by_hand(out, capsys):
    """Every score that is printed, from the files with plain arithmetic."""
    Q, p, rated, mine = folded_in(out, 2)
    free = ~mine
    scores = Q @ p + fuse.ALLOWANCE * np.linalg.norm(p) * ~rated
    best = np.flatnonzero(free)[np.argsort(-scores[free])]
    main.recommend(["--user", "5", "--top", "40", "--out", str(out)])
    rows, titles = shown(capsys), main.Artefacts(out, whole=True).titles()
    assert len(rows) == np.sum(free) < 30  # nothing rated in train or test
    short = main.Artefacts(out, whole=True).short_titles()
    own = {short[item] for item in np.flatnonzero(mine)}
    for row, item in zip(rows, best, strict=True):
        assert row[1] == pytest.approx(scores[item], abs=6e-5)
        assert row[2] == titles[item] and set(filter(None, row[3].split("; "))) <= own
    assert any(row[3] for row in rows[:3])


def test_a_short_title_keeps_its_year_where_two_would_be_alike(out):
    files = main.Artefacts(out)
    short = dict(zip(files.titles(), files.short_titles(), strict=True))
    assert short["Alien (1979)"] == "Alien"
    assert [short[f"Heat ({year})"] for year in (1986, 1995)] == ["Heat (1986)", "Heat (1995)"]
    assert len(set(short.values())) == len(short)


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_file_of_a_users_own_ratings_is_that_user(out, capsys, tmp_path):
    """By titles and by ids; and with --user its ratings go before the user's."""
    files = main.Artefacts(out, whole=True)
    own = files.task.users == 2
    items, ratings = files.task.items[own], files.task.ratings[own]
    titles, ids = files.titles(), files.data["movie_ids"]
    rows = list(zip(items, ratings, strict=True))
    by_title = write(tmp_path / "a.csv", "title,rating", *(f'"{titles[i]}",{r}' for i, r in rows))
    by_id = write(tmp_path / "b.csv", "movieId,rating", *(f"{ids[i]},{r}" for i, r in rows))
    changed = write(tmp_path / "c.csv", "movieId,rating", f"{ids[items[0]]},{5.5 - ratings[0]}")
    lists = []
    for who in (["--user", 5], ["--ratings", by_title], ["--ratings", by_id, "--user", 5]):
        main.recommend([*map(str, who), "--out", str(out)])
        lists.append(shown(capsys))
    assert lists[0][0][1:4] == pytest.approx(lists[1][0][1:4], abs=2e-4)
    assert [row[4:] for row in lists[0]] == [row[4:] for row in lists[1]] and lists[0] == lists[2]
    items, ratings = main.person(main.Recommend(user="5", ratings=changed), files)
    assert dict(zip(items.tolist(), ratings, strict=True)) == dict(rows) | {
        rows[0][0]: 5.5 - rows[0][1]
    }


@pytest.mark.parametrize(
    ("typed", "movie"),
    [
        *[("heat (1995)", 0), ("HEAT  (1986)", 1), ("the godfather", 2), ("godfather, the", 2)],
        *[("Godfather, The (1972)", 2), ("The Godfather (1972)", 2), ("Emma (1996) [4]", 4)],
        *[("the good, the bad and the ugly", 5), ("(500) days of summer", 6), (TITLES[5], 5)],
        *[("alien", 7), ("ben-hur (1959)", 9), ("the girl (2009)", 10), ("the girl (2011)", 11)],
        *[("Hèat (1995)", 0), (" The  Góod, the Bad and the Ugly ", 5)],
        *[("dune", 13), ("Dune (Dune Chronicles, #1)", 14)],
        *[("Se7en", 15), ("se7en (1995)", 15), ("Leon", 16), ("the professional", 26)],
        *[("Il Postino", 17), ("postino, il", 17), ("Das Boot", 18), ("boot, das", 18)],
        *[("Schindler’s List", 19), ("Spider–Man", 20), ("spider‑man (2002)", 20)],
        *[("The Sorcerer's Stone", 21), ("harry potter (paperback)", 21), ("L’Avventura", 22)],
        *[("Cafe\u0301", 25), ("caf\u00e9 (2001)", 25)],
    ],
)
def test_titles_match_without_case_year_and_the_place_of_the(out, typed, movie):
    files = main.Artefacts(out)
    assert files.data["movie_ids"][main.find_movie(typed, files.names(), "x")] == movie


def test_what_is_shown_as_a_title_is_found_again(out):
    files = main.Artefacts(out)
    names = files.names()
    assert [main.find_movie(x, names, "") for x in files.titles()] == list(range(30))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "my.csv is empty; expected a header title,rating"),
        (["title,rating"], "my.csv holds no rating"),
        (["movie,rating", "Alien,4"], "my.csv:1: header is movie,rating, expected title,rating"),
        (
            ["title,rating", "", "Alein,4"],
            "my.csv:3: no movie is called 'Alein'; near are Alien (1979); A",
        ),
        (["title,rating", "zzz,4"], "my.csv:2: no movie is called 'zzz'; near are none"),
        (["title,rating", ",4"], "my.csv:2: no movie is called ''"),
        (["title,rating", "Heat,4"], "my.csv:2: 'Heat' may be Heat (1986) or Heat (1995)"),
        (["title,rating", "The Girl,4"], "may be Girl, The (La fille) (2009) or The Girl (2011)"),
        (
            ["title,rating", "Alein,4", "Alien,3", '"Heat",2', "zzz,5"],
            "my.csv:2: no movie is called 'Alein'; near are Alien (1979); Aliens (1986)",
        ),
        (
            ["title,rating", "Alein,4", "Alien,3", '"Heat",2', "zzz,5"],
            " | {path}:4: 'Heat' may be Heat (1986) or Heat (1995); write it so | {path}:5: no m",
        ),
        (["title,rating", "The Pair,4"], "may be Couple (The Pair) (1991) or Twins (The Pair)"),
        (["movieId,rating", "1.23457E+11,4"], "my.csv:2: id 1.23457E+11 was shortened by a spread"),
        (["title,rating", "Alien\x1b[2J,4"], "no movie is called 'Alien\\x1b[2J'"),
        (["title,rating", "x,4\x1b]0;y\x07"], "'4\\x1b]0;y\\x07' is not a number"),
        (["title\x1b[2J,rating", "x,4"], "my.csv:1: header is title [2J,rating, expected"),
        (["title,rating", "Alien,0.5", "alien (1979),0.5"], "is rated twice, on line 2 too"),
        (["title,rating", "Emma,4"], "'Emma' may be Emma (1996) [3] or Emma (1996) [4]"),
        (["title,rating", "Alien,5.5"], "my.csv:2: 5.5 is outside the scale, 0.5 .. 5"),
        (["title,rating", "Alien,0"], "my.csv:2: 0 is outside the scale"),
        (["title,rating", "Alien,good"], "my.csv:2: 'good' is not a number"),
        (["title,rating", "Alien,4", "alien,3"], "my.csv:3: 'alien' is rated twice"),
        (["title,rating", "Alien"], "my.csv:2: 1 cells, not 2"),
        (
            ["movieId,rating", "\x1b[2J,4"],
            "my.csv:2: '\\x1b[2J' is not a whole number, as those of",
        ),
        (["movieId,rating", "99,4"], "my.csv:2: id 99 is not in the data"),
    ],
)
def test_a_bad_file_of_ratings_is_one_line(out, tmp_path, capsys, lines, message):
    path = write(tmp_path / "my.csv", *lines)
    message = message.replace("{path}", str(path))
    assert message in refused("recommend", "--ratings", path, "--out", out, capsys=capsys)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "new.csv is empty; expected a header title,genres,tags"),
        (["title,genres,tags"], "new.csv holds no movie"),
        (
            ["title,genres,tags", "alien (1979),Horror,"],
            "new.csv:2: 'alien (1979)' is known already",
        ),
        (["title,genres,tags", "New (2024),,", "NEW (2024),,"], "new.csv:3: 'NEW (2024)' is known"),
        (["title,genres,tags", " ,Drama,x"], "new.csv:2: ' ' is known already, or empty"),
    ],
)
def test_a_bad_file_of_new_movies_is_one_line(out, tmp_path, capsys, lines, message):
    path = write(tmp_path / "new.csv", *lines)
    assert message in refused("recommend", "--user", 5, "--new", path, "--out", out, capsys=capsys)


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        ("recommend", "", "say for whom"),
        ("recommend", "--user 5 --all --to x.csv", "say for whom"),
        ("recommend", "--all", "or --all, with --to"),
        ("recommend", "--user 5 --recipe report", "unrecognized arguments: --recipe report"),
        ("recommend", "--ratings nowhere.csv", "nowhere.csv"),
        ("recommend", "--user 77", "--user: id 77 is not in the data"),
        ("similar", "", "give one of --movie, a title, and --text, a phrase"),
        ("similar", "--movie Heat", "--movie: 'Heat' may be Heat (1986) or Heat (1995)"),
        ("similar", "--movie Heet", "no movie is called 'Heet'; near are Heat (1986); Heat (1995)"),
        ("similar", "--movie Alien --text x", "give one of"),
    ],
)
def test_a_bad_command_is_one_line(out, capsys, command, line, message):
    assert message in refused(command, *line.split(), "--out", out, capsys=capsys)


def test_a_movie_that_only_the_new_person_rated_counts_as_rated(out, tmp_path):
    files = main.Artefacts(out, whole=True)
    cold = np.setdiff1d(np.arange(30), files.task.items)[0]
    rows = f"{files.data['movie_ids'][cold]},4", f"{files.data['movie_ids'][0]},2.5"
    path = write(tmp_path / "my.csv", "movieId,rating", *rows)
    ranker = main.ranker_of(main.Recommend(ratings=path, out=out), files)
    fitted, made = (
        read(out / "pmf-all.safetensors") for read in (metrics.load, metrics.provenance)
    )
    Q, known = fitted["item_factors"], np.array([cold, *files.task.items])
    fit = [made["settings"][name] for name in ("missing", "reg")]
    fit.append(len(files.task.users) / len(np.unique(files.task.users)))
    p, _ = fuse.new_user(np.array([cold, 0]), np.array([0.8, 0.5]), Q, np.unique(known), *fit)
    expected = fuse.scores_with_allowance(np.array([0]), p[None], Q, fuse.allowances(Q, known))
    assert ranker.scores(np.array([0])) == pytest.approx(expected, rel=1e-10)


def test_three_reasons_are_shown_at_most_and_none_that_speaks_against(capsys):
    scores = lambda users: np.array([[3.0, 2, 1, 0, 0, 0, 0]])  # noqa: E731
    parts = np.array([[0.1, 3, 2, 1], [-1, 0.5, 0, 0], [-1, -2, -3, -4]])
    seen, titles = group_by_user(np.zeros(4, int), np.array([3, 4, 5, 6]), 1), list("abcdefg")
    why = {"rated": titles[3:], "reasons": lambda shown: parts}
    main.print_list(main.Ranker([""], scores, seen, range(7), titles, **why), 5)
    assert [row[2:] for row in shown(capsys)] == [("a", "e; f; g"), ("b", "e"), ("c", "")]


def test_a_list_replaces_a_list_and_nothing_else(out, tmp_path, capsys, monkeypatch):
    mine, to = write(tmp_path / "my.csv", "title,rating", "Alien,4"), tmp_path / "to.csv"
    error = refused("recommend", "--user", 5, "--to", mine, "--out", out, capsys=capsys)
    assert "was not written by this command" in error and "Alien" in mine.read_text()
    for _ in range(2):
        main.recommend(["--user", "5", "--to", str(to), "--out", str(out)])
    assert to.read_text().startswith("userId,rank,movieId,title,score\n5,1,")
    monkeypatch.setattr(main, "ranker_of", None)  # before any work
    error = refused("recommend", "--user", 5, "--to", tmp_path, "--out", out, capsys=capsys)
    assert "is no file" in error


@pytest.mark.parametrize("block", [1, 2, 128])
def test_lists_of_all_are_those_of_each(out, tmp_path, capsys, monkeypatch, block):
    monkeypatch.setattr(main.ranked, "__defaults__", (block,))
    to = tmp_path / "to.csv"
    main.recommend(["--all", "--top", "4", "--to", str(to), "--out", str(out)])
    capsys.readouterr()
    with open(to, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ids = dict(
        zip(main.Artefacts(out).titles(), main.Artefacts(out).data["movie_ids"], strict=True)
    )
    for user in ("1", "2", "5"):
        main.recommend(["--user", user, "--top", "4", "--out", str(out)])
        for rank, (row, line) in enumerate(
            zip([r for r in rows if r["userId"] == user], shown(capsys), strict=True), 1
        ):
            assert (int(row["rank"]), row["title"]) == (rank, line[2])
            assert float(row["score"]) == pytest.approx(line[1], abs=6e-5)
            assert int(row["movieId"]) == ids[row["title"]]


@pytest.fixture
def fake_minilm(monkeypatch):
    """The encoder of new texts: what it is asked for, and vectors by hand."""
    import encode

    asked = []

    def tokenize(encoder, texts):
        asked.extend(texts)
        return texts

    vectors = lambda encoder, ids: np.eye(4, dtype=np.float32)[: len(ids)]  # noqa: E731
    monkeypatch.setattr(encode, "find_encoder", lambda name, weights: (name, weights))
    monkeypatch.setattr(encode, "load_encoder", lambda facts, folder: None)
    monkeypatch.setattr(encode, "tokenize", tokenize)
    monkeypatch.setattr(encode, "embed", vectors)
    return asked


def test_new_movies_join_by_their_text_and_the_allowance(out, tmp_path, capsys, fake_minilm):
    lines = ["title,genres,tags", "New One (2024),Drama|War,slow|Quiet", '"Other, The (2023)",,']
    path = write(tmp_path / "new.csv", *lines)
    line = ["--user", "5", "--top", "40", "--out", str(out)]
    main.recommend([*line, "--new", str(path), "--to", str(tmp_path / "to.csv")])
    main.recommend([*line, "--new", str(path)])
    rows = {row[2]: row for row in shown(capsys)}
    assert fake_minilm == ["New One Drama War slow quiet", "Other, The"] * 2
    assert ",,New One (2024)," in (tmp_path / "to.csv").read_text()
    fitted = metrics.load(out / "pmf-all.safetensors")
    new = np.eye(4)[:2] @ fitted["text_weights"]  # e W
    p = folded_in(out, 2)[1]
    scores = new @ p + fuse.ALLOWANCE * np.linalg.norm(p)
    for title, score in zip(("New One (2024)", "The Other (2023)"), scores, strict=True):
        assert rows[title][1] == pytest.approx(score, abs=6e-5)


def test_similar_leaves_the_movie_out_and_a_phrase_is_compared_by_text(out, capsys, fake_minilm):
    files = main.Artefacts(out, whole=True)
    titles, item = files.titles(), main.find_movie("alien", files.names(), "")
    Q = metrics.load(out / "pmf-all.safetensors")["item_factors"]
    E = metrics.load(out / "minilm.safetensors")["embeddings"]
    for by, spaces in (("factors", [Q]), ("text", [E]), ("both", [Q, E])):
        main.similar(["--movie", "Alien", "--by", by, "--top", "3", "--out", str(out)])
        found = [line[14:].strip() for line in capsys.readouterr().out.splitlines()[1:]]
        scores = fuse.similar(item, *spaces)
        order = [i for i in np.argsort(-scores) if i != item]
        assert found == [titles[i] for i in order[:3]]
    main.similar(["--text", "a quiet western", "--top", "40", "--out", str(out)])
    found = capsys.readouterr().out.splitlines()[1:]
    phrase = np.eye(4)[0]
    best = np.argsort(-(E @ phrase))
    assert fake_minilm == ["a quiet western"] and len(found) == 30
    assert found[0][14:].strip() == titles[best[0]]
    cosine = E[best[0]] @ phrase / np.linalg.norm(E[best[0]])
    assert float(found[0].split()[1]) == pytest.approx(cosine, abs=6e-5)


@pytest.mark.parametrize(
    "line", ["recommend --ratings my.csv", "recommend --all --to all.csv", "similar --movie alien"]
)
def test_neither_people_nor_similar_import_torch_or_numba(out, tmp_path, line):
    write(tmp_path / "my.csv", "title,rating", "Alien,4")
    command = [sys.executable, "-X", "importtime", str(ROOT / "main.py"), *line.split()]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = {entry.split("|")[-1].strip() for entry in done.stderr.splitlines()}
    assert "numpy" in loaded and not loaded & {"torch", "numba", "transformers"}


def test_factors_of_test_ratings_are_never_evaluated(artefacts, capsys):
    out = artefacts
    path = out / "pmf-ours.safetensors"
    made = metrics.provenance(path)
    inputs = [out / name for name in made["inputs"]]
    metrics.save(path, metrics.load(path), made["settings"] | {"all": True}, inputs)
    error = refused("evaluate", "--out", out, "--k", 2, capsys=capsys)
    assert "pmf-ours.safetensors was made with all = True, not False" in error


def test_ids_may_be_called_itemId_and_are_read_as_those_of_the_data(out, tmp_path, capsys):
    movie = main.Artefacts(out).ids("movie_ids")[0]
    found = []
    for head, cell in (("movieId", movie), ("itemId", movie), ("movieId", f"{movie}.0")):
        path = write(tmp_path / "my.csv", f"{head},rating", f"{cell},4")
        main.recommend(["--ratings", str(path), "--out", str(out)])
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] == found[2]
    for cell, what in (("987654", "is not in the data"), (f"00{movie}", "is no plain number")):
        path = write(tmp_path / "my.csv", "itemId,rating", f"{cell},4")
        error = refused("recommend", "--ratings", path, "--out", out, capsys=capsys)
        assert f"my.csv:2: id {cell} {what}" in error


def test_who_has_rated_everything_gets_no_file(out, tmp_path, capsys):
    ids = main.Artefacts(out).ids("movie_ids")
    path = write(tmp_path / "my.csv", "movieId,rating", *(f"{movie},4" for movie in ids))
    to = tmp_path / "to.csv"
    error = refused("recommend", "--ratings", path, "--to", to, "--out", out, capsys=capsys)
    assert "every movie has been rated" in error and not to.exists()


def test_the_nearest_titles_are_first_those_that_hold_the_words(out, capsys):
    error = refused("similar", "--movie", "ugly bad", "--out", out, capsys=capsys)
    assert "near are Good, the Bad and the Ugly, The (Buono, il brutto, il cattivo, Il)" in error


@pytest.mark.parametrize(
    "cell",
    [" " * 100_000, "x" + " " * 100_000 + "y", "(" * 100_000, " (x" * 33_000, "9" * 10**5],
)
@pytest.mark.parametrize("head", ["title,rating", "movieId,rating", "new"])
def test_a_cell_of_100_000_characters_takes_no_time(out, tmp_path, capsys, cell, head):
    """The regular expressions for titles and numbers took minutes."""
    path, start = tmp_path / "my.csv", time.perf_counter()
    if head == "new":
        write(path, "title,genres,tags", f"{cell},,", f"{cell},,")
        refused("recommend", "--user", 5, "--new", path, "--out", out, capsys=capsys)
    else:
        write(path, head, f"{cell},4", f"{cell},{cell}x")
        refused("recommend", "--ratings", path, "--out", out, capsys=capsys)
    assert time.perf_counter() - start < 5


def test_a_number_that_is_none_is_refused_at_once():
    start = time.perf_counter()
    with pytest.raises(metrics.BadInput, match="is not a number"):
        main.number("1" * 100_000 + "x", "here", whole=False)
    assert time.perf_counter() - start < 1


def test_brackets_by_hand():
    for name, outside, inside in (
        ("Seven (a.k.a. Se7en)", "Seven", ["a.k.a. Se7en"]),
        ("Stone (Potter (Paperback)) x (y)", "Stone x", ["Potter (Paperback)", "y"]),
        ("(500) Days of Summer", "(500) Days of Summer", []),
        ("City (of) Lost", "City Lost", ["of"]),
        ("Not (closed", "Not (closed", []),
        ("Closed) twice", "Closed) twice", []),
    ):
        assert main.BRACKETS.sub("", name) == outside
        assert main.BRACKETS.findall(name) == inside


def test_the_heading_names_the_data_and_the_folder(out, tmp_path, capsys):
    main.recommend(["--user", "5", "--out", str(out)])
    head = capsys.readouterr().out.splitlines()[0]
    assert head == f"user 5 of data, by all its ratings and MiniLM ({out}/)"
    path = write(tmp_path / "my\x1b[2J.csv", "title,rating", "Alien,4")
    main.recommend(["--user", "5", "--ratings", str(path), "--out", str(out)])
    head = capsys.readouterr().out.splitlines()[0]
    assert head.startswith("user 5 and ") and "\x1b" not in head


def test_new_titles_stay_in_their_cell_of_a_list(out, tmp_path, capsys, fake_minilm):
    """Neither a terminal obeys them nor a spreadsheet, and each is one line."""
    titles = '"=HYPERLINK(""x"")"', "+1", "-30- (1959)", "@x", '"two\rlines\n\x1b[2J"'
    path = write(tmp_path / "new.csv", "title,genres,tags", *(f"{title},," for title in titles[:4]))
    line = ["--user", "5", "--top", "40", "--out", str(out), "--new", str(path)]
    to = tmp_path / "to.csv"
    main.recommend([*line, "--to", str(to)])
    with open(to, encoding="utf-8", newline="") as file:
        found = {row["title"] for row in csv.DictReader(file)}
    assert found >= {'\'=HYPERLINK("x")', "'+1", "'-30- (1959)", "'@x"}
    write(path, "title,genres,tags", f"{titles[4]},,")
    main.recommend(line)
    assert [row[2] for row in shown(capsys) if row[2].startswith("two")] == ["two lines  [2J"]


@pytest.fixture
def tiny(tmp_path):
    """make_artefacts of ratings and movies that are given as lines."""

    def make(ratings, n_movies):
        folder = make_folder(tmp_path / "data")
        write(folder / "ratings.csv", "userId,movieId,rating", *ratings)
        movies = (f"{movie},Film {movie}" for movie in range(1, n_movies + 1))
        write(folder / "movies.csv", "movieId,title", *movies)
        (folder / "tags.csv").unlink()
        return make_artefacts(folder)

    return make


def test_lists_of_all_say_who_gets_none(tiny, tmp_path, capsys):
    """User 1 has rated every movie, user 3 all with 0."""
    ratings = [*(f"1,{m},{m % 5 + 1}" for m in range(1, 13)), *(f"2,{m},4" for m in range(1, 9))]
    out, to = tiny([*ratings, *(f"3,{m},0" for m in range(1, 9))], 12), tmp_path / "to.csv"
    capsys.readouterr()
    main.recommend(["--all", "--to", str(to), "--out", str(out)])
    assert "1 lists, none for 2 who have rated every movie, or none well" in capsys.readouterr().out
    assert {line.split(",")[0] for line in to.read_text().splitlines()[1:]} == {"2"}
    error = refused("recommend", "--user", 3, "--out", out, capsys=capsys)
    assert "every rating is below 2.5, which counts as none" in error
    mine = write(tmp_path / "my.csv", "title,rating", "Film 1,0", "Film 2,0")
    error = refused("recommend", "--ratings", mine, "--out", out, capsys=capsys)
    assert "every rating is below 2.5, which counts as none" in error


def test_similar_of_a_single_movie_says_so(out, monkeypatch, capsys):
    names = {"alien": {0: "Alien"}}
    monkeypatch.setattr(main.Artefacts, "names", lambda self: names)
    one = main.Artefacts(out, whole=True)
    one.task = one.task._replace(n_items=1)
    monkeypatch.setattr(main, "Artefacts", lambda folder, whole: one)
    error = refused("similar", "--movie", "alien", "--out", out, capsys=capsys)
    assert "has a single movie, so that none is similar" in error


def test_a_phrase_that_is_no_utf8_is_one_line(out):
    line = [sys.executable, ROOT / "main.py", "similar", "--out", out, "--text", b"caf\xe9"]
    done = subprocess.run(line, capture_output=True)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"--text is not UTF-8" in done.stderr


def test_titles_that_are_missing_are_named(artefacts, capsys):
    (artefacts / "movies.csv").unlink()
    error = refused("recommend", "--user", 5, "--out", artefacts, capsys=capsys)
    assert f"{artefacts / 'movies.csv'} is missing; `main.py prepare` writes it" in error
