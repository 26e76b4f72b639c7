"""Us and the peers in turn, in one run, on the same data: make bench, or python tests/bench.py

Every side of a job lives in a process of its own. A round times each side once, ours first, after
one warm-up of each and half a second of rest; a ratio is the peer's seconds over ours of the same
round, and the table shows its median with the lowest and the highest. The peak memory is that of
the side's whole process, interpreter, imports and data included. Every row has a check that both
sides did the same work; a check that fails is a NO in the table and the status 1.

--jobs measures these anew and keeps the other rows of an equal run.

Needs the peers, out/ratings.safetensors, out/pmf.safetensors, out/documents.txt and MiniLM.
Writes out/bench.json and out/bench.md.   python tests/bench.py --quick --jobs evaluation prepare
"""

import dataclasses
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from metrics import BadInput, load, parse, run, versions, whole_file

ROOT = Path(__file__).parents[1]
LIST = 25  # length of the recommended list
BATCHES = (16, 32, 64, 128, 256)  # of sentence-transformers' encode, to find its best
MISSING, REG, RANKING_K, ITERATIONS = 0.15, 4.0, 128, 15  # of the ranking PMF
SWEEPS = {"cg": 15, "exact": 17}  # sweeps of ours until no worse than ITERATIONS of implicit
REST = 0.5  # seconds before each timed call: the other side's idle threads stop spinning
PEERS = ("cornac", "scikit-surprise", "ranx", "sentence-transformers", "implicit", "pandas")


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts; bench.json and bench.md go there
    data: Path = Path("data/ml-latest-small")  # MovieLens folder
    minilm: Path = Path("data/minilm")  # MiniLM's weights
    jobs: tuple[str, ...] = ()  # pmf fast surprise evaluation lists ... floor start; none: all
    pairs: int = 5  # timed rounds of each job
    threads: int = 0  # of each side where the table does not say 1; 0: all cores
    epochs: int = 200  # of each PMF fit
    documents: int = 0  # to encode, spread evenly; 0: all
    steps: int = 30  # of tuning, where it is timed more than once
    quick: bool = False  # one round, 5 epochs, 256 documents, 5 steps: to try the script


class Side(NamedTuple):
    """One side of a job, ready to be timed."""

    call: Callable  # what is timed
    digest: Callable = lambda result: result  # its result -> what the check needs
    before: Callable = lambda: None  # untimed, before each call
    warm: Callable | None = None  # the warm-up, where a whole call would take long


# ------------------------------------------------------------------------------------------------
# PMF: the published settings, strict and fast
# ------------------------------------------------------------------------------------------------


def train_columns(s):
    """Users, items, ratings of the train part, (N,) each."""
    data = load(s.out / "ratings.safetensors")
    return [data[f"train_{name}"] for name in ("users", "items", "ratings")]


def fit_columns(s):
    """The columns without the validation part, items numbered anew by first appearance; and the
    validation part itself, where its items are known."""
    data = load(s.out / "ratings.safetensors")
    users, items, ratings = (data[f"train_{name}"] for name in ("users", "items", "ratings"))
    kept = ~data["valid"]  # (N,)
    ids, first = np.unique(items[kept], return_index=True)
    number = np.full(items.max() + 1, -1, dtype=np.int32)  # (I,) -1: only in validation
    number[ids[np.argsort(first)]] = np.arange(len(ids))
    held = ~kept & (number[items] >= 0)  # (N,)
    return (
        [users[kept], number[items[kept]], ratings[kept]],
        [users[held], number[items[held]], ratings[held]],
    )


def our_pmf(columns, epochs, fast):
    import pmf

    def fit(epochs):
        settings = pmf.Settings(ratings=Path(), out=Path(), epochs=epochs, fast=fast)
        return pmf.fit(*columns, columns[0].max() + 1, columns[1].max() + 1, settings)[:2]

    return Side(lambda: fit(epochs), warm=lambda: fit(1))


def triples(columns):
    return list(zip(*(column.tolist() for column in columns), strict=True))


def cornac_pmf(columns, epochs, variant="non_linear"):
    import cornac

    data = cornac.data.Dataset.from_uir(triples(columns))

    def fit(epochs):
        model = cornac.models.PMF(
            k=100,
            max_iter=epochs,
            learning_rate=0.005,
            lambda_reg=0.001,
            gamma=0.9,
            seed=42,
            variant=variant,
        ).fit(data)
        return model.U, model.V

    return Side(lambda: fit(epochs), warm=lambda: fit(1))


