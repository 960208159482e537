"""Canaries find the routes that they share: same host, path and pathType, as in ingress-nginx.

There may be several for one route (one in ingress-nginx). They are asked in the order of precedence of their Ingresses; the shares of their weights add up.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.routing.table import Canary, HostPattern, PathType, Route, UpstreamKey
from ingress.translate.annotations import UpstreamAsk
from ingress.translate.backends import UpstreamSpec, upstream_spec
from ingress.translate.fragment import Fragment, Placed
from ingress.translate.report import shown

Taken = Mapping[tuple[str, PathType], tuple[Fragment, Placed]]


@dataclasses.dataclass(frozen=True, slots=True)
class Attached:
    """`taken` with canaries in its routes; `derived` are upstreams that no fragment names: a canary's, with the sessions of its main route."""

    taken: dict[tuple[str, PathType], tuple[Fragment, Placed]]
    derived: dict[UpstreamKey, UpstreamSpec]
    verdicts: list[Verdict]


def attach(host: HostPattern, taken: Taken, fragments: Iterable[Fragment]) -> Attached:
    """`fragments` are the canaries of the host, winners first."""
    result = Attached(dict(taken), {}, [])
    weights: dict[tuple[str, PathType], int] = {}
    for fragment in fragments:
        for placed in fragment.hosts[host].placed:
            key = (placed.route.path, placed.route.path_type)
            holder = result.taken.get(key)
            refusal = _refusal(fragment, placed, holder)
            if refusal or holder is None or fragment.canary is None:
                result.verdicts.append(_verdict(fragment, placed, refusal, host))
                continue
            main, main_placed = holder
            canary = _canary(fragment, placed.route, main, main_placed.route, result.derived)
            weights[key] = weights.get(key, 0) + fragment.canary.weight
            if weights[key] > fragment.canary.weight_total:
                result.verdicts.append(_overweight(fragment, placed, weights[key], host))
            route = msgspec.structs.replace(main_placed.route, canaries=(*main_placed.route.canaries, canary))
            result.taken[key] = (main, dataclasses.replace(main_placed, route=route))
    return result


def _refusal(fragment: Fragment, placed: Placed, holder: tuple[Fragment, Placed] | None) -> str:
    if holder is None:
        return "no main Ingress has this host, path and pathType"
    main = holder[1].route
    if main.upstream is None:
        return f"the route of {holder[0].ref} is closed"
    if placed.route.upstream is None:
        return "its Service can't be used"
    same = (placed.route.namespace, placed.route.service, placed.route.port) == (
        main.namespace,
        main.service,
        main.port,
    )
    return f"its Service is that of {holder[0].ref} already" if same else ""


def _canary(
    fragment: Fragment, route: Route, main: Fragment, main_route: Route, derived: dict[UpstreamKey, UpstreamSpec]
) -> Canary:
    assert fragment.canary is not None
    assert route.upstream is not None
    assert main_route.upstream is not None
    upstream = route.upstream
    spec, main_ask = fragment.uses[upstream].spec, main.uses[main_route.upstream].spec.ask
    ask: UpstreamAsk = msgspec.structs.replace(
        spec.ask,
        # Its sessions are those of the main route: the same cookie, which says whose endpoint it stands for.
        cookie=main_ask.cookie if fragment.canary.sticky else spec.ask.cookie,
        # It is spoken to as the main Ingress says. What closes that one's routes closes this one's too.
        protocol=main_ask.protocol,
        tls=main_ask.tls,
        http_version=main_ask.http_version,
        connection_header=main_ask.connection_header,
    )
    if ask != spec.ask:
        spec = upstream_spec(spec.namespace, spec.service, spec.port_number, spec.port_name, ask)
        derived[spec.key] = spec
        upstream = spec.key
    own = msgspec.structs.replace(
        main_route,
        namespace=route.namespace,
        ingress=route.ingress,
        service=route.service,
        port=route.port,
        upstream=upstream,
        canaries=(),
    )
    return Canary(own, fragment.canary)


def with_pattern(route: Route) -> Route:
    """Its canaries matched by the regular expression that it got."""
    if not route.canaries:
        return route
    canaries = tuple(Canary(msgspec.structs.replace(c.route, pattern=route.pattern), c.rule) for c in route.canaries)
    return msgspec.structs.replace(route, canaries=canaries)


def _verdict(fragment: Fragment, placed: Placed, why: str, host: HostPattern) -> Verdict:
    return Verdict(
        object=str(fragment.ref),
        field=placed.field,
        reason=VerdictReason.CANARY_WITHOUT_MAIN,
        message=f"The canary gets no request here: {why}.",
        severity=Severity.ERROR,
        value=shown(f"{host or '*'}{placed.route.path} ({placed.route.path_type})"),
        origin=fragment.origin,
    )


def _overweight(fragment: Fragment, placed: Placed, weight: int, host: HostPattern) -> Verdict:
    assert fragment.canary is not None
    return Verdict(
        object=str(fragment.ref),
        field=placed.field,
        reason=VerdictReason.INVALID_ANNOTATION,
        message=f"The weights of the canaries here add up to more than {fragment.canary.weight_total}: the last ones get less, and the main Ingress nothing.",
        severity=Severity.WARNING,
        value=shown(f"{host or '*'}{placed.route.path}: {weight}"),
        origin=fragment.origin,
    )
