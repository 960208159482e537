"""The samples of the repository as a person tries them, by kubectl and curl; and what becomes of an Ingress that is edited."""

import asyncio
import json
import subprocess
from collections import Counter

import pytest

from tests.cluster.support import ROOT, echo_deployment, fetch, fetch_until, ingress, install_chart, service

SAMPLES = ("toad.yaml", "toad-ingress.yaml", "toad-sticky.yaml")


@pytest.fixture(scope="module")
def address(cluster):
    cluster.create_namespace("edge")
    release = install_chart(cluster, "sample", "edge", {"controller": {"replicaCount": 2}})
    yield release.address()
    release.uninstall()
    cluster.delete("/api/v1/namespaces/edge")


def curl(address, host):
    argv = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "10",
        "--header",
        f"Host: {host}",
        f"http://{address}/",
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout


def test_sample(cluster, address, namespace):
    for name in SAMPLES:
        cluster.kubectl("apply", "-n", namespace, "-f", str(ROOT / "examples" / name))
    cluster.wait_rollout("deployment", "toad", namespace)

    def table():
        header, *lines = cluster.kubectl("get", "ingress", "-n", namespace).splitlines()
        assert header.split() == ["NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"]
        rows = {line.split()[0]: line.split() for line in lines}
        return rows if all(address in row for row in rows.values()) else None

    rows = cluster.eventually(table, "the addresses")
    assert rows["toad"][1:5] == ["aioingress", "toad.example.com", address, "80"]
    assert rows["toad-sticky"][1:5] == ["aioingress", "sticky.example.com", address, "80"]
    pods = {pod["metadata"]["name"] for pod in cluster.pods(namespace)}
    assert len(pods) == 4
    said = Counter(curl(address, "toad.example.com").strip() for _ in range(40))
    assert set(said) == {f"You've hit {pod}" for pod in pods}
    # two replicas, two workers each, a connection a request: the client's address alone decides
    (sticky,) = {curl(address, "sticky.example.com").strip() for _ in range(20)}
    assert sticky in set(said)


@pytest.fixture
def echo(cluster, namespace):
    cluster.apply(echo_deployment("echo", 1), service("echo"), namespace=namespace)
    cluster.wait_rollout("deployment", "echo", namespace)
    return f"{namespace}.example.com"


async def call(function, *arguments):
    return await asyncio.to_thread(function, *arguments)


async def test_edits_are_live(cluster, address, namespace, echo):
    async def apply(*arguments, **options):
        await call(lambda: cluster.apply(ingress(*arguments, **options), namespace=namespace))

    await apply("web", echo, "echo", path="/old")
    await fetch_until(address, echo, "/old")
    await apply("web", echo, "echo", path="/new")
    await fetch_until(address, echo, "/old", status=404)
    assert (await fetch(address, echo, "/new")).status == 200
    await apply("web", f"other.{echo}", "echo")
    await fetch_until(address, f"other.{echo}")
    await fetch_until(address, echo, "/new", status=404)
    await apply("web", f"*.{echo}", "echo")
    await fetch_until(address, f"any.{echo}")
    await call(cluster.kubectl, "delete", "ingress", "web", "-n", namespace)
    await fetch_until(address, f"any.{echo}", status=404)


def path_of(namespace, name):
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}"


def shown(cluster, namespace, name):
    return cluster.get(path_of(namespace, name))["status"].get("loadBalancer", {}).get("ingress")


async def test_a_change_of_class(cluster, address, namespace, echo):
    """Away: no route, no address. Back: both."""
    await call(lambda: cluster.apply(ingress("web", echo, "echo"), namespace=namespace))
    await call(cluster.eventually, lambda: shown(cluster, namespace, "web") == [{"ip": address}], "an address")
    for name, status in (("somebody-elses", 404), ("aioingress", 200)):
        await call(lambda n=name: cluster.patch(path_of(namespace, "web"), {"spec": {"ingressClassName": n}}))
        await fetch_until(address, echo, status=status)
        expected = [{"ip": address}] if status == 200 else None
        await call(cluster.eventually, lambda e=expected: shown(cluster, namespace, "web") == e, f"{expected}")


async def test_what_is_wrong_is_an_event(cluster, address, namespace, echo):
    await call(lambda: cluster.apply(ingress("web", echo, "missing"), namespace=namespace))
    await fetch_until(address, echo, status=503)

    def described():
        return "ServiceNotFound" in cluster.kubectl("describe", "ingress", "web", "-n", namespace)

    await call(cluster.eventually, described, "an Event")
    text = await call(cluster.kubectl, "describe", "ingress", "web", "-n", namespace)
    assert "spec.rules[0].http.paths[0].backend.service.name 'missing'" in text
    await call(lambda: cluster.apply(service("missing", selector={"app": "echo"}), namespace=namespace))
    await fetch_until(address, echo)


async def test_kinds_of_backends(cluster, address, namespace, echo):
    """By the name of a port, headless, without a selector, by another Service's name, and the default backend of an Ingress."""
    manual = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "manual"}, "spec": {"ports": [{"port": 80}]}}
    (pod,) = await call(cluster.pods, namespace)
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "manual-1", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [pod["status"]["podIP"]]}],
    }
    by_name = json.loads(ingress("by-name", f"by-name.{echo}", "echo"))
    by_name["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] = {"name": "http"}
    fallback = json.loads(ingress("fallback", f"fallback.{echo}", "manual", path="/manual"))
    fallback["spec"]["defaultBackend"] = {"service": {"name": "echo", "port": {"number": 80}}}
    manifests = [
        json.dumps(manual),
        json.dumps(endpoints),
        json.dumps(by_name),
        json.dumps(fallback),
        service("headless", clusterIP="None", selector={"app": "echo"}),
        ingress("headless", f"headless.{echo}", "headless"),
        ingress("manual", f"manual.{echo}", "manual"),
    ]
    await call(lambda: cluster.apply(*manifests, namespace=namespace))
    for name in ("by-name", "headless", "manual", "fallback"):
        assert (await fetch_until(address, f"{name}.{echo}")).pod == pod["metadata"]["name"]
    assert (await fetch(address, f"fallback.{echo}", "/manual")).status == 200
