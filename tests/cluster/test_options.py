"""The options ConfigMap in a cluster: written by the chart, changed with kubectl, complained about in Events."""

from collections.abc import Callable
from typing import Any

from tests.cluster.support import Release, echo_deployment, ingress, service
from tests.cluster.test_install import curl, serves
from tools.envtest.cluster import Cluster

HOST = "app.example.com"


def change(cluster: Cluster, namespace: str, name: str, data: dict[str, Any]) -> None:
    cluster.patch(f"/api/v1/namespaces/{namespace}/configmaps/{name}", {"data": data})


def test_options_of_the_chart_are_live(cluster: Cluster, namespace: str, chart: Callable[..., Release]) -> None:
    cluster.apply(echo_deployment("echo", 1), service("echo"), ingress("app", HOST, "echo"), namespace=namespace)
    release = chart({"controller": {"config": {"server-tokens": "true"}, "addHeaders": {"X-Edge": "one"}}})
    serves(release, HOST)
    address = release.address()

    def head() -> str:
        return curl(cluster, address, HOST, "-i").lower()

    cluster.eventually(lambda: "server: aioingress/" in head() and "x-edge: one" in head(), "the options of the chart")
    pods = {pod["metadata"]["name"] for pod in cluster.pods(namespace)}

    names = [item["metadata"]["name"] for item in cluster.get(f"/api/v1/namespaces/{namespace}/configmaps")["items"]]
    (fields,) = [name for name in names if "add-headers" in name]
    change(cluster, namespace, fields, {"X-Edge": "two"})
    cluster.eventually(lambda: "x-edge: two" in head(), "a change of the ConfigMap that an option names")

    options = "aioingress-controller"
    change(cluster, namespace, options, {"server-tokens": "perhaps", "proxy-body-size": "10"})
    cluster.eventually(
        lambda: curl(cluster, address, HOST, "--data", "x" * 11).startswith("413 "), "the option beside the bad one"
    )
    assert "server: aioingress/" in head()  # the last good value

    def complaint() -> str:
        events = cluster.get(f"/api/v1/namespaces/{namespace}/events")["items"]
        about = [event for event in events if event["involvedObject"]["kind"] == "ConfigMap"]
        return next((e["message"] for e in about if "server-tokens" in e["message"]), "")

    found = cluster.eventually(complaint, "an Event of the ConfigMap")
    assert found.startswith("data.server-tokens 'perhaps': The value is not used")
    assert "The last good value stays in force: true." in found
    assert {pod["metadata"]["name"] for pod in cluster.pods(namespace)} == pods  # nothing was restarted
