"""The code of the README and of each page, a file a page, for type checkers.

`python -m tests.support.page_code FOLDER` writes them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code(page: Path) -> str:
    """All blocks of Python, in order, with what tests do not run."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return "\n".join(found)


def write(folder: Path) -> list[Path]:
    """A module for each page with code."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for page in PAGES:
        if text := code(page):
            path = folder / f"{page.stem.replace('-', '_').lower()}.py"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]))
