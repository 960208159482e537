"""What the admin listener may ask the application."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ingress.errors import Verdict
from ingress.facts import ControllerFacts
from ingress.metrics import MetricsSnapshot
from ingress.routing.table import RoutingTable


class Probe(NamedTuple):
    """`reason` says in one line why not; it may be empty when `ok`."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AdminView:
    """Callables, called on the loop, cheap, and never raising. They read the present; none changes anything.

    `health`: not ok when no worker is alive (a restart may help). `readiness`: ok after the first sync, once the
    wanted workers have applied a table, until draining begins. `metrics_snapshot`: merged over the workers, dead ones
    included; it should answer with what it has when a worker is silent. `table` and `verdicts` come from the same
    build.
    """

    health: Callable[[], Probe]
    readiness: Callable[[], Probe]
    metrics_snapshot: Callable[[], Awaitable[MetricsSnapshot]]
    table: Callable[[], RoutingTable]
    verdicts: Callable[[], Sequence[Verdict]]
    facts: Callable[[], ControllerFacts]
