from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.errors import VerdictReason
from ingress.model.decode import DecodeError, decode_object, shorten
from ingress.model.kubernetes import ConfigMap, EndpointSlice, Ingress, IngressClass, Secret, Service
from ingress.model.ref import Kind, ObjectRef


def ingress(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"}, **fields}


def service(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def test_an_ingress_keeps_every_field_that_is_read() -> None:
    raw = ingress(
        metadata={
            "name": "web",
            "namespace": "shop",
            "annotations": {"a": "b"},
            "creationTimestamp": "2024-01-01T00:00:00Z",
        },
        spec={
            "ingressClassName": "nginx",
            "tls": [{"hosts": ["a.example"], "secretName": "cert"}],
            "rules": [
                {
                    "host": "a.example",
                    "http": {
                        "paths": [
                            {
                                "path": "/x",
                                "pathType": "Prefix",
                                "backend": {"service": {"name": "s", "port": {"number": 80}}},
                            }
                        ]
                    },
                }
            ],
        },
        status={"loadBalancer": {}},
    )
    found = decode_object(raw, "f.yaml:3")
    assert isinstance(found, Ingress)
    assert found.origin == "f.yaml:3"
    assert found.ref == ObjectRef(Kind.INGRESS, "shop", "web")
    assert found.metadata.creation_timestamp == "2024-01-01T00:00:00Z"
    assert found.spec.rules is not None
    assert found.spec.rules[0].http is not None
    path = found.spec.rules[0].http.paths[0]
    assert (path.path, path.path_type) == ("/x", "Prefix")
    assert path.backend.service is not None
    assert path.backend.service.port is not None
    assert path.backend.service.port.number == 80


@pytest.mark.parametrize(
    ("version", "kind", "type_"),
    [
        ("networking.k8s.io/v1", "Ingress", Ingress),
        ("networking.k8s.io/v1beta1", "Ingress", Ingress),
        ("extensions/v1beta1", "Ingress", Ingress),
        ("networking.k8s.io/v1", "IngressClass", IngressClass),
        ("networking.k8s.io/v1beta1", "IngressClass", IngressClass),
        ("v1", "Service", Service),
        ("v1", "Secret", Secret),
        ("v1", "ConfigMap", ConfigMap),
        ("discovery.k8s.io/v1", "EndpointSlice", EndpointSlice),
        ("discovery.k8s.io/v1beta1", "EndpointSlice", EndpointSlice),
    ],
)
def test_versions(version: str, kind: str, type_: type) -> None:
    found = decode_object({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}, "")
    assert type(found) is type_
    assert found.metadata.namespace == ("" if kind == "IngressClass" else "default")


@pytest.mark.parametrize(
    ("version", "kind"),
    [("apps/v1", "Deployment"), ("serving.knative.dev/v1", "Service"), ("x.example/v1", "Secret"), (None, "Other")],
)
def test_kinds_that_are_not_read_are_no_error(version: str | None, kind: str) -> None:
    assert decode_object({"apiVersion": version, "kind": kind}, "") is None


def test_a_cluster_scoped_object_has_no_namespace() -> None:
    raw = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "x", "namespace": "y"},
        "spec": {"controller": "c"},
    }
    found = decode_object(raw, "")
    assert found is not None
    assert found.ref == ObjectRef(Kind.INGRESS_CLASS, "", "x")


