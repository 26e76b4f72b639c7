"""Table III, Figures 2 and 3: what recipe `ours` scores, and what its parts are worth.

    score(u, i) = p_u . q_i (+ .1 |p_u| if nobody has rated movie i)   (fuse.scores_with_allowance)

The parts of the table, each a function below: the choices on the validation part; known movies,
with ablations, by a user's history and by a movie's train count; new movies; thinned histories; one
date for everybody.

Gives:    NDCG@25 .355 on known movies, .342 without text; out/results-ours.json, out/table3.md,
          out/figure2.svg (alpha) and out/figure3.svg (buckets).
Command:  python tests/studies/table3.py --out out --seed 42                    (or: make study)
Needs:    in --out the ratings, documents and embeddings of `make study`; results/baselines.json;
          tests/requirements-peers.txt (matplotlib, for the figures).

A fuse.Task holds here all I movies; those that are not shown count as seen by everybody. So a model
is fitted once and measured on several tasks: a ranker is a function of a block of users (B,) and of
`seen`, the task's, that returns (B, I) scores; functools.partial binds what else it needs.

Legend: U users, I items, E users measured, N ratings, K factors (of a list: its length),
D dimensions, B batch.
"""

import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

# beside this script
from common import centred, drawn, gini, interval, quiet, report_content, z_scores

import fuse
import metrics
import pmf
from main import METRICS, NOTEBOOK, markdown, marks, write_texts
from main import plain_rankers as of_table1
from metrics import BadInput, evaluate, group_by_user, load, paired_bootstrap, provenance


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts, of the table and of the figures
    baselines: Path = Path("results/baselines.json")  # EASE and weighted MF, recorded
    k: int = 25  # length of the list
    seed: int = 42  # of the first start of the factors, and of what a part draws
    starts: int = 5  # fits of a row that starts at random: seed, seed + 1, ..
    choice: Path | None = None  # settings of the ranking PMF; none: ours.json of --out
    sweeps: int = pmf.Ranking.sweeps  # of the ranking PMF
    epochs: int = pmf.PMF.epochs  # of the report's PMF, for Eq. (1) on new movies


class Fitted(NamedTuple):
    """How a row with the ranking PMF is made; the defaults are those of `ours`."""

    text: str = "base"  # of TEXTS
    change: str = ""  # what is done to the text's embeddings: "shuffled", "centred"
    prior: bool = True  # the text is the prior of the PMF
    late: bool = False  # the text's score is added to the PMF's, LATE_ALPHA of the PMF's


TEXTS = {  # text -> its embeddings, its documents
    "base": ("minilm-no-leak", "documents-no-leak.txt"),  # no tag of a (user, movie) pair in test
    "tuned": ("minilm-ours", "documents-no-leak.txt"),
    "all tags": ("minilm", "documents.txt"),
    "no tags": ("minilm-no-tags", "documents-no-tags.txt"),
}
PMF_ROW, OURS_ROW, LATE_ROW = "Ranking PMF, no text", "ours", "ours + late fusion with the text"
LATE_ALPHA = 0.8  # the best of the plain late fusions on validation, see results/choices.md
BASE_ROW, TUNED_ROW = "Text alone (base)", "Text alone (tuned)"
TEXT_ROWS = {  # row -> text, weight of log(1 + likes): the best of .05 .. .4 on validation
    "Cosine alone (base)": ("base", 0.0),
    "Cosine alone (tuned)": ("tuned", 0.0),
    BASE_ROW: ("base", 0.3),
    TUNED_ROW: ("tuned", 0.2),
}
MODEL_ROWS = {PMF_ROW: Fitted(prior=False), OURS_ROW: Fitted()}
ABLATIONS = {
    OURS_ROW: Fitted(),
    "prior off": Fitted(prior=False),
    "prior off, late fusion alone": Fitted(prior=False, late=True),
    LATE_ROW: Fitted(late=True),
    "text shuffled among the movies": Fitted(change="shuffled"),
    "without tags": Fitted("no tags"),
    "with the tags of test pairs": Fitted("all tags"),
    "embeddings centred": Fitted(change="centred"),
    "encoder tuned": Fitted("tuned"),
}
WARM_ROWS = ("Random", "Most popular", "Most liked")
WARM_ROWS += ("EASE", "Weighted MF (implicit)", "Collective EASE", "L3AE")  # recorded
WARM_ROWS += (PMF_ROW, *TEXT_ROWS, LATE_ROW, OURS_ROW)
BUCKET_ROWS = ("Most popular", PMF_ROW, BASE_ROW, OURS_ROW)
HISTORY = {"10-19": (10, 19), "20-49": (20, 49), "50+": (50, np.inf)}
KEPT = {"1-9": 5, "10-19": 14, "20-49": 35, "50+": np.inf}  # bucket -> ratings left by thinning
COUNTS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, np.inf)}

