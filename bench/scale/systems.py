"""What is measured: aioingress, and nginx with the same routes by rewriting its configuration and reloading it."""

import signal
import time
from pathlib import Path
from typing import Protocol

from bench.load.peers.nginx import command, frame, proxy_http, upstream, virtual_host
from bench.scale.cluster import Cluster, Manifests
from bench.support import controller
from bench.support.processes import PortAllocator, ProcessTree

WORKERS = 2


class System(Protocol):
    """Edits return the moment (`time.monotonic`) at which the new configuration was in place."""

    @property
    def name(self) -> str: ...

    @property
    def process(self) -> ProcessTree: ...

    @property
    def port(self) -> int: ...

    @property
    def ready_port(self) -> int:
        """Where `ready_path` answers 200 once the whole cluster is served."""

    @property
    def ready_path(self) -> str: ...

    def edit_ingress(self, index: int, path: str) -> float: ...

    def move_service(self, number: int, backend_port: int) -> float: ...


class Aioingress:
    name = "aioingress"
    ready_path = "/readyz"

    def __init__(self, cluster: Cluster, folder: Path, backend_port: int, ports: PortAllocator, one_file: bool) -> None:
        self._manifests = Manifests(cluster, folder / "manifests", backend_port, one_file=one_file)
        self.edit_ingress = self._manifests.edit_ingress
        self.move_service = self._manifests.move_service
        started = controller.start(self._manifests.path, folder / "log", ports, workers=WORKERS)
        self.process = started.process
        self.port = started.http_port
        self.ready_port = started.admin_port


class NginxReload:
    """A server a host, a location a path, an upstream a Service; each edit rewrites the file and sends SIGHUP."""

    name = "nginx"
    ready_path = "/"

    def __init__(self, cluster: Cluster, folder: Path, backend_port: int, ports: PortAllocator, binary: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._paths = [cluster.path(index) for index in range(cluster.ingresses)]
        self._upstreams: list[str] = []
        for number in range(cluster.services):
            self._upstreams.append(self._upstream(number, backend_port))
        self.port = ports.take()
        self.ready_port = ports.take()
        launch = command(binary, folder, self._text())
        self.process = ProcessTree(self.name, launch.argv, log=folder / "log")

    def edit_ingress(self, index: int, path: str) -> float:
        self._paths[index] = path
        return self._reload()

    def move_service(self, number: int, backend_port: int) -> float:
        self._upstreams[number] = self._upstream(number, backend_port)
        return self._reload()

    def _upstream(self, number: int, port: int) -> str:
        return upstream(f"svc-{number:04d}", [f"{address}:{port}" for address in self._cluster.addresses(number)])

    def _text(self) -> str:
        cluster = self._cluster
        servers = []
        for first in range(0, cluster.ingresses, cluster.paths):
            members = range(first, first + cluster.paths)
            paths = [(self._paths[index], f"svc-{cluster.service_of(index):04d}") for index in members]
            servers.append(virtual_host(cluster.host(first), self.port, paths))
        ready = f"  server {{ listen 127.0.0.1:{self.ready_port}; return 200; }}\n"
        http = proxy_http(self.port, "".join(self._upstreams), "".join(servers)) + ready
        return frame(self._folder, http, workers=WORKERS)

    def _reload(self) -> float:
        text = self._text()  # prepared beforehand: only the write and the reload are timed
        moment = time.monotonic()
        (self._folder / "nginx.conf").write_text(text)
        self.process.send(signal.SIGHUP)
        return moment
