"""Which TLS host a name belongs to, where aliases and twins come in: a client certificate that a host demands holds for its aliases too."""

import pytest

from ingress.routing.table import HostAlias, HostPattern, HostRoutes, RoutingTable
from ingress.routing.tls import CertificateKey, ClientAuth, TLSHost
from ingress.tls.choice import Standing, known_host, standing, tls_host

A, WILD, ANY, TWIN = HostPattern("a.test"), HostPattern("*.wild.test"), HostPattern(""), HostPattern("www.a.test")
AUTH = ClientAuth(b"ca")
GUARDED = TLSHost(A, (CertificateKey("a"),), AUTH, ciphers="X")
TABLE = RoutingTable(
    hosts={
        A: HostRoutes(A, ()),
        WILD: HostRoutes(WILD, ()),
        TWIN: HostRoutes(TWIN, (), twin_of=A),
        HostPattern("plain.test"): HostRoutes(HostPattern("plain.test"), ()),
    },
    tls_hosts={A: GUARDED, WILD: TLSHost(WILD, (CertificateKey("w"),)), ANY: TLSHost(ANY)},
    aliases={
        HostPattern(name): HostAlias(HostPattern(name), host, rank)
        for rank, (name, host) in enumerate(
            {
                "b.test": A,
                "x.wild.test": A,
                "*.c.test": A,
                "d.test": WILD,
                "p.test": HostPattern("plain.test"),
                "~evil": A,
            }.items()
        )
    },
)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("a.test", A),
        ("b.test", A),
        ("x.wild.test", A),
        ("y.wild.test", WILD),
        ("z.c.test", A),
        ("d.test", WILD),
        ("very-evil.test", A),
        ("other.test", ANY),
        ("", ANY),
    ],
)
def test_tls_host(name: str, host: HostPattern) -> None:
    found = tls_host(TABLE, name)
    assert found is TABLE.tls_hosts[host]


@pytest.mark.parametrize("name", ["plain.test", "p.test"])
def test_a_host_without_tls_has_none(name: str) -> None:
    assert tls_host(TABLE, name) is None
    assert known_host(TABLE, name)


def test_a_twin_shows_the_certificate_of_its_twin_and_asks_for_none() -> None:
    assert tls_host(TABLE, "www.a.test") == TLSHost(TWIN, GUARDED.certificates, None, "X")


def test_an_alias_is_no_way_around_a_client_certificate() -> None:
    open_host = TABLE.tls_hosts[ANY]
    for name in ("a.test", "b.test", "z.c.test", "evil.test"):
        assert standing(TABLE, name, open_host) is Standing.MISDIRECTED
        assert standing(TABLE, name, GUARDED) is Standing.GOOD
    assert standing(TABLE, "www.a.test", open_host) is Standing.GOOD  # it only redirects
    assert standing(TABLE, "d.test", open_host) is Standing.GOOD
