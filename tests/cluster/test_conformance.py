"""The scenarios of the Ingress conformance suite (kubernetes-sigs/ingress-controller-conformance), one test id a run: our own words and code, the
controller installed by the chart. `make conformance` runs the suite itself.
"""

import asyncio
import json

import pytest

from tests.certificates import certificate
from tests.cluster.support import (
    Connection,
    echo_deployment,
    fetch,
    ingress,
    install_chart,
    service,
    tls_secret,
    trusting,
)
from tools.envtest.cluster import Cluster

NAMESPACE = "conformance"


def rules(name, *found, default=None, tls=None):
    """An Ingress of (host, path, pathType, Service); no host: any."""
    spec = {"ingressClassName": "aioingress", "rules": []}
    for host, path, path_type, backend in found:
        reference = {"service": {"name": backend, "port": {"number": 80}}}
        rule = {"http": {"paths": [{"path": path, "pathType": path_type, "backend": reference}]}}
        spec["rules"].append({"host": host, **rule} if host else rule)
    if default:
        spec["defaultBackend"] = {"service": {"name": default, "port": {"number": 80}}}
    if tls:
        spec["tls"] = [{"hosts": [tls], "secretName": "conformance-tls"}]
    return json.dumps(
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name}, "spec": spec}
    )


PATHS = "paths.example.com"
CERTIFICATE = certificate("foo.bar.com")
SERVICES = ("echo", "wildcard", "foo-exact", "foo-prefix", "aaa-slash-bbb", "aaa", "trailing", "many")


@pytest.fixture(scope="module")
def address(cluster: Cluster):
    """Everything of all features at once: nothing of one may disturb another."""
    cluster.create_namespace(NAMESPACE)
    release = install_chart(cluster, "conformance", NAMESPACE, {"controller": {"config": {"ssl-redirect": "false"}}})
    manifests = [part for name in SERVICES for part in (echo_deployment(name, 1), service(name))]
    manifests += [
        tls_secret("conformance-tls", CERTIFICATE),
        rules(
            "host-rules",
            ("*.foo.com", "/", "Prefix", "wildcard"),
            ("foo.bar.com", "/", "Prefix", "echo"),
            tls="foo.bar.com",
        ),
        rules("load-balancing", ("many.example.com", "/", "Prefix", "many")),
        rules("exact", ("exact.example.com", "/foo", "Exact", "foo-exact")),
        rules(
            "prefix",
            (PATHS, "/foo", "Prefix", "foo-prefix"),
            (PATHS, "/aaa/bbb", "Prefix", "aaa-slash-bbb"),
            (PATHS, "/aaa", "Prefix", "aaa"),
        ),
        rules(
            "mixed",
            ("mixed.example.com", "/foo", "Prefix", "foo-prefix"),
            ("mixed.example.com", "/foo", "Exact", "foo-exact"),
        ),
        rules(
            "trailing",
            ("trailing.example.com", "/aaa/bbb/", "Prefix", "trailing"),
            ("trailing.example.com", "/foo/", "Exact", "foo-exact"),
        ),
        ingress("foreign", "foreign.example.com", "echo", class_name="some-invalid-class-name"),
    ]
    cluster.apply(*manifests, namespace=NAMESPACE)
    for name in SERVICES:
        cluster.wait_rollout("deployment", name, NAMESPACE)
    cluster.kubectl("scale", "deployment/many", "--replicas=10", "-n", NAMESPACE)
    cluster.wait_rollout("deployment", "many", NAMESPACE)
    found = release.address()
    for name in ("host-rules", "load-balancing", "exact", "prefix", "mixed", "trailing"):
        cluster.eventually(lambda name=name: shown(cluster, name) == [{"ip": found}], f"the address of {name}")
    yield found
    # At once: a namespace takes its time to go, and the default backend takes requests of the tests after this one.
    cluster.kubectl("delete", "ingress", "--all", "-n", NAMESPACE)
    release.uninstall()
    cluster.delete(f"/api/v1/namespaces/{NAMESPACE}")


