"""Settings: what flags and environment decide, typed, with units in the names. Parsed in `cli`, read everywhere."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingress.errors import ConfigError

CONTROLLER_NAME = "aioingress.io/ingress-controller"
DEFAULT_CLASS = "aioingress"
OWN_ANNOTATIONS = "aioingress.io"
NGINX_ANNOTATIONS = "nginx.ingress.kubernetes.io"
NGINX_CLASS = "nginx"
NGINX_CONTROLLER_NAME = "k8s.io/ingress-nginx"


@dataclass(frozen=True, slots=True)
class Address:
    """A listening address; IPv6 hosts are written in brackets (`[::]:8080`)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raise ConfigError for anything but `IP:PORT`, `[IPv6]:PORT`, `:PORT`, `localhost:PORT`."""
        host, sep, port = text.rpartition(":")
        if not sep or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise ConfigError(f"{text!r} is not an address: expected IP:PORT, such as 0.0.0.0:8080 or [::]:8080")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ConfigError(f"{text!r} is not an address: write IPv6 as [{host}]:{port}")
        if host == "":
            host = "0.0.0.0"
        elif host == "localhost":
            host = "127.0.0.1"
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ConfigError(f"{text!r} is not an address: {host!r} is not an IP") from None
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def overlaps(self, other: "Address") -> bool:
        """Whether both would accept the same connections. Port 0 (any free port) overlaps nothing, IPv6 never takes IPv4's.

        Worth knowing beforehand: with SO_REUSEPORT the kernel lets two listeners share a port without an error.
        """
        if self.port != other.port or self.port == 0:
            return False
        mine, theirs = ipaddress.ip_address(self.host), ipaddress.ip_address(other.host)
        return mine.version == theirs.version and (mine == theirs or mine.is_unspecified or theirs.is_unspecified)


def annotation_prefixes(name: str = NGINX_ANNOTATIONS) -> tuple[str, ...]:
    """Prefixes of the annotations that are read, with their slash, in order of precedence: ours, then `name`."""
    return tuple(dict.fromkeys((f"{OWN_ANNOTATIONS}/", f"{name}/")))


@dataclass(frozen=True, slots=True)
class ClassSettings:
    """Which Ingresses are ours.

    `ingress_class` None and `controller_class` None (neither flag set) in standalone mode: no class, `aioingress` and `nginx`.
    `take_over_nginx` adds the classes of ingress-nginx to whatever the flags say.
    """

    ingress_class: str | None = None
    controller_class: str | None = None
    watch_without_class: bool = False
    standalone: bool = True
    by_name: bool = False  # a class without a readable IngressClass object counts by its name
    take_over_nginx: bool = False


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """Towards clients, for hosts that don't say otherwise. Defaults are those of ingress-nginx."""

    protocols: tuple[str, ...] = ("TLSv1.2", "TLSv1.3")
    # OpenSSL's list, for TLS 1.2 and older; those of 1.3 are all on, as in nginx
    ciphers: str = (
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384"
    )
    prefer_server_ciphers: bool = True
    session_tickets: bool = False
    session_timeout_s: float = 600.0
    reject_unknown_hosts: bool = False  # ssl-reject-handshake: no certificate for a name that no Ingress has
    handshake_timeout_s: float = 60.0  # nginx: client_header_timeout
    alpn: tuple[str, ...] = ("http/1.1",)  # what is offered, best first


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Who may say for whom it speaks (docs/client-address.md). Defaults are those of ingress-nginx: nobody is asked.

    With all of `forwarded_headers`, `real_ip` and `proxy_protocol` off, a client is who connects.
    """

    forwarded_headers: bool = False  # believe X-Forwarded-For, -Proto, -Port and -Host of a trusted peer
    full_forwarded_for: bool = False  # pass the whole X-Forwarded-For on, the peer appended
    forwarded_for_header: str = "X-Forwarded-For"  # where a trusted peer names the client
    real_ip: bool = False  # believe only `forwarded_for_header`
    trusted_networks: tuple[str, ...] = ("0.0.0.0/0",)  # of the peers that are believed; CIDR
    proxy_protocol: bool = False  # connections begin with a PROXY header
    proxy_protocol_timeout_s: float = 5.0  # for that header


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Relayed connections (TCP services). Defaults are those of ingress-nginx."""

    connect_timeout_s: float = 60.0  # for one endpoint
    idle_timeout_s: float = 600.0  # without a byte either way
    next_upstream: bool = True  # an endpoint that can't be connected to: try another one
    next_upstream_timeout_s: float = 600.0  # for all attempts; 0: no limit
    next_upstream_tries: int = 3  # including the first; 0: as many as there are endpoints
    access_log: bool = True  # a line for each, where there is an access log at all


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The access log, beside `ProxySettings.access_log`, which switches it."""

    format: str = ""  # with nginx's variables (`ingress.request_text`); empty: that of --log-format
    escape: str = "default"  # default | json | none, as in nginx's log_format
    skip_urls: tuple[str, ...] = ()  # of nginx's map: whole request URIs, or ~ and a regular expression
    default_backend: bool = True  # requests that no Ingress asked for


@dataclass(frozen=True, slots=True)
class HeaderSettings:
    """Header fields, for every route. Values may have nginx's variables (`ingress.request_text`)."""

    server_tokens: bool = False  # our version in Server
    backend_server: bool = False  # the endpoint's Server instead of ours
    hide: tuple[str, ...] = ()  # of responses; lower case
    to_endpoints: tuple[tuple[str, str], ...] = ()  # instead of what the client sent; an empty value removes
    to_clients: tuple[tuple[str, str], ...] = ()  # instead of what the endpoint sent; an empty value removes
    generate_request_id: bool = True
    underscores: bool = False  # names may have them
    ignore_invalid: bool = True  # fields of other names are dropped
    original_uri: bool = False  # X-Original-URI for endpoints


