"""Late fusion of collaborative and content scores: Eq. (1) of the report, and the notebook's own.

    S_ui = alpha sigma(S_CF(u, i)) + (1 - alpha) cos(E_u, E_i)                              Eq. (1)

S_CF = u_u . v_i, the product of user and item factors; E_i the unit embedding of item i's text, E_u
the unit centroid of the embeddings of the items that the user liked. What the authors ran is
another fusion (notebook_fusion): min-max of both scores per user, alpha = 0.85, and a content score
weighted by recency and rating (notebook_profiles). grid_search chooses alpha; main.py says which
files of factors and embeddings make a row of Table I.

The last section folds in people and movies that were not fitted, gives the reasons of a score, and
finds similar movies.

Gives:    712 hits of MF + MiniLM (base) with notebook_scorer, 748 with report_scorer.

The file is NumPy and metrics.py: functions of arrays, without a command. A scorer is a function of
a block of users (B,) that returns (B, I) scores: what metrics.evaluate takes. Scorers here have
that block as their first argument; functools.partial binds the others.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

import metrics
from metrics import evaluate, group_by_user, pairs_of_block

ALPHAS = np.linspace(0, 1, 21)  # the grid, both ends included

# ------------------------------------------------------------------------------------------------
# The fusions: cf and content are (B, I) scores, alpha in [0, 1] is the share of cf
# ------------------------------------------------------------------------------------------------


def sigmoid(x):
    """Logistic function of an array, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def eq1(cf, content, alpha):
    """Eq. (1) of the report, (B, I): cf is u_u . v_i and content the cosine."""
    return alpha * sigmoid(cf) + (1 - alpha) * content  # Eq. (1)


def min_max(scores, among=True):
    """Each row scaled so that its items `among` (bool, (B, I)) span [0, 1]; 0 if all are equal.

    NaN stays NaN, and top_k refuses it.
    """
    low = np.min(scores, axis=1, where=among, initial=np.inf, keepdims=True)  # (B, 1)
    high = np.max(scores, axis=1, where=among, initial=-np.inf, keepdims=True)  # (B, 1)
    with np.errstate(invalid="ignore"):
        span = high - low
    flat = span <= 0  # (B, 1)
    return np.where(flat, 0.0, (scores - low) / np.where(flat, 1, span))


def notebook_fusion(cf, content, candidates, alpha=0.85):
    """alpha minmax(cf over ALL train items) + (1 - alpha) minmax(content over the candidates).

    candidates: (B, I) bool, the items that the user has not seen.
    """
    return alpha * min_max(cf) + (1 - alpha) * min_max(content, candidates)


# ------------------------------------------------------------------------------------------------
# User profiles
# ------------------------------------------------------------------------------------------------


def weighted_sums(weights, users, items, embeddings, n_users):
    """Sums of weighted item embeddings: weights, users, items (N,), embeddings (I, D) -> (U, D)."""
    starts, order = group_by_user(users, np.arange(len(users)), n_users)  # (U + 1,), (N,)
    sums = np.zeros((n_users, embeddings.shape[1]))  # (U, D)
    for user, rows in enumerate(np.split(order, starts[1:-1])):
        sums[user] = weights[rows] @ embeddings[items[rows]]
    return sums


def centroids(users, items, embeddings, n_users):
    """E_u of Eq. (1): unit sum of the embeddings of the items liked, (U, D).

    users, items: (N,) the liked pairs. A user who liked nothing has the zero vector: cosine 0.
    """
    sums = weighted_sums(np.ones(len(users)), users, items, embeddings, n_users)  # (U, D)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def notebook_profiles(users, items, ratings, times, embeddings, n_users, highest):
    """Mean of the embeddings of all items rated, weighted as in the notebook's run, (U, D).

        w = exp((t - tmin) / (tmax - tmin)) r / highest rating

    with t the user's own rating times; where all are equal, so is the first factor, and it cancels.
    The mean is not normalised: profile . E_i is the weighted mean of the cosines of item i to the
    items rated. users .. times: (N,).
    """
    first = np.full(n_users, np.inf)  # (U,)
    last = np.full(n_users, -np.inf)  # (U,)
    np.minimum.at(first, users, times)
    np.maximum.at(last, users, times)
    span = np.maximum(last - first, 1)  # (U,)
    recency = (times - first[users]) / span[users]  # (N,)
    weights = np.exp(recency) * ratings / highest  # (N,)
    total = np.bincount(users, weights, n_users)  # (U,)
    sums = weighted_sums(weights, users, items, embeddings, n_users)  # (U, D)
    return sums / np.where(total > 0, total, 1)[:, None]


