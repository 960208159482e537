"""The ConfigMap of TCP services: every form of an entry, every way to be wrong, and how it changes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import TranslateSettings
from ingress.errors import Severity, VerdictReason
from ingress.model import KubernetesObject, ObjectRef
from ingress.routing.table import AffinityMode, TCPService, UpstreamProtocol, apply_delta, diff_tables
from ingress.translate import Compilation, Compiler
from ingress.translate.tcp_services import Refused, Target, parse_target

from .build import compiled, config_map, ingress, path, reasons, rule, service, slice_of, state_of

WHERE = ("edge", "tcp")
PG = (
    service("pg", {"name": "sql", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"}, namespace="db"),
    slice_of("pg", "10.0.0.1", ports=[{"name": "sql", "port": 15432}], namespace="db"),
)


def with_map(data: dict[str, str], *objects: KubernetesObject, **settings: Any) -> Compilation:
    return compiled(config_map("tcp", data, "edge"), *(objects or PG), tcp_services=WHERE, **settings)


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("db/pg:5432", Target("db", "pg", 5432, "", False, False)),
        ("db/pg:sql", Target("db", "pg", 0, "sql", False, False)),
        ("db/pg:5432:PROXY", Target("db", "pg", 5432, "", True, False)),
        ("db/pg:5432:proxy:Proxy", Target("db", "pg", 5432, "", True, True)),
        ("db/pg:5432::PROXY", Target("db", "pg", 5432, "", False, True)),
        ("db/pg:5432:", Target("db", "pg", 5432, "", False, False)),
        (" db/pg:5432 ", Target("db", "pg", 5432, "", False, False)),
    ],
)
def test_forms(value: str, target: Target) -> None:
    assert parse_target(value) == target


@pytest.mark.parametrize(
    "value",
    [
        *("", "db", "db/pg", "pg:5432", "db/pg:", "db/pg:0", "db/pg:65536", "db/pg:-1", "db/pg:5 4", "/pg:1", "db/:1"),
        *("db/pg:1:PROX", "db/pg:1:PROXY:PROXY:PROXY", "db/pg/x:1", "DB/pg:1", "db/p_g:1", "db/pg:1:2", "db/pg:٣"),
    ],
)
def test_not_of_that_form(value: str) -> None:
    with pytest.raises(Refused):
        parse_target(value)
    result = with_map({"9000": value})
    (verdict,) = result.verdicts
    assert (verdict.object, verdict.field) == ("ConfigMap edge/tcp", "data.9000")
    assert (verdict.reason, verdict.severity) == (VerdictReason.INVALID_FIELD, Severity.ERROR)
    assert verdict.message.startswith("Its port stays closed: ")
    assert not result.table.tcp_services
    assert not result.table.upstreams


@given(st.text(max_size=40))
def test_any_text(value: str) -> None:
    try:
        parse_target(value)
    except Refused:
        pass


def test_a_service() -> None:
    result = with_map({"9000": "db/pg:5432", "9001": "db/pg:sql:PROXY:PROXY"})
    assert result.verdicts == ()
    assert {(s.port, s.accept_proxy_protocol, s.send_proxy_protocol) for s in result.table.tcp_services.values()} == {
        (9000, False, False),
        (9001, True, True),
    }
    for tcp in result.table.tcp_services.values():
        upstream = result.table.upstreams[tcp.upstream]
        assert (upstream.namespace, upstream.service) == ("db", "pg")
        assert [(e.address, e.port) for e in upstream.endpoints] == [("10.0.0.1", 15432)]
    assert result.tcp_namespaces == {"db"}
    assert str(*result.references) == "ConfigMap edge/tcp"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        *[(key, VerdictReason.INVALID_FIELD) for key in ("", "0", "65536", "http", "-1", "080", "80 ", "٣", "9" * 50)],
        ("8443", VerdictReason.CONFLICT),
    ],
)
def test_keys_that_are_no_free_port(key: str, reason: VerdictReason) -> None:
    result = with_map({key: "db/pg:5432", "9000": "db/pg:5432"}, reserved_ports=frozenset((8080, 8443)))
    assert reasons(result) == [reason]
    assert set(result.table.tcp_services) == {9000}  # the others don't suffer


@pytest.mark.parametrize(
    ("value", "reason", "says"),
    [
        ("db/gone:5432", VerdictReason.SERVICE_NOT_FOUND, "no Service db/gone"),
        ("other/pg:5432", VerdictReason.SERVICE_NOT_FOUND, "no Service other/pg"),
        ("db/pg:1", VerdictReason.SERVICE_PORT_NOT_FOUND, "sql 5432, dns 53"),
        ("db/pg:http", VerdictReason.SERVICE_PORT_NOT_FOUND, "no port http"),
        ("db/pg:dns", VerdictReason.UNSUPPORTED_BACKEND, "UDP, not TCP"),
    ],
)
def test_services_that_are_not_there(value: str, reason: VerdictReason, says: str) -> None:
    (verdict,) = with_map({"9000": value}).verdicts
    assert (verdict.reason, verdict.field, verdict.value) == (reason, "data.9000", value)
    assert says in verdict.message


def test_no_endpoints() -> None:
    result = with_map({"9000": "db/pg:5432"}, PG[0])
    (verdict,) = result.verdicts
    assert (verdict.object, verdict.field, verdict.reason) == (
        *("ConfigMap edge/tcp", "data.9000", VerdictReason.NO_ENDPOINTS),
    )
    assert verdict.message.startswith("Connections are closed at once: Service pg has no endpoints")
    assert set(result.table.tcp_services) == {9000}  # open: the endpoints may come any moment


def test_no_such_config_map() -> None:
    result = compiled(*PG, tcp_services=WHERE)
    assert [(v.object, v.severity) for v in result.verdicts] == [("ConfigMap edge/tcp", Severity.WARNING)]
    assert compiled(*PG).verdicts == ()
    assert compiled(config_map("tcp", {"9000": "db/pg:5432"}, "edge"), *PG).table.tcp_services == {}


def test_what_a_service_says_of_its_protocol_does_not_matter() -> None:
    spoken = service("pg", {"name": "sql", "port": 5432, "appProtocol": "grpc"}, namespace="db")
    result = with_map({"9000": "db/pg:5432"}, spoken, PG[1])
    assert result.verdicts == ()
    assert [u.protocol for u in result.table.upstreams.values()] == [UpstreamProtocol.HTTP]


def test_session_affinity() -> None:
    sticky = service("pg", 5432, namespace="db", sessionAffinity="ClientIP")
    result = with_map({"9000": "db/pg:5432"}, sticky, slice_of("pg", namespace="db"))
    assert [u.balancing.affinity for u in result.table.upstreams.values()] == [AffinityMode.CLIENT_IP]


def test_external_name() -> None:
    """ingress-nginx: "should expose an ExternalName TCP service"."""
    external = service(
        "dns", {"port": 5353, "targetPort": 53}, namespace="db", type="ExternalName", externalName="d.example"
    )
    result = compiled(
        config_map("tcp", {"5353": "db/dns:5353"}, "edge"),
        external,
        resolved={"d.example": ["192.0.2.53"]},
        tcp_services=WHERE,
    )
    assert result.verdicts == ()
    assert result.external_names == {"d.example"}
    ((endpoint,),) = (u.endpoints for u in result.table.upstreams.values())
    assert (endpoint.address, endpoint.port) == ("192.0.2.53", 53)


def test_ingresses_with_the_same_service_are_not_touched() -> None:
    web = (ingress("web", rule("a.test", path("/", "pg", 5432)), namespace="db"), *PG)
    alone, both = compiled(*web), with_map({"9000": "db/pg:5432"}, *web)
    assert both.table.hosts == alone.table.hosts
    assert set(alone.table.upstreams) < set(both.table.upstreams)


def test_changes() -> None:
    """Each change of the map or of a Service reaches the table, and no other part of it."""
    settings = TranslateSettings(tcp_services=WHERE)
    compiler = Compiler(settings)
    web = [ingress("web", rule("a.test")), service(), slice_of()]
    last = compiler.compile(state_of([*web, *PG]), None)
    follower = last.table

    def step(*objects: KubernetesObject, changed: KubernetesObject) -> dict[int, TCPService]:
        nonlocal last, follower
        now = compiler.compile(state_of([*web, *objects]), frozenset((changed.ref,)))
        assert now == Compiler(settings).compile(state_of([*web, *objects]), None)
        assert now.table.hosts is last.table.hosts
        follower = apply_delta(follower, diff_tables(follower, now.table))
        assert follower == now.table
        last = now
        return now.table.tcp_services

    one, two = (config_map("tcp", {str(p): "db/pg:5432" for p in ports}, "edge") for ports in ((9000,), (9000, 9001)))
    first = step(*PG, one, changed=one)[9000]
    ids = {last.table.id}
    assert step(*PG, two, changed=two).keys() == {9000, 9001}
    assert last.table.tcp_services[9000] == first
    ids.add(last.table.id)
    proxied = config_map("tcp", {"9000": "db/pg:5432:PROXY"}, "edge")
    assert step(*PG, proxied, changed=proxied)[9000].accept_proxy_protocol
    ids.add(last.table.id)
    assert step(proxied, changed=PG[0]) == {}  # the Service goes
    assert reasons(last) == [VerdictReason.SERVICE_NOT_FOUND]
    assert "db/pg" not in str(last.table.upstreams)
    assert step(PG[0], proxied, changed=PG[0]).keys() == {9000}  # and comes again
    assert step(*PG, proxied, changed=PG[1]).keys() == {9000}
    assert last.verdicts == ()
    assert step(*PG, changed=proxied) == {}  # the map goes
    ids.add(last.table.id)
    assert len(ids) == 4


def test_unrelated_changes_leave_it_alone() -> None:
    compiler = Compiler(TranslateSettings(tcp_services=WHERE))
    objects = [*PG, config_map("tcp", {"9000": "db/pg:5432"}, "edge")]
    first = compiler.compile(state_of(objects), None)
    other = ingress("web", rule("a.test"))
    second = compiler.compile(state_of([*objects, other]), frozenset((other.ref,)))
    assert second.table.tcp_services is first.table.tcp_services
    assert replace(second, verdicts=()).references == first.references == {ObjectRef(objects[-1].kind, *WHERE)}
