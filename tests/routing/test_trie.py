"""The trie agrees with a linear matcher written from the rules, and with the examples of KEP-1453."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.routing.table import PathType
from ingress.routing.trie import HostIndex, PathTrie, normalize_host

EXACT, PREFIX = PathType.EXACT, PathType.PREFIX
Rule = tuple[str, PathType]


def elements(path: str) -> list[str]:
    return [e for e in path.split("/") if e]


def linear(rules: list[Rule], path: str) -> Rule | None:
    """Ten lines from the specification: Exact beats all, then most elements, then the spelling of the request, then length."""

    def rank(rule: Rule) -> tuple[int, int, bool, int] | None:
        text, kind = rule
        if kind is EXACT:
            return (1, 0, True, 0) if text == path else None
        mine, theirs = elements(text), elements(path)
        if theirs[: len(mine)] != mine:
            return None
        return (0, len(mine), text == path, len(text))

    ranked = [(r, rule) for rule in rules if (r := rank(rule)) is not None]
    return max(ranked)[1] if ranked else None


segment = st.sampled_from(["a", "b", "aa", "A", "%2F"])
path = st.builds(
    lambda s, t: "/" + "/".join(s) + ("/" if t and s else ""), st.lists(segment, max_size=4), st.booleans()
)
rule = st.tuples(path, st.sampled_from([EXACT, PREFIX]))


@given(st.lists(rule, unique=True, max_size=12), path)
def test_agrees_with_the_linear_matcher(rules: list[Rule], request_path: str) -> None:
    trie: PathTrie[Rule] = PathTrie()
    for text, kind in rules:
        trie.add(text.encode(), kind, (text, kind))
    assert trie.match(request_path.encode()) == linear(rules, request_path)


@given(st.lists(rule, unique=True, max_size=12), path)
def test_the_first_candidate_is_the_match(rules: list[Rule], request_path: str) -> None:
    trie: PathTrie[Rule] = PathTrie()
    for text, kind in rules:
        trie.add(text.encode(), kind, (text, kind))
    found = trie.candidates(request_path.encode())
    assert (found[0] if found else None) == trie.match(request_path.encode())
    assert len(found) == len(set(found)) == sum(linear([r], request_path) is not None for r in rules)


@pytest.mark.parametrize(
    ("rules", "request_path", "expected"),
    [
        ([("/", PREFIX)], "/any/path", "/"),
        ([("/foo", EXACT)], "/foo", "/foo"),
        ([("/foo", EXACT)], "/bar", None),
        ([("/foo", EXACT)], "/foo/", None),
        ([("/foo/", EXACT)], "/foo", None),
        ([("/foo", PREFIX)], "/foo/", "/foo"),
        ([("/foo/", PREFIX)], "/foo", "/foo/"),
        ([("/aaa/bb", PREFIX)], "/aaa/bbb", None),
        ([("/aaa/bbb/", PREFIX)], "/aaa/bbb", "/aaa/bbb/"),
        ([("/aaa/bbb", PREFIX)], "/aaa/bbbxyz", None),
        ([("/", PREFIX), ("/aaa", PREFIX), ("/aaa/bbb", PREFIX)], "/aaa/bbb/ccc", "/aaa/bbb"),
        ([("/", PREFIX), ("/aaa", PREFIX)], "/ccc", "/"),
        ([("/aaa", PREFIX)], "/AAA", None),
        ([("/foo", PREFIX), ("/foo/", PREFIX)], "/foo", "/foo"),
        ([("/foo", PREFIX), ("/foo/", PREFIX)], "/foo/", "/foo/"),
        ([("/foo", PREFIX), ("/foo/", PREFIX)], "/foo/x", "/foo/"),
    ],
)
def test_examples(rules: list[Rule], request_path: str, expected: str | None) -> None:
    trie: PathTrie[str] = PathTrie()
    for text, kind in rules:
        trie.add(text.encode(), kind, text)
    assert trie.match(request_path.encode()) == expected


def test_exact_wins_over_prefix_of_the_same_path() -> None:
    trie: PathTrie[str] = PathTrie()
    trie.add(b"/foo", PREFIX, "prefix")
    trie.add(b"/foo", EXACT, "exact")
    assert trie.match(b"/foo") == "exact"
    assert trie.match(b"/foo/") == "prefix"


def test_the_first_of_two_equal_rules_stays() -> None:
    trie: PathTrie[str] = PathTrie()
    for kind in (EXACT, PREFIX):
        trie.add(b"/x", kind, f"old {kind}")
        trie.add(b"/x", kind, f"new {kind}")
    assert trie.candidates(b"/x") == ["old Exact", "old Prefix"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"foo.com", "foo.com"),
        (b"bar.foo.com", "*.foo.com"),
        (b"a.b.foo.com", "any"),
        (b".foo.com", "any"),
        (b"precise.foo.com", "precise.foo.com"),
        (b"", "any"),
        (b"com", "any"),
    ],
)
def test_hosts(host: bytes, expected: str) -> None:
    tries: dict[str, PathTrie[str]] = {h: PathTrie(h) for h in ("foo.com", "*.foo.com", "precise.foo.com", "")}
    index = HostIndex(tries.items())
    trie = index.lookup(host)
    assert trie is not None
    assert (trie.default or "any") == expected


def test_a_copy_does_not_change_its_original() -> None:
    index: HostIndex[str] = HostIndex([("a.com", PathTrie("old")), ("*.b.com", PathTrie("w")), ("", PathTrie("any"))])
    other = index.copy()
    for pattern in ("a.com", "*.b.com", ""):
        other.remove(pattern)
    assert other.lookup(b"a.com") is None
    assert other.lookup(b"x.b.com") is None
    assert [t.default for h in (b"a.com", b"x.b.com", b"z") if (t := index.lookup(h))] == ["old", "w", "any"]


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (b"Foo.COM", b"foo.com"),
        (b"foo.com:8080", b"foo.com"),
        (b"foo.com.", b"foo.com"),
        (b"foo.com.:80", b"foo.com"),
        (b"foo.com:", b"foo.com"),
        (b"localhost", b"localhost"),
        (b"LOCALHOST", b"localhost"),
        (b"[::1]:80", b"[::1]"),
        (b"[FE80::1]", b"[fe80::1]"),
        (b"10.0.0.1:8080", b"10.0.0.1"),
        (b"", b""),
    ],
)
def test_normalize_host(authority: bytes, host: bytes) -> None:
    assert normalize_host(authority) == host


@pytest.mark.parametrize(
    "bad", [b"user@foo.com", b"foo com", b"foo:port", b"[::1", b"[::1]x", b"[zz]", b"a/b", b"a,b", b"a\x00b", b"[]"]
)
def test_what_is_no_host(bad: bytes) -> None:
    with pytest.raises(ValueError, match="it"):
        normalize_host(bad)
