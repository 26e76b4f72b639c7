"""Table III, Figures 2 and 3: what recipe `ours` scores, and what its parts are worth.

    python tests/table3.py --out out --seed 42                         (or: make ours)

Six parts, one function `*_part` or `*_parts` each: the choices on validation users; known movies
with ablations, by a user's history and by a movie's train count; new movies; thinned histories; one
date for everybody. A ranker is a function of a Shelf that returns a scorer (see fuse.py), so that
one fit can be measured on several shelves.

Needs:   in --out ratings, documents and embeddings of `make ours`; tests/recorded/baselines.json
Writes:  in --out results-ours.json, table3.md, figure2.svg (alpha), figure3.svg (buckets)
Legend:  U users, I items, S items of a shelf, E users measured, N ratings, K factors (of a list:
         its length), D dimensions, B batch.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import fuse
import pmf
from main import (
    COLOURS,
    METRICS,
    PUBLISHED,
    marks,
    svg_axis,
    svg_bar,
    svg_label,
    svg_legend,
    svg_page,
    write_texts,
)
from metrics import (
    best_items,
    evaluate,
    group_by_user,
    load,
    paired_bootstrap,
    parse,
    provenance,
    run,
    versions,
)


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts, of the table and of the figures
    baselines: Path = Path("tests/recorded/baselines.json")  # EASE and weighted MF, recorded
    k: int = 25  # length of the list
    seed: int = 42  # of the first start of the factors, and of what a part draws
    starts: int = 5  # fits of a row that starts at random: seed, seed + 1, ..
    factors: int = pmf.Ranking.k  # K of the ranking PMF
    sweeps: int = pmf.Ranking.sweeps  # of the ranking PMF
    epochs: int = pmf.Settings.epochs  # of the report's PMF, for Eq. (1) on cold movies


TEXTS = {  # text -> its embeddings, its documents. The recipe takes "base"
    "base": ("minilm-no-leak", "documents-no-leak.txt"),  # no tag of a (user, movie) pair in test
    "tuned": ("minilm-ours", "documents-no-leak.txt"),
    "all tags": ("minilm", "documents.txt"),
    "no tags": ("minilm-no-tags", "documents-no-tags.txt"),
}
PMF_ROW, PRIOR_ROW, OURS_ROW = "Ranking PMF, no text", "Ranking PMF, text as prior", "ours"
BASE_ROW, TUNED_ROW = "Text alone (base)", "Text alone (tuned)"
TEXT_ROWS = {  # row -> text, weight of log(1 + likes): the best of .05 .. .4 on validation
    "Cosine alone (base)": ("base", 0.0),
    "Cosine alone (tuned)": ("tuned", 0.0),
    BASE_ROW: ("base", 0.3),
    TUNED_ROW: ("tuned", 0.2),
}
BASELINE_ROWS = ("EASE", "Weighted MF (implicit)", "Weighted MF (scaled)")
WARM_ROWS = ("Random", "Most popular", "Most liked", *BASELINE_ROWS)
WARM_ROWS += (PMF_ROW, *TEXT_ROWS, PRIOR_ROW, OURS_ROW)
BUCKET_ROWS = ("Most popular", PMF_ROW, BASE_ROW, PRIOR_ROW, OURS_ROW)
PARTS_OFF = ("prior off (late fusion alone)", "late fusion off (prior alone)")
ABLATIONS = {  # row -> text, what is done to it, with or without late fusion
    "text shuffled among the movies": ("base", "shuffled", OURS_ROW),
    "text shuffled, late fusion off": ("base", "shuffled", PRIOR_ROW),
    "without tags": ("no tags", "centred", OURS_ROW),
    "with the tags of test pairs": ("all tags", "centred", OURS_ROW),
    "embeddings not centred": ("base", "raw", OURS_ROW),
    "encoder tuned": ("tuned", "centred", OURS_ROW),
}
HISTORY = {"1-9": (1, 9), "10-19": (10, 19), "20-49": (20, 49), "50+": (50, np.inf)}
KEPT = {"1-9": 5, "10-19": 14, "20-49": 35, "50+": None}  # bucket -> ratings left by thinning
COUNTS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, np.inf)}

# ------------------------------------------------------------------------------------------------
# What a ranker sees, and where it is measured
# ------------------------------------------------------------------------------------------------


class Study:
    """The ratings that a ranker may see; users and items are numbered as in ratings.safetensors."""

    def __init__(self, ratings, shape, settings):
        self.users, self.items, self.ratings = ratings  # (N,) each
        (self.n_users, self.n_items), self.settings = shape, settings
        liked = self.ratings >= fuse.LIKED  # (N,)
        self.liked = self.users[liked], self.items[liked]
        self.counts = np.bincount(self.items, minlength=self.n_items)  # (I,)
        self.likes = np.bincount(self.liked[1], minlength=self.n_items)  # (I,)
        self.history = np.bincount(self.users, minlength=self.n_users)  # (U,)
        self.known = self.counts > 0  # (I,)

    def features(self, embeddings, centred=True):
        """Text features (I, D + 1) of the ranking PMF; the last column is the intercept."""
        if centred:
            return pmf.text_features(embeddings, self.known)
        return np.hstack([embeddings, np.ones((len(embeddings), 1))])

    def fit(self, seed, features=None):
        """P (U, K) and Q (I, K) of the ranking PMF; a movie without ratings has its prior, or 0."""
        s = pmf.Ranking(k=self.settings.factors, sweeps=self.settings.sweeps, seed=seed)
        ratings = self.users, self.items, self.ratings / 5, np.ones(len(self.ratings))
        return pmf.fit_ranking(*ratings, self.n_users, self.n_items, s, features)[:2]

    def profiles(self, features):
        """(U, D) unit centroids of the liked, and (I, D) features without their intercept."""
        e = features[:, :-1]  # (I, D)
        return fuse.centroids(*self.liked, e, self.n_users), e

    def text_ranker(self, features, popularity):
        profiles, e = self.profiles(features)

        def ranker(shelf):
            shown = e[shelf.items], self.likes[shelf.items]  # (S, D), (S,)
            return lambda users: fuse.text_scores(profiles[users], *shown, popularity)

        return ranker

    def ours_ranker(self, P, Q, features, alpha=fuse.OURS_ALPHA):
        profiles, e = self.profiles(features)
        return lambda shelf: fuse.ours_scorer(
            P, Q[shelf.items], profiles, e[shelf.items], self.likes[shelf.items], shelf.seen, alpha
        )


def factor_ranker(P, Q):
    return lambda shelf: fuse.mf_scorer(P, Q[shelf.items])


def constant_ranker(values):
    """The same order for every user, by values (I,)."""
    return lambda shelf: fuse.constant_scorer(values[shelf.items])


def random_ranker(seed):
    return lambda shelf: fuse.random_scorer(seed, len(shelf.items))


class Shelf:
    """The movies that may be shown, what users have seen of them, and what they should find."""

    def __init__(self, study, held, shown, struck=None):
        """Columns of `seen` and `relevant` are the shown items, in the order of their numbers.

        held: (users, items, ratings) to find, if liked and by a user with a history; shown: (I,)
        bool; struck: (users, items) that are neither shown nor to be found.
        """
        self.items, self.k = np.flatnonzero(shown), study.settings.k  # (S,)
        place = np.cumsum(shown) - 1  # (I,) item -> its column
        pairs = [(study.users, study.items), *([struck] if struck else [])]
        users, items = (np.concatenate(column) for column in zip(*pairs, strict=True))
        users, items = users[shown[items]], items[shown[items]]
        self.seen = group_by_user(users, place[items], study.n_users)
        users, items, ratings = held
        find = (ratings >= fuse.LIKED) & shown[items] & (study.history[users] > 0)  # (N,)
        self.relevant = group_by_user(users[find], place[items[find]], study.n_users)
        self.users = np.flatnonzero(np.diff(self.relevant[0]))  # (E,) those that are measured

    def measure(self, ranker):
        return evaluate(ranker(self), self.seen, self.relevant, self.k, threads=2)

    def lists(self, ranker):
        """What each user is shown, as columns: (E, K), -1 where there is nothing left."""
        scorer, blocks = ranker(self), np.split(self.users, range(64, len(self.users), 64))
        return np.concatenate([best_items(scorer, self.seen, b, self.k) for b in blocks])


class Lab:
    """One out/ folder, with what every part of Table III takes from it."""

    def __init__(self, settings):
        self.settings, self.out = settings, settings.out
        self.ratings = self.out / "ratings.safetensors"
        self.data = load(self.ratings)
        self.shape = len(self.data["user_ids"]), len(self.data["movie_ids"])
        self.seeds = range(settings.seed, settings.seed + settings.starts)
        self.train, self.test = self.part("train"), self.part("test")
        self.all = tuple(np.concatenate(pair) for pair in zip(self.train, self.test, strict=True))

    def part(self, name):
        return tuple(self.data[f"{name}_{column}"] for column in ("users", "items", "ratings"))

    def study(self, ratings):
        return Study(ratings, self.shape, self.settings)

    def embeddings(self, text):
        """(I, D) of a text of TEXTS, None where they are missing."""
        name, documents = TEXTS[text]
        path = self.out / f"{name}.safetensors"
        if text == "tuned" and not path.exists():
            return None
        return load(path, [self.out / documents])["embeddings"].astype(np.float64)

    def baselines(self):
        """{row: measured} of the recorded peers, {} unless they were measured on this split."""
        path = self.settings.baselines
        record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        known = {"split": split_of(self.ratings), "k": self.settings.k, "quick": False}
        fits = all(record.get(name) == value for name, value in known.items())
        return record["rows"] if fits else {}


def split_of(ratings):
    """What identifies a split: the CSV files and the settings it was drawn with."""
    made = provenance(ratings)
    return {"inputs": made["inputs"], "settings": made["settings"]}


def choose(rows, keep):
    """The rows (columns of equal length) where `keep` (N,) holds."""
    return tuple(column[keep] for column in rows)


# ------------------------------------------------------------------------------------------------
# Rows of the table from what is measured
# ------------------------------------------------------------------------------------------------


def pooled(results):
    """Over the seeds of a row: each seed's means, and each user's mean of every metric (E,)."""
    found = {name: np.mean([result[name] for result in results], axis=0) for name in METRICS}
    return {"seeds": [[float(r[name].mean()) for name in METRICS] for r in results]} | found


def result_row(name, found, ours=None):
    """One row of the table: mean, lowest and highest seed of P, R, NDCG; ours minus it in NDCG."""
    seeds = np.array(found["seeds"])  # (seeds, 3)
    row = {"row": name, "status": "ok", "users": len(found["ndcg"]), "starts": len(seeds)}
    for i, metric in enumerate(METRICS):
        values = seeds[:, i]
        row[metric] = [float(f) for f in (values.mean(), values.min(), values.max())]
    if ours is not None and found is not ours:
        row["difference"] = paired_bootstrap(ours["ndcg"], np.asarray(found["ndcg"]))
    return row


def bucket_row(bucket, ndcg, users=None):
    """NDCG of the rows for the users (E,) bool of a bucket; what text adds, with its interval."""
    if users is not None:
        ndcg = {name: np.asarray(values)[users] for name, values in ndcg.items()}
    n = len(ndcg[OURS_ROW])
    row = {"bucket": bucket, "users": n, "ndcg": {}}
    if n:
        row["ndcg"] = {name: float(np.mean(values)) for name, values in ndcg.items()}
        row["difference"] = paired_bootstrap(ndcg[OURS_ROW], ndcg[PMF_ROW])
    return row


def gini(counts):
    """Gini coefficient of counts (S,): 0 if all are equal, (S - 1)/S if one has everything."""
    counts, n = np.sort(counts), len(counts)
    return float(2 * np.arange(1, n + 1) @ counts / (n * counts.sum()) - (n + 1) / n)


def beyond_accuracy(lists, popularity):
    """Of lists (E, K) of columns: coverage, Gini, mean popularity (S,) of what is shown."""
    shown = lists[lists >= 0]  # (M,)
    counts = np.bincount(shown, minlength=len(popularity))  # (S,) users to whom it is shown
    coverage, mean = (counts > 0).mean(), popularity[shown].mean()
    return {"coverage": float(coverage), "gini": gini(counts), "popularity": float(mean)}


# ------------------------------------------------------------------------------------------------
# The parts: each returns entries of results-ours.json
# ------------------------------------------------------------------------------------------------


def model_rankers(study, features, seed):
    """The three fitted rows, and the two ablations that only leave one of their parts out."""
    plain, prior = study.fit(seed), study.fit(seed, features)
    return {
        PMF_ROW: factor_ranker(*plain),
        PRIOR_ROW: factor_ranker(*prior),
        OURS_ROW: study.ours_ranker(*prior, features),
        PARTS_OFF[0]: study.ours_ranker(*plain, features),
        PARTS_OFF[1]: factor_ranker(*prior),
    }


def ablation_rankers(lab, study, seed):
    """The rows of ABLATIONS, fitted anew; without the tuned encoder where it is missing."""
    order = np.random.default_rng(lab.settings.seed).permutation(study.n_items)  # (I,)
    fitted = {}  # (text, change) -> the factors and the features
    for row, (text, change, ranker) in ABLATIONS.items():
        embeddings = lab.embeddings(text)
        if embeddings is None:
            continue
        if (text, change) not in fitted:
            embeddings = embeddings[order] if change == "shuffled" else embeddings
            features = study.features(embeddings, centred=change != "raw")
            fitted[text, change] = (*study.fit(seed, features), features)
        P, Q, features = fitted[text, change]
        late = ranker == OURS_ROW
        yield row, study.ours_ranker(P, Q, features) if late else factor_ranker(P, Q)


def plain_rankers(lab, study):
    """The rows of the warm table that nothing random enters but the first, and text alone."""
    yield "Random", random_ranker(lab.settings.seed)
    yield "Most popular", constant_ranker(study.counts)
    yield "Most liked", constant_ranker(study.likes)
    for row, (text, popularity) in TEXT_ROWS.items():
        embeddings = lab.embeddings(text)
        if embeddings is not None:
            yield row, study.text_ranker(study.features(embeddings), popularity)


def rows_of(found, order=None):
    """Rows of the table; one that was not measured says why."""
    reasons = dict.fromkeys(BASELINE_ROWS, f"{Settings.baselines} is missing, or of another split")
    tuned = "out/minilm-ours.safetensors is missing; `make ours` makes it"
    return [
        result_row(row, found[row], found[OURS_ROW])
        if row in found
        else {"row": row, "status": f"not run: {reasons.get(row, tuned)}"}
        for row in order or found
    ]


def measure_rows(lab, study, shelf, seeds):
    """{row: results over the seeds}, and {row: ranker} of the first seed."""
    features = study.features(lab.embeddings("base"))  # (I, D + 1)
    rankers = dict(plain_rankers(lab, study))
    found = {row: [shelf.measure(ranker)] for row, ranker in rankers.items()}
    for seed in seeds:
        fitted = model_rankers(study, features, seed) | dict(ablation_rankers(lab, study, seed))
        rankers = fitted | rankers  # the first seed's stay
        for row, ranker in fitted.items():
            found.setdefault(row, []).append(shelf.measure(ranker))
    return {row: pooled(results) for row, results in found.items()}, rankers


def warm_parts(lab):
    """Known movies, published split: the rows, ablations, buckets by history and by train count."""
    study = lab.study(lab.train)
    shelf = Shelf(study, lab.test, study.known)
    found, rankers = measure_rows(lab, study, shelf, lab.seeds)
    recorded = lab.baselines()
    found |= {row: peer["test"] for row, peer in recorded.items()}
    beyond = {row: peer["beyond"] for row, peer in recorded.items()}
    for row in filter(rankers.get, WARM_ROWS):
        beyond[row] = beyond_accuracy(shelf.lists(rankers[row]), study.counts[shelf.items])
    warm = rows_of(found, WARM_ROWS)
    history = study.history[shelf.users]  # (E,)
    ndcg = {row: found[row]["ndcg"] for row in WARM_ROWS if row in found}
    buckets = {row: rankers[row] for row in BUCKET_ROWS}
    return {
        "warm": [row | beyond.get(row["row"], {}) for row in warm],
        "ablations": rows_of(found, (OURS_ROW, *PARTS_OFF, *ABLATIONS)),
        "history": [
            bucket_row(bucket, ndcg, (history >= low) & (history <= high))
            for bucket, (low, high) in HISTORY.items()
        ],
        "items": list(item_buckets(lab, study, buckets, among_all=False)),
        "items among all": list(item_buckets(lab, study, buckets, among_all=True)),
    }


def item_buckets(lab, study, rankers, among_all):
    """NDCG of finding the movies of a bucket of train counts, among themselves or among all."""
    for bucket, (low, high) in COUNTS.items():
        inside = (study.counts >= low) & (study.counts <= high)  # (I,)
        held = choose(lab.test, inside[lab.test[1]])
        shelf = Shelf(study, held, inside | among_all)
        ndcg = {row: np.empty(0) for row in rankers}
        if len(shelf.users):
            ndcg = {row: shelf.measure(ranker)["ndcg"] for row, ranker in rankers.items()}
        yield bucket_row(bucket, ndcg)


def validation_part(lab):
    """Where the choices come from: the same rows and the curve of alpha on the validation part."""
    valid = lab.data["valid"]  # (N,)
    study = lab.study(choose(lab.train, ~valid))
    shelf = Shelf(study, choose(lab.train, valid), study.known)
    found, _ = measure_rows(lab, study, shelf, lab.seeds[:1])
    found |= {row: peer["validation"] for row, peer in lab.baselines().items()}
    curves = {}
    for text in ("base", "tuned"):
        embeddings = lab.embeddings(text)
        if embeddings is not None:
            features = study.features(embeddings)  # (I, D + 1)
            factors = study.fit(lab.settings.seed, features)
            curves[text] = alpha_curve(study, shelf, factors, features)
    rows = rows_of(found, (*WARM_ROWS, *PARTS_OFF, *ABLATIONS))
    return {"validation": rows, "alpha": curves}


def alpha_curve(study, shelf, factors, features):
    """P, R and NDCG of ours on a shelf for every alpha of 0, .1 .. 1."""
    curve = []
    for alpha in np.linspace(0, 1, 11):
        result = pooled([shelf.measure(study.ours_ranker(*factors, features, alpha))])
        means = dict(zip(METRICS, result["seeds"][0], strict=True))
        curve.append({"alpha": round(float(alpha), 6), **means})
    return curve


def cold_movies(items, n_items, share, seed):
    """(I,) bool: a share of the rated movies, drawn without looking at their ratings."""
    rated = np.unique(items)
    cold = np.zeros(n_items, dtype=bool)  # (I,)
    drawn = np.random.default_rng(seed).permutation(rated)
    cold[drawn[: int(np.ceil(share * len(rated)))]] = True
    return cold


def cold_part(lab):
    """A tenth of the movies held out with all their ratings: found among themselves, among all."""
    seed = lab.settings.seed
    cold = cold_movies(lab.all[1], lab.shape[1], 0.1, seed)  # (I,)
    study = lab.study(choose(lab.train, ~cold[lab.train[1]]))
    embeddings = lab.embeddings("no tags")  # whoever tagged a movie has seen it
    features = study.features(embeddings)
    factors = study.fit(seed, features)
    rankers = {
        "Random": random_ranker(seed),
        "Most popular (all 0 if cold, then at random)": popular_then_random(study, seed),
        "Content only (cosine)": study.text_ranker(features, popularity=0.0),
        "Eq. (1), the report's PMF, alpha .85": eq1_ranker(lab, study, embeddings),
        PRIOR_ROW: factor_ranker(*factors),
        OURS_ROW: study.ours_ranker(*factors, features),
    }
    held = choose(lab.all, cold[lab.all[1]])
    other = choose(lab.test[:2], ~cold[lab.test[1]])
    shelves = {
        "cold": Shelf(study, held, cold),
        "cold among all": Shelf(study, held, cold | study.known, struck=other),
    }
    return {
        name: rows_of({r: pooled([shelf.measure(ranker)]) for r, ranker in rankers.items()})
        for name, shelf in shelves.items()
    } | {"cold movies": int(cold.sum()), "cold ratings": len(held[0])}


def popular_then_random(study, seed):
    """Train counts, equal ones at random: item numbers would tell which movie is seen often."""
    return constant_ranker(study.counts + np.random.default_rng(seed).random(study.n_items))


def eq1_ranker(lab, study, embeddings):
    """Eq. (1) as the report has it: its PMF, its profiles, embeddings as they are, alpha = .85."""
    s = pmf.Settings(ratings=lab.ratings, out=lab.out, epochs=lab.settings.epochs)
    ratings = study.users, study.items, study.ratings
    U, V, _ = pmf.fit(*ratings, study.n_users, study.n_items, s)
    profiles = fuse.centroids(*study.liked, embeddings, study.n_users)  # (U, D)
    return lambda shelf: fuse.eq1_scorer(
        U, V[shelf.items], profiles, embeddings[shelf.items], PUBLISHED.alpha
    )


def place_within(users, seed):
    """(N,) the place of each rating in a random order of its user's ratings, from 0."""
    order = np.random.default_rng(seed).permutation(len(users))  # (N,)
    order = order[np.argsort(users[order], kind="stable")]
    counts = np.bincount(users)  # (U,)
    place = np.empty(len(users), dtype=int)  # (N,)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def thinned_part(lab):
    """The same users, 50 train ratings or more, with 5, 14, 35 and all of them.

    In each of four turns a quarter of them has each length, so what others rated stays about equal;
    test ratings and movies shown are those of the whole train part.
    """
    users, items, _ = lab.train
    whole = lab.study(lab.train)
    long = whole.history >= 50  # (U,)
    place, levels = place_within(users, lab.settings.seed), list(KEPT)
    limits = np.array([kept or np.inf for kept in KEPT.values()])  # (4,)
    ndcg = {bucket: {row: [np.empty(0)] for row in BUCKET_ROWS} for bucket in levels}
    for turn in range(len(levels)):
        level = (np.arange(whole.n_users) + turn) % len(levels)  # (U,)
        kept = ~long[users] | (place < limits[level[users]])  # (N,)
        study = lab.study(choose(lab.train, kept))
        held = choose(lab.test, long[lab.test[0]])
        shelf = Shelf(study, held, whole.known, struck=(users[~kept], items[~kept]))
        if len(shelf.users) == 0:
            continue
        for row, ranker in bucket_rankers(lab, study).items():
            values = shelf.measure(ranker)["ndcg"]  # (E,)
            for i, bucket in enumerate(levels):
                ndcg[bucket][row].append(values[level[shelf.users] == i])
    return {
        "thinned": [
            bucket_row(bucket, {row: np.concatenate(parts) for row, parts in rows.items()})
            for bucket, rows in ndcg.items()
        ]
    }


