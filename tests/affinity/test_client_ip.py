from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.affinity.client_ip import ClientIPAffinity, Update, canonical_client

ENDPOINTS = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
A, B, C = ENDPOINTS


def test_unknown_client_has_no_endpoint() -> None:
    assert ClientIPAffinity(10.0).lookup("192.0.2.1", 0.0) is None


def test_assigned_client_stays() -> None:
    affinity = ClientIPAffinity(10.0)
    affinity.assign("192.0.2.1", A, 0.0)
    assert affinity.lookup("192.0.2.1", 5.0) == A
    assert affinity.lookup("192.0.2.2", 5.0) is None


def test_reassignment_replaces() -> None:
    affinity = ClientIPAffinity(10.0)
    affinity.assign("192.0.2.1", A, 0.0)
    affinity.assign("192.0.2.1", B, 1.0)
    assert affinity.lookup("192.0.2.1", 2.0) == B
    assert len(affinity) == 1


@pytest.mark.parametrize("timeout_s", [1.0, 10.0, 10800.0])
def test_alone_the_timeout_slides_and_ends_exactly(timeout_s: float) -> None:
    affinity = ClientIPAffinity(timeout_s, shared=False)
    affinity.assign("192.0.2.1", A, 0.0)
    now = 0.0
    for part in (0.99, 0.01, 0.5, 0.99, 0.1, 1.0, 0.06, 0.94):  # never longer than the timeout apart
        now += part * timeout_s
        assert affinity.lookup("192.0.2.1", now) == A
    assert affinity.lookup("192.0.2.1", now + timeout_s * 1.001) is None
    assert affinity.lookup("192.0.2.1", now + timeout_s * 1.002) is None


@given(
    st.sampled_from((1.0, 60.0, 10800.0)),
    st.booleans(),
    st.lists(st.floats(0.0, 1.5), min_size=1, max_size=40),
)
def test_never_forgotten_early_and_never_kept_much_longer(timeout_s: float, shared: bool, gaps: list[float]) -> None:
    affinity = ClientIPAffinity(timeout_s, shared=shared)
    now, known = 1000.0, False
    for gap in gaps:
        now += gap * timeout_s
        found = affinity.lookup("192.0.2.1", now)
        if known and gap < 0.999:
            assert found == A
        if gap > (1.126 if shared else 1.001):
            assert found is None
        if found is None:
            affinity.assign("192.0.2.1", A, now)
        known = True


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_timeout_must_be_positive(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="not positive"):
        ClientIPAffinity(timeout_s)


def test_flood_of_clients_forgets_those_not_seen_for_longest() -> None:
    affinity = ClientIPAffinity(1000.0, maxsize=100)
    affinity.assign("192.0.2.1", A, 0.0)
    for number in range(1000):
        affinity.assign(f"10.1.{number // 256}.{number % 256}", B, 1.0)
        if number % 50 == 0:
            assert affinity.lookup("192.0.2.1", 1.0) == A
    assert len(affinity) == 100
    assert affinity.lookup("10.1.0.0", 1.0) is None
    assert len(affinity.drain_updates()) <= 100


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("", ""),
        ("unix:", "unix:"),
        ("1:2:3", "1:2:3"),
        ("x" * 1000, "x" * 64),
        (":" * 1000, ":" * 64),
    ],
)
def test_canonical_client(address: str, canonical: str) -> None:
    assert canonical_client(address) == canonical


@given(st.text())
def test_any_text_is_a_client(client: str) -> None:
    affinity = ClientIPAffinity(10.0)
    affinity.assign(client, A, 0.0)
    assert affinity.lookup(client, 1.0) == A


def test_both_spellings_of_an_ipv4_client_are_one() -> None:
    affinity = ClientIPAffinity(10.0)
    affinity.assign("::ffff:192.0.2.1", A, 0.0)
    assert affinity.lookup("192.0.2.1", 1.0) == A
    affinity.assign("192.0.2.1", B, 1.0)
    assert affinity.lookup("::ffff:192.0.2.1", 2.0) == B


def test_updates_tell_assignments_once() -> None:
    affinity = ClientIPAffinity(80.0)
    affinity.assign("192.0.2.1", A, 1.0)
    affinity.assign("192.0.2.2", B, 2.0)
    affinity.assign("192.0.2.1", C, 3.0)
    assert affinity.drain_updates() == [("192.0.2.1", C, 3.0, 3.0), ("192.0.2.2", B, 2.0, 2.0)]
    assert affinity.drain_updates() == []
    affinity.assign("192.0.2.1", C, 4.0)  # nothing new
    assert affinity.drain_updates() == []


