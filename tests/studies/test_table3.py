"""table3.py: its splits and measures by hand, Table III end to end on random data."""

import json
import math
import re
from functools import partial

import common
import numpy as np
import pytest
import table3

import fuse
import main
import metrics
import pmf


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Intervals of a hundred draws: what they are is tested with the metrics."""
    with pytest.MonkeyPatch.context() as patched:
        few = partial(metrics.paired_bootstrap, draws=100)
        patched.setattr(table3, "paired_bootstrap", few)
        yield


def lab_of(shape, **settings):
    """A Lab without an out/ folder."""
    lab = object.__new__(table3.Lab)
    lab.n_users, lab.n_items = shape
    lab.settings = table3.Settings(**settings)
    lab.liked, lab.highest = 4.0, 5.0
    return lab


def rows_of(users, items, ratings):
    columns = np.array(users), np.array(items), np.array(ratings, dtype=np.float32)
    return *columns, np.zeros(len(users))


def by(values):
    """The ranker of one order for everybody."""
    return table3.alone(partial(fuse.constant_scores, values=np.array(values)))


def test_a_task_shows_and_strikes_and_wants_the_right_pairs():
    lab = lab_of((3, 5))
    known = rows_of([0, 0, 1], [0, 1, 2], [5, 2, 4])
    held = rows_of([0, 0, 1, 1, 2], [2, 3, 0, 1, 0], [4, 5, 3.5, 4.5, 5])
    task = lab.task(known, held, struck=rows_of([1], [0], [1]))
    result = table3.measure(task, by([3, 2, 1, 9, 9]), 2)
    assert result["users"].tolist() == [0, 1]  # user 2 liked item 0, but has no history
    assert result["hits"].tolist() == [1, 1]  # item 3 was never rated: neither shown nor wanted
    assert result["ndcg"].tolist() == [1, 1]  # user 0: only item 2 is left; user 1: only item 1
    lists = metrics.best_items(lambda users: np.zeros((2, 5)), task.seen, np.array([0, 1]), 3)
    assert lists.tolist() == [[2, -1, -1], [1, -1, -1]]
    cold = lab.task(known, held, np.array([False, False, False, True, True]))
    second = table3.measure(cold, by([9, 9, 9, 1, 2]), 2)
    assert second["users"].tolist() == [0]
    assert second["ndcg"].tolist() == [pytest.approx(1 / np.log2(3))]


def test_standardise_by_hand_over_the_candidates():
    scores = np.array([[1.0, 3, 8], [2, 2, 9]])
    among = np.array([[True, True, False], [True, True, False]])  # mean 2, sd 1; then no spread
    assert common.standardise(scores, among).tolist() == [[-1, 1, 6], [0, 0, 0]]
    assert common.standardise(scores, np.zeros((2, 3), dtype=bool)).tolist() == [[0] * 3] * 2
    same = np.full((1, 3), 0.7)
    assert common.standardise(same, same > 0).tolist() == [[0, 0, 0]]  # rounding is no difference


def test_z_fusion_by_hand():
    """CF scores 1, 3 and text scores 1, 0 over the two candidates: z = (-1, 1) and (1, -1).

    The third item, which is seen, has z = (9 - 2) / 1 and (.6 - .5) / .5 by the same measure.
    """
    free = np.array([[True, True, False]])
    got = common.z_fusion(np.array([[1.0, 3, 9]]), np.array([[1.0, 0, 0.6]]), free, alpha=0.7)
    assert got[0, :2] == pytest.approx([0.7 * -1 + 0.3 * 1, 0.7 * 1 + 0.3 * -1])
    assert got[0, 2] == pytest.approx(0.7 * 7 + 0.3 * 0.2)


def test_centred_by_hand():
    """The mean of the known (1, 0) and (0, 1) is (1/2, 1/2); what is left points along (1, -1)."""
    got = common.centred(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 1.5]]), [0, 1])
    half = math.sqrt(1 / 2)
    assert got == pytest.approx(np.array([[half, -half], [-half, half], [0, 1]]))
    assert common.centred(np.ones((2, 3)), slice(None)).tolist() == [[0] * 3] * 2


def test_coverage_gini_and_popularity_by_hand():
    """Items 0, 2, 3 have 1, 2 and 1 ratings, item 1 none. Both see item 2, one 3, one 0."""
    known, held = rows_of([0, 1, 2, 2], [0, 3, 2, 2], [3] * 4), rows_of([0, 1], [2, 2], [5, 5])
    task = lab_of((3, 4)).task(known, held)
    found = table3.beyond_accuracy(task, by([0, 9, 8, 7]), 3)  # 2, 3, none and 2, 0, none
    assert found["coverage"] == 3 / 3
    assert found["popularity"] == (2 + 1 + 2 + 1) / 4
    assert found["gini"] == pytest.approx((-2 * 1 + 0 * 1 + 2 * 2) / (3 * 4))
    found = table3.beyond_accuracy(task, by([0, 9, 8, 7]), 1)
    assert found == {"coverage": 1 / 3, "popularity": 2, "gini": pytest.approx(2 / 3)}


def test_buckets_hold_both_ends_and_every_user_once():
    history = np.array([10, 19, 20, 49, 50, 2000])
    inside = [(history >= low) & (history <= high) for low, high in table3.HISTORY.values()]
    assert np.array(inside).sum(axis=1).tolist() == [2, 2, 2]
    assert np.array(inside).sum(axis=0).tolist() == [1] * 6
    counts = np.array([0, 1, 4, 5, 19, 20, 300])
    inside = [(counts >= low) & (counts <= high) for low, high in table3.COUNTS.values()]
    assert np.array(inside).sum(axis=1).tolist() == [1, 2, 2, 2]
    for bucket, kept in table3.KEPT.items():
        low, high = ({"1-9": (1, 9)} | table3.HISTORY)[bucket]
        assert low <= kept <= high


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


def test_the_mixed_shelf_by_hand():
    """Movies 0 and 1 are rated, 2 and 3 new; user 0 likes 1 and 3, user 1 the new 2 alone."""
    known, rated = rows_of([0, 1], [0, 1], [5, 5]), rows_of([0], [1], [5])
    new, cold = rows_of([0, 1], [3, 2], [5, 4]), np.array([False, False, True, True])
    tasks = table3.mixed_tasks(lab_of((2, 4)), known, rated, new, cold)
    row, ndcg = table3.mixed_shelf(tasks, by([0, 9, 7, 8]), cold, 2)  # 1, 3 and 3, 2
    second = 1 / np.log2(3)
    assert ndcg.tolist() == pytest.approx([1, second])
    assert row == {
        "ndcg_all": pytest.approx((1 + second) / 2),
        "ndcg_rated": 1,  # of user 0 alone
        "ndcg_new": pytest.approx(second),
        "recall_new": 1,
        "share_new": 3 / 4,
    }


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
    assert found["ndcg"].tolist() == [[0.2, 0.4], [0.4, 0.6]]
    row = table3.result_row("x", found, table3.pooled([b]))
    assert row["ndcg"] == pytest.approx([0.4, 0.3, 0.5]) and row["starts"] == 2
    assert row["difference"] == pytest.approx((0.1, 0.0, 0.2))  # twice the one seed or the other
    assert "difference" not in table3.result_row("x", found, found)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An out/ folder of random ratings, three users of them long, and random embeddings."""
    folder, rng = tmp_path_factory.mktemp("ours"), np.random.default_rng(0)
    rows = [(u, m) for u in range(12) for m in range(90) if rng.random() < (0.9, 0.3)[u > 2]]
    ratings = "".join(f"{u},{m},{1 + (u + m) % 5},{rng.integers(10**9)}\n" for u, m in rows)
    movies = "".join(f"{m},Film {m} (1999),Drama\n" for m in range(93))
    texts = {
        "ratings.csv": f"userId,movieId,rating,timestamp\n{ratings}",
        "movies.csv": f"movieId,title,genres\n{movies}",
        "tags.csv": "userId,movieId,tag,timestamp\n1,2,slow,5\n",
    }
    data = folder / "data"
    data.mkdir()
    for name, text in texts.items():
        (data / name).write_text(text)
    main.prepare(["--data", str(data), "--out", str(folder)])
    chosen = {"k": 3, "missing": 0.1, "reg": 2.8, "text": 0.2}
    (folder / "ours.json").write_text(json.dumps({"chosen": chosen}))
    made = {"encoder": "minilm", "adapter": "", "nf4": False, "dtype": "float32"}
    for name, documents in table3.TEXTS.values():
        e = rng.normal(size=(93, 6)).astype(np.float32)
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        path = folder / f"{name}.safetensors"
        metrics.save(path, {"embeddings": e}, made, [folder / documents])
    return folder


