"""A kubernetes.io/tls Secret -> a certificate that a TLS stack will accept, or why not. Pure: no clock, no ssl.

What is checked here is what would otherwise fail, or surprise, in the middle of a handshake: that the key belongs to the certificate, that the
chain is in order, that both are of a kind and strength that OpenSSL takes. Whether it is valid at this moment is nobody's decision here:
an expired certificate is served, as in ingress-nginx, and `expiry` warns.
"""

import base64
import binascii
import hashlib
import warnings
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ingress.model import Secret
from ingress.routing.tls import Certificate, CertificateKey
from ingress.translate.report import shown

CERTIFICATE, PRIVATE_KEY = "tls.crt", "tls.key"
_CHAIN_LIMIT_BYTES = 128 << 10
_KEY_LIMIT_BYTES = 32 << 10
_CHAIN_LIMIT = 20  # certificates: longer chains only make handshakes slow
_RSA_BITS = (
    2048,
    8192,
)  # OpenSSL's security level 2; one signature with more takes a tenth of a second, of everybody's time
_CURVES = frozenset(("secp256r1", "secp384r1", "secp521r1"))  # what clients speak
_WEAK_HASHES = frozenset(("md5", "sha1"))
_DAMAGED = "it can't be read as PEM"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class Unusable(Exception):
    """`key` of the Secret can't be used. `why` is a clause without any part of its value."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.why = why


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What may be shown of a certificate: all of it is public. `names` are the DNS names it is for, lower case."""

    names: tuple[str, ...]
    subject: str  # RFC 4514
    issuer: str
    issuer_common_name: str
    issuer_organization: str
    serial_number: int
    not_before: datetime
    not_after: datetime
    key_algorithm: str  # as Go writes it: RSA, ECDSA, Ed25519
    fingerprint: str  # SHA-256, hexadecimal


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`remarks` are sentences about what was put right."""

    certificate: Certificate
    facts: CertificateFacts
    remarks: tuple[str, ...] = ()


def inspect_secret(secret: Secret) -> KeyPair:
    """Raise `Unusable`. The type of the Secret doesn't matter, as in ingress-nginx: its keys do."""
    chain = secret_bytes(secret, CERTIFICATE, _CHAIN_LIMIT_BYTES)
    key = secret_bytes(secret, PRIVATE_KEY, _KEY_LIMIT_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # about odd but readable encodings: nothing that the owner of the process can change
        return inspect_pair(chain, key)


def secret_bytes(secret: Secret, key: str, limit: int) -> bytes:
    """The value of a key, from `stringData` or `data`. Raises `Unusable`."""
    text = (secret.string_data or {}).get(key)
    if text is not None:
        value = text.encode("utf-8", "surrogatepass")
    else:
        encoded = (secret.data or {}).get(key)
        if encoded is None:
            kind = "" if secret.type == "kubernetes.io/tls" else f" (its type is {shown(secret.type)})"
            raise Unusable(key, f"the Secret has no such key{kind}")
        if len(encoded) > 2 * limit:
            raise Unusable(key, f"it is larger than {limit >> 10} KiB")
        try:
            value = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError) as e:
            raise Unusable(key, "it is not base64") from e
    if len(value) > limit:
        raise Unusable(key, f"it is larger than {limit >> 10} KiB")
    if not value.strip():
        raise Unusable(key, "it is empty")
    return value


def inspect_pair(chain_pem: bytes, key_pem: bytes) -> KeyPair:
    """Raise `Unusable`."""
    try:
        return _inspect_pair(chain_pem, key_pem)
    except Unusable:
        raise
    except (
        Exception
    ) as e:  # much of a certificate is decoded when it is looked at, and anybody may have put anything into it
        raise Unusable(CERTIFICATE, f"its content can't be read ({type(e).__name__})") from e


def _inspect_pair(chain_pem: bytes, key_pem: bytes) -> KeyPair:
    chain = parse_certificates(chain_pem, CERTIFICATE)
    key = _parse_key(key_pem)
    public = _public_bytes(key)
    leaf = next((c for c in chain if _spki(c) == public), None)
    if leaf is None:
        raise Unusable(PRIVATE_KEY, f"it does not belong to a certificate of {CERTIFICATE}")
    ordered = _in_order(leaf, chain)
    for certificate in ordered:
        _check_strength(certificate)
    text = b"".join(c.public_bytes(Encoding.PEM) for c in ordered)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    remarks = () if ordered == chain else (_remark(leaf, chain, ordered),)
    digest = hashlib.blake2b(text + secret, digest_size=16).hexdigest()
    return KeyPair(Certificate(CertificateKey(digest), text, secret), facts_of(leaf), remarks)


def parse_certificates(pem: bytes, key: str) -> list[x509.Certificate]:
    """At least one, in the order written. Raises `Unusable` for `key`."""
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise Unusable(key, "there is no PEM block CERTIFICATE in it")
    if pem.count(b"-----BEGIN CERTIFICATE-----") > _CHAIN_LIMIT:
        raise Unusable(key, f"it holds more than {_CHAIN_LIMIT} certificates")
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception as e:
        raise Unusable(key, _DAMAGED) from e


