"""Links that work for a while and for nothing else: downloads that an application hands out, without asking it again.

    aioingress.io/middleware: signed-links
    aioingress.io/middleware.signed-links: /etc/aioingress/signing-key      # a file with the key, from a mounted Secret

The application signs `path` and the time (Unix seconds) at which the link ends: `?expires=1767225600&signature=` and, in hexadecimal, the HMAC-SHA256
of `path\nexpires`. The endpoint gets the request without the two. Whoever has the link may use it; a changed or old one is answered with 403.
"""

import hashlib
import hmac
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from ingress.middleware.api import Middleware, Reply, Request


class SignedLinks(Middleware):
    name = "signed-links"

    def __init__(self, config: str) -> None:
        super().__init__(config)
        try:
            self._key = Path(config).read_bytes().strip()
        except OSError as error:
            raise ValueError(f"the key can't be read: {error.strerror}") from error
        if len(self._key) < 16:
            raise ValueError("the key is shorter than 16 bytes")

    def on_request(self, request: Request) -> Reply | None:
        parameters = parse_qsl(request.query, keep_blank_values=True)
        given = dict(parameters)
        expires, signature = given.get("expires", ""), given.get("signature", "")
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            return Reply(403, "the link is not signed")
        if not hmac.compare_digest(sign(self._key, request.path, expires), signature.encode("utf-8", "replace")):
            return Reply(403, "the link is not signed")
        if int(expires) < time.time():
            return Reply(403, "the link has expired")
        request.query = urlencode([pair for pair in parameters if pair[0] not in ("expires", "signature")])
        return None


def sign(key: bytes, path: str, expires: str) -> bytes:
    """What an application puts into the link, as hexadecimal digits."""
    return hmac.new(key, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest().encode()
