"""Probabilistic Matrix Factorization by SGD in Numba (Salakhutdinov & Mnih, NIPS 2007).

    min over U, V of  1/2 sum_(u,i) (r'_ui - g(u_u . v_i))^2 + reg/2 sum_(u,i) (|u_u|^2 + |v_i|^2)

r' is the rating; for the sigmoid variant it is min-max scaled to [0, 1] and g is the logistic
function, for the linear one g is the identity. Both sums run over the N ratings, so regularisation
grows with a row's count. Each rating in turn moves its user and then its item:

    pull = (r' - g(u . v)) g'(u . v)                       g' = g (1 - g) for the logistic, else 1
    move u by the gradient pull v - reg u, then v by the gradient pull u - reg v of the moved u

A move of x is a step of RMSprop with one cache per cell (Tieleman & Hinton 2012):

    cache = gamma cache + (1 - gamma) gradient^2;   x += lr gradient / (sqrt(cache) + 1e-8)

Gives:    the factors of Cornac 3's PMF to the bit, and with them the 739 hits of MF only.
Command:  python pmf.py --ratings out/ratings.safetensors --out out/pmf.safetensors
Writes:   user_factors (U, K), item_factors (I, K), and loss (epochs,), the mean squared error of r'

Recipe `ours` has another model, the last section: P@25 .171 without text and .174 with it, where
MF only has .049.
python pmf.py ranking [--embeddings out/minilm-no-leak.safetensors] [--all]
"""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numba import njit, prange

import metrics
from metrics import SEEDS, BadInput, group_by_user, load, load_embeddings


@dataclass(frozen=True)
class Settings:
    ratings: Path  # ratings.safetensors of `main.py prepare`
    out: Path  # the factors to write
    k: int = 100  # K, factors per user and item
    epochs: int = 200  # passes over the train ratings
    lr: float = 0.005  # RMSprop step size
    reg: float = 0.001  # weight of the squared norms, per rating
    gamma: float = 0.9  # decay of the RMSprop cache
    seed: int = 42  # of the initial factors, N(0, 0.001^2)
    variant: Literal["sigmoid", "linear"] = "sigmoid"  # g: logistic function or identity
    fast: bool = False  # float32, sums (large data: ratings too) in another order; equal loss
    threads: int = 1  # more with --fast alone; on small data their order of ratings ranks worse
    fit_part: bool = False  # leave the validation part of the train rows out


# --fast visits the ratings block by block where the item factors and their caches are more than
# LARGE bytes; a block holds BLOCK bytes of them, which stay in its core's cache. Smaller data keep
# the order given, for in another one ml-latest-small ranks a tenth worse, at an equal loss.
BLOCK = 2 * 2**20
LARGE = 8 * BLOCK
PARTS = 64  # ranking: part p has rows p, p + 64, ..: popular items are neighbours, so deal them

# ------------------------------------------------------------------------------------------------
# PMF by SGD. The kernel: arrays and scalars of one float type, no random numbers
# ------------------------------------------------------------------------------------------------


def compiled(function, **options):
    """njit, its machine code kept for the next run where there is a place for it."""
    try:
        return njit(function, cache=True, error_model="numpy", **options)
    except RuntimeError:  # neither this folder nor a home folder can be written to
        return njit(function, error_model="numpy", **options)


@njit(inline="always")
def _logistic(s):
    """Logistic function, rounded to float32 and cut to 0 and 1 beyond 6, as Cornac has it."""
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
    step = (lr, reg, gamma, 1 - gamma, 1e-8). The order of operations is the notebook's: with
    strict float64 it decides the last bit, and the last bits decide some ten hits of 739.
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


def scale_ratings(ratings):
    """Ratings (N,) min-max scaled to [0, 1] and rounded to float32 (the notebook's run)."""
    low, high = float(ratings.min()), float(ratings.max())
    if low == high:
        raise BadInput(f"all {len(ratings)} train ratings are {low:g}; PMF has nothing to learn")
    return ((ratings.astype(np.float64) - low) / (high - low)).astype(np.float32)


def check_ratings(users, items, ratings, n_users, n_items):
    """Refuse with BadInput what the kernels, which check nothing, would read or write amiss."""
    if not 0 < len(users) == len(items) == len(ratings) or not np.isfinite(ratings).all():
        raise BadInput("users, items and ratings must be as many, more than 0, and all finite")
    for name, ids, size in (("users", users, n_users), ("items", items, n_items)):
        if ids.min() < 0 or ids.max() >= size:
            raise BadInput(f"{name} are {ids.min()} to {ids.max()}, not within 0 to {size - 1}")


