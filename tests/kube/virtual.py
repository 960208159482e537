"""An event loop whose time jumps to the next timer as soon as nothing else is left to do: hours pass in milliseconds, in a fixed order."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.before_jump: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None:
            raise AssertionError("everything waits for everything: no timer is left")
        self.before_jump()
        self.now += timeout
        self.before_jump()
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """`always`, if set, is called whenever all is quiet, and once more after each jump, before anything runs."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def always(self, check: Callable[[], None]) -> None:
        self._virtual.before_jump = check


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it to its end in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario())


def clock() -> float:
    """For code under test: the time of the running loop."""
    return asyncio.get_running_loop().time()


def wall() -> datetime:
    return EPOCH + timedelta(seconds=clock())


def always(check: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.always(check)
