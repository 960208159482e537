"""nginx, the base of all ratios, and the nginx that plays the backend.

Headers and upstream settings are those that ingress-nginx renders; sizes of buffers are nginx's own defaults, without
spilling to disk, so that no ratio is flattered by a slow file system.
"""

import re
from pathlib import Path

from bench.load.peers.base import UPSTREAM_KEEPALIVE, Finder, Launch, output_of
from bench.load.site import SERVICE, Site
from bench.support.processes import PortAllocator
from bench.support.tls import TLSFiles

ANSWER = "0123456789" * 10
BLOB_BYTES = 1 << 20

_PROXY = """
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_set_header X-Request-ID $request_id;
  proxy_set_header X-Real-IP $remote_addr;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Host $host;
  proxy_set_header X-Forwarded-Port $server_port;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Scheme $scheme;
  proxy_set_header X-Scheme $scheme;
  proxy_connect_timeout 5s;
  proxy_send_timeout 60s;
  proxy_read_timeout 60s;
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
"""


def frame(folder: Path, http: str, workers: int = 1) -> str:
    """A whole nginx.conf around the contents of `http {}`; nothing is written outside `folder`."""
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  server_tokens off;
{temporary}
{http}
}}
"""


def upstream(name: str, addresses: list[str]) -> str:
    servers = "".join(f" server {address};" for address in addresses)
    return f"  upstream {name} {{{servers} keepalive {UPSTREAM_KEEPALIVE}; keepalive_requests 10000; }}\n"


def virtual_host(host: str, port: int, paths: list[tuple[str, str]], kind: str = "") -> str:
    locations = "".join(f" location {path} {{ proxy_pass http://{name}; }}" for path, name in paths)
    return f"  server {{ listen 127.0.0.1:{port}{kind}; server_name {host};{locations} }}\n"


def tls(files: TLSFiles) -> str:
    """As ingress-nginx has it by default."""
    return f"""
  ssl_certificate {files.certificate};
  ssl_certificate_key {files.key};
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_prefer_server_ciphers on;
  ssl_session_cache shared:SSL:10m;
  ssl_session_timeout 10m;
  ssl_session_tickets off;
  ssl_buffer_size 4k;
"""


def proxy_http(port: int, upstreams: str, servers: str, kind: str = "") -> str:
    return f"""{_PROXY}
  server_names_hash_max_size 16384;
  server_names_hash_bucket_size 128;
  server {{ listen 127.0.0.1:{port}{kind} default_server reuseport backlog=4096; server_name _; return 404; }}
{upstreams}{servers}"""


def command(binary: Path, folder: Path, text: str) -> Launch:
    config = folder / "nginx.conf"
    config.write_text(text)
    return Launch([str(binary), "-p", str(folder), "-c", str(config), "-e", "stderr"])


class Nginx:
    name = "nginx"
    install = "apt install nginx-light"

    def find(self, finder: Finder) -> Path | None:
        return finder.find("nginx")

    def version(self, binary: Path) -> str:
        found = re.search(r"nginx/(\S+)", output_of(binary, "-v"))
        return found[1] if found else "?"

    def launch(self, binary: Path, site: Site, folder: Path, port: int, ports: PortAllocator) -> Launch:
        paths = [(path, SERVICE) for path in site.paths]
        kind = "" if site.tls is None else " ssl"
        servers = "" if site.tls is None else tls(site.tls)
        servers += "".join(virtual_host(host, port, paths, kind) for host in site.hosts)
        only = upstream(SERVICE, [f"127.0.0.1:{site.backend_port}"])
        return command(binary, folder, frame(folder, proxy_http(port, only, servers, kind)))


def nginx_backend(binary: Path, folder: Path, port: int) -> Launch:
    """100 bytes for everything, 1 MiB for /blob-1m; bodies are read and dropped; connections are kept for good."""
    (folder / "blob-1m").write_bytes(ANSWER.encode() * (BLOB_BYTES // len(ANSWER)) + b"x" * (BLOB_BYTES % len(ANSWER)))
    http = f"""
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=16;
  default_type text/plain;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 "{ANSWER}"; }}
    location = /blob-1m {{ alias {folder}/blob-1m; }}
  }}"""
    return command(binary, folder, frame(folder, http))
