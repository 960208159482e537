"""The certificate of last resort, as ingress-nginx's "fake" one: for hosts without any, so that a handshake fails at the client, with a name to look for."""

import hashlib
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ingress.routing.tls import Certificate, CertificateKey

COMMON_NAME = "aioingress default certificate"
_VALID = timedelta(days=365)
_CLOCK_SKEW = timedelta(days=1)


def self_signed(now: datetime) -> Certificate:
    """A new one, with a new key. `now` is aware of its zone. Takes a millisecond."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "aioingress"),
            x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.local")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    digest = hashlib.blake2b(chain + private, digest_size=16).hexdigest()
    return Certificate(CertificateKey(digest), chain, private)
