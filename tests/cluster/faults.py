"""For tests that take things away: a proxy before the API server, a patrol along all routes, and what a controller says of itself.

All of it runs in a thread with an event loop of its own, so that the tests may block.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from tests.cluster.support import Closed, Connection, Incomplete, Json, Release
from tools.envtest import API_SERVER, API_SERVER_PORT
from tools.envtest.cluster import Cluster
from tools.envtest.controlplane import ControlPlane

T = TypeVar("T")


class Background:
    """An event loop in a thread, inside of the network namespace where it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.start(work).result(60)

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


# ---- the API server's proxy ---------------------------------------------------------------------------------------

# The address of the Service `kubernetes`, which the API server's certificate names beside its own.
PROXY_ADDRESS, PROXY_PORT = "10.88.128.1", 6444
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: return 0


@dataclass(slots=True, eq=False)
class _Pair:
    """A relayed connection. `request`: method and path of the last one on it."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    request: str = ""
    stalled: bool = False

    def abort(self) -> None:
        for writer in (self.near, self.far):
            sock = writer.get_extra_info("socket")
            if sock is not None:  # else closed already
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class ApiProxy:
    """Reads along what the controller and the API server say to each other (TLS ends here, with the API server's own certificate), and gets in
    their way as told. `answers`: (request, status code) of everything but 2xx; ERROR events of a watch count as answers.
    """

    def __init__(self, control_plane: ControlPlane, background: Background) -> None:
        self._background = background
        folder = control_plane.ca_file.parent
        self._server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server_side.load_cert_chain(folder / "apiserver.crt", folder / "apiserver.key")
        self._client_side = ssl.create_default_context(cafile=str(control_plane.ca_file))
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._cut: tuple[str, bool] | None = None
        self.answers: list[tuple[str, int]] = []
        self.accept()

    def accept(self) -> None:
        """Let everybody in (again)."""
        self._background.run(self._accept())

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._background.run(self._refuse())

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._background.run(self._reset())

    def stall(self) -> None:
        """What is open stays open, and carries nothing any more; new ones are welcome."""
        self._background.run(self._stall())

    def cut_in_line(self, collection: str, *, reset: bool) -> None:
        """The next event of a watch of `collection` arrives half; then comes a RST, or a FIN as from a server that ends in order."""
        self._cut = (collection, reset)

    @property
    def cut_pending(self) -> bool:
        return self._cut is not None

    def blackhole(self) -> None:
        """Every packet of the controller is dropped, those of the kernel too: no answer, no RST."""
        self._background.run(self._filter(drop=True))

    def end_blackhole(self) -> None:
        """What was open stays silent."""
        self._background.run(self._filter(drop=False))

    def close(self) -> None:
        self.refuse()

    # ---- in the background ----

    async def _accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, PROXY_ADDRESS, PROXY_PORT, ssl=self._server_side, reuse_address=True
            )

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _reset(self) -> None:
        for pair in self._pairs:
            pair.abort()

    async def _stall(self) -> None:
        for pair in self._pairs:
            pair.stalled = True

    async def _filter(self, *, drop: bool) -> None:
        """A filter of a socket sees what comes before TCP does. Nothing is sent either: what arrives keeps a connection alive."""
        assert self._server is not None
        if drop:
            await self._stall()
        for sock in (*self._server.sockets, *(pair.near.get_extra_info("socket") for pair in self._pairs)):
            with contextlib.suppress(OSError):
                if drop:
                    program = _Program()
                    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program.packed)
                else:
                    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(API_SERVER, API_SERVER_PORT, ssl=self._client_side)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, far_writer)
        self._pairs.add(pair)
        relays = (
            asyncio.create_task(self._relay(reader, far_writer, pair, self._look_at_request)),
            asyncio.create_task(self._relay(far_reader, writer, pair, self._look_at_answer)),
        )
        try:
            await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for relay in relays:
                relay.cancel()
            self._pairs.discard(pair)
            for end in (writer, far_writer):
                end.close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: _Pair,
        look: Callable[[bytes, _Pair], bytes | None],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                if pair.stalled:
                    await asyncio.Event().wait()
                kept = look(data, pair)
                writer.write(data if kept is None else kept)
                await writer.drain()
                if kept is not None:
                    return

    def _look_at_request(self, data: bytes, pair: _Pair) -> None:
        first = re.match(rb"(GET|POST|PUT|PATCH|DELETE) (\S+) HTTP", data)
        if first is not None:
            pair.request = f"{first[1].decode()} {first[2].decode()}"

    def _look_at_answer(self, data: bytes, pair: _Pair) -> bytes | None:
        """None: pass it on. Else the last bytes that get through."""
        first = re.match(rb"HTTP/1.1 (\d+)", data)
        if first is not None and not 200 <= int(first[1]) < 300:
            self.answers.append((pair.request, int(first[1])))
        for code in re.findall(rb'"type":"ERROR".*"code":(\d+)', data):
            self.answers.append((pair.request, int(code)))
        if self._cut is None or first is not None or "watch=" not in pair.request:
            return None
        collection, reset = self._cut
        if f"/{collection}?" not in pair.request or b'"type":"BOOKMARK"' in data:
            return None
        self._cut = None
        if reset:
            asyncio.get_running_loop().call_later(0.05, pair.abort)
        return data[: len(data) // 2]


class _Program:
    """A sock_fprog with one instruction, in memory for as long as this object lives."""

    def __init__(self) -> None:
        import ctypes

        self._code = ctypes.create_string_buffer(_DROP_ALL)
        self.packed = struct.pack("@HP", 1, ctypes.addressof(self._code))


# ---- requests -----------------------------------------------------------------------------------------------------


def get(address: str, path: str, *, port: int = 80, host: str = "", timeout_s: float = 10.0) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body. Raises OSError and HTTPException."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Miss:
    """A request that didn't get what it should."""

    at_s: float  # since the patrol began
    host: str
    connection: str  # new | kept, with the request's number on it
    what: str


@dataclass(slots=True)
class Patrol:
    """Asks every host in turn, on kept connections and on new ones, while it is entered, and remembers every answer that isn't a 200 of the right Service."""

    background: Background
    address: str
    services: Mapping[str, str]  # host -> Service
    pause_s: float = 0.004
    done: int = 0
    misses: list[Miss] = field(default_factory=list)
    _stopping: bool = False
    _began: float = 0.0
    _walks: "list[Future[None]]" = field(default_factory=list)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._walks = [self.background.start(self._walk(keep)) for keep in (True, True, False)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for walk in self._walks:
            walk.result(30)

    def check(self, least: int = 1) -> None:
        """Raise AssertionError with the misses; also when hardly anything was sent."""
        assert not self.misses, f"{len(self.misses)} of {self.done} failed: {self.misses[:20]}"
        assert self.done >= least, f"only {self.done} requests"

    def round(self, within_s: float = 30.0) -> None:
        """Wait until every host was asked once more, and by each connection."""
        target, deadline = self.done + 3 * len(self.services), time.monotonic() + within_s
        while self.done < target:
            assert time.monotonic() < deadline, f"{self.done} of {target} requests: {self.misses[:20]}"
            time.sleep(0.01)

    async def _walk(self, keep: bool) -> None:
        async with Connection(self.address) as connection:
            for host, service in itertools.cycle(self.services.items()):
                if self._stopping:
                    return
                began = time.monotonic() - self._began
                try:
                    response = await connection.get(host, headers={} if keep else {"Connection": "close"})
                    found = response.json()["service"] if response.status == 200 else ""
                    problem = "" if found == service else f"{response.status} {found} {response.body[:80]!r}"
                except (OSError, TimeoutError, Closed, Incomplete, ValueError) as error:
                    problem = repr(error)
                self.done += 1
                if problem:
                    kind = f"kept, request {connection.requests}" if keep else "new"
                    self.misses.append(Miss(round(began, 3), host, kind, problem))
                if not keep:
                    connection.close()
                await asyncio.sleep(self.pause_s)


# ---- what a controller says ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replica:
    """A Pod of the controller."""

    cluster: Cluster
    namespace: str
    name: str
    address: str

    @classmethod
    def of(cls, pod: Json, cluster: Cluster) -> "Replica":
        metadata = pod["metadata"]
        return cls(cluster, metadata["namespace"], metadata["name"], pod["status"]["podIP"])

    def readyz(self) -> tuple[int, str]:
        status, body = get(self.address, "/readyz", port=10254)
        return status, body.decode().strip()

    def samples(self, timeout_s: float = 10.0) -> dict[str, float]:
        """Of /metrics: `name{labels}` -> value."""
        status, body = get(self.address, "/metrics", port=10254, timeout_s=timeout_s)
        assert status == 200
        lines = (line for line in body.decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def sources(self) -> dict[str, bool]:
        """Collection -> whether it can be followed."""
        found = re.compile(r'aioingress_source_up\{source="kubernetes/(.+)"\}')
        return {match[1]: value == 1 for name, value in self.samples().items() if (match := found.fullmatch(name))}

    def in_touch(self) -> bool:
        """Nothing is stale."""
        return self.readyz()[1] == "ok" and all(self.sources().values())

    def wait_in_touch(self, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not self.in_touch():
            assert time.monotonic() < deadline, f"{self.readyz()}, {self.sources()}"
            time.sleep(0.05)

    def leads(self, timeout_s: float = 10.0) -> bool:
        return self.samples(timeout_s)["aioingress_leader"] == 1

    def log(self) -> str:
        return self.cluster.container_log(self.namespace, self.name, "controller").read_text()

    @contextlib.contextmanager
    def log_since(self) -> Iterator[Callable[[], str]]:
        """What was logged since the block was entered."""
        start = len(self.log())
        yield lambda: self.log()[start:]

    def signal(self, number: int) -> None:
        os.kill(self.cluster.container_pid(self.namespace, self.name, "controller"), number)

    def pod(self) -> Json | None:
        return self.cluster.find(f"/api/v1/namespaces/{self.namespace}/pods/{self.name}")


def replicas(release: Release) -> list[Replica]:
    return [Replica.of(pod, release.cluster) for pod in release.pods() if pod["status"].get("podIP")]


class Watchman:
    """Asks all replicas again and again who leads, while it is entered."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchman", daemon=True)
        self.leaders: list[str] = []  # one after the other
        self.twice: list[str] = []  # two that led at the same time
        self.rounds = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def round(self, count: int = 5, within_s: float = 30.0) -> None:
        """Wait until everybody was asked that many times more."""
        target, deadline = self.rounds + count, time.monotonic() + within_s
        while self.rounds < target:
            assert time.monotonic() < deadline, f"asked {self.rounds} of {target} times"
            time.sleep(0.02)

    def check(self) -> None:
        assert not self.twice, self.twice

    def _watch(self) -> None:
        while not self._stopping.wait(0.05):
            try:
                found = replicas(self._release)
            except (OSError, http.client.HTTPException):
                continue
            # Answers come one after the other: who leads before and after somebody else does leads at the same time.
            before = [replica for replica in found if _says_it_leads(replica)]
            for replica in found:
                if _says_it_leads(replica):
                    if self.leaders[-1:] != [replica.name]:
                        self.leaders.append(replica.name)
                    others = [other for other in before if other.name != replica.name]
                    self.twice += [f"{other.name} and {replica.name}" for other in others if _says_it_leads(other)]
            self.rounds += 1


def _says_it_leads(replica: Replica) -> bool:
    try:
        return replica.leads(timeout_s=0.5)
    except (OSError, http.client.HTTPException):
        return False  # starting, paused or ending


# ---- values and objects -------------------------------------------------------------------------------------------


def values(class_name: str, **controller: object) -> Json:
    """Of the chart: a class of its own, and an end that doesn't wait for load balancers that aren't there."""
    quick = {
        "workers": 1,
        "accessLog": False,
        "ingressClass": class_name,
        "ingressClassResource": {"name": class_name, "controllerValue": f"aioingress.io/{class_name}"},
        "startupProbe": {"periodSeconds": 1},
        "readinessProbe": {"periodSeconds": 1},
        "lifecycle": {"preStop": None},
        "shutdownGracePeriodSeconds": 0,
        "drainTimeoutSeconds": 2,
        "terminationGracePeriodSeconds": 30,
    }
    return {"controller": quick | controller}


def ingresses(cluster: Cluster, namespace: str) -> dict[str, Json]:
    items = cluster.get(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses")["items"]
    return {item["metadata"]["name"]: item for item in items}


def addresses(item: Json) -> list[str]:
    """What its status shows."""
    return [entry["ip"] for entry in item["status"]["loadBalancer"].get("ingress", ())]


def versions(cluster: Cluster, namespace: str) -> dict[str, tuple[str, list[str]]]:
    """Ingress -> resourceVersion and addresses: whoever writes a status, even the same again and again, shows here."""
    found = ingresses(cluster, namespace)
    return {name: (item["metadata"]["resourceVersion"], addresses(item)) for name, item in found.items()}


def history(cluster: Cluster, namespace: str, since: str) -> list[tuple[str, list[str]]]:
    """(name, addresses) of each version of each Ingress after `since`, as the API server saw them come; an empty list of addresses when it was deleted too.

    `since`: resourceVersion of a list.
    """
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses"
    status, body = cluster.control_plane.request("GET", f"{path}?watch=1&resourceVersion={since}&timeoutSeconds=2")
    assert status == 200, body
    events = [json.loads(line) for line in body.splitlines()]
    assert {event["type"] for event in events} <= {"ADDED", "MODIFIED", "DELETED"}, events
    return [
        (event["object"]["metadata"]["name"], [] if event["type"] == "DELETED" else addresses(event["object"]))
        for event in events
    ]


def list_version(cluster: Cluster, namespace: str) -> str:
    """Where `history` may begin."""
    found = cluster.get(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses")
    return str(found["metadata"]["resourceVersion"])
