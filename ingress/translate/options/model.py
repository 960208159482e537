"""What the options ConfigMap comes to for everything that is translated. What the workers need of it travels in `RoutingTable.settings`."""

import enum
from dataclasses import dataclass, field

from ingress.config import ProxySettings
from ingress.routing.table import LoadBalance, TrafficPolicy


class Risk(enum.IntEnum):
    """What an annotation may do to others than its author, as ingress-nginx rates it."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Options:
    """Every field set; the defaults are those of ingress-nginx. `traffic` holds what annotations of single Ingresses override."""

    traffic: TrafficPolicy = field(default_factory=TrafficPolicy)
    proxy: ProxySettings | None = None  # None: as the process was started
    allow_cross_namespace_resources: bool = False
    load_balance: LoadBalance = LoadBalance.ROUND_ROBIN
    retry_non_idempotent: bool = False  # whatever an annotation says about retries
    service_upstream: bool = False
    risk_limit: Risk = Risk.HIGH  # annotations above it close the routes of their Ingress
    blocked_words: tuple[str, ...] = ()  # so do annotations whose value has one of these
    strict_paths: bool = False  # warn of Exact and Prefix paths with unusual characters
    allowed_response_headers: tuple[str, ...] = ()  # lower case; what the annotation custom-headers may set
    disable_ipv6_dns: bool = False  # ExternalName hosts by their IPv4 addresses only


DEFAULT_OPTIONS = Options()
