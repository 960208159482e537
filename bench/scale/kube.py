"""`python -m bench.scale.kube`: the same cluster read from a real API server. See bench/README.md."""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bench.load.peers.base import Finder
from bench.scale.__main__ import (
    EDIT_TARGET_MS,
    ENDPOINT_TARGET_MS,
    MEMORY_TARGET_MB,
    READY_TARGET_S,
    SAMPLE,
    SERVED_LIMIT_S,
    say,
    start_backend,
    target_text,
)
from bench.scale.apiserver import FIRST_BYTES, ApiServer, Objects, network
from bench.scale.cluster import Cluster
from bench.scale.controllers import WORKERS, Aioingress, Contender, Running, TraefikOnKubernetes
from bench.scale.measure import CONNECTIONS, Probe, first_answer, probe
from bench.soak.memory import HighWater
from bench.support import controller, machine
from bench.support.client import Answer
from bench.support.figures import percentile, ratio
from bench.support.loops import run
from bench.support.processes import BenchError, MemoryUse, PortAllocator, bench_session
from bench.support.report import add_output_options, mib, number, provenance, publish, table

_T = TypeVar("_T")
RESTART_LIMIT_S = 120.0
STATUS_CPU_S, IDLE_CPU_S = 20.0, 20.0  # over how long CPU is measured; with statuses, before edits begin
SETTLE_S = 5.0  # after an API server is back, for the memory of the lists to have been used


@dataclass(slots=True)
class Outcome:
    """Of one controller. Seconds; None: not measured."""

    ready_s: float | None = None
    everywhere_s: float | None = None
    failure: str = ""
    edits: list[float] = field(default_factory=list)
    edits_during_statuses: list[float] = field(default_factory=list)
    endpoints_first: list[float] = field(default_factory=list)
    endpoints_last: list[float] = field(default_factory=list)
    cut: int = 0
    statuses_s: float | None = None
    cpu_idle: float | None = None  # of the first process, share of one CPU
    cpu_statuses: float | None = None
    start_cpu_s: float | None = None  # of all processes until every worker served
    memory: Sequence[MemoryUse] = ()
    restart_s: float | None = None
    restart_grown_bytes: int | None = None


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench.scale.kube", description="10,000 Ingresses from a real API server (tools/envtest)"
    )
    top.add_argument("--systems", metavar="A,B", default="aioingress,traefik", help="default: %(default)s")
    top.add_argument("--edits", type=int, help="how many of each kind of edit (default: 300)")
    top.add_argument("--seconds", type=float, default=180.0, help="at most this long for each kind (default: 180)")
    top.add_argument("--limit", type=float, default=300.0, help="seconds to get ready in, and to write the statuses")
    top.add_argument("--hosts", type=int, default=1000, help="default: %(default)s, 10 Ingresses each")
    top.add_argument("--services", type=int, default=2000, help="default: %(default)s, 10 endpoints each")
    top.add_argument("--seed", type=int, default=1, help="of the pauses between edits (default: 1)")
    top.add_argument(
        "--peers-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help="bin folder with traefik (default: environment variable BENCH_PEERS); repeatable",
    )
    add_output_options(top)
    return top


