"""What an installation says: the next commands, what deserves a second look, what has no effect."""

from typing import Any

import pytest
import yaml

from tests.charts.support import Chart
from tests.charts.test_schema import NGINX_VALUES


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["get service web-aioingress-controller", ".status.loadBalancer.ingress[0].ip", ":80\n"]),
        ({"service": {"type": "NodePort"}}, ['@.name=="http")].nodePort', "get nodes"]),
        ({"service": {"type": "ClusterIP"}}, ["port-forward service/web-aioingress-controller 8080:80"]),
        ({"service": {"enabled": False}}, ["port-forward deployment/web-aioingress-controller 8080:8080"]),
        ({"service": {"enabled": False}, "hostPort": {"enabled": True}}, [".status.hostIP}'):80"]),
        ({"service": {"enabled": False}, "hostNetwork": True, "kind": "DaemonSet"}, [".status.hostIP}'):8080"]),
    ],
    ids=str,
)
def test_next_commands(noted: Chart, values: dict[str, Any], expected: list[str]) -> None:
    notes = noted.notes({"controller": values})
    kind = values.get("kind", "Deployment").lower()
    for text in (
        *expected,
        f"kubectl -n edge rollout status {kind}/web-aioingress-controller",
        "kubectl create ingress web --class=aioingress",
        "curl -H 'Host: web.example.com' \"http://$ADDRESS/\"",
    ):
        assert text in notes


def test_class_of_the_example_is_the_one_that_was_installed(noted: Chart) -> None:
    notes = noted.notes({"controller": {"ingressClassResource": {"name": "edge"}}})
    assert "--class=edge" in notes


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"service": {"targetPorts": {"https": "http"}}}, "controller.service.targetPorts.https=http"),
        ({"admissionWebhooks": {"enabled": True}}, "controller.admissionWebhooks.enabled"),
        ({"terminationGracePeriodSeconds": 60}, "controller.terminationGracePeriodSeconds (60)"),
        ({"lifecycle": {"preStop": {"exec": {"command": ["/wait-shutdown"]}}}}, "/wait-shutdown"),
        ({"readinessProbe": {"httpGet": {"path": "/healthz"}}}, "controller.readinessProbe asks /healthz"),
        ({"hostNetwork": True, "containerPort": {"http": 80}}, "controller.hostNetwork"),
        ({"disableLeaderElection": True, "replicaCount": 2}, "controller.disableLeaderElection"),
        ({"takeOverNginx": {"createClass": True}}, 'the IngressClass "nginx" exists'),
        ({"autoscaling": {"enabled": True}, "kind": "DaemonSet"}, "a DaemonSet isn't scaled"),
        ({"metrics": {"dashboard": {"enabled": True}}}, "controller.metrics.enabled is false"),
    ],
    ids=str,
)
def test_warnings(noted: Chart, values: dict[str, Any], warning: str) -> None:
    _, _, lines = noted.notes({"controller": values}).partition("Warnings:\n")
    assert warning in lines
    assert lines.count("  - ") == 1


def test_warnings_of_namespaced_mode(noted: Chart) -> None:
    scope = {"scope": {"enabled": True}, "service": {"enabled": False}, "ingressClass": ""}
    notes = noted.notes({"rbac": {"scope": True}, "controller": scope})
    assert "set controller.publishStatusAddress" in notes
    assert "controller.ingressClass is empty" in notes


def test_nothing_to_say(noted: Chart) -> None:
    options = {"config": {"proxy-body-size": "8m"}, "addHeaders": {"X-A": "1"}, "proxySetHeaders": {"X-B": "2"}}
    notes = noted.notes({"controller": options})
    assert "Warnings" not in notes
    assert "no effect" not in notes


@pytest.mark.parametrize(
    "config",
    [
        {"use-forwarded-headers": "true"},
        {"use-proxy-protocol": True},
        {"ssl-redirect": False},
        {"ssl-redirect": "false"},
    ],
)
def test_tls_at_the_load_balancer_that_says_so(noted: Chart, config: dict[str, Any]) -> None:
    notes = noted.notes({"controller": {"service": {"targetPorts": {"https": "http"}}, "config": config}})
    assert "Warnings" not in notes


def test_values_without_effect_are_named(noted: Chart) -> None:
    notes = noted.notes(yaml.safe_load(NGINX_VALUES.read_text()))
    _, _, lines = notes.partition("Values of ingress-nginx's chart that have no effect here:\n")
    named = [line.removeprefix("  - ").partition(":")[0] for line in lines.splitlines() if line.startswith("  - ")]
    # what is off, empty or false asks for nothing, and needs no line
    assert named == [
        "controller.allowSnippetAnnotations",
        "controller.enableAnnotationValidations",
        "controller.enableMimalloc",
        "controller.image.runAsUser",
        "controller.opentelemetry",
        "udp",
        "controller.extraArgs.v",
    ]
