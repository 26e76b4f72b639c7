"""Put the tables of a full run into the README: python tests/readme.py out

Copies the results of out/ into tests/recorded/ and rewrites what stands between the README's
markers <!-- name --> and <!-- /name -->; tests/test_report.py holds it there.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "recorded"


TABLES = ("table1", "tuning", "table2", "table3")
OTHERS = ("results.json", "results-ours.json", "figure1.svg", "figure2.svg", "figure3.svg")


def write(out):
    for name in (*OTHERS, *(f"{table}.md" for table in TABLES)):
        shutil.copy(Path(out, name), RECORDED / name)
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for name in TABLES:
        table = (RECORDED / f"{name}.md").read_text(encoding="utf-8").strip()
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        put = lambda m, table=table: f"{m[1]}{table}\n{m[2]}"  # noqa: E731
        text, found = re.subn(pattern, put, text, flags=re.DOTALL)
        assert found == 1, name
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1])
