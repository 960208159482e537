"""Which resources are read, and where the API server has them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from ingress.kube.api import Api, Forbidden, NotFound
from ingress.kube.decode import Decoder, Undecodable, Wanted
from ingress.model.ref import Kind

DISCOVERY = "/apis/discovery.k8s.io/v1"

_GROUPS: Mapping[Kind, tuple[str, str, str]] = {  # path of the group, its apiVersion, plural
    Kind.INGRESS: ("/apis/networking.k8s.io/v1", "networking.k8s.io/v1", "ingresses"),
    Kind.INGRESS_CLASS: ("/apis/networking.k8s.io/v1", "networking.k8s.io/v1", "ingressclasses"),
    Kind.SERVICE: ("/api/v1", "v1", "services"),
    Kind.ENDPOINT_SLICE: (DISCOVERY, "discovery.k8s.io/v1", "endpointslices"),
    Kind.ENDPOINTS: ("/api/v1", "v1", "endpoints"),
    Kind.SECRET: ("/api/v1", "v1", "secrets"),
    Kind.CONFIG_MAP: ("/api/v1", "v1", "configmaps"),
    Kind.NAMESPACE: ("/api/v1", "v1", "namespaces"),
}


@dataclass(frozen=True, slots=True)
class Resource:
    """What a reflector lists and watches: a collection, narrowed by the selectors in `query`."""

    path: str
    decoder: Decoder
    query: Mapping[str, str] = field(default_factory=dict)


def plural(kind: Kind) -> str:
    return _GROUPS[kind][2]


def path_of(kind: Kind, namespace: str = "", name: str = "") -> str:
    """Of a collection (all namespaces if none is named), or of one object in it."""
    group, _, resource = _GROUPS[kind]
    path = f"{group}/namespaces/{namespace}/{resource}" if namespace else f"{group}/{resource}"
    return f"{path}/{name}" if name else path


def resource(
    kind: Kind, namespace: str = "", query: Mapping[str, str] | None = None, wanted: Wanted | None = None
) -> Resource:
    return Resource(path_of(kind, namespace), Decoder(kind, _GROUPS[kind][1], wanted), query or {})


class _APIResource(msgspec.Struct):
    name: str


class _APIResourceList(msgspec.Struct):
    resources: list[_APIResource] = []


async def endpoints_kind(api: Api) -> Kind:
    """EndpointSlice where discovery.k8s.io/v1 is served (Kubernetes 1.21, KEP-752), else Endpoints. Raise SourceError."""
    try:
        answer = await api.get(DISCOVERY)
    except NotFound:
        return Kind.ENDPOINTS
    except Forbidden:
        return Kind.ENDPOINT_SLICE  # discovery was taken from us: every supported cluster has it
    try:
        found = msgspec.json.decode(answer, type=_APIResourceList)
    except msgspec.DecodeError as error:
        raise Undecodable(f"{DISCOVERY} can't be read: {error}") from error
    served = any(entry.name == plural(Kind.ENDPOINT_SLICE) for entry in found.resources)
    return Kind.ENDPOINT_SLICE if served else Kind.ENDPOINTS
