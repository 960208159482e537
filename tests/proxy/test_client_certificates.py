"""Client certificates in process: what is asked for, what comes of it, and that Host can't get around SNI."""

import dataclasses
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from ingress.exchange import DirectResponse, Exchange
from ingress.routing.client_auth import refusal
from ingress.routing.table import RoutingTable
from ingress.routing.tls import ClientAuth, ClientVerify
from tests.proxy.support import Backend, Proxy, table, until
from tests.proxy.test_tls import ROOT, host, opened, serving, with_tls
from tests.tls.support import DAY, NOW, Authority, client_context, root

CLIENTS = root("Clients")
STRANGERS = root("Strangers")
ALICE = CLIENTS.sign("alice", client=True)
MALLORY = STRANGERS.sign("alice", client=True)
EXPIRED = CLIENTS.sign("alice", client=True, start=NOW - 9 * DAY, end=NOW - DAY)
UPPER = CLIENTS.sign("upper", authority=True)
DEEP = UPPER.sign("lower", authority=True).sign("deep", client=True)
SHALLOW = UPPER.sign("shallow", client=True)
_SELF = root("self")
SELF_SIGNED = Authority(_SELF.certificate, _SELF.key, (_SELF.certificate,))
AUTH = ClientAuth(CLIENTS.pem)


@dataclasses.dataclass
class Seen:
    """What hooks found on `Exchange.tls`, by request."""

    infos: list[Any] = dataclasses.field(default_factory=list)

    def __call__(self, verify: ClientVerify) -> Any:
        def hook(exchange: Exchange) -> DirectResponse | None:
            info = exchange.tls
            if exchange.host != b"closed.example":
                return None
            self.infos.append(info.client)
            why = refusal(verify, info.client)
            return None if why is None else DirectResponse(400, message=why)

        return hook


@asynccontextmanager
async def asking(auth: ClientAuth = AUTH) -> AsyncIterator[tuple[Proxy, Backend, Seen]]:
    """`closed.example` asks, `open.example` doesn't; every request meets the decision for `auth`."""
    async with serving(host("closed.example", ROOT.sign("closed"), client_auth=auth), host("open.example")) as (
        proxy,
        backend,
    ):
        seen = Seen()
        (trie,) = [proxy.plane.forwarder.snapshot.hosts.lookup(b"closed.example")]
        trie.match(b"/").request_hooks = (seen(auth.verify),)
        yield proxy, backend, seen


async def answered(
    proxy: Proxy,
    certificate: Authority | None,
    *,
    sni: str | None = "closed.example",
    to: str = "closed.example",
    **limits: Any,
) -> tuple[int, bytes]:
    wire = await opened(proxy, sni, client_context(certificate=certificate, **limits))
    status, _, body = await wire.get(to)
    wire.close()
    return status, body


ON, OPTIONAL, NO_CA = ClientVerify


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("certificate", "verify", "statuses"),
    [
        (ALICE, "SUCCESS", {ON: 200, OPTIONAL: 200, NO_CA: 200}),
        (None, "NONE", {ON: 400, OPTIONAL: 200, NO_CA: 200}),
        (MALLORY, "FAILED:unable to verify the first certificate", {ON: 400, OPTIONAL: 400, NO_CA: 200}),
        (SELF_SIGNED, "FAILED:self-signed certificate", {ON: 400, OPTIONAL: 400, NO_CA: 200}),
        (EXPIRED, "FAILED:certificate has expired", {ON: 400, OPTIONAL: 400, NO_CA: 400}),
        (SHALLOW, "SUCCESS", {ON: 200, OPTIONAL: 200, NO_CA: 200}),
        (DEEP, "FAILED:unable to get local issuer certificate", {ON: 400, OPTIONAL: 400, NO_CA: 200}),
        (ROOT.sign("default"), "FAILED:unable to verify the first certificate", {ON: 400, OPTIONAL: 400, NO_CA: 200}),
    ],
    ids=["good", "none", "stranger", "self-signed", "expired", "one-between", "too-deep", "server-certificate"],
)  # fmt: skip
async def test_outcomes(certificate, verify, statuses, version):
    """The handshake is complete in each case: the answer is HTTP's."""
    for mode, status in statuses.items():
        async with asking(msgspec.structs.replace(AUTH, verify=mode)) as (proxy, backend, seen):
            got, body = await answered(proxy, certificate, maximum=version)
            (identity,) = seen.infos
            assert (got, identity.verify) == (status, verify)
            assert len(backend.requests) == (status == 200)
            if status == 400:
                assert (
                    b"No required SSL certificate was sent" if certificate is None else b"The SSL certificate error"
                ) in body


