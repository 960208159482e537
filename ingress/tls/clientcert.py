"""Hosts that ask for a client certificate, by pyOpenSSL: the standard library ends the handshake when one doesn't verify, and the client is to
be told by HTTP 400 instead (nginx's ssl_verify_client).

Only such hosts pay for it. Nothing is resumed on them: each connection is verified anew, so that a new CA or revocation list holds for all
that come after it.
"""

import logging
import re
import ssl
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from ingress.config import TLSSettings
from ingress.routing.client_auth import FAILED, NO_CERTIFICATE, SUCCESS, ClientIdentity
from ingress.routing.tls import Certificate, ClientAuth
from ingress.tls.engine import Engine
from ingress.tls.names import rfc2253
from ingress.tls.pem import memory_file

_log = logging.getLogger(__name__)
_VERSIONS = {
    "TLSv1": (SSL.TLS1_VERSION, SSL.OP_NO_TLSv1),
    "TLSv1.1": (SSL.TLS1_1_VERSION, SSL.OP_NO_TLSv1_1),
    "TLSv1.2": (SSL.TLS1_2_VERSION, SSL.OP_NO_TLSv1_2),
    "TLSv1.3": (SSL.TLS1_3_VERSION, SSL.OP_NO_TLSv1_3),
}
_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_READ_BYTES = 65536


def revocation_lists(pem: bytes) -> list[x509.CertificateRevocationList]:
    """All in `pem`. Raises ValueError for what is none."""
    return [x509.load_pem_x509_crl(block) for block in _CRL.findall(pem)]


class ClientAuthContext:
    """A host's certificates, and the CAs that its clients are to be known by. Raises SSL.Error, ValueError for what OpenSSL doesn't take."""

    __slots__ = ("context",)

    def __init__(
        self,
        certificates: Sequence[Certificate],
        auth: ClientAuth,
        settings: TLSSettings,
        ciphers: str,
        prefer_server: bool,
    ) -> None:
        context = self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        wanted = [version for version in _VERSIONS if version in settings.protocols]
        context.set_min_proto_version(_VERSIONS[wanted[0]][0])
        context.set_max_proto_version(_VERSIONS[wanted[-1]][0])
        options = SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION
        for version, (_, switched_off) in _VERSIONS.items():
            if version not in wanted:
                options |= switched_off
        if prefer_server:
            options |= SSL.OP_CIPHER_SERVER_PREFERENCE
        context.set_options(options)
        context.set_cipher_list(ciphers.encode("ascii"))
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if settings.alpn:
            offered = [name.encode("ascii") for name in settings.alpn]
            context.set_alpn_select_callback(
                lambda _, theirs: next((name for name in offered if name in theirs), SSL.NO_OVERLAPPING_PROTOCOLS)
            )
        for certificate in certificates:
            with memory_file(certificate.private_key) as key, memory_file(certificate.chain) as chain:
                context.use_certificate_chain_file(chain)
                context.use_privatekey_file(key)
            context.check_privatekey()
        self._trust(auth)

    def _trust(self, auth: ClientAuth) -> None:
        context = self.context
        with memory_file(auth.ca) as path:
            context.load_verify_locations(path)
        with memory_file(auth.ca) as path:
            context.load_client_ca(path.encode("ascii"))  # their names tell the client which certificate to choose
        if auth.crl:
            lists = revocation_lists(auth.crl)
            if not lists:
                raise ValueError("no revocation list in crl")  # silently none would let the revoked in
            store = context.get_cert_store()
            assert store is not None
            for revoked in lists:
                store.add_crl(revoked)
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
        context.set_verify_depth(auth.depth)
        # Without FAIL_IF_NO_PEER_CERT, and a callback that lets everything pass: it only takes notes.
        context.set_verify(SSL.VERIFY_PEER, _note)

    def open(self) -> Engine:
        return ClientCertEngine(self.context)


def _note(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """OpenSSL's verification found something: the last of these is its verdict (X509_STORE_CTX_get_error). Nothing is decided here."""
    if not ok:
        notes = connection.get_app_data()
        notes.error = error
    return True


class _Incoming:
    __slots__ = ("_connection", "pending")

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self.pending = 0  # some, until a read has come to the end of it: pyOpenSSL doesn't tell how much

    def write(self, data: Any) -> int:
        self.pending += len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._connection.bio_write(bytes(rest)) :]
        return len(data)


