"""The routing table: what `translate` produces, what travels to the workers, what `proxy.link` binds to live things.

Pure data: comparable, printable, serialisable with msgspec. `RoutingTable.hosts` maps a host pattern to its routes; a
`TableDelta` turns one table into the next without resending what did not change.
"""

import enum
from typing import NewType

import msgspec

HostPattern = NewType("HostPattern", str)
"""Lower case, no port: `foo.com` (exact), `*.foo.com` (one leftmost label), or `""` (any host)."""

UpstreamKey = NewType("UpstreamKey", str)
"""`namespace/service:port`, with `#digest` behind it when an Ingress asks for its own balancing or affinity."""

ANY_HOST = HostPattern("")


class PathType(enum.StrEnum):
    EXACT = "Exact"
    PREFIX = "Prefix"


class LoadBalance(enum.StrEnum):
    ROUND_ROBIN = "round_robin"
    LEAST_REQUEST = "least_request"  # the less loaded of two random choices
    EWMA = "ewma"  # peak EWMA of latency, two random choices
    CONSISTENT_HASH = "consistent_hash"  # of `Balancing.hash_key`


class AffinityMode(enum.StrEnum):
    NONE = "none"
    CLIENT_IP = "client_ip"  # Service sessionAffinity
    COOKIE = "cookie"


class CookieMode(enum.StrEnum):
    BALANCED = "balanced"  # hash of a random key: some sessions move on scale-up
    PERSISTENT = "persistent"  # the cookie names the endpoint: never moves while it lives


class HashVariable(enum.StrEnum):
    """The parts of a request that a hash key can name (nginx variable names)."""

    TEXT = "text"
    REQUEST_URI = "request_uri"
    URI = "uri"
    HOST = "host"
    REMOTE_ADDR = "remote_addr"
    REQUEST_METHOD = "request_method"
    ARGS = "args"
    HTTP = "http"  # argument: header name with - as _
    COOKIE = "cookie"
    ARG = "arg"


class HashPart(msgspec.Struct, frozen=True):
    variable: HashVariable
    argument: str = ""  # the text, or the name of the header, cookie or query argument


class CookieAffinity(msgspec.Struct, frozen=True):
    name: str = "INGRESSCOOKIE"
    mode: CookieMode = CookieMode.BALANCED
    path: str = ""  # empty: the path of the matched route
    domain: str = ""
    same_site: str = ""  # "", None, Lax, Strict
    max_age_s: int | None = None
    expires_s: int | None = None
    secure: bool | None = None  # None: iff the request was https
    change_on_failure: bool = False


class Balancing(msgspec.Struct, frozen=True):
    """How an upstream chooses among its endpoints."""

    load_balance: LoadBalance = LoadBalance.ROUND_ROBIN
    hash_key: tuple[HashPart, ...] = ()  # for CONSISTENT_HASH
    affinity: AffinityMode = AffinityMode.NONE
    client_ip_timeout_s: int = 10800
    cookie: CookieAffinity | None = None


class UpstreamProtocol(enum.StrEnum):
    HTTP = "http"
    HTTPS = "https"
    H2C = "h2c"
    GRPC = "grpc"


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """One address that answers. `address` is a textual IP (v4 or v6, no brackets)."""

    address: str
    port: int


class Upstream(msgspec.Struct, frozen=True):
    """A set of endpoints behind one Service port. `endpoints` is sorted and free of duplicates."""

    key: UpstreamKey
    namespace: str
    service: str
    port: str  # the Service port as the Ingress names it (number or name)
    endpoints: tuple[Endpoint, ...] = ()
    balancing: Balancing = Balancing()
    protocol: UpstreamProtocol = UpstreamProtocol.HTTP


class RetryOn(enum.StrEnum):
    ERROR = "error"
    TIMEOUT = "timeout"
    INVALID_HEADER = "invalid_header"
    HTTP_500 = "http_500"
    HTTP_502 = "http_502"
    HTTP_503 = "http_503"
    HTTP_504 = "http_504"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_429 = "http_429"
    NON_IDEMPOTENT = "non_idempotent"


