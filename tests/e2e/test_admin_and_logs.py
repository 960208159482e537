"""What an operator sees: metrics over all workers, the table, verdicts, log and access log."""

import json
import re
from datetime import datetime

import pytest

from tests.e2e.support import Serve, app, eventually, ingress, path, query, rule, write


@pytest.fixture
def site(pods, folder):
    write(
        folder / "web.yaml",
        app("web", pods.some("web", 2)),
        ingress("web", rule("web.test", path("web"), path("web", "/x", "Exact"))),
        ingress("bad", rule("bad.test", path("missing"))),
    )
    return folder


LABELS = {"namespace": "default", "ingress": "web", "service": "web", "port": "80"}


@pytest.mark.parametrize("workers", [0, 2])
def test_metrics_are_the_sum_over_the_workers(site, serve, workers):
    live = serve("--no-access-log", workers=workers)
    body = b"x" * 1000
    for _ in range(40):
        assert live.get("web.test", method="POST", body=body).status == 200
    for _ in range(3):
        live.get("web.test", "/status/418")
    live.get("nowhere.test")
    live.get("bad.test")
    requests = "aioingress_requests_total"
    assert live.metric(requests, status="200", **LABELS) == 40
    assert live.metric(requests, status="418", **LABELS) == 3
    assert live.metric(requests, status="404", namespace="", ingress="", service="") == 1
    assert live.metric(requests, status="503", ingress="bad", service="missing") == 1
    assert live.metric(requests) == 45
    assert live.metric("aioingress_request_duration_seconds_count", **LABELS) == 43
    assert live.metric("aioingress_request_duration_seconds_bucket", le="+Inf", **LABELS) == 43
    assert live.metric("aioingress_request_bytes_total", **LABELS) >= 40_000
    assert live.metric("aioingress_connections_accepted_total") == 45
    assert live.metric("aioingress_requests_in_flight") == 0
    assert live.metric("aioingress_workers", state="wanted") == workers
    assert live.metric("aioingress_verdicts") == 1
    assert (live.metric("aioingress_hosts"), live.metric("aioingress_upstreams")) == (2, 1)
    assert live.metric("aioingress_endpoints") == 2
    assert live.metric("aioingress_source_up", source="files") == 1
    assert live.metric("aioingress_table_info", id=live.table()["id"]) == 1
    assert live.metric("aioingress_worker_tables", id=live.table()["id"]) == max(workers, 1)
    opened, reused = (live.metric(f"aioingress_upstream_connections_{what}_total") for what in ("opened", "reused"))
    assert opened + reused == 43
    assert reused > 30


def test_metrics_in_both_formats(site, serve):
    live = serve()
    live.get("web.test")
    classic = live.ask("/metrics")
    assert classic.headers["Content-Type"].startswith("text/plain; version=")
    assert b"# TYPE aioingress_requests_total counter" in classic.body
    modern = live.ask("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text")
    assert modern.body.endswith(b"# EOF\n")


def test_table_and_verdicts(site, serve):
    live = serve(workers=2)
    table = live.table()
    assert [h["host"] for h in table["hosts"]] == ["bad.test", "web.test"]
    assert [u["key"] for u in table["upstreams"]] == ["default/web:80"]
    assert len(table["upstreams"][0]["endpoints"]) == 2
    assert table["age_s"] >= 0
    routes = next(h["routes"] for h in table["hosts"] if h["host"] == "web.test")
    assert {(r["path"], r["path_type"], r["service"]) for r in routes} == {
        ("/", "Prefix", "web"),
        ("/x", "Exact", "web"),
    }
    (closed,) = next(h["routes"] for h in table["hosts"] if h["host"] == "bad.test")
    assert closed["closed_status"] == 503
    again = live.ask("/routes").json
    assert {**again, "age_s": 0} == {**table, "age_s": 0}
    filtered = live.table(query(host="WEB.test:8080"))
    assert [h["host"] for h in filtered["hosts"]] == ["web.test"]
    assert live.table(query(host="other.test"))["hosts"] == []
    (verdict,) = live.verdicts()
    assert verdict["reason"] == "ServiceNotFound"
    assert table["verdicts"] == [verdict]
    assert live.ask("/").status == 200
    assert live.ask("/healthz").body == b"ok\n"
    assert live.ask("/nowhere").status == 404
    assert live.ask("/metrics", method="POST", body=b"").status == 405
    assert live.ask("/metrics", method="HEAD").body == b""


