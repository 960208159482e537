"""An address in the status is a promise: whoever sees it may send at once, and whichever replica gets the request serves it.

The client follows the API server by a watch, and sends to the load balancer the moment the address appears: several connections for each
Ingress, so that both replicas of the controller, installed by the chart, get some of them.
"""

import asyncio
import json
import re
import time
from contextlib import suppress

import pytest

from tests.cluster.support import (
    Closed,
    Connection,
    Incomplete,
    echo_deployment,
    fetch,
    ingress,
    install_chart,
    service,
)
from tools.envtest.client import Client

COUNT = 20
CONNECTIONS = 4
REQUESTS = 3  # on each connection


@pytest.fixture(scope="module")
def release(cluster):
    cluster.create_namespace("promise")
    found = install_chart(cluster, "edge", "promise", {"controller": {"replicaCount": 2, "workers": 1}})
    yield found
    found.uninstall()
    cluster.delete("/api/v1/namespaces/promise")


@pytest.fixture
def shop(cluster, release, namespace):
    """Ready Pods behind the Service `shop`; returns the namespace."""
    cluster.apply(echo_deployment("shop", 3), service("shop"), namespace=namespace)
    cluster.wait_rollout("deployment", "shop", namespace)
    return namespace


class Promises:
    """Follows the Ingresses of a namespace. `broken`: what was answered wrongly to requests that an address had invited."""

    def __init__(self, cluster, namespace, address):
        self.cluster = cluster
        self.namespace = namespace
        self.address = address
        self.broken = []
        self.kept = {}  # host -> Pods that answered
        self.version = {}  # name -> resourceVersion that showed the address first
        self._shown = set()
        self._sending = set()
        self._following = None

    async def __aenter__(self):
        self._client = await Client(self.cluster.kubeconfig).__aenter__()
        path = f"/apis/networking.k8s.io/v1/namespaces/{self.namespace}/ingresses"
        self._following = asyncio.create_task(self._client.follow(path, self._changed))
        return self

    async def __aexit__(self, kind, error, trace):
        self._following.cancel()
        with suppress(asyncio.CancelledError):
            await self._following
        await asyncio.gather(*self._sending)
        await self._client.__aexit__(kind, error, trace)

    def _changed(self, new, old):
        name = old["metadata"]["name"]
        shown = [] if new is None else new["status"].get("loadBalancer", {}).get("ingress", [])
        if not shown:
            self._shown.discard(name)
        elif name not in self._shown:
            assert shown == [{"ip": self.address}]
            self._shown.add(name)
            host = new["spec"]["rules"][0]["host"]
            for number in range(CONNECTIONS):
                self._start(host, number)

    def _start(self, host, number):
        task = asyncio.create_task(self._send(host, number, time.monotonic()))
        self._sending.add(task)

    async def _send(self, host, number, seen_at):
        async with Connection(self.address) as connection:
            for _ in range(REQUESTS):
                after_s = time.monotonic() - seen_at
                try:
                    response = await connection.get(host, timeout_s=30.0)
                    if response.status == 200 and response.json()["host"] == host:
                        self.kept.setdefault(host, []).append(response.pod)
                        continue
                    what = f"{response.status} {response.body[:80]!r}"
                except (OSError, TimeoutError, Closed, Incomplete) as error:
                    what = repr(error)
                self.broken.append(f"{host}, connection {number}, {after_s:.3f} s after its address: {what}")

    async def all_kept(self, hosts, times=1, within_s=90.0):
        """Wait until each of these had its address, and every request that followed was answered."""
        wanted = times * CONNECTIONS * REQUESTS
        deadline = time.monotonic() + within_s
        while not self.broken and any(len(self.kept.get(host, ())) < wanted for host in hosts):
            missing = [host for host in hosts if len(self.kept.get(host, ())) < wanted]
            assert time.monotonic() < deadline, f"no address, or no answers: {missing}"
            await asyncio.sleep(0.02)
        assert self.broken == []


async def served(cluster, release):
    """Requests that each replica has answered since its start."""
    counts = {}
    for pod in await asyncio.to_thread(release.pods):
        metrics = (await fetch(pod["status"]["podIP"], "metrics", "/metrics", port=10254)).body.decode()
        found = re.findall(r'^aioingress_requests_total\{[^}]*status="200"\} (\d+)', metrics, re.MULTILINE)
        counts[pod["metadata"]["name"]] = sum(int(value) for value in found)
    return counts


def hosts_of(namespace, prefix):
    return {f"{prefix}-{number}": f"{prefix}-{number}.{namespace}.example" for number in range(COUNT)}


async def apply(cluster, namespace, *manifests):
    await asyncio.to_thread(lambda: cluster.apply(*manifests, namespace=namespace))


async def address_of(release):
    return await asyncio.to_thread(release.address)


async def test_new_ingresses(cluster, release, shop):
    hosts = hosts_of(shop, "new")
    before = await served(cluster, release)
    async with Promises(cluster, shop, await address_of(release)) as promises:
        await apply(cluster, shop, *(ingress(name, host, "shop") for name, host in hosts.items()))
        await promises.all_kept(hosts.values())
    after = await served(cluster, release)
    assert len(after) == 2
    for pod, count in after.items():
        assert count - before[pod] >= COUNT * REQUESTS, f"{pod} had few of the requests: {before} {after}"


async def test_new_ingresses_with_their_services(cluster, release, shop):
    """Only the Pods are there before."""
    hosts = hosts_of(shop, "with")

    def service_of(name):
        found = json.loads(service(name))
        found["spec"]["selector"] = {"app": "shop"}
        return json.dumps(found)

    async with Promises(cluster, shop, await address_of(release)) as promises:
        ingresses = [ingress(name, host, name) for name, host in hosts.items()]
        await apply(cluster, shop, *map(service_of, hosts), *ingresses)
        await promises.all_kept(hosts.values())


async def test_change_of_class(cluster, release, shop):
    """From somebody else's class to ours, away again (the address goes), and back."""
    hosts = hosts_of(shop, "moved")

    async def move(class_name):
        manifests = [ingress(name, host, "shop", class_name=class_name) for name, host in hosts.items()]
        await apply(cluster, shop, *manifests)

    def shown():
        items = cluster.get(f"/apis/networking.k8s.io/v1/namespaces/{shop}/ingresses")["items"]
        return [item for item in items if item["status"].get("loadBalancer", {}).get("ingress")]

    async with Promises(cluster, shop, await address_of(release)) as promises:
        await move("somebody-else")
        assert await asyncio.to_thread(shown) == []
        await move("aioingress")
        await promises.all_kept(hosts.values())
        await move("somebody-else")
        await asyncio.to_thread(cluster.eventually, lambda: not shown(), "the end of the addresses")
        await move("aioingress")
        await promises.all_kept(hosts.values(), times=2)


async def test_new_ingresses_while_the_controller_restarts(cluster, release, shop):
    """Replicas come and go, the leader too."""
    hosts = hosts_of(shop, "during")

    def restart():
        cluster.kubectl("rollout", "restart", "deployment/edge-aioingress-controller", "-n", release.namespace)
        release.wait(120)

    async with Promises(cluster, shop, await address_of(release)) as promises:
        restarting = asyncio.create_task(asyncio.to_thread(restart))
        for name, host in hosts.items():
            await apply(cluster, shop, ingress(name, host, "shop"))
        await promises.all_kept(hosts.values())
        await restarting