def strict_ours(s):
    return our_pmf(train_columns(s), s.epochs, fast=False)


def strict_cornac(s):
    return cornac_pmf(train_columns(s), s.epochs)


def fast_ours(s):
    return our_pmf(fit_columns(s)[0], s.epochs, fast=True)


def fast_cornac(s):
    return cornac_pmf(fit_columns(s)[0], s.epochs)


def few(s):
    """Epochs beside Surprise: only the time of one matters, and its epochs are no longer ours."""
    return min(s.epochs, 20)


def surprise_ours(s):
    side = our_pmf(train_columns(s), few(s), fast=True)
    n = len(train_columns(s)[0])
    return side._replace(digest=lambda factors: (n, factors[0].shape, factors[1].shape, few(s)))


def surprise_svd(s):
    import pandas
    import surprise

    table = pandas.DataFrame(dict(zip("uir", train_columns(s), strict=True)))
    reader = surprise.Reader(rating_scale=(0.5, 5))
    data = surprise.Dataset.load_from_df(table, reader).build_full_trainset()

    def fit():
        return surprise.SVD(n_factors=100, n_epochs=few(s), biased=False, random_state=42).fit(data)

    return Side(fit, lambda model: (data.n_ratings, model.pu.shape, model.qi.shape, model.n_epochs))


def same_bits(ours, peer, s):
    same = all(np.array_equal(a, b) for a, b in zip(ours, peer, strict=True))
    return same, f"factors of {s.epochs} epochs bit-identical"


def same_loss(ours, peer, s):
    users, items, ratings = fit_columns(s)[1]
    losses = []
    for U, V in (ours, peer):
        logits = np.einsum("nk,nk->n", U[users].astype(float), V[items].astype(float))  # (N,)
        losses.append(np.mean(((ratings - 0.5) / 4.5 - 1 / (1 + np.exp(-logits))) ** 2))
    same = abs(losses[0] - losses[1]) <= 0.01 * losses[1]
    return same, f"validation MSE {losses[0]:.5f} and {losses[1]:.5f}, within 1 %"


def same_size(ours, peer, s):
    return ours == peer, f"{ours[0]} ratings, K = {ours[1][1]}, {ours[3]} epochs; its SGD is plain"


# ------------------------------------------------------------------------------------------------
# Evaluation: PMF's scores of all users and items -> Precision, Recall, NDCG at 25
# ------------------------------------------------------------------------------------------------


def shelf(s):
    """(U, V, seen, relevant) of the published PMF and the test part."""
    import main

    bench = main.Bench(s.out)
    return *bench.factors(), bench.seen, bench.relevant


def evaluation_ours(s, dtype=np.float64):
    import fuse
    import metrics

    U, V, seen, relevant = shelf(s)
    score = fuse.mf_scorer(U.astype(dtype), V.astype(dtype))
    return Side(
        lambda: metrics.evaluate(score, seen, relevant, LIST, threads=s.threads),
        lambda found: [found[name] for name in ("precision", "recall", "ndcg")],
    )


def evaluation_float32(s):
    return evaluation_ours(s, np.float32)


def evaluation_cornac(s):
    """Its ranking_eval takes only what was LIKED in train out of the candidates (it compares the
    train ratings too with rating_threshold), so it is given a 5 for every train row."""
    import cornac
    from cornac.eval_methods.base_method import ranking_eval

    U, V, _, relevant = shelf(s)
    users, items, ratings = train_columns(s)
    train = cornac.data.Dataset.from_uir(triples([users, items, np.full_like(ratings, 5)]))
    tested = np.repeat(np.arange(len(U)), np.diff(relevant[0])), relevant[1]
    test = cornac.data.Dataset.build(
        triples([*tested, np.full(len(tested[0]), 5.0)]),
        global_uid_map=train.uid_map,
        global_iid_map=train.iid_map,
    )
    model = cornac.models.PMF(k=100, trainable=False, init_params={"U": U, "V": V}).fit(train)
    names = cornac.metrics.Precision(LIST), cornac.metrics.Recall(LIST), cornac.metrics.NDCG(LIST)
    return Side(
        lambda: ranking_eval(model, names, train, test, rating_threshold=4.0)[1],
        lambda found: [np.array([values[user] for user in sorted(values)]) for values in found],
    )


