"""Ranking metrics in plain NumPy, and below them what the scripts share: settings and files.

For a user with relevant items R and a recommended list l_1 .. l_K (binary gain g_k = [l_k in R]):

    Precision@K = sum_k g_k / K          Recall@K = sum_k g_k / |R|
    DCG@K = sum_k g_k / log2(k + 1)      NDCG@K   = DCG@K / (DCG@K of min(|R|, K) leading hits)

NDCG with a log2 discount is Jarvelin & Kekalainen (2002). `ndcg_own_hits` divides instead by the
ideal order of the list's OWN hits; the report prints it in its NDCG column (Table I).
Users without a relevant item are skipped and counted; every mean is over the others.

Gives:  P = R = 2/3 and NDCG = (1 + 1/2) / (1 + 1/log2(3) + 1/2) = 0.704 for a list of K = 3 that
        has hits at ranks 1 and 3, of a user with three relevant items.

The file imports nothing of the project and has no command. Its first half, down to the
imports in its middle, needs NumPy alone, and so does `import metrics`.

Legend: U users, I items, N ratings, K list length (in pmf.py: factors), D dimensions, B batch.
"""

import math

import numpy as np

NAMES = ("hits", "precision", "recall", "ndcg", "ndcg_own_hits")

# ------------------------------------------------------------------------------------------------
# The metrics of lists
# ------------------------------------------------------------------------------------------------


def metrics_at_k(gains, n_relevant):
    """Per-user metrics of a list of K items, K = gains.shape[1].

    gains: (B, K) bool, whether the item at each rank is relevant. n_relevant: (B,) |R| >= 1.
    Precision divides by K even if fewer items could be recommended; recall by |R| even if |R| > K;
    NDCG by the ideal DCG over min(|R|, K) hits; ndcg_own_hits by the ideal DCG over the list's own
    hits (0 without a hit). Returns a dict of (B,) arrays by NAMES. Raises ValueError on |R| < 1.
    """
    n_rows, k = gains.shape
    if n_rows and np.min(n_relevant) < 1:
        raise ValueError("metrics_at_k: recall is undefined without a relevant item; skip the user")
    discount = 1 / np.log2(np.arange(2, k + 2))  # (K,) of rank 1 .. K
    ideal = np.concatenate([[0.0], np.cumsum(discount)])  # (K + 1,) DCG of 0 .. K leading hits
    hits = gains.sum(axis=1)  # (B,)
    dcg = (gains * discount).sum(axis=1)  # (B,)
    return {
        "hits": hits,
        "precision": hits / k,  # Precision@K
        "recall": hits / n_relevant,  # Recall@K
        "ndcg": dcg / ideal[np.minimum(n_relevant, k)],  # NDCG@K
        "ndcg_own_hits": dcg / ideal[np.maximum(hits, 1)],  # the report's "NDCG"
    }


# ------------------------------------------------------------------------------------------------
# The split, top-K, and the metrics of a ranker
# ------------------------------------------------------------------------------------------------


def split_per_user(users, share=0.2, seed=42):
    """Row numbers of the kept and the held-out part, drawn user by user.

    users: (N,) ids. Each user's n rows (in the order given) are permuted by a RandomState(seed) of
    their own; the first ceil(share n) are held out, the rest kept, both in permuted order; users
    follow each other by ascending id. A user with a single row keeps it.
    Returns (kept, held), together (N,) int64. Source: the report's run (section III).
    """
    order = np.argsort(users, kind="stable")  # (N,)
    starts = np.flatnonzero(np.diff(users[order])) + 1  # (U - 1,)
    kept, held = [], []
    for rows in np.split(order, starts):
        n = len(rows)
        cut = math.ceil(share * n) if n > 1 else 0
        p = np.random.RandomState(seed).permutation(n)  # (n,)
        held.append(rows[p[:cut]])
        kept.append(rows[p[cut:]])
    return np.concatenate(kept), np.concatenate(held)


