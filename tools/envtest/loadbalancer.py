"""Stand-in for the cloud's load balancer and kube-proxy: `python -m tools.envtest.loadbalancer KUBECONFIG`.

A Service of type LoadBalancer gets an address, written to its status. TCP connections to its ports, and to those of every ClusterIP, are
relayed to ready endpoints, round robin by connection. An endpoint that refuses is passed over for the next; without any, the connection is
reset. Connections that stand are left alone when endpoints change.

`externalTrafficPolicy: Local` keeps the client's address as the sender; otherwise the endpoint sees the first node's.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tools.envtest import LOAD_BALANCER_NETWORK, NODES
from tools.envtest.client import Client, Refused
from tools.envtest.loops import run

_log = logging.getLogger(__name__)
Json = Mapping[str, Any]
Target = tuple[str, int]
_CONNECT_LIMIT_S = 5.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


# ---- decisions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frontend:
    address: str
    port: int


def frontends(service: Json, load_balancer_address: str | None) -> dict[Frontend, str]:
    """Where a Service is reached over TCP -> name of its port (empty without one)."""
    spec = service["spec"]
    addresses = [spec.get("clusterIP"), load_balancer_address]
    return {
        Frontend(address, port["port"]): port.get("name", "")
        for address in addresses
        if address and address != "None"
        for port in spec.get("ports", ())
        if port.get("protocol", "TCP") == "TCP"
    }


def ready_in_slice(item: Json) -> dict[str, list[Target]]:
    """Ready endpoints of an EndpointSlice by port name. `ready` absent means yes (KEP-752)."""
    if item.get("addressType") != "IPv4":
        return {}
    addresses = [
        endpoint["addresses"][0]
        for endpoint in item.get("endpoints") or ()
        if endpoint.get("conditions", {}).get("ready") is not False
    ]
    return {
        port.get("name") or "": [(address, port["port"]) for address in addresses]
        for port in item.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP" and port.get("port")
    }


def ready_in_endpoints(item: Json) -> dict[str, list[Target]]:
    """The same of an Endpoints object, for API servers without EndpointSlices."""
    found: dict[str, list[Target]] = {}
    for subset in item.get("subsets") or ():
        for port in subset.get("ports") or ():
            if port.get("protocol", "TCP") == "TCP":
                targets = [(address["ip"], port["port"]) for address in subset.get("addresses") or ()]
                found.setdefault(port.get("name") or "", []).extend(targets)
    return found


# ---- relaying -----------------------------------------------------------------------------------------------------


class Backend:
    """Ready endpoints behind one port of one Service."""

    def __init__(self, targets: Sequence[Target] = ()) -> None:
        self.targets = list(targets)
        self.keep_client_address = False
        self._turn = itertools.count()

    def in_turn(self) -> list[Target]:
        """All of them, starting with the one whose turn it is."""
        if not self.targets:
            return []
        start = next(self._turn) % len(self.targets)
        return self.targets[start:] + self.targets[:start]


class _Half(asyncio.Protocol):
    """One side of a relayed connection. What arrives goes to `peer`; a side that can't keep up pauses the other."""

    def __init__(self, peer: "_Half | None" = None) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer = peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        if self.peer is not None and self.peer.transport is not None and self.peer.transport.can_write_eof():
            self.peer.transport.write_eof()
        return True  # the other direction may go on

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        peer, self.peer = self.peer, None
        self.transport = None
        if peer is not None:
            peer.peer = None
            if peer.transport is not None:
                _reset(peer.transport) if error is not None else peer.transport.close()


