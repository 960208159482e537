"""Side calls: what leaves, what comes back, how connections are kept, and every way in which there is no answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ingress.middleware.sidecalls import NO_SIDE_CALLS, SideCallError, SideResponse, SideTarget
from ingress.proxy import sidecalls
from ingress.proxy.sidecalls import SideCallClient
from tests.proxy.support import Backend, BackendConnection, Clock, Script, answer, free_port, reply, response, until

HOST = (b"Host", b"auth.test")


class Bench:
    """A client, and servers to call."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.names: dict[str, Any] = {}
        self.looked_up: list[str] = []
        self.client = SideCallClient(asyncio.get_running_loop(), self.clock, self._lookup)
        self.backends: list[Backend] = []

    async def _lookup(self, host: str) -> list[str]:
        self.looked_up.append(host)
        found = self.names[host]
        if isinstance(found, asyncio.Event):
            await found.wait()
            return ["127.0.0.1"]
        if isinstance(found, Exception):
            raise found
        return list(found)

    async def server(self, script: Script) -> Backend:
        backend = Backend(script, "auth")
        await backend.start()
        self.backends.append(backend)
        return backend

    async def call(
        self, backend: Backend | SideTarget, method: bytes = b"GET", path: bytes = b"/", **rest: Any
    ) -> SideResponse:
        target = SideTarget("127.0.0.1", backend.port) if isinstance(backend, Backend) else backend
        rest = {"fields": [HOST], "timeout_s": 5.0, **rest}
        return await self.client.send(target, method, path, rest.pop("fields"), rest.pop("body", b""), **rest)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.client.close()
    await until(lambda: not made.client.connections, "all closed")
    for backend in made.backends:
        await backend.stop()
        assert not backend.faults


async def test_bytes_leave_as_they_are(bench: Bench) -> None:
    backend = await bench.server(answer(b"ignored", 204))
    fields = [HOST, (b"X-Odd", b"\xff\xe9 caf\xc3\xa9"), (b"x-twice", b"1"), (b"X-Twice", b"2")]
    made = await bench.call(backend, b"GET", b"/a?b=\xff", fields=fields)
    assert made.status == 204
    (request,) = backend.requests
    assert request.head == (
        b"GET /a?b=\xff HTTP/1.1\r\nHost: auth.test\r\nX-Odd: \xff\xe9 caf\xc3\xa9\r\nx-twice: 1\r\nX-Twice: 2\r\n\r\n"
    )


async def test_bodies_are_framed(bench: Bench) -> None:
    backend = await bench.server(answer())
    await bench.call(backend, b"POST", body=b"hello")
    await bench.call(backend, b"POST")
    assert [(r.value("content-length"), r.body) for r in backend.requests] == [(b"5", b"hello"), (b"0", b"")]


@pytest.mark.parametrize(
    ("raw", "limit", "body"),
    [
        (response(200, b"hello"), 10, b"hello"),
        (response(200, b"hello"), 4, None),
        (response(200, b""), 0, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", 10, b"hello"),
        (b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n" + response(200, b"hello"), 10, b"hello"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 10, b""),
    ],
)
async def test_answers_and_the_connection_afterwards(bench: Bench, raw: bytes, limit: int, body: bytes | None) -> None:
    backend = await bench.server(reply(lambda request: raw))
    for _ in range(3):
        made = await bench.call(backend, body_limit_bytes=limit)
        assert made.body == body
        assert not made.values(b"x-early")
        assert not made.values(b"x-t")
    assert backend.connections == 1


async def test_head(bench: Bench) -> None:
    backend = await bench.server(reply(lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))
    for _ in range(2):
        assert (await bench.call(backend, b"HEAD")).status == 200
    assert backend.connections <= 2


async def test_a_body_that_ends_with_the_connection(bench: Bench) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello")

    backend = await bench.server(script)
    made = await bench.call(backend, body_limit_bytes=100)
    assert (made.body, made.values(b"x")) == (b"hello", [b"y"])


async def test_a_long_body_is_not_read_to_its_end(bench: Bench) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        while True:
            await connection.send(b"x" * 65536)

    backend = await bench.server(script)
    made = await bench.call(backend)
    assert (made.status, made.body) == (200, None)
    await until(lambda: not backend.open, "the connection was given up")


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 20",
        b"",
    ],
)
async def test_what_is_no_answer(bench: Bench, raw: bytes) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(raw)

    backend = await bench.server(script)
    with pytest.raises(SideCallError):
        await bench.call(backend)
    await until(lambda: not bench.client.connections)


async def test_nothing_that_could_split_a_request_leaves(bench: Bench) -> None:
    backend = await bench.server(answer())
    for changes in (
        {"fields": [HOST, (b"X", b"a\r\nY: b")]},
        {"fields": [HOST, (b"X\r\nY", b"a")]},
        {"fields": [HOST, (b"X", b"a\0")]},
        {"path": b"/a b"},
        {"path": b"/a\r\n"},
        {"path": b""},
        {"path": b"http://other/"},
        {"method": b"GET /"},
        {"method": b""},
    ):
        with pytest.raises(SideCallError):
            await bench.call(backend, **changes)  # type: ignore[arg-type]
    assert backend.connections == 0


async def test_refused_and_unknown(bench: Bench) -> None:
    bench.names["gone.test"] = OSError("not found")
    bench.names["empty.test"] = []
    for target in (SideTarget("127.0.0.1", free_port()), SideTarget("gone.test", 80), SideTarget("empty.test", 80)):
        with pytest.raises(SideCallError):
            await bench.call(target)
    with pytest.raises(SideCallError):
        await NO_SIDE_CALLS.send(SideTarget("a", 1), b"GET", b"/", [], timeout_s=1.0)


