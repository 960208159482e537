"""What a worker counts, how the counts of all workers become one, and how they are shown to Prometheus.

Three stages, each plain data:

- In a worker (one thread, on the hot path): `WorkerMetrics` hands out `RouteStats` and `UpstreamStats`, which the
  data plane binds once per table and then only increments. `encode()` writes them as a `MetricsSnapshot` in msgpack.
- In the parent: `MetricsAggregate` keeps the latest snapshot of every live worker and the final counters of the dead
  ones, so that no counter ever falls when a worker is replaced. Gauges of a dead worker vanish with it.
- At a scrape: `render(snapshot, facts, accept)` writes the text, from the merged snapshot and the controller's own
  facts.

Label sets are (namespace, ingress, service, port), never paths or anything a client can choose: the number of series
is bounded by the objects of the cluster times the statuses their upstreams send. Hosts appear with certificates only,
and only those of Ingresses. Names are listed in
docs/metrics.md.
"""

import platform
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from ingress import __version__
from ingress.errors import Verdict
from ingress.routing.table import RoutingTable
from ingress.translate.tls.hosts import CertificateUse

BUCKET_BOUNDS_S: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds (inclusive) of the request duration histogram, as in ingress-nginx; one more bucket, +Inf, follows."""

_BUCKETS = len(BUCKET_BOUNDS_S) + 1

RouteLabels = tuple[str, str, str, str]
"""(namespace, ingress, service, port); all empty: no rule matched."""

UpstreamLabels = tuple[str, str]
"""(namespace, service)."""

StreamLabels = tuple[str, str, str]
"""(namespace, service, the port that clients connect to)."""

UNMATCHED: RouteLabels = ("", "", "", "")


# ---- hot path -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RouteStats:
    """Counters of one label set. The live one in a worker is bound to the routes of a table and outlives it; those in a
    snapshot are copies.

    `buckets` is not cumulative (one increment a request) and as long as BUCKET_BOUNDS_S plus one.
    """

    statuses: dict[int, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    duration_sum_s: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0

    def observe(self, status: int, duration_s: float, request_bytes: int, response_bytes: int) -> None:
        """Count one finished request. About 0.2 us: two C calls, no allocation once a status has been seen."""
        try:
            self.statuses[status] += 1
        except KeyError:
            self.statuses[status] = 1
        self.buckets[bisect_left(BUCKET_BOUNDS_S, duration_s)] += 1
        self.duration_sum_s += duration_s
        self.request_bytes += request_bytes
        self.response_bytes += response_bytes

    def __add__(self, other: "RouteStats") -> "RouteStats":
        return RouteStats(
            statuses=_sum(self.statuses, other.statuses),
            buckets=[x + y for x, y in zip(self.buckets, other.buckets, strict=True)],
            duration_sum_s=self.duration_sum_s + other.duration_sum_s,
            request_bytes=self.request_bytes + other.request_bytes,
            response_bytes=self.response_bytes + other.response_bytes,
        )


@dataclass(slots=True)
class UpstreamStats:
    """What went wrong on the way to one Service."""

    failures: dict[str, int] = field(default_factory=dict)  # tries that failed, by reason
    retries: int = 0  # tries beyond the first
    ejections: int = 0  # endpoints taken out of the balancing for a while

    def failed(self, reason: str) -> None:
        """Count one failed try. `reason` is from a fixed set (`errors.Reason` in lower case), never from the wire."""
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def __add__(self, other: "UpstreamStats") -> "UpstreamStats":
        return UpstreamStats(
            _sum(self.failures, other.failures), self.retries + other.retries, self.ejections + other.ejections
        )


@dataclass(slots=True)
class StreamStats:
    """Counters of the connections that come in on one port and are relayed to one Service as they are."""

    opened: int = 0
    open: int = 0  # at the moment
    refused: int = 0  # ended because no endpoint could be reached
    received_bytes: int = 0  # from clients; counted when the connection ends, like the next
    sent_bytes: int = 0

    def __add__(self, other: "StreamStats") -> "StreamStats":
        return StreamStats(
            self.opened + other.opened,
            self.open + other.open,
            self.refused + other.refused,
            self.received_bytes + other.received_bytes,
            self.sent_bytes + other.sent_bytes,
        )


@dataclass(slots=True)
class Tally:
    """One counter of a feature; who counts holds it and adds to `value`."""

    value: float = 0


TallyLabels = tuple[str, ...]
"""Name of a family in `TALLIES`, then the values of its labels."""

TALLIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "aioingress_health_checks": (
        "Active health checks of endpoints, by result: passed, status, timeout, refused, tls, junk.",
        ("namespace", "service", "result"),
    ),
    "aioingress_limited": (
        "Requests refused by a limit of their Ingress: rate or connections.",
        ("namespace", "ingress", "limit"),
    ),
    "aioingress_middleware_calls": ("Calls of a user middleware's hooks.", ("middleware", "hook")),
    "aioingress_middleware_failures": (
        "Calls of a user middleware's hooks that failed, by reason: error, timeout, slow, tripped.",
        ("middleware", "hook", "reason"),
    ),
    "aioingress_middleware_seconds": ("Time that a user middleware's hooks took.", ("middleware", "hook")),
    "aioingress_mirrored": (
        "Requests to be copied to a mirror, by outcome: answered, failed, dropped.",
        ("namespace", "ingress", "outcome"),
    ),
    "aioingress_tls_handshakes": ("TLS handshakes completed, in full or by resumption.", ("protocol", "outcome")),
    "aioingress_tls_failures": ("TLS connections that came to no handshake.", ("reason",)),
}
"""Counters of features: help text and labels by name (without `_total`). A label's values must not be the client's to choose."""


_K = TypeVar("_K")


def _sum(a: Mapping[_K, int], b: Mapping[_K, int]) -> dict[_K, int]:
    out = dict(a)
    for key, count in b.items():
        out[key] = out.get(key, 0) + count
    return out


def _zero() -> int:
    return 0


class WorkerMetrics:
    """Everything one worker counts. Used from the worker's loop only; the plain integers are incremented in place.

    `requests_in_flight` and `access_log_dropped` are read from their owners when a snapshot is taken. Label sets stay
    as long as the process lives, even when no table names them any more: a counter that vanished and came back would
    start at 0.
    """

    __slots__ = (
        "_access_log_dropped",
        "_monotonic",
        "_requests_in_flight",
        "_routes",
        "_streams",
        "_table_at",
        "_table_id",
        "_tallies",
        "_upstreams",
        "connections_accepted",
        "connections_open",
        "tls_connections_open",
        "tunnels_open",
        "unhealthy_endpoints",
        "unmatched",
        "upstream_connections_opened",
        "upstream_connections_reused",
    )

    def __init__(
        self,
        *,
        requests_in_flight: Callable[[], int] = _zero,
        access_log_dropped: Callable[[], int] = _zero,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_in_flight = requests_in_flight
        self._access_log_dropped = access_log_dropped
        self._monotonic = monotonic
        self._routes: dict[RouteLabels, RouteStats] = {}
        self._upstreams: dict[UpstreamLabels, UpstreamStats] = {}
        self._streams: dict[StreamLabels, StreamStats] = {}
        self._tallies: dict[TallyLabels, Tally] = {}
        self._table_id = ""
        self._table_at = 0.0
        self.connections_accepted = 0
        self.connections_open = 0  # client connections
        self.tls_connections_open = 0  # a part of connections_open
        self.tunnels_open = 0  # upgraded connections, a part of connections_open
        self.upstream_connections_opened = 0
        self.upstream_connections_reused = 0  # requests sent on a connection that had served one before
        # By Service whose endpoints are checked, also where it is 0. Kept up by `proxy.health`.
        self.unhealthy_endpoints: dict[UpstreamLabels, int] = {}
        self.unmatched = self.route(*UNMATCHED)

    def route(self, namespace: str, ingress: str, service: str, port: str) -> RouteStats:
        """The stats of that label set, made when first asked for. Called when a table is bound, not per request."""
        labels = (namespace, ingress, service, port)
        stats = self._routes.get(labels)
        if stats is None:
            stats = self._routes[labels] = RouteStats()
        return stats

    def upstream(self, namespace: str, service: str) -> UpstreamStats:
        """The stats of that Service, made when first asked for."""
        labels = (namespace, service)
        stats = self._upstreams.get(labels)
        if stats is None:
            stats = self._upstreams[labels] = UpstreamStats()
        return stats

    def stream(self, namespace: str, service: str, port: int) -> StreamStats:
        """The stats of connections to that port, made when first asked for."""
        labels = (namespace, service, str(port))
        stats = self._streams.get(labels)
        if stats is None:
            stats = self._streams[labels] = StreamStats()
        return stats

    def tally(self, name: str, *labels: str) -> Tally:
        """The counter of that family (`TALLIES`) and label values, made when first asked for. Called when something is bound, not per request."""
        if len(labels) != len(TALLIES[name][1]):
            raise ValueError(f"{name} has the labels {TALLIES[name][1]}, not {labels}")
        key = (name, *labels)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def table_applied(self, table_id: str) -> None:
        """Requests that start from now on are routed by this table."""
        self._table_id = table_id
        self._table_at = self._monotonic()

    def encode(self) -> bytes:
        """This moment as msgpack of a `MetricsSnapshot`, for the parent. One C call over the live counters: 4 ms for
        10,000 label sets with traffic. Label sets that were never hit are left out: most routes of a big table are
        quiet.
        """
        return msgspec.msgpack.encode(self._live())

    def snapshot(self) -> "MetricsSnapshot":
        """A copy of this moment, without the way through a channel."""
        return decode_snapshot(self.encode())

    def _live(self) -> "MetricsSnapshot":
        return MetricsSnapshot(
            routes={labels: s for labels, s in self._routes.items() if s.statuses},
            upstreams={labels: s for labels, s in self._upstreams.items() if s.failures or s.retries or s.ejections},
            streams={labels: s for labels, s in self._streams.items() if s.opened},
            tallies={labels: tally.value for labels, tally in self._tallies.items() if tally.value},
            connections_accepted=self.connections_accepted,
            upstream_connections_opened=self.upstream_connections_opened,
            upstream_connections_reused=self.upstream_connections_reused,
            access_log_dropped=self._access_log_dropped(),
            requests_in_flight=self._requests_in_flight(),
            connections_open=self.connections_open,
            tls_connections_open=self.tls_connections_open,
            tunnels_open=self.tunnels_open,
            tables={self._table_id: 1} if self._table_id else {},
            table_age_s=self._monotonic() - self._table_at if self._table_id else 0.0,
            unhealthy_endpoints=self.unhealthy_endpoints,
        )


# ---- snapshots ----------------------------------------------------------------------------------------------------


class MetricsSnapshot(msgspec.Struct, frozen=True):
    """The counts of one worker, or of several merged. Goes through `msgspec.msgpack` unchanged.

    `tables` says how many workers route by which table; `table_age_s` is how long ago the worker that waited longest
    applied its. `unhealthy_endpoints` is that of the worker that sees most of them: they look at the same ones.
    """

    # counters
    routes: dict[RouteLabels, RouteStats] = {}
    upstreams: dict[UpstreamLabels, UpstreamStats] = {}
    streams: dict[StreamLabels, StreamStats] = {}
    tallies: dict[TallyLabels, float] = {}
    connections_accepted: int = 0
    upstream_connections_opened: int = 0
    upstream_connections_reused: int = 0
    access_log_dropped: int = 0
    # gauges
    requests_in_flight: int = 0
    connections_open: int = 0
    tls_connections_open: int = 0
    tunnels_open: int = 0
    tables: dict[str, int] = {}
    table_age_s: float = 0.0
    unhealthy_endpoints: dict[UpstreamLabels, int] = {}

    def without_gauges(self) -> "MetricsSnapshot":
        """What remains of a worker that is gone."""
        streams = {labels: replace(stats, open=0) for labels, stats in self.streams.items()}
        return msgspec.structs.replace(
            self,
            streams=streams,
            requests_in_flight=0,
            connections_open=0,
            tls_connections_open=0,
            tunnels_open=0,
            tables={},
            table_age_s=0.0,
            unhealthy_endpoints={},
        )


_decoder = msgspec.msgpack.Decoder(MetricsSnapshot)


def decode_snapshot(data: bytes) -> MetricsSnapshot:
    """The inverse of `WorkerMetrics.encode`. Raise msgspec.DecodeError for anything else."""
    return _decoder.decode(data)


def merge(snapshots: Iterable[MetricsSnapshot]) -> MetricsSnapshot:
    """The sum: counters, histograms and gauges added; `table_age_s` and `unhealthy_endpoints` the greatest. Of none: all zero. The arguments
    are not changed, but the result may share their stats.
    """
    parts = tuple(snapshots)
    routes: dict[RouteLabels, RouteStats] = {}
    upstreams: dict[UpstreamLabels, UpstreamStats] = {}
    streams: dict[StreamLabels, StreamStats] = {}
    tables: dict[str, int] = {}
    tallies: dict[TallyLabels, float] = {}
    unhealthy: dict[UpstreamLabels, int] = {}
    for part in parts:
        for route, stats in part.routes.items():
            routes[route] = routes[route] + stats if route in routes else stats
        for upstream, counts in part.upstreams.items():
            upstreams[upstream] = upstreams[upstream] + counts if upstream in upstreams else counts
        for stream, flows in part.streams.items():
            streams[stream] = streams[stream] + flows if stream in streams else flows
        tables = _sum(tables, part.tables)
        for labels, value in part.tallies.items():
            tallies[labels] = tallies.get(labels, 0) + value
        for service, count in part.unhealthy_endpoints.items():
            unhealthy[service] = max(count, unhealthy.get(service, 0))
    return MetricsSnapshot(
        routes=routes,
        upstreams=upstreams,
        streams=streams,
        tallies=tallies,
        connections_accepted=sum(p.connections_accepted for p in parts),
        upstream_connections_opened=sum(p.upstream_connections_opened for p in parts),
        upstream_connections_reused=sum(p.upstream_connections_reused for p in parts),
        access_log_dropped=sum(p.access_log_dropped for p in parts),
        requests_in_flight=sum(p.requests_in_flight for p in parts),
        connections_open=sum(p.connections_open for p in parts),
        tls_connections_open=sum(p.tls_connections_open for p in parts),
        tunnels_open=sum(p.tunnels_open for p in parts),
        tables=tables,
        table_age_s=max((p.table_age_s for p in parts), default=0.0),
        unhealthy_endpoints=unhealthy,
    )


class MetricsAggregate:
    """The parent's view over all workers, live and gone.

    A worker is any hashable that names one life of one process and is never used again (a counter, or index and start
    number; not a bare pid, which the kernel reuses).
    """

    __slots__ = ("_gone", "_live", "_retired")

    def __init__(self) -> None:
        self._live: dict[Hashable, MetricsSnapshot] = {}
        self._gone: set[Hashable] = set()
        self._retired = MetricsSnapshot()

    def update(self, worker: Hashable, snapshot: MetricsSnapshot) -> None:
        """The latest of a live worker, in place of the one before. A late one of a worker that was removed is
        ignored: its counters are in the total already.
        """
        if worker not in self._gone:
            self._live[worker] = snapshot

    def remove(self, worker: Hashable) -> None:
        """The worker is gone: the counters of its last snapshot stay in the sum for good. What it counted after that
        is lost.
        """
        self._gone.add(worker)
        last = self._live.pop(worker, None)
        if last is not None:
            self._retired = merge((self._retired, last.without_gauges()))

    def merged(self) -> MetricsSnapshot:
        return merge((self._retired, *self._live.values()))


# ---- what the controller knows ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """A source of objects. `last_sync_time_s` is wall clock (Unix); None before the first. `error`: what the last attempt to read it met,
    in one line; may be set while `ok`.
    """

    name: str
    ok: bool
    last_sync_time_s: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a replica writes to its cluster. `leader` is the holder of the Lease, empty while nobody is known to be; counts are
    by result: `ok`, `failed`, `dropped`.
    """

    is_leader: bool = False
    leader: str = ""
    addresses: int = 0  # published ones
    status_writes: Mapping[str, int] = field(default_factory=dict)
    status_pending: int = 0
    events: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ControllerFacts:
    """What the parent knows without asking a worker."""

    table_id: str = ""
    table_age_s: float = 0.0  # since the controller published it
    hosts: int = 0
    routes: int = 0
    upstreams: int = 0
    endpoints: int = 0
    verdicts: Mapping[tuple[str, str], int] = field(default_factory=dict)  # by (reason, severity)
    workers_wanted: int = 0
    workers_live: int = 0
    worker_restarts: int = 0
    sources: tuple[SourceFacts, ...] = ()
    cluster: ClusterFacts | None = None  # None: standalone
    config_errors: int = 0  # times a source or setting was unreadable and the last good one stayed in service
    certificates: tuple[CertificateUse, ...] = ()  # in use, by host