@pytest.mark.parametrize(
    ("raw", "field", "value", "reason"),
    [
        ({}, "kind", "", VerdictReason.INVALID_OBJECT),
        ({"kind": 3}, "kind", "3", VerdictReason.INVALID_OBJECT),
        (ingress(apiVersion="networking.k8s.io/v2"), "apiVersion", "networking.k8s.io/v2", VerdictReason.INVALID_FIELD),
        (ingress(apiVersion="config.openshift.io/v1"), "apiVersion", "config.openshift.io/v1", None),
        (ingress(apiVersion=None), "apiVersion", "", None),
        ({"kind": "Service", "apiVersion": "v2", "metadata": {"name": "x"}}, "apiVersion", "v2", None),
        (ingress(metadata=None), "metadata", "", VerdictReason.INVALID_OBJECT),
        (ingress(metadata=[]), "metadata", "a list", VerdictReason.INVALID_OBJECT),
        (ingress(metadata={}), "metadata.name", "", VerdictReason.INVALID_OBJECT),
        (ingress(metadata={"generateName": "x-"}), "metadata.name", "", None),
        (ingress(metadata={"name": 80}), "metadata.name", "80", VerdictReason.INVALID_OBJECT),
        (ingress(metadata={"name": "A"}), "metadata.name", "A", VerdictReason.INVALID_FIELD),
        (ingress(metadata={"name": "a\nb"}), "metadata.name", r"a\nb", VerdictReason.INVALID_FIELD),
        (ingress(metadata={"name": "a\n"}), "metadata.name", r"a\n", VerdictReason.INVALID_FIELD),
        (ingress(metadata={"name": "a" * 254}), "metadata.name", "a" * 79 + "…", VerdictReason.INVALID_FIELD),
        (ingress(metadata={"name": "a", "namespace": "a.b"}), "metadata.namespace", "a.b", None),
        (ingress(metadata={"name": "a", "namespace": "-a"}), "metadata.namespace", "-a", None),
        (ingress(metadata={"name": "a", "namespace": "a" * 64}), "metadata.namespace", "a" * 64, None),
        (ingress(metadata={"name": "a", "namespace": True}), "metadata.namespace", "true", None),
        (
            ingress(metadata={"name": "a", "annotations": {"k": "v", "x/y": True}}),
            "metadata.annotations[x/y]",
            "true",
            None,
        ),
        (ingress(metadata={"name": "a", "annotations": {1: "x"}}), "metadata.annotations", "a mapping", None),
        (ingress(spec=[]), "spec", "a list", None),
        (ingress(spec={"rules": {}}), "spec.rules", "a mapping", None),
        (ingress(spec={"rules": [{}, {"host": 3}]}), "spec.rules[1].host", "3", None),
        (
            ingress(spec={"rules": [{"http": {"paths": [{"path": "/"}]}}]}),
            "spec.rules[0].http.paths[0].backend",
            "",
            None,
        ),
        (service(ports=[{"port": "80"}]), "spec.ports[0].port", "80", None),
        (service(ports=[{"port": 0}]), "spec.ports[0].port", "0", None),
        (service(ports=[{"port": 65536}]), "spec.ports[0].port", "65536", None),
        (service(ports=[{"port": True}]), "spec.ports[0].port", "true", None),
        (service(ports=[{"port": 80, "targetPort": []}]), "spec.ports[0].targetPort", "a list", None),
        (service(ports=[{"name": "http"}]), "spec.ports[0].port", "", None),
    ],
)
def test_bad_objects_name_field_and_value(
    raw: dict[str, Any], field: str, value: str, reason: VerdictReason | None
) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_object(raw, "f.yaml:7")
    verdict = caught.value.verdict
    assert (verdict.field, verdict.value, verdict.origin) == (field, value, "f.yaml:7")
    assert "`" not in verdict.message
    assert "\n" not in str(verdict)
    if reason is not None:
        assert verdict.reason is reason


def test_an_error_past_the_identity_carries_the_reference() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_object(ingress(spec=3), "")
    assert caught.value.ref == ObjectRef(Kind.INGRESS, "default", "web")
    assert caught.value.verdict.object == "Ingress default/web"


def test_null_is_absence_except_in_maps_of_text() -> None:
    raw = ingress(
        metadata={"name": "web", "namespace": None, "annotations": {"a": None, "b": "c"}, "uid": None},
        spec={"rules": [{"host": None, "http": {"paths": [{"path": None, "backend": {}}]}}], "tls": [{"hosts": None}]},
    )
    found = decode_object(raw, "")
    assert isinstance(found, Ingress)
    assert found.metadata.annotations == {"a": "", "b": "c"}
    assert found.metadata.namespace == "default"
    assert found.spec.rules is not None
    assert found.spec.rules[0].host == ""


def test_the_origin_can_not_be_forged() -> None:
    found = decode_object(ingress(origin="elsewhere:1"), "f.yaml:1")
    assert found is not None
    assert found.origin == "f.yaml:1"


def test_the_input_is_not_changed() -> None:
    raw = ingress(spec={"rules": None})
    decode_object(raw, "f.yaml:1")
    assert raw == ingress(spec={"rules": None})


@pytest.mark.parametrize("field", ["data", "stringData"])
def test_a_secret_value_is_never_shown(field: str) -> None:
    raw = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, field: {"tls.key": 31337}}
    with pytest.raises(DecodeError) as caught:
        decode_object(raw, "")
    assert caught.value.verdict.field == f"{field}[tls.key]"
    assert "31337" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (False, "false"),
        (1.5, "1.5"),
        ({}, "a mapping"),
        ([1], "a list"),
        ("é\x1b", r"\xe9\x1b"),
        ("é", "é"),
    ],
)
def test_shorten(value: object, text: str) -> None:
    assert shorten(value) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "rules", "name"]), inner),
    max_leaves=5,
)


@given(
    kind=st.sampled_from([*Kind, "List", "Other"]),
    version=st.sampled_from(["v1", "networking.k8s.io/v1", "extensions/v1beta1", "discovery.k8s.io/v1beta1"]),
    metadata=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("name", "namespace", "annotations", "labels"), json_values)
    )
    | st.just({"name": "x"}),
    rest=st.dictionaries(
        st.sampled_from(["spec", "endpoints", "ports", "subsets", "data", "addressType"]), json_values
    ),
)
def test_any_object_decodes_or_raises_the_one_error(
    kind: str, version: str, metadata: dict[str, Any], rest: dict[str, Any]
) -> None:
    refused: DecodeError | None = None
    try:
        decode_object({"apiVersion": version, "kind": str(kind), "metadata": metadata, **rest}, "f:1")
    except DecodeError as error:
        refused = error
    assert refused is None or (refused.verdict.message and refused.verdict.object)
