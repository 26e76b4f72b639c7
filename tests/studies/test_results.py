"""results/: each table is what its record says, under the line that record.py puts on top.

Nothing here is skipped: a record that is missing fails.
"""

import json
import re
import sys
from pathlib import Path

import bench
import choices
import growth
import lora
import pytest
import qwen_size
import record
import seeds
import size
import splits
import table3
import transfer
import tuned

import fuse
import main
import metrics
import pmf

RESULTS = Path(__file__).parents[2] / "results"
TABLES = {  # table -> its record, and the function that makes it
    "table1.md": ("results.json", main.table1),
    "tuning.md": ("results.json", record.tuning_table),
    "table3.md": ("results-ours.json", table3.table3),
    "bench.md": ("bench.json", bench.table),
    "growth.md": ("growth.json", growth.report),
    "choices.md": ("choices.json", choices.report),
    "splits.md": ("splits.json", splits.table),
    "seeds.md": ("seeds.json", seeds.table),
    "transfer.md": ("transfer.json", transfer.table),
    "tuned.md": ("tuned.json", tuned.table),
    "lora.md": ("lora.json", lora.table),
    "qwen_size.md": ("qwen_size.json", qwen_size.report),
    "size.md": ("size.json", size.page),
}
TOP = (
    r"`make [a-z]+[^`]*` on \d{4}-\d\d-\d\d; .+, \d+ cores.*; python [^,]+, torch [^,]+, numpy .+\."
)


def recorded(name):
    return metrics.read_json(RESULTS / name)


def body(path):
    """A table without the line on top, and without a page's own words around it."""
    text, (start, end) = path.read_text(encoding="utf-8"), record.MARKS
    top, table = text.partition(end)[0].split(start)[-1].split("\n\n", 1)
    assert re.fullmatch(TOP, top)
    return table


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_its_record_says(name):
    source, table = TABLES[name]
    assert body(RESULTS / name) == table(recorded(source))


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(name):
    for block in re.findall(r"(?:^\|.*\n)+", body(RESULTS / name), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_what_is_the_same_for_all_data_is_what_was_chosen():
    choice = recorded("choices.json")["choice"]
    assert choice["power"] == pmf.Ranking.power and choice["allowance"] == fuse.ALLOWANCE
    assert main.OURS.fused is None  # a late fusion is left out: see the words of choices.md
    assert {name: choice[name] for name in pmf.SEARCH} == recorded("results.json")["ours"]


@pytest.mark.parametrize("name", ["choices.json", "splits.json"])
def test_it_was_measured_with_the_seeds_that_were_named(name):
    record = recorded(name)
    assert record.get("draws", record.get("splits")) in ([7, 8, 9], [1, 2, 3, 4, 5])


def test_figure1_is_what_its_record_says():
    figure = (RESULTS / "figure1.svg").read_text(encoding="utf-8")
    assert figure == main.figure1(recorded("results.json"))


@pytest.mark.parametrize("command", record.RUNS)
def test_everything_that_a_command_writes_is_recorded(command):
    for name in record.RUNS[command]:
        assert (RESULTS / name).stat().st_size > 500


def test_the_record_is_a_whole_run_on_the_reports_data():
    for name in ("results.json", "results-ours.json"):
        assert recorded(name)["edition"] == main.REPORTED and not recorded(name).get("quick")
    assert not recorded("bench.json")["settings"]["quick"]
    assert body(RESULTS / "table2.md").startswith("Table II. The five best for user 400")


def test_the_tuning_table_says_what_was_trained_and_what_it_cost():
    cost = {"trainable": 147456, "trainable_share": 0.0065, "peak_memory_bytes": 3e9}
    rows = [
        {"recipe": "notebook", "row": "MF only", "seed": 42, "hits": 739},
        {"recipe": "notebook", "row": "base", "seed": 42, "hits": 712, "tuning": {}},
        {"recipe": "report", "row": "LoRA", "seed": 7, "hits": 7, "tuning": cost | {"seconds": 90}},
    ]
    lines = record.tuning_table({"rows": rows}).splitlines()[4:]
    assert lines == [
        "| notebook | base | 42 | none |  |  | 712 |",
        "| report | LoRA | 7 | 147,456 (0.65%) | 3.00 GB | 1.5 | 7 |",
    ]


def write_record(monkeypatch, out, command):
    arguments = ["record.py", "--out", str(out), "--to", str(out / "kept"), "--command", command]
    monkeypatch.setattr(sys, "argv", arguments)
    record.main()


def test_a_record_takes_the_files_of_its_command_alone(tmp_path, monkeypatch):
    results = {"rows": [], "versions": {"python": "3", "torch": "2", "numpy": "1"}}
    for name in {name for files in record.RUNS.values() for name in files}:
        text = json.dumps(results | {"machine": "M, 2 cores"}) if ".json" in name else "old\n"
        (tmp_path / name).write_text(text)
    write_record(monkeypatch, tmp_path, "make all")
    kept, names = tmp_path / "kept", {*record.RUNS["make all"], "tuning.md"}
    assert {path.name for path in kept.iterdir()} == names
    assert body(kept / "table2.md") == "old\n" and (kept / "figure1.svg").read_text() == "old\n"
    assert (
        (kept / "table1.md")
        .read_text()
        .endswith("; M, 2 cores; python 3, torch 2, numpy 1.\n\nold\n")
    )
    (tmp_path / "table1.md").write_text("new\n")
    write_record(monkeypatch, tmp_path, "make bench BENCH=--quick")
    assert {path.name for path in kept.iterdir()} == {*names, "bench.json", "bench.md"}
    assert body(kept / "table1.md") == "old\n"
    assert (kept / "bench.md").read_text().startswith("`make bench BENCH=--quick` on 20")
    with pytest.raises(metrics.BadInput, match="begin with one of make all"):
        write_record(monkeypatch, tmp_path, "make test")
