"""TLS between a transport and a protocol, for either side of a connection.

`TLSTransport` is the protocol of the transport below it and the transport of the protocol above it: one object, nothing in between. It
encrypts and decrypts in the call that brings the bytes, keeps none of its own once the handshake is done (what can't be sent waits in the
transport below, whose limits therefore hold for the protocol above), and sets no timer: whoever owns it looks after its handshake.

Unlike asyncio's and uvloop's own it can begin with bytes that somebody else has read, tells a connection that was cut from one that was
closed, and writes each response as one piece (docs/adr/0005).
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from ingress.routing.client_auth import ClientIdentity
from ingress.tls.engine import Engine

_RECORD_BYTES = 16384  # of plain text, at most: what one read of OpenSSL returns
_GATHER_BYTES = 262144  # what is read before the protocol gets it; the transport below brings no more at once
_UNASKED_LIMIT_BYTES = 1 << 20  # unsent, when TLS itself adds to it
_EARLY_LIMIT_BYTES = 262144  # written before the handshake is complete

# Reasons for the metric: OpenSSL's words to ours. The set is bounded, whatever comes over the wire.
_REASONS = {
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no_shared_cipher",
    "NO_SUITABLE_KEY_SHARE": "no_shared_cipher",
    "UNSUPPORTED_PROTOCOL": "unsupported_protocol",
    "VERSION_TOO_LOW": "unsupported_protocol",
    "CERTIFICATE_VERIFY_FAILED": "verify_failed",
}


def failure_reason(error: BaseException | None) -> str:
    """A label for what ended a handshake; one of about ten."""
    if isinstance(error, ssl.SSLError):
        word = getattr(error, "reason", "") or ""  # only OpenSSL sets it
        if "ALERT" in word:
            return "alert"  # the other side gave up, mostly for our certificate
        return _REASONS.get(word, "protocol_error")
    return "closed"


class Truncated(ConnectionError):
    """The connection ended without TLS's own end (RFC 8446 section 6.1): what came may not be all."""


class ConnectionInfo:
    """About one TLS connection; computed when asked for. `host`: its TLSHost, chosen by SNI; None: it had none."""

    __slots__ = ("_engine", "_identity", "host", "server_name")

    def __init__(self, engine: Engine, server_name: str, host: Any = None) -> None:
        self._engine = engine
        self._identity: ClientIdentity | None = None
        self.server_name = server_name
        self.host = host

    @property
    def protocol(self) -> str:
        """`TLSv1.3`, as nginx's $ssl_protocol."""
        return self._engine.session.version() or ""

    @property
    def cipher(self) -> str:
        """OpenSSL's name, as nginx's $ssl_cipher."""
        cipher = self._engine.session.cipher()
        return cipher[0] if cipher else ""

    @property
    def resumed(self) -> bool:
        return bool(self._engine.session.session_reused)

    @property
    def alpn(self) -> str:
        return self._engine.session.selected_alpn_protocol() or ""

    @property
    def client(self) -> ClientIdentity:
        """The client certificate and what it was worth."""
        if self._identity is None:
            self._identity = self._engine.identity()
        return self._identity


