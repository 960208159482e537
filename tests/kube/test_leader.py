import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import KubeSettings
from ingress.kube.api import Forbidden
from ingress.kube.leader import LeaderElection, LeaseSpec, Step, micro_time, new_identity, next_step
from tests.kube import virtual
from tests.kube.fake_api import FakeClient, FakeServer

TTL_S = 30.0
LEASE = "/apis/coordination.k8s.io/v1/namespaces/edge/leases/aioingress-leader"


def elector(client: FakeClient, **settings: object) -> LeaderElection:
    known = KubeSettings(pod_namespace="edge", pod_name=client.name, election_ttl_s=TTL_S, **settings)  # type: ignore[arg-type]
    rng = random.Random(client.name)
    return LeaderElection(client, known, client.name, clock=virtual.clock, wall=virtual.wall, rng=rng)


class Candidate:
    """One replica: its network, its election, and what it was told."""

    def __init__(self, server: FakeServer, name: str, **settings: object) -> None:
        self.client = server.client(name)
        self.election = elector(self.client, **settings)
        self.told: list[bool] = []
        self.election.on_change(self.told.append)
        self.task = virtual.spawn(self.election.run())

    def crash(self) -> None:
        self.task.cancel()

    @property
    def leads(self) -> bool:
        return self.election.is_leader


@contextmanager
def candidates(server: FakeServer, *names: str) -> Iterator[list[Candidate]]:
    found = [Candidate(server, name) for name in names]
    try:
        yield found
    finally:
        for candidate in found:
            candidate.crash()


def leaders(found: list[Candidate]) -> list[str]:
    return [candidate.client.name for candidate in found if candidate.leads]


async def seconds_until(condition: Callable[[], bool], limit_s: float = 300.0) -> float:
    began = virtual.clock()
    while not condition():
        assert virtual.clock() - began < limit_s, "it never came true"
        await asyncio.sleep(0.1)
    return virtual.clock() - began


# ---- pure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "unchanged_s", "step"),
    [
        (None, 0.0, Step.CREATE),
        (LeaseSpec(), 0.0, Step.TAKE),
        (LeaseSpec(holder_identity=""), 0.0, Step.TAKE),
        (LeaseSpec(holder_identity="me", lease_duration_seconds=30), 100.0, Step.RENEW),
        (LeaseSpec(holder_identity="you", lease_duration_seconds=30), 29.9, Step.WAIT),
        (LeaseSpec(holder_identity="you", lease_duration_seconds=30), 30.0, Step.TAKE),
        (
            LeaseSpec(holder_identity="you", lease_duration_seconds=60),
            30.0,
            Step.WAIT,
        ),  # its holder's ttl counts, not ours
        (LeaseSpec(holder_identity="you"), 29.9, Step.WAIT),
        (LeaseSpec(holder_identity="you"), 30.0, Step.TAKE),
    ],
)
def test_next_step(spec: LeaseSpec | None, unchanged_s: float, step: Step) -> None:
    assert next_step(spec, "me", unchanged_s, TTL_S) is step


def test_micro_time_is_utc_with_six_digits() -> None:
    moment = datetime(2026, 3, 1, 1, 2, 3, 4000, timezone(timedelta(hours=1)))
    assert micro_time(moment) == "2026-03-01T00:02:03.004000Z"
    assert micro_time(datetime(2026, 3, 1, tzinfo=UTC)) == "2026-03-01T00:00:00.000000Z"


def test_two_starts_in_one_pod_are_two_candidates() -> None:
    assert new_identity("pod-a") != new_identity("pod-a")
    assert new_identity("pod-a").startswith("pod-a_")
    assert len(new_identity("")) > len("_00000000")


# ---- one candidate ------------------------------------------------------------------------------------------------


def scenario(coroutine: Callable[[FakeServer], Awaitable[None]]) -> None:
    async def whole() -> None:
        await coroutine(FakeServer())

    virtual.run(whole)


