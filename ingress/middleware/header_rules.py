"""Rules for headers, one a line: `aioingress.io/request-headers` for what endpoints get, `aioingress.io/response-headers` for what clients get.

    set X-Team: storefront      in place of all fields of that name
    add Link: </style.css>      one more
    remove X-Powered-By

Values may have variables (`$host`, `$http_x_team`, ... as in other annotations). They act in the order written. A line that can't be used is
a verdict and costs only itself. Request rules act last before the request is sent, so that a `set` also overwrites what a client sent; response
rules act on every response, errors of ours included.
"""

import enum
from collections.abc import Container

import msgspec

from ingress.exchange import Exchange, ResponseHead
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.middleware.fields import REQUEST_OWN, RESPONSE_OWN, field_name, field_value
from ingress.variables import Evaluate, Part, compile_field_value, parse_value

_REQUEST, _RESPONSE = "request-headers", "response-headers"
_LINES = 64


class Action(enum.StrEnum):
    SET = "set"
    ADD = "add"
    REMOVE = "remove"


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    action: Action
    name: str
    value: tuple[Part, ...] = ()


class HeaderRules(msgspec.Struct, frozen=True, omit_defaults=True):
    request: tuple[Rule, ...] = ()
    response: tuple[Rule, ...] = ()


def parse_rule(line: str, own: Container[str]) -> Rule:
    """Raises ValueError with a clause. `own`: names, in lower case, that are the proxy's."""
    word, _, rest = line.strip().partition(" ")
    try:
        action = Action(word)
    except ValueError:
        raise ValueError("it begins with none of set, add and remove") from None
    name, colon, value = rest.partition(":")
    name = name.strip()
    field_name(name)
    if name.lower() in own:
        raise ValueError(f"{name} is the proxy's own")
    if action is Action.REMOVE:
        if colon:
            raise ValueError("remove takes a name and no value")
        return Rule(action, name)
    if not colon:
        raise ValueError("a colon is missing behind the name")
    return Rule(action, name, parse_value(field_value(value).decode("ascii")))


def _rules(reader: Reader, name: str, own: Container[str]) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    lines = (reader.text(name) or "").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(rules) == _LINES:
            reader.warn(name, f"It has more than {_LINES} rules: line {number} and those behind it are left out.")
            break
        try:
            rules.append(parse_rule(line, own))
        except ValueError as e:
            reader.warn(name, f"Line {number} is left out: {e}.")
    return tuple(rules)


def parse(reader: Reader) -> HeaderRules | None:
    policy = HeaderRules(_rules(reader, _REQUEST, REQUEST_OWN), _rules(reader, _RESPONSE, RESPONSE_OWN))
    return policy if policy.request or policy.response else None


def _compiled(rules: tuple[Rule, ...]) -> list[tuple[Action, bytes, Evaluate]]:
    return [(rule.action, rule.name.encode("ascii"), compile_field_value(rule.value)) for rule in rules]


def bind(policy: HeaderRules, scope: Scope) -> Hooks:
    request, response = _compiled(policy.request), _compiled(policy.response)
    route = scope.route

    def edit_request(exchange: Exchange) -> None:
        for action, name, value_of in request:
            if action is Action.SET:
                exchange.set_field(name, value_of(exchange, route))
            elif action is Action.ADD:
                exchange.add_field(name, value_of(exchange, route))
            else:
                exchange.remove_fields(name)

    def edit_response(exchange: Exchange, head: ResponseHead) -> None:
        for action, name, value_of in response:
            if action is Action.SET:
                head.set(name, value_of(exchange, route))
            elif action is Action.ADD:
                head.add(name, value_of(exchange, route))
            else:
                head.remove(name)

    return Hooks(request=edit_request if request else None, response=edit_response if response else None)


SPEC = MiddlewareSpec("header-rules", Phase.UPSTREAM, (_REQUEST, _RESPONSE), HeaderRules, parse, bind)
