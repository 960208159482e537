"""The Ingress controllers that are measured on an API server: how each is started, and what its IngressClass names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.load.peers.base import Finder
from bench.load.peers.traefik import Traefik
from bench.support import controller
from bench.support.processes import PortAllocator, ProcessTree

WORKERS = 2
ADDRESS = "10.88.250.1"  # published in the statuses; nothing listens there


@dataclass(frozen=True, slots=True)
class Running:
    """`ready_port`: where `/readyz` answers; None: only requests tell."""

    process: ProcessTree
    port: int
    ready_port: int | None = None


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def class_controller(self) -> str:
        """`spec.controller` of the IngressClass that it takes."""

    def version(self) -> str | None:
        """None: it isn't there."""

    def start(self, kubeconfig: Path, folder: Path, ports: PortAllocator) -> Running: ...


class Aioingress:
    name = "aioingress"
    class_controller = "aioingress.io/ingress-controller"

    def version(self) -> str | None:
        return "this tree" if controller.available() else None

    def start(self, kubeconfig: Path, folder: Path, ports: PortAllocator) -> Running:
        http_port, https_port, admin_port = ports.take(), ports.take(), ports.take()
        source = ("--kubeconfig", str(kubeconfig), "--publish-status-address", ADDRESS)
        argv = controller.arguments(source, http_port, https_port, admin_port, WORKERS)
        return Running(ProcessTree(self.name, argv, log=folder / "log"), http_port, admin_port)


class TraefikOnKubernetes:
    """With its defaults, and an address to publish."""

    name = "traefik"
    class_controller = "traefik.io/ingress-controller"

    def __init__(self, finder: Finder) -> None:
        self._binary = Traefik().find(finder)

    def version(self) -> str | None:
        return Traefik().version(self._binary) if self._binary is not None else None

    def start(self, kubeconfig: Path, folder: Path, ports: PortAllocator) -> Running:
        port = ports.take()
        argv = [
            str(self._binary),
            f"--entryPoints.web.address=127.0.0.1:{port}",
            "--providers.kubernetesIngress=true",
            f"--providers.kubernetesIngress.ingressEndpoint.ip={ADDRESS}",
            "--log.level=ERROR",
            "--global.checkNewVersion=false",
            "--global.sendAnonymousUsage=false",
        ]
        env = {"KUBECONFIG": str(kubeconfig), "GOMAXPROCS": str(WORKERS)}
        return Running(ProcessTree(self.name, argv, log=folder / "log", env=env, cwd=folder), port)
