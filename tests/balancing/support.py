"""Endpoints for the balancing tests."""

from ingress.balancing.base import EndpointState
from ingress.routing.table import Endpoint


def make_states(count: int, *, first: int = 0) -> list[EndpointState]:
    """Endpoints 10.0.x.y:8080, sorted by key as the contract of `PickerFactory` says."""
    states = [
        EndpointState(Endpoint(f"10.0.{number // 256}.{number % 256}", 8080)) for number in range(first, first + count)
    ]
    return sorted(states, key=lambda state: state.key)
