"""metrics.py against ir_measures (trec_eval) and Cornac's metrics, to 1e-12, without ties."""

import cornac.metrics
import ir_measures
import numpy as np
import pytest
from ir_measures import P, R, nDCG

import metrics

K, N_USERS, N_ITEMS = 7, 60, 40


@pytest.fixture(scope="module")
def case():
    """Scores without ties, seen and relevant items, and our metrics by user."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(N_ITEMS) / 7, (N_USERS, 1)), axis=1)
    shuffled = [rng.permutation(N_ITEMS) for _ in range(N_USERS)]
    seen = [p[: rng.integers(0, 20)] for p in shuffled]
    relevant = [p[20 : 20 + rng.integers(1, 15)] for p in shuffled]
    pairs = []
    for rows in (seen, relevant):
        users = np.repeat(np.arange(N_USERS), [len(row) for row in rows])
        pairs.append(metrics.group_by_user(users, np.concatenate(rows), N_USERS))
    ours = metrics.evaluate(lambda users: scores[users], *pairs, k=K)
    return scores, seen, relevant, ours


def test_ir_measures_agrees(case):
    scores, seen, relevant, ours = case
    qrels = {str(u): {str(i): 1 for i in relevant[u]} for u in range(N_USERS)}
    run = {
        str(u): {str(i): float(scores[u, i]) for i in range(N_ITEMS) if i not in set(seen[u])}
        for u in range(N_USERS)
    }
    names = {P @ K: "precision", R @ K: "recall", nDCG @ K: "ndcg"}
    count = 0
    for found in ir_measures.iter_calc(list(names), qrels, run):
        assert ours[names[found.measure]][int(found.query_id)] == pytest.approx(
            found.value, abs=1e-12
        )
        count += 1
    assert count == 3 * N_USERS


def test_cornac_agrees(case):
    scores, seen, relevant, ours = case
    measures = {
        "precision": cornac.metrics.Precision(K),
        "recall": cornac.metrics.Recall(K),
        "ndcg": cornac.metrics.NDCG(K),
    }
    for u in range(N_USERS):
        candidates = np.setdiff1d(np.arange(N_ITEMS), seen[u])
        ranked = candidates[np.argsort(-scores[u, candidates])]
        for name, measure in measures.items():
            theirs = measure.compute(gt_pos=np.array(relevant[u]), pd_rank=ranked)
            assert ours[name][u] == pytest.approx(theirs, abs=1e-12)
