"""Makes the tables of docs/annotations.md from the catalog of annotations: `python -m tools.annotation_docs` writes them; `--check` only compares and
exits with 1 if they are out of date.
"""

import sys

from ingress.translate.annotations.catalog import GROUPS, Row
from tools.tables import Page, cell, proof

_HEAD = "| annotation | default | status | | proved by |\n|---|---|---|---|---|\n"


def render() -> str:
    """All tables, each under its heading."""
    return "\n".join(f"### {title}\n\n{_HEAD}{''.join(map(_row, group))}" for title, group in GROUPS.items())


def _row(row: Row) -> str:
    default = f"`{cell(row.default)}`" if row.default else ""
    return f"| `{row.name}` | {default} | {row.status} | {cell(row.note)} | {proof(row.test)} |\n"


PAGE = Page("annotations", render)

if __name__ == "__main__":
    sys.exit(PAGE.main(sys.argv[1:], "python -m tools.annotation_docs", __doc__))
