"""Each stage of ours beside a peer that does the same work: seconds, peak memory, and a check.

    ratio = seconds of the peer / seconds of ours          (above 1: ours is faster)

Both sides of a job live in processes of their own. After a warm-up of each, a round times each side
once, ours first; the ratio is taken within a round, and the table shows its median with the lowest
and the highest. The peak memory is that of the side's whole process: interpreter, imports and data
included. Every job has a check that both sides did the same work; where it fails the table says NO,
and the script ends with status 1.

Gives:    out/bench.json and out/bench.md.
Command:  python tests/studies/bench.py --minilm data/minilm [--quick] [--jobs pmf tuning]
Needs:    tests/requirements-peers.txt, and in out/ what `make bench` builds: ratings.safetensors,
          pmf.safetensors, minilm.safetensors, documents.txt.
"""

import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from common import machine, peak_memory, ranking_objective, squared_error, timed  # beside it

import metrics
from fuse import mf_scores
from main import METRICS, Artefacts, markdown, number_by_appearance, write_texts
from metrics import BadInput, load, parse, run, stage, versions

LIST = 25  # length of the recommended list
BATCHES = (16, 32, 64, 128, 256)  # of sentence-transformers' encode, to find its best
RANKING = {"k": 128, "missing": 0.15, "reg": 4.0, "power": 0.0, "fast": True}  # of pmf.Ranking
ITERATIONS = 15  # of implicit
SWEEPS, SWEEPS_EXACT = 15, 17  # of ours, until the objective is no worse than implicit's
REST = 0.5  # seconds before each timed call: the other side's idle threads stop spinning
ROWS = {  # job -> what is done, beside whom, and the ratio that is asked for
    "pmf": ("PMF, notebook's settings", "Cornac PMF", 2.5),
    "fast": ("PMF, `--fast`", "Cornac PMF", 10),
    "fast-2": ("the same, `--threads 2`", "Cornac, one thread", 17),
    "evaluation": ("factors to metrics at 25, 600 users", "Cornac ranking_eval", 5),
    "evaluation-32": ("the same from float32 factors", "Cornac ranking_eval, float64", 13),
    "ranking": ("scores to metrics at 25", "ranx, Run of our lists + evaluate", 1),
    "encoding": ("MiniLM, texts to vectors", "sentence-transformers, defaults", 1.5),
    "encoding-best": ("the same", "sentence-transformers, best batch", 1.25),
    "tuning": ("MiniLM, steps of tuning, notebook's pairs", "sentence-transformers", 1.5),
    "als": ("PMF for ranking, `--fast`", "implicit ALS, conjugate gradient", 1),
    "als-cores": ("the same on all cores", "implicit ALS, conjugate gradient", 1),
    "als-exact": ("the same on all cores", "implicit ALS, exact", 1),
}
COMMANDS = {  # what the table shows -> what Python is given, timed as a whole
    "python -c 'import numpy'": "-c 'import numpy'",
    "main.py --help": "main.py --help",
    "main.py recommend": "main.py recommend --user 400 --out .",
    "pmf.py --help": "pmf.py --help",
}
PEERS = ("cornac", "ranx", "sentence-transformers", "implicit")


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts; bench.json and bench.md go there
    minilm: Path = Path("data/minilm")  # MiniLM's weights
    jobs: tuple[str, ...] = ()  # names of ROWS; none: all
    rounds: int = 5  # timed rounds of each job
    epochs: int = 200  # of each PMF fit
    documents: int = 0  # encode the first so many; 0: all
    steps: int = 30  # of tuning; 0: a whole epoch
    quick: bool = False  # one round, 50 epochs, 256 documents, 5 steps: to try the script


# A side is a function of the settings that prepares everything, in a process of its own, and
# returns the function that is timed. A check takes what both returned: (same work?, text).


def same_numbers(ours, peer, s, what, bound):
    """Whether the arrays or numbers of both sides agree within the bound, cell by cell."""
    a, b = np.vstack(ours), np.vstack(peer)
    gap = np.abs(a - b).max() if a.shape == b.shape else np.inf
    found = f"differ by {gap:.0e} at most" if gap else "are bit-identical"
    return gap <= bound, f"{what} {a.shape} {found}"


# ------------------------------------------------------------------------------------------------
# PMF by SGD, beside Cornac's
# ------------------------------------------------------------------------------------------------


def train_columns(s):
    """Users, items, ratings of the train part, (N,) each."""
    data = load(s.out / "ratings.safetensors")
    return [data[f"train_{name}"] for name in ("users", "items", "ratings")]


