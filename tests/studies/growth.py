"""How the cost of PMF and of its evaluation grows from 100,000 ratings to 32 million.

    ns a rating = seconds of an epoch / ratings        (the median epoch of a fit)

Synthetic ratings, users and items growing as from MovieLens ml-latest-small to ml-32m. Each size
runs in a process of its own, so that its peak memory is its own. Then one fit three times, strict,
fast, and fast on two threads, with the loss on ratings held out. Strict and fast run on one thread
and are given in seconds of CPU time, which no neighbour lengthens; two threads in seconds of wall
time. What a fit learns from synthetic ratings means nothing; fits can be compared.

Last, the stages of `make all DATA=..` and recommend on the same ratings as CSV files: each command
in a process of its own, on one thread: CPU time and peak memory.

It takes an hour and more, and writes at its end.

Gives:    out/growth.json, out/growth.md and out/figure4.svg, Figure 4.
Command:  python tests/studies/growth.py [--sizes 1 10 100 320]
Needs:    tests/requirements-peers.txt (matplotlib, for the figure).
"""

import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from numba import njit

sys.path.insert(0, str(Path(__file__).parents[2]))

from common import machine, peak_memory, squared_error, timed  # beside this script

import metrics
import pmf
from fuse import mf_scores
from main import Artefacts, markdown, write_texts
from metrics import evaluate, group_by_user, parse, run, split_per_user, stage, whole


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder to write to
    sizes: tuple[int, ...] = (1, 10, 100, 320)  # in 100,000 ratings


FIT_SIZE, FIT_EPOCHS = 1_000_000, 200  # of the whole fits
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
RUNS = {  # name -> threads of pmf.fit_fast (none: pmf.fit), the clock
    "strict": ({}, time.process_time),
    "fast": ({"threads": 1}, time.process_time),
    "fast, 2 threads": ({"threads": 2}, time.perf_counter),
}


# ------------------------------------------------------------------------------------------------
# Synthetic ratings
#
# Users and items grow as powers of N through ml-latest-small (100,836 ratings by 610 users of 9,724
# movies) and ml-32m (32,000,204; 200,948; 84,432). A history is 20 ratings and a log-normal excess,
# median and mean as in ml-latest-small (70 and 165). A movie's weight is log-normal, its spread
# fitted to the Gini coefficient of ml-latest-small's rating counts (.716); a user draws movies by
# weight, none twice. A rating is a movie's level, a user's and noise, cut at ml-latest-small's
# shares of the ten marks.
# ------------------------------------------------------------------------------------------------

SMALL, LARGE = (100_836, 610, 9_724), (32_000_204, 200_948, 84_432)  # ratings, users, movies
EXCESS = math.log(51), 1.45  # of the log-normal of history length - 20: its mu and sigma
SPREAD = 1.7  # sigma of the log-normal weights of movies
SHARES = (0.0136, 0.0279, 0.0178, 0.0749, 0.0550, 0.1988, 0.1303, 0.2660, 0.0848, 0.1309)  # .5..5


def shape_of(n):
    """(U, I) for n ratings, by power laws through SMALL and LARGE."""
    steps = math.log(n / SMALL[0]) / math.log(LARGE[0] / SMALL[0])
    return tuple(round(a * (b / a) ** steps) for a, b in zip(SMALL[1:], LARGE[1:], strict=True))


def history_lengths(n, n_users, n_items, rng):
    """(U,) ratings a user, n together, none below 20 or far above a third of the movies."""
    excess = np.minimum(rng.lognormal(*EXCESS, n_users), n_items / 4)  # (U,)
    lengths = 20 + (excess * ((n - 20 * n_users) / excess.sum())).astype(np.int64)  # (U,)
    rest = rng.integers(n_users, size=n - lengths.sum())  # what rounding down left
    return lengths + np.bincount(rest, minlength=n_users)


@njit(cache=True)
def draw(rng, starts, edges, items):
    """Fill items (N,): user u's, starts[u] .. starts[u + 1], by weight, none twice, in any order.

    edges (I,): cumulative weights up to 1. rng is a NumPy Generator.
    """
    last = np.full(len(edges), -1)  # (I,) the last user who drew the item
    for u in range(len(starts) - 1):
        n = starts[u]
        while n < starts[u + 1]:
            item = np.searchsorted(edges, rng.random(), side="right")
            if last[item] != u:
                last[item], items[n] = u, item
                n += 1
        for n in range(starts[u + 1] - 1, starts[u], -1):  # shuffled: popular ones came first
            other = starts[u] + int(rng.random() * (n + 1 - starts[u]))
            items[n], items[other] = items[other], items[n]


