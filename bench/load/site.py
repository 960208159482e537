"""What every proxy is configured to serve: hosts and paths that all lead to one Service with one endpoint.

One Service, because each more would mean another pool of upstream connections: the difference between the sites
is then routing alone.
"""

from dataclasses import dataclass

from bench.support.tls import TLSFiles

SERVICE = "app"


@dataclass(frozen=True, slots=True)
class Site:
    """Each host has each path (Prefix), served by `SERVICE`. Anything else is 404."""

    name: str
    hosts: tuple[str, ...]
    paths: tuple[str, ...]
    backend_port: int  # on 127.0.0.1
    tls: TLSFiles | None = None  # the port speaks TLS, with this certificate for every name and none

    @property
    def routes(self) -> int:
        return len(self.hosts) * len(self.paths)

    def targets(self, count: int) -> list[tuple[str, str]]:
        """`count` (host, path) pairs spread evenly over hosts and paths, the last route among them."""
        step = max(1, self.routes // count)
        picked = range(self.routes - 1, -1, -step)
        return [(self.hosts[i // len(self.paths)], self.paths[i % len(self.paths)]) for i in picked][:count]


def one_route(backend_port: int, tls: TLSFiles | None = None) -> Site:
    return Site("one-route", ("bench.example.com",), ("/",), backend_port, tls)


def many_routes(backend_port: int, hosts: int = 1000, paths: int = 10) -> Site:
    return Site(
        "many-routes",
        tuple(f"host-{index:04d}.example.com" for index in range(hosts)),
        tuple(f"/app-{index}" for index in range(paths)),
        backend_port,
    )
