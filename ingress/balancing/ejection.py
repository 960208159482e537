"""Passive ejection: an endpoint that fails several times in a row gets no requests for a while.

A failure is a connection refused, reset or timed out, or a response that never came: the endpoint is unreachable or
hangs. A 5xx answer is none: it may be the right answer to that request, and an application error would take down the
endpoints one by one. Times are seconds of the clock that `EndpointState` uses.
"""

from collections.abc import Sequence

from ingress.balancing.base import EndpointState

FAILURES_TO_EJECT = 3  # in a row
FIRST_EJECTION_S = 5.0  # doubled each time it fails again right after its return
LONGEST_EJECTION_S = 60.0


def record_failure(state: EndpointState, now: float) -> bool:
    """Count a failure; True when the endpoint is ejected by it: then rebuild the pickers over `usable`.

    Failures during an ejection are what was in flight when it began, or the use of last resort: they neither lengthen
    nor repeat it.
    """
    if state.ejected_until > now:
        return False
    state.consecutive_failures += 1
    if state.consecutive_failures < FAILURES_TO_EJECT:
        return False
    # The count stays: after its return a single failure ejects it again.
    state.ejections += 1
    state.ejected_until = now + _length_s(state.ejections)
    return True


def record_success(state: EndpointState) -> None:
    """Forget its failures. The hot path may skip the call while `consecutive_failures` is 0.

    During an ejection it is ignored: a Pod that is going down refuses connections while it finishes what is in flight.
    """
    if not state.ejected_until:
        state.consecutive_failures = 0
        state.ejections = 0


def usable(states: Sequence[EndpointState], now: float) -> list[EndpointState]:
    """The endpoints to build pickers over, in the order of `states`; marks the end of ejections whose time has come, and who is shunned.

    Those that active checks find unhealthy are left out, unless that is all of them. Of the rest at most half are left out by
    ejection, those that were ejected first coming back first; and none at all when every one failed: it is more likely then
    that the fault is elsewhere, and refusing all requests would make it certain.
    """
    healthy = [state for state in states if state.healthy]
    for state in states:
        state.shunned = bool(healthy) and not state.healthy
        if state.ejected_until <= now:
            state.ejected_until = 0.0
    states = healthy or states
    ejected = [state for state in states if state.ejected_until]
    if not ejected:
        return list(states)
    if len(ejected) == len(states):
        return list(states)
    excess = len(ejected) - len(states) // 2
    if excess > 0:
        ejected.sort(key=lambda state: state.ejected_until - _length_s(state.ejections))
        del ejected[:excess]
    return [state for state in states if state not in ejected]


def next_readmission(states: Sequence[EndpointState], now: float) -> float | None:
    """When `usable` must be asked again; None while nothing is ejected."""
    return min((state.ejected_until for state in states if state.ejected_until > now), default=None)


def _length_s(ejections: int) -> float:
    return min(FIRST_EJECTION_S * 2.0 ** min(ejections - 1, 8), LONGEST_EJECTION_S)