def _parse_key(pem: bytes) -> PrivateKey:
    if b"-----BEGIN" not in pem:
        raise Unusable(PRIVATE_KEY, "there is no PEM block in it")
    try:
        # The full validation of RSA keys takes 50 ms each, for primes that nobody but their owner would suffer from; see `_public_bytes`.
        key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except TypeError as e:
        raise Unusable(PRIVATE_KEY, "it is encrypted, and there is no passphrase for it") from e
    except UnsupportedAlgorithm as e:
        raise Unusable(PRIVATE_KEY, "keys of its kind are not supported: RSA, ECDSA and EdDSA are") from e
    except Exception as e:
        encrypted = b"ENCRYPTED" in pem
        why = "it is encrypted, and there is no passphrase for it" if encrypted else "it can't be read as a private key"
        raise Unusable(PRIVATE_KEY, why) from e
    if isinstance(key, rsa.RSAPrivateKey):
        least, most = _RSA_BITS
        if not least <= key.key_size <= most:
            raise Unusable(PRIVATE_KEY, f"an RSA key has to have {least} to {most} bits, and it has {key.key_size}")
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in _CURVES:
            raise Unusable(PRIVATE_KEY, f"its curve {shown(key.curve.name)} is not one that TLS clients know")
    elif not isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        raise Unusable(PRIVATE_KEY, "keys of its kind are not supported: RSA, ECDSA and EdDSA are")
    return key


def _public_bytes(key: PrivateKey) -> bytes:
    """The public key that the private numbers come to: what is written beside them proves nothing."""
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            n = key.private_numbers()
            p, q, e = n.p, n.q, n.public_numbers.e
            if not (
                p * q == n.public_numbers.n
                and (n.d * e) % (p - 1) == 1
                and (n.d * e) % (q - 1) == 1
                and n.dmp1 == n.d % (p - 1)
                and n.dmq1 == n.d % (q - 1)
                and n.iqmp * q % p == 1
            ):
                raise Unusable(PRIVATE_KEY, "its numbers contradict each other")
            return _spki(key)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return _spki(ec.derive_private_key(key.private_numbers().private_value, key.curve))
        return _spki(key)
    except (ValueError, ZeroDivisionError) as error:
        raise Unusable(PRIVATE_KEY, "its numbers contradict each other") from error


def _spki(owner: PrivateKey | x509.Certificate) -> bytes:
    """The public key as DER; empty for one of a kind that can't be read."""
    try:
        return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _in_order(leaf: x509.Certificate, chain: list[x509.Certificate]) -> list[x509.Certificate]:
    """`chain` itself if it is in order; else the leaf and its issuers, as far as they are there."""
    if leaf is chain[0] and all(a.issuer == b.subject for a, b in pairwise(chain)):
        return chain
    ordered, rest = [leaf], [c for c in chain if c is not leaf]
    while ordered[-1].issuer != ordered[-1].subject:
        following = next((c for c in rest if c.subject == ordered[-1].issuer), None)
        if following is None:
            break
        rest.remove(following)
        ordered.append(following)
    return ordered


def _remark(leaf: x509.Certificate, chain: list[x509.Certificate], ordered: list[x509.Certificate]) -> str:
    found = []
    if chain[0] is not leaf:
        found.append("the certificate of the key does not come first")
    left_out = len(chain) - len(ordered)
    if left_out:
        found.append(f"{left_out} of its {len(chain)} certificates are not in the chain of the first, and are left out")
    return (
        f"The chain in {CERTIFICATE} was put in order: {', and '.join(found) or 'each has to be signed by the next'}."
    )


def _check_strength(certificate: x509.Certificate) -> None:
    """Raise `Unusable` for what OpenSSL would refuse to serve."""
    if certificate.subject == certificate.issuer:
        return  # nobody checks the signature of a root
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm as e:
        raise Unusable(CERTIFICATE, "one of its certificates has a signature of an unknown kind") from e
    if algorithm is not None and algorithm.name in _WEAK_HASHES:
        raise Unusable(
            CERTIFICATE, f"one of its certificates is signed with {algorithm.name.upper()}, which no client accepts"
        )


def facts_of(leaf: x509.Certificate) -> CertificateFacts:
    """Raises whatever `cryptography` does about extensions that can't be decoded."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    except x509.ExtensionNotFound:
        names = []
    if not names:  # as clients did long ago, and ingress-nginx does
        names = [str(a.value) for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[-1:]]
    return CertificateFacts(
        names=tuple(name.lower().removesuffix(".") for name in names if name),
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        issuer_common_name=_attribute(leaf.issuer, NameOID.COMMON_NAME),
        issuer_organization=_attribute(leaf.issuer, NameOID.ORGANIZATION_NAME),
        serial_number=leaf.serial_number,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        key_algorithm=_key_algorithm(leaf),
        fingerprint=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
    )


def facts_of_chain(pem: bytes) -> CertificateFacts:
    """Of the first certificate of a chain that went through `inspect_pair`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return facts_of(x509.load_pem_x509_certificate(pem))


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    return next((str(a.value) for a in name.get_attributes_for_oid(oid)), "")


def _key_algorithm(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.removesuffix("PublicKey")


def covers(names: tuple[str, ...], host: str) -> bool:
    """Whether a certificate for `names` is one for `host` (lower case; may be a wildcard pattern itself). `*` stands for one whole label."""
    if host in names:
        return True
    label, dot, parent = host.partition(".")
    return bool(dot) and label != "*" and f"*.{parent}" in names
