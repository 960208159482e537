"""The routing table and its verdicts as JSON. Pure; tables are immutable, so it may run in a thread.

A table holds private keys and what features know of credentials: neither is shown, of a certificate only what every
client sees. A verdict quotes the offending value, which for a Secret would be its content: those values are left out.
"""

from collections.abc import Container, Iterable, Sequence
from datetime import datetime

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.model.ref import Kind
from ingress.routing.table import (
    ANY_HOST,
    Balancing,
    HostPattern,
    HostRoutes,
    Route,
    RoutingTable,
    TrafficPolicy,
    Upstream,
    UpstreamKey,
    UpstreamProtocol,
)
from ingress.routing.tls import CertificateKey, TLSHost
from ingress.translate.tls.inspect import facts_of_chain

HIDDEN = "(hidden)"


class VerdictDump(msgspec.Struct, frozen=True):
    object: str
    field: str
    reason: VerdictReason
    severity: Severity
    value: str
    message: str
    origin: str


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


class HostDump(msgspec.Struct, frozen=True):
    host: HostPattern
    routes: list[RouteDump]
    default: RouteDump | None
    certificate: bool = False  # one is configured for the host: plain HTTP may be redirected


class UpstreamDump(msgspec.Struct, frozen=True):
    key: UpstreamKey
    namespace: str
    service: str
    port: str
    protocol: UpstreamProtocol
    endpoints: list[str]  # ip:port, IPv6 in brackets
    balancing: Balancing


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
    tls_hosts: list[TLSHostDump] = []
    default_certificate: CertificateDump | None = None


class VerdictsDump(msgspec.Struct, frozen=True):
    verdicts: list[VerdictDump]


def _verdict(v: Verdict) -> VerdictDump:
    secret = v.object.split(" ", 1)[0] == Kind.SECRET
    value = HIDDEN if secret and v.value else v.value
    return VerdictDump(v.object, v.field, v.reason, v.severity, value, v.message, v.origin)


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
    )


def _host(h: HostRoutes) -> HostDump:
    default = _route(h.default) if h.default else None
    return HostDump(h.host, [_route(r) for r in h.routes], default, h.certificate)


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
    return UpstreamDump(u.key, u.namespace, u.service, u.port, u.protocol, endpoints, u.balancing)


def host_pattern(patterns: Container[HostPattern], asked: str) -> HostPattern | None:
    """The one of `patterns` that answers for a host: itself, the wildcard that covers its first label, any host;
    or None.

    `asked` may also be a pattern, and may carry a port.
    """
    host = asked.strip().lower()
    name, sep, port = host.rpartition(":")
    if sep and port.isdigit() and not name.endswith(":"):
        host = name
    wildcard = "*." + host.partition(".")[2]
    for pattern in (HostPattern(host), HostPattern(wildcard), ANY_HOST):
        if pattern in patterns:
            return pattern
    return None


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
        pattern = host_pattern(table.hosts, host)
        hosts = [] if pattern is None else [table.hosts[pattern]]
    default = _default_for(table, hosts, filtered=host is not None)
    if host is None:
        tls_hosts = [table.tls_hosts[key] for key in sorted(table.tls_hosts)]
    else:
        pattern = host_pattern(table.tls_hosts, host)
        tls_hosts = [] if pattern is None else [table.tls_hosts[pattern]]
    if host is None:
        keys = set(table.upstreams)
    else:
        routes = [r for h in hosts for r in (*h.routes, h.default) if r] + ([default] if default else [])
        keys = {r.upstream for r in routes if r.upstream is not None and r.upstream in table.upstreams}
    return _pretty(
        TableDump(
            id=table.id,
            age_s=round(age_s, 3),
            hosts=[_host(h) for h in hosts],
            upstreams=[_upstream(table.upstreams[key]) for key in sorted(keys)],
            default=_route(default) if default else None,
            verdicts=[_verdict(v) for v in verdicts],
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
