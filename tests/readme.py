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


PARTS = ("results*.json", "table?.md", "tuning.md", "bench.*", "growth.*", "figure?.svg")


def write(out):
    for path in (path for part in PARTS for path in Path(out).glob(part)):
        shutil.copy(path, RECORDED)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for path in RECORDED.glob("*.md"):
        table = path.read_text(encoding="utf-8").strip()
        pattern = rf"(<!-- {path.stem} -->\n).*?(<!-- /{path.stem} -->)"
        put = lambda m, table=table: f"{m[1]}{table}\n{m[2]}"  # noqa: E731
        text, found = re.subn(pattern, put, text, flags=re.DOTALL)
        assert found == 1, path
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1])