async def test_who_it_is():
    async with asking() as (proxy, _, seen):
        assert (await answered(proxy, ALICE))[0] == 200
        (identity,) = seen.infos
        assert (identity.subject, identity.issuer) == ("CN=alice", "CN=Clients")
        assert identity.pem == ALICE.chain_pem
        assert int(identity.serial, 16) == ALICE.certificate.serial_number
        assert len(identity.fingerprint) == 40


async def test_depth():
    async with asking(msgspec.structs.replace(AUTH, depth=2)) as (proxy, _, _):
        assert (await answered(proxy, DEEP))[0] == 200
    async with asking(msgspec.structs.replace(AUTH, depth=0)) as (proxy, _, _):
        assert (await answered(proxy, SHALLOW))[0] == 400
        assert (await answered(proxy, ALICE))[0] == 200


@pytest.mark.parametrize(
    ("crl", "verify"),
    [
        (CLIENTS.revoke(), "SUCCESS"),
        (CLIENTS.revoke(ALICE), "FAILED:certificate revoked"),
        (CLIENTS.revoke(end=NOW - DAY / 2), "FAILED:CRL has expired"),
        (STRANGERS.revoke(), "FAILED:unable to get certificate CRL"),
        (STRANGERS.revoke() + CLIENTS.revoke(ALICE), "FAILED:certificate revoked"),
    ],
    ids=["empty", "revoked", "expired", "another's", "two"],
)
async def test_revocation(crl, verify):
    async with asking(msgspec.structs.replace(AUTH, crl=crl)) as (proxy, _, seen):
        assert (await answered(proxy, ALICE))[0] == (200 if verify == "SUCCESS" else 400)
        assert seen.infos[0].verify == verify


@pytest.mark.parametrize(
    "auth",
    [ClientAuth(b""), ClientAuth(b"-----BEGIN CERTIFICATE-----\n"), ClientAuth(CLIENTS.pem, b"no list"), ClientAuth(CLIENTS.pem, CLIENTS.pem)],
    ids=["no-ca", "bad-ca", "bad-crl", "no-crl"],
)  # fmt: skip
async def test_what_can_not_be_verified_lets_nobody_in(auth, caplog):
    async with asking(auth) as (proxy, backend, _):
        with pytest.raises(ssl.SSLError):
            await answered(proxy, ALICE)
        assert (await answered(proxy, ALICE, sni="open.example"))[0] == 421
        assert (await answered(proxy, None, sni="open.example", to="open.example"))[0] == 200
        assert len(backend.requests) == 1
        proxy._errors.messages.clear()


async def test_host_can_not_get_around_sni():
    async with asking() as (proxy, backend, _):
        for sni in ("open.example", "unknown.example", None):
            for certificate in (ALICE, None):
                assert (await answered(proxy, certificate, sni=sni))[0] == 421
        assert not backend.requests
        assert (await answered(proxy, ALICE, to="open.example"))[0] == 200  # the other way round costs nobody anything


