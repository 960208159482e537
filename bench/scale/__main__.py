"""`python -m bench.scale`: see bench/README.md."""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.load.peers.base import Finder
from bench.load.peers.nginx import Nginx
from bench.scale.cluster import Cluster
from bench.scale.measure import CONNECTIONS, Probe, Series, first_answer, probe
from bench.scale.systems import WORKERS, Aioingress, NginxReload, System
from bench.support import controller, machine
from bench.support.client import Answer
from bench.support.figures import percentile, ratio
from bench.support.loops import run
from bench.support.processes import BenchError, MemoryUse, PortAllocator, ProcessTree, bench_session
from bench.support.report import add_output_options, mib, number, provenance, publish, table

SAMPLE = 20  # Ingresses whose Services really have backends
READY_LIMIT_S = 300.0
SERVED_LIMIT_S = 60.0
READY_TARGET_S, EDIT_TARGET_MS, ENDPOINT_TARGET_MS, MEMORY_TARGET_MB = 10.0, 300.0, 100.0, 400.0


@dataclass(frozen=True, slots=True)
class Outcome:
    ready_s: float
    first_s: float
    edits: Series
    moves: Series
    memory: Sequence[MemoryUse]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench.scale", description="10,000 Ingresses from files")
    top.add_argument("--layout", choices=["many-files", "one-file"], default="many-files")
    top.add_argument("--systems", metavar="A,B", default="aioingress,nginx", help="default: %(default)s")
    top.add_argument("--edits", type=int, help="how many of each kind of edit (default: 100)")
    top.add_argument("--seconds", type=float, default=120.0, help="at most this long for each kind (default: 120)")
    top.add_argument("--hosts", type=int, default=1000, help="default: %(default)s, 10 Ingresses each")
    top.add_argument("--services", type=int, default=2000, help="default: %(default)s, 10 endpoints each")
    top.add_argument("--seed", type=int, default=1, help="of the pauses between edits (default: 1)")
    add_output_options(top)
    return top


def start_backend(name: str, cluster: Cluster, sample: Sequence[int], port: int, folder: Path) -> ProcessTree:
    addresses = [address for index in sample for address in cluster.addresses(cluster.service_of(index))]
    listen = [part for address in addresses for part in ("--listen", f"{address}:{port}")]
    argv = [sys.executable, "-m", "bench.support.backend", "--name", name, *listen]
    return ProcessTree(f"backend {name}", argv, log=folder / f"backend-{name}.log")


