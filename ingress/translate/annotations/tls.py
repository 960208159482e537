"""What the annotations of one Ingress ask for TLS on its hosts. Never raises.

The rule about client certificates fails closed: what can't be kept closes the host (403), and a verdict says so.
"""

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ingress.expressions import compile_text_expression
from ingress.routing.https import TLS_REDIRECT, ClientCertificate, RedirectWhen, TLSRedirect
from ingress.routing.table import Feature
from ingress.routing.tls import ClientAuth, ClientVerify
from ingress.translate.annotations import values
from ingress.translate.ciphers import parse_ciphers
from ingress.translate.features import AnnotationError, AnnotationReader
from ingress.translate.report import shown
from ingress.translate.tls.authority import inspect_authority
from ingress.translate.tls.inspect import Unusable

REDIRECT = ("ssl-redirect", "force-ssl-redirect", "preserve-trailing-slash", "use-port-in-redirects")
_SECRET = "auth-tls-secret"
_DETAILS = (
    "auth-tls-verify-client",
    "auth-tls-verify-depth",
    "auth-tls-pass-certificate-to-upstream",
    "auth-tls-error-page",
    "auth-tls-match-cn",
)
CIPHERS = ("ssl-ciphers", "ssl-prefer-server-ciphers")
PASSTHROUGH = "ssl-passthrough"
ACCESS = frozenset((_SECRET, *_DETAILS))
NAMES = (*REDIRECT, _SECRET, *_DETAILS, *CIPHERS, PASSTHROUGH)

_VERIFY = ("on", "off", "optional", "optional_no_ca")
_PATTERN_LIMIT = 1000
_URL = re.compile(r"[!-~]{1,2000}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClientAsk:
    """`auth` None: nobody is asked for a certificate, because the rule is closed or says `off`. `key` is the annotation as written."""

    policy: ClientCertificate
    auth: ClientAuth | None
    key: str = _SECRET


@dataclass(frozen=True, slots=True)
class TLSAsk:
    redirect: TLSRedirect | None = None  # None: as the options say
    client: ClientAsk | None = None
    ciphers: str = ""
    prefer_server_ciphers: bool | None = None
    passthrough: str = ""  # the annotation as written that asks for it


NO_ASK = TLSAsk()
CLOSED = ClientAsk(ClientCertificate(closed=True), None)
"""The rule can't be kept."""


def default_redirect(options: Any, https_port: int) -> TLSRedirect:
    """What holds for an Ingress that says nothing."""
    return _redirect(
        options,
        https_port,
        options.ssl_redirect,
        options.force_ssl_redirect,
        options.preserve_trailing_slash,
        options.use_port_in_redirects,
    )


def _redirect(options: Any, https_port: int, ssl: bool, force: bool, keep_slash: bool, with_port: bool) -> TLSRedirect:
    when = RedirectWhen.ALWAYS if force else RedirectWhen.CERTIFICATE if ssl else RedirectWhen.NEVER
    return TLSRedirect(
        when, options.http_redirect_code, keep_slash, https_port if with_port else 0, options.no_tls_redirect_locations
    )


def redirect_feature(policy: TLSRedirect) -> Feature:
    return Feature(TLS_REDIRECT, msgspec.to_builtins(policy))


NEVER_REDIRECTED = redirect_feature(TLSRedirect(RedirectWhen.NEVER))
"""Of routes that are closed by an access rule: nginx answers 503 before it thinks of a redirect."""


def parse_tls_ask(reader: AnnotationReader, https_port: int, *, passthrough_enabled: bool) -> TLSAsk:
    if not reader.has(NAMES):
        return NO_ASK
    options = reader.options
    redirect = None
    if reader.has(REDIRECT):
        redirect = _redirect(
            options,
            https_port,
            reader.take("ssl-redirect", values.boolean, options.ssl_redirect),
            reader.take("force-ssl-redirect", values.boolean, options.force_ssl_redirect),
            reader.take("preserve-trailing-slash", values.boolean, options.preserve_trailing_slash),
            reader.take("use-port-in-redirects", values.boolean, options.use_port_in_redirects),
        )
        if redirect == default_redirect(options, https_port):
            redirect = None
    unset: bool | None = None
    passthrough = reader.take(PASSTHROUGH, values.boolean, False)
    if passthrough and not passthrough_enabled:
        reader.warn(PASSTHROUGH, "TLS is terminated here as usual, because --enable-ssl-passthrough is not set.")
    return TLSAsk(
        redirect,
        _client(reader),
        reader.take("ssl-ciphers", parse_ciphers, ""),
        reader.take("ssl-prefer-server-ciphers", values.boolean, unset),
        reader.key(PASSTHROUGH) if passthrough and passthrough_enabled else "",
    )


def _client(reader: AnnotationReader) -> ClientAsk | None:
    reference = reader.text(_SECRET)
    if reference is None:
        for name in _DETAILS:
            if reader.text(name) is not None:
                reader.error(
                    name, f"It has no effect without {_SECRET}, in ingress-nginx neither: no certificate is asked for."
                )
        return None
    key = reader.key(_SECRET)
    name = _SECRET
    try:
        secret = reader.secret(_SECRET, reference)
        try:
            ca, crl = inspect_authority(secret)
        except Unusable as e:
            raise AnnotationError(_SECRET, f"Secret {reference} can't be used, {e.key}: {e.why}") from e
        name = "auth-tls-match-cn"
        match_dn = reader.require(name, _match_dn, "")
    except AnnotationError as e:
        for other in _DETAILS:
            reader.text(other)
        why = shown(e.why, 300)
        reader.error(
            name,
            f"{why[:1].upper()}{why[1:]}: every request for the hosts of the Ingress is answered with 403, because access rules must not fail open.",
        )
        return replace(CLOSED, key=key)
    verify = reader.take("auth-tls-verify-client", _verify, "on")
    depth = reader.take("auth-tls-verify-depth", values.count, 1) or 1
    policy = ClientCertificate(
        verify,
        reader.take("auth-tls-pass-certificate-to-upstream", values.boolean, False),
        match_dn,
        reader.take("auth-tls-error-page", _error_page, ""),
    )
    auth = None if verify == "off" else ClientAuth(ca, crl, ClientVerify(verify), min(depth, 100))
    return ClientAsk(policy, auth, key)


def _verify(text: str) -> str:
    if text not in _VERIFY:
        raise ValueError(f"it is none of {', '.join(_VERIFY)}")
    return text


def _match_dn(text: str) -> str:
    if not text.startswith("CN="):
        raise ValueError("it does not start with CN=")
    if len(text) > _PATTERN_LIMIT:
        raise ValueError(f"it is longer than {_PATTERN_LIMIT} characters")
    try:
        compile_text_expression(text)
    except ValueError as e:
        raise ValueError("it is not a regular expression (RE2)") from e
    return text


def _error_page(text: str) -> str:
    try:
        url = urlsplit(text) if _URL.fullmatch(text) else None
        usable = url is not None and url.scheme in ("http", "https") and bool(url.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("it is not an http or https URL to redirect to; requests without a good certificate get 400")
    return text
