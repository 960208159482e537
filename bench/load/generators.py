"""The load generators: wrk (closed loop) and h2load (fixed rate), their scripts and how their output is read."""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.scenarios import Generator, Scenario
from bench.load.site import Site
from bench.support.figures import percentile
from bench.support.processes import BenchError

TARGETS = 200  # routes asked for on the many-routes site
_MARK = "BENCH-RESULT "

_DONE = """
function done(summary, latency, requests)
  io.write(string.format(
    '\\nBENCH-RESULT {"requests":%d,"duration_us":%d,"p50_us":%.1f,"p99_us":%.1f,' ..
    '"status_errors":%d,"socket_errors":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""

_SPREAD = """
local targets = {%s}
local prepared, turn = {}, 0
function init(args)
  for index, target in ipairs(targets) do
    prepared[index] = wrk.format("GET", target[2], {["Host"] = target[1]})
  end
end
function request()
  turn = turn %% #prepared + 1
  return prepared[turn]
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a generator saw. Latencies in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    status_errors: int  # answers that were not 2xx or 3xx
    socket_errors: int  # connect, read, write, timeout


def wrk_script(scenario: Scenario, site: Site) -> str:
    """A Lua script; hosts, paths and numbers are our own (JSON strings without escapes are Lua strings)."""
    if scenario.many_routes:
        pairs = ", ".join(f"{{{json.dumps(host)}, {json.dumps(path)}}}" for host, path in site.targets(TARGETS))
        return _SPREAD % pairs + _DONE
    lines = [f'wrk.headers["Host"] = {json.dumps(site.hosts[0])}']
    if scenario.new_connections:
        lines.append('wrk.headers["Connection"] = "close"')
    if scenario.body_bytes:
        lines += [
            'wrk.method = "POST"',
            'wrk.headers["Content-Type"] = "application/octet-stream"',
            f'wrk.body = string.rep("x", {scenario.body_bytes})',
        ]
    return "\n".join(lines) + "\n" + _DONE


def parse_wrk(output: str) -> Load:
    """Raise BenchError when wrk did not reach its end."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            found = json.loads(line.removeprefix(_MARK))
            return Load(
                requests=found["requests"],
                seconds=found["duration_us"] / 1e6,
                p50_ms=found["p50_us"] / 1e3,
                p99_ms=found["p99_us"] / 1e3,
                status_errors=found["status_errors"],
                socket_errors=found["socket_errors"],
            )
    raise BenchError(f"wrk gave no result: {output.strip()[-300:]}")


def parse_h2load(output: str, log: str) -> Load:
    """Summary lines for the counts, the per-request log (start µs, status, duration µs) for the percentiles."""
    finished = re.search(r"finished in ([\d.]+)(s|ms|us)", output)
    counts = re.search(
        r"(\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output
    )
    durations, status_errors = [], 0
    for line in log.splitlines():
        _, status, duration = line.split("\t")[:3]
        durations.append(int(duration) / 1e3)
        status_errors += not 200 <= int(status) < 400
    if finished is None or counts is None or not durations:
        raise BenchError(f"h2load gave no result: {output.strip()[-300:]}")
    scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6}[finished[2]]
    return Load(
        requests=len(durations),
        seconds=float(finished[1]) * scale,
        p50_ms=percentile(durations, 50),
        p99_ms=percentile(durations, 99),
        status_errors=status_errors,
        socket_errors=int(counts[6]) + int(counts[7]),
    )


def parse_tls_client(output: str, resume: bool) -> Load:
    """Raise BenchError when sessions were resumed that shouldn't be, or the other way round: it would be another scenario."""
    found = json.loads(output)
    durations = found["latencies_ms"]
    if not durations:
        raise BenchError("no TLS connection was made")
    share = found["resumed"] / len(durations)
    if not (share > 0.9 if resume else share == 0):
        raise BenchError(f"{share:.0%} of the TLS sessions were resumed")
    return Load(
        requests=len(durations),
        seconds=found["seconds"],
        p50_ms=percentile(durations, 50),
        p99_ms=percentile(durations, 99),
        status_errors=found["status_errors"],
        socket_errors=found["socket_errors"],
    )


class LoadGenerator:
    """Runs one generator pinned to `cores` against a port of 127.0.0.1."""

    def __init__(self, binaries: dict[Generator, Path], cores: Sequence[int], folder: Path) -> None:
        self._binaries = binaries
        self._prefix = ["taskset", "-c", ",".join(map(str, cores))]
        self._folder = folder

    def supports(self, scenario: Scenario) -> bool:
        return scenario.generator in self._binaries

    def run(self, scenario: Scenario, site: Site, port: int, seconds: float) -> Load:
        binary = str(self._binaries[scenario.generator])
        whole_s = max(1, round(seconds))
        match scenario.generator:
            case Generator.WRK:
                script = self._folder / f"{scenario.name}.lua"
                script.write_text(wrk_script(scenario, site))
                return parse_wrk(
                    self._output(
                        [binary, "-t1", f"-c{scenario.connections}", f"-d{whole_s}s", "--timeout", "10s"]
                        + [
                            "-s",
                            str(script),
                            f"{'https' if scenario.tls else 'http'}://127.0.0.1:{port}{scenario.path}",
                        ],
                        limit_s=whole_s + 30,
                    )
                )
            case Generator.H2LOAD:
                log = self._folder / "h2load.log"
                log.unlink(missing_ok=True)
                per_client = scenario.rate_per_s / scenario.connections
                output = self._output(
                    [binary, "--h1", "-t1", f"-c{scenario.connections}", f"-n{scenario.rate_per_s * whole_s}"]
                    + [f"--rps={per_client:g}", f"--log-file={log}", f"--connect-to=127.0.0.1:{port}"]
                    + [f"http://{site.hosts[0]}{scenario.path}"],
                    limit_s=whole_s + 30,
                )
                return parse_h2load(output, log.read_text() if log.exists() else "")

            case Generator.TLS_CLIENT:
                client = [binary, "-m", "bench.support.tls", f"--port={port}", f"--host={site.hosts[0]}"]
                client += [
                    f"--path={scenario.path}",
                    f"--seconds={whole_s}",
                    *(["--resume"] if scenario.resume else []),
                ]
                return parse_tls_client(self._output(client, limit_s=whole_s + 30), scenario.resume)

    def _output(self, argv: list[str], limit_s: float) -> str:
        try:
            done = subprocess.run(
                [*self._prefix, *argv],
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"{Path(argv[0]).name} did not end within {limit_s:.0f} s") from None
        if done.returncode != 0:
            raise BenchError(f"{Path(argv[0]).name}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout
