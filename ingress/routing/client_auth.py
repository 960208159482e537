"""Client certificates: who a client has shown to be, and what that is worth. Pure; decisions as ingress-nginx makes them.

The handshake never fails for a client's certificate. Its outcome is a `ClientIdentity` of the connection, and each request is decided by it.
"""

from dataclasses import dataclass

from ingress.routing.tls import ClientVerify

SUCCESS, NONE = "SUCCESS", "NONE"
FAILED = "FAILED:"

# X509_V_ERR_*: the chain leads to no CA that we were given. nginx lets exactly these pass with `optional_no_ca` (ngx_ssl_verify_error_optional).
_NO_CA = frozenset((18, 19, 20, 21))

CERTIFICATE_ERROR = "The SSL certificate error"
NO_CERTIFICATE_SENT = "No required SSL certificate was sent"


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """`verify` is nginx's $ssl_client_verify: `SUCCESS`, `NONE`, or `FAILED:` and OpenSSL's sentence. `error` is OpenSSL's code, 0 for none.

    `subject` and `issuer` as RFC 2253 has it (nginx's $ssl_client_s_dn and _i_dn); `pem` of the client's own certificate. All empty with NONE.
    """

    verify: str
    error: int = 0
    subject: str = ""
    issuer: str = ""
    pem: bytes = b""
    serial: str = ""  # hexadecimal, upper case
    fingerprint: str = ""  # SHA-1, hexadecimal: nginx's $ssl_client_fingerprint


NO_CERTIFICATE = ClientIdentity(NONE)


def refusal(verify: ClientVerify, identity: ClientIdentity) -> str | None:
    """Why a request is answered with HTTP 400, in nginx's words; None: it may pass."""
    if identity.verify == NONE:
        return NO_CERTIFICATE_SENT if verify is ClientVerify.ON else None
    if identity.error and not (verify is ClientVerify.OPTIONAL_NO_CA and identity.error in _NO_CA):
        return CERTIFICATE_ERROR
    return None