# ------------------------------------------------------------------------------------------------
# What a ranker sees, and what it should find
# ------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """The ratings that a ranker may see, and the items that it should find."""

    users: np.ndarray  # (N,) of the ratings it may see, with the next three
    items: np.ndarray  # (N,)
    ratings: np.ndarray  # (N,)
    times: np.ndarray  # (N,)
    n_users: int  # U
    n_items: int  # I, the candidates
    seen: tuple  # group_by_user pair: never recommended
    relevant: tuple  # group_by_user pair: to be found
    liked: float  # a rating from which an item counts as liked, and as relevant
    highest: float  # rating, the top of the scale


def ranking_task(data, validation=False, whole=False):
    """The Task of a ratings.safetensors: from train to test, or from fit to validation part.

    Candidates are the items of train, and relevant is what was rated `liked` or more (report, III).
    whole: all ratings are known and all items candidates, to recommend; nothing is to be found.
    """
    columns = ("users", "items", "ratings", "times")
    n_users, n_items = len(data["user_ids"]), int(data["train_items"].max()) + 1
    train, test = ([data[f"{part}_{x}"] for x in columns] for part in ("train", "test"))  # (N,) ..
    if validation:
        known = [column[~data["valid"]] for column in train]
        hidden = [column[data["valid"]] for column in train]
    elif whole:
        known = [np.concatenate(both) for both in zip(train, test, strict=True)]  # (N,) ..
        hidden, n_items = [column[:0] for column in test], len(data["movie_ids"])
    else:
        known, hidden = train, test
    users, items, ratings, _ = hidden
    scale = float(data["liked"]), float(data["highest"])
    find = (ratings >= scale[0]) & (items < n_items)  # (N,) of the hidden
    seen = group_by_user(known[0], known[1], n_users)
    relevant = group_by_user(users[find], items[find], n_users)
    return Task(*known, n_users, n_items, seen, relevant, *scale)


def candidates_of(seen, users, n_items):
    """(B, I) bool: the items that a block of users has not seen."""
    free = np.ones((len(users), n_items), dtype=bool)  # (B, I)
    free[pairs_of_block(seen, users)] = False
    return free


# ------------------------------------------------------------------------------------------------
# Scorers
# ------------------------------------------------------------------------------------------------


def mf_scores(users, U, V):
    """PMF alone: u_u . v_i, (B, I); U (U, K) and V (I, K) are factors."""
    return U[users] @ V.T


def report_scorer(task, U, V, embeddings):
    """Eq. (1) as the report has it: a scorer of (users, alpha).

    E_u is the centroid of what a user of the Task liked; embeddings (I, D), of length 1.
    """
    liked = task.ratings >= task.liked  # (N,)
    E = centroids(task.users[liked], task.items[liked], embeddings, task.n_users)  # (U, D)

    def scores(users, alpha):
        cosine = E[users] @ embeddings.T  # (B, I)
        return eq1(mf_scores(users, U, V), cosine, alpha)

    return scores


def notebook_scorer(task, U, V, embeddings):
    """The late fusion that the authors ran: a scorer of (users, alpha); arguments as above."""
    columns = task.users, task.items, task.ratings, task.times
    profiles = notebook_profiles(*columns, embeddings, task.n_users, task.highest)  # (U, D)

    def scores(users, alpha):
        content = profiles[users] @ embeddings.T  # (B, I)
        candidates = candidates_of(task.seen, users, len(V))  # (B, I)
        return notebook_fusion(mf_scores(users, U, V), content, candidates, alpha)

    return scores


# For new movies; 0: none. Chosen on MovieLens with a tenth of the movies new. It holds on board
# games; where items have few ratings, as books do, .05 is better: results/choices.md.
ALLOWANCE = 0.1


def scores_with_allowance(users, U, V, allowances):
    """p_u . q_i + allowance_i |p_u|, (B, I); allowances: (I,) of the function below."""
    lengths = np.linalg.norm(U[users], axis=1, keepdims=True)  # (B, 1)
    return mf_scores(users, U, V) + lengths * allowances


