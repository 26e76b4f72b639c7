"""Record a run: copy what a command wrote in out/ to results/, each table with its origin on top.

    `make all` on 2026-11-25; the processor, its cores and memory; python, torch, numpy.

The command decides which files are copied (RUNS below); those of other commands stay as they were.
A page with words of its own keeps them: the table goes between its marks (README.md, size.md,
growth.md). The date is that of the record, the file in out/; the machine is this one, so record a
run where it was made.

Gives:    results/table1.md and the rest of RUNS; and with `make all` results/tuning.md, what each
          tuning trained and cost, and the README's table.
Command:  python tests/studies/record.py --out out --command "make all"
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from common import machine  # beside this script

from main import METRICS, markdown, reported
from metrics import BadInput, parse, read_json, read_text, run, versions


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the run
    to: Path = Path("results")  # folder of the records
    command: str = "make all"  # that made them


README, MARKS = Path("README.md"), ("<!-- results -->\n", "<!-- /results -->")
RUNS = {  # command -> what it writes, its record first
    "make all": ("results.json", "table1.md", "table2.md", "figure1.svg"),
    "make study": ("results-ours.json", "table3.md", "figure2.svg", "figure3.svg"),
    "make bench": ("bench.json", "bench.md"),
    "make choices": ("choices.json", "choices.md"),
    "make tuned": ("tuned.json", "tuned.md"),
    "make lora": ("lora.json", "lora.md"),
    "make seeds": ("seeds.json", "seeds.md"),
    "make size": ("size.json", "size.md"),
    "make splits": ("splits.json", "splits.md"),
    "make transfer": ("transfer.json", "transfer.md"),
    "make growth": ("growth.json", "growth.md", "figure4.svg"),
    "make qwen-size": ("qwen_size.json", "qwen_size.md"),
}
README_ROWS = {  # (recipe, row) of Table I -> what the README calls it
    ("notebook", "Most popular"): "most rated movies (Most popular)",
    ("notebook", "MF only"): "`notebook`: MF only",
    ("notebook", "MF + MiniLM (base)"): "`notebook`: MF + MiniLM (base)",
    ("notebook", "MF + MiniLM (tuned)"): "`notebook`: MF + MiniLM (tuned)",
    ("report", "MF + MiniLM (base)"): "`report`: MF + MiniLM (base)",
    ("report", "MF + MiniLM (NF4)"): "`report`: MF + MiniLM (NF4)",
    ("report", "MF + MiniLM (NF4 + LoRA)"): "`report`: MF + MiniLM (NF4 + LoRA)",
    ("report", "MF + MiniLM (tuned)"): "`report`: MF + MiniLM (tuned)",
    ("ours", "Ranking PMF, no text"): "`ours`: ranking PMF, no text",
    ("ours", "Ranking PMF, MiniLM as prior"): "`ours`: ranking PMF, MiniLM as prior",
}
RUNS["make mpnet"] = RUNS["make qwen"] = RUNS["make all"]  # they end with it


def header(command, record, made):
    """The line on top of a table: command, date (made: seconds), machine, versions."""
    found = versions() | record.get("versions", {})
    packages = ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "numpy"))
    day = time.strftime("%Y-%m-%d", time.localtime(made))
    return f"`{command}` on {day}; {record.get('machine', machine())}; {packages}.\n\n"


def tuning_table(results):
    """What each tuning trained and cost, beside the rows whose encoder was left as it was."""
    head = ["recipe", "row", "seed", "trained", "peak memory", "minutes", "hits"]
    lines = []
    for row in results["rows"]:
        if "tuning" in row:
            cost, cells = row["tuning"], ["none", "", ""]
            if cost:
                cells = [f"{cost['trainable']:,} ({cost['trainable_share']:.2%})"]
                cells += [
                    f"{cost['peak_memory_bytes'] / 1e9:.2f} GB",
                    f"{cost['seconds'] / 60:.1f}",
                ]
            lines.append([row["recipe"], row["row"], str(row["seed"]), *cells, str(row["hits"])])
    head_line = "Minutes were taken while other stages ran on the same machine."
    return f"{head_line}\n\n{markdown(head, lines)}"


def readme_table(results):
    """The README's rows of Table I: the report's hits beside ours."""
    k, rows = results["k"], {(row["recipe"], row["row"]): row for row in results["rows"]}
    head = ["movies recommended by", "authors' hits", "hits here", f"P@{k}", f"R@{k}", f"NDCG@{k}"]
    lines = []
    for key, name in README_ROWS.items():
        row = rows[key]
        means = [f"{row[metric]:.4f}" for metric in METRICS]
        theirs = reported(results, row) if row["recipe"] == "notebook" else ()  # what they ran
        paper = "".join(map(str, theirs[-1:]))
        lines.append([name, paper, f"{row['hits']:,}", *means])
    return markdown(head, lines)


def placed(path, text):
    """The text, or a page that is there already with the text between its marks."""
    start, end = MARKS
    page = read_text(path) if path.is_file() else ""
    if start not in page:
        return text
    return page[: page.index(start)] + start + text + page[page.index(end) :]


def main():
    s = parse(Settings, __doc__)
    files = RUNS.get(" ".join(s.command.split()[:2]))
    if files is None:
        raise BadInput(f"--command {s.command}: it should begin with one of {', '.join(RUNS)}")
    texts = {name: read_text(s.out / name) for name in files}
    record = read_json(s.out / files[0])
    if "table1.md" in texts:
        texts["tuning.md"] = tuning_table(record)
    top = header(s.command, record, (s.out / files[0]).stat().st_mtime)
    texts = {name: top * name.endswith(".md") + text for name, text in texts.items()}
    s.to.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():  # plainly: git keeps what was there
        (s.to / name).write_text(placed(s.to / name, text), encoding="utf-8")
    print(f"{s.to}: {', '.join(texts)}")
    if "table1.md" in texts and s.to == Settings.to:
        README.write_text(placed(README, readme_table(record)), encoding="utf-8")


if __name__ == "__main__":
    run(main)
