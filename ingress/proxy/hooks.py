"""From the features of a route to the hooks that a request passes, bound when a table is linked."""

import logging

import msgspec

from ingress.exchange import DirectResponse, ErrorHook, Exchange, RequestHook, ResponseHook
from ingress.middleware import registry
from ingress.middleware.base import Hooks, Phase, Scope
from ingress.middleware.satisfy import join as join_access
from ingress.routing.table import Feature

_log = logging.getLogger(__name__)

AllHooks = tuple[tuple[RequestHook, ...], tuple[ResponseHook, ...], tuple[ErrorHook, ...]]
NO_HOOKS: AllHooks = ((), (), ())


def bind_hooks(features: tuple[Feature, ...], scope: Scope) -> AllHooks:
    """Those of `features`, in the order in which they are called. What can't be bound closes the route: a bug must not open it."""
    request: list[RequestHook] = []
    access: list[Hooks] = []  # joined in their place, when the next phase begins
    response: list[ResponseHook] = []
    error: list[ErrorHook] = []
    try:
        for feature in sorted(features, key=lambda f: registry.order(f.name)):
            spec = registry.BY_NAME[feature.name]
            hooks = spec.bind(msgspec.convert(feature.policy, spec.policy), scope)
            if spec.phase is Phase.ACCESS:
                access.append(hooks)
            else:
                if access and spec.phase > Phase.ACCESS:
                    request += join_access(access)
                    access = []
                if hooks.request is not None:
                    request.append(hooks.request)
            if hooks.response is not None:
                response.insert(0, hooks.response)
            if hooks.error is not None:
                error.insert(0, hooks.error)
        request += join_access(access)
    except Exception:
        _log.exception("the features of %s could not be bound: it answers 500", scope.route.id)
        return (_refuse,), (), ()
    return tuple(request), tuple(response), tuple(error)


def merge_features(host: tuple[Feature, ...], route: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """A feature of the route wins over one of the host by the same name."""
    if not host or not route:
        return host or route
    return tuple({feature.name: feature for feature in (*host, *route)}.values())


def _refuse(exchange: Exchange) -> DirectResponse:
    return DirectResponse(500)
