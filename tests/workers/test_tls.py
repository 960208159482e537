"""TLS by worker processes, judged from outside by the openssl program: what the table says is what a client gets."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from ingress.config import Address, ProxySettings
from ingress.proxy.accept import ListenerKind
from ingress.routing.table import RoutingTable
from ingress.routing.tls import ClientAuth
from ingress.workers import sockets
from ingress.workers.supervisor import Supervisor
from tests.proxy.support import Backend, answer, table
from tests.proxy.test_tls import ANY, host, with_tls
from tests.tls.support import Wire, client_context, root

ROOT = root()
CLIENTS = root("Clients")
ALICE = CLIENTS.sign("alice", client=True)
INTERMEDIATE = ROOT.sign("Intermediate", authority=True)
EXACT = INTERMEDIATE.sign("exact", ["exact.example"])
EXACT_RSA = INTERMEDIATE.sign("exact-rsa", ["exact.example"], kind="rsa")
WILD = ROOT.sign("wild", ["*.wild.example"])
DEFAULT = ROOT.sign("default", ["default.example"])


def made(backend: Backend, id: str = "t1") -> RoutingTable:
    hosts = [
        host("exact.example", EXACT, EXACT_RSA),
        host("*.wild.example", WILD),
        host("closed.example", client_auth=ClientAuth(CLIENTS.pem)),
    ]
    return msgspec.structs.replace(with_tls(table([backend]), hosts, DEFAULT), id=id)


class Served:
    def __init__(self, supervisor: Supervisor, port: int, backend: Backend) -> None:
        self.supervisor = supervisor
        self.port = port
        self.backend = backend

    async def publish(self, changed: RoutingTable) -> None:
        generation = self.supervisor.publish(changed)
        async with asyncio.timeout(30):
            while self.supervisor.acknowledged < generation:  # noqa: ASYNC110 - the supervisor has one listener
                await asyncio.sleep(0.01)

    async def openssl(self, *arguments: str, data: bytes = b"", check: bool = True, commands: str = "-ign_eof") -> str:
        """Output of `openssl s_client`, which sends `data` and waits for the end; without `-ign_eof` it takes commands from it."""
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", commands, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate(data)
        if check:
            assert process.returncode == 0, out.decode("latin-1")
        return out.decode("latin-1")


GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def served(workers: int = 2, table_id: str = "t1") -> AsyncIterator[Served]:
    backend = Backend(answer(b"hello"), "b")
    await backend.start()
    bound = sockets.bind_all([("--https-address", ListenerKind.HTTPS, [Address("127.0.0.1", 0)])], workers)
    port = bound[0][0].socket.getsockname()[1]
    supervisor = Supervisor(ProxySettings(access_log=False), bound, "text", "error")
    work = asyncio.create_task(supervisor.run())
    one = Served(supervisor, port, backend)
    try:
        await one.publish(made(backend, table_id))
        yield one
    finally:
        async with asyncio.timeout(30):
            await supervisor.drain(5)
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await backend.stop()


async def test_what_openssl_sees(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    (tmp_path / "alice.pem").write_bytes(ALICE.chain_pem + ALICE.key_pem)
    trust = ("-CAfile", str(tmp_path / "root.pem"), "-verify_return_error")
    async with served() as one:
        # a request over each version, verified by name
        for version, name in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
            out = await one.openssl(
                version, "-servername", "exact.example", "-verify_hostname", "exact.example", *trust, data=GET
            )
            assert "HTTP/1.1 200 " in out
            assert "hello" in out
            assert name in out
            assert "Verify return code: 0 (ok)" in out
        # versions that are off, by both that OpenSSL still has
        for version in ("-tls1", "-tls1_1"):
            out = await one.openssl(version, "-cipher", "ALL:@SECLEVEL=0", check=False)
            assert "alert protocol version" in out
        # the chain in order, and no root
        out = await one.openssl(
            "-servername", "exact.example", "-showcerts", "-sigalgs", "ecdsa_secp256r1_sha256", data=GET
        )
        shown = re.findall(r" s:.*CN = (\S+)", out)
        assert shown == ["exact", "Intermediate"]
        # RSA for those who can do nothing else
        out = await one.openssl(
            "-servername", "exact.example", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256", data=GET
        )
        assert re.findall(r" s:.*CN = (\S+)", out)[0] == "exact-rsa"
        # by name
        for name, subject in (
            ("a.wild.example", "wild"),
            ("a.b.wild.example", "default"),
            ("wild.example", "default"),
            ("other", "default"),
        ):
            out = await one.openssl("-servername", name, data=GET)
            assert re.findall(r" s:.*CN = (\S+)", out) == [subject]
        out = await one.openssl("-noservername", data=GET)
        assert re.findall(r" s:.*CN = (\S+)", out) == ["default"]
        # no compression, no renegotiation: a line with R asks for one
        out = await one.openssl(
            "-servername", "exact.example", "-tls1_2", data=b"R\n", check=False, commands="-no_ign_eof"
        )
        assert "Compression: NONE" in out
        assert "no renegotiation" in out
        # names of the authorities go out with the request for a certificate
        out = await one.openssl(
            "-servername",
            "closed.example",
            "-cert",
            str(tmp_path / "alice.pem"),
            data=GET.replace(b"a\r", b"closed.example\r"),
        )
        assert "HTTP/1.1 200 " in out
        assert "CN = Clients" in out.partition("Acceptable client certificate CA names")[2]
        out = await one.openssl("-servername", "exact.example", data=GET.replace(b"a\r", b"closed.example\r"))
        assert "HTTP/1.1 421 " in out


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_resumes_its_session(tmp_path: Path, version: str) -> None:
    """Within one worker: each has sessions of its own."""
    kept = str(tmp_path / "session")
    async with served(workers=1) as one:
        out = await one.openssl(version, "-servername", "exact.example", "-sess_out", kept, data=GET)
        assert "New, TLS" in out
        for _ in range(2):
            out = await one.openssl(
                version, "-servername", "exact.example", "-sess_in", kept, "-sess_out", kept, data=GET
            )
            assert "Reused, TLS" in out
            assert "HTTP/1.1 200 " in out


async def test_rotation_under_load() -> None:
    """100 certificates in turn, over the channel and two workers: no handshake and no request fails."""
    stop = asyncio.Event()
    shown: set[str] = set()
    trusting = client_context(ROOT)

    async def load(one: Served) -> int:
        count = 0
        while not stop.is_set():
            wire = await (await Wire(trusting, "exact.example").connect(one.port)).handshake()
            for _ in range(2):
                assert (await wire.get("exact.example"))[2] == b"hello"
                count += 1
            shown.add(wire.subject)
            wire.close()
        return count

    async with served() as one:
        clients = [asyncio.create_task(load(one)) for _ in range(3)]
        for turn in range(100):
            rotated = with_tls(
                table([one.backend], id=f"r{turn}"),
                [host("exact.example", ROOT.sign(f"turn-{turn}", ["exact.example"]))],
                DEFAULT,
            )
            await one.publish(rotated)
        wire = await (await Wire(trusting, "exact.example").connect(one.port)).handshake()
        assert wire.subject == "turn-99"
        wire.close()
        stop.set()
        assert all(count > 0 for count in await asyncio.gather(*clients))
        assert len(shown) > 5


async def test_a_thousand_certificates() -> None:
    """1,000 hosts with a certificate each: all are found, contexts are made as they are asked for."""
    certificates = {
        f"host-{number:03d}.example": ROOT.sign(f"host-{number:03d}.example", [f"host-{number:03d}.example"])
        for number in range(1000)
    }
    async with served(workers=1) as one:
        hosts = [host(name, certificate) for name, certificate in certificates.items()]
        await one.publish(with_tls(table([one.backend], id="many"), hosts, DEFAULT))
        for name in [*list(certificates)[::37], "host-999.example"]:
            wire = await (await Wire(ANY, name).connect(one.port)).handshake()
            assert wire.subject == name
            assert (await wire.get(name))[0] == 200
            wire.close()


async def test_a_worker_that_drains_finishes_what_it_has_on_tls() -> None:
    async with served(workers=1) as one:
        wire = await (await Wire(ANY, "exact.example").connect(one.port)).handshake()
        assert (await wire.get("exact.example"))[0] == 200
        (pid,) = one.supervisor.pids
        await wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(30):
            while one.supervisor.pids == [pid]:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        again = await (await Wire(ANY, "exact.example").connect(one.port)).handshake()
        assert (await again.get("a"))[0] == 200
        again.close()
        await wire.send(b"cd")
        assert (await wire.response())[0] == 200
        assert await wire.read() == b""
        assert wire.ended
        wire.close()