def group_by_user(users, items, n_users):
    """(indptr, items): the items of user u are items[indptr[u]:indptr[u + 1]], in the order given.

    users, items: (N,) whole numbers from 0. Returns indptr (U + 1,) int64 and items (N,). Raises
    ValueError on other numbers, and on a user beyond n_users - 1.
    """
    users, items = np.asarray(users), np.asarray(items)
    for name, ids in (("users", users), ("items", items)):
        if len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0):
            raise ValueError(f"group_by_user: {name} must be whole numbers from 0")
    if len(users) and users.max() >= n_users:
        raise ValueError(f"group_by_user: user {users.max()}, but n_users is {n_users}")
    indptr = np.zeros(n_users + 1, dtype=np.int64)  # (U + 1,)
    np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
    return indptr, items[np.argsort(users, kind="stable")]


def pairs_of_block(grouped, users):
    """(row, item) pairs of a block: entry (b, i) says that users[b] holds item i. Both (M,)."""
    indptr, items = grouped
    lists = [items[indptr[user] : indptr[user + 1]] for user in users]
    rows = np.repeat(np.arange(len(users)), [len(own) for own in lists])  # (M,)
    return rows, np.concatenate([items[:0], *lists])


def top_k(scores, k):
    """The k best items of each row, best first; EQUAL SCORES KEEP ASCENDING ITEM ORDER.

    scores: (B, I) float, -inf where an item is no candidate. Returns (B, min(k, I)) int64, with -1
    where a row has fewer candidates than k. Raises ValueError on NaN, or on k < 1.
    """
    n_rows, n_items = scores.shape
    k = min(k, n_items)
    if k < 1:
        raise ValueError(f"top_k needs k >= 1 and at least one item, got k={k}, I={n_items}")
    places = np.flatnonzero(~(scores < _lower_bound(scores, k)))  # (M,) row by row; NaN is kept
    rows, items = np.divmod(places, n_items)  # (M,) items ascending
    values = scores[rows, items]  # (M,)
    if np.isnan(values).any():
        raise ValueError("top_k: a score is NaN, so no order exists; look at the scorer's input")
    order = np.lexsort((-values, rows))  # (M,) stable, hence the tie rule
    first = np.searchsorted(rows, np.arange(n_rows))  # (B,)
    best = order[first[:, None] + np.arange(k)]  # (B, k)
    return np.where(values[best] == -np.inf, -1, items[best])


def _lower_bound(scores, k, groups_per_k=8):
    """A score that at least k items of each row reach, and few more: (B, 1), k <= I.

    The items are dealt into G >= k groups: the k-th best of the groups' best is reached by k items.
    One pass of maxima costs a tenth of a partition of the row. NaN in a group makes the bound NaN.
    """
    n_rows, n_items = scores.shape
    depth = max(1, n_items // (groups_per_k * k))  # items a group
    n_groups = n_items // depth  # G; the last few items, I - depth G < depth, are in none
    dealt = scores[:, : depth * n_groups].reshape(n_rows, depth, n_groups)  # a view
    return np.partition(dealt.max(axis=1), n_groups - k, axis=1)[:, n_groups - k, None]


def best_items(score, seen, users, k):
    """The best items that each of `users` (B,) has not seen, by a scorer as of evaluate().

    It works on a copy of the scores, because a scorer may keep what it returns. float32 scores stay
    float32. Returns (B, min(k, I)) ids; -1 where none is left.
    """
    found = score(users)  # (B, I)
    scores = np.array(found, dtype=np.result_type(found, np.float32))  # (B, I)
    scores[pairs_of_block(seen, users)] = -np.inf
    return top_k(scores, k)


def metrics_of_lists(lists, relevant, users, k):
    """metrics_at_k of the lists (B, k or fewer) of item ids of `users` (B,); -1 is no item.

    relevant: group_by_user pair. A list shorter than k counts as if the rest were no hits.
    Raises ValueError if a list holds an item twice, or an id below -1.
    """
    ordered = np.sort(lists, axis=1)  # (B, K)
    if np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)) or np.any(lists < -1):
        raise ValueError("metrics_of_lists: a list holds an item twice, or an id below -1")
    rows, items = pairs_of_block(relevant, users)  # (M,)
    last = max(lists.max(initial=-1), items.max(initial=-1))  # the highest item id
    wanted = np.zeros((len(users), last + 2), dtype=bool)  # (B, ids + 1); column -1 is "nothing"
    wanted[rows, items] = True
    gains = np.zeros((len(users), k), dtype=bool)  # (B, K)
    gains[:, : lists.shape[1]] = np.take_along_axis(wanted, lists, axis=1)
    return metrics_at_k(gains, np.count_nonzero(wanted, axis=1))  # an item twice counts once


