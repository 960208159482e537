from collections import Counter
from random import Random

from ingress.balancing.least_request import build

from .support import make_states


def test_the_less_loaded_of_two_wins() -> None:
    states = make_states(2)
    states[0].inflight, states[1].inflight = 3, 2
    picker = build(states, Random(1))
    assert {picker.pick(0.0, 0) for _ in range(50)} == {states[1]}


def test_ties_are_random() -> None:
    states = make_states(2)
    picker = build(states, Random(1))
    counts = Counter(picker.pick(0.0, 0).key for _ in range(2000))
    assert min(counts.values()) > 900


def test_the_most_loaded_gets_nothing() -> None:
    states = make_states(6)
    states[4].inflight = 10
    picker = build(states, Random(1))
    assert states[4] not in {picker.pick(0.0, 0) for _ in range(500)}


def test_requests_in_flight_stay_level_when_one_endpoint_hangs() -> None:
    """Round robin would leave a quarter of all requests at the endpoint that never answers."""
    states = make_states(4)
    picker = build(states, Random(5))
    for _ in range(1000):
        picked = picker.pick(0.0, 0)
        if picked is states[0]:
            picked.inflight += 1  # never finishes; the others are done at once
    assert states[0].inflight == 1


def test_retry_prefers_the_less_loaded() -> None:
    states = make_states(3)
    states[0].inflight, states[1].inflight, states[2].inflight = 0, 5, 1
    picker = build(states, Random(1))
    assert {picker.pick_other(0.0, 0, [states[0]]) for _ in range(50)} == {states[2]}
