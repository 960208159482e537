"""Contexts: made when asked for, kept by content, bounded, forgotten with their certificates."""

import dataclasses
import ssl
from collections.abc import Callable

import msgspec
import pytest

from ingress.config import TLSSettings
from ingress.routing.table import HostRoutes, RoutingTable
from ingress.routing.tls import CertificateKey, ClientAuth, HostPattern, TLSHost
from ingress.tls import contexts
from ingress.tls.choice import Standing, known_host, standing, tls_host, wildcard_of
from ingress.tls.contexts import Contexts, Refusal, StandardContext, limit_protocols
from tests.tls.support import Authority, root

ROOT = root()
A, B, DEFAULT = ROOT.sign("a"), ROOT.sign("b"), ROOT.sign("default")
SETTINGS = TLSSettings()


def table(hosts: dict[str, Authority | None], default: Authority | None = DEFAULT, **changes: TLSHost) -> RoutingTable:
    certificates = {c.key: c for c in (a.for_table() for a in (*hosts.values(), default) if a is not None)}
    made = {
        HostPattern(name): TLSHost(HostPattern(name), () if one is None else (one.for_table().key,))
        for name, one in hosts.items()
    }
    made |= {host.host: host for host in changes.values()}
    return RoutingTable(
        certificates=certificates,
        tls_hosts=made,
        default_certificate=None if default is None else default.for_table().key,
    )


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def using(one: RoutingTable, settings: TLSSettings = SETTINGS, clock: Callable[[], float] = lambda: 0.0) -> Contexts:
    found = Contexts(clock)
    found.use(one, settings)
    return found


def chosen(found: Contexts, name: str) -> StandardContext:
    context = found.choose(name, found.host(name))
    assert isinstance(context, StandardContext)
    return context


@pytest.mark.parametrize(
    ("name", "wildcard"), [("a.b.c", "*.b.c"), ("a.b", "*.b"), ("a", ""), ("", ""), ("a.", ""), (".b", "*.b")]
)
def test_wildcards(name: str, wildcard: str) -> None:
    assert wildcard_of(name) == wildcard


@pytest.mark.parametrize(
    ("hosts", "name", "found"),
    [
        (["a.b", "*.b"], "a.b", "a.b"),
        (["a.b", "*.b"], "c.b", "*.b"),
        (["a.b", "*.b"], "x.c.b", None),
        (["a.b", "*.b"], "b", None),
        (["a.b", ""], "c.d", ""),
        (["a.b", ""], "", ""),
        (["a.b"], "", None),
        (["*.b"], "*.b", "*.b"),  # no client can ask for it: no host is called so
    ],
)
def test_the_host_of_a_name(hosts: list[str], name: str, found: str | None) -> None:
    host = tls_host(table(dict.fromkeys(hosts)), name)
    assert (None if host is None else host.host) == found


def test_a_routed_host_is_not_any_host() -> None:
    one = table({"": A})
    routed = HostPattern("routed.example")
    one = msgspec.structs.replace(one, hosts={routed: HostRoutes(routed, ())})
    assert tls_host(one, "routed.example") is None
    assert known_host(one, "routed.example")
    assert not known_host(one, "other.example")
    assert not known_host(one, "")


def test_the_same_content_is_one_context() -> None:
    found = using(table({"a.example": A, "b.example": A, "c.example": B}))
    assert chosen(found, "a.example") is chosen(found, "b.example") is chosen(found, "a.example")
    assert chosen(found, "a.example") is not chosen(found, "c.example")
    first = chosen(found, "a.example")
    found.use(table({"new.example": A}), SETTINGS)
    assert chosen(found, "new.example") is first
    found.use(table({"new.example": A}), TLSSettings(session_tickets=True))
    assert chosen(found, "new.example") is not first


def test_nothing_is_made_before_it_is_asked_for() -> None:
    found = using(table({f"h{number}.example": A for number in range(50)}))
    assert not found._kept


