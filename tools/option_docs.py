"""Makes the tables of docs/options.md from the table of options: `python -m tools.option_docs` writes them; `--check` only compares and exits
with 1 if they are out of date.
"""

import sys

from ingress.translate.options.keys import GROUPS, Key
from tools.tables import Page, cell, proof

_HEAD = "| option | default | status | | proved by |\n|---|---|---|---|---|\n"
_DEFAULT_LIMIT = 60


def render() -> str:
    """All tables, each under its heading."""
    return "\n".join(f"### {title}\n\n{_HEAD}{''.join(map(_row, keys))}" for title, keys in GROUPS.items())


def _row(key: Key) -> str:
    default = key.default if len(key.default) <= _DEFAULT_LIMIT else f"{key.default[: _DEFAULT_LIMIT - 1]}…"
    shown = f"`{cell(default)}`" if default else ""
    return f"| `{key.name}` | {shown} | {key.status.value} | {cell(key.note)} | {proof(key.test)} |\n"


PAGE = Page("options", render)

if __name__ == "__main__":
    sys.exit(PAGE.main(sys.argv[1:], "python -m tools.option_docs", __doc__))
