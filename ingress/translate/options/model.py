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


GZIP_TYPES = (
    "application/atom+xml",
    "application/javascript",
    "application/x-javascript",
    "application/json",
    "application/rss+xml",
    "application/vnd.ms-fontobject",
    "application/x-font-ttf",
    "application/x-web-app-manifest+json",
    "application/xhtml+xml",
    "application/xml",
    "font/opentype",
    "image/svg+xml",
    "image/x-icon",
    "text/css",
    "text/javascript",
    "text/plain",
    "text/x-component",
)
BROTLI_TYPES = ("application/xml+rss", *GZIP_TYPES)


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """How one content coding is used: `types` are media types, `*` for all; text/html always is one of them."""

    level: int
    min_length_bytes: int
    types: tuple[str, ...] = GZIP_TYPES


@dataclass(frozen=True, slots=True)
class CompressionOptions:
    """None: not used. The levels and lengths that ingress-nginx has by default are those of the ConfigMap's table."""

    gzip: CodecOptions | None = None  # use-gzip, gzip-level 1, gzip-min-length 256
    brotli: CodecOptions | None = None  # enable-brotli, brotli-level 4, brotli-min-length 20, BROTLI_TYPES
    zstd: CodecOptions | None = None  # enable-zstd, zstd-level 3, zstd-min-length 256: own keys
    gzip_disable: str = ""  # msie6, or a pattern (RE2) of user agents


@dataclass(frozen=True, slots=True)
class GlobalAuth:
    """The `global-auth-*` options as they are written; `url` empty: no global authentication.

    Texts, because `middleware.external_auth` parses them as it parses the annotations: one that can't be used closes the routes that it is about.
    """

    url: str = ""
    method: str = ""
    signin: str = ""
    signin_redirect_param: str = ""
    response_headers: str = ""
    request_redirect: str = ""
    cache_key: str = ""
    cache_duration: str = ""
    always_set_cookie: str = ""
    snippet: str = ""


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """Who may come in where an Ingress says nothing. Texts too: a bad entry of a list closes the routes that the list would have protected."""

    allow_source_range: str = ""  # whitelist-source-range
    deny_source_range: str = ""  # denylist-source-range
    no_auth_locations: str = "/.well-known/acme-challenge"  # prefixes of rule paths without authentication, with commas
    global_auth: GlobalAuth = field(default_factory=GlobalAuth)


@dataclass(frozen=True, slots=True)
class Options:
    """Every field set; the defaults are those of ingress-nginx. `traffic` holds what annotations of single Ingresses override."""

    traffic: TrafficPolicy = field(default_factory=TrafficPolicy)
    proxy: ProxySettings | None = None  # None: as the process was started
    allow_cross_namespace_resources: bool = False
    load_balance: LoadBalance = LoadBalance.ROUND_ROBIN
    service_upstream: bool = False  # requests go to cluster IPs
    retry_non_idempotent: bool = False  # whatever an annotation says about retries
    risk_limit: Risk = Risk.HIGH  # annotations above it close the routes of their Ingress
    blocked_words: tuple[str, ...] = ()  # so do annotations whose value has one of these
    strict_paths: bool = False  # warn of Exact and Prefix paths with unusual characters
    disable_ipv6_dns: bool = False  # ExternalName hosts by their IPv4 addresses only
    limit_req_status: int = 503  # limit-req-status-code
    limit_conn_status: int = 503  # limit-conn-status-code
    access: AccessOptions = field(default_factory=AccessOptions)
    # redirects to HTTPS, and Strict-Transport-Security
    ssl_redirect: bool = True
    force_ssl_redirect: bool = False
    http_redirect_code: int = 308  # 301, 302, 307, 308
    no_tls_redirect_locations: tuple[str, ...] = ("/.well-known/acme-challenge",)  # prefixes of paths of Ingresses
    preserve_trailing_slash: bool = False
    use_port_in_redirects: bool = False
    relative_redirects: bool = False
    hsts: bool = True
    hsts_max_age_s: int = 31536000
    hsts_include_subdomains: bool = True
    hsts_preload: bool = False
    # ---- responses ----
    custom_http_errors: tuple[int, ...] = ()  # sorted
    disable_proxy_intercept_errors: bool = False
    allowed_response_headers: tuple[str, ...] = ()  # global-allowed-response-headers: for custom-headers
    proxy_cookie_domain: str = "off"
    proxy_cookie_path: str = "off"
    proxy_redirect_from: str = "off"
    proxy_redirect_to: str = "off"
    limit_rate_kb: int = 0  # a second; 0: no limit
    limit_rate_after_kb: int = 0
    compression: CompressionOptions = CompressionOptions()


DEFAULT_OPTIONS = Options()
