"""HTTPS to endpoints, through real sockets: what is verified, what the endpoint sees, what a failure costs."""

import asyncio
import re
import ssl
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from ingress.proxy.upstream_tls import EndpointTLS, endpoint_tls, name_mismatch
from ingress.routing.table import (
    AffinityMode,
    Balancing,
    CookieAffinity,
    Endpoint,
    RoutingTable,
    TrafficPolicy,
    UpstreamProtocol,
)
from ingress.routing.tls import UpstreamTLS
from tests.proxy import pki
from tests.proxy.support import Backend, BackendConnection, Proxy, answer, routes, table, until

ROOT = pki.authority()
OTHER_ROOT = pki.authority("other")
NAMED = ROOT.issue(names=["web.test", "127.0.0.1"])


def over_tls(made: RoutingTable, tls: UpstreamTLS | None = None, **changes: Any) -> RoutingTable:
    """`made` with HTTPS to all its endpoints."""
    changes = {"protocol": UpstreamProtocol.HTTPS, "tls": tls or UpstreamTLS(), **changes}
    upstreams = {key: msgspec.structs.replace(u, **changes) for key, u in made.upstreams.items()}
    return msgspec.structs.replace(made, upstreams=upstreams)


def serve(
    proxy: Proxy,
    endpoints: Sequence[Backend | Endpoint],
    tls: UpstreamTLS | None = None,
    policy: TrafficPolicy | None = None,
    id: str = "t1",
    **changes: Any,
) -> None:
    proxy.plane.swap(over_tls(table(endpoints, policy=policy, id=id), tls, **changes))


def verified(**changes: Any) -> UpstreamTLS:
    return UpstreamTLS(**{"verify": True, "ca": ROOT.pem, "name": "web.test", "server_name": True, **changes})


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("versions", ["TLSv1_2", "TLSv1_3"])
async def test_requests_are_encrypted_and_connections_kept(kind: str, versions: str) -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=pki.authority(kind=kind).issue(kind=kind).server(versions=versions))
        serve(proxy, [backend])
        client = await proxy.client()
        for _ in range(3):
            response = await client.get("/x")
            assert (response.status, response.body) == (200, b"b0")
        assert backend.connections == 1
        assert [request.target for request in backend.requests] == [b"/x"] * 3
        assert proxy.metrics.upstream_connections_reused == 2


async def test_bodies_both_ways() -> None:
    sent = bytes(range(256)) * 4096

    async def echo(connection: BackendConnection) -> None:
        while (request := await connection.request()) is not None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body)

    async with Proxy() as proxy:
        backend = await proxy.backend(echo, tls=NAMED.server())
        serve(proxy, [backend], verified())
        response = await (await proxy.client()).post(sent)
        assert response.body == sent


# ---- what is verified ----

EXPIRED = ROOT.issue(names=["web.test"], days=(-30, -1))
COMMON_NAME = ROOT.issue("web.test")
WILDCARD = ROOT.issue(names=["*.web.test"])


@pytest.mark.parametrize("server_name", [True, False], ids=["sni", "no-sni"])
@pytest.mark.parametrize(
    ("shown", "changes", "why"),
    [
        (NAMED, {}, ""),
        (NAMED, {"name": "127.0.0.1"}, ""),
        (COMMON_NAME, {}, ""),
        (WILDCARD, {"name": "a.web.test"}, ""),
        (WILDCARD, {}, "web.test"),
        (WILDCARD, {"name": "a.b.web.test"}, "a.b.web.test"),
        (NAMED, {"name": "other.test"}, "other.test"),
        (NAMED, {"name": "127.0.0.2"}, "127.0.0.2"),
        (EXPIRED, {}, "expired"),
        (NAMED, {"ca": OTHER_ROOT.pem}, "issuer|self-signed"),
        (NAMED, {"ca": OTHER_ROOT.pem + ROOT.pem}, ""),
        (OTHER_ROOT.issue(names=["web.test"]), {}, "issuer|self-signed"),
        (NAMED, {"ca": b""}, "issuer|self-signed"),
        (NAMED, {"name": ""}, "empty name"),
    ],
)
async def test_verification(shown: pki.Pair, changes: dict[str, Any], why: str, server_name: bool, caplog: Any) -> None:
    caplog.set_level("INFO", "ingress.proxy.forward")
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=shown.server())
        serve(proxy, [backend], verified(server_name=server_name, **changes))
        response = await (await proxy.client()).get()
        assert response.status == (502 if why else 200)
        assert proxy.failures() == ({"tls_failed": 1} if why else {})
        assert not why or not backend.requests
        if why:
            assert re.search(why, caplog.text), caplog.text


