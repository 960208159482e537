import asyncio
import functools
import logging
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import KubeSettings
from ingress.errors import VerdictReason
from ingress.kube.source import SECRETS_SELECTOR, KubeSource
from ingress.model import LoadBalancerIngress
from ingress.model.ref import Kind, ObjectRef
from ingress.store import Store
from tests.kube.support import FakeApi, FakeCluster, FakeTime, ingress, meta, service, slice_, status, until


def ref(kind, name, namespace="ns"):
    return ObjectRef(kind, namespace, name)


def secret(name, namespace="ns", value="dg==", kind="Opaque"):
    return {"metadata": meta(name, namespace), "type": kind, "data": {"k": value}}


def config_map(name, namespace="ns", **data):
    return {"metadata": meta(name, namespace), "data": data}


def namespace(name, **labels):
    return {"metadata": meta(name, "", labels=labels)}


class RecordingSink:
    """What it was told, and what that comes to."""

    def __init__(self):
        self.calls = []
        self.objects = {}
        self.verdicts = ()

    def __call__(self, upserts, removed=(), verdicts=None):
        removed = list(removed)
        self.calls.append((dict(upserts), removed, verdicts))
        self.objects.update(upserts)
        for gone in removed:
            self.objects.pop(gone, None)
        if verdicts is not None:
            self.verdicts = verdicts

    def names(self, kind):
        return {f"{found.namespace}/{found.name}" for found in self.objects if found.kind is kind}


class Running:
    def __init__(self, cluster, settings, sink=None):
        self.cluster = cluster
        self.time = FakeTime()
        self.sink = RecordingSink() if sink is None else sink
        self.statuses = []
        self.source = KubeSource(FakeApi(cluster), settings, self.sink, timing=self.time.timing)
        self.source.on_status_change = self.statuses.append

    async def synced(self):
        await until(self.source.synced.is_set)


@asynccontextmanager
async def running(cluster, sink=None, **settings):
    it = Running(cluster, KubeSettings(**settings), sink)
    task = asyncio.create_task(it.source.run())
    try:
        yield it
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await until(lambda: not cluster.watching)


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.put("ingresses", ingress("a"))
    cluster.put("services", service("web"))
    cluster.put("endpointslices", slice_("web-1", "web", "10.0.0.1"))
    cluster.put("ingressclasses", {"metadata": meta("aioingress", ""), "spec": {"controller": "c"}})
    return cluster


def deny(*parts, message="no", only=None):
    """Refuse requests whose path ends with one of `parts`."""

    def fault(method, path, query):
        refused = path.endswith(parts) and (only is None or method == only)
        return status(403, f"{path.rpartition('/')[2]}: {message}") if refused else None

    return fault


# ---- the first state ----------------------------------------------------------------------------------------------


async def test_everything_at_once(cluster):
    async with running(cluster, page_size=1) as it:
        await it.synced()
        ((upserts, removed, verdicts),) = it.sink.calls
        assert set(upserts) == {
            ref(Kind.INGRESS, "a"),
            ref(Kind.SERVICE, "web"),
            ref(Kind.ENDPOINT_SLICE, "web-1"),
            ref(Kind.INGRESS_CLASS, "aioingress", ""),
        }
        assert (removed, verdicts) == ([], ())
        assert it.statuses == [{ref(Kind.INGRESS, "a")}]
        assert it.source.settled
        assert it.source.stale_since is None
        assert {fact.name: fact.ok for fact in it.source.facts()} == {
            "kubernetes/ingresses": True,
            "kubernetes/services": True,
            "kubernetes/endpoints": True,
            "kubernetes/ingressclasses": True,
        }


async def test_changes(cluster):
    async with running(cluster) as it:
        await it.synced()
        cluster.put("endpointslices", slice_("web-1", "web", "10.0.0.1", "10.0.0.2"))
        cluster.delete("ingresses", "a")
        await until(lambda: len(it.sink.calls) == 3)
        assert it.sink.names(Kind.INGRESS) == set()
        assert len(it.sink.objects[ref(Kind.ENDPOINT_SLICE, "web-1")].endpoints) == 2
        assert all(verdicts is None for _, _, verdicts in it.sink.calls[1:])