# ------------------------------------------------------------------------------------------------
# What a model sees, and what it should find
# ------------------------------------------------------------------------------------------------


def choose(rows, keep):
    """The rows (columns of equal length) where `keep` (N,) holds."""
    return tuple(column[keep] for column in rows)


def counts_of(ids, n):
    return np.bincount(ids, minlength=n)  # (n,) rows of each user, or of each movie


class Lab:
    """One out/ folder, with what every part of Table III takes from it."""

    def __init__(self, settings):
        self.settings = settings
        self.ratings = settings.out / "ratings.safetensors"
        self.data = load(self.ratings)
        self.n_users, self.n_items = len(self.data["user_ids"]), len(self.data["movie_ids"])
        columns = ("users", "items", "ratings", "times")
        self.train, self.test = (  # each four columns (N,)
            tuple(self.data[f"{part}_{column}"] for column in columns) for part in ("train", "test")
        )
        both = zip(self.train, self.test, strict=True)
        self.all = tuple(np.concatenate(columns) for columns in both)
        self.liked, self.highest = float(self.data["liked"]), float(self.data["highest"])
        self.date = float(np.quantile(self.all[3], 0.8))  # 80 % of all ratings are older
        choice = settings.choice or settings.out / "ours.json"
        if not choice.exists():
            raise BadInput(f"{choice} is missing; `make study` makes it")
        chosen = metrics.read_json(choice, "chosen")["chosen"]
        self.ranking = pmf.Ranking(**chosen, sweeps=settings.sweeps)

    def task(self, known, held, shown=None, struck=None):
        """The fuse.Task of rankers that see the rows `known` and should find the liked `held`.

        shown: (I,) bool, by default the movies with a known rating. Only users with a known rating
        are measured. Rows in `struck` are neither shown nor to be found.
        """
        history = counts_of(known[0], self.n_users)  # (U,)
        shown = counts_of(known[1], self.n_items) > 0 if shown is None else shown
        hidden = np.tile(~shown, (self.n_users, 1))  # (U, I)
        hidden[known[0], known[1]] = True
        if struck is not None:
            hidden[struck[0], struck[1]] = True
        find = (held[2] >= self.liked) & shown[held[1]] & (history[held[0]] > 0)  # (N,) of the held
        seen = group_by_user(*np.nonzero(hidden), self.n_users)
        relevant = group_by_user(held[0][find], held[1][find], self.n_users)
        scale = self.liked, self.highest
        return fuse.Task(*known, self.n_users, self.n_items, seen, relevant, *scale)

    def splits(self):
        """{part: Task}: from fit to validation part, from train to test, to what a date divides."""
        valid, early = self.data["valid"], self.all[3] < self.date  # (N,)
        return {
            "validation": self.task(choose(self.train, ~valid), choose(self.train, valid)),
            "test": self.task(self.train, self.test),
            "temporal": self.task(choose(self.all, early), choose(self.all, ~early)),
        }

    def embeddings(self, text):
        """(I, D) of a text of TEXTS."""
        name, documents = TEXTS[text]
        path = self.settings.out / f"{name}.safetensors"
        if not path.exists():
            raise BadInput(f"{path} is missing; `make study` makes it")
        inputs = [self.settings.out / documents]
        return load(path, inputs, ["embeddings"])["embeddings"].astype(np.float64)

    def baselines(self, part):
        """{row: measured} of the recorded peers, {} unless they were measured on this split."""
        path = self.settings.baselines
        if not path.is_file():
            return {}
        record = metrics.read_json(path, "split", "k", "rows")
        same = drawn(record["split"]) == drawn(provenance(self.ratings))
        rows = record["rows"] if same and record["k"] == self.settings.k else {}
        return {row: measured[part] for row, measured in rows.items()}


