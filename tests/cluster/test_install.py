"""The chart on a real API server: every object accepted, permissions that suffice and aren't more than that, and nothing left behind.

What the controller may do is judged by the API server's audit log of its service account, not only by what it says itself.
"""

import json
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.support import CHART, QUICK_END, ROOT, Release, echo_deployment, ingress, service
from tools.envtest import NODES
from tools.envtest.cluster import Cluster

Values = dict[str, Any]
Permission = tuple[str, str, str]  # API group, resource, verb

QUICK: Values = {**QUICK_END, "workers": 1}

# An option of each kind; what excludes another is in MATRIX.
EVERYTHING: Values = {
    "commonLabels": {"team": "edge"},
    "imagePullSecrets": [{"name": "registry"}],
    "tcp": {"9000": "default/db:5432"},
    "defaultBackend": {
        "enabled": True,
        "image": {"repository": "echo", "tag": 1},
        "replicaCount": 2,
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1},
        "networkPolicy": {"enabled": True},
    },
    "controller": {
        **QUICK,
        "logFormat": "json",
        "logLevel": "debug",
        "config": {"ssl-redirect": False, "proxy-body-size": "8m"},
        "proxySetHeaders": {"X-Edge": "1"},
        "addHeaders": {"X-Served-By": "edge"},
        "extraArgs": {"annotations-prefix": "edge.example.com"},
        "extraEnvs": [{"name": "NOTE", "value": "a note"}],
        "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "scratch", "mountPath": "/var/scratch"}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "tolerations": [{"operator": "Exists"}],
        "podAnnotations": {"note": "a note"},
        "podLabels": {"tier": "edge"},
        "ingressClassResource": {"default": True, "aliases": ["edge"]},
        "watchIngressWithoutClass": True,
        "takeOverNginx": {"enabled": True, "createClass": True},
        "electionTTL": "20s",
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "service": {
            "externalTrafficPolicy": "Local",
            "annotations": {"example.com/lb": "nlb"},
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "internal": {"enabled": True, "type": "ClusterIP"},
        },
        "metrics": {
            "enabled": True,
            "serviceMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        },
        "networkPolicy": {"enabled": True},
    },
}
SCOPED: Values = {
    "rbac": {"scope": True},
    "controller": {**QUICK, "scope": {"enabled": True}, "ingressClassResource": {"enabled": False}},
}


def controller(**values: Any) -> Values:
    return {**EVERYTHING, "controller": {**EVERYTHING["controller"], **values}}


MATRIX: dict[str, Values] = {
    "defaults": {},
    "autoscaled": controller(autoscaling={"enabled": True, "targetMemoryUtilizationPercentage": 70}),
    "replicas": controller(replicaCount=3, maxUnavailable="50%", minReadySeconds=5),
    "daemon-set": controller(kind="DaemonSet"),
    "node-ports": controller(
        service={"type": "NodePort", "nodePorts": {"http": 30080, "https": 30443, "tcp": {"9000": 30900}}}
    ),
    "host-ports": controller(
        kind="DaemonSet",
        hostPort={"enabled": True},
        service={"enabled": False},
        publishService={"enabled": False},
        containerPort={"http": 80, "https": 443},
    ),
    "host-network": controller(hostNetwork=True, dnsConfig={"options": [{"name": "ndots", "value": "1"}]}),
    "scoped": SCOPED,
    "no-rbac": {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "theirs"}},
    "ingress-nginx": yaml.safe_load((ROOT / "tests" / "charts" / "ingress-nginx-values.yaml").read_text()),
}


# ---- what the tests look at ---------------------------------------------------------------------------------------


