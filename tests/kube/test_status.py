import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import KubeSettings
from ingress.errors import SourceError
from ingress.kube.addresses import Addresses
from ingress.kube.api import Conflict, Forbidden, Rejected, Unavailable
from ingress.kube.leader import LeaderElection
from ingress.kube.status import StatusWriter, decide, patch_of, path_of
from ingress.model import Kind, LoadBalancerIngress, ObjectRef
from tests.kube import virtual
from tests.kube.fake_api import FakeServer, Request


def ips(*texts: str) -> Addresses:
    return tuple(LoadBalancerIngress(ip=text) for text in texts)


OURS = ips("192.0.2.1", "192.0.2.2")
THEIRS = ips("198.51.100.9")


def ref(name: str, namespace: str = "ns") -> ObjectRef:
    return ObjectRef(Kind.INGRESS, namespace, name)


def refs(*names: str) -> frozenset[ObjectRef]:
    return frozenset(map(ref, names))


# ---- pure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "served", "publish", "expected"),
    [
        (None, True, OURS, None),
        (None, False, OURS, None),
        ((), True, OURS, OURS),
        ((), True, (), None),
        (OURS, True, (), None),
        (OURS, True, OURS, None),
        (OURS[::-1], True, OURS, None),
        (OURS[:1], True, OURS, OURS),
        ((*OURS, *THEIRS), True, OURS, OURS),
        (THEIRS, True, OURS, OURS),
        ((), False, OURS, None),
        (THEIRS, False, OURS, None),
        (OURS, False, OURS, ()),
        (OURS, False, (), ()),
        ((*OURS, *THEIRS), False, OURS, THEIRS),
        (OURS[1:], False, OURS, ()),
    ],
)
def test_decide(shown: Addresses | None, served: bool, publish: Addresses, expected: Addresses | None) -> None:
    assert decide(shown, served=served, publish=publish, ours=frozenset(OURS)) == expected


ADDRESSES = st.lists(st.sampled_from([*OURS, *THEIRS])).map(tuple)


@given(ADDRESSES, st.booleans())
def test_what_was_written_needs_no_writing(shown: Addresses, served: bool) -> None:
    written = decide(shown, served=served, publish=OURS, ours=OURS)
    if written is not None:
        assert decide(written, served=served, publish=OURS, ours=OURS) is None
    if not served:
        assert [address for address in written or () if address in OURS] == []


def test_patch_of() -> None:
    found = (LoadBalancerIngress(ip="192.0.2.1"), LoadBalancerIngress(hostname="lb.example"))
    entries = [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]
    assert patch_of(found) == {"status": {"loadBalancer": {"ingress": entries}}}
    assert patch_of((), "7") == {"metadata": {"resourceVersion": "7"}, "status": {"loadBalancer": {"ingress": None}}}


# ---- scenarios ----------------------------------------------------------------------------------------------------


class Count:
    """How many other replicas there are, as `addresses.Replicas` says it."""

    def __init__(self, others: int = 0) -> None:
        self.count = others
        self.problem: SourceError | None = None

    @property
    def alone(self) -> bool:
        return self.count == 0

    async def others(self) -> int:
        if self.problem is not None:
            raise self.problem
        return self.count


