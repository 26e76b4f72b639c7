"""The published run on the real data, to the hit: Table I's first rows, Table II, the alpha curve.

Skipped where data/ml-latest-small is missing or is another edition than the report's.
"""

import json
import os
import re
from pathlib import Path

import bench
import numpy as np
import pytest
import table3

import fuse
import main
import metrics

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "ml-latest-small"
RECORDED = ROOT / "tests" / "recorded"
MINILM = Path(os.environ.get("MINILM", ROOT / "data" / "minilm"))


def rounded(result):
    row = metrics.summary(result)
    return {name: round(row[name], 4) for name in ("precision", "recall", "ndcg_own_hits", "ndcg")}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """out/ with the published split, documents and factors."""
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
    settings = pmf.Settings(ratings=ratings, out=folder / "pmf.safetensors")
    data = metrics.load(ratings)
    columns = (data[f"train_{name}"] for name in ("users", "items", "ratings"))
    U, V, _ = pmf.fit(*columns, 610, 8965, settings)
    arrays = {"user_factors": U, "item_factors": V}
    metrics.save(settings.out, arrays, settings, [ratings])
    return folder


@pytest.fixture(scope="module")
def minilm(out):
    """MiniLM embeddings of the published documents."""
    if not (MINILM / "model.safetensors").is_file():
        pytest.skip(f"no MiniLM weights in {MINILM}; `make data` fetches them")
    import encode

    facts, folder = encode.find("minilm", str(MINILM))
    encoder = encode.load_encoder(facts, folder)
    ids = encode.tokenize(encoder, encode.read_texts(out / "documents.txt"))
    return encode.embed(encoder, ids)


def test_the_split_has_the_published_sizes(out):
    data = metrics.load(out / "ratings.safetensors")
    assert len(data["train_users"]) == 80_419 and len(data["test_users"]) == 20_417
    assert len(data["user_ids"]) == 610 and len(data["movie_ids"]) == 9_742
    assert data["train_items"].max() + 1 == 8_965
    assert 0.1 < data["valid"].mean() < 0.11
    counts = np.bincount(data["train_users"])
    left = np.bincount(data["train_users"][data["valid"]])
    assert np.array_equal(left, np.ceil(0.1 * counts))


def test_mf_only_has_739_hits(out):
    result = main.Bench(out).measure(fuse.mf_scorer(*main.Bench(out).factors()))
    assert result["hits"].sum() == 739 and len(result["users"]) == 600 and result["skipped"] == 10
    expected = {"precision": 0.0493, "recall": 0.0883, "ndcg_own_hits": 0.2768, "ndcg": 0.0888}
    assert rounded(result) == expected


def test_most_popular_beats_the_report(out):
    rows = {row: scorer for row, _, scorer in main.plain_rows(main.Bench(out), 42)}
    result = main.Bench(out).measure(rows["Most popular"])
    assert rounded(result)["precision"] == 0.0875
    assert rounded(result)["precision"] > max(row[0] for row in main.REPORT_TABLE1.values())


def test_mf_plus_minilm_base_has_712_hits(out, minilm):
    bench = main.Bench(out)
    recipe = main.RECIPES["published"]
    result = bench.measure(bench.fusion(recipe, minilm[: bench.n_items])(recipe.alpha))
    assert result["hits"].sum() == 712
    expected = {"precision": 0.0475, "recall": 0.0907, "ndcg_own_hits": 0.2782, "ndcg": 0.0890}
    assert rounded(result) == expected


@pytest.mark.parametrize(
    ("alpha", "hits"), [(1.0, 739), (0.95, 750), (0.85, 724), (0.5, 421), (0.0, 68)]
)
def test_eq1_as_written_on_the_published_text(out, minilm, alpha, hits):
    bench = main.Bench(out)
    scorer = bench.fusion(main.RECIPES["report"], minilm[: bench.n_items])(alpha)
    assert bench.measure(scorer)["hits"].sum() == hits


def test_table2_has_the_reports_profile_and_mf_column(out):
    table = main.table2(main.Bench(out), main.Evaluate(data=DATA, out=out), "")
    profile = "Donnie Darko; The Godfather: Part II; Forrest Gump; Heat; Requiem for a Dream"
    assert f"newest first: {profile}." in table
    ours = re.search(r"\| MF only \| (.*?) \|", table)[1]
    assert ours == main.REPORT_TABLE2["MF only"]


def test_tuning_has_the_published_number_of_pairs_and_sees_no_validation_row(out):
    import contrastive

    data = metrics.load(out / "ratings.safetensors")
    pairs = contrastive.Published(data, seed=42).items  # (P, 2)
    assert len(pairs) == 5970 and (pairs[:, 0] != pairs[:, 1]).all()
    report, valid = contrastive.Report(data, seed=42), data["valid"]
    n = np.int64(len(data["movie_ids"]))
    held = data["train_users"][valid] * n + data["train_items"][valid]
    used = report.users.astype(np.int64)[:, None] * n + report.items  # (P, 2) one number a pair
    assert not np.isin(used, held).any()


def test_the_readme_shows_the_recorded_tables():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = {path.stem: path.read_text(encoding="utf-8") for path in RECORDED.glob("*.md")}
    assert {"table1", "table2", "tuning"} <= set(tables)
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table.strip()}\n<!-- /{name} -->" in readme


def test_the_recorded_tables_come_from_the_recorded_results():
    results = json.loads((RECORDED / "results.json").read_text(encoding="utf-8"))
    made = {"table1.md": main.table1(results), "figure1.svg": main.figure1(results)}
    made["tuning.md"] = main.tuning_table(results["rows"])
    if (RECORDED / "results-ours.json").is_file():
        ours = json.loads((RECORDED / "results-ours.json").read_text(encoding="utf-8"))
        made |= {"table3.md": table3.table3(ours), "figure2.svg": table3.figure2(ours)}
        made["figure3.svg"] = table3.figure3(ours)
    for path in RECORDED.glob("bench*.json"):
        made[f"{path.stem}.md"] = bench.table(json.loads(path.read_text("utf-8")))
    for name, text in made.items():
        assert (RECORDED / name).read_text(encoding="utf-8") == text
    hits = {row["row"]: row["hits"] for row in results["rows"] if row["recipe"] == "published"}
    assert hits["MF only"] == 739 and hits["MF + MiniLM (base)"] == 712