def custom_kind(kind: str, plural: str) -> str:
    """As much of a kind of the Prometheus Operator as makes the API server take it."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    group = "monitoring.coreos.com"
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    return json.dumps(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
        }
    )


@pytest.fixture(scope="module", autouse=True)
def prometheus_operator(cluster: Cluster) -> Iterator[None]:
    names = {"servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule"}
    crds = [f"{plural}.monitoring.coreos.com" for plural in names]
    cluster.apply(*(custom_kind(kind, plural) for plural, kind in names.items()))
    cluster.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in crds), "--timeout=60s")
    yield
    cluster.kubectl("delete", "crd", *crds, "--ignore-not-found")


def refused(cluster: Cluster, namespace: str, account: str) -> set[Permission]:
    """What the API server has refused to the account so far."""
    asked = cluster.control_plane.requests_of(namespace, account)
    assert asked, f"{namespace}/{account} never asked for anything"
    return {(item.group, item.resource, item.verb) for item in asked if not item.permitted}


def complaints(cluster: Cluster, namespace: str) -> list[str]:
    """Lines of all controllers of this namespace, dead or alive, that speak of missing permissions."""
    logs = sorted((cluster.folder / "nodes" / "logs" / "pods").glob(f"{namespace}_*/controller.log"))
    assert logs
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return [
        line for line in lines if re.search(r"(?i)forbidden|unauthori[sz]ed|accept the credentials|can't be read", line)
    ]


def metrics(pod: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:10254/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def samples(text: str, name: str) -> dict[str, float]:
    found = re.findall(rf"^({name}(?:\{{.*\}})?) (\S+)$", text, re.MULTILINE)
    return {sample: float(value) for sample, value in found}


def assert_nothing_forbidden(release: Release) -> None:
    account = release.pods()[0]["spec"]["serviceAccountName"]
    assert refused(release.cluster, release.namespace, account) == set()
    assert complaints(release.cluster, release.namespace) == []
    for pod in release.pods():
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "controller":
            up = samples(metrics(pod), "aioingress_source_up")
            assert set(up.values()) == {1.0}, up


def curl(cluster: Cluster, address: str, host: str, *more: str) -> str:
    """Status and body, of the command that everybody uses."""
    argv = [
        "curl",
        "-sS",
        "--max-time",
        "10",
        "-w",
        "\n%{http_code}",
        "-H",
        f"Host: {host}",
        *more,
        f"http://{address}/",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=cluster.command_environment())
    body, _, status = done.stdout.rpartition("\n")
    return f"{status} {body}" if done.returncode == 0 else f"curl: {done.returncode} {done.stderr}"


def serves(release: Release, host: str) -> None:
    """Its Ingress shows an address, and the Service's address answers for it."""
    address = release.address()
    release.cluster.eventually(lambda: curl(release.cluster, address, host).startswith("200 "), f"200 for {host}")


def everything_in(cluster: Cluster, namespace: str) -> set[str]:
    """kind/name of every object of the namespace; Events not counted."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    names = ",".join(kind for kind in kinds if not kind.startswith("events"))
    return set(cluster.kubectl("get", names, "-n", namespace, "-o", "name").split())


def labelled(cluster: Cluster, selector: str, *, namespaced: bool) -> set[str]:
    """kind/name of every object with these labels, in all namespaces or outside of namespaces."""
    which = f"--namespaced={str(namespaced).lower()}"
    kinds = ",".join(cluster.kubectl("api-resources", "--verbs=list", which, "-o", "name").split())
    scope = ("--all-namespaces",) if namespaced else ()
    return set(cluster.kubectl("get", kinds, *scope, "-l", selector, "-o", "name").split())


@pytest.fixture
def app(cluster: Cluster, namespace: str) -> str:
    """One echo Pod behind the Service `echo`, and an Ingress for `app.example.com`; its namespace."""
    cluster.apply(
        echo_deployment("echo", 1), service("echo"), ingress("app", "app.example.com", "echo"), namespace=namespace
    )
    return namespace


# ---- accepted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_object_is_accepted(cluster: Cluster, namespace: str, values: Values) -> None:
    """Fields that the API server doesn't know are errors too."""
    text = json.dumps(values)
    cluster.helm("lint", "--strict", str(CHART), "--values", "-", input=text)
    rendered = cluster.helm("template", "web", str(CHART), "-n", namespace, "--values", "-", input=text)
    objects = [item for item in yaml.safe_load_all(rendered) if item]
    assert {item["kind"] for item in objects} & {"Deployment", "DaemonSet"}
    for item in objects:
        # Raises with the API server's words for anything but 201.
        cluster.create(f"{collection_of(cluster, item)}?dryRun=All&fieldValidation=Strict", item)


def collection_of(cluster: Cluster, item: dict[str, Any]) -> str:
    """The path to create an object at."""
    prefix = "/api/v1" if item["apiVersion"] == "v1" else f"/apis/{item['apiVersion']}"
    (kind,) = (
        known
        for known in cluster.get(prefix)["resources"]
        if known["kind"] == item["kind"] and "/" not in known["name"]
    )
    where = f"namespaces/{item['metadata']['namespace']}/" if kind["namespaced"] else ""
    return f"{prefix}/{where}{kind['name']}"


def test_everything_covers_every_template(cluster: Cluster) -> None:
    """A template that no row of the matrix renders is one that nobody has tried."""
    rendered = [
        cluster.helm("template", "web", str(CHART), "--values", "-", input=json.dumps(values))
        for values in (MATRIX["autoscaled"], MATRIX["daemon-set"])
    ]
    found = set(re.findall(r"^# Source: aioingress/templates/(\S+)$", "\n".join(rendered), re.MULTILINE))
    assert found == {path.name for path in (CHART / "templates").glob("*.yaml")}