def scores_and_lists(s):
    """Users (E,), their scores (E, I) with seen items at -inf, the best 25 (E, 25), relevant."""
    import metrics

    U, V, seen, relevant = shelf(s)
    users = np.flatnonzero(np.diff(relevant[0]))  # (E,)
    scores = U[users] @ V.T  # (E, I)
    scores[metrics.pairs_of_block(seen, users)] = -np.inf
    return users, scores, metrics.top_k(scores, LIST), relevant


def in_order(found):
    return [found[name] for name in ("precision", "recall", "ndcg")]


def lists_ours(s):
    import metrics

    users, _, lists, relevant = scores_and_lists(s)
    return Side(lambda: metrics.metrics_of_lists(lists, relevant, users, LIST), in_order)


def ranking_ours(s):
    import metrics

    users, scores, _, relevant = scores_and_lists(s)

    def measure():
        lists = metrics.top_k(scores, LIST)  # (E, 25)
        return metrics.metrics_of_lists(lists, relevant, users, LIST)

    return Side(measure, in_order)


def ranx_data(s):
    """Qrels, and the 25 best of each user as the dict that a Run is built from."""
    import ranx

    users, scores, lists, (starts, items) = scores_and_lists(s)
    relevant = {f"{u:04}": {str(i): 1 for i in items[starts[u] : starts[u + 1]]} for u in users}
    values = np.take_along_axis(scores, lists, axis=1).tolist()  # (E, 25)
    found = {
        f"{user:04}": dict(zip(map(str, row), value, strict=True))  # it sorts users as text
        for user, row, value in zip(users, lists.tolist(), values, strict=True)
    }
    return ranx.Qrels(relevant), found


def lists_ranx(s):
    import ranx

    qrels, found = ranx_data(s)
    result, names = ranx.Run(found), [f"{name}@{LIST}" for name in ("precision", "recall", "ndcg")]
    options = {"threads": s.threads, "return_mean": False}
    return Side(lambda: list(ranx.evaluate(qrels, result, names, **options).values()))


def ranking_ranx(s):
    import ranx

    qrels, found = ranx_data(s)
    names = [f"{name}@{LIST}" for name in ("precision", "recall", "ndcg")]
    options = {"threads": s.threads, "return_mean": False}
    return Side(lambda: list(ranx.evaluate(qrels, ranx.Run(found), names, **options).values()))


def same_metrics(ours, peer, s):
    same = all(len(a) == len(b) for a, b in zip(ours, peer, strict=True))
    gap = max(np.abs(a - b).max() for a, b in zip(ours, peer, strict=True)) if same else np.inf
    return gap < 1e-9, f"P, R, NDCG of each of {len(ours[0])} users differ by {gap:.0e} at most"


# ------------------------------------------------------------------------------------------------
# Encoding and tuning MiniLM, float32 on the CPU
# ------------------------------------------------------------------------------------------------


def texts(s):
    """The documents to encode."""
    lines = (s.out / "documents.txt").read_text(encoding="utf-8").splitlines()
    n = min(s.documents or len(lines), len(lines))
    return [lines[i] for i in np.linspace(0, len(lines) - 1, n).astype(int)]


def encoding_ours(s):
    import encode

    encoder = encode.load_encoder(*encode.find("minilm", str(s.minilm)))
    documents = texts(s)

    def vectors(documents):
        return encode.embed(encoder, encode.tokenize(encoder, documents))

    return Side(
        lambda: vectors(documents), lambda found: (found, ""), warm=lambda: vectors(documents[:64])
    )


def sentence_transformer(s):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(s.minilm), device="cpu")
    model.max_seq_length = 256
    return model


def encoding_defaults(s, batch=32):
    model, documents = sentence_transformer(s), texts(s)
    return Side(
        lambda: model.encode(documents, batch_size=batch),
        lambda found: (found, f", its batch {batch}"),
        warm=lambda: model.encode(documents[:64]),
    )


def encoding_best(s):
    """Its batch size that is the fastest on 512 documents, the better of two tries each."""
    documents = texts(s)
    sample = [documents[i] for i in np.linspace(0, len(documents) - 1, 512).astype(int)]
    model = sentence_transformer(s)
    model.encode(sample[:64])

    def seconds(batch):
        start = time.perf_counter()
        model.encode(sample, batch_size=batch)
        return time.perf_counter() - start

    tries = {batch: min(seconds(batch) for _ in range(2)) for batch in BATCHES}
    return encoding_defaults(s, batch=min(tries, key=tries.get))


