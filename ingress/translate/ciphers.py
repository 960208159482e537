"""Lists of TLS ciphers in OpenSSL's words. OpenSSL itself is asked: a list of which it knows nothing would end every handshake that uses it."""

import re
from functools import lru_cache

_LIST = re.compile(r"[A-Za-z0-9+\-_:!@=., ]{1,4096}", re.ASCII)


@lru_cache(maxsize=256)
def parse_ciphers(text: str) -> str:
    """`text`. Raises ValueError if it is no list, or no cipher of it is left; unknown ones beside known ones are passed over, as by nginx.

    By the OpenSSL of the package cryptography. That of the workers may be another one: `tls.contexts` copes.
    """
    from OpenSSL import SSL  # late: few controllers need it

    if not _LIST.fullmatch(text):
        raise ValueError("it is not a list of ciphers as OpenSSL writes it: names, joined by colons")
    try:
        SSL.Context(SSL.TLS_METHOD).set_cipher_list(text.encode("ascii"))
    except SSL.Error:
        raise ValueError("OpenSSL knows no cipher of this list") from None
    return text
