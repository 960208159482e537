"""Slower responses (`limit-rate`: KiB a second, `limit-rate-after`: KiB before it), for each request by itself, as nginx's limit_rate.

What has come for `t` seconds may add up to `after + rate * (t + 1)` bytes; the rest is held back, and the endpoint waits. Unlike in nginx, responses need
not be buffered for it (`proxy-buffering`). What is held back is bounded by what one read from an endpoint brings.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ingress.exchange import Exchange, Field, ResponseHead
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.middleware.filters import BodyFilter
from ingress.translate.annotations import values

_LEAST_DELAY_S = 0.01
_GREATEST_DELAY_S = 1.0


class LimitRate(msgspec.Struct, frozen=True, omit_defaults=True):
    rate_bytes: int  # a second
    after_bytes: int = 0


def parse(reader: Reader) -> LimitRate | None:
    rate = reader.take("limit-rate", values.count, reader.options.limit_rate_kb)
    after = reader.take("limit-rate-after", values.count, reader.options.limit_rate_after_kb)
    return LimitRate(rate << 10, after << 10) if rate else None


def acts(options: Any) -> bool:
    return bool(options.limit_rate_kb)


def allowance(policy: LimitRate, elapsed_s: float) -> int:
    """Bytes that may have been sent by then."""
    return policy.after_bytes + int(policy.rate_bytes * (elapsed_s + 1.0))


def delay_s(policy: LimitRate, missing_bytes: int) -> float:
    """Until when to wait for an allowance that is `missing_bytes` larger."""
    return min(max(missing_bytes / policy.rate_bytes, _LEAST_DELAY_S), _GREATEST_DELAY_S)


class Throttle(BodyFilter):
    """Lets so much pass."""

    __slots__ = ("_clock", "_held", "_loop", "_policy", "_queue", "_sent", "_started", "_timer", "_trailers")

    def __init__(
        self, exchange: Exchange, policy: LimitRate, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]
    ) -> None:
        super().__init__(exchange)
        self._policy = policy
        self._loop = loop
        self._clock = clock
        self._started = clock()
        self._queue: deque[bytes] = deque()
        self._held = 0  # bytes in the queue
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._trailers: Sequence[Field] | None = None  # the response ends behind the queue

    def respond_body(self, exchange: Exchange, chunk: bytes) -> None:
        if self._queue or self._sent + len(chunk) > allowance(self._policy, 0.0):
            self._queue.append(chunk)
            self._held += len(chunk)
            if self._timer is None:
                self._pass_on()
        else:  # within the first second's worth: nearly every response
            self._sent += len(chunk)
            self.downstream.respond_body(exchange, chunk)

    def respond_end(self, exchange: Exchange, trailers: Sequence[Field]) -> None:
        if self._queue:
            self._trailers = trailers
        else:
            super().respond_end(exchange, trailers)

    def respond_abort(self, exchange: Exchange) -> None:
        self._forget()
        self.downstream.respond_abort(exchange)

    def client_gone(self) -> None:
        self._forget()
        super().client_gone()

    # ----

    def _pass_on(self) -> None:
        self._timer = None
        allowed = allowance(self._policy, self._clock() - self._started) - self._sent
        queue = self._queue
        while queue and allowed > 0:
            chunk = queue.popleft()
            if len(chunk) > allowed:
                queue.appendleft(chunk[allowed:])
                chunk = chunk[:allowed]
            allowed -= len(chunk)
            self._held -= len(chunk)
            self._sent += len(chunk)
            self.downstream.respond_body(self.exchange, chunk)
        if queue:
            self.hold_up()
            wanted = min(self._held, self._policy.rate_bytes // 4) - allowed
            self._timer = self._loop.call_later(delay_s(self._policy, wanted), self._resume)
        else:
            self.let_go()
            if self._trailers is not None:
                self.respond_end(self.exchange, self._trailers)

    def _resume(self) -> None:
        self._pass_on()
        self.downstream.flush()

    def _forget(self) -> None:
        self._queue.clear()
        self._held = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bind(policy: LimitRate, scope: Scope) -> Hooks:
    loop, clock = scope.services.loop, scope.services.clock

    def slow_down(exchange: Exchange, head: ResponseHead) -> None:
        if 0 <= head.content_length <= policy.after_bytes + policy.rate_bytes:
            return  # too short to be slowed down
        Throttle(exchange, policy, loop, clock).insert()

    return Hooks(response=slow_down)


SPEC = MiddlewareSpec(
    "limit-rate", Phase.HOST, ("limit-rate", "limit-rate-after"), LimitRate, parse, bind, by_option=acts
)
