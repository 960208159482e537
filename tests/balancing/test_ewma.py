import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.balancing.ewma import DECAY_S, build, observe

from .support import make_states


def test_a_peak_counts_at_once() -> None:
    (state,) = make_states(1)
    observe(state, 100.0, 0.010)
    observe(state, 100.1, 0.500)
    assert state.ewma_s == 0.5
    assert state.ewma_at == 100.1


def test_lower_samples_pull_the_average_down_with_time() -> None:
    (state,) = make_states(1)
    observe(state, 100.0, 1.0)
    observe(state, 100.0 + DECAY_S, 0.1)
    assert state.ewma_s == pytest.approx(1.0 / math.e + 0.1 * (1 - 1 / math.e))
    for second in range(1, 200):
        observe(state, 100.0 + DECAY_S + second, 0.1)
    assert state.ewma_s == pytest.approx(0.1, rel=1e-3)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 60)), min_size=1, max_size=50))
def test_average_stays_within_what_was_seen(samples: list[tuple[float, float]]) -> None:
    """Also with times out of order: a cached clock may lag behind the one of an earlier sample."""
    (state,) = make_states(1)
    for at, rtt_s in samples:
        observe(state, 1000.0 + at, rtt_s)
        assert 0.0 <= state.ewma_s <= max(rtt for _, rtt in samples) * (1 + 1e-9)


def test_the_faster_of_two_wins() -> None:
    states = make_states(2)
    observe(states[0], 100.0, 0.2)
    observe(states[1], 100.0, 0.1)
    picker = build(states, Random(1))
    assert {picker.pick(100.0, 0) for _ in range(50)} == {states[1]}


def test_load_outweighs_latency() -> None:
    states = make_states(2)
    observe(states[0], 100.0, 0.2)
    observe(states[1], 100.0, 0.1)
    states[1].inflight = 2
    picker = build(states, Random(1))
    assert {picker.pick(100.0, 0) for _ in range(50)} == {states[0]}


def test_load_counts_among_endpoints_never_measured() -> None:
    states = make_states(2)
    states[0].inflight = 1
    assert {build(states, Random(1)).pick(5.0, 0) for _ in range(50)} == {states[1]}


def test_a_slow_endpoint_is_tried_again_after_a_while() -> None:
    states = make_states(2)
    observe(states[0], 100.0, 1.0)
    observe(states[1], 100.0, 0.1)
    picker = build(states, Random(1))
    assert picker.pick(100.0, 0) is states[1]
    observe(states[1], 130.0, 0.1)
    assert picker.pick(130.0, 0) is states[0]


def test_a_new_endpoint_starts_at_the_average_of_the_others() -> None:
    states = make_states(3)
    observe(states[0], 100.0, 0.4)
    observe(states[1], 110.0, 0.2)
    build(states, Random(1))
    assert states[2].ewma_s == pytest.approx((0.4 / math.e + 0.2) / 2)
    assert states[2].ewma_at == 110.0
    assert (states[0].ewma_s, states[0].ewma_at) == (0.4, 100.0)


def test_nothing_measured_nothing_invented() -> None:
    states = make_states(2)
    build(states, Random(1))
    assert [(state.ewma_s, state.ewma_at) for state in states] == [(0.0, 0.0)] * 2


def test_a_slow_endpoint_gets_few_requests() -> None:
    states, rng = make_states(4), Random(2)
    picker = build(states, rng)
    counts: Counter[str] = Counter()
    now = 50.0
    for _ in range(4000):
        now += 0.005
        picked = picker.pick(now, 0)
        counts[picked.key] += 1
        observe(picked, now, 0.3 if picked is states[1] else 0.01)
    assert counts[states[1].key] < 40
    assert min(counts[state.key] for state in states if state is not states[1]) > 800
