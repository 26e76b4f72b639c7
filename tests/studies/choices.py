"""The choices of recipe `ours`, made on the validation part, over five draws of it.

A tenth of the ratings is a noisy judge, so each point of a grid is measured on five draws of the
validation part (seeds 7 to 11), fitted without it, and the rule looks at the mean NDCG@25:

    the best mean wins; of the points within .001 of it, the simplest one does

where simple means fewer parts, then a smaller K; among equally simple points the best mean. Nothing
here reads a test rating, except that tags of test pairs are left out of the texts. So are those of
the draw's own held-out pairs: every draw has documents and embeddings of its own.

Gives:    out/choices.json and out/choices.md, the curves: K = 128, m = .1, reg = .014, power 1,
          ridge 1, the text as prior and no late fusion, an allowance of .2 |p_u| for new movies.
          A test holds pmf.Ranking and fuse.ALLOWANCE to results/choices.json.
Command:  python tests/studies/choices.py --out out                             (or: make choices)
Needs:    the ratings and base embeddings of `make study` in --out, the CSV files they were made
          from, and the weights of MiniLM.

Legend: U users, I items, N ratings, K factors, D dimensions.
"""

import itertools
import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import table3  # beside this script
from common import centred, quiet, z_fusion
from table3 import choose, counts_of

import encode as enc
import fuse
import main as movielens
import metrics
import pmf
from metrics import progress, provenance, sha256


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts, and of the two files to write
    data: Path = Path("data/ml-latest-small")  # the CSV files of the ratings in --out
    minilm: Path = Path("data/minilm")  # weights of MiniLM
    k: int = 25  # length of the list
    seed: int = 42  # of the first factors, and of what a part draws
    draws: tuple[int, ...] = (7, 8, 9, 10, 11)  # seeds of the validation part
    again: bool = False  # only the allowance; the other curves of choices.json stay


MARGIN = 0.001  # NDCG: points this near to the best are as good
START = pmf.Ranking(k=128, missing=0.15, reg=0.01, power=1.0, ridge=1.0)  # before any choice
STRENGTHS = {  # power -> values of reg: a_u and b_i of (R) have about the same range with each
    1.0: (0.005, 0.007, 0.01, 0.014, 0.02),
    0.5: (0.1, 0.2, 0.3, 0.45, 0.7),
    0.0: (1.0, 2.0, 4.0, 8.0, 16.0),
}
MISSING = (0.05, 0.1, 0.15, 0.2, 0.3)
RIDGES = (0.1, 1.0, 10.0)
TEXTS = ("none", "as it is", "centred")  # simplest first
FACTORS = (32, 64, 96, 128, 192, 256)
ALPHAS = tuple(np.round(np.linspace(0, 1, 11), 1).tolist())
POPULARITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
ALLOWANCES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)


class Draw(NamedTuple):
    """One draw of the validation part."""

    task: fuse.Task  # from its fit part to its validation part
    embeddings: np.ndarray  # (I, D), of texts without tags of held-out pairs


# ------------------------------------------------------------------------------------------------
# The draws
# ------------------------------------------------------------------------------------------------


def draws_of(lab, s):
    """The Draw of each seed of s.draws."""
    sources = [s.data / name for name in movielens.FILES]
    made = provenance(lab.ratings)
    metrics.require(lab.ratings, made["inputs"], {path.name: sha256(path) for path in sources})
    movies = movielens.read_movies(sources[1])
    tags = movielens.read_tags(sources[2], movies)
    encoder = enc.load_encoder(*enc.find("minilm", str(s.minilm)))
    share = float(made["settings"]["valid_share"])
    for seed in s.draws:
        valid = np.zeros(len(lab.train[0]), dtype=bool)  # (N,)
        valid[metrics.split_per_user(lab.train[0], share, seed)[1]] = True
        held = choose(lab.train, valid)
        task = lab.task(choose(lab.train, ~valid), held)
        yield Draw(task, embeddings_without(lab, held, movies, tags, encoder))


