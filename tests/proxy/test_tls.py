"""HTTPS listeners in process: who gets which certificate, what a request sees of TLS, what isn't TLS, how connections begin and end."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from ingress.config import ProxySettings, TLSSettings
from ingress.routing.table import Endpoint, RoutingTable, UpstreamKey
from ingress.routing.tls import HostPattern, TLSHost
from ingress.tls.contexts import load_certificate
from tests.proxy.support import Backend, BackendConnection, Proxy, Script, answer, routes, table, until
from tests.tls.support import DAY, NOW, Authority, Wire, client_context, root

ROOT = root()
DEFAULT = ROOT.sign("default", ["default.example"])
ANY = client_context()  # verifies nothing
V12 = client_context(maximum=ssl.TLSVersion.TLSv1_2)


def with_tls(
    plain: RoutingTable, hosts: Sequence[tuple[TLSHost, Sequence[Authority]]] = (), default: Authority | None = DEFAULT
) -> RoutingTable:
    """`plain` with TLS hosts, and the certificates that each is to have."""
    certificates = {}
    made = {}
    for host, authorities in hosts:
        shown = [authority.for_table() for authority in authorities]
        certificates |= {certificate.key: certificate for certificate in shown}
        made[host.host] = msgspec.structs.replace(host, certificates=tuple(c.key for c in shown))
    if default is not None:
        certificates[default.for_table().key] = default.for_table()
    return msgspec.structs.replace(
        plain,
        certificates=certificates,
        tls_hosts=made,
        default_certificate=None if default is None else default.for_table().key,
    )


def host(name: str, *authorities: Authority, **changes: object) -> tuple[TLSHost, Sequence[Authority]]:
    return TLSHost(HostPattern(name), **changes), authorities  # type: ignore[arg-type]


@asynccontextmanager
async def serving(
    *hosts: tuple[TLSHost, Sequence[Authority]],
    default: Authority | None = DEFAULT,
    script: Script | None = None,
    settings: ProxySettings | None = None,
) -> AsyncIterator[tuple[Proxy, Backend]]:
    async with Proxy(settings) as proxy:
        backend = await proxy.backend(script or answer(b"hello"))
        proxy.plane.swap(with_tls(table([backend]), hosts, default))
        yield proxy, backend


async def opened(
    proxy: Proxy,
    name: str | None = None,
    context: ssl.SSLContext = ANY,
    session: ssl.SSLSession | None = None,
    *,
    step: int = 1 << 20,
) -> Wire:
    wire = await Wire(context, name, session, step=step).connect(proxy.tls_port)
    try:
        return await wire.handshake()
    except BaseException:
        wire.close()
        raise


async def shown(proxy: Proxy, name: str | None, context: ssl.SSLContext = ANY) -> str:
    """Whose certificate a client with this SNI gets."""
    wire = await opened(proxy, name, context)
    wire.close()
    return wire.subject


def failures(proxy: Proxy) -> dict[str, float]:
    return {
        labels[1]: value
        for labels, value in proxy.metrics.snapshot().tallies.items()
        if labels[0] == "aioingress_tls_failures"
    }


def handshakes(proxy: Proxy) -> dict[tuple[str, ...], float]:
    return {
        labels[1:]: value
        for labels, value in proxy.metrics.snapshot().tallies.items()
        if labels[0] == "aioingress_tls_handshakes"
    }


# ---- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [V12, ANY])
async def test_requests(context):
    async with serving() as (proxy, backend):
        client = await proxy.client(tls=context, server_name="default.example")
        for _ in range(3):
            answered = await client.get("/")
            assert (answered.status, answered.body) == (200, b"hello")
        (seen, *_) = backend.requests
        assert seen.value("x-forwarded-proto") == seen.value("x-forwarded-scheme") == seen.value("x-scheme") == b"https"
        assert seen.value("x-forwarded-port") == b"443"  # what clients know, whatever the container's port is
        assert proxy.metrics.tls_connections_open == 1
        assert proxy.metrics.connections_accepted == 1


@pytest.mark.parametrize("step", [1, 7, 100])
async def test_bytes_in_small_steps(step):
    async with serving() as (proxy, _):
        wire = await opened(proxy, "default.example", client_context(ROOT), step=step)
        assert (await wire.get("default.example"))[2] == b"hello"
        wire.close()


async def test_pipelining():
    async with serving(script=answer(b"x" * 1000)) as (proxy, _):
        wire = await opened(proxy)
        await wire.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" * 50 % tuple(range(50)))
        for _ in range(50):
            assert await wire.response() != (200, b"")
        wire.close()


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 100_000, 10_000_000])
async def test_downloads(size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with serving(script=answer(body)) as (proxy, _):
        client = await proxy.client(tls=ANY)
        for _ in range(2):
            assert (await client.get("/")).body == body


@pytest.mark.parametrize("size", [1, 16384, 1_000_000])
async def test_uploads(size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with serving(settings=ProxySettings()) as (proxy, backend):
        client = await proxy.client(tls=ANY)
        for _ in range(2):
            assert (await client.post(body)).status == 200
        assert [request.body for request in backend.requests] == [body, body]


# ---- whose certificate ----------------------------------------------------------------------------------------------


async def test_certificate_by_name():
    exact, wild, other = (ROOT.sign(name) for name in ("exact", "wild", "other"))
    hosts = (host("a.example", exact), host("*.example", wild), host("b.test", other))
    async with serving(*hosts) as (proxy, _):
        for name, subject in {
            "a.example": "exact",
            "A.EXAMPLE": "exact",
            "b.example": "wild",
            "x.b.example": "default",  # a wildcard stands for one label
            "example": "default",
            "b.test": "other",
            "unknown.test": "default",
            None: "default",
        }.items():
            assert await shown(proxy, name) == subject, name


async def test_a_host_without_a_certificate_shows_the_default():
    async with serving(host("a.example")) as (proxy, _):
        assert await shown(proxy, "a.example") == "default"


async def test_any_host():
    everybody, one = ROOT.sign("everybody"), ROOT.sign("one")
    async with serving(host("", everybody), host("a.example", one)) as (proxy, _):
        assert await shown(proxy, "a.example") == "one"
        assert await shown(proxy, "b.example") == "everybody"
        assert await shown(proxy, None) == "everybody"


async def test_rsa_and_ec_side_by_side():
    both = ROOT.sign("ec", kind="ec"), ROOT.sign("rsa", kind="rsa")
    async with serving(host("a.example", *both)) as (proxy, _):
        assert (
            await shown(
                proxy,
                "a.example",
                client_context(maximum=ssl.TLSVersion.TLSv1_2, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256"),
            )
            == "ec"
        )
        assert (
            await shown(
                proxy,
                "a.example",
                client_context(maximum=ssl.TLSVersion.TLSv1_2, ciphers="ECDHE-RSA-AES128-GCM-SHA256"),
            )
            == "rsa"
        )
        assert await shown(proxy, "a.example") == "ec"


async def test_the_chain_is_sent_in_order():
    upper = ROOT.sign("upper", authority=True)
    lower = upper.sign("lower", authority=True)
    leaf = lower.sign("leaf", ["a.example"])
    async with serving(host("a.example", leaf)) as (proxy, _):
        assert await shown(proxy, "a.example", client_context(ROOT)) == "leaf"  # verifies only with both in between


@pytest.mark.parametrize(
    "certificate",
    [
        ROOT.sign("expired", ["a.example"], start=NOW - 9 * DAY, end=NOW - DAY),
        ROOT.sign("future", ["a.example"], start=NOW + DAY),
        ROOT.sign("mismatched", ["b.example"]),
    ],
    ids=lambda authority: authority.certificate.subject.rfc4514_string(),
)
async def test_what_the_table_says_is_shown_as_it_is(certificate):
    async with serving(host("a.example", certificate)) as (proxy, _):
        assert f"CN={await shown(proxy, 'a.example')}" == certificate.certificate.subject.rfc4514_string()
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown(proxy, "a.example", client_context(ROOT))
        await until(lambda: failures(proxy) == {"alert": 1})


async def test_a_certificate_that_openssl_does_not_take(caplog):
    broken = ROOT.sign("broken")
    async with serving(host("a.example", broken)) as (proxy, _):
        changed = with_tls(proxy.plane.forwarder.snapshot.table, [host("a.example", broken)])
        (key,) = changed.tls_hosts["a.example"].certificates
        changed.certificates[key] = msgspec.structs.replace(changed.certificates[key], private_key=DEFAULT.key_pem)
        proxy.plane.swap(changed)
        assert await shown(proxy, "a.example") == "default"
        assert await shown(proxy, "a.example") == "default"
        assert [record.levelname for record in caplog.records if "can't be used" in record.message] == ["ERROR"]
        proxy._errors.messages.clear()


async def test_no_certificate_at_all():
    async with serving(default=None) as (proxy, _):
        with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
            await opened(proxy, "a.example")
        await until(lambda: failures(proxy) == {"no_certificate": 1})


async def test_unknown_hosts_are_refused_if_so_wanted():
    settings = ProxySettings(tls=TLSSettings(reject_unknown_hosts=True))
    async with serving(host("a.example"), host("*.wild.example"), settings=settings) as (proxy, backend):
        plain = routes({"/": [backend]}, host="routed.example")
        merged = {**plain.hosts, **proxy.plane.forwarder.snapshot.table.hosts}
        proxy.plane.swap(msgspec.structs.replace(proxy.plane.forwarder.snapshot.table, hosts=merged))
        for name in ("a.example", "x.wild.example", "routed.example"):
            assert await shown(proxy, name) == "default"
        for name in ("b.example", "x.y.wild.example", None):
            with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
                await opened(proxy, name)
        await until(lambda: failures(proxy) == {"unknown_host": 3})


# ---- versions, ciphers, sessions ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_are_off(version):
    async with serving() as (proxy, _):
        context = client_context(minimum=version, maximum=version, ciphers="ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await opened(proxy, context=context)
        await until(lambda: failures(proxy) == {"unsupported_protocol": 1})


@pytest.mark.parametrize(
    ("protocols", "good", "bad"),
    [(("TLSv1.2",), V12, client_context(minimum=ssl.TLSVersion.TLSv1_3)), (("TLSv1.3",), ANY, V12)],
)
async def test_versions_by_setting(protocols, good, bad):
    async with serving(settings=ProxySettings(tls=TLSSettings(protocols=protocols))) as (proxy, _):
        wire = await opened(proxy, context=good)
        assert wire.tls.version() == protocols[0]
        wire.close()
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await opened(proxy, context=bad)


async def test_ciphers_of_the_server_go_first():
    theirs = client_context(
        maximum=ssl.TLSVersion.TLSv1_2, ciphers="ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"
    )
    client_first = host("b.example", prefer_server_ciphers=False)
    narrow = host("c.example", ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    async with serving(host("a.example"), client_first, narrow) as (proxy, _):
        for name, cipher in {
            "a.example": "ECDHE-ECDSA-AES128-GCM-SHA256",
            "b.example": "ECDHE-ECDSA-CHACHA20-POLY1305",
        }.items():
            wire = await opened(proxy, name, theirs)
            assert wire.tls.cipher()[0] == cipher
            wire.close()
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await opened(proxy, "c.example", theirs)
        await until(lambda: failures(proxy) == {"no_shared_cipher": 1})


@pytest.mark.parametrize(
    ("offered", "chosen"), [(("http/1.1",), "http/1.1"), (("h2", "http/1.1"), "http/1.1"), (("h2",), None), ((), None)]
)
async def test_alpn(offered, chosen):
    async with serving() as (proxy, _):
        wire = await opened(proxy, context=client_context(alpn=offered))
        assert wire.tls.selected_alpn_protocol() == chosen
        assert (await wire.get("a"))[0] == 200
        wire.close()


@pytest.mark.parametrize("tickets", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("end", ["notify", "cut"])
async def test_sessions_are_resumed(tickets, version, end):
    context = client_context(minimum=version, maximum=version)
    async with serving(host("a.example"), settings=ProxySettings(tls=TLSSettings(session_tickets=tickets))) as (
        proxy,
        _,
    ):
        session = None
        for turn in range(3):
            wire = await opened(proxy, "a.example", context, session)
            assert (await wire.get("a.example"))[0] == 200
            assert wire.tls.session_reused == (turn > 0)
            session = wire.tls.session
            if end == "notify":
                await wire.notify()
            wire.close()
            await until(lambda: not proxy.plane.connections)
        name = "TLSv1.2" if version is ssl.TLSVersion.TLSv1_2 else "TLSv1.3"
        assert handshakes(proxy) == {(name, "full"): 1, (name, "resumed"): 2}


async def test_a_new_certificate_ends_old_sessions():
    async with serving(host("a.example", ROOT.sign("old"))) as (proxy, backend):
        wire = await opened(proxy, "a.example", V12)
        await wire.get("a.example")
        proxy.plane.swap(with_tls(table([backend], id="t2"), [host("a.example", ROOT.sign("new"))]))
        assert (await wire.get("a.example"))[0] == 200  # what is open stays
        assert wire.subject == "old"
        again = await opened(proxy, "a.example", V12, wire.tls.session)
        assert not again.tls.session_reused
        assert again.subject == "new"
        wire.close()
        again.close()


# ---- what is no TLS -------------------------------------------------------------------------------------------------


async def test_plain_http_on_the_tls_port():
    async with serving() as (proxy, backend):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.tls_port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answered = await reader.read()
        assert answered.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Connection: close\r\n" in answered
        assert b"The plain HTTP request was sent to HTTPS port" in answered
        assert not backend.requests
        writer.close()
        await until(lambda: failures(proxy) == {"plain_http": 1})
        assert [record.status for record in proxy.log.records] == [400]


@pytest.mark.parametrize(
    ("junk", "start"),
    [
        (b"\x00\x01\x02\x03 junk\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\x80\x2e\x01\x03\x01\x00", b""),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x15\x03\x01\x00\x02\x02\x32"),
        (b"\x16\x03\x01\x00\x02\x01\x00\x16\x03\x01\x00\x02\x40\x01", b"\x15\x03\x01\x00\x02\x02\x32"),
        (b"\x15\x03\x01\x00\x02\x01\x00", b"HTTP/1.1 400 "),
    ],
)
async def test_junk(junk, start):
    async with serving() as (proxy, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.tls_port)
        writer.write(junk)
        answered = await reader.read()
        assert answered.startswith(start)
        assert start or not answered
        writer.close()
        await until(lambda: sum(failures(proxy).values()) == 1)


@pytest.mark.parametrize("part", [0, 1, 5, 100])
async def test_clients_that_go_before_the_hello_is_complete(part):
    async with serving() as (proxy, _):
        wire = await Wire(ANY, "a.example").connect(proxy.tls_port)
        with pytest.raises(ssl.SSLWantReadError):
            wire.tls.do_handshake()
        wire.writer.write(wire._outgoing.read()[:part])
        await until(lambda: proxy.plane.openings)
        wire.close()
        await until(lambda: failures(proxy) == {"closed": 1})
        assert proxy.metrics.connections_accepted == 1


async def test_clients_that_go_within_the_handshake():
    async with serving() as (proxy, _):
        wire = await Wire(ANY, "a.example").connect(proxy.tls_port)
        with pytest.raises(ssl.SSLWantReadError):
            wire.tls.do_handshake()
        await wire.flush()
        await wire._more()
        wire.close()
        await until(lambda: failures(proxy) == {"closed": 1})


async def test_junk_behind_the_hello():
    async with serving() as (proxy, _):
        wire = await Wire(ANY, "a.example").connect(proxy.tls_port)
        with pytest.raises(ssl.SSLWantReadError):
            wire.tls.do_handshake()
        await wire.flush()
        wire.writer.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await wire.reader.read()
        wire.close()
        await until(lambda: failures(proxy) == {"protocol_error": 1})


@pytest.mark.parametrize("part", [0, 3, None])
async def test_slow_handshakes_are_ended(part):
    settings = ProxySettings(tls=TLSSettings(handshake_timeout_s=0.1))
    async with serving(settings=settings) as (proxy, _):
        wire = await Wire(ANY, "a.example").connect(proxy.tls_port)
        with pytest.raises(ssl.SSLWantReadError):
            wire.tls.do_handshake()
        wire.writer.write(wire._outgoing.read()[:part])
        with suppress(ConnectionError):
            while await wire.reader.read(65536):
                pass
        await until(lambda: failures(proxy) == {"timeout": 1})
        wire.close()


# ---- ends -----------------------------------------------------------------------------------------------------------


async def test_connection_close_ends_with_close_notify():
    async with serving() as (proxy, _):
        wire = await opened(proxy)
        await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await wire.read_all()).endswith(b"hello")
        assert wire.ended
        wire.close()


@pytest.mark.parametrize("how", ["notify", "cut"])
async def test_a_client_that_goes_cancels_its_request(how):
    async def silent(connection: BackendConnection) -> None:
        await connection.request()
        await connection.reader.read()

    async with serving(script=silent) as (proxy, backend):
        wire = await opened(proxy)
        await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: backend.requests)
        if how == "notify":
            await wire.notify()
        else:
            wire.close()
        await until(lambda: proxy.plane.forwarder.in_flight == 0)
        wire.close()
        assert proxy.log.records[0].status == 499


async def test_a_response_that_is_cut_upstream_is_seen_as_cut():
    """HTTP/1.0: only the end of the connection ends it, so that end must not look regular."""

    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async with serving(script=script) as (proxy, _):
        wire = await opened(proxy)
        await wire.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        with pytest.raises(ConnectionError):
            await wire.read_all()
        assert not wire.ended
        wire.close()


async def test_drain():
    async with serving() as (proxy, _):
        idle, begun = await opened(proxy), await Wire(ANY, "a").connect(proxy.tls_port)
        assert (await idle.get("a"))[0] == 200
        await until(lambda: proxy.plane.openings)
        assert await proxy.plane.drain(10)
        assert await idle.read_all() == b""
        assert idle.ended
        idle.close()
        begun.close()
        proxy.plane.draining = False


async def test_rotation_under_load():
    """100 certificates in turn, and every handshake and every request succeeds."""
    stop = asyncio.Event()
    seen: set[str] = set()

    async def load(proxy: Proxy) -> int:
        count = 0
        while not stop.is_set():
            wire = await opened(proxy, "a.example", client_context(ROOT))
            for _ in range(3):
                assert (await wire.get("a.example"))[2] == b"hello"
                count += 1
            seen.add(wire.subject)
            wire.close()
        return count

    async with serving(host("a.example", ROOT.sign("0", ["a.example"]))) as (proxy, backend):
        clients = [asyncio.create_task(load(proxy)) for _ in range(4)]
        for turn in range(1, 101):
            proxy.plane.swap(
                with_tls(table([backend], id=f"t{turn}"), [host("a.example", ROOT.sign(str(turn), ["a.example"]))])
            )
            before = len(seen)
            await until(lambda: len(seen) > before or any(client.done() for client in clients))  # noqa: B023
        stop.set()
        assert all(count > 0 for count in await asyncio.gather(*clients))
        assert failures(proxy) == {}
        assert len(proxy.plane.contexts._kept) <= 2


# ---- passthrough ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def passing_through(handle) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Proxy() as proxy:
        plain = table([Endpoint("127.0.0.1", port)])
        (key,) = plain.upstreams
        proxy.plane.swap(with_tls(plain, [host("through.example", passthrough=key)]))
        yield proxy
    server.close()
    await server.wait_closed()


async def test_passthrough():
    own = ROOT.sign("endpoint")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, own.for_table())
    body = bytes(range(256)) * 10_000

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.start_tls(context)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with passing_through(handle) as proxy:
        wire = await opened(proxy, "through.example")
        assert wire.subject == "endpoint"
        assert (await wire.get("through.example"))[2] == body
        assert await wire.read() == b""
        wire.close()
        assert await shown(proxy, "other.example") == "default"
        await until(lambda: not proxy.plane.relays)
        assert proxy.metrics.connections_open == 0 or proxy.plane.connections


async def test_passthrough_half_close():
    """What the client has said is told to its end, and what the endpoint answers then still comes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"%d" % len(data))
        writer.close()

    async with passing_through(handle) as proxy:
        wire = await Wire(ANY, "through.example").connect(proxy.tls_port)
        with pytest.raises(ssl.SSLWantReadError):
            wire.tls.do_handshake()
        first = wire._outgoing.read()
        wire.writer.write(first + b"x" * 5_000_000)
        wire.writer.write_eof()
        assert await wire.reader.read() == b"%d" % (len(first) + 5_000_000)
        wire.close()


