"""fuse.py against two-dimensional cases by hand and against plain loops."""

import dataclasses
import math
import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import fuse
import metrics

E2 = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])  # (I, D) three unit embeddings


def test_centroid_of_two_likes_is_their_unit_sum():
    got = fuse.centroids(np.array([0, 0]), np.array([0, 1]), E2, 2)
    assert got[0] == pytest.approx([1 / math.sqrt(2)] * 2)
    assert got[1].tolist() == [0, 0]  # liked nothing: cosine 0 to all


def test_eq1_by_hand():
    got = fuse.eq1(np.array([[0.0, math.log(3)]]), np.array([[0.5, -1.0]]), None, 0.75)
    assert got[0] == pytest.approx([0.75 * 1 / 2 + 0.25 * 0.5, 0.75 * 3 / 4 - 0.25], rel=1e-15)


def test_sigmoid_is_finite_far_out():
    assert fuse.sigmoid(np.array([-1e9, 0, 1e9])).tolist() == [0, 0.5, 1]


def test_notebook_profile_weighs_recency_and_rating():
    users, items = np.array([0, 0, 1]), np.array([0, 1, 2])
    ratings, times = np.array([5.0, 2.5, 4.0]), np.array([10, 11, 7])
    old, new = math.exp(0) * 5 / 5, math.exp(1) * 2.5 / 5
    got = fuse.notebook_profiles(users, items, ratings, times, E2, 3, 5.0)
    assert got[0] == pytest.approx([old / (old + new), new / (old + new)], rel=1e-15)
    assert got[1] == pytest.approx(E2[2])  # a single time: its weight cancels
    assert got[2].tolist() == [0, 0]


def test_notebook_profile_of_one_low_rating_is_that_item():
    one = np.array([0]), np.array([2]), np.array([0.5]), np.array([9])
    assert fuse.notebook_profiles(*one, E2, 1, 5.0)[0] == pytest.approx(E2[2])


def test_notebook_profile_equals_the_double_loop():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 5, 60), rng.integers(0, 9, 60)
    ratings, times = rng.integers(1, 11, 60) / 2, rng.integers(0, 1000, 60)
    e = rng.normal(size=(9, 4))
    got = fuse.notebook_profiles(users, items, ratings, times, e, 5, 5.0) @ e.T  # (U, I)
    for u in range(5):
        rows = np.flatnonzero(users == u)
        low, high = times[rows].min(), times[rows].max()
        w = [math.exp((times[n] - low) / (high - low)) * ratings[n] / 5 for n in rows]
        for i in range(9):
            cosines = sum(x * (e[i] @ e[items[n]]) for x, n in zip(w, rows, strict=True))
            assert got[u, i] == pytest.approx(cosines / sum(w), rel=1e-12)


def test_min_max_over_all_or_among_some():
    scores = np.array([[2.0, 4, 6, 10]])
    assert fuse.min_max(scores)[0] == pytest.approx([0, 2 / 8, 4 / 8, 1])
    among = np.array([[True, True, True, False]])
    assert fuse.min_max(scores, among)[0][:3] == pytest.approx([0, 1 / 2, 1])
    assert fuse.min_max(np.ones((1, 3)))[0].tolist() == [0, 0, 0]
    assert fuse.min_max(scores, np.zeros((1, 4), dtype=bool))[0].tolist() == [0, 0, 0, 0]


def data_of(users, items, ratings, valid, test):
    """The arrays of a ratings.safetensors by hand; test: its users, items, ratings."""
    train = [np.array(users), np.array(items), np.array(ratings), np.arange(len(users))]
    test = [*map(np.array, test), np.zeros(len(test[0]))]
    arrays = {"user_ids": np.arange(10, 13), "valid": np.array(valid, dtype=bool)}
    arrays |= {"liked": np.array(4.0), "highest": np.array(5.0)}
    for part, columns in (("train", train), ("test", test)):
        names = ("users", "items", "ratings", "times")
        arrays |= {f"{part}_{name}": x for name, x in zip(names, columns, strict=True)}
    return arrays


DATA = data_of(
    users=[0, 0, 0, 1, 1, 2],
    items=[0, 1, 2, 0, 3, 2],
    ratings=[5.0, 4.0, 3.5, 4.0, 4.5, 2.0],
    valid=[0, 1, 0, 0, 1, 0],
    test=([0, 1, 2, 2], [3, 1, 0, 4], [4.0, 3.5, 5.0, 5.0]),  # item 4 is not in train
)


def pairs(grouped):
    indptr, items = grouped
    return [items[a:b].tolist() for a, b in pairwise(indptr)]


