"""What the tests on a real API server share: manifests, the chart as a release, a client and a load that remember every failure."""

import asyncio
import base64
import json
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.certificates import Issued
from tools.envtest.cluster import Cluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "aioingress"
Json = dict[str, Any]


# ---- manifests ----------------------------------------------------------------------------------------------------


def echo_deployment(name: str, replicas: int = 2, *, port: int = 8080, pod: Mapping[str, Any] | None = None) -> str:
    """Echo Pods behind port `http`, ready by their probe. `pod` adds to the Pod's spec; JSON, which is YAML."""
    container = {
        "name": "echo",
        "image": "echo:1",
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "env": [
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "SERVICE_NAME", "value": name},
        ],
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    }
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **(pod or {})}}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": template,
            },
        }
    )


def service(name: str, *, kind: str = "ClusterIP", port: int = 80, **spec: object) -> str:
    """For the Pods of `echo_deployment(name)`."""
    ports = [{"name": "http", "port": port, "targetPort": "http"}]
    body = {"type": kind, "selector": {"app": name}, "ports": ports, **spec}
    return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body})


def ingress(
    name: str,
    host: str,
    backend: str,
    *,
    path: str = "/",
    path_type: str = "Prefix",
    class_name: str | None = "aioingress",
    annotations: Mapping[str, str] | None = None,
    secret: str | None = None,
) -> str:
    """`secret`: with a `tls` section for the host that names it; empty: one that names none."""
    backend_reference = {"service": {"name": backend, "port": {"number": 80}}}
    paths = [{"path": path, "pathType": path_type, "backend": backend_reference}]
    spec: Json = {"rules": [{"host": host, "http": {"paths": paths}}]}
    if class_name is not None:
        spec["ingressClassName"] = class_name
    if secret is not None:
        spec["tls"] = [{"hosts": [host], **({"secretName": secret} if secret else {})}]
    metadata = {"name": name, "annotations": dict(annotations or {})}
    return json.dumps({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec})


def tls_secret(name: str, issued: Issued, chain: Sequence[Issued] = (), **more: str) -> str:
    """As cert-manager writes it: the leaf first. `more`: other keys, PEM."""
    pem = {"tls.crt": "".join(one.pem for one in (issued, *chain)), "tls.key": issued.key_pem, **more}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in pem.items()}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": "kubernetes.io/tls",
            "data": data,
        }
    )


# ---- the chart ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Release:
    """An installed chart."""

    cluster: Cluster
    name: str
    namespace: str

    @property
    def selector(self) -> str:
        return f"app.kubernetes.io/instance={self.name}"

    def objects(self, path: str) -> list[Json]:
        """Of this release; `path` such as `/apis/apps/v1/NAMESPACE/deployments`, with the word NAMESPACE in it."""
        path = path.replace("NAMESPACE", f"namespaces/{self.namespace}")
        return list(self.cluster.get(f"{path}?labelSelector={self.selector}")["items"])

    def pods(self) -> list[Json]:
        return self.cluster.pods(self.namespace, self.selector)

    def upgrade(self, values: Mapping[str, Any], *, wait: bool = True) -> None:
        """`values` are all of them, as with `helm upgrade --reset-values`."""
        arguments = ("upgrade", "--install", self.name, str(CHART), "--namespace", self.namespace, "--values", "-")
        self.cluster.helm(*arguments, input=json.dumps(values))
        if wait:
            self.wait()

    def wait(self, within_s: float = 60.0) -> None:
        """Until every Deployment and DaemonSet is rolled out."""
        for kind in ("deployment", "daemonset"):
            for item in self.objects(f"/apis/apps/v1/NAMESPACE/{kind}s"):
                self.cluster.wait_rollout(kind, item["metadata"]["name"], self.namespace, within_s)

    def address(self) -> str:
        """Of its Service of type LoadBalancer."""
        for item in self.objects("/api/v1/NAMESPACE/services"):
            if item["spec"]["type"] == "LoadBalancer":
                return self.cluster.load_balancer_address(self.namespace, item["metadata"]["name"])
        raise AssertionError(f"release {self.name} has no Service of type LoadBalancer")

    def uninstall(self) -> None:
        self.cluster.helm("uninstall", self.name, "--namespace", self.namespace, "--ignore-not-found")


