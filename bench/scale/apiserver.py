"""etcd and kube-apiserver (tools/envtest) in a network namespace, and a client that is fast enough to fill them.

Nothing else of a cluster runs: EndpointSlices are written by hand, and there are no Pods.
"""

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.scale.cluster import Cluster
from bench.support.manifests import NAMESPACE, Object, endpoint_slice, ingress, service
from bench.support.processes import BenchError
from tools.envtest import EnvtestError
from tools.envtest.build import Binaries, find_binaries
from tools.envtest.controlplane import ControlPlane
from tools.envtest.netns import NetworkNamespace

ENDPOINT_NETWORK = "10.96.0.0/12"  # 10.96 to 10.111: room for 200 Services in each /16
FIRST_BYTES = (10, 96)
CLASS = "bench"
ACCOUNT = "bench-controller"
_WRITERS = 24  # requests under way while the cluster is filled
_ATTEMPTS = 5

_KINDS = {
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "Service": "/api/v1/namespaces/{}/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
}


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _LoadBalancer(msgspec.Struct):
    ingress: list[Any] | None = None


class _Status(msgspec.Struct, rename="camel"):
    load_balancer: _LoadBalancer = msgspec.field(default_factory=_LoadBalancer)


class _Ingress(msgspec.Struct):
    metadata: _Metadata
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct):
    type: str
    object: _Ingress


_EVENTS = msgspec.json.Decoder(_Event)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """The calling thread in a network namespace of its own, in which every endpoint of the cluster can have an address."""
    try:
        with NetworkNamespace() as namespace, namespace.entered():
            subprocess.run(["ip", "route", "add", "local", ENDPOINT_NETWORK, "dev", "lo"], check=True)
            yield
    except EnvtestError as error:
        raise BenchError(str(error)) from error


def binaries() -> Binaries:
    found = find_binaries()
    if isinstance(found, str):
        raise BenchError(found)
    return found


def path_of(item: Object) -> str:
    """Of the object itself; its collection is the part before the last slash."""
    metadata = item["metadata"]
    return f"{_KINDS[item['kind']].format(metadata['namespace'])}/{metadata['name']}"


class Objects:
    """The cluster as API objects; `controller` is what its IngressClass names."""

    def __init__(self, cluster: Cluster, controller: str) -> None:
        self._cluster = cluster
        self._controller = controller

    def preliminaries(self) -> Iterable[tuple[str, Object]]:
        """Collection and object: what has to be there before the rest. The controller's account may do everything, but unlike an
        administrator it waits its turn (API priority and fairness).
        """
        rbac = "rbac.authorization.k8s.io"
        yield "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        yield (
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
        )
        yield (
            f"/apis/{rbac}/v1/clusterrolebindings",
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": ACCOUNT},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
            },
        )
        yield (
            "/apis/networking.k8s.io/v1/ingressclasses",
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "IngressClass",
                "metadata": {"name": CLASS},
                "spec": {"controller": self._controller},
            },
        )

    def ingress(self, index: int, path: str) -> Object:
        cluster = self._cluster
        rules = [(cluster.host(index), [(path, f"svc-{cluster.service_of(index):04d}")])]
        item = ingress(f"ing-{index:05d}", rules)
        return {**item, "spec": {**item["spec"], "ingressClassName": CLASS}}

    def endpoints(self, number: int, port: int) -> Object:
        return endpoint_slice(f"svc-{number:04d}", self._cluster.addresses(number), port)

    def all(self, backend_port: int) -> Iterator[Object]:
        for number in range(self._cluster.services):
            yield service(f"svc-{number:04d}")
            yield self.endpoints(number, backend_port)
        for index in range(self._cluster.ingresses):
            yield self.ingress(index, self._cluster.path(index))


class ApiServer:
    """Made by `started`. Requests are the administrator's."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession) -> None:
        self.plane = plane
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, folder: Path) -> AsyncIterator["ApiServer"]:
        """Inside of `network()`."""
        plane = ControlPlane(binaries(), folder)
        try:
            plane.start_etcd()
            plane.start_apiserver()
        except EnvtestError as error:
            plane.stop()
            raise BenchError(str(error)) from error
        try:
            connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cafile=str(plane.ca_file)))
            headers = {"Authorization": f"Bearer {plane.admin_token}", "Accept": "application/json"}
            limits = aiohttp.ClientTimeout(total=60.0)
            async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=limits) as session:
                yield cls(plane, session)
        finally:
            plane.stop()

    async def fill(self, objects: Objects, backend_port: int) -> None:
        for collection, item in objects.preliminaries():
            await self._request("POST", collection, item)
        pending = objects.all(backend_port)

        async def write() -> None:
            for item in pending:
                await self._request("POST", path_of(item).rpartition("/")[0], item)

        async with asyncio.TaskGroup() as group:
            for _ in range(_WRITERS):
                group.create_task(write())

    async def put(self, item: Object) -> None:
        """Whatever its version is. Returns when it is acknowledged."""
        await self._request("PUT", path_of(item), item)

    def kubeconfig(self, folder: Path) -> Path:
        """For the controller's account."""
        path = folder / "kubeconfig"
        self.plane.write_kubeconfig(path, token=self.plane.token_for(NAMESPACE, ACCOUNT))
        return path

    async def version(self) -> str:
        """The newest resourceVersion of the Ingresses."""
        found = await self._request("GET", f"{_KINDS['Ingress'].format(NAMESPACE)}?limit=1")
        return str(json.loads(found)["metadata"]["resourceVersion"])

    async def statuses(self, version: str, count: int) -> None:
        """Wait until `count` Ingresses have shown an address, by watching from `version`."""
        shown: set[str] = set()
        path = f"{_KINDS['Ingress'].format(NAMESPACE)}?watch=1&resourceVersion={version}"
        limits = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self.plane.url + path, timeout=limits, read_bufsize=1 << 20) as response:
            if response.status != 200:
                raise BenchError(f"the watch for statuses: {response.status}")
            while len(shown) < count:
                line = await response.content.readline()
                if not line:
                    raise BenchError(f"the watch for statuses ended after {len(shown)} of {count}")
                event = _EVENTS.decode(line)
                if event.object.status.load_balancer.ingress:
                    shown.add(event.object.metadata.name)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        for attempt in range(_ATTEMPTS):
            headers = {"Content-Type": "application/json"} if data is not None else {}
            async with self._session.request(method, self.plane.url + path, data=data, headers=headers) as response:
                answer = await response.read()
                if response.status < 300:
                    return answer
                # an API server that has just started is still making its own roles; one that is busy says so
                if response.status not in (403, 429, 500, 503) or attempt == _ATTEMPTS - 1:
                    raise BenchError(f"{method} {path}: {response.status} {answer.decode()[:300]}")
            await asyncio.sleep(0.5)
        raise AssertionError("unreachable")
