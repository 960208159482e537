"""Lists of TLS ciphers in OpenSSL's words. OpenSSL itself is asked: a list of which it knows nothing would end every handshake that uses it."""

from functools import lru_cache


@lru_cache(maxsize=256)
def known_ciphers(text: str) -> str:
    """`text`, ASCII. Raises ValueError if no cipher of it is left; unknown ones beside known ones are passed over, as by nginx.

    By the OpenSSL of the package cryptography. That of the workers may be another one: `tls.contexts` copes.
    """
    from OpenSSL import SSL  # late: few controllers need it

    try:
        SSL.Context(SSL.TLS_METHOD).set_cipher_list(text.encode("ascii"))
    except SSL.Error:
        raise ValueError("OpenSSL knows no cipher of this list") from None
    return text
