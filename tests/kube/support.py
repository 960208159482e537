"""A small API server to test against: `FakeCluster` holds objects and history, `FakeServer` puts it on a loopback socket,
`FakeApi` answers without one. Faults are scripted on the cluster, so that both show them.
"""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from ingress.kube.api import JSON, Unavailable
from ingress.kube.faults import fault_of_answer
from ingress.kube.reflector import Timing

COLLECTIONS = {  # plural: (path of its group, apiVersion, kind)
    "ingresses": ("/apis/networking.k8s.io/v1", "networking.k8s.io/v1", "Ingress"),
    "ingressclasses": ("/apis/networking.k8s.io/v1", "networking.k8s.io/v1", "IngressClass"),
    "services": ("/api/v1", "v1", "Service"),
    "endpoints": ("/api/v1", "v1", "Endpoints"),
    "endpointslices": ("/apis/discovery.k8s.io/v1", "discovery.k8s.io/v1", "EndpointSlice"),
    "secrets": ("/api/v1", "v1", "Secret"),
    "configmaps": ("/api/v1", "v1", "ConfigMap"),
    "namespaces": ("/api/v1", "v1", "Namespace"),
}
INGRESSES = "/apis/networking.k8s.io/v1/ingresses"

Change = tuple[int, str, dict[str, Any] | None, dict[str, Any] | None]  # version, plural, new and old object
Interest = tuple[str, str, Mapping[str, str]]  # plural, namespace, query of a watch
Answer = tuple[int, bytes, dict[str, str]]
Fault = Callable[[str, str, Mapping[str, str]], Answer | None]
"""(method, path, query) to an answer in place of the real one, or None."""


def status(code: int, message: str, reason: str = "", **headers: str) -> Answer:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "message": message,
        "reason": reason,
    }
    return code, json.dumps(body).encode(), headers


def meta(name: str, namespace: str = "ns", **fields: Any) -> dict[str, Any]:
    return {"name": name, **({"namespace": namespace} if namespace else {}), **fields}


def ingress(name: str, namespace: str = "ns", host: str = "a.example", **metadata: Any) -> dict[str, Any]:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    return {"metadata": meta(name, namespace, **metadata), "spec": {"rules": [rule]}}


def service(name: str, namespace: str = "ns", port: int = 80) -> dict[str, Any]:
    return {"metadata": meta(name, namespace), "spec": {"ports": [{"port": port}]}}


def slice_(name: str, owner: str = "web", *addresses: str, namespace: str = "ns") -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": owner, "other": "x"}
    endpoints = [{"addresses": [address]} for address in addresses]
    return {
        "metadata": meta(name, namespace, labels=labels),
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 8080}],
    }


