"""From the backend of a rule to a Pod: ports, slices, Endpoints, kinds of Services, conditions; and what the owner is told when there is none.

One controller serves all of it; each scenario has a Service and a host of its own name.
"""

import json
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.support import (
    Pods,
    Serve,
    app,
    backend,
    endpoint_slice,
    eventually,
    ingress,
    path,
    replace,
    rule,
    service,
    slices,
    write,
)


def endpoint(address: str, **conditions: bool | None) -> dict:
    return {"addresses": [address], "conditions": conditions}


@pytest.fixture(scope="module")
def site(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    place = tmp_path_factory.mktemp("backends") / "manifests"
    place.mkdir()

    def pod(name: str, address: str = "127.0.0.1"):
        return pods.start(name, address)

    def scenario(name: str, *documents, port: int | str = 80, **options) -> None:
        write(place / f"{name}.yaml", *documents, ingress(name, rule(f"{name}.test", path(name, port=port)), **options))

    scenario("by-number", app("by-number", [pod("by-number")]))
    found = [pod("named-0"), pod("named-1")]
    ports = [{"name": "web", "port": 80}, {"name": "metrics", "port": 9090}]
    other = pod("named-metrics")
    scenario(
        "by-name",
        service("by-name", *ports),
        slices("by-name", found, "web"),
        endpoint_slice("by-name", ["127.0.0.1"], {"name": "metrics", "port": other.port}, suffix="metrics"),
        port="web",
    )
    write(place / "by-name-metrics.yaml", ingress("by-name-metrics", rule("metrics.test", path("by-name", port=9090))))
    # a named targetPort: each Pod calls another port by that name
    scenario(
        "named-target",
        service("named-target", {"name": "http", "port": 8080, "targetPort": "web"}),
        slices("named-target", [pod("target-0"), pod("target-1")], "http"),
        port="http",
    )
    # several ports in one slice
    first, second = pod("several-a"), pod("several-b")
    write(
        place / "several.yaml",
        service("several", {"name": "a", "port": 80}, {"name": "b", "port": 81}),
        endpoint_slice("several", ["127.0.0.1"], {"name": "a", "port": first.port}, {"name": "b", "port": second.port}),
        ingress("several", rule("several.test", path("several", "/a", port="a"), path("several", "/b", port=81))),
    )
    one = pod("endpoints-0")
    scenario(
        "endpoints",
        service("endpoints"),
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "endpoints"},
            "subsets": [{"addresses": [{"ip": one.address}], "ports": [{"port": one.port}]}],
        },
    )
    scenario("headless", app("headless", [pod("headless")], clusterIP="None"))
    for kind in ("NodePort", "LoadBalancer"):
        scenario(kind.lower(), app(kind.lower(), [pod(kind.lower())], type=kind))
    by_name, by_ip = pod("external-name"), pod("external-ip", "127.0.0.3")
    scenario(
        "external-name",
        service("external-name", by_name.port, type="ExternalName", externalName="localhost"),
        port=by_name.port,
    )
    scenario(
        "external-ip",
        service("external-ip", by_ip.port, type="ExternalName", externalName="127.0.0.3"),
        port=by_ip.port,
    )
    # conditions: one port, an address of its own for each state
    port = pod("ready", "127.0.1.1").port
    addresses = {"127.0.1.1": {"ready": True}, "127.0.1.2": {"ready": False}, "127.0.1.3": {"ready": None}}
    addresses["127.0.1.4"] = {"ready": False, "serving": True, "terminating": True}
    for address, name in (("127.0.1.2", "unready"), ("127.0.1.3", "null-ready"), ("127.0.1.4", "terminating")):
        pods.start(name, address, port)
    scenario(
        "conditions",
        service("conditions"),
        endpoint_slice("conditions", [endpoint(a, **c) for a, c in addresses.items()], port),
    )
    last = [a for a in addresses if a in ("127.0.1.2", "127.0.1.4")]
    scenario(
        "only-terminating",
        service("only-terminating"),
        endpoint_slice("only-terminating", [endpoint(a, **addresses[a]) for a in last], port),
    )
    twice = [pod("twice"), pod("once")]
    scenario("duplicate", service("duplicate"), slices("duplicate", [twice[0], twice[0], twice[0], twice[1]]))
    scenario("dual-stack", app("dual-stack", [pod("dual-4"), pod("dual-6", "::1")]))
    scenario(
        "udp",
        service("udp", {"port": 80, "protocol": "UDP"}),
        endpoint_slice("udp", ["127.0.0.1"], {"port": port, "protocol": "UDP"}),
    )
    scenario("missing-service")
    scenario("missing-port", app("missing-port", [pod("missing-port")]), port=81)
    scenario("missing-port-name", app("missing-port-name", [pod("missing-port-name")]), port="web")
    scenario("no-endpoints", service("no-endpoints"), endpoint_slice("no-endpoints", [], port))
    scenario("no-slice", service("no-slice"))
    scenario(
        "other-namespace",
        app("other-namespace", [pod("other-namespace")])[0]
        | {"metadata": {"name": "other-namespace", "namespace": "there"}},
    )
    scenario("refuses", service("refuses"), endpoint_slice("refuses", ["127.0.0.1"], closed_port()))
    resource = {
        "path": "/files",
        "pathType": "Prefix",
        "backend": {"resource": {"apiGroup": "k8s.example.com", "kind": "StorageBucket", "name": "files"}},
    }
    write(
        place / "resource.yaml",
        app("resource-web", [pod("resource-web")]),
        app("resource-default", [pod("resource-default")]),
        ingress(
            "resource",
            rule("resource.test", resource, path("resource-web", "/web")),
            defaultBackend=backend("resource-default"),
        ),
    )
    scenario(
        "auth-url",
        app("auth-url", [pod("auth-url")]),
        annotations={"nginx.ingress.kubernetes.io/auth-url": "ftp://auth.test/check"},
    )
    scenario(
        "allow-list",
        app("allow-list", [pod("allow-list")]),
        annotations={"nginx.ingress.kubernetes.io/whitelist-source-range": "10.0.0.0/64"},
    )
    scenario(
        "snippet",
        app("snippet", [pod("snippet")]),
        annotations={"nginx.ingress.kubernetes.io/configuration-snippet": "deny all;"},
    )
    scenario("main", app("main", [pod("main")]))
    write(
        place / "canary.yaml",
        app("canary", [pod("canary")]),
        ingress(
            "a-canary",
            rule("main.test", path("canary")),
            annotations={
                "nginx.ingress.kubernetes.io/canary": "true",
                "nginx.ingress.kubernetes.io/canary-by-header": "X-Canary",
            },
            created="2020-01-01T00:00:00Z",
        ),
    )
    scenario("typo", app("typo", [pod("typo")]), annotations={"nginx.ingress.kubernetes.io/proxy-read-timout": "5"})
    # shapes of files
    listed = [*app("in-list", [pod("in-list")]), ingress("in-list", rule("in-list.test", path("in-list")))]
    replace(place / "list.yaml", yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": listed}))
    replace(
        place / "ingress-list.yaml",
        yaml.safe_dump(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "IngressList",
                "items": [ingress("in-ingress-list", rule("in-ingress-list.test", path("in-list")))],
            }
        ),
    )
    in_json = [*app("in-json", [pod("in-json")]), ingress("in-json", rule("in-json.test", path("in-json")))]
    replace(place / "all.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": in_json}))
    replace(place / "other-kinds.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {}\n")
    replace(place / "notes.txt", "not: [a manifest")
    with Serve(place, "--no-access-log", workers=1) as running:
        yield running


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def seen(site: Serve, host: str, target: str = "/", requests: int = 12) -> Counter[str]:
    answers = [site.get(host, target) for _ in range(requests)]
    assert {a.status for a in answers} == {200}, answers[0].body
    return Counter(a.pod for a in answers)


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        pytest.param("by-number.test", "/", {"by-number"}, id="service-port-by-number"),
        pytest.param("by-name.test", "/", {"named-0", "named-1"}, id="service-port-by-name"),
        pytest.param("metrics.test", "/", {"named-metrics"}, id="another-port-by-number"),
        pytest.param("named-target.test", "/", {"target-0", "target-1"}, id="named-target-port-differs-by-slice"),
        pytest.param("several.test", "/a", {"several-a"}, id="several-ports-first"),
        pytest.param("several.test", "/b", {"several-b"}, id="several-ports-second"),
        pytest.param("endpoints.test", "/", {"endpoints-0"}, id="endpoints-instead-of-slices"),
        pytest.param("headless.test", "/", {"headless"}, id="headless"),
        pytest.param("nodeport.test", "/", {"nodeport"}, id="type-NodePort"),
        pytest.param("loadbalancer.test", "/", {"loadbalancer"}, id="type-LoadBalancer"),
        pytest.param("external-name.test", "/", {"external-name"}, id="type-ExternalName-with-a-name"),
        pytest.param("external-ip.test", "/", {"external-ip"}, id="type-ExternalName-with-an-address"),
        pytest.param("conditions.test", "/", {"ready", "null-ready"}, id="conditions-ready-and-null"),
        pytest.param("only-terminating.test", "/", {"terminating"}, id="conditions-serving-terminating-as-last-resort"),
        pytest.param("duplicate.test", "/", {"twice", "once"}, id="duplicate-addresses"),
        pytest.param("dual-stack.test", "/", {"dual-4", "dual-6"}, id="dual-stack"),
        pytest.param("main.test", "/", {"main"}, id="canary-does-not-take-the-traffic"),
        pytest.param("typo.test", "/", {"typo"}, id="unknown-annotation-is-served"),
        pytest.param("resource.test", "/web", {"resource-web"}, id="beside-a-resource-backend"),
        pytest.param("resource.test", "/files/x", {"resource-default"}, id="resource-backend-goes-to-the-default"),
        pytest.param("in-list.test", "/", {"in-list"}, id="file-List"),
        pytest.param("in-ingress-list.test", "/", {"in-list"}, id="file-IngressList"),
        pytest.param("in-json.test", "/", {"in-json"}, id="file-JSON"),
    ],
)
def test_served(site, host, target, expected):
    assert set(seen(site, host, target)) == expected


