"""An API server in memory: objects by path, resourceVersions and their conflicts, watches.

`FakeServer.client()` is an `Api`, with a network of its own that can be broken.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingress.kube.api import JSON, MERGE_PATCH, Conflict, NotFound, Rejected, Unavailable


@dataclass(frozen=True)
class Request:
    client: str
    method: str
    path: str
    body: Any
    at: float


@dataclass
class FakeServer:
    """Paths as of the real one; `…/status` changes `status` only, and everything else ignores it."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    fail: Callable[[Request], Exception | None] = lambda _: None
    version: int = 0
    watchers: list[tuple[str, str, "asyncio.Queue[bytes | None]"]] = field(default_factory=list)

    def client(self, name: str = "client") -> "FakeClient":
        return FakeClient(self, name)

    def writes(self, method: str = "") -> list[Request]:
        return [r for r in self.requests if r.method != "GET" and method in ("", r.method)]

    # ---- state ----------------------------------------------------------------------------------------------------

    def put(self, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Create or replace, as somebody else would. Returns the object."""
        known = self.objects.get(path)
        found = _copy(dict(content))
        metadata = found.setdefault("metadata", {})
        metadata.setdefault("name", path.rpartition("/")[2])
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        metadata.setdefault("uid", known["metadata"]["uid"] if known else f"uid-{self.version}")
        self.objects[path] = found
        self._tell(path, "MODIFIED" if known else "ADDED", found)
        return found

    def delete(self, path: str) -> None:
        self._tell(path, "DELETED", self.objects.pop(path))

    def end_watches(self) -> None:
        for _, _, queue in self.watchers:
            queue.put_nowait(None)

    def _tell(self, path: str, type_: str, found: Mapping[str, Any]) -> None:
        collection, _, name = path.rpartition("/")
        for watched, only, queue in self.watchers:
            if watched == collection and only in ("", name):
                queue.put_nowait(json.dumps({"type": type_, "object": found}).encode())

    # ---- requests -------------------------------------------------------------------------------------------------

    def handle(self, method: str, path: str, body: Any, query: Mapping[str, str], content_type: str) -> bytes:
        if method == "GET":
            return json.dumps(self._get(path, query)).encode()
        if method == "POST":
            full = f"{path}/{body['metadata']['name']}"
            if full in self.objects:
                raise Conflict(f"{full} already exists")
            return json.dumps(self.put(full, body)).encode()
        target = path.removesuffix("/status")
        known = self.objects.get(target)
        if known is None:
            raise NotFound(f"{target} not found")
        if method == "PUT":
            sent = body.get("metadata", {}).get("resourceVersion")
            new = _copy(body)
        elif method == "PATCH":
            if content_type != MERGE_PATCH:
                raise Rejected(f"no patch of type {content_type}")
            sent = body.get("metadata", {}).get("resourceVersion")
            new = _merge(known, body)
        else:
            raise Rejected(f"{method} is not served")
        if sent is not None and sent != known["metadata"]["resourceVersion"]:
            raise Conflict(f"{target} has been modified")
        kept = {**known, "status": new.get("status")} if path != target else {**new, "status": known.get("status")}
        return json.dumps(self.put(target, kept)).encode()

    def _get(self, path: str, query: Mapping[str, str]) -> Any:
        if path in self.objects:
            return self.objects[path]
        if path.rpartition("/")[2] not in ("pods", "ingresses", "events", "leases", "services"):
            raise NotFound(f"{path} not found")
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        items = [found for full, found in self.objects.items() if full.rpartition("/")[0] == path]
        return {
            "items": [o for o in items if wanted.items() <= o["metadata"].get("labels", {}).items()],
            "metadata": {"resourceVersion": str(self.version)},
        }


def _copy(content: Any) -> Any:
    return json.loads(json.dumps(content))


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return _copy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


@dataclass
class FakeClient:
    """One side of the network. `reaches` False: requests are lost; `hears` False: they take effect, the answers are lost; `hangs`: lost things are not
    noticed, the caller waits for ever.
    """

    server: FakeServer
    name: str
    reaches: bool = True
    hears: bool = True
    hangs: bool = False
    delay_s: float = 0.0
    under_way: int = 0
    most_under_way: int = 0

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        return await self._exchange("GET", path, None, query or {}, JSON)

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> bytes:
        return await self._exchange(method, path, body, query or {}, content_type)

    async def _exchange(self, method: str, path: str, body: object, query: Mapping[str, str], content: str) -> bytes:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.delay_s)
            if not self.reaches:
                await self._lost()
            request = Request(self.name, method, path, _copy(body), asyncio.get_running_loop().time())
            self.server.requests.append(request)
            problem = self.server.fail(request)
            if problem is not None:
                raise problem
            answer = self.server.handle(method, path, body, query, content)
            await asyncio.sleep(self.delay_s)
            if not self.hears:
                await self._lost()
            return answer
        finally:
            self.under_way -= 1

    async def _lost(self) -> None:
        if self.hangs:
            await asyncio.sleep(1e9)
        raise Unavailable("connection lost")

    async def watch(self, path: str, query: Mapping[str, str], *, idle_timeout_s: float) -> AsyncIterator[bytes]:
        if not self.reaches:
            await self._lost()
        only = query.get("fieldSelector", "").removeprefix("metadata.name=")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        entry = (path, only, queue)
        self.server.watchers.append(entry)
        try:
            if "resourceVersion" not in query:
                for full, found in self.server.objects.items():
                    if full.rpartition("/")[0] == path and only in ("", full.rpartition("/")[2]):
                        yield json.dumps({"type": "ADDED", "object": found}).encode()
            loop = asyncio.get_running_loop()
            ends_at = loop.time() + float(query.get("timeoutSeconds", "300"))
            while True:
                try:
                    async with asyncio.timeout_at(ends_at):
                        line = await queue.get()
                except TimeoutError:
                    return
                if line is None:
                    return
                yield line
        finally:
            self.server.watchers.remove(entry)