class _Outgoing:
    __slots__ = ("_buffer", "_connection")

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self._buffer: list[bytes] = []

    def _collect(self) -> None:
        try:
            while True:
                self._buffer.append(self._connection.bio_read(_READ_BYTES))
        except SSL.WantReadError:
            pass

    @property
    def pending(self) -> int:
        self._collect()
        return sum(map(len, self._buffer))

    def read(self) -> bytes:
        self._collect()
        buffer, self._buffer = self._buffer, []
        return b"".join(buffer)


class ClientCertEngine:
    """Also its own session: pyOpenSSL's `Connection`, with the words and exceptions of `ssl.SSLObject`."""

    __slots__ = ("_connection", "error", "incoming", "outgoing", "server_side", "session")

    session_reused = False

    def __init__(self, context: SSL.Context) -> None:
        connection = self._connection = SSL.Connection(context, None)
        connection.set_accept_state()
        connection.set_app_data(self)
        self.error = 0  # X509_V_ERR_*
        self.server_side = True
        self.session = self
        self.incoming = _Incoming(connection)
        self.outgoing = _Outgoing(connection)

    def do_handshake(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self.incoming.pending = 0
            raise ssl.SSLWantReadError from None
        except SSL.Error as error:
            raise _standard(error) from error

    def read(self, size: int) -> bytes:
        try:
            return self._connection.recv(size)
        except SSL.WantReadError:
            self.incoming.pending = 0
            raise ssl.SSLWantReadError from None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise _standard(error) from error

    def write(self, data: Any) -> int:
        try:
            return self._connection.send(bytes(data))
        except SSL.Error as error:
            raise _standard(error) from error

    def unwrap(self) -> None:
        try:
            self._connection.shutdown()
        except SSL.Error as error:
            raise _standard(error) from error

    def version(self) -> str:
        return self._connection.get_protocol_version_name()

    def cipher(self) -> tuple[str, str, int] | None:
        name = self._connection.get_cipher_name()
        return (name, self.version(), self._connection.get_cipher_bits() or 0) if name else None

    def selected_alpn_protocol(self) -> str | None:
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None

    def identity(self) -> ClientIdentity:
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return NO_CERTIFICATE
        verify = SUCCESS if not self.error else FAILED + verify_sentence(self.error)
        try:
            return ClientIdentity(
                verify=verify,
                error=self.error,
                subject=rfc2253(certificate.subject),
                issuer=rfc2253(certificate.issuer),
                pem=certificate.public_bytes(Encoding.PEM),
                serial=_serial(certificate.serial_number),
                fingerprint=certificate.fingerprint(hashes.SHA1()).hex(),  # an identifier, as nginx has it
            )
        except ValueError as problem:
            # OpenSSL can read what cryptography can't: nobody knows who this is.
            _log.info("a client certificate can't be read: %s", problem)
            return ClientIdentity(FAILED + "unreadable certificate", self.error or _UNREADABLE)


_UNREADABLE = 1  # X509_V_ERR_UNSPECIFIED


def verify_sentence(code: int) -> str:
    """OpenSSL's sentence for an X509_V_ERR code."""
    return _SENTENCES.get(code, f"error number {code}")


# crypto/x509/x509_txt.c, for what can come of client certificates.
_SENTENCES = {
    1: "unspecified certificate verification error",
    2: "unable to get issuer certificate",
    3: "unable to get certificate CRL",
    6: "unable to decode issuer public key",
    7: "certificate signature failure",
    8: "CRL signature failure",
    9: "certificate is not yet valid",
    10: "certificate has expired",
    11: "CRL is not yet valid",
    12: "CRL has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    22: "certificate chain too long",
    23: "certificate revoked",
    24: "invalid CA certificate",
    25: "path length constraint exceeded",
    26: "unsuitable certificate purpose",
    27: "certificate not trusted",
    28: "certificate rejected",
    32: "key usage does not include certificate signing",
    33: "unable to get CRL issuer certificate",
    44: "different CRL scope",
    47: "permitted subtree violation",
    48: "excluded subtree violation",
    66: "EE certificate key too weak",
    67: "CA certificate key too weak",
    68: "CA signature digest algorithm too weak",
}


def _serial(number: int) -> str:
    """Whole bytes in hexadecimal, upper case, as nginx's $ssl_client_serial."""
    text = f"{abs(number):X}"
    return ("-" if number < 0 else "") + ("0" if len(text) % 2 else "") + text


def _standard(error: SSL.Error) -> ssl.SSLError:
    """The same as the standard library would have raised it."""
    if isinstance(error, SSL.WantReadError):
        return ssl.SSLWantReadError()
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    words = reasons[-1][2] if reasons else str(error)
    standard = ssl.SSLError(1, f"[SSL] {words}")
    standard.reason = words.upper().replace(" ", "_").replace("-", "_")
    return standard
