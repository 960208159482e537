"""Two replicas of the chart: one writes, and it shows to nobody when that one is another.

Whether a status was written is asked of the API server itself: an Ingress whose resourceVersion is the same was not touched, and a watch from an
earlier version tells of every write since.
"""

import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import pytest

from tests.cluster import faults
from tests.cluster.faults import Background, Patrol, Replica, Watchman
from tests.cluster.support import Json, Release, echo_deployment, ingress, install_chart, service
from tools.envtest.cluster import Cluster

CLASS = "leadership"
COUNT = 20
TTL_S = 10  # long enough to tell a Lease that was handed over from one that ran out
VALUES = faults.values(CLASS, replicaCount=2, electionTTL=str(TTL_S), shutdownGracePeriodSeconds=1)


@dataclass(frozen=True, slots=True)
class Site:
    cluster: Cluster
    background: Background
    release: Release
    address: str

    @property
    def namespace(self) -> str:
        return self.release.namespace

    def path(self, name: str = "") -> str:
        return f"/apis/networking.k8s.io/v1/namespaces/{self.namespace}/ingresses/{name}".rstrip("/")

    def write(self, name: str, backend: str = "echo", class_name: str = CLASS) -> None:
        self.cluster.apply(ingress(name, f"{name}.example", backend, class_name=class_name), namespace=self.namespace)

    def shown(self, name: str) -> list[str]:
        return faults.addresses(self.cluster.get(self.path(name)))

    def wait_shown(self, expected: Mapping[str, list[str]], within_s: float = 60.0) -> None:
        def wrong() -> dict[str, list[str]]:
            found = faults.ingresses(self.cluster, self.namespace)
            shown = {name: faults.addresses(found[name]) for name in expected}
            return {name: addresses for name, addresses in shown.items() if addresses != expected[name]}

        deadline = time.monotonic() + within_s
        while found := wrong():
            assert time.monotonic() < deadline, f"addresses after {within_s:g} s: {found}"
            time.sleep(0.05)

    def wait_served(self, address: str) -> None:
        def served() -> bool:
            with suppress(OSError):
                return faults.get(address, "/", host="always-0.example")[0] == 200
            return False

        self.cluster.eventually(served, f"answers at {address}")

    def all_show(self, addresses: list[str]) -> dict[str, list[str]]:
        """Expectation: of the Ingresses that are always there."""
        return {f"always-{number}": addresses for number in range(COUNT)}

    def leader(self) -> Replica:
        """The one that leads, as soon as exactly one does and all are there."""

        def the_one() -> Replica | None:
            found = faults.replicas(self.release)
            with suppress(OSError):
                leaders = [replica for replica in found if replica.leads()]
                return leaders[0] if len(leaders) == 1 and all(replica.in_touch() for replica in found) else None
            return None

        found: Replica = self.cluster.eventually(the_one, "one leader")
        return found

    def wait_next_leader(self, last: Replica, within_s: float) -> Replica:
        def the_other() -> Replica | None:
            for replica in faults.replicas(self.release):
                with suppress(OSError):
                    if replica.name != last.name and replica.leads():
                        return replica
            return None

        found: Replica = self.cluster.eventually(the_other, f"a leader after {last.name}", within_s)
        return found

    def lease(self) -> Json:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{self.release.name}-aioingress-leader"
        return dict(self.cluster.get(path)["spec"])

    def versions(self) -> dict[str, tuple[str, list[str]]]:
        found = faults.versions(self.cluster, self.namespace)
        return {name: version for name, version in found.items() if name.startswith("always-")}

    def history(self, since: str) -> dict[str, list[list[str]]]:
        """Ingress -> the addresses it showed after each write since, those of the Ingresses that are always there."""
        found: dict[str, list[list[str]]] = {}
        for name, addresses in faults.history(self.cluster, self.namespace, since):
            if name.startswith("always-"):
                found.setdefault(name, []).append(addresses)
        return found

    def events(self, name: str) -> list[Json]:
        path = f"/api/v1/namespaces/{self.namespace}/events?fieldSelector=involvedObject.name={name}"
        return [item for item in self.cluster.get(path)["items"] if item["type"] == "Warning"]

    def wait_event(self, name: str) -> Json:
        (event,) = self.cluster.eventually(lambda: self.events(name), f"an Event about {name}")
        return dict(event)


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    namespace = f"leadership-{secrets.token_hex(3)}"
    cluster.create_namespace(namespace)
    names = [f"always-{number}" for number in range(COUNT)]
    routes = [ingress(name, f"{name}.example", "echo", class_name=CLASS) for name in names]
    cluster.apply(echo_deployment("echo"), service("echo"), *routes, namespace=namespace)
    release = install_chart(cluster, "leadership", namespace, VALUES)
    cluster.wait_rollout("deployment", "echo", namespace)
    background = Background()
    site = Site(cluster, background, release, release.address())
    site.wait_shown(site.all_show([site.address]))
    yield site
    release.uninstall()
    cluster.delete(f"/api/v1/namespaces/{namespace}")
    background.close()