async def test_nothing_is_verified_unless_asked_for() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=EXPIRED.server())
        serve(proxy, [backend], UpstreamTLS(ca=OTHER_ROOT.pem, name="other.test", server_name=True))
        assert (await (await proxy.client()).get()).status == 200


@pytest.mark.parametrize(
    ("depth", "intermediates", "status"), [(1, 0, 200), (1, 1, 200), (1, 2, 502), (2, 2, 200), (2, 3, 502)]
)
async def test_depth(depth: int, intermediates: int, status: int) -> None:
    issuer = ROOT
    for number in range(intermediates):
        issuer = issuer.issue(f"intermediate {number}", ca=True)
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=issuer.issue(names=["web.test"]).server())
        serve(proxy, [backend], verified(depth=depth))
        assert (await (await proxy.client()).get()).status == status
        assert len(backend.requests) == (status == 200)


async def test_revocation() -> None:
    revoked = ROOT.issue(names=["web.test"])
    async with Proxy() as proxy:
        bad, good = await proxy.backend(tls=revoked.server()), await proxy.backend(tls=NAMED.server())
        crl = ROOT.revoke(revoked)
        for backend, status in ((good, 200), (bad, 502)):
            serve(proxy, [backend], verified(crl=crl))
            assert (await (await proxy.client()).get()).status == status
        serve(proxy, [bad], verified())
        assert (await (await proxy.client()).get()).status == 200
        serve(proxy, [good], verified(crl=OTHER_ROOT.revoke()))
        assert (await (await proxy.client()).get()).status == 502  # the CA's own list is missing


# ---- what the endpoint sees ----


@pytest.mark.parametrize(
    ("tls", "seen"),
    [
        (UpstreamTLS(name="web.test"), None),
        (UpstreamTLS(name="web.test", server_name=True), "web.test"),
        (UpstreamTLS(name="127.0.0.1", server_name=True), None),  # an address is no server name (RFC 6066 section 3)
        (verified(), "web.test"),
        (verified(server_name=False), None),
    ],
)
async def test_server_name_indication(tls: UpstreamTLS, seen: str | None) -> None:
    names: list[str | None] = []
    context = NAMED.server()
    context.sni_callback = lambda connection, name, context: names.append(name)
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=context)
        serve(proxy, [backend], tls)
        response = await (await proxy.client()).get("/", "public.test")
        assert response.status == 200
        assert names == [seen]
        assert backend.requests[0].value("host") == b"public.test"


async def test_client_certificate() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=NAMED.server(clients=ROOT))
        serve(proxy, [backend], verified(certificate=ROOT.issue("proxy").as_certificate))
        client = await proxy.client()
        assert (await client.get()).status == 200
        serve(proxy, [backend], verified(), id="t2")
        assert (await client.get()).status == 502
        serve(proxy, [backend], verified(certificate=OTHER_ROOT.issue("proxy").as_certificate), id="t3")
        assert (await client.get()).status == 502
        assert len(backend.requests) == 1


@pytest.mark.parametrize(
    ("protocols", "status"), [(("TLSv1.3",), 502), (("TLSv1.2", "TLSv1.3"), 200), (("TLSv1.2",), 200)]
)
async def test_protocols(protocols: tuple[str, ...], status: int) -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=NAMED.server(versions="TLSv1_2"))
        serve(proxy, [backend], UpstreamTLS(protocols=protocols))
        assert (await (await proxy.client()).get()).status == status


async def test_ciphers() -> None:
    seen: list[Any] = []

    async def script(connection: BackendConnection) -> None:
        seen.append(connection.writer.get_extra_info("cipher")[0])
        await answer()(connection)

    async with Proxy() as proxy:
        backend = await proxy.backend(script, tls=NAMED.server(versions="TLSv1_2"))
        serve(proxy, [backend], UpstreamTLS(ciphers="ECDHE-ECDSA-CHACHA20-POLY1305"))
        assert (await (await proxy.client()).get()).status == 200
        assert seen == ["ECDHE-ECDSA-CHACHA20-POLY1305"]