def parts_of(ids, parts):
    """The part, 0 .. parts - 1, of each of ids (N,), cut where the ratings are even."""
    counts = np.bincount(ids)  # (highest id + 1,)
    before = np.cumsum(counts) - counts  # ratings of lower ids
    return (before * parts // len(ids))[ids]  # (N,)


def rounds_of(users, items, ratings, parts, threads=1):
    """The ratings in blocks: rounds[r][a] is (users, items, ratings), (n,) each, as they came.

    Items are cut into parts whose factors stay in the cache, users into one group a thread, but two
    at least: if all met the items in one order, its end would weigh too much (3 % more validation
    loss). In round r group a meets a part of the items that no other group meets, so that threads
    share no row: stratified SGD (Gemulla et al., KDD 2011).
    """
    groups = min(parts, max(2, threads))
    block = parts_of(users, groups) * parts + parts_of(items, parts)  # (N,)
    starts, order = group_by_user(block, np.arange(len(block)), groups * parts)  # .., (N,)
    blocks = [(users[x], items[x], ratings[x]) for x in np.split(order, starts[1:-1])]
    return [[blocks[a * parts + (a + r) % parts] for a in range(groups)] for r in range(parts)]


def fit(users, items, ratings, n_users, n_items, settings):
    """User factors (U, K), item factors (I, K) and the mean squared error of each epoch.

    users, items: (N,) int32 ids, visited in this order; ratings: (N,). The factors start as N(0,
    0.001^2) draws of RandomState(seed), U first. settings.fast learns as well, but its bytes hold
    for one processor and compiler: 741 and 755 hits, not 739. Raises BadInput on what has no fit.
    """
    s = settings
    if s.threads < 1 or (s.threads > 1 and not s.fast):
        raise BadInput(f"--threads {s.threads}: 1, or more with --fast (another order)")
    check_ratings(users, items, ratings, n_users, n_items)
    dtype, epoch = (np.float32, _epoch_fast) if s.fast else (np.float64, _epoch_strict)
    sigmoid = {"sigmoid": True, "linear": False}[s.variant]
    rng = np.random.RandomState(s.seed)
    padding = (0, 0), (0, -s.k % 8)  # zeros up to a multiple of 8 columns: whole vectors
    U = np.pad(rng.normal(0, 0.001, (n_users, s.k)).astype(dtype), padding)  # (U, K + zeros)
    V = np.pad(rng.normal(0, 0.001, (n_items, s.k)).astype(dtype), padding)  # (I, K + zeros)
    lr, reg, gamma, one = np.float32([s.lr, s.reg, s.gamma, 1])
    step = tuple(map(dtype, (lr, reg, gamma, one - gamma, 1e-8)))  # float32 constants, promoted
    model = U, V, np.zeros_like(U), np.zeros_like(V), step, sigmoid
    targets = (scale_ratings(ratings) if sigmoid else ratings.astype(np.float32)).astype(dtype)
    size = 2 * V.nbytes if s.fast else 0
    parts = max(s.threads, math.ceil(size / BLOCK) if size > LARGE else 1)
    rounds = rounds_of(users, items, targets, parts, s.threads)
    loss = np.zeros(s.epochs)  # (epochs,)
    bar = metrics.progress(s.epochs, str(s.out), unit="epoch")
    with ThreadPoolExecutor(s.threads) as pool, bar:
        for t in range(s.epochs):
            for blocks in rounds:  # the blocks of a round side by side
                loss[t] += sum(pool.map(lambda block: epoch(*block, *model), blocks)) / len(users)
            if not np.isfinite(loss[t]):
                raise BadInput(f"PMF diverged in epoch {t + 1}; lower --lr ({s.lr}) or --k")
            bar.set_postfix_str(f"mse {loss[t]:.5f}")
            bar.update()
    return U[:, : s.k].copy(), V[:, : s.k].copy(), loss


# ------------------------------------------------------------------------------------------------
# PMF for ranking (recipe `ours`): a missing rating is a zero of small weight, and the text of an
# item is the prior of its factors. Minimise over P (U, K), Q (I, K), W (D, K)
#
#   sum_rated w_ui (t_ui - p_u.q_i)^2 + m sum_missing (p_u.q_i)^2
#     + sum_u a_u |p_u|^2 + sum_i b_i |q_i - e_i W|^2 + ridge |W|^2                            (R)
#
# t_ui = rating / highest, w_ui = 1, m the weight of a missing entry (Hu, Koren & Volinsky 2008);
# a_u = reg (n_u + m I)^power with n_u ratings of user u, b_i alike (Rendle et al. 2022); e_i the
# text features of item i: the Gaussian prior q_i ~ N(e_i W, 1/b_i) is the idea of Collaborative
# Topic Regression (Wang & Blei 2011). Only users and items with a rating enter the sums; an item
# without one takes its prior e_i W. Without text (D = 0), t = 1 and power 0 this is weighted MF.
#
# In one coordinate x_k of one row, x = q_i say, (R) is a parabola. One step takes x_k to its
# minimum: minus slope / curve, half the first and half the second derivative. With y = p_u:
#
#   slope = m (x G)_k + b (x_k - prior_k) - sum_rated error y_k              G = sum_all y'y (K, K)
#   curve = m G_kk + b + sum_rated (w - m) y_k^2             error = w t - (w - m) x.y          (S)
#
# A sweep takes these steps for all of P, solves for W, takes them for all of Q. (R) never rises.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    ratings: Path = Path("out/ratings.safetensors")  # of `main.py prepare`
    out: Path = Path("out/pmf-ours.safetensors")  # the factors to write
    embeddings: Path | None = None  # of encode.py, the prior; none: no prior, cold items get zeros
    k: int = 128  # K; from here to ridge chosen on validation, see results/choices.md
    missing: float = 0.1  # m, weight of a missing entry against 1 of a rating
    reg: float = 0.014  # of a_u and b_i; with 0, (R) may have no finite minimum
    power: float = 1.0  # 1: regularisation per rating; 0: the same for every row
    ridge: float = 1.0  # weight of |W|^2
    sweeps: int = 15  # passes over users and items; more change nothing that ranking sees
    seed: int = 42  # of the initial factors, N(0, 0.01 / K)
    fast: bool = False  # float32: as good, the objective the same to some 1e-6
    all: bool = False  # the test part too: for `main.py recommend`, where nothing is measured


@partial(compiled, parallel=True, fastmath={"reassoc", "contract"})
def half_sweep(starts, others, targets, weights, missing, X, Y, spectrum, prior, reg):
    """Step (S) for each coordinate of each row of X (R, K) in turn, in place.

    Row r shares ratings with the rows others[starts[r]:starts[r + 1]] (int32) of Y (C, K), targets
    and weights (N,) alike; one without any stays. Y is turned(), so that G = diag(spectrum (K,)).
    prior (R, K); reg (R,) is a_u or b_i; all, `missing` too, of one float type. Rows do not see
    each other, so the threads' order changes nothing.
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
    """a_u of (R) for users, b_i for items: (R,); 0 for a row without ratings."""
    counts = np.bincount(rows, minlength=n_rows)  # (R,)
    return np.where(counts > 0, s.reg * (counts + s.missing * n_others) ** s.power, 0.0)


def text_features(embeddings):
    """e_i of (R): unit embeddings and a 1 for the intercept, (I, D + 1)."""
    return np.hstack([embeddings.astype(np.float64), np.ones((len(embeddings), 1))])


def regress(features, Q, reg, ridge):
    """W (D, K) that minimises (R) for given item factors Q (I, K), in closed form."""
    weighted = features * reg[:, None]  # (I, D)
    system = features.T @ weighted + ridge * np.eye(features.shape[1], dtype=Q.dtype)  # (D, D)
    return np.linalg.solve(system, weighted.T @ Q)


def fit_ranking(users, items, targets, weights, n_users, n_items, settings, features=None):
    """P (U, K), Q (I, K) and W (D, K) that minimise (R), by settings.sweeps sweeps.

    users, items (N,) int32; targets, weights (N,); features (I, D) as of text_features, or None.
    n_items may count items without ratings: they get features @ W. The same machine gives the same
    bytes twice; another processor may differ in the last bits. Raises BadInput on what has no fit.
    """
    s, rng = settings, np.random.default_rng(settings.seed)
    check_ratings(users, items, targets, n_users, n_items)
    if features is not None and len(features) != n_items:
        raise BadInput(f"text features of {len(features)} items, ratings of {n_items}")
    dtype = np.float32 if s.fast else np.float64
    features = (np.zeros((n_items, 0)) if features is None else features).astype(dtype)  # (I, D)
    targets, weights = targets.astype(dtype), weights.astype(dtype)  # (N,)
    missing, sd = dtype(s.missing), 0.1 / math.sqrt(s.k)
    P, Q = (rng.normal(0, sd, (n, s.k)).astype(dtype) for n in (n_users, n_items))
    by_user = by_row(users, items, targets, weights, n_users)
    by_item = by_row(items, users, targets, weights, n_items)
    cold_u, cold_i = np.diff(by_user[0]) == 0, np.diff(by_item[0]) == 0  # (U,), (I,) not rated
    P[cold_u], Q[cold_i] = 0, 0  # outside the sums
    reg_u = strengths(users, n_users, np.sum(~cold_i), s).astype(dtype)  # (U,)
    reg_i = strengths(items, n_items, np.sum(~cold_u), s).astype(dtype)  # (I,)
    W, zero = np.zeros((features.shape[1], s.k), dtype), np.zeros_like(P)  # (D, K), (U, K)
    with metrics.progress(s.sweeps, str(s.out), unit="sweep") as bar:
        for sweep in range(s.sweeps):
            spectrum, Q, P, W = turned(Q, P, W)
            half_sweep(*by_user, missing, P, Q, spectrum, zero, reg_u)
            _refuse_infinite(P, s)
            if sweep:  # the first Q is noise: nothing to regress on
                W = regress(features, Q, reg_i, s.ridge)
            spectrum, P, Q, W = turned(P, Q, W)
            half_sweep(*by_item, missing, Q, P, spectrum, features @ W, reg_i)
            _refuse_infinite(Q, s)
            bar.update()
    Q[cold_i] = (features @ W)[cold_i]
    return P, Q, W


def solve_users(Q, by_user, missing, reg):
    """The P (U, K) that minimises (R) for given Q (I, K), in closed form: sweeps only come near it.

    by_user as of by_row(); reg (U,) is a_u. fuse.new_user does it for somebody who is not in P.
    """
    starts, items, targets, weights = by_user
    rated = Q[np.unique(items)]  # (I, K) without the cold ones
    gram = missing * rated.T @ rated  # (K, K)
    P = np.zeros((len(starts) - 1, Q.shape[1]), Q.dtype)  # (U, K)
    for u in np.flatnonzero(np.diff(starts)):
        own = slice(starts[u], starts[u + 1])  # the user's ratings
        Z, w = Q[items[own]], weights[own]  # (n, K), (n,)
        system = gram + (Z.T * (w - missing)) @ Z + reg[u] * np.eye(len(gram))  # (K, K)
        P[u] = np.linalg.solve(system, Z.T @ (w * targets[own]))
    return P


def _refuse_infinite(X, s):
    if not np.isfinite(X).all():
        raise BadInput(f"no finite factors with --reg {s.reg}, --power {s.power}; raise --reg")


def read_train(path, fit_part=False, test_too=False):
    """Train users, items, ratings (N,) of prepare's file; U, I of train, I of all; the highest."""
    names = [f"train_{column}" for column in ("users", "items", "ratings")]
    data = load(path, names=[*names, "valid", "user_ids", "movie_ids", "highest"])
    rows = ~data["valid"] if fit_part else slice(None)  # (N,)
    sizes = len(data["user_ids"]), int(data["train_items"].max()) + 1, len(data["movie_ids"])
    columns = [data[name][rows] for name in names]
    if test_too:
        tests = (data[name.replace("train", "test")] for name in names)
        columns = [np.concatenate(both) for both in zip(columns, tests, strict=True)]
    return *columns, *sizes, float(data["highest"])


def main_ranking(argv):
    bounds = {"k": 1, "missing": (0, 1), "reg": 1e-6, "sweeps": 1, "ridge": 0, "seed": SEEDS}
    s = metrics.parse(Ranking, __doc__, argv, **bounds)  # 1. settings
    with metrics.stage(s.out, "PMF for ranking") as figure:
        read = read_train(s.ratings, test_too=s.all)  # 2. ratings
        users, items, ratings, n_users, _, n_items, highest = read
        features, inputs, weights = None, [s.ratings], np.ones(len(ratings))  # .., (N,)
        if s.embeddings:  # 3. text
            embeddings = load_embeddings(s.embeddings, s.ratings)  # (I, D)
            features, inputs = text_features(embeddings), [*inputs, s.embeddings]
        case = users, items, ratings / highest, weights, n_users, n_items
        P, Q, W = fit_ranking(*case, s, features)  # 4. fit
        if s.all:
            reg = strengths(users, n_users, len(np.unique(items)), s)  # (U,)
            P = solve_users(Q, by_row(*case[:5]), s.missing, reg)
        arrays = {"user_factors": P, "item_factors": Q, "text_weights": W}
        metrics.save(s.out, arrays, s, inputs)  # 5. write
        figure(f"{s.sweeps} sweeps over {len(ratings):,} ratings")


def main():
    if sys.argv[1:2] == ["ranking"]:
        return main_ranking(sys.argv[2:])
    bounds = {"k": 1, "epochs": 1, "lr": 0, "reg": 0, "gamma": (0, 1), "seed": SEEDS}
    s = metrics.parse(Settings, __doc__, **bounds)  # 1. settings
    with metrics.stage(s.out, "PMF") as figure:
        *columns, n_users, n_items, _, _ = read_train(s.ratings, s.fit_part)  # 2. ratings
        U, V, loss = fit(*columns, n_users, n_items, s)  # 3. fit
        arrays = {"user_factors": U, "item_factors": V, "loss": loss}
        metrics.save(s.out, arrays, s, [s.ratings])  # 4. write
        figure(f"mse {loss[-1]:.4f}")


if __name__ == "__main__":
    metrics.run(main)
