"""HAProxy: one thread, routes in a map file on host and path (`base`, `map_beg`: an indexed prefix lookup)."""

import re
from pathlib import Path

from bench.load.peers.base import UPSTREAM_KEEPALIVE, Finder, Launch, output_of
from bench.load.site import SERVICE, Site
from bench.support.processes import PortAllocator


class HAProxy:
    name = "haproxy"
    install = "apt install haproxy"

    def find(self, finder: Finder) -> Path | None:
        return finder.find("haproxy")

    def version(self, binary: Path) -> str:
        found = re.search(r"version (\d[\w.]*)", output_of(binary, "-v"))
        return found[1] if found else "?"

    def launch(self, binary: Path, site: Site, folder: Path, port: int, ports: PortAllocator) -> Launch:
        routes = folder / "routes.map"
        routes.write_text("".join(f"{host}{path} {SERVICE}\n" for host in site.hosts for path in site.paths))
        secure = "" if site.tls is None else f" ssl crt {site.tls.both} alpn http/1.1"
        scheme = "http" if site.tls is None else "https"
        config = folder / "haproxy.cfg"
        config.write_text(
            f"""global
  nbthread 1
  maxconn 4096
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 75s
frontend web
  bind 127.0.0.1:{port} backlog 4096{secure}
  option forwardfor
  unique-id-format %[uuid()]
  unique-id-header X-Request-ID
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Proto {scheme}
  http-request set-header X-Forwarded-Port {port}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-var(txn.backend) base,map_beg({routes})
  http-request return status 404 unless {{ var(txn.backend) -m found }}
  use_backend %[var(txn.backend)]
backend {SERVICE}
  http-reuse always
  server s1 127.0.0.1:{site.backend_port} pool-max-conn {UPSTREAM_KEEPALIVE}
"""
        )
        return Launch([str(binary), "-db", "-f", str(config)])
