"""What a TLS transport needs of a TLS library: bytes in, bytes out, plain text in, plain text out, and no socket.

An engine is the three objects of `ssl.MemoryBIO` and `ssl.SSLObject`; another library is dressed up as them. They raise `ssl.SSLWantReadError`
when more input is needed and `ssl.SSLError` when the connection is lost.
"""

import ssl
from typing import Any, Protocol

from ingress.routing.client_auth import NO_CERTIFICATE, ClientIdentity


class Incoming(Protocol):
    """Encrypted bytes that came and are not read yet."""

    @property
    def pending(self) -> int: ...

    def write(self, data: Any, /) -> int: ...


class Outgoing(Protocol):
    """Encrypted bytes to be sent."""

    @property
    def pending(self) -> int: ...

    def read(self) -> bytes: ...


class Session(Protocol):
    """The plain side; `ssl.SSLObject` is one."""

    def do_handshake(self) -> None: ...

    def read(self, size: int) -> bytes: ...

    def write(self, data: Any, /) -> int: ...

    def unwrap(self) -> Any: ...

    def version(self) -> str | None: ...

    def cipher(self) -> tuple[str, str, int] | None: ...

    def selected_alpn_protocol(self) -> str | None: ...

    @property
    def session_reused(self) -> bool | None: ...


class Engine(Protocol):
    @property
    def session(self) -> Any:
        """A `Session`."""

    @property
    def incoming(self) -> Incoming: ...

    @property
    def outgoing(self) -> Outgoing: ...

    @property
    def server_side(self) -> bool: ...

    def identity(self) -> ClientIdentity:
        """Who the other side has shown to be, once the handshake is complete."""


class StandardEngine:
    """By the standard library. `server_name`: of a client, sent as SNI and verified if the context says so."""

    __slots__ = ("incoming", "outgoing", "server_side", "session")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None) -> None:
        self.server_side = server_side
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_side, server_name)

    def identity(self) -> ClientIdentity:
        return NO_CERTIFICATE
