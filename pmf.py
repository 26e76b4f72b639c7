"""Probabilistic Matrix Factorization by SGD in Numba (Salakhutdinov & Mnih, NIPS 2007).

    min over U, V of  1/2 sum_(u,i) (r'_ui - g(u_u . v_i))^2 + reg/2 sum_(u,i) (|u_u|^2 + |v_i|^2)

r' is the rating; for the sigmoid variant it is min-max scaled to [0, 1] and g is the logistic
function, for the linear one g is the identity. Both sums run over the N ratings, so regularisation
grows with a row's count. Every rating is visited in the order given; u_u moves first, then v_i sees
the moved u_u. The step is RMSprop with one cache per cell (Tieleman & Hinton 2012):

    cache = gamma cache + (1 - gamma) gradient^2;   x += lr gradient / (sqrt(cache) + 1e-8)

Command:  python pmf.py --ratings out/ratings.safetensors --out out/pmf.safetensors
Writes:   user_factors (U, K), item_factors (I, K) and loss (epochs,), the mean squared error of r'
          as each rating was met.

The defaults are the published run's: with them the factors are bit-identical to Cornac 3's PMF.

The recipe `ours` has a model of its own, the last section, "PMF for ranking"; what comes before it
does not need it.  python pmf.py ranking --embeddings out/minilm-no-leak.safetensors
"""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numba import njit, prange, types
from numba.core.cgutils import get_or_insert_function, ir
from numba.extending import intrinsic
from tqdm import trange

from metrics import SEEDS, BadInput, group_by_user, load, parse, run, save


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
    fast: bool = False  # float32 and fastmath: as good, but its bits depend on the processor
    threads: int = 1  # more, with --fast: blocks of ratings side by side, so in another order
    fit_part: bool = False  # leave the validation part of the train rows out


# ------------------------------------------------------------------------------------------------
# The kernel: arrays and scalars of one float type, no random numbers
# ------------------------------------------------------------------------------------------------


@njit(inline="always")
def _logistic(s):
    """Logistic function, rounded to float32 and cut to 0 and 1 beyond 6, as Cornac has it."""
    z = np.float32(s)
    if z > 6:
        return np.float32(1)
    if z < -6:
        return np.float32(0)
    return np.float32(1.0 / (1.0 + np.float64(math.exp(-z))))  # expf, then double


@intrinsic
def _prefetch(typing_context, address):
    """Ask for the 64 bytes at an address ahead of their use: a hint, it changes no value."""

    def generate(context, builder, signature, arguments):
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        hint = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        pointer = builder.inttoptr(arguments[0], byte)
        builder.call(hint, [pointer, flag(0), flag(3), flag(1)])  # to read, keep it near, data
        return context.get_dummy_value()

    return types.void(types.intp), generate


@njit(inline="always")
def _fetch_row(X, r):
    """Prefetch row r of X (R, K), contiguous."""
    start = X.ctypes.data + r * X.strides[0]
    for address in range(start, start + X.strides[0], 64):
        _prefetch(address)


@njit(inline="always")
def _predicted(u, v, sigmoid, zero):
    """g(u . v) of u, v (K,), summed in their order from `zero`, a 0 of their float type."""
    s = zero
    for f in range(len(u)):
        s += u[f] * v[f]
    return type(zero)(_logistic(s)) if sigmoid else s


