"""What every balancing algorithm sees and offers. Sans-IO: `now` and `rng` are arguments.

An `EndpointState` is the live side of a `routing.table.Endpoint`: it outlives tables (`proxy.upstream_runtime` keeps it while some table names
the endpoint), and is shared by all pickers that were built over it. A `Picker` is built anew when an upstream's usable
endpoints change (table swap, ejection, readmission), so that `pick` itself has nothing to filter.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

from ingress.routing.table import Endpoint


class EndpointState:
    """Live state of one endpoint of one upstream. Times are seconds of a monotonic clock."""

    __slots__ = (
        "consecutive_failures",
        "contrary_checks",
        "ejected_until",
        "ejections",
        "endpoint",
        "ewma_at",
        "ewma_s",
        "healthy",
        "inflight",
        "key",
        "pool",
        "reached",
        "shunned",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.key = (
            f"[{endpoint.address}]:{endpoint.port}"
            if ":" in endpoint.address
            else f"{endpoint.address}:{endpoint.port}"
        )
        self.inflight = 0  # requests sent and not finished, of this process
        self.ewma_s = 0.0  # peak EWMA of the time to response headers
        self.ewma_at = 0.0
        self.consecutive_failures = 0
        self.ejections = 0  # how often in a row: the next ejection lasts longer
        self.ejected_until = 0.0
        self.healthy = True  # what active checks say; a new endpoint is trusted until they fail
        self.contrary_checks = 0  # results in a row that speak against `healthy`
        self.shunned = False  # unhealthy, while others are not: left out of the pickers
        self.reached = False  # a connection to it was made once
        self.pool: Any = None  # the data plane's connection pool to it; set by proxy.upstream_runtime

    def __repr__(self) -> str:
        return f"<EndpointState {self.key} inflight={self.inflight}>"


class Picker(Protocol):
    """`pick` is on the hot path: no allocation, O(1) or O(log n)."""

    def pick(self, now: float, key: int) -> EndpointState:
        """The endpoint for a request. `key` is a 64-bit hash for algorithms that are keyed, ignored by the others."""

    def pick_other(self, now: float, key: int, tried: Sequence[EndpointState]) -> EndpointState | None:
        """The next-best endpoint that is not in `tried`; None when all were tried."""


PickerFactory = Callable[[Sequence[EndpointState], Random], Picker]
"""Called with at least one endpoint, in a stable order (sorted by key)."""