def bucket_rankers(lab, study):
    """BUCKET_ROWS, refitted, with the text without tags: a tag may come from a rating held out."""
    features = study.features(lab.embeddings("no tags"))
    rankers = {"Most popular": constant_ranker(study.counts)}
    rankers[BASE_ROW] = study.text_ranker(features, TEXT_ROWS[BASE_ROW][1])
    rankers |= model_rankers(study, features, lab.settings.seed)
    return {row: rankers[row] for row in BUCKET_ROWS}


def temporal_split(lab, share=0.8):
    """(study, shelf, date): the first 80 % of all ratings by time, and what came after them."""
    times = np.concatenate([lab.data["train_times"], lab.data["test_times"]])  # (N,)
    date = float(np.quantile(times, share))
    study = lab.study(choose(lab.all, times < date))
    return study, Shelf(study, choose(lab.all, times >= date), study.known), date


def temporal_part(lab):
    """One date for everybody: fitted on what came before, measured on what came after."""
    study, shelf, date = temporal_split(lab)
    if len(shelf.users) == 0:
        return {"temporal": [], "date": date}
    rankers = {"Random": random_ranker(lab.settings.seed)} | bucket_rankers(lab, study)
    found = {row: pooled([shelf.measure(ranker)]) for row, ranker in rankers.items()}
    found |= {row: peer["temporal"] for row, peer in lab.baselines().items()}
    order = [row for row in WARM_ROWS if row in found]
    return {"temporal": rows_of(found, order), "date": date}


