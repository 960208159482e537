"""Counting in workers, merging in the parent, and the text that Prometheus reads."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.metrics import (
    BUCKET_BOUNDS_S,
    CONTENT_TYPE_OPENMETRICS,
    CONTENT_TYPE_TEXT,
    ClusterFacts,
    ControllerFacts,
    MetricsAggregate,
    MetricsSnapshot,
    RouteStats,
    SourceFacts,
    TableCounts,
    UpstreamStats,
    WorkerMetrics,
    count_table,
    count_verdicts,
    decode_snapshot,
    merge,
    render,
)
from ingress.routing.table import (
    Endpoint,
    HostPattern,
    HostRoutes,
    PathType,
    Route,
    RoutingTable,
    Upstream,
    UpstreamKey,
)

SHOP = ("shop", "web", "frontend", "80")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def samples(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value_of(text: str, name: str, **labels: str) -> float:
    return samples(parse_text(text))[name, frozenset(labels.items())]


# ---- counting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration_s", "bucket"),
    [(0.0, 0), (0.005, 0), (0.0050001, 1), (0.01, 1), (0.3, 6), (1.0, 7), (10.0, 10), (10.001, 11), (3600.0, 11)],
)
def test_a_duration_falls_into_the_first_bucket_whose_bound_it_does_not_exceed(duration_s: float, bucket: int) -> None:
    stats = RouteStats()
    stats.observe(200, duration_s, 0, 0)
    assert [i for i, count in enumerate(stats.buckets) if count] == [bucket]


def test_observe_counts_statuses_bytes_and_time() -> None:
    stats = RouteStats()
    stats.observe(200, 0.25, 100, 5000)
    stats.observe(200, 0.5, 100, 5000)
    stats.observe(502, 1.0, 50, 10)
    assert stats.statuses == {200: 2, 502: 1}
    assert stats.duration_sum_s == 1.75
    assert (stats.request_bytes, stats.response_bytes) == (250, 10010)


def test_the_same_labels_give_the_same_stats_and_others_give_others() -> None:
    metrics = WorkerMetrics()
    assert metrics.route(*SHOP) is metrics.route(*SHOP)
    assert metrics.route("shop", "web", "frontend", "81") is not metrics.route(*SHOP)
    assert metrics.route("", "", "", "") is metrics.unmatched
    assert metrics.upstream("shop", "frontend") is metrics.upstream("shop", "frontend")


def test_a_snapshot_holds_every_count_and_reads_its_gauges_from_their_owners() -> None:
    clock = Clock()
    in_flight, dropped = [3], [7]
    metrics = WorkerMetrics(
        requests_in_flight=lambda: in_flight[0], access_log_dropped=lambda: dropped[0], monotonic=clock
    )
    assert metrics.snapshot().tables == {}
    metrics.table_applied("abc")
    clock.now += 2.5
    metrics.route(*SHOP).observe(200, 0.02, 10, 20)
    upstream = metrics.upstream("shop", "frontend")
    upstream.failed("connect_failed")
    upstream.failed("connect_failed")
    upstream.retries += 1
    metrics.connections_accepted += 4
    metrics.connections_open += 2
    metrics.tunnels_open += 1
    metrics.upstream_connections_opened += 5
    metrics.upstream_connections_reused += 6
    assert metrics.snapshot() == MetricsSnapshot(
        routes={SHOP: RouteStats({200: 1}, [0, 0, 1] + [0] * 9, 0.02, 10, 20)},
        upstreams={("shop", "frontend"): UpstreamStats({"connect_failed": 2}, 1, 0)},
        connections_accepted=4,
        upstream_connections_opened=5,
        upstream_connections_reused=6,
        access_log_dropped=7,
        requests_in_flight=3,
        connections_open=2,
        tunnels_open=1,
        tables={"abc": 1},
        table_age_s=2.5,
    )


def test_a_snapshot_is_a_copy_and_leaves_out_what_was_never_hit() -> None:
    metrics = WorkerMetrics()
    metrics.route("a", "quiet", "b", "80")
    metrics.upstream("a", "quiet")
    stats = metrics.route(*SHOP)
    stats.observe(200, 0.1, 1, 1)
    snapshot = metrics.snapshot()
    stats.observe(200, 0.1, 1, 1)
    assert snapshot.routes.keys() == {SHOP}
    assert snapshot.upstreams == {}
    assert snapshot.routes[SHOP].statuses == {200: 1}
    assert sum(snapshot.routes[SHOP].buckets) == 1


def test_encode_is_what_decode_snapshot_reads() -> None:
    metrics = WorkerMetrics()
    metrics.unmatched.observe(404, 0.001, 1, 2)
    metrics.upstream("n", "s").ejections += 1
    assert decode_snapshot(metrics.encode()) == metrics.snapshot()


# ---- merging ------------------------------------------------------------------------------------------------------

_counts = st.integers(0, 1 << 40)
_name = st.sampled_from(("a", "b", "c"))
_snapshots = st.builds(
    MetricsSnapshot,
    routes=st.dictionaries(
        st.tuples(_name, _name, _name, _name),
        st.builds(
            RouteStats,
            statuses=st.dictionaries(st.integers(100, 599), _counts, max_size=3),
            buckets=st.lists(_counts, min_size=12, max_size=12),
            duration_sum_s=st.integers(0, 1 << 20).map(float),
            request_bytes=_counts,
            response_bytes=_counts,
        ),
        max_size=3,
    ),
    upstreams=st.dictionaries(
        st.tuples(_name, _name),
        st.builds(
            UpstreamStats,
            failures=st.dictionaries(_name, _counts, max_size=2),
            retries=_counts,
            ejections=_counts,
        ),
        max_size=3,
    ),
    connections_accepted=_counts,
    upstream_connections_opened=_counts,
    upstream_connections_reused=_counts,
    access_log_dropped=_counts,
    requests_in_flight=_counts,
    connections_open=_counts,
    tunnels_open=_counts,
    tables=st.dictionaries(_name, st.integers(1, 3), max_size=2),
    table_age_s=st.integers(0, 1000).map(float),
    unhealthy_endpoints=st.dictionaries(st.tuples(_name, _name), _counts, max_size=2),
)


@given(_snapshots, _snapshots, _snapshots)
def test_merging_is_a_sum(a: MetricsSnapshot, b: MetricsSnapshot, c: MetricsSnapshot) -> None:
    assert merge((a, b)) == merge((b, a))
    assert merge((merge((a, b)), c)) == merge((a, merge((b, c)))) == merge((a, b, c))
    assert merge((a, MetricsSnapshot())) == a


def test_merging_adds_field_by_field_and_changes_no_argument() -> None:
    a = MetricsSnapshot(
        routes={SHOP: RouteStats({200: 1, 404: 2}, [1] * 12, 1.5, 10, 20)},
        upstreams={("n", "s"): UpstreamStats({"x": 1}, 1, 1)},
        requests_in_flight=1,
        connections_accepted=10,
        tables={"new": 1},
        table_age_s=1.0,
        unhealthy_endpoints={("n", "s"): 1, ("n", "a"): 0},
    )
    b = MetricsSnapshot(
        routes={SHOP: RouteStats({200: 5}, [2] * 12, 0.5, 1, 2)},
        upstreams={("n", "s"): UpstreamStats({"x": 1, "y": 4}, 2, 0)},
        requests_in_flight=2,
        connections_accepted=5,
        tables={"old": 1},
        table_age_s=9.0,
        unhealthy_endpoints={("n", "s"): 3, ("n", "b"): 2},
    )
    merged = merge((a, b))
    assert merged.routes == {SHOP: RouteStats({200: 6, 404: 2}, [3] * 12, 2.0, 11, 22)}
    assert merged.upstreams == {("n", "s"): UpstreamStats({"x": 2, "y": 4}, 3, 1)}
    assert (merged.requests_in_flight, merged.connections_accepted) == (3, 15)
    assert (merged.tables, merged.table_age_s) == ({"new": 1, "old": 1}, 9.0)
    # of the worker that sees most: they look at the same endpoints
    assert merged.unhealthy_endpoints == {("n", "s"): 3, ("n", "a"): 0, ("n", "b"): 2}
    assert a.routes[SHOP].statuses == {200: 1, 404: 2}
    assert b.upstreams["n", "s"].failures == {"x": 1, "y": 4}


def test_counters_of_a_dead_worker_stay_and_its_gauges_go() -> None:
    total = MetricsAggregate()
    total.update(
        "0.1",
        MetricsSnapshot(
            routes={SHOP: RouteStats({200: 10})},
            requests_in_flight=4,
            connections_open=9,
            tables={"t": 1},
            unhealthy_endpoints={("n", "s"): 1},
        ),
    )
    total.update("1.1", MetricsSnapshot(routes={SHOP: RouteStats({200: 1})}, requests_in_flight=1))
    total.remove("0.1")
    after = total.merged()
    assert after.routes[SHOP].statuses == {200: 11}
    assert (after.requests_in_flight, after.connections_open, after.tables) == (1, 0, {})
    assert after.unhealthy_endpoints == {}
    total.update("0.2", MetricsSnapshot(routes={SHOP: RouteStats({200: 3})}))
    assert total.merged().routes[SHOP].statuses == {200: 14}


def test_a_newer_snapshot_replaces_the_one_before_and_one_of_a_dead_worker_is_ignored() -> None:
    total = MetricsAggregate()
    total.update("0.1", MetricsSnapshot(connections_accepted=5))
    total.update("0.1", MetricsSnapshot(connections_accepted=6))
    assert total.merged().connections_accepted == 6
    total.remove("0.1")
    total.update("0.1", MetricsSnapshot(connections_accepted=7))
    total.remove("0.1")
    total.remove("never seen")
    assert total.merged().connections_accepted == 6


def test_the_sum_never_falls_over_a_life_of_restarts() -> None:
    total = MetricsAggregate()
    seen = [0]
    for life in range(5):
        for requests in (1, 4, 9):
            total.update((0, life), MetricsSnapshot(routes={SHOP: RouteStats({200: requests})}))
            seen.append(total.merged().routes[SHOP].statuses[200])
        total.remove((0, life))
        seen.append(total.merged().routes[SHOP].statuses[200])
    assert seen == sorted(seen)
    assert seen[-1] == 45


# ---- facts --------------------------------------------------------------------------------------------------------


def test_count_table_and_verdicts() -> None:
    host = HostPattern("a.example")
    route = Route(host, "/", PathType.PREFIX, "n", "i", "s", "80", UpstreamKey("n/s:80"))
    upstream = Upstream(UpstreamKey("n/s:80"), "n", "s", "80", (Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)))
    table = RoutingTable("t", {host: HostRoutes(host, (route, route))}, {upstream.key: upstream}, default=route)
    assert count_table(table) == TableCounts(hosts=1, routes=2, upstreams=1, endpoints=2)
    verdicts = [
        Verdict("Ingress a/b", "spec", VerdictReason.CONFLICT, "x"),
        Verdict("Ingress a/c", "spec", VerdictReason.CONFLICT, "x"),
        Verdict("Ingress a/c", "spec", VerdictReason.NO_ENDPOINTS, "x", severity=Severity.WARNING),
    ]
    assert count_verdicts(verdicts) == {("Conflict", "error"): 2, ("NoEndpoints", "warning"): 1}


# ---- exposition ---------------------------------------------------------------------------------------------------


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


# ---- counters of features -----------------------------------------------------------------------------------------


def test_tallies_add_up_over_workers_and_their_ends() -> None:
    family = "aioingress_middleware_failures"
    one, two = WorkerMetrics(), WorkerMetrics()
    one.tally(family, "audit", "request", "error").value += 2
    one.tally(family, "audit", "request", "timeout")  # never counted: not shown
    assert one.tally(family, "audit", "request", "error") is one.tally(family, "audit", "request", "error")
    two.tally(family, "audit", "request", "error").value += 1
    total = MetricsAggregate()
    total.update("one", one.snapshot())
    total.remove("one")
    total.update("two", two.snapshot())
    _, text = render(total.merged(), ControllerFacts())
    lines = [line for line in text.decode().splitlines() if line.startswith(f"{family}_total")]
    assert lines == [f'{family}_total{{hook="request",middleware="audit",reason="error"}} 3.0']


@pytest.mark.parametrize("labels", [(), ("audit",), ("a", "b", "c", "d")])
def test_a_tally_has_the_labels_of_its_family(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="has the labels"):
        WorkerMetrics().tally("aioingress_middleware_failures", *labels)
