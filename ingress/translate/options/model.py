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
    # redirects to HTTPS, and Strict-Transport-Security
    ssl_redirect: bool = True
    force_ssl_redirect: bool = False
    http_redirect_code: int = 308  # 301, 302, 307, 308
    no_tls_redirect_locations: tuple[str, ...] = ("/.well-known/acme-challenge",)  # prefixes of paths of Ingresses
    preserve_trailing_slash: bool = False
    use_port_in_redirects: bool = False
    hsts: bool = True
    hsts_max_age_s: int = 31536000
    hsts_include_subdomains: bool = True
    hsts_preload: bool = False


DEFAULT_OPTIONS = Options()
