"""Memory of a process tree over time, and whether it is flat."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.support.figures import median, slope
from bench.support.processes import ProcessTree

MIB = 1 << 20


@dataclass(slots=True)
class MemoryTrace:
    """Points of (seconds since the start, PSS of the whole tree in bytes)."""

    points: list[tuple[float, int]] = field(default_factory=list)


class HighWater:
    """Growth of a process tree up to its highest point, however short: the kernel's own mark of resident memory."""

    def __init__(self, process: ProcessTree) -> None:
        self._before = {}
        for stat in process.tree():
            Path(f"/proc/{stat.pid}/clear_refs").write_text("5")  # resets VmHWM to the present size (proc(5))
            self._before[stat.pid] = parse_high_water(Path(f"/proc/{stat.pid}/status").read_text())

    def grown_bytes(self) -> int:
        """Sum over the processes of the highest size since the start less the size then."""
        return sum(
            parse_high_water(Path(f"/proc/{pid}/status").read_text()) - before for pid, before in self._before.items()
        )


def parse_high_water(text: str) -> int:
    """`VmHWM` of /proc/PID/status in bytes."""
    line = next(line for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True, slots=True)
class Growth:
    """Of the part of a trace after the warm-up: `grown` is the fitted slope times the length of that part."""

    median_bytes: float
    slope_bytes_per_s: float
    grown_bytes: float


def growth(points: list[tuple[float, int]], warm_up: float = 0.25) -> Growth:
    """Leave out the first `warm_up` share: pools, caches and the allocator fill up then."""
    begin = points[0][0] + (points[-1][0] - points[0][0]) * warm_up
    late = [(moment, float(size)) for moment, size in points if moment >= begin]
    steepness = slope(late)
    return Growth(median([size for _, size in late]), steepness, steepness * (late[-1][0] - late[0][0]))


@contextlib.asynccontextmanager
async def traced(process: ProcessTree, every_s: float) -> AsyncIterator[MemoryTrace]:
    """Samples while the body runs, at least once before and once after it."""
    trace, loop = MemoryTrace(), asyncio.get_running_loop()
    began = loop.time()

    def sample() -> None:
        trace.points.append((loop.time() - began, process.pss_bytes()))

    async def go_on() -> None:
        while True:
            await asyncio.sleep(every_s)
            sample()

    sample()
    task = asyncio.create_task(go_on())
    try:
        yield trace
    finally:
        task.cancel()
        sample()