def test_contexts_go_with_their_certificates() -> None:
    found = using(table({"a.example": A, "b.example": B}))
    kept = chosen(found, "b.example")
    chosen(found, "a.example")
    found.use(table({"b.example": B}), SETTINGS)
    assert [key[0] for key in found._kept] == [(B.for_table().key,)]
    assert chosen(found, "b.example") is kept


def test_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "CONTEXTS_LIMIT", 2)
    found = using(table({"a.example": A, "b.example": B}))
    a = chosen(found, "a.example")
    b = chosen(found, "b.example")
    assert chosen(found, "a.example") is a  # used again: the other one goes first
    chosen(found, "unknown")
    assert len(found._kept) == 2
    assert chosen(found, "a.example") is a
    assert chosen(found, "b.example") is not b


def test_sessions_end_with_their_time() -> None:
    clock = Time()
    found = using(table({}), TLSSettings(session_timeout_s=10), clock)
    first = chosen(found, "x")
    clock.now = 10.0
    assert chosen(found, "x") is first
    clock.now = 10.1
    second = chosen(found, "x")
    assert second is not first
    clock.now = 20.0
    assert chosen(found, "x") is second


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "SESSIONS_LIMIT", 3)
    found = using(table({}))
    first = chosen(found, "x")
    for _ in range(2):
        found.session_made()
    assert chosen(found, "x") is first
    found.session_made()
    assert chosen(found, "x") is not first


