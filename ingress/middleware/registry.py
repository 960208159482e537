"""All middlewares, in the order in which they act within their phase. Explicit order beats import side effects."""

from typing import Any

from ingress.middleware import client_certificate, hsts, tls_redirect
from ingress.middleware.base import MiddlewareSpec

SPECS: tuple[MiddlewareSpec[Any], ...] = (
    # HOST: hsts first, so that its response hook has the last word
    hsts.SPEC,
    client_certificate.SPEC,
    # TLS_REDIRECT
    tls_redirect.SPEC,
)

BY_NAME: dict[str, MiddlewareSpec[Any]] = {spec.name: spec for spec in SPECS}


def order(name: str) -> tuple[int, int]:
    """Sort key of a feature: by phase, then as in `SPECS`."""
    spec = BY_NAME[name]
    return spec.phase, SPECS.index(spec)
