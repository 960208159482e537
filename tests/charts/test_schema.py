"""values.schema.json: typos and wrong types are refused by name, whatever ingress-nginx's chart knows is accepted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.support import Chart, Refused
from tools.chart_docs import CHART, Value, read_values

IGNORED: dict[str, dict[str, str]] = yaml.safe_load((CHART / "files" / "ignored.yaml").read_text())
NGINX_VALUES = Path(__file__).with_name("ingress-nginx-values.yaml")


def nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def merged(left: Any, right: Any) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        return left | {key: merged(left[key], right[key]) if key in left else right[key] for key in right}
    return right


REFUSED: list[tuple[str, Any, str]] = [
    ("controler", {}, "'controler' not allowed"),
    ("controller.replicaCnt", 2, "at '/controller': additional properties 'replicaCnt' not allowed"),
    ("controller.service.typ", "NodePort", "at '/controller/service': additional properties 'typ' not allowed"),
    ("controller.takeOverNginx.enable", True, "at '/controller/takeOverNginx': additional properties 'enable'"),
    ("controller.containerPort.admin", 1, "at '/controller/containerPort': additional properties 'admin'"),
    (
        "controller.metrics.serviceMonitor.enable",
        True,
        "'/controller/metrics/serviceMonitor': additional properties 'enable'",
    ),
    ("rbac.scoped", True, "at '/rbac': additional properties 'scoped' not allowed"),
    ("defaultBackend.ports", 80, "at '/defaultBackend': additional properties 'ports' not allowed"),
    ("controller.replicaCount", "two", "at '/controller/replicaCount': got string, want integer"),
    ("controller.replicaCount", -1, "at '/controller/replicaCount': minimum"),
    ("controller.kind", "StatefulSet", "at '/controller/kind': value must be one of 'Deployment', 'DaemonSet'"),
    ("controller.workers", "many", "at '/controller/workers'"),
    ("controller.workers", -1, "at '/controller/workers': minimum"),
    ("controller.workers", 1.5, "at '/controller/workers'"),
    ("controller.logFormat", "xml", "at '/controller/logFormat': value must be one of 'text', 'json'"),
    ("controller.config", ["a"], "at '/controller/config': got array, want object"),
    ("controller.config.a", {"b": 1}, "at '/controller/config/a': got object"),
    ("controller.containerPort.http", 70000, "at '/controller/containerPort/http': maximum"),
    ("controller.containerPort.https", "80", "at '/controller/containerPort/https': got string, want integer"),
    ("controller.service.type", "Loadbalancer", "at '/controller/service/type': value must be one of"),
    ("controller.service.externalTrafficPolicy", "local", "at '/controller/service/externalTrafficPolicy'"),
    ("controller.service.annotations", {"a": True}, "at '/controller/service/annotations/a': got boolean, want string"),
    ("controller.service.ipFamilies", ["IPv5"], "at '/controller/service/ipFamilies/0'"),
    ("controller.service.internal.ports.htpp", 80, "htpp"),
    ("controller.extraArgs", {"--v": "2"}, "--v"),
    ("controller.extraArgs", ["--v=2"], "at '/controller/extraArgs': got array, want object"),
    ("controller.electionTTL", "a while", "at '/controller/electionTTL'"),
    ("controller.defaultSSLCertificate", "tls", "at '/controller/defaultSSLCertificate'"),
    ("controller.ingressClassResource.name", "", "at '/controller/ingressClassResource/name'"),
    ("controller.image.digest", "latest", "at '/controller/image/digest'"),
    ("tcp.9000", "db", "at '/tcp/9000'"),
    ("tcp.db", "default/db:5432", "at '/tcp': additional properties 'db' not allowed"),
]


def batches() -> list[list[tuple[str, Any, str]]]:
    """helm reports all mistakes of a values file, so a few runs are enough, as long as none hides another: not one below the
    other, and no two unknown names in the same place."""
    found: list[list[tuple[str, Any, str]]] = []
    for case in REFUSED:
        for group in found:
            if not any(hides(case, other) for other in group):
                group.append(case)
                break
        else:
            found.append([case])
    return found


def hides(case: tuple[str, Any, str], other: tuple[str, Any, str]) -> bool:
    (path, _, message), (other_path, _, other_message) = case, other
    if f"{path}.".startswith(f"{other_path}.") or f"{other_path}.".startswith(f"{path}."):
        return True
    same_place = path.rpartition(".")[0] == other_path.rpartition(".")[0]
    return same_place and "not allowed" in message and "not allowed" in other_message


@pytest.mark.parametrize("mistakes", batches(), ids=lambda group: f"{len(group)} at once")
def test_refused_by_name(chart: Chart, mistakes: list[tuple[str, Any, str]]) -> None:
    values: Any = {}
    for path, value, _ in mistakes:
        values = merged(values, nested(path, value))
    with pytest.raises(Refused) as refused:
        chart.render(values)
    assert "don't meet the specifications of the schema" in str(refused.value)
    assert [message for *_, message in mistakes if message not in str(refused.value)] == []


def test_everything_that_is_ignored_is_accepted(chart: Chart) -> None:
    values: Any = {}
    for path in IGNORED["values"]:
        values = merged(values, nested(path, {"anything": ["goes"]}))
    values = merged(values, nested("controller.extraArgs", dict.fromkeys(IGNORED["flags"], "1")))
    assert chart.render(values) == chart.render()


def test_ignored_values_are_none_of_ours() -> None:
    def paths(values: Any) -> set[str]:
        return {".".join(value.path) for value in values} | {path for value in values for path in paths(value.children)}

    ours = paths(read_values((CHART / "values.yaml").read_text()))
    assert not ours & IGNORED["values"].keys()


def test_values_file_of_ingress_nginx(chart: Chart) -> None:
    values = yaml.safe_load(NGINX_VALUES.read_text())
    objects = chart.render(values)
    assert objects.flag("controller-class") == "k8s.io/ingress-nginx"
    assert objects.flag("ingress-class") == "nginx"
    assert objects.flag("default-ssl-certificate") == "ingress-nginx/wildcard"
    assert objects.flag("enable-ssl-passthrough") == ""
    assert objects.one("IngressClass")["metadata"]["name"] == "nginx"
    assert objects.workload["spec"]["replicas"] == 3
    config = objects.one("ConfigMap", "web-aioingress-controller")["data"]
    assert config["proxy-body-size"] == "64m"
    assert config["use-forwarded-headers"] == "true"
    assert config["keep-alive-requests"] == "10000"
    service = objects.one("Service", "web-aioingress-controller")
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert {port["name"]: port["targetPort"] for port in service["spec"]["ports"]} == {
        "http": "http",
        "https": "http",
        "5432-tcp": "5432-tcp",
    }
    assert {"ServiceMonitor", "PrometheusRule", "PodDisruptionBudget", "NetworkPolicy"} <= objects.kinds


def test_null_drops_a_default(chart: Chart) -> None:
    """helm takes a null for "remove this key": no template may rely on a key that isn't required."""
    optional = [value for value in flatten(read_values((CHART / "values.yaml").read_text())) if is_container(value)]
    assert len(optional) > 60
    values: Any = {}
    for value in optional:
        values = merged(values, nested(".".join(value.path), None))
    switched_on = {
        "controller": {
            "service": {"internal": {"enabled": True}},
            "metrics": {"enabled": True, "serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
            "autoscaling": {"enabled": True},
            "networkPolicy": {"enabled": True},
        },
        "defaultBackend": {"enabled": True, "image": {"repository": "errors"}, "networkPolicy": {"enabled": True}},
    }
    objects = chart.render(merged(values, switched_on))
    assert objects.kinds > chart.render().kinds
    assert "lifecycle" not in objects.container
    assert "nodeSelector" not in objects.pod


def flatten(values: tuple[Value, ...]) -> Iterator[Value]:
    for value in values:
        yield value
        yield from flatten(value.children)


def is_container(value: Value) -> bool:
    return value.is_leaf and isinstance(value.default, list | dict)
