"""Counts that processes share: buckets as nginx's, slots that run out, and two processes that lose no count between them."""

import multiprocessing
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.middleware import shared
from ingress.middleware.shared import SharedCounts


@pytest.fixture
def counts() -> Iterator[SharedCounts]:
    made = SharedCounts.create()
    yield made
    made.close()


def test_digests_are_stable_and_keyed(counts: SharedCounts) -> None:
    other = SharedCounts(os.dup(counts.fd), 1)
    assert other.digest("zone", "10.0.0.1") == counts.digest("zone", "10.0.0.1")
    other.close()
    stranger = SharedCounts.create()
    assert stranger.digest("zone", "10.0.0.1") != counts.digest("zone", "10.0.0.1")
    stranger.close()
    assert len({counts.digest(z, c) for z in ("a", "b") for c in ("1", "2")}) == 4
    assert counts.digest("a", "b") != counts.digest("a\0", "b")


# ---- rates ----------------------------------------------------------------------------------------------------------


def naive(times: list[float], rate: float, burst: float) -> list[bool]:
    """ngx_http_limit_req_module with nodelay, for one client."""
    outcome, last, excess = [], None, 0.0
    for now in times:
        new = 0.0 if last is None else max(0.0, excess - rate * (now - last) + 1.0)
        if new > burst:
            outcome.append(False)
            continue
        outcome.append(True)
        last, excess = now, new
    return outcome


@given(
    st.lists(st.floats(0.0, 2.0, allow_nan=False), max_size=60),
    st.sampled_from([1 / 60, 0.5, 1.0, 10.0, 100.0]),
    st.integers(0, 20),
)
def test_a_bucket_is_that_of_nginx(gaps: list[float], rate: float, burst: int) -> None:
    counts = SharedCounts.create()
    try:
        now, times = 1000.0, []
        for gap in gaps:
            now += gap
            times.append(now)
        digest = counts.digest("z", "c")
        assert [counts.take([(digest, rate, float(burst))], t) for t in times] == naive(times, rate, burst)
    finally:
        counts.close()


def test_the_first_requests_are_one_more_than_the_burst(counts: SharedCounts) -> None:
    bucket = (counts.digest("z", "c"), 10.0, 50.0)
    assert [counts.take([bucket], 5.0) for _ in range(60)].count(True) == 51
    assert not counts.take([bucket], 5.05)
    assert counts.take([bucket], 5.1)
    assert not counts.take([bucket], 5.1)


def test_of_two_buckets_both_count_or_none(counts: SharedCounts) -> None:
    wide, narrow = (counts.digest("w", "c"), 1.0, 9.0), (counts.digest("n", "c"), 1.0, 2.0)
    assert [counts.take([wide, narrow], 1.0) for _ in range(6)].count(True) == 3
    assert [counts.take([wide], 1.0) for _ in range(20)].count(True) == 7  # the refused ones cost it nothing


def test_clients_do_not_share(counts: SharedCounts) -> None:
    digests = [counts.digest("z", f"10.0.0.{n}") for n in range(200)]
    assert all(counts.take([(digest, 1.0, 0.0)], 1.0) for digest in digests)
    assert not any(counts.take([(digest, 1.0, 0.0)], 1.0) for digest in digests)


def test_a_full_set_gives_up_who_was_silent_longest(counts: SharedCounts) -> None:
    same_set = [1 + n * shared._SETS for n in range(9)]
    for now, digest in enumerate(same_set):
        assert counts.take([(digest, 0.001, 0.0)], float(now))
    assert not counts.take([(same_set[8], 0.001, 0.0)], 9.0)
    assert not counts.take([(same_set[1], 0.001, 0.0)], 9.0)
    assert counts.take([(same_set[0], 0.001, 0.0)], 9.0)  # forgotten


# ---- concurrency ----------------------------------------------------------------------------------------------------


def test_uses_are_counted_over_all_workers(counts: SharedCounts) -> None:
    other = SharedCounts(os.dup(counts.fd), 1)
    digest = counts.digest("z", "c")
    assert counts.enter(digest, 3)
    assert other.enter(digest, 3)
    assert counts.enter(digest, 3)
    assert not other.enter(digest, 3)
    assert not counts.enter(digest, 3)
    other.leave(digest)
    assert counts.enter(digest, 3)
    for _ in range(9):
        other.leave(digest)  # never below none
    assert not other.enter(digest, 3)
    other.close()


def test_what_a_worker_held_ends_with_it(counts: SharedCounts) -> None:
    other = SharedCounts(os.dup(counts.fd), 5)
    digests = [counts.digest("z", str(n)) for n in range(50)]
    for digest in digests:
        assert other.enter(digest, 1)
        assert not counts.enter(digest, 1)
    other.close()
    counts.forget_column(5)
    assert all(counts.enter(digest, 1) for digest in digests)


def test_a_set_of_busy_clients_has_no_slot_to_give(counts: SharedCounts) -> None:
    same_set = [1 + n * shared._SETS for n in range(9)]
    assert all(counts.enter(digest, 1) for digest in same_set)
    assert not counts.enter(same_set[0], 1)
    counts.leave(same_set[8])  # it was let in uncounted
    counts.leave(same_set[3])
    assert counts.enter(same_set[8], 1)
    assert not counts.enter(same_set[8], 1)


def test_leaving_twice_is_harmless(counts: SharedCounts) -> None:
    counts.leave(counts.digest("z", "nobody"))


@pytest.mark.parametrize("index", [-1, shared.WORKERS_LIMIT])
def test_columns_have_bounds(counts: SharedCounts, index: int) -> None:
    with pytest.raises(ValueError, match="no column"):
        SharedCounts(counts.fd, index)


# ---- processes ------------------------------------------------------------------------------------------------------


def _take_many(fd: int, digest: int, tries: int, taken: "multiprocessing.Queue[int]") -> None:
    counts = SharedCounts(fd)
    taken.put(sum(counts.take([(digest, 0.0, 999.0)], 1.0) for _ in range(tries)))


def test_processes_lose_no_count() -> None:
    """Without the lock two workers would take the same token now and then."""
    counts = SharedCounts.create()
    context = multiprocessing.get_context("fork")
    taken: multiprocessing.Queue[int] = context.Queue()
    digest = counts.digest("z", "c")
    workers = [context.Process(target=_take_many, args=(counts.fd, digest, 600, taken)) for _ in range(4)]
    for worker in workers:
        worker.start()
    total = sum(taken.get(timeout=30) for _ in workers)
    for worker in workers:
        worker.join()
    taken.close()
    counts.close()
    assert total == 1000