def same_vectors(ours, peer, s):
    same = ours[0].shape == peer[0].shape and ours[0].dtype == peer[0].dtype == np.float32
    gap = np.abs(ours[0] - peer[0]).max() if same else np.inf
    return gap < 1e-5, f"{len(ours[0])} vectors differ by {gap:.0e} at most{peer[1]}"


def tuning_settings(s, contrastive):
    """The published recipe's settings for one epoch, cut after s.steps."""
    return contrastive.Settings(
        encoder="minilm",
        weights=str(s.minilm),
        ratings=s.out / "ratings.safetensors",
        texts=s.out / "documents.txt",
        out=Path(),
        epochs=1,
        max_steps=s.steps,
    )


def without_dropout(model):
    """Both sides draw other dropout masks; without any, the losses can be compared."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return {name: value.clone() for name, value in model.state_dict().items()}


def tuning_ours(s):
    import contrastive
    import encode

    settings = tuning_settings(s, contrastive)
    examples = contrastive.read_examples(settings)
    encoder = contrastive.build(settings, *encode.find("minilm", str(s.minilm)))
    ids = encode.tokenize(encoder, encode.read_texts(settings.texts))
    start = without_dropout(encoder.model)
    short = dataclasses.replace(settings, max_steps=2)
    return Side(
        lambda: contrastive.tune(encoder, ids, examples, settings),
        before=lambda: encoder.model.load_state_dict(start),
        warm=lambda: contrastive.tune(encoder, ids, examples, short),
    )


def tuning_pairs(s):
    """Its training examples: the pairs of ours, in the order in which ours meets them."""
    from sentence_transformers import InputExample

    import contrastive

    settings = tuning_settings(s, contrastive)
    pairs = contrastive.read_examples(settings).items  # (P, 2)
    order = np.random.default_rng(settings.seed).permutation(len(pairs))  # (P,)
    lines = settings.texts.read_text(encoding="utf-8").splitlines()
    return settings, [InputExample(texts=[lines[i] for i in pair]) for pair in pairs[order]]


def tuning_peer(s):
    """Its own fit loop with MultipleNegativesRankingLoss, without the newer Trainer around it."""
    import torch
    from sentence_transformers.sentence_transformer import losses

    settings, examples = tuning_pairs(s)
    model, seen = sentence_transformer(s), []
    start = without_dropout(model)
    loss = losses.MultipleNegativesRankingLoss(model)
    loss.register_forward_hook(lambda module, inputs, value: seen.append(value.item()))
    loader = torch.utils.data.DataLoader(examples, batch_size=settings.batch, shuffle=False)
    options = {"epochs": 1, "warmup_steps": settings.warmup, "show_progress_bar": False}
    options |= {"optimizer_params": {"lr": settings.lr}, "max_grad_norm": 1}

    def tune(steps):
        seen.clear()
        steps = min(steps or len(loader), len(loader))
        model.old_fit([(loader, loss)], steps_per_epoch=steps, **options)
        return list(seen)

    return Side(
        lambda: tune(s.steps), before=lambda: model.load_state_dict(start), warm=lambda: tune(2)
    )


def whole(s):
    """The settings for a whole epoch of tuning."""
    return s if s.quick else dataclasses.replace(s, steps=0)


def epoch_ours(s):
    return tuning_ours(whole(s))


def epoch_peer(s):
    return tuning_peer(whole(s))


def same_curve(ours, peer, s):
    a, b = np.array(ours), np.array(peer)
    gap = np.abs(a / b - 1).max() if len(a) == len(b) else np.inf
    bound = 1e-4 if len(a) <= 100 else 1e-2  # found in 30 steps: 3e-7; rounding grows
    text = f"losses of {len(a)} steps, {a[0]:.4f} to {a[-1]:.4f}, differ by {gap:.0e} of them"
    return gap < bound, f"{text} at most (bound {bound:g})"


def matrix_flop(model, lengths):
    """FLOP of the matrix products of a forward pass over texts of so many tokens, unpadded."""
    import torch

    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    shape = model.config.hidden_size * model.config.num_hidden_layers
    return 2 * weights * sum(lengths) + 4 * shape * sum(n**2 for n in lengths)  # q.k and p.v


def floor_of_minilm(s):
    """FLOP of our encoding and tuning jobs, and the most FLOP/s of the same products by torch."""
    import torch

    import contrastive
    import encode

    encoder = encode.load_encoder(*encode.find("minilm", str(s.minilm)))
    settings = tuning_settings(s, contrastive)
    pairs = contrastive.read_examples(settings).items  # (P, 2)
    order = np.random.default_rng(settings.seed).permutation(len(pairs))  # (P,)
    steps = np.split(pairs[order], range(settings.batch, len(pairs), settings.batch))
    lengths = [len(x) for x in encode.tokenize(encoder, encode.read_texts(settings.texts))]
    tuned = [lengths[i] for step in steps[: s.steps or None] for i in np.unique(step)]
    encoded = [len(x) for x in encode.tokenize(encoder, texts(s))]
    a, b = torch.rand(2048, 384), torch.rand(384, 1536)

    def measure():
        def product():
            start = time.perf_counter()
            a @ b
            return time.perf_counter() - start

        peak = 2 * a.shape[0] * b.numel() / min(product() for _ in range(200))
        work = {"encoding": matrix_flop(encoder.model, encoded)}
        work["tuning"] = 3 * matrix_flop(encoder.model, tuned)  # backward: two products for one
        return work | {"peak": peak}

    return Side(measure)


# ------------------------------------------------------------------------------------------------
# The PMF for ranking against implicit, to the same value of the objective
# ------------------------------------------------------------------------------------------------


def als_settings(sweeps):
    """(R) of pmf.py with targets 1, weights 1, no text, power 0: implicit's objective; float32."""
    import pmf

    return pmf.Ranking(k=RANKING_K, missing=MISSING, reg=REG, power=0.0, sweeps=sweeps, fast=True)