# ------------------------------------------------------------------------------------------------
# Rankers: functions of (users, seen)
# ------------------------------------------------------------------------------------------------


def alone(scores):
    """The ranker of a scorer that does not look at what was seen."""
    return lambda users, seen: scores(users)


def text_content(lab, task, embeddings):
    """cos(E_u, E_i) of centred embeddings: what late fusion and the rows of text alone take."""
    rated = counts_of(task.items, lab.n_items) > 0  # (I,)
    return report_content(task, centred(embeddings, rated))


def fit(lab, task, row, seed):
    """{"U": (U, K), "V": (I, K), "content"} of a Fitted row."""
    embeddings, s = lab.embeddings(row.text), lab.settings  # (I, D)
    if row.change == "shuffled":
        embeddings = np.random.default_rng(s.seed).permutation(embeddings)
    content = text_content(lab, task, embeddings)
    features = content.items if row.change == "centred" else embeddings  # (I, D)
    columns = task.users, task.items, task.ratings / task.highest, np.ones(len(task.users))
    ranking, shape = replace(lab.ranking, seed=seed), (lab.n_users, lab.n_items)
    with quiet():
        P, Q, _ = pmf.fit_ranking(*columns, *shape, ranking, features if row.prior else None)
    return {"U": P, "V": Q, "content": content}


def fitted_rankers(lab, task, rows, seed, known=None):
    """The rankers of Fitted rows; what differs in late fusion alone is fitted once.

    known: the movies that get no allowance, by default those with a rating in the task.
    """
    known = task.items if known is None else known
    models = {}
    for name, row in rows.items():
        same = row._replace(late=False)
        if same not in models:
            models[same] = fit(lab, task, same, seed)
        if row.late:
            yield name, partial(z_scores, **models[same], alpha=LATE_ALPHA)
        else:
            factors = {side: models[same][side] for side in "UV"}
            scores = partial(fuse.mf_scores, **factors)
            if row.prior:  # without one a new movie has no factors
                given = fuse.allowances(factors["V"], known)
                scores = partial(fuse.scores_with_allowance, allowances=given, **factors)
            yield name, alone(scores)


def text_ranker(lab, task, text, popularity=0.0):
    """text_content + popularity log(1 + likes): a text does not tell that nobody sees a movie."""
    liked = task.items[task.ratings >= task.liked]
    bonus = popularity * np.log1p(counts_of(liked, lab.n_items))  # (I,)
    content = text_content(lab, task, lab.embeddings(text))
    return alone(lambda users: content.scores(users) + bonus)


def plain_rankers(lab, task):
    """Rows that fit nothing and read no text: Table I's, and the most liked."""
    rankers = {row: alone(scores) for row, _, scores in of_table1(task, lab.settings.seed)}
    likes = counts_of(task.items[task.ratings >= task.liked], lab.n_items)  # (I,)
    return rankers | {"Most liked": alone(partial(fuse.constant_scores, values=likes))}


def rankers_without_tags(lab, task, known=None):
    """Random and BUCKET_ROWS, their text without tags: a tag may come from a rating held out."""
    rows = {name: row._replace(text="no tags") for name, row in MODEL_ROWS.items()}
    rankers = plain_rankers(lab, task)
    rankers[BASE_ROW] = text_ranker(lab, task, "no tags", TEXT_ROWS[BASE_ROW][1])
    rankers |= dict(fitted_rankers(lab, task, rows, lab.settings.seed, known))
    return {row: rankers[row] for row in ("Random", *BUCKET_ROWS)}


# ------------------------------------------------------------------------------------------------
# Rows of the table from what is measured
# ------------------------------------------------------------------------------------------------


def measure(task, ranker, k):
    return evaluate(partial(ranker, seen=task.seen), task.seen, task.relevant, k)


def pooled(results):
    """Over the seeds of a row: each seed's means, and every metric of each seed and user (S, E)."""
    found = {name: np.stack([result[name] for result in results]) for name in METRICS}
    return {"seeds": [[float(r[name].mean()) for name in METRICS] for r in results]} | found


