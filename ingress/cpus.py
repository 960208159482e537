"""How many CPUs this process may use: the affinity mask, cut by the CPU quota of its cgroup (v2 `cpu.max`, v1 `cpu.cfs_quota_us`).

`os.cpu_count()` would say 64 in a container limited to 2: 64 workers that are throttled together.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

ReadFile = Callable[[str], str | None]
"""The text of a file, or None when it can't be read."""

_MOUNT = "/sys/fs/cgroup"
_V1_CPU_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def available_cpus() -> int:
    """At least 1."""
    return usable_cpus(len(os.sched_getaffinity(0)), cgroup_quota(_read))


def usable_cpus(affinity: int, quota: float | None) -> int:
    """`quota` in CPUs, None for no limit. A fraction counts as one more CPU: otherwise it would lie idle."""
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def cgroup_quota(read: ReadFile) -> float | None:
    """The smallest quota, in CPUs, of this process's cgroup and its ancestors; None for no limit.

    A parent's limit holds for all of its children. Inside a container the path in /proc/self/cgroup may be that of the host,
    which the container's mount doesn't show: the walk up to the mount's root finds the container's own files there.
    """
    quotas: list[float] = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        hierarchy, controllers, path = (*line.split(":", 2), "", "")[:3]
        if hierarchy == "0" and controllers == "":
            for group in _upwards(path):
                quotas.extend(_v2_quota(read(f"{_MOUNT}{group}cpu.max")))
        elif "cpu" in controllers.split(","):
            for mount in _V1_CPU_MOUNTS:
                for group in _upwards(path):
                    prefix = f"{_MOUNT}/{mount}{group}cpu.cfs_"
                    quotas.extend(_v1_quota(read(f"{prefix}quota_us"), read(f"{prefix}period_us")))
    return min(quotas, default=None)


def _upwards(path: str) -> Iterator[str]:
    """`/a/b` -> `/a/b/`, `/a/`, `/`. A path that leaves the mount (`/../x`: another cgroup namespace) has the root only."""
    parts = PurePosixPath(path).parts[1:]
    if ".." not in parts:
        for end in range(len(parts), 0, -1):
            yield f"/{'/'.join(parts[:end])}/"
    yield "/"


def _v2_quota(text: str | None) -> list[float]:
    """`150000 100000` -> [1.5]; `max 100000`, absent or malformed -> []."""
    quota, period = (*(text or "").split(), "", "")[:2]
    return _ratio(quota, period)


def _v1_quota(quota: str | None, period: str | None) -> list[float]:
    """A quota of -1 means no limit."""
    return _ratio((quota or "").strip(), (period or "").strip())


def _ratio(quota: str, period: str) -> list[float]:
    if quota.isascii() and quota.isdigit() and period.isascii() and period.isdigit() and int(quota) and int(period):
        return [int(quota) / int(period)]
    return []


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return None
