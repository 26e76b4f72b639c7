"""Probabilistic Matrix Factorization by SGD in Numba (Salakhutdinov & Mnih, NIPS 2007).

    min over U, V of  1/2 sum_(u,i) (r'_ui - g(u_u . v_i))^2 + reg/2 sum_(u,i) (|u_u|^2 + |v_i|^2)

r' is the rating; for the sigmoid variant it is min-max scaled to [0, 1] and g is the logistic
function as Cornac computes it (in float32, and 0 or 1 beyond 6); for the linear one g is the
identity. Both sums run over the N ratings, so regularisation grows with a row's count. Each rating
in turn moves its user and then its item:

    pull = (r' - g(u . v)) g'(u . v)                       g' = g (1 - g) for the logistic, else 1
    move u by the gradient pull v - reg u, then v by the gradient pull u - reg v of the moved u

A move of x is a step of RMSprop with one cache per cell (Tieleman & Hinton 2012):

    cache = gamma cache + (1 - gamma) gradient^2;   x += lr gradient / (sqrt(cache) + 1e-8)

Gives:    the factors of Cornac 3's PMF to the bit, and with them the 739 hits of MF only.
Command:  python pmf.py --ratings out/ratings.safetensors --out out/pmf.safetensors [--fast]
Writes:   user_factors (U, K), item_factors (I, K), and loss (epochs,), the mean squared error of r'

Recipe `ours` has another model, the PMF for ranking, with formulas (R) and (S) in the middle of
this file; its settings are chosen on the validation part of the data at hand.
python pmf.py choose   --embeddings out/minilm-no-tags.safetensors --out out/ours.json
python pmf.py ranking  --embeddings out/minilm-no-leak.safetensors --choice out/ours.json [--all]

Legend: U users, I items, N ratings, K factors, D dimensions.
"""

import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numba import njit, prange

import metrics
from metrics import SEEDS, BadInput, group_by_user

# ------------------------------------------------------------------------------------------------
# PMF by SGD, as the report ran it
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PMF:
    k: int = 100  # K, factors per user and item
    epochs: int = 200  # passes over the train ratings
    lr: float = 0.005  # RMSprop step size
    reg: float = 0.001  # weight of the squared norms, per rating
    gamma: float = 0.9  # decay of the RMSprop cache
    seed: int = 42  # of the initial factors, N(0, 0.001^2)
    variant: Literal["sigmoid", "linear"] = "sigmoid"  # g: logistic function or identity


def compiled(function, **options):
    """njit, its machine code kept for the next run where there is a place for it."""
    try:
        return njit(function, cache=True, error_model="numpy", **options)
    except RuntimeError:  # neither this folder nor a home folder can be written to
        return njit(function, error_model="numpy", **options)


@njit(inline="always")
def _logistic(s):
    """g: the logistic function, rounded to float32 and cut to 0 and 1 beyond 6."""
    z = np.float32(s)
    if abs(z) > 6:
        return np.float32(z > 6)
    return np.float32(1.0 / (1.0 + np.float64(math.exp(-z))))  # expf, then double


@njit(inline="always")
def _move(x, cache, other, pull, step):
    """One step of a row x (K,) and its cache (K,), in place, for its product with other (K,)."""
    lr, reg, gamma, rest, eps = step
    for f in range(len(x)):
        gradient = pull * other[f] - reg * x[f]
        cache[f] = gamma * cache[f] + rest * (gradient * gradient)  # RMSprop
        x[f] += lr * (gradient / (math.sqrt(cache[f]) + eps))


