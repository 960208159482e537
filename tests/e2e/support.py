"""Black-box tests: the real `ingress` process, real sockets, echo Pods that say who answered.

Nothing of the package is imported here: the program is started as a user starts it and looked at from outside.
"""

import asyncio
import base64
import hashlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from aiohttp import WSMsgType, web

T = TypeVar("T")
PATIENCE_S = 20.0  # for what takes milliseconds on a machine that has nothing else to do


def eventually(probe: Callable[[], T], what: str = "", within_s: float = PATIENCE_S) -> T:
    """The first true value of `probe`, asked again and again; an AssertionError with its last value when time is up."""
    deadline = time.monotonic() + within_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or probe}: {value!r}")
        time.sleep(0.02)


# ---- addresses ----------------------------------------------------------------------------------------------------

_pid = os.getpid()
LISTEN = f"127.{1 + _pid // 65536 % 100}.{_pid // 256 % 256}.{_pid % 254 + 1}"
"""An address that no other run on this machine uses, so that two runs at once can't take each other's ports."""

_ports = itertools.count(20000)


def free_port(address: str = LISTEN) -> int:
    while True:
        port = next(_ports)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock, suppress(OSError):
            sock.bind((address, port))
            return port


# ---- Pods ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    address: str
    port: int


class Pods:
    """Echo servers on a thread of their own, each with the name of a Pod.

    Any path answers with JSON: pod, method, target, headers (pairs), body_bytes, body_sha256; and with `X-Pod`. The end of the path asks for
    more: `/delay/0.5`, `/status/418`, `/bytes/1000000` (the stream of `content`); a WebSocket handshake gets an echo.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pods", daemon=True)
        self._runners: dict[Pod, web.AppRunner] = {}
        self._thread.start()
        self.arrived: list[str] = []  # targets, as soon as their headers are there

    def start(self, name: str, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Pod:
        return self._call(self._start(name, address, port, tls))

    def some(self, name: str, count: int) -> list[Pod]:
        return [self.start(f"{name}-{number}") for number in range(count)]

    def stop(self, pod: Pod) -> None:
        """Nothing listens there any more; open connections are closed."""
        self._call(self._runners.pop(pod).cleanup())

    def close(self) -> None:
        for pod in list(self._runners):
            self.stop(pod)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self, name: str, address: str, port: int, tls: ssl.SSLContext | None) -> Pod:
        app = web.Application()

        async def handle(request: web.Request) -> web.StreamResponse:
            self.arrived.append(request.raw_path)
            return await _answer(request, name)

        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=600, shutdown_timeout=0.1
        )
        await runner.setup()
        site = web.TCPSite(runner, address, port, ssl_context=tls)
        await site.start()
        pod = Pod(name, address, runner.addresses[0][1])
        self._runners[pod] = runner
        return pod


_CHUNK = hashlib.sha256(b"content").digest() * 2048  # 64 KiB


def content(size: int) -> Iterable[bytes]:
    """The same bytes for everybody, in chunks of up to 64 KiB."""
    while size > 0:
        yield _CHUNK[:size]
        size -= len(_CHUNK)


async def _answer(request: web.Request, pod: str) -> web.StreamResponse:
    upgraded = web.WebSocketResponse()
    if upgraded.can_prepare(request):
        await upgraded.prepare(request)
        async for message in upgraded:
            if message.type is WSMsgType.TEXT:
                await upgraded.send_str(f"{pod}: {message.data}")
        return upgraded
    digest, size = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        size += len(chunk)
    headers = {"X-Pod": pod}
    *_, action, argument = ("", "", *request.path.split("/"))
    match action:
        case "delay":
            await asyncio.sleep(float(argument))
        case "status":
            return web.Response(status=int(argument), headers=headers)
        case "bytes":
            response = web.StreamResponse(headers=headers)
            response.content_length = int(argument)
            await response.prepare(request)
            for chunk in content(int(argument)):
                await response.write(chunk)
            return response
    details = {
        "pod": pod,
        "method": request.method,
        "target": request.raw_path,
        "version": f"{request.version.major}.{request.version.minor}",
        "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers],
        "body_bytes": size,
        "body_sha256": digest.hexdigest(),
    }
    return web.json_response(details, headers=headers)


# ---- manifests ----------------------------------------------------------------------------------------------------

Document = dict[str, Any]


def backend(service: str, port: int | str = 80) -> Document:
    return {"service": {"name": service, "port": {"number": port} if isinstance(port, int) else {"name": port}}}


def path(service: str, where: str | None = "/", kind: str | None = "Prefix", port: int | str = 80) -> Document:
    found: Document = {"backend": backend(service, port)}
    if where is not None:
        found["path"] = where
    if kind is not None:
        found["pathType"] = kind
    return found


def rule(host: str | None, *paths: Document) -> Document:
    return {**({"host": host} if host is not None else {}), "http": {"paths": list(paths)}}


def ingress(
    name: str,
    *rules: Document,
    annotations: Mapping[str, str] | None = None,
    created: str | None = None,
    namespace: str = "default",
    **spec: Any,
) -> Document:
    metadata: Document = {"name": name, "namespace": namespace}
    if annotations:
        metadata["annotations"] = dict(annotations)
    if created:
        metadata["creationTimestamp"] = created
    if rules:
        spec["rules"] = list(rules)
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def ingress_class(name: str, controller: str, default: bool = False) -> Document:
    metadata: Document = {"name": name}
    if default:
        metadata["annotations"] = {"ingressclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": metadata,
        "spec": {"controller": controller},
    }


def service(name: str, *ports: Document | int, namespace: str = "default", **spec: Any) -> Document:
    spec["ports"] = [{"port": p} if isinstance(p, int) else p for p in ports or (80,)]
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def endpoint_slice(
    name: str,
    addresses: Iterable[str | Document],
    *ports: Document | int,
    suffix: str = "1",
    family: str = "IPv4",
    namespace: str = "default",
) -> Document:
    """Of the Service `name`. Addresses as text, or endpoints as in the API."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{suffix}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family,
        "endpoints": [{"addresses": [a]} if isinstance(a, str) else a for a in addresses],
        "ports": [{"port": p} if isinstance(p, int) else p for p in ports],
    }


