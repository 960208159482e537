"""Pages of documentation with tables that are made from the code: between two marks, and checked by the tests."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cell(text: str) -> str:
    """Text as it stands in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def proof(test: str) -> str:
    """A link to `file::function`."""
    file, _, function = test.partition("::")
    return f"[{function}](../{file})"


class Page:
    """A page of docs/ whose marks are named after what its tables list. `render` makes the tables."""

    def __init__(self, name: str, render: Callable[[], str]) -> None:
        self.path = ROOT / "docs" / f"{name}.md"
        self._render = render
        self._start, self._end = f"<!-- {name}: start -->\n", f"<!-- {name}: end -->\n"

    def current(self, text: str) -> str:
        """`text` with the tables as they should be. Raise ValueError if it has no place for them."""
        before, start, rest = text.partition(self._start)
        _, end, after = rest.partition(self._end)
        if not start or not end:
            raise ValueError(f"{self.path.name} has no place for the tables")
        return f"{before}{start}\n{self._render()}\n{end}{after}"

    def main(self, argv: Sequence[str], prog: str, description: str | None) -> int:
        parser = argparse.ArgumentParser(prog=prog, description=description)
        parser.add_argument("--check", action="store_true", help="only compare")
        arguments = parser.parse_args(argv)
        text = self.path.read_text(encoding="utf-8")
        wanted = self.current(text)
        if text == wanted:
            return 0
        if arguments.check:
            print(f"docs/{self.path.name} is out of date: run `make manifest`", file=sys.stderr)
            return 1
        self.path.write_text(wanted, encoding="utf-8")
        return 0
