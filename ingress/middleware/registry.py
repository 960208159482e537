"""All middlewares, in the order in which they act within their phase. Explicit order beats import side effects."""

from typing import Any

from ingress.middleware import (
    basic_auth,
    client_certificate,
    external_auth,
    hsts,
    ip_access,
    rate_limit,
    redirects,
    rewrite,
    satisfy,
    tls_redirect,
    upstream_vhost,
    user,
    www_redirect,
)
from ingress.middleware.base import MiddlewareSpec

SPECS: tuple[MiddlewareSpec[Any], ...] = (
    # HOST: hsts first, so that its response hook has the last word
    hsts.SPEC,
    client_certificate.SPEC,
    # REDIRECT: those of the host first, like the server block of nginx
    redirects.APP_ROOT_SPEC,
    www_redirect.SPEC,
    redirects.SPEC,
    rewrite.REDIRECTING_SPEC,
    # TLS_REDIRECT
    tls_redirect.SPEC,
    # LIMIT
    rate_limit.SPEC,
    # ACCESS
    ip_access.SPEC,
    basic_auth.SPEC,
    external_auth.SPEC,
    satisfy.SPEC,
    # UPSTREAM
    rewrite.SPEC,  # before what uses its groups
    upstream_vhost.SPEC,
    # USER
    user.SPEC,
)

BY_NAME: dict[str, MiddlewareSpec[Any]] = {spec.name: spec for spec in SPECS}


def order(name: str) -> tuple[int, int]:
    """Sort key of a feature: by phase, then as in `SPECS`."""
    spec = BY_NAME[name]
    return spec.phase, SPECS.index(spec)
