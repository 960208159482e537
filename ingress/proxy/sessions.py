"""Cookie sessions of one upstream: which endpoint a request belongs to, and the cookie to send when that is news."""

from collections.abc import Callable, Iterable, Mapping
from random import Random

import msgspec

from ingress.affinity.cookie import (
    decode,
    encode,
    endpoint_digest,
    endpoint_digests,
    new_key,
    parse_cookie_header,
    set_cookie,
)
from ingress.affinity.same_site import understands_none
from ingress.balancing.base import EndpointState, Picker
from ingress.balancing.hashing import hash64
from ingress.exchange import Exchange
from ingress.routing.table import CookieAffinity, CookieMode

_DRAWS = 64


class CookieSessions:
    """Stateless but for the look-up table of persistent mode, which `rebind` makes anew when the endpoints change."""

    __slots__ = ("_by_digest", "_name", "_rng", "_silent", "_upstream", "_wall_clock", "policy")

    def __init__(self, policy: CookieAffinity, upstream: str, rng: Random, wall_clock: Callable[[], float]) -> None:
        self.policy = policy
        self._silent = (  # for browsers that mistake SameSite=None
            msgspec.structs.replace(policy, same_site="")
            if policy.conditional_same_site_none and policy.same_site == "None"
            else None
        )
        self._upstream = upstream
        self._name = policy.name.encode("ascii", "replace")
        self._rng = rng
        self._wall_clock = wall_clock
        self._by_digest: dict[str, str] = {}

    def rebind(self, endpoint_keys: Iterable[str]) -> None:
        if self.policy.mode is CookieMode.PERSISTENT:
            self._by_digest = endpoint_digests(self._upstream, endpoint_keys)

    def pick(self, exchange: Exchange, by_key: Mapping[str, EndpointState], ring: Picker, now: float) -> EndpointState:
        """The endpoint of the session that the request's cookie names, or of a new one: then `exchange.set_cookie` is filled in."""
        value = parse_cookie_header(exchange.header_values(b"cookie"), self._name)
        cookie = None if value is None else decode(value)
        if self.policy.mode is CookieMode.PERSISTENT:
            known = None if cookie is None else by_key.get(self._by_digest.get(cookie.key, ""))
            exchange.hash_key = self._rng.getrandbits(64) if cookie is None else hash64(cookie.key.encode())
            if known is None:
                known = ring.pick(now, exchange.hash_key)
                self._send(exchange, endpoint_digest(self._upstream, known.key))
            elif known.ejected_until > now or known.shunned:
                return (
                    ring.pick_other(now, exchange.hash_key, (known,)) or known
                )  # for the moment; the session stays where it is
            return known
        key = new_key(self._rng) if cookie is None else cookie.key
        exchange.hash_key = hash64(key.encode())
        if cookie is None:
            self._send(exchange, key)
        return ring.pick(now, exchange.hash_key)

    def moved(self, exchange: Exchange, endpoint: EndpointState, ring: Picker) -> None:
        """Another endpoint answers, because the session's own failed: with change-on-failure the session goes along."""
        if self.policy.mode is CookieMode.PERSISTENT and self.policy.change_on_failure:
            self._send(exchange, endpoint_digest(self._upstream, endpoint.key))
        elif self.policy.change_on_failure:
            # In balanced mode the ring decides, so draw keys until one leads there; with n endpoints that takes about n draws.
            for _ in range(_DRAWS):
                key = new_key(self._rng)
                if ring.pick(0.0, hash64(key.encode())) is endpoint:
                    break
            self._send(exchange, key)

    def _send(self, exchange: Exchange, key: str) -> None:
        policy = self.policy
        if self._silent is not None and not understands_none(exchange.header(b"user-agent")):
            policy = self._silent
        exchange.set_cookie = set_cookie(
            policy,
            encode(key, self._upstream),
            path=exchange.route.route.path,
            https=exchange.scheme == b"https",
            now_epoch=self._wall_clock(),
        )
