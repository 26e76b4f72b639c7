"""The files of tests/studies/runs.py, read and measured by ir_measures and ranx: to 1e-12."""

import ir_measures
import numpy as np
import pytest
import ranx
import runs
from ir_measures import P, R, nDCG
from small import evaluated, make_artefacts, make_folder

K = 5
NAMES = ("precision", "recall", "ndcg")
FILES = {
    ("notebook", "MF only"): "notebook.mf-only",
    ("notebook", "Most popular"): "notebook.most-popular",
    ("report", "MF + MiniLM (base)"): "report.mf-minilm-base",
    ("ours", "Ranking PMF, MiniLM as prior"): "ours.ranking-pmf-minilm-as-prior",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The folder of the runs of thirty users, and {file of a run: our means}."""
    folder, rng = make_folder(tmp_path_factory.mktemp("runs") / "data"), np.random.default_rng(0)
    cells = [(user, movie) for user in range(30) for movie in range(40) if rng.random() < 0.4]
    ratings = "".join(f"{u},{m},{rng.integers(1, 6)},{m}\n" for u, m in cells)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{ratings}")
    movies = "".join(f"{m},Film {m} (1999),Drama\n" for m in range(40))
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{movies}")
    out = make_artefacts(folder)
    found = evaluated(out, "--k", str(K))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["runs.py", "--out", str(out), "--k", str(K)])
        runs.main()
    means = {f"{file}.run": [found[row][x] for x in NAMES] for row, file in FILES.items()}
    return out / "runs", means


def test_ir_measures_finds_our_figures(rows):
    folder, means = rows
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels")))
    for name, ours in means.items():
        run = list(ir_measures.read_trec_run(str(folder / name)))
        theirs = ir_measures.calc_aggregate([P @ K, R @ K, nDCG @ K], qrels, run)
        assert [theirs[x] for x in (P @ K, R @ K, nDCG @ K)] == pytest.approx(ours, abs=1e-12)
    assert len({ours[2] for ours in means.values()}) == len(FILES)


def test_ranx_finds_our_figures(rows):
    folder, means = rows
    qrels = ranx.Qrels.from_file(str(folder / "qrels"), kind="trec")
    for name, ours in means.items():
        run = ranx.Run.from_file(str(folder / name), kind="trec")
        theirs = ranx.evaluate(qrels, run, [f"{measure}@{K}" for measure in NAMES])
        assert list(theirs.values()) == pytest.approx(ours, abs=1e-12)
