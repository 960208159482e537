"""The routing table and its verdicts as JSON. Pure; tables are immutable, so it may run in a thread.

A table holds private keys: of a certificate only what every client sees is shown. What else may be secret is left out: the policies of features
that aren't known to hold nothing of the kind, and, of a verdict about a Secret, the offending value, which is its content.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.middleware.registry import BY_NAME
from ingress.model.ref import Kind
from ingress.routing.alias import alias_of
from ingress.routing.table import (
    ANY_HOST,
    Balancing,
    CanaryRule,
    Feature,
    HealthCheck,
    HostPattern,
    HostRoutes,
    Route,
    RoutingTable,
    TCPService,
    TrafficPolicy,
    Upstream,
    UpstreamKey,
    UpstreamProtocol,
)
from ingress.routing.tls import CertificateKey, TLSHost, UpstreamTLS
from ingress.tls.choice import tls_host
from ingress.translate.tls.inspect import facts_of_chain

HIDDEN = "(hidden)"
_SHOWN = frozenset(  # policies, whole
    ("app-root", "ip-access", "redirect", "rewrite", "rewrite-redirect", "satisfy", "upstream-vhost", "www-redirect")
)


class VerdictDump(msgspec.Struct, frozen=True):
    object: str
    field: str
    reason: VerdictReason
    severity: Severity
    value: str
    message: str
    origin: str


class FeatureDump(msgspec.Struct, frozen=True):
    name: str
    policy: dict[str, Any] | None  # null: not shown, it may hold credentials


class CanaryDump(msgspec.Struct, frozen=True):
    namespace: str
    ingress: str
    service: str
    port: str
    upstream: UpstreamKey | None
    rule: CanaryRule


class RouteDump(msgspec.Struct, frozen=True):
    host: HostPattern
    path: str
    path_type: str
    namespace: str
    ingress: str
    service: str
    port: str
    upstream: UpstreamKey | None
    policy: TrafficPolicy
    closed_status: int | None  # null: the route is open
    closed_reason: str
    pattern: str  # of a host in regex mode; empty: `path` is matched by `path_type`
    features: list[FeatureDump]  # what acts on its requests
    canaries: list[CanaryDump]  # in the order in which they are asked


class HostDump(msgspec.Struct, frozen=True):
    host: HostPattern
    routes: list[RouteDump]
    default: RouteDump | None
    regex_cause: str  # why its paths are regular expressions, and then in order of precedence; empty: they are not
    app_root: RouteDump | None  # answers for / alone
    aliases: list[HostPattern]
    certificate: bool = False  # one is configured for the host: plain HTTP may be redirected


class UpstreamTLSDump(msgspec.Struct, frozen=True):
    """No certificate, and no key."""

    verify: bool
    name: str
    server_name: bool
    depth: int
    ciphers: str
    protocols: tuple[str, ...]
    revocation_lists: bool
    client_certificate: bool


class UpstreamDump(msgspec.Struct, frozen=True):
    key: UpstreamKey
    namespace: str
    service: str
    port: str
    protocol: UpstreamProtocol
    endpoints: list[str]  # ip:port, IPv6 in brackets
    balancing: Balancing
    tls: UpstreamTLSDump | None
    http_version: str
    connection_header: str
    health_check: HealthCheck | None


class CertificateDump(msgspec.Struct, frozen=True):
    """Of the first certificate of a chain."""

    subject: str
    names: list[str]
    issuer: str
    not_before: datetime
    not_after: datetime
    serial_number: str  # hexadecimal, as OpenSSL writes it
    fingerprint: str  # SHA-256
    key_algorithm: str


class TLSHostDump(msgspec.Struct, frozen=True):
    host: HostPattern
    certificates: list[CertificateDump]  # empty: the default certificate
    client_verify: str | None  # null: no client is asked for a certificate
    client_verify_depth: int | None
    ciphers: str
    passthrough: str


class TableDump(msgspec.Struct, frozen=True):
    """What `/debug/table` answers; `msgspec.json.decode(body, type=TableDump)` reads it back."""

    id: str
    age_s: float
    hosts: list[HostDump]
    upstreams: list[UpstreamDump]
    default: RouteDump | None
    verdicts: list[VerdictDump]
    tcp_services: list[TCPService] = []  # with a filter by host: none
    tls_hosts: list[TLSHostDump] = []
    default_certificate: CertificateDump | None = None


class VerdictsDump(msgspec.Struct, frozen=True):
    verdicts: list[VerdictDump]


def _verdict(v: Verdict) -> VerdictDump:
    secret = v.object.split(" ", 1)[0] == Kind.SECRET
    value = HIDDEN if secret and v.value else v.value
    return VerdictDump(v.object, v.field, v.reason, v.severity, value, v.message, v.origin)


def _shown(feature: Feature) -> dict[str, Any] | None:
    """Its policy, without the fields that its middleware declares as not to be shown."""
    if feature.name in _SHOWN:
        return feature.policy
    spec = BY_NAME.get(feature.name)
    if spec is None or not spec.hidden:
        return None
    return {name: HIDDEN if name in spec.hidden else value for name, value in feature.policy.items()}


def _route(r: Route) -> RouteDump:
    return RouteDump(
        host=r.host,
        path=r.path,
        path_type=r.path_type.value,
        namespace=r.namespace,
        ingress=r.ingress,
        service=r.service,
        port=r.port,
        upstream=r.upstream,
        policy=r.policy,
        closed_status=r.closed_status if r.upstream is None else None,
        closed_reason=r.closed_reason,
        pattern=r.pattern,
        features=[FeatureDump(f.name, _shown(f)) for f in r.features],
        canaries=[
            CanaryDump(c.route.namespace, c.route.ingress, c.route.service, c.route.port, c.route.upstream, c.rule)
            for c in r.canaries
        ],
    )


def _aliases(table: RoutingTable) -> dict[HostPattern, list[HostPattern]]:
    """By host."""
    found: dict[HostPattern, list[HostPattern]] = {}
    for alias in table.aliases.values():
        found.setdefault(alias.host, []).append(alias.pattern)
    return found


def _host(h: HostRoutes, aliases: Iterable[HostPattern]) -> HostDump:
    return HostDump(
        h.host,
        [_route(r) for r in h.routes],
        _route(h.default) if h.default else None,
        h.regex_cause,
        _route(h.app_root) if h.app_root else None,
        sorted(aliases),
        h.certificate,
    )


def _certificate(table: RoutingTable, key: CertificateKey) -> CertificateDump:
    facts = facts_of_chain(table.certificates[key].chain)
    return CertificateDump(
        subject=facts.subject,
        names=list(facts.names),
        issuer=facts.issuer,
        not_before=facts.not_before,
        not_after=facts.not_after,
        serial_number=f"{facts.serial_number:X}",
        fingerprint=facts.fingerprint,
        key_algorithm=facts.key_algorithm,
    )


def _tls_host(table: RoutingTable, h: TLSHost) -> TLSHostDump:
    client = h.client_auth
    return TLSHostDump(
        host=h.host,
        certificates=[_certificate(table, key) for key in h.certificates],
        client_verify=None if client is None else client.verify.value,
        client_verify_depth=None if client is None else client.depth,
        ciphers=h.ciphers,
        passthrough=h.passthrough,
    )


def _upstream(u: Upstream) -> UpstreamDump:
    endpoints = [f"[{e.address}]:{e.port}" if ":" in e.address else f"{e.address}:{e.port}" for e in u.endpoints]
    return UpstreamDump(
        u.key,
        u.namespace,
        u.service,
        u.port,
        u.protocol,
        endpoints,
        u.balancing,
        None if u.tls is None else _upstream_tls(u.tls),
        u.http_version,
        u.connection_header,
        u.health_check,
    )


def _upstream_tls(tls: UpstreamTLS) -> UpstreamTLSDump:
    return UpstreamTLSDump(
        tls.verify,
        tls.name,
        tls.server_name,
        tls.depth,
        tls.ciphers,
        tls.protocols,
        bool(tls.crl),
        tls.certificate is not None,
    )


def _bare(asked: str) -> str:
    """Lower case, without port."""
    host = asked.strip().lower()
    name, sep, port = host.rpartition(":")
    return name if sep and port.isdigit() and not name.endswith(":") else host


def host_pattern(table: RoutingTable, asked: str) -> HostPattern | None:
    """The pattern of the table that answers for a host: itself, the wildcard that covers its first label, the host that it is an alias of,
    any host; or None.

    `asked` may also be a pattern, and may carry a port.
    """
    host = _bare(asked)
    if HostPattern(host) in table.hosts:
        return HostPattern(host)
    aliased = alias_of(table, host)
    if aliased is not None:
        return aliased
    wildcard = HostPattern("*." + host.partition(".")[2])
    if wildcard in table.hosts:
        return wildcard
    return ANY_HOST if ANY_HOST in table.hosts else None


def _default_for(table: RoutingTable, hosts: Sequence[HostRoutes], filtered: bool) -> Route | None:
    return None if filtered and any(h.default for h in hosts) else table.default


def dump_table(
    table: RoutingTable, verdicts: Iterable[Verdict], *, age_s: float = 0.0, host: str | None = None
) -> bytes:
    """A `TableDump` as JSON, hosts and upstreams sorted. With `host`: what answers for that host only, that is the
    routes of its pattern, the default backend behind them, and their upstreams; verdicts stay complete, since what
    was rejected has no route to be found by.
    """
    if host is None:
        hosts = [table.hosts[key] for key in sorted(table.hosts)]
    else:
        pattern = host_pattern(table, host)
        hosts = [] if pattern is None else [table.hosts[pattern]]
    default = _default_for(table, hosts, filtered=host is not None)
    if host is None:
        tls_hosts = [table.tls_hosts[key] for key in sorted(table.tls_hosts)]
    else:
        found = tls_host(table, _bare(host))
        tls_hosts = [] if found is None else [found]
    if host is None:
        keys = set(table.upstreams)
    else:
        routes = [r for h in hosts for r in (*h.routes, h.default) if r] + ([default] if default else [])
        named = {r.upstream for r in routes} | {c.route.upstream for r in routes for c in r.canaries}
        keys = {key for key in named if key is not None and key in table.upstreams}
    aliases = _aliases(table)
    return _pretty(
        TableDump(
            id=table.id,
            age_s=round(age_s, 3),
            hosts=[_host(h, aliases.get(h.host, ())) for h in hosts],
            upstreams=[_upstream(table.upstreams[key]) for key in sorted(keys)],
            default=_route(default) if default else None,
            verdicts=[_verdict(v) for v in verdicts],
            tcp_services=[table.tcp_services[port] for port in sorted(table.tcp_services)] if host is None else [],
            tls_hosts=[_tls_host(table, h) for h in tls_hosts],
            default_certificate=(
                None if table.default_certificate is None else _certificate(table, table.default_certificate)
            ),
        )
    )


def dump_verdicts(verdicts: Iterable[Verdict]) -> bytes:
    """A `VerdictsDump` as JSON, in the order given."""
    return _pretty(VerdictsDump([_verdict(v) for v in verdicts]))


def _pretty(dump: TableDump | VerdictsDump) -> bytes:
    """Indented, because people read it with curl; a program does not mind."""
    return msgspec.json.format(msgspec.json.encode(dump), indent=1) + b"\n"