def result_row(name, found, ours):
    """One row of the table: mean, lowest and highest seed of P, R, NDCG; ours minus it in NDCG."""
    seeds = np.array(found["seeds"])  # (seeds, 3)
    users = np.shape(found["ndcg"])[-1]
    row = {"row": name, "status": "ok", "users": users, "starts": len(seeds)}
    for metric, values in zip(METRICS, seeds.T, strict=True):
        row[metric] = [float(f) for f in (values.mean(), values.min(), values.max())]
    if found is not ours:
        row["difference"] = paired_bootstrap(ours["ndcg"], found["ndcg"])
    return row


def rows_of(found, order):
    """Rows of the table; a peer that was not measured on this split is left out."""
    return [result_row(row, found[row], found[OURS_ROW]) for row in order if row in found]


def bucket_row(bucket, ndcg, inside=slice(None)):
    """Means of NDCG (E,) or (S, E) by row for the users of a bucket; what text adds to the PMF."""
    ndcg = {name: np.atleast_2d(values)[:, inside] for name, values in ndcg.items()}
    row = {"bucket": bucket, "users": np.shape(ndcg.get(OURS_ROW, ()))[-1], "ndcg": {}}
    if row["users"]:
        row["ndcg"] = {name: float(values.mean()) for name, values in ndcg.items()}
        row["difference"] = paired_bootstrap(ndcg[OURS_ROW], ndcg[PMF_ROW])
    return row


def beyond_accuracy(task, ranker, k):
    """Coverage, Gini, mean train count of what is shown, among the movies with a known rating."""
    lists = measure(task, ranker, k)["lists"]  # (E, K)
    shown, counts = lists[lists >= 0], counts_of(task.items, task.n_items)  # (M,), (I,)
    often = counts_of(shown, task.n_items)[counts > 0]  # users to whom each movie is shown
    coverage, mean = (often > 0).mean(), counts[shown].mean()
    return {"coverage": float(coverage), "gini": gini(often), "popularity": float(mean)}


# ------------------------------------------------------------------------------------------------
# The parts: each returns entries of results-ours.json
# ------------------------------------------------------------------------------------------------


def measure_rows(lab, task, seeds):
    """{row: pooled results over the seeds}, and {row: ranker} of the first seed."""
    rankers, k = plain_rankers(lab, task), lab.settings.k
    rankers |= {row: text_ranker(lab, task, *text) for row, text in TEXT_ROWS.items()}
    results = {row: [measure(task, ranker, k)] for row, ranker in rankers.items()}
    for seed in seeds:
        for row, ranker in fitted_rankers(lab, task, MODEL_ROWS | ABLATIONS, seed):
            results.setdefault(row, []).append(measure(task, ranker, k))
            rankers.setdefault(row, ranker)
    return {row: pooled(found) for row, found in results.items()}, rankers


def validation_part(lab):
    """Where the choices come from: the same rows and the curve of alpha on the validation part."""
    task, s = lab.splits()["validation"], lab.settings
    found, _ = measure_rows(lab, task, [s.seed])
    found |= lab.baselines("validation")
    curves = {}
    for text in ("base", "tuned"):
        model = fit(lab, task, Fitted(text), s.seed)
        scores = partial(z_scores, seen=task.seen, **model)
        _, curve = fuse.grid_search(scores, task, s.k, np.linspace(0, 1, 11))
        curves[text] = [{name: point[name] for name in ("alpha", *METRICS)} for point in curve]
    order = dict.fromkeys((*WARM_ROWS, *ABLATIONS))  # each once
    return {"validation": rows_of(found, order), "alpha": curves}


def warm_part(lab):
    """Known movies, split 42: the rows, ablations, buckets by history and by train count."""
    task, s = lab.splits()["test"], lab.settings
    found, rankers = measure_rows(lab, task, range(s.seed, s.seed + s.starts))
    found |= lab.baselines("test")
    beyond = lab.baselines("beyond")
    beyond |= {row: beyond_accuracy(task, rankers[row], s.k) for row in WARM_ROWS if row in rankers}
    return {
        "warm": [row | beyond[row["row"]] for row in rows_of(found, WARM_ROWS)],
        "ablations": rows_of(found, ABLATIONS),
        "history": history_buckets(task, {row: found[row] for row in WARM_ROWS if row in found}),
        "items": list(item_buckets(lab, rankers, among_all=False)),
        "items among all": list(item_buckets(lab, rankers, among_all=True)),
    }


