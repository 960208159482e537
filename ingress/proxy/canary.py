"""Which of a route's canaries gets a request, if any: the runtime half of `translate.canaries`. A hook like any other, so other routes pay nothing."""

from collections.abc import Callable
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from ingress.affinity.cookie import decode, parse_cookie_header, upstream_digest
from ingress.exchange import Exchange, RequestHook
from ingress.expressions import compile_expression
from ingress.routing.table import CanaryRule

_HEADER_LIMIT_BYTES = 8192

Asked = Callable[[Exchange], bool | None]
"""True: this canary; False: not this one; None: no answer."""


class Target(Protocol):
    """`proxy.snapshot.LinkedRoute`."""

    upstream: Any


T = TypeVar("T", bound=Target)


class CanarySplit(Generic[T]):
    """The canaries of one route, compiled. `choose` is O(canaries)."""

    __slots__ = ("_canaries", "_main", "_rng", "_session_name", "_shares", "_total")

    def __init__(self, main: T, canaries: list[tuple[T, CanaryRule]], rng: Random) -> None:
        self._main = main
        self._rng = rng
        self._canaries = [
            (target, _asked(rule), upstream_digest(target.upstream.upstream.key)) for target, rule in canaries
        ]
        self._total = max((rule.weight_total for _, rule in canaries), default=100)
        self._shares = [rule.weight for _, rule in canaries]
        cookies = main.upstream.cookies if main.upstream is not None else None
        self._session_name = b"" if cookies is None else cookies.policy.name.encode("ascii", "replace")

    def choose(self, exchange: Exchange) -> T | None:
        """None: the main route. A canary without endpoints gets nothing."""
        if self._session_name:
            session = self._session(exchange)
            if session is not None:
                return None if session is self._main else session
        ruled_out: set[int] | None = None
        for number, (target, asked, _) in enumerate(self._canaries):
            if not _serves(target):
                continue
            answer = asked(exchange)
            if answer:
                return target
            if answer is False:
                if ruled_out is None:
                    ruled_out = set()
                ruled_out.add(number)
        return self._draw(ruled_out)

    def _draw(self, ruled_out: set[int] | None) -> T | None:
        ticket = self._rng.randrange(self._total)
        for number, (share, (target, _, _)) in enumerate(zip(self._shares, self._canaries, strict=True)):
            if ticket < share:
                if (ruled_out is not None and number in ruled_out) or not _serves(target):
                    return None
                return target
            ticket -= share
        return None

    def _session(self, exchange: Exchange) -> T | None:
        """Whose session the request belongs to; None for a new one."""
        value = parse_cookie_header(exchange.header_values(b"cookie"), self._session_name)
        cookie = None if value is None else decode(value)
        if cookie is None or not cookie.digest:
            return None
        if cookie.digest == upstream_digest(self._main.upstream.upstream.key):
            return self._main
        for target, _, digest in self._canaries:
            if cookie.digest == digest and _serves(target):
                return target
        return None


def _serves(target: Target) -> bool:
    return target.upstream is not None and target.upstream.serves


def _asked(rule: CanaryRule) -> Asked:
    header, cookie = rule.header.lower().encode("ascii"), rule.cookie.encode("ascii")
    decides = _by_value(rule)

    def asked(exchange: Exchange) -> bool | None:
        if header:
            value = exchange.header(header)
            if value is not None:
                answer = decides(value[:_HEADER_LIMIT_BYTES])
                if answer is not None:
                    return answer
        if cookie:
            value = parse_cookie_header(exchange.header_values(b"cookie"), cookie)
            if value == b"always":
                return True
            if value == b"never":
                return False
        return None

    return asked


def _by_value(rule: CanaryRule) -> Callable[[bytes], bool | None]:
    if rule.header_unusable:
        return lambda _: False
    if rule.header_value:
        wanted = rule.header_value.encode("ascii")
        return lambda value: True if value == wanted else None
    if rule.header_pattern:
        search = compile_expression(rule.header_pattern).search
        return lambda value: True if search(value) else None
    return {b"always": True, b"never": False}.get


def hook(split: CanarySplit[Any]) -> RequestHook:
    """From here on the request is served by the route that was chosen."""

    def split_canaries(exchange: Exchange) -> None:
        chosen = split.choose(exchange)
        if chosen is not None:
            exchange.route = chosen

    return split_canaries
