"""The whole fast path without sockets: a request in at one end, its response out at the other, over transports that keep nothing."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from ingress.config import ProxySettings
from ingress.metrics import WorkerMetrics
from ingress.proxy.dataplane import DataPlane
from ingress.proxy.upstream import UpstreamConnection
from ingress.routing.table import RoutingTable, UpstreamKey

SMALL = b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n"
BROWSER = (
    b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: a=b; session=0123456789abcdef\r\n"
    b"Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Mon, 23 Nov 2026 06:44:50 GMT\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 60\r\nConnection: keep-alive\r\n\r\n" + b"x" * 60
)


class _Nowhere:
    """As much of a transport as the fast path uses."""

    def write(self, data: bytes) -> None: ...

    def writelines(self, data: Iterable[bytes]) -> None: ...

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> object:
        return None if name == "tls" else ("127.0.0.1", 40000)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...

    close = pause_reading = resume_reading = abort


def exchange(table: RoutingTable, key: UpstreamKey, request: bytes, response: bytes = RESPONSE) -> Callable[[], object]:
    """One request and its response per call; `key` is where the request leads."""
    loop = asyncio.new_event_loop()
    settings = ProxySettings(access_log=False, keepalive_requests=1 << 60, upstream_keepalive_requests=1 << 60)

    async def connect() -> tuple[Any, list[UpstreamConnection]]:
        plane = DataPlane(settings, WorkerMetrics(), None, loop)
        plane.swap(table)
        client = plane.accept()
        client.connection_made(cast(asyncio.Transport, _Nowhere()))
        upstreams = []
        for state in plane.runtime.upstreams[key].states:
            connection = UpstreamConnection(state.pool)
            connection.connection_made(cast(asyncio.Transport, _Nowhere()))
            state.pool.idle.append(connection)
            upstreams.append(connection)
        return client, upstreams

    client, upstreams = loop.run_until_complete(connect())
    loop.close()

    def once() -> None:
        client.data_received(request)
        for connection in upstreams:
            if connection.exchange is not None:
                connection.data_received(response)
                return
        raise AssertionError("the request was not forwarded")

    once()
    return once
