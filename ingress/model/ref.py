"""Names of objects."""

import enum
from typing import NamedTuple


class Kind(enum.StrEnum):
    INGRESS = "Ingress"
    INGRESS_CLASS = "IngressClass"
    SERVICE = "Service"
    ENDPOINTS = "Endpoints"
    ENDPOINT_SLICE = "EndpointSlice"
    SECRET = "Secret"
    CONFIG_MAP = "ConfigMap"
    NAMESPACE = "Namespace"  # read by `kube` for a selector only; never part of a ClusterState


class ObjectRef(NamedTuple):
    """Identity of one object in a cluster. `namespace` is empty for cluster-scoped kinds (IngressClass, Namespace)."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
