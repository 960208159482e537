from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ingress.balancing.round_robin import build

from .support import make_states


@given(st.integers(1, 30), st.integers(1, 5), st.integers())
def test_each_round_names_every_endpoint_once(count: int, rounds: int, seed: int) -> None:
    picker = build(make_states(count), Random(seed))
    for _ in range(rounds):
        assert len({picker.pick(0.0, 0).key for _ in range(count)}) == count


def test_rebuilds_start_at_different_endpoints() -> None:
    states, rng = make_states(4), Random(3)
    starts = Counter(build(states, rng).pick(0.0, 0).key for _ in range(400))
    assert len(starts) == 4
    assert min(starts.values()) > 70


def test_retries_of_a_dead_endpoint_leave_the_others_evenly_loaded() -> None:
    states = make_states(5)
    picker = build(states, Random(1))
    dead = states[2]
    served: Counter[str] = Counter()
    for _ in range(400):
        picked = picker.pick(0.0, 0)
        if picked is dead:
            other = picker.pick_other(0.0, 0, [picked])
            assert other is not None
            picked = other
        served[picked.key] += 1
    assert max(served.values()) - min(served.values()) <= 1
    assert len(served) == 4
