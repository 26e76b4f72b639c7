"""Put the tables of a full run into the README: python tests/readme.py out

Copies the results of out/ into tests/recorded/ and rewrites what stands between the README's
markers <!-- name --> and <!-- /name -->; tests/test_report.py holds it there.
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "recorded"
sys.path.insert(0, str(ROOT))

import main  # noqa: E402


def blocks():
    """The README's generated blocks by name."""
    results = json.loads((RECORDED / "results.json").read_text(encoding="utf-8"))
    return {
        "table1": main.table1(results).strip(),
        "table2": (RECORDED / "table2.md").read_text(encoding="utf-8").strip(),
        "tuning": (RECORDED / "tuning.md").read_text(encoding="utf-8").strip(),
    }


def write(out):
    for name in ("results.json", "table2.md", "tuning.md", "figure1.svg"):
        shutil.copy(Path(out, name), RECORDED / name)
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, block in blocks().items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, found = re.subn(
            pattern, lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text, flags=re.DOTALL
        )
        assert found == 1, name
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1])
