"""Child processes that never outlive their parent."""

import ctypes
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: dlopen is not safe between fork and exec
_PR_SET_PDEATHSIG = 1
_KLOG_NOISE = re.compile(r"I\d{4} |W\d{4} .*(Skipping API|addrConn.createTransport failed)")


def end_with_parent(number: signal.Signals) -> None:
    """This process gets `number` when the thread that started it ends (prctl(2)). Lasts over exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)


class Spawner:
    """Starts children by a thread of its own, so that they end with this process, whatever becomes of the thread that asked.

    They are in the network namespace of the thread that asked first.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "spawner")

    def start(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        on_parent_death: signal.Signals = signal.SIGKILL,
    ) -> "Child":
        return self._executor.submit(Child, name, argv, log, env=env, on_parent_death=on_parent_death).result()

    def close(self) -> None:
        """What it has started ends too."""
        self._executor.shutdown()


class Child:
    """A command in a session of its own, which ends with the thread that started it. Its output is appended to `log`."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        on_parent_death: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log = log
        parent = os.getpid()

        def prepare() -> None:
            end_with_parent(on_parent_death)
            if os.getppid() != parent:
                os._exit(1)

        with log.open("ab") as out:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - does nothing but system calls
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """At once, and waits for the end."""
        self._process.kill()
        self._process.wait()

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s`. Idempotent."""
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay open and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def tail(path: Path, lines: int = 40) -> str:
    """The last lines but what a Kubernetes component writes at every start; empty without a file."""
    try:
        with path.open(errors="replace") as file:
            return "".join(deque((line for line in file if not _KLOG_NOISE.match(line)), lines)).rstrip()
    except FileNotFoundError:
        return ""


def poll_until(deadline: float, pause_s: float = 0.02) -> bool:
    """Sleep a little; False when `deadline` (monotonic) has passed."""
    if time.monotonic() >= deadline:
        return False
    time.sleep(pause_s)
    return True
