"""What a container is made of here: a real process for our own image, an echo server in this process, or nothing at all."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tools.envtest.echo import EchoServer
from tools.envtest.processes import end_with_parent

_ROOT = Path(__file__).parents[2]
_LAUNCHER = Path(__file__).with_name("container.py")
_BASE = {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
KILLED = 128 + signal.SIGKILL


class Runtime(Protocol):
    """One run of one container."""

    async def start(self) -> None: ...

    async def wait(self) -> int:
        """The exit code, when it has ended."""
        ...

    async def terminate(self, limit_s: float) -> None:
        """SIGTERM; after `limit_s`, SIGKILL. Returns at its end."""
        ...

    def kill(self) -> None: ...


class Pause:
    """An image that nobody here knows: it runs, and does nothing."""

    def __init__(self) -> None:
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        pass

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def terminate(self, limit_s: float) -> None:
        self._end(0)

    def kill(self) -> None:
        self._end(KILLED)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


class Echo(Pause):
    def __init__(self, address: str, ports: Sequence[int], names: Mapping[str, str]) -> None:
        super().__init__()
        self._server = EchoServer(address, ports, names)

    async def start(self) -> None:
        try:
            await self._server.start()
        except OSError:
            await self._server.stop(0)
            self._end(1)

    async def terminate(self, limit_s: float) -> None:
        await self._server.stop(limit_s)
        self._end(0)

    def kill(self) -> None:
        task = asyncio.ensure_future(self._server.stop(0))
        task.add_done_callback(lambda _: self._end(KILLED))


class Process:
    """A command in a session of its own, with its own mounts and host name. `mounts`: (folder, mount path). Output is appended to `log`."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        mounts: Sequence[tuple[Path, str]],
        hostname: str,
        folder: Path,
        name: str,
        log: Path,
    ) -> None:
        self._spec: dict[str, object] = {
            "argv": command_line(argv),
            "env": {**complete(env), "HOSTNAME": hostname},
            "hostname": hostname,
            "mounts": [[str(source), target] for source, target in mounts],
        }
        self._spec_file = folder / f"{name}.json"
        self._folder = folder
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        self._spec_file.write_text(json.dumps(self._spec))
        with self._log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-SE",
                str(_LAUNCHER),
                str(self._spec_file),
                cwd=self._folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_end_with_us,
            )
        self._log.with_suffix(".pid").write_text(str(self._process.pid))

    async def wait(self) -> int:
        assert self._process is not None
        code = await self._process.wait()
        self._log.with_suffix(".pid").unlink(missing_ok=True)
        self._end_session()  # a container's processes end with its first
        return code if code >= 0 else 128 - code

    async def terminate(self, limit_s: float) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), limit_s)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._end_session()

    def _end_session(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


async def execute(argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path, limit_s: float) -> int:
    """A hook's or probe's command, beside the container: its exit code, 124 when `limit_s` has passed, 126 when it can't start."""
    with log.open("ab") as out:
        try:
            process = await asyncio.create_subprocess_exec(
                *command_line(argv),
                cwd=folder,
                env=complete(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_end_with_us,
            )
        except OSError as error:
            out.write(f"envtest: {argv[0]}: {error}\n".encode())
            return 126
    try:
        return await asyncio.wait_for(process.wait(), limit_s)
    except TimeoutError:
        return 124
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def command_line(argv: Sequence[str]) -> list[str]:
    """The image has the program installed and one interpreter; here both are those that run this."""
    match argv[0]:
        case "ingress":
            return [sys.executable, "-m", "ingress", *argv[1:]]
        case "python" | "python3":
            return [sys.executable, *argv[1:]]
        case _:
            return list(argv)


def complete(env: Mapping[str, str]) -> dict[str, str]:
    """As the image would: nothing of this process's own environment but where programs are found."""
    return {"PATH": os.environ.get("PATH", os.defpath), **_BASE, **env}


def _end_with_us() -> None:
    end_with_parent(signal.SIGKILL)
