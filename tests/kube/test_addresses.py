import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import KubeSettings
from ingress.kube.addresses import (
    Addresses,
    AddressReader,
    Node,
    PublishedService,
    Replicas,
    addresses_of_nodes,
    addresses_of_service,
    addresses_of_text,
    arrange,
    identifying_labels,
)
from ingress.kube.api import Forbidden, Unavailable
from ingress.model import LoadBalancerIngress
from tests.kube import virtual
from tests.kube.fake_api import FakeClient, FakeServer

SERVICE = "/api/v1/namespaces/edge/services/front"
PODS = "/api/v1/namespaces/edge/pods"


def ips(*texts: str) -> Addresses:
    return tuple(LoadBalancerIngress(ip=text) for text in texts)


def hosts(*texts: str) -> Addresses:
    return tuple(LoadBalancerIngress(hostname=text) for text in texts)


def balancer(*entries: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {"spec": {"type": "LoadBalancer", **spec}, "status": {"loadBalancer": {"ingress": list(entries)}}}


def node(*addresses: tuple[str, str]) -> dict[str, Any]:
    return {"status": {"addresses": [{"type": kind, "address": text} for kind, text in addresses]}}


def pod(name: str, node_name: str = "", phase: str = "Running", deleted: bool = False, **labels: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": {"app": "edge", **labels}}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, "spec": {"nodeName": node_name}, "status": {"phase": phase}}


# ---- pure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (balancer({"ip": "203.0.113.9"}), ips("203.0.113.9")),
        (balancer({"hostname": "LB.example.com."}), hosts("lb.example.com")),
        (
            balancer({"ip": "203.0.113.9", "hostname": "lb.example.com"}),
            (LoadBalancerIngress(ip="203.0.113.9", hostname="lb.example.com"),),
        ),
        (
            balancer({"ip": "203.0.113.9", "ipMode": "VIP"}, externalIPs=["198.51.100.1"]),
            ips("198.51.100.1", "203.0.113.9"),
        ),
        (balancer(clusterIP="10.0.0.1"), ()),  # pending: its cluster address is of no use outside
        ({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {}}}, ()),
        ({"spec": {"type": "LoadBalancer", "externalIPs": None}, "status": None}, ()),
        ({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1"}}, ips("10.0.0.1")),
        ({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "externalIPs": ["198.51.100.1"]}}, ips("198.51.100.1")),
        ({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1"}}, ips("10.0.0.1")),
        ({"spec": {"type": "ClusterIP", "clusterIP": "None"}}, ()),
        ({"spec": {"clusterIP": "fd00:0::1"}}, ips("fd00::1")),
        ({"spec": {"type": "ExternalName", "externalName": "edge.example.com"}}, hosts("edge.example.com")),
        ({"spec": {"type": "ExternalName", "externalName": "198.51.100.1"}}, ips("198.51.100.1")),
        ({}, ()),
    ],
)
def test_addresses_of_service(service: dict[str, Any], expected: Addresses) -> None:
    assert addresses_of_service(msgspec.convert(service, PublishedService)) == expected


BOTH = node(("InternalIP", "10.0.0.1"), ("ExternalIP", "198.51.100.1"), ("Hostname", "node-1"))
INSIDE = node(("InternalIP", "10.0.0.2"), ("InternalIP", "fd00::2"))


@pytest.mark.parametrize(
    ("nodes", "internal", "expected"),
    [
        ([BOTH], False, ips("198.51.100.1")),
        ([BOTH], True, ips("10.0.0.1")),
        ([BOTH, INSIDE], False, ips("10.0.0.2", "198.51.100.1", "fd00::2")),
        ([INSIDE, INSIDE], True, ips("10.0.0.2", "fd00::2")),
        ([node(("Hostname", "node-1"))], False, ()),
        ([{}], False, ()),
        ([], True, ()),
    ],
)
def test_addresses_of_nodes(nodes: list[dict[str, Any]], internal: bool, expected: Addresses) -> None:
    assert addresses_of_nodes([msgspec.convert(found, Node) for found in nodes], internal) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["b.example.com", "A.example.com", "b.example.com"], hosts("a.example.com", "b.example.com")),
        (["10.0.0.10", "10.0.0.9", "::1", "z.example"], (*ips("10.0.0.9", "10.0.0.10", "::1"), *hosts("z.example"))),
        (["2001:DB8::0:1", " 192.0.2.1 "], ips("192.0.2.1", "2001:db8::1")),
        (["", "-", "a_b", "a..b", "x" * 64, "fe80::1%eth0", "http://x", "*.example.com", "a b"], ()),
        ([".".join(["a" * 60] * 5)], ()),
    ],
)
def test_addresses_of_text(texts: list[str], expected: Addresses) -> None:
    assert addresses_of_text(texts) == expected


