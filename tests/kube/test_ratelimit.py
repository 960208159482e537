import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.kube.ratelimit import DelayQueue, TokenBucket, backoff_s


def test_a_burst_then_the_rate() -> None:
    bucket = TokenBucket(rate_per_s=2.0, burst=3, now=10.0)
    for _ in range(3):
        assert bucket.wait_s(10.0) == 0.0
        bucket.take(10.0)
    assert bucket.wait_s(10.0) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no token"):
        bucket.take(10.4)
    bucket.take(10.5)
    assert bucket.wait_s(1000.0) == 0.0
    for _ in range(3):
        bucket.take(1000.0)
    assert bucket.wait_s(1000.0) > 0.0  # no more than the burst is saved up


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_bucket_lets_something_through(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="nothing"):
        TokenBucket(rate, burst, 0.0)


@given(st.floats(0.1, 1000.0), st.integers(1, 100), st.lists(st.floats(0.0, 10.0), max_size=50))
def test_who_waits_as_told_gets_a_token(rate: float, burst: int, pauses: list[float]) -> None:
    now = 0.0
    bucket = TokenBucket(rate, burst, now)
    for taken, pause in enumerate(pauses, 1):
        now += pause
        now += bucket.wait_s(now)
        bucket.take(now)
        assert taken <= burst + rate * now + 1e-3


def test_back_off_doubles_up_to_its_limit() -> None:
    assert [backoff_s(n, 0.5, 30.0, 0.0) for n in range(1, 9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff_s(10**6, 0.5, 30.0, 0.0) == 30.0
    assert backoff_s(3, 0.5, 30.0, 0.5) == pytest.approx(1.8)


def test_the_queue_goes_by_due_time_then_by_arrival() -> None:
    queue: DelayQueue[str] = DelayQueue()
    for key, due in [("late", 5.0), ("a", 1.0), ("b", 1.0), ("c", 0.5)]:
        queue.add(key, due)
    assert queue.wait_s(0.0) == 0.5
    assert queue.pop(0.4) is None
    assert [queue.pop(1.0) for _ in range(4)] == ["c", "a", "b", None]
    assert "late" in queue
    assert len(queue) == 1
    assert queue.wait_s(9.0) == 0.0


def test_a_key_is_queued_once_for_its_earliest_time() -> None:
    queue: DelayQueue[str] = DelayQueue()
    queue.add("a", 5.0)
    queue.add("a", 9.0)
    assert queue.pop(5.0) == "a"
    queue.add("a", 5.0)
    queue.add("a", 2.0)
    assert queue.pop(2.0) == "a"
    assert queue.pop(100.0) is None
    assert queue.wait_s(0.0) is None


def test_taking_out() -> None:
    queue: DelayQueue[str] = DelayQueue()
    for number, key in enumerate("abcd"):
        queue.add(key, float(number))
    queue.discard("a")
    queue.discard("z")
    assert queue.drop_first() == "b"
    queue.clear()
    assert queue.drop_first() is None
    assert len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["add", "discard", "pop"]), st.integers(0, 20))))
def test_the_queue_agrees_with_a_dictionary(steps: list[tuple[str, str, int]]) -> None:
    queue: DelayQueue[str] = DelayQueue()
    model: dict[str, float] = {}
    for key, act, time in steps:
        if act == "add":
            queue.add(key, time)
            model[key] = min(time, model.get(key, time))
        elif act == "discard":
            queue.discard(key)
            model.pop(key, None)
        else:
            found = queue.pop(time)
            assert (found is None) == (not model or min(model.values()) > time)
            if found is not None:
                earliest = min(model.values())
                assert model.pop(found) == earliest
        assert len(queue) == len(model)
        assert queue.wait_s(0.0) == (min(model.values()) if model else None)