def _epoch(users, items, ratings, U, V, cache_u, cache_v, step, sigmoid):
    """One pass over the ratings in their order, in place; returns the sum of squared errors.

    users, items (N,) int32; ratings (N,); U, cache_u (U, K); V, cache_v (I, K);
    step = (lr, reg, gamma, 1 - gamma, 1e-8). The order of operations is the published run's: with
    strict float64 it decides the last bit, and the last bits decide some ten hits of 739.
    """
    lr, reg, gamma, rest, eps = step
    one, zero = type(eps)(1), type(eps)(0)  # plain ones would turn float32 into float64
    total, g = 0.0, zero
    for n in range(len(ratings)):
        if n + 2 < len(ratings):  # the item after next: its rows arrive while these steps compute
            _fetch_row(V, items[n + 2])
            _fetch_row(cache_v, items[n + 2])
        u, v = U[users[n]], V[items[n]]  # (K,) views, written in place
        cu, cv = cache_u[users[n]], cache_v[items[n]]  # (K,)
        if n == 0 or items[n] == items[n - 1]:
            g = _predicted(u, v, sigmoid, zero)  # else it is known already, see below
        error = ratings[n] - g
        pull = error * g * (one - g) if sigmoid else error
        total += error * error
        for f in range(len(u)):  # vectorised: no cell of a row sees another
            gradient = pull * v[f] - reg * u[f]
            cu[f] = gamma * cu[f] + rest * (gradient * gradient)
            u[f] += lr * (gradient / (math.sqrt(cu[f]) + eps))
        if n + 1 < len(ratings) and items[n + 1] != items[n]:
            # All that the next g needs is ready. It waits for sums, the rest of this step for roots
            # and divisions: side by side they take a tenth less time, in float32 a fifth.
            g = _predicted(U[users[n + 1]], V[items[n + 1]], sigmoid, zero)
        for f in range(len(v)):
            gradient = pull * u[f] - reg * v[f]  # u has moved already
            cv[f] = gamma * cv[f] + rest * (gradient * gradient)
            v[f] += lr * (gradient / (math.sqrt(cv[f]) + eps))
    return total


_epoch_strict = njit(cache=True, nogil=True, error_model="numpy")(_epoch)
_epoch_fast = njit(cache=True, nogil=True, error_model="numpy", fastmath=True)(_epoch)


# ------------------------------------------------------------------------------------------------
# Fit and score
# ------------------------------------------------------------------------------------------------


def scale_ratings(ratings):
    """Ratings (N,) min-max scaled to [0, 1] and rounded to float32 (the published run).

    Raises BadInput if all are equal: then there is no scale.
    """
    low, high = float(ratings.min()), float(ratings.max())
    if low == high:
        raise BadInput(f"all {len(ratings)} train ratings are {low:g}; PMF has nothing to learn")
    return ((ratings.astype(np.float64) - low) / (high - low)).astype(np.float32)


def whole_vectors(X):
    """X (R, K) with columns of zeros up to a multiple of 8; the steps leave them 0.

    Cells left over from the kernel's vectors of 4 or 8 go singly, each as slow as a vector.
    """
    return np.pad(X, ((0, 0), (0, -X.shape[1] % 8)))


def strata(users, items, n_users, n_items, parts):
    """parts x parts blocks of rows: [part of the users][part of the items], rows in their order.

    Users and items are cut where the ratings are even, so that threads wait little.
    """
    if parts == 1:
        return [[slice(None)]]  # all rows, without a copy
    cuts = []
    for ids, size in ((users, n_users), (items, n_items)):
        share = np.cumsum(np.bincount(ids, minlength=size)) / len(ids)  # (size,)
        cuts.append(np.minimum((share * parts).astype(np.int16), parts - 1)[ids])  # (N,)
    return [
        [np.flatnonzero((cuts[0] == a) & (cuts[1] == b)) for b in range(parts)]
        for a in range(parts)
    ]


def _pass(epoch, blocks, pool, *arguments):
    """One pass over blocks[a][b] of (users, items, ratings); returns the sum of squared errors.

    In round r thread a visits block [a][a + r]. No two share a row of U or V, so the factors do not
    depend on the threads' pace: stratified SGD (Gemulla et al., KDD 2011).
    """
    parts, total = len(blocks), 0.0
    for r in range(parts):
        line = [blocks[a][(a + r) % parts] for a in range(parts)]
        total += sum(pool.map(lambda block: epoch(*block, *arguments), line))
    return total