def allowances(V, known, most=ALLOWANCE):
    """What a movie without ratings is given for each unit of |p_u|, (I,); 0 for the others.

    V: (I, K). known: the items of the ratings, (N,). The factors of a new movie are the mean that
    its text lets us expect, the prior e_i W of pmf.py, and a mean is shorter than most of the
    vectors that it stands for. So without an allowance the rated movies that happen to suit a user
    fill the list, however well a new one fits. What is not known of it, p_u.(q_i - e_i W), grows
    with |p_u|. It cannot be more than q_i itself is, so the allowance is half the usual |q_i| at
    the most: a handful of ratings gives tiny factors, beside which new movies would fill every
    list.
    """
    new = np.bincount(known, minlength=len(V)) == 0  # (I,)
    usual = math.sqrt(np.mean(np.sum(V[~new] ** 2, axis=1)))  # |q_i| of a rated movie
    return min(most, usual / 2) * new


def constant_scores(users, values):
    """The same order for every user, by values (I,)."""
    return np.tile(values.astype(float), (len(users), 1))  # (B, I)


def random_scores(users, seed, n_items):
    """A random order for every user, (B, I); it does not depend on the block."""
    return np.stack([np.random.default_rng([seed, user]).random(n_items) for user in users])


# ------------------------------------------------------------------------------------------------
# Grid search of alpha
# ------------------------------------------------------------------------------------------------


def grid_search(scores, task, k, alphas=ALPHAS):
    """(alpha, curve): the alpha of the best NDCG@k on the Task, and P, R, NDCG of every alpha.

    scores: function of (users, alpha=..). Of equal alphas the largest wins (the most collaborative
    one). Report silent on the grid and the measure: we take 0, .05 .. 1, and NDCG@k, because it
    alone sees the order within the list.
    """
    curve = []
    for alpha in alphas:
        result = evaluate(partial(scores, alpha=alpha), task.seen, task.relevant, k)
        curve.append({"alpha": round(float(alpha), 6), **metrics.summary(result)})
    best = max(curve, key=lambda row: (row["ndcg"], row["alpha"]))
    return best["alpha"], curve


# ------------------------------------------------------------------------------------------------
# New people, new movies, reasons, similar movies. For one user and fixed items, (R) of pmf.py has a
# closed form, which is called folding in:
#
#   A p = Z't          A = m Q'Q + (1 - m) Z'Z + a 1       a = reg (n + m I) / (mean + m I)    (F)
#
# mean is that of n over the users of the fit. Q (I, K) holds the factors of the rated items, Z (n,
# K) those of the n that the user rated, t (n,) the ratings over the highest. So a score is a sum
# over what was rated: sum_j t_j z_j' A^-1 q_i.
# ------------------------------------------------------------------------------------------------


def new_user(items, targets, Q, rated, missing, reg, mean, least=0.0, gram=None):
    """p (K,) and A (K, K) of (F).

    items, targets: (n,) what the user rated, and t. Q: (I, K), of which those count that anybody
    `rated` (ids, each once); missing and reg as Q was fitted, to users with `mean` ratings on the
    average and with ratings of t < `least` as missing ones. gram: Q[rated]'Q[rated], which many
    users can share.
    """
    good = targets >= least  # (n,)
    Z = Q[items[good]]  # (n, K)
    gram = Q[rated].T @ Q[rated] if gram is None else gram  # (K, K)
    unseen = missing * len(rated)  # m I
    a = reg * (len(items) + unseen) / (mean + unseen)
    A = missing * gram + (1 - missing) * Z.T @ Z + a * np.eye(Q.shape[1])  # (K, K)
    return np.linalg.solve(A, Z.T @ targets[good]), A  # (F)


def new_items(embeddings, W):
    """Factors e_i W of (R) for M new movies, (M, K): embeddings (M, D), W (D, K)."""
    return embeddings @ W


def reasons(shown, items, targets, A, Q):
    """(S, n): what each of the n items that a person rated adds to the scores of the S shown.

    items, targets: (n,) as of new_user, which gave A; Q (I, K). A row's sum is p.q_i.
    """
    return np.linalg.solve(A, Q[shown].T).T @ (Q[items].T * targets)


def similar(item, *spaces):
    """(I,) cosines of one item to all; of several spaces (I, .) the mean of their standard scores.

    Standard scores are taken over the other items.
    """
    cosines = []
    for X in spaces:
        lengths = np.linalg.norm(X, axis=1)  # (I,)
        cosines.append(X @ X[item] / np.maximum(lengths * lengths[item], 1e-12))  # (I,)
    if len(spaces) == 1:
        return cosines[0]
    others = [np.delete(c, item) for c in cosines]  # (I - 1,) each
    pairs = zip(cosines, others, strict=True)
    return np.mean([(c - o.mean()) / max(o.std(), 1e-12) for c, o in pairs], axis=0)
