"""The Date field (RFC 9110 section 5.6.7), formatted once a second."""

import time
from email.utils import formatdate

_second = -1
_text = b""


def http_date() -> bytes:
    """IMF-fixdate of now."""
    global _second, _text
    second = int(time.time())
    if second != _second:
        _text = formatdate(second, usegmt=True).encode("ascii")
        _second = second
    return _text
