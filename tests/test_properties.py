"""Properties of the metrics, of the split and of the CSV reader, on inputs that hypothesis draws.

Set PROPERTY_EXAMPLES to try more of them, e.g. 5000.
"""

import csv
import io
import math
import os
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import main
import metrics

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", 300))
many = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
few_values = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5, 2.0])


@st.composite
def score_matrices(draw):
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 60))
    cells = draw(st.lists(few_values, min_size=rows * columns, max_size=rows * columns))
    return np.array(cells).reshape(rows, columns)


@many
@given(score_matrices(), st.integers(1, 12))
def test_top_k_is_the_head_of_a_stable_sort(scores, k):
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, scores.shape[1])]
    best = np.take_along_axis(scores, order, axis=1)
    assert np.array_equal(metrics.top_k(scores, k), np.where(best == -np.inf, -1, order))


@st.composite
def gains_and_relevant(draw):
    rows, k = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    gains = np.array(draw(st.lists(st.booleans(), min_size=rows * k, max_size=rows * k)))
    gains = gains.reshape(rows, k)
    missed = draw(st.lists(st.integers(0, 6), min_size=rows, max_size=rows))
    return gains, np.maximum(gains.sum(axis=1) + missed, 1)


@many
@given(gains_and_relevant())
def test_metrics_lie_between_0_and_1_and_grow_with_a_hit(case):
    gains, relevant = case
    found = metrics.metrics_at_k(gains, relevant)
    for name in metrics.NAMES[1:]:
        assert np.all((found[name] >= 0) & (found[name] <= 1 + 1e-12))
    better, relevant = gains.copy(), np.maximum(relevant, gains.sum(axis=1) + 1)
    row, free = 0, np.flatnonzero(~gains[0])
    if len(free):
        before = metrics.metrics_at_k(gains, relevant)
        better[row, free[0]] = True
        after = metrics.metrics_at_k(better, relevant)
        for name in ("hits", "precision", "recall", "ndcg"):
            assert after[name][row] > before[name][row]


@many
@given(st.integers(1, 12), st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_a_permutation_of_the_users_permutes_the_result(n_users, n_items, seed):
    rng = np.random.default_rng(seed)
    scores, order = rng.random((n_users, n_items)), rng.permutation(n_users)
    seen, relevant = (rng.random((n_users, n_items)) < share for share in (0.2, 0.3))
    relevant &= ~seen
    if not relevant.any():
        return
    pairs = [metrics.group_by_user(*np.nonzero(x), n_users) for x in (seen, relevant)]
    turned = [metrics.group_by_user(*np.nonzero(x[order]), n_users) for x in (seen, relevant)]
    one = metrics.evaluate(lambda u: scores[u], *pairs, k=3)
    two = metrics.evaluate(lambda u: scores[order][u], *turned, k=3)
    for name in metrics.NAMES:
        by_user = dict(zip(one["users"].tolist(), one[name].tolist(), strict=True))
        assert [by_user[order[u]] for u in two["users"]] == two[name].tolist()


@many
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 9))
def test_the_parts_of_a_split_are_disjoint_and_whole(users, share, seed):
    users = np.array(users)
    kept, held = metrics.split_per_user(users, share, seed)
    assert sorted([*kept, *held]) == list(range(len(users)))
    for user, n in zip(*np.unique(users, return_counts=True), strict=True):
        assert np.sum(users[held] == user) == (math.ceil(share * n) if n > 1 else 0)


# Damaged CSV files are read as Python's csv module reads them, or refused in one line

GOOD = {
    "ratings.csv": 'userId,movieId,rating,timestamp\n1,31,2.5,12\n1,7,3,9\n"2","7","4.0","-3"\n',
    "movies.csv": 'movieId,title,genres\n7,"A, B (1990)",Drama\n31,"He said ""no""",War|Drama\n',
    "tags.csv": 'userId,movieId,tag,timestamp\n1,31,slow,5\n2,7,"two\nlines, one tag",6\n',
}
SCRAPS = st.sampled_from(
    [*'",;\t\n\r .-_+0179ax\x00', '""', "\r\n", "\n\n", "1e3", "nan", "é", "\ufeff", "٣", "1.0"]
    + ["99999999999999999999", ",,", '"\n"', "5.5", "#", "userId", "1,31,2.5,12\n", "0x1"]
)


