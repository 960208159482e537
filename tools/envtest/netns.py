"""A network namespace of one's own: every address of `NETWORK` is local there, and there is no way out.

Only the calling thread enters it, with the threads and processes that it starts from then on. A socket belongs for good to the namespace in which
it was made; an event loop belongs to none. Threads that were there before (executor pools too) stay outside.

    python -m tools.envtest.netns COMMAND...    for others than root: COMMAND as root of a user namespace
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.envtest import NETWORK, EnvtestError

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_CURRENT = "/proc/thread-self/ns/net"
_HOW = "be root (a container needs CAP_SYS_ADMIN), or start it by `python -m tools.envtest.netns COMMAND`"


def unshare(flags: int) -> None:
    """unshare(2); os.unshare is of Python 3.12. Raises OSError."""
    if _LIBC.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def setns(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class NetworkNamespace:
    """Made by the constructor, which leaves the calling thread where it was. Lives as long as somebody is inside or it is open."""

    def __init__(self) -> None:
        if shutil.which("ip") is None:
            raise EnvtestError("no `ip` command to set up a network namespace with (Debian: apt install iproute2)")
        outside = os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _unshare_network()
            self._inside = os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _run("ip", "link", "set", "lo", "up")
                # AnyIP: addresses need not be added one by one, and can be bound at once
                _run("ip", "route", "add", "local", NETWORK, "dev", "lo")
                # many short connections between few addresses: a closed one's port may be taken again
                # above every port that somebody listens on: a connection to a Pod that has its address for sender as well would take it
                _try_sysctl("net/ipv4/ip_local_port_range", "15000 60999")
                _try_sysctl("net/ipv4/tcp_tw_reuse", "1")
                _try_sysctl("net/core/somaxconn", "4096")
            finally:
                setns(outside)
        finally:
            os.close(outside)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Inside for the calling thread; back where it was at the end."""
        outside = os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self._inside)
            try:
                yield
            finally:
                setns(outside)
        finally:
            os.close(outside)

    def close(self) -> None:
        if self._inside >= 0:
            os.close(self._inside)
            self._inside = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unavailable() -> str:
    """Why this process can't make a network namespace; empty if it can. Asked of a child, which leaves no trace."""
    if shutil.which("unshare") is None:
        return ""  # the attempt itself will tell
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"no network namespace: {done.stderr.strip()}; {_HOW}" if done.returncode else ""


def _unshare_network() -> None:
    try:
        unshare(_CLONE_NEWNET)
    except OSError as error:
        raise EnvtestError(f"no network namespace: {error.strerror}; {_HOW}") from error


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvtestError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _try_sysctl(name: str, value: str) -> None:
    try:
        Path("/proc/sys", name).write_text(value)
    except OSError:
        pass  # read-only /proc of a container: the defaults will do


def main(argv: Sequence[str]) -> int:
    """Replaces this process by the command. Root (or what counts as root here) needs no user namespace; where none is permitted, the
    command runs as it is and says itself what it can't do.
    """
    if not argv:
        print("usage: python -m tools.envtest.netns COMMAND...", file=sys.stderr)
        return 2
    try:
        if os.geteuid() != 0 and _permitted("--user", "--map-root-user", "--net"):
            user, group = os.geteuid(), os.getegid()
            unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
            _run("ip", "link", "set", "lo", "up")
        os.execvp(argv[0], list(argv))
    except (OSError, EnvtestError) as error:
        print(f"envtest: {argv[0]}: {error}", file=sys.stderr)
        return 127


def _permitted(*flags: str) -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
