import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.balancing.base import EndpointState
from ingress.balancing.ejection import next_readmission, record_failure, record_success, usable

from .support import make_states


def eject(state: EndpointState, now: float) -> None:
    while not record_failure(state, now):
        pass


def test_three_failures_in_a_row_eject() -> None:
    (state,) = make_states(1)
    assert [record_failure(state, 10.0) for _ in range(3)] == [False, False, True]
    assert state.ejected_until == 15.0


def test_a_success_between_failures_starts_the_count_again() -> None:
    (state,) = make_states(1)
    assert not record_failure(state, 10.0)
    assert not record_failure(state, 10.0)
    record_success(state)
    assert [record_failure(state, 10.0) for _ in range(3)] == [False, False, True]


def test_each_further_ejection_lasts_twice_as_long_up_to_a_minute() -> None:
    (state,) = make_states(1)
    now, lengths = 0.0, []
    for attempt in range(12):
        failures = 0
        while True:
            failures += 1
            if record_failure(state, now):
                break
        assert failures == (3 if attempt == 0 else 1)  # once back, a single failure is enough
        lengths.append(state.ejected_until - now)
        now = state.ejected_until
    assert lengths == [5.0, 10.0, 20.0, 40.0] + [60.0] * 8


def test_a_success_after_the_return_forgets_everything() -> None:
    states = make_states(3)
    eject(states[0], 0.0)
    assert usable(states, 5.0) == states
    record_success(states[0])
    assert [record_failure(states[0], 6.0) for _ in range(3)] == [False, False, True]
    assert states[0].ejected_until == 11.0


def test_what_was_in_flight_neither_prolongs_nor_ends_an_ejection() -> None:
    states = make_states(3)
    eject(states[0], 0.0)
    assert not any(record_failure(states[0], 1.0) for _ in range(10))
    record_success(states[0])
    assert usable(states, 4.9) == states[1:]
    assert usable(states, 5.0) == states
    assert record_failure(states[0], 5.5)  # still on probation


def test_at_most_half_are_out_and_the_first_to_go_returns_first() -> None:
    states = make_states(5)
    for number, at in ((3, 0.0), (1, 1.0), (4, 2.0)):
        eject(states[number], at)
    assert usable(states, 2.5) == [states[0], states[2], states[3]]


def test_an_earlier_ejection_returns_first_even_when_it_lasts_longer() -> None:
    states = make_states(4)
    eject(states[0], 0.0)
    assert usable(states, 5.0) == states
    assert record_failure(states[0], 5.0)  # until 15
    eject(states[1], 6.0)  # until 11
    eject(states[2], 7.0)
    assert usable(states, 8.0) == [states[0], states[3]]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_all_failing_means_all_are_used(count: int) -> None:
    states = make_states(count)
    for state in states:
        eject(state, 0.0)
    assert usable(states, 1.0) == states


def test_a_lone_endpoint_is_never_left_out() -> None:
    states = make_states(1)
    eject(states[0], 0.0)
    assert usable(states, 0.0) == states


def test_next_readmission_is_the_earliest() -> None:
    states = make_states(4)
    assert next_readmission(states, 0.0) is None
    eject(states[2], 3.0)
    eject(states[1], 1.0)
    assert next_readmission(states, 4.0) == 6.0
    assert next_readmission(states, 6.0) == 8.0
    assert next_readmission(states, 8.0) is None


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.booleans(), st.floats(0, 10)), max_size=120))
def test_invariants_hold_in_any_history(count: int, events: list[tuple[int, bool, float]]) -> None:
    states, now = make_states(count), 0.0
    for number, failed, passed in events:
        now += passed
        state = states[number % count]
        if failed:
            ejected = record_failure(state, now)
            assert not ejected or state.ejected_until > now
        else:
            record_success(state)
        chosen = usable(states, now)
        assert len(chosen) >= len(states) / 2
        assert [state for state in states if state in chosen] == chosen
        assert all(state in chosen for state in states if state.ejected_until <= now)
        at = next_readmission(states, now)
        assert (at is None) == all(state.ejected_until <= now for state in states)
        assert at is None or now < at <= now + 60.0
    assert usable(states, now + 60.0) == states
    assert next_readmission(states, now + 60.0) is None