def evaluate(score, seen, relevant, k=25, block=128):
    """Metrics of a ranker for every user that has a relevant item.

    score: function of a block of user ids (B,) that returns (B, I) scores over all candidate items.
    seen, relevant: group_by_user pairs over the same users; seen items are never recommended.
    Users go in even blocks of at most `block`, so memory is block x I, whatever U.
    Returns {"users": (E,) ids, "skipped": U - E, "lists": (E, K) ids or -1, by NAMES: (E,) arrays}.
    Raises BadInput if no user has a relevant item.
    """
    users = np.flatnonzero(np.diff(relevant[0]))  # (E,)
    if len(users) == 0:
        raise BadInput("no user has a relevant item, so there is nothing to measure")
    parts, lists = [], []
    for block_users in np.array_split(users, math.ceil(len(users) / block)):
        lists.append(best_items(score, seen, block_users, k))  # (B, K)
        parts.append(metrics_of_lists(lists[-1], relevant, block_users, k))
    result = {name: np.concatenate([part[name] for part in parts]) for name in NAMES}
    skipped = len(relevant[0]) - 1 - len(users)
    return {"users": users, "skipped": skipped, "lists": np.concatenate(lists), **result}


# ------------------------------------------------------------------------------------------------
# Means, standard errors, differences
# ------------------------------------------------------------------------------------------------