def embeddings_without(lab, held, movies, tags, encoder):
    """(I, D) of texts without the tags of test pairs and of those held out (four columns (N,))."""
    embeddings = lab.embeddings("base")  # (I, D)
    hidden = {"test_users": held[0], "test_items": held[1]}
    hidden = {name: np.concatenate([lab.data[name], rows]) for name, rows in hidden.items()}
    texts = movielens.movie_texts(movies, tags, lab.data | hidden)["documents-no-leak.txt"]
    before = metrics.read_text(lab.settings.out / "documents-no-leak.txt").split("\n")
    lines = list(enumerate(zip(texts.split("\n"), before, strict=True)))
    changed = [item for item, (new, old) in lines if new != old]
    new = [lines[item][1][0] for item in changed]
    embeddings[changed] = enc.embed(encoder, enc.tokenize(encoder, new))
    return embeddings


# ------------------------------------------------------------------------------------------------
# A point, its fit and its measure
# ------------------------------------------------------------------------------------------------


def features_of(draw, text):
    """e_i of (R): (I, D + 1), or None without text."""
    if text == "none":
        return None
    if text == "as it is":
        return pmf.text_features(draw.embeddings)
    return pmf.text_features(centred(draw.embeddings, np.unique(draw.task.items)))


def fitted(draw, settings, text="centred"):
    """P (U, K), Q (I, K), W (D + 1, K) of the ranking PMF on the fit part of a draw."""
    task = draw.task
    columns = task.users, task.items, task.ratings / task.highest, np.ones(len(task.users))
    with quiet():
        shape = task.n_users, task.n_items
        return pmf.fit_ranking(*columns, *shape, settings, features_of(draw, text))


def ndcg_of(task, scores, k):
    """{"ndcg": the mean over users}: what curve() takes."""
    return {"ndcg": metrics.evaluate(scores, task.seen, task.relevant, k)["ndcg"].mean()}


def curve(what, cases, points, measure):
    """A row for each point (a dict): NDCG on every case and its mean, and means of other figures.

    measure(case, point) returns a dict of numbers, "ndcg" among them. A case is a draw, or a draw
    with what was fitted on it.
    """
    rows = []
    with progress(len(points) * len(cases), what, unit="point") as bar:
        for point in points:
            found = []
            for case in cases:
                found.append(measure(case, point))
                bar.update()
            means = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
            mean, each = means.pop("ndcg"), [float(f["ndcg"]) for f in found]
            rows.append(point | {"mean": mean, "ndcg": each} | means)
    return rows


def chosen(rows, parts=lambda row: 0):
    """The rule: of the rows within MARGIN of the best mean, the simplest, then the best."""
    best = max(row["mean"] for row in rows)
    near = [row for row in rows if row["mean"] >= best - MARGIN]
    return min(near, key=lambda row: (parts(row), -row["mean"]))


# ------------------------------------------------------------------------------------------------
# The choices, one after the other
# ------------------------------------------------------------------------------------------------


def varied(settings, point):
    """A pmf.Ranking with the settings of a point; what else a point says is not of the fit."""
    return replace(settings, **{name: v for name, v in point.items() if name in vars(settings)})


def fit_choices(draws, s, curves):
    """(settings of the ranking PMF, text of its prior); each step goes on from the one before."""
    best, text = START, "centred"

    def step(name, points, parts=lambda row: 0):
        def measure(draw, point):
            P, Q, _ = fitted(draw, varied(best, point), point.get("text", text))
            return ndcg_of(draw.task, partial(fuse.mf_scores, U=P, V=Q), s.k)

        curves[name] = curve(name, draws, points, measure)
        row = chosen(curves[name], parts)
        print(f"{name}: {row}", flush=True)
        return varied(best, row), row.get("text", text)

    pairs = [(power, reg) for power, regs in STRENGTHS.items() for reg in regs]
    best, _ = step("power and reg", [{"power": power, "reg": reg} for power, reg in pairs])
    grid = itertools.product(STRENGTHS[best.power], MISSING)
    best, _ = step("reg and missing", [{"reg": reg, "missing": m} for reg, m in grid])
    grid = itertools.product(TEXTS[1:], RIDGES)
    points = [{"text": "none"}, *({"text": text, "ridge": ridge} for text, ridge in grid)]
    best, text = step("text and ridge", points, lambda row: TEXTS.index(row["text"]))
    best, _ = step("k", [{"k": k} for k in FACTORS], lambda row: row["k"])
    return best, text


