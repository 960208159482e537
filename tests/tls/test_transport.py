"""The TLS transport over one that keeps what is written: fragmentation, back-pressure, ends, as server and as client."""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import TLSSettings
from ingress.tls.contexts import StandardContext
from ingress.tls.engine import StandardEngine
from ingress.tls.transport import TLSTransport, Truncated, failure_reason
from tests.tls.support import client_context, root

ROOT = root()
CERTIFICATE = ROOT.sign("a", ["a.example"]).for_table()
SERVER = StandardContext([CERTIFICATE], TLSSettings(), TLSSettings().ciphers, prefer_server=True)
CLIENT = client_context(ROOT)


class Raw:
    """A transport below. `out` is what it was given, in order; nothing is ever sent."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.reading = True
        self.state = "open"
        self.eof = False
        self.limits: tuple[int | None, int | None] = (None, None)

    def write(self, data: bytes) -> None:
        assert self.state == "open"
        assert not self.eof
        self.out.append(bytes(data))

    def take(self) -> bytes:
        data, self.out = b"".join(self.out), []
        return data

    def close(self) -> None:
        if self.state == "open":
            self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def is_closing(self) -> bool:
        return self.state != "open"

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.out))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("peer", 1) if name == "peername" else default


class Recorder(asyncio.Protocol):
    """A protocol above."""

    def __init__(self, *, half_close: bool = False) -> None:
        self.data: list[bytes] = []
        self.events: list[str] = []
        self.error: BaseException | None = None
        self.half_close = half_close
        self.after: Any = None  # called with each piece of data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(TLSTransport, transport)
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert data
        self.data.append(data)
        if self.after is not None:
            self.after(data)

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.half_close

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.error = exc

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    @property
    def received(self) -> bytes:
        return b"".join(self.data)


class Side:
    """One end of a connection."""

    def __init__(self, *, server_side: bool, name: str = "a.example", half_close: bool = False) -> None:
        self.raw = Raw()
        self.protocol = Recorder(half_close=half_close)
        self.outcomes: list[BaseException | None] = []
        engine = SERVER.open() if server_side else StandardEngine(CLIENT, server_side=False, server_name=name)
        self.tls = TLSTransport(engine, lambda _: self.protocol, lambda _, error: self.outcomes.append(error))
        self.tls.connection_made(cast(asyncio.Transport, self.raw))

    def feed(self, data: bytes, step: int = 1 << 20) -> None:
        for at in range(0, len(data), step):
            self.tls.data_received(data[at : at + step])


def exchange(client: Side, server: Side, step: int = 1 << 20) -> None:
    """Until neither has anything to send."""
    while client.raw.out or server.raw.out:
        server.feed(client.raw.take(), step)
        client.feed(server.raw.take(), step)


def connected(step: int = 1 << 20, **options: bool) -> tuple[Side, Side]:
    client, server = Side(server_side=False), Side(server_side=True, **options)
    exchange(client, server, step)
    assert client.outcomes == server.outcomes == [None]
    assert client.protocol.events == server.protocol.events == ["made"]
    return client, server


@given(st.integers(1, 2000), st.lists(st.binary(min_size=1, max_size=40000), max_size=4))
def test_any_fragmentation(step: int, pieces: list[bytes]) -> None:
    client, server = connected(step)
    for piece in pieces:
        client.tls.write(piece)
        server.tls.writelines([piece, b"", piece])
    exchange(client, server, step)
    assert server.protocol.received == b"".join(pieces)
    assert client.protocol.received == b"".join(piece + piece for piece in pieces)


@given(st.binary(max_size=200), st.integers(0, 3))
def test_junk_ends_the_connection_and_nothing_else(junk: bytes, turns: int) -> None:
    client, server = Side(server_side=False), Side(server_side=True)
    for _ in range(turns):
        server.feed(client.raw.take())
        client.feed(server.raw.take())
    server.feed(junk)
    if server.raw.state != "open":
        server.tls.connection_lost(None)
        assert len(server.outcomes) == 1
        assert failure_reason(server.outcomes[0]) in (
            "protocol_error",
            "closed",
            "unsupported_protocol",
            "alert",
            "no_shared_cipher",
        )
    assert server.protocol.received == b""


def test_one_write_is_one_piece_below() -> None:
    _, server = connected()
    server.tls.write(b"x" * 100_000)
    assert len(server.raw.out) == 1
    server.tls.writelines([b"a", b"b" * 20_000, b"c"])
    assert len(server.raw.out) == 2


def test_what_comes_with_the_last_of_the_handshake_is_delivered() -> None:
    client, server = Side(server_side=False), Side(server_side=True)
    client.tls.write(b"early")  # before the handshake: sent when it is over
    exchange(client, server)
    assert server.protocol.received == b"early"


def test_too_much_before_the_handshake() -> None:
    client = Side(server_side=False)
    assert client.tls.get_write_buffer_size() == 0
    client.tls.write(b"x" * 200_000)
    assert client.tls.get_write_buffer_size() == 200_000
    with pytest.raises(ConnectionError):
        client.tls.write(b"x" * 200_000)


def test_a_client_verifies_the_name() -> None:
    client, server = Side(server_side=False, name="b.example"), Side(server_side=True)
    exchange(client, server)
    (error,) = client.outcomes
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert client.raw.state == "closed"
    assert failure_reason(error) == "verify_failed"
    assert failure_reason(server.outcomes[0]) == "alert"
    assert not client.protocol.events


# ---- back-pressure --------------------------------------------------------------------------------------------------


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_paused_protocol_gets_nothing() -> None:
    client, server = connected()
    server.tls.pause_reading()
    assert not server.raw.reading
    client.tls.write(b"x" * 50_000)
    server.feed(client.raw.take())  # what was on its way
    assert not server.protocol.data
    server.tls.resume_reading()
    assert server.raw.reading
    assert not server.protocol.data  # not within the call
    await turn()
    assert len(server.protocol.received) == 50_000


async def test_pausing_while_data_is_delivered() -> None:
    client, server = connected()
    server.protocol.after = lambda _: server.tls.pause_reading()
    for _ in range(40):
        client.tls.write(b"x" * 16_384)
    server.feed(client.raw.take(), 300_000)
    got = len(server.protocol.received)
    assert got < 40 * 16_384
    server.protocol.after = None
    server.tls.resume_reading()
    await turn()
    assert len(server.protocol.received) == 40 * 16_384


async def test_the_end_behind_a_pause() -> None:
    """close_notify and FIN come while the protocol wants nothing: all data first, then a regular end."""
    client, server = connected()
    server.tls.pause_reading()
    client.tls.write(b"last")
    client.tls.close()
    server.feed(client.raw.take())
    assert server.tls.eof_received()
    server.tls.resume_reading()
    await turn()
    assert server.protocol.received == b"last"
    assert server.protocol.events == ["made", "eof"]
    server.tls.connection_lost(None)
    assert server.protocol.error is None


async def test_a_cut_behind_a_pause() -> None:
    client, server = connected()
    server.tls.pause_reading()
    client.tls.write(b"last")
    server.feed(client.raw.take())
    assert server.tls.eof_received()
    server.tls.resume_reading()
    await turn()
    assert server.protocol.received == b"last"
    assert server.raw.state == "closed"
    server.tls.connection_lost(None)
    assert isinstance(server.protocol.error, Truncated)


def test_limits_and_pauses_of_the_transport_below_are_those_above() -> None:
    _, server = connected()
    server.tls.set_write_buffer_limits(high=100)
    assert server.raw.limits == (100, None)
    server.tls.pause_writing()
    server.tls.resume_writing()
    assert server.protocol.events == ["made", "pause", "resume"]
    server.tls.write(b"x" * 1000)
    assert server.tls.get_write_buffer_size() > 1000


def test_who_asks_for_answers_and_reads_none_is_cut() -> None:
    """A client can make TLS itself talk (key updates, refused renegotiations); that is bounded by no protocol above."""
    client, server = connected()
    server.raw.out.append(b"x" * (1 << 20))  # unsent
    for state in ("open", "aborted"):
        client.tls.write(b"x")
        server.feed(client.raw.take())
        assert server.raw.state == state
        server.tls._outgoing.write(b"an answer")  # type: ignore[attr-defined]
    assert server.protocol.received == b"xx"


# ---- ends -----------------------------------------------------------------------------------------------------------


def test_close_sends_close_notify() -> None:
    client, server = connected()
    server.tls.write(b"bye")
    server.tls.close()
    assert server.raw.state == "closed"
    client.feed(server.raw.take())
    assert client.protocol.received == b"bye"
    assert client.protocol.events == ["made", "eof"]
    assert client.raw.state == "closed"
    client.tls.connection_lost(None)
    assert client.protocol.error is None


def test_a_cut_is_an_error() -> None:
    client, _ = connected()
    assert not client.tls.eof_received()
    client.tls.connection_lost(None)
    assert client.protocol.events == ["made", "lost"]  # no end that a body could take for its own
    assert isinstance(client.protocol.error, Truncated)


def test_abort_says_nothing() -> None:
    _, server = connected()
    server.tls.abort()
    assert server.raw.state == "aborted"
    assert not server.raw.out


def test_nothing_is_delivered_after_close() -> None:
    client, server = connected()
    client.tls.write(b"one")
    client.tls.write(b"two")
    server.protocol.after = lambda _: server.tls.close()
    for piece in client.raw.out:
        server.feed(piece)
    assert server.protocol.received == b"one"


def test_writes_after_the_end_are_dropped() -> None:
    _, server = connected()
    server.tls.close()
    sent = len(server.raw.out)
    server.tls.write(b"x")
    assert len(server.raw.out) == sent
    server.tls.connection_lost(None)
    server.tls.write(b"x")
    server.tls.close()
    server.tls.abort()


@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close(first: str) -> None:
    """The side that has said all it will goes on hearing."""
    client, server = connected(half_close=True)
    client.protocol.half_close = True
    ending, other = (client, server) if first == "client" else (server, client)
    ending.tls.write_eof()
    assert ending.raw.eof
    other.feed(ending.raw.take())
    assert other.protocol.events == ["made", "eof"]
    assert other.tls.eof_received()  # the FIN behind it ends nothing more
    for number in range(3):
        other.tls.write(b"%d" % number)
        ending.feed(other.raw.take())
    assert ending.protocol.received == b"012"
    other.tls.close()
    ending.feed(other.raw.take())
    assert ending.protocol.events == ["made", "eof"]


async def test_write_eof_while_paused() -> None:
    """What has come and isn't read yet is read nevertheless, and then the end goes out."""
    client, server = connected(half_close=True)
    server.tls.pause_reading()
    client.tls.write(b"question")
    server.feed(client.raw.take())
    server.tls.write_eof()
    server.tls.resume_reading()
    await turn()
    assert server.protocol.received == b"question"
    assert server.raw.eof


