"""Whether and how to compress a response: decisions only, without streams. Pure.

The conditions are those of nginx's gzip filter as ingress-nginx sets it up (`gzip_proxied any`, `gzip_http_version 1.1`, `gzip_vary on`): status 200,
403 or 404, a listed media type, long enough if the length is known, not encoded yet. Beyond it, as RFC 9110 asks: `no-transform` is heeded, q-values
decide between codings, and a response with a digest of its content stays as it is.
"""

import enum
import re
from functools import lru_cache

from ingress.exchange import Exchange, ResponseHead, iter_fields


class Coding(enum.StrEnum):
    """In the order of preference among equals."""

    BROTLI = "br"
    ZSTD = "zstd"
    GZIP = "gzip"


STATUSES = frozenset((200, 403, 404))
_DIGESTS = frozenset((b"content-md5", b"content-digest", b"repr-digest", b"digest"))
_LENGTHS = frozenset((4, 6, 10, 11, 12, 13, 14, 16))  # of the names that are looked at
_QVALUE = re.compile(rb"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_ACCEPT_LIMIT = 512
_MSIE_4_TO_6 = re.compile(rb"MSIE [4-6]\.")


def negotiate(accept: bytes, available: tuple[Coding, ...]) -> Coding | None:
    """The coding of `available` that an Accept-Encoding value likes best (RFC 9110 section 12.5.3). None: none of them, or none at all is better."""
    if not accept or len(accept) > _ACCEPT_LIMIT:
        return None
    return _negotiate(accept, available)


@lru_cache(maxsize=512)
def _negotiate(accept: bytes, available: tuple[Coding, ...]) -> Coding | None:
    weights: dict[bytes, float] = {}
    for item in accept.lower().split(b","):
        name, *parameters = (part.strip(b" \t") for part in item.split(b";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip(b" \t") == b"q":
                value = value.strip(b" \t")
                weight = float(value) if _QVALUE.fullmatch(value) else 0.0
        weights.setdefault(b"gzip" if name == b"x-gzip" else name, weight)
    others = weights.get(b"*", 0.0)
    best, best_weight = None, 0.0
    for coding in available:
        weight = weights.get(coding.value.encode("ascii"), others)
        if weight > best_weight:
            best, best_weight = coding, weight
    identity = weights.get(b"identity", 0.0)
    return best if best_weight >= identity else None


class Content:
    """What a response's fields say that matters here."""

    __slots__ = ("encoded", "etag", "fixed", "media_type")

    def __init__(self, head: ResponseHead) -> None:
        self.media_type = b""  # lower case, without parameters
        self.encoded = False
        self.fixed = False  # it must not be transformed
        self.etag = b""
        for name, value in iter_fields(head.fields):
            if len(name) not in _LENGTHS:
                continue
            name = name.lower()
            if name == b"content-type":
                self.media_type = value.partition(b";")[0].strip(b" \t").lower()
            elif name == b"content-encoding":
                self.encoded = value.strip(b" \t").lower() not in (b"", b"identity")
            elif name == b"cache-control":
                self.fixed |= b"no-transform" in value.lower()
            elif name == b"etag":
                self.etag = value
            elif name in _DIGESTS:
                self.fixed = True


def is_old_explorer(user_agent: bytes) -> bool:
    """nginx's `msie6`."""
    return _MSIE_4_TO_6.search(user_agent) is not None and b"SV1" not in user_agent


def weakened(etag: bytes) -> bytes:
    """An entity-tag for content whose bytes have changed; empty for one that isn't well-formed, which nginx drops too."""
    if etag[:2] == b"W/":
        return etag
    return b"W/" + etag if len(etag) >= 2 and etag[:1] == b'"' == etag[-1:] else b""


def may_be_encoded(exchange: Exchange, head: ResponseHead) -> bool:
    """What doesn't depend on the coding, nor on its fields."""
    return head.status in STATUSES and exchange.method != b"HEAD" and exchange.version != 10