def shown(cluster: Cluster, name: str) -> list[dict[str, str]]:
    found = cluster.get(f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses/{name}")
    return list(found["status"].get("loadBalancer", {}).get("ingress", ()))


# ---- hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "backend"),
    [
        ("foo.bar.com", "echo"),  # over plain HTTP, though there is a tls section
        ("bar.foo.com", "wildcard"),
        ("subdomain.bar.com", None),
        ("baz.bar.foo.com", None),
        ("foo.com", None),
    ],
)
async def test_hosts(address, host, backend):
    response = await fetch(address, host)
    if backend is None:
        assert response.status == 404
    else:
        assert (response.status, response.json()["host"], response.json()["service"]) == (200, host, backend)


async def test_https(address):
    """The client trusts this one certificate, and verifies that it is for the host."""
    async with Connection(address, 443, tls=trusting(CERTIFICATE)) as connection:
        response = await connection.get("foo.bar.com")
    assert connection.certificate == CERTIFICATE.der
    said = response.json()
    assert (response.status, said["host"], said["service"]) == (200, "foo.bar.com", "echo")
    assert said["headers"]["X-Forwarded-Proto"] == ["https"]


# ---- class --------------------------------------------------------------------------------------------------------


async def test_unknown_class_gets_no_address(address, cluster):
    assert await asyncio.to_thread(shown, cluster, "foreign") == []
    assert (await fetch(address, "foreign.example.com")).status == 404


# ---- load balancing -----------------------------------------------------------------------------------------------


async def test_load_balancing(address):
    responses = [await fetch(address, "many.example.com") for _ in range(100)]
    assert {response.status for response in responses} == {200}
    assert len({response.pod for response in responses}) == 10


# ---- paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "path", "backend"),
    [
        ("exact.example.com", "/foo", "foo-exact"),
        ("exact.example.com", "/foo/", None),
        ("exact.example.com", "/FOO", None),
        ("exact.example.com", "/bar", None),
        (PATHS, "/foo", "foo-prefix"),
        (PATHS, "/foo/", "foo-prefix"),
        (PATHS, "/FOO", None),
        (PATHS, "/aaa/bbb", "aaa-slash-bbb"),
        (PATHS, "/aaa/bbb/ccc", "aaa-slash-bbb"),
        (PATHS, "/aaa/ccc", "aaa"),
        (PATHS, "/aaaccc", None),
        ("mixed.example.com", "/foo", "foo-exact"),
        ("trailing.example.com", "/aaa/bbb", "trailing"),
        ("trailing.example.com", "/aaa/bbb/", "trailing"),
        ("trailing.example.com", "/foo", None),
    ],
)
async def test_paths(address, host, path, backend):
    response = await fetch(address, host, path)
    if backend is None:
        assert response.status == 404
    else:
        assert (response.status, response.json()["service"], response.json()["path"]) == (200, backend, path)


# ---- default backend ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catch_all(cluster, address):
    """Last in this module: afterwards nothing is 404 any more."""
    cluster.apply(rules("default-backend", default="echo"), namespace=NAMESPACE)
    cluster.eventually(lambda: shown(cluster, "default-backend") == [{"ip": address}], "an address")
    return address


@pytest.mark.parametrize(
    ("method", "host", "path"),
    [
        ("GET", "my-host", "/"),
        ("GET", "my-host", "/sub-path"),
        ("POST", "some-host", "/"),
        ("PUT", "", "/resource"),
        ("DELETE", "some-host", "/resource"),
        ("PATCH", "my-host", "/resource"),
    ],
)
async def test_default_backend(catch_all, method, host, path):
    address = catch_all
    async with Connection(address) as connection:
        response = await connection.request(method, host or address, path, {"User-Agent": "conformance/1"})
    assert response.status == 200
    assert {"content-length", "content-type", "date", "server"} <= response.headers.keys()
    said = response.json()
    assert (said["service"], said["method"], said["path"], said["proto"]) == ("echo", method, path, "HTTP/1.1")
    assert said["host"] == (host or address)
    assert said["headers"]["User-Agent"] == ["conformance/1"]