def test_a_task_from_train_to_test_finds_liked_items_of_train():
    task = fuse.ranking_task(DATA)
    assert (task.n_users, task.n_items) == (3, 4)
    assert pairs(task.seen) == [[0, 1, 2], [0, 3], [2]]
    assert pairs(task.relevant) == [[3], [], [0]]  # 3.5 is not liked
    assert task.ratings.tolist() == [5, 4, 3.5, 4, 4.5, 2] and task.times.tolist() == [*range(6)]


def test_a_task_on_validation_hides_its_rows_and_keeps_all_items_of_train():
    task = fuse.ranking_task(DATA, validation=True)
    assert task.n_items == 4
    assert pairs(task.seen) == [[0, 2], [0], [2]]
    assert pairs(task.relevant) == [[1], [3], []]
    assert task.items.tolist() == [0, 2, 0, 2] and task.times.tolist() == [0, 2, 3, 5]


def test_candidates_are_the_unseen_items():
    free = fuse.candidates_of(fuse.ranking_task(DATA).seen, np.array([1, 0]), 4)
    assert free.tolist() == [[False, True, True, False], [False, False, False, True]]


def test_content_scores_are_products():
    content = fuse.Content(np.array([[1.0, 0.0], [0.0, 2.0]]), E2)
    assert content.scores(np.array([1])).tolist() == [[0, 2, 1.6]]


def test_a_movie_without_ratings_gets_the_allowance_and_no_other_does():
    U, V = np.array([[0.0, 1], [3, 4]]), np.array([[1.0, 0], [0, 1], [1, 1]])
    scores = partial(fuse.ours_scores, U=U, V=V, known=np.array([0, 2, 2]))
    assert scores(np.array([1, 0]), allowance=0.2).tolist() == [[3, 4 + 0.2 * 5, 7], [0, 1.2, 1]]
    assert scores(np.array([1]), allowance=0).tolist() == [[3, 4, 7]]
    assert scores(np.array([1]))[0, 1] == 4 + fuse.ALLOWANCE * 5


E4 = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])  # (I, D) of DATA's items


def test_content_of_the_report_is_the_cosine_to_the_centroid_of_the_liked():
    content = fuse.report_content(fuse.ranking_task(DATA), E4)
    half = math.sqrt(1 / 2)
    assert content.profiles == pytest.approx(np.array([[half, half], [0, 0], [0, 0]]))
    assert content.scores(np.array([0]))[0] == pytest.approx(
        [half, half, 1.4 * half, -half], rel=1e-12
    )


def test_content_of_the_notebook_is_the_weighted_mean_of_cosines():
    task = fuse.ranking_task(DATA)
    content = fuse.notebook_content(task, E4)
    w = [math.exp(0) * 5 / 5, math.exp(1 / 2) * 4 / 5, math.exp(1) * 3.5 / 5]
    cosines = E4[[0, 1, 2]] @ E4[3]
    expected = sum(a * b for a, b in zip(w, cosines, strict=True)) / sum(w)
    assert content.scores(np.array([0]))[0, 3] == pytest.approx(expected, rel=1e-12)


