"""All objects at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ingress.model.kubernetes import ConfigMap, Endpoints, EndpointSlice, Ingress, IngressClass, Secret, Service

NamespacedName = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Immutable view of everything the sources know. Keys are (namespace, name); classes by name.

    `slices` groups EndpointSlices by their Service. `resolved` holds the addresses of ExternalName hosts as last looked up
    (host name -> textual IPs, possibly empty after a failed look-up; absent while never tried): DNS is I/O, so it
    happens outside and its result is part of the state.
    """

    ingresses: Mapping[NamespacedName, Ingress] = field(default_factory=dict)
    ingress_classes: Mapping[str, IngressClass] = field(default_factory=dict)
    services: Mapping[NamespacedName, Service] = field(default_factory=dict)
    endpoints: Mapping[NamespacedName, Endpoints] = field(default_factory=dict)
    slices: Mapping[NamespacedName, tuple[EndpointSlice, ...]] = field(default_factory=dict)
    secrets: Mapping[NamespacedName, Secret] = field(default_factory=dict)
    config_maps: Mapping[NamespacedName, ConfigMap] = field(default_factory=dict)
    resolved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
