"""The README held to the code and to results/: its table, its map, its snippets, its size."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import record

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MINILM = Path(os.environ.get("MINILM", ROOT / "data" / "minilm"))
CELL = r"(\w+\.py): `(\w+)`"  # file: function, or file: test
MAP = re.findall(rf"^\| (.+?) \| {CELL} \| (.+?) \| {CELL} \|$", README, re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def rows():
    results = json.loads((ROOT / "results/results.json").read_text(encoding="utf-8"))
    return {(row["recipe"], row["row"]): row for row in results["rows"]}


def test_the_verdict_and_the_commands_stand_early():
    lines = README.splitlines()
    assert lines.index("## Two commands") <= 60
    assert any("not run here" in line for line in lines[:16])


def test_the_readme_shows_the_recorded_results():
    results = json.loads((ROOT / "results/results.json").read_text(encoding="utf-8"))
    assert record.readme_table(results) in README


def test_every_link_into_the_project_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(("what", "file", "function", "gives", "test_file", "test"), MAP)
def test_each_line_of_the_map_names_a_function_and_a_test(
    what, file, function, gives, test_file, test
):
    for path, name in ((ROOT / file, function), (ROOT / "tests" / test_file, test)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


def test_the_numbers_of_the_map_are_the_recorded_ones(rows):
    assert 12 <= len(MAP) <= 16
    gives = {function: text for _, _, function, text, *_ in MAP}
    hits = {
        "_move": ("notebook", "MF only"),
        "notebook_fusion": ("notebook", "MF + MiniLM (base)"),
        "eq1": ("report", "MF + MiniLM (base)"),
        "pair_loss": ("notebook", "MF + MiniLM (tuned)"),
        "triplet_loss": ("report", "MF + MiniLM (tuned)"),
        "fit_ranking": ("ours", "Ranking PMF, no text"),
        "regress": ("ours", "Ranking PMF, MiniLM as prior"),
    }
    for function, row in hits.items():
        assert f"{rows[row]['hits']:,} hits" in gives[function]
    alphas = [rows["report", f"MF + MiniLM ({kind})"]["alpha"] for kind in ("base", "tuned")]
    assert f"{alphas[0]:.2f} for the base encoder, {alphas[1]:.2f}" in gives["grid_search"]
    lora = rows["report", "MF + MiniLM (NF4 + LoRA)"]["tuning"]["trainable"]
    assert f"{lora:,} trained parameters (MiniLM), 5,898,240 (Qwen3-4B)" in gives["with_lora"]
    # The split's sizes are held by tests/test_report.py, those of Qwen3-4B by tests/test_qlora.py


def test_the_snippets_are_short_and_run():
    assert len(SNIPPETS) == 3
    for snippet, name in zip(SNIPPETS, ("metrics", "pmf", "encode"), strict=True):
        code = [line for line in snippet.splitlines() if line.strip()]
        assert len(code) <= 8 and f"from {name} import" in snippet
        if name == "encode" and not (MINILM / "model.safetensors").is_file():
            pytest.skip(f"no MiniLM weights in {MINILM}; `make data` fetches them")
        code = snippet.replace("data/minilm", str(MINILM.absolute()))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        said = re.search(r"print\(.*\)  # ([\d.]+)$", snippet, re.MULTILINE)
        assert said is None or f"{float(done.stdout):.3f}" == said[1]
