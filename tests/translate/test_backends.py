"""From a Service port to endpoints: EndpointSlices, Endpoints, ExternalName, protocols, ClientIP affinity."""

from typing import Any

import pytest

from ingress.errors import Severity, VerdictReason
from ingress.model import KubernetesObject, Service
from ingress.routing.table import AffinityMode, Balancing, UpstreamProtocol

from .build import (
    Compilation,
    addresses,
    compiled,
    endpoints_of,
    ingress,
    only,
    path,
    reasons,
    rule,
    service,
    slice_of,
    targets,
)


def one(port: int | str, *objects: KubernetesObject, **kwargs: Any) -> Compilation:
    """Compile an Ingress that sends a.test to `web:port`."""
    return compiled(ingress("ing", rule("a.test", path("/", "web", port))), *objects, **kwargs)


def named(name: str, port: int, target: int | str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, **({} if target is None else {"targetPort": target}), **more}


# ---- ports ----


@pytest.mark.parametrize(
    ("by", "ports", "slice_ports", "expected"),
    [
        # by number and by name, one port without a name
        (80, [80], [8080], [8080]),
        (80, [{"port": 80, "targetPort": 9000}], [{"port": 9000}], [9000]),
        ("http", [named("http", 80)], [{"name": "http", "port": 8080}], [8080]),
        (80, [named("http", 80)], [{"name": "http", "port": 8080}], [8080]),
        # several ports: the name decides, not the number of the target
        (
            "b",
            [named("a", 80, 8080), named("b", 81, 8081)],
            [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}],
            [8081],
        ),
        (
            81,
            [named("a", 80, 8080), named("b", 81, 8081)],
            [{"name": "a", "port": 8080}, {"name": "b", "port": 9999}],
            [9999],
        ),
        # a named target port is whatever the Pods call so
        ("http", [named("http", 80, "web-port")], [{"name": "http", "port": 3000}], [3000]),
        # the sole slice port belongs to an unnamed Service port whatever it is called
        (80, [80], [{"name": "whatever", "port": 8080}], [8080]),
        (80, [80], [{"name": "", "port": 8080}], [8080]),
        # no name matches: numeric target port, as ingress-nginx
        ("http", [named("http", 80, 8080)], [{"name": "other", "port": 1}], [8080]),
        ("http", [named("http", 80)], [{"name": "other", "port": 1}], [80]),
        ("http", [named("http", 80, "web-port")], [{"name": "other", "port": 1}], []),
        # a slice without ports has none
        (80, [{"port": 80, "targetPort": 8080}], [], []),
        # null: all ports, so the target port
        (80, [{"port": 80, "targetPort": 8080}], [{"port": None}], [8080]),
        (80, [80], [{"port": None}], [80]),
        # target ports that mean "as port", and digits as text
        (80, [{"port": 80, "targetPort": 0}], [{"port": None}], [80]),
        (80, [{"port": 80, "targetPort": ""}], [{"port": None}], [80]),
        (80, [{"port": 80, "targetPort": "8080"}], [{"port": None}], [8080]),
        # protocol
        (80, [80], [{"port": 8080, "protocol": "TCP"}], [8080]),
        (80, [80], [{"port": 8080, "protocol": "UDP"}], []),
        ("h", [named("h", 80)], [{"name": "h", "port": 1, "protocol": "UDP"}, {"name": "h", "port": 2}], [2]),
    ],
)
def test_ports(by: int | str, ports: list[Any], slice_ports: list[Any], expected: list[int]) -> None:
    result = one(by, service("web", *ports), slice_of(ports=slice_ports))
    assert addresses(result, f"default/web:{by}") == [f"10.0.0.1:{port}" for port in expected]
    assert reasons(result) == ([] if expected else [VerdictReason.NO_ENDPOINTS])


def test_tcp_is_preferred_where_one_number_has_two_protocols() -> None:
    ports = [named("h3", 443, protocol="UDP"), named("https", 443, protocol="TCP")]
    result = one(443, service("web", *ports), slice_of(ports=[{"name": "https", "port": 8443}]))
    assert addresses(result, "default/web:443") == ["10.0.0.1:8443"]


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_ports_that_are_not_tcp_answer_503(protocol: str) -> None:
    result = one(53, service("web", {"port": 53, "protocol": protocol}), slice_of())
    assert targets(result, "a.test") == {"Prefix /": "503"}
    verdict = only(result)
    assert (verdict.reason, verdict.object) == (VerdictReason.UNSUPPORTED_BACKEND, "Ingress default/ing")
    assert protocol in verdict.message


