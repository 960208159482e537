"""Hosts that no rule has, but that annotations ask for: `server-alias` and the twin of `from-to-www-redirect`.

A host of a rule goes before a twin, a twin before an alias; among aliases of one name the oldest Ingress has it. As in ingress-nginx, one
Ingress a host decides about its aliases: the oldest that names any.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.routing.table import WWW_REDIRECT, Feature, HostAlias, HostPattern, HostRoutes, PathType, Route
from ingress.translate.annotations.hosts import twin_of
from ingress.translate.conflicts import by_precedence
from ingress.translate.fragment import Fragment
from ingress.translate.report import shown


@dataclass(slots=True)
class DerivedHosts:
    aliases: dict[HostPattern, HostAlias] = field(default_factory=dict)
    twins: dict[HostPattern, HostRoutes] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


def derive_hosts(fragments: Iterable[Fragment], real: Container[HostPattern], redirect_code: int) -> DerivedHosts:
    """`fragments` are those that ask for something; `real` the hosts of all rules."""
    derived = DerivedHosts()
    ordered = by_precedence(fragments)
    for fragment in ordered:
        if fragment.ask.www_twin:
            for host in sorted(fragment.hosts):
                _add_twin(derived, fragment, host, real, redirect_code)
    deciding: dict[HostPattern, Fragment] = {}
    for fragment in ordered:
        if not fragment.ask.aliases:
            continue
        for host in sorted(fragment.hosts):
            decides = deciding.setdefault(host, fragment)
            if decides is fragment:
                _add_aliases(derived, fragment, host, real)
            elif decides.ask.aliases != fragment.ask.aliases:
                why = f"The aliases of {host or '*'} are not added: {decides.ref} has given it others, and counts as older."
                derived.verdicts.append(_verdict(fragment, "server-alias", why, host, VerdictReason.CONFLICT))
    return derived


def _add_twin(
    derived: DerivedHosts, fragment: Fragment, host: HostPattern, real: Container[HostPattern], redirect_code: int
) -> None:
    twin = twin_of(host)
    if twin is None:
        why = f"{host or 'A rule without host'} has no twin with or without www.: nothing is redirected to it."
    elif twin in real:
        why = f"Nothing is redirected to {host}, because {twin} is the host of a rule itself."
    else:
        if twin not in derived.twins:
            feature = Feature(WWW_REDIRECT, {"host": host, "code": redirect_code})
            namespace, name = fragment.ref.namespace, fragment.ref.name
            route = Route(
                twin, "/", PathType.PREFIX, namespace, name, "", "", None, closed_status=404, features=(feature,)
            )
            derived.twins[twin] = HostRoutes(twin, (route,), twin_of=host)
        return
    derived.verdicts.append(_verdict(fragment, "from-to-www-redirect", why, host, VerdictReason.INVALID_ANNOTATION))


def _add_aliases(derived: DerivedHosts, fragment: Fragment, host: HostPattern, real: Container[HostPattern]) -> None:
    for alias in fragment.ask.aliases:
        if alias == host:
            continue
        other = derived.aliases.get(alias)
        if alias in real:
            why = f"{alias} is no alias of {host or '*'}, because it is the host of a rule itself."
        elif alias in derived.twins:
            why = f"{alias} is no alias of {host or '*'}, because from-to-www-redirect redirects it."
        elif other is not None:
            why = f"{alias} is no alias of {host or '*'}, because it is one of {other.host or '*'} already."
        else:
            rank = len(derived.aliases) if alias.startswith("~") else 0
            derived.aliases[alias] = HostAlias(alias, host, rank)
            continue
        derived.verdicts.append(_verdict(fragment, "server-alias", why, alias, VerdictReason.CONFLICT))


def _verdict(fragment: Fragment, annotation: str, message: str, value: str, reason: VerdictReason) -> Verdict:
    return Verdict(
        object=str(fragment.ref),
        field=fragment.ask.fields[annotation],
        reason=reason,
        message=message,
        severity=Severity.WARNING,
        value=shown(value),
        origin=fragment.origin,
    )