class TLSTransport(asyncio.Protocol):
    """See the module.

    `make_protocol` is called when the handshake is complete, with this transport: the protocol exists only for connections that are worth one.
    `on_handshake` is called once, when it is complete (None) or has failed (why): `ssl.SSLError`, OSError, or Truncated.
    """

    __slots__ = (
        "_closing",
        "_early",
        "_early_bytes",
        "_engine",
        "_eof_due",
        "_eof_sent",
        "_error",
        "_established",
        "_incoming",
        "_limits",
        "_make_protocol",
        "_on_handshake",
        "_outgoing",
        "_paused",
        "_peer_ended",
        "_protocol",
        "_pump_due",
        "_raw",
        "_session",
        "info",
    )

    def __init__(
        self,
        engine: Engine,
        make_protocol: Callable[["TLSTransport"], asyncio.Protocol],
        on_handshake: Callable[["TLSTransport", BaseException | None], None],
        info: ConnectionInfo | None = None,
    ) -> None:
        self._engine = engine
        self._session = engine.session
        self._incoming = engine.incoming
        self._outgoing = engine.outgoing
        self._make_protocol = make_protocol
        self._on_handshake: Callable[[TLSTransport, BaseException | None], None] | None = on_handshake
        self.info = info if info is not None else ConnectionInfo(engine, "")
        self._raw: asyncio.Transport | None = None
        self._protocol: asyncio.Protocol | None = None
        self._established = False
        self._closing = False  # the protocol gets nothing any more
        self._paused = False  # it wants nothing at the moment
        self._peer_ended = False
        self._pump_due = False
        self._eof_due = False
        self._eof_sent = False
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._error: BaseException | None = None

    # ---- protocol of the transport below -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        if not self._engine.server_side:
            self._handshake()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._incoming.write(data)
        if self._established:
            self._pump()
        else:
            self._handshake()

    def eof_received(self) -> bool:
        """The connection below has ended. Without close_notify before it, that is a cut."""
        if self._peer_ended:
            return not self._closing  # close_notify came before: the protocol knows, and may go on writing
        if self._established and not self._closing and self._paused and self._incoming.pending:
            # There is more to be read, perhaps close_notify too. The transport below tells its end only once.
            self._error = Truncated("the connection was cut inside a TLS stream")
            return True
        if not self._closing:
            self._error = Truncated("the connection was closed without close_notify")
        self._closing = True
        return False  # the transport below closes itself, connection_lost follows

    def connection_lost(self, exc: BaseException | None) -> None:
        self._closing = True
        error = self._error or exc
        self._raw = None
        self._early.clear()
        if not self._established:
            self._finish_handshake(error or Truncated("the connection was closed during the handshake"))
            return
        self._forget_nothing()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(cast(Exception | None, error))

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    # ---- handshake -------------------------------------------------------------------------------------------------

    def _handshake(self) -> None:
        if self._closing:
            return
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except (ssl.SSLError, OSError) as error:
            self._send()  # the alert that says why
            self._closing = True
            self._error = error
            self._finish_handshake(error)
            if self._raw is not None:
                self._raw.close()
            return
        self._established = True
        self._send()
        self._finish_handshake(None)
        if self.is_closing():
            return
        protocol = self._protocol = self._make_protocol(self)
        protocol.connection_made(cast(asyncio.BaseTransport, self))
        if self._early:
            early, self._early = self._early, []
            self.write(b"".join(early))
        if self._incoming.pending:
            self._pump()

    def _finish_handshake(self, error: BaseException | None) -> None:
        on_handshake, self._on_handshake = self._on_handshake, None
        if on_handshake is not None:
            on_handshake(self, error)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Give the protocol what can be decrypted, until there is no more or it wants no more."""
        session, incoming = self._session, self._incoming
        read = session.read
        while not self._paused and not self._closing:
            parts: list[bytes] | None = None
            data = b""
            ended = more = False
            try:
                data = read(_RECORD_BYTES)
                if data and incoming.pending:
                    parts, size = [data], len(data)
                    while size < _GATHER_BYTES and incoming.pending:
                        data = read(_RECORD_BYTES)
                        if not data:
                            break
                        parts.append(data)
                        size += len(data)
                ended = not data
                more = incoming.pending > 0
            except ssl.SSLWantReadError:
                ended = False
            except ssl.SSLZeroReturnError:
                ended = True
            except ssl.SSLError as error:
                self._deliver(parts, b"")
                self._fail(error)
                return
            self._deliver(parts, data)
            if ended:
                self._ended()
                return
            if not more:
                break
        if self._outgoing.pending:  # a key update is answered, a second handshake refused
            self._answer()
        if self._eof_due and not incoming.pending:
            self.write_eof()

    def _answer(self) -> None:
        """Send what OpenSSL has to say by itself. Nobody's flow control holds for it: who asks for ever more and reads none of it is cut."""
        self._send()
        if self._raw is not None and self._raw.get_write_buffer_size() > _UNASKED_LIMIT_BYTES:
            self.abort()

    def _deliver(self, parts: list[bytes] | None, data: bytes) -> None:
        if parts is not None:
            data = b"".join(parts)
        if data and not self._closing and self._protocol is not None:
            self._protocol.data_received(data)

    def _ended(self) -> None:
        """close_notify came: the end as it should be."""
        if self._closing or self._protocol is None:
            return
        self._error = None
        self._peer_ended = True
        if not self._protocol.eof_received():
            self.close()

    def _fail(self, error: BaseException) -> None:
        """Nothing that comes can be trusted any more."""
        self._send()
        self._error = error
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def _resumed(self) -> None:
        self._pump_due = False
        if self._raw is None and self._protocol is None:
            return
        if not self._paused and not self._closing:
            self._pump()
            if self._error is not None and not self.is_closing() and self.is_reading():
                self._closing = True  # the cut that was put off by eof_received
                if self._raw is not None:
                    self._raw.close()

    # ---- transport of the protocol above ---------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._established:
            self._write_early(bytes(data))
            return
        if self._eof_sent or self._closing or self._raw is None or not data:
            return
        try:
            written = self._session.write(data)
            while written < len(data):
                written += self._session.write(memoryview(data)[written:])
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._raw.write(self._outgoing.read())

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def _write_early(self, data: bytes) -> None:
        self._early_bytes += len(data)
        if self._early_bytes > _EARLY_LIMIT_BYTES:
            raise ConnectionError("too much was written before the TLS handshake")
        self._early.append(data)

    def _send(self) -> None:
        if self._outgoing.pending and self._raw is not None and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def write_eof(self) -> None:
        """close_notify and FIN; reading goes on."""
        if self._eof_sent or self._raw is None:
            return
        if self._incoming.pending and not self._closing:
            self._eof_due = (
                True  # OpenSSL can't read on behind the end it has sent, if it must look at input to send it
            )
            return
        self._notify()
        if self._raw.can_write_eof():
            self._raw.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def _notify(self) -> None:
        """Send close_notify, without waiting for the other side's (RFC 8446 section 6.1)."""
        if not self._eof_sent and self._established:
            self._eof_sent = True
            try:
                self._session.unwrap()
            except ssl.SSLError:
                pass  # nearly always: the other side has not sent its own yet
            self._send()

    def _forget_nothing(self) -> None:
        """OpenSSL drops the session of a connection that ends without close_notify, and TLS 1.2 clients couldn't resume it. Clients that
        just hang up are many; a cut connection has done its session no harm."""
        if not self._eof_sent and not isinstance(self._error, ssl.SSLError):
            self._eof_sent = True
            try:
                self._session.unwrap()
            except ssl.SSLError:
                pass

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._notify()
        if self._raw is not None:
            self._raw.close()

    def abort(self) -> None:
        """At once, and without close_notify: the other side sees a cut."""
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw is None or self._raw.is_closing()

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            if self._raw is not None and not self._raw.is_closing():
                self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._raw is None or self._raw.is_closing():
                return
            self._raw.resume_reading()
            if not self._pump_due and (self._incoming.pending or self._error is not None):
                # From the loop, as any transport: the caller doesn't expect data_received within this call.
                self._pump_due = True
                asyncio.get_running_loop().call_soon(self._resumed)

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def get_write_buffer_size(self) -> int:
        return (
            self._early_bytes
            if not self._established
            else 0
            if self._raw is None
            else self._raw.get_write_buffer_size()
        )

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        assert self._raw is not None
        return self._raw.get_write_buffer_limits()

    def get_protocol(self) -> asyncio.BaseProtocol | None:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`tls`: the ConnectionInfo; `ssl_object`: the session; the rest is the transport's below."""
        if name == "tls":
            return self.info
        if name == "ssl_object":
            return self._session
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def __repr__(self) -> str:
        state = "open" if self._established else "handshake"
        return f"<TLSTransport {'closing' if self._closing else state}>"
