"""Kubernetes objects for the benchmarks, written as block-style YAML, the way people write it."""

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NAMESPACE = "bench"
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9./_-]*")
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})

Object = Mapping[str, Any]


def ingress(
    name: str,
    rules: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    *,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """`rules` are (host, [(path, Service), …]); pathType Prefix, Service port 80, no class."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": NAMESPACE}
        | ({"annotations": dict(annotations)} if annotations else {}),
        "spec": {
            "rules": [
                {
                    "host": host,
                    "http": {
                        "paths": [
                            {
                                "path": path,
                                "pathType": "Prefix",
                                "backend": {"service": {"name": service, "port": {"number": 80}}},
                            }
                            for path, service in paths
                        ]
                    },
                }
                for host, paths in rules
            ]
        },
    }


def tls_secret(name: str, certificate: Path, key: Path) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate.read_text(), "tls.key": key.read_text()},
    }


def service(name: str) -> Object:
    """Without a selector: its endpoints are written by hand."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }


def endpoint_slice(service_name: str, addresses: Sequence[str], port: int) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service_name}-1",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def _scalar(value: object) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _RESERVED
        return value if plain else json.dumps(value)  # a JSON string is a double-quoted YAML string
    return json.dumps(value)


def _lines(value: object, indent: str) -> Iterable[str]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            if isinstance(item, Mapping | list) and item:
                yield f"{indent}{_scalar(key)}:"
                # sequences may stand at the indentation of their key
                yield from _lines(item, indent if isinstance(item, list) else indent + "  ")
            else:
                yield f"{indent}{_scalar(key)}: {_scalar(item)}"
    elif isinstance(value, list) and value:
        for item in value:
            if isinstance(item, Mapping | list) and item:
                first, *rest = _lines(item, indent + "  ")
                yield f"{indent}- {first[len(indent) + 2 :]}"
                yield from rest
            else:
                yield f"{indent}- {_scalar(item)}"
    else:
        yield f"{indent}{_scalar(value)}"


def to_yaml(documents: Iterable[Object]) -> str:
    """Mappings with string keys, lists, strings, numbers, booleans and None."""
    return "---\n".join("\n".join(_lines(document, "")) + "\n" for document in documents)


class ManifestFolder:
    """A folder that a controller watches. Files appear whole: written beside it, then renamed into it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._staging = folder.with_name(folder.name + ".staging")
        folder.mkdir(parents=True)
        self._staging.mkdir()

    def write(self, name: str, documents: Iterable[Object]) -> float:
        return self.write_text(name, to_yaml(documents))

    def write_text(self, name: str, text: str) -> float:
        """Returns the moment (`time.monotonic`) just before the new content is in place."""
        staged = self._staging / name
        staged.write_text(text)
        moment = time.monotonic()
        os.replace(staged, self.path / name)
        return moment

    def remove(self, name: str) -> None:
        (self.path / name).unlink()