def parts_of(row):
    """How many scores a fused one is made of: the PMF, the text, how often a movie is liked."""
    return (row["alpha"] > 0) + (row["alpha"] < 1) * (1 + (row["popularity"] > 0))


def fusion_choice(lab, draws, models, s):
    """The curve of alpha, the PMF's share if the text's score is added.

    Both are z-scores over the user's candidates, and the text's is cosine + popularity
    log(1 + likes); alpha = 1 is the PMF alone.
    """

    def measure(case, point):
        draw, (P, Q, _) = case
        task, content = draw.task, table3.text_content(lab, draw.task, draw.embeddings)
        likes = counts_of(task.items[task.ratings >= task.liked], len(Q))  # (I,)
        bonus = point["popularity"] * np.log1p(likes)  # (I,)

        def scores(users):
            free = fuse.candidates_of(task.seen, users, len(Q))  # (B, I)
            text = content.scores(users) + bonus  # (B, I)
            return z_fusion(P[users] @ Q.T, text, free, point["alpha"])

        return ndcg_of(task, scores, s.k)

    grid = itertools.product(POPULARITIES, ALPHAS)
    points = [{"popularity": p, "alpha": a} for p, a in grid if a < 1 or p == 0]
    return curve("alpha and popularity", list(zip(draws, models, strict=True)), points, measure)


# ------------------------------------------------------------------------------------------------
# The allowance for new movies, on a shelf of rated and of new ones
# ------------------------------------------------------------------------------------------------

FORMS = {  # (P (B, K), ratings of each movie (I,)) -> what the allowance is multiplied by (B, I)
    "length of p_u": lambda P, n: np.linalg.norm(P, axis=1, keepdims=True) * (n == 0),
    "1": lambda P, n: np.ones((len(P), 1)) * (n == 0),
    "1 / (1 + ratings)": lambda P, n: np.ones((len(P), 1)) / (1 + n),
}


def shelf_of(lab, seed):
    """(the tasks of table3.mixed_tasks, cold (I,) bool): Table III's mixed shelf, of train alone.

    As there a fifth of each user's ratings and a tenth of the movies are held out, so the likes of
    new and of rated movies are to each other, and users have of each, as on the test shelf. With
    the draws above, a tenth held out, many users would have none but new movies to find.
    """
    kept, held = metrics.split_per_user(lab.train[0], 0.2, seed)
    cold = table3.cold_movies(lab.train[1], lab.n_items, 0.1, seed)  # (I,)
    known, held, new = choose(lab.train, kept), choose(lab.train, held), cold[lab.train[1]]
    known, rated = choose(known, ~cold[known[1]]), choose(held, ~cold[held[1]])
    return table3.mixed_tasks(lab, known, rated, choose(lab.train, new), cold), cold


def allowance_choice(lab, best, text, s):
    """The curve of the allowance of the PMF; no tags in the texts: who tags a movie has seen it."""
    cases = []
    for seed in s.draws:
        tasks, cold = shelf_of(lab, seed)
        draw = Draw(tasks["all"], lab.embeddings("no tags"))
        cases.append((draw, tasks, cold, fitted(draw, best, text)))

    def measure(case, point):
        draw, tasks, cold, (P, Q, _) = case
        counts, form = counts_of(draw.task.items, len(Q)), FORMS[point["times"]]  # (I,), ..

        def scores(users):
            return P[users] @ Q.T + point["allowance"] * form(P[users], counts)  # (B, I)

        row, _ = table3.mixed_shelf(tasks, table3.alone(scores), cold, s.k)
        return {"ndcg": row.pop("ndcg_all")} | row

    points = [{"times": form, "allowance": a} for form in FORMS for a in ALLOWANCES]
    return curve("allowance", cases, points, measure)