def history_buckets(task, found):
    """NDCG of what was found by the number of a user's train ratings."""
    history = counts_of(task.users, task.n_users)[np.diff(task.relevant[0]) > 0]  # (E,)
    ndcg = {row: measured["ndcg"] for row, measured in found.items()}
    return [
        bucket_row(bucket, ndcg, (history >= low) & (history <= high))
        for bucket, (low, high) in HISTORY.items()
    ]


def item_buckets(lab, rankers, among_all):
    """NDCG of finding the movies of a bucket of train counts, among themselves or among all."""
    counts = counts_of(lab.train[1], lab.n_items)  # (I,)
    for bucket, (low, high) in COUNTS.items():
        inside = (counts >= low) & (counts <= high)  # (I,)
        task = lab.task(lab.train, choose(lab.test, inside[lab.test[1]]), inside | among_all)
        ndcg = {}
        if len(task.relevant[1]):
            ndcg = {r: measure(task, rankers[r], lab.settings.k)["ndcg"] for r in BUCKET_ROWS}
        yield bucket_row(bucket, ndcg)


def cold_movies(items, n_items, share, seed):
    """(I,) bool: a share of the rated movies, drawn without looking at their ratings."""
    rated = np.unique(items)
    cold = np.zeros(n_items, dtype=bool)  # (I,)
    cold[np.random.default_rng(seed).permutation(rated)[: int(np.ceil(share * len(rated)))]] = True
    return cold


def cold_part(lab):
    """New movies, a tenth of all held out whole: to be found among themselves, and among all."""
    s = lab.settings
    cold = cold_movies(lab.all[1], lab.n_items, 0.1, s.seed)  # (I,)
    held, other = choose(lab.all, cold[lab.all[1]]), choose(lab.test, ~cold[lab.test[1]])
    known = choose(lab.train, ~cold[lab.train[1]])
    shelves = {"cold": cold, "cold among all": cold | (counts_of(known[1], lab.n_items) > 0)}
    tasks = {part: lab.task(known, held, shown, other) for part, shown in shelves.items()}
    rankers = cold_rankers(lab, tasks["cold"])
    rows = {
        part: rows_of({row: pooled([measure(task, r, s.k)]) for row, r in rankers.items()}, rankers)
        for part, task in tasks.items()
    }
    mixed = mixed_part(lab, mixed_tasks(lab, known, other, held, cold), cold)
    return rows | mixed | {"cold movies": int(cold.sum()), "cold ratings": len(held[0])}


def mixed_tasks(lab, known, rated, new, cold, struck=None):
    """{likes to be found: Task}, all of them in the same lists of rated and of new movies.

    rated, new: held-out rows of movies with known ratings and of the movies `cold` (I,) bool.
    """
    shown = cold | (counts_of(known[1], lab.n_items) > 0)  # (I,)
    every = tuple(np.concatenate(columns) for columns in zip(rated, new, strict=True))
    parts = {"all": every, "rated": rated, "new": new}
    return {part: lab.task(known, held, shown, struck) for part, held in parts.items()}


def mixed_shelf(tasks, ranker, cold, k):
    """NDCG of the likes of each kind, recall of the new, the share of new movies in the lists."""
    found = {part: measure(task, ranker, k) for part, task in tasks.items()}
    row = {f"ndcg_{part}": float(result["ndcg"].mean()) for part, result in found.items()}
    lists = found["all"]["lists"]  # (E, K)
    share = cold[lists[lists >= 0]].mean()
    row |= {"recall_new": float(found["new"]["recall"].mean()), "share_new": float(share)}
    return row, found["all"]["ndcg"]


