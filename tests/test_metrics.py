"""Counting in workers, merging in the parent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.exposition import render
from ingress.facts import ControllerFacts
from ingress.metrics import (
    MetricsAggregate,
    MetricsSnapshot,
    RouteStats,
    UpstreamStats,
    WorkerMetrics,
    decode_snapshot,
    merge,
)
from tests.prometheus import Clock

SHOP = ("shop", "web", "frontend", "80")


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