def _epoch(users, items, ratings, U, V, cache_u, cache_v, step, sigmoid):
    """One pass over the ratings in their order, in place; returns the sum of squared errors.

    users, items (N,) int32; ratings (N,); U, cache_u (U, K); V, cache_v (I, K);
    step = (lr, reg, gamma, 1 - gamma, 1e-8). The order of operations is the notebook's: in strict
    float64 it decides the last bits, and they decide which movies are hits.
    """
    # float32 numbers, if the factors are: a plain 0 or 1 would turn the sums into float64
    zero, one = type(step[0])(0), type(step[0])(1)
    squares = 0.0
    for n in range(len(ratings)):
        u, v = U[users[n]], V[items[n]]  # (K,) views, written in place
        score = zero
        for f in range(len(u)):
            score += u[f] * v[f]
        g = _logistic(score) if sigmoid else score
        error = ratings[n] - g
        pull = error * g * (one - g) if sigmoid else error
        squares += error * error
        _move(u, cache_u[users[n]], v, pull, step)
        _move(v, cache_v[items[n]], u, pull, step)
    return squares


_epoch_strict = compiled(_epoch, nogil=True)
_epoch_fast = compiled(_epoch, nogil=True, fastmath=True)


def fit(users, items, ratings, n_users, n_items, s=PMF(), name="PMF"):
    """User factors U (U, K), item factors V (I, K) and the mean squared error of each epoch.

    users, items: (N,) int32 ids, visited in this order; ratings: (N,); s: a PMF. The factors start
    as draws of RandomState(seed), U first. name is shown by the progress bar. Raises BadInput on
    what has no fit.
    """
    targets, sigmoid = targets_of(users, items, ratings, n_users, n_items, s)  # (N,)
    rng = np.random.RandomState(s.seed)
    U = rng.normal(0, 0.001, (n_users, s.k))  # (U, K)
    V = rng.normal(0, 0.001, (n_items, s.k))  # (I, K)
    model = U, V, np.zeros_like(U), np.zeros_like(V), step_of(s, np.float64), sigmoid
    loss = np.zeros(s.epochs)  # (epochs,)
    with metrics.progress(s.epochs, name, unit="epoch") as bar:
        for t in range(s.epochs):
            loss[t] = _epoch_strict(users, items, targets, *model) / len(users)
            show_epoch(bar, t, loss[t], s)
    return U, V, loss


def step_of(s, dtype):
    """(lr, reg, gamma, 1 - gamma, 1e-8) of _epoch: float32 constants, promoted to dtype."""
    lr, reg, gamma, one = np.float32([s.lr, s.reg, s.gamma, 1])
    return tuple(map(dtype, (lr, reg, gamma, one - gamma, 1e-8)))


def targets_of(users, items, ratings, n_users, n_items, s):
    """(r' (N,) float64, whether g is the logistic function); refuses what has no fit."""
    check_ratings(users, items, ratings, n_users, n_items)
    sigmoid = {"sigmoid": True, "linear": False}[s.variant]
    scaled = scale_ratings(ratings) if sigmoid else ratings.astype(np.float32)
    return scaled.astype(np.float64), sigmoid


def scale_ratings(ratings):
    """Ratings (N,) min-max scaled to [0, 1] and rounded to float32 (the notebook's run)."""
    low, high = float(ratings.min()), float(ratings.max())
    if low == high:
        raise BadInput(f"all {len(ratings)} train ratings are {low:g}; PMF has nothing to learn")
    return ((ratings.astype(np.float64) - low) / (high - low)).astype(np.float32)


def show_epoch(bar, t, mse, s):
    """Move the progress bar by epoch t, with its mean squared error; refuses one that diverged."""
    if not np.isfinite(mse):
        raise BadInput(f"PMF diverged in epoch {t + 1}; lower --lr ({s.lr}) or --k")
    bar.set_postfix_str(f"mse {mse:.5f}")
    bar.update()


def check_ratings(users, items, ratings, n_users, n_items, features=None):
    """Refuse with BadInput what the kernels, which check nothing, would read or write amiss."""
    if not 0 < len(users) == len(items) == len(ratings) or not np.isfinite(ratings).all():
        raise BadInput("users, items and ratings must be as many, more than 0, and all finite")
    for name, ids, size in (("users", users, n_users), ("items", items, n_items)):
        if ids.min() < 0 or ids.max() >= size:
            raise BadInput(f"{name} are {ids.min()} to {ids.max()}, not within 0 to {size - 1}")
    if features is not None and len(features) != n_items:
        raise BadInput(f"text features of {len(features)} items, ratings of {n_items}")