@dataclass(frozen=True, slots=True)
class BlockSettings:
    """Who gets 403 everywhere. User agents and referers as in nginx's map: the whole value, or ~ and a regular expression."""

    networks: tuple[str, ...] = ()  # CIDR
    user_agents: tuple[str, ...] = ()
    referers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """Data plane options that hold before a route is known. Defaults are those of ingress-nginx.

    Part of the table: the options ConfigMap changes them while connections are open. A connection keeps those it was accepted with.
    """

    client_header_timeout_s: float = 60.0
    client_body_timeout_s: float = 60.0
    client_send_timeout_s: float = 60.0
    keepalive_timeout_s: float = 75.0
    keepalive_requests: int = 1000
    request_line_limit_bytes: int = 8192  # large-client-header-buffers 4 8k: 414
    header_line_limit_bytes: int = 8192  # one field line: 431
    header_total_limit_bytes: int = 32768  # 4 x 8k: 431
    header_count_limit: int = 128
    upstream_keepalive_connections: int = 320  # idle, per worker and endpoint set
    upstream_keepalive_timeout_s: float = 60.0
    upstream_keepalive_requests: int = 10000
    upstream_keepalive_time_s: float = 3600.0
    replay_limit_bytes: int = 65536  # a body up to this size can be sent again to another endpoint
    request_buffers_limit_bytes: int = 64 << 20  # of bodies held before an endpoint is asked, all together, per worker
    response_head_limit_bytes: int = 131072  # far above nginx's 4k proxy_buffer_size, whose 502s users complain about
    max_connections: int = 16384  # of clients, per worker; 0: no limit
    drain_timeout_s: float = 240.0  # worker-shutdown-timeout
    access_log: bool = True
    middleware_paths: tuple[str, ...] = ()  # Python files, or folders of them: user middlewares
    tls: TLSSettings = TLSSettings()
    client: ClientSettings = ClientSettings()
    stream: StreamSettings = StreamSettings()
    log: LogSettings = LogSettings()
    headers: HeaderSettings = HeaderSettings()
    blocks: BlockSettings = BlockSettings()


