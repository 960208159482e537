"""What every picker must hold, whatever its algorithm."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.balancing.registry import FACTORIES, build_picker, build_ring, observes_latency
from ingress.routing.table import AffinityMode, Balancing, LoadBalance

from .support import make_states

algorithms = st.sampled_from(LoadBalance)
keys = st.integers(min_value=0, max_value=2**64 - 1)


@given(algorithms, st.integers(1, 40), st.integers(), st.lists(keys, min_size=1, max_size=30), st.data())
def test_picks_only_members_and_never_repeats_one(
    algorithm: LoadBalance, count: int, seed: int, picked_keys: list[int], data: st.DataObject
) -> None:
    rng = Random(seed)
    states = make_states(count)
    for state in states:
        state.inflight = rng.randrange(5)
        state.ewma_s = rng.choice((0.0, rng.random()))
        state.ewma_at = 100.0 * rng.random()
    picker = build_picker(Balancing(load_balance=algorithm), states, rng)
    for key in picked_keys:
        tried = [picker.pick(100.0, key)]
        for _ in range(count - 1):
            other = picker.pick_other(100.0, key, tried)
            assert other is not None
            tried.append(other)
        assert sorted(state.key for state in tried) == [state.key for state in states]
        assert picker.pick_other(100.0, key, tried) is None


@given(algorithms, st.integers(1, 8), st.integers(), keys)
def test_endpoints_of_an_older_picker_among_the_tried_do_no_harm(
    algorithm: LoadBalance, count: int, seed: int, key: int
) -> None:
    states = make_states(count)
    strangers = make_states(count + 1, first=1000)
    picker = build_picker(Balancing(load_balance=algorithm), states, Random(seed))
    assert picker.pick_other(0.0, key, strangers) in states
    assert picker.pick_other(0.0, key, [*strangers, *states]) is None


@pytest.mark.parametrize("algorithm", LoadBalance)
def test_load_spreads_over_all_endpoints(algorithm: LoadBalance) -> None:
    rng = Random(7)
    states = make_states(10)
    picker = build_picker(Balancing(load_balance=algorithm), states, rng)
    counts = Counter(picker.pick(1.0, rng.getrandbits(64)).key for _ in range(20_000))
    assert set(counts) == {state.key for state in states}
    assert min(counts.values()) > 1400
    assert max(counts.values()) < 2600


@pytest.mark.parametrize("algorithm", LoadBalance)
def test_no_endpoint_is_an_error(algorithm: LoadBalance) -> None:
    with pytest.raises(ValueError, match="at least one endpoint"):
        build_picker(Balancing(load_balance=algorithm), [], Random(1))


def test_every_algorithm_has_a_factory() -> None:
    assert set(FACTORIES) == set(LoadBalance)


def test_ring_exists_exactly_for_affinity() -> None:
    states = make_states(3)
    assert build_ring(Balancing(load_balance=LoadBalance.CONSISTENT_HASH), states) is None
    for mode in (AffinityMode.CLIENT_IP, AffinityMode.COOKIE):
        ring = build_ring(Balancing(affinity=mode), states)
        assert ring is not None
        assert ring.pick(0.0, 12345) in states
        with pytest.raises(ValueError, match="at least one endpoint"):
            build_ring(Balancing(affinity=mode), [])


def test_only_ewma_observes_latency() -> None:
    assert [algorithm for algorithm in LoadBalance if observes_latency(Balancing(load_balance=algorithm))] == ["ewma"]