class FakeCluster:
    def __init__(self) -> None:
        self.version = 100
        self.compacted = 0  # history up to here is gone
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {plural: {} for plural in COLLECTIONS}
        self.served = set(COLLECTIONS)
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, query
        self.faults: list[Fault] = []
        self.reachable = True
        self._history: list[Change] = []
        self._interest: dict[asyncio.Queue[bytes | None], Interest] = {}
        self._pages: dict[str, tuple[list[dict[str, Any]], int]] = {}
        self._tokens = itertools.count(1)

    # ---- what happens in the cluster ----

    def put(self, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        key = (body["metadata"].get("namespace", ""), body["metadata"]["name"])
        known = self.objects[plural].get(key)
        uid = known["metadata"]["uid"] if known else f"uid-{self.version}"
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version), "uid": uid}}
        self.objects[plural][key] = body
        self._record(plural, body, known)
        return body

    def delete(self, plural: str, name: str, namespace: str = "ns") -> None:
        self.version += 1
        self._record(plural, None, self.objects[plural].pop((namespace, name)))

    def bookmark(self) -> None:
        """To every open watch, as the API server does about once a minute."""
        for queue, (plural, _, _) in self._interest.items():
            queue.put_nowait(
                self._line("BOOKMARK", self._typed(plural, {"metadata": {"resourceVersion": str(self.version)}}))
            )

    def compact(self) -> None:
        self.compacted = self.version
        self._history.clear()

    def cut(self, last: bytes = b"") -> None:
        """Break every open watch, possibly in the middle of a line."""
        for queue in list(self._interest):
            if last:
                queue.put_nowait(last)
            queue.put_nowait(None)

    def say(self, line: bytes) -> None:
        """A line of our choice to every open watch."""
        for queue in self._interest:
            queue.put_nowait(line)

    @property
    def watching(self) -> int:
        return len(self._interest)

    def asked(self, part: str, **query: str) -> list[dict[str, str]]:
        """The queries of the requests whose path contains `part` and whose query holds `query`."""
        return [q for _, path, q in self.requests if part in path and query.items() <= q.items()]

    def _record(self, plural: str, new: dict[str, Any] | None, old: dict[str, Any] | None) -> None:
        self._history.append((self.version, plural, new, old))
        for queue, interest in self._interest.items():
            self._tell(queue, interest, self._history[-1])

    def _tell(self, queue: "asyncio.Queue[bytes | None]", interest: Interest, change: Change) -> None:
        """What a watch with these selectors sees: an object that ceases to match is deleted for it."""
        version, plural, new, old = change
        wanted, namespace, query = interest
        if wanted != plural:
            return
        matched = old is not None and _matches(old, namespace, query)
        if new is not None and _matches(new, namespace, query):
            queue.put_nowait(self._line("MODIFIED" if matched else "ADDED", self._typed(plural, new)))
        elif old is not None and matched:
            gone = {**old, "metadata": {**old["metadata"], "resourceVersion": str(version)}}
            queue.put_nowait(self._line("DELETED", self._typed(plural, gone)))

    # ---- answers ----

    def answer(self, method: str, path: str, query: Mapping[str, str]) -> Answer:
        self.requests.append((method, path, dict(query)))
        for fault in list(self.faults):
            found = fault(method, path, query)
            if found is not None:
                return found
        if path == "/apis/discovery.k8s.io/v1":
            if "endpointslices" not in self.served:
                return status(404, "the server could not find the requested resource", "NotFound")
            return 200, b'{"kind":"APIResourceList","resources":[{"name":"endpointslices"}]}', {}
        plural, namespace, name = _parse(path)
        if plural not in self.served:
            return status(404, "the server could not find the requested resource", "NotFound")
        if name:
            body = self.objects[plural].get((namespace, name))
            if body is None:
                return status(404, f'{plural} "{name}" not found', "NotFound")
            return 200, json.dumps(self._typed(plural, body)).encode(), {}
        return self._list(plural, namespace, query)

    def _list(self, plural: str, namespace: str, query: Mapping[str, str]) -> Answer:
        if (token := query.get("continue")) is not None:
            if token not in self._pages:
                return status(410, "The provided continue parameter is too old", "Expired")
            items, version = self._pages.pop(token)
        else:
            items = [body for _, body in sorted(self.objects[plural].items()) if _matches(body, namespace, query)]
            version = self.version
        limit = int(query.get("limit", "0")) or len(items)
        metadata = {"resourceVersion": str(version)}
        if len(items) > limit:
            token = f"token-{next(self._tokens)}"
            self._pages[token] = (items[limit:], version)
            metadata["continue"] = token
        body = {"kind": f"{COLLECTIONS[plural][2]}List", "metadata": metadata, "items": items[:limit]}
        return 200, json.dumps(body).encode(), {}

    def forget_pages(self) -> None:
        self._pages.clear()

    def open_watch(self, path: str, query: Mapping[str, str]) -> "asyncio.Queue[bytes | None]":
        """Lines, then None. Call `close_watch` afterwards."""
        plural, namespace, _ = _parse(path)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        since = int(query["resourceVersion"])
        if since < self.compacted:
            queue.put_nowait(self._line("ERROR", json.loads(status(410, "too old resource version", "Expired")[1])))
            queue.put_nowait(None)
            return queue
        interest = (plural, namespace, query)
        for change in self._history:
            if change[0] > since:
                self._tell(queue, interest, change)
        self._interest[queue] = interest
        return queue

    def close_watch(self, queue: "asyncio.Queue[bytes | None]") -> None:
        self._interest.pop(queue, None)

    @staticmethod
    def _typed(plural: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"kind": COLLECTIONS[plural][2], "apiVersion": COLLECTIONS[plural][1], **body}

    @staticmethod
    def _line(event: str, body: dict[str, Any]) -> bytes:
        return json.dumps({"type": event, "object": body}).encode()