def als_ours(s, sweeps):
    import pmf

    users, items, _ = train_columns(s)
    ones = np.ones(len(users))  # (N,)
    shape = users.max() + 1, items.max() + 1

    def fit(sweeps):
        return pmf.fit_ranking(users, items, ones, ones, *shape, als_settings(sweeps))[:2]

    return Side(lambda: fit(sweeps), warm=lambda: fit(1))


def als_ours_cg(s):
    return als_ours(s, SWEEPS["cg"])


def als_ours_exact(s):
    return als_ours(s, SWEEPS["exact"])


def als_implicit(s, use_cg=True):
    import scipy.sparse
    from implicit.cpu.als import AlternatingLeastSquares

    users, items, _ = train_columns(s)
    weights = np.full(len(users), 1 / MISSING)  # (N,) a missing entry has weight 1 there
    table = scipy.sparse.csr_matrix((weights, (users, items)))

    def fit(iterations):
        model = AlternatingLeastSquares(
            factors=RANKING_K,
            regularization=REG / MISSING,
            alpha=1.0,
            iterations=iterations,
            use_cg=use_cg,
            num_threads=s.threads,
            random_state=42,
        )
        model.fit(table, show_progress=False)
        return model.user_factors, model.item_factors

    return Side(lambda: fit(ITERATIONS), warm=lambda: fit(1))


def als_implicit_exact(s):
    return als_implicit(s, use_cg=False)


def same_objective(ours, peer, s):
    import pmf

    users, items, _ = train_columns(s)
    ones = np.ones(len(users))  # (N,)
    nothing = np.zeros((0, RANKING_K))
    values = []
    for factors in (ours, peer):
        P, Q = (x.astype(np.float64) for x in factors)
        values.append(
            pmf.ranking_objective(P, Q, nothing, users, items, ones, ones, als_settings(0))
        )
    return values[0] <= values[1], f"objective {values[0]:.0f}, the peer's {values[1]:.0f}"


# ------------------------------------------------------------------------------------------------
# prepare: ratings.csv -> the arrays of ratings.safetensors
# ------------------------------------------------------------------------------------------------


def prepare_side(s, read):
    import main

    movies = np.array(list(main.read_movies(s.data / "movies.csv")))  # (I,)
    return Side(lambda: main.split_ratings(*read(s.data / "ratings.csv"), movies, main.Prepare()))


def prepare_ours(s):
    import main

    return prepare_side(s, main.read_ratings)


def prepare_pandas(s):
    import pandas

    def read(path):
        users, movies, ratings, times = (column for _, column in pandas.read_csv(path).items())
        columns = users, movies, ratings.astype(np.float32), times
        return [column.to_numpy() for column in columns]

    return prepare_side(s, read)


def same_arrays(ours, peer, s):
    same = ours.keys() == peer.keys() and all(np.array_equal(ours[k], peer[k]) for k in ours)
    return same, f"{len(ours)} arrays equal; ours checks every row besides"