@pytest.mark.parametrize("name", [".", ".test", "a\0b"])
def test_names_that_cannot_be_sent_are_found_beforehand(name: str) -> None:
    with pytest.raises(ValueError, match="OpenSSL refuses it"):
        EndpointTLS(UpstreamTLS(name=name, server_name=True))


async def test_ciphers_that_openssl_does_not_know_answer_502(caplog: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)cipher"):
        EndpointTLS(UpstreamTLS(ciphers="NONE-SUCH"))
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=NAMED.server())
        serve(proxy, [backend], UpstreamTLS(ciphers="NONE-SUCH"))
        client = await proxy.client()
        assert (await client.get()).status == 502
        assert "answers 502" in caplog.text
        proxy._errors.messages.clear()
        serve(proxy, [backend], id="t2")
        assert (await client.get()).status == 200


# ---- failures ----


async def test_another_endpoint_is_tried() -> None:
    async with Proxy() as proxy:
        bad = await proxy.backend(tls=EXPIRED.server())
        good = await proxy.backend(tls=NAMED.server())
        serve(proxy, [bad, good], verified())
        client = await proxy.client()
        for _ in range(4):
            assert (await client.get()).body == b"b1"
        assert (await client.post(b"x" * 1000)).body == b"b1"  # nothing was sent: a POST too
        assert proxy.failures()["tls_failed"] >= 2
        assert not bad.requests


async def test_a_handshake_that_fails_is_a_try() -> None:
    async with Proxy() as proxy:
        backends = [await proxy.backend(tls=EXPIRED.server()) for _ in range(4)]
        serve(proxy, backends, verified(), TrafficPolicy(retry_tries=2))
        assert (await (await proxy.client()).get()).status == 502
        assert proxy.failures() == {"tls_failed": 2}


async def test_no_other_endpoint_with_retries_off() -> None:
    async with Proxy() as proxy:
        bad, good = await proxy.backend(tls=EXPIRED.server()), await proxy.backend(tls=NAMED.server())
        serve(proxy, [bad, good], verified(), TrafficPolicy(retry_on=()))
        client = await proxy.client()
        assert sorted([(await client.get()).status for _ in range(2)]) == [200, 502]


async def test_an_endpoint_that_speaks_plain_http() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        backend.script = _anything
        serve(proxy, [backend])
        assert (await (await proxy.client()).get()).status == 502
        assert proxy.failures() == {"tls_failed": 1}


async def _anything(connection: BackendConnection) -> None:
    await connection.reader.read(1000)
    await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def test_an_endpoint_that_closes_in_the_handshake() -> None:
    async def close(connection: BackendConnection) -> None:
        await connection.reader.read(1000)
        connection.reset()

    async with Proxy() as proxy:
        backend = await proxy.backend(close)
        serve(proxy, [backend])
        assert (await (await proxy.client()).get()).status == 502
        assert proxy.failures() == {"tls_failed": 1}


async def test_refused_connections_are_no_matter_of_tls() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=NAMED.server())
        await backend.refuse()
        serve(proxy, [backend])
        assert (await (await proxy.client()).get()).status == 502
        assert proxy.failures() == {"connect_failed": 1}


async def test_a_handshake_without_end_is_a_connect_timeout() -> None:
    async def silent(connection: BackendConnection) -> None:
        await connection.closed()

    async with Proxy() as proxy:
        backend = await proxy.backend(silent)
        serve(proxy, [backend], policy=TrafficPolicy(connect_timeout_s=0.05))
        assert (await (await proxy.client()).get()).status == 504
        assert proxy.failures() == {"connect_timeout": 1}
        await until(lambda: not backend.open, "the connection was given up")


async def test_a_client_that_leaves_during_the_handshake() -> None:
    async def silent(connection: BackendConnection) -> None:
        await connection.closed()

    async with Proxy() as proxy:
        backend = await proxy.backend(silent)
        serve(proxy, [backend])
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: backend.open, "connected")
        client.close()
        await until(lambda: not backend.open, "the connection was given up")


