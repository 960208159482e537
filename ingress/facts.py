"""What the controller says about itself: its table, sources, workers and cluster, as plain data. For the metrics and the admin pages."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ingress.errors import Verdict
from ingress.routing.table import RoutingTable
from ingress.translate.tls.hosts import CertificateUse


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
