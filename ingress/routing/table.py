"""The routing table: what `translate` produces, what travels to the workers, what `proxy.link` binds to live things.

Pure data: comparable, printable, serialisable with msgspec. `RoutingTable.hosts` maps a host pattern to its routes; a
`TableDelta` turns one table into the next without resending what did not change.
"""

import enum
from typing import Any, NewType

import msgspec

from ingress.config import ProxySettings
from ingress.routing.tls import Certificate, CertificateKey, TLSHost, UpstreamTLS
from ingress.routing.tls import HostPattern as HostPattern
from ingress.variables import Part

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
    conditional_same_site_none: bool = False  # no SameSite=None for browsers that mistake it for Strict


class Balancing(msgspec.Struct, frozen=True):
    """How an upstream chooses among its endpoints."""

    load_balance: LoadBalance = LoadBalance.ROUND_ROBIN
    hash_key: tuple[Part, ...] = ()  # for CONSISTENT_HASH
    affinity: AffinityMode = AffinityMode.NONE
    client_ip_timeout_s: int = 10800
    cookie: CookieAffinity | None = None
    hash_subset_size: int = (
        0  # of CONSISTENT_HASH: a key stands for so many endpoints, one of them at random; 0: for one
    )


class UpstreamProtocol(enum.StrEnum):
    HTTP = "http"
    HTTPS = "https"
    H2C = "h2c"
    GRPC = "grpc"
    AUTO_HTTP = "auto_http"  # HTTP or HTTPS, as the request came


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """One address that answers. `address` is a textual IP (v4 or v6, no brackets)."""

    address: str
    port: int


class HealthCheck(msgspec.Struct, frozen=True):
    """How the endpoints of a Service are asked whether they work (annotations `aioingress.io/health-check-*` of the Service)."""

    path: str  # request target
    method: str = "GET"
    host: str = ""  # sent as Host; empty: the endpoint's address and port
    port: int = 0  # 0: that of the endpoint
    interval_s: float = 10.0
    timeout_s: float = 2.0  # to connect, ask and get a status
    unhealthy_threshold: int = 3  # failures in a row
    healthy_threshold: int = 1  # successes in a row, of an endpoint that is unhealthy
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)  # that pass: ranges, both ends included


class Upstream(msgspec.Struct, frozen=True):
    """A set of endpoints behind one Service port. `endpoints` is sorted and free of duplicates."""

    key: UpstreamKey
    namespace: str
    service: str
    port: str  # the Service port as the Ingress names it (number or name)
    endpoints: tuple[Endpoint, ...] = ()
    balancing: Balancing = Balancing()
    protocol: UpstreamProtocol = UpstreamProtocol.HTTP
    tls: UpstreamTLS | None = None  # set where `protocol` is, or may be, spoken over TLS
    http_version: str = "1.1"  # 1.0: a connection a request, bodies with their length
    connection_header: str = ""  # sent instead of the proxy's own Connection: close, keep-alive
    health_check: HealthCheck | None = None


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
    # A body is taken in whole before an endpoint is asked, up to `request_buffer_bytes`; what is longer is streamed from there on.
    request_buffering: bool = True
    request_buffer_bytes: int = 1 << 20
    access_log: bool = True  # requests are logged


class Feature(msgspec.Struct, frozen=True):
    """What one middleware is to do on a route: its name in `middleware.registry`, and its policy as plain values (`msgspec.to_builtins`),
    because this layer knows no middleware. Routes of one Ingress share the object."""

    name: str
    policy: dict[str, Any]

    def __repr__(self) -> str:  # a policy may hold password hashes
        return f"Feature({self.name!r})"


APP_ROOT = "app-root"
WWW_REDIRECT = "www-redirect"
"""Names of the features that `translate` makes itself, because they are a host's and not an Ingress's."""


class Fallback(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who answers in place of a route's endpoints: the default backend (ingress-nginx's default-backend and custom-http-errors)."""

    statuses: tuple[int, ...] = ()  # sorted; such a response is dropped, and the default backend asked about it
    of_endpoints: bool = True  # also responses of endpoints, not only errors of our own
    upstreams: tuple[UpstreamKey, ...] = ()  # the first that has endpoints is asked
    stand_in: UpstreamKey | None = None  # gets the requests themselves while the route's upstream has no endpoints


class CanaryRule(msgspec.Struct, frozen=True):
    """Which requests of a route a canary gets, in the order of ingress-nginx: by header, by cookie, by weight.

    A header or cookie of value `always` chooses it, `never` rules it out, anything else is no answer. With `header_value`, or else
    `header_pattern` (RE2, searched for), the header chooses it by its value instead. `weight` is a share of `weight_total`, drawn for each request.
    `sticky`: sessions of the main route belong to one of the two, and stay there. `header_unusable`: what the value is to be compared with
    can't be used, so whoever sends the header stays with the main route.
    """

    header: str = ""
    header_value: str = ""
    header_pattern: str = ""
    cookie: str = ""
    weight: int = 0
    weight_total: int = 100
    sticky: bool = True
    header_unusable: bool = False


class Canary(msgspec.Struct, frozen=True):
    """`route` is the main one's but for Ingress, Service and upstream."""

    route: "Route"
    rule: CanaryRule


class Route(msgspec.Struct, frozen=True):
    """One path of one host. `path` is normalised (`routing.path.normalize`) and starts with `/`.

    On a host in regex mode `path` is as written, and `pattern` is what is matched (`routing.regex`); `path_type` means nothing there.
    """

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
    features: tuple[Feature, ...] = ()  # in the order in which they act
    pattern: str = ""  # regular expression, less its anchor; empty: `path` is matched by `path_type`
    canaries: tuple[Canary, ...] = ()  # in the order in which they are asked
    fallback: Fallback | None = None

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.ingress}:{self.host or '*'}{self.path}:{self.path_type}"