@st.composite
def damaged(draw):
    """The name of a file and its bytes with up to four cuts, insertions or repetitions."""
    name = draw(st.sampled_from(sorted(GOOD)))
    text = GOOD[name]
    for _ in range(draw(st.integers(0, 4))):
        a = draw(st.integers(0, len(text)))
        b = min(len(text), a + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["cut", "insert", "repeat", "replace"]))
        put = {"cut": "", "repeat": text[a:b] * 2}.get(kind)
        put = draw(SCRAPS) if put is None else put
        text = text[:a] + put + text[a if kind == "insert" else b :]
    data = text.encode()
    return name, data if draw(st.integers(0, 9)) else data + b"\xe9"


def whole(cell):
    assert re.fullmatch(r"\s*[+-]?\d+(\.0*)?\s*", cell)
    return int(cell.split(".")[0])


def ids_like(cells):
    """How these ids are read: as the first one is; as strings if any has a 0 in front."""
    padded = any(re.fullmatch(r"0[0-9]+|[0-9]{9}[Xx]", cell.strip()) for cell in cells)
    if re.fullmatch(r"[+-]?[0-9]+(\.0*)?", cells[0].strip()) and not padded:
        return whole

    def string(cell):
        assert cell.strip() and "\0" not in cell
        return cell.strip()

    return string


def by_the_csv_module(name, data):
    """What the file says to Python's csv module, int and float: rows of values; or an error."""
    text = data.decode("utf-8-sig")
    head, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    full = GOOD[name].split("\n")[0].split(",")
    assert head in (full, full[:-1])  # the last column may be missing
    read = {"userId": whole, "movieId": whole, "rating": float}
    if name == "ratings.csv":  # ids are of one kind
        read |= {x: ids_like([row[at] for row in rows]) for at, x in enumerate(full[:2])}
    read |= {"timestamp": whole} if name == "ratings.csv" else {}  # a tag's time is not read
    rows = [[read.get(x, str)(cell) for x, cell in zip(head, r, strict=True)] for r in rows]
    return [row + [{"ratings.csv": 0}.get(name, "")] * (len(full) - len(head)) for row in rows]


def by_our_reader(path):
    if path.name == "ratings.csv":
        found = main.read_ratings(path)
        columns = found.user_ids[found.users], found.movie_ids[found.movies], *found[4:]
        return [list(row) for row in zip(*columns, strict=True)]
    if path.name == "movies.csv":
        return [[movie, *rest] for movie, rest in main.read_movies(path).items()]
    tags = main.read_tags(path, {7: None, 31: None})
    return [list(row) for row in tags]


@many
@given(damaged())
def test_a_damaged_csv_is_read_as_the_csv_module_reads_it_or_refused_in_a_line(
    tmp_path_factory, case
):
    name, data = case
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    try:
        ours = by_our_reader(path)
    except metrics.BadInput as error:
        assert str(path) in str(error)  # and metrics.run prints it as one line
        assert data != GOOD[name].encode()
        return
    expected = by_the_csv_module(name, data)
    if name == "tags.csv":
        expected = [row[:3] for row in expected]  # the time is not read
    if name == "movies.csv":
        expected = [[row[0], *map(main.one_line, row[1:])] for row in expected]
    assert ours == expected
    if name == "ratings.csv":
        assert all(0 <= row[2] < 2**63 for row in ours)


def test_the_whole_files_are_read(tmp_path):
    for name, text in GOOD.items():
        path = tmp_path / name
        path.write_text(text)
        rows = by_our_reader(path)
        assert len(rows) == {"ratings.csv": 3, "movies.csv": 2, "tags.csv": 2}[name]
    assert rows[1] == [2, 7, "two\nlines, one tag"]