def mixed_part(lab, tasks, cold):
    """Rows of the mixed shelf: means over the starts; ours minus the row in NDCG of all likes."""
    s, task, found = lab.settings, tasks["all"], defaultdict(list)
    plain = {"Content only (cosine)": text_ranker(lab, task, "no tags")}
    plain["Eq. (1), the report's PMF"] = eq1_ranker(lab, task)
    plain["Most popular"] = plain_rankers(lab, task)["Most popular"]
    for seed in range(s.seed, s.seed + s.starts):
        model = fit(lab, task, Fitted("no tags"), seed)
        factors = {side: model[side] for side in "UV"}
        given = fuse.allowances(factors["V"], task.items)
        ours, prior = (
            alone(partial(fuse.scores_with_allowance, allowances=given, **factors)),
            alone(partial(fuse.mf_scores, **factors)),
        )
        rankers = {OURS_ROW: ours}
        rankers |= dict.fromkeys(("ours, no allowance", "Ranking PMF, text as prior"), prior)
        for row, ranker in rankers.items():
            found[row].append(mixed_shelf(tasks, ranker, cold, s.k))
    found |= {row: [mixed_shelf(tasks, ranker, cold, s.k)] for row, ranker in plain.items()}
    rows, ours = [], [ndcg for _, ndcg in found[OURS_ROW]]  # S of (E,)
    for row, starts in found.items():
        values, ndcg = zip(*starts, strict=True)
        entry = {"row": row} | {n: float(np.mean([v[n] for v in values])) for n in values[0]}
        if row != OURS_ROW:
            entry["difference"] = paired_bootstrap(ours, ndcg)
        rows.append(entry)
    return {"mixed": {"rows": rows}}


def cold_rankers(lab, task):
    """What can rank movies without a rating. No tags in the text: who tags a movie has seen it."""
    found, s = rankers_without_tags(lab, task), lab.settings
    # Train counts, equal ones at random: item numbers would tell which movie is seen often.
    counts = counts_of(task.items, lab.n_items) + np.random.default_rng(s.seed).random(lab.n_items)
    return {
        "Random": found["Random"],
        "Most popular (all 0 if cold, then at random)": alone(
            partial(fuse.constant_scores, values=counts)
        ),
        "Content only (cosine)": text_ranker(lab, task, "no tags"),
        "Eq. (1), the report's PMF, alpha .85": eq1_ranker(lab, task),
        OURS_ROW: found[OURS_ROW],
    }


def eq1_ranker(lab, task):
    """Eq. (1) as the report has it: its PMF, its profiles, embeddings as they are, alpha = .85."""
    s = pmf.PMF(epochs=lab.settings.epochs)
    with quiet():
        U, V, _ = pmf.fit(task.users, task.items, task.ratings, lab.n_users, lab.n_items, s)
    scores = fuse.report_scorer(task, U, V, lab.embeddings("no tags"))
    return alone(partial(scores, alpha=NOTEBOOK.alpha))


def place_within(users, seed):
    """(N,) the place of each rating in a random order of its user's ratings, from 0."""
    shuffled = np.random.default_rng(seed).permutation(len(users))  # (N,)
    order = shuffled[np.argsort(users[shuffled], kind="stable")]  # (N,) user by user
    place = np.empty(len(users), dtype=int)  # (N,)
    place[order] = np.arange(len(users)) - np.searchsorted(users[order], users[order])
    return place


def thinned_part(lab):
    """The same users, 50 train ratings or more, with 5, 14, 35 and all of them.

    In each of four turns a quarter of them has each length, so what others rated stays about equal;
    test ratings and movies shown are those of the whole train part.
    """
    users, limits = lab.train[0], np.array(list(KEPT.values()))  # (N,), (4,)
    long = counts_of(users, lab.n_users) >= 50  # (U,)
    shown = counts_of(lab.train[1], lab.n_items) > 0  # (I,)
    held, place = choose(lab.test, long[lab.test[0]]), place_within(users, lab.settings.seed)
    levels, ndcg = [], {row: [] for row in BUCKET_ROWS}
    for turn in range(len(KEPT)):
        level = (np.arange(lab.n_users) + turn) % len(KEPT)  # (U,)
        kept = ~long[users] | (place < limits[level[users]])  # (N,)
        task = lab.task(choose(lab.train, kept), held, shown, choose(lab.train, ~kept))
        levels.append(level[np.diff(task.relevant[0]) > 0])  # (E,)
        rankers = rankers_without_tags(lab, task, known=lab.train[1])  # no movie is new
        for row in BUCKET_ROWS:
            ndcg[row].append(measure(task, rankers[row], lab.settings.k)["ndcg"])  # (E,)
    levels, ndcg = np.concatenate(levels), {r: np.concatenate(parts) for r, parts in ndcg.items()}
    return {"thinned": [bucket_row(bucket, ndcg, levels == i) for i, bucket in enumerate(KEPT)]}


def temporal_part(lab):
    """One date for everybody: fitted on what came before, measured on what came after."""
    task, k = lab.splits()["temporal"], lab.settings.k
    rankers = rankers_without_tags(lab, task)
    found = {row: pooled([measure(task, ranker, k)]) for row, ranker in rankers.items()}
    found |= lab.baselines("temporal")
    return {"temporal": rows_of(found, WARM_ROWS), "date": lab.date}


