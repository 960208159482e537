"""`permanent-redirect` and `temporal-redirect`: all requests of an Ingress are sent elsewhere, as ingress-nginx's `return` does.

Acts before the redirect to HTTPS, limits and authentication, so a permanent redirect on http leads straight to its target.
"""

from typing import Any

import msgspec

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.middleware.location import absolute, clean, local_path, redirect
from ingress.routing.regex import Rewriter
from ingress.translate.annotations import values
from ingress.translate.annotations.targets import parse_absolute_redirect, parse_redirect
from ingress.variables import Part, Variable, compile_field_value, parse_value

_PERMANENT, _TEMPORARY = 301, 302
_NOWHERE: tuple[Part, ...] = ()


class Redirect(msgspec.Struct, frozen=True):
    """`target` is a URL, or a path: then on the host that was asked for, unless `relative`."""

    target: tuple[Part, ...]
    status: int = _PERMANENT
    relative: bool = False  # relative-redirects
    with_port: bool = False  # use-port-in-redirects


def parse(reader: Any) -> Redirect | None:
    # All are read, so that a bad value is reported whether it counts or not.
    relative = reader.take("relative-redirects", values.boolean, reader.options.relative_redirects)
    with_port = reader.take("use-port-in-redirects", values.boolean, reader.options.use_port_in_redirects)
    temporary_status = reader.take("temporal-redirect-code", _temporary_status, _TEMPORARY)
    permanent_status = reader.take("permanent-redirect-code", _permanent_status, _PERMANENT)
    temporary = reader.require("temporal-redirect", _optional_url, _NOWHERE)
    if temporary:
        return Redirect(temporary, temporary_status, relative, with_port)
    permanent = reader.require("permanent-redirect", _optional_target, _NOWHERE)
    return Redirect(permanent, permanent_status, relative, with_port) if permanent else None


def _optional_url(text: str) -> tuple[Part, ...]:
    return parse_absolute_redirect(text) if text else _NOWHERE


def _optional_target(text: str) -> tuple[Part, ...]:
    return parse_redirect(text) if text else _NOWHERE


def _temporary_status(text: str) -> int:
    return _status(text, 307)


def _permanent_status(text: str) -> int:
    return _status(text, 308)


def _status(text: str, last: int) -> int:
    status = values.count(text)
    if not 300 <= status <= last:
        raise ValueError(f"it is not a status from 300 to {last}")
    return status


def bind(policy: Redirect, scope: Scope) -> Hooks:
    route, status, relative, with_port = scope.route, policy.status, policy.relative, policy.with_port
    value_of = compile_field_value(policy.target)
    captures = any(part.variable is Variable.CAPTURE for part in policy.target)
    rewriter = Rewriter(route.pattern) if captures and route.pattern else None

    def answer(exchange: Exchange) -> DirectResponse:
        if rewriter is not None:
            exchange.captures = rewriter.groups(exchange.path) or ()
        location = clean(value_of(exchange, route))
        if location[:1] == b"/":
            location = local_path(location) if relative else absolute(exchange, location, with_port=with_port)
        return redirect(status, location)

    return Hooks(request=answer)


SPEC = MiddlewareSpec(
    "redirect",
    phase=Phase.REDIRECT,
    annotations=(
        "permanent-redirect",
        "permanent-redirect-code",
        "temporal-redirect",
        "temporal-redirect-code",
        "relative-redirects",
        "use-port-in-redirects",
    ),
    policy=Redirect,
    parse=parse,
    bind=bind,
    skips_catch_all=True,
)


# ---- of a whole host: `translate` decides who gets them, and makes the features ---------------------------------------


def not_by_annotation(reader: Any) -> None:
    return None


class AppRoot(msgspec.Struct, frozen=True):
    target: str  # a path; it may have variables


def bind_app_root(policy: AppRoot, scope: Scope) -> Hooks:
    """For the route that answers for `/` alone: 302 to the scheme and Host that the client used."""
    route = scope.route
    value_of = compile_field_value(parse_value(policy.target))

    def answer(exchange: Exchange) -> DirectResponse:
        path = clean(value_of(exchange, route))
        if not exchange.authority:
            return redirect(302, local_path(path))
        return redirect(302, b"%b://%b%b" % (exchange.scheme, exchange.authority, path))

    return Hooks(request=answer)


APP_ROOT_SPEC = MiddlewareSpec(
    "app-root", phase=Phase.REDIRECT, annotations=(), policy=AppRoot, parse=not_by_annotation, bind=bind_app_root
)
