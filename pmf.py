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
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from tqdm import trange

from metrics import BadInput, load, parse, run, save


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
    variant: str = "sigmoid"  # g: "sigmoid" or "linear"
    fast: bool = False  # float32 and fastmath: as good, but its bits depend on the processor
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


def _epoch(users, items, ratings, U, V, cache_u, cache_v, step, sigmoid):
    """One pass over the ratings in their order, in place; returns the sum of squared errors.

    users, items (N,) int32; ratings (N,); U, cache_u (U, K); V, cache_v (I, K);
    step = (lr, reg, gamma, 1 - gamma, 1e-8). The order of operations is the published run's: with
    strict float64 it decides the last bit, and the last bits decide some ten hits of 739.
    """
    lr, reg, gamma, rest, eps = step
    one = type(eps)(1)  # a plain 1 would turn float32 arithmetic into float64
    total = 0.0
    for n in range(len(ratings)):
        u, v = U[users[n]], V[items[n]]  # (K,) views, written in place
        cu, cv = cache_u[users[n]], cache_v[items[n]]  # (K,)
        s = eps - eps
        for f in range(len(u)):
            s += u[f] * v[f]
        if sigmoid:
            g = type(eps)(_logistic(s))
            error = ratings[n] - g
            pull = error * g * (one - g)
        else:
            error = ratings[n] - s
            pull = error
        total += error * error
        for f in range(len(u)):
            gradient = pull * v[f] - reg * u[f]
            cu[f] = gamma * cu[f] + rest * (gradient * gradient)
            u[f] += lr * (gradient / (math.sqrt(cu[f]) + eps))
        for f in range(len(u)):
            gradient = pull * u[f] - reg * v[f]  # u has moved already
            cv[f] = gamma * cv[f] + rest * (gradient * gradient)
            v[f] += lr * (gradient / (math.sqrt(cv[f]) + eps))
    return total


_epoch_strict = njit(cache=True, error_model="numpy")(_epoch)
_epoch_fast = njit(cache=True, error_model="numpy", fastmath=True)(_epoch)


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


def fit(users, items, ratings, n_users, n_items, settings):
    """User factors (U, K), item factors (I, K) and the mean squared error of each epoch.

    users, items: (N,) int32 ids, visited in this order; ratings: (N,). The factors start as N(0,
    0.001^2) draws of RandomState(seed), U first.

    settings.fast takes float32 and lets the compiler reorder sums. It learns equally well, and the
    same machine gives the same bytes twice; but another processor or compiler gives other factors,
    and hits differ by some ten of 739 from the strict run's.
    Raises BadInput if the loss is no longer finite.
    """
    dtype = np.float32 if settings.fast else np.float64
    epoch = _epoch_fast if settings.fast else _epoch_strict
    sigmoid = {"sigmoid": True, "linear": False}[settings.variant]
    rng = np.random.RandomState(settings.seed)
    U = rng.normal(0, 0.001, (n_users, settings.k)).astype(dtype)  # (U, K)
    V = rng.normal(0, 0.001, (n_items, settings.k)).astype(dtype)  # (I, K)
    caches = np.zeros_like(U), np.zeros_like(V)
    targets = scale_ratings(ratings) if sigmoid else ratings.astype(np.float32)  # (N,)
    targets = targets.astype(dtype)
    lr, reg, gamma, one = np.float32([settings.lr, settings.reg, settings.gamma, 1])
    step = tuple(map(dtype, (lr, reg, gamma, one - gamma, 1e-8)))  # float32 constants, promoted
    loss = np.empty(settings.epochs)  # (epochs,)
    with trange(settings.epochs, desc="PMF", unit="epoch", disable=None) as bar:
        for t in bar:
            squares = epoch(users, items, targets, U, V, *caches, step, sigmoid)
            loss[t] = squares / len(users)
            bar.set_postfix(mse=f"{loss[t]:.5f}")
            if not np.isfinite(loss[t]):
                raise BadInput(f"PMF diverged in epoch {t + 1}; lower --lr ({settings.lr}) or --k")
    return U, V, loss


def main():
    settings = parse(Settings, __doc__)
    data = load(settings.ratings)
    rows = ~data["valid"] if settings.fit_part else np.ones(len(data["valid"]), dtype=bool)  # (N,)
    n_items = int(data["train_items"].max()) + 1
    columns = (data[f"train_{name}"][rows] for name in ("users", "items", "ratings"))
    U, V, loss = fit(*columns, len(data["user_ids"]), n_items, settings)
    arrays = {"user_factors": U, "item_factors": V, "loss": loss}
    save(settings.out, arrays, settings, [settings.ratings])


if __name__ == "__main__":
    run(main)
