"""All middlewares, in the order in which they act within their phase. Explicit order beats import side effects."""

from typing import Any

from ingress.middleware import basic_auth, external_auth, ip_access, satisfy, user
from ingress.middleware.base import MiddlewareSpec
from ingress.routing.table import Feature

SPECS: tuple[MiddlewareSpec[Any], ...] = (
    ip_access.SPEC,
    basic_auth.SPEC,
    external_auth.SPEC,
    satisfy.SPEC,
    user.SPEC,
)

BY_NAME: dict[str, MiddlewareSpec[Any]] = {spec.name: spec for spec in SPECS}


def shown_policy(feature: Feature) -> dict[str, Any]:
    """What a dump may show of it: without the fields that its middleware hides; nothing of one that isn't known."""
    spec = BY_NAME.get(feature.name)
    if spec is None:
        return {}
    return {name: HIDDEN if name in spec.hidden else value for name, value in feature.policy.items()}


HIDDEN = "(hidden)"


def order(name: str) -> tuple[int, int]:
    """Sort key of a feature: by phase, then as in `SPECS`."""
    spec = BY_NAME[name]
    return spec.phase, SPECS.index(spec)