def test_duplicates_count_once(site):
    assert seen(site, "duplicate.test", requests=20) == {"twice": 10, "once": 10}


@pytest.mark.parametrize(
    ("name", "status", "reason", "field"),
    [
        ("missing-service", 503, "ServiceNotFound", "spec.rules[0].http.paths[0].backend.service"),
        ("missing-port", 503, "ServicePortNotFound", "spec.rules[0].http.paths[0].backend.service.port"),
        ("missing-port-name", 503, "ServicePortNotFound", "spec.rules[0].http.paths[0].backend.service.port"),
        ("no-endpoints", 503, "NoEndpoints", "spec.rules[0].http.paths[0].backend.service"),
        ("no-slice", 503, "NoEndpoints", "spec.rules[0].http.paths[0].backend.service"),
        ("other-namespace", 503, "ServiceNotFound", "spec.rules[0].http.paths[0].backend.service"),
        ("udp", 503, "UnsupportedBackend", "spec.rules[0].http.paths[0].backend.service.port"),
        ("auth-url", 503, "AccessRuleRejected", "metadata.annotations[nginx.ingress.kubernetes.io/auth-url]"),
        (
            "allow-list",
            503,
            "AccessRuleRejected",
            "metadata.annotations[nginx.ingress.kubernetes.io/whitelist-source-range]",
        ),
        (
            "snippet",
            503,
            "AccessRuleRejected",
            "metadata.annotations[nginx.ingress.kubernetes.io/configuration-snippet]",
        ),
    ],
)
def test_refused_with_a_verdict(site, name, status, reason, field):
    assert site.get(f"{name}.test").status == status
    (verdict,) = [v for v in site.verdicts() if v["object"].endswith(f"default/{name}")]
    # Pods may come any moment: that is no mistake of anybody
    assert (verdict["reason"], verdict["severity"]) == (reason, "warning" if reason == "NoEndpoints" else "error")
    assert verdict["object"] == f"Ingress default/{name}"
    assert field in verdict["field"]
    assert f"{name}.yaml:" in verdict["origin"]
    (line,) = [line for line in site.log(f'object="{verdict["object"]}" ') if reason in line]
    assert verdict["message"].rstrip(".") in line