# ------------------------------------------------------------------------------------------------
# Table III
# ------------------------------------------------------------------------------------------------

TABLE3 = {  # part of results-ours.json -> its title
    "warm": "1. Known movies, split 42. Choices were made on the validation part only.",
    "cold": "2a. New movies: {cold movies} movies held out whole ({cold ratings} ratings), ranked "
    "among themselves; text without tags.",
    "cold among all": "2b. The same movies, to be found among all movies.",
    "mixed": "2c. Mixed shelf: rated and new movies in the same lists, to be found are the test "
    "likes of rated movies and all likes of the new ones. Share: that of new movies in the lists.",
    "history": "3a. NDCG@{k} by the number of a user's train ratings; splits.md has five splits.",
    "thinned": "3b. The same users, their train ratings thinned to 5, 14 and 35; text without "
    "tags; no allowance, as no movie is new. People who rate much are others than people who rate "
    "little: what helps a thinned history may harm a short one, so 3a is the judge of short "
    "histories, not 3b.",
    "items": "3c. NDCG@{k} by the train count of the movie to be found, among the movies of that "
    "bucket.",
    "items among all": "3d. The same movies, to be found among all movies, those never rated in "
    "train included.",
    "ablations": "4. Ablations of ours, split 42.",
    "beyond": "5. Beyond accuracy: the share of the movies that anybody is shown, the Gini "
    "coefficient over the movies of how often they are shown, the mean train count of what is "
    "shown.",
    "temporal": "6. One date for everybody ({day}, 80 % of the ratings before it); users with "
    "ratings on both sides; text without tags.",
}
PANELS = ("history", "thinned", "items")  # of Figure 3, by bucket


def table3(results):
    """Table III in Markdown, one section a part."""
    k, day = results["k"], time.strftime("%Y-%m-%d", time.gmtime(results["date"]))
    base, tuned = TEXT_ROWS[BASE_ROW][1], TEXT_ROWS[TUNED_ROW][1]
    sections = [
        f"{marks(results)}Table III. Recipe `ours`, K = {k}. Means over users; of rows with a "
        f"random start the mean of {results['starts']} seeds (lowest..highest) in parts 1, 2c, 3a "
        "and 4, else one seed, as on validation. Intervals are 95 % "
        "paired bootstrap over users and, where there are several, seeds. Text alone is the "
        f"centred cosine to what the user liked plus {base} (base) or {tuned} (tuned) times "
        "log(1 + train likes).\n"
    ]
    validation = {row["row"]: row["ndcg"][0] for row in results["validation"] if "ndcg" in row}
    for part, title in TABLE3.items():
        if part in (*PANELS, "items among all"):
            table = bucket_table(results[part])
        elif part == "beyond":
            table = beyond_table(results["warm"])
        elif part == "mixed":
            table = mixed_table(results["mixed"]["rows"], k)
        else:
            known = validation if part in ("warm", "ablations") else None
            table = row_table(results[part], k, known)
        sections.append(f"**{title.format(day=day, **results)}**\n\n{table}")
    return "\n".join(sections)


def row_table(rows, k, validation):
    """P, R and NDCG of each row, what ours has more, and NDCG on validation where there is one."""
    head = ["row", "users", f"P@{k}", f"R@{k}", f"NDCG@{k}", "NDCG of ours - this row"]
    head += [f"NDCG@{k} on validation"] if validation is not None else []
    lines = []
    for row in rows:
        cells = [row["row"], str(row["users"]), *(_range(*row[name]) for name in METRICS)]
        cells.append(_interval(row))
        if validation is not None:
            known = row["row"] in validation
            cells.append(f"{validation[row['row']]:.4f}" if known else "")
        lines.append(cells)
    return markdown(head, lines)


def _range(mean, low, high):
    return f"{mean:.4f}" if low == high else f"{mean:.4f} ({low:.4f}..{high:.4f})"


def _interval(row):
    return interval(row["difference"]) if "difference" in row else ""


