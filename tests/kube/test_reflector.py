import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.kube.discovery import endpoints_kind, path_of, resource
from ingress.kube.reflector import BACKOFF_LIMIT_S, Link, Reflector, backoff_s
from ingress.model import LoadBalancerIngress
from ingress.model.ref import Kind, ObjectRef
from tests.kube.support import FakeApi, FakeCluster, FakeTime, ingress, meta, slice_, status, until


def ref(name, namespace="ns", kind=Kind.INGRESS):
    return ObjectRef(kind, namespace, name)


class Follower:
    """What a sink would hold, and every batch it was given."""

    def __init__(self):
        self.objects = {}
        self.batches = []

    def __call__(self, reflector, batch):
        self.batches.append(batch)
        assert not batch.upserts.keys() & batch.removed
        self.objects.update(batch.upserts)
        for gone in batch.removed:
            self.objects.pop(gone, None)


class Running:
    def __init__(self, cluster, where=None, page_size=500, locate=None, api=None, required=True):
        async def located():
            return where or resource(Kind.INGRESS)

        self.cluster = cluster
        self.time = FakeTime()
        self.follower = Follower()
        self.link = Link(self.time.timing)
        self.reflector = Reflector(
            "ingresses",
            api or FakeApi(cluster),
            locate or located,
            self.follower,
            self.link,
            self.time.timing,
            required=required,
            page_size=page_size,
        )

    @property
    def names(self):
        return sorted(found.name for found in self.follower.objects)

    async def synced(self):
        await until(lambda: self.cluster.watching)


@asynccontextmanager
async def running(cluster, **options):
    it = Running(cluster, **options)
    task = asyncio.create_task(it.reflector.run())
    try:
        yield it
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture
def cluster():
    return FakeCluster()


# ---- list and watch -----------------------------------------------------------------------------------------------


async def test_list_in_pages_then_watch(cluster):
    for name in "abcde":
        cluster.put("ingresses", ingress(name))
    async with running(cluster, page_size=2) as it:
        await it.synced()
        assert it.names == list("abcde")
        assert len(it.follower.batches) == 1
        assert [q["limit"] for q in cluster.asked("ingresses", limit="2")] == ["2", "2", "2"]
        cluster.put("ingresses", ingress("f"))
        await until(lambda: "f" in it.names)
        cluster.delete("ingresses", "a")
        await until(lambda: "a" not in it.names)
        assert it.reflector.relists == 0
        assert it.reflector.connected


async def test_what_is_there_at_once_is_one_batch(cluster):
    async with running(cluster) as it:
        await it.synced()
        for name in "abc":
            cluster.put("ingresses", ingress(name))
        cluster.delete("ingresses", "b")
        await until(lambda: len(it.follower.batches) > 1)
        assert it.names == ["a", "c"]
        assert len(it.follower.batches) == 2


async def test_an_expired_continue_token_starts_the_list_again(cluster):
    for name in "abcd":
        cluster.put("ingresses", ingress(name))

    def expire(method, path, query):
        if "continue" in query:
            cluster.faults.clear()
            cluster.forget_pages()
            cluster.delete("ingresses", "a")

    cluster.faults.append(expire)
    async with running(cluster, page_size=2) as it:
        await it.synced()
        assert it.names == ["b", "c", "d"]
        lists = [q for method, _, q in cluster.requests if method == "GET"]
        assert ["continue" in q for q in lists] == [False, True, False, True]


async def test_tokens_that_always_expire_lead_to_a_list_in_one_piece(cluster):
    for name in "abcd":
        cluster.put("ingresses", ingress(name))
    cluster.faults.append(lambda m, p, q: status(410, "too old") if "continue" in q else None)
    async with running(cluster, page_size=2) as it:
        await it.synced()
        assert it.names == list("abcd")
        assert "limit" not in [q for method, _, q in cluster.requests if method == "GET"][-1]


async def test_an_ended_watch_goes_on_from_the_last_version(cluster):
    async with running(cluster) as it:
        await it.synced()
        cluster.put("ingresses", ingress("a"))
        cluster.put("services", {"metadata": meta("other")})
        cluster.bookmark()
        version = str(cluster.version)
        cluster.cut()
        await until(lambda: cluster.asked("ingresses", watch="1", resourceVersion=version))
        assert it.names == ["a"]
        await it.synced()
        assert (it.reflector.relists, it.reflector.restarts) == (0, 1)


