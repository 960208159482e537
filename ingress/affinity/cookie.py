"""Cookie affinity, with the mechanism of ingress-nginx: a session key in a cookie, tied to an upstream.

The value is `key|digest`: `digest` is md5(md5(upstream) + upstream), which tells a canary's sessions from the
primary's. What `key` means depends on the mode. Balanced: random text whose place on the consistent-hash ring is the
endpoint, so when endpoints join some sessions move. Persistent: a hash of one endpoint, looked up among the current
ones; the session moves only when that endpoint is gone. Either way every worker and replica reads the same endpoint
out of the cookie, and nothing is stored.

Cookies come from clients: every function that takes their bytes accepts anything and answers None for what it can't
use.
"""

import re
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from hashlib import blake2b, md5
from random import Random
from typing import NamedTuple

from ingress.routing.table import CookieAffinity

_SCAN_LIMIT_BYTES = 32768  # of one Cookie header; the listener's own limits are lower, or as low
_LATEST_EPOCH = 253402300799  # 9999-12-31T23:59:59Z, the last that an HTTP date can say

# Wider than the keys made here: a session that ingress-nginx began (`1700000000.123.45.678901`) is kept as a balanced
# key.
_VALUE = re.compile(rb"([A-Za-z0-9._~-]{1,128})(?:(?:\||%7[Cc])([0-9A-Za-z]{1,64}))?")
_KEY = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_UNSAFE_IN_ATTRIBUTE = re.compile(rb"[\x00-\x20;\x7f-\xff]")


class StickyCookie(NamedTuple):
    """A decoded cookie value. `digest` is that of the upstream it was made for, empty if it had none."""

    key: str
    digest: str


def new_key(rng: Random) -> str:
    """A key for a new session in balanced mode: 32 hex digits."""
    return f"{rng.getrandbits(128):032x}"


def endpoint_digest(upstream: str, endpoint_key: str, secret: bytes = b"") -> str:
    """The key that stands for one endpoint in persistent mode: 32 hex digits, no address in them.

    Salted with the upstream like ingress-nginx's. Who knows the salt can still find a Pod's address by trying all of
    them; a `secret` (up to 64 bytes, the same in all replicas) prevents that.
    """
    return blake2b(f"{upstream}\0{endpoint_key}".encode(), digest_size=16, key=secret).hexdigest()


def endpoint_digests(upstream: str, endpoint_keys: Iterable[str], secret: bytes = b"") -> dict[str, str]:
    """Persistent mode's look-up table, digest -> endpoint key: made once per set of endpoints."""
    return {endpoint_digest(upstream, key, secret): key for key in endpoint_keys}


def upstream_digest(upstream: str) -> str:
    """The second part of the value, as ingress-nginx computes it from its backend's name. No secret is involved."""
    name = upstream.encode()
    inner = md5(name, usedforsecurity=False).hexdigest().encode()
    return md5(inner + name, usedforsecurity=False).hexdigest()


def encode(key: str, upstream: str) -> bytes:
    """The cookie's value. Raise ValueError for a key that `decode` would not take."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"{key!r} is not a session key")
    return f"{key}|{upstream_digest(upstream)}".encode()


def decode(value: bytes) -> StickyCookie | None:
    """None for anything that neither we nor ingress-nginx would have sent.

    Don't insist on the digest being the present upstream's: two upstreams whose cookies share name and path would
    otherwise take turns in overwriting each other's session.
    """
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    key, digest = match.groups(default=b"")
    return StickyCookie(key.decode(), digest.decode())


def parse_cookie_header(header_values: Sequence[bytes], name: bytes) -> bytes | None:
    """The value of cookie `name` (case-sensitive) in the Cookie header fields of a request; the first if it is there
    several times.

    Browsers send the cookie with the longest path first (RFC 6265 section 5.4). Double quotes around a value are
    removed.
    """
    for header in header_values:
        if name not in header:  # nearly all requests that don't have it end here
            continue
        for pair in header[:_SCAN_LIMIT_BYTES].split(b";"):
            found, equals, value = pair.partition(b"=")
            if equals and found.strip(b" \t") == name:
                value = value.strip(b" \t")
                if len(value) >= 2 and value[0] == value[-1] == 0x22:
                    value = value[1:-1]
                return value
    return None


def set_cookie(policy: CookieAffinity, value: bytes, *, path: str, https: bool, now_epoch: float) -> bytes:
    """The value of a Set-Cookie header field (RFC 6265 section 4.1).

    `path` is the matched route's, used unless the policy has its own; `https` whether the client's side is;
    `now_epoch` Unix time. Bytes that would end an attribute or the header are percent-encoded, so no configured text
    can add attributes.
    """
    parts = [
        _attribute_text(policy.name) + b"=" + value,
        b"Path=" + _attribute_text(policy.path or path or "/"),
    ]
    if policy.domain:
        parts.append(b"Domain=" + _attribute_text(policy.domain))
    if policy.expires_s is not None:
        expires = max(0.0, min(now_epoch + policy.expires_s, _LATEST_EPOCH))
        parts.append(b"Expires=" + formatdate(expires, usegmt=True).encode())
    if policy.max_age_s is not None:
        parts.append(b"Max-Age=%d" % policy.max_age_s)
    if https if policy.secure is None else policy.secure:
        parts.append(b"Secure")
    parts.append(b"HttpOnly")
    if policy.same_site:
        parts.append(b"SameSite=" + _attribute_text(policy.same_site))
    return b"; ".join(parts)


def _attribute_text(text: str) -> bytes:
    return _UNSAFE_IN_ATTRIBUTE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))