# ------------------------------------------------------------------------------------------------
# The jobs
# ------------------------------------------------------------------------------------------------


class Peer(NamedTuple):
    name: str
    side: Callable
    check: Callable  # (digest of ours, digest of the peer's, settings) -> (same work?, text)
    least: float  # the ratio that is asked for
    own_threads: bool = False  # it threads by itself, so BLAS gets one thread


class Job(NamedTuple):
    title: str
    ours: Callable
    peers: tuple[Peer, ...]
    one_thread: bool = False
    own_threads: bool = False  # as in Peer, for our side
    rounds: int = 0  # timed rounds, where s.pairs would take too long


JOBS = {
    "pmf": Job(
        "PMF, published settings",
        strict_ours,
        (Peer("Cornac PMF", strict_cornac, same_bits, 5),),
        one_thread=True,
    ),
    "fast": Job(
        "PMF, `--fast`",
        fast_ours,
        (Peer("Cornac PMF", fast_cornac, same_loss, 12),),
        one_thread=True,
    ),
    "surprise": Job(
        "PMF, `--fast`, an epoch at K = 100",
        surprise_ours,
        (Peer("Surprise SVD(biased=False)", surprise_svd, same_size, 10),),
        one_thread=True,
    ),
    "evaluation": Job(
        "factors to metrics at 25, 600 users",
        evaluation_ours,
        (Peer("Cornac ranking_eval", evaluation_cornac, same_metrics, 20),),
        own_threads=True,
    ),
    "evaluation-32": Job(
        "the same from float32 factors",
        evaluation_float32,
        (Peer("Cornac ranking_eval, float64", evaluation_cornac, same_metrics, 20),),
        own_threads=True,
    ),
    "ranking": Job(
        "scores to metrics at 25",
        ranking_ours,
        (Peer("ranx, Run of our lists + evaluate", ranking_ranx, same_metrics, 1),),
    ),
    "lists": Job(
        "lists to metrics at 25",
        lists_ours,
        (Peer("ranx, evaluate of a ready Run", lists_ranx, same_metrics, 1),),
    ),
    "encoding": Job(
        "MiniLM, texts to vectors",
        encoding_ours,
        (
            Peer("sentence-transformers, defaults", encoding_defaults, same_vectors, 1.5),
            Peer("sentence-transformers, best batch", encoding_best, same_vectors, 1.25),
        ),
    ),
    "tuning": Job(
        "MiniLM, steps of tuning on the published pairs",
        tuning_ours,
        (
            Peer(
                "sentence-transformers, MultipleNegativesRankingLoss", tuning_peer, same_curve, 1.5
            ),
        ),
    ),
    "epoch": Job(
        "the same, a whole epoch",
        epoch_ours,
        (Peer("sentence-transformers, MultipleNegativesRankingLoss", epoch_peer, same_curve, 1.5),),
        rounds=1,
    ),
    "als": Job(
        "PMF for ranking, `--fast`, to implicit's objective",
        als_ours_cg,
        (Peer("implicit ALS, conjugate gradient", als_implicit, same_objective, 1, True),),
        one_thread=True,
    ),
    "als-cores": Job(
        "the same on all cores",
        als_ours_cg,
        (Peer("implicit ALS, conjugate gradient", als_implicit, same_objective, 1, True),),
        own_threads=True,
    ),
    "als-exact": Job(
        "the same on all cores",
        als_ours_exact,
        (Peer("implicit ALS, exact", als_implicit_exact, same_objective, 1, True),),
        own_threads=True,
    ),
    "prepare": Job(
        "prepare, ratings.csv to the arrays",
        prepare_ours,
        (Peer("pandas read_csv, our split", prepare_pandas, same_arrays, 1),),
        one_thread=True,
    ),
}


# ------------------------------------------------------------------------------------------------
# A side in its own process
# ------------------------------------------------------------------------------------------------


def peak_memory():
    """Bytes that this process held at most; unlike ru_maxrss without its parent's."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def serve(pipe, build, s):
    """The child: build a side, warm it up, time it as often as asked, send its digest."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1), os.dup2(silent, 2)  # progress bars, warnings
    try:
        side = build(s)
        side.before()
        (side.warm or side.call)()
        pipe.send(None)
        while pipe.recv() == "time":
            side.before()
            time.sleep(REST)
            start = time.perf_counter()
            result = side.call()
            pipe.send(time.perf_counter() - start)
        memory = peak_memory()
        pipe.send((side.digest(result), memory))
    except Exception:
        pipe.send(traceback.format_exc())