def generate(n, seed=0):
    """(users, items, ratings, U, I): int32, int32, float32 of (n,) each, in order of users."""
    rng = np.random.default_rng(seed)
    n_users, n_items = shape_of(n)
    lengths = history_lengths(n, n_users, n_items, rng)  # (U,)
    starts = np.concatenate([[0], np.cumsum(lengths)])  # (U + 1,)
    edges = np.cumsum(rng.lognormal(0, SPREAD, n_items))  # (I,)
    items = np.empty(n, dtype=np.int32)  # (N,)
    draw(rng, starts, edges / edges[-1], items)
    users = np.repeat(np.arange(n_users, dtype=np.int32), lengths)  # (N,)
    level = rng.normal(0, math.sqrt(0.2), n_users)[users]  # (N,)
    level += rng.normal(0, math.sqrt(0.3), n_items)[items]
    level += rng.normal(0, math.sqrt(0.5), n)
    marks = [statistics.NormalDist().inv_cdf(s) for s in np.cumsum(SHARES[:-1])]  # (9,)
    ratings = (0.5 + 0.5 * np.searchsorted(marks, level)).astype(np.float32)  # (N,)
    return users, items, ratings, n_users, n_items


# ------------------------------------------------------------------------------------------------
# Measuring
# ------------------------------------------------------------------------------------------------


def apart(work, *arguments):
    """What the work returns, done in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def fit(data, epochs, options, now=time.perf_counter):
    """(seconds of each epoch, U, V) of pmf.fit, or fit_fast with options, on generate()'s data."""
    settings, times = pmf.PMF(epochs=epochs), []
    fitted = partial(pmf.fit_fast, **options) if options else pmf.fit

    def note(*_):
        times.append(now())

    bar = mock.MagicMock()  # in the place of fit's progress bar
    bar.__enter__.side_effect = lambda *_: note() or bar  # the start
    bar.update.side_effect = note  # an epoch is done
    with mock.patch.object(metrics, "progress", return_value=bar):
        U, V, _ = fitted(*data, settings)
    return np.diff(times).tolist(), U, V


def warm_up():
    """Compile, so that no compiler is timed."""
    for options, _ in RUNS.values():
        fit(generate(20_000), 1, options)


def hide_a_fifth(data):
    """(seen, relevant) of metrics.evaluate after the split."""
    users, items, ratings, n_users, _ = data
    kept, held = split_per_user(users)
    held = held[ratings[held] >= 4]
    return [group_by_user(users[rows], items[rows], n_users) for rows in (kept, held)]