def lines(live: Serve, count: int) -> list[str]:
    return eventually(lambda: (found := live.stdout.splitlines()) and len(found) >= count and found, f"{count} lines")


@pytest.mark.parametrize("workers", [0, 2])
def test_access_log_text(site, serve, workers):
    live = serve(workers=workers)
    agent = {"User-Agent": 'a "quoted" agent\t', "Referer": "http://from.test/", "X-Request-ID": "chosen-by-client"}
    answer = live.get("web.test", "/x?a=%22b", headers=agent)
    live.get("nowhere.test", method="POST", body=b"12345")
    first, second = sorted(lines(live, 2), key=lambda line: "/x" not in line)
    pattern = (
        r'127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /x\?a=%22b HTTP/1\.1" 200 (\d+)'
        r' "http://from\.test/" "a \\x22quoted\\x22 agent\\x09" (\d+) 0\.\d{3} \[default-web-80\] \[\]'
        r" 127\.0\.0\.1:\d+ (\d+) 0\.\d{3} 200 chosen-by-client"
    )
    found = re.fullmatch(pattern, first)
    assert found, first
    assert int(found[1]) == len(answer.body) == int(found[3])
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[.*\] "POST / HTTP/1\.1" 404 \d+ "-" "-" \d+ 0\.\d{3} \[-\] \[\] - - - - [0-9a-f]{32}',
        second,
    ), second


@pytest.mark.parametrize("workers", [0, 2])
def test_access_log_and_log_json(site, serve, workers):
    live = serve("--log-format", "json", workers=workers)
    answer = live.get("web.test", "/x?a=1", headers={"User-Agent": "agent"}, source="127.0.0.4")
    (line,) = lines(live, 1)
    record = json.loads(line)
    assert datetime.fromisoformat(record.pop("time")).tzinfo is not None
    assert record.pop("request_id") == answer.received["x-request-id"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", record.pop("upstream_addr"))
    assert 0 <= record.pop("upstream_duration_s") <= record.pop("duration_s") + 0.001 < 10  # rounded
    assert record.pop("request_bytes") > 50
    assert record == {
        "remote_addr": "127.0.0.4",
        "remote_user": "",
        "method": "GET",
        "host": "web.test",
        "path": "/x",
        "query": "a=1",
        "protocol": "HTTP/1.1",
        "status": 200,
        "body_bytes": len(answer.body),
        "referer": "",
        "user_agent": "agent",
        "namespace": "default",
        "ingress": "web",
        "service": "web",
        "port": "80",
        "upstream_status": "200",
        "upstream_response_bytes": len(answer.body),
    }
    log = [json.loads(line) for line in live.stderr.splitlines()]
    assert {"time", "level", "role", "area", "message"} <= set(log[0])
    (verdict,) = [entry for entry in log if entry.get("reason") == "ServiceNotFound"]
    assert (verdict["level"], verdict["object"], verdict["role"]) == ("error", "Ingress default/bad", "controller")


def test_access_log_is_complete_at_the_end(site, serve):
    """What was served is written, whatever the number of workers, also when the end comes at once."""
    live = serve(workers=2)
    for _ in range(200):
        live.get("web.test")
    assert live.stop() == 0
    assert len(live.stdout.splitlines()) == 200


def test_no_access_log(site, serve):
    live = serve("--no-access-log", workers=2)
    for _ in range(5):
        live.get("web.test")
    live.stop()
    assert live.stdout == ""
    assert live.log("listening on http://")


def test_verdict_is_logged_once_and_when_resolved(site, serve):
    live = serve()
    assert len(live.log("reason=ServiceNotFound")) == 1
    for number in range(3):  # other changes don't repeat it
        write(site / "more.yaml", ingress("more", rule(f"more-{number}.test", path("web"))))
        eventually(lambda number=number: live.get(f"more-{number}.test").status == 200)
    assert len(live.log("reason=ServiceNotFound")) == 1
    write(site / "missing.yaml", app("missing", []))
    eventually(lambda: not live.verdicts("ServiceNotFound"), "resolved")
    assert len(eventually(lambda: live.log("reason=ServiceNotFound")[1:])) == 1


def test_log_level(site, serve):
    live = serve("--log-level", "error", workers=2)
    live.get("web.test")
    live.stop()
    assert {line.split()[1] for line in live.stderr.splitlines()} <= {"error"}
