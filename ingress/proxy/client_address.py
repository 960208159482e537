"""Who a request comes from, by what scheme, port and host: settled once, before anything looks at it (docs/client-address.md).

Semantics of ingress-nginx (its template's `real_ip_header`, `real_ip_recursive on`, `set_real_ip_from`, and `lua_ingress.rewrite`), but that nothing at all
is believed of a peer that isn't trusted; there, use-forwarded-headers believes anybody's X-Forwarded-Proto, -Port and -Host.

Compiled once per settings. Where nobody is to be believed there is no resolver, and a request costs nothing. Sans-IO.
"""

from collections.abc import Iterable, Sequence

from ingress.config import ClientSettings
from ingress.exchange import Exchange, Field, FieldPieces, iter_fields
from ingress.proxy.http1 import forwarded_block
from ingress.proxy.proxy_protocol import ProxyHeader
from ingress.routing.networks import NetworkSet, packed_address, unpacked_address
from ingress.routing.trie import normalize_host

_HOPS_LIMIT = 64  # trusted proxies in a row; nobody has as many, and each costs a look-up
_LONGEST_HOST = 255
_SCHEME_CHARACTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789+-.")
_LONGEST_SCHEME = 16


class Hop:
    """What is known of a connection before it carries a request: its client, or whom a PROXY header names.

    `forwarded` is the header block for endpoints where nothing else is believed.
    """

    __slots__ = ("address", "forwarded", "port", "scheme")

    def __init__(self, address: str, port: int, scheme: str) -> None:
        self.address = address
        self.port = port  # that the client connected to
        self.scheme = scheme
        self.forwarded = forwarded_block(address, port, scheme)

    def __repr__(self) -> str:
        return f"<Hop {self.scheme} {self.address} to port {self.port}>"


NO_HOP = Hop("0.0.0.0", 0, "http")
"""Of a connection that is not one yet."""


class ClientResolver:
    """Settles the requests of trusted peers."""

    __slots__ = ("_field", "_forwarded_headers", "_full", "_standard", "_trusted")

    def __init__(self, settings: ClientSettings, trusted: NetworkSet) -> None:
        self._trusted = trusted
        self._field = settings.forwarded_for_header.lower().encode("latin-1")
        self._standard = self._field == b"x-forwarded-for"
        self._forwarded_headers = settings.forwarded_headers
        self._full = settings.forwarded_headers and settings.full_forwarded_for

    def settle(self, exchange: Exchange, hop: Hop, told: Iterable[Field], received: FieldPieces) -> None:
        """Set what `exchange` is to be taken for, by the fields that a trusted peer sent.

        `told` are those that a listener keeps from endpoints: X-Forwarded-* and the like, in their order, names as received. `received` are the others,
        with those that Connection names: it must not hide who the client is. Called before routing, with `exchange.authority` as received.
        """
        chain: list[bytes] = []  # X-Forwarded-For
        scheme = port = host = b""
        for name, value in told:
            lower = name.lower()
            if lower == b"x-forwarded-for":
                chain.append(value)
            elif not self._forwarded_headers:
                continue
            elif lower == b"x-forwarded-proto":
                scheme = scheme or _first(value)
            elif lower == b"x-forwarded-port":
                port = port or _first(value)
            elif lower == b"x-forwarded-host":
                host = host or _first(value)
        named = chain if self._standard else [v for n, v in iter_fields(received) if n.lower() == self._field]
        client = client_of(hop.address, named, self._trusted)
        exchange.client_address = client
        if scheme and (known := scheme_of(scheme)):
            exchange.scheme = known
        if host and is_host(host):
            exchange.host = exchange.authority  # it is still what a route is chosen by
            exchange.authority = host
        if not self._standard:
            exchange.remove_fields(b"x-original-forwarded-for")
            if named:
                exchange.add_field(b"X-Original-Forwarded-For", b", ".join(named))
        exchange.forwarded = forwarded_block(
            client, port_of(port) or hop.port, exchange.scheme.decode("ascii"), self._chain(client, hop, chain)
        )

    def _chain(self, client: str, hop: Hop, chain: Sequence[bytes]) -> str:
        """X-Forwarded-For for endpoints: the client alone, or with `full_forwarded_for` everything that was said, and by whom."""
        if not self._full or not chain:
            return hop.address if self._full else client
        return f"{b', '.join(chain).decode('latin-1')}, {hop.address}"