def test_use_is_told_at_most_eight_times_a_timeout() -> None:
    affinity = ClientIPAffinity(80.0)
    affinity.assign("192.0.2.1", A, 0.0)
    affinity.drain_updates()
    told = 0
    for tenth in range(1, 8000):
        assert affinity.lookup("192.0.2.1", tenth / 10) == A
        told += len(affinity.drain_updates())
    assert 70 <= told <= 80


def test_alone_nothing_is_kept_for_others() -> None:
    affinity = ClientIPAffinity(10.0, shared=False)
    affinity.assign("192.0.2.1", A, 0.0)
    assert affinity.drain_updates() == []


def test_other_worker_knows_the_client_as_long_as_it_is_seen_anywhere() -> None:
    """One keep-alive connection to worker 1 for a long time, then a new connection that worker 2 gets."""
    one, two = ClientIPAffinity(8.0), ClientIPAffinity(8.0)
    one.assign("192.0.2.1", A, 0.0)
    two.merge(one.drain_updates(), 0.0)
    for tenth in range(1, 1000):
        one.lookup("192.0.2.1", tenth / 10)
        two.merge(one.drain_updates(), tenth / 10)
    assert two.lookup("192.0.2.1", 99.9 + 8.0) == A


def test_merge_tells_nothing_on() -> None:
    one, two = ClientIPAffinity(8.0), ClientIPAffinity(8.0)
    one.assign("192.0.2.1", A, 0.0)
    two.merge(one.drain_updates(), 0.0)
    assert two.drain_updates() == []


def test_merge_leaves_out_what_has_ended() -> None:
    affinity = ClientIPAffinity(8.0)
    affinity.merge([("192.0.2.1", A, 0.0, 1.0)], 20.0)
    assert len(affinity) == 0


def test_later_assignment_wins_also_over_a_refresh_of_the_earlier() -> None:
    affinity = ClientIPAffinity(80.0)
    affinity.merge([("192.0.2.1", B, 5.0, 5.0)], 6.0)
    affinity.merge([("192.0.2.1", A, 1.0, 30.0)], 30.0)
    assert affinity.lookup("192.0.2.1", 100.0) == B  # but the client was seen at 30


def test_new_worker_starts_with_a_snapshot() -> None:
    old = ClientIPAffinity(80.0)
    old.assign("192.0.2.1", A, 0.0)
    old.assign("192.0.2.2", B, 50.0)
    old.assign("2001:db8::1", C, 50.0)
    new = ClientIPAffinity(80.0)
    new.merge(old.snapshot(100.0), 100.0)
    assert new.lookup("192.0.2.1", 100.0) is None  # over
    assert new.lookup("192.0.2.2", 100.0) == B
    assert new.lookup("2001:db8::1", 100.0) == C
    assert new.drain_updates() == []


def test_changed_timeout_takes_the_clients_along() -> None:
    old = ClientIPAffinity(10.0)
    old.assign("192.0.2.1", A, 0.0)
    new = ClientIPAffinity(100.0)
    new.merge(old.snapshot(5.0), 5.0)
    assert new.lookup("192.0.2.1", 90.0) == A


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2")), st.integers(0, 2)
        ),
        min_size=1,
        max_size=25,
    ),
    st.integers(),
)
def test_workers_converge_whatever_the_order_of_delivery(events: list[tuple[int, str, int]], seed: int) -> None:
    """Three workers assign at will, some at the same instant; updates arrive late, shuffled and several times."""
    rng = Random(seed)
    workers = [ClientIPAffinity(1000.0) for _ in range(3)]
    mail: list[list[Update]] = [[] for _ in workers]
    now = 1.0
    for number, client, endpoint in events:
        now += rng.choice((0.0, 0.0, 0.5))
        workers[number].assign(client, ENDPOINTS[endpoint], now)
        if rng.random() < 0.5:
            updates = workers[number].drain_updates()
            for inbox in mail:  # its own as well: the relay need not know who sent what
                inbox.extend(updates)
        if rng.random() < 0.3:
            receiver = rng.randrange(3)
            rng.shuffle(mail[receiver])
            workers[receiver].merge(mail[receiver], now)
    rest = [update for worker in workers for update in worker.snapshot(now)]
    for worker, inbox in zip(workers, mail, strict=True):
        everything = inbox + rest * 2
        rng.shuffle(everything)
        worker.merge(everything, now + 1.0)
    answers = [{client: worker.lookup(client, now + 2.0) for _, client, _ in events} for worker in workers]
    assert answers[0] == answers[1] == answers[2]
    assert None not in answers[0].values()
