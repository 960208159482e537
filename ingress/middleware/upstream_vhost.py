"""`upstream-vhost`: the Host that the endpoint gets. X-Forwarded-Host still tells what the client asked for."""

from typing import Any

import msgspec

from ingress.exchange import Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope
from ingress.translate.annotations.targets import parse_upstream_host
from ingress.variables import Part, compile_field_value


class UpstreamHost(msgspec.Struct, frozen=True):
    value: tuple[Part, ...]


def parse(reader: Any) -> UpstreamHost | None:
    if not reader.text("upstream-vhost"):
        return None
    return UpstreamHost(reader.require("upstream-vhost", parse_upstream_host, ()))


def bind(policy: UpstreamHost, scope: Scope) -> Hooks:
    route = scope.route
    value_of = compile_field_value(policy.value)

    def set_host(exchange: Exchange) -> None:
        exchange.upstream_authority = value_of(exchange, route)  # empty (a header that didn't come): the client's

    return Hooks(request=set_host)


SPEC = MiddlewareSpec(
    "upstream-vhost",
    phase=Phase.UPSTREAM,
    annotations=("upstream-vhost",),
    policy=UpstreamHost,
    parse=parse,
    bind=bind,
)
