"""The API shapes, one struct a kind. Unknown fields are ignored, as every API client does; types are strict (msgspec).

Sources: networking.k8s.io/v1 (KEP-1453), v1 Service and Endpoints, discovery.k8s.io/v1 (KEP-752, conditions KEP-1672).
Legacy Ingress shapes (extensions/v1beta1, networking.k8s.io/v1beta1) are rewritten to v1 by `model.legacy` before decoding.
"""

from typing import Annotated, ClassVar

import msgspec

from ingress.model.ref import Kind, ObjectRef

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _Struct(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base: immutable, camelCase names on the wire."""


class ObjectMeta(_Struct, frozen=True, rename="camel", kw_only=True):
    name: str
    namespace: str = ""
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    # RFC 3339; compares as text because the API server writes UTC only. Empty: unknown (files), sorts as oldest.
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int = 0


# ---- Ingress ------------------------------------------------------------------------------------------------------


class ServiceBackendPort(_Struct, frozen=True, rename="camel", kw_only=True):
    """Exactly one of the two is set; refers to the *Service* port."""

    number: int = 0
    name: str = ""


class IngressServiceBackend(_Struct, frozen=True, rename="camel", kw_only=True):
    name: str
    port: ServiceBackendPort | None = None


class TypedLocalObjectReference(_Struct, frozen=True, rename="camel", kw_only=True):
    kind: str
    name: str
    api_group: str | None = None


class IngressBackend(_Struct, frozen=True, rename="camel", kw_only=True):
    service: IngressServiceBackend | None = None
    resource: TypedLocalObjectReference | None = None


class HTTPIngressPath(_Struct, frozen=True, rename="camel", kw_only=True):
    backend: IngressBackend
    path: str = ""
    path_type: str | None = None  # Exact | Prefix | ImplementationSpecific; anything else is a verdict of translate


class HTTPIngressRuleValue(_Struct, frozen=True, rename="camel", kw_only=True):
    paths: tuple[HTTPIngressPath, ...] = ()


class IngressRule(_Struct, frozen=True, rename="camel", kw_only=True):
    host: str = ""
    http: HTTPIngressRuleValue | None = None


class IngressTLS(_Struct, frozen=True, rename="camel", kw_only=True):
    hosts: tuple[str, ...] = ()
    secret_name: str = ""


class IngressSpec(_Struct, frozen=True, rename="camel", kw_only=True):
    ingress_class_name: str | None = None
    default_backend: IngressBackend | None = None
    tls: tuple[IngressTLS, ...] | None = None
    rules: tuple[IngressRule, ...] | None = None


class KubernetesObject(_Struct, frozen=True, rename="camel", kw_only=True):
    """Base of the kinds: `origin` says where it was read (`file:line`; empty from the API server)."""

    kind: ClassVar[Kind]
    metadata: ObjectMeta
    origin: str = ""

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(self.kind, self.metadata.namespace, self.metadata.name)


class Ingress(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    kind: ClassVar[Kind] = Kind.INGRESS
    spec: IngressSpec = IngressSpec()


class LoadBalancerIngress(_Struct, frozen=True, rename="camel", kw_only=True):
    """One entry of `status.loadBalancer.ingress`: an address or a host name."""

    ip: str = ""
    hostname: str = ""


class IngressClassSpec(_Struct, frozen=True, rename="camel", kw_only=True):
    controller: str = ""


class IngressClass(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    kind: ClassVar[Kind] = Kind.INGRESS_CLASS
    spec: IngressClassSpec = IngressClassSpec()


# ---- Service ------------------------------------------------------------------------------------------------------


class ServicePort(_Struct, frozen=True, rename="camel", kw_only=True):
    port: Port
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None  # a number, or the name of a container port; None means the same as `port`
    app_protocol: str | None = None
    node_port: int = 0


class ClientIPConfig(_Struct, frozen=True, rename="camel", kw_only=True):
    timeout_seconds: int | None = None  # API default 10800


class SessionAffinityConfig(_Struct, frozen=True, rename="camel", kw_only=True):
    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(_Struct, frozen=True, rename="camel", kw_only=True):
    type: str = "ClusterIP"  # ClusterIP | NodePort | LoadBalancer | ExternalName
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    external_name: str = ""
    session_affinity: str = "None"  # None | ClientIP
    session_affinity_config: SessionAffinityConfig | None = None


class Service(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    kind: ClassVar[Kind] = Kind.SERVICE
    spec: ServiceSpec = ServiceSpec()


# ---- Endpoints (v1) -----------------------------------------------------------------------------------------------


class EndpointAddress(_Struct, frozen=True, rename="camel", kw_only=True):
    ip: str
    hostname: str = ""


class EndpointPort(_Struct, frozen=True, rename="camel", kw_only=True):
    """Shared by Endpoints subsets and EndpointSlices (there `port` may be null: all ports)."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class EndpointSubset(_Struct, frozen=True, rename="camel", kw_only=True):
    addresses: tuple[EndpointAddress, ...] | None = None
    not_ready_addresses: tuple[EndpointAddress, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class Endpoints(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    """Same name as its Service. Ignored where EndpointSlices of that Service exist."""

    kind: ClassVar[Kind] = Kind.ENDPOINTS
    subsets: tuple[EndpointSubset, ...] | None = None


# ---- EndpointSlice (discovery.k8s.io/v1) --------------------------------------------------------------------------

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class EndpointConditions(_Struct, frozen=True, rename="camel", kw_only=True):
    ready: bool | None = None  # nil counts as true
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(_Struct, frozen=True, rename="camel", kw_only=True):
    name: str


class EndpointHints(_Struct, frozen=True, rename="camel", kw_only=True):
    for_zones: tuple[ForZone, ...] | None = None


class SliceEndpoint(_Struct, frozen=True, rename="camel", kw_only=True):
    addresses: tuple[str, ...]
    conditions: EndpointConditions | None = None
    hostname: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None


class EndpointSlice(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    kind: ClassVar[Kind] = Kind.ENDPOINT_SLICE
    address_type: str = "IPv4"  # IPv4 | IPv6 | FQDN
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None

    @property
    def service_name(self) -> str:
        """Name of the Service it belongs to (label `kubernetes.io/service-name`), empty if unlabelled."""
        return (self.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")


# ---- Secret, ConfigMap --------------------------------------------------------------------------------------------


class Secret(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    kind: ClassVar[Kind] = Kind.SECRET
    type: str = "Opaque"
    data: dict[str, str] | None = None  # base64
    string_data: dict[str, str] | None = None

    def __repr__(self) -> str:  # never in a log line
        return f"Secret({self.metadata.namespace}/{self.metadata.name}, type={self.type!r})"


class ConfigMap(KubernetesObject, frozen=True, rename="camel", kw_only=True):
    kind: ClassVar[Kind] = Kind.CONFIG_MAP
    data: dict[str, str] | None = None