class Child:
    """A side in a process of its own, which starts with its number of threads."""

    def __init__(self, build, s, threads, own_threads):
        for name in ("OMP", "MKL", "NUMBA"):
            os.environ[f"{name}_NUM_THREADS"] = str(threads)
        os.environ["OPENBLAS_NUM_THREADS"] = str(1 if own_threads else threads)
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        settings = dataclasses.replace(s, threads=threads)
        self.process = context.Process(target=serve, args=(other, build, settings), daemon=True)
        self.process.start()
        other.close()
        self.receive()

    def receive(self):
        try:
            answer = self.pipe.recv()
        except EOFError:
            raise BadInput("a side of the job died; is there enough memory?") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def ask(self, order):
        self.pipe.send(order)
        return self.receive()


def run_job(name, job, s):
    """The table's rows of a job, one a peer."""
    threads = 1 if job.one_thread else s.threads or os.cpu_count()
    sides = [(job.ours, job.own_threads), *((p.side, p.own_threads) for p in job.peers)]
    children = [Child(build, s, threads, own) for build, own in sides]
    rounds = [[child.ask("time") for child in children] for _ in range(job.rounds or s.pairs)]
    digests, memory = zip(*(child.ask("end") for child in children), strict=True)
    for child in children:
        child.process.join()
    for number, peer in enumerate(job.peers, 1):
        same, text = peer.check(digests[0], digests[number], s)
        yield {
            "job": name,
            "title": job.title,
            "peer": peer.name,
            "threads": threads,
            "ours": [times[0] for times in rounds],
            "peers": [times[number] for times in rounds],
            "least": peer.least,
            "memory": [memory[0], memory[number]],
            "same": bool(same),
            "check": text,
        }


def floor_row(s):
    """What floor_of_minilm finds, in a process of its own with all threads."""
    child = Child(floor_of_minilm, s, s.threads or os.cpu_count(), own_threads=False)
    child.ask("time")
    found, _ = child.ask("end")
    child.process.join()
    return found


# ------------------------------------------------------------------------------------------------
# Start-up
# ------------------------------------------------------------------------------------------------

HEAVY = ("torch", "transformers", "numba", "pandas")
START = {  # what is shown -> arguments of Python, and what it must not import
    "python -c pass": (["-c", "pass"], HEAVY),
    "python -c 'import numpy'": (["-c", "import numpy"], HEAVY),
    "main.py --help": (["main.py", "--help"], HEAVY),
    "main.py recommend": (["main.py", "recommend", "--user", "400"], HEAVY),
    "pmf.py --epochs 1": (["pmf.py", "--epochs", "1"], ("torch", "transformers", "pandas")),
}


def start_rows(s, folder):
    """Seconds of whole commands from a warm disk, and the heavy modules that they import."""
    more = {
        "main.py recommend": ["--out", s.out, "--data", s.data, "--encoder", "minilm"],
        "pmf.py --epochs 1": ["--ratings", s.out / "ratings.safetensors", "--out", f"{folder}/p"],
    }
    for title, (arguments, banned) in START.items():
        if title == "main.py recommend" and not (s.out / "minilm.safetensors").is_file():
            continue
        first, *rest = arguments
        script = [str(ROOT / first)] if first.endswith(".py") else [first]
        line = [*script, *rest, *map(str, more.get(title, []))]
        spied = command(["-X", "importtime", *line]).stderr  # also the warm-up
        imported = {entry.split("|")[-1].strip() for entry in spied.splitlines()}
        loaded = [name for name in HEAVY if name in imported]
        seconds = []
        for _ in range(max(3, s.pairs)):
            start = time.perf_counter()
            command(line)
            seconds.append(time.perf_counter() - start)
        same = not set(loaded) & set(banned)
        yield {"title": title, "seconds": seconds, "heavy": loaded, "same": same}


