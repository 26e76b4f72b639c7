"""choices.py and splits.py: the rule, the draws and the means by hand; their runs are recorded."""

import choices
import numpy as np
import pytest
import splits
import table3

import metrics


def rows(*means, **columns):
    names = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return [{"mean": mean} | row for mean, row in zip(means, names, strict=True)]


def test_the_rule_takes_the_simplest_of_the_points_near_the_best():
    found = rows(0.2, 0.2009, 0.2015, 0.1, k=(32, 64, 128, 16))
    assert choices.chosen(found)["k"] == 128  # no point is simpler than another
    assert choices.chosen(found, lambda row: row["k"])["k"] == 64  # 32 is .0015 below, 64 .0006


def test_fewer_parts_are_simpler():
    points = [
        {"alpha": a, "popularity": p} for a, p in ((1, 0), (0, 0), (0.5, 0), (0, 0.1), (0.5, 0.1))
    ]
    assert [choices.parts_of(point) for point in points] == [1, 1, 2, 2, 3]
    found = rows(0.3, 0.3006, 0.3009, alpha=(1.0, 0.8, 0.7), popularity=(0.0, 0.0, 0.2))
    assert choices.chosen(found, choices.parts_of)["alpha"] == 1


def test_the_largest_multiple_of_p_that_costs_nothing_is_taken():
    found = rows(0.17, 0.1699, 0.1692, 0.168, allowance=(0, 0.1, 0.2, 0.3))
    assert choices.chosen_allowance(found)["allowance"] == 0.2


def test_a_curve_has_every_case_and_means_of_other_figures():
    measure = lambda case, point: {"ndcg": case * point["k"], "other": case}  # noqa: E731
    (row,) = choices.curve("what", [1.0, 3.0], [{"k": 2}], measure)
    assert row == {"k": 2, "ndcg": [2.0, 6.0], "mean": 4.0, "other": 2.0}


def test_the_shelf_has_new_and_rated_likes_as_the_test_part_would():
    rng, n = np.random.default_rng(0), 20_000
    lab = object.__new__(table3.Lab)
    lab.n_users, lab.n_items, lab.liked, lab.highest = 50, 400, 4.0, 5.0
    pairs = rng.permutation(50 * 400)[: n // 2]
    lab.train = pairs // 400, pairs % 400, np.full(n // 2, 5.0), np.zeros(n // 2)
    tasks, cold = choices.shelf_of(lab, seed=7)
    assert cold.sum() == 40
    found, rated = (tasks[part].relevant[1] for part in ("new", "rated"))
    assert len(found) == cold[lab.train[1]].sum() and cold[found].all() and not cold[rated].any()
    assert len(found) / len(rated) == pytest.approx(0.1 / (0.9 * 0.2), rel=0.1)
    assert len(tasks["all"].relevant[1]) == len(found) + len(rated)
    assert not cold[tasks["all"].items].any()


def test_a_split_without_anything_to_find_leaves_a_user_out_of_that_split_alone():
    """Users 0 and 1 in two splits; user 1 has something to find in the second one only."""
    nan, every = np.nan, np.ones(2, dtype=bool)
    ours, other = np.array([[0.4, nan], [0.6, 1.0]]), np.array([[0.2, nan], [0.4, 0.0]])
    found = {table3.OURS_ROW: dict.fromkeys(splits.METRICS, ours)}
    found["EASE"] = dict.fromkeys(splits.METRICS, other)
    entry = splits.entry_of("EASE", found, every)
    assert entry["ndcg"] == pytest.approx([(0.2 + 0.2) / 2, 0.2, 0.2])
    assert entry["difference_by_split"] == pytest.approx([0.2, (0.2 + 1.0) / 2])
    assert entry["difference"][0] == pytest.approx((0.2 + 1.0) / 2)  # of user means
    bootstrap = metrics.paired_bootstrap([0.5, 1.0], [0.3, 0.0])
    assert entry["difference"] == pytest.approx(bootstrap)
    assert "difference" not in splits.entry_of(table3.OURS_ROW, found, every)