class Replica:
    """One controller: its lease, its writer, and what it sees of the Ingresses (after `lag_s`)."""

    def __init__(
        self, server: FakeServer, name: str = "a", others: int = 0, lag_s: float = 0.005, **settings: Any
    ) -> None:
        known = KubeSettings(pod_namespace="edge", pod_name=name, **settings)
        self.server = server
        self.client = server.client(name)
        self.lease = server.client(f"{name}/lease")
        rng = random.Random(name)
        self.election = LeaderElection(self.lease, known, name, clock=virtual.clock, wall=virtual.wall, rng=rng)
        self.replicas = Count(others)
        self.seen: dict[ObjectRef, Addresses] = {}
        self.lag_s = lag_s
        self.writer = StatusWriter(
            self.client,
            known,
            election=self.election,
            replicas=self.replicas,
            observed=self.seen.get,
            clock=virtual.clock,
            rng=rng,
        )
        for path in server.objects:
            self._see(path)
        self._put = server.put
        server.put = self._put_and_tell  # type: ignore[method-assign]
        self.tasks = [virtual.spawn(self.election.run()), virtual.spawn(self.writer.run())]

    def _put_and_tell(self, path: str, content: Any) -> Any:
        found = self._put(path, content)
        asyncio.get_running_loop().call_later(self.lag_s, self._see, path)
        return found

    def _see(self, path: str) -> None:
        if "/ingresses/" not in path:
            return
        _, _, tail = path.partition("/namespaces/")
        found = ref(tail.rpartition("/")[2], tail.partition("/")[0])
        shown = self.server.objects.get(path)
        if shown is None:
            self.seen.pop(found, None)
        else:
            self.seen[found] = shown_of(shown)
        self.writer.note({found})

    def crash(self) -> None:
        for task in self.tasks:
            task.cancel()


def shown_of(found: dict[str, Any]) -> Addresses:
    entries = ((found.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return tuple(LoadBalancerIngress(**entry) for entry in entries)


def create(server: FakeServer, names: Iterable[str], shown: Addresses = ()) -> None:
    for name in names:
        server.put(path_of(ref(name)), patch_of(shown))


def shows(server: FakeServer, name: str) -> Addresses:
    return shown_of(server.objects[path_of(ref(name))])


def patches(server: FakeServer) -> list[Request]:
    return [request for request in server.requests if request.method == "PATCH"]


def scenario(story: Callable[[FakeServer], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(FakeServer())

    virtual.run(whole)


def test_a_served_ingress_gets_the_addresses() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web", "foreign", "fine"])
        server.put(path_of(ref("fine")), patch_of(OURS[::-1]))
        a = Replica(server)
        a.writer.set_served(refs("web", "fine", "gone"))
        await asyncio.sleep(1)
        assert patches(server) == []  # no address is known yet
        a.writer.set_addresses(OURS)
        await asyncio.sleep(1)
        assert shows(server, "web") == OURS
        assert shows(server, "foreign") == ()
        assert [request.path for request in patches(server)] == [f"{path_of(ref('web'))}/status"]
        assert a.writer.written == 1
        assert a.writer.pending == 0

    scenario(story)


@pytest.mark.parametrize(("others", "earliest_s", "latest_s"), [(0, 0.0, 0.1), (1, 1.0, 1.1)])
def test_other_replicas_get_a_moment(others: int, earliest_s: float, latest_s: float) -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server, others=others)
        a.writer.set_addresses(OURS)
        await asyncio.sleep(20)
        began = virtual.clock()
        a.writer.set_served(refs("web"))
        a.writer.note(refs("web"))
        await asyncio.sleep(2)
        (written,) = patches(server)
        assert earliest_s <= written.at - began <= latest_s
        # new addresses on what is served already: at once
        a.writer.set_addresses(THEIRS)
        await asyncio.sleep(0.1)
        assert shows(server, "web") == THEIRS

    scenario(story)


def test_an_ingress_is_never_written_before_it_is_served_or_after() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server, others=1)
        a.writer.set_addresses(OURS)
        await asyncio.sleep(5)
        a.writer.note(refs("web"))
        a.writer.set_served(refs("web"))
        await asyncio.sleep(0.5)
        a.writer.set_served(refs())
        await asyncio.sleep(100)
        assert patches(server) == []

    scenario(story)


def test_only_the_leader_writes_and_a_new_one_goes_on() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["one", "two"])
        a, b = Replica(server, "a", others=1), Replica(server, "b", others=1)
        for replica in (a, b):
            replica.writer.set_addresses(OURS)
            replica.writer.set_served(refs("one"))
        await asyncio.sleep(5)
        first, second = (a, b) if a.election.is_leader else (b, a)
        assert {request.client for request in patches(server)} == {first.client.name}
        first.crash()
        for replica in (a, b):
            replica.writer.set_served(refs("one", "two"))
        await asyncio.sleep(40)
        assert shows(server, "two") == OURS
        assert Counter(request.client for request in patches(server)) == {first.client.name: 1, second.client.name: 1}

    scenario(story)


def test_a_lost_lease_stops_writes_under_way() -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(100)]
        create(server, names)
        a = Replica(server, status_rate_per_s=4.0)  # some are under way at any moment
        a.writer.set_addresses(OURS)
        await asyncio.sleep(1)
        a.lease.reaches, a.lease.hangs = False, True
        a.client.delay_s = 1.03  # the writes get through, slowly
        a.writer.set_served(refs(*names))

        arrived: list[bool] = []

        def arrive(request: Request) -> None:
            if request.method == "PATCH":
                arrived.append(a.election.is_leader)

        server.fail = arrive
        await asyncio.sleep(100)
        assert 0 < len(arrived) < 100
        assert all(arrived)
        a.lease.reaches, a.lease.hangs = True, False
        await asyncio.sleep(100)
        assert [name for name in names if shows(server, name) != OURS] == []

    scenario(story)


