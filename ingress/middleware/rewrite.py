"""`rewrite-target` and `x-forwarded-prefix`: nginx's `rewrite "(?i)PATH" TARGET break`.

The whole path is replaced; groups of the rule's path are `$1` to `$9`. A target with a scheme is a redirect instead, and acts where those do.
What the endpoint gets is in normal form again (`//` merged), and never has a dot segment: a group may hold `..` where the rule's author
expected a name, as in `/files(.*)`, and the endpoint would then serve what the target was to keep it from.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.middleware.location import clean, redirect
from ingress.routing.path import is_normal, normalize_path
from ingress.routing.regex import Rewriter
from ingress.routing.table import Route
from ingress.translate.annotations.targets import RewriteTarget, parse_prefix, parse_rewrite_target
from ingress.variables import Part, Variable, compile_field_value, compile_value, is_constant

_NOT_IN_PATH = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,;=:@/%]|%(?![0-9A-Fa-f]{2})")
_NOT_IN_QUERY = re.compile(rb"[^\x21-\x7e]|#")
_NOT_IN_ARGUMENT = re.compile(rb"[^\x21-\x7e]|[#&+?]")  # nginx: NGX_ESCAPE_ARGS, of captured groups
_DOTS = re.compile(rb"(?:^|/)\.\.?(?:/|$)|%2[eE]")  # normal form has no escaped dot, but two groups can make one
_NOTHING: tuple[Part, ...] = ()


class Rewrite(msgspec.Struct, frozen=True):
    """`written`: the target as text; equal to the rule's path it does nothing."""

    written: str
    target: RewriteTarget
    prefix: tuple[Part, ...] = ()  # of X-Forwarded-Prefix; none: the field is not touched


def parse(reader: Any) -> Rewrite | None:
    prefix = reader.take("x-forwarded-prefix", parse_prefix, _NOTHING)
    written = reader.text("rewrite-target")
    if not written:
        if prefix:
            reader.warn("x-forwarded-prefix", "It has no effect without rewrite-target, in ingress-nginx neither.")
        return None
    target = reader.require("rewrite-target", parse_rewrite_target, None)
    return None if target.redirects else Rewrite(written, target, prefix)


def parse_redirecting(reader: Any) -> Rewrite | None:
    written = reader.text("rewrite-target")
    try:
        target = parse_rewrite_target(written or "")
    except ValueError:
        return None  # `parse` has said so
    return Rewrite(written, target) if target.redirects else None


def bind(policy: Rewrite, scope: Scope) -> Hooks:
    """Nothing for a route outside of regex mode, where no target is effective."""
    route = scope.route
    if not route.pattern or policy.written == route.path:
        return Hooks()
    groups_of = Rewriter(route.pattern).groups
    path_of = _compile_path(policy.target.path, route)
    query_of = _compile_query(policy.target, route)
    prefix_of = compile_field_value(policy.prefix) if policy.prefix else None

    def rewrite(exchange: Exchange) -> DirectResponse | None:
        groups = groups_of(exchange.path)
        if groups is None:
            return None  # the host's default backend
        exchange.captures = groups
        path = path_of(exchange)
        if not is_normal(path):
            if path[:1] != b"/":
                path = b"/" + path
            if _DOTS.search(path):
                return DirectResponse(400)
            try:
                path = normalize_path(path)
            except ValueError:  # a group that ends within an escape
                return DirectResponse(400)
        if query_of is not None:
            exchange.query = query_of(exchange)
        exchange.path = path
        if prefix_of is not None:
            value = prefix_of(exchange, route)
            if value:
                exchange.set_field(b"X-Forwarded-Prefix", value)
        return None

    return Hooks(request=rewrite)


def bind_redirecting(policy: Rewrite, scope: Scope) -> Hooks:
    route = scope.route
    if not route.pattern:
        return Hooks()
    groups_of = Rewriter(route.pattern).groups
    start_of = compile_field_value(policy.target.path)
    query_of = _compile_query(policy.target, route)

    def answer(exchange: Exchange) -> DirectResponse | None:
        groups = groups_of(exchange.path)
        if groups is None:
            return None
        exchange.captures = groups
        query = exchange.query if query_of is None else query_of(exchange)
        return redirect(302, clean(start_of(exchange, route) + query))

    return Hooks(request=answer)


def _compile_path(parts: tuple[Part, ...], route: Route) -> Callable[[Exchange], bytes]:
    """Groups are in normal form, as the path is that they come from; other variables are escaped, so that none begins a query."""
    if is_constant(parts):
        constant = compile_value(parts)
        return lambda exchange: constant(exchange, route)
    pieces = [(compile_value((part,)), part.variable in (Variable.TEXT, Variable.CAPTURE)) for part in parts]

    def path(exchange: Exchange) -> bytes:
        return b"".join(
            [
                value_of(exchange, route) if clean_already else _escape(_NOT_IN_PATH, value_of(exchange, route))
                for value_of, clean_already in pieces
            ]
        )

    return path


def _compile_query(target: RewriteTarget, route: Route) -> Callable[[Exchange], bytes] | None:
    """The new query with its question mark; None: the request's own, as it is."""
    if not target.query:
        return None if target.keep_query else lambda exchange: b""
    pieces = [
        (compile_value((part,)), _NOT_IN_ARGUMENT if part.variable is Variable.CAPTURE else _NOT_IN_QUERY)
        for part in target.query
    ]

    def query(exchange: Exchange) -> bytes:
        made = b"?" + b"".join([_escape(unsafe, value_of(exchange, route)) for value_of, unsafe in pieces])
        own = exchange.query[1:]
        return b"%b&%b" % (made, own) if own and target.keep_query else made

    return query


def _escape(unsafe: re.Pattern[bytes], value: bytes) -> bytes:
    return unsafe.sub(lambda match: b"%%%02X" % match[0][0], value)


SPEC = MiddlewareSpec(
    "rewrite",
    phase=Phase.UPSTREAM,
    annotations=("rewrite-target", "x-forwarded-prefix"),
    policy=Rewrite,
    parse=parse,
    bind=bind,
    skips_catch_all=True,
)
REDIRECTING_SPEC = MiddlewareSpec(
    "rewrite-redirect",
    phase=Phase.REDIRECT,
    annotations=("rewrite-target",),
    policy=Rewrite,
    parse=parse_redirecting,
    bind=bind_redirecting,
    skips_catch_all=True,
)