async def test_passthrough_without_endpoints():
    async with Proxy() as proxy:
        proxy.plane.swap(
            with_tls(table([]), [host("through.example", passthrough=UpstreamKey("default/service-0:80"))])
        )
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await opened(proxy, "through.example")
        await until(lambda: failures(proxy) == {"no_endpoint": 1})


async def test_passthrough_when_nobody_listens():
    async with Proxy() as proxy:
        proxy.plane.swap(
            with_tls(table([Endpoint("127.0.0.1", 1)]), [host("through.example", passthrough="default/service-0:80")])
        )
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await opened(proxy, "through.example")
        await until(lambda: proxy.failures() == {"connect_failed": 1})


async def test_a_pipeline_that_is_cut_short_loses_no_answer():
    """The end is told while the client still sends: close_notify and FIN, but no reset."""
    async with serving(settings=ProxySettings(keepalive_requests=50)) as (proxy, _):
        wire = await opened(proxy)
        wire.tls.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 50_000)
        flood = asyncio.create_task(wire.flush())
        await until(lambda: len(proxy.log.records) == 50)
        for number in range(50):
            _, fields, body = await wire.response()
            assert body == b"hello"
            assert fields.get("connection") == ("close" if number == 49 else None)
        assert await wire.read() == b""
        assert wire.ended
        wire.close()
        await asyncio.wait([flood])
        flood.exception()
