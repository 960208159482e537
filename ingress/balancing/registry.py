"""From what an upstream asks for to the picker that does it."""

from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

from ingress.balancing import consistent_hash, ewma, least_request, round_robin
from ingress.balancing.base import EndpointState, Picker, PickerFactory
from ingress.balancing.consistent_hash import ConsistentHash
from ingress.balancing.hash_subset import HashSubset
from ingress.routing.table import AffinityMode, Balancing, LoadBalance

FACTORIES: Mapping[LoadBalance, PickerFactory] = MappingProxyType(
    {
        LoadBalance.ROUND_ROBIN: round_robin.build,
        LoadBalance.LEAST_REQUEST: least_request.build,
        LoadBalance.EWMA: ewma.build,
        LoadBalance.CONSISTENT_HASH: consistent_hash.build,
    }
)


def build_picker(balancing: Balancing, endpoints: Sequence[EndpointState], rng: Random) -> Picker:
    """The picker for requests that no affinity decides. Raise ValueError without endpoints: that is a 503, not a
    pick.
    """
    if not endpoints:
        raise ValueError("a picker needs at least one endpoint")
    if balancing.hash_subset_size and balancing.load_balance is LoadBalance.CONSISTENT_HASH:
        return HashSubset(endpoints, balancing.hash_subset_size, rng)
    return FACTORIES[balancing.load_balance](endpoints, rng)


def build_ring(balancing: Balancing, endpoints: Sequence[EndpointState]) -> ConsistentHash | None:
    """The ring that maps clients and cookie keys to endpoints, whatever `load_balance` says; None without affinity.

    Made over the same usable endpoints as the picker, so that the clients of an ejected endpoint move, and come back
    with it.
    """
    if balancing.affinity is AffinityMode.NONE:
        return None
    if not endpoints:
        raise ValueError("a ring needs at least one endpoint")
    return ConsistentHash(endpoints)


def observes_latency(balancing: Balancing) -> bool:
    """Whether `ewma.observe` must be called for this upstream's responses."""
    return balancing.load_balance is LoadBalance.EWMA