async def test_two_hosts_with_the_same_demand_share_a_connection():
    """What was verified for one is good for the other; a connection verified by other authorities is not."""
    others = ClientAuth(STRANGERS.pem)
    hosts = (
        host("a.example", client_auth=AUTH),
        host("b.example", client_auth=ClientAuth(CLIENTS.pem)),
        host("c.example", client_auth=others),
    )
    async with serving(*hosts) as (proxy, _):
        assert (await answered(proxy, ALICE, sni="a.example", to="b.example"))[0] == 200
        assert (await answered(proxy, ALICE, sni="a.example", to="c.example"))[0] == 421


async def test_wildcards_are_no_way_around():
    async with serving(host("*.example", client_auth=AUTH), host("open.example")) as (proxy, _):
        assert (await answered(proxy, ALICE, sni="open.example", to="x.example"))[0] == 421
        assert (await answered(proxy, ALICE, sni="y.example", to="x.example"))[0] == 200
        assert (await answered(proxy, None, sni="open.example", to="X.EXAMPLE.:443"))[0] == 421


async def test_a_change_of_authorities_ends_connections_after_one_request():
    async with asking() as (proxy, backend, _):
        wire = await opened(proxy, "closed.example", client_context(certificate=ALICE))
        assert (await wire.get("closed.example"))[1].get("connection") is None
        changed: RoutingTable = with_tls(
            table([backend], id="t2"), [host("closed.example", client_auth=ClientAuth(CLIENTS.pem + STRANGERS.pem))]
        )
        proxy.plane.swap(changed)
        status, fields, _ = await wire.get("closed.example")
        assert (status, fields.get("connection")) == (200, "close")
        wire.close()


async def test_a_demand_that_is_new_holds_for_open_connections():
    async with asking() as (proxy, backend, _):
        wire = await opened(proxy, "open.example")
        assert (await wire.get("open.example"))[0] == 200
        proxy.plane.swap(with_tls(table([backend], id="t2"), [host("open.example", client_auth=AUTH)]))
        assert (await wire.get("open.example"))[0] == 421
        wire.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_nothing_is_resumed(version):
    context = client_context(certificate=ALICE, maximum=version)
    async with asking() as (proxy, _, seen):
        session = None
        for _ in range(2):
            wire = await opened(proxy, "closed.example", context, session)
            assert (await wire.get("closed.example"))[0] == 200
            assert not wire.tls.session_reused
            session = wire.tls.session
            await wire.notify()
            wire.close()
        assert [identity.verify for identity in seen.infos] == ["SUCCESS"] * 2


async def test_big_bodies_and_small_steps():
    async with asking() as (proxy, backend, _):
        context = client_context(certificate=ALICE)
        wire = await opened(proxy, "closed.example", context, step=3)
        assert (await wire.get("closed.example"))[2] == b"hello"
        wire.step = 1 << 20
        body = bytes(range(256)) * 3000
        await wire.send(b"POST / HTTP/1.1\r\nHost: closed.example\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await wire.response())[0] == 200
        assert backend.requests[-1].body == body
        await wire.notify()
        assert await wire.read() == b""
        assert wire.ended
        wire.close()


async def test_alpn_versions_and_ciphers():
    async with asking() as (proxy, _, _seen):
        wire = await opened(
            proxy,
            "closed.example",
            client_context(certificate=ALICE, alpn=["h2", "http/1.1"], maximum=ssl.TLSVersion.TLSv1_2),
        )
        assert wire.tls.selected_alpn_protocol() == "http/1.1"
        (connection,) = proxy.plane.client_connections
        info = connection.transport.get_extra_info("tls")
        assert (info.protocol, info.cipher, info.alpn, info.resumed, info.server_name) == (
            "TLSv1.2",
            wire.tls.cipher()[0],
            "http/1.1",
            False,
            "closed.example",
        )
        wire.close()
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"), pytest.warns(DeprecationWarning, match="TLS"):
            await opened(
                proxy,
                "closed.example",
                client_context(
                    minimum=ssl.TLSVersion.TLSv1_1, maximum=ssl.TLSVersion.TLSv1_1, ciphers="ALL:@SECLEVEL=0"
                ),
            )
        await until(lambda: not proxy.plane.openings)
