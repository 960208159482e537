"""All middlewares, in the order in which they act within their phase. Explicit order beats import side effects."""

from typing import Any

from ingress.middleware import (
    basic_auth,
    client_certificate,
    external_auth,
    hsts,
    ip_access,
    rate_limit,
    satisfy,
    tls_redirect,
    user,
)
from ingress.middleware.base import MiddlewareSpec

SPECS: tuple[MiddlewareSpec[Any], ...] = (
    # HOST: hsts first, so that its response hook has the last word
    hsts.SPEC,
    client_certificate.SPEC,
    # TLS_REDIRECT
    tls_redirect.SPEC,
    rate_limit.SPEC,
    ip_access.SPEC,
    basic_auth.SPEC,
    external_auth.SPEC,
    satisfy.SPEC,
    user.SPEC,
)

BY_NAME: dict[str, MiddlewareSpec[Any]] = {spec.name: spec for spec in SPECS}


def order(name: str) -> tuple[int, int]:
    """Sort key of a feature: by phase, then as in `SPECS`."""
    spec = BY_NAME[name]
    return spec.phase, SPECS.index(spec)
