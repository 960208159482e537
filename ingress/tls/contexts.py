"""From what the table says about a host to what a handshake needs, made at the first handshake that wants it and kept by content.

Measured with OpenSSL 3.0: a context costs 0.6 ms and 20 KiB for one certificate, so a worker that knows 1,000 certificates has nothing of
them until they are asked for, and a new table costs nothing here.
"""

import logging
import ssl
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from ingress.config import TLSSettings
from ingress.routing.table import RoutingTable
from ingress.routing.tls import Certificate, CertificateKey, ClientAuth, TLSHost
from ingress.tls.choice import known_host, tls_host
from ingress.tls.engine import Engine, StandardEngine
from ingress.tls.pem import memory_file

_log = logging.getLogger(__name__)

CONTEXTS_LIMIT = 1024
"""Contexts kept in a worker, the last recently used goes first."""

SESSIONS_LIMIT = 20_000
"""Handshakes that leave a session behind (about 1 KiB), over all contexts, until the contexts are made anew without any. OpenSSL bounds the
sessions of one context alone, and its time-out for them can't be set from Python: contexts older than `session_timeout_s` go too."""

VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
_SWITCHED_OFF = {
    "TLSv1": ssl.OP_NO_TLSv1,
    "TLSv1.1": ssl.OP_NO_TLSv1_1,
    "TLSv1.2": ssl.OP_NO_TLSv1_2,
    "TLSv1.3": ssl.OP_NO_TLSv1_3,
}


class ServerContext(Protocol):
    def open(self) -> Engine:
        """A server's side of one connection, before its first byte."""


