"""Regex mode: what matches, in which order, what is refused; it agrees with a naive matcher, and no path can make it slow."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress import expressions
from ingress.routing import regex
from ingress.routing.regex import RegexPaths, Rewriter, check_pattern


def paths(*patterns: str) -> RegexPaths[str]:
    made: RegexPaths[str] = RegexPaths()
    for pattern in patterns:
        check_pattern(pattern)
        made.add(pattern, pattern)
    made.finish()
    return made


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/foo", "/foo", True),
        ("/foo", "/FOO", True),
        ("/foo", "/foobar", True),
        ("/foo", "/foo/bar", True),
        ("/foo", "/x/foo", False),
        ("/foo$", "/foo/", False),
        ("/v1.0", "/v1x0", True),
        ("/foo/[a-z]{3}", "/foo/bar", True),
        ("/foo/[a-z]{3}", "/foo/12", False),
        ("/foo(/|$)(.*)", "/foobar", False),
        ("/a|/b", "/x/b", True),  # ^/a|/b, as ingress-nginx writes it
        ("/a|/b", "/x/a", False),
        ("/caf%C3%A9", "/caf%C3%A9", True),
        ("/", "/anything", True),
    ],
)
def test_what_matches(pattern: str, path: str, matches: bool) -> None:
    assert (paths(pattern).match(path.encode()) == pattern) is matches
    assert paths(pattern).candidates(path.encode()) == [pattern] * matches


def test_the_first_match_wins() -> None:
    made = paths("/foo/bar/[a-z]{3}", "/foo/bar/bar", "/foo", "/")
    assert made.match(b"/foo/bar/bar") == "/foo/bar/[a-z]{3}"
    assert made.candidates(b"/foo/bar/bar") == ["/foo/bar/[a-z]{3}", "/foo/bar/bar", "/foo", "/"]
    assert made.match(b"/FOO/x") == "/foo"
    assert made.match(b"/x") == "/"
    assert paths("/foo").match(b"/x") is None
    assert paths().match(b"/x") is None


def test_an_exact_path_goes_before_all() -> None:
    made = paths("/")
    made.add_exact(b"/", "root")
    assert made.match(b"/") == "root"
    assert made.candidates(b"/") == ["root", "/"]
    assert made.match(b"/x") == "/"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("foo", "it does not start with /"),
        ("/" + "x" * 2048, "longer than 2048"),
        ("/é", "it is not ASCII"),
        ("/a b", "white space"),
        ("/a\nb", "white space or a control character"),
        ("/(a", "it is not a regular expression that RE2 understands (missing ): ^/(a)"),
        ("/a(?=b)", "it looks ahead or behind"),
        ("/a(?!b)", "it looks ahead or behind"),
        ("/(?<=b)a", "it looks ahead or behind"),
        ("/(a)\\1", "it refers back to a group"),
        ("/a++", "RE2 understands"),
        ("/a{1001}", "RE2 understands"),
        ("/[ab]{900}[cd]{900}[ef]{900}", "too large"),
    ],
)
def test_what_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_pattern(pattern)
    assert why in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        check_pattern("/" + text)
    except ValueError:
        return
    paths("/" + text).match(b"/a")


_PIECES = st.sampled_from(["/", "a", "B", "ab", ".", ".*", "[a-c]+", "(x|y)?", "$", "|/b", "(/|$)(.*)", "a{2}"])
_PATTERN = st.lists(_PIECES, max_size=5).map(lambda pieces: "/" + "".join(pieces))
_PATH = st.text("/abAxyB", max_size=10).map(lambda text: "/" + text)


def naive(patterns: list[str], path: str) -> str | None:
    for pattern in patterns:
        if re.search(f"^{pattern}", path, re.IGNORECASE):
            return pattern
    return None


@given(st.lists(_PATTERN, max_size=6), _PATH)
def test_it_agrees_with_a_naive_matcher(patterns: list[str], path: str) -> None:
    for pattern in list(patterns):
        try:
            check_pattern(pattern)
            re.compile(pattern)
        except (ValueError, re.error):
            patterns.remove(pattern)
    assert paths(*patterns).match(path.encode()) == naive(patterns, path)


@given(st.lists(_PATTERN, max_size=6), _PATH)
def test_one_after_the_other_gives_the_same(patterns: list[str], path: str) -> None:
    for pattern in list(patterns):
        try:
            check_pattern(pattern)
        except ValueError:
            patterns.remove(pattern)
    at_once, one_by_one = paths(*patterns), paths(*patterns)
    one_by_one._first.fall_back()
    assert one_by_one.match(path.encode()) == at_once.match(path.encode())


def test_without_memory_it_is_slower_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    options = expressions.options(ignore_case=True)
    options.never_capture = True
    options.max_mem = 1
    monkeypatch.setattr(regex, "_SET", options)
    made: RegexPaths[str] = RegexPaths()
    made.add("/b", "/b")
    made.add("/[a-z]{20}", "/[a-z]{20}")
    made.finish()
    assert made.match(b"/b") == "/b"
    assert made.match(b"/c") is None


@pytest.mark.parametrize(
    "patterns",
    [
        ["/(a+)+$"],
        ["/(.*)(.*)(.*)(.*)(.*)x$"],
        ["/[ab]*a[ab]{200}c"],
        [f"/(.*)a(.*){number}" for number in range(300)],
        [f"/svc{number}/[ab]*a[ab]{{30}}" for number in range(300)],
    ],
    ids=["nested", "stars", "states", "many", "many-states"],
)
def test_no_path_takes_long(patterns: list[str]) -> None:
    """8 kB, the longest that the listener takes. Backtracking would take years; the bound is far above what is needed."""
    made = paths(*patterns)
    for path in (b"/" + b"a" * 8000 + b"!", b"/" + b"ab" * 4000, b"/svc299/" + b"aab" * 2600):
        started = time.process_time()
        made.match(path)
        assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("pattern", "path", "groups"),
    [
        ("/foo/bar/(.+)", b"/foo/bar/baz", (b"baz",)),
        ("/foo(/|$)(.*)", b"/FOO", (b"", b"")),
        ("/foo(/|$)(.*)", b"/foo/x/y", (b"/", b"x/y")),
        ("/a(b)?(c)", b"/ac", (b"", b"c")),
        ("/a|/b(.*)", b"/x/bc", (b"c",)),
        ("/a", b"/x", None),
        ("/", b"/x", ()),
    ],
)
def test_groups(pattern: str, path: bytes, groups: tuple[bytes, ...] | None) -> None:
    assert Rewriter(pattern).groups(path) == groups
