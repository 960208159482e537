"""Which of a table's TLS hosts a connection belongs to, by the name in its ClientHello, and what it's good for. Pure."""

import enum

from ingress.routing.alias import alias_of
from ingress.routing.table import RoutingTable
from ingress.routing.tls import HostPattern, TLSHost


def wildcard_of(name: str) -> HostPattern:
    """The pattern with one label less: `*.b.c` for `a.b.c`; empty for a name of one label."""
    _, dot, rest = name.partition(".")
    return HostPattern(f"*.{rest}" if dot and rest else "")


def tls_host(table: RoutingTable, name: str) -> TLSHost | None:
    """Exact host, then one-label wildcard, then the host that stands for any. `name` in lower case; empty: no SNI.

    An alias is met as its host is, client certificates included: it leads to the same routes.
    """
    hosts = table.tls_hosts
    host = alias_of(table, name)
    if host is not None:
        name = host
        if not host or host.startswith("*."):
            return hosts.get(host)
    if name:
        twin = table.hosts.get(HostPattern(name))
        if twin is not None and twin.twin_of and HostPattern(name) not in hosts:
            # It only redirects, so it shows the certificate of its twin and asks for none.
            other = tls_host(table, twin.twin_of)
            return other and TLSHost(twin.host, other.certificates, None, other.ciphers, other.prefer_server_ciphers)
        found = hosts.get(HostPattern(name)) or hosts.get(wildcard_of(name) or HostPattern(name))
        if found is not None:
            return found
        # A host that an Ingress routes without an own entry here is not met as any host is: nginx makes one server of each.
        if known_host(table, name):
            return None
    return hosts.get(HostPattern(""))


def known_host(table: RoutingTable, name: str) -> bool:
    """Whether some Ingress has this host, exactly, by a wildcard or as an alias."""
    if not name:
        return False
    if alias_of(table, name) is not None:
        return True
    wildcard = wildcard_of(name)
    return any(
        HostPattern(name) in patterns or (wildcard != "" and wildcard in patterns)
        for patterns in (table.tls_hosts, table.hosts)
    )


class Standing(enum.Enum):
    """What the client certificate (or none) of a connection is worth for a request."""

    GOOD = (
        enum.auto()
    )  # the host of the request asks for none, or it was asked for in the handshake as this host would have
    OUTDATED = (
        enum.auto()
    )  # it was, but by a table that has changed since: the request is served, and the connection ends
    MISDIRECTED = enum.auto()  # it was not: 421


def standing(table: RoutingTable, name: str, negotiated: TLSHost | None) -> Standing:
    """Of a request for host `name` on a connection whose SNI led to `negotiated`.

    Without this, a client could name a host without client certificates in SNI, and one with them in Host.
    """
    host = tls_host(table, name)
    auth = None if host is None else host.client_auth
    if host is None or auth is None:
        return Standing.GOOD
    if negotiated is None or negotiated.client_auth is None:
        return Standing.MISDIRECTED
    if negotiated.client_auth is auth or negotiated.client_auth == auth:
        return Standing.GOOD
    return Standing.OUTDATED if negotiated.host == host.host else Standing.MISDIRECTED