def test_number_and_name_of_one_port_are_two_upstreams() -> None:
    result = compiled(
        ingress("ing", rule("a.test", path("/a", "web", 80), path("/b", "web", "http"))),
        service("web", named("http", 80)),
        slice_of(ports=[{"name": "http", "port": 8080}]),
    )
    assert sorted(result.table.upstreams) == ["default/web:80", "default/web:http"]
    assert addresses(result, "default/web:http") == addresses(result, "default/web:80") == ["10.0.0.1:8080"]


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort", "LoadBalancer"])
def test_service_types_that_have_endpoints(kind: str) -> None:
    result = one(80, service("web", {"port": 80, "nodePort": 30080}, type=kind), slice_of())
    assert addresses(result) == ["10.0.0.1:8080"]


def test_headless_service() -> None:
    assert addresses(one(80, service("web", clusterIP="None"), slice_of())) == ["10.0.0.1:8080"]


def test_a_target_port_out_of_range() -> None:
    result = one(80, service("web", {"port": 80, "targetPort": 70000}), slice_of(ports=[{"port": None}]))
    assert addresses(result) == []
    assert [(v.object, v.field, v.value) for v in result.verdicts if v.reason is VerdictReason.INVALID_FIELD] == [
        ("EndpointSlice default/web-1", "ports", ""),
        ("Service default/web", "spec.ports[0].targetPort", "70000"),
    ]


def test_a_slice_port_out_of_range() -> None:
    result = one(80, service(), slice_of(ports=[70000]))
    assert addresses(result) == []
    assert reasons(result) == [VerdictReason.INVALID_FIELD, VerdictReason.NO_ENDPOINTS]


# ---- slices ----


def endpoint(
    address: str, ready: bool | None = None, serving: bool | None = None, terminating: bool | None = None
) -> Any:
    return {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    }


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([endpoint("10.0.0.1", True)], ["10.0.0.1"]),
        ([endpoint("10.0.0.1", None)], ["10.0.0.1"]),
        ([endpoint("10.0.0.1", False)], []),
        ([endpoint("10.0.0.1", False, True, False)], []),
        # serving and terminating counts only where nothing is ready
        ([endpoint("10.0.0.1", False, True, True)], ["10.0.0.1"]),
        ([endpoint("10.0.0.1", False, True, True), endpoint("10.0.0.2", True)], ["10.0.0.2"]),
        ([endpoint("10.0.0.1", False, False, True), endpoint("10.0.0.2", False, True, True)], ["10.0.0.2"]),
        ([endpoint("10.0.0.1", False, None, True)], []),
    ],
)
def test_conditions(endpoints: list[Any], expected: list[str]) -> None:
    result = one(80, service(), slice_of("web", *endpoints))
    assert addresses(result) == [f"{a}:8080" for a in expected]
    assert reasons(result) == ([] if expected else [VerdictReason.NO_ENDPOINTS])
    if not expected:
        assert "no ready endpoints" in only(result).message


def test_ready_ones_of_another_slice_outweigh_draining_ones() -> None:
    result = one(
        80,
        service(),
        slice_of("web", endpoint("10.0.0.1", False, True, True), suffix="a"),
        slice_of("web", endpoint("10.0.0.2", True), suffix="b"),
    )
    assert addresses(result) == ["10.0.0.2:8080"]


def test_addresses_are_deduplicated_sorted_and_of_both_families() -> None:
    result = one(
        80,
        service(),
        slice_of("web", "10.0.0.2", "10.0.0.1", suffix="a"),
        slice_of("web", "10.0.0.2", suffix="b"),
        slice_of("web", "2001:DB8::0:1", suffix="c", type="IPv6"),
    )
    assert addresses(result) == ["10.0.0.1:8080", "10.0.0.2:8080", "2001:db8::1:8080"]


def test_of_several_addresses_of_one_endpoint_the_first_counts() -> None:
    result = one(80, service(), slice_of("web", {"addresses": ["10.0.0.1", "10.0.0.2"]}))
    assert addresses(result) == ["10.0.0.1:8080"]


