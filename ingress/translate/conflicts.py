"""Several Ingresses, one host: who owns what.

The oldest wins, by creationTimestamp; of equals the one whose `namespace/name` sorts last, as in ingress-nginx. A newer Ingress never takes
anything from an older one, not even when the older one's Service is missing: traffic must not change hands by accident.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.routing.table import HostPattern, HostRoutes, PathType, Route
from ingress.translate.fragment import UNKNOWN_AGE, Fragment, Placed
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
    routes: HostRoutes
    verdicts: tuple[Verdict, ...] = ()


def merge_host(host: HostPattern, fragments: Iterable[Fragment]) -> MergedHost:
    """`fragments` are those that have the host. Routes come sorted by path and type."""
    taken: dict[tuple[str, PathType], tuple[Fragment, Placed]] = {}
    default: tuple[Fragment, Placed] | None = None
    verdicts: list[Verdict] = []
    for fragment in by_precedence(fragments):
        part = fragment.hosts[host]
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
    routes = tuple(sorted((placed.route for _, placed in taken.values()), key=_position))
    return MergedHost(HostRoutes(host, routes, default[1].route if default is not None else None), tuple(verdicts))


def _position(route: Route) -> tuple[str, str]:
    return route.path, route.path_type


def choose_catch_all(fragments: Iterable[Fragment]) -> tuple[Route | None, tuple[Verdict, ...]]:
    """The Ingress whose default backend answers for unknown hosts, and verdicts for the others."""
    holder: tuple[Fragment, Placed] | None = None
    verdicts: list[Verdict] = []
    for fragment in by_precedence(fragments):
        if fragment.catch_all is None:
            continue
        if holder is None:
            holder = (fragment, fragment.catch_all)
        else:
            verdicts.append(_conflict(fragment, fragment.catch_all, "default backend of all hosts", holder))
    return (holder[1].route if holder is not None else None), tuple(verdicts)


def _conflict(loser: Fragment, placed: Placed, what: str, holder: tuple[Fragment, Placed]) -> Verdict:
    winner, winning = holder
    if winner is loser:
        why = f"the same Ingress has it already in {winning.field}, and the first one counts"
    elif winner.created != loser.created:
        why = f"{winner.ref} has it already, and is older"
        if winner.created == UNKNOWN_AGE:
            why = f"{winner.ref} has it already, and counts as older because it has no creationTimestamp"
    else:
        why = f"{winner.ref} has it already: neither is older, and the name that sorts last wins"
    return Verdict(
        object=str(loser.ref),
        field=placed.field,
        reason=VerdictReason.CONFLICT,
        message=f"It is left out: {why}.",
        severity=Severity.ERROR,
        value=shown(what),
        origin=loser.origin,
    )