def test_a_damaged_record_is_the_end() -> None:
    client, server = connected()
    client.tls.write(b"hello")
    data = bytearray(client.raw.take())
    data[-1] ^= 1
    server.feed(bytes(data))
    assert server.raw.state == "aborted"
    server.tls.connection_lost(None)
    assert not server.protocol.data
    assert isinstance(server.protocol.error, ssl.SSLError)


def test_lost_within_the_handshake() -> None:
    client, server = Side(server_side=False), Side(server_side=True)
    server.feed(client.raw.take())
    server.tls.connection_lost(ConnectionResetError())
    assert [failure_reason(error) for error in server.outcomes] == ["closed"]
    assert not server.protocol.events


def test_extra_info() -> None:
    client, server = connected()
    assert server.tls.get_extra_info("peername") == ("peer", 1)
    assert server.tls.get_extra_info("nothing", 5) == 5
    assert server.tls.get_extra_info("ssl_object") is not None
    info = server.tls.get_extra_info("tls")
    assert (info.protocol, info.alpn, info.resumed, info.client.verify) == ("TLSv1.3", "", False, "NONE")
    assert info.cipher == client.tls.info.cipher


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([None, ConnectionResetError(), Truncated()], "closed"),
        ([ssl.SSLError(1, "[SSL: WHATEVER] x")], "protocol_error"),
    ],
)
def test_reasons(errors: Iterable[BaseException | None], reason: str) -> None:
    assert {failure_reason(error) for error in errors} == {reason}