def test_what_others_overwrite_is_repaired_with_growing_patience(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(10)
        for _ in range(6000):  # somebody else insists for ten minutes
            if shows(server, "web") == OURS:
                server.put(path_of(ref("web")), patch_of(THEIRS))
            await asyncio.sleep(0.1)
        assert 10 <= len(patches(server)) <= 20
        assert sum("overwritten again and again" in record.message for record in caplog.records) == 1
        await asyncio.sleep(61)
        assert shows(server, "web") == OURS

    scenario(story)


def test_an_ingress_made_anew_again_and_again_is_no_contest(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.writer.set_addresses(OURS)
        for _ in range(10):
            create(server, ["web"])
            await asyncio.sleep(0.1)
            a.writer.set_served(refs("web"))
            await asyncio.sleep(0.5)
            assert shows(server, "web") == OURS
            server.delete(path_of(ref("web")))
            a._see(path_of(ref("web")))
            a.writer.set_served(refs())
            await asyncio.sleep(5)
        assert caplog.records == []

    scenario(story)


def test_what_no_watch_told_of_is_repaired_within_the_period() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server, status_period_s=60.0)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(10)
        a.seen[ref("web")] = THEIRS
        await asyncio.sleep(61)
        assert len(patches(server)) == 2

    scenario(story)


def test_a_slow_watch_causes_no_second_write() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server, lag_s=20.0)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        for _ in range(100):
            await asyncio.sleep(0.1)
            a.writer.set_leader(True)  # everything is compared
        await asyncio.sleep(30)
        assert len(patches(server)) == 1

    scenario(story)


def test_what_is_not_served_any_more_is_cleared_of_ours_only() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web", "shared", "taken", "stays", "deleted"])
        a = Replica(server)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web", "shared", "taken", "stays", "deleted"))
        await asyncio.sleep(10)
        server.put(path_of(ref("shared")), patch_of((*OURS, *THEIRS)))
        a.writer.set_addresses(ips("192.0.2.7"))
        server.put(path_of(ref("taken")), patch_of(THEIRS))
        server.delete(path_of(ref("deleted")))
        del a.seen[ref("deleted")]
        a.writer.set_served(refs("stays"))
        server.put(path_of(ref("shared")), patch_of((*OURS, *THEIRS)))
        await asyncio.sleep(10)
        assert {name: shows(server, name) for name in ("web", "shared", "taken", "stays")} == {
            "web": (),
            "shared": THEIRS,
            "taken": THEIRS,
            "stays": ips("192.0.2.7"),
        }
        count = len(server.requests)
        await asyncio.sleep(50)
        assert len([r for r in server.requests[count:] if r.client == "a"]) == 0
        await asyncio.sleep(600)
        assert a.writer._withdrawn == {}

    scenario(story)


def test_what_the_next_controller_writes_meanwhile_stays() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(10)

        def overtake(request: Request) -> None:
            if request.method == "PATCH":
                server.fail = lambda _: None
                server.put(path_of(ref("web")), patch_of(THEIRS))

        server.fail = overtake
        a.writer.set_served(refs())
        await asyncio.sleep(100)
        assert shows(server, "web") == THEIRS
        assert a.writer.failed == 1

    scenario(story)