def small(out, **options):
    options = {"baselines": out / "none.json", "k": 5, "sweeps": 2} | options
    return table3.Settings(out=out, epochs=2, **options)


@pytest.fixture(scope="module")
def results(out):
    """What a run writes into results-ours.json."""
    return json.loads(json.dumps(table3.study(small(out, starts=2))))


def test_table3_end_to_end_on_random_data(results):
    warm = {row["row"]: row for row in results["warm"]}
    peers = {"EASE", "Weighted MF (implicit)", "Collective EASE", "L3AE"}  # not measured here
    assert list(warm) == [row for row in table3.WARM_ROWS if row not in peers]
    assert warm[table3.OURS_ROW]["starts"] == 2 and warm["Most popular"]["starts"] == 1
    assert [row["row"] for row in results["ablations"]] == list(table3.ABLATIONS)
    assert [row["bucket"] for row in results["thinned"]] == list(table3.KEPT)
    assert {row["users"] for row in results["thinned"]} == {3}  # the long ones, at every length
    assert sum(row["users"] for row in results["history"]) == warm[table3.OURS_ROW]["users"]
    assert results["cold movies"] == 9
    assert [row["row"] for row in results["cold"]] == [r["row"] for r in results["cold among all"]]
    mixed = {row["row"]: row for row in results["mixed"]["rows"]}
    assert mixed["ours"]["share_new"] > mixed["ours, no allowance"]["share_new"]
    assert "difference" not in mixed["ours"] and len(mixed) == 6
    assert [point["alpha"] for point in results["alpha"]["base"]] == [i / 10 for i in range(11)]
    near, far = (
        np.array([row["ndcg"]["Most popular"] for row in results[part] if row["users"]])
        for part in ("items", "items among all")
    )
    assert (near >= far).all() and (near > far).any()  # fewer movies are in the way
    ends = {row["row"]: row for row in results["validation"]}
    curve = results["alpha"]["base"]
    assert curve[10]["ndcg"] == pytest.approx(ends[table3.OURS_ROW]["ndcg"][0])
    late = curve[round(10 * table3.LATE_ALPHA)]["ndcg"]
    assert late == pytest.approx(ends[table3.LATE_ROW]["ndcg"][0])