def scale(release: Release, count: int) -> None:
    (deployment,) = release.objects("/apis/apps/v1/NAMESPACE/deployments")
    name = deployment["metadata"]["name"]
    release.cluster.kubectl("scale", f"deployment/{name}", f"--replicas={count}", "-n", release.namespace)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# ---- who leads ----------------------------------------------------------------------------------------------------


def test_one_of_two_leads(site: Site) -> None:
    with Watchman(site.release) as watchman:
        leader = site.leader()
        other = next(replica for replica in faults.replicas(site.release) if replica.name != leader.name)
        lease = site.lease()
        assert lease["holderIdentity"].startswith(f"{leader.name}_")
        site.cluster.eventually(lambda: site.lease()["renewTime"] != lease["renewTime"], "a renewal")
        writes = "aioingress_status_writes_total"
        assert leader.samples()[f'{writes}{{result="ok"}}'] >= COUNT
        assert other.samples()[f'{writes}{{result="ok"}}'] == 0
        assert "leading" not in other.log()
        watchman.round()
    watchman.check()
    assert watchman.leaders == [leader.name]


def test_killed_leader_is_replaced(site: Site) -> None:
    """Not before its Lease is over. What came in the gap gets its address then, and nothing else is written, nor told again."""
    last = site.leader()
    site.write("told-before", "nowhere")
    told = site.wait_event("told-before")
    assert (told["count"], told["reportingInstance"]) == (1, last.name)
    before, lease = site.versions(), site.lease()
    with Watchman(site.release) as watchman:
        last.signal(signal.SIGKILL)
        lease = site.lease()
        site.write("in-the-gap")
        site.write("told-in-the-gap", "nowhere")
        leader = site.wait_next_leader(last, 3 * TTL_S)
        taken = site.lease()
        assert taken["holderIdentity"].startswith(f"{leader.name}_")
        assert taken["leaseTransitions"] == lease["leaseTransitions"] + 1
        assert moment(taken["acquireTime"]) - moment(lease["renewTime"]) >= lease["leaseDurationSeconds"]
        site.wait_shown({"in-the-gap": [site.address]})
        told_later = site.wait_event("told-in-the-gap")
        assert (told_later["count"], told_later["reportingInstance"]) == (1, leader.name)
        assert site.leader().name == leader.name  # the killed one is back, and leads no more
        watchman.round()
    watchman.check()
    assert watchman.leaders == [last.name, leader.name] or watchman.leaders == [leader.name]
    assert site.events("told-before") == [told]
    assert site.versions() == before


def test_drained_leader_hands_over(site: Site) -> None:
    """Long before its Lease would be over, and without a lost request."""
    last = site.leader()
    before, lease = site.versions(), site.lease()
    hosts = {f"always-{number}.example": "echo" for number in range(COUNT)}
    with Watchman(site.release) as watchman, Patrol(site.background, site.address, hosts) as patrol:
        patrol.round()
        site.cluster.delete(f"/api/v1/namespaces/{site.namespace}/pods/{last.name}")
        leader = site.wait_next_leader(last, TTL_S - 2)
        assert site.lease()["leaseTransitions"] == lease["leaseTransitions"] + 1
        site.write("after-the-drain")
        site.wait_shown({"after-the-drain": [site.address]})
        site.release.wait()
        assert site.leader().name == leader.name
        site.cluster.eventually(lambda: last.pod() is None, "the end of the Pod")
        patrol.round()
        watchman.round()
    patrol.check()
    watchman.check()
    assert site.versions() == before


