from collections import Counter
from random import Random

import pytest

from ingress.balancing.hash_subset import HashSubset
from ingress.balancing.hashing import hash64
from ingress.balancing.registry import build_picker
from ingress.routing.table import Balancing, LoadBalance
from tests.balancing.support import make_states as states

KEYS = [hash64(b"%d" % number) for number in range(2000)]


@pytest.mark.parametrize(
    ("endpoints", "size", "sets"), [(6, 3, 2), (7, 3, 3), (2, 3, 1), (1, 3, 1), (5, 1, 5), (4, 100, 1)]
)
def test_a_key_has_a_few_endpoints(endpoints: int, size: int, sets: int) -> None:
    made = states(endpoints)
    picker = HashSubset(made, size, Random(1))
    found = {}
    for key in KEYS[:200]:
        chosen = {picker.pick(0.0, key).key for _ in range(100)}
        assert len(chosen) == min(size, endpoints)
        found[frozenset(chosen)] = True
    assert len(found) == sets
    assert frozenset().union(*found) == {state.key for state in made}  # every endpoint is reachable


def test_the_last_set_is_filled_up_with_the_first_endpoints() -> None:
    made = states(4)
    picker = HashSubset(made, 3, Random(1))
    sets = {frozenset(picker.pick(0.0, key).key for _ in range(100)) for key in KEYS[:50]}
    assert sets == {frozenset(s.key for s in made[:3]), frozenset(s.key for s in (made[3], made[0], made[1]))}


def test_sets_share_the_keys_evenly() -> None:
    made = states(10)
    picker = HashSubset(made, 2, Random(1))
    counted = Counter(picker.pick(0.0, key).key for key in KEYS)
    assert max(counted.values()) < 1.5 * min(counted.values())


def test_keys_move_to_a_new_set_only() -> None:
    few, more = states(6), states(8)
    before, after = HashSubset(few, 2, Random(1)), HashSubset(more, 2, Random(1))

    def members(picker: HashSubset, key: int) -> frozenset[str]:
        return frozenset(picker.pick(0.0, key).key for _ in range(40))

    new = frozenset(state.key for state in more[6:])
    moved = 0
    for key in KEYS[:400]:
        a, b = members(before, key), members(after, key)
        if a != b:
            moved += 1
            assert b == new
    assert 60 < moved < 140  # a quarter


def test_another_of_the_set_first() -> None:
    made = states(6)
    picker = HashSubset(made, 3, Random(1))
    for key in KEYS[:50]:
        own = {picker.pick(0.0, key).key for _ in range(60)}
        tried = [picker.pick(0.0, key)]
        for number in range(2, 7):
            other = picker.pick_other(0.0, key, tried)
            assert other is not None
            assert other not in tried
            assert (other.key in own) is (number <= 3)
            tried.append(other)
        assert picker.pick_other(0.0, key, tried) is None


def test_it_is_used_where_asked_for() -> None:
    made = states(6)
    balancing = Balancing(LoadBalance.CONSISTENT_HASH, hash_subset_size=2)
    assert isinstance(build_picker(balancing, made, Random(1)), HashSubset)
    assert not isinstance(build_picker(Balancing(LoadBalance.CONSISTENT_HASH), made, Random(1)), HashSubset)
