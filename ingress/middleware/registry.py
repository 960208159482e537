"""All middlewares, in the order in which they act within their phase. Explicit order beats import side effects."""

from typing import Any

from ingress.middleware import user
from ingress.middleware.base import MiddlewareSpec

SPECS: tuple[MiddlewareSpec[Any], ...] = (user.SPEC,)

BY_NAME: dict[str, MiddlewareSpec[Any]] = {spec.name: spec for spec in SPECS}


def order(name: str) -> tuple[int, int]:
    """Sort key of a feature: by phase, then as in `SPECS`."""
    spec = BY_NAME[name]
    return spec.phase, SPECS.index(spec)