@pytest.mark.parametrize(
    ("protocols", "allowed"),
    [
        (("TLSv1.2", "TLSv1.3"), ("TLSv1.2", "TLSv1.3")),
        (("TLSv1.3", "TLSv1.2", "SSLv3"), ("TLSv1.2", "TLSv1.3")),
        (("TLSv1.3",), ("TLSv1.3",)),
        (("TLSv1", "TLSv1.2"), ("TLSv1", "TLSv1.2")),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl")
def test_protocols(protocols: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    limit_protocols(context, protocols)
    assert context.minimum_version == contexts.VERSIONS[allowed[0]]
    assert context.maximum_version == contexts.VERSIONS[allowed[-1]]
    gap = allowed == ("TLSv1", "TLSv1.2")
    assert bool(context.options & ssl.OP_NO_TLSv1_1) is gap


def test_no_protocol_at_all() -> None:
    with pytest.raises(ValueError, match="no TLS version"):
        limit_protocols(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ("SSLv3",))


@pytest.mark.parametrize(
    ("settings", "name", "reason", "alert"),
    [
        (TLSSettings(reject_unknown_hosts=True), "x.example", "unknown_host", 112),
        (TLSSettings(reject_unknown_hosts=True), "", "unknown_host", 112),
        (SETTINGS, "x.example", "no_certificate", 80),
        (TLSSettings(protocols=()), "a.example", "no_certificate", 80),
    ],
)
def test_refusals(settings: TLSSettings, name: str, reason: str, alert: int) -> None:
    found = using(table({"a.example": A}, None), settings)
    with pytest.raises(Refusal) as caught:
        found.choose(name, found.host(name))
    assert (caught.value.reason, caught.value.alert) == (reason, alert)


def test_ciphers_that_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    """A list that the controller's OpenSSL has taken and that of the worker doesn't know ends no handshake."""
    found = using(table({"a.example": A}), TLSSettings(ciphers="NONSENSE"))
    context = chosen(found, "a.example").context
    offered = {cipher["name"] for cipher in context.get_ciphers()}
    assert offered >= {*TLSSettings().ciphers.split(":")}
    assert "NONSENSE" in caplog.text


def test_what_is_broken_is_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    one = table({"a.example": A, "b.example": B})
    key = A.for_table().key
    one.certificates[key] = msgspec.structs.replace(one.certificates[key], chain=B.chain_pem)
    found = using(one)
    assert chosen(found, "a.example") is chosen(found, "a.example") is chosen(found, "unknown")
    assert len(caplog.records) == 1
    assert key in caplog.text
    assert "PRIVATE" not in caplog.text
    found.use(table({"a.example": A}), SETTINGS)
    assert chosen(found, "a.example") is not chosen(found, "unknown")


@pytest.mark.parametrize("client_auth", [None, ClientAuth(ROOT.pem)], ids=["standard", "client-auth"])
def test_ciphers_that_choose_none(caplog: pytest.LogCaptureFixture, client_auth: ClientAuth | None) -> None:
    """The handshake goes on with those of the defaults, whoever asked for them."""
    one = table(
        {"a.example": A}, by_host=TLSHost(HostPattern("a.example"), (A.for_table().key,), client_auth, "ECDHE-RSA-RC4")
    )
    contexts.usable_ciphers.cache_clear()  # what is said once
    found = using(one)
    found.choose("a.example", found.host("a.example"))
    assert "knows no cipher of the list ECDHE-RSA-RC4" in caplog.text


def test_global_ciphers_that_choose_none(caplog: pytest.LogCaptureFixture) -> None:
    contexts.usable_ciphers.cache_clear()
    found = using(table({"a.example": A}), dataclasses.replace(SETTINGS, ciphers="HIGH:!ALL"))
    names = [cipher["name"] for cipher in chosen(found, "a.example").context.get_ciphers()]
    assert "ECDHE-ECDSA-AES128-GCM-SHA256" in names
    assert chosen(found, "unknown") is not None
    assert len(caplog.records) == 1


def test_an_encrypted_key_asks_nobody() -> None:
    from cryptography.hazmat.primitives import serialization

    encrypted = A.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    one = table({"a.example": A})
    key = A.for_table().key
    one.certificates[key] = msgspec.structs.replace(one.certificates[key], private_key=encrypted)
    found = using(one)
    assert chosen(found, "a.example") is chosen(found, "unknown")


AUTH, OTHER = ClientAuth(b"one"), ClientAuth(b"two")


def asking(name: str, auth: ClientAuth | None) -> TLSHost:
    return TLSHost(HostPattern(name), client_auth=auth)


@pytest.mark.parametrize(
    ("hosts", "name", "negotiated", "found"),
    [
        ([asking("a", None)], "a", None, Standing.GOOD),
        ([asking("a", AUTH)], "b", None, Standing.GOOD),
        ([asking("a", AUTH)], "a", None, Standing.MISDIRECTED),
        ([asking("a", AUTH)], "a", asking("b", None), Standing.MISDIRECTED),
        ([asking("a", AUTH)], "a", asking("a", None), Standing.MISDIRECTED),
        ([asking("a", AUTH)], "a", asking("a", AUTH), Standing.GOOD),
        ([asking("a", AUTH)], "a", asking("b", ClientAuth(b"one")), Standing.GOOD),
        ([asking("a", AUTH)], "a", asking("a", OTHER), Standing.OUTDATED),
        ([asking("a", AUTH)], "a", asking("b", OTHER), Standing.MISDIRECTED),
        ([asking("a", None)], "a", asking("b", AUTH), Standing.GOOD),
        ([asking("*.x", AUTH)], "y.x", asking("*.x", AUTH), Standing.GOOD),
        ([asking("*.x", AUTH), asking("y.x", OTHER)], "y.x", asking("*.x", AUTH), Standing.MISDIRECTED),
        ([asking("", AUTH)], "whatever", None, Standing.MISDIRECTED),
    ],
)
def test_standing(hosts: list[TLSHost], name: str, negotiated: TLSHost | None, found: Standing) -> None:
    one = RoutingTable(tls_hosts={host.host: host for host in hosts})
    assert standing(one, name, negotiated) is found


def test_certificate_keys_are_part_of_nothing_that_is_printed() -> None:
    assert "PRIVATE" not in repr(table({"a.example": A}))
    assert CertificateKey(A.for_table().key) in repr(table({"a.example": A}))