def fit_and_validation(s):
    """train_columns without the validation part, and the validation part's rows of known items.

    Items are numbered anew by first appearance in the fit part, as Cornac numbers them.
    """
    users, items, ratings = train_columns(s)
    kept = ~load(s.out / "ratings.safetensors")["valid"]  # (N,)
    order = number_by_appearance(items[kept], np.unique(items))  # (I,) the unknown ones come last
    items = np.argsort(order).astype(np.int32)[items]  # (N,)
    held = ~kept & (items <= items[kept].max())  # (N,)
    columns = users, items, ratings
    return [column[kept] for column in columns], [column[held] for column in columns]


def pmf_ours(s, fast=False, threads=1):
    import pmf

    columns = fit_and_validation(s)[0] if fast else train_columns(s)
    shape = columns[0].max() + 1, columns[1].max() + 1
    settings, fit = pmf.PMF(epochs=s.epochs), pmf.fit
    if fast:
        fit = partial(pmf.fit_fast, threads=threads)
    return lambda: fit(*columns, *shape, settings)[:2]


def pmf_cornac(s, fast=False):
    return cornac_pmf(fit_and_validation(s)[0] if fast else train_columns(s), s.epochs)


def cornac_pmf(columns, epochs, variant="non_linear", k=100):
    """Cornac's PMF with the notebook's settings: a function that gives U and V."""
    import cornac

    data = cornac.data.Dataset.from_uir(triples(columns))
    options = {"k": k, "max_iter": epochs, "learning_rate": 0.005, "lambda_reg": 0.001}
    options |= {"gamma": 0.9, "seed": 42, "variant": variant}

    def fit():
        model = cornac.models.PMF(**options).fit(data)
        return model.U, model.V

    return fit


def triples(columns):
    return list(zip(*(column.tolist() for column in columns), strict=True))


def same_loss(ours, peer, s):
    users, items, ratings = fit_and_validation(s)[1]
    targets = (ratings - 0.5) / 4.5  # (N,)
    losses = [squared_error(*factors, users, items, targets) for factors in (ours, peer)]
    gap = abs(losses[0] / losses[1] - 1)
    return gap <= 0.01, f"validation MSE {losses[0]:.5f} and {losses[1]:.5f}, {gap:.1%} apart"


# ------------------------------------------------------------------------------------------------
# Evaluation: PMF's factors or scores -> Precision, Recall, NDCG at 25 of each user
# ------------------------------------------------------------------------------------------------


def factors_and_task(s):
    """U (U, K), V (I, K) of the report's PMF, and the Task of finding the test part."""
    out = Artefacts(s.out)
    return *out.factors("pmf"), out.task


def evaluation_ours(s, dtype=np.float64):
    U, V, task = factors_and_task(s)
    score = partial(mf_scores, U=U.astype(dtype), V=V.astype(dtype))
    return lambda: in_order(metrics.evaluate(score, task.seen, task.relevant, LIST))


def in_order(found):
    return [found[name] for name in METRICS]


def evaluation_cornac(s):
    """Its ranking_eval takes only what was LIKED in train out of the candidates (it compares the
    train ratings too with rating_threshold), so it is given a 5 for every train row."""
    import cornac
    from cornac.eval_methods.base_method import ranking_eval

    U, V, task = factors_and_task(s)
    fives = np.full(len(task.users), 5.0)  # (N,)
    train = cornac.data.Dataset.from_uir(triples([task.users, task.items, fives]))
    starts, items = task.relevant
    users = np.repeat(np.arange(len(U)), np.diff(starts))  # (N_test,)
    maps = {"global_uid_map": train.uid_map, "global_iid_map": train.iid_map}
    test = cornac.data.Dataset.build(triples([users, items, fives[: len(users)]]), **maps)
    model = cornac.models.PMF(k=100, trainable=False, init_params={"U": U, "V": V}).fit(train)
    names = [getattr(cornac.metrics, name)(LIST) for name in ("Precision", "Recall", "NDCG")]

    def measure():
        by_user = ranking_eval(model, names, train, test, rating_threshold=4.0)[1]
        return [[found[user] for user in sorted(found)] for found in by_user]

    return measure