def command(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done


# ------------------------------------------------------------------------------------------------
# The table
# ------------------------------------------------------------------------------------------------


def table(record):
    """The record of a run as Markdown."""
    text = (
        f"{record['machine']}; {record['rounds']} rounds, medians; memory is the whole process's."
    )
    if record["quick"]:
        text = f"**A shortened run (--quick).** {text}"
    head = "job | peer | threads | ours, s | peer, s | ratio (lowest..highest) | at least"
    head += " | peak MB, ours and peer | the same work"
    lines = [text, "", f"| {head} |", "|" + " --- |" * 9]
    for row in record["rows"]:
        ratios = [b / a for a, b in zip(row["ours"], row["peers"], strict=True)]
        ratio = statistics.median(ratios)
        cells = [row["title"], row["peer"], str(row["threads"])]
        cells += [f"{statistics.median(row[side]):.3g}" for side in ("ours", "peers")]
        spread = f"{min(ratios):.2f}..{max(ratios):.2f}" if len(ratios) > 1 else "one round"
        cells += [f"{ratio:.2f} ({spread})"]
        cells += [f"{row['least']:g}, {'met' if ratio >= row['least'] else 'missed'}"]
        cells += [", ".join(f"{size / 1e6:.0f}" for size in row["memory"])]
        cells += [row["check"] if row["same"] else f"NO: {row['check']}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += floor_lines(record)
    if record["start"]:
        lines += ["", "| command | seconds (lowest..highest) | heavy imports |", "|" + " --- |" * 3]
    for row in record["start"]:
        low, high = min(row["seconds"]), max(row["seconds"])
        heavy = ", ".join(row["heavy"]) or "none"
        heavy = heavy if row["same"] else f"NO: {heavy}"
        middle = statistics.median(row["seconds"])
        lines.append(f"| `{row['title']}` | {middle:.3f} ({low:.3f}..{high:.3f}) | {heavy} |")
    return "\n".join([*lines, ""])


def floor_lines(record):
    """What MiniLM's matrix products alone would take at their measured peak, and what we take."""
    floor = record["floor"]
    if not floor:
        return []
    head = "MiniLM | matrix products, TFLOP | s at the peak | ours, s | share at the peak"
    title = f"Peak of a matrix product of MiniLM's shape: {floor['peak'] / 1e9:.0f} GFLOP/s."
    lines = ["", title, "", f"| {head} |", "|" + " --- |" * 5]
    for name in ("encoding", "tuning"):
        took = [statistics.median(r["ours"]) for r in record["rows"] if r["job"] == name][:1]
        least = floor[name] / floor["peak"]
        cells = [name, f"{floor[name] / 1e12:.2f}", f"{least:.1f}"]
        cells += [f"{took[0]:.1f}", f"{least / took[0]:.0%}"] if took else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def machine():
    """The processor's name and its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {math.ceil(_memory() / 2**30)} GB"


def _memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def save(record, out):
    texts = {"bench.json": json.dumps(record, indent=1), "bench.md": table(record)}
    for name, text in texts.items():
        with whole_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def kept(path, record, names):
    """What stays of an earlier record if only `names` run: the same machine, settings, versions."""
    old = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    same = json.loads(json.dumps(record)).items() <= old.items()
    rest = old if same else {"rows": [], "floor": {}, "start": []}
    return {
        "rows": [row for row in rest["rows"] if row["job"] not in names],
        "floor": {} if "floor" in names else rest["floor"],
        "start": [] if "start" in names else rest["start"],
    }


def main_bench():
    s = parse(Settings, __doc__)
    if s.quick:
        s = dataclasses.replace(s, pairs=1, epochs=5, documents=256, steps=5)
    names = s.jobs or (*JOBS, "floor", "start")
    if unknown := set(names) - {*JOBS, "floor", "start"}:
        raise BadInput(f"--jobs {' '.join(unknown)}: known are {' '.join(JOBS)} floor start")
    record = {"machine": machine(), "rounds": s.pairs, "quick": s.quick}
    options = {k: v for k, v in dataclasses.asdict(s).items() if not isinstance(v, Path)}
    found = {name: importlib.metadata.version(name) for name in PEERS}
    record |= {"settings": options | {"jobs": ()}, "versions": versions() | found}
    record |= kept(s.out / "bench.json", record, names)
    for name in names:
        if name == "start":
            with tempfile.TemporaryDirectory() as folder:
                record["start"] += start_rows(s, folder)
        elif name == "floor":
            record["floor"] = floor_row(s)
        else:
            record["rows"] += run_job(name, JOBS[name], s)
            record["rows"].sort(key=lambda row: list(JOBS).index(row["job"]))
        save(record, s.out)
        print(f"{name} done", file=sys.stderr, flush=True)
    print(table(record))
    if not all(row["same"] for row in [*record["rows"], *record["start"]]):
        sys.exit(1)


if __name__ == "__main__":
    run(main_bench)