def measure_size(n):
    """The row of n ratings: epochs of PMF, evaluation, the peak memory of this process."""
    warm_up()
    data = generate(n)
    *_, n_users, n_items = data
    result = {"ratings": n, "users": n_users, "items": n_items, "k": pmf.PMF.k, "epochs": {}}
    for name, (options, now) in RUNS.items():
        result["epochs"][name], U, V = fit(data, min(20, max(3, 5_000_000 // n)), options, now)
    seen, relevant = hide_a_fifth(data)
    start = time.process_time()
    found = evaluate(partial(mf_scores, U=U, V=V), seen, relevant)
    spent = time.process_time() - start
    result["evaluation"] = {"seconds": spent, "users": len(found["users"])}
    return result | {"peak_bytes": peak_memory()}


def measure_fits():
    """The whole fits on four fifths of each user's ratings, and their loss on the last fifth."""
    users, items, ratings, *shape = generate(FIT_SIZE)
    kept, held = split_per_user(users)
    data = users[kept], items[kept], ratings[kept], *shape
    case = users[held], items[held], pmf.scale_ratings(ratings)[held]
    warm_up()
    found = {"ratings": len(kept), "runs": {}}
    for name, (options, now) in RUNS.items():
        spent, U, V = fit(data, FIT_EPOCHS, options, now)
        found["runs"][name] = {"epochs": spent, "loss": squared_error(U, V, *case)}
    return found


# ------------------------------------------------------------------------------------------------
# The stages, as commands in a folder that holds data/ and out/
# ------------------------------------------------------------------------------------------------

TEXTS = {"minilm-no-leak": "documents-no-leak.txt", "minilm": "documents.txt"}
RANKING = "pmf.py ranking --embeddings out/{}.safetensors --out out/{}.safetensors"
STAGES = {  # stage -> its command line; evaluation alone is no command
    "prepare": "main.py prepare --data data --out out",
    "PMF --fast": "pmf.py --fast --ratings out/ratings.safetensors --out out/pmf.safetensors",
    "ranking PMF": RANKING.format("minilm-no-leak", "pmf-ours"),
    "ranking PMF, all ratings": RANKING.format("minilm", "pmf-all") + " --all",
    "evaluation": "",
    "recommend": "main.py recommend --user 1",
}


def write_files(folder, n):
    """data/ of n synthetic ratings; returns its N, U, I."""
    data = Path(folder, "data")
    data.mkdir()
    users, items, ratings, n_users, n_items = generate(n)
    rows = np.transpose([users, items, ratings, 10**9 + np.arange(n)])  # (N, 4)
    head = "userId,movieId,rating,timestamp"
    np.savetxt(data / "ratings.csv", rows, "%d,%d,%.1f,%d", header=head, comments="")
    movies = [f"{item},Film {item} (1999),Drama\n" for item in range(n_items)]
    (data / "movies.csv").write_text("".join(["movieId,title,genres\n", *movies]))
    return {"ratings": len(users), "users": n_users, "items": n_items}


def write_vectors(folder):
    """Random vectors in the place of MiniLM's: what they say does not matter here."""
    out, made = Path(folder, "out"), {"encoder": "minilm", "adapter": "", "nf4": False}
    made |= {"dtype": "float32"}
    n = len((out / "documents.txt").read_text().splitlines())
    random = np.random.default_rng(0).normal(0, 384**-0.5, (n, 384)).astype(np.float32)  # (I, D)
    for name, text in TEXTS.items():
        metrics.save(out / f"{name}.safetensors", {"embeddings": random}, made, [out / text])


def measure_evaluation(folder):
    """Lists of recipe ours, as `main.py evaluate` makes them: (users, what this process took)."""
    out = Artefacts(Path(folder, "out"))
    found = evaluate(out.mf("pmf-ours"), out.task.seen, out.task.relevant)
    taken = {"cpu_seconds": time.process_time(), "peak_bytes": peak_memory()}
    return len(found["users"]), taken


def measure_stages(out, n):
    """{"ratings", "users", "items", "evaluated", "stages"} of a size; stages in CPU seconds."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=out) as folder:
        found = apart(write_files, folder, n) | {"stages": {}}
        for name, line in STAGES.items():
            if name == "evaluation":
                found["evaluated"], taken = apart(measure_evaluation, folder)
            else:
                taken = timed(*line.split(), folder=folder)
            taken["seconds"] = taken.pop("cpu_seconds")
            found["stages"][name] = taken
            if name == "prepare":
                apart(write_vectors, folder)
    return found


# ------------------------------------------------------------------------------------------------
# Tables and figure
# ------------------------------------------------------------------------------------------------


def per_rating(row, name):
    """ns per rating of the median epoch of one of RUNS."""
    return statistics.median(row["epochs"][name]) / row["ratings"] * 1e9


def per_cell(row):
    """ns of evaluation per user and item."""
    return row["evaluation"]["seconds"] / row["evaluation"]["users"] / row["items"] * 1e9


def dense_bytes(row):
    """What a float64 array of users x items would take."""
    return 8 * row["users"] * row["items"]


def size_table(rows):
    head = ["ratings", "users", "movies", *(f"{name}, ns/rating" for name in RUNS)]
    head += ["evaluation, users", "s", "ns/(user, movie)", "peak memory, GB", "users x movies, GB"]
    lines = []
    for row in rows:
        cells = [f"{row[name]:,}" for name in ("ratings", "users", "items")]
        cells += [f"{per_rating(row, name):.0f}" for name in RUNS]
        spent, users = row["evaluation"]["seconds"], row["evaluation"]["users"]
        cells += [f"{users:,}", f"{spent:#.3g}", f"{per_cell(row):.1f}"]
        lines.append(cells + [f"{b / 1e9:.2f}" for b in (row["peak_bytes"], dense_bytes(row))])
    return markdown(head, lines)


def fit_table(fits):
    strict, lines = fits["runs"]["strict"], []
    for name, found in fits["runs"].items():
        spent = sum(found["epochs"])
        cells = [name, f"{spent:.1f}", f"{sum(strict['epochs']) / spent:.2f}"]
        lines.append([*cells, f"{found['loss']:.5f}", f"{found['loss'] / strict['loss'] - 1:+.2%}"])
    return markdown(["fit", "s", "times as fast", "loss on held-out ratings", "to strict"], lines)


def unit_cost(row, name):
    """ns of a stage per rating; of evaluation per user and movie."""
    units = row["evaluated"] * row["items"] if name == "evaluation" else row["ratings"]
    return row["stages"][name]["seconds"] / units * 1e9


def stage_section(rows):
    """Seconds, memory and cost of every stage at every size."""
    head = ["stage", *(f"{row['ratings']:,}: s, GB, ns" for row in rows), "dearest / 1 million"]
    lines, large = [], [row for row in rows if row["ratings"] >= 1_000_000] or rows
    for name in STAGES:
        cells, costs = [name], [unit_cost(row, name) for row in large]
        for row in rows:
            found, cost = row["stages"][name], unit_cost(row, name)
            shown = f"{cost:,.0f}" if cost >= 100 else f"{cost:.1f}"
            cells.append(f"{found['seconds']:.1f}, {found['peak_bytes'] / 1e9:.2f}, {shown}")
        lines.append([*cells, f"{max(costs) / costs[0]:.2f}"])
    return (
        "\n**Stages**, each with its own default settings: CPU time of one thread, peak memory, "
        "ns a rating (evaluation, of all users with something to find: a user and movie).\n\n"
        f"{markdown(head, lines)}"
    )


def report(results):
    """growth.md: the tables and what they say."""
    rows, fits = results["epochs"], results["fits"]
    cost = {name: [per_rating(row, name) for row in rows] for name in RUNS}
    spread = [f"{max(c) / min(c):.2f} x ({name})" for name, c in cost.items()]
    epochs = len(fits["runs"]["strict"]["epochs"])
    peak = max(row["peak_bytes"] for row in rows) / 1e9
    return f"""Figure 4. Cost against size. {results["machine"]}.

**Sizes.** K = {rows[0]["k"]}, medians of epochs; CPU time of one thread, wall time of two.

{size_table(rows)}
From the cheapest size to the dearest a rating's cost varies by {", ".join(spread)};
their memory peaks at {peak:.1f} GB.

**A whole fit**, {epochs} epochs on {fits["ratings"]:,} ratings, the same clocks.

{fit_table(fits)}{stage_section(results["stages"])}"""


def curves(rows):
    """{panel: {label: a value for each size}} of Figure 4."""
    epoch = {
        f"PMF {name}, an epoch": [statistics.median(row["epochs"][name]) for row in rows]
        for name in RUNS
    }
    everybody = [per_cell(row) * row["users"] * row["items"] / 1e9 for row in rows]
    memory = {
        "peak memory": [row["peak_bytes"] / 1e9 for row in rows],
        "users x movies, never held": [dense_bytes(row) / 1e9 for row in rows],
    }
    return {"seconds": epoch | {"evaluation, all users": everybody}, "GB": memory}


def draw_figure4(path, rows):
    """Figure 4: seconds and GB against the number of ratings, all axes logarithmic."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")  # no screen
    plt.rcParams["svg.hashsalt"] = "growth"  # the same bytes twice
    x = np.array([row["ratings"] for row in rows])  # (sizes,)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for panel, (unit, lines) in zip(panels, curves(rows).items(), strict=True):
        for label, values in lines.items():
            panel.loglog(x, values, "o-", label=label)
        first = next(iter(lines.values()))[0]
        panel.loglog(x, first * x / x[0], "--", color="grey", label="in proportion to the ratings")
        panel.set(xlabel="ratings", ylabel=unit)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(path, format="svg", metadata={"Date": None})


def main_growth():
    settings = parse(Settings, __doc__)
    os.environ.update(ONE_THREAD)  # of every process that starts from here
    path, results = settings.out / "growth.json", {"machine": machine(), "epochs": [], "stages": []}
    for size in settings.sizes:
        n = 100_000 * size
        with stage(path, f"{n:,} ratings"):
            results["epochs"].append(apart(measure_size, n))
        with stage(path, f"the stages on {n:,} ratings"):
            results["stages"].append(measure_stages(settings.out, n))
    with stage(path, "whole fits"):
        results["fits"] = apart(measure_fits)
    texts = {"growth.json": json.dumps(results, indent=1), "growth.md": report(results)}
    write_texts(settings.out, texts)
    with whole(settings.out / "figure4.svg") as temporary:
        draw_figure4(temporary, results["epochs"])
    print(texts["growth.md"])


if __name__ == "__main__":
    run(main_growth)
