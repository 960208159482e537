"""The ports of TCP services: opened and closed as tables come, without touching the others. A connection goes on when its port closes.

Bound here, in each worker, with SO_REUSEPORT: the controller can't know beforehand which there will be. A port that can't be had is reported and tried again.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Protocol, cast

from ingress.metrics import WorkerMetrics
from ingress.proxy.client_address import ClientRules
from ingress.proxy.header_reader import HeaderReader, HeaderReaders
from ingress.proxy.listener import client_address
from ingress.proxy.proxy_protocol import ProxyHeader, encode_v1
from ingress.proxy.stream import StreamConnection, StreamContext
from ingress.routing.table import TCPService

_log = logging.getLogger(__name__)
_RETRY_S = 5.0
_BACKLOG = 4096


class PortsHost(Protocol):
    clients: ClientRules


class _Port:
    """One port that is open, on one socket for each address."""

    __slots__ = ("opening", "servers", "sockets")

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets  # copies of those that the servers have: for what is queued at the end
        self.servers: list[asyncio.Server] = []
        self.opening: asyncio.Task[None] | None = None


class StreamPorts:
    """All of one worker. Whoever sets `report` is told all ports that can't be had, with the reason, whenever that changes."""

    def __init__(
        self,
        host: PortsHost,
        streams: StreamContext,
        headers: HeaderReaders,
        metrics: WorkerMetrics,
    ) -> None:
        self._host = host
        self._streams = streams
        self._headers = headers
        self._metrics = metrics
        self.report: Callable[[Mapping[int, str]], None] = _nobody
        self._addresses: tuple[str, ...] = ()  # empty: not listening yet, or no more
        self._services: Mapping[int, TCPService] = {}
        self._open: dict[int, _Port] = {}
        self._failures: dict[int, str] = {}
        self._retry: asyncio.TimerHandle | None = None

    @property
    def ports(self) -> frozenset[int]:
        """Those that are open."""
        return frozenset(self._open)

    def listen_on(self, addresses: Iterable[str]) -> None:
        """From now on, on these IPs: those that the other listeners have."""
        widest = _widest(addresses)
        if widest == self._addresses:
            return
        opened, self._open = self._open, {}  # one more listener
        for port in opened.values():
            self._close(port)
        self._addresses = widest
        self._bind_all()

    def apply(self, services: Mapping[int, TCPService]) -> None:
        """Those of a new table. What a port that stays is for is looked up when a connection comes."""
        if services is self._services:
            return
        self._services = services
        for port in [port for port in self._open if port not in services]:
            self._close(self._open.pop(port))
            _log.info("port %d: closed", port)
        if self._addresses:
            self._bind_all()

    def _bind_all(self) -> None:
        failures: dict[int, str] = {}
        for port in self._services:
            if port in self._open:
                continue
            try:
                sockets = _bind(self._addresses, port)
            except OSError as problem:
                failures[port] = _sentence(problem)
            else:
                opened = self._open[port] = _Port([sock.dup() for sock in sockets])
                opened.opening = self._streams.loop.create_task(self._serve(port, opened, sockets))
                _log.info("port %d: open for %s", port, self._services[port].upstream)
        if failures != self._failures:
            self._failures = failures
            self.report(failures)
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._streams.loop.call_later(_RETRY_S, self._bind_all) if failures else None

    async def _serve(self, port: int, opened: _Port, sockets: list[socket.socket]) -> None:
        for sock in sockets:
            server = await self._streams.loop.create_server(lambda: _Accepted(self, port), sock=sock, backlog=_BACKLOG)
            opened.servers.append(server)

    def _close(self, port: _Port) -> None:
        if port.opening is not None and not port.opening.done():
            port.opening.add_done_callback(lambda _: self._close(port))
            return
        for server in port.servers:
            server.close()
        for sock in port.sockets:
            sock.close()

    async def stop(self) -> None:
        """Take in what the kernel has queued, and close all ports: nobody else accepts on these sockets."""
        self._addresses = ()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        opened, self._open = self._open, {}
        for number, port in opened.items():
            if port.opening is not None:
                await port.opening
            for server in port.servers:
                server.close()
            for sock in port.sockets:
                await self._accept_queued(number, sock)
                sock.close()

    async def _accept_queued(self, port: int, sock: socket.socket) -> None:
        while True:
            try:
                accepted, _ = sock.accept()
            except OSError:
                return
            accepted.setblocking(False)
            await self._streams.loop.connect_accepted_socket(lambda: _Accepted(self, port), accepted)

    # ---- connections ---------------------------------------------------------------------------------------------

    def accepted(self, port: int, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """The protocol for a connection to `port`; None: nothing is behind it any more."""
        service = self._services.get(port)
        if service is None:
            return None
        if not service.accept_proxy_protocol:
            return self._stream(service, transport, None)
        timeout_s = self._host.clients.proxy_header_timeout_s
        return HeaderReader(self._headers, timeout_s, lambda t, header: self._stream(service, t, header))

    def _stream(
        self, service: TCPService, transport: asyncio.Transport, header: ProxyHeader | None
    ) -> StreamConnection:
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        client = client_address(peer)
        hop = self._host.clients.hop(client, service.port, "", header)
        prologue = b""
        if service.send_proxy_protocol:
            if header is not None and hop.address == header.source:
                prologue = encode_v1(*header)
            else:
                prologue = encode_v1(client, peer[1] if peer else 0, client_address(local), service.port)
        upstream = self._streams.host.runtime.upstreams.get(service.upstream)
        namespace, name = ("", "") if upstream is None else (upstream.upstream.namespace, upstream.upstream.service)
        stats = self._metrics.stream(namespace, name, service.port)
        return StreamConnection(self._streams, upstream, stats, hop.address, prologue)


class _Accepted(asyncio.Protocol):
    """Until its transport says who it is."""

    __slots__ = ("_port", "_ports")

    def __init__(self, ports: StreamPorts, port: int) -> None:
        self._ports = ports
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        protocol = self._ports.accepted(self._port, transport)
        if protocol is None:
            transport.abort()
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _nobody(failures: Mapping[int, str]) -> None:
    """Told nothing."""


def _widest(addresses: Iterable[str]) -> tuple[str, ...]:
    """Without repeats, and without those that a wildcard of their family covers."""
    found = {ip_address(address) for address in addresses}
    wild = {address.version for address in found if address.is_unspecified}
    return tuple(sorted(str(a) for a in found if a.is_unspecified or a.version not in wild))


def _bind(addresses: Iterable[str], port: int) -> list[socket.socket]:
    """A listening socket for each address. Raises OSError, and leaves none open then."""
    bound: list[socket.socket] = []
    addresses = tuple(addresses)
    try:
        for address in addresses:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            bound.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if ":" in address and len(addresses) > 1:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.listen(_BACKLOG)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _sentence(problem: OSError) -> str:
    """What an operator can act on."""
    reason = problem.strerror or os.strerror(problem.errno or 0)
    if problem.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{reason} (ports below 1024 need the capability NET_BIND_SERVICE, or net.ipv4.ip_unprivileged_port_start)"
        )
    return reason