class ClientRules:
    """`ClientSettings`, compiled. New connections ask once; `proxy_header` says whether they begin with a PROXY header."""

    __slots__ = ("_resolver", "_trusted", "proxy_header", "proxy_header_timeout_s")

    def __init__(self, settings: ClientSettings) -> None:
        self._trusted = NetworkSet(settings.trusted_networks)
        believes = (settings.forwarded_headers or settings.real_ip) and self._trusted
        self._resolver = ClientResolver(settings, self._trusted) if believes else None
        self.proxy_header = settings.proxy_protocol
        self.proxy_header_timeout_s = settings.proxy_protocol_timeout_s

    def hop(self, peer: str, port: int, scheme: str, header: ProxyHeader | None) -> Hop:
        """Of a connection from `peer` to `port`. A header counts if it names anybody, and `peer` is trusted.

        Port 443 there means that the balancer took TLS off, as in ingress-nginx.
        """
        if header is None or not header.source or not self._trusted.contains(peer):
            return Hop(peer, port, scheme)
        port = header.destination_port
        return Hop(header.source, port, "https" if port == 443 else scheme)

    def resolver(self, hop: Hop) -> ClientResolver | None:
        """Who settles the requests of such a connection. None: they are the hop's."""
        return self._resolver if self._resolver is not None and self._trusted.contains(hop.address) else None


def client_of(peer: str, chain: Sequence[bytes], trusted: NetworkSet) -> str:
    """From right to left through `chain` (field values in their order) as long as who said it is trusted; `peer`, who said the last, must be.

    Ends at the first address that isn't trusted, at the last one, or before what is no address: then the one that said it is the client. Entries are separated
    by commas or white space, and may have a port.
    """
    client = peer
    hops = 0
    for value in reversed(chain):
        rest = value.replace(b" ", b",").replace(b"\t", b",")
        while rest:
            rest, _, entry = rest.rpartition(b",")
            if not entry:
                continue
            hops += 1
            packed = _address(entry) if hops <= _HOPS_LIMIT else None
            if packed is None:
                return client
            client = unpacked_address(packed)
            if not trusted.has(packed):
                return client
    return client


def _address(entry: bytes) -> bytes | None:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`."""
    try:
        text = entry.decode("ascii")
    except UnicodeDecodeError:
        return None
    port = ""
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text or (port and not port.startswith(":")):
            return None
        port = port[1:] if port else ""
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    if port and not (port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        return None
    return packed_address(text)


def _first(value: bytes) -> bytes:
    """Of several, the one that the first front said (ingress-nginx does so for hosts alone)."""
    return value.partition(b",")[0].strip()


def scheme_of(value: bytes) -> bytes:
    """In lower case; empty for what is none (RFC 3986 section 3.1)."""
    lower = value.lower()
    if len(lower) <= _LONGEST_SCHEME and lower[:1].isalpha() and _SCHEME_CHARACTERS.issuperset(lower):
        return lower
    return b""


def port_of(value: bytes) -> int:
    """0 for what is none."""
    return int(value) if value.isdigit() and len(value) <= 5 and 0 < int(value) <= 65535 else 0


def is_host(value: bytes) -> bool:
    """A host with or without a port, such as Host may have."""
    if len(value) > _LONGEST_HOST:
        return False
    try:
        return normalize_host(value) != b""
    except ValueError:
        return False