def summary(result):
    """Means over users and their standard errors (sd with n - 1, over sqrt n), of an evaluate()."""
    n = len(result["users"])
    row = {"users": n, "skipped": int(result["skipped"]), "hits": int(result["hits"].sum())}
    for name in NAMES[1:]:
        row[name] = float(result[name].mean())
        row[f"{name}_se"] = float(result[name].std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return row


def paired_bootstrap(a, b, draws=10_000, seed=0, level=0.95):
    """(mean, low, high) of mean(a - b), with users, and seeds where there are several, drawn anew.

    a, b: (E,) one metric of two rankers for the same E users in the same order; a ranker that was
    trained with S seeds has (S, E). Each draw takes E users with replacement, the same ones for
    both rankers, and for each ranker S of its seeds. The interval is the percentile one (Efron &
    Tibshirani 1993, ch. 13). Raises ValueError if the numbers of users differ.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)  # (S, E), each with an S of its own
    n = a.shape[1]
    if n != b.shape[1]:
        raise ValueError(f"paired_bootstrap needs the same users twice, got {n} and {b.shape[1]}")
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        users = rng.integers(n, size=n)  # (E,)
        seeds_a = rng.integers(len(a), size=(len(a), 1))  # (S, 1)
        mean_a = a[seeds_a, users].mean()
        seeds_b = rng.integers(len(b), size=(len(b), 1))  # (S, 1)
        means.append(mean_a - b[seeds_b, users].mean())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(a.mean() - b.mean()), float(low), float(high)


# ------------------------------------------------------------------------------------------------
# What every script shares: settings, errors, arrays on disk
# ------------------------------------------------------------------------------------------------

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import traceback
import types
import typing
from pathlib import Path


class BadInput(ValueError):
    """Input that a user can mend; the message names the file, the value and what to do."""


SEEDS = 0, 2**32 - 1  # what NumPy's RandomState takes


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise BadInput(f"{message}; --help lists the options")


def parse(settings, doc, argv=None, **bounds):
    """An instance of the frozen dataclass `settings` from the command line.

    A field's trailing comment is its --help; a field without a default is required; bool fields
    become --flag/--no-flag, tuples take any number of values, a Literal one of its own.
    bounds: by field the least value, or (least, most). Raises BadInput on any other command line.
    """
    name = Path(sys.argv[0]).name
    if argv is not None:  # the options of a command, which stands before them
        name = " ".join([name, *sys.argv[1:2]])
    as_it_stands = argparse.RawDescriptionHelpFormatter
    doc = inspect.cleandoc(doc or "")  # none under python -OO
    parser = _Parser(prog=name, description=doc, formatter_class=as_it_stands)
    classes = reversed(settings.__mro__[:-1])  # all but object; its own comments go last
    source = "".join(map(inspect.getsource, classes))
    comments = dict(re.findall(r"^    (\w+):.*?  # (.+)$", source, re.MULTILINE))
    for field in dataclasses.fields(settings):
        required = field.default is dataclasses.MISSING
        note = comments.get(field.name, "")
        if not required and field.default not in (None, ""):
            note += f" (default: {field.default})"
        options = {"help": note.replace("%", "%%"), "default": field.default, "required": required}
        options |= _options_of(field.type)
        parser.add_argument("--" + field.name.replace("_", "-"), **options)
    values = vars(parser.parse_args(argv))
    for name, bound in bounds.items():
        least, most = bound if isinstance(bound, tuple) else (bound, math.inf)
        if values[name] is not None and not least <= values[name] <= most:
            limit = f" and at most {most}" if most < math.inf else ""
            flag = name.replace("_", "-")
            raise BadInput(f"--{flag} {values[name]}: it must be at least {least}{limit}")
    return settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _options_of(kind):
    """What argparse needs for values of a type, or of a type that may be None."""
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        return {"nargs": "*", "type": typing.get_args(kind)[0]}
    if typing.get_origin(kind) is typing.Literal:
        return {"choices": typing.get_args(kind)}
    return {"type": kind}


def run(main):
    """Call main(). Bad input, or too little memory, ends in a line and status 2; Ctrl-C in 130."""
    sys.stdout.reconfigure(errors="replace")  # a terminal may lack a title's letters
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        message = " ".join(str(error).split())
        frames = traceback.extract_tb(error.__traceback__)
        full = isinstance(error, MemoryError) or "can't allocate memory" in message  # torch's words
        if full or type(error).__name__ == "OutOfMemoryError":  # and its class, for GPUs
            message = f"too little memory ({message[:200]}); a smaller batch or budget needs less"
        elif any("numba/core/caching" in frame.filename for frame in frames):
            kept = Path(__file__).with_name("__pycache__")
            message = f"machine code that Numba kept is damaged ({message}); delete {kept}"
        elif not isinstance(error, BadInput | OSError):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; finished files are kept, run again to go on", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def stage(out, what, folder=False):
    """A line when a stage starts, and one at its end with its seconds and the figures handed in.

    Before any work it refuses a path `out` that check_target refuses.
    """
    check_target(out, folder)
    figures, start = [], time.perf_counter()
    print(f"{out}: {what} ...", flush=True)
    yield figures.append
    figures.append(f"{time.perf_counter() - start:.1f} s")
    print(f"{out}: done, {', '.join(figures)}", flush=True)


def progress(total, what, **options):
    """A tqdm bar of what is made, none for ""; under make (SHARED_SCREEN=1), a line every tenth."""
    from tqdm import tqdm  # here: recommending needs none

    class Lines(tqdm):
        tenths = 0  # shown so far

        def display(self, *_, **__):
            if 10 * self.n // max(self.total, 1) > self.tenths:
                self.tenths = 10 * self.n // self.total
                print(f"{what}: {self.tenths}0 %  {self.postfix or ''}".rstrip(), flush=True)

    if not what:
        return tqdm(total=total, disable=True)
    if os.environ.get("SHARED_SCREEN"):
        return Lines(total=total, leave=False, file=sys.stdout, **options)
    return tqdm(total=total, desc=what, disable=None, file=sys.stdout, **options)


def sha256(path):
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path):
    """Text of a UTF-8 file, its line ends as they are; BadInput names the line that is no UTF-8."""
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}:{line}: not UTF-8; save it so (in Excel: CSV UTF-8)") from None


def read_json(path, *keys):
    """The object in a JSON file; refuses one that is cut, lacks a key or has another checksum."""
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not complete JSON ({error}); delete it and run make") from None
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            raise BadInput(f"{path} has no {key!r}; delete it and run make again")
    if isinstance(found, dict) and "sha256" in found and found != with_checksum(found):
        raise BadInput(f"{path} is damaged, or was changed; delete it and run make again")
    return found


def versions():
    """Versions of Python and of the runtime packages that are installed."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "numba", "torch", "transformers", "peft", "bitsandbytes", "safetensors"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def check_target(path, folder=False):
    """Refuse a path that cannot be written, or where something is that we did not write.

    A file never replaces a folder, nor a folder a file, and no symbolic link is followed.
    """
    if Path(path).is_symlink():
        raise BadInput(f"{path} is a symbolic link, which is never followed; name another path")
    path = Path(path).resolve()
    if path.exists():
        if not (path.is_dir() if folder else path.is_file()):
            kind = "folder" if folder else "file"
            raise BadInput(f"{path} is there and is no {kind}; name another path")
        written = _written(path)
        written |= {parent for file in written for parent in file.parents}
        there = set(path.rglob("*")) if folder else {path}
        for other in sorted(there - written):
            told = "was not written by this command, or has changed since"
            raise BadInput(f"{other} {told}; move it or name another path")
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadInput(f"{path}: {parent} is not a folder that can be written to")


def _digests(path):
    """{(name, sha256)} of a file or of the files in a folder; names are relative to its parent."""
    files = path.rglob("*") if path.is_dir() else [path]
    return {(str(f.relative_to(path.parent)), sha256(f)) for f in files if f.is_file()}


def _written(path):
    """The paths of a file, or of those in a folder, that are still as whole() wrote them."""
    try:
        listed = json.loads(Path(path.parent, ".written", path.name).read_text())
        unchanged = _digests(path) & {tuple(pair) for pair in listed}
        return {path.parent / name for name, _ in unchanged}
    except (OSError, ValueError, TypeError, RecursionError):  # no list, or a damaged one
        return set()


@contextlib.contextmanager
def whole(path, folder=False):
    """A temporary path, renamed to `path` when the block ends well, else removed.

    With `folder` it is an empty folder for the block to fill. The file .written/NAME beside `path`
    lists the sha256 of what was written: only that is ever replaced.
    """
    check_target(path, folder)
    path = Path(path).resolve()
    lists = path.parent / ".written"
    lists.mkdir(parents=True, exist_ok=True)
    for left in lists.iterdir():
        name, _, process = left.stem.rpartition(".")
        if left.is_dir() and name == path.name and _was_killed(process):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=lists, prefix=f"{path.name}.{os.getpid()}.") as beside:
        new, old, listed = (Path(beside, name) for name in (f"new/{path.name}", "old", "list"))
        (new if folder else new.parent).mkdir(parents=True)
        yield new
        for file in new.rglob("*.safetensors"):  # the library makes them for their owner alone
            file.chmod(new.stat().st_mode & 0o666)
        check_target(path, folder)  # again: time has passed
        listed.write_text(json.dumps(sorted(_digests(path) | _digests(new))))
        os.replace(listed, lists / path.name)
        try:
            if folder and path.exists():
                path.rename(old)
            os.replace(new, path)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise


