"""Makes the tables of docs/options.md from the table of options: `python -m tools.option_docs` writes them; `--check` only compares and exits
with 1 if they are out of date.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ingress.translate.options.keys import GROUPS, Key

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "options.md"
START, END = "<!-- options: start -->\n", "<!-- options: end -->\n"
_HEAD = "| option | default | status | | proved by |\n|---|---|---|---|---|\n"
_DEFAULT_LIMIT = 60


def render() -> str:
    """All tables, each under its heading."""
    return "\n".join(f"### {title}\n\n{_HEAD}{''.join(map(_row, keys))}" for title, keys in GROUPS.items())


def _row(key: Key) -> str:
    default = key.default if len(key.default) <= _DEFAULT_LIMIT else f"{key.default[: _DEFAULT_LIMIT - 1]}…"
    shown = f"`{_cell(default)}`" if default else ""
    file, _, function = key.test.partition("::")
    test = f"[{function}](../{file})"
    return f"| `{key.name}` | {shown} | {key.status.value} | {_cell(key.note)} | {test} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page(text: str) -> str:
    """`text` with the tables as they should be. Raise ValueError if it has no place for them."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError("docs/options.md has no place for the tables")
    return f"{before}{start}\n{render()}\n{end}{after}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.option_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args(argv)
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if text == wanted:
        return 0
    if arguments.check:
        print("docs/options.md is out of date: run `make manifest`", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
