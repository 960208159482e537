"""How long the answer of an authentication service may be used again, and where it is kept meanwhile.

Follows nginx's proxy_cache as ingress-nginx uses it (ngx_http_upstream_process_cache_control and its neighbours): the service's own Cache-Control decides, else
`auth-cache-duration` by status. An answer that sets a cookie is never kept, nor one that varies by everything.
"""

import email.utils
import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple

from cachetools import TLRUCache

from ingress.exchange import Exchange
from ingress.middleware.sidecalls import SideResponse
from ingress.translate.access import ANY_STATUS

ENTRIES = 16384  # a worker, whatever clients send: the least recently used goes
LIFETIME_LIMIT_S = 31536000.0
_TELLING = frozenset((401, 403))  # with 2xx: what Cache-Control alone may keep; a fault of the service never


class Answer(NamedTuple):
    """What is used of a service's answer. `headers` in the order of the policy's, None: it has no such field."""

    status: int
    challenges: tuple[bytes, ...] = ()  # WWW-Authenticate
    cookies: tuple[bytes, ...] = ()  # Set-Cookie
    headers: tuple[bytes | None, ...] = ()


class Kept(NamedTuple):
    answer: Answer
    expires: float
    vary: tuple[tuple[bytes, bytes | None], ...]  # request fields the answer depends on, and their values


def lifetime_s(response: SideResponse, durations: tuple[tuple[int, float], ...], wall_now: float) -> float:
    """Seconds; 0: not to be kept. `durations` as `translate.access.cache_durations` gives them."""
    if response.values(b"set-cookie") or any(b"*" in value for value in response.values(b"vary")):
        return 0.0
    asked = _asked_for(response, wall_now)
    status = response.status
    if asked is not None:
        return min(asked, LIFETIME_LIMIT_S) if 200 <= status < 300 or status in _TELLING else 0.0
    return next((seconds for wanted, seconds in durations if wanted in (status, ANY_STATUS)), 0.0)


def _asked_for(response: SideResponse, wall_now: float) -> float | None:
    """By the service's own fields; None: it says nothing. X-Accel-Expires goes before Cache-Control, which goes before Expires."""
    for value in response.values(b"x-accel-expires"):
        at = value[:1] == b"@"
        number = _number(value[1:] if at else value)
        if number is not None:
            return max(0.0, number - wall_now) if at else number
    found: dict[bytes, bytes] = {}
    for value in response.values(b"cache-control"):
        for directive in value.lower().split(b","):
            name, _, argument = directive.partition(b"=")
            found[name.strip()] = argument.strip(b' "')
    if not found.keys().isdisjoint((b"no-cache", b"no-store", b"private")):
        return 0.0
    for name in (b"s-maxage", b"max-age"):
        if name in found:
            return _number(found[name]) or 0.0  # a number that is none: better not kept
    for value in response.values(b"expires"):
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value.decode("latin-1")).timestamp() - wall_now)
        except (ValueError, TypeError, OverflowError, IndexError):
            return 0.0
    return None


def _number(text: bytes) -> float | None:
    return float(int(text)) if text.isdigit() and len(text) <= 10 else None


class AnswerCache:
    """The answers of a worker, of all its routes. Keys are keyed digests: no cookie or password lies here."""

    __slots__ = ("__weakref__", "_clock", "_kept", "_secret")

    def __init__(self, clock: Callable[[], float], entries: int = ENTRIES) -> None:
        self._clock = clock
        self._secret = os.urandom(32)
        self._kept: TLRUCache[bytes, Kept] = TLRUCache(entries, ttu=lambda key, kept, now: kept.expires, timer=clock)

    def key(self, scope: bytes, text: bytes) -> bytes:
        """`scope` is what answers may be shared within: one location with one policy. Of fixed length."""
        return hashlib.blake2b(scope + text, digest_size=24, key=self._secret).digest()

    def find(self, key: bytes, exchange: Exchange) -> Answer | None:
        kept = self._kept.get(key)
        if kept is None or any(exchange.header(name) != value for name, value in kept.vary):
            return None
        return kept.answer

    def keep(self, key: bytes, exchange: Exchange, answer: Answer, response: SideResponse, seconds: float) -> None:
        names = {n.strip().lower() for value in response.values(b"vary") for n in value.split(b",") if n.strip()}
        vary = tuple((name, exchange.header(name)) for name in sorted(names))
        self._kept[key] = Kept(answer, self._clock() + seconds, vary)

    def __len__(self) -> int:
        return len(self._kept)
