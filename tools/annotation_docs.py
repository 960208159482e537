"""Makes the tables of docs/annotations.md from the catalog of annotations: `python -m tools.annotation_docs` writes them; `--check` only compares and
exits with 1 if they are out of date.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ingress.translate.annotations.catalog import GROUPS, Row

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "annotations.md"
START, END = "<!-- annotations: start -->\n", "<!-- annotations: end -->\n"
_HEAD = "| annotation | default | status | | proved by |\n|---|---|---|---|---|\n"


def render() -> str:
    """All tables, each under its heading."""
    return "\n".join(f"### {title}\n\n{_HEAD}{''.join(map(_row, group))}" for title, group in GROUPS.items())


def _row(row: Row) -> str:
    file, _, function = row.test.partition("::")
    default = f"`{_cell(row.default)}`" if row.default else ""
    return f"| `{row.name}` | {default} | {row.status} | {_cell(row.note)} | [{function}](../{file}) |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page(text: str) -> str:
    """`text` with the tables as they should be. Raise ValueError if it has no place for them."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError("docs/annotations.md has no place for the tables")
    return f"{before}{start}\n{render()}\n{end}{after}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.annotation_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args(argv)
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if text == wanted:
        return 0
    if arguments.check:
        print("docs/annotations.md is out of date: run `make manifest`", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