def _parse(path: str) -> tuple[str, str, str]:
    """Plural, namespace, name of a path."""
    parts = path.strip("/").split("/")
    parts = parts[3:] if parts[0] == "apis" else parts[2:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    return parts[0], namespace, parts[1] if len(parts) > 1 else ""


def _matches(body: dict[str, Any], namespace: str, query: Mapping[str, str]) -> bool:
    metadata = body["metadata"]
    if namespace and metadata.get("namespace") != namespace:
        return False
    fields = {"metadata.name": metadata["name"], "type": body.get("type", "Opaque")}
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        if "!=" in part:
            name, value = part.split("!=")
            if fields[name] == value:
                return False
        else:
            name, value = part.split("=")
            if fields[name] != value:
                return False
    labels = metadata.get("labels") or {}
    return all(labels.get(k) == v for k, v in (p.split("=") for p in query.get("labelSelector", "").split(",") if p))


class FakeServer:
    """`async with FakeServer(cluster) as server`: `server.url`. `stop` and `start` again on the same port."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.port = 0
        self.authorizations: list[str] = []
        self.user_agents: list[str] = []
        self.accepted: set[str] | None = None  # values of Authorization; None: all
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "FakeServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            self.cluster.cut()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        self.authorizations.append(authorization)
        self.user_agents.append(request.headers.get("User-Agent", ""))
        if self.accepted is not None and authorization not in self.accepted:
            return _response(status(401, "Unauthorized", "Unauthorized"))
        query = dict(request.query)
        if "watch" not in query:
            return _response(self.cluster.answer(request.method, request.path, query))
        refusal = _refusal(self.cluster, request.path, query)
        if refusal is not None:
            return _response(refusal)
        response = web.StreamResponse(headers={"Content-Type": JSON})
        queue = self.cluster.open_watch(request.path, query)
        try:
            await response.prepare(request)
            while (line := await queue.get()) is not None:
                await response.write(line if line.startswith(b"cut:") else line + b"\n")
                if line.startswith(b"cut:"):
                    break
            return response
        finally:
            self.cluster.close_watch(queue)


def _refusal(cluster: FakeCluster, path: str, query: Mapping[str, str]) -> Answer | None:
    """What a watch is answered with in place of events."""
    cluster.requests.append(("WATCH", path, dict(query)))
    for fault in list(cluster.faults):
        found = fault("WATCH", path, query)
        if found is not None:
            return found
    if _parse(path)[0] not in cluster.served:
        return status(404, "the server could not find the requested resource", "NotFound")
    return None


def _response(answer: Answer) -> web.Response:
    code, body, headers = answer
    return web.Response(status=code, body=body, headers={"Content-Type": JSON, **headers})


class FakeApi:
    """`reflector.WatchApi` on a cluster, without sockets."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        await asyncio.sleep(0)
        if not self.cluster.reachable:
            raise Unavailable("can't connect to the API server: refused")
        code, body, headers = self.cluster.answer("GET", path, query or {})
        if code != 200:
            raise fault_of_answer(code, body, headers.get("Retry-After", ""))
        return body

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> bytes:
        raise NotImplementedError

    async def watch(self, path: str, query: Mapping[str, str], *, idle_timeout_s: float) -> AsyncIterator[bytes]:
        async for lines in self.batches(path, query, idle_timeout_s=idle_timeout_s):
            for line in lines:
                yield line

    async def batches(
        self, path: str, query: Mapping[str, str], *, idle_timeout_s: float
    ) -> AsyncGenerator[Sequence[bytes], None]:
        await asyncio.sleep(0)
        if not self.cluster.reachable:
            raise Unavailable("can't connect to the API server: refused")
        refusal = _refusal(self.cluster, path, query)
        if refusal is not None:
            raise fault_of_answer(refusal[0], refusal[1], refusal[2].get("Retry-After", ""))
        queue = self.cluster.open_watch(path, query)
        try:
            yield ()
            while True:
                lines = [await queue.get()]
                while not queue.empty():
                    lines.append(queue.get_nowait())
                whole = [line for line in lines if line is not None]
                if whole:
                    yield whole
                if None in lines:
                    return
        finally:
            self.cluster.close_watch(queue)


class FakeTime:
    """Time that passes only where something sleeps, and then at once. `slept` holds the naps."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.timing = Timing(
            clock=lambda: self.now, wall=lambda: self.now + 1e9, sleep=self.sleep, rng=random.Random(seed)
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], turns: int = 5000) -> None:
    """Let the loop turn until `condition` holds. Not a wait for time: real sockets need a few turns."""
    for turn in range(turns):
        if condition():
            return
        await asyncio.sleep(0 if turn < 200 else 0.002)
    raise AssertionError("it never came true")