def ranking_ours(s):
    U, V, task = factors_and_task(s)
    users = np.flatnonzero(np.diff(task.relevant[0]))  # (E,)
    scores = U[users] @ V.T  # (E, I)
    scores[metrics.pairs_of_block(task.seen, users)] = -np.inf

    def measure():
        lists = metrics.top_k(scores, LIST)  # (E, 25)
        return in_order(metrics.metrics_of_lists(lists, task.relevant, users, LIST))

    return measure


def ranking_ranx(s):
    """Its Run and its evaluate, given the 25 best of each user in order; ours finds them too."""
    import ranx

    U, V, task = factors_and_task(s)
    ours = metrics.evaluate(partial(mf_scores, U=U, V=V), task.seen, task.relevant, LIST)
    starts, items = task.relevant
    wanted, found = {}, {}
    for user, best in zip(ours["users"], ours["lists"], strict=True):
        name = f"{user:04}"  # it sorts users as text
        wanted[name] = {str(item): 1 for item in items[starts[user] : starts[user + 1]]}
        found[name] = {str(item): 1 / rank for rank, item in enumerate(best, 1)}
    qrels, names = ranx.Qrels(wanted), [f"{name}@{LIST}" for name in METRICS]

    def measure():
        return list(ranx.evaluate(qrels, ranx.Run(found), names, return_mean=False).values())

    return measure


# ------------------------------------------------------------------------------------------------
# Encoding and tuning MiniLM, float32 on the CPU, beside sentence-transformers
# ------------------------------------------------------------------------------------------------


def documents(s):
    import encode

    return encode.read_texts(s.out / "documents.txt")[: s.documents or None]


def encoding_ours(s):
    import encode

    encoder, texts = (
        encode.load_encoder(*encode.find_encoder("minilm", str(s.minilm))),
        documents(s),
    )
    return lambda: encode.embed(encoder, encode.tokenize(encoder, texts))


def sentence_transformer(s):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(s.minilm), device="cpu")
    model.max_seq_length = 256
    return model


def encoding_peer(s, batches=(32,)):
    """With the batch size that is fastest on every 19th document; 32 is its default."""
    model, texts = sentence_transformer(s), documents(s)

    def seconds(batch):
        start = time.perf_counter()
        model.encode(texts[::19], batch_size=batch)
        return time.perf_counter() - start

    model.encode(texts[:64])  # warm-up
    best = min(batches, key=lambda batch: min(seconds(batch), seconds(batch)))
    return lambda: model.encode(texts, batch_size=best)


def tuning_task(s):
    """Settings of the notebook's recipe for one epoch, cut after s.steps, and its pairs."""
    import contrastive

    paths = {"ratings": s.out / "ratings.safetensors", "texts": s.out / "documents.txt"}
    options = {"weights": str(s.minilm), "epochs": 1, "max_steps": s.steps}
    settings = contrastive.Settings(encoder="minilm", out=Path(), **paths, **options)
    return settings, contrastive.read_inputs(settings)[0]


