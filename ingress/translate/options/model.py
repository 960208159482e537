"""What the options ConfigMap comes to for everything that is translated. What the workers need of it travels in `RoutingTable.settings`."""

from dataclasses import dataclass, field

from ingress.config import ProxySettings
from ingress.routing.table import TrafficPolicy


@dataclass(frozen=True, slots=True)
class Options:
    """Every field set; the defaults are those of ingress-nginx. `traffic` holds what annotations of single Ingresses override."""

    traffic: TrafficPolicy = field(default_factory=TrafficPolicy)
    proxy: ProxySettings | None = None  # None: as the process was started
    allow_cross_namespace_resources: bool = False


DEFAULT_OPTIONS = Options()
