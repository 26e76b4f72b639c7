"""What else `ours` could have: a late fusion, another power, another allowance; judged by draws.

The settings of `ours` are chosen by pmf.py for the data at hand (out/ours.json, shown here too).
What is the same for all data is looked at here, on three draws of the validation part (seeds 7
to 9), with texts without tags: a tag may come from a rating that is held out. The rule:

    the best mean NDCG@25 wins; of the points within .001 of it, the simplest one does

where simple means fewer parts; among equally simple points the best mean, of the allowance the
largest. Nothing here reads a test rating.

Gives:    out/choices.json and out/choices.md, the curves: power 1, what a late fusion would add,
          and the allowance for new movies. A test holds fuse.ALLOWANCE to results/choices.json.
Command:  python tests/studies/choices.py --out out       (or: make choices, make choices DATA=..)
Needs:    ratings, ours.json and minilm-no-tags.safetensors in --out.

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
from common import quiet, z_fusion
from table3 import choose, counts_of

import fuse
import main as movielens
import metrics
import pmf
from metrics import progress, provenance


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the artefacts, and of the two files to write
    k: int = 25  # length of the list
    seed: int = 42  # of the first factors, and of what a part draws
    draws: tuple[int, ...] = (7, 8, 9)  # seeds of the validation part


MARGIN = 0.001  # NDCG: points this near to the best are as good
POWERS = (1.0, 0.5, 0.0)
ALPHAS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
POPULARITIES = (0.0, 0.2)
ALLOWANCES = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)


class Draw(NamedTuple):
    """One draw of the validation part."""

    task: fuse.Task  # from its fit part to its validation part
    embeddings: np.ndarray  # (I, D), of texts without tags


def draws_of(lab, s):
    """The Draw of each seed of s.draws."""
    for seed in s.draws:
        kept, held = metrics.split_per_user(lab.train[0], 0.1, seed)
        task = lab.task(choose(lab.train, kept), choose(lab.train, held))
        yield Draw(task, lab.embeddings("no tags"))


# ------------------------------------------------------------------------------------------------
# A point, its fit and its measure
# ------------------------------------------------------------------------------------------------


def fitted(draw, settings):
    """P (U, K), Q (I, K), W (D, K) of the ranking PMF on the fit part of a draw."""
    task = draw.task
    columns = task.users, task.items, task.ratings / task.highest, np.ones(len(task.users))
    with quiet():
        shape = task.n_users, task.n_items
        return pmf.fit_ranking(*columns, *shape, settings, draw.embeddings)


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
# The power of the strengths, and a late fusion with the text
# ------------------------------------------------------------------------------------------------


def power_curve(lab, draws, s):
    """The curve of the power to which the strengths a_u and b_i of (R) are taken."""

    def measure(draw, point):
        P, Q, _ = fitted(draw, replace(lab.ranking, **point))
        return ndcg_of(draw.task, partial(fuse.mf_scores, U=P, V=Q), s.k)

    return curve("power", draws, [{"power": power} for power in POWERS], measure)


def parts_of(row):
    """How many scores a fused one is made of: the PMF, the text, how often a movie is liked."""
    return (row["alpha"] > 0) + (row["alpha"] < 1) * (1 + (row["popularity"] > 0))


def fusion_curve(lab, draws, models, s):
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


def allowance_choice(lab, s):
    """The curve of the allowance of the PMF; no tags in the texts: who tags a movie has seen it."""
    cases = []
    for seed in s.draws:
        tasks, cold = shelf_of(lab, seed)
        draw = Draw(tasks["all"], lab.embeddings("no tags"))
        cases.append((draw, tasks, cold, fitted(draw, lab.ranking)))

    def measure(case, point):
        draw, tasks, cold, (P, Q, _) = case
        new = counts_of(draw.task.items, len(Q)) == 0  # (I,)

        def scores(users):
            return fuse.scores_with_allowance(users, P, Q, point["allowance"] * new)  # (B, I)

        row, _ = table3.mixed_shelf(tasks, table3.alone(scores), cold, s.k)
        return {"ndcg": row.pop("ndcg_all")} | row

    points = [{"times": "length of p_u", "allowance": a} for a in ALLOWANCES]
    return curve("allowance", cases, points, measure)


def chosen_allowance(rows):
    """Of equally good multiples of |p_u| the largest: what costs nothing should find the most.

    It is not a constant, because scores grow with a user's ratings: for somebody with three, any
    constant would put the unrated movies first.
    """
    return chosen(rows, lambda row: -row["allowance"])


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


def search(lab, s):
    """The content of choices.json."""
    draws, ours = list(draws_of(lab, s)), metrics.read_json(s.out / "ours.json", "chosen", "curve")
    models = [fitted(draw, lab.ranking) for draw in draws]
    curves = {
        "power": power_curve(lab, draws, s),
        "alpha and popularity": fusion_curve(lab, draws, models, s),
        "allowance": allowance_choice(lab, s),
    }
    fused = chosen(curves["alpha and popularity"], parts_of)
    choice = ours["chosen"] | {"power": chosen(curves["power"])["power"]}
    choice |= {name: fused[name] for name in ("alpha", "popularity")}
    choice |= {"allowance": chosen_allowance(curves["allowance"])["allowance"]}
    searched = [
        {name: row[name] for name in pmf.SEARCH} | {"mean": row["ndcg"], "ndcg": row["draws"]}
        for row in ours["curve"]
    ]
    record = {"k": s.k, "draws": s.draws, "margin": MARGIN, "versions": metrics.versions()}
    record |= {"split": provenance(lab.ratings), "choice": choice}
    return record | {"curves": {"the search of pmf.py (ours.json)": searched} | curves}


def report(record):
    """choices.md: what was chosen, then each curve; points that the rule could take are bold."""
    choice = "; ".join(f"{name} {value}" for name, value in record["choice"].items())
    parts = [
        f"What the rule takes: {choice}.\n\nNDCG@{record['k']} on the validation part, mean "
        f"over the draws {', '.join(map(str, record['draws']))} and lowest..highest. The best mean "
        f"wins; of the points within {record['margin']} of it (bold) the one of the fewest parts "
        "does, and of these the best mean. The search of pmf.py has a rule and draws of its own. "
        "The allowance is chosen on shelves like that of Table III, 2c, made from train alone (a "
        "fifth of the ratings and a tenth of the movies held out). It is a multiple of |p_u|, of "
        "equally good ones the largest: scores grow with a user's ratings, and a constant would "
        "fill the lists of people with few.\n"
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
    lab = table3.Lab(table3.Settings(out=s.out, k=s.k))
    with metrics.stage(s.out / "choices.json", "the choices of ours on the validation part"):
        record = search(lab, s)
    texts = {"choices.json": json.dumps(record, indent=1), "choices.md": report(record)}
    movielens.write_texts(s.out, texts)
    print(f"the choice: {record['choice']}")


if __name__ == "__main__":
    metrics.run(main)