def fit(users, items, ratings, n_users, n_items, settings):
    """User factors (U, K), item factors (I, K) and the mean squared error of each epoch.

    users, items: (N,) int32 ids, visited in this order; ratings: (N,). The factors start as N(0,
    0.001^2) draws of RandomState(seed), U first.

    settings.fast takes float32 and lets the compiler reorder sums. It learns equally well, and the
    same machine gives the same bytes twice; but another processor or compiler gives other factors,
    and hits differ by some ten of 739 from the strict run's. Its ratings may be dealt to threads.
    Raises BadInput if the loss is no longer finite, or on threads without fast.
    """
    if settings.threads < 1 or (settings.threads > 1 and not settings.fast):
        raise BadInput(f"--threads {settings.threads}: 1, or more with --fast (another order)")
    dtype = np.float32 if settings.fast else np.float64
    epoch = _epoch_fast if settings.fast else _epoch_strict
    sigmoid = {"sigmoid": True, "linear": False}[settings.variant]
    rng = np.random.RandomState(settings.seed)
    U = whole_vectors(rng.normal(0, 0.001, (n_users, settings.k)).astype(dtype))  # (U, K + zeros)
    V = whole_vectors(rng.normal(0, 0.001, (n_items, settings.k)).astype(dtype))  # (I, K + zeros)
    caches = np.zeros_like(U), np.zeros_like(V)
    targets = scale_ratings(ratings) if sigmoid else ratings.astype(np.float32)  # (N,)
    targets = targets.astype(dtype)
    lr, reg, gamma, one = np.float32([settings.lr, settings.reg, settings.gamma, 1])
    step = tuple(map(dtype, (lr, reg, gamma, one - gamma, 1e-8)))  # float32 constants, promoted
    blocks = [
        [(users[rows], items[rows], targets[rows]) for rows in line]
        for line in strata(users, items, n_users, n_items, settings.threads)
    ]
    loss = np.empty(settings.epochs)  # (epochs,)
    bar = trange(settings.epochs, desc="PMF", unit="epoch", disable=None)
    with ThreadPoolExecutor(settings.threads) as pool, bar:
        for t in bar:
            squares = _pass(epoch, blocks, pool, U, V, *caches, step, sigmoid)
            loss[t] = squares / len(users)
            bar.set_postfix(mse=f"{loss[t]:.5f}")
            if not np.isfinite(loss[t]):
                raise BadInput(f"PMF diverged in epoch {t + 1}; lower --lr ({settings.lr}) or --k")
    return U[:, : settings.k].copy(), V[:, : settings.k].copy(), loss


# ------------------------------------------------------------------------------------------------
# PMF for ranking (recipe `ours`): a missing rating is a zero of small weight, and the text of an
# item is the prior of its factors. Coordinate descent minimises over P (U, K), Q (I, K), W (D, K)
#
#   sum_rated w_ui (t_ui - p_u.q_i)^2 + m sum_missing (p_u.q_i)^2
#     + sum_u a_u |p_u|^2 + sum_i b_i |q_i - e_i W|^2 + ridge |W|^2                            (R)
#
# t_ui the rating over 5, w_ui = 1, m the weight of a missing entry (Hu, Koren & Volinsky 2008);
# a_u = reg (n_u + m I)^power with n_u ratings of user u, b_i alike (Rendle et al. 2022); e_i the
# text features of item i: the Gaussian prior q_i ~ N(e_i W, 1/b_i) is the idea of Collaborative
# Topic Regression (Wang & Blei 2011). Only users and items with a rating enter the sums; an item
# without one takes its prior e_i W. Without text (D = 0), t = 1 and power 0 this is weighted MF.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    ratings: Path = Path("out/ratings.safetensors")  # of `main.py prepare`
    out: Path = Path("out/pmf-ours.safetensors")  # the factors to write
    embeddings: Path = Path()  # of encode.py, for the prior; none: no prior, cold items get zeros
    k: int = 128  # K; from here to power chosen on validation users
    missing: float = 0.15  # m, weight of a missing entry against 1 of a rating
    reg: float = 0.01  # of a_u and b_i
    power: float = 1.0  # 1: regularisation per rating; 0: the same for every row
    sweeps: int = 15  # passes over users and items; more change nothing that ranking sees
    ridge: float = 1.0  # weight of |W|^2
    seed: int = 42  # of the initial factors, N(0, 0.01 / K)
    fast: bool = False  # float32: as good, the objective the same to some 1e-6
    fit_part: bool = False  # leave the validation part of the train rows out