async def test_too_slow(bench: Bench) -> None:
    async def silent(connection: BackendConnection) -> None:
        await connection.request()
        await connection.closed()

    backend = await bench.server(silent)
    with pytest.raises(SideCallError, match=r"within 0\.05 s"):
        await bench.call(backend, timeout_s=0.05)
    await until(lambda: not bench.client.connections)
    bench.names["slow.test"] = asyncio.Event()
    with pytest.raises(SideCallError, match="within"):
        await bench.call(SideTarget("slow.test", 1), timeout_s=0.05)
    bench.names["slow.test"].set()


async def test_cancelled_at_every_step(bench: Bench) -> None:
    """Looking up, connecting, waiting for the answer: the connection is given up, and the next call is not harmed."""
    bench.names["auth.test"] = ["127.0.0.1"]
    hold = [True]

    async def script(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            if hold[0]:
                await connection.closed()
                return
            await connection.send(response(200, b"ok"))

    backend = await bench.server(script)
    target = SideTarget("auth.test", backend.port)
    for steps in range(12):
        task = asyncio.ensure_future(bench.call(target))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: not bench.client.connections, "none is left")
    hold[0] = False
    assert (await bench.call(target)).status == 200


async def test_a_kept_connection_that_was_closed_costs_nothing(bench: Bench) -> None:
    async def once(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(response(200, b"ok"))

    backend = await bench.server(once)
    for _ in range(3):
        assert (await bench.call(backend)).status == 200
    assert len(backend.requests) == 3


async def test_connection_close_is_heeded(bench: Bench) -> None:
    backend = await bench.server(answer(fields=[(b"Connection", b"close")]))
    for _ in range(2):
        await bench.call(backend)
    assert backend.connections == 2


async def test_a_second_answer_is_not_taken_for_the_next(bench: Bench) -> None:
    backend = await bench.server(reply(lambda request: response(200, b"a") + response(403, b"b")))
    for _ in range(3):
        assert (await bench.call(backend)).status == 200
    assert backend.connections == 3


async def test_idle_connections_end(bench: Bench) -> None:
    backend = await bench.server(answer())
    await bench.call(backend)
    assert len(bench.client.connections) == 1
    bench.client.sweep(bench.clock.now + 1)
    assert len(bench.client.connections) == 1
    bench.clock.now += sidecalls.IDLE_S + 1
    bench.client.sweep(bench.clock.now)
    await until(lambda: not bench.client.connections)
    await bench.call(backend)
    assert backend.connections == 2


async def test_names_are_remembered_shared_and_looked_up_again(bench: Bench) -> None:
    backend = await bench.server(answer())
    gate = bench.names["auth.test"] = asyncio.Event()
    target = SideTarget("auth.test", backend.port)
    calls = [asyncio.ensure_future(bench.call(target)) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()  # who asked first has left: the look-up is the others' too
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(r) for r in results] == [asyncio.CancelledError, *[SideResponse] * 4]
    assert bench.looked_up == ["auth.test"]
    bench.clock.now += sidecalls.ADDRESS_TTL_S + 1
    bench.names["auth.test"] = OSError("the name server is away")
    assert (await bench.call(target, fields=[HOST])).status == 200  # older addresses do
    bench.clock.now += sidecalls.STALE_S
    with pytest.raises(SideCallError):
        await bench.call(target)
    bench.names["auth.test"] = ["127.0.0.1"]
    assert (await bench.call(target)).status == 200


async def test_the_next_address_is_tried(bench: Bench) -> None:
    backend = await bench.server(answer())
    bench.names["auth.test"] = ["::1", "127.0.0.1"]  # nothing listens there on IPv6
    assert (await bench.call(SideTarget("auth.test", backend.port))).status == 200


async def test_localhost_by_the_system(bench: Bench) -> None:
    backend = await bench.server(answer())
    client = SideCallClient(asyncio.get_running_loop(), bench.clock)
    try:
        made = await client.send(SideTarget("localhost", backend.port), b"GET", b"/", [HOST], timeout_s=5.0)
        assert made.status == 200
    finally:
        client.close()


async def test_targets_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecalls, "TARGET_LIMIT", 3)
    backend = await bench.server(answer())
    for n in range(10):
        bench.names[f"h{n}"] = ["127.0.0.1"]
        await bench.call(SideTarget(f"h{n}", backend.port))
    await until(lambda: len(bench.client.connections) <= 3)
    assert len(bench.client._targets) == 3


async def test_connections_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecalls, "CONNECTION_LIMIT", 2)
    gate = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await gate.wait()
            await connection.send(response(200, b"ok"))

    backend = await bench.server(script)
    calls = [asyncio.ensure_future(bench.call(backend)) for _ in range(6)]
    await until(lambda: len(backend.requests) == 2)
    calls[5].cancel()
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(r) for r in results] == [*[SideResponse] * 5, asyncio.CancelledError]
    assert backend.connections == 2


async def test_tls(bench: Bench, tmp_path: Path) -> None:
    context = _server_context(tmp_path)
    names: list[str | None] = []
    context.sni_callback = lambda sock, name, _: names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(200, b"ok"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        bench.names["auth.test"] = ["127.0.0.1"]
        port = server.sockets[0].getsockname()[1]
        assert (await bench.call(SideTarget("auth.test", port, True))).status == 200
        assert names == ["auth.test"]
        plain = await bench.server(answer())
        with pytest.raises(SideCallError):
            await bench.call(SideTarget("auth.test", plain.port, True))
    finally:
        server.close()


def _server_context(folder: Path) -> ssl.SSLContext:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "auth.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "both.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