def test_left_out_with_a_verdict(site):
    by_object = {v["object"]: v for v in site.verdicts()}
    assert by_object["Ingress default/resource"]["reason"] == "UnsupportedBackend"
    assert "Ingress default/a-canary" not in by_object
    assert "proxy-read-timeout" in by_object["Ingress default/typo"]["message"]
    assert by_object["Ingress default/typo"]["severity"] == "warning"


def test_endpoint_that_refuses_connections(site):
    assert site.get("refuses.test").status == 502
    assert site.verdicts(about="refuses") == []


def test_external_name_refused_by_option(pods, folder, serve):
    pod = pods.start("external")
    write(
        folder / "all.yaml",
        service("external", pod.port, type="ExternalName", externalName="localhost"),
        ingress("external", rule("external.test", path("external", port=pod.port))),
    )
    running = serve("--disable-svc-external-name")
    assert running.get("external.test").status == 503
    assert {v["reason"] for v in running.verdicts()} == {"UnsupportedBackend", "NoEndpoints"}


def test_external_name_follows_its_name(pods, folder, serve, tmp_path):
    """The name moves to another address of this machine: `localhost` first, then an address."""
    port = pods.start("before", "127.0.0.1").port
    pods.start("after", "127.0.0.5", port)
    rules = ingress("moves", rule("moves.test", path("moves", port=port)))
    write(folder / "all.yaml", service("moves", port, type="ExternalName", externalName="localhost"), rules)
    running = serve()
    assert running.get("moves.test").pod == "before"
    write(folder / "all.yaml", service("moves", port, type="ExternalName", externalName="127.0.0.5"), rules)
    running.serving("moves.test", "after")
    write(folder / "all.yaml", service("moves", port, type="ExternalName", externalName="nowhere.invalid"), rules)
    eventually(lambda: running.get("moves.test").status == 503, "an unknown name has no endpoint")
    write(folder / "all.yaml", service("moves", port, type="ExternalName", externalName="localhost"), rules)
    running.serving("moves.test", "before")
