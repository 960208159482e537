"""The echo server in a Pod: says in JSON who answered and what it received.

    path, host, method, proto, headers      the request; headers as name -> list of values, names in the canonical form of Go
    namespace, ingress, service, pod        the Pod's environment (NAMESPACE, INGRESS_NAME, SERVICE_NAME, POD_NAME); pod is never empty
    node, body_bytes, client

That is what the echo server of the Ingress conformance suite says, and more. `/health` answers OK. In the query: `delay_ms` (waits before it answers),
`status` (answers so), `bytes` (so many bytes instead of JSON). A WebSocket handshake gets its messages back, each prefixed with the Pod's name.

An end is like that of a well-behaved server: it stops accepting, closes idle connections, answers what it has begun, then closes.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence

from aiohttp import WSCloseCode, WSMsgType, web

_LIMIT_BYTES = 1 << 28
_LIMIT_DELAY_S = 60.0


class EchoServer:
    """Listens on `ports` of one address until `stop`. `names`: what to say about the Pod."""

    def __init__(self, address: str, ports: Sequence[int], names: Mapping[str, str]) -> None:
        self._address = address
        self._ports = ports
        self._names = dict(names)
        self._sockets: set[web.WebSocketResponse] = set()
        self._server = web.Server(self._serve, keepalive_timeout=75.0, access_log=None)
        self._listening: list[asyncio.Server] = []
        self._busy: set[object] = set()  # connections with a request under way
        self._idle = asyncio.Event()  # while it ends: nothing is under way any more
        self._ending = False

    async def start(self) -> None:
        """Raises OSError when a port is taken."""
        loop = asyncio.get_running_loop()
        for port in self._ports:
            self._listening.append(await loop.create_server(self._server, self._address, port, backlog=1024))

    async def stop(self, limit_s: float) -> None:
        """What is under way has `limit_s` to finish; then it is cut off."""
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        self._ending = True
        for _ in range(2):
            await asyncio.sleep(0)  # what has just arrived counts as under way
        # aiohttp's own shutdown stops reading at once, and would cut a request off whose body is still on its way
        for connection in self._server.connections:
            if connection not in self._busy:
                connection.force_close()
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY)
        if self._busy:
            try:
                await asyncio.wait_for(self._idle.wait(), limit_s)
            except TimeoutError:
                pass
        await self._server.shutdown(0)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self._busy.add(request.protocol)
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
