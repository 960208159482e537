"""An HTTP/1.1 backend: `python -m bench.support.backend --listen HOST:PORT [--name NAME]`.

Every path answers; the query decides how:

- nothing: 100 bytes of text, after any request body
- `?bytes=N&seed=S` (and `&chunked=1`): N bytes made from the seed (`bench.support.content`)
- `?digest=1`: JSON with size and SHA-256 of the request body
- `?delay_ms=N`: waits before it answers; `?slow=1`: rests after each piece of the request body
- a request to upgrade: 101, then every byte comes back

`X-Backend` names the backend. On SIGTERM it stops listening, closes idle connections at once and the others when their
request or tunnel ends (or after the grace time), and leaves: what a well-behaved Pod does.
"""

import argparse
import asyncio
import base64
import hashlib
import signal
from collections.abc import Iterator
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import httptools

from bench.support.content import blocks
from bench.support.loops import run

ANSWER = b"0123456789" * 10
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def websocket_accept(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID).digest())


class Backend:
    """What the connections of one process share."""

    def __init__(self, name: str) -> None:
        self.identity = f"X-Backend: {name}\r\n".encode()
        self.connections: set[BackendConnection] = set()
        self.stopping = asyncio.Event()
        self.empty = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def drain(self, grace_s: float) -> None:
        """Close what is idle, wait for the rest."""
        self.stopping.set()
        for connection in list(self.connections):
            connection.close_if_idle()
        if self.connections:
            try:
                await asyncio.wait_for(self.empty.wait(), grace_s)
            except TimeoutError:
                pass


class BackendConnection(asyncio.Protocol):
    """One connection; requests one after the other. A second one before the answer to the first ends the connection."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        self._busy = False  # between the first byte of a request and the last of its answer
        self._tunnel = False
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._received = 0
        self._sha: hashlib._Hash | None = None

    # ---- transport ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses
        self._backend.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._backend.connections.discard(self)
        if self._backend.stopping.is_set() and not self._backend.connections:
            self._backend.empty.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()
        if self._tunnel:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._tunnel:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._tunnel:
            self._transport.write(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._transport.write(data[upgrade.args[0] :])  # `_switch` has answered: the tunnel's first bytes
        except httptools.HttpParserError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self._transport.close()

    def close_if_idle(self) -> None:
        if not self._busy and not self._tunnel:
            self._transport.close()

    # ---- parser ---------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._busy:
            self._transport.abort()
        self._busy = True
        self._reset()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if b"digest=1" in self._url:
            self._sha = hashlib.sha256()
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._received += len(body)
        if self._sha is not None:
            self._sha.update(body)
        if b"slow=1" in self._url:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(0.002, self._transport.resume_reading)

    def on_message_complete(self) -> None:
        if self._transport.is_closing():
            return
        if b"upgrade" in self._headers and self._parser.should_upgrade():
            self._switch()
        elif b"?" not in self._url:
            self._answer(ANSWER, b"text/plain")
        else:
            task = asyncio.get_running_loop().create_task(
                self._respond(dict(parse_qsl(urlsplit(self._url.decode()).query)))
            )
            self._backend.tasks.add(task)
            task.add_done_callback(self._backend.tasks.discard)

    # ---- answers --------------------------------------------------------------------------------------------------

    def _head(self, status: bytes, *lines: bytes) -> bytes:
        return b"HTTP/1.1 %s\r\nServer: bench\r\n%s%s\r\n" % (
            status,
            self._backend.identity,
            b"".join(line + b"\r\n" for line in lines),
        )

    def _is_last(self) -> bool:
        return self._backend.stopping.is_set() or not self._parser.should_keep_alive()

    def _finish(self, last: bool) -> None:
        self._busy = False
        if last or self._backend.stopping.is_set():
            self._transport.close()

    def _answer(self, body: bytes, content_type: bytes) -> None:
        last = self._is_last()
        lines = [b"Content-Type: " + content_type, b"Content-Length: %d" % len(body)]
        head = self._head(b"200 OK", *lines, *([b"Connection: close"] if last else []))
        self._transport.write(head if self._parser.get_method() == b"HEAD" else head + body)
        self._finish(last)

    def _switch(self) -> None:
        lines = [b"Connection: Upgrade", b"Upgrade: " + self._headers[b"upgrade"]]
        if key := self._headers.get(b"sec-websocket-key"):
            lines.append(b"Sec-WebSocket-Accept: " + websocket_accept(key))
        self._tunnel = True
        self._transport.write(self._head(b"101 Switching Protocols", *lines))

    async def _respond(self, query: dict[str, str]) -> None:
        if delay_ms := int(query.get("delay_ms", 0)):
            await asyncio.sleep(delay_ms / 1000)
        if "bytes" in query:
            size = int(query["bytes"])
            await self._stream(blocks(int(query.get("seed", 0)), size), size, chunked="chunked" in query)
        elif self._sha is not None:
            self._answer(
                b'{"bytes":%d,"sha256":"%s"}' % (self._received, self._sha.hexdigest().encode()), b"application/json"
            )
        else:
            self._answer(ANSWER, b"text/plain")

    async def _stream(self, body: Iterator[bytes], size: int, chunked: bool) -> None:
        last = self._is_last()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        lines = [b"Content-Type: application/octet-stream", framing, *([b"Connection: close"] if last else [])]
        self._transport.write(self._head(b"200 OK", *lines))
        if self._parser.get_method() != b"HEAD":
            for block in body:
                await self._writable.wait()
                if self._transport.is_closing():
                    return
                self._transport.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
            if chunked:
                self._transport.write(b"0\r\n\r\n")
        self._finish(last)


async def serve(addresses: list[tuple[str, int]], name: str, grace_s: float) -> None:
    loop = asyncio.get_running_loop()
    backend = Backend(name)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = [
        await loop.create_server(lambda: BackendConnection(backend), host, port, backlog=4096)
        for host, port in addresses
    ]
    await stop.wait()
    for server in servers:
        server.close()
    await backend.drain(grace_s)


def main() -> None:
    top = argparse.ArgumentParser(prog="python -m bench.support.backend")
    top.add_argument("--listen", action="append", required=True, metavar="HOST:PORT")
    top.add_argument("--name", default="backend")
    top.add_argument("--grace-s", type=float, default=20.0)
    options = top.parse_args()
    addresses = []
    for text in options.listen:
        host, _, port = text.rpartition(":")
        addresses.append((host, int(port)))
    run(serve(addresses, options.name, options.grace_s))


if __name__ == "__main__":
    main()
