"""table3.py: its splits and measures by hand, Table III end to end on random data."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import table3

import main
import metrics

SVG = "{http://www.w3.org/2000/svg}"


def study_of(users, items, ratings, shape, k=2):
    columns = np.array(users), np.array(items), np.array(ratings, dtype=np.float32)
    return table3.Study(columns, shape, table3.Settings(k=k))


def test_gini_is_0_if_all_are_shown_equally_and_almost_1_if_one_has_everything():
    assert table3.gini(np.array([3, 3, 3, 3])) == pytest.approx(0)
    assert table3.gini(np.array([0, 0, 8, 0])) == pytest.approx(3 / 4)
    assert table3.gini(np.array([2, 0, 1])) == pytest.approx(
        2 * (1 * 0 + 2 * 1 + 3 * 2) / 9 - 4 / 3
    )


def test_coverage_and_popularity_by_hand():
    lists = np.array([[0, 2], [2, -1], [2, 0]])  # -1: nothing left to show
    found = table3.beyond_accuracy(lists, np.array([10, 50, 1, 7]))
    assert found["coverage"] == 2 / 4
    assert found["popularity"] == pytest.approx((10 + 1 + 1 + 1 + 10) / 5)
    assert found["gini"] == pytest.approx(table3.gini(np.array([2, 0, 3, 0])))


def test_a_shelf_shows_and_strikes_and_wants_the_right_pairs():
    study = study_of([0, 0, 1], [0, 1, 2], [5, 2, 4], (3, 5))
    held = np.array([0, 0, 1, 1, 2]), np.array([2, 3, 0, 1, 0]), np.array([4, 5, 3.5, 4.5, 5])
    shelf = table3.Shelf(study, held, study.known, struck=(np.array([1]), np.array([0])))
    assert shelf.items.tolist() == [0, 1, 2]  # item 3 was never rated: neither shown nor wanted
    assert shelf.users.tolist() == [0, 1]  # user 2 liked item 0, but has no history
    result = shelf.measure(table3.constant_ranker(np.array([3, 2, 1, 9, 9])))
    assert result["hits"].tolist() == [1, 1]
    assert result["ndcg"].tolist() == [1, 1]  # user 0: only item 2 is left; user 1: only item 1
    assert shelf.lists(table3.constant_ranker(np.arange(5))).tolist() == [[2, -1], [1, -1]]
    cold = table3.Shelf(study, held, ~study.known)
    assert cold.items.tolist() == [3, 4] and cold.users.tolist() == [0]
    second = cold.measure(table3.constant_ranker(np.array([0, 0, 0, 1, 2])))
    assert second["ndcg"].tolist() == [pytest.approx(1 / np.log2(3))]


def test_buckets_hold_both_ends_and_every_user_once():
    history = np.array([1, 9, 10, 19, 20, 49, 50, 2000])
    inside = [(history >= low) & (history <= high) for low, high in table3.HISTORY.values()]
    assert np.array(inside).sum(axis=1).tolist() == [2, 2, 2, 2]
    assert np.array(inside).sum(axis=0).tolist() == [1] * 8
    counts = np.array([0, 1, 4, 5, 19, 20, 300])
    inside = [(counts >= low) & (counts <= high) for low, high in table3.COUNTS.values()]
    assert np.array(inside).sum(axis=1).tolist() == [1, 2, 2, 2]
    for bucket, kept in table3.KEPT.items():
        low, high = table3.HISTORY[bucket]
        assert kept is None or low <= kept <= high


def test_a_bucket_row_has_means_of_its_users_and_the_paired_difference():
    ndcg = {table3.OURS_ROW: np.array([0.5, 1.0, 0.0]), table3.PMF_ROW: [0.25, 0.75, 1.0]}
    row = table3.bucket_row("1-9", ndcg, np.array([True, True, False]))
    assert row["users"] == 2 and row["ndcg"] == {table3.OURS_ROW: 0.75, table3.PMF_ROW: 0.5}
    assert row["difference"] == (0.25, 0.25, 0.25)
    assert table3.bucket_row("0", ndcg, np.zeros(3, dtype=bool))["ndcg"] == {}


def test_cold_movies_are_a_share_of_the_rated_ones():
    items = np.array([1, 1, 4, 6, 6, 8])
    cold = table3.cold_movies(items, 10, 0.5, seed=3)
    assert cold.sum() == 2 and set(np.flatnonzero(cold)) <= {1, 4, 6, 8}
    assert np.array_equal(cold, table3.cold_movies(items[::-1], 10, 0.5, seed=3))
    assert table3.cold_movies(items, 10, 0.1, seed=3).sum() == 1


def test_place_within_numbers_each_users_ratings_from_0():
    users = np.array([2, 0, 2, 1, 2, 0])
    place = table3.place_within(users, seed=1)
    assert {u: sorted(place[users == u].tolist()) for u in range(3)} == {
        0: [0, 1],
        1: [0],
        2: [0, 1, 2],
    }


def test_a_row_has_its_seeds_range_and_the_paired_difference():
    a, b = ({name: np.array(v) for name in table3.METRICS} for v in ([0.2, 0.4], [0.4, 0.6]))
    found = table3.pooled([a, b])
    assert found["ndcg"] == pytest.approx([0.3, 0.5])
    row = table3.result_row("x", found, table3.pooled([b]))
    assert row["ndcg"] == pytest.approx([0.4, 0.3, 0.5]) and row["starts"] == 2
    assert row["difference"] == pytest.approx((0.1, 0.1, 0.1))
    assert "difference" not in table3.result_row("x", found, found)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An out/ folder of random ratings, one user of them long, and random embeddings."""
    folder, rng = tmp_path_factory.mktemp("ours"), np.random.default_rng(0)
    rows = [(u, m) for u in range(12) for m in range(90) if rng.random() < (0.9, 0.3)[u > 2]]
    ratings = "".join(f"{u},{m},{1 + (u + m) % 5},{rng.integers(10**9)}\n" for u, m in rows)
    movies = "".join(f"{m},Film {m} (1999),Drama\n" for m in range(93))
    texts = {
        "ratings.csv": f"userId,movieId,rating,timestamp\n{ratings}",
        "movies.csv": f"movieId,title,genres\n{movies}",
        "tags.csv": "userId,movieId,tag,timestamp\n1,2,slow,5\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    main.prepare(["--data", str(folder), "--out", str(folder)])
    for name, documents in table3.TEXTS.values():
        if name != "minilm-ours":
            e = rng.normal(size=(93, 6)).astype(np.float32)
            path = folder / f"{name}.safetensors"
            metrics.save(path, {"embeddings": e}, {}, [folder / documents])
    return folder


def run_ours(out, **options):
    small = {"k": 5, "starts": 2, "factors": 3, "sweeps": 2, "epochs": 2, "out": out}
    small |= {"baselines": out / "none.json"} | options
    table3.make_table3([f"--{name}={value}" for name, value in small.items()])
    return json.loads((out / "results-ours.json").read_text())


def recorded(out):
    """A baselines.json of this split, in which a peer finds as much as ours on average."""
    found = json.loads((out / "results-ours.json").read_text())
    row = {}
    for part, name in (("test", "warm"), ("validation", "validation"), ("temporal", "temporal")):
        n = found[name][0]["users"]
        row[part] = {"seeds": [[0.1, 0.2, 0.3]]} | {m: [0.3] * n for m in table3.METRICS}
    row["beyond"] = {"coverage": 0.5, "gini": 0.25, "popularity": 7.0}
    split = table3.split_of(out / "ratings.safetensors")
    return {"split": split, "k": 5, "quick": False, "rows": {"EASE": row}}


def test_table3_end_to_end_on_random_data(out):
    results = run_ours(out)
    warm = {row["row"]: row for row in results["warm"]}
    assert list(warm) == list(table3.WARM_ROWS)
    assert warm["EASE"]["status"].startswith("not run: tests/recorded/baselines.json")
    assert warm[table3.TUNED_ROW]["status"].startswith("not run: out/minilm-ours.safetensors")
    assert warm[table3.OURS_ROW]["starts"] == 2 and warm["Most popular"]["starts"] == 1
    assert [row["bucket"] for row in results["thinned"]] == list(table3.KEPT)
    assert {row["users"] for row in results["thinned"]} == {3}  # the long ones, at every length
    assert sum(row["users"] for row in results["history"]) == warm[table3.OURS_ROW]["users"]
    assert results["cold movies"] == 9
    assert [point["alpha"] for point in results["alpha"]["base"]] == [i / 10 for i in range(11)]
    ends = {row["row"]: row for row in results["validation"]}
    curve = results["alpha"]["base"]
    assert curve[10]["ndcg"] == pytest.approx(ends[table3.PRIOR_ROW]["ndcg"][0])
    assert curve[6]["ndcg"] == pytest.approx(ends[table3.OURS_ROW]["ndcg"][0])


def test_table3_and_its_figures_are_well_formed(out):
    table = (out / "table3.md").read_text()
    assert table.count("\n**") == len(table3.TABLE3)
    for block in re.findall(r"(?:^\|.*\n)+", table, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "edition" in table and "{" not in table
    for name in ("figure2.svg", "figure3.svg"):
        tree = ElementTree.parse(out / name)
        assert len(list(tree.iter(f"{SVG}text"))) > 10
    bars = [r for r in ElementTree.parse(out / "figure3.svg").iter(f"{SVG}rect") if len(r)]
    results = json.loads((out / "results-ours.json").read_text())
    parts = ("history", "thinned", "items")
    filled = sum(row["users"] > 0 for part in parts for row in results[part])
    assert len(bars) == filled * len(table3.BUCKET_ROWS)


def test_the_recorded_peers_enter_the_rows_of_their_split_only(out):
    path = out / "baselines.json"
    path.write_text(json.dumps(recorded(out)))
    results = run_ours(out, baselines=path)
    ease = next(row for row in results["warm"] if row["row"] == "EASE")
    assert ease["ndcg"] == [0.3, 0.3, 0.3] and ease["gini"] == 0.25
    ours = next(row for row in results["warm"] if row["row"] == table3.OURS_ROW)
    assert ease["difference"][0] == pytest.approx(ours["ndcg"][0] - 0.3)
    assert "EASE" in results["history"][-1]["ndcg"]
    path.write_text(json.dumps(recorded(out) | {"split": {}}))
    lab = table3.Lab(table3.Settings(out=out, baselines=path, k=5))
    assert lab.baselines() == {}


def test_a_run_twice_is_the_same(out):
    first = run_ours(out)
    assert run_ours(out) == first


def test_nothing_of_a_cold_movie_is_fitted(out):
    lab = table3.Lab(table3.Settings(out=out, k=5, factors=3, sweeps=2))
    cold = table3.cold_movies(lab.all[1], lab.shape[1], 0.1, 42)
    study = lab.study(table3.choose(lab.train, ~cold[lab.train[1]]))
    assert not study.known[cold].any() and study.likes[cold].sum() == 0
    features = study.features(lab.embeddings("no tags"))
    _, Q = study.fit(0, features)
    changed = features.copy()
    changed[cold] = -changed[cold]
    _, other = study.fit(0, changed)
    assert np.array_equal(Q[study.known], other[study.known])
    assert not np.array_equal(Q[cold], other[cold])
    assert not study.fit(0)[1][cold].any()


def test_the_temporal_split_looks_at_nothing_after_its_date(out):
    lab = table3.Lab(table3.Settings(out=out, k=5))
    study, _, date = table3.temporal_split(lab)
    times = np.concatenate([lab.data["train_times"], lab.data["test_times"]])
    assert len(study.users) == np.sum(times < date) == np.floor(0.8 * len(times))


def test_what_is_missing_is_said_in_one_line(out, tmp_path, capsys):
    for name in ("ratings.safetensors", "documents-no-leak.txt"):
        with pytest.raises(SystemExit) as leave:
            metrics.run(lambda: table3.make_table3(["--out", str(tmp_path)]))
        error = capsys.readouterr().err
        assert leave.value.code == 2 and error.count("\n") == 1 and "is missing" in error
        (tmp_path / name).write_bytes((out / name).read_bytes())
