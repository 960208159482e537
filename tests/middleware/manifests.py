"""Short spellings of manifests for tests of annotations that act together on a host."""

import json
from collections.abc import Mapping
from typing import Any

ANNOTATION = "nginx.ingress.kubernetes.io/"
SERVICES = ("web", "api", "old")


def services(*names: str) -> str:
    return "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
        for name in names or SERVICES
    )


def ingress(
    name: str,
    annotations: Mapping[str, str] | None = None,
    *paths: str,
    host: str = "a.test",
    service: str = "web",
    path_type: str = "",
    default: str = "",
    created: str = "",
) -> str:
    """`paths` without `path_type`: Prefix, or ImplementationSpecific where it has the signs of a regular expression; `=/path` is Exact."""
    rules: list[dict[str, Any]] = []
    for text in paths or ("/",):
        kind = path_type or ("ImplementationSpecific" if set(text) & set("()*$[]|\\^+?{") else "Prefix")
        if text.startswith("="):
            text, kind = text[1:], "Exact"
        backend = {"service": {"name": service, "port": {"number": 80}}}
        rules.append({"path": text, "pathType": kind, "backend": backend})
    spec: dict[str, Any] = {"rules": [{"host": h, "http": {"paths": rules}} for h in host.split(",")]}
    if default:
        spec["defaultBackend"] = {"service": {"name": default, "port": {"number": 80}}}
    metadata: dict[str, Any] = {"name": name}
    if annotations:
        metadata["annotations"] = {ANNOTATION + key: value for key, value in annotations.items()}
    if created:
        metadata["creationTimestamp"] = created
    document = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}
    return f"---\n{json.dumps(document)}\n"
