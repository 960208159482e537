"""What results of active checks make of endpoints, and what that means for the choice among them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.balancing.ejection import record_failure, usable
from ingress.balancing.health import accepts, forget_checks, record_check
from ingress.routing.table import HealthCheck
from tests.balancing.support import make_states

CHECK = HealthCheck("/", unhealthy_threshold=3, healthy_threshold=2)


@pytest.mark.parametrize(
    ("statuses", "good", "bad"),
    [
        (((200, 399),), (200, 301, 399), (199, 400, 503)),
        (((204, 204), (401, 403)), (204, 401, 402, 403), (200, 205, 400, 404)),
    ],
)
def test_statuses(statuses: tuple[tuple[int, int], ...], good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    check = HealthCheck("/", statuses=statuses)
    assert all(accepts(check, status) for status in good)
    assert not any(accepts(check, status) for status in bad)


def test_thresholds_count_results_in_a_row() -> None:
    (state,) = make_states(1)
    told = [record_check(state, CHECK, passed) for passed in (False, False, True, False, False, False)]
    assert told == [False] * 5 + [True]
    assert not state.healthy
    told = [record_check(state, CHECK, passed) for passed in (False, True, False, True, True)]
    assert told == [False] * 4 + [True]
    assert state.healthy


def test_unhealthy_ones_are_left_out_however_many_they_are() -> None:
    states = make_states(4)
    for state in states[1:]:
        state.healthy = False
    assert usable(states, 0.0) == states[:1]
    assert [state.shunned for state in states] == [False, True, True, True]


def test_all_unhealthy_is_none_unhealthy() -> None:
    states = make_states(3)
    for state in states:
        state.healthy = False
    assert usable(states, 0.0) == states
    assert not any(state.shunned for state in states)


def test_ejection_chooses_among_the_healthy() -> None:
    states = make_states(4)
    states[0].healthy = False
    while not record_failure(states[1], 0.0):
        pass
    assert usable(states, 1.0) == states[2:]
    states[2].healthy = False
    while not record_failure(states[3], 0.0):
        pass
    # every healthy one is ejected: rather they than those that are known to fail
    assert usable(states, 1.0) == [states[1], states[3]]
    assert usable(states, 10.0) == [states[1], states[3]]
    assert states[1].ejected_until == 0.0


def test_an_ejection_of_an_unhealthy_one_ends_too() -> None:
    states = make_states(2)
    states[0].healthy = False
    while not record_failure(states[0], 0.0):
        pass
    assert usable(states, 10.0) == states[1:]
    assert states[0].ejected_until == 0.0


def test_forgotten() -> None:
    states = make_states(2)
    for _ in range(3):
        record_check(states[0], CHECK, False)
    record_check(states[1], CHECK, False)
    for state in states:
        forget_checks(state)
    assert usable(states, 0.0) == states
    assert [state.contrary_checks for state in states] == [0, 0]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_somebody_is_always_usable(kinds: list[tuple[bool, bool]]) -> None:
    states = make_states(len(kinds))
    for state, (healthy, ejected) in zip(states, kinds, strict=True):
        state.healthy = healthy
        while ejected and not record_failure(state, 0.0):
            pass
    found = usable(states, 1.0)
    assert found
    assert found == [state for state in states if state in found]
    if any(state.healthy for state in states):
        assert all(state.healthy for state in found)
    else:
        assert not any(state.shunned for state in states)
