"""Kubernetes objects as far as aioingress reads them: immutable msgspec structs in the shape of the API (camelCase on the wire).

A source (`files`, `kube`) decodes into these and nothing else leaves it: raw dicts stop there.
"""

from ingress.model.cluster import ClusterState
from ingress.model.kubernetes import (
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
    KubernetesObject,
    LoadBalancerIngress,
    ObjectMeta,
    Secret,
    Service,
)
from ingress.model.ref import Kind, ObjectRef

__all__ = [
    "ClusterState",
    "ConfigMap",
    "EndpointSlice",
    "Endpoints",
    "Ingress",
    "IngressClass",
    "Kind",
    "KubernetesObject",
    "LoadBalancerIngress",
    "ObjectMeta",
    "ObjectRef",
    "Secret",
    "Service",
]