@given(st.lists(st.ip_addresses().map(lambda ip: LoadBalancerIngress(ip=str(ip)))), st.randoms())
def test_the_order_of_what_is_read_does_not_matter(found: list[LoadBalancerIngress], rng: random.Random) -> None:
    shuffled = [*found, *found[:2]]
    rng.shuffle(shuffled)
    assert arrange(shuffled) == arrange(found)
    assert set(arrange(found)) == set(found)


def test_labels_of_one_revision_do_not_identify() -> None:
    labels = {
        "app.kubernetes.io/name": "aioingress",
        "app.kubernetes.io/version": "1.2.3",
        "helm.sh/chart": "aioingress-1.2.3",
        "pod-template-hash": "abc",
        "controller-revision-hash": "def",
        "pod-template-generation": "3",
    }
    assert identifying_labels(labels) == {"app.kubernetes.io/name": "aioingress"}


def test_labels_that_the_cluster_gives_do_not_tell_who_we_are() -> None:
    """Since Kubernetes 1.35 every Pod has region and zone of its node."""
    labels = {
        "app.kubernetes.io/name": "aioingress",
        "app.kubernetes.io/instance": "edge",
        "team": "net",
        "example.com/tier": "front",
        "mykubernetes.io/tier": "front",
    }
    given = {
        "topology.kubernetes.io/region": "r1",
        "topology.kubernetes.io/zone": "r1-a",
        "statefulset.kubernetes.io/pod-name": "edge-0",
        "apps.kubernetes.io/pod-index": "0",
        "kubernetes.io/hostname": "n1",
        "autoscaling.k8s.io/vpa": "x",
    }
    assert identifying_labels(labels | given) == labels


def test_a_replica_in_another_zone_is_a_replica() -> None:
    async def story(server: FakeServer) -> None:
        for name, zone in (("a", "one"), ("b", "two")):
            labels = {"app": "edge", "topology.kubernetes.io/zone": zone}
            server.put(f"{PODS}/{name}", {"metadata": {"labels": labels}, "status": {"phase": "Running"}})
        replicas = Replicas(server.client(), KubeSettings(pod_namespace="edge", pod_name="a"))
        assert await replicas.others() == 1

    scenario(story)


# ---- reading ------------------------------------------------------------------------------------------------------


class Reader:
    def __init__(self, client: FakeClient, **settings: Any) -> None:
        known = KubeSettings(pod_namespace="edge", **settings)
        self.replicas = Replicas(client, known)
        self.seen: list[Addresses] = []
        rng = random.Random(1)
        self.reader = AddressReader(client, known, self.replicas, self.seen.append, clock=virtual.clock, rng=rng)
        self.task = virtual.spawn(self.reader.run())


