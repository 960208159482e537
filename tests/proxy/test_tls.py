"""HTTPS listeners in process: what a request sees of TLS, who gets which certificate, what isn't TLS, how connections end."""

import ssl

import msgspec

from ingress.routing.table import RoutingTable
from ingress.routing.tls import HostPattern, TLSHost
from tests.proxy.support import Proxy, answer, table
from tests.tls.support import Authority, root

ROOT = root()
DEFAULT = ROOT.sign("default", ["default.example"])


def with_tls(
    plain: RoutingTable, *hosts: tuple[str, Authority], default: Authority | None = DEFAULT, **changes: object
) -> RoutingTable:
    made = {name: authority.for_table() for name, authority in hosts}
    certificates = {certificate.key: certificate for certificate in made.values()}
    if default is not None:
        certificates[default.for_table().key] = default.for_table()
    return msgspec.structs.replace(
        plain,
        certificates=certificates,
        tls_hosts={HostPattern(n): TLSHost(HostPattern(n), (c.key,)) for n, c in made.items()},
        default_certificate=None if default is None else default.for_table().key,
        **changes,
    )


def trusting(authority: Authority = ROOT, *, verify: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def test_a_request_over_tls() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend(answer(b"hello"))
        proxy.plane.swap(with_tls(table([backend])))
        client = await proxy.client(tls=trusting(), server_name="default.example")
        for _ in range(3):
            response = await client.get("/")
            assert response.status == 200
            assert response.body == b"hello"
        assert backend.requests[0].value("x-forwarded-proto") == b"https"
        assert proxy.metrics.tls_connections_open == 1


async def test_big_bodies() -> None:
    body = bytes(range(256)) * 40_000
    async with Proxy() as proxy:
        backend = await proxy.backend(answer(body))
        proxy.plane.swap(with_tls(table([backend])))
        client = await proxy.client(tls=trusting(), server_name="default.example")
        for _ in range(3):
            response = await client.get("/")
            assert response.body == body
