"""`python -m bench.soak`: see bench/README.md. Exit code 1 when a check fails."""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from bench.soak.checks import DOWNLOAD_BYTES, UPLOAD_BYTES, Finding, mixed_load, transfers, websockets
from bench.soak.world import World
from bench.support import controller as controllers
from bench.support import machine
from bench.support.controller import Controller
from bench.support.loops import run
from bench.support.processes import BenchError, PortAllocator, bench_session
from bench.support.report import add_output_options, provenance, publish

CHECKS = ("transfers", "websockets", "mixed")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench.soak", description="mixed load while everything changes")
    top.add_argument("--seconds", type=float, help="length of the mixed load (default: 300)")
    top.add_argument("--websockets", type=int, help="idle upgraded connections (default: 1000)")
    top.add_argument("--swaps", type=int, help="table swaps they are held through (default: 100)")
    top.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    top.add_argument("--only", metavar="A,B", default=",".join(CHECKS), help="which checks (default: %(default)s)")
    top.add_argument("--seed", type=int, default=1, help="of everything random (default: 1)")
    add_output_options(top)
    return top


async def check_all(options: argparse.Namespace, world: World, start: Callable[[], Controller]) -> list[Finding]:
    quick = options.quick
    await world.start_backends(3)
    world.swap()
    controller = start()
    chosen = options.only.split(",")
    findings: list[Finding] = []

    async def add(name: str, check: Coroutine[object, object, list[Finding]]) -> None:
        try:
            found = await check
        except BenchError as error:
            found = [Finding(name, False, str(error))]
        for finding in found:
            print(finding, flush=True)
        findings.extend(found)

    try:
        controller.wait_ready()
        controllers.wait_for_status(controller.process, controller.http_port, "/", host="soak.example.com")
        if "transfers" in chosen:
            shrink = 10 if quick else 1
            await add(
                "transfers", transfers(controller, options.seed, DOWNLOAD_BYTES // shrink, UPLOAD_BYTES // shrink)
            )
        if "websockets" in chosen:
            count = options.websockets or (100 if quick else 1000)
            await add(
                "websockets",
                websockets(world, controller, count, options.swaps or (10 if quick else 100), options.seed),
            )
        if "mixed" in chosen:
            await add(
                "mixed load", mixed_load(world, controller, options.seconds or (10 if quick else 300), options.seed)
            )
        last = ending(controller)
        print(last, flush=True)
        findings.append(last)
    finally:
        controller.process.stop()
    return findings


def ending(controller: Controller) -> Finding:
    """SIGTERM with nothing under way: the process leaves with 0, and has not written a traceback in its life."""
    began = time.monotonic()
    controller.process.send(signal.SIGTERM)
    while not controller.process.ended() and time.monotonic() - began < 30:
        time.sleep(0.01)
    code, took = controller.process.returncode, time.monotonic() - began
    log = controller.process.log.read_text(errors="replace")
    tracebacks = log.count("Traceback (most recent call last)")
    details = (log[log.index("Traceback (most recent call last)") :][:2000],) if tracebacks else ()
    figures = f"exit code {code} after {took:.2f} s, {tracebacks} tracebacks in its output"
    return Finding("end on SIGTERM", code == 0 and not tracebacks, figures, details)


def main() -> int:
    options = parser().parse_args()
    unknown = [name for name in options.only.split(",") if name not in CHECKS]
    if unknown:
        raise BenchError(f"no check {unknown[0]!r}: choose from {', '.join(CHECKS)}")
    if not controllers.available():
        raise BenchError("python -m ingress is not there: run in the project's virtual environment")
    ports = PortAllocator(random.Random())
    with bench_session(options.keep) as folder:
        world = World(folder, ports.take(), random.Random(options.seed))
        try:

            def start() -> Controller:
                return controllers.start(world.manifests.path, Path(folder, "log"), ports, workers=options.workers)

            findings = run(check_all(options, world, start))
        finally:
            world.stop()
    here = machine.describe()
    facts = [("seed", str(options.seed)), ("workers", str(options.workers))]
    lines = [f"- {'ok' if found.ok else '**failed**'}: {found.check}: {found.figures}" for found in findings]
    body = [
        "## Soak: mixed load while everything changes",
        provenance(here, "bench.soak", facts),
        "\n".join(lines),
    ]
    publish(options, "soak", "\n\n".join(body))
    if options.json:
        raw = {"machine": here.hardware, "commit": here.commit, "date": here.date, "seed": options.seed}
        checks = [{"check": f.check, "ok": f.ok, "figures": f.figures, "details": f.details} for f in findings]
        options.json.write_text(json.dumps(raw | {"checks": checks}, indent=1))
    return 0 if findings and all(finding.ok for finding in findings) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"bench.soak: {error}", file=sys.stderr)
        sys.exit(2)
