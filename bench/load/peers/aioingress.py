"""aioingress: `ingress serve --workers 1` from manifests; controller and worker are both accounted."""

import sys
from pathlib import Path

from bench.load.peers.base import Finder, Launch
from bench.load.site import SERVICE, Site
from bench.support import controller
from bench.support.machine import commit
from bench.support.manifests import NAMESPACE, ManifestFolder, endpoint_slice, ingress, service, tls_secret
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
        paths = [(path, SERVICE) for path in site.paths]
        manifests.write("ingresses.yaml", (ingress(host.partition(".")[0], [(host, paths)]) for host in site.hosts))
        secure: tuple[str, ...] = ()
        if site.tls is not None:
            manifests.write("secret.yaml", [tls_secret("bench", site.tls.certificate, site.tls.key)])
            secure = ("--default-ssl-certificate", f"{NAMESPACE}/bench")
        manifests.write("service.yaml", [service(SERVICE), endpoint_slice(SERVICE, ["127.0.0.1"], site.backend_port)])
        source = ("--manifests", str(manifests.path), *secure)
        http, https = (port, ports.take()) if site.tls is None else (ports.take(), port)
        return Launch(controller.arguments(source, http, https, ports.take(), workers=1))
