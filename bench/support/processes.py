"""Processes under measurement: in a session of their own, pinned, accounted as a tree, ended with all they started.

A tree is the process, its descendants and every other member of its session, so that a worker whose parent died still
counts and is still ended. Nothing here ends a process that it did not start.
"""

import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: dlopen is not safe between fork and exec
_PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """A benchmark can't go on; the text is one line for the person who started it."""


class ProcessStat(NamedTuple):
    """The part of /proc/PID/stat that is used here (proc(5)). CPU times in seconds; `children` only those reaped."""

    pid: int
    parent: int
    session: int
    own_s: float
    children_s: float


def parse_stat(text: str) -> ProcessStat:
    """The command name, in parentheses, may itself hold spaces and parentheses: fields start after the last one."""
    pid, _, rest = text.partition(" (")
    fields = rest[rest.rindex(")") + 2 :].split()
    user, system, child_user, child_system = (int(fields[i]) for i in (11, 12, 13, 14))
    return ProcessStat(
        int(pid),
        int(fields[1]),
        int(fields[3]),
        (user + system) / _TICKS_PER_S,
        (child_user + child_system) / _TICKS_PER_S,
    )


def tree_of(root: int, stats: Sequence[ProcessStat]) -> list[ProcessStat]:
    """`root`, its descendants and the members of its session, in order of pid."""
    children: dict[int, list[ProcessStat]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
    found = {stat.pid: stat for stat in stats if stat.pid == root or stat.session == root}
    pending = list(found)
    while pending:
        for child in children.get(pending.pop(), ()):
            if child.pid not in found:
                found[child.pid] = child
                pending.append(child.pid)
    return [found[pid] for pid in sorted(found)]


def all_processes() -> list[ProcessStat]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                found.append(parse_stat(Path(entry.path, "stat").read_text()))
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended in between
    return found


def parse_core_busy(text: str, cores: Sequence[int]) -> float:
    """Seconds that `cores` were busy since boot with anything, interrupts and stolen time included (/proc/stat)."""
    total = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / _TICKS_PER_S


def core_busy_s(cores: Sequence[int]) -> float:
    return parse_core_busy(Path("/proc/stat").read_text(), cores)


def parse_rollup(text: str) -> dict[str, int]:
    """`Rss` and `Pss` of /proc/PID/smaps_rollup, in bytes."""
    sizes = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key in ("Rss", "Pss"):
            sizes[key] = int(value.split()[0]) * 1024
    return sizes


class MemoryUse(NamedTuple):
    """One process. `pss_bytes` shares out pages that several processes map; it is what adds up."""

    pid: int
    title: str
    rss_bytes: int
    pss_bytes: int


def memory_of(pid: int) -> MemoryUse | None:
    """None when the process has ended."""
    try:
        sizes = parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if "Pss" not in sizes:
        return None
    return MemoryUse(pid, title, sizes["Rss"], sizes["Pss"])


def _before_exec(cores: Sequence[int] | None, parent: int) -> Callable[[], None]:
    def prepare() -> None:
        # If the benchmark itself is killed, the child gets SIGTERM and ends its own children.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return prepare


class ProcessTree:
    """A started command. `log` receives its stdout and stderr."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        cores: Sequence[int] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_before_exec(cores, os.getpid()),  # noqa: PLW1509 - there is one thread
            )
        self.pid = self._process.pid

    def __repr__(self) -> str:
        return f"<ProcessTree {self.name} pid={self.pid} returncode={self._process.returncode}>"

    def tree(self) -> list[ProcessStat]:
        return tree_of(self.pid, all_processes())

    def cpu_s(self) -> float:
        """User and system time of the tree since it started, children that have ended included."""
        return sum(stat.own_s + stat.children_s for stat in self.tree())

    def memory(self) -> list[MemoryUse]:
        return [use for stat in self.tree() if (use := memory_of(stat.pid)) is not None]

    def pss_bytes(self) -> int:
        return sum(use.pss_bytes for use in self.memory())

    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """To the first process only (it is still ours until reaped, so the pid can't have been reused)."""
        if not self.ended():
            self._process.send_signal(number)

    def last_words(self) -> str:
        """The end of its output, on one line, for error messages."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-3:]) or "it printed nothing"

    def require_alive(self) -> None:
        if self.ended():
            raise BenchError(f"{self.name} ended with exit code {self.returncode}: {self.last_words()}")

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM to the tree, SIGKILL to what is left after `grace_s`. Idempotent."""
        members = [stat.pid for stat in self.tree()] if not self.ended() else self._leftovers()
        for pid in members:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            if self.ended() and not self._leftovers():
                return
            time.sleep(0.01)
        for pid in {*self._leftovers(), self.pid}:
            if pid != self.pid or not self.ended():
                _signal(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)

    def _leftovers(self) -> list[int]:
        """Members of the session that outlived its leader. A session id is not reused while it has members."""
        return [stat.pid for stat in all_processes() if stat.session == self.pid]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class PortAllocator:
    """Free ports of 127.0.0.1 outside the range of outgoing connections, where a load run's sockets may sit.

    Ports handed out once are not handed out again.
    """

    def __init__(self, rng: random.Random) -> None:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        top = max(low, 12000)
        self._candidates = list(range(10000, top))
        rng.shuffle(self._candidates)

    def take(self) -> int:
        while self._candidates:
            port = self._candidates.pop()
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("", port))
                except OSError:
                    continue
            return port
        raise BenchError("no free port left")


def raise_file_limit() -> int:
    """Lift the soft limit of open files to the hard one; returns it. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _leave(number: int, _frame: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(again, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
    print(f"\nstopping on {signal.Signals(number).name}", file=sys.stderr)
    raise SystemExit(128 + number)


@contextlib.contextmanager
def bench_session(keep_files: bool = False) -> Iterator[Path]:
    """A working folder that disappears afterwards; signals become SystemExit, so that context managers clean up."""
    raise_file_limit()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    folder = Path(tempfile.mkdtemp(prefix="aioingress-bench-"))
    folder.chmod(0o755)  # a proxy started as root reads its files as another user
    try:
        yield folder
    finally:
        if keep_files:
            print(f"files kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