class Front(_Half):
    """The client's side: finds an endpoint before it reads."""

    def __init__(self, backend: Backend, tasks: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self._backend = backend
        self._tasks = tasks
        self._early: list[bytes] = []  # uvloop starts to read whatever connection_made says
        self._ended_early = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        task = asyncio.get_running_loop().create_task(self._connect(self.transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            super().data_received(data)
        else:
            self._early.append(data)
            if self.transport is not None:
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended_early = self.peer is None
        return super().eof_received()

    async def _connect(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        client = transport.get_extra_info("peername")[0]
        source = client if self._backend.keep_client_address else NODES[0].internal
        for host, port in self._backend.in_turn():
            try:
                async with asyncio.timeout(_CONNECT_LIMIT_S):
                    sock = await _connected(loop, source, host, port)
                    _, back = await loop.create_connection(lambda: _Half(self), sock=sock)
            except (OSError, TimeoutError):
                continue
            if self.transport is None:  # the client has left meanwhile
                if back.transport is not None:
                    back.transport.close()
                return
            self.peer = back
            for data in self._early:
                self.data_received(data)
            if self._ended_early:
                self.eof_received()
            if self._early:
                self._early.clear()
                transport.resume_reading()
            return
        if self.transport is not None:
            _reset(transport)


async def _connected(loop: asyncio.AbstractEventLoop, source: str, host: str, port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)  # the port is chosen when the target is known
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((source, 0))
        await loop.sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


_IP_BIND_ADDRESS_NO_PORT = 24


def _reset(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


# ---- keeping up with the cluster ----------------------------------------------------------------------------------


class LoadBalancer:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._services: dict[tuple[str, str], Json] = {}
        self._slices: dict[str, tuple[tuple[str, str], dict[str, list[Target]]]] = {}  # uid -> Service, targets
        self._addresses: dict[tuple[str, str], str] = {}
        self._pool = [str(address) for address in ipaddress.ip_network(LOAD_BALANCER_NETWORK).hosts()]
        self._wanted: dict[Frontend, tuple[tuple[str, str], str]] = {}
        self._backends: dict[tuple[tuple[str, str], str], Backend] = {}
        self._listening: dict[Frontend, asyncio.Server] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reshape = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._client.follow("/api/v1/services", self._service_changed))
            group.create_task(self._follow_endpoints())
            group.create_task(self._keep_listening())

    async def _follow_endpoints(self) -> None:
        while True:
            for path, changed in (
                ("/apis/discovery.k8s.io/v1/endpointslices", self._slice_changed),
                ("/api/v1/endpoints", self._endpoints_changed),
            ):
                try:
                    await self._client.follow(path, changed)
                except Refused as error:
                    _log.info("%s: %s", path, error)
                    self._slices.clear()
            await asyncio.sleep(1)

    # ---- events ----

    def _service_changed(self, new: Json | None, old: Json) -> None:
        metadata = old["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if new is None:
            self._services.pop(key, None)
        else:
            self._services[key] = new
        if new is not None and new["spec"].get("type") == "LoadBalancer":
            address = self._address(key, new)
            if [item.get("ip") for item in new["status"].get("loadBalancer", {}).get("ingress", ())] != [address]:
                self._start(self._publish(key, address))
        elif key in self._addresses:
            self._pool.append(self._addresses.pop(key))
        self._reshape.set()

    def _address(self, key: tuple[str, str], service: Json) -> str:
        """The one it has, the one it asks for, or the next. After a restart: the one that its status names."""
        if key not in self._addresses:
            shown = [item.get("ip") for item in service["status"].get("loadBalancer", {}).get("ingress", ())]
            for wanted in (service["spec"].get("loadBalancerIP"), *shown):
                if wanted in self._pool:
                    self._pool.remove(wanted)
                    self._addresses[key] = wanted
                    break
            else:
                self._addresses[key] = self._pool.pop(0)
        return self._addresses[key]

    async def _publish(self, key: tuple[str, str], address: str) -> None:
        path = f"/api/v1/namespaces/{key[0]}/services/{key[1]}/status"
        with contextlib.suppress(Refused):  # gone
            await self._client.patch(path, {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}})

    def _slice_changed(self, new: Json | None, old: Json) -> None:
        metadata = old["metadata"]
        service = metadata.get("labels", {}).get("kubernetes.io/service-name", "")
        self._endpoints(metadata["uid"], (metadata["namespace"], service), None if new is None else ready_in_slice(new))

    def _endpoints_changed(self, new: Json | None, old: Json) -> None:
        metadata = old["metadata"]
        targets = None if new is None else ready_in_endpoints(new)
        self._endpoints(metadata["uid"], (metadata["namespace"], metadata["name"]), targets)

    def _endpoints(self, uid: str, key: tuple[str, str], targets: dict[str, list[Target]] | None) -> None:
        if targets is None:
            self._slices.pop(uid, None)
        else:
            self._slices[uid] = (key, targets)
        merged: dict[str, list[Target]] = {}
        for other, found in self._slices.values():
            if other == key:
                for name, listed in found.items():
                    merged.setdefault(name, []).extend(listed)
        for (service, name), backend in self._backends.items():
            if service == key:
                backend.targets = sorted(set(merged.get(name, ())))

    # ---- listeners ----

    def _shape(self) -> None:
        """What should listen, and for which port of which Service."""
        wanted: dict[Frontend, tuple[tuple[str, str], str]] = {}
        for key, service in self._services.items():
            for frontend, name in frontends(service, self._addresses.get(key)).items():
                wanted[frontend] = (key, name)
                backend = self._backends.get((key, name))
                if backend is None:
                    backend = self._backends[key, name] = Backend()
                    backend.targets = sorted(
                        {
                            target
                            for other, found in self._slices.values()
                            if other == key
                            for target in found.get(name, ())
                        }
                    )
                backend.keep_client_address = service["spec"].get("externalTrafficPolicy") == "Local"
        self._wanted = wanted
        used = set(wanted.values())
        self._backends = {port: backend for port, backend in self._backends.items() if port in used}

    async def _keep_listening(self) -> None:
        loop = asyncio.get_running_loop()
        made: dict[Frontend, tuple[tuple[str, str], str]] = {}
        while True:
            await self._reshape.wait()
            self._reshape.clear()
            self._shape()
            for frontend in [item for item in made if self._wanted.get(item) != made[item]]:
                self._listening.pop(frontend).close()
                del made[frontend]
            for frontend, port in list(self._wanted.items()):
                if frontend in made or port not in self._backends:
                    continue
                backend = self._backends[port]
                try:
                    self._listening[frontend] = await loop.create_server(
                        lambda backend=backend: Front(backend, self._tasks),  # type: ignore[misc]
                        frontend.address,
                        frontend.port,
                        backlog=1024,
                    )
                except OSError as error:
                    _log.error("%s:%d: %s", frontend.address, frontend.port, error)
                    continue
                made[frontend] = port

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def main(kubeconfig: Path) -> None:
    async with Client(kubeconfig) as client:
        work = asyncio.create_task(LoadBalancer(client).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work


if __name__ == "__main__":
    run(main(Path(sys.argv[1])))
