"""The event loop of the benchmarks' own clients and backends: uvloop where there is one."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

_T = TypeVar("_T")


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[object, object, _T]) -> _T:
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(main)
