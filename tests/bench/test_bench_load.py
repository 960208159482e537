import json
import sys
from pathlib import Path

import pytest
import yaml

from bench.load.generators import Load, parse_h2load, parse_tls_client, parse_wrk, wrk_script
from bench.load.peers import PEERS
from bench.load.run import Sample, Series
from bench.load.scenarios import SCENARIOS
from bench.load.site import many_routes, one_route
from bench.load.tables import as_json, growth_table, scenario_table, summary_table
from bench.support.processes import BenchError, PortAllocator
from bench.support.tls import make_certificate

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
PEER = {peer.name: peer for peer in PEERS}
BINARY = Path("proxy")


class FixedPorts(PortAllocator):
    """Asks no socket."""

    def __init__(self) -> None:
        self._next = 5000

    def take(self) -> int:
        self._next += 1
        return self._next


WRK = """Running 5s test @ http://127.0.0.1:1/
  13240 requests in 1.10s, 3.19MB read

BENCH-RESULT {"requests":13240,"duration_us":1100000,"p50_us":330.0,"p99_us":5130.5,"status_errors":2,"socket_errors":1}
"""

H2LOAD = """finished in 501.23ms, 1995.00 req/s, 300KB/s
requests: 4 total, 4 started, 4 done, 3 succeeded, 1 failed, 0 errored, 1 timeout
status codes: 3 2xx, 0 3xx, 1 4xx, 0 5xx
"""


def test_wrk_result() -> None:
    assert parse_wrk(WRK) == Load(13240, 1.1, 0.33, 5.1305, 2, 1)


def test_wrk_without_a_result() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_h2load_result() -> None:
    log = "1\t200\t100\n2\t200\t200\n3\t404\t300\n4\t200\t9000\n"
    found = parse_h2load(H2LOAD, log)
    assert found == Load(4, pytest.approx(0.50123), 0.2, 9.0, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(BenchError):
        parse_h2load("", "")


def test_wrk_script_of_each_kind() -> None:
    assert 'wrk.headers["Host"] = "bench.example.com"' in wrk_script(BY_NAME["small"], one_route(1))
    assert 'wrk.headers["Connection"] = "close"' in wrk_script(BY_NAME["newconn"], one_route(1))
    assert 'string.rep("x", 16384)' in wrk_script(BY_NAME["post-16k"], one_route(1))
    spread = wrk_script(BY_NAME["routes-10k"], many_routes(1))
    assert '{"host-0999.example.com", "/app-9"}' in spread
    assert spread.count(".example.com") == 200
    assert "turn % #prepared" in spread


def test_tls_client_result() -> None:
    found = {"latencies_ms": [1.0, 2.0, 9.0], "seconds": 3.0, "status_errors": 1, "socket_errors": 2, "resumed": 0}
    assert parse_tls_client(json.dumps(found), resume=False) == Load(3, 3.0, 2.0, 9.0, 1, 2)
    for resumed, resume in ((1, False), (1, True)):
        with pytest.raises(BenchError, match="33% of the TLS sessions"):
            parse_tls_client(json.dumps(found | {"resumed": resumed}), resume)


@pytest.mark.parametrize("name", sorted(PEER))
def test_every_peer_is_given_the_certificate(name: str, tmp_path: Path) -> None:
    (tmp_path / "certificate").mkdir()
    files = make_certificate(tmp_path / "certificate", "bench.example.com")
    site = one_route(4711, files)
    (tmp_path / name).mkdir()
    launch = PEER[name].launch(BINARY, site, tmp_path / name, 4712, FixedPorts())
    written = "".join(path.read_text() for path in (tmp_path / name).rglob("*") if path.is_file())
    shown = files.certificate.read_text().splitlines()[1]
    assert shown in written or str(files.certificate) in written or str(files.both) in written
    assert "4712" in written + " ".join(launch.argv)


def test_targets_are_spread() -> None:
    targets = many_routes(1).targets(200)
    assert len(set(targets)) == 200
    assert len({host for host, _ in targets}) == 200
    assert len(set(one_route(1).targets(200))) == 1


@pytest.mark.parametrize("name", sorted(PEER))
def test_every_peer_writes_every_route(name: str, tmp_path: Path) -> None:
    site = many_routes(4711, hosts=3, paths=2)
    launch = PEER[name].launch(BINARY, site, tmp_path, 4712, FixedPorts())
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    for host in site.hosts:
        assert host in written
    for path in site.paths:
        assert path in written
    assert "4711" in written
    assert "4712" in written + " ".join(launch.argv)


def test_aioingress_is_started_as_documented(tmp_path: Path) -> None:
    launch = PEER["aioingress"].launch(BINARY, one_route(1), tmp_path, 4712, FixedPorts())
    argv = list(launch.argv)
    assert argv[:4] == [sys.executable, "-m", "ingress", "serve"]
    assert argv[argv.index("--http-address") + 1] == "127.0.0.1:4712"
    assert argv[argv.index("--workers") + 1] == "1"
    assert "--no-access-log" in argv
    folder = Path(argv[argv.index("--manifests") + 1])
    kinds = [doc["kind"] for file in folder.iterdir() for doc in yaml.safe_load_all(file.read_text())]
    assert sorted(kinds) == ["EndpointSlice", "Ingress", "Service"]


def test_envoy_configuration_is_json_with_one_cluster(tmp_path: Path) -> None:
    PEER["envoy"].launch(BINARY, many_routes(4711), tmp_path, 4712, FixedPorts())
    config = json.loads((tmp_path / "envoy.json").read_text())
    assert len(config["static_resources"]["clusters"]) == 1


def series(name: str, *cpu_us: float, errors: int = 0) -> Series:
    load = Load(1000, 2.0, 1.0, 3.0, errors, 0)
    return Series(name, [Sample(load, value, 0.9, 0.01) for value in cpu_us], pss_bytes=3 << 20)


def test_tables_compare_medians_to_nginx() -> None:
    small = [series("nginx", 20, 19, 30), series("aioingress", 26, 24, 25, errors=1)]
    many = [series("nginx", 20), series("aioingress", 26)]
    results = [(BY_NAME["small"], small), (BY_NAME["routes-10k"], many)]
    row = next(line for line in scenario_table(*results[0], "nginx").splitlines() if line.startswith("| aioingress"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("aioingress", "25.0", "± 4 %", "1.25", "500", "1.00", "90 %", "1 %", "1.00", "3.00", "3.0", "**3**"),
    ]
    assert "25.0 (1.25)" in summary_table(results, "nginx")
    assert "+4 %" in growth_table(results)
    assert as_json(results, {})["scenarios"]["small"]["nginx"]["samples"][2]["cpu_us_per_request"] == 30


def test_tables_without_nginx_and_with_a_failure() -> None:
    failed = Series("caddy", failure="no 200 within 180 s")
    text = scenario_table(BY_NAME["small"], [series("envoy", 50), failed], "nginx")
    assert "- caddy: no 200 within 180 s" in text
    assert growth_table([(BY_NAME["small"], [series("envoy", 50)])]) == ""
