"""Service `sessionAffinity: ClientIP`: a client stays on one endpoint until `timeoutSeconds` pass without a request
of it.

The API server's contract (Service v1, `sessionAffinityConfig.clientIP.timeoutSeconds`, default 10800) is kept for
kube-proxy; a proxy that goes straight to Pods must keep it itself. Endpoints that join never move a client; a client
whose endpoint left gets a new one.

The first choice of a client is its place on the consistent-hash ring, so workers and replicas agree without talking.
What they can't compute is history (who came before the last scale-up), so workers of one machine exchange entries:
`drain_updates` of each goes to `merge` of all others (`merge` of its own updates does no harm). An update carries the
time of the assignment, and the later assignment wins, the greater endpoint key on a tie. That is commutative,
associative and idempotent: in whatever order updates arrive, all workers end with the same endpoint. Times must come
from one clock for all of them: CLOCK_MONOTONIC is that on one machine. Replicas on other machines exchange nothing:
there, a client that comes back through another replica after a scale-up may meet a new endpoint.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address

from cachetools import TTLCache

Update = tuple[str, str, float, float]
"""Client, endpoint key, assigned at, last seen at."""

DEFAULT_MAXSIZE = 100_000  # clients of one upstream; about 40 MB when full
_IPV4_LENGTH = 15
_LONGEST_ADDRESS = 64
_REFRESHES = 8  # how often in one timeout a client's use is told to the other workers


class _Entry:
    __slots__ = ("assigned_at", "endpoint_key", "refreshed_at", "seen_at")

    def __init__(self, endpoint_key: str, assigned_at: float, seen_at: float, refreshed_at: float) -> None:
        self.endpoint_key = endpoint_key
        self.assigned_at = assigned_at
        self.seen_at = seen_at
        self.refreshed_at = refreshed_at  # when it was last stored in the cache and told to the others


class ClientIPAffinity:
    """The clients of one upstream in one worker. All times are seconds of one clock that never goes back.

    `shared` False (a single worker) ends an entry exactly `timeout_s` after the client's last request. Otherwise the
    last request may have gone to another worker, which tells only every eighth of the timeout; an entry then lasts
    that much longer, never less. Beyond `maxsize` the client not seen for longest is forgotten, so a flood of
    addresses costs bounded memory. A new timeout needs a new object: `new.merge(old.snapshot(now), now)`.
    """

    __slots__ = ("_entries", "_lifetime_s", "_now", "_refresh_s", "_shared", "_unsent", "timeout_s")

    def __init__(self, timeout_s: float, *, maxsize: int = DEFAULT_MAXSIZE, shared: bool = True) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s {timeout_s!r} is not positive")
        self.timeout_s = timeout_s
        self._refresh_s = timeout_s / _REFRESHES
        self._lifetime_s = timeout_s + self._refresh_s if shared else timeout_s
        self._shared = shared
        self._now = 0.0
        # The cache's own deadline is renewed only at a refresh, so it lies one refresh behind the exact one that
        # `_live` checks.
        self._entries: TTLCache[str, _Entry] = TTLCache(maxsize, self._lifetime_s + self._refresh_s, timer=self._timer)
        self._unsent: dict[str, None] = {}  # ordered set

    def __len__(self) -> int:
        return len(self._entries)

    def lookup(self, client: str, now: float) -> str | None:
        """The key of the endpoint this client belongs to, and note that it was here; None when it has none (any more).

        The endpoint may be gone: then pick another and `assign` it. While it is merely ejected, better pick without
        assigning: the client returns to its session.
        """
        if len(client) > _IPV4_LENGTH or ":" in client:
            client = canonical_client(client)
        entry = self._live(client, now)
        if entry is None:
            return None
        entry.seen_at = now
        if now - entry.refreshed_at >= self._refresh_s:
            self._store(client, entry, now)
        return entry.endpoint_key

    def assign(self, client: str, endpoint_key: str, now: float) -> None:
        """From now on `client` belongs to `endpoint_key`."""
        if len(client) > _IPV4_LENGTH or ":" in client:
            client = canonical_client(client)
        entry = self._live(client, now)
        if entry is not None and entry.endpoint_key == endpoint_key:
            entry.seen_at = now
            return
        self._store(client, _Entry(endpoint_key, now, now, now), now)

    def drain_updates(self) -> list[Update]:
        """What the others must know and weren't told: new and changed assignments, clients seen again after a while."""
        unsent, self._unsent = self._unsent, {}
        updates: list[Update] = []
        for client in unsent:
            try:
                entry = self._entries[client]
            except KeyError:
                continue  # forgotten in the meantime
            updates.append((client, entry.endpoint_key, entry.assigned_at, entry.seen_at))
        return updates

    def merge(self, updates: Iterable[Update], now: float) -> None:
        """Take over what another worker told; see the module for who wins. Nothing merged is told on."""
        for client, endpoint_key, assigned_at, seen_at in updates:
            seen_at = min(seen_at, now)  # the teller's `now` may be a moment ahead of ours
            if now - seen_at > self._lifetime_s:
                continue
            entry = self._live(client, now)
            if entry is None:
                entry = _Entry(endpoint_key, assigned_at, seen_at, now)
            else:
                if (assigned_at, endpoint_key) > (entry.assigned_at, entry.endpoint_key):
                    entry.endpoint_key, entry.assigned_at = endpoint_key, assigned_at
                entry.seen_at = max(entry.seen_at, seen_at)
                entry.refreshed_at = now
            self._entries[client] = entry

    def snapshot(self, now: float) -> list[Update]:
        """All clients, for a worker that has just started; O(n)."""
        self._now = now
        return [
            (client, entry.endpoint_key, entry.assigned_at, entry.seen_at)
            for client, entry in self._entries.items()
            if now - entry.seen_at <= self._lifetime_s
        ]

    def _timer(self) -> float:
        return self._now

    def _live(self, client: str, now: float) -> _Entry | None:
        self._now = now
        try:
            entry = self._entries[client]
        except KeyError:
            return None
        return entry if now - entry.seen_at <= self._lifetime_s else None

    def _store(self, client: str, entry: _Entry, now: float) -> None:
        entry.refreshed_at = now
        self._entries[client] = entry
        # When full (nobody drains), the next refresh of this client tells of it.
        if self._shared and len(self._unsent) < self._entries.maxsize:
            self._unsent[client] = None


def canonical_client(address: str) -> str:
    """One spelling of a client's address: RFC 5952 text for IPv6, plain IPv4 for IPv4-mapped (a dual-stack listener
    sees those).

    A scope (`%eth0`) is left out. Text that is no address comes back as it is, cut to 64 characters: it may come from
    a header.
    """
    address = address[:_LONGEST_ADDRESS]
    return _canonical_ipv6(address) if ":" in address else address


@lru_cache(maxsize=4096)
def _canonical_ipv6(address: str) -> str:
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or parsed)
