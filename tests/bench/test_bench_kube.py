import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from bench.load.peers.base import Finder
from bench.scale import kube
from bench.scale.apiserver import CLASS, FIRST_BYTES, ApiServer, Objects, path_of
from bench.scale.cluster import Cluster
from bench.scale.controllers import Aioingress, TraefikOnKubernetes
from bench.support.processes import BenchError, MemoryUse
from ingress.model import EndpointSlice, Ingress

CLUSTER = Cluster(hosts=2, paths=2, services=3, endpoints_per_service=2, first_bytes=FIRST_BYTES)


def objects() -> Objects:
    return Objects(CLUSTER, "example.com/controller")


def test_all_objects_of_the_cluster() -> None:
    items = list(objects().all(8080))
    assert [item["kind"] for item in items] == ["Service", "EndpointSlice"] * 3 + ["Ingress"] * 4
    assert len({path_of(item) for item in items}) == len(items)
    assert path_of(items[0]) == "/api/v1/namespaces/bench/services/svc-0000"
    assert path_of(items[1]) == "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices/svc-0000-1"
    assert path_of(items[-1]) == "/apis/networking.k8s.io/v1/namespaces/bench/ingresses/ing-00003"


def test_objects_are_what_the_model_reads() -> None:
    route = msgspec.convert(objects().ingress(3, "/new"), Ingress)
    assert (route.spec.ingress_class_name, route.spec.rules is not None) == (CLASS, True)
    assert route.spec.rules is not None
    assert route.spec.rules[0].host == "host-0001.example.com"
    assert route.spec.rules[0].http is not None
    assert [path.path for path in route.spec.rules[0].http.paths] == ["/new"]
    found = msgspec.convert(objects().endpoints(2, 81), EndpointSlice)
    assert [port.port for port in found.ports or ()] == [81]
    assert [endpoint.addresses for endpoint in found.endpoints or ()] == [("10.96.2.1",), ("10.96.2.2",)]


def test_the_class_names_the_controller() -> None:
    found = [item for _, item in objects().preliminaries() if item["kind"] == "IngressClass"]
    assert [item["spec"]["controller"] for item in found] == ["example.com/controller"]


class Plane:
    """As much of a ControlPlane as a client needs."""

    def __init__(self, url: str) -> None:
        self.url = url