def _was_killed(process):
    """Whether no process of this number, digits, is at work any more."""
    try:
        os.kill(int(process), 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # another user's process; or no number, so a folder of others
        pass
    return False


def remove_written(folder):
    """Delete what whole() wrote in and below a folder and nobody changed; then emptied folders."""
    folder, emptied = Path(folder).resolve(), set()
    for lists in list(folder.rglob(".written")):
        for listed in filter(Path.is_file, lists.iterdir()):
            for file in _written(lists.parent / listed.name):
                file.unlink()
                emptied |= set(file.parents)
        shutil.rmtree(lists)
    for path in sorted(emptied - set(folder.parents), reverse=True):
        with contextlib.suppress(OSError):  # unless something is in it
            path.rmdir()


def origin(settings, inputs=()):
    """{"settings", "inputs", "versions"} of a file that is to be saved.

    settings: a dict, of which paths (and None) are left out. inputs: files, of which the sha256 is
    taken, or a dict of such digests by name.
    """
    if not isinstance(inputs, dict):
        inputs = {Path(p).name: sha256(p) for p in inputs}
    kept = {k: v for k, v in settings.items() if v is not None and not isinstance(v, Path)}
    return {"settings": kept, "inputs": inputs, "versions": versions()}


def with_checksum(record, arrays=None):
    """The record with the "sha256" of all else in it, and of named arrays that belong to it."""
    record = {name: part for name, part in record.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name, array in sorted((arrays or {}).items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array)
    return record | {"sha256": digest.hexdigest()}


def save(path, arrays, settings, inputs=()):
    """Write named arrays as safetensors, whole or not at all, with their origin() and a checksum.

    The metadata holds both as one JSON text, because a safetensors file with several metadata
    entries is not the same bytes twice.
    """
    import safetensors.numpy  # here and below: the first half of this file needs NumPy alone

    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    made = with_checksum(origin(settings, inputs), arrays)
    metadata = {"provenance": json.dumps(made, sort_keys=True)}
    with whole(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(arrays, metadata))


def provenance(path):
    """{"settings", "inputs", "versions", "sha256"} of a file that save() wrote."""
    import safetensors

    if not Path(path).exists():
        raise BadInput(f"{path} is missing; `make all` builds it")
    open(path, "rb").close()  # says so where it may not be read
    try:
        with safetensors.safe_open(path, framework="np") as file:
            made = json.loads(file.metadata()["provenance"])
        return made | {name: dict(made[name]) for name in ("settings", "inputs", "versions")}
    except Exception as error:  # a cut or odd file can raise nearly everything
        raise BadInput(f"{path} is damaged ({error}); delete it and run make again") from None


def require(path, found, wanted):
    """Refuse a file that was made with other settings, or inputs, than wanted: both are dicts."""
    for name, value in wanted.items():
        if found.get(name) != value:
            made = f"{name} = {found.get(name)!r}, not {value!r}"
            raise BadInput(f"{path} was made with {made}; delete it and run make again")


def load(path, inputs=(), names=(), **settings):
    """The arrays of a file that save() wrote.

    Refuses one that was made from other inputs or with other settings, lacks one of the names, or
    is not finite.
    """
    import safetensors.numpy

    made = provenance(path)
    require(path, made["settings"], settings)
    require(path, made["inputs"], {Path(source).name: sha256(source) for source in inputs})
    arrays = safetensors.numpy.load_file(path)
    if made != with_checksum(made, arrays):
        raise BadInput(f"{path} is damaged: its checksum is another; delete it and run make again")
    for name in names:
        if name not in arrays:
            raise BadInput(f"{path} holds {', '.join(arrays)}, but no {name}: it is another file")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = np.argwhere(~np.isfinite(array))[0][0]
            found = f"row {row} of {name} is not finite"
            raise BadInput(f"{path}: {found}; delete it and run make again")
    return arrays


def check_texts(path, digests, ratings):
    """Refuse what was made from other texts than those that prepare wrote with these ratings.

    digests: sha256 of the texts at `path`, or of what `path` was made from.
    """
    known = provenance(ratings)["settings"].get("texts", {}).values()
    if known and not set(known) & set(digests):
        raise BadInput(f"{path} belongs to another data set or split than {ratings}")


def load_embeddings(path, ratings):
    """(I, D) of encode.py, whose rows are the items of these ratings: for cosines, of length 1."""
    check_texts(path, provenance(path)["inputs"].values(), ratings)
    e = load(path, names=["embeddings"])["embeddings"]  # (I, D)
    lengths = np.linalg.norm(e, axis=1, keepdims=True)  # (I, 1)
    if np.allclose(lengths, 1, atol=1e-3):  # most encoders leave them so, to a rounding
        return e
    return e / np.maximum(lengths, 1e-12)