async def test_watches_ask_for_bookmarks_and_a_random_end(cluster):
    async with running(cluster) as it:
        await it.synced()
        cluster.cut()
        await until(lambda: len(cluster.asked("ingresses", watch="1")) == 2)
        watches = cluster.asked("ingresses", watch="1", allowWatchBookmarks="true")
        ends = [int(q["timeoutSeconds"]) for q in watches]
        assert all(240 <= end <= 480 for end in ends)
        assert ends[0] != ends[1]


async def test_410_in_the_watch_lists_again_and_keeps_what_is_equal(cluster):
    for name in "abc":
        cluster.put("ingresses", ingress(name))
    async with running(cluster) as it:
        await it.synced()
        before = dict(it.follower.objects)
        it.cluster.reachable = False
        cluster.cut()
        await until(lambda: it.reflector.error)
        cluster.delete("ingresses", "a")
        cluster.put("ingresses", {**ingress("b"), "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}})
        cluster.put("ingresses", ingress("c", host="new.example"))
        cluster.compact()
        cluster.reachable = True
        await until(lambda: it.reflector.relists)
        assert it.names == ["b", "c"]
        assert it.follower.objects[ref("b")] is before[ref("b")]
        assert it.follower.objects[ref("c")] is not before[ref("c")]
        last = it.follower.batches[-1]
        assert (set(last.upserts), last.removed, last.statuses) == ({ref("c")}, {ref("a")}, {ref("a"), ref("b")})


async def test_410_as_http_status(cluster):
    cluster.put("ingresses", ingress("a"))
    async with running(cluster) as it:
        await it.synced()
        cluster.delete("ingresses", "a")

        def gone(method, path, query):
            if method == "WATCH":
                cluster.faults.clear()
                return status(410, "too old")
            return None

        cluster.faults.append(gone)
        cluster.cut()
        await until(lambda: it.reflector.relists == 1)
        assert it.names == []


async def test_a_server_that_expires_everything_is_not_asked_in_a_hurry(cluster):
    cluster.faults.append(lambda m, p, q: status(410, "too old") if m == "WATCH" else None)
    async with running(cluster) as it:
        await until(lambda: len(it.time.slept) >= 8)
        assert it.time.slept[7] > 5.0


async def test_a_watch_that_ends_at_once_is_not_repeated_in_a_hurry(cluster):
    async with running(cluster) as it:
        for round_ in range(1, 9):
            await it.synced()
            cluster.cut()
            await until(lambda n=round_: len(it.time.slept) >= n)
        assert it.time.slept[-1] > 5.0
        assert it.reflector.relists == 0


async def test_garbage_leads_to_a_list(cluster):
    async with running(cluster) as it:
        await it.synced()
        cluster.put("ingresses", ingress("a"))
        cluster.say(b'{"type": "ADDED", "obj')
        await until(lambda: it.reflector.relists == 1)
        await it.synced()
        assert it.names == ["a"]


# ---- the server says no -------------------------------------------------------------------------------------------


async def test_gone_and_back(cluster, caplog):
    caplog.set_level(logging.INFO)
    cluster.put("ingresses", ingress("a"))
    async with running(cluster) as it:
        await it.synced()
        cluster.reachable = False
        cluster.cut()
        await until(lambda: len(it.time.slept) > 12)
        assert not it.reflector.connected
        assert it.names == ["a"]
        assert 0.05 <= it.time.slept[0] <= 0.1
        assert max(it.time.slept) <= BACKOFF_LIMIT_S
        cluster.put("ingresses", ingress("b"))
        cluster.reachable = True
        await until(lambda: it.names == ["a", "b"])
        assert it.reflector.connected
        assert it.reflector.error == ""
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0].split(" after")[0] for message in messages] == [
        "lost the API server",
        "the API server is back",
    ]


async def test_a_watch_that_lasted_makes_up_for_failures(cluster):
    cluster.reachable = False
    async with running(cluster) as it:
        await until(lambda: len(it.time.slept) == 8)
        cluster.reachable = True
        await it.synced()
        it.time.now += 60.0
        it.time.slept.clear()
        cluster.reachable = False
        cluster.cut()
        await until(lambda: it.time.slept)
        assert it.time.slept[0] <= 0.1


async def never(seconds):
    await asyncio.Event().wait()


@asynccontextmanager
async def waiting(link):
    """A pause that only a wake-up can end; it has to."""
    patient = FakeTime().timing
    patient.sleep = never
    link._timing, timing = patient, link._timing
    task = asyncio.create_task(link.pause(1.0))
    await asyncio.sleep(0)
    link._timing = timing
    yield
    await asyncio.wait_for(task, 5.0)


async def test_the_first_that_gets_through_wakes_the_others(cluster):
    cluster.reachable = False
    async with running(cluster) as it:
        await until(lambda: it.reflector.error)
        async with waiting(it.link):
            cluster.reachable = True


