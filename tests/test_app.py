"""The composition root in one process: what the black-box tests (`tests/e2e`) can't provoke from outside."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from ingress import app
from ingress.app import Controller
from ingress.config import Address, KubeSettings, ProxySettings, Settings
from ingress.errors import ConfigError, VerdictReason
from ingress.kube.client import KubeClient
from ingress.model import ClusterState, Kind, ObjectRef
from ingress.translate.compiler import Compiler
from ingress.translate.tls.hosts import CertificateUse
from ingress.translate.tls.inspect import inspect_pair
from tests.certificates import NOW, issue

FREE = Address("127.0.0.1", 0)


def settings(folder: Path, **changes: object) -> Settings:
    values = {
        "manifests": (folder,),
        "http_addresses": (FREE,),
        "https_addresses": (),
        "admin_addresses": (FREE,),
        "workers": 0,
        "proxy": ProxySettings(access_log=False),
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web}}
spec:
  rules:
    - host: {host}
      http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}
"""


async def status(controller: Controller, host: str) -> int:
    reader, writer = await asyncio.open_connection(*controller.http_addresses[0])
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    line = (await reader.read()).split(b"\r\n")[0]
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


async def becomes(controller: Controller, host: str, expected: int) -> None:
    async with asyncio.timeout(10):
        while await status(controller, host) != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_failing_compiler_keeps_the_last_table(tmp_path, monkeypatch, caplog):
    """A bug of ours in one change costs that change; the next one is tried again."""
    file = tmp_path / "web.yaml"
    file.write_text(INGRESS.format(host="first.test"))
    controller = Controller(settings(tmp_path))
    run = asyncio.create_task(controller.run())
    async with asyncio.timeout(10):
        await controller.started.wait()
        await controller.ready()
    assert await status(controller, "first.test") == 503  # routed: its Service is missing
    failed = asyncio.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "ingress.app"):
        patch.setattr(Compiler, "compile", fail)
        file.write_text(INGRESS.format(host="second.test"))
        async with asyncio.timeout(10):
            await failed.wait()
        assert await status(controller, "first.test") == 503
        assert await status(controller, "second.test") == 404
        assert "stays in service" in caplog.text
    file.write_text(INGRESS.format(host="third.test"))
    await becomes(controller, "third.test", 503)
    assert await status(controller, "first.test") == 404
    controller.stop()
    assert await run == 0


async def test_stop_before_it_is_ready(tmp_path):
    controller = Controller(settings(tmp_path))
    run = asyncio.create_task(controller.run())
    async with asyncio.timeout(10):
        await controller.started.wait()
        controller.stop()
        assert await run == 0


async def test_busy_admin_address_leaves_nothing_behind(tmp_path):
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        busy = Address(*server.sockets[0].getsockname()[:2])
        controller = Controller(settings(tmp_path, admin_addresses=(busy,)))
        with pytest.raises(ConfigError, match="--admin-address"):
            await controller.run()
    # the HTTP port is free again
    host, port = controller.http_addresses[0]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)


def test_the_limit_of_open_files_is_raised_to_what_the_system_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(app.resource, "getrlimit", lambda _: (1024, 524288))
    monkeypatch.setattr(app.resource, "setrlimit", lambda _, limits: told.append(limits))
    app._raise_file_limit()
    assert told == [(524288, 524288)]


def test_a_refused_limit_is_only_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(app.resource, "getrlimit", lambda _: (1024, 524288))
    monkeypatch.setattr(app.resource, "setrlimit", refuse)
    app._raise_file_limit()
    assert "at most 1024" in caplog.text


KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: me, user: {token: secret}}]
"""


async def test_connections_to_the_cluster_end_with_a_failed_start(tmp_path, monkeypatch):
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    closed = []
    close = KubeClient.close

    async def closing(client):
        await close(client)
        closed.append(client.server)

    monkeypatch.setattr(KubeClient, "close", closing)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        taken = Address(*server.sockets[0].getsockname())
        kube = KubeSettings(kubeconfig=file)
        for changes in ({"admin_addresses": (taken,)}, {"http_addresses": (taken,)}):
            with pytest.raises(ConfigError, match="in use"):
                await Controller(settings(tmp_path, manifests=(), kube=kube, **changes)).run()
    assert closed == ["http://127.0.0.1:9"] * 2


@pytest.mark.parametrize(
    ("settled", "comes", "patience_s", "held"),
    [
        (True, True, 60.0, True),  # it has been read: the build that knows it is published instead
        (True, False, 60.0, False),  # it isn't there
        (True, None, 0.0, False),  # the API server takes its time
        (False, True, 60.0, False),  # something else is missing already: nobody waits for that again
    ],
)
async def test_a_build_waits_for_what_it_is_the_first_to_name(tmp_path, monkeypatch, settled, comes, patience_s, held):
    """A Secret that hasn't been read yet isn't missing: no default certificate in between, no false Event."""
    monkeypatch.setattr(app, "_REFERENCES_S", patience_s)
    controller = Controller(settings(tmp_path))
    loop = asyncio.get_running_loop()

    class Reading:
        def __init__(self):
            self.settled = settled

        def refer(self, built):
            self.settled = False
            if comes is not None:
                loop.call_soon(self.read)

        def read(self):
            if comes:
                controller._store.update("kubernetes", {})
            self.settled = True

    built = controller._compiler.compile(ClusterState(), None)
    assert (await controller._hold(Reading(), built, None) is not None) is held


async def test_certificates_come_to_their_end_without_a_change(tmp_path, monkeypatch):
    """Looked at again from time to time: the warning reaches whoever a build's verdicts do."""
    monkeypatch.setattr(app, "_EXPIRY_PERIOD_S", 0)
    told = asyncio.Event()

    class Listening:
        def compiled(self, built, verdicts):
            assert built is controller._built
            assert [v.reason for v in verdicts] == [VerdictReason.CERTIFICATE_EXPIRY]
            told.set()

    controller = Controller(settings(tmp_path))
    controller._built = controller._compiler.compile(ClusterState(), None)
    made = issue("a.test", not_after=NOW + timedelta(days=3))
    facts = inspect_pair(made.pem.encode(), made.key_pem.encode()).facts
    secret = ObjectRef(Kind.SECRET, "default", "cert")
    controller._certificates = (CertificateUse("a.test", secret, facts, "Ingress default/web", "spec.tls[0]"),)
    controller._source = Listening()
    watching = asyncio.create_task(controller._watch_expiry())
    async with asyncio.timeout(10):
        await told.wait()
    watching.cancel()
    assert [v.object for v in controller._verdicts] == ["Ingress default/web"]
    controller._report()  # by a build that changes nothing
    assert [v.object for v in controller._verdicts] == ["Ingress default/web"]