class Trial:
    """One controller from its start to its end, on an API server that is full."""

    def __init__(
        self, api: ApiServer, objects: Objects, cluster: Cluster, sample: Sequence[int], options: argparse.Namespace
    ) -> None:
        self.outcome = Outcome()
        self._api = api
        self._objects = objects
        self._cluster = cluster
        self._sample = sample
        self._options = options
        self._rng = random.Random(options.seed)
        self._paths = {index: cluster.path(index) for index in sample}  # as last edited
        self._turn = 0

    async def run(self, running: Running, backends: Sequence[int], statuses: "asyncio.Task[float]") -> None:
        """`backends` are the ports of a and b, every Service starts at a; `statuses` ends with the moment when all are written."""
        out, options, process = self.outcome, self._options, running.process
        count = options.edits or (5 if options.quick else 300)
        try:
            await self._starts(running)
        except BenchError as error:
            out.failure, out.memory = str(error), process.memory()
            return
        await self._writes_statuses(running, count, statuses)
        async with self._probe(running) as prober:
            out.edits += await self._series(lambda: self._edit(prober), count)
            say(f"{process.name}: {len(out.edits)} Ingress edits served")
            for first, last in await self._series(lambda: self._move(prober, backends), count):
                out.endpoints_first.append(first)
                out.endpoints_last.append(last)
            say(f"{process.name}: {len(out.endpoints_last)} endpoint edits served")
        await asyncio.sleep(1.0)
        out.cpu_idle = await self._cpu(running, 2.0 if options.quick else IDLE_CPU_S)
        out.memory = process.memory()
        async with self._probe(running) as prober:
            await self._outlives_the_api_server(running, prober)

    @contextlib.asynccontextmanager
    async def _probe(self, running: Running) -> AsyncIterator[Probe]:
        """For one series: connections that idle for long are closed by any proxy."""
        async with probe(running.port) as prober:
            try:
                yield prober
            finally:
                self.outcome.cut += prober.cut

    async def _starts(self, running: Running) -> None:
        out, process, last = self.outcome, running.process, self._sample[0]
        limit_s, began = self._options.limit, running.process.started
        if running.ready_port is not None:
            out.ready_s = await first_answer(process, running.ready_port, "localhost", "/readyz", began, limit_s)
        host, path = self._cluster.host(last), self._cluster.path(last)
        await first_answer(process, running.port, host, path, began, limit_s)
        async with probe(running.port) as prober:
            for index in self._sample:
                host, path = self._cluster.host(index), self._cluster.path(index)
                out.everywhere_s = await prober.until(host, path, _ok, began, limit_s)
        out.start_cpu_s = process.cpu_s()
        say(
            f"{process.name}: ready after {out.ready_s or 0:.2f} s, served by every worker after {out.everywhere_s:.2f} s"
        )

    async def _writes_statuses(self, running: Running, count: int, statuses: "asyncio.Task[float]") -> None:
        out, process = self.outcome, running.process
        out.cpu_statuses = await self._cpu(running, 2.0 if self._options.quick else STATUS_CPU_S)
        async with self._probe(running) as prober:
            out.edits_during_statuses += await self._series(lambda: self._edit(prober), count, statuses.done)
        try:
            async with asyncio.timeout(self._options.limit):
                out.statuses_s = await statuses - process.started
            say(f"{process.name}: {self._cluster.ingresses} statuses written after {out.statuses_s:.1f} s")
        except TimeoutError:
            say(f"{process.name}: not all statuses were written in time")

    async def _cpu(self, running: Running, seconds: float) -> float:
        """Share of one CPU that the first process takes during the next `seconds`."""

        def used_s() -> float:
            return next((stat.own_s for stat in running.process.tree() if stat.pid == running.process.pid), 0.0)

        before, since = used_s(), time.monotonic()
        await asyncio.sleep(seconds)
        return (used_s() - before) / (time.monotonic() - since)

    def _next(self) -> tuple[int, int]:
        self._turn += 1
        return self._turn, self._sample[self._turn % len(self._sample)]

    async def _edit(self, prober: Probe) -> float:
        """An Ingress's path becomes another one. From the acknowledgement until every connection gets 200 for it (404 before)."""
        turn, index = self._next()
        self._paths[index] = f"/edit-{turn}"
        await self._api.put(self._objects.ingress(index, self._paths[index]))
        return await prober.until(self._cluster.host(index), self._paths[index], _ok, time.monotonic(), SERVED_LIMIT_S)

    async def _move(self, prober: Probe, backends: Sequence[int]) -> tuple[float, float]:
        """The slice of a Service goes from backend a to b, or back. Until the first connection hears the other, and the last."""
        turn, index = self._next()
        target = (turn // len(self._sample)) % 2
        host, path = self._cluster.host(index), self._paths[index]
        name = "ab"[target]
        number_of_service = self._cluster.service_of(index)
        await self._api.put(self._objects.endpoints(number_of_service, backends[target]))
        return await prober.span(host, path, lambda a: a.backend == name, time.monotonic(), SERVED_LIMIT_S)

    async def _series(
        self, change: Callable[[], Awaitable[_T]], count: int, over: Callable[[], bool] = lambda: False
    ) -> list[_T]:
        """Each as soon as the one before is served everywhere and a short pause is over."""
        found: list[_T] = []
        end = time.monotonic() + self._options.seconds
        while len(found) < count and time.monotonic() < end and not over():
            found.append(await change())
            await asyncio.sleep(self._rng.uniform(0.05, 0.25))
        return found

    async def _outlives_the_api_server(self, running: Running, prober: Probe) -> None:
        out, high_water = self.outcome, HighWater(running.process)
        self._api.plane.kill_apiserver()
        await asyncio.sleep(1.0)
        self._api.plane.start_apiserver()  # blocks until it is ready
        since = time.monotonic()
        turn, index = self._next()
        path = f"/edit-{turn}"
        await self._api.put(self._objects.ingress(index, path))
        await prober.until(self._cluster.host(index), path, _ok, since, RESTART_LIMIT_S)
        out.restart_s = time.monotonic() - since
        await asyncio.sleep(SETTLE_S)
        out.restart_grown_bytes = high_water.grown_bytes()
        say(f"{running.process.name}: changes flow {out.restart_s:.2f} s after the API server is ready again")


def _ok(answer: Answer) -> bool:
    return answer.status == 200


async def measure(
    contender: Contender,
    cluster: Cluster,
    sample: Sequence[int],
    backends: Sequence[int],
    folder: Path,
    ports: PortAllocator,
    options: argparse.Namespace,
) -> Outcome:
    objects = Objects(cluster, contender.class_controller)
    async with ApiServer.started(folder / "api") as api:
        say(f"{contender.name}: filling the API server")
        await api.fill(objects, backends[0])
        trial = Trial(api, objects, cluster, sample, options)
        async with watched(api, await api.version(), cluster.ingresses) as statuses:
            running = contender.start(api.kubeconfig(folder), folder, ports)
            try:
                await trial.run(running, backends, statuses)
            finally:
                running.process.stop(1.0)
    return trial.outcome


@contextlib.asynccontextmanager
async def watched(api: ApiServer, version: str, count: int) -> AsyncIterator["asyncio.Task[float]"]:
    """A task that returns the moment (`time.monotonic`) at which `count` Ingresses have shown an address."""

    async def wait() -> float:
        await api.statuses(version, count)
        return time.monotonic()

    task = asyncio.create_task(wait())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


def outcome_table(outcomes: dict[str, Outcome]) -> str:
    """A row a figure; targets are those of aioingress, ratios are aioingress to traefik."""
    names = list(outcomes)
    ours, base = outcomes.get("aioingress"), outcomes.get("traefik")

    def row(
        label: str, figure: Callable[[Outcome], float | None], digits: int = 0, target: tuple[float, str] | None = None
    ) -> list[str]:
        mine = figure(ours) if ours is not None else None
        other = figure(base) if base is not None else None
        verdict = target_text(mine, *target) if target and mine is not None else "-"
        relative = ratio(mine, other) if mine is not None else None
        return [label, *(number(figure(outcomes[name]), digits) for name in names), number(relative, 2), verdict]

    def ms(values: Callable[[Outcome], Sequence[float]], percent: float) -> Callable[[Outcome], float | None]:
        return lambda o: percentile(values(o), percent) * 1e3 if values(o) else None

    rows = [
        row("start to ready, s", lambda o: o.ready_s, 2, (READY_TARGET_S, "s")),
        row("start to served by every worker, s", lambda o: o.everywhere_s, 2),
        row("CPU of all processes until then, s", lambda o: o.start_cpu_s, 2),
        row("Ingress edited to served, p50 ms", ms(lambda o: o.edits, 50)),
        row("Ingress edited to served, p99 ms", ms(lambda o: o.edits, 99), 0, (EDIT_TARGET_MS, "ms")),
        row("the same while statuses are written, p50 ms", ms(lambda o: o.edits_during_statuses, 50)),
        row(
            "the same while statuses are written, p99 ms",
            ms(lambda o: o.edits_during_statuses, 99),
            0,
            (EDIT_TARGET_MS, "ms"),
        ),
        row("slice edited to first new answer, p50 ms", ms(lambda o: o.endpoints_first, 50)),
        row("slice edited to last old answer, p50 ms", ms(lambda o: o.endpoints_last, 50)),
        row(
            "slice edited to last old answer, p99 ms", ms(lambda o: o.endpoints_last, 99), 0, (ENDPOINT_TARGET_MS, "ms")
        ),
        row("edits of each kind", lambda o: min(len(o.edits), len(o.endpoints_last))),
        row("edits while statuses are written", lambda o: len(o.edits_during_statuses)),
        row("connections cut without notice", lambda o: o.cut),
        row(
            "memory of all processes, PSS MB",
            lambda o: sum(use.pss_bytes for use in o.memory) / 1e6 if o.memory else None,
            0,
            (MEMORY_TARGET_MB, "MB"),
        ),
        row("start to all statuses written, s", lambda o: o.statuses_s, 1),
        row("CPU of the first process meanwhile, %", lambda o: _percent(o.cpu_statuses), 1),
        row("CPU of the first process at idle, %", lambda o: _percent(o.cpu_idle), 1),
        row("API server back to an edit served, s", lambda o: o.restart_s, 2),
        row(
            "highest memory then, more than before, MB",
            lambda o: o.restart_grown_bytes / 1e6 if o.restart_grown_bytes is not None else None,
        ),
    ]
    return table(["", *names, "aioingress / traefik", "target"], rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100


def memory_table(outcomes: dict[str, Outcome]) -> str:
    rows = []
    for name, outcome in outcomes.items():
        for index, use in enumerate(outcome.memory):
            title = f"{name}, child {index}" if index else f"{name}, first process"
            rows.append([title, mib(use.pss_bytes), mib(use.rss_bytes)])
    return table(["process", "PSS MiB", "RSS MiB"], rows)


def as_json(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "memory": [use._asdict() for use in outcome.memory]}


def choose(options: argparse.Namespace) -> tuple[list[Contender], list[str]]:
    """Those that were asked for and are here, and remarks on the others."""
    folders = options.peers_dir or [Path(text) for text in os.environ.get("BENCH_PEERS", "").split(os.pathsep) if text]
    known: dict[str, Contender] = {
        "aioingress": Aioingress(),
        "traefik": TraefikOnKubernetes(Finder(tuple(folders))),
    }
    chosen, remarks = [], []
    for name in options.systems.split(","):
        if name not in known:
            raise BenchError(f"no system {name!r}: choose from {', '.join(known)}")
        version = known[name].version()
        if version is None:
            remarks.append(f"{name} not found and left out")
        else:
            chosen.append(known[name])
            remarks.append(f"{name}: {version}")
    return chosen, remarks


def main() -> int:
    options = parser().parse_args()
    cluster = Cluster(hosts=options.hosts, services=options.services, first_bytes=FIRST_BYTES)
    sample = cluster.sample(min(SAMPLE, cluster.services))
    contenders, remarks = choose(options)
    outcomes: dict[str, Outcome] = {}
    with bench_session(options.keep) as folder, network(), contextlib.ExitStack() as stack:
        ports = PortAllocator(random.Random())
        backends = [ports.take(), ports.take()]
        for name, port in zip("ab", backends, strict=True):
            backend = start_backend(name, cluster, sample, port, folder)
            stack.callback(backend.stop, 1.0)
            address = cluster.addresses(cluster.service_of(sample[-1]))[-1]
            controller.wait_for_status(backend, port, "/", address=address)
        for contender in contenders:
            home = folder / contender.name
            home.mkdir()
            outcomes[contender.name] = run(measure(contender, cluster, sample, backends, home, ports, options))
    if not outcomes:
        raise BenchError(f"nothing was measured: {', '.join(remarks)}")
    report(options, cluster, outcomes, remarks)
    return 0


def report(options: argparse.Namespace, cluster: Cluster, outcomes: dict[str, Outcome], remarks: Sequence[str]) -> None:
    here = machine.describe()
    failures = [outcome.failure for outcome in outcomes.values() if outcome.failure]
    facts = [
        (
            "cluster",
            f"{cluster.ingresses:,} Ingresses on {cluster.hosts:,} hosts, {cluster.services:,} Services, "
            f"{cluster.endpoints:,} endpoints; kube-apiserver and etcd on the same cores",
        ),
        ("workers", f"{WORKERS} each; an edit counts as served when {CONNECTIONS} open connections all see it"),
        ("times", "of edits: from the answer of the API server to the PUT"),
        *(("note", remark) for remark in (*remarks, *failures)),
    ]
    parts = [
        f"## Scale: {cluster.ingresses:,} Ingresses from an API server",
        provenance(here, "bench.scale.kube", facts),
        outcome_table(outcomes),
        memory_table(outcomes),
    ]
    publish(options, f"scale kubernetes {cluster.ingresses}", "\n\n".join(parts))
    if options.json:
        raw: dict[str, Any] = {"machine": here.hardware, "commit": here.commit, "date": here.date}
        raw |= {"systems": {name: as_json(outcome) for name, outcome in outcomes.items()}}
        options.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"bench.scale.kube: {error}", file=sys.stderr)
        sys.exit(2)
