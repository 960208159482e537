"""Nothing is lost while Pods come and go, ours included: every request under a mixed load gets its answer."""

import asyncio
import json
import time

import aiohttp
import pytest

from tests.cluster.support import echo_deployment, fetch_until, ingress, install_chart, service
from tests.cluster.traffic import traffic


def app(name, replicas, *, pre_stop):
    """Ready by a probe; at its end it closes idle connections, with or without a moment in between."""
    found = json.loads(echo_deployment(name, replicas))
    found["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}
    if not pre_stop:
        del found["spec"]["template"]["spec"]["containers"][0]["lifecycle"]
    return found


@pytest.fixture(scope="module")
def release(cluster):
    cluster.create_namespace("rollouts")
    values = {"controller": {"replicaCount": 2, "workers": 1, "extraArgs": {"no-access-log": None}}}
    found = install_chart(cluster, "edge", "rollouts", values)
    yield found
    found.uninstall()
    cluster.delete("/api/v1/namespaces/rollouts")


@pytest.fixture
def toad(cluster, release, namespace):
    """Four Pods without a preStop hook, behind both replicas of the controller; `(namespace, address, host)`."""
    deployment = json.dumps(app("toad", 4, pre_stop=False))
    host = f"{namespace}.example.com"  # its own: an Ingress of the test before may still be there
    cluster.apply(deployment, service("toad"), ingress("toad", host, "toad"), namespace=namespace)
    cluster.wait_rollout("deployment", "toad", namespace)
    return namespace, release.address(), host


async def call(function, *arguments):
    return await asyncio.to_thread(function, *arguments)


def restart(cluster, namespace, name):
    """`kubectl rollout restart`, to its end."""
    cluster.kubectl("rollout", "restart", f"deployment/{name}", "-n", namespace)
    cluster.wait_rollout("deployment", name, namespace, 120)


def scale(cluster, namespace, replicas):
    cluster.kubectl("scale", "deployment/toad", f"--replicas={replicas}", "-n", namespace)
    cluster.wait_rollout("deployment", "toad", namespace)


async def test_rolling_update(cluster, toad):
    namespace, address, host = toad
    await fetch_until(address, host)
    async with traffic(address, host) as load:
        await load.more()
        before = {pod["metadata"]["name"] for pod in await call(cluster.pods, namespace)}
        assert set(load.pods) == before
        await call(restart, cluster, namespace, "toad")
        await load.more(300)
        now = {pod["metadata"]["name"] for pod in await call(cluster.pods, namespace)}
        assert now.isdisjoint(before)
        assert now <= set(load.pods)


async def test_rolling_update_with_a_pre_stop_hook(cluster, toad):
    namespace, address, host = toad
    await call(lambda: cluster.apply(json.dumps(app("toad", 4, pre_stop=True)), namespace=namespace))
    await call(cluster.wait_rollout, "deployment", "toad", namespace)
    await fetch_until(address, host)
    async with traffic(address, host) as load:
        await call(restart, cluster, namespace, "toad")
        await load.more()


async def test_scaling(cluster, toad):
    namespace, address, host = toad
    await fetch_until(address, host)
    async with traffic(address, host) as load:
        for replicas in (10, 2, 8, 1, 4):
            await call(scale, cluster, namespace, replicas)
            pods = {pod["metadata"]["name"] for pod in await call(cluster.pods, namespace)}
            assert len(pods) == replicas
            await load.answered_by(pods)


async def test_pod_deletions(cluster, toad):
    namespace, address, host = toad
    await fetch_until(address, host)
    async with traffic(address, host) as load:
        for _ in range(3):
            await load.more(50)
            pod = (await call(cluster.pods, namespace))[0]["metadata"]["name"]
            await call(cluster.delete, f"/api/v1/namespaces/{namespace}/pods/{pod}")
        await call(cluster.wait_rollout, "deployment", "toad", namespace)
        await load.more()


async def test_api_server_away_and_a_rolling_update_right_after(cluster, toad):
    namespace, address, host = toad
    await fetch_until(address, host)
    async with traffic(address, host) as load:
        await call(cluster.control_plane.kill_apiserver)
        await asyncio.sleep(5)
        await call(cluster.control_plane.start_apiserver)
        await call(restart, cluster, namespace, "toad")
        await load.more(300)


def names_of(release):
    """Of its Pods, those that are ending included."""
    return [pod["metadata"]["name"] for pod in release.objects("/api/v1/NAMESPACE/pods")]


async def test_controller_restarts(cluster, release, toad):
    _, address, host = toad
    await fetch_until(address, host)
    async with traffic(address, host) as load:
        for _ in range(2):
            before = {pod["metadata"]["name"] for pod in await call(release.pods)}
            await call(restart, cluster, release.namespace, "edge-aioingress-controller")
            await call(cluster.eventually, lambda old=before: old.isdisjoint(names_of(release)), "the last drain's end")
            await load.more()


async def test_a_websocket_outlives_what_isnt_its_own(cluster, toad):
    """Rolling updates of others, changes of routes: a tunnel belongs to no table."""
    namespace, address, host = toad
    await fetch_until(address, host)
    await call(lambda: cluster.apply(json.dumps(app("frog", 2, pre_stop=False)), service("frog"), namespace=namespace))
    await call(lambda: cluster.apply(ingress("frog", f"frog.{host}", "frog"), namespace=namespace))
    await call(cluster.wait_rollout, "deployment", "frog", namespace)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{address}/", headers={"Host": host}) as socket,
    ):
        await socket.send_str("one")
        pod = (await socket.receive_str(timeout=10)).split(":")[0]
        await call(restart, cluster, namespace, "frog")
        for number in range(5):
            await call(
                lambda n=number: cluster.apply(
                    ingress("toad", host, "toad"), ingress(f"more-{n}", f"{n}.{host}", "toad"), namespace=namespace
                )
            )
            await socket.send_str(str(number))
            assert await socket.receive_str(timeout=10) == f"{pod}: {number}"


# ---- an address is a promise --------------------------------------------------------------------------------------


async def test_no_request_fails_after_the_address_appears(cluster, release, toad):
    """20 new Ingresses: whoever sees the address may send at once, to either replica."""
    namespace, address, host = toad
    await fetch_until(address, host)
    refused = []

    def host_of(name):
        return f"{name}.{host}"

    sent = 0

    async def follow(name):
        host = host_of(name)
        nonlocal sent
        path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}"
        deadline = time.monotonic() + 60
        while True:
            shown = (await call(cluster.get, path))["status"].get("loadBalancer", {}).get("ingress")
            if shown:
                break
            assert time.monotonic() < deadline, f"{name} got no address"
            await asyncio.sleep(0.01)
        assert shown == [{"ip": address}]
        for _ in range(4):  # a connection each: the load balancer takes the replicas in turn
            sent += 1
            try:
                response = await fetch_until(address, host, within_s=0)
                assert response.json()["host"] == host
            except AssertionError as error:
                refused.append(f"{name}: {error}")

    for start in range(0, 20, 5):
        names = [f"new-{number}" for number in range(start, start + 5)]
        manifests = [ingress(name, host_of(name), "toad") for name in names]
        await call(lambda found=manifests: cluster.apply(*found, namespace=namespace))
        await asyncio.gather(*(follow(name) for name in names))
    assert sent == 80
    assert refused == []