class Trial:
    """One system under edits: each is made as soon as the one before is served everywhere and a short pause is over."""

    def __init__(
        self, system: System, cluster: Cluster, sample: Sequence[int], prober: Probe, rng: random.Random
    ) -> None:
        self._system = system
        self._cluster = cluster
        self._sample = sample
        self._probe = prober
        self._rng = rng
        self._paths = {index: cluster.path(index) for index in sample}  # as last edited

    async def edit_ingresses(self, count: int, limit_s: float) -> Series:
        """An Ingress's path becomes another one; served once every connection gets 200 for it (404 before)."""

        async def edit(turn: int, index: int) -> float:
            self._paths[index] = f"/edit-{turn}"
            since = self._system.edit_ingress(index, self._paths[index])
            return await self._served(index, lambda answer: answer.status == 200, since)

        return await self._series(edit, count, limit_s)

    async def move_endpoints(self, count: int, ports: Sequence[int], limit_s: float) -> Series:
        """All endpoints of a Service go from backend a to b, or back; served once every connection hears the other."""

        async def move(turn: int, index: int) -> float:
            target = (turn // len(self._sample) + 1) % 2
            since = self._system.move_service(self._cluster.service_of(index), ports[target])
            return await self._served(index, lambda answer: answer.backend == "ab"[target], since)

        return await self._series(move, count, limit_s)

    async def _served(self, index: int, served: Callable[[Answer], bool], since: float) -> float:
        return await self._probe.until(self._cluster.host(index), self._paths[index], served, since, SERVED_LIMIT_S)

    async def _series(self, change: Callable[[int, int], Awaitable[float]], count: int, limit_s: float) -> Series:
        series, cut_before, end = Series(), self._probe.cut, time.monotonic() + limit_s
        for turn in range(count):
            if time.monotonic() > end:
                break
            series.seconds.append(await change(turn, self._sample[turn % len(self._sample)]))
            await asyncio.sleep(self._rng.uniform(0.05, 0.25))
        series.cut = self._probe.cut - cut_before
        return series


async def measure(
    system: System,
    cluster: Cluster,
    sample: Sequence[int],
    backends: Sequence[int],
    count: int,
    limit_s: float,
    seed: int,
) -> Outcome:
    """`backends` are the ports of a and b; every Service starts at a."""
    began, last = system.process.started, sample[0]
    ready_s, first_s = await asyncio.gather(
        first_answer(system.process, system.ready_port, "localhost", system.ready_path, began, READY_LIMIT_S),
        first_answer(system.process, system.port, cluster.host(last), cluster.path(last), began, READY_LIMIT_S),
    )
    say(f"{system.name}: ready after {ready_s:.2f} s, first request served after {first_s:.2f} s")
    async with probe(system.port) as prober:
        trial = Trial(system, cluster, sample, prober, random.Random(seed))
        edits = await trial.edit_ingresses(count, limit_s)
        say(f"{system.name}: {len(edits.seconds)} Ingress edits served")
        moves = await trial.move_endpoints(count, backends, limit_s)
        say(f"{system.name}: {len(moves.seconds)} endpoint edits served")
    return Outcome(ready_s, first_s, edits, moves, system.process.memory())


def target_text(value: float, target: float, unit: str) -> str:
    return f"< {target:g} {unit}: {'met' if value < target else '**missed**'}"


def outcome_table(outcomes: dict[str, Outcome]) -> str:
    """A row a figure; targets are those of aioingress, ratios are aioingress to nginx."""
    names = list(outcomes)

    def count(label: str, figure: Callable[[Outcome], int]) -> list[str]:
        return [label, *(number(figure(outcomes[name]), 0) for name in names), "-", "-"]

    def row(label: str, figure: Callable[[Outcome], float], digits: int, target: tuple[float, str] | None) -> list[str]:
        values = [figure(outcomes[name]) for name in names]
        ours = figure(outcomes["aioingress"]) if "aioingress" in outcomes else None
        base = figure(outcomes["nginx"]) if "nginx" in outcomes else None
        relative = ratio(ours, base) if ours is not None else None
        verdict = target_text(ours, *target) if target and ours is not None else "-"
        return [label, *(number(value, digits) for value in values), number(relative, 2), verdict]

    def ms(series: Series, percent: float) -> float:
        return percentile(series.seconds, percent) * 1e3

    rows = [
        row("start to ready, s", lambda o: o.ready_s, 2, (READY_TARGET_S, "s")),
        row("start to first request served, s", lambda o: o.first_s, 2, None),
        row("Ingress edited to served, p50 ms", lambda o: ms(o.edits, 50), 0, None),
        row("Ingress edited to served, p99 ms", lambda o: ms(o.edits, 99), 0, (EDIT_TARGET_MS, "ms")),
        row("endpoints edited to served, p50 ms", lambda o: ms(o.moves, 50), 0, None),
        row("endpoints edited to served, p99 ms", lambda o: ms(o.moves, 99), 0, (ENDPOINT_TARGET_MS, "ms")),
        count("edits of each kind", lambda o: min(len(o.edits.seconds), len(o.moves.seconds))),
        count("connections cut without notice", lambda o: o.edits.cut + o.moves.cut),
        row(
            "memory of all processes, PSS MB",
            lambda o: sum(m.pss_bytes for m in o.memory) / 1e6,
            0,
            (MEMORY_TARGET_MB, "MB"),
        ),
    ]
    return table(["", *names, "aioingress / nginx", "target"], rows)


def memory_table(outcomes: dict[str, Outcome]) -> str:
    rows = []
    for name, outcome in outcomes.items():
        first, *others = outcome.memory
        rows.append([f"{name}, first process", mib(first.pss_bytes), mib(first.rss_bytes)])
        for index, use in enumerate(others, 1):
            rows.append([f"{name}, child {index}", mib(use.pss_bytes), mib(use.rss_bytes)])
    return table(["process", "PSS MiB", "RSS MiB"], rows)


def as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "ready_s": outcome.ready_s,
        "first_s": outcome.first_s,
        "edit_s": outcome.edits.seconds,
        "endpoint_s": outcome.moves.seconds,
        "connections_cut": outcome.edits.cut + outcome.moves.cut,
        "pss_bytes": [use.pss_bytes for use in outcome.memory],
        "rss_bytes": [use.rss_bytes for use in outcome.memory],
    }