def without_dropout(model):
    """Takes dropout out, for the sides draw other masks; returns a copy of the weights."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return {name: value.clone() for name, value in model.state_dict().items()}


def tuning_ours(s):
    import contrastive
    import encode

    settings, examples = tuning_task(s)
    encoder = contrastive.build(settings, *encode.find_encoder("minilm", str(s.minilm)))
    ids = encode.tokenize(encoder, encode.read_texts(settings.texts))
    start = without_dropout(encoder.model)

    def tune():
        encoder.model.load_state_dict(start)
        return contrastive.tune(encoder, ids, examples, settings)

    return tune


def tuning_peer(s):
    """Its fit loop with MultipleNegativesRankingLoss, on our pairs in the order of ours."""
    import torch
    from sentence_transformers import InputExample
    from sentence_transformers.sentence_transformer import losses

    import encode

    settings, examples = tuning_task(s)
    order = np.random.default_rng(settings.seed).permutation(len(examples.items))  # (P,)
    lines = encode.read_texts(settings.texts)
    pairs = [InputExample(texts=[lines[i] for i in pair]) for pair in examples.items[order]]
    loader = torch.utils.data.DataLoader(pairs, batch_size=settings.batch, shuffle=False)
    model, seen = sentence_transformer(s), []
    start, loss = without_dropout(model), losses.MultipleNegativesRankingLoss(model)
    loss.register_forward_hook(lambda module, inputs, value: seen.append(value.item()))
    options = {"epochs": 1, "steps_per_epoch": s.steps or len(loader), "show_progress_bar": False}
    options |= {"optimizer_params": {"lr": settings.lr}, "warmup_steps": settings.warmup}

    def tune():
        seen.clear()
        model.load_state_dict(start)
        model.old_fit([(loader, loss)], max_grad_norm=1, **options)
        return list(seen)

    return tune


# ------------------------------------------------------------------------------------------------
# The PMF for ranking beside implicit: (R) of pmf.py with targets and weights 1, no text and power 0
# is implicit's objective
# ------------------------------------------------------------------------------------------------


def als_ours(s, sweeps=SWEEPS):
    import pmf

    users, items, _ = train_columns(s)
    ones, shape = np.ones(len(users)), (users.max() + 1, items.max() + 1)  # (N,)
    settings = pmf.Ranking(**RANKING, sweeps=sweeps)
    return lambda: pmf.fit_ranking(users, items, ones, ones, *shape, settings)[:2]


def als_implicit(s, use_cg=True):
    import scipy.sparse
    from implicit.cpu.als import AlternatingLeastSquares

    users, items, _ = train_columns(s)
    weights = np.full(len(users), 1 / RANKING["missing"])  # (N,) a missing entry's is 1 there
    table = scipy.sparse.csr_matrix((weights, (users, items)))
    options = {"factors": RANKING["k"], "regularization": RANKING["reg"] / RANKING["missing"]}
    options |= {"alpha": 1.0, "iterations": ITERATIONS, "use_cg": use_cg, "random_state": 42}
    options |= {"num_threads": int(os.environ["OMP_NUM_THREADS"])}

    def fit():
        model = AlternatingLeastSquares(**options)
        model.fit(table, show_progress=False)
        return model.user_factors, model.item_factors

    return fit


def same_objective(ours, peer, s):
    """Whether the objective (R) is no higher with our factors than with the peer's."""
    import pmf

    users, items, _ = train_columns(s)
    ones, W, values = np.ones(len(users)), np.zeros((0, RANKING["k"])), []  # (N,), (0, K)
    for factors in (ours, peer):
        P, Q = (x.astype(np.float64) for x in factors)
        case = users, items, ones, ones, pmf.Ranking(**RANKING)
        values.append(ranking_objective(P, Q, W, *case))
    return values[0] <= values[1], f"objective {values[0]:.0f}, the peer's {values[1]:.0f}"


# ------------------------------------------------------------------------------------------------
# Running a job
# ------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    ours: Callable
    theirs: Callable
    check: Callable
    threads: int = 0  # of both sides, where they have any; 0: all cores
    blas: int = 0  # threads of BLAS alone, where they differ: implicit asks for 1


same_bits = partial(same_numbers, what="factors", bound=0)
same_metrics = partial(same_numbers, what="P, R, NDCG of each user", bound=1e-9)
same_vectors = partial(same_numbers, what="vectors", bound=1e-5)
same_losses = partial(same_numbers, what="losses of the steps", bound=1e-4)
fast, fast_cornac = partial(pmf_ours, fast=True), partial(pmf_cornac, fast=True)
evaluation_32 = partial(evaluation_ours, dtype=np.float32)
encoding_best = partial(encoding_peer, batches=BATCHES)
als_exact = partial(als_ours, sweeps=SWEEPS_EXACT)
implicit_exact = partial(als_implicit, use_cg=False)
JOBS = {
    "pmf": Job(pmf_ours, pmf_cornac, same_bits, threads=1),
    "fast": Job(fast, fast_cornac, same_loss, threads=1),
    "fast-2": Job(partial(fast, threads=2), fast_cornac, same_loss, threads=2),
    "evaluation": Job(evaluation_ours, evaluation_cornac, same_metrics),
    "evaluation-32": Job(evaluation_32, evaluation_cornac, same_metrics),
    "ranking": Job(ranking_ours, ranking_ranx, same_metrics),
    "encoding": Job(encoding_ours, encoding_peer, same_vectors),
    "encoding-best": Job(encoding_ours, encoding_best, same_vectors),
    "tuning": Job(tuning_ours, tuning_peer, same_losses),
    "als": Job(als_ours, als_implicit, same_objective, threads=1),
    "als-cores": Job(als_ours, als_implicit, same_objective, blas=1),
    "als-exact": Job(als_exact, implicit_exact, same_objective, blas=1),
}
HERE = {}  # in a side's process: the "call" that is timed