def test_the_first_creates_the_lease_and_renews_it() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a") as (a,):
            await asyncio.sleep(1)
            assert a.leads
            assert a.election.holder == "a"
            first = server.objects[LEASE]["spec"]
            assert first == {
                "holderIdentity": "a",
                "leaseDurationSeconds": 30,
                "acquireTime": "2026-01-01T00:16:40.000000Z",
                "renewTime": "2026-01-01T00:16:40.000000Z",
                "leaseTransitions": 0,
            }
            await asyncio.sleep(3600)
            later = server.objects[LEASE]["spec"]
            assert later["renewTime"] > first["renewTime"]
            assert {**later, "renewTime": ""} == {**first, "renewTime": ""}
            assert a.told == [True]
            # a renewal is one request
            assert len(server.writes("PUT")) == pytest.approx(3600 / 5, abs=2)
            assert len(server.requests) - len(server.writes()) == 1

    scenario(story)


def test_what_others_put_on_the_lease_stays() -> None:
    async def story(server: FakeServer) -> None:
        content = {
            "metadata": {"labels": {"team": "edge"}},
            "spec": {"strategy": "OldestEmulationVersion", "leaseTransitions": 7},
        }
        server.put(LEASE, content)
        with candidates(server, "a") as (a,):
            await asyncio.sleep(1)
            assert a.leads
            found = server.objects[LEASE]
            assert found["metadata"]["labels"] == {"team": "edge"}
            assert found["spec"]["strategy"] == "OldestEmulationVersion"
            assert found["spec"]["leaseTransitions"] == 8
            server.put(LEASE, {**found, "metadata": {"labels": {"team": "core"}, "name": "aioingress-leader"}})
            await asyncio.sleep(30)
            assert a.told == [True]  # a conflict with a harmless change costs nothing
            assert server.objects[LEASE]["metadata"]["labels"] == {"team": "core"}

    scenario(story)


def test_without_election_everybody_leads_and_nothing_is_written() -> None:
    async def story(server: FakeServer) -> None:
        alone = Candidate(server, "a", leader_election=False)
        await asyncio.sleep(100)
        assert alone.leads
        assert alone.election.holder == "a"
        assert alone.told == [True]
        assert await alone.election.acquire(1)
        await alone.election.release()
        assert alone.told == [True, False]
        assert alone.election.holder == ""
        assert server.requests == []
        await alone.task

    scenario(story)


def test_a_deleted_lease_is_made_anew() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a") as (a,):
            await asyncio.sleep(1)
            server.delete(LEASE)
            await asyncio.sleep(6)
            assert a.leads
            assert server.objects[LEASE]["spec"]["holderIdentity"] == "a"

    scenario(story)


def test_a_lease_that_was_given_to_somebody_else_is_lost_at_once() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a") as (a,):
            await asyncio.sleep(1)
            found = server.objects[LEASE]
            server.put(LEASE, {**found, "spec": {**found["spec"], "holderIdentity": "z"}})
            await asyncio.sleep(6)
            assert not a.leads
            assert a.election.holder == "z"
            await asyncio.sleep(40)
            assert a.leads  # z never renewed

    scenario(story)


def test_problems_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        server.fail = lambda _: Forbidden("leases is forbidden")
        with caplog.at_level("INFO"), candidates(server, "a") as (a,):
            await asyncio.sleep(300)
            assert not a.leads
            assert [r.message for r in caplog.records] == [
                "leader election, lease aioingress-leader: leases is forbidden"
            ]
            server.fail = lambda _: None
            await asyncio.sleep(3)
            assert a.leads

    scenario(story)


# ---- several ------------------------------------------------------------------------------------------------------


def test_a_crashed_leader_is_replaced_after_its_ttl() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a", "b") as both:
            await asyncio.sleep(20)
            first = next(c for c in both if c.leads)
            second = next(c for c in both if not c.leads)
            assert second.election.holder == first.client.name
            first.crash()
            took_s = await seconds_until(lambda: second.leads)
            assert TTL_S - 5.1 <= took_s <= TTL_S + 3
            assert server.objects[LEASE]["spec"]["leaseTransitions"] == 1
            assert second.told == [True]

    scenario(story)


def test_a_leader_cut_off_stops_long_before_the_next_one_starts() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a", "b") as both:
            await asyncio.sleep(20)
            first = next(c for c in both if c.leads)
            second = next(c for c in both if not c.leads)
            first.client.reaches = False
            first.client.hangs = True
            assert await seconds_until(lambda: not first.leads) <= TTL_S / 2 + 0.1
            assert first.told == [True, False]
            assert not second.leads
            gap_s = await seconds_until(lambda: second.leads)
            assert gap_s >= TTL_S / 2 - 5.1
            first.client.reaches, first.client.hangs = True, False
            await asyncio.sleep(100)
            assert leaders(both) == [second.client.name]
            assert first.election.holder == second.client.name

    scenario(story)


