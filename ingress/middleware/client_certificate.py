"""What becomes of a request by the certificate that its connection came with (ingress-nginx's auth-tls-*). The handshake never fails for it: 400.

As in nginx, plain HTTP isn't asked for one; a pattern for the subject is then not met (403).
"""

from urllib.parse import quote

import re2

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.middleware.tls_redirect import never_parsed
from ingress.routing.https import CLIENT_CERTIFICATE, NO_RULE, ClientCertificate

CERTIFICATE, VERIFY = b"ssl-client-cert", b"ssl-client-verify"
SUBJECT, ISSUER = b"ssl-client-subject-dn", b"ssl-client-issuer-dn"


def _refuse(exchange: Exchange) -> DirectResponse:
    return DirectResponse(403)


def bind(policy: ClientCertificate, scope: Scope) -> Hooks:
    if policy.closed or f"{scope.route.namespace}/{scope.route.ingress}" in policy.closed_for:
        return Hooks(_refuse)
    if policy.verify == NO_RULE:
        return Hooks()
    asked = policy.verify != "off"
    required = policy.verify == "on"
    verified = policy.verify in ("on", "optional")
    matches = None
    if policy.match_dn:
        options = re2.Options()
        options.log_errors = False
        matches = re2.compile(policy.match_dn, options).search
    forward = policy.forward
    page = policy.error_page.encode("ascii")
    refused = DirectResponse(302, ((b"Location", page),), b"") if page else DirectResponse(400)

    def check_certificate(exchange: Exchange) -> DirectResponse | None:
        exchange.remove_fields(CERTIFICATE, VERIFY, SUBJECT, ISSUER)  # only we say who it is
        tls = exchange.tls
        if tls is None:
            return None if matches is None else DirectResponse(403)
        if asked:
            if tls.server_name and tls.server_name.encode("utf-8", "replace") != exchange.host:
                return DirectResponse(421)  # it was asked for by the rule of another host, or not at all
            verify = tls.verify
            if (verified and verify.startswith("FAILED")) or (required and verify != "SUCCESS"):
                return refused
        if matches is not None and not matches(tls.subject_dn):
            return DirectResponse(403)
        exchange.add_field(VERIFY, _field(tls.verify))
        if tls.subject_dn:
            exchange.add_field(SUBJECT, _field(tls.subject_dn))
            exchange.add_field(ISSUER, _field(tls.issuer_dn))
        if forward and tls.pem is not None:
            exchange.add_field(CERTIFICATE, quote(tls.pem, safe="").encode("ascii"))
        return None

    return Hooks(check_certificate)


def _field(text: str) -> bytes:
    """As a field value. Whoever made the certificate wrote the names in it: no control character gets through."""
    return "".join(c if c.isprintable() else "?" for c in text).encode("utf-8", "replace")


SPEC = MiddlewareSpec(CLIENT_CERTIFICATE, Phase.HOST, (), ClientCertificate, never_parsed, bind)