def test_the_recipes_are_fixed():
    assert (fuse.NOTEBOOK.alpha, fuse.REPORT.alpha, fuse.OURS.alpha) == (0.85, None, None)
    assert [recipe.reproduces for recipe in fuse.RECIPES.values()] == [True, True, False]
    for changed in (fuse.OURS, fuse.Settings("", "", "")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            changed.k = 1


def test_notebook_fusion_scales_cf_over_all_and_content_over_candidates():
    cf, content = np.array([[0.0, 1, 2]]), np.array([[1.0, 3, 9]])
    free = np.array([[True, True, False]])  # the third item is seen
    got = fuse.notebook_fusion(cf, content, free)  # alpha is .85 unless told
    assert got[0, :2] == pytest.approx([0.85 * 0 + 0.15 * 0, 0.85 * 1 / 2 + 0.15 * 1])


def test_what_is_not_a_number_stays_so():
    assert np.isnan(fuse.min_max(np.array([[1.0, np.nan, 3]]))).all()


def hidden_task(seen, relevant):
    nothing = np.array([])
    return fuse.Task(*[nothing] * 4, 1, 3, seen, relevant, liked=4.0, highest=5.0)


def test_grid_search_tries_both_ends_and_prefers_cf_among_equals():
    seen = metrics.group_by_user(np.array([], int), np.array([], int), 1)
    relevant = metrics.group_by_user(np.array([0]), np.array([1]), 1)
    good, bad = np.array([[0.0, 1, 0]]), np.array([[1.0, 0, 0.5]])
    blend = lambda users, alpha: alpha * bad + (1 - alpha) * good  # noqa: E731
    alpha, curve = fuse.grid_search(blend, hidden_task(seen, relevant), k=1)
    assert [row["alpha"] for row in curve][:: len(curve) - 1] == [0, 1]
    assert alpha == 0.45  # 1 - a > a alone ranks item 1 first: a < .5, and the largest such
    assert curve[0]["ndcg"] == 1 and curve[-1]["ndcg"] == 0


def test_validation_search_looks_for_the_hidden_rows_with_what_is_left():
    """User 0 should find item 1, user 1 item 3. The factors know, the text points elsewhere."""
    U = np.eye(3, 2)
    V = np.array([[0.0, 0], [9, 0], [0, 0], [0, 9]])
    found, curve = fuse.validation_search(fuse.REPORT, DATA, U, V, E4, k=1)
    assert found == 1 and curve[-1]["recall"] == 1 and curve[-1]["users"] == 2
    long = fuse.validation_search(fuse.REPORT, DATA, U, V, E4)[1]
    assert long[-1]["precision"] == 1 / 25  # lists of 25 unless told
    # the text alone: of its candidates 1 (cosine .6) and 3 (-.6) user 0 gets item 1 for item 0's
    # liking; user 1, who liked item 0, gets item 2
    assert curve[0]["hits"] == 1


def test_the_command_prints_the_curve_and_marks_its_best(tmp_path, monkeypatch, capsys):
    ratings, factors, embeddings = (tmp_path / f"{x}.safetensors" for x in "rfe")
    metrics.save(ratings, DATA, {})
    arrays = {"user_factors": np.eye(3, 2)}
    arrays |= {"item_factors": np.array([[0.0, 0], [9, 0], [0, 0], [0, 9]])}
    metrics.save(factors, arrays, {"fit_part": True}, [ratings])
    metrics.save(embeddings, {"embeddings": np.vstack([E4, E4])}, {})  # four more, not in train
    line = ["fuse.py", "--ratings", ratings, "--factors", factors, "--embeddings", embeddings]
    monkeypatch.setattr("sys.argv", [*map(str, line)])
    fuse.main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "alpha  P@25   R@25   NDCG@25   (validation)" and len(rows) == 21
    assert [row for row in rows if row.endswith("<- best")] == rows[-1:]
    assert rows[-1] == "1.00   0.0400 1.0000 1.0000  <- best"  # 1 hit of 25 each, at rank 1
    command = [sys.executable, *map(str, line), "--k", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=metrics.__file__[:-10])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--k 0: it must be at least 1" in done.stderr
    metrics.save(factors, arrays, {"fit_part": False}, [ratings])
    monkeypatch.setattr("sys.argv", [*map(str, line)])
    with pytest.raises(metrics.BadInput, match="fit_part = False, not True"):
        fuse.main()


@pytest.mark.parametrize("recipe", [fuse.NOTEBOOK, fuse.REPORT])
def test_a_recipe_at_its_ends_ranks_as_its_parts(recipe):
    rng, users = np.random.default_rng(2), np.array([1, 2])  # with two candidates or more
    task, embeddings = fuse.ranking_task(DATA), rng.normal(size=(4, 3))
    U, V, content = rng.normal(size=(3, 2)), rng.normal(size=(4, 2)), recipe.content
    scores = partial(fuse.hybrid_scores, users, U, V, content(task, embeddings), task.seen)
    cf, text = (scores(fusion=recipe.fusion, alpha=alpha) for alpha in (1.0, 0.0))  # (U, I)
    assert np.array_equal(cf.argsort(1), (U[users] @ V.T).argsort(1))
    expected = content(task, embeddings).scores(users)
    free = fuse.candidates_of(task.seen, users, 4)
    for row in range(2):
        some = np.flatnonzero(free[row])
        assert np.array_equal(text[row, some].argsort(), expected[row, some].argsort())


def test_the_scorer_of_eq1_is_eq1_of_its_parts():
    rng, users = np.random.default_rng(1), np.array([2, 0])
    U, V, e = rng.normal(size=(3, 2)), rng.normal(size=(5, 2)), rng.normal(size=(5, 4))
    content = fuse.Content(rng.normal(size=(3, 4)), e)
    seen = metrics.group_by_user(np.array([0]), np.array([1]), 3)
    got = fuse.hybrid_scores(users, U, V, content, seen, fuse.eq1, 0.3)
    logit, cosine = U[users] @ V.T, content.profiles[users] @ e.T
    assert got == pytest.approx(0.3 / (1 + np.exp(-logit)) + 0.7 * cosine, rel=1e-12)


def test_plain_scorers():
    assert fuse.constant_scores(np.arange(2), np.array([3, 1])).tolist() == [[3.0, 1.0]] * 2
    U, V = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [3.0, 4.0]])
    assert fuse.mf_scores(np.array([1, 0]), U, V).tolist() == [[0, 4], [1, 11]]
    many = fuse.random_scores(np.arange(4), 7, 5)
    assert many.shape == (4, 5) and len(np.unique(many)) == 20
    assert np.array_equal(fuse.random_scores(np.array([2]), 7, 5), many[2:3])
    assert not np.array_equal(fuse.random_scores(np.array([2]), 8, 5), many[2:3])
