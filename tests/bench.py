"""Us and the peer in turn, in one run, on the same data: python tests/bench.py [--pairs 3]

Every job is timed in pairs (ours, then the peer's), after one warm-up of ours; the table shows the
median ratio peer/ours with its lowest and highest, and a check that both did the same work. Needs
the peers (`make bench` sets them up), out/ratings.safetensors and the MovieLens folder.
"""

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cornac
import numpy as np
import pandas
from cornac.data import Dataset
from cornac.eval_methods.base_method import ranking_eval

sys.path.insert(0, str(Path(__file__).parents[1]))

import fuse
import main
import pmf
from metrics import load, parse, run, split_per_user, summary

EPOCHS = 20  # of each timed PMF fit; a fit's cost is its epochs


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts
    data: Path = Path("data/ml-latest-small")  # MovieLens folder
    pairs: int = 3  # timed pairs of each job


def seconds(job):
    """(seconds, result) of one call."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def pmf_job(data, fast):
    """(ours, peer, check): EPOCHS of the published PMF against Cornac's, one thread each."""
    columns = [data[f"train_{name}"] for name in ("users", "items", "ratings")]
    settings = pmf.Settings(ratings=Path(), out=Path(), epochs=EPOCHS, fast=fast)
    n_users, n_items = len(data["user_ids"]), int(columns[1].max()) + 1
    dataset = Dataset.from_uir(list(zip(*(c.tolist() for c in columns), strict=True)))
    model = {"k": 100, "learning_rate": 0.005, "lambda_reg": 0.001, "gamma": 0.9, "seed": 42}

    def check(ours, peer):
        same = np.array_equal(ours[0], peer.U) and np.array_equal(ours[1], peer.V)
        if not fast:
            return "bit-identical" if same else "DIFFERENT FACTORS"
        return f"factors of ours differ by {np.abs(ours[0] - peer.U).max():.4f} at most"

    return (
        lambda: pmf.fit(*columns, n_users, n_items, settings),
        lambda: cornac.models.PMF(max_iter=EPOCHS, variant="non_linear", **model).fit(dataset),
        check,
    )


def evaluation_job(bench):
    """All metrics of MF only for every user, against Cornac's ranking_eval."""
    U, V = bench.factors()
    data, n_items = bench.data, bench.n_items
    train = Dataset.from_uir(
        list(
            zip(*(data[f"train_{c}"].tolist() for c in ("users", "items", "ratings")), strict=True)
        )
    )
    known = data["test_items"] < n_items
    rows = zip(
        *(data[f"test_{c}"][known].tolist() for c in ("users", "items", "ratings")), strict=True
    )
    test = Dataset.build(list(rows), global_uid_map=train.uid_map, global_iid_map=train.iid_map)
    model = cornac.models.PMF(k=U.shape[1], trainable=False, init_params={"U": U, "V": V})
    model.fit(train)
    names = cornac.metrics.Precision(25), cornac.metrics.Recall(25), cornac.metrics.NDCG(25)

    def check(ours, peer):
        gaps = [abs(summary(ours)[n] - p) for n, p in zip(main.METRICS, peer[0], strict=True)]
        return f"means differ by {max(gaps):.1e} at most"

    return (
        lambda: bench.measure(fuse.mf_scorer(U, V)),
        lambda: ranking_eval(model, names, train, test, rating_threshold=4.0),
        check,
    )


def prepare_job(folder):
    """CSV to checked arrays and the split, against pandas.read_csv and the same split."""
    path = folder / "ratings.csv"

    def ours():
        users, *_ = main.read_ratings(path)
        return split_per_user(np.unique(users, return_inverse=True)[1])

    def peer():
        users = pandas.read_csv(path)["userId"].to_numpy()
        return split_per_user(np.unique(users, return_inverse=True)[1])

    return ours, peer, lambda a, b: "same split" if np.array_equal(a[1], b[1]) else "OTHER SPLIT"


def main_bench():
    settings = parse(Settings, __doc__)
    data = load(settings.out / "ratings.safetensors")
    jobs = {
        "PMF, published settings | Cornac PMF": pmf_job(data, fast=False),
        "PMF, fast | Cornac PMF": pmf_job(data, fast=True),
        "evaluation, all users | Cornac ranking_eval": evaluation_job(main.Bench(settings.out)),
        "prepare, CSV to split | pandas read_csv": prepare_job(settings.data),
    }
    print("| job | peer | ours, s | peer, s | ratio (lowest..highest) | check |")
    print("|---" * 6 + "|")
    for name, (ours, peer, check) in jobs.items():
        ours()
        pairs = [(seconds(ours), seconds(peer)) for _ in range(settings.pairs)]
        ratios = [b[0] / a[0] for a, b in pairs]
        a, b = (statistics.median(pair[i][0] for pair in pairs) for i in (0, 1))
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}..{max(ratios):.1f})"
        found = check(pairs[-1][0][1], pairs[-1][1][1])
        print(f"| {name} | {a:.3f} | {b:.3f} | {spread} | {found} |", flush=True)


if __name__ == "__main__":
    run(main_bench)
