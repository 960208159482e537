"""TLS towards endpoints: from `UpstreamTLS` to a context, and from there to connections that were verified.

One `EndpointTLS` for equal wishes, made when a table is linked. The only place that knows by which library the handshake is made: `connect`
hands back a protocol whose transport encrypts, and nothing of HTTP has been sent yet.

A certificate is checked before the first byte of a request: the chain and the revocation lists by OpenSSL, the name by OpenSSL too where it
is also sent (SNI), else here, because Python's ssl can't verify a name without sending it; and the depth here, which it doesn't offer.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from ingress.errors import ProxyError, Reason
from ingress.routing.tls import UpstreamTLS
from ingress.tls.contexts import limit_protocols, load_certificate
from ingress.tls.engine import StandardEngine
from ingress.tls.pem import memory_file
from ingress.tls.transport import TLSTransport

P = TypeVar("P", bound=asyncio.Protocol)


class EndpointTLS:
    """Raises ValueError for what OpenSSL refuses: a list of ciphers that names none, a certificate of too weak a key."""

    __slots__ = ("__weakref__", "_checks_depth", "_checks_name", "_context", "_depth", "_name", "_server_name")

    def __init__(self, policy: UpstreamTLS) -> None:
        self._server_name = policy.name if policy.server_name and policy.name else None
        try:
            self._context = _context(policy)
            self._engine()  # a name that OpenSSL doesn't take is found now, and not by a request
        except (OSError, TypeError, ValueError) as e:  # ssl.SSLError is an OSError
            raise ValueError(f"OpenSSL refuses it: {getattr(e, 'reason', None) or ' '.join(map(str, e.args))}") from e
        self._name = policy.name
        self._checks_name = policy.verify and not self._context.check_hostname
        self._checks_depth = policy.verify
        self._depth = policy.depth

    def _engine(self) -> StandardEngine:
        return StandardEngine(self._context, server_side=False, server_name=self._server_name)

    async def connect(
        self,
        loop: asyncio.AbstractEventLoop,
        make_protocol: Callable[[], P],
        address: str,
        port: int,
        sessions: "Sessions",
    ) -> P:
        """A verified connection. Raises OSError when the endpoint can't be reached, ProxyError (TLS_FAILED) when the handshake fails or its
        certificate isn't the right one.
        """
        engine = self._engine()
        sessions.offer(engine)
        done: asyncio.Future[None] = loop.create_future()

        def on_handshake(layer: TLSTransport, error: BaseException | None) -> None:
            why = failure_text(error) if error is not None else self._refusal(engine.session)
            if why and error is None:
                layer.close()
            if done.done():
                return  # nobody waits any more
            if why:
                done.set_exception(ProxyError(Reason.TLS_FAILED, why))
            else:
                done.set_result(None)

        _, layer = await loop.create_connection(
            lambda: TLSTransport(engine, lambda _: make_protocol(), on_handshake), address, port
        )
        try:
            await done
        except asyncio.CancelledError:
            layer.abort()
            raise
        protocol = layer.get_protocol()
        if protocol is None:
            raise ProxyError(Reason.TLS_FAILED, "the connection ended right after the handshake")
        sessions.made(engine)
        return cast(P, protocol)

    def _refusal(self, session: Any) -> str:
        """Why the certificate is not accepted; empty: it is. OpenSSL has verified the chain already; that of a session that is resumed was
        verified when the session began.
        """
        if self._checks_name:
            why = name_mismatch(session.getpeercert(), self._name)
            if why:
                return why
        if self._checks_depth:
            # Public from Python 3.13 on. What is counted stands between the endpoint's certificate and the trusted one (OpenSSL 1.1 and later).
            between = len(session._sslobj.get_verified_chain() or ()) - 2
            if between > self._depth:
                return f"certificate not accepted: it has {between} intermediates above it, more than proxy-ssl-verify-depth"
        return ""


class Sessions:
    """The TLS session that the next connection of one pool may resume: that of the connection made last."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: Any = None

    def offer(self, engine: StandardEngine) -> None:
        session = None if self._last is None else self._last.session
        if session is not None and session.has_ticket:
            engine.session.session = session

    def made(self, engine: StandardEngine) -> None:
        self._last = engine.session  # tickets of TLS 1.3 come later: it is asked when the next connection is made


_known: "WeakValueDictionary[UpstreamTLS, EndpointTLS]" = WeakValueDictionary()


def endpoint_tls(policy: UpstreamTLS) -> EndpointTLS:
    """The one for equal wishes, as long as somebody holds it. Raises ValueError."""
    found = _known.get(policy)
    if found is None:
        found = _known[policy] = EndpointTLS(policy)
    return found


def failure_text(error: BaseException) -> str:
    """One line for the log, without the library's file names and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message or error.reason}"
    if isinstance(error, ssl.SSLError):
        return f"handshake failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, ConnectionError | EOFError):
        return "connection ended in the handshake"
    return f"handshake failed: {getattr(error, 'strerror', None) or error}"


# ---- contexts -----------------------------------------------------------------------------------------------------


def _context(policy: UpstreamTLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options |= ssl.OP_NO_RENEGOTIATION
    limit_protocols(context, policy.protocols)
    context.set_ciphers(policy.ciphers)
    if policy.verify:
        context.verify_mode = ssl.CERT_REQUIRED
        if policy.ca:
            context.load_verify_locations(cadata=policy.ca.decode("ascii"))
        if policy.crl:
            with memory_file(policy.crl) as path:
                context.load_verify_locations(cafile=path)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        context.check_hostname = policy.server_name and bool(policy.name)
    if policy.certificate is not None:
        load_certificate(context, policy.certificate)
    return context


# ---- names --------------------------------------------------------------------------------------------------------


def name_mismatch(certificate: Any, wanted: str) -> str:
    """Why a certificate (as `SSLObject.getpeercert` gives it) is not for `wanted`; empty: it is.

    RFC 9525 section 6.3, and what OpenSSL does: a wildcard is the whole leftmost label and stands for one label; the common name counts
    only where there is no DNS name among the alternative names.
    """
    alternatives = (certificate or {}).get("subjectAltName", ())
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        names = [value for kind, value in alternatives if kind == "DNS"]
        if not names:
            names = [v for part in (certificate or {}).get("subject", ()) for k, v in part if k == "commonName"]
        if wanted and any(_same_name(name, wanted) for name in names):
            return ""
    else:
        names = [value for kind, value in alternatives if kind == "IP Address"]
        if any(_same_address(name, address) for name in names):
            return ""
    return f"certificate not accepted: it is not for {wanted or 'an empty name'}"


def _same_name(pattern: str, wanted: str) -> bool:
    pattern, wanted = pattern.lower().removesuffix("."), wanted.lower()
    if pattern == wanted:
        return True
    star, dot, rest = pattern.partition(".")
    _, _, parent = wanted.partition(".")
    return star == "*" and bool(dot) and "." in rest and rest == parent


def _same_address(text: str, address: "ipaddress.IPv4Address | ipaddress.IPv6Address") -> bool:
    try:
        return ipaddress.ip_address(text.strip()) == address
    except ValueError:
        return False
