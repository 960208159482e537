"""Certificates, keys and revocation lists out of Secrets: checked, and written again in one form. Pure.

Each function raises ValueError with a clause about the Secret.

What is checked here needn't be trusted by a worker: a Secret that can't be used becomes a verdict, not a handshake that fails.
"""

import base64
import binascii
import hashlib
import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ingress.model import Secret
from ingress.routing.tls import Certificate, CertificateKey

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_LIMIT_BYTES = 1 << 20  # what an object of the API can hold at most


def secret_item(secret: Secret, key: str) -> bytes | None:
    """None: it isn't there, or empty."""
    plain = (secret.string_data or {}).get(key)
    if plain is not None:
        return plain.encode() or None
    text = (secret.data or {}).get(key)
    if not text:
        return None
    if len(text) > 2 * _LIMIT_BYTES:
        raise ValueError(f"its {key} is too large")
    try:
        return base64.b64decode("".join(text.split()), validate=True) or None
    except (binascii.Error, ValueError):
        raise ValueError(f"its {key} is not base64") from None


def authorities(pem: bytes, key: str) -> bytes:
    """CA certificates, at least one."""
    return b"".join(c.public_bytes(Encoding.PEM) for c in _certificates(pem, key))


def revocation_lists(pem: bytes, key: str) -> bytes:
    found = _CRL.findall(pem)
    if not found:
        raise ValueError(f"its {key} holds no revocation list in PEM")
    try:
        return b"".join(x509.load_pem_x509_crl(part + b"\n").public_bytes(Encoding.PEM) for part in found)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"its {key} is not a revocation list") from None


def key_pair(chain: bytes, private_key: bytes) -> Certificate:
    """A certificate with its chain, and the private key that belongs to it."""
    certificates = _certificates(chain, "tls.crt")
    try:
        key = load_pem_private_key(private_key, None)
    except TypeError:
        raise ValueError("its tls.key is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("its tls.key is not a private key in PEM") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        same = key.public_key().public_bytes(*form) == certificates[0].public_key().public_bytes(*form)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("its tls.crt has a kind of key that is not supported") from None
    if not same:
        raise ValueError("its tls.key does not belong to the certificate in its tls.crt")
    chain_pem = b"".join(c.public_bytes(Encoding.PEM) for c in certificates)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    digest = hashlib.blake2b(chain_pem + key_pem, digest_size=16).hexdigest()
    return Certificate(CertificateKey(digest), chain_pem, key_pem)


def _certificates(pem: bytes, key: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"its {key} holds no certificate in PEM, or one that is broken") from None
