"""Paths as regular expressions, the way ingress-nginx has them on a host where some Ingress asks for it.

Every path of such a host is `~* ^path`: without regard to case, anchored at its beginning only, the longest text first, the first match wins.
RE2 alone: a match costs time linear in the path whatever the expressions, which come from people who don't own the proxy. All of a host are
matched in one pass (RE2's set): a thousand cost what one does.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import re2

from ingress.expressions import options, reason_of

T = TypeVar("T")

PATTERN_LIMIT = 2048  # characters
PROGRAM_LIMIT = 1000  # RE2 instructions: what a byte of a path can cost at worst (8 kB: 50 ms). A usual path has 30.
HOST_PROGRAM_LIMIT = 100_000  # of all expressions of a host
_MEMORY_BYTES = 8 << 20  # of one of them: PROGRAM_LIMIT is reached before
_SET_MEMORY_BYTES = 16 << 20  # of expressions and their automaton together; what is needed is taken


_SEARCHING = options(ignore_case=True, memory_bytes=_MEMORY_BYTES)
_TESTING = options(ignore_case=True, memory_bytes=_MEMORY_BYTES, captures=False)
_SET = options(ignore_case=True, memory_bytes=_SET_MEMORY_BYTES, captures=False)


@lru_cache(maxsize=16384)  # a host is merged again whenever one of its Ingresses changes
def check_pattern(pattern: str) -> int:
    """The size of its program. Raise ValueError, with the reason as a clause, for a path that can't be used as a regular expression."""
    if not pattern.startswith("/"):
        raise ValueError("it does not start with /")
    if len(pattern) > PATTERN_LIMIT:
        raise ValueError(f"it is longer than {PATTERN_LIMIT} characters")
    if not pattern.isascii():
        raise ValueError("it is not ASCII: write other characters percent-encoded, as %C3%A9")
    if any(ord(c) <= 32 or ord(c) == 127 for c in pattern):
        raise ValueError("it contains white space or a control character: write it percent-encoded, as %20")
    try:
        compiled = re2.compile(_anchored(pattern), _TESTING)
    except re2.error as e:
        raise ValueError(_why(e)) from e
    if compiled.programsize > PROGRAM_LIMIT:
        raise ValueError(f"it is too large a regular expression ({compiled.programsize} of {PROGRAM_LIMIT} steps)")
    size: int = compiled.programsize
    return size


def _anchored(pattern: str) -> bytes:
    # As ingress-nginx writes it: with a | outside of brackets the anchor belongs to the first alternative alone.
    return b"^" + pattern.encode("ascii")


def _why(error: Exception) -> str:
    text = reason_of(error)
    if "(?=" in text or "(?!" in text or "(?<" in text:
        return f"it looks ahead or behind, which can't be matched in bounded time ({text})"
    if text.startswith("invalid escape sequence") and text[-1:].isdigit():
        return f"it refers back to a group, which can't be matched in bounded time ({text})"
    return f"it is not a regular expression that RE2 understands ({text})"


def compile_host_pattern(pattern: str) -> Callable[[bytes], bool]:
    """Whether a host (lower case, without port) matches: nginx's server_name with a tilde, which isn't anchored."""
    search = re2.compile(pattern.encode("ascii"), _TESTING).search
    return lambda host: search(host) is not None


class FirstMatch:
    """Which of several expressions is the first that matches somewhere in a text: all in one pass (RE2's set)."""

    __slots__ = ("_linear", "_match", "_patterns")

    def __init__(self, patterns: Sequence[bytes]) -> None:
        """Raises `re2.error` for a pattern that is none."""
        self._patterns = patterns
        self._linear: list[Any] | None = None
        found = re2.Set.SearchSet(_SET)
        for pattern in patterns:
            found.Add(pattern)
        found.Add(b"")  # matches everything: without it in the answer, RE2 ran out of memory
        self._match = found._set.Match  # the wrapper around it only tells str from bytes
        try:
            found.Compile()
        except re2.error:
            self.fall_back()
        else:
            if not self._match(b"/"):
                self.fall_back()

    def fall_back(self) -> None:
        """Too large for one automaton: one after the other, with the same result."""
        self._linear = [re2.compile(pattern, _TESTING) for pattern in self._patterns]

    def find(self, text: bytes) -> int | None:
        """Its position among the patterns."""
        if self._linear is None:
            found = self._match(text)
            if found:
                first: int = min(found)
                return first if first < len(self._patterns) else None
            self.fall_back()
        for position, compiled in enumerate(self._linear or ()):
            if compiled.search(text) is not None:
                return position
        return None


def find_host(patterns: Sequence[tuple[str, T]]) -> Callable[[bytes], T | None]:
    """The value of the first of `patterns` (as `compile_host_pattern` takes them) that matches a host."""
    find = FirstMatch([pattern.encode("ascii") for pattern, _ in patterns]).find
    values = [value for _, value in patterns]

    def look_up(host: bytes) -> T | None:
        position = find(host)
        return None if position is None else values[position]

    return look_up


class Rewriter:
    """The groups of a path, for `rewrite-target`. Not anchored, as ingress-nginx has it there: it is only asked for paths that match anyway."""

    __slots__ = ("_pattern", "_search")

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._search: Any = (
            None  # compiled when it is needed first: 10,000 of them are 30 MB, and most are hardly ever asked
        )

    def groups(self, path: bytes) -> tuple[bytes, ...] | None:
        """From `$1` on; a group that took no part is empty. None: the path doesn't match."""
        search = self._search
        if search is None:
            search = self._search = re2.compile(self._pattern.encode("ascii"), _SEARCHING).search
        match = search(path)
        return None if match is None else match.groups(b"")


class RegexPaths(Generic[T]):
    """Paths of one host in regex mode. Answers like `PathTrie`; `add` in order of precedence, `finish` before the first match."""

    __slots__ = ("_exact", "_first", "_patterns", "_values", "default")

    def __init__(self, default: T | None = None) -> None:
        self._exact: dict[bytes, T] = {}
        self._patterns: list[str] = []
        self._values: list[T] = []
        self._first = _NOTHING
        self.default = default

    def add(self, pattern: str, value: T) -> None:
        """`pattern` passed `check_pattern`."""
        self._patterns.append(pattern)
        self._values.append(value)

    def add_exact(self, path: bytes, value: T) -> None:
        """Goes before all patterns, and means exactly this path."""
        self._exact.setdefault(path, value)

    def finish(self) -> None:
        self._first = FirstMatch([_anchored(pattern) for pattern in self._patterns])

    def match(self, path: bytes) -> T | None:
        """The value of the first pattern that matches a normalised path."""
        value = self._exact.get(path)
        if value is not None:
            return value
        position = self._first.find(path)
        return None if position is None else self._values[position]

    def candidates(self, path: bytes) -> list[T]:
        """Every rule that matches, best first: what `explain` shows. Not for the hot path."""
        exact = self._exact.get(path)
        found = [] if exact is None else [exact]
        for pattern, value in zip(self._patterns, self._values, strict=True):
            if re2.compile(_anchored(pattern), _TESTING).search(path) is not None:
                found.append(value)
        return found


_NOTHING = FirstMatch(())