@dataclass(frozen=True, slots=True)
class TranslateSettings:
    classes: ClassSettings = field(default_factory=ClassSettings)
    default_backend_service: tuple[str, str] | None = None  # (namespace, name): its first port
    config_map: tuple[str, str] | None = None  # (namespace, name) of the options
    tcp_services: tuple[str, str] | None = None  # (namespace, name) of the ConfigMap of ports
    reserved_ports: frozenset[int] = frozenset()  # of the controller itself: no TCP service gets them
    annotation_prefixes: tuple[str, ...] = annotation_prefixes()  # first wins
    catch_all_enabled: bool = True  # Ingresses may have a default backend
    external_name_loopback: bool = True  # standalone mode may point ExternalName at loopback; a cluster may not
    external_name_enabled: bool = True
    # User middlewares that every Ingress may name; `*`: all that are loaded. None: all standalone, in a cluster none but those of its class.
    allowed_middleware: tuple[str, ...] | None = None
    proxy: ProxySettings = ProxySettings()  # what the options ConfigMap is laid over
    default_certificate: tuple[str, str] | None = (
        None  # (namespace, name) of a Secret: for hosts without a certificate of their own
    )
    fallback_certificate: Any = None  # routing.tls.Certificate where that has none
    ssl_passthrough: bool = False  # whether Ingresses may ask for it
    https_port: int = 443  # in redirects with port


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """How to reach the API server, what to read from it and what to write to it.

    `kubeconfig` None and `context` None: the service account of the Pod, if there is one, else the default kubeconfig.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    # ---- what to read ----
    watch_namespace: str = ""  # empty: all
    watch_namespace_selector: str = ""  # a label selector of Namespaces; empty: no selection
    config_map: tuple[str, str] | None = None  # as in TranslateSettings
    default_certificate: tuple[str, str] | None = None  # (namespace, name) of a Secret
    tcp_services: tuple[str, str] | None = None  # (namespace, name) of the ConfigMap of ports
    page_size: int = 500  # objects a list request
    # ---- what to write ----
    update_status: bool = True
    update_status_on_shutdown: bool = True  # the last replica takes its addresses back
    publish_service: tuple[str, str] | None = None  # (namespace, name) of the Service whose addresses are published
    publish_status_addresses: tuple[str, ...] = ()  # IPs or host names; win over publish_service
    report_node_internal_ip: bool = False  # with neither of the two: InternalIP of the nodes rather than ExternalIP
    status_period_s: float = 60.0  # everything is compared again so often
    status_rate_per_s: float = 50.0  # writes; a burst of as many
    status_settle_s: float = 1.0  # what other replicas get to route an object before its address is shown
    leader_election: bool = True
    election_id: str = "aioingress-leader"
    election_ttl_s: float = 30.0
    events: bool = True
    # ---- who we are (downward API) ----
    pod_name: str = ""
    pod_namespace: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `ingress serve` was told."""

    manifests: tuple[Path, ...] = ()
    http_addresses: tuple[Address, ...] = (Address("0.0.0.0", 8080),)
    https_addresses: tuple[Address, ...] = (Address("0.0.0.0", 8443),)
    admin_addresses: tuple[Address, ...] = (Address("0.0.0.0", 10254),)
    workers: int | None = None  # None: one per CPU of the cgroup (`cpus.available_cpus`); 0: everything in this process
    log_format: str = "text"  # text | json
    log_level: str = "info"
    hold_off_s: float = 0.01
    hold_off_limit_s: float = 0.1
    shutdown_grace_s: float = (
        0.0  # after the first signal: not ready, but still accepting, so that load balancers notice first
    )
    kube: KubeSettings | None = None  # None: standalone, from `manifests`
    translate: TranslateSettings = field(default_factory=TranslateSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)