async def test_a_connection_that_breaks_in_the_response() -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    async with Proxy() as proxy:
        backend = await proxy.backend(script, tls=NAMED.server())
        serve(proxy, [backend])
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\nabc")
        assert proxy.failures() == {"upstream_closed": 1}


@pytest.mark.parametrize("cut", [True, False])
async def test_a_body_that_ends_with_the_connection_ends_with_close_notify(cut: bool) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
        if cut:
            connection.writer.transport.abort()

    async with Proxy() as proxy:
        backend = await proxy.backend(script, tls=NAMED.server())
        serve(proxy, [backend])
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        if cut:
            assert (await client.rest()).endswith(b"\r\nabc\r\n")  # no last chunk
        else:
            assert (await client.response()).body == b"abc"
        assert proxy.failures() == ({"upstream_closed": 1} if cut else {})


@pytest.mark.parametrize("versions", ["TLSv1_2", "TLSv1_3"])
async def test_sessions_are_resumed(versions: str) -> None:
    reused: list[bool] = []

    async def once(connection: BackendConnection) -> None:
        reused.append(connection.writer.get_extra_info("ssl_object").session_reused)
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await connection.closed()

    async with Proxy() as proxy:
        backends = [await proxy.backend(once, tls=NAMED.server(versions=versions)) for _ in range(2)]
        serve(proxy, backends, verified(server_name=False))
        client = await proxy.client()
        for _ in range(6):
            assert (await client.get()).status == 200
        assert reused == [False, False, True, True, True, True]
        serve(proxy, backends, verified(ca=ROOT.pem + OTHER_ROOT.pem, server_name=False), id="t2")
        assert (await client.get()).status == 200
        assert reused[-1] is False  # what was verified by other rules counts no more


async def test_a_kept_connection_that_the_endpoint_has_closed() -> None:
    async def once(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with Proxy() as proxy:
        backend = await proxy.backend(once, tls=NAMED.server())
        serve(proxy, [backend])
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get()).status == 200


# ---- upgrades ----


async def _upgrading(connection: BackendConnection) -> None:
    request = await connection.request()
    assert request is not None
    assert request.value("upgrade") == b"websocket"
    await connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello "
    )
    while data := await connection.reader.read(1000):
        await connection.send(data.upper())
        if data.endswith(b"!"):
            return


UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def test_upgrade() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(_upgrading, tls=NAMED.server())
        serve(proxy, [backend], verified())
        client = await proxy.client()
        assert (await client.request(UPGRADE)).status == 101
        assert await client.reader.readexactly(6) == b"hello "
        await client.send(b"x" * 100_000 + b"!")
        assert await client.rest() == b"X" * 100_000 + b"!"


async def test_a_client_that_closes_its_half_ends_the_tunnel() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(_upgrading, tls=NAMED.server())
        serve(proxy, [backend])
        client = await proxy.client()
        assert (await client.request(UPGRADE)).status == 101
        client.writer.write_eof()
        assert await client.rest() == b"hello "
        await until(lambda: not backend.open, "closed")


# ---- identity ----


async def test_other_wishes_are_other_connections() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(tls=NAMED.server())
        client = await proxy.client()
        for id, tls in enumerate((UpstreamTLS(), verified(), verified(), verified(depth=2), UpstreamTLS())):
            serve(proxy, [backend], tls, id=str(id))
            assert (await client.get()).status == 200
        assert backend.connections == 4
        await until(lambda: len(backend.open) == 1, "those of former wishes are closed")


async def test_a_rotation_lets_requests_finish() -> None:
    go = asyncio.Event()

    async def script(connection: BackendConnection) -> None:
        while await connection.request() is not None:
            await go.wait()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with Proxy() as proxy:
        backend = await proxy.backend(script, tls=NAMED.server())
        serve(proxy, [backend], verified())
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: backend.requests, "under way")
        serve(proxy, [backend], verified(ca=ROOT.pem + OTHER_ROOT.pem), id="t2")
        go.set()
        assert (await client.response()).status == 200
        await until(lambda: not proxy.upstream_connections, "its connection is not kept")


def test_equal_wishes_share_a_context() -> None:
    one, other = endpoint_tls(verified()), endpoint_tls(verified())
    assert one is other
    assert endpoint_tls(verified(depth=2)) is not one


