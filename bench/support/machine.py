"""Where a figure comes from: commit, hardware, interpreter. Never a host name or a path."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    commit: str
    date: str  # UTC, to the minute
    hardware: str  # CPU model, cores available to us, memory, kernel
    python: str
    event_loop: str


def package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str:
    """Short hash, with `+` behind it when the tree differs from it."""
    head = _git("rev-parse", "--short=10", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}+" if _git("status", "--porcelain", "--untracked-files=no") else head


def parse_cpu_model(cpuinfo: str) -> str:
    """The `model name` of /proc/cpuinfo, or the architecture where there is none (arm64)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def describe() -> Machine:
    uvloop = package_version("uvloop")
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kernel = re.match(r"[\d.]+", platform.release())
    hardware = (
        f"{parse_cpu_model(Path('/proc/cpuinfo').read_text())}, {len(os.sched_getaffinity(0))} cores, "
        f"{memory_bytes / (1 << 30):.0f} GiB, Linux {kernel[0] if kernel else '?'}"
    )
    return Machine(
        commit=commit(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        hardware=hardware,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        event_loop=f"uvloop {uvloop}" if uvloop else "asyncio",
    )