def test_the_first_start_of_ours_is_what_main_measures(out, monkeypatch):
    """The same two rows as in Table I, from the factors that pmf.py writes."""
    command = ["--ratings", str(out / "ratings.safetensors"), "--k", "3", "--sweeps", "2"]
    text = ["--embeddings", str(out / "minilm-no-leak.safetensors")]
    pmf.main_ranking([*command, "--out", str(out / "pmf-ranking.safetensors")])
    pmf.main_ranking([*command, *text, "--out", str(out / "pmf-ours.safetensors")])
    for name, text in (("pmf-ranking", ""), ("pmf-ours", "minilm-no-leak")):
        monkeypatch.setitem(main.FACTORS, name, (text, {}))  # so few sweeps too
    files, scores = main.Artefacts(out), {}
    for row, name in ((table3.PMF_ROW, "pmf-ranking"), (table3.OURS_ROW, "pmf-ours")):
        U, V = files.factors(name)
        scores[row] = partial(fuse.mf_scores, U=U, V=V)
    warm = {row["row"]: row for row in table3.warm_part(table3.Lab(small(out, starts=1)))["warm"]}
    for row, scorer in scores.items():
        found = metrics.summary(metrics.evaluate(scorer, files.task.seen, files.task.relevant, 5))
        for name in table3.METRICS:
            assert warm[row][name] == pytest.approx([found[name]] * 3, abs=1e-12)


