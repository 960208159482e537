"""A plain HTTP/1.1 client that notices everything: a short body, a wrong status, a connection cut without a word.

Written apart from the proxy's own parsing on purpose. One request at a time on a connection; nothing is retried here.
"""

import asyncio
import base64
import hashlib
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.support.backend import websocket_accept
from bench.support.content import digest

READ_BYTES = 64 * 1024


class ClientError(Exception):
    """An exchange that did not go as HTTP says it should, or not as the test expects."""


@dataclass(frozen=True, slots=True)
class Head:
    """Field names in lower case; of repeated fields the last."""

    status: int
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: Mapping[str, str]
    size: int
    sha256: str
    text: str  # the first kilobytes of the body

    @property
    def backend(self) -> str:
        return self.fields.get("x-backend", "")


def parse_head(raw: bytes) -> Head:
    """`raw` ends with the empty line. Raise ClientError when it is no HTTP/1.1 response head."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
        raise ClientError(f"no status line: {first[:80]!r}")
    fields = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
    return Head(int(rest[:3]), fields)


class Connection:
    """`open` it, `request` as often as `reusable`, `close` it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.reusable = True

    @classmethod
    async def open(cls, port: int, host: str = "127.0.0.1", receive_buffer_bytes: int | None = None) -> "Connection":
        """A small `receive_buffer_bytes` makes the sender feel a slow reader early."""
        if receive_buffer_bytes is None:
            return cls(*await asyncio.open_connection(host, port))
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)  # only counts before connect
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
            return cls(*await asyncio.open_connection(sock=sock))
        except BaseException:
            sock.close()
            raise

    async def close(self) -> None:
        self.reusable = False
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # reset by the other side: closed all the same

    async def request(
        self,
        method: str,
        host: str,
        target: str,
        *,
        body: Iterable[bytes] | None = None,
        size: int | None = None,
        close: bool = False,
        read_pause_s: float = 0.0,
    ) -> Answer:
        """Send a request and read its whole answer.

        `body` goes with Content-Length when `size` is given, else chunked. `read_pause_s` makes a slow reader: a
        rest after each 64 KiB. Raise ClientError or an OSError for anything but a complete answer.
        """
        self._writer.write(_request_head(method, host, target, body is not None, size, close))
        sending = asyncio.create_task(self._send(body, chunked=size is None)) if body is not None else None
        try:
            head = await self._read_head()
            while 100 <= head.status < 200:
                head = await self._read_head()
            answer = await self._read_answer(head, bodiless=method == "HEAD", pause_s=read_pause_s)
            if sending is not None:
                if answer.status >= 400 and not sending.done():
                    self.reusable = False  # refused before the end of the body: the rest will not be read
                else:
                    await sending
        finally:
            if sending is not None:
                sending.cancel()
        if close or answer.fields.get("connection", "").lower() == "close":
            self.reusable = False
        return answer

    async def upgrade(self, host: str, target: str, key: bytes) -> Head:
        """Ask for a WebSocket; afterwards `echo` works. Raise ClientError unless it is granted."""
        encoded = base64.b64encode(key)
        self._writer.write(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {encoded.decode()}\r\n\r\n".encode()
        )
        head = await self._read_head()
        if head.status != 101:
            raise ClientError(f"status {head.status} instead of 101")
        if head.fields.get("sec-websocket-accept", "").encode() != websocket_accept(encoded):
            raise ClientError("wrong Sec-WebSocket-Accept")
        self.reusable = False
        return head

    async def echo(self, data: bytes) -> None:
        """Raise ClientError unless the same bytes come back."""
        self._writer.write(data)
        await self._writer.drain()
        try:
            back = await self._reader.readexactly(len(data))
        except asyncio.IncompleteReadError as error:
            raise ClientError(f"tunnel cut after {len(error.partial)} of {len(data)} bytes") from error
        if back != data:
            raise ClientError("the tunnel gave back other bytes")

    def cut(self) -> bool:
        """Whether the other side has closed an idle tunnel."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def _send(self, body: Iterable[bytes], chunked: bool) -> None:
        for block in body:
            self._writer.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
            await self._writer.drain()
        if chunked:
            self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()

    async def _read_head(self) -> Head:
        try:
            return parse_head(await self._reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            where = f"inside the head, after {error.partial[:60]!r}" if error.partial else "without an answer"
            raise ClientError(f"connection closed {where}") from error

    async def _read_answer(self, head: Head, bodiless: bool, pause_s: float) -> Answer:
        sha, size, start = hashlib.sha256(), 0, b""

        async def take(count: int) -> int:
            nonlocal size, start
            block = await self._reader.read(min(count, READ_BYTES))
            if not block:
                raise ClientError(f"connection closed inside the body, after {size} bytes")
            sha.update(block)
            size += len(block)
            if len(start) < 4096:
                start += block[:4096]
            if pause_s:
                await asyncio.sleep(pause_s)
            return len(block)

        if not bodiless and head.status not in (204, 304):
            if head.fields.get("transfer-encoding", "").lower() == "chunked":
                while length := await self._chunk_size():
                    while length:
                        length -= await take(length)
                    await self._line()
                while await self._line():
                    pass  # trailer fields
            elif "content-length" in head.fields:
                length = int(head.fields["content-length"])
                while length:
                    length -= await take(length)
            else:
                raise ClientError("neither Content-Length nor chunked")
        return Answer(head.status, head.fields, size, sha.hexdigest(), start.decode(errors="replace"))

    async def _chunk_size(self) -> int:
        line = await self._line()
        try:
            return int(line.partition(b";")[0], 16)
        except ValueError:
            raise ClientError(f"no chunk size: {line[:40]!r}") from None

    async def _line(self) -> bytes:
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2]
        except asyncio.IncompleteReadError as error:
            raise ClientError("connection closed between two chunks") from error


def _request_head(method: str, host: str, target: str, has_body: bool, size: int | None, close: bool) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "User-Agent: bench"]
    if has_body:
        lines.append("Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


def expect_ok(answer: Answer) -> None:
    if answer.status != 200:
        raise ClientError(f"status {answer.status}: {answer.text[:80]!r}")


def expect_body(answer: Answer, seed: int, size: int) -> None:
    """The answer carries the bytes made from the seed."""
    expect_ok(answer)
    if answer.size != size:
        raise ClientError(f"{answer.size} bytes instead of {size}")
    if answer.sha256 != digest(seed, size):
        raise ClientError(f"{size} bytes, but other ones than were sent")


def expect_received(answer: Answer, seed: int, size: int) -> None:
    """The backend says that it received the bytes made from the seed."""
    expect_ok(answer)
    found = json.loads(answer.text)
    if found["bytes"] != size:
        raise ClientError(f"the backend received {found['bytes']} bytes instead of {size}")
    if found["sha256"] != digest(seed, size):
        raise ClientError(f"the backend received {size} bytes, but other ones than were sent")
