"""The text that Prometheus reads."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ingress.exposition import CONTENT_TYPE_OPENMETRICS, CONTENT_TYPE_TEXT, render
from ingress.facts import ClusterFacts, ControllerFacts, SourceFacts
from ingress.metrics import (
    BUCKET_BOUNDS_S,
    MetricsSnapshot,
    RouteStats,
    WorkerMetrics,
)
from tests.prometheus import samples, value_of

SHOP = ("shop", "web", "frontend", "80")


def busy_snapshot() -> MetricsSnapshot:
    metrics = WorkerMetrics(requests_in_flight=lambda: 2, access_log_dropped=lambda: 3)
    metrics.table_applied("abc")
    route = metrics.route(*SHOP)
    for duration in (0.001, 0.02, 0.02, 42.0):
        route.observe(200, duration, 100, 1000)
    route.observe(503, 0.2, 100, 1000)
    metrics.unmatched.observe(404, 0.001, 10, 20)
    upstream = metrics.upstream("shop", "frontend")
    upstream.failed("connect_timeout")
    upstream.retries = 2
    upstream.ejections = 1
    metrics.unhealthy_endpoints["shop", "frontend"] = 2
    metrics.unhealthy_endpoints["shop", "backend"] = 0
    metrics.tally("aioingress_health_checks", "shop", "frontend", "timeout").value = 6
    metrics.connections_accepted = 12
    metrics.connections_open = 5
    metrics.tunnels_open = 1
    metrics.upstream_connections_opened = 8
    metrics.upstream_connections_reused = 9
    return metrics.snapshot()


FACTS = ControllerFacts(
    table_id="abc",
    table_age_s=1.5,
    hosts=2,
    routes=3,
    upstreams=4,
    endpoints=5,
    verdicts={("Conflict", "error"): 6},
    workers_wanted=2,
    workers_live=1,
    worker_restarts=7,
    sources=(SourceFacts("files", True, 1_700_000_000.25), SourceFacts("kubernetes", False)),
    config_errors=8,
)


def test_every_value_arrives_in_the_classic_text() -> None:
    content_type, body = render(busy_snapshot(), FACTS)
    assert content_type == CONTENT_TYPE_TEXT
    text = body.decode()
    shop = {"namespace": "shop", "ingress": "web", "service": "frontend", "port": "80"}
    none = {"namespace": "", "ingress": "", "service": "", "port": ""}
    upstream = {"namespace": "shop", "service": "frontend"}
    assert value_of(text, "aioingress_requests_total", **shop, status="200") == 4
    assert value_of(text, "aioingress_requests_total", **shop, status="503") == 1
    assert value_of(text, "aioingress_requests_total", **none, status="404") == 1
    bucket = "aioingress_request_duration_seconds_bucket"
    cumulative = [value_of(text, bucket, **shop, le=le) for le in (*map(str, BUCKET_BOUNDS_S), "+Inf")]
    assert cumulative == [1, 1, 3, 3, 3, 4, 4, 4, 4, 4, 4, 5]
    assert value_of(text, "aioingress_request_duration_seconds_count", **shop) == 5
    assert value_of(text, "aioingress_request_duration_seconds_sum", **shop) == pytest.approx(42.241)
    assert value_of(text, "aioingress_request_bytes_total", **shop) == 500
    assert value_of(text, "aioingress_response_bytes_total", **none) == 20
    assert value_of(text, "aioingress_upstream_failures_total", **upstream, reason="connect_timeout") == 1
    assert value_of(text, "aioingress_upstream_retries_total", **upstream) == 2
    assert value_of(text, "aioingress_upstream_ejections_total", **upstream) == 1
    assert value_of(text, "aioingress_unhealthy_endpoints", **upstream) == 2
    assert value_of(text, "aioingress_unhealthy_endpoints", namespace="shop", service="backend") == 0
    assert value_of(text, "aioingress_health_checks_total", **upstream, result="timeout") == 6
    assert value_of(text, "aioingress_connections", state="active") == 5
    assert value_of(text, "aioingress_table_info", id="abc") == 1
    assert value_of(text, "aioingress_worker_tables", id="abc") == 1
    assert value_of(text, "aioingress_verdicts", reason="Conflict", severity="error") == 6
    assert value_of(text, "aioingress_workers", state="wanted") == 2
    assert value_of(text, "aioingress_workers", state="live") == 1
    assert value_of(text, "aioingress_source_up", source="files") == 1
    assert value_of(text, "aioingress_source_up", source="kubernetes") == 0
    assert value_of(text, "aioingress_source_last_sync_timestamp_seconds", source="files") == 1_700_000_000.25
    for name, value in {
        "aioingress_requests_in_flight": 2,
        "aioingress_upstream_connections_opened_total": 8,
        "aioingress_upstream_connections_reused_total": 9,
        "aioingress_connections_accepted_total": 12,
        "aioingress_tunnels": 1,
        "aioingress_access_log_dropped_total": 3,
        "aioingress_table_age_seconds": 1.5,
        "aioingress_hosts": 2,
        "aioingress_routes": 3,
        "aioingress_upstreams": 4,
        "aioingress_endpoints": 5,
        "aioingress_worker_restarts_total": 7,
        "aioingress_config_errors_total": 8,
    }.items():
        assert value_of(text, name) == value, name


def test_openmetrics_says_the_same_to_its_strict_parser() -> None:
    snapshot = busy_snapshot()
    _, classic = render(snapshot, FACTS)
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.5"
    content_type, body = render(snapshot, FACTS, accept)
    assert content_type == CONTENT_TYPE_OPENMETRICS
    assert body.endswith(b"# EOF\n")
    assert samples(parse_openmetrics(body.decode())) == samples(parse_text(classic.decode()))


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("text/plain;version=1.0.0;escaping=\r\nX: y", False),
        ("Application/OpenMetrics-Text; version=1.0.0; q=0.5, text/plain;q=0.9", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;version=not-a-version", True),
        ("x," * 5000, False),
    ],
)
def test_the_format_follows_accept(accept: str, openmetrics: bool) -> None:
    content_type, _ = render(MetricsSnapshot(), ControllerFacts(), accept)
    assert content_type == (CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_TEXT)


def test_label_values_are_escaped() -> None:
    labels = ('a"b', "c\\d", "e\nf", "g")
    text = render(MetricsSnapshot(routes={labels: RouteStats({200: 1})}), ControllerFacts())[1].decode()
    assert (
        value_of(
            text,
            "aioingress_requests_total",
            namespace=labels[0],
            ingress=labels[1],
            service=labels[2],
            port=labels[3],
            status="200",
        )
        == 1
    )


def test_no_table_no_info() -> None:
    text = render(MetricsSnapshot(), ControllerFacts())[1].decode()
    assert "aioingress_table_info{" not in text
    assert "aioingress_build_info{" in text


def test_every_metric_has_its_row_in_the_docs_and_the_other_way_round() -> None:
    docs = (Path(__file__).parent.parent / "docs/metrics.md").read_text()
    documented = set(re.findall(r"^\| `(aioingress_\w+)", docs, re.MULTILINE))
    text = render(busy_snapshot(), replace(FACTS, cluster=ClusterFacts()))[1].decode()
    exposed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert documented == exposed
