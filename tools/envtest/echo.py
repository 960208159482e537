"""The echo server in a Pod: says in JSON who answered and what it received.

    path, host, method, proto, headers      the request; headers as name -> list of values, names in the canonical form of Go
    namespace, ingress, service, pod        the Pod's environment (NAMESPACE, INGRESS_NAME, SERVICE_NAME, POD_NAME); pod is never empty
    node, body_bytes, client

That is what the echo server of the Ingress conformance suite says, and more. `/health` answers OK. In the query: `delay_ms` (waits before it answers),
`status` (answers so), `bytes` (so many bytes instead of JSON). A WebSocket handshake gets its messages back, each prefixed with the Pod's name.

An end is like that of a well-behaved server: it stops accepting, closes idle connections, answers what it has begun, then closes. What has reached
this machine before a socket is closed is answered too. This process is many Pods and slow to get round to one: a request that arrived meanwhile and
is reset would be no fault of whoever sent it, and a POST can't be sent again.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import WSCloseCode, WSMsgType, web

_LIMIT_BYTES = 1 << 28
_LIMIT_DELAY_S = 60.0
_FIRST_REQUEST_S = 1.0  # what a new connection has for it once the end has begun
_TURNS = 4  # of the loop, until a request that was read is in its handler


class EchoServer:
    """Listens on `ports` of one address until `stop`. `names`: what to say about the Pod."""

    def __init__(self, address: str, ports: Sequence[int], names: Mapping[str, str]) -> None:
        self._address = address
        self._ports = ports
        self._names = dict(names)
        self._sockets: set[web.WebSocketResponse] = set()
        self._server = _Server(self._serve)
        self._listening: list[tuple[asyncio.Server, socket.socket]] = []
        self._busy: set[object] = set()  # connections with a request under way
        self._idle = asyncio.Event()  # while it ends: nothing is under way any more
        self._ending = False

    async def start(self) -> None:
        """Raises OSError when a port is taken."""
        loop = asyncio.get_running_loop()
        for port in self._ports:
            sock = socket.create_server((self._address, port), backlog=1024)
            sock.setblocking(False)
            self._listening.append((await loop.create_server(self._server, sock=sock.dup(), backlog=1024), sock))

    async def stop(self, limit_s: float) -> None:
        """What is under way has `limit_s` to finish; then it is cut off."""
        self._ending = True
        listening, self._listening = self._listening, []
        for server, sock in listening:
            server.close()
            await self._accept_queued(sock)
            sock.close()
        # aiohttp's own shutdown stops reading at once, and would cut a request off whose body is still on its way
        await self._close_idle()
        for websocket in list(self._sockets):
            await websocket.close(code=WSCloseCode.GOING_AWAY)
        if self._busy:
            try:
                await asyncio.wait_for(self._idle.wait(), limit_s)
            except TimeoutError:
                pass
        await self._server.shutdown(0)

    async def _accept_queued(self, sock: socket.socket) -> None:
        while True:
            try:
                accepted, _ = sock.accept()
            except OSError:
                return
            accepted.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._server, accepted)

    async def _close_idle(self) -> None:
        """Those that have carried a request at once; others may have been made for one that is on its way."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FIRST_REQUEST_S
        while idle := self._idle_connections():
            late = loop.time() > deadline
            for _, transport in idle:
                transport.pause_reading()
            for _ in range(_TURNS):
                await asyncio.sleep(0)  # what was read before has become a request by then
            for connection, transport in idle:
                if transport.is_closing():
                    continue
                wanted = connection in self._busy or (connection not in self._server.used and not late)
                if not wanted and _shut_down(transport):
                    connection.force_close()
                else:
                    transport.resume_reading()
            await asyncio.sleep(0.002)

    def _idle_connections(self) -> list[tuple[web.RequestHandler, asyncio.Transport]]:
        return [
            (connection, connection.transport)
            for connection in self._server.connections
            if connection not in self._busy and connection.transport and not connection.transport.is_closing()
        ]

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self._busy.add(request.protocol)
        self._server.used.add(request.protocol)
        try:
            response = await self._answer(request)
            if not response.prepared:
                if self._ending:
                    response.force_close()
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            self._busy.discard(request.protocol)
            if self._ending and not self._busy:
                self._idle.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response(text="OK")
        socket = web.WebSocketResponse()
        if socket.can_prepare(request):
            return await self._echo_messages(request, socket)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # so that the response's head may still be written
        length = 0
        async for chunk in request.content.iter_any():
            length += len(chunk)
        query = request.query
        try:
            delay_s = float(query.get("delay_ms", "0")) / 1000
            status = int(query.get("status", "200"))
            size = int(query["bytes"]) if "bytes" in query else None
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        if delay_s > 0:
            await asyncio.sleep(min(delay_s, _LIMIT_DELAY_S))
        if size is not None:
            return web.Response(status=status, body=bytes(min(size, _LIMIT_BYTES)))
        headers = {"X-Content-Type-Options": "nosniff", "X-Pod": self._names["pod"]}
        text = json.dumps(self._describe(request, length), indent=1)
        return web.Response(status=status, text=text, content_type="application/json", headers=headers)

    def _describe(self, request: web.BaseRequest, length: int) -> dict[str, object]:
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            if name.lower() != "host":
                headers.setdefault("-".join(part.capitalize() for part in name.split("-")), []).append(value)
        peer = request.transport.get_extra_info("peername") if request.transport else None
        return {
            "path": request.raw_path,
            "host": request.headers.get("Host", ""),
            "method": request.method,
            "proto": f"HTTP/{request.version.major}.{request.version.minor}",
            "headers": headers,
            **self._names,
            "body_bytes": length,
            "client": f"{peer[0]}:{peer[1]}" if peer else "",
        }

    async def _echo_messages(self, request: web.BaseRequest, socket: web.WebSocketResponse) -> web.WebSocketResponse:
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(f"{self._names['pod']}: {message.data}")
                elif message.type is WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
        finally:
            self._sockets.discard(socket)
        return socket


class _Server(web.Server):
    """Knows which connections have carried a request."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler, keepalive_timeout=75.0, access_log=None)
        self.used: set[object] = set()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self.used.discard(handler)
        super().connection_lost(handler, exc)


def _shut_down(transport: asyncio.Transport) -> bool:
    """False if something waits to be read. Otherwise nothing will any more: whatever comes from now on meets an end that was announced before."""
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sock:
        try:
            if sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return False
        except OSError:
            pass  # nothing, or a reset
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster
        return True
