"""From a name that a client used to the host whose alias it is, where no index is at hand (`routing.trie.HostIndex` has them built in)."""

from collections.abc import Callable
from functools import lru_cache

from ingress.routing.regex import compile_host_pattern
from ingress.routing.table import HostPattern, RoutingTable


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> Callable[[bytes], bool]:
    return compile_host_pattern(pattern)


def alias_of(table: RoutingTable, name: str) -> HostPattern | None:
    """The host that answers for `name` (lower case, without port) by an alias; None: a host of its own, or nobody does."""
    aliases = table.aliases
    if not aliases or not name or HostPattern(name) in table.hosts:
        return None
    found = aliases.get(HostPattern(name))
    if found is not None:
        return found.host
    _, dot, parent = name.partition(".")
    wildcard = HostPattern(f"*.{parent}")
    if dot and wildcard in table.hosts:
        return None
    found = aliases.get(wildcard) if dot else None
    if found is not None:
        return found.host
    if not name.isascii():
        return None
    raw = name.encode("ascii")
    for alias in sorted(aliases.values(), key=lambda alias: alias.rank):
        if alias.pattern.startswith("~") and _matcher(alias.pattern[1:])(raw):
            return alias.host
    return None
