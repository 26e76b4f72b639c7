"""transfer.py: its table by hand, and a small set with a peer that knows what is to be found."""

import json

import numpy as np
import pytest
import table3
import transfer
from small import ended, evaluated, save_embeddings

import main
import metrics
import pmf

CHOSEN = {"text": 0.2, "reg": 0.5, "missing": 0.1, "k": 3}


@pytest.fixture
def chosen(artefacts):
    """The out/ folder with an ours.json, and with the factors of ranking PMFs fitted by it."""
    ratings, choice = artefacts / "ratings.safetensors", artefacts / "ours.json"
    inputs = {ratings.name: metrics.sha256(ratings)}
    record = metrics.with_checksum({"inputs": inputs, "chosen": CHOSEN, "curve": []})
    choice.write_text(json.dumps(record))
    line = ["--ratings", str(ratings), "--choice", str(choice), "--out"]
    text = ["--embeddings", str(artefacts / "minilm-no-leak.safetensors")]
    pmf.main_ranking([*line, str(artefacts / "pmf-ranking.safetensors")])
    pmf.main_ranking([*line, str(artefacts / "pmf-ours.safetensors"), *text])
    rng = np.random.default_rng(8)
    save_embeddings(artefacts, "minilm-no-tags", "documents-no-tags.txt", rng)
    return artefacts


def knowing(asked, texts):
    """A peer that puts what is to be found first, or last by the sign; it notes each request."""

    def fit(task, text, seed, sign):
        asked.append((sign, len(task.users)))
        texts.append(text[0, 0])
        scores = np.zeros((task.n_users, task.n_items))  # (U, I)
        for user in range(task.n_users):
            scores[user, task.relevant[1][slice(*task.relevant[0][user : user + 2])]] = sign
        return table3.alone(lambda users: scores[users])

    return fit


def test_a_set_has_the_rows_of_table_1_and_peers_that_are_tuned_on_validation(
    chosen, tmp_path, monkeypatch
):
    rows, asked, texts = evaluated(chosen), [], []
    points = [{"sign": -1.0}, {"sign": 1.0}, {"sign": 0.0}]
    monkeypatch.setattr(transfer, "grids", lambda: {"Knowing": (knowing(asked, texts), points)})
    line = ["transfer.py", "--out", str(tmp_path / "to"), "--sets", str(chosen), "--k", "2"]
    monkeypatch.setattr("sys.argv", line)
    transfer.main()
    record = json.loads((tmp_path / "to/transfer.json").read_text())
    assert (tmp_path / "to/transfer.md").read_text() == transfer.table(record)
    (entry,) = record["sets"]
    assert list(entry["rows"]) == ["Most popular", "Knowing", transfer.PLAIN, transfer.OURS]
    for name, row in {
        "Most popular": ("notebook", "Most popular"),
        transfer.PLAIN: ("ours", "Ranking PMF, no text"),
        transfer.OURS: ("ours", "Ranking PMF, MiniLM as prior"),
    }.items():
        assert entry["rows"][name]["ndcg"] == pytest.approx(rows[row]["ndcg"], rel=1e-12)
    data = main.Artefacts(chosen).data
    train, kept = len(data["train_users"]), np.sum(~data["valid"])
    assert asked == [(-1, kept), (1, kept), (0, kept), (1, train)]  # the test part once
    assert texts[0] == texts[1] == texts[2] != texts[3]  # no tags, then those of train
    knowing_row, ours = entry["rows"]["Knowing"], entry["rows"][transfer.OURS]
    assert knowing_row["settings"] == {"sign": 1} and knowing_row["ndcg"] == 1
    assert knowing_row["difference"][0] == pytest.approx(ours["ndcg"] - 1)
    assert "difference" not in ours and entry["chosen"] == CHOSEN
    assert entry["size"] == [3, 12, 35] and entry["users"] == rows["notebook", "MF only"]["users"]


def test_the_table_has_a_line_of_each_set_in_both_parts():
    def entry(name, popular, ours):
        rows = {"Most popular": {"ndcg": popular, "difference": (ours - popular, 0.01, 0.09)}}
        rows |= {"ours": {"ndcg": ours}}
        return {"set": name, "size": (3, 1200, 4500), "rows": rows, "users": 2, "chosen": CHOSEN}

    record = {"k": 25, "sets": [entry("films", 0.25, 0.3), entry("books", 0.5, 0.45)]}
    lines = transfer.table(record).splitlines()
    assert [line for line in lines if line.startswith("| ") and "---" not in line] == [
        "| set | users, items, ratings | Most popular | ours | chosen for ours: text, reg, m, K |",
        "| films | 3, 1,200, 4,500 | 0.2500 | 0.3000 | 0.2, 0.5, 0.1, 3 |",
        "| books | 3, 1,200, 4,500 | 0.5000 | 0.4500 | 0.2, 0.5, 0.1, 3 |",
        "| set | users | Most popular |",
        "| films | 2 | +0.0500 [+0.0100, +0.0900] |",
        "| books | 2 | -0.0500 [+0.0100, +0.0900] |",
    ]
    assert lines[0].startswith("NDCG@25 on the test part.")


def test_without_a_set_it_says_what_is_wanted(monkeypatch, capsys):
    error = ended(transfer, monkeypatch=monkeypatch, capsys=capsys)
    assert "--sets: name folders that `make all` made" in error
