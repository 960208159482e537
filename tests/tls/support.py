"""Certificates for tests, made once, and a TLS client over memory."""

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ingress.routing.tls import Certificate, CertificateKey

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