def test_a_class_that_is_replaced_leaves_the_status_alone() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(10)
        a.writer.set_served(refs())
        await asyncio.sleep(0.5)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(100)
        assert len(patches(server)) == 1
        assert shows(server, "web") == OURS

    scenario(story)


def test_an_ingress_withdrawn_while_it_is_written_ends_up_clear() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server, lag_s=0.3)
        a.writer.set_addresses(OURS)
        await asyncio.sleep(5)
        a.client.delay_s = 0.5
        a.writer.set_served(refs("web"))
        await asyncio.sleep(0.6)
        assert shows(server, "web") == OURS  # arrived, not yet answered
        a.writer.set_served(refs())
        await asyncio.sleep(10)
        assert shows(server, "web") == ()

    scenario(story)


def test_a_new_leader_clears_what_the_one_before_left() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a, b = Replica(server, "a", others=1), Replica(server, "b", others=1)
        for replica in (a, b):
            replica.writer.set_addresses(OURS)
            replica.writer.set_served(refs("web"))
        await asyncio.sleep(5)
        first, _ = (a, b) if a.election.is_leader else (b, a)
        first.crash()
        for replica in (a, b):
            replica.writer.set_served(refs())
        await asyncio.sleep(40)
        assert shows(server, "web") == ()

    scenario(story)


def test_addresses_that_are_not_known_change_nothing() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"], OURS)
        a = Replica(server)
        a.writer.set_served(refs("web"))
        a.writer.set_addresses(())
        await asyncio.sleep(100)
        a.writer.set_addresses(OURS)
        a.writer.set_addresses(())
        a.writer.set_served(refs("web"))
        await asyncio.sleep(100)
        assert patches(server) == []

    scenario(story)


# ---- many, and failures -------------------------------------------------------------------------------------------


def test_ten_thousand_at_the_start_are_written_at_the_rate() -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n:05}" for n in range(10_000)]
        create(server, names)
        a = Replica(server, others=1, status_rate_per_s=50.0)
        a.client.delay_s = 0.01  # 20 ms a request: one after the other would be enough for 50 a second, just
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs(*names))
        began = virtual.clock()
        await asyncio.sleep(240)
        written = patches(server)
        assert len(written) == 10_000
        for rank, request in enumerate(written):  # in order, but for those that are under way together
            assert abs(int(request.path.removesuffix("/status")[-5:]) - rank) <= 8
        assert 199.0 <= written[-1].at - began <= 203.0
        assert all(later.at - earlier.at >= 0.97 for earlier, later in zip(written[100:], written[150:], strict=False))
        assert a.client.most_under_way <= 8

    scenario(story)


def test_slow_answers_are_waited_for_side_by_side() -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(400)]
        create(server, names)
        a = Replica(server, status_rate_per_s=1000.0)
        a.client.delay_s = 0.05
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs(*names))
        await asyncio.sleep(6)
        assert len(patches(server)) == 400
        assert a.client.most_under_way == 8

    scenario(story)


def test_conflicts_are_tried_again() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server)
        attempts = Counter[str]()

        def fail(request: Request) -> Exception | None:
            attempts[request.method] += 1
            return Conflict("modified") if request.method == "PATCH" and attempts["PATCH"] <= 3 else None

        server.fail = fail
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(10)
        assert shows(server, "web") == OURS
        assert attempts["PATCH"] == 4
        assert a.writer.failed == 3

    scenario(story)


def test_an_api_server_in_trouble_is_spared(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(1000)]
        create(server, names)
        a = Replica(server)
        server.fail = lambda request: Unavailable("overloaded") if request.method == "PATCH" else None
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs(*names))
        await asyncio.sleep(600)
        assert len(patches(server)) <= 300
        assert "overloaded" in a.writer.problem
        assert len(caplog.records) == 1
        server.fail = lambda _: None
        await asyncio.sleep(120)
        assert [name for name in names if shows(server, name) != OURS] == []
        assert a.writer.problem == ""

    scenario(story)


