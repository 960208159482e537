"""Active health checks: what the answers to them say about an endpoint. The probing itself is `proxy.health`."""

from ingress.balancing.base import EndpointState
from ingress.routing.table import HealthCheck


def accepts(check: HealthCheck, status: int) -> bool:
    return any(first <= status <= last for first, last in check.statuses)


def record_check(state: EndpointState, check: HealthCheck, passed: bool) -> bool:
    """Count the result of a check; True when the endpoint became healthy or unhealthy by it: then rebuild the pickers.

    Only results in a row count that speak against what it is held for now.
    """
    if passed == state.healthy:
        state.contrary_checks = 0
        return False
    state.contrary_checks += 1
    if state.contrary_checks < (check.healthy_threshold if passed else check.unhealthy_threshold):
        return False
    state.contrary_checks = 0
    state.healthy = passed
    return True


def forget_checks(state: EndpointState) -> None:
    """Nobody checks it any more: it is as healthy as an endpoint that is new."""
    state.healthy = True
    state.contrary_checks = 0
