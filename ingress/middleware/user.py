"""Middlewares of the cluster's admin (`middleware.api`): which an Ingress gets, and how its hooks are called, bounded and counted.

Annotations of our own: `middleware` names them in order, `middleware.<name>` configures one. Which an Ingress may name is the admin's choice: by
annotation `aioingress.io/allowed-middleware` of its IngressClass (names, or `*`), or for all by `--allow-middleware`.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from ingress.exchange import DirectResponse, Exchange, RequestHook, ResponseHead
from ingress.middleware.api import Middleware, Reply, Request, Response
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Scope, Services, Tally
from ingress.middleware.loader import REGISTRY
from ingress.translate.features import AnnotationError, AnnotationReader

ANNOTATION = "middleware"
_FAILURES_IN_A_ROW = 5
_TRIPPED_S = 10.0
_LIMIT = 16  # middlewares an Ingress
_log = logging.getLogger(__name__)


class Item(msgspec.Struct, frozen=True):
    name: str
    config: str = ""


class UserMiddlewares(msgspec.Struct, frozen=True):
    """In the order in which they see the request."""

    items: tuple[Item, ...]


def parse(reader: AnnotationReader) -> UserMiddlewares | None:
    """Whatever can't be had closes the routes: nobody can tell from outside what a middleware was to guard."""
    text = reader.text(ANNOTATION)
    configs = reader.prefixed(f"{ANNOTATION}.")
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if not names:
        for name in configs:
            reader.warn(f"{ANNOTATION}.{name}", "It has no effect, as the Ingress doesn't name that middleware.")
        return None
    if len(names) > _LIMIT:
        raise AnnotationError(ANNOTATION, f"it names more than {_LIMIT}")
    if len(set(names)) != len(names):
        raise AnnotationError(ANNOTATION, "it names one twice")
    items = []
    for name in names:
        found = REGISTRY.get(name)
        if found is None:
            have = ", ".join(sorted(REGISTRY)) or "none"
            raise AnnotationError(ANNOTATION, f"there is no middleware {name[:63]} (loaded: {have})")
        if not reader.allows_middleware(name):
            raise AnnotationError(ANNOTATION, f"the class of the Ingress doesn't allow middleware {name}")
        config = configs.pop(name, "")
        try:
            found(config)
        except ValueError as e:
            annotation = f"{ANNOTATION}.{name}" if config else ANNOTATION
            raise AnnotationError(annotation, f"middleware {name} refuses it: {e}") from e
        items.append(Item(name, config))
    for name in configs:
        reader.warn(f"{ANNOTATION}.{name}", "It has no effect, as the Ingress doesn't name that middleware.")
    return UserMiddlewares(tuple(items))


def bind(policy: UserMiddlewares, scope: Scope) -> Hooks:
    route = scope.route
    callers = [
        scope.live(
            ("user", route.namespace, route.ingress, item.name, item.config),
            lambda item=item: Caller(REGISTRY[item.name](item.config), scope.services),  # type: ignore[misc]
        )
        for item in policy.items
    ]
    return chain(callers)