def chosen_allowance(rows):
    """Of equally good multiples of |p_u| the largest: what costs nothing should find the most.

    A constant does as well here, where everybody has ten ratings or so. But scores grow with a
    user's ratings: for somebody with three, any constant would put the unrated movies first.
    """
    rows = [row for row in rows if row["times"] == "length of p_u"]
    return chosen(rows, lambda row: -row["allowance"])


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


def search(lab, s):
    """The content of choices.json, but for the allowance."""
    draws, curves = list(draws_of(lab, s)), {}
    best, text = fit_choices(draws, s, curves)
    models = [fitted(draw, best, text) for draw in draws]
    curves["alpha and popularity"] = fusion_choice(lab, draws, models, s)
    fused = chosen(curves["alpha and popularity"], parts_of)
    choice = {name: getattr(best, name) for name in ("k", "missing", "reg", "power", "ridge")}
    choice |= {"text": text, "alpha": fused["alpha"], "popularity": fused["popularity"]}
    record = {"k": s.k, "draws": s.draws, "margin": MARGIN, "versions": metrics.versions()}
    return record | {"split": provenance(lab.ratings), "choice": choice, "curves": curves}


def add_allowance(lab, record, s):
    """The last choice of a record, for the fit that it chose."""
    rows = allowance_choice(lab, varied(START, record["choice"]), record["choice"]["text"], s)
    record["curves"]["allowance"] = rows
    record["choice"]["allowance"] = chosen_allowance(rows)["allowance"]


def report(record):
    """choices.md: what was chosen, then each curve; points that the rule could take are bold."""
    choice = "; ".join(f"{name} {value}" for name, value in record["choice"].items())
    parts = [
        f"The choices of `ours`: {choice}.\n\nNDCG@{record['k']} on the validation part, mean "
        f"over the draws {', '.join(map(str, record['draws']))} and lowest..highest. The best mean "
        f"wins; of the points within {record['margin']} of it (bold) the simplest one does: fewer "
        "parts, a smaller K. The allowance is chosen on shelves like that of Table III, 2c, made "
        "from train alone (a fifth of the ratings and a tenth of the movies held out). It is a "
        "multiple of |p_u|, of equally good ones the largest: scores grow with a user's ratings, "
        "and a constant would fill the lists of people with few.\n"
    ]
    for name, rows in record["curves"].items():
        best = max(row["mean"] for row in rows)
        head = [key for key in dict.fromkeys(itertools.chain(*rows)) if key not in ("mean", "ndcg")]
        lines = []
        for row in rows:
            mean = f"{row['mean']:.4f}"
            mean = f"**{mean}**" if row["mean"] >= best - record["margin"] else mean
            spread = f"{mean} ({min(row['ndcg']):.4f}..{max(row['ndcg']):.4f})"
            cells = [row.get(key, "") for key in head]
            lines.append([f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells] + [spread])
        table = movielens.markdown([*head, f"NDCG@{record['k']}"], lines)
        parts.append(f"**{name}**\n\n{table}")
    return "\n".join(parts)


def main():
    s = metrics.parse(Settings, __doc__, k=1, seed=metrics.SEEDS)
    lab, path = table3.Lab(table3.Settings(out=s.out, k=s.k)), s.out / "choices.json"
    with metrics.stage(path, "the choices of ours on the validation part"):
        record = metrics.read_json(path, "choice", "curves") if s.again else search(lab, s)
        add_allowance(lab, record, s)
    texts = {"choices.json": json.dumps(record, indent=1), "choices.md": report(record)}
    movielens.write_texts(s.out, texts)
    print(f"the choice: {record['choice']}")


if __name__ == "__main__":
    metrics.run(main)
