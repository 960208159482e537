"""What the annotations of one Ingress come to."""

from dataclasses import dataclass

import msgspec

from ingress.model import ObjectRef
from ingress.routing.table import CanaryRule, CookieAffinity, Feature, LoadBalance, TrafficPolicy, UpstreamProtocol
from ingress.routing.tls import UpstreamTLS
from ingress.translate.annotations.default_backend import FallbackAsk
from ingress.translate.annotations.hosts import NO_HOST_ASK, HostAsk
from ingress.translate.annotations.tls import NO_ASK, TLSAsk
from ingress.translate.options.model import DEFAULT_OPTIONS
from ingress.variables import Part


class UpstreamTLSAsk(msgspec.Struct, frozen=True):
    """How to speak TLS to endpoints. What `secret` holds is in `tls` already; the name that it lacks is the Service's."""

    tls: UpstreamTLS
    server_name: bool | None = None  # send SNI; None: as suits the Service
    secret: str = ""  # namespace/name

    def identity(self) -> "UpstreamTLSAsk":
        """Without what the Secret holds: a rotation is no other upstream, so that sessions survive it."""
        return UpstreamTLSAsk(
            msgspec.structs.replace(self.tls, ca=b"", crl=b"", certificate=None), self.server_name, self.secret
        )


class UpstreamAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the Ingress wants its upstreams to be; what it doesn't say is the Service's to decide.

    Upstreams of one Service port with equal asks are one upstream.
    """

    load_balance: LoadBalance = LoadBalance.ROUND_ROBIN
    hash_key: tuple[Part, ...] = ()
    cookie: CookieAffinity | None = None
    protocol: UpstreamProtocol | None = None
    tls: UpstreamTLSAsk | None = None
    http_version: str = "1.1"
    connection_header: str = ""
    service_upstream: bool = False  # the cluster IP instead of the endpoints
    hash_subset_size: int = 0

    def identity(self) -> "UpstreamAsk":
        """What tells it from the other upstreams of its Service port."""
        return self if self.tls is None else msgspec.structs.replace(self, tls=self.tls.identity())


DEFAULT_TRAFFIC = DEFAULT_OPTIONS.traffic
DEFAULT_ASK = UpstreamAsk()


@dataclass(frozen=True, slots=True)
class AnnotationPolicy:
    """`closed_reason` not empty: all its routes answer `closed_status`. `left_out`: the Ingress takes no part in routing."""

    traffic: TrafficPolicy = DEFAULT_TRAFFIC
    ask: UpstreamAsk = DEFAULT_ASK
    closed_status: int = 503
    closed_reason: str = ""
    left_out: bool = False
    canary: CanaryRule | None = None  # it is one: nothing else but `ask` counts
    features: tuple[Feature, ...] = ()
    host: HostAsk = NO_HOST_ASK
    fallback: FallbackAsk | None = None
    tls: TLSAsk = NO_ASK
    references: frozenset[ObjectRef] = frozenset()  # Secrets and ConfigMaps that were asked for, existing or not


NO_ANNOTATIONS = AnnotationPolicy()
