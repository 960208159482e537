"""How counts and facts are shown to Prometheus: `render(snapshot, facts, accept)` writes the text of one scrape, from the merged
snapshot of the workers and the controller's own facts. Names are listed in docs/metrics.md.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from ingress import __version__
from ingress.facts import ClusterFacts, ControllerFacts
from ingress.metrics import BUCKET_BOUNDS_S, TALLIES, MetricsSnapshot, RouteLabels, RouteStats
from ingress.translate.tls.hosts import CertificateUse

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