def start(side, s, threads, blas):
    """A process with so many threads, as an executor, in which the side is ready and warm."""
    for name in ("OMP", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    os.environ["OPENBLAS_NUM_THREADS"] = str(blas)
    process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    process.submit(warm_up, side, s).result()
    return process


def warm_up(side, s):
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1), os.dup2(silent, 2)  # progress bars, warnings
    HERE["call"] = side(s)
    HERE["call"]()


def call():
    """Seconds of a call, its result, and the most memory that this process has held so far."""
    time.sleep(REST)
    start = time.perf_counter()
    result = HERE["call"]()
    return time.perf_counter() - start, result, peak_memory()


def run_job(name, s):
    """The record of a job: what its row of the table shows."""
    job = JOBS[name]
    threads = job.threads or os.cpu_count()
    sides = [start(side, s, threads, job.blas or threads) for side in (job.ours, job.theirs)]
    rounds = [[side.submit(call).result() for side in sides] for _ in range(s.rounds)]
    for side in sides:
        side.shutdown()
    ours, theirs = ([seconds for seconds, _, _ in column] for column in zip(*rounds, strict=True))
    same, text = job.check(*(result for _, result, _ in rounds[-1]), s)
    memory = [size for _, _, size in rounds[0]]  # later ones hold what was sent here
    record = {"job": name, "threads": threads, "ours": ours, "theirs": theirs, "memory": memory}
    return record | {"same": bool(same), "check": text}


def start_up(s):
    """Seconds of each run of the COMMANDS, after one as a warm-up."""
    found = {}
    for title, line in COMMANDS.items():
        runs = [timed(*shlex.split(line), folder=s.out) for _ in range(s.rounds + 1)]
        found[title] = [taken["seconds"] for taken in runs[1:]]
    return found


# ------------------------------------------------------------------------------------------------
# The table
# ------------------------------------------------------------------------------------------------


def spread(values, digits):
    """Their median with the lowest and the highest."""
    median = statistics.median(values)
    return f"{median:.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def cells(row):
    title, peer, target = ROWS[row["job"]]
    ratios = [theirs / ours for ours, theirs in zip(row["ours"], row["theirs"], strict=True)]
    seconds = [f"{statistics.median(row[side]):.3g}" for side in ("ours", "theirs")]
    memory = ", ".join(f"{size / 1e6:.0f}" for size in row["memory"])
    aim = f"{target:g}" if statistics.median(ratios) >= target else f"{target:g}: missed"
    check = row["check"] if row["same"] else f"NO: {row['check']}"
    return [title, peer, str(row["threads"]), *seconds, spread(ratios, 2), aim, memory, check]


PLAIN_KERNEL = """
pmf.py's kernel is plain. The one before it prefetched rows and summed the next rating's score
between two steps: 307 ns a strict rating where this one takes 370, timed in one run on an Intel
Xeon. So the tricks were worth about 1.0 s of a fit of 200 epochs.
"""


def table(record):
    """The record of a run as Markdown."""
    head = ["job", "peer", "threads", "ours, s", "peer, s", "ratio (lowest..highest)", "target"]
    head += ["peak MB, ours and peer", "the same work"]
    text = f"{record['machine']}; rounds: {record['settings']['rounds']}; medians.\n\n"
    if record["settings"]["quick"]:
        text = f"**A shortened run (--quick).** {text}"
    text += markdown(head, map(cells, record["rows"]))
    lines = [[f"`{title}`", spread(seconds, 3)] for title, seconds in record["start"].items()]
    return f"{text}\n{markdown(['command', 'seconds (lowest..highest)'], lines)}{PLAIN_KERNEL}"


def main():
    s = parse(Settings, __doc__, rounds=1)
    if s.quick:
        s = dataclasses.replace(s, rounds=1, epochs=50, documents=256, steps=5)
    if unknown := set(s.jobs) - set(JOBS):
        raise BadInput(f"--jobs {' '.join(unknown)}: known are {' '.join(JOBS)}")
    found = versions() | {name: importlib.metadata.version(name) for name in PEERS}
    options = {k: v for k, v in dataclasses.asdict(s).items() if not isinstance(v, Path)}
    record = {"machine": machine(), "settings": options, "versions": found, "rows": []}
    for name in s.jobs or JOBS:
        with stage(s.out / "bench.json", name):
            record["rows"].append(run_job(name, s))
    with stage(s.out / "bench.json", "start-up"):
        record["start"] = start_up(s)
    texts = {"bench.json": json.dumps(record, indent=1), "bench.md": table(record)}
    write_texts(s.out, texts)
    print(texts["bench.md"])
    if not all(row["same"] for row in record["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