class Caller:
    """One middleware instance, and how its calls went."""

    def __init__(self, middleware: Middleware, services: Services) -> None:
        self.middleware = middleware
        kind = type(middleware)
        self.has_request = kind.on_request is not Middleware.on_request
        self.has_response = kind.on_response is not Middleware.on_response
        self.has_error = kind.on_error is not Middleware.on_error
        self._budget_s = kind.time_budget_s
        self._refuses = kind.on_failure != "pass"
        self._clock = services.clock
        self._tally = services.tally
        self._counted: dict[str, tuple[Tally, Tally]] = {}
        self._failures = 0  # in a row
        self._tripped_until = 0.0

    def request(self, exchange: Exchange) -> DirectResponse | Awaitable[DirectResponse | None] | None:
        began = self._clock()
        if began < self._tripped_until:
            return self._failed("request", "tripped")
        try:
            outcome = self.middleware.on_request(Request(exchange))
        except Exception:
            self._log_failure("on_request")
            return self._failed("request", "error", began)
        if inspect.isawaitable(outcome):
            return self._await(outcome, began)
        return self._settle(outcome, began)

    async def _await(self, work: Awaitable[Reply | None], began: float) -> DirectResponse | None:
        try:
            async with asyncio.timeout(self._budget_s):
                outcome = await work
        except TimeoutError:
            _log.warning("middleware %s: cut after its time budget of %g s", self.middleware.name, self._budget_s)
            return self._failed("request", "timeout", began)
        except Exception:
            self._log_failure("on_request")
            return self._failed("request", "error", began)
        return self._settle(outcome, began, cut=True)

    def _settle(self, outcome: Any, began: float, cut: bool = False) -> DirectResponse | None:
        if outcome is not None and not isinstance(outcome, Reply):
            _log.error(
                "middleware %s: on_request returned a %s, neither Reply nor None",
                self.middleware.name,
                type(outcome).__name__,
            )
            return self._failed("request", "error", began)
        self._done("request", began, cut)
        return None if outcome is None else outcome.direct()

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        began = self._clock()
        if began < self._tripped_until:
            self._failed("response", "tripped")
            return
        before = head.fields
        try:
            self.middleware.on_response(Request(exchange), Response(head))
        except Exception:
            head.fields = before  # half a change is none
            self._log_failure("on_response")
            self._failed("response", "error", began)
            return
        self._done("response", began)

    def error(self, exchange: Exchange, status: int) -> DirectResponse | None:
        began = self._clock()
        if began < self._tripped_until:
            self._failed("error", "tripped")
            return None
        try:
            reply = self.middleware.on_error(Request(exchange), status)
            answer = None if reply is None else reply.direct()
        except Exception:
            self._log_failure("on_error")
            self._failed("error", "error", began)
            return None
        self._done("error", began)
        return answer

    def _done(self, hook: str, began: float, cut: bool = False) -> None:
        calls, seconds = self._counters(hook)
        took_s = self._clock() - began
        calls.value += 1
        seconds.value += took_s
        if took_s > self._budget_s and not cut:
            _log.warning("middleware %s: %s took %.3f s", self.middleware.name, hook, took_s)
            self._tally("aioingress_middleware_failures", self.middleware.name, hook, "slow").value += 1
            self._count_failure()
        else:
            self._failures = 0

    def _failed(self, hook: str, reason: str, began: float | None = None) -> DirectResponse | None:
        self._tally("aioingress_middleware_failures", self.middleware.name, hook, reason).value += 1
        if began is not None:
            calls, seconds = self._counters(hook)
            calls.value += 1
            seconds.value += self._clock() - began
            self._count_failure()
        return DirectResponse(500) if self._refuses else None

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            self._failures = 0
            self._tripped_until = self._clock() + _TRIPPED_S
            _log.error("middleware %s: not called for %g s, after failures in a row", self.middleware.name, _TRIPPED_S)

    def _log_failure(self, hook: str) -> None:
        _log.exception("middleware %s: %s failed", self.middleware.name, hook)

    def _counters(self, hook: str) -> tuple[Tally, Tally]:
        found = self._counted.get(hook)
        if found is None:
            name = self.middleware.name
            found = self._counted[hook] = (
                self._tally("aioingress_middleware_calls", name, hook),
                self._tally("aioingress_middleware_seconds", name, hook),
            )
        return found


def chain(callers: list[Caller]) -> Hooks:
    """One hook for all of them, in their order; responses and errors in the opposite one."""
    request = [caller.request for caller in callers if caller.has_request]
    response = [caller.response for caller in reversed(callers) if caller.has_response]
    error = [caller.error for caller in reversed(callers) if caller.has_error]

    def on_response(exchange: Exchange, head: ResponseHead) -> None:
        for hook in response:
            hook(exchange, head)

    def on_error(exchange: Exchange, status: int) -> DirectResponse | None:
        for hook in error:
            reply = hook(exchange, status)
            if reply is not None:
                return reply
        return None

    return Hooks(
        request=_in_turn(request) if request else None,
        response=on_response if response else None,
        error=on_error if error else None,
    )


def _in_turn(hooks: Sequence[RequestHook]) -> RequestHook:
    if len(hooks) == 1:
        return hooks[0]

    async def go_on(
        exchange: Exchange, work: Awaitable[DirectResponse | None], rest: Sequence[RequestHook]
    ) -> DirectResponse | None:
        outcome = await work
        for hook in rest:
            if outcome is not None:
                return outcome
            found = hook(exchange)
            outcome = found if found is None or isinstance(found, DirectResponse) else await found
        return outcome

    def request(exchange: Exchange) -> DirectResponse | Awaitable[DirectResponse | None] | None:
        for at, hook in enumerate(hooks):
            outcome = hook(exchange)
            if outcome is None:
                continue
            if isinstance(outcome, DirectResponse):
                return outcome
            return go_on(exchange, outcome, hooks[at + 1 :])
        return None

    return request


SPEC = MiddlewareSpec("user", Phase.USER, (ANNOTATION,), UserMiddlewares, parse, bind, fails_closed=True)
