"""The joining of access checks, against a naive twin of nginx's access phase."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, Later
from ingress.middleware.satisfy import join
from tests.middleware.support import Bound, exchange, parsed

ANY = Hooks(any_suffices=True)


def answer(status: int) -> DirectResponse | None:
    return None if status == 0 else DirectResponse(status, ((b"X-From", b"%d" % status),))


def check(status: int, later: bool = False, admits: bool = True, called: list[int] | None = None) -> Hooks:
    async def wait() -> DirectResponse | None:
        await asyncio.sleep(0)
        return answer(status)

    def hook(subject: Exchange) -> object:
        if called is not None:
            called.append(status)
        return Later(wait) if later else answer(status)

    return Hooks(request=hook, admits=admits)  # type: ignore[arg-type]


def wanted(checks: Sequence[tuple[int, bool, bool]], any_suffices: bool) -> int:
    """nginx's ngx_http_core_access_phase, word by word."""
    code = 0
    for status, _, admits in checks:
        if not any_suffices or len(checks) == 1:
            if status:
                return status
        elif status == 0:
            if admits:
                return 0
        elif status in (401, 403):
            if code != 401:
                code = status
        else:
            return status
    return code


CHECKS = st.lists(st.tuples(st.sampled_from([0, 401, 403, 500, 503]), st.booleans(), st.booleans()), max_size=4)


@given(CHECKS, st.booleans())
def test_as_nginx(checks: list[tuple[int, bool, bool]], any_suffices: bool) -> None:
    hooks = [check(status, later, admits) for status, later, admits in checks] + ([ANY] if any_suffices else [])
    outcome = asyncio.run(Bound(hooks).ask(exchange()))
    assert (0 if outcome is None else outcome.status) == wanted(checks, any_suffices)


def test_the_first_that_admits_ends_it() -> None:
    called: list[int] = []
    bound = Bound([check(403, called=called), check(0, called=called), check(500, called=called), ANY])
    assert bound.now(exchange()) is None
    assert called == [403, 0]


async def test_an_exception_lets_nobody_in() -> None:
    def broken(subject: Exchange) -> DirectResponse | None:
        raise RuntimeError("bug")

    async def wait() -> DirectResponse | None:
        raise RuntimeError("bug")

    for hooks in (
        [Hooks(request=broken), check(0), ANY],
        [check(403), Hooks(request=lambda subject: Later(wait)), check(0), ANY],
        [check(403, later=True), Hooks(request=broken), check(0), ANY],
    ):
        with pytest.raises(RuntimeError):
            await Bound(hooks).ask(exchange())


async def test_cancelled_at_every_await() -> None:
    """Whoever cancels gets CancelledError, never a result."""
    for steps in range(4):
        hooks = [check(403, later=True), check(401, later=True), check(0, later=True), ANY]
        task = asyncio.ensure_future(Bound(hooks).ask(exchange()))
        for _ in range(steps):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_two_challenges_are_both_sent() -> None:
    def challenge(name: bytes) -> Hooks:
        return Hooks(request=lambda subject: DirectResponse(401, ((b"WWW-Authenticate", name),)))

    outcome = Bound([challenge(b"Basic"), challenge(b"Bearer"), ANY]).now(exchange())
    assert outcome is not None
    assert outcome.fields == ((b"WWW-Authenticate", b"Basic"), (b"WWW-Authenticate", b"Bearer"))


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("extra", [[], [ANY]])
async def test_a_challenge_replaces_every_401_and_nothing_else(extra: list[Hooks], later: bool) -> None:
    signin = Hooks(challenge=lambda subject, response: DirectResponse(302, ((b"Location", b"/login"),)))
    for status, becomes in ((401, 302), (403, 403), (500, 500)):
        for hooks in ([check(status, later), signin], [check(status, later), check(status, later), signin]):
            outcome = await Bound(hooks + extra).ask(exchange())
            assert outcome is not None
            assert outcome.status == becomes


@pytest.mark.parametrize(
    ("status", "extra", "admitted"), [(0, [], True), (401, [], False), (401, [check(0), ANY], True)]
)
def test_who_is_let_in_is_told_to_all(status: int, extra: list[Hooks], admitted: bool) -> None:
    told: list[str] = []
    hooks = [
        Hooks(request=check(status).request, admitted=lambda subject: told.append("a")),
        Hooks(admitted=lambda subject: told.append("b")),
        *extra,
    ]
    Bound(hooks).now(exchange())
    assert told == (["a", "b"] if admitted else [])


def test_nothing_to_check() -> None:
    assert join([]) == ()
    assert join([ANY]) == ()
    assert join([Hooks()]) == ()


def test_parse() -> None:
    assert parsed({"satisfy": "any"}).policy("satisfy") is not None
    assert parsed({"satisfy": "all"}).features == ()
    bad = parsed({"satisfy": "ANY"})
    assert (bad.features, bad.closed, bad.fields) == ((), "", ["satisfy"])  # all is in force, the stricter one
