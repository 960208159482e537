import json

import pytest

from ingress.errors import VerdictReason
from ingress.kube.api import Forbidden, ResourceExpired, Unavailable
from ingress.kube.decode import LAST_APPLIED, Decoder, Undecodable
from ingress.model import EndpointSlice, Ingress, LoadBalancerIngress, Secret
from ingress.model.ref import Kind, ObjectRef
from tests.kube.support import ingress, meta, slice_

INGRESSES = Decoder(Kind.INGRESS, "networking.k8s.io/v1")


def page(*items, **metadata):
    return json.dumps({"kind": "List", "metadata": {"resourceVersion": "7", **metadata}, "items": list(items)}).encode()


def event(kind, body):
    return json.dumps({"type": kind, "object": body}).encode()


def only(decoder, body):
    (item,) = decoder.page(page(body)).items
    return item


def test_a_page():
    found = INGRESSES.page(page(ingress("a", resourceVersion="5"), ingress("b"), **{"continue": "more"}))
    assert [item.ref for item in found.items] == [ObjectRef(Kind.INGRESS, "ns", name) for name in "ab"]
    assert (found.version, found.continue_token) == ("7", "more")
    assert found.items[0].version == "5"
    assert found.items[0].object.spec.rules[0].host == "a.example"


@pytest.mark.parametrize("items", [None, []])
def test_an_empty_list(items):
    assert INGRESSES.page(json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode()).items == []


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"metadata": {}, "items": {}}', b'{"metadata":{},"items":[3]}']
)
def test_not_a_list(body):
    with pytest.raises(Undecodable):
        INGRESSES.page(body)


def test_last_applied_configuration_is_dropped_and_other_annotations_are_not():
    found = only(INGRESSES, ingress("a", annotations={LAST_APPLIED: "{}", "x/y": "z"}, labels={"l": "m"})).object
    assert found.metadata.annotations == {"x/y": "z"}
    assert found.metadata.labels is None


def test_the_health_check_of_a_service_is_kept():
    check = {"aioingress.io/health-check-path": "/healthz"}
    body = {"metadata": meta("a", annotations={**check, "x/y": "z"}), "spec": {"ports": [{"port": 80}]}}
    found = only(Decoder(Kind.SERVICE, "v1"), body).object
    assert found.metadata.annotations == check


def test_only_the_service_label_of_a_slice_is_kept():
    decoder = Decoder(Kind.ENDPOINT_SLICE, "discovery.k8s.io/v1")
    found = only(decoder, slice_("web-1", "web", "10.0.0.1"))
    assert isinstance(found.object, EndpointSlice)
    assert found.object.service_name == "web"
    assert found.object.metadata.labels == {"kubernetes.io/service-name": "web"}


def test_the_default_class_annotation_is_kept():
    decoder = Decoder(Kind.INGRESS_CLASS, "networking.k8s.io/v1")
    default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    body = {"metadata": meta("a", "", annotations={**default, "x": "y"}), "spec": {"controller": "c"}}
    found = only(decoder, body)
    assert found.ref == ObjectRef(Kind.INGRESS_CLASS, "", "a")
    assert found.object.metadata.annotations == default


def test_status_is_apart_from_the_object():
    shown = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ports": []}, {"hostname": "lb.example"}]}}
    with_status = only(INGRESSES, {**ingress("a"), "status": shown})
    without = only(INGRESSES, {**ingress("a"), "status": {"loadBalancer": {}}})
    assert with_status.status == (LoadBalancerIngress(ip="192.0.2.1"), LoadBalancerIngress(hostname="lb.example"))
    assert without.status == ()
    assert with_status.object == without.object


@pytest.mark.parametrize("shown", [None, 3, {"loadBalancer": None}, {"loadBalancer": {"ingress": "x"}}])
def test_a_strange_status_is_no_status(shown):
    found = only(INGRESSES, {**ingress("a"), "status": shown})
    assert found.status == ()
    assert isinstance(found.object, Ingress)


def test_null_is_absence():
    found = only(INGRESSES, {**ingress("a"), "spec": {"rules": [{"host": None, "http": None}], "tls": None}})
    assert found.object.spec.rules[0].host == ""
    assert found.verdict is None


def test_one_bad_object_costs_only_itself():
    bad = {**ingress("bad", resourceVersion="6"), "spec": {"rules": [{"host": 3}]}}
    good, broken, also_good = INGRESSES.page(page(ingress("a"), bad, ingress("c"))).items
    assert good.object is not None
    assert also_good.object is not None
    assert broken.object is None
    assert (broken.ref.name, broken.version) == ("bad", "6")
    assert broken.verdict.reason is VerdictReason.INVALID_OBJECT
    assert (broken.verdict.object, broken.verdict.field) == ("Ingress ns/bad", "spec.rules[0].host")


def test_an_object_without_a_sound_name_has_a_verdict_too():
    (item,) = INGRESSES.page(page({"metadata": {"name": "", "namespace": "ns"}, "spec": 3})).items
    assert item.object is None
    assert item.verdict.field == "metadata.name"


def test_unwanted_objects_are_dropped():
    decoder = Decoder(Kind.SECRET, "v1", wanted=lambda ref: ref.name == "a")
    bodies = [{"metadata": meta(name, resourceVersion="9"), "data": {"k": "dg=="}} for name in "ab"]
    (item,) = decoder.page(page(*bodies)).items
    assert isinstance(item.object, Secret)
    assert item.ref.name == "a"
    (unwanted,), fault = decoder.events([event("MODIFIED", bodies[1])])
    assert (unwanted.version, unwanted.item, fault) == ("9", None, None)
    assert decoder.single(json.dumps(bodies[1]).encode()) is None


def test_a_secret_is_never_quoted():
    decoder = Decoder(Kind.SECRET, "v1")
    item = only(decoder, {"metadata": meta("a"), "data": {"tls.key": ["hunter2"]}})
    assert item.object is None
    assert "hunter2" not in str(item.verdict)


def test_events():
    lines = [
        event("ADDED", ingress("a", resourceVersion="1")),
        event("DELETED", ingress("a", resourceVersion="2")),
        event("BOOKMARK", {"kind": "Ingress", "metadata": {"resourceVersion": "3"}}),
        event("SOMETHING", {}),
    ]
    events, fault = INGRESSES.events(lines)
    assert fault is None
    assert [(e.version, e.deleted, e.item is not None) for e in events] == [
        ("1", False, True),
        ("2", True, True),
        ("3", False, False),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"kind": "Status", "code": 410, "message": "too old"}, ResourceExpired),
        ({"kind": "Status", "code": 500, "reason": "Expired"}, ResourceExpired),
        ({"kind": "Status", "code": 403, "message": "no"}, Forbidden),
        ({"kind": "Status", "code": 500, "message": "etcd"}, Unavailable),
        ({"code": "x"}, Unavailable),
    ],
)
def test_an_error_ends_the_watch_after_what_came_before_it(body, expected):
    lines = [event("ADDED", ingress("a")), event("ERROR", body), event("ADDED", ingress("b"))]
    events, fault = INGRESSES.events(lines)
    assert [e.item.ref.name for e in events] == ["a"]
    assert type(fault) is expected


@pytest.mark.parametrize(
    "line", [b"", b"garbage", b"{}", b'{"type":"ADDED","object":3}', b'{"type":"ADDED","object":{"metadata":3}']
)
def test_a_garbage_line_ends_the_watch(line):
    events, fault = INGRESSES.events([event("ADDED", ingress("a")), line])
    assert len(events) == 1
    assert isinstance(fault, Undecodable)