# ---- install, upgrade, uninstall ----------------------------------------------------------------------------------


def test_install_upgrade_uninstall(cluster: Cluster, app: str, chart: Callable[..., Release]) -> None:
    before = everything_in(cluster, app)
    before_outside = labelled(cluster, "app.kubernetes.io/name=aioingress", namespaced=False)
    release = chart()
    serves(release, "app.example.com")
    assert_nothing_forbidden(release)
    assert [item["metadata"]["name"] for item in release.objects("/apis/apps/v1/NAMESPACE/deployments")] == [
        "aioingress-controller"
    ]

    for values in (MATRIX["autoscaled"], MATRIX["daemon-set"]):
        release.upgrade(values)
        serves(release, "app.example.com")
        assert_nothing_forbidden(release)
    assert len(release.objects("/apis/apps/v1/NAMESPACE/daemonsets")) == 1
    names = {item.partition("/")[0] for item in everything_in(cluster, app)}
    assert {"servicemonitor.monitoring.coreos.com", "prometheusrule.monitoring.coreos.com"} <= names
    # an Ingress without a class gets the default one; one of class nginx is taken over
    unclassed = ingress("unclassed", "unclassed.example.com", "echo", class_name=None)
    cluster.apply(unclassed, ingress("old", "old.example.com", "echo", class_name="nginx"), namespace=app)
    for host in ("unclassed.example.com", "old.example.com"):
        serves(release, host)
    created = cluster.get(f"/apis/networking.k8s.io/v1/namespaces/{app}/ingresses/unclassed")
    assert created["spec"]["ingressClassName"] == "aioingress"
    # what no rule takes goes to the default backend, which answers like any echo Pod
    answer = curl(cluster, release.address(), "nobody.example.com")
    assert json.loads(answer.partition(" ")[2])["pod"].startswith("aioingress-defaultbackend-")

    release.upgrade({"controller": QUICK})
    serves(release, "app.example.com")
    # Pods of the DaemonSet may still be on their way out
    address = release.address()
    cluster.eventually(
        lambda: curl(cluster, address, "old.example.com").startswith("404 "), "404 for what was taken over"
    )
    assert_nothing_forbidden(release)

    release.uninstall()
    lease = "lease.coordination.k8s.io/aioingress-leader"
    mine = {"ingress.networking.k8s.io/unclassed", "ingress.networking.k8s.io/old"}
    cluster.eventually(
        lambda: everything_in(cluster, app) <= before | mine | {lease, "endpoints/echo"}, "an end of all objects"
    )
    assert labelled(cluster, release.selector, namespaced=True) == set()
    after = labelled(cluster, "app.kubernetes.io/name=aioingress", namespaced=False)
    assert after == before_outside, "objects outside of namespaces"


def test_uninstall_as_documented(cluster: Cluster, app: str, chart: Callable[..., Release]) -> None:
    """With the defaults, the Pod's pauses included: the addresses are gone afterwards, and the namespace goes at once."""
    release = chart()
    path = f"/apis/networking.k8s.io/v1/namespaces/{app}/ingresses/app"
    cluster.eventually(lambda: cluster.get(path)["status"]["loadBalancer"], "an address")
    first, second, third = console("## Uninstall")
    assert third == "kubectl delete namespace aioingress"
    shell(cluster, first.replace("-n aioingress", f"-n {app}"))
    assert cluster.get(path)["status"]["loadBalancer"] == {}
    assert complaints(cluster, app) == []
    shell(cluster, second.replace("--namespace aioingress", f"--namespace {app}"))
    assert labelled(cluster, release.selector, namespaced=True) == set()


# ---- namespaced ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True], ids=["its-own-namespace", "another-namespace"])
def test_namespaced(cluster: Cluster, app: str, chart: Callable[..., Release], elsewhere: bool) -> None:
    watched, foreign = app, f"{app}-foreign"
    cluster.create_namespace(foreign)
    try:
        cluster.apply(
            echo_deployment("echo", 1),
            service("echo"),
            ingress("app", "foreign.example.com", "echo"),
            namespace=foreign,
        )
        if elsewhere:
            watched, foreign = foreign, watched
        hosts = {app: "app.example.com", f"{app}-foreign": "foreign.example.com"}
        cluster.wait_rollout("deployment", "echo", foreign)
        scope = {"enabled": True, "namespace": watched if elsewhere else ""}
        release = chart({**SCOPED, "controller": {**SCOPED["controller"], "scope": scope}})
        assert labelled(cluster, release.selector, namespaced=False) == set(), "nothing cluster-wide"
        serves(release, hosts[watched])
        answer = curl(cluster, release.address(), hosts[foreign])
        assert answer.startswith("404 "), answer
        shown = cluster.get(f"/apis/networking.k8s.io/v1/namespaces/{foreign}/ingresses/app")["status"]["loadBalancer"]
        assert not shown, "a status of a namespace that isn't watched"
        # docs/kubernetes.md: classes count by name where they can't be read; nothing else is tried
        assert refused(cluster, app, "aioingress") == {("networking.k8s.io", "ingressclasses", "list")}
        assert all("ingressclasses" in line for line in complaints(cluster, app))
        asked = cluster.control_plane.requests_of(app, "aioingress")
        assert {item.namespace for item in asked if item.status < 400} == {app, watched}
    finally:
        cluster.delete(f"/api/v1/namespaces/{app}-foreign")