def bucket_table(rows):
    """NDCG of the rankers in each bucket, and what text adds to the PMF."""
    names = max((row["ndcg"] for row in rows), key=len)
    head = ["bucket", "users", *names, f"{OURS_ROW} - {PMF_ROW}"]
    lines = []
    for row in rows:
        values = [f"{row['ndcg'][name]:.4f}" if row["users"] else "" for name in names]
        lines.append([row["bucket"], str(row["users"]), *values, _interval(row)])
    return markdown(head, lines)


def beyond_table(rows):
    cells = [
        [row["row"], f"{row['coverage']:.3f}", f"{row['gini']:.3f}", f"{row['popularity']:.1f}"]
        for row in rows
        if "gini" in row
    ]
    return markdown(["row", "coverage", "Gini", "mean train count"], cells)


def mixed_table(rows, k):
    names = {"ndcg_all": f"NDCG@{k}, all likes", "ndcg_rated": "of rated movies"}
    names |= {"ndcg_new": "of new movies", "recall_new": "recall, new", "share_new": "share of new"}
    cells = [[row["row"], *(f"{row[name]:.4f}" for name in names), _interval(row)] for row in rows]
    return markdown(["row", *names.values(), "NDCG of ours - this row, all likes"], cells)


# ------------------------------------------------------------------------------------------------
# Figures 2 and 3
# ------------------------------------------------------------------------------------------------


def figure2(results):
    """NDCG on the validation part against alpha; 1 is the PMF alone, 0 text alone."""
    from matplotlib.figure import Figure  # here: tests of the table need none

    figure = Figure(figsize=(6.4, 3.6), layout="tight")
    panel = figure.subplots()
    for text, curve in results["alpha"].items():
        alphas, ndcg = ([point[name] for point in curve] for name in ("alpha", "ndcg"))
        panel.plot(alphas, ndcg, "o-", label=f"encoder {text}")
    note = "1 the PMF with the text as prior, which is ours"
    panel.set(xlabel=f"alpha: 0 is text alone, {note}", ylabel=f"NDCG@{results['k']}")
    panel.set_title("on the validation part", fontsize="medium")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def figure3(results):
    """NDCG by bucket, a panel each for users, thinned users and movies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 9))
    for panel, part in zip(figure.subplots(len(PANELS), sharey=True), PANELS, strict=True):
        rows = [row for row in results[part] if row["users"]]
        places = np.arange(len(rows))  # (buckets,)
        for i, name in enumerate(BUCKET_ROWS):
            ndcg = [row["ndcg"][name] for row in rows]
            bars = panel.bar(places + 0.2 * (i - 1.5), ndcg, 0.19, label=name)
            panel.bar_label(bars, fmt="%.3f", fontsize="x-small")
        panel.set_xticks(places, [f"{row['bucket']} ({row['users']} users)" for row in rows])
        panel.set_title(TABLE3[part].format(**results).partition(";")[0], fontsize="medium")
        panel.set(ylabel=f"NDCG@{results['k']}", ymargin=0.1)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper center", ncols=3, fontsize="small")
    figure.tight_layout(rect=(0, 0, 1, 0.94))  # the legend stands above
    return figure


def draw(figure, path):
    """Write a figure as SVG, the same bytes for the same figure."""
    from matplotlib import rc_context

    with (
        rc_context({"svg.hashsalt": "table3", "svg.fonttype": "none"}),
        metrics.whole(path) as temporary,
    ):
        figure.savefig(temporary, format="svg", metadata={"Date": None})


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


def study(settings):
    """The content of results-ours.json."""
    lab = Lab(settings)
    results = {"edition": provenance(lab.ratings)["settings"]["edition"], "k": settings.k}
    results |= {"starts": settings.starts, "seed": settings.seed, "versions": metrics.versions()}
    for part in (validation_part, warm_part, cold_part, thinned_part, temporal_part):
        with metrics.stage(settings.out / "results-ours.json", part.__name__.replace("_", " ")):
            results |= part(lab)
    return results


def main():
    settings = metrics.parse(Settings, __doc__, k=1, seed=metrics.SEEDS, starts=1)
    results = study(settings)
    texts = {"results-ours.json": json.dumps(results, indent=1), "table3.md": table3(results)}
    write_texts(settings.out, texts)
    draw(figure2(results), settings.out / "figure2.svg")
    draw(figure3(results), settings.out / "figure3.svg")
    print(texts["table3.md"])


if __name__ == "__main__":
    metrics.run(main)
