"""The demo's manifests: samples that stay as their reader edits them, and the endpoints of this run.

The samples are the files of `samples/`, readable where they are. Only the EndpointSlices are generated, because the ports of the
backends differ from run to run; they are in a file of their own.
"""

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ingress.demo.backends import DemoPod
from ingress.errors import ConfigError

ENDPOINTS_FILE = "demo-endpoints.yaml"
_MARK = "# Written by `ingress demo` at every start: changes here are lost.\n"
_HEAD = f"""\
{_MARK}#
# Where the Services' Pods are. In a cluster Kubernetes writes these objects; here they name three echo backends that run on
# this machine. A slice's ports hold for all of its endpoints, and all backends share one address, so each has a slice of its own.
#
# While the demo runs, delete a slice or set `ready: false`: that backend gets no more requests.
"""
_SLICE = """\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {slice}
  labels:
    kubernetes.io/service-name: {service}
addressType: IPv4
endpoints:
  - addresses: ["{pod.address}"]
    conditions:
      ready: true
    targetRef: {{kind: Pod, name: {pod.name}}}
ports:
  - name: http
    port: {pod.port}
"""
SERVICES = {"toad": ("toad", "toad-sticky"), "frog": ("frog",)}
"""The Services of the samples that a Pod belongs to, by the Service that it was started for."""


def sample_names() -> list[str]:
    """File names of the samples, sorted."""
    folder = resources.files("ingress.demo") / "samples"
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def write_manifests(folder: Path, pods: Sequence[DemoPod]) -> list[Path]:
    """Write the samples that aren't there yet and, always, the endpoints; returns all their paths.

    Raise ConfigError when the folder can't be written, or holds a file of the endpoints' name that the demo did not write.
    """
    endpoints = folder / ENDPOINTS_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if endpoints.exists() and not endpoints.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
            raise ConfigError(f"{endpoints} was not written by the demo: move it away, or choose another folder")
        _replace(endpoints, render_endpoints(pods))
        paths = [endpoints]
        for name in sample_names():
            path = folder / name
            if not path.exists():
                _replace(path, (resources.files("ingress.demo") / "samples" / name).read_text(encoding="utf-8"))
            paths.append(path)
    except OSError as error:
        raise ConfigError(f"can't write the manifests to {folder}: {error.strerror or error}") from error
    return paths


def render_endpoints(pods: Sequence[DemoPod]) -> str:
    """YAML: one EndpointSlice for each Pod and Service."""
    return _HEAD + "".join(
        _SLICE.format(slice=f"{service}-{pod.name.rpartition('-')[2]}", service=service, pod=pod)
        for pod in pods
        for service in SERVICES.get(pod.service, (pod.service,))
    )


def _replace(path: Path, text: str) -> None:
    """Atomically: the folder may be watched already. The temporary name is hidden, and no YAML file's."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
