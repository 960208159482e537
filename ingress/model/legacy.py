"""Older API shapes, rewritten to today's before decoding. Pure; the input is never changed.

`extensions/v1beta1` and `networking.k8s.io/v1beta1` Ingress (gone from the API server since Kubernetes 1.22):
`spec.backend` is `spec.defaultBackend`, and a backend is `serviceName` + `servicePort` (a number or a name).
`discovery.k8s.io/v1beta1` EndpointSlice (gone since 1.25): `endpoints[].topology` holds the zone, and the address type
may be `IP`.

Only shapes that are recognised are rewritten. Anything else is left for the decoder to point at.
"""

from collections.abc import Mapping
from typing import Any

ZONE_LABEL = "topology.kubernetes.io/zone"
_OLD_ZONE_LABEL = "failure-domain.beta.kubernetes.io/zone"


class LegacyFieldError(ValueError):
    """A field that exists in the old shape only is unusable; named as its author wrote it."""

    def __init__(self, field: str, value: object, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.value = value
        self.message = message


def ingress_from_v1beta1(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Raise LegacyFieldError for a bad `serviceName` or `servicePort`."""
    spec = raw.get("spec")
    if not isinstance(spec, Mapping):
        return dict(raw)
    new_spec = dict(spec)
    if "backend" in spec:
        old = new_spec.pop("backend")
        if new_spec.get("defaultBackend") is None:
            new_spec["defaultBackend"] = _backend(old, "spec.backend")
    rules = spec.get("rules")
    if isinstance(rules, list):
        new_spec["rules"] = [_rule(rule, f"spec.rules[{i}]") for i, rule in enumerate(rules)]
    return {**raw, "spec": new_spec}


def _rule(rule: Any, field: str) -> Any:
    if not isinstance(rule, Mapping) or not isinstance(http := rule.get("http"), Mapping):
        return rule
    paths = http.get("paths")
    if not isinstance(paths, list):
        return rule
    new_paths = [
        {**path, "backend": _backend(path["backend"], f"{field}.http.paths[{i}].backend")}
        if isinstance(path, Mapping) and "backend" in path
        else path
        for i, path in enumerate(paths)
    ]
    return {**rule, "http": {**http, "paths": new_paths}}


def _backend(backend: Any, field: str) -> Any:
    """A backend without the old fields (a `resource` one, or one already in the new shape) stays as it is."""
    if not isinstance(backend, Mapping) or not ("serviceName" in backend or "servicePort" in backend):
        return backend
    new = {key: value for key, value in backend.items() if key not in ("serviceName", "servicePort")}
    name, port = backend.get("serviceName"), backend.get("servicePort")
    if name is None and port is None:
        return new
    if not isinstance(name, str) or not name:
        raise LegacyFieldError(f"{field}.serviceName", name, "Expected the name of a Service")
    service: dict[str, Any] = {"name": name}
    # the old API took a number or a name, and controllers compared both as text: "80" means 80 (a port name needs a
    # letter)
    if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) <= 5:
        port = int(port)
    if isinstance(port, bool) or not isinstance(port, int | str) or port == "":
        raise LegacyFieldError(f"{field}.servicePort", port, "Expected the number or the name of a Service port")
    if isinstance(port, int):
        if not 1 <= port <= 65535:
            raise LegacyFieldError(f"{field}.servicePort", port, "Expected a port number from 1 to 65535")
        service["port"] = {"number": port}
    else:
        service["port"] = {"name": port}
    new["service"] = service
    return new


def slice_from_v1beta1(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Zone from `topology`; address type `IP` (deprecated in 1.17) becomes the family of the first address."""
    new = dict(raw)
    endpoints = raw.get("endpoints")
    if isinstance(endpoints, list):
        new["endpoints"] = [_endpoint(endpoint) for endpoint in endpoints]
    if raw.get("addressType") == "IP":
        new["addressType"] = "IPv6" if ":" in _first_address(endpoints) else "IPv4"
    return new


def _endpoint(endpoint: Any) -> Any:
    if not isinstance(endpoint, Mapping) or endpoint.get("zone") is not None:
        return endpoint
    topology = endpoint.get("topology")
    if not isinstance(topology, Mapping):
        return endpoint
    zone = topology.get(ZONE_LABEL, topology.get(_OLD_ZONE_LABEL))
    return endpoint if zone is None else {**endpoint, "zone": zone}


def _first_address(endpoints: Any) -> str:
    if isinstance(endpoints, list):
        for endpoint in endpoints:
            addresses = endpoint.get("addresses") if isinstance(endpoint, Mapping) else None
            if isinstance(addresses, list) and addresses and isinstance(addresses[0], str):
                return addresses[0]
    return ""