class Refusal(Exception):
    """No handshake for this name. `alert` is the code to send (RFC 8446 section 6.2), `reason` a label for the metric."""

    def __init__(self, reason: str, alert: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.alert = alert


_UNRECOGNIZED_NAME, _INTERNAL_ERROR = 112, 80


def limit_protocols(context: ssl.SSLContext, protocols: Sequence[str]) -> None:
    """Allow these of `VERSIONS` and no other; names that are none are passed over. Raises ValueError when nothing is left."""
    wanted = [version for version in VERSIONS if version in protocols]
    if not wanted:
        raise ValueError(f"no TLS version among {' '.join(protocols)!r}")
    context.minimum_version = VERSIONS[wanted[0]]
    context.maximum_version = VERSIONS[wanted[-1]]
    for version, option in _SWITCHED_OFF.items():
        if version not in wanted and VERSIONS[wanted[0]] < VERSIONS[version] < VERSIONS[wanted[-1]]:
            context.options |= option


@lru_cache(maxsize=64)
def usable_ciphers(ciphers: str) -> str:
    """The list, or the default one where the OpenSSL here knows no cipher of it: the controller's, which took it, may be another one."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(ciphers)
    except ssl.SSLError:
        _log.error("OpenSSL knows no cipher of the list %s: the default list is in force", ciphers)
        return TLSSettings().ciphers
    return ciphers


def load_certificate(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Raises ssl.SSLError for what OpenSSL doesn't take."""
    with memory_file(certificate.private_key) as key, memory_file(certificate.chain) as chain:
        context.load_cert_chain(chain, key, password=_no_password)


def _no_password() -> str:
    """Instead of OpenSSL's question at the terminal, which would stop the worker."""
    raise ssl.SSLError("the private key is encrypted")


class StandardContext:
    """By the standard library: every host that asks for no client certificate."""

    __slots__ = ("context",)

    def __init__(
        self, certificates: Sequence[Certificate], settings: TLSSettings, ciphers: str, prefer_server: bool
    ) -> None:
        context = self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        limit_protocols(context, settings.protocols)
        context.set_ciphers(ciphers)
        options = context.options | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        options = options & ~ssl.OP_CIPHER_SERVER_PREFERENCE
        if prefer_server:
            options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        if not settings.session_tickets:
            options |= ssl.OP_NO_TICKET  # what TLS 1.3 calls a ticket is then the key of a session in this context
        context.options = options
        if settings.alpn:
            context.set_alpn_protocols(list(settings.alpn))
        for certificate in certificates:
            load_certificate(context, certificate)

    def open(self) -> Engine:
        return StandardEngine(self.context, server_side=True)


ContextKey = tuple[tuple[CertificateKey, ...], ClientAuth | None, str, bool, TLSSettings]


class _Kept:
    __slots__ = ("context", "made")

    def __init__(self, context: ServerContext, made: float) -> None:
        self.context = context
        self.made = made


class Contexts:
    """The contexts of one worker. `use` tells it the table in force; `choose` is asked once a handshake."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._table = RoutingTable()
        self._settings = TLSSettings()
        self._kept: dict[ContextKey, _Kept] = {}  # by use: the first was used longest ago
        self._broken: set[ContextKey] = set()
        self._sessions = 0

    def use(self, table: RoutingTable, settings: TLSSettings) -> None:
        """The next handshake is made by this table. Contexts whose certificates are gone from it are forgotten, keys included."""
        if table.certificates is not self._table.certificates:
            present = table.certificates
            for key in [key for key in self._kept if not all(name in present for name in key[0])]:
                del self._kept[key]
            self._broken.clear()
        self._table = table
        self._settings = settings

    def session_made(self) -> None:
        """A handshake was complete that was no resumption."""
        self._sessions += 1
        if self._sessions >= SESSIONS_LIMIT:
            self._sessions = 0
            self._kept.clear()

    def host(self, server_name: str) -> TLSHost | None:
        """The host that the name belongs to. `server_name` in lower case, empty without SNI."""
        return tls_host(self._table, server_name)

    def choose(self, server_name: str, host: TLSHost | None) -> ServerContext:
        """The context for a connection to `host`, which `server_name` has led to. Raises Refusal."""
        table, settings = self._table, self._settings
        if host is None and settings.reject_unknown_hosts and not known_host(table, server_name):
            raise Refusal("unknown_host", _UNRECOGNIZED_NAME)
        for names in self._candidates(host):
            context = self._context(names, host)
            if context is not None:
                return context
        raise Refusal("no_certificate", _INTERNAL_ERROR)

    def _candidates(self, host: TLSHost | None) -> list[tuple[CertificateKey, ...]]:
        """Certificates to be shown, best first."""
        present = self._table.certificates
        default = self._table.default_certificate
        found = [tuple(key for key in host.certificates if key in present)] if host is not None else []
        if default is not None and default in present:
            found.append((default,))
        return [names for names in found if names]

    def _context(self, names: tuple[CertificateKey, ...], host: TLSHost | None) -> ServerContext | None:
        """None when OpenSSL doesn't take a part of it, which is logged once."""
        settings = self._settings
        auth, ciphers, prefer = None, settings.ciphers, settings.prefer_server_ciphers
        if host is not None:
            auth = host.client_auth
            ciphers = host.ciphers or ciphers
            prefer = prefer if host.prefer_server_ciphers is None else host.prefer_server_ciphers
        key = (names, auth, ciphers, prefer, settings)
        if key in self._broken:
            return None
        now = self._clock()
        kept = self._kept.pop(key, None)
        if kept is None or now - kept.made > settings.session_timeout_s:
            context = self._make(key)
            if context is None:
                return None
            kept = _Kept(context, now)
            while len(self._kept) >= CONTEXTS_LIMIT:
                del self._kept[next(iter(self._kept))]
        self._kept[key] = kept
        return kept.context

    def _make(self, key: ContextKey) -> ServerContext | None:
        names, auth, ciphers, prefer, settings = key
        certificates = [self._table.certificates[name] for name in names]
        ciphers = usable_ciphers(ciphers)
        try:
            if auth is not None:
                from ingress.tls.clientcert import ClientAuthContext  # memory that only such hosts are worth

                return ClientAuthContext(certificates, auth, settings, ciphers, prefer)
            return StandardContext(certificates, settings, ciphers, prefer)
        except Exception as problem:  # what the controller has checked: a bug, or another OpenSSL than there
            _log.error("certificate %s can't be used, the default one is shown: %s", ", ".join(names), problem)
            self._broken.add(key)
            return None
