"""`ingress serve` as the benchmarks start it: on loopback ports, in its own process tree."""

import http.client
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.support.processes import BenchError, PortAllocator, ProcessTree
from bench.support.tls import unverified


def available() -> bool:
    """Whether `python -m ingress` exists for this interpreter."""
    return importlib.util.find_spec("ingress") is not None and importlib.util.find_spec("ingress.__main__") is not None


def arguments(source: Sequence[str], http_port: int, https_port: int, admin_port: int, workers: int) -> list[str]:
    """`source`: the flags that say where the objects come from."""
    return [
        *(sys.executable, "-m", "ingress", "serve"),
        *source,
        *("--http-address", f"127.0.0.1:{http_port}"),
        *("--https-address", f"127.0.0.1:{https_port}"),
        *("--admin-address", f"127.0.0.1:{admin_port}"),
        *("--workers", str(workers)),
        "--no-access-log",
    ]


def status_of(
    port: int, path: str, host: str = "127.0.0.1", address: str = "127.0.0.1", *, tls: bool = False
) -> int | None:
    """Status of one GET on a connection of its own; None when nobody answers within 5 s. `tls`: whatever certificate is shown."""
    connection = (
        http.client.HTTPSConnection(address, port, timeout=5.0, context=unverified())
        if tls
        else http.client.HTTPConnection(address, port, timeout=5.0)
    )
    try:
        connection.request("GET", path, headers={"Host": host, "Connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait_for_status(
    process: ProcessTree,
    port: int,
    path: str,
    *,
    host: str = "127.0.0.1",
    address: str = "127.0.0.1",
    limit_s: float = 60.0,
    tls: bool = False,
) -> None:
    """Wait for a 200. Poll every 5 ms; raise BenchError when the process ends or `limit_s` is over."""
    deadline = time.monotonic() + limit_s
    last: int | None = None
    while time.monotonic() < deadline:
        last = status_of(port, path, host, address, tls=tls)
        if last == 200:
            return
        process.require_alive()
        time.sleep(0.005)
    seen = "nothing answered" if last is None else f"the last status was {last}"
    raise BenchError(f"{process.name}: no 200 for {host}{path} within {limit_s:.0f} s, {seen}: {process.last_words()}")


@dataclass(frozen=True, slots=True)
class Controller:
    process: ProcessTree
    http_port: int
    https_port: int
    admin_port: int

    def wait_ready(self, limit_s: float = 120.0) -> None:
        wait_for_status(self.process, self.admin_port, "/readyz", limit_s=limit_s)


def start(
    manifests: Path, log: Path, ports: PortAllocator, *, workers: int, cores: Sequence[int] | None = None
) -> Controller:
    """Returns at once; `wait_ready` waits for the first table."""
    http_port, https_port, admin_port = ports.take(), ports.take(), ports.take()
    argv = arguments(("--manifests", str(manifests)), http_port, https_port, admin_port, workers)
    process = ProcessTree("aioingress", argv, log=log, cores=cores)
    return Controller(process, http_port, https_port, admin_port)
