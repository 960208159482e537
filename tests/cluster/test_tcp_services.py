"""TCP services as installed: the chart's `tcp`, its ConfigMap, a Service of another namespace, an edit that is live."""

import asyncio
import json
import secrets

import pytest

from tests.cluster.support import QUICK_END, Closed, Incomplete, echo_deployment, fetch, service

PORT = 9000


@pytest.fixture
def databases(cluster):
    """A namespace of its own, with two Deployments."""
    name = f"db-{secrets.token_hex(4)}"
    cluster.create_namespace(name)
    for app in ("one", "other"):
        cluster.apply(echo_deployment(app, 1), service(app), namespace=name)
    for app in ("one", "other"):
        cluster.wait_rollout("deployment", app, name)
    yield name
    cluster.delete(f"/api/v1/namespaces/{name}")


def test_tcp_services(cluster, namespace, chart, databases):
    release = chart({"tcp": {str(PORT): f"{databases}/one:80"}, "controller": {**QUICK_END, "workers": 2}})
    address = release.address()

    def pod():
        """Who answers behind the port; None while nobody does."""
        try:
            found = asyncio.run(fetch(address, "any", port=PORT))
        except (OSError, Closed, Incomplete):
            return None
        return found.pod.rpartition("-")[0].rpartition("-")[0] if found.status == 200 else None

    cluster.eventually(lambda: pod() == "one", "the port answers")
    (config_map,) = [
        item["metadata"]["name"]
        for item in cluster.get(f"/api/v1/namespaces/{namespace}/configmaps")["items"]
        if item["metadata"]["name"].endswith("-tcp")
    ]
    patch = {
        "data": {str(PORT): f"{databases}/other:80", "http": f"{databases}/one:80", "9001": f"{databases}/gone:80"}
    }
    cluster.kubectl("patch", "configmap", config_map, "-n", namespace, "--patch", json.dumps(patch))
    cluster.eventually(lambda: pod() == "other", "the edit is live")

    def events():
        return cluster.kubectl("describe", "configmap", config_map, "-n", namespace)

    cluster.eventually(lambda: "ServiceNotFound" in events() and "InvalidField" in events(), "Events of the ConfigMap")
    cluster.kubectl("scale", "deployment", "other", "--replicas=0", "-n", databases)
    cluster.eventually(lambda: pod() is None, "nobody answers without endpoints")
    cluster.kubectl("scale", "deployment", "other", "--replicas=1", "-n", databases)
    cluster.eventually(lambda: pod() == "other", "they are back")