@pytest.mark.parametrize(
    "bad", ["nonsense", "10.0.0.300", "010.0.0.1", "", "0.0.0.0", "224.0.0.1", "fe80::1", "10.0.0.1/32", "10.0.0.1\n"]
)
def test_a_bad_address_costs_itself(bad: str) -> None:
    result = one(80, service(), slice_of("web", "10.0.0.1", bad, "10.0.0.3"))
    assert addresses(result) == ["10.0.0.1:8080", "10.0.0.3:8080"]
    verdict = only(result)
    assert (verdict.object, verdict.field) == ("EndpointSlice default/web-1", "endpoints[1].addresses[0]")
    assert verdict.reason is VerdictReason.INVALID_FIELD


def test_an_endpoint_without_addresses() -> None:
    result = one(80, service(), slice_of("web", {"addresses": []}, "10.0.0.1"))
    assert addresses(result) == ["10.0.0.1:8080"]
    assert only(result).field == "endpoints[0].addresses[0]"


def test_a_scoped_address_is_refused() -> None:
    result = one(80, service(), slice_of("web", "fe80::1%eth0", "fd00::1", type="IPv6"))
    assert addresses(result) == ["fd00::1:8080"]


@pytest.mark.parametrize(
    ("kind", "reason"), [("FQDN", VerdictReason.UNSUPPORTED_BACKEND), ("IPX", VerdictReason.INVALID_FIELD)]
)
def test_address_types(kind: str, reason: VerdictReason) -> None:
    result = one(80, service(), slice_of("web", "example.com", type=kind, suffix="x"), slice_of())
    assert addresses(result) == ["10.0.0.1:8080"]
    assert (only(result).reason, only(result).field, only(result).value) == (reason, "addressType", kind)


def test_two_upstreams_of_a_service_report_its_faults_once() -> None:
    result = compiled(
        ingress("ing", rule("a.test", path("/a", "web", 80), path("/b", "web", 81))),
        service("web", named("a", 80), named("b", 81)),
        slice_of("web", "bad", "10.0.0.1", ports=[{"name": "a", "port": 1}, {"name": "b", "port": 2}]),
    )
    assert only(result).value == "bad"


# ---- Endpoints ----


def subset(*ips: str, not_ready: tuple[str, ...] = (), ports: tuple[Any, ...] = ({"port": 8080},)) -> dict[str, Any]:
    return {
        "addresses": [{"ip": ip} for ip in ips],
        "notReadyAddresses": [{"ip": ip} for ip in not_ready],
        "ports": list(ports),
    }


def test_endpoints_are_used_where_there_is_no_slice() -> None:
    result = one(
        80,
        service(),
        endpoints_of("web", subset("10.0.0.2", not_ready=("10.0.0.9",)), subset("10.0.0.1", ports=({"port": 9090},))),
    )
    assert addresses(result) == ["10.0.0.1:9090", "10.0.0.2:8080"]


def test_slices_outrank_endpoints() -> None:
    result = one(80, service(), endpoints_of("web", subset("10.9.9.9")), slice_of())
    assert addresses(result) == ["10.0.0.1:8080"]


def test_endpoints_by_port_name() -> None:
    ports = ({"name": "a", "port": 1}, {"name": "b", "port": 2}, {"name": "b", "port": 3, "protocol": "UDP"})
    result = one(
        "b", service("web", named("a", 80), named("b", 81)), endpoints_of("web", subset("10.0.0.1", ports=ports))
    )
    assert addresses(result, "default/web:b") == ["10.0.0.1:2"]


def test_not_ready_endpoints_are_never_used() -> None:
    result = one(80, service(), endpoints_of("web", subset(not_ready=("10.0.0.1",))))
    assert addresses(result) == []
    assert "no ready endpoints" in only(result).message


def test_a_bad_address_in_endpoints() -> None:
    result = one(80, service(), endpoints_of("web", subset("x", "10.0.0.1")))
    assert addresses(result) == ["10.0.0.1:8080"]
    assert (only(result).object, only(result).field) == ("Endpoints default/web", "subsets[0].addresses[0].ip")


# ---- none ----