def make_table3(argv=None):
    settings = parse(Settings, __doc__, argv)
    lab = Lab(settings)
    results = {"edition": provenance(lab.ratings)["settings"]["edition"], "k": settings.k}
    results |= {"starts": settings.starts, "seed": settings.seed, "versions": versions()}
    for part in (validation_part, warm_parts, cold_part, thinned_part, temporal_part):
        start = time.perf_counter()
        results |= part(lab)
        print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    texts = {
        "results-ours.json": json.dumps(results, indent=1),
        "table3.md": table3(results),
        "figure2.svg": figure2(results),
        "figure3.svg": figure3(results),
    }
    write_texts(settings.out, texts)
    print(texts["table3.md"])


# ------------------------------------------------------------------------------------------------
# Table III, Figures 2 and 3
# ------------------------------------------------------------------------------------------------

TABLE3 = {  # part of results-ours.json -> its title
    "warm": "1. Known movies, published split. Choices were made on validation users only.",
    "cold": "2a. New movies: {cold movies} movies held out whole ({cold ratings} ratings), ranked "
    "among themselves; text without tags.",
    "cold among all": "2b. The same movies, to be found among all movies.",
    "history": "3a. NDCG@{k} by the number of a user's train ratings.",
    "thinned": "3b. The same users, their train ratings thinned to 5, 14 and 35; text without "
    "tags.",
    "items": "3c. NDCG@{k} by the train count of the movie to be found, among the movies of that "
    "bucket.",
    "items among all": "3d. The same movies, to be found among all movies, those never rated in "
    "train included.",
    "ablations": "4. Ablations of ours, published split.",
    "beyond": "5. Beyond accuracy: the share of the movies that anybody is shown, the Gini "
    "coefficient over the movies of how often they are shown, the mean train count of what is "
    "shown.",
    "temporal": "6. One date for everybody ({day}, 80 % of the ratings before it); users with "
    "ratings on both sides; text without tags.",
}


