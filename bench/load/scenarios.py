"""The scenarios: what the load generator sends."""

import enum
from dataclasses import dataclass


class Generator(enum.Enum):
    WRK = "wrk"  # closed loop: as fast as the answers come
    H2LOAD = "h2load"  # HTTP/1.1 at a fixed rate
    TLS_CLIENT = "tls-client"  # bench.support.tls: a connection for each request


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    summary: str
    path: str = "/"  # on the one-route site
    many_routes: bool = False
    new_connections: bool = False
    body_bytes: int = 0  # more than 0: POST
    connections: int = 64
    generator: Generator = Generator.WRK
    rate_per_s: int = 0  # all connections together, for H2LOAD
    tls: bool = False
    resume: bool = False  # for TLS_CLIENT: offers the session of the connection before


SCENARIOS = (
    Scenario("small", "GET, 100-byte answer, keep-alive"),
    Scenario(
        "routes-10k", "the same with 10,000 routes (1,000 hosts x 10 paths), 200 of them asked for", many_routes=True
    ),
    Scenario("newconn", "GET, a new connection for each request", new_connections=True),
    Scenario("tls", "the same as small, over TLS 1.3", tls=True),
    Scenario(
        "tls-newconn",
        "GET over TLS 1.3, a full handshake for each request",
        new_connections=True,
        connections=4,
        generator=Generator.TLS_CLIENT,
        tls=True,
    ),
    Scenario(
        "tls-resumed",
        "the same, with the session of the connection before",
        new_connections=True,
        connections=4,
        generator=Generator.TLS_CLIENT,
        tls=True,
        resume=True,
    ),
    Scenario("post-16k", "POST of 16 KiB, 100-byte answer, keep-alive", body_bytes=16 * 1024),
    Scenario("get-1m", "GET, 1 MiB answer, keep-alive", path="/blob-1m"),
    Scenario(
        "latency",
        "GET, 100-byte answer, keep-alive, at a fixed 2,000 requests/s",
        connections=16,
        generator=Generator.H2LOAD,
        rate_per_s=2000,
    ),
)