def test_no_endpoints_is_said_once_for_an_ingress_and_service_port() -> None:
    result = compiled(
        ingress("ing", rule("a.test", path("/a"), path("/b")), rule("b.test", path("/a"))),
        ingress("other", rule("c.test")),
        service(),
    )
    assert [(v.object, v.field, v.severity, v.value) for v in result.verdicts] == [
        ("Ingress default/ing", "spec.rules[0].http.paths[0].backend.service", Severity.WARNING, "web:80"),
        ("Ingress default/other", "spec.rules[0].http.paths[0].backend.service", Severity.WARNING, "web:80"),
    ]
    assert set(reasons(result)) == {VerdictReason.NO_ENDPOINTS}
    assert result.table.upstreams["default/web:80"].endpoints == ()  # type: ignore[index]
    assert targets(result, "a.test") == {"Prefix /a": "web:80", "Prefix /b": "web:80"}


# ---- ExternalName ----


def external(name: str, *ports: Any) -> Service:
    return service("web", *ports, portless=True, type="ExternalName", externalName=name)


CLUSTER: dict[str, Any] = {"external_name_loopback": False}


@pytest.mark.parametrize(
    ("by", "ports", "expected"),
    [
        (80, (80,), 80),
        (80, ({"port": 80, "targetPort": 8080},), 8080),
        (80, ({"port": 80, "targetPort": "web"},), 80),
        ("http", (named("http", 80, 8080),), 8080),
        (8443, (), 8443),
    ],
)
def test_external_name(by: int | str, ports: tuple[Any, ...], expected: int) -> None:
    result = one(by, external("Api.Example.com.", *ports), resolved={"api.example.com": ("192.0.2.2", "192.0.2.1")})
    assert addresses(result, f"default/web:{by}") == [f"192.0.2.1:{expected}", f"192.0.2.2:{expected}"]
    assert result.external_names == {"api.example.com"}
    assert result.verdicts == ()


def test_external_name_with_other_ports_only() -> None:
    """ingress-nginx takes the number as it is, listed or not."""
    result = one(81, external("api.example.com", 80), resolved={"api.example.com": ("192.0.2.1",)})
    assert addresses(result, "default/web:81") == ["192.0.2.1:81"]
    (verdict,) = result.verdicts
    assert (verdict.severity, verdict.reason) == (Severity.WARNING, VerdictReason.SERVICE_PORT_NOT_FOUND)
    assert (verdict.field, verdict.value) == ("spec.rules[0].http.paths[0].backend.service.port", "81")


def test_external_name_without_a_port_of_that_name() -> None:
    result = one("http", external("api.example.com"))
    assert reasons(result) == [VerdictReason.SERVICE_PORT_NOT_FOUND]
    assert result.external_names == frozenset()


def test_external_name_that_was_not_looked_up_yet_is_no_fault() -> None:
    result = one(80, external("api.example.com", 80))
    assert addresses(result) == []
    assert result.verdicts == ()
    assert result.external_names == {"api.example.com"}


def test_external_name_that_does_not_resolve() -> None:
    result = one(80, external("api.example.com", 80), resolved={"api.example.com": ()})
    assert (only(result).reason, only(result).object) == (VerdictReason.NO_ENDPOINTS, "Ingress default/ing")
    assert "could not be resolved" in only(result).message


def test_external_name_as_address() -> None:
    result = one(80, external("192.0.2.7", 80))
    assert addresses(result) == ["192.0.2.7:80"]
    assert result.external_names == frozenset()


@pytest.mark.parametrize(
    "name",
    ["localhost", "LOCALHOST.", "x.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"],
)
def test_external_name_of_the_proxy_itself(name: str) -> None:
    refused = one(80, external(name, 80), **CLUSTER, resolved={"localhost": ("127.0.0.1",)})
    assert addresses(refused) == []
    assert refused.external_names == frozenset()
    assert [(v.object, v.reason) for v in refused.verdicts] == [
        ("Ingress default/ing", VerdictReason.NO_ENDPOINTS),
        ("Service default/web", VerdictReason.INVALID_FIELD),
    ]