@dataclass(frozen=True, slots=True)
class TableCounts:
    hosts: int
    routes: int
    upstreams: int
    endpoints: int


def count_table(table: RoutingTable) -> TableCounts:
    """Sizes of a table; default backends are not counted as routes."""
    return TableCounts(
        hosts=len(table.hosts),
        routes=sum(len(host.routes) for host in table.hosts.values()),
        upstreams=len(table.upstreams),
        endpoints=sum(len(upstream.endpoints) for upstream in table.upstreams.values()),
    )


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], int]:
    """By (reason, severity)."""
    return dict(Counter((v.reason.value, v.severity.value) for v in verdicts))


# ---- exposition ---------------------------------------------------------------------------------------------------

CONTENT_TYPE_TEXT = "text/plain; version=0.0.4; charset=utf-8"
CONTENT_TYPE_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_UPSTREAM = ("namespace", "service")
_STREAM = ("namespace", "service", "port")
_CERTIFICATE = ("host", "secret_name", "namespace", "identifier")  # the last tells two certificates of one host apart
_LE = (*(f'{bound}"}} ' for bound in BUCKET_BOUNDS_S), '+Inf"} ')  # end of a bucket line, up to its value


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _labelled(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


class MetricsCollector(Collector):
    """All families of one scrape but those by route (`route_families` writes these)."""

    def __init__(self, snapshot: MetricsSnapshot, facts: ControllerFacts) -> None:
        self._snapshot = snapshot
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "aioingress_build",
            "Version of the controller and of its interpreter.",
            value={"version": __version__, "python": platform.python_version()},
        )
        yield from self._traffic()
        yield from self._upstreams()
        yield from self._features()
        yield from self._connections()
        yield from self._streams()
        yield from self._table()
        yield from self._controller()

    def _traffic(self) -> Iterator[Metric]:
        yield _gauge(
            "aioingress_requests_in_flight",
            "Requests received and not answered yet.",
            self._snapshot.requests_in_flight,
        )

    def _upstreams(self) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "aioingress_upstream_failures",
            "Tries that failed, by reason; a request may fail more than once.",
            labels=(*_UPSTREAM, "reason"),
        )
        retries = CounterMetricFamily(
            "aioingress_upstream_retries",
            "Requests sent again, to another endpoint where there is one.",
            labels=_UPSTREAM,
        )
        ejections = CounterMetricFamily(
            "aioingress_upstream_ejections", "Endpoints left out of the balancing after failures.", labels=_UPSTREAM
        )
        for labels, counts in sorted(self._snapshot.upstreams.items()):
            for reason, count in sorted(counts.failures.items()):
                failures.add_metric((*labels, reason), count)
            retries.add_metric(labels, counts.retries)
            ejections.add_metric(labels, counts.ejections)
        yield failures
        yield retries
        yield ejections
        yield _counter(
            "aioingress_upstream_connections_opened",
            "Connections opened to endpoints.",
            self._snapshot.upstream_connections_opened,
        )
        yield _counter(
            "aioingress_upstream_connections_reused",
            "Requests sent on a connection that had served one before.",
            self._snapshot.upstream_connections_reused,
        )

    def _features(self) -> Iterator[Metric]:
        for name, (text, labels) in TALLIES.items():
            family = CounterMetricFamily(name, text, labels=labels)
            for (_, *values), value in sorted(x for x in self._snapshot.tallies.items() if x[0][0] == name):
                family.add_metric(values, value)
            yield family

    def _connections(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield _labelled(
            "aioingress_connections",
            "Client connections that are open.",
            ("state",),
            [(("active",), snapshot.connections_open)],
        )
        yield _counter("aioingress_connections_accepted", "Client connections accepted.", snapshot.connections_accepted)
        yield _gauge(
            "aioingress_tls_connections", "Open client connections that came by TLS.", snapshot.tls_connections_open
        )
        yield _gauge("aioingress_tunnels", "Open connections that were upgraded (WebSocket).", snapshot.tunnels_open)
        yield _counter(
            "aioingress_access_log_dropped",
            "Access log lines dropped because their reader was too slow.",
            snapshot.access_log_dropped,
        )

    def _streams(self) -> Iterator[Metric]:
        families: tuple[CounterMetricFamily | GaugeMetricFamily, ...] = (
            CounterMetricFamily("aioingress_stream_connections", "Connections relayed as they are.", labels=_STREAM),
            CounterMetricFamily(
                "aioingress_stream_refused", "Of them, those that no endpoint could be found for.", labels=_STREAM
            ),
            CounterMetricFamily("aioingress_stream_received_bytes", "From clients; of ended ones.", labels=_STREAM),
            CounterMetricFamily("aioingress_stream_sent_bytes", "To clients; of ended ones.", labels=_STREAM),
            GaugeMetricFamily("aioingress_streams", "Relayed connections that are open.", labels=_STREAM),
        )
        for labels, counts in sorted(self._snapshot.streams.items()):
            values = (counts.opened, counts.refused, counts.received_bytes, counts.sent_bytes, counts.open)
            for family, value in zip(families, values, strict=True):
                family.add_metric(labels, value)
        yield from families

    def _table(self) -> Iterator[Metric]:
        facts, snapshot = self._facts, self._snapshot
        table = InfoMetricFamily("aioingress_table", "The routing table that the controller published last.", labels=())
        if facts.table_id:
            table.add_metric((), {"id": facts.table_id})
        yield table
        yield _gauge("aioingress_table_age_seconds", "Time since the routing table was published.", facts.table_age_s)
        yield _labelled(
            "aioingress_worker_tables",
            "Live workers by the routing table that they route by.",
            ("id",),
            [((table_id,), workers) for table_id, workers in sorted(snapshot.tables.items())],
        )
        yield _gauge(
            "aioingress_worker_table_age_seconds",
            "Time since the worker that waited longest applied a table.",
            snapshot.table_age_s,
        )
        yield _labelled(
            "aioingress_unhealthy_endpoints",
            "Endpoints that active health checks find unhealthy, as the worker has it that finds most so.",
            ("namespace", "service"),
            sorted(snapshot.unhealthy_endpoints.items()),
        )
        yield _gauge("aioingress_hosts", "Host patterns in the routing table.", facts.hosts)
        yield _gauge("aioingress_routes", "Routes in the routing table.", facts.routes)
        yield _gauge("aioingress_upstreams", "Upstreams in the routing table.", facts.upstreams)
        yield _gauge("aioingress_endpoints", "Endpoints of all upstreams in the routing table.", facts.endpoints)

    def _controller(self) -> Iterator[Metric]:
        facts = self._facts
        yield _labelled(
            "aioingress_verdicts",
            "Objects, rules and fields not taken as written, at present.",
            ("reason", "severity"),
            sorted(facts.verdicts.items()),
        )
        yield _labelled(
            "aioingress_workers",
            "Worker processes.",
            ("state",),
            [(("wanted",), facts.workers_wanted), (("live",), facts.workers_live)],
        )
        yield _counter(
            "aioingress_worker_restarts", "Workers started in place of one that died.", facts.worker_restarts
        )
        yield _labelled(
            "aioingress_source_up",
            "1 while the source of objects can be read, else 0 (the last good state stays in service).",
            ("source",),
            [((source.name,), float(source.ok)) for source in facts.sources],
        )
        yield _labelled(
            "aioingress_source_last_sync_timestamp_seconds",
            "Unix time of the last complete read of the source.",
            ("source",),
            [((s.name,), s.last_sync_time_s) for s in facts.sources if s.last_sync_time_s is not None],
        )
        yield _counter(
            "aioingress_config_errors",
            "Times that a source or setting was unusable and the last good one stayed in service.",
            facts.config_errors,
        )
        yield from self._certificates(facts.certificates)
        if facts.cluster is not None:
            yield from self._cluster(facts.cluster)

    def _certificates(self, uses: Sequence[CertificateUse]) -> Iterator[Metric]:
        """By host of an Ingress; the default certificate as ingress-nginx names its host."""
        expiry = GaugeMetricFamily(
            "aioingress_ssl_expire_time_seconds",
            "Unix time when the certificate of a host expires.",
            labels=_CERTIFICATE,
        )
        info = InfoMetricFamily("aioingress_ssl_certificate", "The certificate of a host.", labels=_CERTIFICATE)
        for use in uses:
            facts = use.facts
            labels = (use.host or "_", use.secret.name, use.secret.namespace, str(facts.serial_number))
            expiry.add_metric(labels, facts.not_after.timestamp())
            info.add_metric(
                labels,
                {
                    "issuer_common_name": facts.issuer_common_name,
                    "issuer_organization": facts.issuer_organization,
                    "serial_number": str(facts.serial_number),
                    "public_key_algorithm": facts.key_algorithm,
                },
            )
        yield expiry
        yield info

    def _cluster(self, facts: ClusterFacts) -> Iterator[Metric]:
        yield _gauge("aioingress_leader", "1 while this replica is the leader, else 0.", float(facts.is_leader))
        yield _gauge(
            "aioingress_published_addresses", "Addresses that go into the status of Ingresses.", facts.addresses
        )
        yield _gauge(
            "aioingress_status_pending", "Ingresses whose status is still to be written.", facts.status_pending
        )
        for name, text, counts in (
            ("aioingress_status_writes", "Writes of the status of an Ingress, by result.", facts.status_writes),
            ("aioingress_events", "Events about verdicts, by result.", facts.events),
        ):
            family = CounterMetricFamily(name, text, labels=("result",))
            for result, count in sorted(counts.items()):
                family.add_metric((result,), count)
            yield family


def _escape(value: str) -> str:
    """A label value, as both formats want it."""
    if '"' in value or "\\" in value or "\n" in value:
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return value


def route_families(routes: Mapping[RouteLabels, RouteStats], *, openmetrics: bool = False) -> str:
    """The families by route, as text, in the order of their labels.

    Written here rather than by prometheus_client, because these are the only ones that grow: 10,000 routes with
    traffic are 170,000 lines, for which its generators need 2 s and this 0.15 s. The rest goes through
    `MetricsCollector`.
    """
    requests, duration, received, sent = [], [], [], []
    for labels in sorted(routes):
        counts = routes[labels]
        namespace, ingress, service, port = map(_escape, labels)
        names = f'namespace="{namespace}",ingress="{ingress}",service="{service}",port="{port}"'
        requests += [
            f'aioingress_requests_total{{{names},status="{status}"}} {count}\n'
            for status, count in sorted(counts.statuses.items())
        ]
        prefix = f'aioingress_request_duration_seconds_bucket{{{names},le="'
        total = 0
        for le, count in zip(_LE, counts.buckets, strict=True):
            total += count
            duration.append(f"{prefix}{le}{total}\n")
        duration.append(
            f"aioingress_request_duration_seconds_count{{{names}}} {total}\n"
            f"aioingress_request_duration_seconds_sum{{{names}}} {counts.duration_sum_s!r}\n"
        )
        received.append(f"aioingress_request_bytes_total{{{names}}} {counts.request_bytes}\n")
        sent.append(f"aioingress_response_bytes_total{{{names}}} {counts.response_bytes}\n")
    total_suffix = "" if openmetrics else "_total"  # OpenMetrics names the family, the classic text its samples
    parts: list[str] = []
    for name, kind, text, lines in (
        ("aioingress_requests", "counter", "Requests answered; labels are empty where no rule matched.", requests),
        ("aioingress_request_duration_seconds", "histogram", "First byte of request to last of response.", duration),
        ("aioingress_request_bytes", "counter", "Bodies of requests, as received.", received),
        ("aioingress_response_bytes", "counter", "Bodies of responses, as sent.", sent),
    ):
        full = name + total_suffix if kind == "counter" else name
        parts.append(f"# HELP {full} {text}\n# TYPE {full} {kind}\n")
        parts += lines
    return "".join(parts)


def accepts_openmetrics(accept: str) -> bool:
    """Whether an Accept value names OpenMetrics. Prometheus asks for it by name; a wildcard gets the classic text."""
    for item in accept[:1024].split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        if media == "application/openmetrics-text":
            return not any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
    return False


def render(snapshot: MetricsSnapshot, facts: ControllerFacts, accept: str = "") -> tuple[str, bytes]:
    """(content type, text) of one scrape. 10 to 20 us a label set: run it in a thread when there may be thousands.

    The format is chosen here, not by prometheus_client's `choose_encoder`: that one lets the client pick versions and
    escaping schemes, and repeats what it was sent in the content type.
    """
    collector = MetricsCollector(snapshot, facts)
    if accepts_openmetrics(accept):
        text = generate_openmetrics(collector)  # type: ignore[no-untyped-call]
        return CONTENT_TYPE_OPENMETRICS, route_families(snapshot.routes, openmetrics=True).encode() + text
    return CONTENT_TYPE_TEXT, route_families(snapshot.routes).encode() + generate_latest(collector)