def slices(name: str, pods: Iterable[Pod], port_name: str | None = None) -> list[Document]:
    """A slice for each Pod: on one machine they have different ports, which belong to a slice."""
    extra = {"name": port_name} if port_name else {}
    return [
        endpoint_slice(
            name,
            [pod.address],
            {"port": pod.port, **extra},
            suffix=str(number),
            family="IPv6" if ":" in pod.address else "IPv4",
        )
        for number, pod in enumerate(pods)
    ]


def app(name: str, pods: Sequence[Pod], **spec: Any) -> list[Document]:
    """A Service of port 80 and its slices."""
    return [service(name, **spec), *slices(name, pods)]


def write(file: Path, *documents: Document | Iterable[Document]) -> Path:
    """Replace `file` at once, as a careful editor does."""
    flat: list[Document] = []
    for document in documents:
        if isinstance(document, dict):
            flat.append(document)
        else:
            flat.extend(document)
    return replace(file, yaml.safe_dump_all(flat, sort_keys=False))


def replace(file: Path, text: str) -> Path:
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
    return file


# ---- client -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def pod(self) -> str:
        return self.headers.get("X-Pod", "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def received(self) -> dict[str, str]:
        """Header fields as the Pod got them, names in lower case; repeated ones joined by a comma."""
        found: dict[str, str] = {}
        for name, value in self.json["headers"]:
            found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
        return found


Address = tuple[str, int]


def listen_text(address: Address) -> str:
    """As options want it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_open: "set[Connection]" = set()


def close_connections() -> None:
    """Those that a test left open."""
    while _open:
        _open.pop().close()


class Connection:
    """One client connection, kept alive. Errors are raised, nothing is sent twice."""

    def __init__(self, address: Address, source: str | None = None, timeout_s: float = PATIENCE_S) -> None:
        self.sock = socket.create_connection(address, timeout=timeout_s, source_address=(source, 0) if source else None)
        _open.add(self)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(
        self,
        target: str = "/",
        host: str | None = "localhost",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1"]
        if host is not None:
            lines.append(f"Host: {host}")
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def begin(self, method: str = "GET") -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(self.sock, method=method)
        response.begin()
        return response

    def receive(self, method: str = "GET") -> Answer:
        with self.begin(method) as response:
            return Answer(response.status, response.msg, response.read())

    def get(self, target: str = "/", host: str | None = "localhost", method: str = "GET", **rest: Any) -> Answer:
        self.send(target, host, method, **rest)
        return self.receive(method)

    def ended(self) -> bool:
        """The other side has closed; waits for it as long as the connection's time-out."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        _open.discard(self)
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fetch(address: Address, host: str | None, target: str = "/", source: str | None = None, **rest: Any) -> Answer:
    """One request on a connection of its own."""
    with Connection(address, source) as connection:
        return connection.get(target, host, **rest)


class WebSocket:
    """Just enough of RFC 6455 for short text messages."""

    def __init__(self, address: Address, host: str, target: str = "/", connection: Connection | None = None) -> None:
        self._connection = Connection(address) if connection is None else connection
        key = base64.b64encode(random.randbytes(16)).decode()
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
        }
        self._connection.send(target, host, headers=upgrade)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self._connection.sock.recv(1)
            assert byte, head
            head += byte
        assert head.startswith(b"HTTP/1.1 101 "), head

    def echo(self, text: str) -> str:
        payload = text.encode()
        mask = random.randbytes(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self._connection.sock.sendall(struct.pack("!BB", 0x81, 0x80 | len(payload)) + mask + masked)
        kind, size = self._exactly(2)
        assert kind == 0x81, kind
        return self._exactly(size).decode()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._connection.sock.recv(size - len(data))
            assert more, "the WebSocket was cut"
            data += more
        return data

    def close(self) -> None:
        self._connection.close()


class Load:
    """Clients in threads that ask without pause, half on kept connections, half on new ones; every surprise is kept.

    A kept connection is left when its answer says `Connection: close`, as every client does.
    """

    def __init__(
        self, address: Address, host: str, target: str = "/", clients: int = 4, pause_s: float = 0.002
    ) -> None:
        self.failures: list[str] = []
        self.answers = 0
        self.pods: set[str] = set()
        self._stop = threading.Event()
        self._pause_s = pause_s
        self._where = (address, host, target)
        self._threads = [threading.Thread(target=self._run, args=(n % 2 == 0,)) for n in range(clients)]

    def _run(self, keep: bool) -> None:
        address, host, target = self._where
        connection: Connection | None = None
        while not self._stop.wait(self._pause_s):
            try:
                connection = connection or Connection(address)
                answer = connection.get(target, host)
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body!r}")
                if not keep or answer.headers.get("Connection", "").lower() == "close":
                    connection.close()
                    connection = None
                self.answers += 1
                self.pods.add(answer.pod)
            except (OSError, http.client.HTTPException) as error:
                kind = "kept" if keep else "new"
                self.failures.append(f"on a {kind} connection: {error!r}")
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def more(self, count: int) -> None:
        """Wait until so many more answers have come."""
        wanted = self.answers + count
        eventually(lambda: self.answers >= wanted or self.failures, "load goes on")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