PARTS = 64  # part p of a sweep has rows p, p + 64, ..: popular items are neighbours, so deal them


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def half_sweep(starts, others, targets, weights, missing, X, Y, spectrum, prior, reg):
    """Each coordinate of each row of X once to its minimum of (R), in place; Y stays as it is.

    Row r is rated by columns others[starts[r]:starts[r + 1]] (int32) with targets and weights (N,).
    X, prior (R, K); Y (C, K) with Y'Y = diag(spectrum (K,)), see turned(); reg (R,); all, `missing`
    too, of one float type. A row without ratings stays. Rows do not see each other, so the threads'
    order changes nothing.
    """
    for part in prange(PARTS):
        for r in range(part, len(X), PARTS):
            rated = slice(starts[r], starts[r + 1])
            if starts[r] < starts[r + 1]:
                cells = others[rated], targets[rated], weights[rated]
                _descend(X[r], Y, cells, missing, spectrum, prior[r], reg[r])


@njit(error_model="numpy", fastmath={"reassoc", "contract"})
def _descend(x, Y, cells, missing, spectrum, prior, reg):
    """half_sweep of one row x (K,) with cells (n,): others, targets, weights."""
    others, targets, weights = cells
    K, n = len(x), len(others)
    z = np.empty((K, n), x.dtype)  # factors of what the row rated, a line each
    extra = weights - missing  # (n,) weight beyond that of a missing entry
    error = weights * targets  # (n,) w t - extra x.z
    for j in range(n):
        y, score = Y[others[j]], missing - missing  # (K,), 0 of the float type
        for k in range(K):
            score += x[k] * y[k]
            z[k, j] = y[k]
        error[j] -= extra[j] * score
    for k in range(K):
        slope = missing * spectrum[k] * x[k] + reg * (x[k] - prior[k])
        curve = missing * spectrum[k] + reg
        for j in range(n):
            slope -= error[j] * z[k, j]
            curve += extra[j] * z[k, j] * z[k, j]
        step = slope / curve
        x[k] -= step
        for j in range(n):
            error[j] += extra[j] * step * z[k, j]