# ---- permissions --------------------------------------------------------------------------------------------------

# Granted, but not used below. Whoever may list may read one anyway; nothing else but what the comment says.
UNUSED: dict[Permission, str] = {
    **{
        (group, resource, "get"): "list gives as much"
        for group, resource in (
            ("networking.k8s.io", "ingressclasses"),
            ("discovery.k8s.io", "endpointslices"),
            ("", "services"),
            ("", "endpoints"),
            ("", "configmaps"),
            ("", "namespaces"),
        )
    },
    ("", "endpoints", "list"): "API servers without EndpointSlices: test_legacy_api",
    ("", "endpoints", "watch"): "API servers without EndpointSlices: test_legacy_api",
}


def granted(release: Release) -> set[Permission]:
    """By every role that is bound to the release's account."""
    rules: list[dict[str, Any]] = []
    for kind, where in (("clusterroles", ""), ("roles", "NAMESPACE/")):
        rules += [
            rule
            for role in release.objects(f"/apis/rbac.authorization.k8s.io/v1/{where}{kind}")
            for rule in role["rules"]
        ]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_no_more_permissions_than_are_used(cluster: Cluster, app: str, chart: Callable[..., Release]) -> None:
    """A release of which everything is asked that takes a permission; its audit log then names all that were granted."""
    cluster.kubectl("label", "namespace", app, "watched=yes")
    cluster.kubectl("create", "secret", "generic", "users", "--from-literal=auth=nobody", "-n", app)
    selected = {
        **QUICK,
        "scope": {"namespaceSelector": "watched=yes"},
        "publishService": {"enabled": False},
        "defaultSSLCertificate": f"{app}/users",
        "config": {"ssl-redirect": "false"},
    }
    release = chart({"controller": selected})
    serves(release, "app.example.com")
    path = f"/apis/networking.k8s.io/v1/namespaces/{app}/ingresses/app"

    def used() -> set[Permission]:
        asked = cluster.control_plane.requests_of(app, "aioingress")
        return {(item.group, item.resource, item.verb) for item in asked if item.status < 400}

    def broken(port: int) -> None:
        rules = json.loads(ingress("app", "app.example.com", "echo"))["spec"]["rules"]
        rules[0]["http"]["paths"][0]["backend"]["service"]["port"]["number"] = port
        cluster.patch(path, {"spec": {"rules": rules}})

    def told() -> int:
        """How often an Event says that the port is missing."""
        events = cluster.get(f"/api/v1/namespaces/{app}/events")["items"]
        return sum(event["count"] for event in events if event["reason"] == "ServicePortNotFound")

    # the same mistake twice: an Event, then a higher count of it
    for number, verb in enumerate(("create", "patch"), 1):
        broken(1)
        cluster.eventually(lambda number=number: told() >= number, f"{verb} of an Event")
        assert ("", "events", verb) in used()
        broken(80)
        serves(release, "app.example.com")
    # a Secret that is referred to later is fetched alone; an Ingress that ceases to be ours is read before its status is cleared
    cluster.patch(path, {"spec": {"tls": [{"hosts": ["app.example.com"], "secretName": "late"}]}})
    cluster.eventually(lambda: ("", "secrets", "get") in _asked(cluster, app), "get of a Secret")
    cluster.patch(path, {"spec": {"ingressClassName": "another"}})
    cluster.eventually(lambda: not cluster.get(path)["status"]["loadBalancer"], "no address")
    # the election goes on
    cluster.eventually(lambda: ("coordination.k8s.io", "leases", "update") in used(), "a renewal of the Lease")
    # an end by the roll-out of another Pod: are there others?
    cluster.kubectl("rollout", "restart", "deployment/aioingress-controller", "-n", app)
    release.wait()
    cluster.eventually(lambda: ("", "pods", "list") in used(), "list of Pods")
    assert granted(release) - _asked(cluster, app) == set(UNUSED)
    assert_nothing_forbidden(release)


