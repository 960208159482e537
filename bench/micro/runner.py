"""Times a function: enough calls for a repeat to last, several repeats, the median of them."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.support.figures import median, spread
from bench.support.report import number, percent, table

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Case:
    """`prepare` builds everything and returns the call to time; the call must do the same work every time."""

    name: str
    prepare: Callable[[], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Timing:
    name: str
    calls: int  # in each repeat
    repeats_ns: tuple[float, ...]  # a call, in each repeat

    @property
    def median_ns(self) -> float:
        return median(self.repeats_ns)


def _elapsed_s(call: Callable[[], object], calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        call()
    return clock() - start


def calls_for(call: Callable[[], object], at_least_s: float, clock: Clock) -> int:
    """How many calls make a repeat of `at_least_s`: 1, 2, 5, 10, 20, …"""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if _elapsed_s(call, scale * step, clock) >= at_least_s:
                return scale * step
        scale *= 10


def run_case(case: Case, repeats: int, at_least_s: float, clock: Clock = time.perf_counter) -> Timing:
    """The garbage collector rests meanwhile, as in `timeit`. The loop around the call (about 20 ns) is included."""
    call = case.prepare()
    call()
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        calls = calls_for(call, at_least_s, clock)
        times = tuple(_elapsed_s(call, calls, clock) / calls * 1e9 for _ in range(repeats))
    finally:
        if was_enabled:
            gc.enable()
    return Timing(case.name, calls, times)


def timings_table(timings: Sequence[Timing]) -> str:
    rows = [
        [
            one.name,
            number(one.median_ns, 0),
            number(min(one.repeats_ns), 0),
            percent(spread(one.repeats_ns)),
            f"{one.calls:,}",
        ]
        for one in timings
    ]
    return table(["function", "ns/call, median", "fastest", "spread", "calls a repeat"], rows)