def test_external_name_that_resolves_to_the_proxy_itself() -> None:
    resolved = {"evil.example.com": ("127.0.0.1", "::1", "0.0.0.0", "192.0.2.1")}
    assert addresses(one(80, external("evil.example.com", 80), resolved=resolved, **CLUSTER)) == ["192.0.2.1:80"]
    resolved = {"evil.example.com": ("127.0.0.1", "::ffff:127.0.0.1")}
    result = one(80, external("evil.example.com", 80), resolved=resolved, **CLUSTER)
    assert addresses(result) == []
    assert VerdictReason.INVALID_FIELD in reasons(result)


def test_loopback_is_fine_where_settings_allow_it() -> None:
    result = one(80, external("localhost", 80), resolved={"localhost": ("127.0.0.1",)})
    assert addresses(result) == ["127.0.0.1:80"]


@pytest.mark.parametrize("name", ["", "a b.com", "a..b", "$(whoami)", "a" * 300, "-x-", "host:80"])
def test_external_name_that_is_no_name(name: str) -> None:
    result = one(80, external(name, 80))
    assert VerdictReason.INVALID_FIELD in reasons(result)
    assert result.external_names == frozenset()


def test_external_name_switched_off() -> None:
    result = one(80, external("api.example.com", 80), external_name_enabled=False)
    assert addresses(result) == []
    assert result.external_names == frozenset()
    assert reasons(result) == [VerdictReason.NO_ENDPOINTS, VerdictReason.UNSUPPORTED_BACKEND]


# ---- appProtocol, sessionAffinity ----


@pytest.mark.parametrize(
    ("text", "protocol", "warned"),
    [
        (None, UpstreamProtocol.HTTP, False),
        ("http", UpstreamProtocol.HTTP, False),
        ("HTTP", UpstreamProtocol.HTTP, False),
        ("kubernetes.io/ws", UpstreamProtocol.HTTP, False),
        ("https", UpstreamProtocol.HTTPS, False),
        ("kubernetes.io/wss", UpstreamProtocol.HTTPS, False),
        ("kubernetes.io/h2c", UpstreamProtocol.H2C, True),
        ("grpc", UpstreamProtocol.GRPC, True),
        ("redis", UpstreamProtocol.HTTP, True),
        ("vendor.example.com/odd", UpstreamProtocol.HTTP, False),
    ],
)
@pytest.mark.parametrize("on_service", [True, False])
def test_app_protocol(text: str | None, protocol: UpstreamProtocol, warned: bool, on_service: bool) -> None:
    more = {} if text is None else {"appProtocol": text}
    svc = service("web", {"port": 80, **(more if on_service else {})})
    result = one(80, svc, slice_of(ports=[{"port": 8080, **({} if on_service else more)}]))
    assert result.table.upstreams["default/web:80"].protocol is protocol  # type: ignore[index]
    assert addresses(result) == ["10.0.0.1:8080"]
    assert [(v.object, v.field, v.severity) for v in result.verdicts] == (
        [("Service default/web", "spec.ports[0].appProtocol", Severity.WARNING)] if warned else []
    )


def test_service_app_protocol_outranks_that_of_its_slices() -> None:
    svc = service("web", {"port": 80, "appProtocol": "http"})
    result = one(80, svc, slice_of(ports=[{"port": 8080, "appProtocol": "https"}]))
    assert result.table.upstreams["default/web:80"].protocol is UpstreamProtocol.HTTP  # type: ignore[index]


@pytest.mark.parametrize(
    ("spec", "balancing", "field"),
    [
        ({}, Balancing(), None),
        ({"sessionAffinity": "None"}, Balancing(), None),
        ({"sessionAffinity": "ClientIP"}, Balancing(affinity=AffinityMode.CLIENT_IP), None),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}},
            Balancing(affinity=AffinityMode.CLIENT_IP, client_ip_timeout_s=60),
            None,
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}},
            Balancing(affinity=AffinityMode.CLIENT_IP),
            None,
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            Balancing(affinity=AffinityMode.CLIENT_IP),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            Balancing(affinity=AffinityMode.CLIENT_IP),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        ({"sessionAffinity": "Cookie"}, Balancing(), "spec.sessionAffinity"),
    ],
)
def test_session_affinity(spec: dict[str, Any], balancing: Balancing, field: str | None) -> None:
    result = one(80, service("web", **spec), slice_of())
    assert result.table.upstreams["default/web:80"].balancing == balancing  # type: ignore[index]
    assert [(v.object, v.field) for v in result.verdicts] == ([("Service default/web", field)] if field else [])