def _asked(cluster: Cluster, namespace: str) -> set[Permission]:
    """Whether there was such an object or not."""
    asked = cluster.control_plane.requests_of(namespace, "aioingress")
    return {(item.group, item.resource, item.verb) for item in asked if item.permitted}


# ---- as the documentation says ------------------------------------------------------------------------------------


def console(heading: str) -> list[str]:
    """The commands below a heading of docs/install.md."""
    text = (ROOT / "docs" / "install.md").read_text().partition(f"{heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\$ (.*)$", text, re.MULTILINE)


def shell(cluster: Cluster, script: str, namespace: str = "default") -> str:
    """What a person would type, with `namespace` as the current one. Its output; a command that fails ends it."""
    environment = cluster.command_environment()
    kubeconfig = cluster.folder / f"{namespace}.kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig.read_text())
    kubeconfig.chmod(0o600)
    environment["KUBECONFIG"] = str(kubeconfig)
    cluster.kubectl("--kubeconfig", str(kubeconfig), "config", "set-context", "--current", f"--namespace={namespace}")
    argv = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{script}: exit {done.returncode}: {done.stderr}{done.stdout}"
    return done.stdout


def test_commands_of_the_notes(cluster: Cluster, namespace: str, chart: Callable[..., Release]) -> None:
    """Every line of NOTES.txt that is a command is run, in its order."""
    cluster.apply(echo_deployment("web", 1), service("web"), namespace=namespace)
    cluster.wait_rollout("deployment", "web", namespace)
    release = chart({"controller": QUICK}, wait=False)
    ready, watch, address, create, get, ask, question = commands_of_notes(release)
    assert "successfully rolled out" in shell(cluster, ready, namespace)
    release.address()
    assert release.address() in shell(cluster, watch.replace("--watch", ""), namespace)
    shell(cluster, create, namespace)
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/web"
    cluster.eventually(lambda: cluster.get(path)["status"]["loadBalancer"], "an address")
    assert re.search(rf"\nweb +aioingress +web.example.com +{release.address()} ", shell(cluster, get, namespace))
    assert json.loads(shell(cluster, f"{address}\n{ask}", namespace))["service"] == "web"
    assert re.search(r"web.example.com\s+/ +web:80 ", shell(cluster, question, namespace))

    # where nothing here leads to: at least the address is right
    release.upgrade({"controller": {**QUICK, "service": {"type": "NodePort", "nodePorts": {"http": 30080}}}})
    assert address_by_notes(release, namespace) == f"{NODES[0].internal}:30080"
    on_nodes = {"service": {"enabled": False}, "publishService": {"enabled": False}, "hostPort": {"enabled": True}}
    release.upgrade({"controller": {**QUICK, **on_nodes, "kind": "DaemonSet"}})
    assert address_by_notes(release, namespace) in {f"{node.internal}:80" for node in NODES}


def commands_of_notes(release: Release) -> list[str]:
    notes = release.cluster.helm("get", "notes", release.name, "-n", release.namespace).partition("Warnings:")[0]
    found = re.findall(r"^  ((?:kubectl|curl|[A-Z]+=).*)$|\((kubectl .*)\):$", notes, re.MULTILINE)
    return [line or inline for line, inline in found]


def address_by_notes(release: Release, namespace: str) -> str:
    assignments = [line for line in commands_of_notes(release) if re.match("[A-Z]+=", line)]
    return shell(release.cluster, "\n".join([*assignments, 'echo "$ADDRESS"']), namespace).strip()


def test_manifest_without_helm(cluster: Cluster, app: str) -> None:
    """deploy/aioingress.yaml by the commands of docs/install.md."""
    apply, wait, *end = console("## Without Helm")
    path = f"/apis/networking.k8s.io/v1/namespaces/{app}/ingresses/app"
    try:
        assert "deployment.apps/aioingress-controller created" in shell(cluster, apply)
        assert "successfully rolled out" in shell(cluster, wait)
        release = Release(cluster, "aioingress", "aioingress")
        serves(release, "app.example.com")
        cluster.eventually(lambda: cluster.get(path)["status"]["loadBalancer"], "an address")
        assert_nothing_forbidden(release)
    finally:
        for command in end:
            shell(cluster, command)
    assert cluster.get(path)["status"]["loadBalancer"] == {}
    assert cluster.find("/api/v1/namespaces/aioingress") is None
    assert labelled(cluster, "app.kubernetes.io/instance=aioingress", namespaced=False) == set()
