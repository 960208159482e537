"""What a Pod's specification means for its processes."""

import pytest

from tools.envtest import podspec

POD = {
    "metadata": {
        "name": "web-0",
        "namespace": "shop",
        "labels": {"app": "web", "a/b": "c"},
        "annotations": {"note": "hello"},
    },
    "spec": {"nodeName": "node-1", "serviceAccountName": "robot"},
    "status": {"podIP": "10.88.16.1", "hostIP": "10.88.1.1", "podIPs": [{"ip": "10.88.16.1"}, {"ip": "fd00::1"}]},
}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("--x=$(A)$(B)", "--x=12"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(UNKNOWN) $A ${A} $", "$(UNKNOWN) $A ${A} $"),
    ],
)
def test_expand(text, expanded):
    assert podspec.expand(text, {"A": "1", "B": "2"}) == expanded


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.labels['a/b']", "c"),
        ("metadata.annotations['note']", "hello"),
        ("metadata.annotations['absent']", ""),
        ("metadata.labels", 'a/b="c"\napp="web"'),
        ("spec.serviceAccountName", "robot"),
        ("status.podIP", "10.88.16.1"),
        ("status.podIPs", "10.88.16.1,fd00::1"),
        ("status.absent.deeper", ""),
    ],
)
def test_field_value(path, value):
    assert podspec.field_value(POD, path) == value


@pytest.mark.parametrize(
    ("limits", "reference", "value"),
    [
        ({"cpu": "1500m"}, {"resource": "limits.cpu"}, "2"),
        ({"cpu": "1500m"}, {"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"memory": "64Mi"}, {"resource": "limits.memory"}, str(64 << 20)),
        ({"memory": "64Mi"}, {"resource": "limits.memory", "divisor": "1Mi"}, "64"),
        ({}, {"resource": "limits.cpu", "divisor": "0"}, "2"),
        ({}, {"resource": "requests.cpu"}, "0"),
    ],
)
def test_resource_value(limits, reference, value):
    assert podspec.resource_value({"resources": {"limits": limits}}, reference) == value


@pytest.mark.parametrize("text", ["", "1.5.x", "3 Mi", "-1"])
def test_not_a_quantity(text):
    with pytest.raises(ValueError, match="quantity"):
        podspec.quantity(text)


CONTAINER = {
    "envFrom": [
        {"configMapRef": {"name": "defaults"}, "prefix": "D_"},
        {"secretRef": {"name": "absent", "optional": True}},
    ],
    "env": [
        {"name": "HOST", "value": "localhost"},
        {"name": "URL", "value": "http://$(HOST)/$(LATER)"},
        {"name": "LATER", "value": "x"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
        {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "defaults", "key": "no", "optional": True}}},
    ],
}
TEXTS = {
    ("configmaps", "defaults"): {"COLOR": "red"},
    ("secrets", "absent"): None,
    ("secrets", "secret"): {"password": "swordfish"},
}


def test_environment():
    assert podspec.references(CONTAINER) == set(TEXTS)
    assert podspec.environment(POD, CONTAINER, TEXTS) == {
        "D_COLOR": "red",
        "HOST": "localhost",
        "URL": "http://localhost/$(LATER)",
        "LATER": "x",
        "POD": "web-0",
        "PASSWORD": "swordfish",
    }


@pytest.mark.parametrize(
    ("texts", "missing"),
    [
        ({**TEXTS, ("configmaps", "defaults"): None}, "configmaps defaults"),
        ({**TEXTS, ("secrets", "secret"): {}}, "secrets secret: password"),
    ],
)
def test_environment_waits_for(texts, missing):
    with pytest.raises(podspec.Unresolvable, match=missing):
        podspec.environment(POD, CONTAINER, texts)


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("aioingress", "aioingress"),
        ("aioingress:dev", "aioingress"),
        ("registry:5000/team/aioingress", "aioingress"),
        ("ghcr.io/team/aioingress:1.2@sha256:00ff", "aioingress"),
        ("team/aioingress-ui:1", "aioingress-ui"),
    ],
)
def test_repository(image, repository):
    assert podspec.repository(image) == repository


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("0.0.0.0:8080", "10.88.16.1:8080"),
        ("--http-address=0.0.0.0:8080", "--http-address=10.88.16.1:8080"),
        ("--http-address=[::]:8080", "--http-address=10.88.16.1:8080"),
        ("--http-address=:8080", "--http-address=10.88.16.1:8080"),
        (":8080", "10.88.16.1:8080"),
        ("10.0.0.0:8080", "10.0.0.0:8080"),
        ("[::1]:8080", "[::1]:8080"),
        ("--configmap=ns/name", "--configmap=ns/name"),
        ("--image=registry:5000/x", "--image=registry:5000/x"),
    ],
)
def test_on_address(argument, changed):
    assert podspec.on_address(argument, "10.88.16.1") == changed


def test_listener_environment():
    arguments = [
        "ingress",
        "serve",
        "--http-address=1.2.3.4:80",
        "--admin-address",
        "1.2.3.4:81",
        "--https-addresses=no",
    ]
    assert podspec.listener_environment(arguments, {}, "10.88.16.1") == {"INGRESS_HTTPS_ADDRESS": "10.88.16.1:8443"}
    assert podspec.listener_environment(["ingress"], {"INGRESS_HTTP_ADDRESS": "x"}, "10.88.16.1") == {
        "INGRESS_HTTPS_ADDRESS": "10.88.16.1:8443",
        "INGRESS_ADMIN_ADDRESS": "10.88.16.1:10254",
    }


def test_port_number():
    container = {"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9090}]}
    assert [podspec.port_number(container, port) for port in ("http", 9090, "81")] == [8080, 9090, 81]
    with pytest.raises(ValueError, match="grpc"):
        podspec.port_number(container, "grpc")


def test_probe_defaults():
    """Those of the Pod API."""
    assert podspec.probe_of({}, "readiness") is None
    probe = podspec.probe_of({"readinessProbe": {"tcpSocket": {"port": 1}}}, "readiness")
    assert probe is not None
    assert (probe.initial_delay_s, probe.period_s, probe.timeout_s) == (0, 10, 1)
    assert (probe.success_threshold, probe.failure_threshold) == (1, 3)


LABELS = {"disk": "ssd", "zone": "a"}


def required(*terms):
    selector = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}}


def expression(key, operator, *values):
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({}, True),
        ({"nodeSelector": {"disk": "ssd"}}, True),
        ({"nodeSelector": {"disk": "hdd"}}, False),
        (required({"matchFields": [expression("metadata.name", "In", "node-1")]}), True),
        (required({"matchFields": [expression("metadata.name", "In", "node-2")]}), False),
        (required({"matchExpressions": [expression("zone", "NotIn", "a")]}), False),
        (required({"matchExpressions": [expression("zone", "NotIn", "a")]}, {"matchExpressions": []}), True),
        (required({"matchExpressions": [expression("zone", "Exists"), expression("gpu", "DoesNotExist")]}), True),
        (required({"matchExpressions": [expression("gpu", "Exists")]}), False),
        (required({"matchExpressions": [expression("zone", "Gt", "1")]}), False),
    ],
)
def test_suits(spec, fits):
    assert podspec.suits({"spec": spec}, "node-1", LABELS) is fits
