"""Header fields that every request to an endpoint, or every response, gets: the options proxy-set-headers, add-headers and
proxy-add-original-uri-header of ingress-nginx. A field replaces all of its name; an empty value only removes them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ingress.exchange import Exchange, ResponseHead, ResponseHook
from ingress.request_text import compile_template, parse_template

Fill = Callable[[Any], bytes]


def _compiled(fields: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes, Fill]]:
    return [(name.encode(), name.lower().encode(), compile_template(parse_template(value))) for name, value in fields]


def for_endpoints(fields: Sequence[tuple[str, str]], original_uri: bool) -> Callable[[Exchange], None] | None:
    """What changes a request before it is sent; None: nothing does."""
    compiled = _compiled(fields)
    if original_uri:
        compiled.append((b"X-Original-URI", b"x-original-uri", lambda exchange: exchange.target))
    if not compiled:
        return None
    names = [lower for _, lower, _ in compiled]
    wanted = frozenset(names)

    def apply(exchange: Exchange) -> None:
        values = [(name, lower, fill(exchange)) for name, lower, fill in compiled]  # before anything is changed
        exchange.remove_fields(*names)
        exchange.forwarded = _without(exchange.forwarded, wanted)
        for name, lower, value in values:
            if lower == b"x-request-id":
                exchange.request_id = value
            elif value:
                exchange.add_field(name, value)

    return apply


def _without(block: bytes, names: frozenset[bytes]) -> bytes:
    """A block of lines `Name: value` less those of these names."""
    lines = block.split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    return block if len(kept) == len(lines) else b"\r\n".join(kept)


def for_clients(fields: Sequence[tuple[str, str]]) -> ResponseHook | None:
    """The hook; None: there is nothing to do."""
    compiled = _compiled(fields)
    if not compiled:
        return None
    names = [lower for _, lower, _ in compiled]

    def apply(exchange: Exchange, head: ResponseHead) -> None:
        head.remove(*names)
        for name, _, fill in compiled:
            value = fill(exchange)
            if value:
                head.add(name, value)

    return apply
