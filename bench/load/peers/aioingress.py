"""aioingress: `ingress serve --workers 1` from manifests; controller and worker are both accounted."""

import sys
from pathlib import Path

from bench.load.peers.base import Finder, Launch
from bench.load.site import Site
from bench.support import controller
from bench.support.machine import commit
from bench.support.manifests import ManifestFolder, endpoint_slice, ingress, service
from bench.support.processes import PortAllocator


class Aioingress:
    name = "aioingress"
    install = "run in the project's virtual environment"

    def find(self, finder: Finder) -> Path | None:
        return Path(sys.executable) if controller.available() else None

    def version(self, binary: Path) -> str:
        return commit()

    def launch(self, binary: Path, site: Site, folder: Path, port: int, ports: PortAllocator) -> Launch:
        manifests = ManifestFolder(folder / "manifests")
        paths = list(zip(site.paths, site.services, strict=True))
        manifests.write("ingresses.yaml", (ingress(host.partition(".")[0], [(host, paths)]) for host in site.hosts))
        manifests.write("services.yaml", (service(name) for name in site.services))
        manifests.write(
            "endpoints.yaml", (endpoint_slice(name, ["127.0.0.1"], site.backend_port) for name in site.services)
        )
        return Launch(controller.arguments(manifests.path, port, ports.take(), ports.take(), workers=1))
