"""Certificates made for tests: small, cached, valid for a while around `NOW`. Secrets that hold them, as a source hands them over."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ingress.model import Secret

NOW = datetime.now(UTC).replace(microsecond=0)
FORMATS = {
    "pkcs8": PrivateFormat.PKCS8,
    "traditional": PrivateFormat.TraditionalOpenSSL,
}


def new_key(kind: str = "ec") -> Any:
    match kind:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "rsa1024":
            return rsa.generate_private_key(65537, 1024)
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "k256":
            return ec.generate_private_key(ec.SECP256K1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
    raise AssertionError(kind)


@cache
def key(kind: str = "ec", number: int = 0) -> Any:
    """The same one for the same arguments: RSA keys take their time."""
    return new_key(kind)


@dataclass(frozen=True)
class Issued:
    certificate: x509.Certificate
    key: Any

    @cached_property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @cached_property
    def key_pem(self) -> str:
        return self.key_as("pkcs8")

    def key_as(self, form: str, password: str = "") -> str:
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        pem: bytes = self.key.private_bytes(Encoding.PEM, FORMATS[form], encryption)
        return pem.decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def issue(
    *names: str,
    common_name: str = "",
    by: Issued | None = None,
    kind: str = "ec",
    number: int = 0,
    ca: bool = False,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    hash_: Any = None,
) -> Issued:
    """For `names` (DNS); self-signed without `by`."""
    own = key(kind, number)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]) if common_name else x509.Name([])
    if not common_name and names:
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or NOW - timedelta(days=1))
        .not_valid_after(not_after or NOW + timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    signer = own if by is None else by.key
    plain = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return Issued(builder.sign(signer, None if plain else hash_ or hashes.SHA256()), own)


@cache
def certificate(*names: str, kind: str = "ec", number: int = 0) -> Issued:
    """Self-signed; the same one for the same arguments."""
    return issue(*names, kind=kind, number=number)


def revocations(by: Issued, *revoked: Issued) -> str:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=7))
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number).revocation_date(NOW)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def secret_of(
    data: Mapping[str, str | bytes], name: str = "cert", namespace: str = "default", type: str = "kubernetes.io/tls"
) -> Secret:
    encoded = {k: base64.b64encode(v if isinstance(v, bytes) else v.encode()).decode() for k, v in data.items()}
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "type": type, "data": encoded}, Secret)


def tls_secret(
    issued: Issued, name: str = "cert", namespace: str = "default", chain: Sequence[Issued] = (), **more: str
) -> Secret:
    pem = "".join(one.pem for one in (issued, *chain))
    return secret_of({"tls.crt": pem, "tls.key": issued.key_pem, **more}, name, namespace)