def test_retry_after_is_honoured() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web", "other"])
        a = Replica(server)
        server.fail = lambda request: Unavailable("slow down", 20.0) if request.method == "PATCH" else None
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(1)
        server.fail = lambda _: None
        a.writer.set_served(refs("web", "other"))
        await asyncio.sleep(15)
        assert len(patches(server)) == 1
        await asyncio.sleep(10)
        assert shows(server, "web") == shows(server, "other") == OURS

    scenario(story)


def test_one_namespace_without_permission_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(200)]
        for name in names:
            server.put(path_of(ref(name, "closed")), patch_of(()))
        create(server, ["web"])
        a = Replica(server)
        server.fail = lambda r: Forbidden("ingresses/status is forbidden") if "/closed/" in r.path else None
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web") | {ref(name, "closed") for name in names})
        await asyncio.sleep(5)
        assert shows(server, "web") == OURS
        await asyncio.sleep(600)
        assert len(patches(server)) <= 100
        assert [record.message for record in caplog.records] == [
            "not allowed to write statuses in namespace closed: ingresses/status is forbidden"
        ]
        assert "namespace closed" in a.writer.problem
        server.fail = lambda _: None
        await asyncio.sleep(100)
        assert {shown_of(found) for path, found in server.objects.items() if "/closed/" in path} == {OURS}

    scenario(story)


def test_a_permission_that_is_given_soon_is_noticed_soon() -> None:
    """An API server that has just started refuses what it hasn't read the rules for yet."""

    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(50)]
        create(server, names)
        a = Replica(server)
        server.fail = lambda r: Forbidden("ingresses/status is forbidden") if r.method == "PATCH" else None
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs(*names))
        await asyncio.sleep(10)
        assert 10 <= len(patches(server)) <= 16  # those in flight at first, and then one at a time
        server.fail = lambda _: None
        await asyncio.sleep(10)
        assert {shows(server, name) for name in names} == {OURS}
        assert a.writer.problem == ""

    scenario(story)


def test_a_status_the_server_refuses_is_not_sent_again_at_once() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        a = Replica(server, status_period_s=60.0)
        server.fail = lambda request: Rejected("invalid") if request.method == "PATCH" else None
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(130)
        assert len(patches(server)) == 3

    scenario(story)


def test_switched_off_nothing_is_written() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"], OURS)
        a = Replica(server, update_status=False)
        a.writer.set_addresses(THEIRS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(100)
        await a.writer.shutdown()
        assert patches(server) == []
        assert not a.election.is_leader

    scenario(story)


# ---- the end ------------------------------------------------------------------------------------------------------


def test_the_last_replica_takes_its_addresses_back() -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(300)]
        create(server, names)
        a = Replica(server, status_rate_per_s=1000.0)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs(*names))
        await asyncio.sleep(10)
        server.put(path_of(ref("web-0")), patch_of(THEIRS))
        server.put(path_of(ref("web-1")), patch_of((*THEIRS, *OURS)))
        for name in names[:2]:
            a._see(path_of(ref(name)))
        server.delete(path_of(ref("web-2")))
        a.client.delay_s = 0.1
        await a.writer.shutdown()
        assert shows(server, "web-0") == THEIRS
        assert shows(server, "web-1") == THEIRS
        assert {shows(server, name) for name in names[3:]} == {()}
        await asyncio.sleep(300)
        assert {shows(server, name) for name in names[3:]} == {()}
        assert not a.election.is_leader

    scenario(story)


@pytest.mark.parametrize("last_but_one_leads", [True, False])
def test_the_last_but_one_leaves_everything_and_the_last_one_clears(last_but_one_leads: bool) -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"])
        both = [Replica(server, "a", others=1), Replica(server, "b", others=1)]
        for replica in both:
            replica.writer.set_addresses(OURS)
            replica.writer.set_served(refs("web"))
        await asyncio.sleep(10)
        both.sort(key=lambda replica: replica.election.is_leader, reverse=last_but_one_leads)
        first, last = both
        await first.writer.shutdown()
        assert shows(server, "web") == OURS
        last.replicas.count = 0
        await last.writer.shutdown()
        assert shows(server, "web") == ()
        assert len(patches(server)) == 2

    scenario(story)


