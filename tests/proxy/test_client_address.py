"""Who a request is taken to come from: the decision alone, then what endpoints, hashes and the log see of it."""

import asyncio
import dataclasses
import socket
import ssl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import ClientSettings, ProxySettings
from ingress.proxy.client_address import ClientRules, Hop, client_of, is_host, port_of, scheme_of
from ingress.proxy.proxy_protocol import NOBODY, ProxyHeader
from ingress.routing.networks import NetworkSet
from ingress.routing.table import AffinityMode, Balancing, CookieAffinity, LoadBalance, RoutingTable
from ingress.routing.tls import HostPattern, TLSHost
from ingress.variables.parse import Part, Variable
from tests.proxy.support import Backend, BackendConnection, Client, Proxy, Request, one_backend, routes, table, until
from tests.tls.support import root

ROOT = root()
EVERYBODY = ("0.0.0.0/0", "::/0")
FRONTS = NetworkSet(["10.0.0.0/8", "2001:db8:f::/48", "127.0.0.1"])


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("10.0.0.1", [b" , ,"], "10.0.0.1"),
        ("10.0.0.1", [b"192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", [b"198.51.100.7, 192.0.2.1"], "192.0.2.1"),  # the left one may be the client's invention
        ("10.0.0.1", [b"198.51.100.7, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", [b"198.51.100.7,192.0.2.1 10.0.0.2,"], "192.0.2.1"),
        ("10.0.0.1", [b"198.51.100.7", b"192.0.2.1", b"10.0.0.2"], "192.0.2.1"),  # several lines are one list
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all trusted: the first
        ("10.0.0.1", [b"192.0.2.1:1234"], "192.0.2.1"),
        ("10.0.0.1", [b"[2001:db8::1]:1234"], "2001:db8::1"),
        ("10.0.0.1", [b"[2001:DB8:0::1]"], "2001:db8::1"),
        ("10.0.0.1", [b"2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", [b"::ffff:192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", [b"192.0.2.9, 2001:db8:f::1"], "192.0.2.9"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1"),
        ("10.0.0.1", [b"192.0.2.9, unknown"], "10.0.0.1"),  # nothing left of junk is reached
        ("10.0.0.1", [b"unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"192.0.2.9, 10.0.0.2, \xff\xfe, 10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", [b"192.0.2.1:99999"], "10.0.0.1"),
        ("10.0.0.1", [b"192.0.2.1:http"], "10.0.0.1"),
        ("10.0.0.1", [b"[192.0.2.1]"], "10.0.0.1"),
        ("10.0.0.1", [b"[2001:db8::1"], "10.0.0.1"),
        ("10.0.0.1", [b"[2001:db8::1]x"], "10.0.0.1"),
        ("10.0.0.1", [b"fe80::1%eth0"], "10.0.0.1"),
        ("10.0.0.1", [b"192.0.2.1, " + b"10.0.0.2, " * 63], "192.0.2.1"),
        ("10.0.0.1", [b"192.0.2.1, " + b"10.0.0.2, " * 64], "10.0.0.2"),  # nobody has so many proxies
        ("10.0.0.1", [b"," * 100_000], "10.0.0.1"),
    ],
)
def test_walk(peer: str, chain: list[bytes], client: str) -> None:
    assert client_of(peer, chain, FRONTS) == client


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_walk_takes_anything(chain: list[bytes]) -> None:
    client = client_of("10.0.0.1", chain, FRONTS)
    assert client == "10.0.0.1" or client.encode() != b""
    client_of("10.0.0.1", chain, NetworkSet(EVERYBODY))


def test_schemes_ports_hosts() -> None:
    assert [scheme_of(v) for v in (b"HTTPS", b"myproto", b"", b"1http", b"ht tp", b"x" * 17, b"a\xff")] == [
        *(b"https", b"myproto", b"", b"", b"", b"", b"")
    ]
    assert [port_of(v) for v in (b"443", b"0", b"65536", b"-1", b"x", b"", b"999999")] == [443, 0, 0, 0, 0, 0, 0]
    assert [is_host(v) for v in (b"a.example", b"a:8080", b"[::1]:80", b"", b":80", b"a b", b"a@b", b"x" * 256)] == [
        *(True, True, True, False, False, False, False, False)
    ]


# ---- connections --------------------------------------------------------------------------------------------------

HEADER = ProxyHeader("192.0.2.7", 5000, "203.0.113.1", 443)


@pytest.mark.parametrize(
    ("peer", "header", "hop"),
    [
        ("10.0.0.1", None, ("10.0.0.1", 8080, "http")),
        ("10.0.0.1", NOBODY, ("10.0.0.1", 8080, "http")),  # a health check of the balancer
        ("10.0.0.1", HEADER, ("192.0.2.7", 443, "https")),
        ("10.0.0.1", HEADER._replace(destination_port=1234), ("192.0.2.7", 1234, "http")),
        ("192.0.2.66", HEADER, ("192.0.2.66", 8080, "http")),  # nobody asked him
    ],
)
def test_hop(peer: str, header: ProxyHeader | None, hop: tuple[str, int, str]) -> None:
    rules = ClientRules(ClientSettings(proxy_protocol=True, trusted_networks=("10.0.0.0/8",)))
    found = rules.hop(peer, 8080, "http", header)
    assert (found.address, found.port, found.scheme) == hop


@pytest.mark.parametrize(
    ("settings", "peer", "settles"),
    [
        (ClientSettings(), "10.0.0.1", False),
        (ClientSettings(proxy_protocol=True), "10.0.0.1", False),
        (ClientSettings(forwarded_headers=True), "10.0.0.1", True),
        (ClientSettings(real_ip=True), "10.0.0.1", True),
        (ClientSettings(forwarded_headers=True), "2001:db8::1", False),  # the default has IPv4 alone, as in nginx
        (ClientSettings(forwarded_headers=True, trusted_networks=()), "10.0.0.1", False),
        (ClientSettings(forwarded_headers=True, trusted_networks=("10.0.0.0/8",)), "192.0.2.1", False),
    ],
)
def test_who_settles(settings: ClientSettings, peer: str, settles: bool) -> None:
    rules = ClientRules(settings)
    assert (rules.resolver(Hop(peer, 80, "http")) is not None) is settles


# ---- end to end ---------------------------------------------------------------------------------------------------

TRUSTING = ClientSettings(forwarded_headers=True, trusted_networks=EVERYBODY)


def about_the_client(request: Request) -> dict[str, bytes]:
    names = ("x-real-ip", "x-forwarded-for", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-scheme", "x-scheme")
    names += ("x-forwarded-host", "host", "x-original-forwarded-for", "x-original-forwarded-host")
    return {name: b", ".join(request.values(name)) or b"-" for name in names}


async def seen(client: ClientSettings, *fields: str, host: str = "a") -> tuple[dict[str, bytes], Proxy]:
    async with one_backend(client=client) as (proxy, backend):
        answered = await (await proxy.client()).get("/", host, *fields)
        assert answered.status == 200
        return about_the_client(backend.requests[0]), proxy


FORWARDED = (
    "X-Forwarded-Port: 1234",
    "X-Forwarded-Proto: myproto",
    "X-Forwarded-Scheme: other",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-Host: myhost",
)


async def test_forwarded_headers_of_a_trusted_peer() -> None:
    """ingress-nginx: use-forwarded-headers true."""
    fields, proxy = await seen(TRUSTING, *FORWARDED)
    assert fields == {
        "x-real-ip": b"1.2.3.4",
        "x-forwarded-for": b"1.2.3.4",
        "x-forwarded-port": b"1234",
        "x-forwarded-proto": b"myproto",
        "x-forwarded-scheme": b"myproto",
        "x-scheme": b"myproto",
        "x-forwarded-host": b"myhost",
        "host": b"myhost",
        "x-original-forwarded-for": b"1.2.3.4",
        "x-original-forwarded-host": b"myhost",
    }
    assert proxy.log.records[0].remote_addr == "1.2.3.4"


@pytest.mark.parametrize(
    "client",
    [
        ClientSettings(),
        dataclasses.replace(TRUSTING, trusted_networks=("10.0.0.0/8",)),
        dataclasses.replace(TRUSTING, trusted_networks=()),
    ],
    ids=["off", "other-networks", "nobody"],
)
async def test_nothing_is_believed_of_others(client: ClientSettings) -> None:
    """ingress-nginx: use-forwarded-headers false. With it, but from an untrusted peer, ingress-nginx believes all but the address."""
    fields, proxy = await seen(client, *FORWARDED)
    assert fields == {
        "x-real-ip": b"127.0.0.1",
        "x-forwarded-for": b"127.0.0.1",
        "x-forwarded-port": str(proxy.port).encode(),
        "x-forwarded-proto": b"http",
        "x-forwarded-scheme": b"http",
        "x-scheme": b"http",
        "x-forwarded-host": b"a",
        "host": b"a",
        "x-original-forwarded-for": b"1.2.3.4",
        "x-original-forwarded-host": b"myhost",
    }
    assert proxy.log.records[0].remote_addr == "127.0.0.1"


async def test_real_ip_believes_the_address_alone() -> None:
    """ingress-nginx: enable-real-ip true."""
    fields, proxy = await seen(ClientSettings(real_ip=True), *FORWARDED)
    assert fields["x-forwarded-for"] == fields["x-real-ip"] == b"1.2.3.4"
    assert fields["x-forwarded-host"] == fields["host"] == b"a"
    assert fields["x-forwarded-proto"] == b"http"
    assert fields["x-forwarded-port"] == str(proxy.port).encode()


async def test_the_first_of_several() -> None:
    fields, _ = await seen(
        TRUSTING,
        "X-Forwarded-Host: myhost.com, another.host,example.net",
        "X-Forwarded-Proto: HTTPS, http",
        "X-Forwarded-Port: 443, 8080",
    )
    assert (fields["x-forwarded-host"], fields["x-forwarded-proto"]) == (b"myhost.com", b"https")
    assert fields["x-forwarded-port"] == b"443"


@pytest.mark.parametrize(
    ("field", "name", "expected"),
    [
        ("X-Forwarded-Proto: ht tp", "x-forwarded-proto", b"http"),
        ("X-Forwarded-Proto:", "x-forwarded-proto", b"http"),
        ("X-Forwarded-Host: my host", "x-forwarded-host", b"a"),
        ("X-Forwarded-Host: ,x", "x-forwarded-host", b"a"),
        ("X-Forwarded-Host: a@b", "host", b"a"),
        ("X_Forwarded_For: 1.2.3.4", "x-real-ip", b"127.0.0.1"),
        ("X-Forwarded-For: \xff", "x-real-ip", b"127.0.0.1"),
    ],
)
async def test_junk_of_a_trusted_peer(field: str, name: str, expected: bytes) -> None:
    fields, _ = await seen(TRUSTING, field)
    assert fields[name] == expected


async def test_junk_port_of_a_trusted_peer() -> None:
    fields, proxy = await seen(TRUSTING, "X-Forwarded-Port: 0")
    assert fields["x-forwarded-port"] == str(proxy.port).encode()


async def test_full_forwarded_for() -> None:
    full = dataclasses.replace(TRUSTING, full_forwarded_for=True, trusted_networks=("127.0.0.0/8", "10.0.0.0/8"))
    fields, _ = await seen(full, "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.9", "X-Forwarded-For: 10.0.0.8")
    assert fields["x-forwarded-for"] == b"6.6.6.6, 1.2.3.4, 10.0.0.9, 10.0.0.8, 127.0.0.1"
    assert fields["x-real-ip"] == b"1.2.3.4"
    fields, _ = await seen(full)
    assert fields["x-forwarded-for"] == fields["x-real-ip"] == b"127.0.0.1"
    fields, _ = await seen(full, "X-Forwarded-For: \xff\xfe")
    assert fields["x-forwarded-for"] == b"\xff\xfe, 127.0.0.1"
    # Not of others: an application that takes the first entry would believe anybody.
    fields, _ = await seen(dataclasses.replace(full, trusted_networks=("10.0.0.0/8",)), "X-Forwarded-For: 6.6.6.6")
    assert fields["x-forwarded-for"] == b"127.0.0.1"
    # Without use-forwarded-headers it means nothing.
    fields, _ = await seen(ClientSettings(full_forwarded_for=True), "X-Forwarded-For: 6.6.6.6")
    assert fields["x-forwarded-for"] == b"127.0.0.1"


async def test_another_header_for_the_address() -> None:
    client = dataclasses.replace(TRUSTING, forwarded_for_header="CF-Connecting-IP")
    fields, _ = await seen(client, "cf-connecting-ip: 1.2.3.4", "X-Forwarded-For: 6.6.6.6")
    assert fields["x-real-ip"] == fields["x-forwarded-for"] == fields["x-original-forwarded-for"] == b"1.2.3.4"
    fields, _ = await seen(client, "X-Forwarded-For: 6.6.6.6")
    assert (fields["x-real-ip"], fields["x-original-forwarded-for"]) == (b"127.0.0.1", b"-")
    # A client behind a front that passes Connection on can't hide behind the front's address.
    fields, _ = await seen(client, "CF-Connecting-IP: 1.2.3.4", "Connection: cf-connecting-ip")
    assert fields["x-real-ip"] == b"1.2.3.4"


async def test_routes_are_chosen_by_host_not_by_what_a_front_says() -> None:
    async with Proxy(client=TRUSTING) as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(routes({"/": [backend]}, host="a"))
        client = await proxy.client()
        assert (await client.get("/", "a", "X-Forwarded-Host: b")).status == 200
        assert (await client.get("/", "b", "X-Forwarded-Host: a")).status == 404
        assert (await client.get("/", "a")).status == 200  # nothing is left of the request before
        assert [request.value("host") for request in backend.requests] == [b"b", b"a"]


async def test_hashes_and_affinity_go_by_the_settled_address() -> None:
    by_client = Balancing(LoadBalance.CONSISTENT_HASH, (Part(Variable.REMOTE_ADDR),))
    async with Proxy(client=TRUSTING) as proxy:
        one, other = await proxy.backend(name="one"), await proxy.backend(name="other")
        proxy.serve(one, other, balancing=by_client)
        client = await proxy.client()
        chosen = {}
        for number in range(32):
            address = f"192.0.2.{number}"
            answers = {(await client.get("/", "a", f"X-Forwarded-For: {address}")).body for _ in range(2)}
            assert len(answers) == 1
            chosen[address] = answers.pop()
        assert len(set(chosen.values())) == 2


async def test_our_cookies_are_secure_where_the_front_speaks_https() -> None:
    sticky = Balancing(affinity=AffinityMode.COOKIE, cookie=CookieAffinity())
    async with one_backend(client=TRUSTING, balancing=sticky) as (proxy, _):
        client = await proxy.client()
        for proto, secure in (("https", True), ("http", False)):
            cookie = (await client.get("/", "a", f"X-Forwarded-Proto: {proto}")).value("set-cookie") or b""
            assert (b"Secure" in cookie) is secure, cookie


async def test_options_change_while_connections_are_open() -> None:
    """A connection keeps those it was accepted with; the next has the new ones."""
    async with one_backend() as (proxy, backend):
        old = await proxy.client()
        await old.get("/", "a", "X-Forwarded-For: 1.2.3.4")
        before = proxy.plane.forwarder.snapshot
        assert before is not None
        table = before.table
        trusting = dataclasses.replace(proxy.settings, client=TRUSTING)
        proxy.plane.swap(RoutingTable("t2", table.hosts, table.upstreams, settings=trusting))
        new = await proxy.client()
        for client in (old, new):
            await client.get("/", "a", "X-Forwarded-For: 1.2.3.4")
        assert [r.value("x-real-ip") for r in backend.requests] == [b"127.0.0.1", b"127.0.0.1", b"1.2.3.4"]


# ---- PROXY headers ------------------------------------------------------------------------------------------------

PROXY = ClientSettings(proxy_protocol=True)


async def announced(header: bytes, *fields: str, client: ClientSettings = PROXY) -> dict[str, bytes]:
    async with one_backend(client=client) as (proxy, backend):
        connection = await proxy.client()
        await connection.send(header)
        assert (await connection.get("/", "a", *fields)).status == 200
        assert (await connection.get("/again", "a", *fields)).status == 200
        first, second = map(about_the_client, backend.requests)
        assert first == second
        return first


async def test_port_and_address_of_the_header() -> None:
    """ingress-nginx: "should respect port passed by the PROXY Protocol"."""
    fields = await announced(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 1234\r\n")
    assert (fields["x-forwarded-port"], fields["x-forwarded-proto"]) == (b"1234", b"http")
    assert fields["x-forwarded-for"] == fields["x-real-ip"] == b"192.168.0.1"


async def test_scheme_of_the_headers_port() -> None:
    """ingress-nginx: "should respect proto passed by the PROXY Protocol server port"."""
    fields = await announced(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n")
    assert (fields["x-forwarded-port"], fields["x-forwarded-proto"]) == (b"443", b"https")


async def test_header_of_an_untrusted_peer() -> None:
    client = dataclasses.replace(PROXY, trusted_networks=("10.0.0.0/8",))
    fields = await announced(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", client=client)
    assert (fields["x-real-ip"], fields["x-forwarded-proto"]) == (b"127.0.0.1", b"http")


async def test_health_checks_of_the_balancer() -> None:
    for header in (b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"):
        assert (await announced(header))["x-real-ip"] == b"127.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "address"),
    [(("127.0.0.1",), b"192.168.0.1"), (("127.0.0.1", "192.168.0.1"), b"192.168.0.111")],
)
async def test_forwarded_headers_behind_a_header(trusted: tuple[str, ...], address: bytes) -> None:
    """ingress-nginx: "when use-forwarded-headers setting is true": the header's client must be trusted as well."""
    client = dataclasses.replace(PROXY, forwarded_headers=True, trusted_networks=trusted)
    fields = await announced(
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 1234\r\n", "X-Forwarded-For: 192.168.0.111", client=client
    )
    assert fields["x-real-ip"] == address
    assert fields["x-forwarded-port"] == b"1234"


async def test_full_forwarded_for_behind_a_header() -> None:
    client = dataclasses.replace(PROXY, forwarded_headers=True, full_forwarded_for=True)
    fields = await announced(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "X-Forwarded-For: 1.2.3.4", client=client)
    assert fields["x-forwarded-for"] == b"1.2.3.4, 10.0.0.1"


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_header_in_pieces(step: int) -> None:
    async with one_backend(client=PROXY) as (proxy, backend):
        connection = await proxy.client()
        await connection.trickle(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", step)
        assert (await connection.response()).status == 200
        assert backend.requests[0].value("x-real-ip") == b"2001:db8::1"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PROXY TCP4 x\r\n", b"\x16\x03\x01"])
async def test_connections_without_a_header_are_closed(data: bytes) -> None:
    async with one_backend(client=PROXY) as (proxy, backend):
        connection = await proxy.client()
        await connection.send(data)
        assert await connection.closed()
        assert not backend.requests
        await until(lambda: not proxy.plane.headers.waiting, "forgotten")


async def test_a_header_must_come_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async with one_backend(client=dataclasses.replace(PROXY, proxy_protocol_timeout_s=0.05)) as (proxy, _):
        connections = [await proxy.client() for _ in range(3)]
        await connections[0].send(b"PROXY TCP4 ")
        for connection in connections:
            assert await connection.closed()
        warnings = [r.message for r in caplog.records if "PROXY header" in r.message]
        assert len(warnings) == 1  # not one for each


async def test_clients_that_leave_before_their_header() -> None:
    async with one_backend(client=PROXY) as (proxy, _):
        for leave in ("close", "reset"):
            connection = await proxy.client()
            await connection.send(b"PROXY ")
            await until(lambda: proxy.plane.headers.waiting, "accepted")
            getattr(connection, leave)()
            await until(lambda: not proxy.plane.headers.waiting, "forgotten")


async def test_switched_on_and_off_while_serving() -> None:
    async with one_backend() as (proxy, backend):
        before = proxy.plane.forwarder.snapshot
        assert before is not None
        table = before.table

        def switch(number: int, on: bool) -> None:
            client = dataclasses.replace(proxy.settings.client, proxy_protocol=on)
            settings: ProxySettings = dataclasses.replace(proxy.settings, client=client)
            proxy.plane.swap(RoutingTable(f"s{number}", table.hosts, table.upstreams, settings=settings))

        plain = await proxy.client()
        assert (await plain.get()).status == 200
        switch(1, True)
        new = await proxy.client()
        await new.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        assert (await new.get()).status == 200
        assert (await plain.get()).status == 200  # it is what it was
        switch(2, False)
        assert (await (await proxy.client()).get()).status == 200
        assert [r.value("x-real-ip") for r in backend.requests] == [
            *(b"127.0.0.1", b"192.0.2.1", b"127.0.0.1", b"127.0.0.1")
        ]


# ---- PROXY headers in front of TLS --------------------------------------------------------------------------------


async def connect_tls(proxy: Proxy, header: bytes) -> Client:
    sock = socket.socket()
    sock.setblocking(False)
    await proxy.loop.sock_connect(sock, ("127.0.0.1", proxy.tls_port))
    await proxy.loop.sock_sendall(sock, header)
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    client = Client(*await asyncio.open_connection(sock=sock, ssl=context, server_hostname="a.example"))
    proxy.clients.append(client)
    return client


def over_tls(backend: Backend) -> RoutingTable:
    certificate = ROOT.sign("a", ["a.example"]).for_table()
    return msgspec.structs.replace(
        table([backend]), certificates={certificate.key: certificate}, default_certificate=certificate.key
    )


async def test_header_in_front_of_tls() -> None:
    """ingress-nginx: "should enable PROXY Protocol for HTTPS"."""
    async with Proxy(client=PROXY) as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(over_tls(backend))
        client = await connect_tls(proxy, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 1234\r\n")
        assert (await client.get("/", "a.example")).status == 200
        fields = about_the_client(backend.requests[0])
        assert (fields["x-forwarded-port"], fields["x-forwarded-proto"], fields["x-scheme"]) == (
            *(b"1234", b"https", b"https"),
        )
        assert fields["x-forwarded-for"] == b"192.168.0.1"


async def test_forwarded_headers_over_tls() -> None:
    async with Proxy(client=TRUSTING) as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(over_tls(backend))
        client = await connect_tls(proxy, b"")
        assert (await client.get("/", "a.example", "X-Forwarded-For: 1.2.3.4")).status == 200
        assert (await client.get("/", "a.example", "X-Forwarded-Proto: http")).status == 200
        first, second = map(about_the_client, backend.requests)
        # The Service's port, not the container's: as ingress-nginx has it.
        assert (first["x-forwarded-port"], first["x-forwarded-proto"], first["x-real-ip"]) == (
            *(b"443", b"https", b"1.2.3.4"),
        )
        assert second["x-forwarded-proto"] == b"http"


async def test_tls_without_the_header() -> None:
    async with Proxy(client=PROXY) as proxy:
        proxy.plane.swap(over_tls(await proxy.backend()))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect_tls(proxy, b"")


async def test_header_in_front_of_what_is_passed_through() -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.send(await connection.reader.read(5))

    async with Proxy(client=PROXY) as proxy:
        backend = await proxy.backend(script)
        made = table([backend])
        (key,) = made.upstreams
        host = TLSHost(HostPattern("a.example"), passthrough=key)
        proxy.plane.swap(msgspec.structs.replace(made, tls_hosts={host.host: host}))
        with pytest.raises((ssl.SSLError, ConnectionError)):  # the endpoint speaks no TLS: it sends back what it got
            await connect_tls(proxy, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n")
        await until(lambda: proxy.log.records, "logged")
        (record,) = proxy.log.records
        assert (record.remote_addr, record.version, record.body_bytes_sent) == ("192.168.0.1", b"TCP", 5)
