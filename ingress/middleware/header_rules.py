"""Rules for headers, one a line: `aioingress.io/request-headers` for what endpoints get, `aioingress.io/response-headers` for what clients get.

    set X-Team: storefront      in place of all fields of that name
    add Link: </style.css>      one more
    remove X-Powered-By

They act in the order written. A line that can't be used is a verdict and costs only itself. Request rules act last before the request is sent, so
that a `set` also overwrites what a client sent; response rules act on every response, errors of ours included.
"""

import enum
from collections.abc import Container

import msgspec

from ingress.exchange import Exchange, ResponseHead
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.middleware.fields import REQUEST_OWN, RESPONSE_OWN, field_name, field_value

_REQUEST, _RESPONSE = "request-headers", "response-headers"
_LINES = 64


class Action(enum.StrEnum):
    SET = "set"
    ADD = "add"
    REMOVE = "remove"


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    action: Action
    name: str
    value: str = ""


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
    if "$" in value:
        raise ValueError("variables are not supported: it has a $")
    return Rule(action, name, field_value(value).decode("ascii"))


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


def bind(policy: HeaderRules, scope: Scope) -> Hooks:
    request = [(rule.action, rule.name.encode("ascii"), rule.value.encode("ascii")) for rule in policy.request]
    response = [(rule.action, rule.name.encode("ascii"), rule.value.encode("ascii")) for rule in policy.response]

    def edit_request(exchange: Exchange) -> None:
        for action, name, value in request:
            if action is Action.SET:
                exchange.set_field(name, value)
            elif action is Action.ADD:
                exchange.add_field(name, value)
            else:
                exchange.remove_fields(name)

    def edit_response(exchange: Exchange, head: ResponseHead) -> None:
        for action, name, value in response:
            if action is Action.SET:
                head.set(name, value)
            elif action is Action.ADD:
                head.add(name, value)
            else:
                head.remove(name)

    return Hooks(request=edit_request if request else None, response=edit_response if response else None)


SPEC = MiddlewareSpec("header-rules", Phase.UPSTREAM, (_REQUEST, _RESPONSE), HeaderRules, parse, bind)
