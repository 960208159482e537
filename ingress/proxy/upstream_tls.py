"""TLS towards endpoints: from `UpstreamTLS` to a context, and from there to connections that were verified.

One `EndpointTLS` for equal wishes, made when a table is linked. The only place that knows by which library the handshake is made: `connect`
hands back a protocol whose transport encrypts, and nothing of HTTP has been sent yet.

A certificate is checked before the first byte of a request: the chain and the revocation lists by OpenSSL, the name by OpenSSL too where it
is also sent (SNI), else here, because Python's ssl can't verify a name without sending it; and the depth here, which it doesn't offer.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ingress.errors import ProxyError, Reason
from ingress.routing.tls import Certificate, UpstreamTLS

P = TypeVar("P", bound=asyncio.Protocol)
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_SHUTDOWN_S = 1.0  # how long a closed connection waits for the endpoint's close_notify
_HANDSHAKE_S = 600.0  # the route's connect time-out ends it; the library's own must not come first


class EndpointTLS:
    """Raises ValueError for what OpenSSL refuses: a list of ciphers that names none, a certificate of too weak a key."""

    __slots__ = ("__weakref__", "_checks_depth", "_checks_name", "_context", "_depth", "_name", "_server_name")

    def __init__(self, policy: UpstreamTLS) -> None:
        try:
            self._context = _context(policy)
        except (ssl.SSLError, OSError) as e:
            raise ValueError(f"OpenSSL refuses it: {getattr(e, 'reason', None) or e.args[0] if e.args else e}") from e
        self._name = policy.name
        self._server_name = policy.name if policy.server_name else ""
        self._checks_name = policy.verify and not self._context.check_hostname
        self._checks_depth = policy.verify
        self._depth = policy.depth

    async def connect(
        self, loop: asyncio.AbstractEventLoop, make_protocol: Callable[[], P], address: str, port: int
    ) -> P:
        """A verified connection. Raises OSError when the endpoint can't be reached, ProxyError (TLS_FAILED) when the handshake fails or its
        certificate isn't the right one.
        """
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        try:
            transport, protocol = await loop.create_connection(
                make_protocol,
                sock=sock,  # the transport's from now on, also when this fails
                ssl=self._context,
                server_hostname=self._server_name,
                ssl_handshake_timeout=_HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (OSError, EOFError) as e:
            raise ProxyError(Reason.TLS_FAILED, failure_text(e)) from e
        why = self._refusal(transport.get_extra_info("ssl_object"))
        if why:
            transport.abort()
            raise ProxyError(Reason.TLS_FAILED, why)
        return protocol

    def _refusal(self, connection: Any) -> str:
        """Why the certificate is not accepted; empty: it is. OpenSSL has verified the chain already."""
        if self._checks_name:
            why = name_mismatch(connection.getpeercert(), self._name)
            if why:
                return why
        if self._checks_depth:
            # Public from Python 3.13 on. It counts what stands between the endpoint's certificate and the trusted one (OpenSSL 1.1 and later).
            between = len(connection._sslobj.get_verified_chain() or ()) - 2
            if between > self._depth:
                return f"the certificate chain has {between} intermediates, and proxy-ssl-verify-depth allows {self._depth}"
        return ""


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
    versions = sorted(_VERSIONS[name] for name in policy.protocols)
    context.minimum_version, context.maximum_version = versions[0], versions[-1]
    context.set_ciphers(policy.ciphers)
    if policy.verify:
        context.verify_mode = ssl.CERT_REQUIRED
        if policy.ca:
            context.load_verify_locations(cadata=policy.ca.decode("ascii"))
        if policy.crl:
            with _file(policy.crl) as path:
                context.load_verify_locations(cafile=path)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        context.check_hostname = policy.server_name and bool(policy.name)
    if policy.certificate is not None:
        _show(context, policy.certificate)
    return context


def _show(context: ssl.SSLContext, certificate: Certificate) -> None:
    with _file(certificate.private_key + certificate.chain) as path:
        context.load_cert_chain(path)


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A path to read `content` from. It lies in memory: private keys reach no disk."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


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