def test_a_released_lease_is_taken_within_the_retry_period() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a", "b") as both:
            await asyncio.sleep(20)
            first = next(c for c in both if c.leads)
            second = next(c for c in both if not c.leads)
            await first.election.release()
            assert first.told == [True, False]
            assert server.objects[LEASE]["spec"].get("holderIdentity") is None
            assert await seconds_until(lambda: second.leads) <= 2.5
            await asyncio.sleep(100)
            assert not first.leads
            assert first.task.done()

    scenario(story)


def test_releasing_what_somebody_else_holds_leaves_it() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a", "b") as both:
            await asyncio.sleep(20)
            first = next(c for c in both if c.leads)
            second = next(c for c in both if not c.leads)
            server.requests.clear()
            await second.election.release()
            assert [r for r in server.writes() if r.client == second.client.name] == []
            assert first.leads

    scenario(story)


def test_release_is_bounded_in_time() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a") as (a,):
            await asyncio.sleep(1)
            a.client.reaches, a.client.hangs = False, True
            began = virtual.clock()
            await a.election.release()
            assert virtual.clock() - began <= 5.1
            assert not a.leads

    scenario(story)


def test_acquire_takes_a_free_lease_and_no_other() -> None:
    async def story(server: FakeServer) -> None:
        with candidates(server, "a", "b") as both:
            await asyncio.sleep(20)
            first = next(c for c in both if c.leads)
            second = next(c for c in both if not c.leads)
            assert not await second.election.acquire(3)
            assert first.leads
            assert await first.election.acquire(3)
            waiting = asyncio.create_task(second.election.acquire(3))
            await first.election.release()
            assert await waiting
            assert leaders(both) == [second.client.name]
            await asyncio.sleep(TTL_S / 2)
            assert not second.leads  # no campaign behind it

    scenario(story)


def test_a_conflict_storm_elects_one() -> None:
    async def story(server: FakeServer) -> None:
        names = [f"pod-{n}" for n in range(12)]
        with candidates(server, *names) as found:
            for candidate in found:
                candidate.client.delay_s = 0.2  # all read before the first writes
            await asyncio.sleep(10)
            assert len(leaders(found)) == 1
            assert {c.election.holder for c in found} == set(leaders(found))

    scenario(story)


# ---- never two ----------------------------------------------------------------------------------------------------

NETWORK = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.01, 1.0, 4.0, 12.0]))
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # whose network changes
        NETWORK,
        st.floats(0.0, 40.0),  # seconds until the next change
        st.sampled_from(["", "", "", "crash", "release", "delete", "label"]),
    ),
    min_size=1,
    max_size=25,
)


@given(STEPS)
def test_never_two_leaders(steps: list[tuple[int, tuple[bool, bool, bool, float], float, str]]) -> None:
    """Whatever is lost, delayed or answered too late; and once the network works, there is one."""

    async def story(server: FakeServer) -> None:
        with candidates(server, "a", "b", "c") as found:

            def check() -> None:
                assert len(leaders(found)) <= 1
                for candidate in found:
                    told = bool(candidate.told and candidate.told[-1])
                    assert candidate.leads <= told, "it leads and doesn't know"

            virtual.always(check)
            for who, (reaches, hears, hangs, delay_s), pause_s, act in steps:
                chosen = found[who]
                client = chosen.client
                client.reaches, client.hears, client.hangs, client.delay_s = reaches, hears, hangs, delay_s
                if act == "crash":
                    chosen.crash()
                    await asyncio.wait((chosen.task,))
                    found[who] = Candidate(server, f"{client.name}'")
                elif act == "release":
                    await chosen.election.release()
                    found[who] = Candidate(server, f"{client.name}'")
                elif act == "label" and LEASE in server.objects:
                    server.put(LEASE, server.objects[LEASE])
                await asyncio.sleep(pause_s)
            for candidate in found:
                client = candidate.client
                client.reaches, client.hears, client.hangs, client.delay_s = True, True, False, 0.0
            await asyncio.sleep(2 * TTL_S)
            assert len(leaders(found)) == 1

    scenario(story)
