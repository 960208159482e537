"""Aliases by name: they agree with the index that requests are looked up in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.routing.alias import alias_of
from ingress.routing.regex import find_host
from ingress.routing.table import HostAlias, HostPattern, HostRoutes, RoutingTable
from ingress.routing.trie import HostIndex, PathIndex, PathTrie


def made(hosts: list[str], aliases: dict[str, str]) -> RoutingTable:
    return RoutingTable(
        hosts={HostPattern(h): HostRoutes(HostPattern(h), ()) for h in hosts},
        aliases={
            HostPattern(a): HostAlias(HostPattern(a), HostPattern(h), rank)
            for rank, (a, h) in enumerate(aliases.items())
        },
    )


TABLE = made(
    ["a.test", "*.wild.test", "x.b.test", ""],
    {"b.test": "a.test", "*.b.test": "a.test", "y.wild.test": "a.test", "~evil": "", "~^ev": "a.test"},
)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("a.test", None),
        ("b.test", "a.test"),
        ("z.b.test", "a.test"),
        ("x.b.test", None),  # a host of its own
        ("y.wild.test", "a.test"),  # an exact alias goes before a wildcard of a rule
        ("z.wild.test", None),
        ("evil.wild.test", None),  # which goes before an expression
        ("evil.test", ""),  # the first expression that matches
        ("ev.test", "a.test"),
        ("other.test", None),
        ("", None),
        ("\u00e9vil", None),
    ],
)
def test_alias_of(name: str, host: str | None) -> None:
    assert alias_of(TABLE, name) == host
    assert alias_of(RoutingTable(hosts=TABLE.hosts), name) is None


_NAMES = st.sampled_from(["a", "b.a", "c.a", "d", "d.a", "e"])
_PATTERNS = st.sampled_from(["a", "b.a", "*.a", "d", "e", "~a$", "~^d", "~."])


@given(
    st.lists(_NAMES | st.just("*.a"), min_size=1, max_size=3, unique=True),
    st.lists(_PATTERNS, max_size=3, unique=True),
    _NAMES,
)
def test_it_agrees_with_the_index(hosts: list[str], patterns: list[str], name: str) -> None:
    table = made(hosts, {p: hosts[0] for p in patterns if p not in hosts})
    tries: dict[str, PathIndex[str]] = {host: PathTrie(host) for host in hosts}
    index: HostIndex[str] = HostIndex(tries.items())  # type: ignore[arg-type]
    ordered = sorted(table.aliases.values(), key=lambda alias: alias.rank)
    for alias in ordered:
        if not alias.pattern.startswith("~"):
            index.set(alias.pattern, tries[alias.host])
    index.set_regex(find_host([(a.pattern[1:], tries[a.host]) for a in ordered if a.pattern.startswith("~")]))
    found = index.lookup(name.encode())
    aliased = alias_of(table, name)
    if aliased is not None:
        assert found is tries[aliased]
    else:
        wildcard = "*." + name.partition(".")[2]
        own = tries.get(name) or (tries.get(wildcard) if "." in name else None)
        assert found is own