def table3(results):
    """Table III in Markdown, one section a part."""
    k, day = results["k"], time.strftime("%Y-%m-%d", time.gmtime(results["date"]))
    lines = [
        f"{marks(results)}Table III. Recipe `ours`, K = {k}. Means over users; of rows with a "
        f"random start the mean of {results['starts']} seeds (lowest..highest). Intervals are 95 % "
        "paired bootstrap over users. Text alone is the centred cosine to what the user liked plus "
        "{0[1]} (base) or {1[1]} (tuned) times log(1 + train likes).\n".format(
            TEXT_ROWS[BASE_ROW], TEXT_ROWS[TUNED_ROW]
        )
    ]
    validation = {row["row"]: row["ndcg"][0] for row in results["validation"] if "ndcg" in row}
    for part, title in TABLE3.items():
        lines += [f"**{title.format(day=day, **results)}**\n"]
        if part in ("history", "thinned", "items", "items among all"):
            lines += bucket_lines(results[part])
        elif part == "beyond":
            lines += beyond_lines(results["warm"])
        else:
            known = validation if part in ("warm", "ablations") else None
            lines += row_lines(results[part], k, known)
        lines += [""]
    return "\n".join(lines)


def markdown(head, rows):
    """Lines of a table: head and rows are lists of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def row_lines(rows, k, validation):
    """P, R and NDCG of each row, what ours has more, and NDCG on validation where there is one."""
    head = ["row", "users", f"P@{k}", f"R@{k}", f"NDCG@{k}", "NDCG of ours - this row"]
    head += [f"NDCG@{k} on validation"] if validation is not None else []
    lines = []
    for row in rows:
        if row["status"] != "ok":
            lines.append([row["row"], row["status"], *[""] * (len(head) - 2)])
            continue
        cells = [row["row"], str(row["users"])]
        cells += [_range(row[name]) for name in METRICS]
        cells.append(_interval(row))
        if validation is not None:
            value = validation.get(row["row"])
            cells.append("" if value is None else f"{value:.4f}")
        lines.append(cells)
    return markdown(head, lines)


def _range(values):
    mean, low, high = values
    return f"{mean:.4f}" if low == high else f"{mean:.4f} ({low:.4f}..{high:.4f})"


def _interval(row):
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["difference"]) if "difference" in row else ""


def bucket_lines(rows):
    """NDCG of the rankers in each bucket, and what text adds to the PMF."""
    names = max((row["ndcg"] for row in rows), key=len)
    head = ["bucket", "users", *names, f"{OURS_ROW} - {PMF_ROW}"]
    lines = []
    for row in rows:
        values = [f"{row['ndcg'][name]:.4f}" if row["users"] else "" for name in names]
        lines.append([row["bucket"], str(row["users"]), *values, _interval(row)])
    return markdown(head, lines)


def beyond_lines(rows):
    cells = [
        [row["row"], f"{row['coverage']:.3f}", f"{row['gini']:.3f}", f"{row['popularity']:.1f}"]
        for row in rows
        if "gini" in row
    ]
    return markdown(["row", "coverage", "Gini", "mean train count"], cells)


def figure2(results, width=560, height=320):
    """Figure 2 as SVG: NDCG on validation users against alpha; 1 is the PMF alone, 0 text alone."""
    curves = results["alpha"]
    top = max(point["ndcg"] for curve in curves.values() for point in curve) * 1.15 or 1
    parts = [f'<text x="60" y="22">NDCG@{results["k"]} on validation users</text>']
    parts += svg_axis(top, 250, width, 40)
    for i, (name, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        parts += _curve(curves[name], colour, 210 / top)
        parts += svg_legend(300 + 120 * i, colour, f"encoder {name}")
    parts += [svg_label(f"{70 + 470 * a:.0f}", 268, f"{a:.1f}") for a in np.linspace(0, 1, 11)]
    note = f"1 the PMF with the text as prior; ours takes {fuse.OURS_ALPHA}"
    parts.append(svg_label(305, 295, f"alpha: 0 is text alone, {note}"))
    return svg_page(width, height, parts)


def _curve(curve, colour, scale):
    """SVG lines of one encoder's curve, its points with their values."""
    places = [(70 + 470 * point["alpha"], 250 - scale * point["ndcg"]) for point in curve]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}"/>'
    for (x, y), point in zip(places, curve, strict=True):
        title = f"<title>alpha {point['alpha']:.1f}: {point['ndcg']:.4f}</title>"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{title}</circle>'