class HostRoutes(msgspec.Struct, frozen=True):
    """All routes of one host pattern, plus what answers on this host when no path matches.

    A host that exists but has no matching path never falls through to a wildcard or the empty host (ingress-nginx builds one
    server per host): it gets `default`, or else the table's default backend, or else 404.

    `regex_cause` not empty: the host is in regex mode, its routes have patterns and stand in order of precedence; it names the Ingress
    that asked for it.

    `features` act on every request for the host, besides those of its route, which win over one of the same name; `unmatched` win over
    them where no route and no `default` of the host takes the request. `certificate`: one is configured for the host, its own or a default one.
    """

    host: HostPattern
    routes: tuple[Route, ...]
    default: Route | None = None
    regex_cause: str = ""
    app_root: Route | None = None  # answers for `/` alone, before all others, in regex mode too
    twin_of: HostPattern = (
        ANY_HOST  # all its requests are redirected there (from-to-www-redirect); empty: it is no twin
    )
    certificate: bool = False
    features: tuple[Feature, ...] = ()
    unmatched: tuple[Feature, ...] = ()


class HostAlias(msgspec.Struct, frozen=True):
    """Another name of a host, with all its routes (ingress-nginx's server-alias). `pattern` is a host pattern, or `~` and a regular
    expression (RE2) that is searched for in the host of a request that no other pattern has.
    """

    pattern: HostPattern
    host: HostPattern
    rank: int = 0  # of those with `~`: the lowest is tried first
    certificate: bool = False  # the one of the host is for this name too


class TCPService(msgspec.Struct, frozen=True):
    """A port whose connections are relayed as they are (ingress-nginx's tcp-services ConfigMap)."""

    port: int
    upstream: UpstreamKey
    accept_proxy_protocol: bool = False  # clients announce themselves by it
    send_proxy_protocol: bool = False  # the endpoint is told by it


class RoutingTable(msgspec.Struct, frozen=True):
    """`default` answers for unknown hosts and for hosts without an own default; None: built-in 404.

    `settings` are the options that hold before a route is known. `default_certificate` is shown where no host of `tls_hosts` matches.
    """

    id: str = ""  # short digest of the content: equal content, equal id
    hosts: dict[HostPattern, HostRoutes] = {}
    upstreams: dict[UpstreamKey, Upstream] = {}
    default: Route | None = None
    certificates: dict[CertificateKey, Certificate] = {}
    tls_hosts: dict[HostPattern, TLSHost] = {}
    tcp_services: dict[int, TCPService] = {}
    default_certificate: CertificateKey | None = None
    settings: ProxySettings | None = None  # None: those that the process was started with
    aliases: dict[HostPattern, HostAlias] = {}


class TableDelta(msgspec.Struct, frozen=True, tag=True):
    """From table `base` to table `id`. Applied by `apply_delta`; a receiver at another base asks for the full table."""

    base: str
    id: str
    hosts: dict[HostPattern, HostRoutes] = {}
    removed_hosts: tuple[HostPattern, ...] = ()
    aliases: dict[HostPattern, HostAlias] = {}
    removed_aliases: tuple[HostPattern, ...] = ()
    upstreams: dict[UpstreamKey, Upstream] = {}
    removed_upstreams: tuple[UpstreamKey, ...] = ()
    certificates: dict[CertificateKey, Certificate] = {}
    removed_certificates: tuple[CertificateKey, ...] = ()
    tls_hosts: dict[HostPattern, TLSHost] = {}
    removed_tls_hosts: tuple[HostPattern, ...] = ()
    tcp_services: dict[int, TCPService] = {}
    removed_tcp_services: tuple[int, ...] = ()
    default: Route | None = None
    default_changed: bool = False
    default_certificate: CertificateKey | None = None
    default_certificate_changed: bool = False
    settings: ProxySettings | None = None
    settings_changed: bool = False


_MAPPINGS = ("hosts", "aliases", "upstreams", "certificates", "tls_hosts", "tcp_services")


def diff_tables(old: RoutingTable, new: RoutingTable) -> TableDelta:
    """The delta from `old` to `new`; what is unchanged is recognised by identity first, then by value."""
    changes: dict[str, Any] = {}
    for name in _MAPPINGS:
        before, after = getattr(old, name), getattr(new, name)
        if before is not after:
            changes[name] = {k: v for k, v in after.items() if (o := before.get(k)) is not v and o != v}
            changes[f"removed_{name}"] = tuple(k for k in before if k not in after)
    return TableDelta(
        base=old.id,
        id=new.id,
        default=new.default,
        default_changed=old.default != new.default,
        default_certificate=new.default_certificate,
        default_certificate_changed=old.default_certificate != new.default_certificate,
        settings=new.settings,
        settings_changed=old.settings != new.settings,
        **changes,
    )


def apply_delta(table: RoutingTable, delta: TableDelta) -> RoutingTable:
    """Raise ValueError when `delta` was made against another table."""
    if delta.base != table.id:
        raise ValueError(f"delta is against table {delta.base!r}, this is {table.id!r}")
    content: dict[str, Any] = {}
    for name in _MAPPINGS:
        mapping = getattr(table, name)
        changed, removed = getattr(delta, name), getattr(delta, f"removed_{name}")
        if changed or removed:
            mapping = dict(mapping)
            for key in removed:
                mapping.pop(key, None)
            mapping.update(changed)
        content[name] = mapping
    return RoutingTable(
        id=delta.id,
        default=delta.default if delta.default_changed else table.default,
        default_certificate=(
            delta.default_certificate if delta.default_certificate_changed else table.default_certificate
        ),
        settings=delta.settings if delta.settings_changed else table.settings,
        **content,
    )
