"""What a worker counts, and how the counts of all workers become one.

Three stages, each plain data:

- In a worker (one thread, on the hot path): `WorkerMetrics` hands out `RouteStats` and `UpstreamStats`, which the
  data plane binds once per table and then only increments. `encode()` writes them as a `MetricsSnapshot` in msgpack.
- In the parent: `MetricsAggregate` keeps the latest snapshot of every live worker and the final counters of the dead
  ones, so that no counter ever falls when a worker is replaced. Gauges of a dead worker vanish with it.
- At a scrape: `exposition.render` writes the text, from the merged snapshot and the controller's own facts.

Label sets are (namespace, ingress, service, port), never paths or anything a client can choose: the number of series
is bounded by the objects of the cluster times the statuses their upstreams send. Hosts appear with certificates only,
and only those of Ingresses. Names are listed in
docs/metrics.md.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec

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
