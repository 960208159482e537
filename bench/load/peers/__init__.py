"""The proxies that are compared, one module each: how it is found, configured and started with one worker.

All of them: access log off, upstream keep-alive, X-Forwarded-For/-Proto/-Host, X-Real-IP and a request id where it can.
"""

from bench.load.peers.aioingress import Aioingress
from bench.load.peers.base import Finder, Launch, Peer
from bench.load.peers.caddy import Caddy
from bench.load.peers.envoy import Envoy
from bench.load.peers.haproxy import HAProxy
from bench.load.peers.nginx import Nginx, nginx_backend
from bench.load.peers.traefik import Traefik

PEERS: tuple[Peer, ...] = (Nginx(), HAProxy(), Envoy(), Traefik(), Caddy(), Aioingress())
BASE = "nginx"  # ratios are to this one

__all__ = ["BASE", "PEERS", "Finder", "Launch", "Peer", "nginx_backend"]
