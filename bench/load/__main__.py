"""`python -m bench.load`: see bench/README.md."""

import argparse
import json
import os
import random
import sys
from pathlib import Path

from bench.load.generators import LoadGenerator
from bench.load.peers import BASE, PEERS, Finder, Launch, nginx_backend
from bench.load.run import Found, Plan, run_scenario, start
from bench.load.scenarios import SCENARIOS, Generator, Scenario
from bench.load.tables import as_json, growth_table, scenario_table, summary_table
from bench.support import machine
from bench.support.controller import wait_for_status
from bench.support.processes import BenchError, PortAllocator, bench_session
from bench.support.report import add_output_options, provenance, publish


def parser() -> argparse.ArgumentParser:
    names = ",".join(peer.name for peer in PEERS)
    top = argparse.ArgumentParser(prog="python -m bench.load", description="aioingress beside other proxies")
    top.add_argument("--peers", metavar="A,B", default=names, help=f"which proxies (default: {names})")
    top.add_argument(
        "--scenarios",
        metavar="A,B",
        default=",".join(scenario.name for scenario in SCENARIOS),
        help="which scenarios (default: %(default)s)",
    )
    top.add_argument("--rounds", type=int, help="measured runs of each proxy in each scenario (default: 3)")
    top.add_argument("--seconds", type=int, help="length of a run (default: 5)")
    top.add_argument(
        "--peers-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help="bin folder with envoy, traefik, caddy … (default: environment variable BENCH_PEERS); repeatable",
    )
    top.add_argument("--proxy-core", type=int, metavar="N", help="core of the proxy (default: the first we may use)")
    top.add_argument(
        "--load-core", type=int, metavar="N", help="core of load generator and backend (default: the second)"
    )
    add_output_options(top)
    return top


def choose_scenarios(text: str) -> list[Scenario]:
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = [name for name in text.split(",") if name not in by_name]
    if unknown:
        raise BenchError(f"no scenario {unknown[0]!r}: choose from {', '.join(by_name)}")
    return [by_name[name] for name in text.split(",")]


def find_peers(text: str, finder: Finder) -> tuple[list[Found], list[str]]:
    """Those of the list that are on this machine, and a remark for each that is not."""
    by_name = {peer.name: peer for peer in PEERS}
    found, missing = [], []
    for name in text.split(","):
        if name not in by_name:
            raise BenchError(f"no proxy {name!r}: choose from {', '.join(by_name)}")
        peer = by_name[name]
        binary = peer.find(finder)
        if binary is None:
            missing.append(f"{name} ({peer.install})")
        else:
            found.append(Found(peer, binary, peer.version(binary)))
    return found, missing


def find_generators(finder: Finder) -> dict[Generator, Path]:
    found = {generator: finder.find(generator.value) for generator in Generator}
    found[Generator.TLS_CLIENT] = Path(sys.executable)
    return {generator: path for generator, path in found.items() if path is not None}


def make_plan(options: argparse.Namespace) -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    proxy = cores[0] if options.proxy_core is None else options.proxy_core
    load = cores[min(1, len(cores) - 1)] if options.load_core is None else options.load_core
    if proxy == load:
        print("only one core: proxy and load generator share it, CPU per request still holds", file=sys.stderr)
    return Plan(
        rounds=options.rounds or (1 if options.quick else 3),
        seconds=options.seconds or (1 if options.quick else 5),
        warm_up_s=1.0,
        proxy_cores=(proxy,),
        load_cores=(load,),
    )


def backend_launch(finder: Finder, folder: Path, port: int) -> tuple[Launch, str]:
    """nginx where there is one (far from being the bottleneck), else the Python backend."""
    nginx = finder.find("nginx")
    if nginx is not None:
        return nginx_backend(nginx, folder, port), "nginx"
    return Launch(
        [sys.executable, "-m", "bench.support.backend", "--listen", f"127.0.0.1:{port}"]
    ), "bench.support.backend"


def main() -> int:
    options = parser().parse_args()
    folders = options.peers_dir or [Path(text) for text in os.environ.get("BENCH_PEERS", "").split(os.pathsep) if text]
    finder = Finder(tuple(folder.resolve() for folder in folders))
    scenarios = choose_scenarios(options.scenarios)
    found, missing = find_peers(options.peers, finder)
    generators = find_generators(finder)
    remarks = [f"not found and left out: {', '.join(missing)}"] if missing else []
    if Generator.WRK not in generators:
        raise BenchError("wrk not found; on Debian: apt install wrk nginx-light haproxy nghttp2-client")
    plan = make_plan(options)
    ports = PortAllocator(random.Random())
    results = []
    with bench_session(options.keep) as folder:
        generator = LoadGenerator(generators, plan.load_cores, folder)
        left_out = [scenario.name for scenario in scenarios if not generator.supports(scenario)]
        if left_out:
            remarks.append(f"scenarios left out for want of h2load (apt install nghttp2-client): {', '.join(left_out)}")
        for remark in remarks:
            print(remark, file=sys.stderr)
        home = folder / "backend"
        home.mkdir()
        backend_port = ports.take()
        launch, backend_name = backend_launch(finder, home, backend_port)
        backend = start("backend", launch, home, plan.load_cores)
        try:
            wait_for_status(backend, backend_port, "/")
            for scenario in scenarios:
                if generator.supports(scenario):
                    series = run_scenario(scenario, found, plan, generator, backend_port, ports, folder)
                    results.append((scenario, series))
        finally:
            backend.stop()
    if not results:
        raise BenchError("nothing was measured")

    versions = ", ".join(f"{item.peer.name} {item.version}" for item in found)
    here = machine.describe()
    facts = [
        ("versions", versions),
        (
            "backend",
            f"{backend_name}, on one core with the load generator; every proxy alone on another, one worker each",
        ),
        ("repeats", f"{plan.rounds} rounds of {plan.seconds:.0f} s, interleaved; medians"),
        *(("note", remark) for remark in remarks),
    ]
    parts = [
        "## Load: beside other proxies",
        provenance(here, "bench.load", facts),
        summary_table(results, BASE),
        growth_table(results),
        *(scenario_table(scenario, series, BASE) for scenario, series in results),
    ]
    publish(options, "load", "\n\n".join(part for part in parts if part))
    if options.json:
        raw = as_json(
            results, {"machine": here.hardware, "commit": here.commit, "date": here.date, "versions": versions}
        )
        options.json.write_text(json.dumps(raw, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"bench.load: {error}", file=sys.stderr)
        sys.exit(2)