def test_all_replicas_end_at_once() -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(50)]
        create(server, names)
        all_ = [Replica(server, name, others=2) for name in "abc"]
        for replica in all_:
            replica.writer.set_addresses(OURS)
            replica.writer.set_served(refs(*names))
        await asyncio.sleep(20)
        for replica in all_:
            replica.replicas.count = 0  # each is being deleted, and sees that the others are
        await asyncio.gather(*(replica.writer.shutdown() for replica in all_))
        assert {shows(server, name) for name in names} == {()}

    scenario(story)


def test_the_end_is_bounded_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        names = [f"web-{n}" for n in range(1000)]
        create(server, names, OURS)
        a = Replica(server)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs(*names))
        await asyncio.sleep(10)
        a.client.reaches, a.client.hangs = False, True
        a.lease.reaches, a.lease.hangs = False, True
        began = virtual.clock()
        await a.writer.shutdown()
        assert virtual.clock() - began <= 16
        a.crash()

    scenario(story)


def test_who_cannot_see_the_others_leaves_everything() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"], OURS)
        a = Replica(server)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(10)
        a.replicas.problem = Forbidden("pods is forbidden")
        await a.writer.shutdown()
        assert shows(server, "web") == OURS
        assert not a.election.is_leader

    scenario(story)


def test_told_to_leave_them_the_last_replica_leaves_them() -> None:
    async def story(server: FakeServer) -> None:
        create(server, ["web"], OURS)
        a = Replica(server, update_status_on_shutdown=False)
        a.writer.set_addresses(OURS)
        a.writer.set_served(refs("web"))
        await asyncio.sleep(10)
        await a.writer.shutdown()
        assert shows(server, "web") == OURS
        assert not a.election.is_leader

    scenario(story)


# ---- anything goes ------------------------------------------------------------------------------------------------

NAMES = ["one", "two", "three"]
STEP = st.one_of(
    st.tuples(st.just("served"), st.sets(st.sampled_from(NAMES))),
    st.tuples(st.just("addresses"), st.sampled_from([OURS, THEIRS, ips("192.0.2.7"), ()])),
    st.tuples(st.just("foreign"), st.sampled_from(NAMES)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
    st.tuples(st.just("create"), st.sampled_from(NAMES)),
    st.tuples(st.just("network"), st.sampled_from(["ok", "refuses", "loses answers", "slow", "lease lost"])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.004, 0.3, 1.5, 20.0, 70.0])),
)


@given(st.lists(STEP, max_size=30))
def test_in_the_end_every_ingress_shows_what_it_should(steps: list[tuple[str, Any]]) -> None:
    async def story(server: FakeServer) -> None:
        foreign = ips("203.0.113.99")
        create(server, NAMES)
        a = Replica(server, others=1)
        published: Addresses = ()
        served: set[str] = set()
        for what, argument in steps:
            path = path_of(ref(argument)) if what in ("foreign", "delete", "create") else ""
            match what:
                case "served":
                    served = argument
                    a.writer.set_served(refs(*served))
                case "addresses":
                    published = argument or published
                    a.writer.set_addresses(argument)
                case "foreign" if path in server.objects:
                    server.put(path, patch_of(foreign))
                case "delete" if path in server.objects:
                    server.delete(path)
                    a._see(path)
                case "create" if path not in server.objects:
                    server.put(path, patch_of(()))
                case "network":
                    a.client.reaches = argument != "refuses"
                    a.client.hears = argument != "loses answers"
                    a.client.delay_s = 2.0 if argument == "slow" else 0.0
                    a.lease.reaches = argument != "lease lost"
                case "wait":
                    await asyncio.sleep(argument)
        a.client.reaches = a.client.hears = a.lease.reaches = True
        a.client.delay_s = 0.0
        await asyncio.sleep(300)
        for name in NAMES:
            if path_of(ref(name)) in server.objects:
                found = shows(server, name)
                if name in served and published:
                    assert set(found) == set(published)
                elif name not in served:
                    assert set(found) <= set(foreign)

    scenario(story)
