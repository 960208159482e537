"""`python -m bench.limits`: limit-rps over 30 s, with 1, 2 and 4 workers, from one connection and from many.

What passed is held against rate x time + burst, with the time that the flood really took. See bench/README.md.
"""

import argparse
import asyncio
import random
import sys
import time

from bench.support import controller
from bench.support.manifests import ManifestFolder, Object, endpoint_slice, ingress, service
from bench.support.processes import PortAllocator, bench_session

RATE, MULTIPLIER, TOLERANCE = 100, 1, 0.05
HOST = "limited.test"
_LIFE = 900  # requests a connection carries, below keep-alive-requests
_REQUEST = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


async def flood(port: int, until: float) -> tuple[int, int]:
    """(answered by the backend, refused) on one connection after the other."""
    passed = refused = 0
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(_LIFE):
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            passed, refused = passed + (status == 200), refused + (status == 503)
            if time.monotonic() >= until:
                break
        writer.close()
    return passed, refused


async def backend(ready: asyncio.Event, port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()  # the end of the run cancels it; nobody waits for this task

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        ready.set()
        await asyncio.Event().wait()


async def measure(port: int, connections: int, seconds: float) -> tuple[float, int, int]:
    began = time.monotonic()
    outcomes = await asyncio.gather(*(flood(port, began + seconds) for _ in range(connections)))
    return time.monotonic() - began, sum(o[0] for o in outcomes), sum(o[1] for o in outcomes)


def objects(port: int) -> list[Object]:
    annotations = {
        "nginx.ingress.kubernetes.io/limit-rps": str(RATE),
        "nginx.ingress.kubernetes.io/limit-burst-multiplier": str(MULTIPLIER),
    }
    return [
        ingress("limited", [(HOST, [("/", "app")])], annotations=annotations),
        service("app"),
        endpoint_slice("app", ["127.0.0.1"], port),
    ]


async def run(seconds: float) -> bool:
    met = True
    with bench_session() as home:
        ports = PortAllocator(random.Random(1))
        port, ready = ports.take(), asyncio.Event()
        serving = asyncio.create_task(backend(ready, port))
        await ready.wait()
        folder = ManifestFolder(home / "manifests")
        folder.write("all.yaml", objects(port))
        print("workers  connections  seconds   passed  refused  expected   ratio")
        for workers in (1, 2, 4):
            for connections in (1, 64):
                started = controller.start(folder.path, home / f"{workers}-{connections}.log", ports, workers=workers)
                try:
                    await asyncio.to_thread(started.wait_ready)
                    took_s, passed, refused = await measure(started.http_port, connections, seconds)
                finally:
                    started.process.stop()
                expected = RATE * took_s + RATE * MULTIPLIER + 1
                ratio = passed / expected
                met = met and abs(ratio - 1) <= TOLERANCE and refused > 0
                print(
                    f"{workers:7}  {connections:11}  {took_s:7.2f}  {passed:7}  {refused:7}  {expected:8.0f}  {ratio:6.3f}"
                )
        serving.cancel()
    print(f"within {TOLERANCE:.0%}: {'yes' if met else 'NO'}")
    return met


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    sys.exit(0 if asyncio.run(run(parser.parse_args().seconds)) else 1)