async def test_a_right_that_is_granted_wakes_the_others(cluster):
    cluster.faults.append(refuse)
    async with running(cluster) as it:
        await until(lambda: it.reflector.refused)
        async with waiting(it.link):
            cluster.faults.clear()


async def test_a_long_silence_leads_to_a_list(cluster):
    async with running(cluster) as it:
        await it.synced()
        cluster.reachable = False
        cluster.cut()
        await until(lambda: sum(it.time.slept) > 400)
        cluster.reachable = True
        await until(lambda: it.reflector.relists == 1)


async def test_retry_after_is_honoured(cluster):
    cluster.faults.append(lambda m, p, q: status(429, "slow down", **{"Retry-After": "17"}))
    async with running(cluster) as it:
        await until(lambda: len(it.time.slept) >= 2)
        assert it.time.slept[:2] == [17.0, 17.0]
        assert it.reflector.error == "the API server answered 429 slow down"


async def test_denied_then_granted(cluster, caplog):
    caplog.set_level(logging.INFO)
    message = 'ingresses is forbidden: User "x" cannot list resource "ingresses"'
    cluster.put("ingresses", ingress("a"))
    cluster.faults.append(lambda m, p, q: status(403, message))
    async with running(cluster) as it:
        await until(lambda: len(it.time.slept) > 10)
        assert it.reflector.refused
        assert it.reflector.settled
        assert not it.reflector.listed
        assert max(it.time.slept) <= 10.0
        cluster.faults.clear()
        await it.synced()
        assert it.names == ["a"]
        assert not it.reflector.refused
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", f"ingresses can't be read: {message}"),
        ("INFO", "ingresses: can be read again"),
    ]


async def test_a_short_refusal_of_what_could_be_read_is_not_told(cluster, caplog):
    caplog.set_level(logging.INFO)
    cluster.put("ingresses", ingress("a"))
    async with running(cluster) as it:
        await it.synced()
        refusals = iter([status(403, "rules not read yet")] * 3)
        cluster.faults.append(lambda m, p, q: next(refusals, None))
        cluster.cut()
        await until(lambda: it.reflector.refused)
        await it.synced()
        assert (it.reflector.relists, it.reflector.restarts) == (0, 1)
        assert sum(it.time.slept) < 1.0
        assert caplog.messages == []
        cluster.faults[:] = [refuse]
        cluster.cut()
        await until(lambda: len(it.time.slept) > 12)
    assert caplog.messages == ["ingresses can't be read: no"]


async def test_a_collection_that_is_not_served_is_located_again(cluster):
    cluster.served.discard("endpointslices")
    cluster.put("endpoints", {"metadata": meta("web"), "subsets": []})
    api = FakeApi(cluster)

    async def locate():
        return resource(await endpoints_kind(api))

    async with running(cluster, api=api, locate=locate) as it:
        await it.synced()
        assert [found.kind for found in it.follower.objects] == [Kind.ENDPOINTS]
        cluster.served.add("endpointslices")
        cluster.served.discard("endpoints")
        cluster.put("endpointslices", slice_("web-1"))
        cluster.cut()
        await until(lambda: it.reflector.relists)
        assert [found.kind for found in it.follower.objects] == [Kind.ENDPOINT_SLICE]


# ---- objects ------------------------------------------------------------------------------------------------------


