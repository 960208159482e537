"""Messages between the controller and its workers: length-prefixed msgpack over a Unix socket pair.

The controller sends the full table once, then deltas. A worker that can't apply a delta asks for the full table. Neither side waits for the other.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from ingress.affinity.client_ip import Update
from ingress.config import ProxySettings
from ingress.proxy.accept import ListenerKind
from ingress.routing.table import RoutingTable, TableDelta, UpstreamKey


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First message to a worker: what it is and how it is to behave."""

    index: int
    column: int  # of what all workers count together (middleware.shared)
    proxy: ProxySettings
    log_format: str
    log_level: str
    listeners: tuple[ListenerKind, ...]  # what is spoken on each of the sockets that it was started with


class FullTable(msgspec.Struct, frozen=True, tag=True):
    """`generation` counts what the controller published; it comes back in `Applied`."""

    table: RoutingTable
    generation: int


class Delta(msgspec.Struct, frozen=True, tag=True):
    delta: TableDelta
    generation: int


class Affinity(msgspec.Struct, frozen=True, tag=True):
    """Client-IP assignments: from a worker what is new there, to a worker what is new elsewhere."""

    updates: dict[UpstreamKey, list[Update]]


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Stop accepting, finish, exit. `last`: nobody accepts on these sockets afterwards."""

    last: bool
    timeout_s: float


class MetricsRequest(msgspec.Struct, frozen=True, tag=True):
    pass


ToWorker = Hello | FullTable | Delta | Affinity | Drain | MetricsRequest


class Applied(msgspec.Struct, frozen=True, tag=True):
    """Requests that start from now on are routed by this table."""

    table_id: str
    generation: int


class NeedTable(msgspec.Struct, frozen=True, tag=True):
    """The last delta was against another table than this worker has."""


class Metrics(msgspec.Struct, frozen=True, tag=True):
    snapshot: bytes  # metrics.WorkerMetrics.encode()


class Draining(msgspec.Struct, frozen=True, tag=True):
    """This worker stops accepting; a replacement may take over its sockets now."""


class Ports(msgspec.Struct, frozen=True, tag=True):
    """The ports of TCP services that this worker can't listen on, with the reasons: all of them, whenever that changes."""

    failures: dict[int, str]


ToController = Applied | NeedTable | Metrics | Draining | Affinity | Ports

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_controller = msgspec.msgpack.Decoder(ToController)


class Channel(asyncio.Protocol):
    """One end. `on_message` gets each decoded message, `on_lost` is called once when the other side is gone."""

    def __init__(
        self,
        decode: Callable[[bytes], ToWorker | ToController],
        on_message: Callable[[ToWorker | ToController], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._on_message = on_message
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) - position >= 4:
            size = int.from_bytes(buffer[position : position + 4], "big")
            if len(buffer) - position - 4 < size:
                break
            self._on_message(self._decode(bytes(memoryview(buffer)[position + 4 : position + 4 + size])))
            position += 4 + size
        if position:
            del buffer[:position]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost.set()
        self._on_lost()

    def send(self, message: ToWorker | ToController) -> None:
        """Queue a message; nothing happens when the other side is gone."""
        self.send_encoded(encode(message))

    def send_encoded(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def encode(message: ToWorker | ToController) -> bytes:
    """A whole frame: made once for all workers."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


def worker_end(on_message: Callable[[ToWorker], None], on_lost: Callable[[], None]) -> Channel:
    return Channel(_to_worker.decode, cast(Callable[[ToWorker | ToController], None], on_message), on_lost)


def controller_end(on_message: Callable[[ToController], None], on_lost: Callable[[], None]) -> Channel:
    return Channel(_to_controller.decode, cast(Callable[[ToWorker | ToController], None], on_message), on_lost)
