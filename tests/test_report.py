"""The notebook's run on the real data, exactly: Table I's first rows, Table II, the alpha curve.

Skipped where data/ml-latest-small is missing or is another edition than the report's.
"""

import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import fuse
import main
import metrics

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "ml-latest-small"
MINILM = Path(os.environ.get("MINILM", ROOT / "data" / "minilm"))


def rounded(result):
    row = metrics.summary(result)
    return {name: round(row[name], 4) for name in ("precision", "recall", "ndcg_own_hits", "ndcg")}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """out/ with the notebook's split, documents and factors."""
    if not all((DATA / name).is_file() for name in main.FILES):
        pytest.skip("data/ml-latest-small is missing; `make data` fetches it")
    if main.edition_of(DATA) != "2018-09":
        pytest.skip(
            f"the report's figures hold for the 2018-09 edition, here: {main.edition_of(DATA)}"
        )
    import pmf

    folder = tmp_path_factory.mktemp("out")
    main.prepare(["--data", str(DATA), "--out", str(folder)])
    ratings = folder / "ratings.safetensors"
    data = metrics.load(ratings)
    columns = (data[f"train_{name}"] for name in ("users", "items", "ratings"))
    U, V, _ = pmf.fit(*columns, 610, 8965)
    arrays = {"user_factors": U, "item_factors": V}
    metrics.save(folder / "pmf.safetensors", arrays, vars(pmf.Settings()), [ratings])
    return folder


@pytest.fixture(scope="module")
def minilm(out):
    """MiniLM embeddings of the notebook's documents."""
    if not (MINILM / "model.safetensors").is_file():
        pytest.skip(f"no MiniLM weights in {MINILM}; `make data` fetches them")
    import torch

    import encode

    torch.set_num_threads(os.cpu_count())  # this one is not tiny
    facts, folder = encode.find_encoder("minilm", str(MINILM))
    encoder = encode.load_encoder(facts, folder)
    ids = encode.tokenize(encoder, encode.read_texts(out / "documents.txt"))
    vectors = encode.embed(encoder, ids)
    torch.set_num_threads(1)
    return vectors


def test_the_split_has_the_notebooks_sizes(out):
    data = metrics.load(out / "ratings.safetensors")
    assert len(data["train_users"]) == 80_419 and len(data["test_users"]) == 20_417
    assert len(data["user_ids"]) == 610 and len(data["movie_ids"]) == 9_742
    assert data["train_items"].max() + 1 == 8_965
    assert 0.1 < data["valid"].mean() < 0.11
    counts = np.bincount(data["train_users"])
    left = np.bincount(data["train_users"][data["valid"]])
    assert np.array_equal(left, np.ceil(0.1 * counts))


def measured(out, scores):
    return metrics.evaluate(scores, out.task.seen, out.task.relevant)


def test_mf_only_has_739_hits(out):
    files = main.Artefacts(out)
    U, V = files.factors("pmf")
    result = measured(files, partial(fuse.mf_scores, U=U, V=V))
    assert result["hits"].sum() == 739 and len(result["users"]) == 600 and result["skipped"] == 10
    expected = {"precision": 0.0493, "recall": 0.0883, "ndcg_own_hits": 0.2768, "ndcg": 0.0888}
    assert rounded(result) == expected


def test_most_popular_beats_the_report(out):
    files = main.Artefacts(out)
    rankers = {row: scores for row, _, scores in main.plain_rankers(files.task, 42)}
    found = rounded(measured(files, rankers["Most popular"]))
    assert found["precision"] == 0.0875
    assert found["precision"] > max(row[0] for row in main.REPORT_TABLE1.values())


def hybrid(files, recipe, embeddings):
    """A recipe's scorer with these embeddings, as main.content_row has it from a file."""
    return recipe.fused(files.task, *files.factors("pmf"), embeddings[: files.task.n_items])


def test_mf_plus_minilm_base_has_712_hits(out, minilm):
    files = main.Artefacts(out)
    result = measured(files, partial(hybrid(files, main.NOTEBOOK, minilm), alpha=0.85))
    assert result["hits"].sum() == 712
    expected = {"precision": 0.0475, "recall": 0.0907, "ndcg_own_hits": 0.2782, "ndcg": 0.0890}
    assert rounded(result) == expected


@pytest.mark.parametrize(
    ("alpha", "hits"), [(1.0, 739), (0.95, 750), (0.85, 724), (0.5, 421), (0.0, 68)]
)
def test_eq1_as_written_on_the_notebooks_text(out, minilm, alpha, hits):
    files = main.Artefacts(out)
    scores = partial(hybrid(files, main.REPORT, minilm), alpha=alpha)
    assert measured(files, scores)["hits"].sum() == hits


def test_table2_has_the_reports_profile_and_mf_column(out):
    files = main.Artefacts(out)
    results = {"edition": main.REPORTED, "quick": False}
    table = main.table2(files, files.index("user_ids", "400", "--user"), results)
    profile = "Donnie Darko; The Godfather: Part II; Forrest Gump; Heat; Requiem for a Dream"
    assert "user 400, recipe `notebook`. Last five" in table
    assert "Last five rated 4.5 or more in train" in table
    assert f"newest first: {profile}." in table
    ours = re.search(r"\| MF only \| (.*?) \|", table)[1]
    assert ours == main.REPORT_TABLE2["MF only"]


def test_tuning_has_the_notebooks_number_of_pairs_and_sees_no_validation_row(out):
    import contrastive

    data = metrics.load(out / "ratings.safetensors")
    s = contrastive.Settings("", *[Path()] * 3, seed=42)
    pairs = contrastive.Notebook(data, s).items  # (P, 2)
    assert len(pairs) == 5970 and (pairs[:, 0] != pairs[:, 1]).all()
    report, valid = contrastive.Report(data, s), data["valid"]
    n = np.int64(len(data["movie_ids"]))
    held = data["train_users"][valid] * n + data["train_items"][valid]
    used = report.users.astype(np.int64)[:, None] * n + report.items  # (P, 2) one number a pair
    assert not np.isin(used, held).any()


def test_the_reports_ndcg_cannot_be_ndcg(out):
    """With P = .049 and R = .088 the mean NDCG@25 is below .20, whoever has the hits.

    A user with r relevant movies and h hits has at most NDCG = ideal(h) / ideal(min(r, 25)). For
    any two numbers a and b, mean NDCG = mean(NDCG - a P - b R) + a .049 + b .088, where each user's
    bracket is at most its maximum over h (weak duality of a linear program).
    """
    relevant = np.diff(main.Artefacts(out).task.relevant[0])
    r, h, a, b = relevant[relevant > 0, None], np.arange(26), 0.6, 1.45
    ideal = np.append(0, np.cumsum(1 / np.log2(np.arange(2, 27))))  # DCG of h leading hits
    bracket = ideal[h] / ideal[np.minimum(r, 25)] - a * h / 25 - b * h / r  # (600, 26)
    highest = np.where(h <= r, bracket, -np.inf).max(axis=1)
    assert len(r) == 600 and highest.mean() + a * 0.049 + b * 0.088 < 0.2