class TrafficPolicy(msgspec.Struct, frozen=True):
    """Limits and timeouts of a route, every field set. Defaults are those of ingress-nginx. Shared by equal routes."""

    connect_timeout_s: float = 5.0
    send_timeout_s: float = 60.0  # between two writes to the upstream
    read_timeout_s: float = 60.0  # between two reads from the upstream, also on upgraded connections
    body_limit_bytes: int = 1 << 20  # 0: no limit
    retry_on: tuple[RetryOn, ...] = (RetryOn.ERROR, RetryOn.TIMEOUT)  # empty: never
    retry_tries: int = 3  # including the first; 0: as many as there are endpoints
    retry_timeout_s: float = 0.0  # 0: no limit over all tries


class Route(msgspec.Struct, frozen=True):
    """One path of one host. `path` is normalised (`routing.path.normalize`) and starts with `/`."""

    host: HostPattern
    path: str
    path_type: PathType
    namespace: str
    ingress: str  # name; empty for the controller's own default backend
    service: str
    port: str
    upstream: UpstreamKey | None  # None: answer `closed_status`
    policy: TrafficPolicy = TrafficPolicy()
    closed_status: int = 503  # with upstream None: 503 (missing Service, rejected access rule)
    closed_reason: str = ""

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.ingress}:{self.host or '*'}{self.path}:{self.path_type}"


class HostRoutes(msgspec.Struct, frozen=True):
    """All routes of one host pattern, plus what answers on this host when no path matches.

    A host that exists but has no matching path never falls through to a wildcard or the empty host (ingress-nginx builds one
    server per host): it gets `default`, or else the table's default backend, or else 404.
    """

    host: HostPattern
    routes: tuple[Route, ...]
    default: Route | None = None


class RoutingTable(msgspec.Struct, frozen=True):
    """`default` answers for unknown hosts and for hosts without an own default; None: built-in 404."""

    id: str = ""  # short digest of the content: equal content, equal id
    hosts: dict[HostPattern, HostRoutes] = {}
    upstreams: dict[UpstreamKey, Upstream] = {}
    default: Route | None = None


class TableDelta(msgspec.Struct, frozen=True, tag=True):
    """From table `base` to table `id`. Applied by `apply_delta`; a receiver at another base asks for the full table."""

    base: str
    id: str
    hosts: dict[HostPattern, HostRoutes] = {}
    removed_hosts: tuple[HostPattern, ...] = ()
    upstreams: dict[UpstreamKey, Upstream] = {}
    removed_upstreams: tuple[UpstreamKey, ...] = ()
    default: Route | None = None
    default_changed: bool = False


def diff_tables(old: RoutingTable, new: RoutingTable) -> TableDelta:
    """The delta from `old` to `new`; unchanged hosts and upstreams are recognised by identity first, then by value."""
    old_hosts, old_upstreams = old.hosts, old.upstreams
    return TableDelta(
        base=old.id,
        id=new.id,
        hosts={k: v for k, v in new.hosts.items() if (o := old_hosts.get(k)) is not v and o != v},
        removed_hosts=tuple(k for k in old_hosts if k not in new.hosts),
        upstreams={k: v for k, v in new.upstreams.items() if (u := old_upstreams.get(k)) is not v and u != v},
        removed_upstreams=tuple(k for k in old_upstreams if k not in new.upstreams),
        default=new.default,
        default_changed=old.default != new.default,
    )


def apply_delta(table: RoutingTable, delta: TableDelta) -> RoutingTable:
    """Raise ValueError when `delta` was made against another table."""
    if delta.base != table.id:
        raise ValueError(f"delta is against table {delta.base!r}, this is {table.id!r}")
    hosts = dict(table.hosts)
    for host in delta.removed_hosts:
        hosts.pop(host, None)
    hosts.update(delta.hosts)
    upstreams = dict(table.upstreams)
    for key in delta.removed_upstreams:
        upstreams.pop(key, None)
    upstreams.update(delta.upstreams)
    default = delta.default if delta.default_changed else table.default
    return RoutingTable(id=delta.id, hosts=hosts, upstreams=upstreams, default=default)
