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
        self.failures: list[BaseException] = []
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def always(self, check: Callable[[], None]) -> None:
        self._virtual.before_jump = check


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it to its end in a loop of its own; a task of `spawn` that failed fails it."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(scenario())
        for failure in _loop_of(runner.get_loop()).failures:
            raise failure
        return result


def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that may be cancelled, but must not fail."""
    task = asyncio.create_task(coroutine)
    task.add_done_callback(_note_failure)
    return task


def _note_failure(task: asyncio.Task[None]) -> None:
    failure = None if task.cancelled() else task.exception()
    if failure is not None:
        _loop_of(task.get_loop()).failures.append(failure)


def _loop_of(loop: asyncio.AbstractEventLoop) -> VirtualLoop:
    assert isinstance(loop, VirtualLoop)
    return loop


def clock() -> float:
    """For code under test: the time of the running loop."""
    return asyncio.get_running_loop().time()


def wall() -> datetime:
    return EPOCH + timedelta(seconds=clock())


def always(check: Callable[[], None]) -> None:
    _loop_of(asyncio.get_running_loop()).always(check)
