"""How the backend is spoken to: backend-protocol, proxy-ssl-*, proxy-http-version, connection-proxy-header.

Falling back to plain HTTP, or to TLS without verification, would send in the clear or to anybody what was to be protected: what can't be kept
closes the routes of the Ingress instead. Names and values as in ingress-nginx (annotations proxyssl, backendprotocol, connection, proxy).
"""

import ipaddress
import re
from dataclasses import dataclass

from ingress.errors import VerdictReason
from ingress.routing.table import UpstreamProtocol
from ingress.routing.tls import UpstreamTLS
from ingress.translate.annotations.policy import UpstreamTLSAsk
from ingress.translate.annotations.values import on_off
from ingress.translate.ciphers import parse_ciphers
from ingress.translate.features import AnnotationError, AnnotationReader, field_of
from ingress.translate.pem import authorities, key_pair, revocation_lists, secret_item
from ingress.translate.report import Report, shown

_PROTOCOLS = {
    "HTTP": UpstreamProtocol.HTTP,
    "HTTPS": UpstreamProtocol.HTTPS,
    "AUTO_HTTP": UpstreamProtocol.AUTO_HTTP,
    "GRPC": UpstreamProtocol.GRPC,
}
_OVER_TLS = frozenset((None, UpstreamProtocol.HTTPS, UpstreamProtocol.AUTO_HTTP))  # None: as the Service says
_TLS_NAMES = (
    "proxy-ssl-secret",
    "proxy-ssl-verify",
    "proxy-ssl-verify-depth",
    "proxy-ssl-name",
    "proxy-ssl-server-name",
    "proxy-ssl-ciphers",
    "proxy-ssl-protocols",
)
NAMES = ("backend-protocol", *_TLS_NAMES, "proxy-http-version", "connection-proxy-header")

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
_CIPHERS = re.compile(r"[A-Za-z0-9+:_!-]{1,2048}", re.ASCII)
_VERSIONS = ("TLSv1.2", "TLSv1.3")
_DEPTH_LIMIT = 100  # OpenSSL looks no further


@dataclass(frozen=True, slots=True)
class BackendAsk:
    """`closed_reason` not empty: the routes answer `closed_status`."""

    protocol: UpstreamProtocol | None = None
    tls: UpstreamTLSAsk | None = None
    http_version: str = "1.1"
    connection_header: str = ""
    closed_status: int = 503
    closed_reason: str = ""


NOTHING_ASKED = BackendAsk()


def parse_backend(reader: AnnotationReader, report: Report) -> BackendAsk:
    if not reader.has(NAMES):
        return NOTHING_ASKED
    protocol, closed_status, closed_reason = _protocol(reader, report)
    http_version = reader.take("proxy-http-version", _http_version, "1.1")
    connection_header = reader.take("connection-proxy-header", _connection_header, "")
    tls: UpstreamTLSAsk | None = None
    if reader.has(_TLS_NAMES):
        reader.used.update(_TLS_NAMES)
        try:
            tls = _tls(reader)
        except AnnotationError as e:
            key = reader.key(e.name)
            reader.close(e.name, f"{shown(e.why)[:1].upper()}{shown(e.why)[1:]}")
            closed_status, closed_reason = 503, f"{shown(key)}: {shown(e.why)}"
        else:
            if protocol not in _OVER_TLS and not closed_reason:
                name = next(name for name in _TLS_NAMES if reader.has((name,)))
                reader.warn(name, "It has no effect, because the backend is not spoken to over TLS.")
                tls = None
    return BackendAsk(protocol, tls, http_version, connection_header, closed_status, closed_reason)


def _protocol(reader: AnnotationReader, report: Report) -> tuple[UpstreamProtocol | None, int, str]:
    """Protocol asked for, and status and reason if the routes have to be closed for it."""
    value = reader.text("backend-protocol")
    if value is None:
        return None, 503, ""
    key = reader.key("backend-protocol")
    field = field_of(key)
    name = value.upper()
    protocol = _PROTOCOLS.get(name)
    if protocol is UpstreamProtocol.GRPC:
        message = f"Backends that speak {name} are not supported yet: requests are answered with 502."
        report.warning(field, VerdictReason.UNSUPPORTED_ANNOTATION, message, value)
    if protocol is not None:
        return protocol, 503, ""
    if name in ("GRPCS", "FCGI"):
        report.error(
            field,
            VerdictReason.UNSUPPORTED_ANNOTATION,
            f"Backends that speak {name} are not supported: requests are answered with 502.",
            value,
        )
        return None, 502, f"{shown(key)}: {name} is not supported"
    reader.error("backend-protocol", f"The value of {shown(key)} is not used: it is not a protocol. HTTP is in force.")
    return None, 503, ""


