"""TLS layers beside each other: a request's record in, a response's record out, over a transport that keeps what is written.

The client's share (OpenSSL by memory, the same in all of them) is a case of its own, to be subtracted.
"""

import asyncio
import asyncio.sslproto
import datetime
import ssl
from collections.abc import Callable
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ingress.config import TLSSettings
from ingress.routing.tls import Certificate, CertificateKey
from ingress.tls.clienthello import parse_client_hello
from ingress.tls.contexts import StandardContext
from ingress.tls.transport import TLSTransport

REQUEST, RESPONSE = b"x" * 100, b"x" * 300
_NAME = "bench.example.com"


class _Raw:
    """As much of a transport as a TLS layer uses."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(bytes(data))

    def writelines(self, parts: list[bytes]) -> None:
        self.sent.extend(bytes(part) for part in parts)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...

    close = pause_reading = resume_reading = abort

    def _force_close(self, exc: BaseException | None) -> None: ...


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(RESPONSE)


def certificate() -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(CertificateKey("bench"), built.public_bytes(pem), private)


class _Client:
    def __init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=_NAME)

    def step(self, data: bytes) -> bytes:
        """One step of the handshake."""
        self.incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def request(self) -> bytes:
        self.tls.write(REQUEST)
        return self.outgoing.read()

    def response(self, data: bytes) -> None:
        self.incoming.write(data)
        if self.tls.read(16384) != RESPONSE:
            raise AssertionError("another answer")


Receive = Callable[[bytes], None]


def _ours(raw: _Raw, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext) -> Receive:
    wrapped = StandardContext.__new__(StandardContext)
    wrapped.context = context
    transport = TLSTransport(wrapped.open(), lambda _: _Echo(), lambda *_: None)
    transport.connection_made(cast(asyncio.Transport, raw))
    return transport.data_received


def _theirs(kind: Callable[..., Any]) -> Callable[[_Raw, asyncio.AbstractEventLoop, ssl.SSLContext], Receive]:
    def make(raw: _Raw, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext) -> Receive:
        protocol = kind(loop, _Echo(), context, None, server_side=True)
        protocol.connection_made(raw)

        def receive(data: bytes) -> None:
            view = memoryview(protocol.get_buffer(len(data)))
            view[: len(data)] = data
            protocol.buffer_updated(len(data))

        return receive

    return make


def keep_alive(
    make: Callable[[_Raw, asyncio.AbstractEventLoop, ssl.SSLContext], Receive],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Callable[[], Callable[[], object]]:
    """One request and its response a call, on a connection whose handshake is over."""

    def prepare() -> Callable[[], object]:
        loop = new_loop()
        raw, client = _Raw(), _Client()
        context = StandardContext([certificate()], TLSSettings(), TLSSettings().ciphers, prefer_server=True).context

        async def open_connection() -> Receive:
            receive = make(raw, loop, context)
            flight = client.step(b"")
            for _ in range(3):
                if flight:
                    receive(flight)
                await asyncio.sleep(0)
                flight = client.step(b"".join(raw.sent))
                raw.sent.clear()
            return receive

        receive = loop.run_until_complete(open_connection())

        def once() -> None:
            receive(client.request())
            (answer,) = raw.sent
            raw.sent.clear()
            client.response(answer)

        async def run() -> None:  # uvloop's layer asks for the running loop
            once()

        loop.run_until_complete(run())
        loop.close()
        return once

    return prepare


def _hello() -> Callable[[], object]:
    data = _Client().step(b"")
    return lambda: parse_client_hello(data)


def _context() -> Callable[[], object]:
    shown, settings = [certificate()], TLSSettings()
    return lambda: StandardContext(shown, settings, settings.ciphers, prefer_server=True)


def _both_sides() -> Callable[[], object]:
    """OpenSSL alone on both sides: what no layer can save."""
    client = _Client()
    context = StandardContext([certificate()], TLSSettings(), TLSSettings().ciphers, prefer_server=True).context
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    flight = client.step(b"")
    for _ in range(3):
        incoming.write(flight)
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            pass
        flight = client.step(outgoing.read())

    def once() -> None:
        incoming.write(client.request())
        server.read(16384)
        server.write(RESPONSE)
        client.response(outgoing.read())

    return once


def layers() -> dict[str, Callable[[], Callable[[], object]]]:
    found = {
        "TLS request and response, OpenSSL alone (client and server)": _both_sides,
        "TLS request and response, our layer": keep_alive(_ours),
        "TLS request and response, asyncio's layer": keep_alive(_theirs(asyncio.sslproto.SSLProtocol)),
    }
    try:
        import uvloop
    except ImportError:
        pass
    else:
        found["TLS request and response, uvloop's layer"] = keep_alive(
            _theirs(vars(uvloop.loop)["SSLProtocol"]), uvloop.new_event_loop
        )
    return found | {"a ClientHello read": _hello, "a TLS context made": _context}