class FakeApiServer:
    """Answers as told, and keeps what it was sent. `watch` are the lines of every watch."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.watch: list[Any] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            lines = b"".join(json.dumps(line).encode() + b"\n" for line in self.watch)
            return web.Response(body=lines)
        self.requests.append((request.method, request.path, await request.json()))
        return web.Response(status=self.answers.pop(0) if self.answers else 201, text="{}")


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


@pytest.fixture
async def api(server: FakeApiServer, aiohttp_server: AiohttpServer) -> AsyncIterator[ApiServer]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.handle)
    listening = await aiohttp_server(app)
    async with aiohttp.ClientSession() as session:
        yield ApiServer(Plane(str(listening.make_url("")).rstrip("/")), session)  # type: ignore[arg-type]


async def test_filling_creates_every_object_once(api: ApiServer, server: FakeApiServer) -> None:
    await api.fill(objects(), 8080)
    created = sorted(f"{path}/{body['metadata']['name']}" for _, path, body in server.requests)
    assert created[-1] == "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/bench-controller"
    assert sorted(path_of(item) for item in objects().all(8080)) == [
        path for path in created if "/ing-" in path or "/svc-" in path
    ]
    assert {method for method, _, _ in server.requests} == {"POST"}


async def test_a_refusal_is_an_error_with_its_status(api: ApiServer, server: FakeApiServer) -> None:
    server.answers = [422]
    with pytest.raises(BenchError, match=r"PUT .*/ingresses/ing-00000: 422"):
        await api.put(objects().ingress(0, "/"))


def shown(name: str, *addresses: str) -> dict[str, Any]:
    status = {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]} if addresses else {}}
    return {"type": "MODIFIED", "object": {"metadata": {"name": name}, "status": status}}


async def test_statuses_are_counted_by_object(api: ApiServer, server: FakeApiServer) -> None:
    server.watch = [shown("a"), shown("a", "10.0.0.1"), shown("a", "10.0.0.1"), shown("b", "10.0.0.1")]
    await api.statuses("1", 2)
    with pytest.raises(BenchError, match="ended after 2 of 3"):
        await api.statuses("1", 3)


async def test_a_series_ends_by_count_by_time_or_when_told() -> None:
    options = argparse.Namespace(seed=1, seconds=60.0)
    trial = kube.Trial(None, objects(), CLUSTER, CLUSTER.sample(2), options)  # type: ignore[arg-type]
    trial._rng = _NoPause()
    turns = iter(range(100))

    async def change() -> int:
        return next(turns)

    assert await trial._series(change, 3) == [0, 1, 2]
    assert await trial._series(change, 3, over=lambda: True) == []
    options.seconds = 0.0
    assert await trial._series(change, 3) == []


class _NoPause(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 0.0


async def test_the_wait_for_statuses_ends_with_its_block() -> None:
    class Never:
        async def statuses(self, version: str, count: int) -> None:
            await asyncio.Event().wait()

    async with kube.watched(Never(), "1", 1) as task:  # type: ignore[arg-type]
        assert not task.done()
    assert task.cancelled()


def outcome(scale: float = 1.0, **fields: Any) -> kube.Outcome:
    times = [scale * at / 1000 for at in range(1, 101)]
    return kube.Outcome(
        ready_s=2.0 * scale,
        everywhere_s=3.0 * scale,
        edits=times,
        endpoints_first=times,
        endpoints_last=times,
        memory=[MemoryUse(1, "a", 2 << 20, 1 << 20), MemoryUse(2, "b", 4 << 20, 3 << 20)],
        **fields,
    )


def cells(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_table_has_targets_and_ratios() -> None:
    text = kube.outcome_table({"aioingress": outcome(cpu_idle=0.004), "traefik": outcome(10.0)})
    assert cells(text, "start to ready") == ["2.00", "20.00", "0.10", "< 10 s: met"]
    assert cells(text, "Ingress edited to served, p99") == ["99", "990", "0.10", "< 300 ms: met"]
    assert cells(text, "slice edited to last old answer, p99") == ["99", "990", "0.10", "< 100 ms: met"]
    assert cells(text, "memory of all processes") == ["4", "4", "1.00", "< 400 MB: met"]
    assert cells(text, "CPU of the first process at idle") == ["0.4", "-", "-", "-"]
    missed = kube.outcome_table({"aioingress": outcome(4.0)})
    assert cells(missed, "Ingress edited to served, p99") == ["396", "-", "< 300 ms: **missed**"]


def test_table_of_what_never_got_ready() -> None:
    failed = kube.Outcome(failure="no 200", memory=[MemoryUse(1, "t", 0, 1_000_000)])
    text = kube.outcome_table({"aioingress": outcome(), "traefik": failed})
    assert cells(text, "start to served by every worker") == ["3.00", "-", "-", "-"]
    assert "traefik, first process" in kube.memory_table({"traefik": failed})
    assert json.loads(json.dumps(kube.as_json(failed)))["failure"] == "no 200"


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube.TraefikOnKubernetes, "version", lambda _: None)
    chosen, remarks = kube.choose(kube.parser().parse_args(["--systems", "aioingress,traefik"]))
    assert [contender.name for contender in chosen] == ["aioingress"]
    assert remarks == ["aioingress: this tree", "traefik not found and left out"]
    with pytest.raises(BenchError, match="no system 'x'"):
        kube.choose(kube.parser().parse_args(["--systems", "x"]))


def test_contenders_take_classes_of_their_own() -> None:
    controllers: list[Callable[[], Any]] = [Aioingress, lambda: TraefikOnKubernetes(Finder((Path("/nonexistent"),)))]
    assert len({make().class_controller for make in controllers}) == 2