async def test_with_the_store(cluster):
    store = Store()
    async with running(cluster, functools.partial(store.apply, "kubernetes")) as it:
        await it.synced()
        state = store.collect().state
        assert set(state.ingresses) == {("ns", "a")}
        assert set(state.slices) == {("ns", "web")}


async def test_an_older_cluster_has_endpoints(cluster):
    cluster.served.discard("endpointslices")
    cluster.put("endpoints", {"metadata": meta("web"), "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]})
    async with running(cluster) as it:
        await it.synced()
        assert it.sink.names(Kind.ENDPOINTS) == {"ns/web"}
        assert it.sink.names(Kind.ENDPOINT_SLICE) == set()


async def test_a_required_kind_that_is_refused_keeps_it_unsynced(cluster, caplog):
    cluster.faults.append(deny("/services"))
    async with running(cluster) as it:
        await until(lambda: len(it.time.slept) > 5)
        assert not it.source.synced.is_set()
        assert it.sink.calls == []
        assert it.source.errors() == {"kubernetes/services": "services: no"}
        assert it.source.stale_since is not None
        cluster.faults.clear()
        await it.synced()
        assert it.source.errors() == {}
        assert len(it.sink.calls) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["services can't be read: services: no"]


async def test_an_optional_kind_that_is_refused_does_not(cluster, caplog):
    cluster.faults.append(deny("/ingressclasses"))
    async with running(cluster) as it:
        await it.synced()
        assert it.sink.names(Kind.INGRESS_CLASS) == set()
        assert it.source.stale_since is None
        cluster.faults.clear()
        await until(lambda: it.sink.names(Kind.INGRESS_CLASS))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_the_log_tells_once_that_the_server_is_lost_and_back(cluster, caplog):
    caplog.set_level(logging.INFO)
    async with running(cluster) as it:
        await it.synced()
        before = dict(it.sink.objects)
        cluster.reachable = False
        cluster.cut()
        await until(lambda: len(it.time.slept) > 40)
        assert it.source.stale_since is not None
        assert it.sink.objects == before
        cluster.reachable = True
        await until(lambda: it.source.stale_since is None and not it.source.errors())
        assert len(it.sink.calls) == 1  # nothing was different
    lost = [message for message in caplog.messages if message.startswith("lost the API server")]
    back = [message for message in caplog.messages if message.startswith("the API server is back")]
    assert (len(lost), len(back)) == (1, 1)


async def test_identity_is_kept_over_a_relist(cluster):
    async with running(cluster) as it:
        await it.synced()
        before = dict(it.sink.objects)
        cluster.reachable = False
        cluster.cut()
        await until(it.source.errors)
        cluster.put("ingresses", ingress("b"))
        cluster.compact()
        cluster.reachable = True
        await until(lambda: it.sink.names(Kind.INGRESS) == {"ns/a", "ns/b"})
        assert all(it.sink.objects[found] is before[found] for found in before)


# ---- namespaces ---------------------------------------------------------------------------------------------------


async def test_watch_namespace(cluster):
    cluster.put("ingresses", ingress("b", "other"))
    async with running(cluster, watch_namespace="other") as it:
        await it.synced()
        assert it.sink.names(Kind.INGRESS) == {"other/b"}
        paths = {path for _, path, _ in cluster.requests}
        assert "/apis/networking.k8s.io/v1/namespaces/other/ingresses" in paths
        assert "/api/v1/namespaces/other/services" in paths
        assert "/apis/networking.k8s.io/v1/ingressclasses" in paths


async def test_watch_namespace_selector(cluster):
    cluster.put("namespaces", namespace("ns", team="a"))
    cluster.put("namespaces", namespace("other", team="b"))
    cluster.put("ingresses", ingress("b", "other"))
    cluster.put("ingresses", {**ingress("bad", "other"), "spec": 3})
    async with running(cluster, watch_namespace_selector="team=a") as it:
        await it.synced()
        assert it.sink.names(Kind.INGRESS) == {"ns/a"}
        assert it.sink.names(Kind.INGRESS_CLASS) == {"/aioingress"}
        assert it.sink.verdicts == ()
        cluster.put("ingresses", ingress("c", "other"))
        cluster.put("ingresses", ingress("d"))
        await until(lambda: it.sink.names(Kind.INGRESS) == {"ns/a", "ns/d"})
        cluster.put("namespaces", namespace("other", team="a"))
        await until(lambda: "other/c" in it.sink.names(Kind.INGRESS))
        assert it.sink.names(Kind.INGRESS) == {"ns/a", "ns/d", "other/b", "other/c"}
        assert [verdict.object for verdict in it.sink.verdicts] == ["Ingress other/bad"]
        cluster.delete("namespaces", "ns", "")
        await until(lambda: "ns/a" not in it.sink.names(Kind.INGRESS))
        assert it.sink.names(Kind.SERVICE) == set()
        assert it.sink.names(Kind.INGRESS) == {"other/b", "other/c"}


async def test_services_of_namespaces_that_are_not_selected(cluster):
    """TCP services may be anywhere: their Services and endpoints count, and nothing else of their namespaces."""
    cluster.put("namespaces", namespace("ns", team="a"))
    cluster.put("namespaces", namespace("db", team="b"))
    cluster.put("ingresses", ingress("web", "db"))
    cluster.put("services", service("pg", "db"))
    cluster.put("services", service("web"))
    async with running(cluster, watch_namespace_selector="team=a", tcp_services=("edge", "tcp")) as it:
        await it.synced()
        assert it.sink.names(Kind.SERVICE) == {"ns/web"}
        it.source.follow_services(frozenset(("db", "ns", "nowhere")))
        assert it.sink.names(Kind.SERVICE) == {"ns/web", "db/pg"}
        cluster.put("services", service("my", "db"))
        await until(lambda: "db/my" in it.sink.names(Kind.SERVICE))
        assert it.sink.names(Kind.INGRESS) == {"ns/a"}
        cluster.put("namespaces", namespace("db", team="a"))
        await until(lambda: "db/web" in it.sink.names(Kind.INGRESS))
        cluster.put("namespaces", namespace("db", team="b"))
        await until(lambda: "db/web" not in it.sink.names(Kind.INGRESS))
        assert it.sink.names(Kind.SERVICE) == {"ns/web", "db/pg", "db/my"}
        it.source.follow_services(frozenset())
        assert it.sink.names(Kind.SERVICE) == {"ns/web"}
        assert it.sink.names(Kind.CONFIG_MAP) == set()
        cluster.put("configmaps", config_map("tcp", "edge", **{"9000": "db/pg:5432"}))  # pinned by the settings
        await until(lambda: it.sink.names(Kind.CONFIG_MAP) == {"edge/tcp"})


# ---- Secrets and ConfigMaps ---------------------------------------------------------------------------------------


async def test_no_secret_is_read_unless_one_is_referenced(cluster):
    cluster.put("secrets", secret("tls"))
    async with running(cluster) as it:
        await it.synced()
        assert cluster.asked("secrets") == []
        assert cluster.asked("configmaps") == []
        it.source.set_references(frozenset({ref(Kind.SECRET, "tls")}))
        assert not it.source.settled
        await until(lambda: it.sink.names(Kind.SECRET))
        assert it.source.settled
        assert cluster.asked("/api/v1/secrets", fieldSelector=SECRETS_SELECTOR)


async def test_only_referenced_secrets_are_kept(cluster):
    for name in ("a", "b", "c"):
        cluster.put("secrets", secret(name))
    wanted = ref(Kind.SECRET, "a")
    async with running(cluster) as it:
        await it.synced()
        it.source.set_references(frozenset({wanted}))
        await until(lambda: it.sink.names(Kind.SECRET) == {"ns/a"})
        assert it.source.object_of(ref(Kind.SECRET, "b")) is None
        it.source.set_references(frozenset({wanted, ref(Kind.SECRET, "b")}))
        assert not it.source.settled
        await until(lambda: it.source.settled)
        assert it.sink.names(Kind.SECRET) == {"ns/a", "ns/b"}
        it.source.set_references(frozenset({ref(Kind.SECRET, "b")}))
        assert it.sink.names(Kind.SECRET) == {"ns/b"}
        lists = [q for method, path, q in cluster.requests if method == "GET" and path == "/api/v1/secrets"]
        assert len(lists) == 1
        it.source.set_references(frozenset())
        assert it.sink.names(Kind.SECRET) == set()
        await until(lambda: cluster.watching == 4)


async def test_a_referenced_secret_that_appears_later(cluster):
    async with running(cluster) as it:
        await it.synced()
        it.source.set_references(frozenset({ref(Kind.SECRET, "tls")}))
        await until(lambda: it.source.settled)
        assert it.sink.names(Kind.SECRET) == set()
        it.source.set_references(frozenset({ref(Kind.SECRET, "tls"), ref(Kind.SECRET, "more")}))
        await until(lambda: it.source.settled)
        cluster.put("secrets", secret("tls"))
        cluster.put("secrets", secret("more"))
        await until(lambda: it.sink.names(Kind.SECRET) == {"ns/tls", "ns/more"})


async def test_a_secret_that_may_not_be_fetched_settles(cluster):
    async with running(cluster) as it:
        await it.synced()
        it.source.set_references(frozenset({ref(Kind.SECRET, "a")}))
        await until(lambda: it.source.settled)
        cluster.faults.append(deny("/secrets/b"))
        it.source.set_references(frozenset({ref(Kind.SECRET, "a"), ref(Kind.SECRET, "b")}))
        await until(lambda: it.source.settled)


async def test_a_fetch_is_repeated_until_there_is_an_answer(cluster):
    cluster.put("secrets", secret("b"))
    failures = iter([status(503, "busy")] * 3)
    async with running(cluster) as it:
        await it.synced()
        it.source.set_references(frozenset({ref(Kind.SECRET, "a")}))
        await until(lambda: it.source.settled)
        cluster.faults.append(lambda m, p, q: next(failures, None) if p.endswith("/b") else None)
        it.source.set_references(frozenset({ref(Kind.SECRET, "a"), ref(Kind.SECRET, "b")}))
        await until(lambda: it.source.settled)
        assert it.sink.names(Kind.SECRET) == {"ns/b"}
        assert len(cluster.asked("/secrets/b")) == 4


async def test_equal_references_cost_nothing(cluster):
    async with running(cluster) as it:
        await it.synced()
        refs = frozenset({ref(Kind.SECRET, "tls"), ref(Kind.CONFIG_MAP, "c")})
        it.source.set_references(refs)
        await until(lambda: it.source.settled and cluster.watching == 6)
        count = len(cluster.requests)
        it.source.set_references(frozenset(refs))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(cluster.requests) == count


async def test_settings_are_references(cluster):
    cluster.put("secrets", secret("tls", "certs"))
    cluster.put("configmaps", config_map("options", "system", a="b"))
    cluster.put("configmaps", config_map("noise", "system"))
    async with running(cluster, default_certificate=("certs", "tls"), config_map=("system", "options")) as it:
        await it.synced()
        ((upserts, _, _),) = it.sink.calls
        assert {ref(Kind.SECRET, "tls", "certs"), ref(Kind.CONFIG_MAP, "options", "system")} <= set(upserts)
        assert cluster.asked("/api/v1/namespaces/system/configmaps", fieldSelector="metadata.name=options", watch="1")
        it.source.set_references(frozenset())
        assert it.sink.names(Kind.SECRET) == {"certs/tls"}
        cluster.put("configmaps", config_map("options", "system", a="c"))
        await until(lambda: it.sink.objects[ref(Kind.CONFIG_MAP, "options", "system")].data == {"a": "c"})
        assert it.sink.names(Kind.CONFIG_MAP) == {"system/options"}


async def test_a_secret_outside_the_watched_namespace_is_read_alone(cluster):
    cluster.put("secrets", secret("default", "certs"))
    cluster.put("secrets", secret("tls", "ns"))
    async with running(cluster, watch_namespace="ns", default_certificate=("certs", "default")) as it:
        await it.synced()
        assert it.sink.names(Kind.SECRET) == {"certs/default"}
        it.source.set_references(frozenset({ref(Kind.SECRET, "tls")}))
        await until(lambda: it.source.settled)
        assert it.sink.names(Kind.SECRET) == {"certs/default", "ns/tls"}
        paths = {path for _, path, _ in cluster.requests if path.endswith("secrets")}
        assert paths == {"/api/v1/namespaces/certs/secrets", "/api/v1/namespaces/ns/secrets"}


async def test_options_that_may_not_be_read_dont_hold_up_the_start(cluster):
    cluster.faults.append(deny("/configmaps", "/secrets"))
    async with running(cluster, default_certificate=("certs", "tls"), config_map=("system", "options")) as it:
        await it.synced()
        assert it.source.settled
        assert set(it.source.errors()) == {"kubernetes/secrets", "kubernetes/configmaps/system/options"}


async def test_references_before_the_start(cluster):
    cluster.put("secrets", secret("tls"))
    it = Running(cluster, KubeSettings())
    it.source.set_references(frozenset({ref(Kind.SECRET, "tls")}))
    task = asyncio.create_task(it.source.run())
    await until(lambda: it.source.synced.is_set() and it.source.settled)
    assert it.sink.names(Kind.SECRET) == {"ns/tls"}
    task.cancel()
    await asyncio.wait([task])


# ---- verdicts, statuses -------------------------------------------------------------------------------------------


async def test_verdicts_come_and_go_with_their_object(cluster):
    cluster.put("ingresses", {**ingress("bad"), "spec": {"rules": 3}})
    async with running(cluster) as it:
        await it.synced()
        (verdict,) = it.sink.verdicts
        assert (verdict.object, verdict.reason) == ("Ingress ns/bad", VerdictReason.INVALID_OBJECT)
        cluster.put("services", {"metadata": meta("web"), "spec": {"ports": [{"port": "x"}]}})
        await until(lambda: len(it.sink.verdicts) == 2)
        assert it.sink.names(Kind.SERVICE) == {"ns/web"}  # the last good version
        cluster.put("ingresses", ingress("bad"))
        await until(lambda: [v.object for v in it.sink.verdicts] == ["Service ns/web"])
        cluster.delete("services", "web")
        await until(lambda: it.sink.verdicts == ())


async def test_statuses(cluster):
    async with running(cluster) as it:
        await it.synced()
        assert it.source.status_of(ref(Kind.INGRESS, "a")) == ()
        assert it.source.status_of(ref(Kind.INGRESS, "unknown")) is None
        assert it.source.uid_of(ref(Kind.INGRESS, "a")).startswith("uid-")
        assert it.source.uid_of(ref(Kind.INGRESS, "unknown")) is None
        shown = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
        cluster.put("ingresses", {**ingress("a"), "status": shown})
        await until(lambda: len(it.statuses) == 2)
        assert it.source.status_of(ref(Kind.INGRESS, "a")) == (LoadBalancerIngress(ip="192.0.2.1"),)
        assert len(it.sink.calls) == 1  # no change of the object
        cluster.delete("ingresses", "a")
        await until(lambda: len(it.statuses) == 3)
        assert it.source.status_of(ref(Kind.INGRESS, "a")) is None


async def test_a_fault_of_the_sink_ends_the_source(cluster):
    def sink(upserts, removed=(), verdicts=None):
        raise ZeroDivisionError

    source = KubeSource(FakeApi(cluster), KubeSettings(), sink, timing=FakeTime().timing)
    with pytest.raises(BaseExceptionGroup) as caught:
        await source.run()
    assert caught.group_contains(ZeroDivisionError)


# ---- whatever happens, in the end the sink has what it should ---------------------------------------------------

NAMESPACES = st.sampled_from(["x", "y"])
NAMES = st.sampled_from("ab")
STEPS = st.one_of(
    st.tuples(st.just("ingress"), NAMESPACES, NAMES),
    st.tuples(st.just("secret"), NAMESPACES, NAMES, st.sampled_from(["MQ==", "Mg=="])),
    st.tuples(st.just("delete"), st.sampled_from(["ingresses", "secrets", "configmaps"]), NAMESPACES, NAMES),
    st.tuples(st.just("map"), NAMESPACES, NAMES),
    st.tuples(st.just("select"), NAMESPACES, st.booleans()),
    st.tuples(
        st.just("refer"), st.frozensets(st.tuples(st.sampled_from([Kind.SECRET, Kind.CONFIG_MAP]), NAMESPACES, NAMES))
    ),
    st.tuples(st.sampled_from(["cut", "compact", "away", "back"])),
    st.tuples(st.just("turn"), st.integers(1, 30)),
)


async def perform(it, cluster, step):
    match step:
        case ("ingress", where, name):
            cluster.put("ingresses", ingress(name, where))
        case ("secret", where, name, value):
            cluster.put("secrets", secret(name, where, value))
        case ("map", where, name):
            cluster.put("configmaps", config_map(name, where))
        case ("delete", plural, where, name):
            if (where, name) in cluster.objects[plural]:
                cluster.delete(plural, name, where)
        case ("select", where, selected):
            cluster.put("namespaces", namespace(where, team="a" if selected else "b"))
        case ("refer", refs):
            it.source.set_references(frozenset(ObjectRef(*found) for found in refs))
        case ("cut",):
            cluster.cut()
        case ("compact",):
            cluster.compact()
        case ("away",):
            cluster.reachable = False
            cluster.cut()
        case ("back",):
            cluster.reachable = True
        case ("turn", times):
            for _ in range(times):
                await asyncio.sleep(0)


def expected(cluster, refs):
    selected = {
        body["metadata"]["name"]
        for body in cluster.objects["namespaces"].values()
        if body["metadata"]["labels"].get("team") == "a"
    }
    found = {
        ref(Kind.INGRESS, name, where): body
        for (where, name), body in cluster.objects["ingresses"].items()
        if where in selected
    }
    for kind, plural in ((Kind.SECRET, "secrets"), (Kind.CONFIG_MAP, "configmaps")):
        found |= {
            ref(kind, name, where): body
            for (where, name), body in cluster.objects[plural].items()
            if ref(kind, name, where) in refs
        }
    return {found_ref: (body["metadata"]["uid"], body.get("data")) for found_ref, body in found.items()}


@given(st.lists(STEPS, max_size=40))
def test_any_interleaving_ends_with_what_is_selected_and_referenced(steps):
    async def scenario():
        cluster = FakeCluster()
        cluster.put("namespaces", namespace("x", team="a"))
        async with running(cluster, watch_namespace_selector="team=a", page_size=1) as it:
            for step in steps:
                await perform(it, cluster, step)
            cluster.reachable = True
            await until(
                lambda: (
                    it.source.synced.is_set()
                    and it.source.settled
                    and {found: (o.metadata.uid, getattr(o, "data", None)) for found, o in it.sink.objects.items()}
                    == expected(cluster, it.source._references)
                )
            )

    asyncio.run(scenario())
