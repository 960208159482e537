from typing import Any

import pytest

from ingress.model.decode import DecodeError, decode_object
from ingress.model.kubernetes import EndpointSlice, Ingress, ServiceBackendPort
from ingress.model.legacy import ingress_from_v1beta1


def old(backend: Any, version: str = "extensions/v1beta1", /, **spec: Any) -> dict[str, Any]:
    paths = [{"path": "/", "backend": backend}]
    return {
        "apiVersion": version,
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {"rules": [{"host": "a.example", "http": {"paths": paths}}], **spec},
    }


@pytest.mark.parametrize("version", ["extensions/v1beta1", "networking.k8s.io/v1beta1"])
@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (80, ServiceBackendPort(number=80)),
        ("80", ServiceBackendPort(number=80)),
        ("http", ServiceBackendPort(name="http")),
    ],
)
def test_backend(version: str, port: int | str, expected: ServiceBackendPort) -> None:
    found = decode_object(old({"serviceName": "s", "servicePort": port}, version), "")
    assert isinstance(found, Ingress)
    assert found.spec.rules is not None
    assert found.spec.rules[0].http is not None
    path = found.spec.rules[0].http.paths[0]
    assert path.path_type is None
    assert path.backend.service is not None
    assert (path.backend.service.name, path.backend.service.port) == ("s", expected)


def test_default_backend() -> None:
    raw = {**old({}), "spec": {"backend": {"serviceName": "s", "servicePort": 8080}}}
    found = decode_object(raw, "")
    assert isinstance(found, Ingress)
    backend = found.spec.default_backend
    assert backend is not None
    assert backend.service is not None
    assert backend.service.port == ServiceBackendPort(number=8080)


def test_the_new_shape_under_an_old_version_is_taken_as_it_is() -> None:
    found = decode_object(old({"service": {"name": "s", "port": {"name": "http"}}}), "")
    assert isinstance(found, Ingress)
    assert found.spec.rules is not None
    assert found.spec.rules[0].http is not None
    assert found.spec.rules[0].http.paths[0].backend.service is not None


def test_a_resource_backend_stays() -> None:
    found = decode_object(old({"resource": {"kind": "Bucket", "name": "b", "apiGroup": "x.example"}}), "")
    assert isinstance(found, Ingress)
    assert found.spec.rules is not None
    assert found.spec.rules[0].http is not None
    assert found.spec.rules[0].http.paths[0].backend.resource is not None


@pytest.mark.parametrize(
    ("backend", "field", "value"),
    [
        ({"serviceName": 3, "servicePort": 80}, "serviceName", "3"),
        ({"servicePort": 80}, "serviceName", ""),
        ({"serviceName": "s"}, "servicePort", ""),
        ({"serviceName": "s", "servicePort": 0}, "servicePort", "0"),
        ({"serviceName": "s", "servicePort": "99999"}, "servicePort", "99999"),
        ({"serviceName": "s", "servicePort": True}, "servicePort", "true"),
        ({"serviceName": "s", "servicePort": [80]}, "servicePort", "a list"),
        ({"serviceName": "s", "servicePort": 1.5}, "servicePort", "1.5"),
    ],
)
def test_errors_name_the_fields_as_written(backend: dict[str, Any], field: str, value: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_object(old(backend), "f.yaml:2")
    verdict = caught.value.verdict
    assert verdict.field == f"spec.rules[0].http.paths[0].backend.{field}"
    assert (verdict.value, verdict.origin, verdict.object) == (value, "f.yaml:2", "Ingress default/web")


def test_nulls_in_the_old_shape() -> None:
    found = decode_object(old({"serviceName": None, "servicePort": None}, backend=None), "")
    assert isinstance(found, Ingress)
    assert found.spec.default_backend is None


def test_the_input_is_not_changed() -> None:
    raw = old({"serviceName": "s", "servicePort": 80}, backend={"serviceName": "d", "servicePort": "http"})
    copy = repr(raw)
    ingress_from_v1beta1(raw)
    assert repr(raw) == copy


@pytest.mark.parametrize("spec", [None, 3, [], {"rules": 3}, {"rules": [3, {"http": 3}, {"http": {"paths": 3}}]}])
def test_unknown_shapes_are_left_for_the_decoder(spec: Any) -> None:
    assert ingress_from_v1beta1({"spec": spec})["spec"] == spec


def slice_(version: str, **fields: Any) -> EndpointSlice:
    raw = {"apiVersion": version, "kind": "EndpointSlice", "metadata": {"name": "x"}, **fields}
    found = decode_object(raw, "")
    assert isinstance(found, EndpointSlice)
    return found


@pytest.mark.parametrize(
    ("endpoint", "zone"),
    [
        ({"topology": {"topology.kubernetes.io/zone": "eu-1"}}, "eu-1"),
        ({"topology": {"failure-domain.beta.kubernetes.io/zone": "eu-2"}}, "eu-2"),
        ({"topology": {"kubernetes.io/hostname": "n"}}, None),
        ({"zone": "eu-3", "topology": {"topology.kubernetes.io/zone": "eu-1"}}, "eu-3"),
        ({}, None),
    ],
)
def test_zone_of_an_old_slice(endpoint: dict[str, Any], zone: str | None) -> None:
    found = slice_("discovery.k8s.io/v1beta1", endpoints=[{"addresses": ["10.0.0.1"], **endpoint}])
    assert found.endpoints is not None
    assert found.endpoints[0].zone == zone


@pytest.mark.parametrize(
    ("endpoints", "family"),
    [([{"addresses": ["10.0.0.1"]}], "IPv4"), ([{"addresses": ["fd00::1"]}], "IPv6"), ([], "IPv4"), (None, "IPv4")],
)
def test_address_type_ip(endpoints: Any, family: str) -> None:
    assert slice_("discovery.k8s.io/v1beta1", addressType="IP", endpoints=endpoints).address_type == family
