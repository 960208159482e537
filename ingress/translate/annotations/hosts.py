"""Annotations that act on a whole host, or decide how its paths are matched: what one Ingress asks for. `conflicts` decides who gets it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ingress.expressions import compile_expression
from ingress.routing.regex import PATTERN_LIMIT, PROGRAM_LIMIT
from ingress.routing.table import HostPattern
from ingress.translate.annotations import values
from ingress.translate.annotations.targets import parse_app_root, parse_rewrite_target
from ingress.translate.names import parse_host

T = TypeVar("T")

READ = ("use-regex", "rewrite-target", "app-root", "server-alias", "from-to-www-redirect")
_READ = frozenset(READ)
_ALIASES_LIMIT = 64


@dataclass(frozen=True, slots=True)
class HostAsk:
    """`fields`: where each annotation stands, by its name."""

    use_regex: bool = False
    rewrite_target: str = ""  # empty: none, or one that can't be used
    app_root: str = ""
    aliases: tuple[HostPattern, ...] = ()  # hosts, or `~` and a regular expression; sorted
    www_twin: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)

    def regex_by(self, path: str) -> str:
        """The annotation because of which the host of `path` (as written) is in regex mode; empty: none. A target that is the path
        rewrites nothing, and doesn't count, as in ingress-nginx."""
        if self.rewrite_target and self.rewrite_target != path:
            return "rewrite-target"
        return "use-regex" if self.use_regex else ""

    def names_besides(self, hosts: Iterable[HostPattern]) -> tuple[HostPattern, ...]:
        """Those that become names of the `hosts` by these annotations, but for regular expressions; others may have them already."""
        twins = [twin for host in hosts if (twin := twin_of(host)) is not None] if self.www_twin else []
        return (*self.aliases, *twins)


NO_HOST_ASK = HostAsk()


def twin_of(host: HostPattern) -> HostPattern | None:
    """None for a host that can have none."""
    if not host or host.startswith("*."):
        return None
    return HostPattern(host.removeprefix("www.") if host.startswith("www.") else f"www.{host}")


class Annotations(Protocol):
    """Hands out each annotation once. `found`: name -> (full key, value)."""

    found: dict[str, tuple[str, str]]

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T: ...


def read_host_ask(annotations: Annotations) -> HostAsk:
    if _READ.isdisjoint(annotations.found):
        return NO_HOST_ASK
    keys = {name: f"metadata.annotations[{annotations.found[name][0]}]" for name in READ if name in annotations.found}
    no_aliases: tuple[HostPattern, ...] = ()
    return HostAsk(
        use_regex=annotations.take("use-regex", values.boolean, False),
        rewrite_target=_rewrite_target(annotations),
        app_root=annotations.take("app-root", parse_app_root, ""),
        aliases=annotations.take("server-alias", parse_aliases, no_aliases),
        www_twin=annotations.take("from-to-www-redirect", values.boolean, False),
        fields=keys,
    )


def _rewrite_target(annotations: Annotations) -> str:
    """What the middleware that rewrites will do; it also reports what can't be used."""
    _, text = annotations.found.pop("rewrite-target", ("", ""))
    try:
        parse_rewrite_target(text)
    except ValueError:
        return ""
    return text


def parse_aliases(text: str) -> tuple[HostPattern, ...]:
    """Sorted, each once. Raises ValueError with the reason as a clause."""
    aliases = set()
    for item in text.split(","):
        alias = item.strip()
        if alias:
            aliases.add(_alias(alias))
    if len(aliases) > _ALIASES_LIMIT:
        raise ValueError(f"it has more than {_ALIASES_LIMIT} names")
    return tuple(sorted(aliases))


def _alias(text: str) -> HostPattern:
    if text.startswith("~"):
        _check_host_pattern(text[1:])
        return HostPattern(text)
    host, refusal = parse_host(text)
    if refusal:
        raise ValueError(f"{text[:100]} can't be used: {refusal}")
    return host


def _check_host_pattern(pattern: str) -> None:
    if not pattern or not pattern.isascii() or not pattern.isprintable() or " " in pattern:
        raise ValueError(f"~{pattern[:100]} is empty, or has characters that no host has")
    if len(pattern) > PATTERN_LIMIT:
        raise ValueError(f"a regular expression in it is longer than {PATTERN_LIMIT} characters")
    try:
        compiled = compile_expression(pattern)
    except ValueError as e:
        raise ValueError(f"~{pattern[:100]} is not a regular expression that RE2 understands ({e})") from e
    if compiled.programsize > PROGRAM_LIMIT:
        raise ValueError(f"~{pattern[:100]} is too large a regular expression")