# ------------------------------------------------------------------------------------------------
# The same, fast: in float32, with sums in another order. It learns as well, but its bytes hold for
# one processor and compiler. Large data are visited block by block, on one thread or more.
# ------------------------------------------------------------------------------------------------

# Blocks are cut where the item factors and their caches are more than LARGE bytes; a block holds
# BLOCK bytes of them, which stay in its core's cache. Smaller data keep the order given, for in
# another one ml-latest-small ranks worse, at an equal loss.
BLOCK = 2 * 2**20
LARGE = 8 * BLOCK


def fit_fast(users, items, ratings, n_users, n_items, s=PMF(), threads=1, name="PMF"):
    """As fit(); with more threads than one, small data are cut into blocks too, and rank worse."""
    targets, sigmoid = targets_of(users, items, ratings, n_users, n_items, s)  # (N,)
    rng = np.random.RandomState(s.seed)
    U = rng.normal(0, 0.001, (n_users, s.k)).astype(np.float32)  # (U, K)
    V = rng.normal(0, 0.001, (n_items, s.k)).astype(np.float32)  # (I, K)
    model = U, V, np.zeros_like(U), np.zeros_like(V), step_of(s, np.float32), sigmoid
    size = 2 * V.nbytes
    parts = max(threads, math.ceil(size / BLOCK) if size > LARGE else 1)
    rounds = rounds_of(users, items, targets.astype(np.float32), parts, threads)
    loss = np.zeros(s.epochs)  # (epochs,)
    bar = metrics.progress(s.epochs, name, unit="epoch")
    with ThreadPoolExecutor(threads) as pool, bar:
        for t in range(s.epochs):
            for blocks in rounds:  # the blocks of a round side by side
                squares = pool.map(lambda block: _epoch_fast(*block, *model), blocks)
                loss[t] += sum(squares) / len(users)
            show_epoch(bar, t, loss[t], s)
    return U, V, loss


