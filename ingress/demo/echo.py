"""The echo backend: an HTTP server that says who answered and, if asked, what it received.

    /                     You've hit NAME
    …/echo, ?verbose      the request as JSON; also for `Accept: application/json`
    …/status/503          that status (200 to 599)
    …/delay/2             You've hit NAME, after that many seconds (up to 60)
    …/bytes/1000000       that many bytes (up to 1 GiB)
    …/sse                 a Server-Sent Event each second; ?count=3&interval=0.1
    Upgrade: websocket    every message comes back, on any path

Only the end of the path counts, so all of them work behind any path of an Ingress. Request bodies are read and counted, not kept.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping

from aiohttp import WSMsgType, web
from multidict import MultiMapping

NameOf = Callable[[web.Request], str]
"""The name to answer with; depends on the request because one app can play several Pods."""

_LIMIT_BYTES = 1 << 30
_LIMIT_DELAY_S = 60.0
_WITHOUT_BODY = (204, 205, 304)
_CHUNK = b"0123456789abcde\n" * 4096  # 64 KiB
_ACTION = re.compile(
    r"/(?:(?P<echo>echo)|(?P<sse>sse)|status/(?P<status>[2-5]\d\d)"
    r"|delay/(?P<delay>\d{1,3}(?:\.\d{1,3})?)|bytes/(?P<bytes>\d{1,10}))$",
    re.ASCII,
)


def make_app(name_of: NameOf) -> web.Application:
    """An app that answers every method and path."""

    async def handle(request: web.Request) -> web.StreamResponse:
        name = name_of(request)
        socket = web.WebSocketResponse()
        if socket.can_prepare(request):
            return await _echo_messages(request, socket)
        length = 0
        async for chunk in request.content.iter_any():
            length += len(chunk)
        action = _ACTION.search(request.rel_url.raw_path)
        wanted = {what: value for what, value in action.groupdict().items() if value} if action else {}
        if "sse" in wanted:
            return await _send_events(request, name)
        if "bytes" in wanted:
            return await _send_bytes(request, int(wanted["bytes"]))
        if "status" in wanted:
            return _status(int(wanted["status"]), name)
        if "delay" in wanted:
            await asyncio.sleep(min(float(wanted["delay"]), _LIMIT_DELAY_S))
        elif "echo" in wanted or "verbose" in request.query or "application/json" in request.headers.get("Accept", ""):
            return _details(request, name, length)
        return _greeting(name)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def _status(status: int, name: str) -> web.Response:
    return web.Response(status=status, text=None if status in _WITHOUT_BODY else f"{status} from {name}\n")


def _greeting(name: str) -> web.Response:
    return web.Response(text=f"You've hit {name}\n")


def _details(request: web.Request, name: str, body_bytes: int) -> web.Response:
    """Names that occur more than once have a list of their values."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    details = {
        "pod": name,
        "method": request.method,
        "path": request.rel_url.raw_path,
        "query": _plain(request.query),
        "http_version": f"{request.version.major}.{request.version.minor}",
        "headers": _plain(request.headers),
        "body_bytes": body_bytes,
        "client": f"{peer[0]}:{peer[1]}" if peer else "",
    }
    return web.Response(text=json.dumps(details, indent=2) + "\n", content_type="application/json")


def _plain(items: MultiMapping[str]) -> Mapping[str, str | list[str]]:
    values = {name: items.getall(name) for name in items}
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


async def _send_bytes(request: web.Request, size: int) -> web.StreamResponse:
    if size > _LIMIT_BYTES:
        return web.Response(status=400, text=f"{size} is more than {_LIMIT_BYTES} bytes\n")
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = size
    await response.prepare(request)
    if request.method != "HEAD":
        for chunk in _chunks(size):
            await response.write(chunk)
    return response


def _chunks(size: int) -> Iterator[bytes]:
    while size > 0:
        yield _CHUNK[:size]
        size -= len(_CHUNK)


async def _send_events(request: web.Request, name: str) -> web.StreamResponse:
    """Endless without `count`: it ends with the connection."""
    try:
        count = int(request.query.get("count", "0"))
        interval_s = float(request.query.get("interval", "1"))
    except ValueError:
        count, interval_s = -1, 0.0
    if count < 0 or not 0.0 <= interval_s <= _LIMIT_DELAY_S:  # `not`: also refuses nan
        return web.Response(status=400, text=f"count is a number, interval is 0 to {_LIMIT_DELAY_S:.0f} seconds\n")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    number = 0
    while True:
        number += 1
        await response.write(f"id: {number}\ndata: {name} {number}\n\n".encode())
        if number == count:
            return response
        await asyncio.sleep(max(interval_s, 0.01))


async def _echo_messages(request: web.Request, socket: web.WebSocketResponse) -> web.WebSocketResponse:
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket
