"""The Secret of auth-tls-secret: the certificates that clients' have to lead to, and what was revoked."""

import warnings

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ingress.model import Secret
from ingress.translate.tls.inspect import Unusable, secret_bytes

CA, CRL = "ca.crt", "ca.crl"
_LIMIT_BYTES = 1 << 20
_CA_LIMIT = 1000  # certificates: a bundle of everybody has some 150


def inspect_authority(secret: Secret) -> tuple[bytes, bytes]:
    """`ca.crt` and `ca.crl` as PEM, the second may be empty. Raises `Unusable`.

    Without `ca.crt` ingress-nginx switches verification off in silence; here it is a fault like any other.
    """
    ca = secret_bytes(secret, CA, _LIMIT_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ca.count(b"-----BEGIN CERTIFICATE-----") > _CA_LIMIT:
            raise Unusable(CA, f"it holds more than {_CA_LIMIT} certificates")
        try:
            found = x509.load_pem_x509_certificates(ca)
        except Exception as e:
            raise Unusable(CA, "it holds no certificate that can be read as PEM") from e
        return b"".join(c.public_bytes(Encoding.PEM) for c in found), _revoked(secret)


def _revoked(secret: Secret) -> bytes:
    if CRL not in (secret.data or {}) and CRL not in (secret.string_data or {}):
        return b""
    text = secret_bytes(secret, CRL, _LIMIT_BYTES)
    lists = []
    for block in text.split(b"-----BEGIN X509 CRL-----")[1:]:
        try:
            found = x509.load_pem_x509_crl(b"-----BEGIN X509 CRL-----" + block)
        except Exception as e:
            raise Unusable(CRL, "it can't be read as PEM") from e
        lists.append(found.public_bytes(Encoding.PEM))
    if not lists:
        raise Unusable(CRL, "there is no PEM block X509 CRL in it")
    return b"".join(lists)