def parts_of(ids, parts):
    """The part, 0 .. parts - 1, of each of ids (N,), cut where the ratings are even."""
    counts = np.bincount(ids)  # (highest id + 1,)
    before = np.cumsum(counts) - counts  # ratings of lower ids
    return (before * parts // len(ids))[ids]  # (N,)


def rounds_of(users, items, ratings, parts, threads=1):
    """The ratings in blocks: rounds[r][a] is (users, items, ratings), (n,) each, as they came.

    Items are cut into parts whose factors stay in the cache, users into one group a thread, but two
    at least: if all met the items in one order, its end would weigh too much. In round r group a
    meets a part of the items that no other group meets, so that threads share no row: stratified
    SGD (Gemulla et al., KDD 2011).
    """
    groups = min(parts, max(2, threads))
    block = parts_of(users, groups) * parts + parts_of(items, parts)  # (N,)
    starts, order = group_by_user(block, np.arange(len(block)), groups * parts)  # .., (N,)
    blocks = [(users[x], items[x], ratings[x]) for x in np.split(order, starts[1:-1])]
    return [[blocks[a * parts + (a + r) % parts] for a in range(groups)] for r in range(parts)]


# ------------------------------------------------------------------------------------------------
# PMF for ranking (recipe `ours`): a missing rating is a zero of small weight, and the text of an
# item is the prior of its factors. Minimise over P (U, K), Q (I, K), W (D, K)
#
#   sum_rated w_ui (t_ui - p_u.q_i)^2 + m sum_missing (p_u.q_i)^2
#     + reg ( sum_u a_u |p_u|^2 + sum_i b_i |q_i - e_i W|^2 / (1 - text) + |W|^2 / text )       (R)
#
# t_ui  rating / highest. A rating below half of the highest, unless the data call it liked, counts
#       as a missing one: with a t above 0 it would be a weak like.
# w_ui  1, beside m: the weight of a missing entry (Hu, Koren & Volinsky 2008).
# a_u   (n_u + m I) / their mean over the users, n_u the ratings of user u (Rendle et al. 2022). So
#       the mean strength of a prior is reg, on data of any size. b_i is the same for items.
# e_i   the unit embedding of the item's text: q_i = e_i W + a rest, both Gaussian (the idea of
#       Collaborative Topic Regression, Wang & Blei 2011).
# text  the share of an item's prior variance that its text explains. In units of the errors'
#       variance, that of e_i W is text / reg in each coordinate, and that of the rest
#       (1 - text) / (reg b_i): so more text is not less regularisation. With text = 0 there is no
#       W, and (R) with t = 1 is weighted MF.
#
# Only users and items with a rating enter the sums; an item without one takes e_i W.
#
# In one coordinate x_k of one row, x = q_i say, (R) is a parabola. One step takes x_k to its
# minimum: minus slope / curve, half the first and half the second derivative. With y = p_u and
# b = reg b_i / (1 - text):
#
#   slope = m (x G)_k + b (x_k - prior_k) - sum_rated error y_k              G = sum_all y'y (K, K)
#   curve = m G_kk + b + sum_rated (w - m) y_k^2             error = w t - (w - m) x.y          (S)
#
# A sweep takes these steps for all of P, solves for W, takes them for all of Q. (R) never rises.
# ------------------------------------------------------------------------------------------------

PARTS = 64  # part p has the rows p, p + 64, ..: popular items are neighbours, so deal them


@dataclass(frozen=True)
class Ranking:
    k: int = 128  # K; this and the next three are chosen for the data at hand, see choose()
    missing: float = 0.1  # m, weight of a missing entry against 1 of a rating
    reg: float = 2.8  # mean strength of the priors of user and item factors
    text: float = 0.2  # share of an item's prior variance that its text explains; below 1
    least: float = 0.5  # a rating with a lower t counts as a missing one
    power: float = 1.0  # a_u and b_i are taken to this power; 0: the same for every row
    sweeps: int = 15  # passes over users and items; more change nothing that ranking sees
    seed: int = 42  # of the initial factors, N(0, 0.01 / K)
    fast: bool = False  # float32: as good, the objective the same to some 1e-6


@partial(compiled, parallel=True, fastmath={"reassoc", "contract"})
def half_sweep(starts, others, targets, weights, missing, X, Y, spectrum, prior, reg):
    """Step (S) for each coordinate of each row of X (R, K) in turn, in place.

    Row r shares ratings with the rows others[starts[r]:starts[r + 1]] (int32) of Y (C, K), targets
    and weights (N,) alike; one without any stays. Y is turned(), so that G = diag(spectrum (K,)).
    prior (R, K); reg (R,) is b of (S); all, `missing` too, of one float type. Rows do not see each
    other, so the threads' order changes nothing.
    """
    for part in prange(PARTS):
        for r in range(part, len(X), PARTS):
            own = slice(starts[r], starts[r + 1])  # its ratings
            if starts[r] < starts[r + 1]:
                ratings = others[own], targets[own], weights[own]
                _descend(X[r], Y, *ratings, missing, spectrum, prior[r], reg[r])


@njit(error_model="numpy", fastmath={"reassoc", "contract"})
def _descend(x, Y, others, targets, weights, missing, spectrum, prior, reg):
    """half_sweep of one row x (K,), by its ratings: others, targets, weights (n,)."""
    K, n = len(x), len(others)
    z = np.empty((K, n), x.dtype)  # the rated rows of Y on their side: a coordinate is a line
    extra = weights - missing  # (n,) w - m
    error = weights * targets  # (n,) w t, from which (w - m) x.y goes next
    for j in range(n):
        y, score = Y[others[j]], type(missing)(0)  # (K,)
        for k in range(K):
            score += x[k] * y[k]
            z[k, j] = y[k]
        error[j] -= extra[j] * score
    for k in range(K):
        slope = missing * spectrum[k] * x[k] + reg * (x[k] - prior[k])  # (S)
        curve = missing * spectrum[k] + reg
        for j in range(n):
            slope -= error[j] * z[k, j]
            curve += extra[j] * z[k, j] * z[k, j]
        step = slope / curve
        x[k] -= step
        for j in range(n):
            error[j] += extra[j] * step * z[k, j]


def turned(Y, *others):
    """(spectrum (K,), Y (C, K), others (.., K)): all turned so that G = Y'Y is diag(spectrum).

    (R) does not change when P, Q and W turn together. But then (x G)_k is spectrum_k x_k, one
    product and not K, and no coordinate spoils what another gained on the missing entries.
    """
    spectrum, axes = np.linalg.eigh(Y.T @ Y)  # (K,), (K, K)
    return spectrum, Y @ axes, *(X @ axes for X in others)


def by_row(rows, others, targets, weights, n_rows):
    """The ratings (N,) grouped by row: the first four arguments of half_sweep."""
    starts, order = group_by_user(rows, np.arange(len(rows)), n_rows)  # (R + 1,), (N,)
    return starts, others[order], targets[order], weights[order]


def strengths(rows, n_rows, n_others, s):
    """reg a_u of (R) for users, reg b_i for items: (R,); 0 for a row without ratings.

    rows: (N,) of the ratings; n_others: how many rows of the other side have a rating.
    """
    counts = np.bincount(rows, minlength=n_rows)  # (R,)
    relative = counts + s.missing * n_others  # (R,)
    relative /= relative[counts > 0].mean()  # a_u
    return np.where(counts > 0, s.reg * relative**s.power, 0.0)


def regress(features, Q, reg, ridge):
    """W (D, K) that minimises sum_i reg_i |q_i - e_i W|^2 + ridge |W|^2, in closed form.

    features: e_i (I, D); Q (I, K); reg (I,).
    """
    weighted = features * reg[:, None]  # (I, D)
    system = features.T @ weighted + ridge * np.eye(features.shape[1], dtype=Q.dtype)  # (D, D)
    return np.linalg.solve(system, weighted.T @ Q)


def fit_ranking(users, items, targets, weights, n_users, n_items, s, features=None, name="PMF"):
    """P (U, K), Q (I, K) and W (D, K) that minimise (R), by s.sweeps sweeps.

    users, items (N,) int32; targets, weights (N,); s: a Ranking; features (I, D): unit embeddings
    of the items' texts, or None. n_items may count items without ratings: they get features @ W,
    by a regression on the others' factors if s.text is 0. The same machine gives the same bytes
    twice; another processor may differ in the last bits. Raises BadInput on what has no fit.
    """
    check_ratings(users, items, targets, n_users, n_items, features)
    dtype, rng = np.float32 if s.fast else np.float64, np.random.default_rng(s.seed)
    text = 0.0 if features is None else s.text
    features = (np.zeros((n_items, 0)) if features is None else features).astype(dtype)  # (I, D)
    low = targets < s.least  # (N,) like missing ones
    targets = np.where(low, 0, targets).astype(dtype)  # (N,)
    weights = np.where(low, s.missing, weights).astype(dtype)  # (N,)
    missing, sd = dtype(s.missing), 0.1 / math.sqrt(s.k)
    P, Q = (rng.normal(0, sd, (n, s.k)).astype(dtype) for n in (n_users, n_items))
    by_user = by_row(users, items, targets, weights, n_users)
    by_item = by_row(items, users, targets, weights, n_items)
    cold_u, cold_i = np.diff(by_user[0]) == 0, np.diff(by_item[0]) == 0  # (U,), (I,) not rated
    P[cold_u], Q[cold_i] = 0, 0  # outside the sums
    reg_u = strengths(users, n_users, np.sum(~cold_i), s).astype(dtype)  # (U,)
    reg_i = (strengths(items, n_items, np.sum(~cold_u), s) / (1 - text)).astype(dtype)  # (I,)
    W, zero = np.zeros((features.shape[1], s.k), dtype), np.zeros_like(P)  # (D, K), (U, K)
    with metrics.progress(s.sweeps, name, unit="sweep") as bar:
        for sweep in range(s.sweeps):
            spectrum, Q, P = turned(Q, P)
            half_sweep(*by_user, missing, P, Q, spectrum, zero, reg_u)
            _refuse_infinite(P, s)
            if text and sweep:  # the first Q is noise: nothing to regress on
                W = regress(features, Q, reg_i, dtype(s.reg / text))
            spectrum, P, Q, W = turned(P, Q, W)
            half_sweep(*by_item, missing, Q, P, spectrum, features @ W, reg_i)
            _refuse_infinite(Q, s)
            bar.update()
    if not text:  # what it says of items without ratings is worth having all the same
        W = regress(features, Q, reg_i, dtype(s.reg / Ranking.text))
    Q[cold_i] = (features @ W)[cold_i]
    return P, Q, W


def _refuse_infinite(X, s):
    if not np.isfinite(X).all():
        raise BadInput(f"no finite factors with --reg {s.reg}, --power {s.power}; raise --reg")


# ------------------------------------------------------------------------------------------------
# The settings of the PMF for ranking, chosen for the data at hand
# ------------------------------------------------------------------------------------------------

SEARCH = {  # the values of a setting; of those as good as the best, the first is taken
    "text": (0.0, 0.2, 0.5),
    "reg": (2.8, 1.4, 2.0, 4.0),
    "missing": (0.1, 0.05, 0.2),
    "k": (128, 256, 512),
}
MARGIN = 0.001  # NDCG: values this near to the best are as good
SWEEPS = 8  # of the fits that are compared
LIST = 25  # NDCG@25
PER_DRAW, MOST = 300_000, 1_000_000  # ratings, see draws_of


def draws_of(users, items, targets, liked, n_users):
    """Draws of a validation part of ratings (N,), liked (N,) bool: a tenth of each user's ratings.

    Yields pairs: users, items, targets, weights (n,) of the ratings that are kept, and the liked
    ones among those held out, as of group_by_user. A draw is a noisy judge where ratings are few,
    so there are 1 to 10 of them, as many as together have PER_DRAW ratings. Of more than MOST
    ratings a random sample of users is taken.
    """
    if len(users) > MOST:
        order = np.random.default_rng(0).permutation(n_users)  # (U,)
        counts = np.bincount(users, minlength=n_users)  # (U,)
        rows = np.isin(users, order[np.cumsum(counts[order]) <= MOST])  # (N,)
        users, items, targets, liked = (x[rows] for x in (users, items, targets, liked))
    for seed in range(7, 7 + min(max(PER_DRAW // len(users), 1), 10)):
        kept, held = metrics.split_per_user(users, 0.1, seed)
        find = held[liked[held]]
        if len(find):
            known = users[kept], items[kept], targets[kept], np.ones(len(kept))
            yield known, group_by_user(users[find], items[find], n_users)


def ndcg_of(draw, n_users, n_items, s, features):
    """NDCG@25 of a Ranking on one of draws_of(): fitted to what is kept, to find what is not."""
    known, relevant = draw
    P, Q, _ = fit_ranking(*known, n_users, n_items, s, features, name="")
    seen = group_by_user(*known[:2], n_users)
    found = metrics.evaluate(lambda users: P[users] @ Q.T, seen, relevant, LIST)
    return float(found["ndcg"].mean())


def choose(
    users, items, targets, liked, n_users, n_items, s=Ranking(), features=None, fixed=(), name=""
):
    """(the best Ranking, the curve) for these ratings, by the mean NDCG@25 over the draws.

    users .. n_items and features as of fit_ranking; liked (N,) bool: what should be found. One
    setting after the other goes through its values in SEARCH, from those of s on; those named in
    `fixed` stay as they are. The curve is a list of {setting: value, .., "ndcg": mean, "draws": of
    each}; it is empty, and s is returned, where no draw holds out a liked rating.
    """
    draws, curve = list(draws_of(users, items, targets, liked, n_users)), {}
    if not draws:
        return s, []

    def measure(point):
        if point not in curve:
            short = replace(point, sweeps=SWEEPS, fast=True)
            curve[point] = [ndcg_of(draw, n_users, n_items, short, features) for draw in draws]
            bar.update()
        return float(np.mean(curve[point]))

    with metrics.progress(sum(map(len, SEARCH.values())), name, unit="point") as bar:
        for setting in SEARCH:
            if setting in ("k", *fixed) or (setting == "text" and features is None):
                continue
            points = [replace(s, **{setting: value}) for value in SEARCH[setting]]
            best = max(map(measure, points))
            s = next(point for point in points if measure(point) >= best - MARGIN)
        for k in SEARCH["k"]:
            if "k" in fixed or not s.k < k <= min(n_users, n_items):  # P Q' has no higher rank
                continue
            if measure(s) + MARGIN > measure(replace(s, k=k)):
                break  # more factors take longer and do not pay
            s = replace(s, k=k)
    return s, [
        {name: getattr(point, name) for name in SEARCH} | {"ndcg": measure(point), "draws": found}
        for point, found in curve.items()
    ]


# ------------------------------------------------------------------------------------------------
# The commands
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings(PMF):
    ratings: Path = Path("out/ratings.safetensors")  # of `main.py prepare`
    out: Path = Path("out/pmf.safetensors")  # the factors to write
    fast: bool = False  # float32, sums (large data: ratings too) in another order; equal loss
    threads: int = 1  # more with --fast alone; on small data their order of ratings ranks worse
    fit_part: bool = False  # leave the validation part of the train rows out


@dataclass(frozen=True)
class Choose:
    ratings: Path = Path("out/ratings.safetensors")  # of `main.py prepare`
    embeddings: Path | None = None  # of encode.py; of texts without tags: who tags has often rated
    out: Path = Path("out/ours.json")  # what was chosen, and the NDCG@25 of all that was tried
    k: int | None = None  # K, the factors; here and below: a value given is not chosen, but kept
    missing: float | None = None  # m, weight of a missing entry against 1 of a rating
    reg: float | None = None  # mean strength of the priors of user and item factors
    text: float | None = None  # share of an item's prior variance that its text explains


@dataclass(frozen=True)
class Fit(Ranking):
    ratings: Path = Path("out/ratings.safetensors")  # of `main.py prepare`
    out: Path = Path("out/pmf-ours.safetensors")  # the factors to write
    embeddings: Path | None = None  # of encode.py, the prior; none: no prior, cold items get zeros
    choice: Path | None = None  # of `pmf.py choose`: its k, missing, reg and text are taken
    all: bool = False  # the test part too: for `main.py recommend`, where nothing is measured


BOUNDS = {"k": 1, "missing": (0, 1), "reg": 1e-6, "text": (0, 0.99)}


def read_train(path, fit_part=False, test_too=False):
    """Train users, items, ratings (N,) of prepare's file, U, I of train, and all its arrays."""
    names = [f"train_{column}" for column in ("users", "items", "ratings")]
    data = metrics.load(path, names=[*names, "valid", "user_ids", "movie_ids", "liked", "highest"])
    rows = ~data["valid"] if fit_part else slice(None)  # (N,)
    columns = [data[name][rows] for name in names]
    if test_too:
        tests = (data[name.replace("train", "test")] for name in names)
        columns = [np.concatenate(both) for both in zip(columns, tests, strict=True)]
    return *columns, len(data["user_ids"]), int(data["train_items"].max()) + 1, data


def with_least(s, data):
    """The Ranking with a `least` at which what these data call liked is no missing rating."""
    return replace(s, least=min(s.least, float(data["liked"]) / float(data["highest"])))


def main_choose(argv):
    s = metrics.parse(Choose, __doc__, argv, **BOUNDS)
    given = {name: getattr(s, name) for name in SEARCH if getattr(s, name) is not None}
    with metrics.stage(s.out, "settings of `ours`, chosen on the validation part") as figure:
        users, items, ratings, n_users, n_items, data = read_train(s.ratings)
        features, inputs = None, [s.ratings]
        if s.embeddings:
            features = metrics.load_embeddings(s.embeddings, s.ratings)[:n_items]  # (I, D)
            inputs.append(s.embeddings)
        case = users, items, ratings / float(data["highest"]), ratings >= float(data["liked"])
        first = with_least(Ranking(**given), data)
        best, curve = choose(*case, n_users, n_items, first, features, given, str(s.out))
        chosen = {name: getattr(best, name) for name in SEARCH}
        record = metrics.origin(given, inputs) | {"chosen": chosen, "curve": curve}
        with metrics.whole(s.out) as new:
            new.write_text(json.dumps(metrics.with_checksum(record), indent=1))
        figure(", ".join(f"{name} {value:g}" for name, value in chosen.items()))
        figure(f"{len(curve)} points compared")


def main_ranking(argv):
    bounds = BOUNDS | {"least": (0, 1), "power": 0, "sweeps": 1, "seed": SEEDS}
    s = metrics.parse(Fit, __doc__, argv, **bounds)  # 1. settings
    inputs = [path for path in (s.ratings, s.embeddings, s.choice) if path]
    if s.choice:
        if any(getattr(s, name) != getattr(Ranking, name) for name in SEARCH):
            raise BadInput(f"--choice holds {', '.join(SEARCH)}: give them to `pmf.py choose`")
        s = replace(s, **chosen_in(s.choice, s.ratings))
    with metrics.stage(s.out, "PMF for ranking") as figure:
        users, items, ratings, n_users, _, data = read_train(s.ratings, test_too=s.all)  # 2. data
        features = metrics.load_embeddings(s.embeddings, s.ratings) if s.embeddings else None
        targets, weights = ratings / float(data["highest"]), np.ones(len(ratings))  # (N,)
        case = users, items, targets, weights, n_users, len(data["movie_ids"])
        s = with_least(s, data)
        P, Q, W = fit_ranking(*case, s, features, str(s.out))  # 3. fit
        arrays = {"user_factors": P, "item_factors": Q, "text_weights": W}
        metrics.save(s.out, arrays, vars(s), inputs)  # 4. write
        along = np.linalg.eigvalsh(Q.T @ Q)  # (K,) squared lengths of Q along its main directions
        if along[-1] > 0.999 * along.sum():
            figure("so few ratings that everybody gets nearly the same list")
        figure(f"{s.sweeps} sweeps over {len(ratings):,} ratings")


def chosen_in(path, ratings):
    """The settings in a file that main_choose wrote for these ratings."""
    record = metrics.read_json(path, "sha256", "inputs", "chosen")
    metrics.require(path, record["inputs"], {ratings.name: metrics.sha256(ratings)})
    return record["chosen"]


def main():
    if sys.argv[1:2] == ["choose"]:
        return main_choose(sys.argv[2:])
    if sys.argv[1:2] == ["ranking"]:
        return main_ranking(sys.argv[2:])
    bounds = {"k": 1, "epochs": 1, "lr": 0, "reg": 0, "gamma": (0, 1), "seed": SEEDS, "threads": 1}
    s = metrics.parse(Settings, __doc__, **bounds)  # 1. settings
    if s.threads > 1 and not s.fast:
        raise BadInput(f"--threads {s.threads}: 1, or more with --fast (another order)")
    with metrics.stage(s.out, "PMF") as figure:
        *columns, n_users, n_items, _ = read_train(s.ratings, s.fit_part)  # 2. ratings
        fitted = partial(fit_fast, threads=s.threads) if s.fast else fit
        if s.variant == "sigmoid" and np.ptp(columns[2]) == 0:  # clicks: `ours` can rank them
            U, V, loss = np.zeros((n_users, 0)), np.zeros((n_items, 0)), np.zeros(1)
            figure("all ratings are equal, so there is nothing to learn here: no factors")
        else:
            U, V, loss = fitted(*columns, n_users, n_items, s, name=str(s.out))  # 3. fit
            figure(f"mse {loss[-1]:.4f}")
        arrays = {"user_factors": U, "item_factors": V, "loss": loss}
        metrics.save(s.out, arrays, vars(s), [s.ratings])  # 4. write


if __name__ == "__main__":
    metrics.run(main)