def test_table3_is_well_formed(results):
    table = table3.table3(results)
    assert table.count("\n**") == len(table3.TABLE3)
    for block in re.findall(r"(?:^\|.*\n)+", table, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert main.OWN in table and "{" not in table


def recorded(out, results, **split):
    """A baselines.json of this split, in which a peer finds .1, .2 and .3 of everything."""
    row = {"beyond": {"coverage": 0.5, "gini": 0.25, "popularity": 7.0}}
    for part, name in (("test", "warm"), ("validation", "validation"), ("temporal", "temporal")):
        n = results[name][0]["users"]
        row[part] = {"seeds": [[0.1, 0.2, 0.3]]} | {m: [0.3] * n for m in table3.METRICS}
    made = metrics.provenance(out / "ratings.safetensors")
    made["settings"] |= split
    path = out / "baselines.json"
    path.write_text(json.dumps({"split": made, "k": 5, "rows": {"EASE": row}}))
    return path


def test_the_recorded_peers_enter_the_rows_of_their_split_only(out, results):
    lab = table3.Lab(small(out, starts=1, baselines=recorded(out, results, edition="renamed")))
    found = table3.warm_part(lab)
    ease = next(row for row in found["warm"] if row["row"] == "EASE")
    assert ease["ndcg"] == [0.3, 0.3, 0.3] and ease["gini"] == 0.25
    ours = next(row for row in found["warm"] if row["row"] == table3.OURS_ROW)
    assert ease["difference"][0] == pytest.approx(ours["ndcg"][0] - 0.3)
    assert "EASE" in found["history"][-1]["ndcg"]
    recorded(out, results, valid_seed=8)
    assert lab.baselines("test") == {}
    recorded(out, results)
    assert table3.Lab(small(out, k=6, baselines=out / "baselines.json")).baselines("test") == {}


def test_a_run_twice_is_the_same(out, results):
    lab = table3.Lab(small(out, starts=2))
    for part in (table3.warm_part, table3.cold_part, table3.thinned_part):
        again = json.loads(json.dumps(part(lab)))
        assert again == {name: results[name] for name in again}


def test_nothing_of_a_cold_movie_is_fitted(out, monkeypatch):
    lab, tasks = table3.Lab(small(out)), []
    find = lambda lab, task: (tasks.append(task), {table3.OURS_ROW: by(np.zeros(93))})[1]  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(table3, "cold_rankers", find)
        table3.cold_part(lab)
    task, cold = tasks[0], table3.cold_movies(lab.all[1], 93, 0.1, 42)
    known = table3.counts_of(task.items, 93) > 0
    assert known.sum() > 70 and not known[cold].any()
    assert set(task.relevant[1]) <= set(np.flatnonzero(cold))
    before = table3.fit(lab, task, table3.Fitted(), 0)
    embeddings = lab.embeddings("base")
    embeddings[cold] *= -1
    monkeypatch.setattr(lab, "embeddings", lambda text: embeddings)
    after = table3.fit(lab, task, table3.Fitted(), 0)
    assert np.array_equal(before["U"], after["U"])
    assert np.array_equal(before["V"][known], after["V"][known])
    assert not np.array_equal(before["V"][cold], after["V"][cold])
    assert np.array_equal(before["content"].profiles, after["content"].profiles)
    assert not table3.fit(lab, task, table3.Fitted(prior=False), 0)["V"][cold].any()


def test_most_popular_puts_cold_movies_last_in_an_order_of_its_own(out):
    lab = table3.Lab(small(out))
    task = lab.task(*(table3.choose(lab.train, lab.train[1] % 9 > 0) for _ in range(2)))
    cold = table3.counts_of(task.items, 93) == 0
    popular = table3.cold_rankers(lab, task)["Most popular (all 0 if cold, then at random)"]
    scores = popular(np.array([0]), task.seen)[0]  # (I,)
    assert scores[cold].max() < 1 <= scores[~cold].min()
    assert len(set(scores[cold])) == cold.sum() >= 10


def test_the_temporal_split_looks_at_nothing_after_its_date(out):
    lab = table3.Lab(small(out))
    task, times = lab.splits()["temporal"], lab.all[3]
    assert task.times.max() < lab.date
    assert len(task.users) == np.sum(times < lab.date) == np.floor(0.8 * len(times))


def test_what_is_missing_is_said_in_one_line(out, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["table3.py", "--out", str(tmp_path)])
    for name in ("ratings.safetensors", "ours.json"):
        with pytest.raises(SystemExit) as leave:
            metrics.run(table3.main)
        error = capsys.readouterr().err
        assert leave.value.code == 2 and error.count("\n") == 1 and f"{name} is missing" in error
        (tmp_path / name).write_bytes((out / name).read_bytes())