def starters(
    options: argparse.Namespace, cluster: Cluster, backend_port: int, ports: PortAllocator
) -> tuple[dict[str, Callable[[Path], System]], list[str]]:
    """How to start each system that was asked for and is here, and remarks on those that are not."""
    start: dict[str, Callable[[Path], System]] = {}
    remarks = []
    nginx = Nginx().find(Finder())
    for name in options.systems.split(","):
        if name == "aioingress" and controller.available():
            start[name] = partial(
                Aioingress, cluster, backend_port=backend_port, ports=ports, one_file=options.layout == "one-file"
            )
        elif name == "nginx" and nginx is not None:
            start[name] = partial(NginxReload, cluster, backend_port=backend_port, ports=ports, binary=nginx)
        elif name in ("aioingress", "nginx"):
            remarks.append(f"{name} not found and left out")
        else:
            raise BenchError(f"no system {name!r}: choose from aioingress, nginx")
    return start, remarks


def main() -> int:
    options = parser().parse_args()
    count = options.edits or (3 if options.quick else 100)
    cluster = Cluster(hosts=options.hosts, services=options.services)
    sample = cluster.sample(min(SAMPLE, cluster.services))
    ports = PortAllocator(random.Random())
    outcomes: dict[str, Outcome] = {}
    with bench_session(options.keep) as folder, contextlib.ExitStack() as stack:
        backends = [ports.take(), ports.take()]
        for name, port in zip("ab", backends, strict=True):
            backend = start_backend(name, cluster, sample, port, folder)
            stack.callback(backend.stop, 1.0)
            controller.wait_for_status(
                backend, port, "/", address=cluster.addresses(cluster.service_of(sample[-1]))[-1]
            )
        start, remarks = starters(options, cluster, backends[0], ports)
        for name, begin in start.items():
            home = folder / name
            home.mkdir()
            say(f"{name}: writing its configuration and starting")
            system = begin(home)
            try:
                trial = measure(system, cluster, sample, backends, count, options.seconds, options.seed)
                outcomes[name] = run(trial)
            finally:
                system.process.stop()
    if not outcomes:
        raise BenchError(f"nothing was measured: {', '.join(remarks)}")
    here = machine.describe()
    facts = [
        (
            "cluster",
            f"{cluster.ingresses:,} Ingresses on {cluster.hosts:,} hosts, {cluster.services:,} Services, "
            f"{cluster.endpoints:,} endpoints; files: {options.layout}",
        ),
        ("workers", f"{WORKERS} each; an edit counts as served when {CONNECTIONS} open connections all see it"),
        ("nginx", "the same routes as one server a host; an edit rewrites nginx.conf and reloads it"),
        *(("note", remark) for remark in remarks),
    ]
    parts = [
        f"## Scale: {cluster.ingresses:,} Ingresses from files ({options.layout})",
        provenance(here, "bench.scale", facts),
        outcome_table(outcomes),
        memory_table(outcomes),
    ]
    publish(options, f"scale {options.layout}", "\n\n".join(parts))
    if options.json:
        raw = {"machine": here.hardware, "commit": here.commit, "date": here.date, "layout": options.layout}
        raw |= {"systems": {name: as_json(outcome) for name, outcome in outcomes.items()}}
        options.json.write_text(json.dumps(raw, indent=1))
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"bench.scale: {error}", file=sys.stderr)
        sys.exit(2)
