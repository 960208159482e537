"""`satisfy: any` or `all` (the default), and the joining of the access checks of a route. Pure.

As nginx's access phase (ngx_http_core_access_phase), in the order of the registry: address lists, basic, external. With `any` the first check that
admits ends it; 401 and 403 are kept while others are tried, and a 401 counts more than a 403; any other refusal (a fault) ends it at once, and so does
an exception: neither lets anybody in.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import msgspec

from ingress.exchange import DirectResponse, Exchange, RequestHook
from ingress.middleware.base import Hooks, Later, MiddlewareSpec, Phase, Reader, Scope

Challenge = Callable[[Exchange, DirectResponse], DirectResponse]
Outcome = DirectResponse | Awaitable[DirectResponse | None] | None


class SatisfyAny(msgspec.Struct, frozen=True):
    pass


def mode(text: str) -> bool:
    """Whether any suffices."""
    if text not in ("any", "all"):
        raise ValueError("it is neither any nor all")
    return text == "any"


def parse(reader: Reader) -> SatisfyAny | None:
    return SatisfyAny() if reader.take("satisfy", mode, False) else None  # all is the strict one


def bind(policy: SatisfyAny, scope: Scope) -> Hooks:
    return Hooks(any_suffices=True)


SPEC = MiddlewareSpec("satisfy", Phase.ACCESS, ("satisfy",), SatisfyAny, parse, bind, fails_closed=True)


def join(access: Sequence[Hooks]) -> tuple[RequestHook, ...]:
    """The request hooks for the access checks of a route, in order. None at all where nothing is checked."""
    checks = [hooks for hooks in access if hooks.request is not None]
    challenge = next((hooks.challenge for hooks in access if hooks.challenge is not None), None)
    admitted = tuple(hooks.admitted for hooks in access if hooks.admitted is not None)
    joined: list[RequestHook]
    if len(checks) > 1 and any(hooks.any_suffices for hooks in access):
        joined = [_any(checks)]
    else:
        joined = [hooks.request for hooks in checks if hooks.request is not None]
    if challenge is not None:
        joined = [_challenged(hook, challenge) for hook in joined]
    if admitted:
        joined.append(_admission(admitted))
    return tuple(joined)


def _admission(callbacks: tuple[Callable[[Exchange], None], ...]) -> RequestHook:
    def admission(exchange: Exchange) -> None:
        for callback in callbacks:
            callback(exchange)

    return admission


def _challenged(hook: RequestHook, challenge: Challenge) -> RequestHook:
    """A 401 of `hook` becomes what `challenge` makes of it (a redirect to sign in)."""

    def check(exchange: Exchange) -> Outcome:
        outcome = hook(exchange)
        if outcome is None:
            return None
        if type(outcome) is DirectResponse:
            return challenge(exchange, outcome) if outcome.status == 401 else outcome
        return Later(later, exchange, outcome)

    async def later(exchange: Exchange, work: Awaitable[DirectResponse | None]) -> DirectResponse | None:
        outcome = await work
        if outcome is not None and outcome.status == 401:
            return challenge(exchange, outcome)
        return outcome

    return check


def _any(checks: Sequence[Hooks]) -> RequestHook:
    hooks = tuple((hooks.request, hooks.admits) for hooks in checks if hooks.request is not None)

    def check(exchange: Exchange) -> Outcome:
        refusal: DirectResponse | None = None
        for position, (hook, admits) in enumerate(hooks):
            outcome = hook(exchange)
            if outcome is not None and type(outcome) is not DirectResponse:
                return Later(rest, exchange, position, refusal, outcome)
            if outcome is None:
                if admits:
                    return None
            elif _final(outcome):
                return outcome
            else:
                refusal = _stronger(refusal, outcome)
        return refusal

    async def rest(
        exchange: Exchange, position: int, refusal: DirectResponse | None, work: Awaitable[DirectResponse | None]
    ) -> DirectResponse | None:
        """From the check at `position` on, whose outcome is `work`."""
        while True:
            outcome = await work
            if outcome is None:
                if hooks[position][1]:
                    return None
            elif _final(outcome):
                return outcome
            else:
                refusal = _stronger(refusal, outcome)
            while True:
                position += 1
                if position == len(hooks):
                    return refusal
                hook, admits = hooks[position]
                now = hook(exchange)
                if now is not None and type(now) is not DirectResponse:
                    work = cast(Awaitable[DirectResponse | None], now)
                    break
                if now is None:
                    if admits:
                        return None
                elif _final(now):
                    return now
                else:
                    refusal = _stronger(refusal, now)

    return check


def _final(refusal: DirectResponse) -> bool:
    """Not just "not you": a fault, which no other check makes good."""
    return refusal.status not in (401, 403)


def _stronger(first: DirectResponse | None, second: DirectResponse) -> DirectResponse:
    """Of two refusals: 401 before 403, then the first; two 401 challenge with both."""
    if first is None or (first.status == 403 and second.status == 401):
        return second
    if first.status == second.status == 401:
        return DirectResponse(401, (*first.fields, *second.fields), first.body)
    return first