def scenario(story: Callable[[FakeServer], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(FakeServer())

    virtual.run(whole)


def test_given_addresses_win(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        server.put(SERVICE, balancer({"ip": "203.0.113.9"}))
        given_ = ("lb.example.com", "not a name", "192.0.2.1")
        reader = Reader(server.client(), publish_status_addresses=given_, publish_service=("edge", "front"))
        await asyncio.sleep(1)
        assert reader.seen == [(*ips("192.0.2.1"), *hosts("lb.example.com"))]
        assert server.requests == []
        assert "'not a name'" in caplog.text

    scenario(story)


def test_the_service_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        reader = Reader(server.client(), publish_service=("edge", "front"))
        await asyncio.sleep(1)
        assert reader.seen == []
        server.put(SERVICE, balancer())
        await asyncio.sleep(0.1)
        assert reader.seen == []
        server.put(SERVICE, balancer({"ip": "203.0.113.9"}))
        await asyncio.sleep(0.1)
        assert reader.seen == [ips("203.0.113.9")]
        server.put("/api/v1/namespaces/edge/services/other", balancer({"ip": "203.0.113.1"}))
        server.put(SERVICE, balancer())  # the load balancer is being replaced: not known is not none
        await asyncio.sleep(0.1)
        server.delete(SERVICE)
        await asyncio.sleep(200)
        assert reader.reader.addresses == ips("203.0.113.9")
        server.put(SERVICE, balancer({"ip": "203.0.113.10"}))
        await asyncio.sleep(0.1)
        assert reader.seen == [ips("203.0.113.9"), ips("203.0.113.10")]

    with caplog.at_level("INFO"):
        scenario(story)
    assert [record.message for record in caplog.records] == [
        "Service edge/front to publish addresses of does not exist",
        "Service edge/front has no address to publish",
        "addresses to publish: 203.0.113.9",
        "Service edge/front has no address to publish",
        "Service edge/front to publish addresses of was deleted",
        "Service edge/front to publish addresses of does not exist",
        "addresses to publish: 203.0.113.10",
    ]


def test_an_address_that_no_watch_told_of_is_found_within_the_period() -> None:
    async def story(server: FakeServer) -> None:
        reader = Reader(server.client(), publish_service=("edge", "front"), status_period_s=60.0)
        await asyncio.sleep(1)
        watchers, server.watchers = server.watchers, []  # dead, and nobody notices
        server.put(SERVICE, balancer({"ip": "203.0.113.9"}))
        server.watchers = watchers
        await asyncio.sleep(62)
        assert reader.seen == [ips("203.0.113.9")]
        assert len(server.watchers) == 1

    scenario(story)


def test_an_api_server_that_is_gone_is_asked_again_slowly_and_complained_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(server: FakeServer) -> None:
        server.put(SERVICE, balancer({"ip": "203.0.113.9"}))
        server.fail = lambda _: Unavailable("no connection")
        reader = Reader(server.client(), publish_service=("edge", "front"))
        await asyncio.sleep(600)
        assert 20 <= len(server.requests) <= 40
        assert len(caplog.records) == 1
        server.fail = lambda _: None
        await asyncio.sleep(31)
        assert reader.seen == [ips("203.0.113.9")]

    scenario(story)


def test_watches_that_end_at_once_make_no_tight_loop() -> None:
    async def story(server: FakeServer) -> None:
        server.put(SERVICE, balancer({"ip": "203.0.113.9"}))
        reader = Reader(server.client(), publish_service=("edge", "front"))
        for _ in range(1000):
            await asyncio.sleep(0.01)
            server.end_watches()
        assert len(server.requests) <= 12
        assert reader.seen == [ips("203.0.113.9")]

    scenario(story)


def test_nodes_of_our_running_pods() -> None:
    async def story(server: FakeServer) -> None:
        server.put(f"{PODS}/a", pod("a", "node-1", **{"pod-template-hash": "1"}))
        server.put(f"{PODS}/b", pod("b", "node-2", **{"pod-template-hash": "2"}))
        server.put(f"{PODS}/c", pod("c", "node-3", phase="Pending"))
        server.put(f"{PODS}/d", pod("d", "gone"))
        server.put(f"{PODS}/e", {**pod("e", "node-3"), "metadata": {"name": "e", "labels": {"app": "other"}}})
        server.put("/api/v1/nodes/node-1", BOTH)
        server.put("/api/v1/nodes/node-2", INSIDE)
        server.put("/api/v1/nodes/node-3", node(("ExternalIP", "198.51.100.3")))
        reader = Reader(server.client(), pod_name="a")
        await asyncio.sleep(1)
        assert reader.seen == [ips("10.0.0.2", "198.51.100.1", "fd00::2")]
        server.put(f"{PODS}/c", pod("c", "node-3"))
        await asyncio.sleep(61)
        assert reader.reader.addresses == ips("10.0.0.2", "198.51.100.1", "198.51.100.3", "fd00::2")

    scenario(story)


def test_a_node_that_cannot_be_read_leaves_all_as_it_was() -> None:
    async def story(server: FakeServer) -> None:
        server.put(f"{PODS}/a", pod("a", "node-1"))
        server.put(f"{PODS}/b", pod("b", "node-2"))
        server.put("/api/v1/nodes/node-1", BOTH)
        server.put("/api/v1/nodes/node-2", INSIDE)
        reader = Reader(server.client(), pod_name="a", report_node_internal_ip=True)
        await asyncio.sleep(1)
        server.fail = lambda request: Forbidden("nodes is forbidden") if request.path.endswith("node-2") else None
        await asyncio.sleep(300)
        assert reader.seen == [ips("10.0.0.1", "10.0.0.2", "fd00::2")]

    scenario(story)


def test_outside_a_pod_there_is_nothing_to_publish(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        reader = Reader(server.client())
        await asyncio.sleep(300)
        assert reader.seen == []
        assert len(caplog.records) == 1
        assert reader.replicas.alone
        assert await reader.replicas.others() == 0
        assert server.requests == []

    scenario(story)


@pytest.mark.parametrize(
    ("others", "count"),
    [
        ([], 0),
        ([pod("b")], 1),
        ([pod("b", phase="Pending"), pod("c")], 2),
        ([pod("b", phase="Failed"), pod("c", phase="Succeeded"), pod("d", deleted=True)], 0),
        ([pod("b", **{"pod-template-hash": "2", "app.kubernetes.io/version": "2.0"})], 1),
    ],
)
def test_other_replicas(others: list[dict[str, Any]], count: int) -> None:
    async def story(server: FakeServer) -> None:
        mine = {"pod-template-hash": "1", "app.kubernetes.io/version": "1.0"}
        server.put(f"{PODS}/a", pod("a", deleted=True, **mine))
        for other in others:
            server.put(f"{PODS}/{other['metadata']['name']}", other)
        replicas = Replicas(server.client(), KubeSettings(pod_namespace="edge", pod_name="a"))
        assert not replicas.alone  # not known yet
        assert await replicas.others() == count
        task = virtual.spawn(replicas.run())
        await asyncio.sleep(1)
        assert replicas.alone == (count == 0)
        server.fail = lambda _: Unavailable("gone")
        await asyncio.sleep(100)
        assert replicas.alone == (count == 0)
        server.fail = lambda _: None
        server.put(f"{PODS}/z", pod("z"))
        await asyncio.sleep(11)
        assert not replicas.alone
        task.cancel()

    scenario(story)


def test_a_pod_without_labels_has_no_replicas() -> None:
    async def story(server: FakeServer) -> None:
        server.put(f"{PODS}/a", {**pod("a", "node-1"), "metadata": {"name": "a"}})
        server.put(f"{PODS}/b", pod("b"))
        replicas = Replicas(server.client(), KubeSettings(pod_namespace="edge", pod_name="a"))
        assert await replicas.others() == 0
        assert [found.metadata.name for found in await replicas.pods()] == ["a"]

    scenario(story)
