"""Sets of texts as nginx's `map` writes them: a whole value, compared without regard to case, or `~` (`~*`: case doesn't matter) and a
regular expression that is searched for. The expressions are RE2's: linear in the text, whatever a client sends; no look-around, no
back-references.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ingress.expressions import compile_expression

_PATTERN_LIMIT = 1024


def parse_entry(text: str) -> str:
    """An entry as it is kept: trimmed, without the quotes that nginx's configuration may need. Raises ValueError."""
    entry = text.strip()
    if len(entry) > 1 and entry[0] == entry[-1] and entry[0] in "\"'":
        entry = entry[1:-1]
    if not entry:
        raise ValueError("an entry is empty")
    if len(entry) > _PATTERN_LIMIT:
        raise ValueError(f"an entry is longer than {_PATTERN_LIMIT} characters")
    if entry.startswith("~"):
        _compile(entry)
    return entry


def _compile(entry: str) -> Any:
    expression = entry.removeprefix("~").removeprefix("*")
    try:
        return compile_expression(expression, ignore_case=entry.startswith("~*"))
    except ValueError as problem:
        raise ValueError(f"{expression[:60]!r} is not a regular expression of RE2 ({str(problem)[:80]})") from None


def compile_entries(entries: Sequence[str]) -> Callable[[bytes], bool]:
    """Whether a text is in the set. `entries` were checked by `parse_entry`; one that isn't fit after all matches nothing."""
    whole: set[bytes] = set()
    searches: list[Callable[[bytes], Any]] = []
    for entry in entries:
        if entry.startswith("~"):
            searches.append(_compile(entry).search)
        else:
            whole.add(entry.removeprefix("\\").lower().encode())

    def contains(text: bytes) -> bool:
        return text.lower() in whole or any(search(text) is not None for search in searches)

    return contains
