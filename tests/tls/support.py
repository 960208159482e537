"""Certificates for tests, made once, and a TLS client over memory."""

import asyncio
import datetime
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ingress.routing.tls import Certificate, CertificateKey
from ingress.tls.pem import memory_file

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
_keys: dict[str, Key] = {}


def private_key(kind: str) -> Key:
    """Making RSA keys is slow: one for all."""
    if kind not in _keys:
        _keys[kind] = (
            ec.generate_private_key(ec.SECP256R1())
            if kind == "ec"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
    return _keys[kind]


@dataclass(frozen=True)
class Authority:
    """Something that signs. `chain`: itself and what stands above it, without the root."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        return pem(self.certificate)

    def sign(
        self,
        common_name: str,
        names: Sequence[str] = (),
        *,
        kind: str = "ec",
        start: datetime.datetime = NOW - DAY,
        end: datetime.datetime = NOW + 30 * DAY,
        authority: bool = False,
        client: bool = False,
        subject: x509.Name | None = None,
    ) -> "Authority":
        key: Key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else private_key(kind)
        certificate = _build(
            subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]),
            key,
            self.certificate.subject,
            self.key,
            names,
            start,
            end,
            authority=authority,
            client=client,
        )
        return Authority(certificate, key, (certificate, *self.chain))

    def revoke(self, *revoked: "Authority", end: datetime.datetime = NOW + 30 * DAY) -> bytes:
        """PEM of a revocation list."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(NOW - DAY)
            .next_update(end)
        )
        for one in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(one.certificate.serial_number)
                .revocation_date(NOW - DAY)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        return b"".join(pem(certificate) for certificate in self.chain)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def for_table(self) -> Certificate:
        digest = hashlib.sha256(self.chain_pem + self.key_pem).hexdigest()[:32]
        return Certificate(CertificateKey(digest), self.chain_pem, self.key_pem)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _build(
    subject: x509.Name,
    key: Key,
    issuer: x509.Name,
    issuer_key: Key,
    names: Sequence[str],
    start: datetime.datetime,
    end: datetime.datetime,
    *,
    authority: bool,
    client: bool,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
                    for name in names
                ]
            ),
            critical=False,
        )
    if client:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def root(common_name: str = "Test Root") -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = _build(name, key, name, key, (), NOW - DAY, NOW + 365 * DAY, authority=True, client=False)
    return Authority(certificate, key)


# ---- a client whose every byte is in the test's hand ----------------------------------------------------------------


class Wire:
    """A TLS client over a socket, by memory: it can resume sessions, send bytes one by one, and end in every way there is."""

    def __init__(
        self,
        context: ssl.SSLContext,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
        *,
        step: int = 1 << 20,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name, session=session)
        self.step = step  # how many bytes go out at once
        self._plain = b""
        self.ended = False  # close_notify came

    async def connect(self, port: int) -> Self:
        """Without a handshake."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    async def flush(self) -> None:
        data = self._outgoing.read()
        for at in range(0, len(data), self.step):
            self.writer.write(data[at : at + self.step])
            await self.writer.drain()
            if self.step < 100:
                await asyncio.sleep(0)

    async def _more(self) -> bool:
        data = await self.reader.read(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    async def handshake(self) -> Self:
        """Raises ssl.SSLError or ConnectionError."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                await self._more()
            except ssl.SSLError:
                await self.flush()  # the alert
                raise
            else:
                await self.flush()
                return self

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self.flush()

    async def read(self) -> bytes:
        """Some plain text; empty at the end, `ended` says whether it was announced."""
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self.flush()
                if not await self._more():
                    return b""
            except ssl.SSLEOFError:
                return b""
            except ssl.SSLZeroReturnError:  # as an empty read, once it has sent close_notify itself
                self.ended = True
                return b""
            else:
                if not data:
                    self.ended = True
                return data

    async def read_all(self) -> bytes:
        found = b""
        while data := await self.read():
            found += data
        return found

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """One response with a Content-Length."""
        while b"\r\n\r\n" not in self._plain:
            data = await self.read()
            assert data, f"ended inside a head: {self._plain!r}"
            self._plain += data
        head, _, rest = self._plain.partition(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(fields.get("content-length", "0"))
        while len(rest) < size:
            data = await self.read()
            assert data, f"ended after {len(rest)} of {size} bytes"
            rest += data
        self._plain = rest[size:]
        return int(start.split()[1]), fields, rest[:size]

    async def get(self, host: str, target: str = "/") -> tuple[int, dict[str, str], bytes]:
        await self.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return await self.response()

    async def notify(self) -> None:
        """close_notify, without waiting for the other's."""
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        await self.flush()

    def close(self) -> None:
        self.writer.close()

    @property
    def subject(self) -> str:
        """Common name of the certificate that was shown."""
        der = self.tls.getpeercert(binary_form=True)
        assert der is not None
        (name,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(name.value)


def client_context(
    *trusted: Authority,
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    certificate: Authority | None = None,
    ciphers: str = "",
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Verifies if it trusts somebody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = minimum, maximum
    if ciphers:
        context.set_ciphers(ciphers)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if trusted:
        context.load_verify_locations(cadata="".join(authority.pem.decode() for authority in trusted))
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        with memory_file(certificate.key_pem) as key, memory_file(certificate.chain_pem) as chain:
            context.load_cert_chain(chain, key)
    return context