async def test_status_writes_are_no_change_of_the_object(cluster):
    cluster.put("ingresses", ingress("a"))
    async with running(cluster) as it:
        await it.synced()
        cluster.put("ingresses", {**ingress("a"), "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}})
        await until(lambda: len(it.follower.batches) == 2)
        batch = it.follower.batches[1]
        assert (batch.upserts, batch.statuses) == ({}, {ref("a")})
        assert it.reflector.statuses[ref("a")] == (LoadBalancerIngress(ip="192.0.2.1"),)


async def test_a_bad_new_version_keeps_the_last_good_one(cluster):
    bad = {**ingress("a"), "spec": {"rules": 3}}
    cluster.put("ingresses", ingress("a"))
    async with running(cluster) as it:
        await it.synced()
        cluster.put("ingresses", bad)
        await until(lambda: it.reflector.verdicts)
        assert it.names == ["a"]
        assert it.reflector.verdicts[ref("a")].message.endswith("The last good version stays in service")
        assert it.follower.batches[-1].verdicts
        cluster.put("ingresses", ingress("a"))
        await until(lambda: not it.reflector.verdicts)
        cluster.put("ingresses", bad)
        await until(lambda: it.reflector.verdicts)
        cluster.delete("ingresses", "a")
        await until(lambda: not it.reflector.verdicts)
        assert it.names == []


async def test_an_object_that_is_bad_from_the_start(cluster):
    cluster.put("ingresses", {**ingress("a"), "spec": {"rules": 3}})
    cluster.put("ingresses", ingress("b"))
    async with running(cluster) as it:
        await it.synced()
        assert it.names == ["b"]
        assert "last good" not in it.reflector.verdicts[ref("a")].message
        cluster.put("ingresses", ingress("a"))
        await until(lambda: it.names == ["a", "b"])
        assert it.reflector.verdicts == {}


# ---- single objects -----------------------------------------------------------------------------------------------


def secret(name, value="dg=="):
    return {"metadata": meta(name), "data": {"k": value}}


@asynccontextmanager
async def secrets(cluster, wanted):
    where = resource(Kind.SECRET, wanted=lambda found: found.name in wanted)
    async with running(cluster, where=where) as it:
        await it.synced()
        yield it


def value(it, name):
    found = it.follower.objects.get(ref(name, kind=Kind.SECRET))
    return None if found is None else found.data["k"]


async def fetch(it, name):
    await it.reflector.fetch(ref(name, kind=Kind.SECRET), path_of(Kind.SECRET, "ns", name))


async def test_an_object_wanted_later_is_fetched(cluster):
    cluster.put("secrets", secret("a"))
    wanted = set()
    async with secrets(cluster, wanted) as it:
        assert it.follower.objects == {}
        wanted.update("ab")
        await fetch(it, "a")
        await fetch(it, "b")  # doesn't exist
        assert value(it, "a") == "dg=="
        cluster.put("secrets", secret("a", "bmV3"))
        cluster.put("secrets", secret("b", "bmV3"))
        await until(lambda: (value(it, "a"), value(it, "b")) == ("bmV3", "bmV3"))
        it.reflector.forget([ref("a", kind=Kind.SECRET)])
        assert value(it, "a") is None


class SlowGet(FakeApi):
    """Holds back the answer to a GET of one Secret, which was read at the time of the request."""

    def __init__(self, cluster):
        super().__init__(cluster)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def get(self, path, query=None):
        body = await super().get(path, query)
        if path.endswith("/secrets/a"):
            self.asked.set()
            await self.go.wait()
        return body


@asynccontextmanager
async def slow_fetch(cluster):
    """A fetch of Secret `a` whose answer was read but isn't here yet."""
    wanted, api = set(), SlowGet(cluster)
    where = resource(Kind.SECRET, wanted=lambda found: found.name in wanted)
    async with running(cluster, where=where, api=api) as it:
        await it.synced()
        wanted.add("a")
        task = asyncio.create_task(fetch(it, "a"))
        await api.asked.wait()
        yield it, api
        await task


async def test_the_watch_overtakes_a_fetch(cluster):
    cluster.put("secrets", secret("a", "b2xk"))
    async with slow_fetch(cluster) as (it, api):
        cluster.put("secrets", secret("a", "bmV3"))
        await until(lambda: value(it, "a") == "bmV3")
        api.go.set()
    assert value(it, "a") == "bmV3"


async def test_a_deletion_overtakes_a_fetch(cluster):
    cluster.put("secrets", secret("a", "b2xk"))
    async with slow_fetch(cluster) as (it, api):
        cluster.delete("secrets", "a")
        cluster.bookmark()
        await until(lambda: it.reflector._version == str(cluster.version))
        api.go.set()
    assert value(it, "a") is None


async def test_a_fetch_overtakes_the_watch(cluster):
    old = cluster.put("secrets", secret("a", "b2xk"))
    new = cluster.put("secrets", secret("a", "bmV3"))
    wanted = set()
    async with secrets(cluster, wanted) as it:
        wanted.add("a")
        await fetch(it, "a")
        count = len(it.follower.batches)
        for body in (old, new):
            cluster.put("services", {"metadata": meta("other")})
            cluster.say(cluster._line("MODIFIED", body))
            cluster.bookmark()
            await until(lambda: it.reflector._version == str(cluster.version))
        assert len(it.follower.batches) == count  # nothing of that was news
        cluster.put("secrets", secret("a", "bGFzdA=="))
        await until(lambda: value(it, "a") == "bGFzdA==")


async def test_versions_that_went_back_are_taken_after_a_list(cluster):
    """A restored etcd counts from where its backup was made."""
    cluster.put("secrets", secret("a"))
    wanted = set()
    async with secrets(cluster, wanted) as it:
        wanted.add("a")
        await fetch(it, "a")
        cluster.version -= 50
        cluster.compact()
        cluster.compacted = 0
        cluster.say(b'{"type": "ERROR", "object": {"code": 410}}')
        await until(lambda: it.reflector.relists == 1)
        await it.synced()
        cluster.put("secrets", secret("a", "bmV3"))
        await until(lambda: value(it, "a") == "bmV3")


async def test_a_list_waits_for_a_fetch_and_then_decides(cluster):
    cluster.put("secrets", secret("a"))
    async with slow_fetch(cluster) as (it, api):
        cluster.reachable = False
        cluster.cut()
        await until(lambda: not cluster.watching)
        cluster.delete("secrets", "a")
        cluster.compact()
        cluster.reachable = True
        await until(lambda: it.reflector._version == "")
        for _ in range(50):
            await asyncio.sleep(0)
        assert it.reflector.relists == 0
        api.go.set()
        await until(lambda: it.reflector.relists)
        assert value(it, "a") is None


# ---- pure ---------------------------------------------------------------------------------------------------------


class Dice:
    def __init__(self, share):
        self.share = share

    def uniform(self, low, high):
        return low + (high - low) * self.share


@pytest.mark.parametrize(
    ("failures", "share", "seconds"),
    [(1, 1, 0.1), (1, 0, 0.05), (2, 1, 0.2), (5, 1, 1.6), (9, 1, 25.6), (10, 1, 30), (10, 0, 15), (10**6, 1, 30)],
)
def test_backoff(failures, share, seconds):
    assert backoff_s(failures, 30.0, Dice(share)) == pytest.approx(seconds)


# ---- whatever happens, in the end it is what the server has -----------------------------------------------------

NAMES = st.sampled_from("abcd")
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from(["a.example", "b.example"])),
    st.tuples(st.just("status"), NAMES, st.sampled_from(["192.0.2.1", "192.0.2.2"])),
    st.tuples(st.just("bad"), NAMES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.sampled_from(["cut", "compact", "bookmark", "garbage", "away", "back", "pages", "deny", "grant"])),
    st.tuples(st.just("turn"), st.integers(1, 30)),
)


