"""The cluster that is served: its names and addresses, and the folder of manifests that says so."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.support.manifests import ManifestFolder, endpoint_slice, ingress, service, to_yaml


@dataclass(frozen=True, slots=True)
class Cluster:
    """An Ingress has one host and one path; `paths` of them share a host. Each Service has addresses of its own."""

    hosts: int = 1000
    paths: int = 10
    services: int = 2000
    endpoints_per_service: int = 10
    first_bytes: tuple[int, int] = (127, 10)  # of the addresses; an API server takes no loopback endpoints

    @property
    def ingresses(self) -> int:
        return self.hosts * self.paths

    @property
    def endpoints(self) -> int:
        return self.services * self.endpoints_per_service

    def host(self, index: int) -> str:
        return f"host-{index // self.paths:04d}.example.com"

    def path(self, index: int) -> str:
        return f"/app-{index % self.paths}"

    def service_of(self, index: int) -> int:
        return index % self.services

    def addresses(self, number: int) -> list[str]:
        """Of Service `number`: distinct for up to 49,000 Services of 254 endpoints."""
        first, second = self.first_bytes
        return [f"{first}.{second + number // 200}.{number % 200}.{1 + k}" for k in range(self.endpoints_per_service)]

    def sample(self, count: int) -> list[int]:
        """Indices of Ingresses spread over all, no two with the same Service (`count` up to the number of Services)."""
        step = max(1, self.ingresses // count)
        picked: dict[int, int] = {}
        for index in [*range(self.ingresses - 1, -1, -step), *range(self.ingresses)]:
            picked.setdefault(self.service_of(index), index)
            if len(picked) == count:
                break
        return list(picked.values())


class Manifests:
    """The cluster as files: everything in one, or a file an Ingress and a file a Service with its endpoints."""

    def __init__(self, cluster: Cluster, folder: Path, backend_port: int, *, one_file: bool) -> None:
        self._cluster = cluster
        self._one_file = one_file
        self._texts: dict[str, str] = {}
        for number in range(cluster.services):
            self._set_service(number, backend_port)
        for index in range(cluster.ingresses):
            self._set_ingress(index, cluster.path(index))
        self._folder = ManifestFolder(folder)
        self.path = self._folder.path
        self._write(self._texts)

    def edit_ingress(self, index: int, path: str) -> float:
        """Give Ingress `index` another path. Returns the moment (`time.monotonic`) at which the file was in place."""
        return self._write([self._set_ingress(index, path)])

    def move_service(self, number: int, backend_port: int) -> float:
        """Point all endpoints of a Service at another port; returns as `edit_ingress` does."""
        return self._write([self._set_service(number, backend_port)])

    def _set_ingress(self, index: int, path: str) -> str:
        cluster, name = self._cluster, f"ing-{index:05d}"
        rules = [(cluster.host(index), [(path, f"svc-{cluster.service_of(index):04d}")])]
        self._texts[name] = to_yaml([ingress(name, rules)])
        return name

    def _set_service(self, number: int, backend_port: int) -> str:
        name = f"svc-{number:04d}"
        self._texts[name] = to_yaml(
            [service(name), endpoint_slice(name, self._cluster.addresses(number), backend_port)]
        )
        return name

    def _write(self, names: Iterable[str]) -> float:
        if self._one_file:
            return self._folder.write_text("cluster.yaml", "---\n".join(self._texts.values()))
        moment = 0.0
        for name in names:
            moment = self._folder.write_text(f"{name}.yaml", self._texts[name])
        return moment
