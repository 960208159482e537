"""Nothing is lost while Pods come and go, ours included: every request under a mixed load gets its answer."""

import asyncio
import json

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
    """Two in a row. What was begun before lasts until the drain of its replica ends, while the new ones serve."""
    _, address, host = toad
    await fetch_until(address, host)
    async with traffic(address, host) as load, LongLived(address, host) as lasting:
        first = {pod["metadata"]["name"] for pod in await call(release.pods)}
        for _ in range(2):
            before = {pod["metadata"]["name"] for pod in await call(release.pods)}
            await call(restart, cluster, release.namespace, "edge-aioingress-controller")
            assert before.isdisjoint(pod["metadata"]["name"] for pod in await call(release.pods))
            await load.more()
        await lasting.goes_on()
        left = first.intersection(await call(names_of, release))
        assert left, "the replicas that carry what lasts have gone"
        await lasting.finish()
        await call(
            cluster.eventually, lambda: before.union(first).isdisjoint(names_of(release)), "the last drain's end"
        )
        await load.more()


# ---- what lasts ---------------------------------------------------------------------------------------------------

LONG_BYTES = 48 << 20


class LongLived:
    """A WebSocket and a response that is read so slowly that it waits at the Pod: `pod` answers the first."""

    def __init__(self, address, host):
        self._url = f"http://{address}/"
        self._headers = {"Host": host}
        self._received = 0
        self._hurry = False
        self._count = 0

    async def __aenter__(self):
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=None))
        self._socket = await self._session.ws_connect(self._url)
        self._response = await self._session.get(f"{self._url}?bytes={LONG_BYTES}")
        assert self._response.status == 200
        self._reading = asyncio.create_task(self._read())
        self.pod = (await self._say("hello")).partition(":")[0]
        return self

    async def __aexit__(self, kind, error, trace):
        self._reading.cancel()
        await self._session.close()

    async def _say(self, text):
        await self._socket.send_str(text)
        return await self._socket.receive_str(timeout=10)

    async def _read(self):
        async for chunk in self._response.content.iter_chunked(4096):
            self._received += len(chunk)
            if not self._hurry:
                await asyncio.sleep(0.05)

    async def goes_on(self):
        self._count += 1
        assert await self._say(str(self._count)) == f"{self.pod}: {self._count}"
        received = self._received
        while self._received == received:
            assert not self._reading.done(), self._reading
            await asyncio.sleep(0.01)
        assert self._received < LONG_BYTES

    async def finish(self):
        """To the last byte."""
        self._hurry = True
        async with asyncio.timeout(60):
            await self._reading
            assert await self._socket.close()
        assert self._received == LONG_BYTES


def more_of_toad():
    """Another Deployment whose Pods stand behind the same Service."""
    found = app("more", 2, pre_stop=False)
    labels = {"app": "toad", "deployment": "more"}
    found["spec"]["selector"] = {"matchLabels": labels}
    found["spec"]["template"]["metadata"]["labels"] = labels
    return found


async def test_what_lasts_outlives_what_isnt_its_own(cluster, toad):
    """Rolling updates of other Pods of the Service, changes of its Ingress and of others."""
    namespace, address, host = toad
    await fetch_until(address, host)
    async with LongLived(address, host) as lasting:
        await call(lambda: cluster.apply(json.dumps(more_of_toad()), namespace=namespace))
        await call(cluster.wait_rollout, "deployment", "more", namespace)
        await call(restart, cluster, namespace, "more")
        await lasting.goes_on()
        for number in range(5):
            timeout = {"nginx.ingress.kubernetes.io/proxy-read-timeout": f"{300 + number}"}
            changed = ingress("toad", host, "toad", annotations=timeout)
            other = ingress(f"more-{number}", f"{number}.{host}", "toad")
            await call(lambda found=(changed, other): cluster.apply(*found, namespace=namespace))
            await fetch_until(address, f"{number}.{host}")
            await lasting.goes_on()
        await call(cluster.delete, f"/apis/apps/v1/namespaces/{namespace}/deployments/more")
        await lasting.goes_on()
        await lasting.finish()