BUCKET_COLOURS = dict(
    zip(BUCKET_ROWS, ("#9c9c9c", "#4269d0", "#efb118", "#a463f2", "#3ca951"), strict=True)
)
PANELS = {
    "history": "by a user's train ratings",
    "thinned": "of the same users, train ratings thinned to 5, 14, 35",
    "items": "by the train count of the movie to be found, among movies of that bucket",
}


def figure3(results, width=760):
    """Figure 3 as SVG: NDCG by bucket, a panel each for users, thinned users and movies."""
    parts = []
    for i, (row, colour) in enumerate(BUCKET_COLOURS.items()):
        parts += svg_legend(20 + 165 * i, colour, row, size=11)
    values = [v for part in PANELS for row in results[part] for v in row["ndcg"].values()]
    top = max(values, default=1) * 1.1 or 1
    for i, (part, title) in enumerate(PANELS.items()):
        base = 250 + 260 * i
        title = f"NDCG@{results['k']} {title}"
        parts.append(f'<text x="60" y="{base - 196}" font-weight="bold">{title}</text>')
        parts += svg_axis(top, base, width, base - 185)
        for j, row in enumerate(results[part]):
            parts += _bucket_bars(row, 80 + 170 * j, base, 185 / top)
    return svg_page(width, 60 + 260 * len(PANELS), parts)


def _bucket_bars(row, left, base, scale):
    """SVG lines of one bucket: a bar a ranker, the bucket and its users below."""
    for i, (name, colour) in enumerate(BUCKET_COLOURS.items()):
        if name in row["ndcg"]:
            ndcg = row["ndcg"][name]
            yield svg_bar(left + 27 * i, base, scale * ndcg, colour, f"{name}: {ndcg:.4f}")
    yield svg_label(left + 66, base + 16, f"{row['bucket']} ({row['users']} users)")


if __name__ == "__main__":
    run(make_table3)
