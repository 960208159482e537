"""Permissions: exactly these, in both modes."""

from typing import Any

import pytest

from tests.charts.support import Chart, Object, Objects, Refused

READ = ("get", "list", "watch")
SCOPED: dict[str, Any] = {"rbac": {"scope": True}, "controller": {"scope": {"enabled": True}}}

Permissions = set[tuple[str, str, str, str]]
"""(API group, resource, verb, resource name or "")"""


def permissions(role: Object) -> Permissions:
    return {
        (group, resource, verb, name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def allow(group: str, resources: str, verbs: tuple[str, ...], name: str = "") -> Permissions:
    return {(group, resource, verb, name) for resource in resources.split() for verb in verbs}


WATCHED = (
    allow("networking.k8s.io", "ingresses", READ)
    | allow("networking.k8s.io", "ingresses/status", ("patch",))
    | allow("", "services endpoints secrets configmaps", READ)
    | allow("discovery.k8s.io", "endpointslices", READ)
    | allow("", "events", ("create", "patch"))
)
CLUSTER = (
    WATCHED
    | allow("networking.k8s.io", "ingressclasses", READ)
    | allow("", "namespaces", READ)
    | allow("", "nodes", ("get",))
)
OWN = (
    allow("coordination.k8s.io", "leases", ("create",))
    | allow("coordination.k8s.io", "leases", ("get", "update"), "web-aioingress-leader")
    | allow("", "pods", ("get", "list"))
    | allow("", "configmaps", READ)
)
OWN_SCOPED = OWN | allow("", "services endpoints", READ) | allow("discovery.k8s.io", "endpointslices", READ)


def bindings(objects: Objects) -> set[tuple[str, str, str, str]]:
    """(kind of role, role, namespace of the binding, account)"""
    found = [*objects.of("RoleBinding").values(), *objects.of("ClusterRoleBinding").values()]
    return {
        (
            item["roleRef"]["kind"],
            item["roleRef"]["name"],
            item["metadata"].get("namespace", ""),
            f"{subject['namespace']}/{subject['name']}",
        )
        for item in found
        for subject in item["subjects"]
    }


def test_cluster_mode(chart: Chart) -> None:
    objects = chart.render()
    assert permissions(objects.one("ClusterRole")) == CLUSTER
    assert permissions(objects.one("Role")) == OWN
    assert bindings(objects) == {
        ("ClusterRole", "web-aioingress", "", "edge/web-aioingress"),
        ("Role", "web-aioingress", "edge", "edge/web-aioingress"),
    }
    assert objects.pod["serviceAccountName"] == "web-aioingress"


@pytest.mark.parametrize(("namespace", "watched"), [("", "edge"), ("team-a", "team-a")])
def test_namespaced_mode_has_nothing_cluster_wide(chart: Chart, namespace: str, watched: str) -> None:
    values = SCOPED | {"controller": {"scope": {"enabled": True, "namespace": namespace}}}
    objects = chart.render(values)
    assert not objects.kinds & {"ClusterRole", "ClusterRoleBinding"}
    roles = objects.of("Role")
    assert permissions(roles["web-aioingress-watch"]) == WATCHED
    assert roles["web-aioingress-watch"]["metadata"]["namespace"] == watched
    assert permissions(roles["web-aioingress"]) == OWN_SCOPED
    assert roles["web-aioingress"]["metadata"]["namespace"] == "edge"
    assert objects.flag("ingress-class-by-name") == "true"
    assert bindings(objects) == {
        ("Role", "web-aioingress-watch", watched, "edge/web-aioingress"),
        ("Role", "web-aioingress", "edge", "edge/web-aioingress"),
    }


@pytest.mark.parametrize(
    ("certificate", "namespace"),
    [("edge/tls", None), ("certs/tls", "certs"), ("$(POD_NAMESPACE)/tls", None)],
)
def test_default_certificate_in_namespaced_mode(chart: Chart, certificate: str, namespace: str | None) -> None:
    """That one Secret can be read wherever it is, and no other beside it."""
    scoped = {"scope": {"enabled": True}, "defaultSSLCertificate": certificate}
    objects = chart.render({"rbac": {"scope": True}, "controller": scoped})
    roles = objects.of("Role")
    own = roles.get("web-aioingress-default-certificate")
    if namespace is None:
        assert own is None
        return
    assert own is not None
    assert own["metadata"]["namespace"] == namespace
    assert permissions(own) == {("", "secrets", verb, "tls") for verb in ("get", "list", "watch")}
    assert ("Role", "web-aioingress-default-certificate", namespace, "edge/web-aioingress") in bindings(objects)
    # another Role than the one that is for everything
    everywhere = chart.render({"controller": {"defaultSSLCertificate": certificate}})
    assert "web-aioingress-default-certificate" not in everywhere.of("Role")


@pytest.mark.parametrize("values", [{}, SCOPED])
def test_no_wildcard_and_no_secret_is_written(chart: Chart, values: dict[str, Any]) -> None:
    objects = chart.render(values)
    roles = [*objects.of("Role").values(), *objects.of("ClusterRole").values()]
    assert len(roles) == 2
    for role in roles:
        for group, resource, verb, name in permissions(role):
            assert "*" not in (group, resource, verb, name)
            assert verb != "delete"
            if resource in ("secrets", "configmaps", "pods", "nodes"):
                assert verb in READ


def test_lease_follows_the_election_id(chart: Chart) -> None:
    objects = chart.render({"controller": {"electionID": "edge-lock"}})
    assert ("coordination.k8s.io", "leases", "update", "edge-lock") in permissions(objects.one("Role"))
    assert objects.flag("election-id") == "edge-lock"


def test_without_events(chart: Chart) -> None:
    granted = permissions(chart.render({"controller": {"events": False}}).one("ClusterRole"))
    assert {entry for entry in CLUSTER if "events" in entry} == CLUSTER - granted


def test_namespaced_roles_need_a_namespaced_watch(chart: Chart) -> None:
    with pytest.raises(Refused, match=r"rbac\.scope is true, but controller\.scope\.enabled is not"):
        chart.render({"rbac": {"scope": True}})


def test_without_rbac(chart: Chart) -> None:
    kinds = chart.render({"rbac": {"create": False}}).kinds
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


@pytest.mark.parametrize(
    ("account", "name", "created"),
    [
        ({}, "web-aioingress", True),
        ({"name": "edge"}, "edge", True),
        ({"create": False, "name": "edge"}, "edge", False),
        ({"create": False}, "default", False),
    ],
)
def test_service_account(chart: Chart, account: dict[str, Any], name: str, created: bool) -> None:
    objects = chart.render({"serviceAccount": account})
    assert objects.pod["serviceAccountName"] == name
    assert objects.of("ServiceAccount").keys() == ({name} if created else set())
    assert {subject for *_, subject in bindings(objects)} == {f"edge/{name}"}


def test_service_account_without_token(chart: Chart) -> None:
    objects = chart.render({"serviceAccount": {"automountServiceAccountToken": False, "annotations": {"role": "x"}}})
    account = objects.one("ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["annotations"] == {"role": "x"}
    assert objects.pod["automountServiceAccountToken"] is False
