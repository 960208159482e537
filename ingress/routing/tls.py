"""What a table says about TLS: certificates by key, which host gets which, and who has to show one. Pure data, like `routing.table`.

Private keys travel in here to the workers. Nothing prints them: `repr` is silent about them and dumps leave them out.
"""

import enum
from typing import Any, NewType

import msgspec

HostPattern = NewType("HostPattern", str)
"""Lower case, no port: `foo.com` (exact), `*.foo.com` (one leftmost label), or `""` (any host)."""

CertificateKey = NewType("CertificateKey", str)
"""Digest of chain and private key: a rotation is another certificate, and equal Secrets are one."""


class _Discreet(msgspec.Struct, frozen=True):
    """Bytes are shown by their size."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            shown.append((name, f"({len(value)} bytes)" if isinstance(value, bytes) else value))
        return shown

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class Certificate(_Discreet, frozen=True):
    """PEM, checked by whoever made it: the first certificate of `chain` belongs to `private_key`, and the others follow in order."""

    key: CertificateKey
    chain: bytes
    private_key: bytes


class ClientVerify(enum.StrEnum):
    """ingress-nginx's auth-tls-verify-client, less `off`. A failure is answered with HTTP 400, not by ending the handshake."""

    ON = "on"  # no certificate: 400; one that doesn't verify: 400
    OPTIONAL = "optional"  # none is fine; one that doesn't verify: 400
    OPTIONAL_NO_CA = "optional_no_ca"  # asked for, the outcome is only told to the endpoint


class ClientAuth(_Discreet, frozen=True):
    """`ca` and `crl` are PEM; `crl` may be empty. `depth`: certificates between the client's and the root, as in nginx."""

    ca: bytes
    crl: bytes = b""
    verify: ClientVerify = ClientVerify.ON
    depth: int = 1


class TLSHost(msgspec.Struct, frozen=True):
    """How connections for one host pattern (by SNI) are met. Without `certificates`: the default certificate.

    `certificates` holds at most one of each kind of key. `ciphers`: OpenSSL's list, empty for the global one; `prefer_server_ciphers`
    None: the global choice.
    """

    host: HostPattern
    certificates: tuple[CertificateKey, ...] = ()
    client_auth: ClientAuth | None = None
    ciphers: str = ""
    prefer_server_ciphers: bool | None = None
    passthrough: str = ""  # UpstreamKey: TLS is not terminated, bytes go to its endpoints


class UpstreamTLS(_Discreet, frozen=True):
    """How to speak TLS to endpoints (ingress-nginx's proxy-ssl-*). `ca` is PEM; empty with `verify`: nothing verifies."""

    verify: bool = False
    ca: bytes = b""
    crl: bytes = b""
    name: str = (
        ""  # what is verified, and sent as SNI: a DNS name or an IP address; empty with `verify`: nothing verifies
    )
    server_name: bool = False  # send SNI
    depth: int = 1
    ciphers: str = "DEFAULT"
    protocols: tuple[str, ...] = ("TLSv1.2", "TLSv1.3")
    certificate: Certificate | None = None  # to show to the endpoint