def refuse(method, path, query):
    return status(403, "no")


async def perform(it, cluster, step):
    match step:
        case ("put", name, host):
            cluster.put("ingresses", ingress(name, host=host))
        case ("status", name, address):
            known = cluster.objects["ingresses"].get(("ns", name))
            if known is not None:
                cluster.put("ingresses", {**known, "status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
        case ("bad", name):
            cluster.put("ingresses", {**ingress(name), "spec": 3})
        case ("delete", name):
            if ("ns", name) in cluster.objects["ingresses"]:
                cluster.delete("ingresses", name)
        case ("cut",):
            cluster.cut()
        case ("compact",):
            cluster.compact()
        case ("bookmark",):
            cluster.bookmark()
        case ("garbage",):
            cluster.say(b"{garbage")
        case ("away",):
            cluster.reachable = False
            cluster.cut()
        case ("back",):
            cluster.reachable = True
        case ("pages",):
            cluster.forget_pages()
        case ("deny",):
            cluster.faults[:] = [refuse]
        case ("grant",):
            cluster.faults.clear()
        case ("turn", times):
            for _ in range(times):
                await asyncio.sleep(0)


def agrees(it, cluster):
    """Good objects are as on the server; bad ones have a verdict, and at most an old version; others aren't there."""
    good, bad = {}, set()
    for (namespace, name), body in cluster.objects["ingresses"].items():
        if body["spec"] == 3:
            bad.add(ref(name, namespace))
        else:
            shown = body.get("status", {}).get("loadBalancer", {}).get("ingress", [])
            good[ref(name, namespace)] = (
                body["spec"]["rules"][0]["host"],
                body["metadata"]["uid"],
                [a["ip"] for a in shown],
            )
    held = {
        found: (obj.spec.rules[0].host, obj.metadata.uid, [a.ip for a in it.reflector.statuses[found]])
        for found, obj in it.follower.objects.items()
        if found not in bad
    }
    return (
        held == good
        and set(it.reflector.verdicts) == bad
        and set(it.follower.objects) - set(good) <= bad
        and it.follower.objects == it.reflector.objects
        and set(it.reflector.statuses) == set(good) | bad
    )


@given(st.lists(STEPS, max_size=40))
def test_any_interleaving_ends_with_what_the_server_has(steps):
    async def scenario():
        cluster = FakeCluster()
        cluster.put("ingresses", ingress("a"))
        async with running(cluster, page_size=1) as it:
            for step in steps:
                await perform(it, cluster, step)
            cluster.reachable = True
            cluster.faults.clear()
            await until(lambda: agrees(it, cluster))

    asyncio.run(scenario())
