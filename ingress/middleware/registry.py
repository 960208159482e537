"""All middlewares, in the order in which they act within their phase. Explicit order beats import side effects."""

from typing import Any

from ingress.middleware import (
    basic_auth,
    client_certificate,
    compression,
    cors,
    custom_headers,
    external_auth,
    header_rules,
    hsts,
    ip_access,
    limit_rate,
    maintenance,
    mirror,
    rate_limit,
    redirects,
    rewrite,
    rewriting,
    satisfy,
    tls_redirect,
    upstream_vhost,
    user,
    www_redirect,
)
from ingress.middleware.base import MiddlewareSpec

SPECS: tuple[MiddlewareSpec[Any], ...] = (
    # HOST. Response hooks run in the opposite order: what compresses sees the fields as all others left them.
    compression.SPEC,
    limit_rate.SPEC,  # counts what is left when it is compressed
    hsts.SPEC,  # has the last word on its field
    client_certificate.SPEC,
    # REDIRECT: those of the host first, like the server block of nginx
    redirects.APP_ROOT_SPEC,
    www_redirect.SPEC,
    cors.SPEC,  # in the template of ingress-nginx a preflight is answered before `return` redirects
    redirects.SPEC,
    rewrite.REDIRECTING_SPEC,
    # TLS_REDIRECT
    tls_redirect.SPEC,
    # LIMIT
    maintenance.SPEC,
    rate_limit.SPEC,
    # ACCESS
    ip_access.SPEC,
    basic_auth.SPEC,
    external_auth.SPEC,
    satisfy.SPEC,
    # UPSTREAM
    mirror.SPEC,  # gets the request as it came
    rewrite.SPEC,  # before what uses its groups
    upstream_vhost.SPEC,
    custom_headers.SPEC,
    header_rules.SPEC,
    rewriting.SPEC,  # first to see a response: rules of the operator come after it
    # USER
    user.SPEC,
)

BY_NAME: dict[str, MiddlewareSpec[Any]] = {spec.name: spec for spec in SPECS}


def order(name: str) -> tuple[int, int]:
    """Sort key of a feature: by phase, then as in `SPECS`."""
    spec = BY_NAME[name]
    return spec.phase, SPECS.index(spec)
