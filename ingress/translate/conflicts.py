"""Several Ingresses, one host: who owns what.

The oldest wins, by creationTimestamp; of equals the one whose `namespace/name` sorts last, as in ingress-nginx. A newer Ingress never takes
a host or path from an older one, not even when the older one's Service is missing: traffic must not change hands by accident. The default
backend of all hosts is nobody's in particular: there a Service without endpoints comes last.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.routing.table import HostPattern, HostRoutes, PathType, Route, UpstreamKey
from ingress.translate.backends import UpstreamSpec
from ingress.translate.canaries import attach, with_pattern
from ingress.translate.fragment import UNKNOWN_AGE, Fragment, Placed
from ingress.translate.regex_mode import describe, find_cause, regex_routes
from ingress.translate.report import shown


def by_precedence(fragments: Iterable[Fragment]) -> list[Fragment]:
    """Winners first; independent of the order of `fragments`."""
    ordered = sorted(fragments, key=_name, reverse=True)
    ordered.sort(key=_created)
    return ordered


def _name(fragment: Fragment) -> str:
    return fragment.name


def _created(fragment: Fragment) -> float:
    return fragment.created


@dataclass(frozen=True, slots=True)
class MergedHost:
    """`routes` None: only canaries have the host. `derived` are upstreams of canaries that no fragment names."""

    routes: HostRoutes | None
    verdicts: tuple[Verdict, ...] = ()
    derived: Mapping[UpstreamKey, UpstreamSpec] = field(default_factory=dict)


def merge_host(host: HostPattern, fragments: Iterable[Fragment]) -> MergedHost:
    """`fragments` are those that have the host, in order of precedence. Routes come sorted by path and type, in regex mode in order of precedence."""
    taken: dict[tuple[str, PathType], tuple[Fragment, Placed]] = {}
    default: tuple[Fragment, Placed] | None = None
    app_root: tuple[Fragment, Placed] | None = None
    verdicts: list[Verdict] = []
    known = False
    canaries: list[Fragment] = []
    for fragment in fragments:
        part = fragment.hosts[host]
        if fragment.canary is not None:
            canaries.append(fragment)
            continue
        known = True
        if part.app_root is not None:
            if app_root is None:
                app_root = (fragment, part.app_root)
            elif app_root[1].route.features != part.app_root.route.features:
                verdicts.append(_conflict(fragment, part.app_root, f"app-root of host {host or '*'}", app_root))
        for placed in part.placed:
            route = placed.route
            key = (route.path, route.path_type)
            holder = taken.get(key)
            if holder is None:
                taken[key] = (fragment, placed)
            else:
                what = f"{host or '*'}{route.path} ({route.path_type})"
                verdicts.append(_conflict(fragment, placed, what, holder))
        if part.default is not None:
            if default is None:
                default = (fragment, part.default)
            else:
                verdicts.append(_conflict(fragment, part.default, f"default backend of host {host or '*'}", default))
    derived: Mapping[UpstreamKey, UpstreamSpec] = {}
    if canaries:
        attached = attach(host, taken, canaries)
        taken, derived = attached.taken, attached.derived
        verdicts += attached.verdicts
        if not known:
            return MergedHost(None, tuple(verdicts))
    default_route = default[1].route if default is not None else None
    cause = find_cause(taken.values())
    if cause is None:
        verdicts += [_literal(fragment, placed) for fragment, placed in taken.values() if placed.looks_like_regex]
        routes = tuple(sorted([placed.route for _, placed in taken.values()], key=_position))
    else:
        routes, found = regex_routes(host, tuple(taken.values()), cause)
        routes = tuple(with_pattern(route) for route in routes)
        verdicts += found
        if default_route is not None:
            default_route = msgspec.structs.replace(default_route, pattern=default_route.path)
    merged = HostRoutes(
        host,
        routes,
        default_route,
        regex_cause="" if cause is None else describe(cause),
        app_root=None if app_root is None else app_root[1].route,
    )
    return MergedHost(merged, tuple(verdicts), derived)


def _literal(fragment: Fragment, placed: Placed) -> Verdict:
    return Verdict(
        object=str(fragment.ref),
        field=f"{placed.field}.path",
        reason=VerdictReason.INVALID_FIELD,
        message="It looks like a regular expression, but is matched literally, as a prefix: use-regex is not set.",
        severity=Severity.WARNING,
        value=shown(placed.path),
        origin=fragment.origin,
    )


def _position(route: Route) -> tuple[str, str]:
    return route.path, route.path_type


_CATCH_ALL = "default backend of all hosts"


def choose_catch_all(
    fragments: Iterable[Fragment], is_served: Callable[[Fragment], bool]
) -> tuple[Route | None, tuple[Verdict, ...]]:
    """The Ingress whose default backend answers for unknown hosts, and verdicts for the others.

    Whose Service has no endpoints comes after all others: a namespace that is being deleted keeps its Ingresses until its last Pod has ended, and
    what nobody else asked for by name should not be answered with 503 as long as somebody can answer it.
    """
    holder: tuple[Fragment, Placed] | None = None
    verdicts: list[Verdict] = []
    claims = [fragment for fragment in by_precedence(fragments) if fragment.catch_all is not None]
    if len(claims) > 1:
        claims.sort(key=lambda fragment: not is_served(fragment))  # stable
    for fragment in claims:
        assert fragment.catch_all is not None
        if holder is None:
            holder = (fragment, fragment.catch_all)
        else:
            verdicts.append(_conflict(fragment, fragment.catch_all, _CATCH_ALL, holder))
    return (holder[1].route if holder is not None else None), tuple(verdicts)


def why_lost(winner: Fragment, loser: Fragment) -> str:
    """A clause. They are different Ingresses, and `winner` goes first by precedence."""
    if winner.created == loser.created:
        return f"{winner.ref} has it already: neither is older, and the name that sorts last wins"
    if winner.created == UNKNOWN_AGE:
        return f"{winner.ref} has it already, and counts as older because it has no creationTimestamp"
    return f"{winner.ref} has it already, and is older"


def _conflict(loser: Fragment, placed: Placed, what: str, holder: tuple[Fragment, Placed]) -> Verdict:
    winner, winning = holder
    if winner is loser:
        why = f"the same Ingress has it already in {winning.field}, and the first one counts"
    elif what == _CATCH_ALL and by_precedence((winner, loser))[0] is loser:
        why = f"its Service has no endpoints, and that of {winner.ref} has"
    else:
        why = why_lost(winner, loser)
    return Verdict(
        object=str(loser.ref),
        field=placed.field,
        reason=VerdictReason.CONFLICT,
        message=f"It is left out: {why}.",
        severity=Severity.ERROR,
        value=shown(what),
        origin=loser.origin,
    )
