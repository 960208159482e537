"""What becomes of a request by its client's certificate."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from ingress.exchange import DirectResponse, Exchange, field_pieces
from ingress.middleware import client_certificate
from ingress.middleware.base import Scope
from ingress.routing.client_auth import NO_CERTIFICATE, ClientIdentity
from ingress.routing.https import ClientCertificate
from ingress.routing.table import HostPattern, PathType, Route, UpstreamKey
from tests.certificates import certificate

PEM = certificate("client").pem
PAGE = "https://login.test/denied"


@dataclass(frozen=True)
class Connection:
    client: ClientIdentity
    server_name: str = "a.test"
    host: None = None


ALICE = ClientIdentity("SUCCESS", 0, "CN=alice,O=Tests", "CN=root", PEM.encode())
SUCCESS = Connection(ALICE)
NONE = Connection(NO_CERTIFICATE)
FAILED = Connection(replace(ALICE, verify="FAILED:self-signed certificate", error=18))
EXPIRED = Connection(replace(ALICE, verify="FAILED:certificate has expired", error=10))


def ask(
    policy: ClientCertificate, tls: Any, fields: Any = (), ingress: str = "ing"
) -> tuple[DirectResponse | None, Exchange]:
    route = Route(HostPattern("a.test"), "/", PathType.PREFIX, "default", ingress, "web", "80", UpstreamKey("k"))
    hook = client_certificate.bind(policy, Scope(route, None, None, True)).request  # type: ignore[arg-type]
    assert hook is not None
    exchange = Exchange(None, "192.0.2.1", b"https", b"", b"GET", b"/", field_pieces(fields))  # type: ignore[arg-type]
    exchange.host = b"a.test"
    exchange.tls = tls
    answer = hook(exchange)
    assert answer is None or isinstance(answer, DirectResponse)
    return answer, exchange


def status(policy: ClientCertificate, tls: Any) -> int:
    answer, _ = ask(policy, tls)
    return 200 if answer is None else answer.status


@pytest.mark.parametrize(
    ("verify", "success", "none", "failed"),
    [
        ("on", 200, 400, 400),
        ("optional", 200, 200, 400),
        ("optional_no_ca", 200, 200, 200),
        ("off", 200, 200, 200),
    ],
)
def test_verify(verify: str, success: int, none: int, failed: int) -> None:
    policy = ClientCertificate(verify)
    assert [status(policy, tls) for tls in (SUCCESS, NONE, FAILED)] == [success, none, failed]


def test_plain_http_is_not_asked_as_in_nginx() -> None:
    assert status(ClientCertificate(), None) == 200
    assert status(ClientCertificate(match_dn="CN=alice"), None) == 403


@pytest.mark.parametrize("tls", [NONE, FAILED])
def test_error_page(tls: Connection) -> None:
    answer, _ = ask(ClientCertificate(error_page=PAGE), tls)
    assert answer is not None
    assert (answer.status, answer.fields) == (302, ((b"Location", PAGE.encode()),))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("CN=alice", 200),
        ("CN=alice,", 200),
        ("CN=(bob|alice)", 200),
        ("CN=ali", 200),
        ("CN=Alice", 403),
        ("CN=bob", 403),
        ("CN=alice$", 403),
    ],
)
def test_the_name_is_searched_for(pattern: str, expected: int) -> None:
    assert status(ClientCertificate(match_dn=pattern), SUCCESS) == expected


def test_a_name_that_nobody_verified_does_not_come_so_far() -> None:
    assert status(ClientCertificate(match_dn="CN=alice"), FAILED) == 400
    assert status(ClientCertificate("optional", match_dn="CN=alice"), NONE) == 403


def test_only_an_unknown_authority_is_overlooked() -> None:
    """optional_no_ca: nginx lets exactly those faults pass."""
    assert status(ClientCertificate("optional_no_ca"), EXPIRED) == 400


def test_closed() -> None:
    for tls in (None, NONE, SUCCESS):
        assert status(ClientCertificate(closed=True), tls) == 403
    lost = ClientCertificate(closed_for=("default/loser",))
    assert status(lost, SUCCESS) == 200
    answer, _ = ask(lost, SUCCESS, ingress="loser")
    assert answer is not None
    assert answer.status == 403


def test_no_rule_but_that_others_are_closed_costs_nothing() -> None:
    policy = ClientCertificate("", closed_for=("default/loser",))
    route = Route(HostPattern("a.test"), "/", PathType.PREFIX, "default", "ing", "web", "80", UpstreamKey("k"))
    assert client_certificate.bind(policy, Scope(route, None, None, True)).request is None  # type: ignore[arg-type]
    answer, _ = ask(policy, SUCCESS, ingress="loser")
    assert answer is not None
    assert answer.status == 403


# ---- what the endpoint hears ----

SPOOFED = [
    (b"SSL-Client-Cert", b"evil"),
    (b"ssl-client-verify", b"SUCCESS"),
    (b"Ssl-Client-Subject-DN", b"CN=root"),
    (b"ssl-client-issuer-dn", b"CN=root"),
    (b"Accept", b"*/*"),
]


def heard(policy: ClientCertificate, tls: Any) -> dict[bytes, bytes]:
    answer, exchange = ask(policy, tls, SPOOFED)
    assert answer is None
    pairs = list(zip(exchange.fields[::4], exchange.fields[2::4], strict=True))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_headers() -> None:
    assert heard(ClientCertificate(), SUCCESS) == {
        b"Accept": b"*/*",
        b"ssl-client-verify": b"SUCCESS",
        b"ssl-client-subject-dn": b"CN=alice,O=Tests",
        b"ssl-client-issuer-dn": b"CN=root",
    }


def test_the_certificate_goes_along_when_asked_for() -> None:
    found = heard(ClientCertificate("optional_no_ca", forward=True), FAILED)
    assert found[b"ssl-client-verify"] == b"FAILED:self-signed certificate"
    assert found[b"ssl-client-cert"].startswith(b"-----BEGIN%20CERTIFICATE-----%0A")
    assert found[b"ssl-client-cert"].endswith(b"-----END%20CERTIFICATE-----%0A")
    assert b"ssl-client-cert" not in heard(ClientCertificate(), SUCCESS)


def test_nobody_passes_as_somebody_else() -> None:
    assert heard(ClientCertificate("optional", forward=True), NONE) == {
        b"Accept": b"*/*",
        b"ssl-client-verify": b"NONE",
    }
    assert heard(ClientCertificate("optional"), None) == {b"Accept": b"*/*"}
    assert heard(ClientCertificate("off"), NONE) == {b"Accept": b"*/*", b"ssl-client-verify": b"NONE"}


def test_names_bring_no_line_of_their_own() -> None:
    found = heard(
        ClientCertificate(), Connection(replace(ALICE, subject="CN=a\r\nX-Admin: yes\0\x7f", issuer="CN=é\ud800"))
    )
    assert found[b"ssl-client-subject-dn"] == b"CN=a??X-Admin: yes??"
    assert found[b"ssl-client-issuer-dn"] == "CN=é?".encode()