def turned(Y, *others):
    """(spectrum (K,), Y (C, K), others (.., K)): all turned so that Y'Y = diag(spectrum).

    (R) does not change when P, Q and W turn together; but then the missing entries tie no two
    coordinates of a row to each other, so a step costs O(n) and not O(n + K), and gets further.
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


def centred(embeddings, known):
    """Embeddings (I, D) minus the mean of the `known` (mask or ids), each of length 1 again.

    Raw ones all point the same way: their cosines mostly measure a shared template.
    """
    moved = embeddings.astype(np.float64) - embeddings[known].mean(axis=0, dtype=np.float64)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)  # (I, D)


def text_features(embeddings, known):
    """e_i of (R): centred unit embeddings and a 1 for the intercept, (I, D + 1)."""
    return np.hstack([centred(embeddings, known), np.ones((len(embeddings), 1))])


def regress(features, Q, reg, ridge):
    """W (D, K) that minimises (R) for given item factors Q (I, K), in closed form."""
    weighted = features * reg[:, None]  # (I, D)
    system = features.T @ weighted + ridge * np.eye(features.shape[1], dtype=Q.dtype)  # (D, D)
    return np.linalg.solve(system, weighted.T @ Q)


def _refuse_infinite(X, s):
    if not np.isfinite(X).all():
        raise BadInput(f"no finite factors; raise --reg ({s.reg}) or --missing ({s.missing})")


def fit_ranking(users, items, targets, weights, n_users, n_items, settings, features=None):
    """P (U, K), Q (I, K) and W (D, K) that minimise (R), by settings.sweeps sweeps.

    users, items (N,) int32; targets, weights (N,); features (I, D) as of text_features, or None.
    n_items may count items without ratings: they get features @ W. The same machine gives the same
    bytes twice; another processor may differ in the last bits. Raises BadInput if the weights and
    the regularisation are too small for a finite solution.
    """
    s, rng = settings, np.random.default_rng(settings.seed)
    dtype = np.float32 if s.fast else np.float64
    features = (np.zeros((n_items, 0)) if features is None else features).astype(dtype)  # (I, D)
    targets, weights = targets.astype(dtype), weights.astype(dtype)  # (N,)
    missing, sd = dtype(s.missing), 0.1 / math.sqrt(s.k)
    P, Q = (rng.normal(0, sd, (n, s.k)).astype(dtype) for n in (n_users, n_items))
    reg_u = strengths(users, n_users, len(np.unique(items)), s).astype(dtype)  # (U,)
    reg_i = strengths(items, n_items, len(np.unique(users)), s).astype(dtype)  # (I,)
    P[reg_u == 0], Q[reg_i == 0] = 0, 0  # no ratings: outside the sums
    by_user = by_row(users, items, targets, weights, n_users)
    by_item = by_row(items, users, targets, weights, n_items)
    W, zero = np.zeros((features.shape[1], s.k), dtype), np.zeros_like(P)  # (D, K), (U, K)
    for sweep in trange(s.sweeps, desc="PMF for ranking", unit="sweep", disable=None):
        spectrum, Q, P, W = turned(Q, P, W)
        half_sweep(*by_user, missing, P, Q, spectrum, zero, reg_u)
        _refuse_infinite(P, s)
        if sweep:  # the first Q is noise: nothing to regress on
            W = regress(features, Q, reg_i, s.ridge)
        spectrum, P, Q, W = turned(P, Q, W)
        half_sweep(*by_item, missing, Q, P, spectrum, features @ W, reg_i)
        _refuse_infinite(Q, s)
    Q[reg_i == 0] = (features @ W)[reg_i == 0]
    return P, Q, W


def ranking_objective(P, Q, W, users, items, targets, weights, settings, features=None):
    """(R): what fit_ranking minimises, from its results and its arguments."""
    s, features = settings, np.zeros((len(Q), 0)) if features is None else features
    reg_u = strengths(users, len(P), len(np.unique(items)), s)  # (U,)
    reg_i = strengths(items, len(Q), len(np.unique(users)), s)  # (I,)
    p, q = P[reg_u > 0], Q[reg_i > 0]  # those in the sums
    logits = np.einsum("nk,nk->n", P[users], Q[items])  # (N,)
    everywhere = np.sum((p.T @ p) * (q.T @ q))  # sum over all (u, i) of (p_u.q_i)^2
    fitted = np.sum(weights * (targets - logits) ** 2)
    fitted += s.missing * (everywhere - np.sum(logits**2))
    distance = np.sum((Q - features @ W) ** 2, axis=1)  # (I,)
    return fitted + reg_u @ np.sum(P**2, axis=1) + reg_i @ distance + s.ridge * np.sum(W**2)


def main_ranking(argv):
    bounds = {"k": 1, "missing": (0, 1), "reg": 0, "sweeps": 1, "ridge": 0, "seed": SEEDS}
    s = parse(Ranking, __doc__, argv, **bounds)
    data, inputs, features = load(s.ratings), [s.ratings], None
    rows = ~data["valid"] if s.fit_part else np.ones(len(data["valid"]), dtype=bool)  # (N,)
    users, items, ratings = (data[f"train_{x}"][rows] for x in ("users", "items", "ratings"))
    n_users, n_items = len(data["user_ids"]), len(data["movie_ids"])
    if s.embeddings != Path():
        embeddings = load(s.embeddings)["embeddings"]  # (I, D)
        if len(embeddings) != n_items:
            raise BadInput(
                f"{s.embeddings} has {len(embeddings)} rows, {s.ratings} {n_items} items"
            )
        features, inputs = text_features(embeddings, np.unique(items)), [s.ratings, s.embeddings]
    weights = np.ones(len(ratings))  # (N,)
    P, Q, W = fit_ranking(users, items, ratings / 5, weights, n_users, n_items, s, features)
    arrays = {"user_factors": P, "item_factors": Q, "text_weights": W}
    save(s.out, arrays, s, inputs)


def main():
    if sys.argv[1:2] == ["ranking"]:
        return main_ranking(sys.argv[2:])
    bounds = {"k": 1, "epochs": 1, "lr": 0, "reg": 0, "gamma": (0, 1), "seed": SEEDS}
    settings = parse(Settings, __doc__, **bounds)
    data = load(settings.ratings)
    rows = ~data["valid"] if settings.fit_part else np.ones(len(data["valid"]), dtype=bool)  # (N,)
    n_items = int(data["train_items"].max()) + 1
    columns = (data[f"train_{name}"][rows] for name in ("users", "items", "ratings"))
    U, V, loss = fit(*columns, len(data["user_ids"]), n_items, settings)
    arrays = {"user_factors": U, "item_factors": V, "loss": loss}
    save(settings.out, arrays, settings, [settings.ratings])


if __name__ == "__main__":
    run(main)
