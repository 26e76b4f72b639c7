"""How cost grows with the data: python tests/growth.py [--sizes 1 10 100 320]

Synthetic ratings of 100,000 x size, users and items growing as from MovieLens ml-latest-small to
ml-32m. Each size runs in a child process of its own, so that its peak memory is its own: seconds
per epoch of PMF (strict and fast, on all ratings), evaluation of MF only after the split. Then the
floor of the arithmetic of a step, and what a second core buys. On one thread but where it says so.

Writes out/growth.json, out/growth.md and out/figure4.svg; tests/readme.py puts them in the README.
What the fits learn from synthetic ratings means nothing; only the cost is looked at.
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

sys.path.insert(0, str(Path(__file__).parents[1]))

from table3 import markdown

import pmf
from fuse import LIKED, mf_scorer
from main import COLOURS, svg_page
from metrics import evaluate, group_by_user, parse, run, split_per_user, whole_file

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder to write to
    sizes: tuple[int, ...] = (1, 10, 100, 320)  # in 100,000 ratings
    cores_size: int = 200  # of the fit on two cores: ML-20M's
    cores_epochs: int = 200  # of that fit
    k: int = 100  # K, factors
    users: int = 4096  # evaluate this many users, drawn at random, where there are more
    child: str = ""  # what the child process measures: a size, "floor" or "cores"


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
    levels = [rng.normal(0, math.sqrt(v), c) for v, c in ((0.2, n_users), (0.3, n_items))]
    marks = [statistics.NormalDist().inv_cdf(s) for s in np.cumsum(SHARES[:-1])]  # (9,)
    ratings = np.empty(n, dtype=np.float32)  # (N,)
    for at in range(0, n, 1 << 20):
        part = slice(at, at + (1 << 20))
        level = levels[0][users[part]] + levels[1][items[part]]
        level += rng.normal(0, math.sqrt(0.5), len(level))
        ratings[part] = 0.5 + 0.5 * np.searchsorted(marks, level)
    return users, items, ratings, n_users, n_items


def gini(counts):
    """Gini coefficient of counts (I,): 0 if all are equal, near 1 if one has everything."""
    counts, n = np.sort(counts), len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * counts.sum()))


# ------------------------------------------------------------------------------------------------
# One size: epochs, evaluation, peak memory
# ------------------------------------------------------------------------------------------------


def seconds(job, clock=time.perf_counter):
    """(seconds, result) of one call."""
    start = clock()
    result = job()
    return clock() - start, result


def cpu_seconds(job):
    """The same of CPU time: of one thread, what it takes on a free core, whoever else runs."""
    return seconds(job, time.process_time)


def peak_bytes():
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def fit(data, k, epochs, fast, seed=0, threads=1):
    """pmf.fit on generate()'s data: (U, V, loss)."""
    options = {"k": k, "epochs": epochs, "fast": fast, "seed": seed, "threads": threads}
    settings = pmf.Settings(Path(), Path(), **options)
    return pmf.fit(*data, settings)


def epoch_seconds(data, k, epochs, fast, clock=seconds, threads=1):
    """(seconds of each epoch, U, V) of a fit; the calls of pmf._pass are the epochs."""
    one_pass, times = pmf._pass, []

    def clocked(*arguments):
        spent, squares = clock(lambda: one_pass(*arguments))
        times.append(spent)
        return squares

    pmf._pass = clocked
    try:
        U, V, _ = fit(data, k, epochs, fast, threads=threads)
    finally:
        pmf._pass = one_pass
    return times, U, V


def hide_a_fifth(data, most_users, seed=0):
    """(seen, relevant) of metrics.evaluate after the split; relevant of `most_users` drawn ones."""
    users, items, ratings, n_users, _ = data
    kept, held = split_per_user(users)
    held = held[ratings[held] >= LIKED]
    chosen = np.zeros(n_users, dtype=bool)  # (U,)
    chosen[np.random.default_rng(seed).permutation(n_users)[:most_users]] = True
    held = held[chosen[users[held]]]
    groups = [(users[rows], items[rows], n_users) for rows in (kept, held)]
    return [group_by_user(*group) for group in groups]