# ---- the program --------------------------------------------------------------------------------------------------


def program(*arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 30) -> Any:
    """Run `ingress ARGUMENTS` to its end; a CompletedProcess with text output."""
    return subprocess.run(
        [sys.executable, "-m", "ingress", *arguments],
        env=_environment(env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("INGRESS_")}
    # Any free port: two runs on one machine must not take each other's.
    return {**own, "INGRESS_HTTPS_ADDRESS": f"{LISTEN}:0", **(extra or {})}


class Program:
    """A running `ingress` and what it prints."""

    def __init__(self, outputs: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        outputs.mkdir(parents=True, exist_ok=True)
        number = next(_runs)
        self._stdout, self._stderr = outputs / f"{number}.stdout", outputs / f"{number}.stderr"
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ingress", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=_environment(env),
                start_new_session=True,  # what a test sends to the group stays within it
            )

    @property
    def stdout(self) -> str:
        return self._stdout.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(encoding="utf-8")

    def log(self, text: str) -> list[str]:
        """Lines of the log that contain `text`."""
        return [line for line in self.stderr.splitlines() if text in line]

    @property
    def children(self) -> list[int]:
        return sorted(children_of(self.process.pid))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        return self.process.wait(within_s)

    def stop(self) -> int:
        """SIGTERM and the exit code; SIGKILL to all of it if that takes too long, which fails."""
        children = self.children
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            for pid in (self.process.pid, *children):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"did not end within {PATIENCE_S} s:\n{self.stderr}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


_runs = itertools.count(1)


def children_of(pid: int) -> set[int]:
    try:
        return {int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def running(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Serve(Program):
    """`ingress serve` on free ports. Ready when the constructor returns, unless `wait_ready=False`."""

    def __init__(
        self,
        folder: Path | Sequence[Path],
        *options: str,
        workers: int = 1,
        outputs: Path | None = None,
        env: Mapping[str, str] | None = None,
        wait_ready: bool = True,
    ) -> None:
        self.folders = [folder] if isinstance(folder, Path) else list(folder)
        self.workers = workers
        self.http: Address = (LISTEN, free_port())
        self.https: Address = (LISTEN, free_port())
        self.admin: Address = (LISTEN, free_port())
        arguments = ["serve", "--workers", str(workers)]
        for place in self.folders:
            arguments += ["--manifests", str(place)]
        arguments += ["--http-address", listen_text(self.http), "--https-address", listen_text(self.https)]
        arguments += ["--admin-address", listen_text(self.admin)]
        first = self.folders[0]
        super().__init__(outputs or first.parent / f"{first.name}.output", *arguments, *options, env=env)
        if wait_ready:
            try:
                self.wait_ready()
            except BaseException:
                self.stop()
                raise

    def wait_ready(self) -> None:
        eventually(self._ready_or_ended, "ready")
        assert self.process.poll() is None, self.stderr

    def _ready_or_ended(self) -> bool:
        return self.process.poll() is not None or self.readiness()[0] == 200

    def readiness(self) -> tuple[int, str]:
        """Status (0: nobody listens) and reason."""
        try:
            answer = self.ask("/readyz")
        except OSError:
            return 0, ""
        return answer.status, answer.body.decode().strip()

    def get(self, host: str | None, target: str = "/", **rest: Any) -> Answer:
        """One request on a new connection."""
        return fetch(self.http, host, target, **rest)

    def ask(self, target: str, **rest: Any) -> Answer:
        """The admin listener."""
        return fetch(self.admin, "admin", target, **rest)

    def verdicts(self, reason: str | None = None, about: str = "") -> list[dict[str, str]]:
        found = self.ask("/debug/verdicts").json["verdicts"]
        return [v for v in found if reason in (None, v["reason"]) and about in v["object"]]

    def table(self, query: str = "") -> Any:
        return self.ask("/debug/table" + query).json

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """(name, labels) -> value."""
        found = {}
        for line in self.ask("/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                name, _, labels = series.partition("{")
                pairs = [pair.partition("=") for pair in labels.rstrip("}").split(",") if pair]
                found[name, frozenset((k, v.strip('"')) for k, _, v in pairs)] = float(value)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of that name with those labels; 0 when there is none."""
        wanted = set(labels.items())
        return sum(value for (found, pairs), value in self.metrics().items() if found == name and wanted <= pairs)

    def serving(self, host: str, pod: str | None, target: str = "/") -> None:
        """Wait until that Pod (None: 404) answers there."""

        def probe() -> bool:
            answer = self.get(host, target)
            return answer.status == 404 if pod is None else answer.pod == pod

        eventually(probe, f"{host}{target} is answered by {pod}")


def query(**parameters: str) -> str:
    return "?" + urllib.parse.urlencode(parameters)
