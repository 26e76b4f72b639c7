"""Record a small PMF run of Cornac 3 for tests/test_pmf.py: python tests/peers/record_cornac.py"""

import json
import sys
from pathlib import Path

import cornac
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import bench  # of tests/studies


def small_ratings():
    """30 ratings of 6 users on 8 items, items numbered by first appearance."""
    rng = np.random.RandomState(3)
    cells = rng.permutation(48)[:30]
    users, raw = cells // 8, cells % 8
    _, first = np.unique(raw, return_index=True)
    number = {item: n for n, item in enumerate(raw[np.sort(first)].tolist())}
    users = np.unique(users, return_inverse=True)[1]
    order = np.argsort(users, kind="stable")
    items = np.array([number[item] for item in raw.tolist()])
    return users[order], items[order], rng.randint(1, 11, 30)[order] / 2


def main():
    users, items, ratings = small_ratings()
    first = list(dict.fromkeys(items.tolist()))
    items = np.array([first.index(item) for item in items.tolist()])
    record = {"users": users.tolist(), "items": items.tolist(), "ratings": ratings.tolist()}
    for ours, theirs in (("sigmoid", "non_linear"), ("linear", "linear")):
        U, V = bench.cornac_pmf((users, items, ratings), 20, theirs, k=5)()
        record[ours] = {"U": U.tolist(), "V": V.tolist()}
    record["cornac"] = cornac.__version__
    path = Path(__file__).parents[1] / "recorded" / "cornac_pmf.json"
    path.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