def _tls(reader: AnnotationReader) -> UpstreamTLSAsk:
    """Raises AnnotationError for what must not be ignored: a Secret that can't be used, a verification that can't be made."""
    verify = reader.require("proxy-ssl-verify", on_off, False)
    tls = UpstreamTLS(
        verify=verify,
        name=reader.take("proxy-ssl-name", _server_name, ""),
        depth=reader.take("proxy-ssl-verify-depth", _depth, 1),
        ciphers=reader.take("proxy-ssl-ciphers", _ciphers, "DEFAULT"),
        protocols=reader.take("proxy-ssl-protocols", _protocols, _VERSIONS),
    )
    unsaid: bool | None = None
    server_name = reader.take("proxy-ssl-server-name", on_off, unsaid)
    name = reader.text("proxy-ssl-secret")
    if name is None:
        if verify:
            raise AnnotationError("proxy-ssl-verify", "there is no proxy-ssl-secret with the CA to verify by")
        return UpstreamTLSAsk(tls, server_name)
    secret = reader.secret("proxy-ssl-secret", name)
    try:
        ca, crl = secret_item(secret, "ca.crt"), secret_item(secret, "ca.crl")
        chain, key = secret_item(secret, "tls.crt"), secret_item(secret, "tls.key")
        if ca is None and chain is None and key is None:
            raise ValueError("the Secret holds neither tls.crt and tls.key nor ca.crt")
        if (chain is None) is not (key is None):
            raise ValueError("the Secret holds only one of tls.crt and tls.key")
        if verify and ca is None:
            raise ValueError("the Secret holds no ca.crt to verify by")
        content = UpstreamTLS(
            ca=b"" if ca is None else authorities(ca, "ca.crt"),
            crl=b"" if ca is None or crl is None else revocation_lists(crl, "ca.crl"),
            certificate=None if chain is None or key is None else key_pair(chain, key),
        )
    except ValueError as e:
        raise AnnotationError("proxy-ssl-secret", str(e)) from e
    whole = UpstreamTLS(
        verify,
        content.ca,
        content.crl,
        tls.name,
        depth=tls.depth,
        ciphers=tls.ciphers,
        protocols=tls.protocols,
        certificate=content.certificate,
    )
    return UpstreamTLSAsk(whole, server_name, f"{secret.metadata.namespace}/{secret.metadata.name}")


# ---- values -------------------------------------------------------------------------------------------------------


def _server_name(text: str) -> str:
    """A DNS name in lower case, or an IP address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    name = text.removesuffix(".")
    if not _HOST_NAME.fullmatch(name):
        raise ValueError("it is neither a DNS name nor an IP address")
    return name.lower()


def _depth(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= _DEPTH_LIMIT):
        raise ValueError(f"it is not a number from 1 to {_DEPTH_LIMIT}")
    return int(text)


def _ciphers(text: str) -> str:
    if not _CIPHERS.fullmatch(text):
        raise ValueError("it is not a list of ciphers: names, joined by colons, as OpenSSL has them")
    return parse_ciphers(text)


def _protocols(text: str) -> tuple[str, ...]:
    words = text.split()
    for word in words:
        if word not in _VERSIONS:
            raise ValueError(f"{word[:40]} is none of {' and '.join(_VERSIONS)}")
    if not words:
        raise ValueError("it is empty")
    return tuple(version for version in _VERSIONS if version in words)


def _http_version(text: str) -> str:
    if text not in ("1.0", "1.1"):
        raise ValueError("it is neither 1.0 nor 1.1")
    return text


def _connection_header(text: str) -> str:
    if text not in ("close", "keep-alive"):
        raise ValueError("it is neither close nor keep-alive")
    return text