# values for `controller` of releases that no test asks how they end: no pauses for load balancers at the end
QUICK_END: Json = {"lifecycle": {}, "shutdownGracePeriodSeconds": 0, "drainTimeoutSeconds": 5}


@contextmanager
def installed(
    cluster: Cluster, namespace: str, values: Mapping[str, Any], release: str = "aioingress"
) -> Iterator[Release]:
    """The chart in a namespace of its own, for the tests of a module."""
    cluster.create_namespace(namespace)
    try:
        found = install_chart(cluster, release, namespace, values)
        yield found
        found.uninstall()
    finally:
        cluster.delete(f"/api/v1/namespaces/{namespace}")


def install_chart(
    cluster: Cluster, release: str, namespace: str, values: Mapping[str, Any], *, wait: bool = True
) -> Release:
    """`helm upgrade --install` of this project's chart; `wait`: until its Pods are ready."""
    found = Release(cluster, release, namespace)
    found.upgrade(values, wait=wait)
    return found


# ---- client -------------------------------------------------------------------------------------------------------


class Incomplete(Exception):
    """The connection ended in the middle of a response."""


class Closed(Exception):
    """The connection ended before the first byte of a response."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Json:
        return dict(json.loads(self.body))

    @property
    def pod(self) -> str:
        """Which echo Pod answered."""
        return str(self.json()["pod"])


def trusting(*authorities: Issued) -> ssl.SSLContext:
    """Of a client that verifies chain and name by these; without any it takes whatever is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities:
        context.load_verify_locations(cadata="".join(one.pem for one in authorities))
    else:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Connection:
    """One HTTP/1.1 connection, one request at a time. `source`: the address to send from. `tls`: over HTTPS, the host of the first request in
    the handshake.
    """

    def __init__(
        self, address: str, port: int = 80, source: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._target = (address, port)
        self._source = source
        self._tls = tls
        self.certificate = b""  # DER, of the connection that was made last
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.requests = 0  # on the connection that is open now

    async def get(
        self, host: str, path: str = "/", headers: Mapping[str, str] | None = None, *, timeout_s: float = 10.0
    ) -> Response:
        return await self.request("GET", host, path, headers, timeout_s=timeout_s)

    async def request(
        self,
        method: str,
        host: str,
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout_s: float = 10.0,
    ) -> Response:
        """Raises OSError, TimeoutError, Closed and Incomplete; afterwards the next request connects anew."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._streams is not None and self._streams[0].at_eof():
                    self.close()  # ended between two requests, as it may
                if self._streams is None:
                    source = None if self._source is None else (self._source, 0)
                    name = None if self._tls is None else host
                    self._streams = await asyncio.open_connection(
                        *self._target, local_addr=source, ssl=self._tls, server_hostname=name
                    )
                    if (shown := self._streams[1].get_extra_info("ssl_object")) is not None:
                        self.certificate = shown.getpeercert(binary_form=True) or b""
                    self.requests = 0
                self.requests += 1
                reader, writer = self._streams
                sent = {"Host": host, **(headers or {})}
                if body:
                    sent["Content-Length"] = str(len(body))
                lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
                writer.write("\r\n".join(lines).encode() + body)
                response = await _read_response(reader, method)
        except BaseException:
            self.close()
            raise
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer = self._streams[1] if self._streams is not None else None
        self.close()
        if writer is not None and self._tls is not None:  # the end of TLS takes a message each way
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await writer.wait_closed()


async def fetch(
    address: str, host: str, path: str = "/", *, port: int = 80, tls: ssl.SSLContext | None = None, **rest: Any
) -> Response:
    """One GET on a connection of its own."""
    async with Connection(address, port, tls=tls) as connection:
        return await connection.get(host, path, **rest)


async def fetch_until(
    address: str,
    host: str,
    path: str = "/",
    *,
    status: int = 200,
    port: int = 80,
    within_s: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> Response:
    """The first answer with `status`; for what becomes true when everybody has heard of it."""
    deadline = time.monotonic() + within_s
    while True:
        last: object
        try:
            last = response = await fetch(address, host, path, port=port, tls=tls)
            if response.status == status:
                return response
        except (OSError, TimeoutError, Closed, Incomplete) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"no {status} from {host}:{port}{path} within {within_s:g} s: {last!r}")
        await asyncio.sleep(0.05)


async def _read_response(reader: asyncio.StreamReader, method: str) -> Response:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise Incomplete(f"in the head: {error.partial!r}") if error.partial else Closed from None
    except ConnectionResetError:
        raise Closed("reset") from None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    status = int(first.split(" ", 2)[1])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        return Response(status, headers, await _read_body(reader, method, status, headers))
    except (asyncio.IncompleteReadError, ConnectionResetError) as error:
        raise Incomplete(f"in the body: {error}") from None


async def _read_body(reader: asyncio.StreamReader, method: str, status: int, headers: Mapping[str, str]) -> bytes:
    if method == "HEAD" or status in (204, 304):
        return b""
    if headers.get("transfer-encoding") == "chunked":
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(parts)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()


# ---- load ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """One request that didn't get the status it should. `request`: its number on the connection, from 1."""

    at_s: float  # since the load began
    connection: int
    request: int
    what: str


@dataclass(slots=True)
class Load:
    """Requests without a pause on `connections` connections while it is entered; ends by itself after `limit_s` or `limit` requests.

    `keep_alive` False: a connection for each request. A kept connection that the server closed before the first byte of an answer counts as a failure
    too (`stale` says how many): a proxy that drains says `Connection: close` beforehand.
    """

    address: str
    host: str
    path: str = "/"
    port: int = 80
    connections: int = 4
    keep_alive: bool = True
    pause_s: float = 0.002  # after each request: the machine has other things to do
    limit_s: float = 60.0
    limit: int = 100_000
    expect: int = 200
    tls: ssl.SSLContext | None = None
    done: int = 0
    stale: int = 0
    failures: list[Failure] = field(default_factory=list)
    pods: Counter[str] = field(default_factory=Counter)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False
    _started: float = 0.0

    async def __aenter__(self) -> Self:
        self._started = time.monotonic()
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(self.connections)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def reach(self, requests: int, within_s: float = 30.0) -> None:
        """Wait until so many more have been answered."""
        target, deadline = self.done + requests, time.monotonic() + within_s
        while self.done < target:
            assert time.monotonic() < deadline, f"{self.done} of {target} requests within {within_s:g} s: {self}"
            await asyncio.sleep(0.01)

    def check(self) -> None:
        """Raise AssertionError with every failure; also when nothing was sent."""
        assert self.done, "no request was sent"
        assert not self.failures, f"{len(self.failures)} of {self.done} failed: {self.failures[:20]}"

    async def _run(self, number: int) -> None:
        async with Connection(self.address, self.port, tls=self.tls) as connection:
            while not self._over():
                await self._once(connection, number)
                if not self.keep_alive:
                    connection.close()
                await asyncio.sleep(self.pause_s)

    def _over(self) -> bool:
        return self._stopping or self.done >= self.limit or time.monotonic() - self._started > self.limit_s

    async def _once(self, connection: Connection, number: int) -> None:
        began = time.monotonic() - self._started
        headers = {} if self.keep_alive else {"Connection": "close"}
        try:
            response = await connection.get(self.host, self.path, headers)
        except (OSError, TimeoutError, Closed, Incomplete, ValueError) as error:
            self.stale += isinstance(error, Closed) and connection.requests > 1
            self.failures.append(Failure(round(began, 3), number, connection.requests, repr(error)))
        else:
            if response.status != self.expect:
                what = f"{response.status} {response.body[:80]!r}"
                self.failures.append(Failure(round(began, 3), number, connection.requests, what))
            elif "x-pod" in response.headers:
                self.pods[response.headers["x-pod"]] += 1
        self.done += 1