# ---- by scheme ----


AUTO = UpstreamProtocol.AUTO_HTTP


async def test_auto_http_follows_the_request() -> None:
    """Paths of one host: an endpoint each that speaks only the one or the other."""
    certificate = NAMED.as_certificate
    async with Proxy() as proxy:
        plain, secure = await proxy.backend(), await proxy.backend(tls=NAMED.server())
        made = over_tls(routes({"/plain": [plain], "/secure": [secure]}), protocol=AUTO)
        proxy.plane.swap(
            msgspec.structs.replace(
                made, certificates={certificate.key: certificate}, default_certificate=certificate.key
            )
        )
        by_http = await proxy.client()
        by_tls = await proxy.client(tls=ssl.create_default_context(cadata=ROOT.pem.decode()), server_name="web.test")
        assert (await by_http.get("/plain")).body == b"b0"
        assert (await by_http.get("/secure")).status != 200
        for _ in range(2):
            assert (await by_tls.get("/secure")).body == b"b1"
        assert secure.connections == 1


@pytest.mark.parametrize("affinity", [AffinityMode.NONE, AffinityMode.CLIENT_IP, AffinityMode.COOKIE])
async def test_auto_http_balances_as_any(affinity: AffinityMode) -> None:
    cookie = CookieAffinity() if affinity is AffinityMode.COOKIE else None
    balancing = Balancing(affinity=affinity, cookie=cookie)
    async with Proxy() as proxy:
        backends = [await proxy.backend() for _ in range(3)]
        proxy.plane.swap(over_tls(table(backends, balancing=balancing), protocol=AUTO))
        client = await proxy.client()
        first = await client.get()
        name = (first.value("set-cookie") or b"x=y").split(b";")[0].decode()
        seen = {(await client.get("/", "a", f"Cookie: {name}")).body for _ in range(6)}
        assert len(seen) == (3 if affinity is AffinityMode.NONE else 1)
        (runtime,) = proxy.plane.runtime.upstreams.values()
        assert runtime.serves  # a canary may be such a one
        # endpoints come and go
        proxy.plane.swap(over_tls(table(backends[:1], balancing=balancing, id="t2"), protocol=AUTO))
        assert (await client.get()).body == b"b0"
        proxy.plane.swap(over_tls(table([], balancing=balancing, id="t3"), protocol=AUTO))
        assert (await client.get()).status == 503
        assert not runtime.serves
        proxy.plane.swap(table(backends[1:2], id="t4"))
        assert (await client.get()).body == b"b1"
        await until(lambda: len(proxy.upstream_connections) == 1, "former connections are closed")


@pytest.mark.parametrize("protocol", [UpstreamProtocol.GRPC, UpstreamProtocol.H2C])
async def test_protocols_that_are_not_spoken(protocol: UpstreamProtocol) -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(over_tls(table([backend]), protocol=protocol, tls=None))
        assert (await (await proxy.client()).get()).status == 502
        assert not backend.connections


# ---- names ----


@pytest.mark.parametrize(
    ("names", "wanted", "matches"),
    [
        ([("DNS", "web.test")], "WEB.test", True),
        ([("DNS", "*.test")], "web.test", False),  # nobody owns a whole top-level domain
        ([("DNS", "*.web.test")], "a.web.test", True),
        ([("DNS", "a*.web.test")], "ab.web.test", False),
        ([("DNS", "*.*.test")], "a.b.test", False),
        ([("DNS", "*.web.test")], "web.test", False),
        ([("IP Address", "10.0.0.1")], "10.0.0.1", True),
        ([("DNS", "10.0.0.1")], "10.0.0.1", False),
        ([("IP Address", "0:0:0:0:0:0:0:1")], "::1", True),
        ([("IP Address", "junk")], "::1", False),
        ([], "common.test", True),
        ([("DNS", "web.test")], "common.test", False),
        ([("IP Address", "10.0.0.1")], "", False),
    ],
)
def test_names(names: list[tuple[str, str]], wanted: str, matches: bool) -> None:
    certificate = {"subject": ((("commonName", "common.test"),),), "subjectAltName": tuple(names)}
    assert (name_mismatch(certificate, wanted) == "") is matches
    assert name_mismatch(None, "web.test")
