"""Sizes of tables and counts of verdicts."""

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.facts import TableCounts, count_table, count_verdicts
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