def measure_size(settings):
    """What the child of one size prints."""
    n, k = 100_000 * int(settings.child), settings.k
    warm_up(k)
    generation, data = cpu_seconds(lambda: generate(n))
    _, items, _, n_users, n_items = data
    result = {"ratings": n, "users": n_users, "items": n_items, "k": k, "generation": generation}
    result["gini"] = gini(np.bincount(items, minlength=n_items))
    epochs = min(20, max(3, 5_000_000 // n))
    for name, fast in (("fast", True), ("strict", False)):
        times, U, V = epoch_seconds(data, k, epochs, fast, cpu_seconds)
        result[name] = {"epochs": times, "peak_bytes": peak_bytes()}
    seen, relevant = hide_a_fifth(data, settings.users)
    spent, found = cpu_seconds(lambda: evaluate(mf_scorer(U, V), seen, relevant))
    result["evaluation"] = {"seconds": spent, "users": len(found["users"])}
    return result | {"peak_bytes": peak_bytes()}


def warm_up(k):
    """Compile, so that no compiler is timed."""
    for fast in (True, False):
        fit(generate(20_000), k, 1, fast)


# ------------------------------------------------------------------------------------------------
# The floor: what one step costs if nothing but its arithmetic, or its bytes, took time
# ------------------------------------------------------------------------------------------------


def _roots(c, d, x, y, eps, repeats):
    """Two square roots and two divisions a cell, `repeats` times: c, d, x, y (K,)."""
    for _ in range(repeats):
        for f in range(len(c)):
            x[f] = x[f] / (math.sqrt(c[f]) + eps)
            y[f] = y[f] / (math.sqrt(d[f]) + eps)


def _dots(x, y, s, repeats):
    """A dot product of x and y (K,), `repeats` times, each sum waiting for the last one."""
    for _ in range(repeats):
        for f in range(len(x)):
            s += x[f] * y[f]
    return s


def best(job, rounds=20):
    """Fewest seconds of several calls: the floor is what no neighbour disturbs."""
    job()
    return min(cpu_seconds(job)[0] for _ in range(rounds))


def measure_floor(settings):
    """ns per rating of the step's parts and of the kernel itself on rows in the first cache."""
    found, repeats = {}, 2000
    for name, fast, dtype in (("strict", False, np.float64), ("fast", True, np.float32)):
        k = settings.k + -settings.k % 8  # as pmf.fit pads
        ones, eps = [np.ones(k, dtype) for _ in range(4)], dtype(0)  # (K,)
        roots, dots = (njit(error_model="numpy", fastmath=fast)(f) for f in (_roots, _dots))
        part = {"roots": best(lambda r=roots, o=ones, e=eps: r(*o, e, repeats)) / repeats * 1e9}
        part["dot"] = best(lambda d=dots, o=ones, e=eps: d(*o[:2], e, repeats)) / repeats * 1e9
        rows = [np.full((n, k), 0.1, dtype) for n in (1, 8, 1, 8)]  # U, V and their caches
        users, items = np.zeros(repeats, np.int32), np.arange(repeats, dtype=np.int32) % 8
        step = tuple(map(dtype, (0.005, 0.001, 0.9, 0.1, 1e-8)))
        epoch, targets = getattr(pmf, f"_epoch_{name}"), np.full(repeats, 0.5, dtype)
        job = lambda e=epoch, i=(users, items, targets), r=rows, s=step: e(*i, *r, s, True)  # noqa: E731
        part["kernel"] = best(job) / repeats * 1e9
        part["bytes"] = 4 * k * np.dtype(dtype).itemsize  # v and its cache, read and written
        found[name] = part
    block = np.ones(1 << 25)  # 256 MiB, far beyond the caches
    target = np.zeros_like(block)
    spent = best(lambda: np.copyto(target, block), rounds=5)
    return found | {"copy_bytes_per_second": 2 * block.nbytes / spent}


# ------------------------------------------------------------------------------------------------
# More than one core
# ------------------------------------------------------------------------------------------------


def in_turn_and_together(job, arguments, rounds=3):
    """Seconds of [job(a) for a in arguments], and of the same in a thread each; medians."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        spent = [
            (seconds(lambda: list(map(job, arguments)))[0],
             seconds(lambda: list(pool.map(job, arguments)))[0])
            for _ in range(rounds)
        ]  # fmt: skip
    return [statistics.median(column) for column in zip(*spent, strict=True)]


def loss(data, U, V, most=1_000_000):
    """Mean squared error of the scaled ratings over every so-many-th, by final factors."""
    users, items, ratings, *_ = data
    every = slice(None, None, max(1, len(users) // most))
    total, targets = 0.0, pmf.scale_ratings(ratings)[every]
    users, items = users[every], items[every]
    for at in range(0, len(users), 10_000):
        part = slice(at, at + 10_000)
        s = np.einsum("nk,nk->n", U[users[part]], V[items[part]])  # (10,000,)
        total += np.sum((targets[part] - 1 / (1 + np.exp(-s))) ** 2)
    return float(total / len(users))


def measure_cores(settings):
    """One fit in one thread and in two at cores_size; seeds and evaluation in threads at 10."""
    k, found = settings.k, {"fit": [], "seeds": {}}
    warm_up(k)
    data = generate(100_000 * settings.cores_size)
    for threads in (1, 2):
        times, U, V = epoch_seconds(data, k, settings.cores_epochs, True, threads=threads)
        found["fit"].append({"ratings": len(data[0]), "epochs": times, "loss": loss(data, U, V)})
    data = generate(1_000_000)
    for name, fast in (("strict", False), ("fast", True)):
        job = lambda seed, fast=fast: fit(data, k, 3, fast, seed)  # noqa: E731
        found["seeds"][name] = in_turn_and_together(job, (1, 2))
    U, V, _ = fit(data, k, 1, True)
    case = (mf_scorer(U, V), *hide_a_fifth(data, settings.users))
    times = [[seconds(lambda t=t: evaluate(*case, threads=t))[0] for t in (1, 2)] for _ in range(3)]
    found["evaluation"] = [statistics.median(column) for column in zip(*times, strict=True)]
    return found


# ------------------------------------------------------------------------------------------------
# Tables and figure
# ------------------------------------------------------------------------------------------------


def per_rating(row, name):
    """ns per rating of the median epoch of "strict" or "fast"."""
    return statistics.median(row[name]["epochs"]) / row["ratings"] * 1e9


def per_cell(row):
    """ns of evaluation per user and item."""
    return row["evaluation"]["seconds"] / row["evaluation"]["users"] / row["items"] * 1e9


def dense_bytes(row):
    """What a float64 array of users x items would take."""
    return 8 * row["users"] * row["items"]


def size_table(rows):
    head = ["ratings", "users", "movies", "PMF strict, s/epoch", "ns/rating", "PMF fast, s/epoch"]
    head += ["ns/rating", "evaluation, users", "s", "ns/(user, movie)", "peak memory, GB"]
    head += ["users x movies, GB"]
    lines = []
    for row in rows:
        cells = [f"{row[name]:,}" for name in ("ratings", "users", "items")]
        for name in ("strict", "fast"):
            epoch = statistics.median(row[name]["epochs"])
            cells += [f"{epoch:#.3g}", f"{per_rating(row, name):.0f}"]
        spent, users = row["evaluation"]["seconds"], row["evaluation"]["users"]
        cells += [f"{users:,}", f"{spent:#.3g}", f"{per_cell(row):.1f}"]
        lines.append(cells + [f"{b / 1e9:.2f}" for b in (row["peak_bytes"], dense_bytes(row))])
    return "\n".join(markdown(head, lines))


def floor_table(results):
    floor, rows = results["floor"], results["sizes"]
    speed = floor["copy_bytes_per_second"]
    lines = []
    for name in ("strict", "fast"):
        part = floor[name]
        cells = [f"{part[x]:.0f}" for x in ("roots", "dot", "kernel")]
        cells += [f"{part['bytes']:,}", f"{part['bytes'] / speed * 1e9:.0f}"]
        lines.append([name, *cells, *(f"{per_rating(row, name):.0f}" for row in rows)])
    head = ["PMF", "2 K roots and divisions", "dot product", "whole step, rows in cache"]
    head += ["bytes moved", f"at {speed / 1e9:.1f} GB/s"]
    head += [f"epoch, {row['ratings']:,}" for row in rows]
    return "\n".join(markdown(head, lines))


def cores_table(cores):
    alone, together = cores["fit"]
    gap = together["loss"] / alone["loss"] - 1
    note = f"loss {alone['loss']:.5f}, {together['loss']:.5f} ({gap:+.2%})"
    note += f" after {len(alone['epochs'])} epochs"
    job = f"one fit, fast, {alone['ratings']:,} ratings, s/epoch"
    lines = [(job, *(statistics.median(x["epochs"]) for x in (alone, together)), note)]
    for name in ("strict", "fast"):
        job = f"two seeds, {name}, 1,000,000 ratings, in a thread each, s"
        lines.append((job, *cores["seeds"][name], ""))
    lines.append(("evaluation by blocks, 1,000,000 ratings, s", *cores["evaluation"], ""))
    rows = [[a, f"{b:.2f}", f"{c:.2f}", f"{b / c:.2f}", d] for a, b, c, d in lines]
    head = ["job", "one core", "two cores", "ratio", "result"]
    return "\n".join(markdown(head, rows))


def report(results):
    """growth.md: the three tables and what they say."""
    rows = results["sizes"]
    cost = {name: [per_rating(row, name) for row in rows] for name in ("strict", "fast")}
    spread = [f"{max(c) / min(c):.2f} x ({name})" for name, c in cost.items()]
    peak = max(row["peak_bytes"] for row in rows) / 1e9
    return f"""**Sizes.** K = {rows[0]["k"]}, one thread, seconds of CPU time; epochs are medians.

{size_table(rows)}

From the cheapest size to the dearest a rating's cost varies by {" and ".join(spread)}; memory peaks at {peak:.1f} GB.

**One step against its floor**, ns per rating.

{floor_table(results)}

**More than one core**, of {results["cpus"]}.

{cores_table(results["cores"])}
"""  # noqa: E501


def figure4(results, width=800, height=370):
    """Figure 4 as SVG: seconds and GB against the number of ratings, both axes logarithmic."""
    rows = results["sizes"]
    seconds_of = {
        "PMF strict, an epoch": [statistics.median(row["strict"]["epochs"]) for row in rows],
        "PMF fast, an epoch": [statistics.median(row["fast"]["epochs"]) for row in rows],
        "evaluation, all users": [
            per_cell(row) * row["users"] * row["items"] / 1e9 for row in rows
        ],
    }
    memory = {
        "peak memory": [row["peak_bytes"] / 1e9 for row in rows],
        "users x movies, never held": [dense_bytes(row) / 1e9 for row in rows],
    }
    x = [row["ratings"] for row in rows]
    parts = [*_panel("seconds", x, seconds_of, 60), *_panel("GB", x, memory, 450)]
    parts.append('<text x="450" y="60" fill="#555">dashed: in proportion to the ratings</text>')
    return svg_page(width, height, parts)


def _panel(title, x, series, left, wide=300, top=90, base=310):
    """SVG lines of one log-log panel; series: {name: values at x}."""
    log = lambda values: np.log10(np.asarray(values, dtype=float))  # noqa: E731
    ends = [math.floor(log(x).min()), math.ceil(log(x).max())]
    values = log([v for line in series.values() for v in line])
    low, high = math.floor(values.min()), math.ceil(values.max())
    at_x = lambda v: left + wide * (v - ends[0]) / (ends[1] - ends[0])  # noqa: E731
    at_y = lambda v: base - (base - top) * (v - low) / (high - low)  # noqa: E731
    for tick in range(ends[0], ends[1] + 1):
        yield f'<path d="M{at_x(tick):.1f} {top}V{base}" stroke="#ddd"/>'
        yield f'<text x="{at_x(tick):.1f}" y="{base + 18}" text-anchor="middle">{10**tick:,}</text>'
    for tick in range(low, high + 1):
        place = f'x="{left - 6}" y="{at_y(tick) + 4:.1f}" text-anchor="end" fill="#555"'
        yield f'<path d="M{left} {at_y(tick):.1f}H{left + wide}" stroke="#ddd"/>'
        yield f"<text {place}>{10.0**tick:g}</text>"
    yield f'<text x="{left + wide / 2}" y="{base + 38}" text-anchor="middle">ratings</text>'
    yield f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}</text>'
    first = log(next(iter(series.values()))[0]) + log(x) - log(x[0])  # (sizes,) a slope of 1
    path = " ".join(f"{at_x(a):.1f},{at_y(b):.1f}" for a, b in zip(log(x), first, strict=True))
    yield f'<polyline points="{path}" fill="none" stroke="#999" stroke-dasharray="4 4"/>'
    for i, ((name, line), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        points = [(at_x(a), at_y(b)) for a, b in zip(log(x), log(line), strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}"/>'
        for (a, b), value in zip(points, line, strict=True):
            mark = f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}">'
            yield f"{mark}<title>{value:#.3g}</title></circle>"
        yield f'<rect x="{left}" y="{12 + 18 * i}" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{left + 17}" y="{22 + 18 * i}">{name}</text>'


def child(settings, what):
    """What a child process of its own measures, as a dict."""
    line = [sys.executable, __file__, "--child", str(what), "--k", str(settings.k)]
    line += ["--users", str(settings.users), "--cores-size", str(settings.cores_size)]
    line += ["--cores-epochs", str(settings.cores_epochs)]
    options = {"check": True, "stdout": subprocess.PIPE, "env": os.environ | ONE_THREAD}
    spent, done = seconds(lambda: subprocess.run(line, **options))
    print(f"{what}: {spent:.0f} s", file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def main_growth():
    settings = parse(Settings, __doc__)
    if settings.child:
        measure = {"floor": measure_floor, "cores": measure_cores}
        return print(json.dumps(measure.get(settings.child, measure_size)(settings)))
    results = {"cpus": os.cpu_count(), "sizes": [child(settings, x) for x in settings.sizes]}
    results |= {name: child(settings, name) for name in ("floor", "cores")}
    texts = {"growth.json": json.dumps(results, indent=1), "growth.md": report(results)}
    for name, text in (texts | {"figure4.svg": figure4(results)}).items():
        with whole_file(settings.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(texts["growth.md"])


if __name__ == "__main__":
    run(main_growth)
