"""The parts of matching that few requests need: targets that aren't in normal form, and hosts that ask for certificates."""

from ingress.exchange import Exchange
from ingress.proxy.snapshot import LinkedRoute, Snapshot
from ingress.routing.path import decoded_view, normalize_path
from ingress.routing.trie import PathIndex
from ingress.tls.choice import Standing, standing


def find_unusual(snapshot: Snapshot, trie: PathIndex[LinkedRoute] | None, exchange: Exchange) -> LinkedRoute:
    """The route of a target that may not be in normal form. Raises ValueError for what is ambiguous or has none."""
    raw, mark, _ = exchange.target.partition(b"?")
    if mark:
        exchange.query = exchange.target[len(raw) :]
    path = exchange.path = normalize_path(raw)
    route = snapshot.find(trie, path)
    other = decoded_view(path)
    if other is not None and snapshot.find(trie, other) is not route:
        raise ValueError("its escaped separators make it ambiguous")
    return route


def certificate_holds(exchange: Exchange, snapshot: Snapshot) -> bool:
    """Whether the client was asked for a certificate in the handshake as the host of the request demands it."""
    assert exchange.tls is not None
    found = standing(snapshot.table, exchange.host.decode("latin-1"), exchange.tls.host)
    if found is Standing.OUTDATED:
        exchange.keep_alive = False
    return found is not Standing.MISDIRECTED