def test_paused_leader_writes_no_more(site: Site) -> None:
    """A process (or its machine) that stands still for longer than its Lease wakes up as one of the others."""
    last = site.leader()
    before = site.versions()
    with Watchman(site.release) as watchman:
        last.signal(signal.SIGSTOP)
        try:
            leader = site.wait_next_leader(last, 3 * TTL_S)
            site.write("while-it-stood-still")
            site.wait_shown({"while-it-stood-still": [site.address]})
        finally:
            last.signal(signal.SIGCONT)
        assert site.leader().name == leader.name
        site.cluster.eventually(lambda: "not leading any more" in last.log(), "its word for it")
        watchman.round()
    watchman.check()
    assert site.versions() == before


# ---- what it writes -----------------------------------------------------------------------------------------------


def test_foreign_address_is_replaced(site: Site) -> None:
    since = faults.list_version(site.cluster, site.namespace)
    foreign = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}}
    site.cluster.patch(f"{site.path('always-3')}/status", foreign)
    site.wait_shown({"always-3": [site.address]})
    site.cluster.patch(f"{site.path('always-4')}/status", {"status": {"loadBalancer": {"ingress": None}}})
    site.wait_shown({"always-4": [site.address]})
    assert site.history(since) == {
        "always-3": [["192.0.2.9"], [site.address]],
        "always-4": [[], [site.address]],
    }


def test_other_controllers_keep_to_themselves(site: Site) -> None:
    """Another class, another controller, in the same namespace: neither touches what is the other's, not even at its end."""
    before = site.versions()
    site.write("theirs", class_name="neighbour")
    site.write("nobodys", class_name="unknown")
    site.write("moves")
    site.wait_shown({"moves": [site.address]})
    other = install_chart(site.cluster, "neighbour", site.namespace, faults.values("neighbour", electionTTL="4"))
    try:
        theirs = other.address()
        assert theirs != site.address
        site.wait_shown({"theirs": [theirs]})
        site.write("moves", class_name="neighbour")
        site.wait_shown({"moves": [theirs]})
        site.write("theirs", class_name=CLASS)
        site.wait_shown({"theirs": [site.address]})
        site.cluster.delete(site.path("theirs"))
        last = site.leader()
        assert "leading" in faults.replicas(other)[0].log()
        scale(other, 0)
        site.wait_shown({"moves": [], "nobodys": []})
    finally:
        other.uninstall()
    assert site.leader().name == last.name
    assert site.versions() == before


def test_address_of_the_load_balancer_changes(site: Site) -> None:
    """Every status follows, once."""
    site.leader()
    since = faults.list_version(site.cluster, site.namespace)
    (found,) = [item for item in site.release.objects("/api/v1/NAMESPACE/services") if "status" in item]
    path = f"/api/v1/namespaces/{site.namespace}/services/{found['metadata']['name']}/status"
    fresh = "10.88.250.200"

    def publish(address: str) -> None:
        site.cluster.stop_load_balancer()
        site.cluster.patch(path, {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
        site.cluster.start_load_balancer()
        site.wait_shown(site.all_show([address]))

    try:
        publish(fresh)
        site.wait_served(fresh)
    finally:
        publish(site.address)
        site.wait_served(site.address)
    assert site.history(since) == {name: [[fresh], [site.address]] for name in site.all_show([])}


def test_last_replica_takes_its_addresses_back(site: Site) -> None:
    site.leader()
    since = faults.list_version(site.cluster, site.namespace)
    scale(site.release, 1)
    site.cluster.eventually(lambda: len(faults.replicas(site.release)) == 1, "one replica")
    site.leader()
    assert site.history(since) == {}
    scale(site.release, 0)
    site.wait_shown(site.all_show([]))
    site.cluster.eventually(lambda: not site.release.pods(), "no replica")
    scale(site.release, 2)
    site.release.wait()
    site.wait_shown(site.all_show([site.address]))
    assert site.history(since) == {name: [[], [site.address]] for name in site.all_show([])}
