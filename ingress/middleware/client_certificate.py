"""What becomes of a request by the certificate that its connection came with (ingress-nginx's auth-tls-*). The handshake never fails for it: 400.

As in nginx, plain HTTP isn't asked for one; a pattern for the subject is then not met (403). That the certificate was asked for on behalf of this
very host is seen to before (`tls.choice.standing`: 421).
"""

from urllib.parse import quote

from ingress.exchange import DirectResponse, Exchange
from ingress.expressions import compile_text_expression
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.middleware.tls_redirect import never_parsed
from ingress.routing.client_auth import CERTIFICATE_ERROR, NO_CERTIFICATE_SENT, refusal
from ingress.routing.https import CLIENT_CERTIFICATE, NO_RULE, ClientCertificate
from ingress.routing.tls import ClientVerify

CERTIFICATE, VERIFY = b"ssl-client-cert", b"ssl-client-verify"
SUBJECT, ISSUER = b"ssl-client-subject-dn", b"ssl-client-issuer-dn"


def _refuse(exchange: Exchange) -> DirectResponse:
    return DirectResponse(403)


def bind(policy: ClientCertificate, scope: Scope) -> Hooks:
    if policy.closed or f"{scope.route.namespace}/{scope.route.ingress}" in policy.closed_for:
        return Hooks(_refuse)
    if policy.verify == NO_RULE:
        return Hooks()
    verify = None if policy.verify == "off" else ClientVerify(policy.verify)
    matches = None
    if policy.match_dn:
        matches = compile_text_expression(policy.match_dn).search
    forward = policy.forward
    page = policy.error_page.encode("ascii")
    elsewhere = DirectResponse(302, ((b"Location", page),), b"") if page else None
    refused = {why: elsewhere or DirectResponse(400, message=why) for why in (NO_CERTIFICATE_SENT, CERTIFICATE_ERROR)}

    def check_certificate(exchange: Exchange) -> DirectResponse | None:
        exchange.remove_fields(CERTIFICATE, VERIFY, SUBJECT, ISSUER)  # only we say who it is
        tls = exchange.tls
        if tls is None:
            return None if matches is None else DirectResponse(403)
        client = tls.client
        if verify is not None and (why := refusal(verify, client)) is not None:
            return refused[why]
        if matches is not None and not matches(client.subject):
            return DirectResponse(403)
        exchange.add_field(VERIFY, _field(client.verify))
        if client.subject or client.issuer:
            exchange.add_field(SUBJECT, _field(client.subject))
            exchange.add_field(ISSUER, _field(client.issuer))
        if forward and client.pem:
            exchange.add_field(CERTIFICATE, quote(client.pem, safe="").encode("ascii"))
        return None

    return Hooks(check_certificate)


def _field(text: str) -> bytes:
    """As a field value. Whoever made the certificate wrote the names in it: no control character gets through."""
    return "".join(c if c.isprintable() else "?" for c in text).encode("utf-8", "replace")


SPEC = MiddlewareSpec(CLIENT_CERTIFICATE, Phase.HOST, (), ClientCertificate, never_parsed, bind)
