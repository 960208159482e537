"""Certificates for tests: a CA, what it signs, and the endpoint's side of TLS. Nothing is read from or left on disk but a file that is gone at once."""

import dataclasses
import datetime
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ingress.routing.tls import Certificate, CertificateKey

_NOW = datetime.datetime.now(datetime.UTC)
_DAY = datetime.timedelta(days=1)


@dataclasses.dataclass
class Pair:
    """A certificate, its key, and the certificates between it and the root (not itself, not the root)."""

    certificate: x509.Certificate
    key: Any
    above: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain(self) -> bytes:
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.certificate, *self.above))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[no-any-return]

    @property
    def as_certificate(self) -> Certificate:
        return Certificate(CertificateKey(str(self.certificate.serial_number)), self.chain, self.key_pem)

    def issue(
        self,
        name: str = "endpoint",
        *,
        names: Sequence[str] = (),
        kind: str = "ec",
        ca: bool = False,
        days: tuple[int, int] = (-1, 30),
    ) -> "Pair":
        """`names` are DNS names and IP addresses; `days` from when to when it is valid, counted from today."""
        above = (self.certificate, *self.above) if self.certificate.issuer != self.certificate.subject else ()
        return _make(name, names, kind, ca, days, self, above)

    def revoke(self, *pairs: "Pair") -> bytes:
        """A revocation list of this CA, in PEM."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_NOW - _DAY)
            .next_update(_NOW + 30 * _DAY)
        )
        for pair in pairs:
            entry = x509.RevokedCertificateBuilder().serial_number(pair.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(_NOW - _DAY).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def server(self, *, clients: "Pair | None" = None, versions: str = "") -> ssl.SSLContext:
        """The endpoint's context. `clients`: the CA whose certificates it asks for; `versions`: the only one it speaks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.key_pem + self.chain)
            file.flush()
            context.load_cert_chain(file.name)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=clients.pem.decode())
        if versions:
            context.minimum_version = context.maximum_version = ssl.TLSVersion[versions]
        return context


def authority(name: str = "root", kind: str = "ec") -> Pair:
    return _make(name, (), kind, True, (-1, 30), None, ())


def _make(
    name: str,
    names: Sequence[str],
    kind: str,
    ca: bool,
    days: tuple[int, int],
    issuer: Pair | None,
    above: tuple[x509.Certificate, ...],
) -> Pair:
    key: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ec"
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW + days[0] * _DAY)
        .not_valid_after(_NOW + days[1] * _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if ca:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(text) for text in names]), critical=False
        )
    return Pair(builder.sign(key if issuer is None else issuer.key, hashes.SHA256()), key, above)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
