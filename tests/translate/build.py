"""Short spellings of objects for tests: everything goes through the decoder of the model, as from a source."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import yaml

from ingress.config import ClassSettings, TranslateSettings
from ingress.errors import Verdict, VerdictReason
from ingress.middleware.registry import SPECS
from ingress.model import (
    ClusterState,
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
    KubernetesObject,
    Secret,
    Service,
)
from ingress.translate import Compilation, compile_table
from ingress.translate.features import FeatureParser

KINDS: dict[str, type[KubernetesObject]] = {
    cls.kind.value: cls for cls in (Ingress, IngressClass, Service, Endpoints, EndpointSlice, Secret, ConfigMap)
}

T = TypeVar("T", bound=KubernetesObject)


def decode(document: Mapping[str, Any]) -> KubernetesObject:
    document = dict(document)
    cls = KINDS[document.pop("kind")]
    if cls is not IngressClass:
        document["metadata"] = {"namespace": "default", **document["metadata"]}
    return msgspec.convert(document, cls)


def load(text: str) -> list[KubernetesObject]:
    return [decode(document) for document in yaml.safe_load_all(text) if document]


def state_of(objects: Iterable[KubernetesObject], resolved: Mapping[str, Iterable[str]] | None = None) -> ClusterState:
    state = ClusterState(
        ingresses={},
        ingress_classes={},
        services={},
        endpoints={},
        slices={},
        resolved={},
        secrets={},
        config_maps={},
    )
    for o in objects:
        key = (o.metadata.namespace, o.metadata.name)
        match o:
            case Ingress():
                state.ingresses[key] = o  # type: ignore[index]
            case IngressClass():
                state.ingress_classes[o.metadata.name] = o  # type: ignore[index]
            case Service():
                state.services[key] = o  # type: ignore[index]
            case Endpoints():
                state.endpoints[key] = o  # type: ignore[index]
            case Secret():
                state.secrets[key] = o  # type: ignore[index]
            case ConfigMap():
                state.config_maps[key] = o  # type: ignore[index]
            case EndpointSlice():
                owner = (o.metadata.namespace, o.service_name)
                state.slices[owner] = (*state.slices.get(owner, ()), o)  # type: ignore[index]
    state.resolved.update({name: tuple(a) for name, a in (resolved or {}).items()})  # type: ignore[attr-defined]
    return state


def path(
    p: str | None = "/", service: str = "web", port: int | str = 80, type: str | None = "Prefix"
) -> dict[str, Any]:
    result: dict[str, Any] = {"backend": backend(service, port)}
    if p is not None:
        result["path"] = p
    if type is not None:
        result["pathType"] = type
    return result


def backend(service: str = "web", port: int | str = 80) -> dict[str, Any]:
    return {"service": {"name": service, "port": {"number": port} if isinstance(port, int) else {"name": port}}}


def rule(host: str = "", *paths: dict[str, Any]) -> dict[str, Any]:
    return {"host": host, "http": {"paths": list(paths) or [path()]}}


def ingress(
    name: str = "ing",
    *rules: dict[str, Any],
    namespace: str = "default",
    created: str | None = None,
    annotations: Mapping[str, str] | None = None,
    cls: str | None = None,
    origin: str = "",
    **spec: Any,
) -> Ingress:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if created is not None:
        metadata["creationTimestamp"] = created
    if annotations is not None:
        metadata["annotations"] = dict(annotations)
    if rules:
        spec["rules"] = list(rules)
    if cls is not None:
        spec["ingressClassName"] = cls
    return msgspec.convert({"metadata": metadata, "spec": spec, "origin": origin}, Ingress)


def ingress_class(name: str, controller: str, default: bool = False) -> IngressClass:
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if default else {}
    return msgspec.convert(
        {"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": controller}}, IngressClass
    )


def service(name: str = "web", *ports: Any, namespace: str = "default", portless: bool = False, **spec: Any) -> Service:
    """Ports: numbers, or mappings as in the API; 80 if none is given, unless it is to be `portless`."""
    spec["ports"] = [{"port": p} if isinstance(p, int) else p for p in ports or (() if portless else (80,))]
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "spec": spec}, Service)


def slice_of(
    name: str = "web",
    *addresses: Any,
    ports: Iterable[Any] = (8080,),
    namespace: str = "default",
    suffix: str = "1",
    type: str = "IPv4",
) -> EndpointSlice:
    """Addresses: texts, or mappings as in the API. Ports: numbers, or mappings as in the API."""
    return msgspec.convert(
        {
            "metadata": {
                "name": f"{name}-{suffix}",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": type,
            "endpoints": [{"addresses": [a]} if isinstance(a, str) else a for a in addresses or ("10.0.0.1",)],
            "ports": [{"port": p} if isinstance(p, int) else p for p in ports],
        },
        EndpointSlice,
    )


def endpoints_of(name: str = "web", *subsets: Mapping[str, Any], namespace: str = "default") -> Endpoints:
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "subsets": list(subsets)}, Endpoints)


def secret(name: str = "secret", namespace: str = "default", type: str = "Opaque", **data: bytes | str) -> Secret:
    """Values as they are; keys with `_` for `.`."""
    encoded = {
        key.replace("_", "."): base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
        for key, value in data.items()
    }
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "type": type, "data": encoded}, Secret)


def config_map(name: str, data: Mapping[str, str], namespace: str = "default") -> ConfigMap:
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "data": dict(data)}, ConfigMap)


def compiled(
    *objects: KubernetesObject,
    resolved: Mapping[str, Iterable[str]] | None = None,
    parsers: Sequence[FeatureParser] = SPECS,
    **settings: Any,
) -> Compilation:
    return compile_table(state_of(objects, resolved), TranslateSettings(**settings), parsers)


def classes(**settings: Any) -> ClassSettings:
    return ClassSettings(**settings)


def reasons(compilation: Compilation) -> list[VerdictReason]:
    return [v.reason for v in compilation.verdicts]


def only(compilation: Compilation) -> Verdict:
    (verdict,) = compilation.verdicts
    return verdict


def addresses(compilation: Compilation, key: str = "default/web:80") -> list[str]:
    return [f"{e.address}:{e.port}" for e in compilation.table.upstreams[key].endpoints]  # type: ignore[index]


def targets(compilation: Compilation, host: str) -> dict[str, str]:
    """`Exact /foo` -> `svc:80`, or the status it is closed with."""
    return {
        f"{r.path_type} {r.path}": f"{r.service}:{r.port}" if r.upstream else str(r.closed_status)
        for r in compilation.table.hosts[host].routes  # type: ignore[index]
    }
