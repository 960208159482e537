"""Starts the proxies, runs the rounds, keeps the samples. One proxy is under load at any moment; the others idle."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load.generators import Load, LoadGenerator
from bench.load.peers import Launch, Peer
from bench.load.scenarios import Scenario
from bench.load.site import Site, many_routes, one_route
from bench.support.controller import status_of, wait_for_status
from bench.support.processes import BenchError, PortAllocator, ProcessTree, core_busy_s
from bench.support.tls import make_certificate

DIRECT = "direct"  # the load generator straight at the backend: the ceiling
READY_LIMIT_S = 180.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One round. `cpu_us` per completed request, over the whole tree of the proxy (None for `direct`)."""

    load: Load
    cpu_us: float | None
    busy: float | None  # share of the proxy's core that it used
    foreign: float | None  # share of the proxy's core that others used: much of it spoils the figures

    @property
    def errors(self) -> int:
        return self.load.status_errors + self.load.socket_errors


@dataclass(slots=True)
class Series:
    """All rounds of one proxy in one scenario; `failure` says why there are none, or no more."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    pss_bytes: int | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: float
    warm_up_s: float
    proxy_cores: tuple[int, ...]
    load_cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    peer: Peer
    binary: Path
    version: str


def start(name: str, launch: Launch, folder: Path, cores: Sequence[int]) -> ProcessTree:
    return ProcessTree(name, launch.argv, log=folder / "log", cores=cores, env=launch.env, cwd=launch.cwd)


def check_routes(name: str, port: int, site: Site) -> None:
    """Known hosts and paths answer 200, unknown ones 404, or else BenchError: a wrong route gets no figure."""
    expected = [(host, path, 200) for host, path in site.targets(7)]
    expected.append(("unknown.example.org", "/", 404))
    if "/" not in site.paths:
        expected.append((site.hosts[0], "/unknown", 404))
    for host, path, status in expected:
        found = status_of(port, path, host, tls=site.tls is not None)
        if found != status:
            raise BenchError(f"{name}: {host}{path} gave {found}, expected {status}")


def measure(
    generator: LoadGenerator, scenario: Scenario, site: Site, port: int, plan: Plan, proxy: ProcessTree | None
) -> Sample:
    cpu_before_s, core_before_s = (proxy.cpu_s() if proxy else 0.0), core_busy_s(plan.proxy_cores)
    begin_s = time.monotonic()
    load = generator.run(scenario, site, port, plan.seconds)
    if load.requests == 0:
        raise BenchError(f"no request completed ({load.status_errors} status and {load.socket_errors} socket errors)")
    if proxy is None:
        return Sample(load, None, None, None)
    wall_s = time.monotonic() - begin_s
    cpu_s, core_s = proxy.cpu_s() - cpu_before_s, core_busy_s(plan.proxy_cores) - core_before_s
    proxy.require_alive()
    return Sample(load, cpu_s / load.requests * 1e6, cpu_s / wall_s, max(0.0, core_s - cpu_s) / wall_s)


def run_scenario(
    scenario: Scenario,
    found: Sequence[Found],
    plan: Plan,
    generator: LoadGenerator,
    backend_port: int,
    ports: PortAllocator,
    folder: Path,
) -> list[Series]:
    """Rounds interleaved over the proxies (A B C, A B C, …), so that a slow minute of the machine hits all of them."""
    site = many_routes(backend_port) if scenario.many_routes else one_route(backend_port)
    if scenario.tls:
        (folder / scenario.name).mkdir()
        site = dataclasses.replace(site, tls=make_certificate(folder / scenario.name, site.hosts[0]))
    # The backend speaks no TLS: there is no ceiling to show.
    running: dict[str, tuple[int, ProcessTree | None]] = {} if scenario.tls else {DIRECT: (backend_port, None)}
    series = {**{name: Series(name) for name in running}, **{item.peer.name: Series(item.peer.name) for item in found}}
    with contextlib.ExitStack() as stack:
        for item in found:
            name = item.peer.name
            home = folder / scenario.name / name
            home.mkdir(parents=True)
            port = ports.take()
            try:
                _say(f"{scenario.name}: starting {name}")
                launch = item.peer.launch(item.binary, site, home, port, ports)
                process = start(name, launch, home, plan.proxy_cores)
                stack.callback(process.stop)
                host, path = site.targets(1)[0]
                wait_for_status(process, port, path, host=host, limit_s=READY_LIMIT_S, tls=scenario.tls)
                check_routes(name, port, site)
            except BenchError as error:
                series[name].failure = str(error)
                _say(str(error))
                continue
            running[name] = (port, process)
        for turn in range(plan.rounds):
            for name, (port, proxy) in running.items():
                one = series[name]
                if one.failure:
                    continue
                try:
                    if turn == 0 and plan.warm_up_s:
                        generator.run(scenario, site, port, plan.warm_up_s)
                    sample = measure(generator, scenario, site, port, plan, proxy)
                except BenchError as error:
                    one.failure = str(error)
                    _say(f"{scenario.name}: {name}: {error}")
                    continue
                one.samples.append(sample)
                cpu = "" if sample.cpu_us is None else f" {sample.cpu_us:.1f} CPU µs"
                errors = f" {sample.errors} ERRORS" if sample.errors else ""
                rate = sample.load.requests / sample.load.seconds
                _say(f"{scenario.name}: round {turn + 1}: {name}: {rate:,.0f} requests/s{cpu}{errors}")
        for name, (_, proxy) in running.items():
            if proxy is not None and not proxy.ended():
                series[name].pss_bytes = proxy.pss_bytes()
    return list(series.values())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
