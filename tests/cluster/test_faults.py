"""The API server is cut off, restarted, forgetful, refuses, or is gone: routes stay, and the controller comes back by itself.

One controller, installed by the chart, that talks to the API server through a proxy of the tests (`faults.ApiProxy`).
"""

import asyncio
import base64
import json
import re
import secrets
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import faults
from tests.cluster.faults import PROXY_ADDRESS, PROXY_PORT, ApiProxy, Background, Patrol, Replica
from tests.cluster.support import Connection, Json, Release, echo_deployment, ingress, install_chart, service
from tools.envtest.client import Client
from tools.envtest.cluster import Cluster

CLASS = "faults"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
BY_PROXY = [
    {"name": "KUBERNETES_SERVICE_HOST", "value": PROXY_ADDRESS},
    {"name": "KUBERNETES_SERVICE_PORT", "value": str(PROXY_PORT)},
]


@dataclass(frozen=True, slots=True)
class World:
    cluster: Cluster
    background: Background
    proxy: ApiProxy
    release: Release
    address: str
    replica: Replica

    @property
    def namespace(self) -> str:
        return self.release.namespace

    def patrol(self) -> Patrol:
        hosts = {f"always-{number}.example": ("one", "two")[number % 2] for number in range(10)}
        return Patrol(self.background, self.address, hosts)

    def write(self, name: str, backend: str = "one") -> None:
        """An Ingress for NAME.example: made or changed."""
        self.cluster.apply(ingress(name, f"{name}.example", backend, class_name=CLASS), namespace=self.namespace)

    def path(self, name: str) -> str:
        return f"/apis/networking.k8s.io/v1/namespaces/{self.namespace}/ingresses/{name}"

    def answer(self, name: str) -> str:
        """The Service that answers for NAME.example, or the status that isn't 200."""
        status, body = faults.get(self.address, "/", host=f"{name}.example")
        return str(json.loads(body)["service"]) if status == 200 else str(status)

    def wait_answers(self, expected: Mapping[str, str], within_s: float = 60.0) -> None:
        def wrong() -> dict[str, str]:
            answers = {name: self.answer(name) for name in expected}
            return {name: answer for name, answer in answers.items() if answer != expected[name]}

        self.cluster.eventually(lambda: not wrong(), f"{expected}", within_s)

    def wait_in_touch(self, within_s: float = 60.0) -> None:
        self.replica.wait_in_touch(within_s)

    def wait_cut(self) -> None:
        self.cluster.eventually(lambda: not self.proxy.cut_pending, "an event to be cut")

    def wait_stale(self, *collections: str, within_s: float = 60.0) -> None:
        """Until these can't be followed, which is to be seen, and makes nobody unready."""

        def stale() -> bool:
            up = self.replica.sources()
            return not any(up[name] for name in collections)

        self.cluster.eventually(stale, f"{collections} can't be followed", within_s)
        status, text = self.replica.readyz()
        assert (status, text.startswith("ok (stale: no contact with the API server for ")) == (200, True), text

    def wait_address(self, name: str, within_s: float = 60.0) -> None:
        def shown() -> bool:
            return faults.addresses(self.cluster.get(self.path(name))) == [self.address]

        self.cluster.eventually(shown, f"the address of {name}", within_s)

    def versions(self) -> dict[str, tuple[str, list[str]]]:
        """Of the Ingresses that no test changes."""
        found = faults.versions(self.cluster, self.namespace)
        return {name: version for name, version in found.items() if name.startswith("always-")}

    def assert_never_restarted(self) -> None:
        pod = self.replica.pod()
        assert pod is not None
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
        since = {item["type"]: item for item in pod["status"]["conditions"]}
        assert since["Ready"]["status"] == "True"


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.close()


@pytest.fixture(scope="module")
def world(cluster: Cluster, background: Background) -> Iterator[World]:
    namespace = f"faults-{secrets.token_hex(3)}"
    cluster.create_namespace(namespace)
    proxy = ApiProxy(cluster.control_plane, background)
    backends = [text for name in ("one", "two") for text in (echo_deployment(name), service(name))]
    routes = [
        ingress(f"always-{number}", f"always-{number}.example", ("one", "two")[number % 2], class_name=CLASS)
        for number in range(10)
    ]
    cluster.apply(*backends, *routes, namespace=namespace)
    release = install_chart(cluster, "faults", namespace, faults.values(CLASS, electionTTL="6", extraEnvs=BY_PROXY))
    for name in ("one", "two"):
        cluster.wait_rollout("deployment", name, namespace)
    world = World(cluster, background, proxy, release, release.address(), faults.replicas(release)[0])
    for number in range(10):
        world.wait_address(f"always-{number}")
    yield world
    proxy.accept()
    proxy.end_blackhole()
    cluster.control_plane.request(
        "DELETE", world.path("")[:-1], timeout_s=120
    )  # thousands, which nobody serves any more
    release.uninstall()
    cluster.delete(f"/api/v1/namespaces/{namespace}")
    proxy.close()


# ---- the connection -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "fin"])
def test_watch_cut_in_the_middle_of_a_line(world: World, reset: bool) -> None:
    name = f"cut-in-line-{reset}".lower()
    before = world.versions()
    steps = (
        (partial(world.write, name), "one"),
        (partial(world.write, name, "two"), "two"),
        (partial(world.cluster.delete, world.path(name)), "404"),
    )
    with world.patrol() as patrol:
        for change, expected in steps:
            world.proxy.cut_in_line("ingresses", reset=reset)
            change()
            world.wait_cut()
            world.wait_answers({name: expected})
        patrol.round()
    patrol.check()
    world.wait_in_touch()
    assert world.versions() == before


def test_endpoints_cut_in_the_middle_of_a_line(world: World) -> None:
    with world.patrol() as patrol:
        world.proxy.cut_in_line("endpointslices", reset=True)
        world.cluster.kubectl("scale", "deployment/one", "--replicas=3", "-n", world.namespace)
        world.wait_cut()
        world.cluster.wait_rollout("deployment", "one", world.namespace)

        def pods() -> set[str]:
            answers = (faults.get(world.address, "/", host="always-0.example")[1] for _ in range(9))
            return {json.loads(answer)["pod"] for answer in answers}

        world.cluster.eventually(lambda: len(pods()) == 3, "requests to the third endpoint")
        world.cluster.kubectl("scale", "deployment/one", "--replicas=2", "-n", world.namespace)
        world.cluster.wait_rollout("deployment", "one", world.namespace)
        patrol.round()
    patrol.check()


def test_connections_reset_again_and_again(world: World) -> None:
    with world.patrol() as patrol:
        for number in range(5):
            world.write("restless", ("one", "two")[number % 2])
            world.proxy.reset()
            world.wait_answers({"restless": ("one", "two")[number % 2]})
        patrol.round()
    patrol.check()
    world.wait_in_touch()


def test_cut_off_for_a_while(world: World) -> None:
    """Made, changed and deleted meanwhile; the last table serves, and says that it is old."""
    for name in ("changes", "vanishes"):
        world.write(name)
    world.wait_answers({"changes": "one", "vanishes": "one"})
    before = world.versions()
    with world.patrol() as patrol, world.replica.log_since() as log:
        world.proxy.refuse()
        world.wait_stale("ingresses", "services", "endpoints", "ingressclasses")
        assert log().count("lost the API server") == 1
        world.write("appears")
        world.write("changes", "two")
        world.cluster.delete(world.path("vanishes"))
        world.cluster.eventually(lambda: not world.replica.leads(), "the end of the lead")
        patrol.round()
        assert world.answer("vanishes") == "one"
        world.proxy.accept()
        world.wait_answers({"appears": "one", "changes": "two", "vanishes": "404"})
        world.wait_in_touch()
        world.wait_address("appears")
        patrol.round()
        assert log().count("the API server is back") == 1
        assert log().count("lost the API server") == 1
    patrol.check()
    assert world.versions() == before
    world.assert_never_restarted()


def test_packets_vanish(world: World) -> None:
    """Neither data nor ACK nor RST, for longer than TCP's keepalive: only the silence tells."""
    before = world.versions()
    with world.patrol() as patrol:
        world.proxy.blackhole()
        world.write("in-the-dark")
        world.wait_stale("ingresses", "services", "endpoints", "ingressclasses", within_s=90)
        patrol.round()
        world.proxy.end_blackhole()
        world.wait_answers({"in-the-dark": "one"})
        world.wait_in_touch()
        world.wait_address("in-the-dark")
    patrol.check()
    assert world.versions() == before
    world.assert_never_restarted()


# ---- rights -------------------------------------------------------------------------------------------------------


def forbidden(what: str, release: Release) -> "re.Pattern[str]":
    """The API server's words name verb, resource and account."""
    account = f"system:serviceaccount:{release.namespace}:{release.name}-aioingress"
    return re.compile(rf'can\'t be read: {what}.* is forbidden: User "{account}" cannot (list|watch) resource "{what}"')


def cluster_role(world: World, kind: str) -> Json:
    (found,) = world.release.objects(f"{RBAC}/{kind}")
    del found["metadata"]["resourceVersion"], found["metadata"]["uid"]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", **found}


def test_rights_taken_away_and_restored(world: World) -> None:
    before = world.versions()
    binding = cluster_role(world, "clusterrolebindings")
    path = f"{RBAC}/clusterrolebindings"
    with world.patrol() as patrol, world.replica.log_since() as log:
        world.cluster.delete(f"{path}/{binding['metadata']['name']}")
        world.proxy.reset()  # a watch that is open is not asked for its rights again
        world.wait_stale("ingresses", "services", "endpoints", "ingressclasses")
        for what in ("ingresses", "services", "endpointslices"):
            pattern = forbidden(what, world.release)
            world.cluster.eventually(lambda pattern=pattern: pattern.search(log()), f"{pattern.pattern} in the log")
        world.write("refused")
        patrol.round()
        assert world.answer("refused") == "404"
        world.cluster.create(path, binding)
        world.wait_answers({"refused": "one"})
        world.wait_in_touch()
        world.wait_address("refused")
    patrol.check()
    for what in ("ingresses", "services", "endpointslices"):
        assert len(forbidden(what, world.release).findall(log())) == 1, log()
    assert "Traceback" not in log()
    assert world.versions() == before
    world.assert_never_restarted()


def change_rules(world: World, rules: Sequence[Json]) -> None:
    name = cluster_role(world, "clusterroles")["metadata"]["name"]
    world.cluster.patch(f"{RBAC}/clusterroles/{name}", {"rules": list(rules)})


def without(rules: Sequence[Json], resource: str) -> list[Json]:
    left = [rule | {"resources": [name for name in rule["resources"] if name != resource]} for rule in rules]
    return [rule for rule in left if rule["resources"]]


def test_only_secrets_are_denied(world: World) -> None:
    """Nothing but certificates needs them: the rest goes on, and isn't stale."""
    rules = cluster_role(world, "clusterroles")["rules"]
    manifest = json.loads(ingress("with-secret", "with-secret.example", "one", class_name=CLASS))
    manifest["spec"]["tls"] = [{"hosts": ["with-secret.example"], "secretName": "certificate"}]
    world.cluster.apply(json.dumps(manifest), namespace=world.namespace)
    world.cluster.eventually(lambda: world.replica.sources().get("secrets"), "a watch of Secrets")
    with world.patrol() as patrol, world.replica.log_since() as log:
        change_rules(world, without(rules, "secrets"))
        world.proxy.reset()
        pattern = forbidden("secrets", world.release)
        world.cluster.eventually(lambda: pattern.search(log()), "a line in the log")
        world.cluster.eventually(
            lambda: [name for name, up in world.replica.sources().items() if not up] == ["secrets"], "the rest"
        )
        assert world.replica.readyz() == (200, "ok")
        world.write("without-secret")
        world.wait_answers({"without-secret": "one"})
        change_rules(world, rules)
        world.wait_in_touch()
    patrol.check()


def test_only_statuses_are_denied(world: World) -> None:
    rules = cluster_role(world, "clusterroles")["rules"]
    with world.patrol() as patrol, world.replica.log_since() as log:
        change_rules(world, without(rules, "ingresses/status"))
        account = f"system:serviceaccount:{world.namespace}:faults-aioingress"
        pattern = re.compile(rf'not allowed to write statuses in namespace \S+: .*"{account}" cannot patch resource')

        def refused() -> bool:
            name = f"no-status-{secrets.token_hex(2)}"  # the API server may not have heard of the change yet
            world.write(name)
            world.wait_answers({name: "one"})
            time.sleep(1.2)
            return bool(pattern.search(log()))

        world.cluster.eventually(refused, "a line in the log")
        world.write("no-status")
        world.wait_answers({"no-status": "one"})
        assert faults.addresses(world.cluster.get(world.path("no-status"))) == []
        assert world.replica.readyz() == (200, "ok")
        assert world.replica.leads()
        change_rules(world, rules)
        world.wait_address("no-status")
    patrol.check()
    assert len(pattern.findall(log())) == 1


def test_denied_from_the_start(world: World) -> None:
    """Not ready, and the log says why; with the rights it becomes ready, without a restart."""
    chart = faults.values("denied", service={"type": "ClusterIP"})
    release = install_chart(world.cluster, "denied", world.namespace, chart | {"rbac": {"create": False}}, wait=False)
    try:

        def pod_with_address() -> list[Replica]:
            return faults.replicas(release)

        (replica,) = world.cluster.eventually(pod_with_address, "a Pod")

        def told() -> bool:
            with suppress(OSError):
                log = replica.log()
                return all(forbidden(what, release).search(log) for what in ("ingresses", "services", "endpointslices"))
            return False

        world.cluster.eventually(told, "lines in the log")
        assert replica.readyz()[0] == 503
        assert "first sync" in replica.readyz()[1]
        pod = replica.pod()
        release.upgrade(chart)
        replica.wait_in_touch()
        assert [item.name for item in faults.replicas(release)] == [replica.name]
        after = replica.pod()
        assert pod is not None
        assert after is not None
        assert after["metadata"]["uid"] == pod["metadata"]["uid"]
        assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    finally:
        release.uninstall()


# ---- credentials --------------------------------------------------------------------------------------------------


def bound_token(cluster: Cluster, namespace: str, account: str, secret: str) -> str:
    """Good for as long as the Secret exists: a token that ends when a test wants it to (the shortest life is 10 minutes)."""
    made = cluster.create(
        f"/api/v1/namespaces/{namespace}/secrets",
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}},
    )
    bound = {"apiVersion": "v1", "kind": "Secret", "name": secret, "uid": made["metadata"]["uid"]}
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 600, "boundObjectRef": bound},
    }
    answer = cluster.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", request)
    return str(answer["status"]["token"])


def test_token_is_replaced(world: World) -> None:
    """As the kubelet does it: the file has a new token, and then the old one isn't good any more."""
    cluster, namespace = world.cluster, world.namespace
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "rotated"}}
    cluster.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)

    def write_token(token: str) -> None:
        data = {"token": base64.b64encode(token.encode()).decode()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token-file"}, "data": data}
        cluster.apply(json.dumps(body), namespace=namespace)

    write_token(bound_token(cluster, namespace, "rotated", "first"))
    sources = [
        {"secret": {"name": "token-file"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    chart = faults.values(
        "rotated",
        electionTTL="6",
        service={"type": "ClusterIP"},
        extraEnvs=BY_PROXY,
        extraVolumes=[{"name": "account", "projected": {"sources": sources}}],
        extraVolumeMounts=[{"name": "account", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
    )
    account_values = {"create": False, "name": "rotated", "automountServiceAccountToken": False}
    release = install_chart(cluster, "rotated", namespace, chart | {"serviceAccount": account_values})
    try:
        (replica,) = faults.replicas(release)
        pid = cluster.container_pid(namespace, replica.name, "controller")
        second = bound_token(cluster, namespace, "rotated", "second")
        write_token(second)
        mounts = Path("/proc", str(pid), "root")  # as that process sees them
        token = mounts / "run/secrets/kubernetes.io/serviceaccount/token"
        cluster.eventually(lambda: token.read_text() == second, "the new token in the file")
        refusals = len(world.proxy.answers)
        cluster.delete(f"/api/v1/namespaces/{namespace}/secrets/first")
        cluster.eventually(
            lambda: any(code == 401 for _, code in world.proxy.answers[refusals:]), "a refusal of the old token"
        )
        cluster.eventually(lambda: replica.in_touch() and replica.leads(), "the lead")
        world.proxy.reset()  # every watch has to show its token again
        manifest = ingress("rotated", "rotated.example", "one", class_name="rotated")
        cluster.apply(manifest, namespace=namespace)
        cluster.eventually(lambda: faults.get(replica.address, "/", port=8080, host="rotated.example")[0] == 200, "it")
        replica.wait_in_touch()
        after = replica.pod()
        assert after is not None
        assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    finally:
        release.uninstall()


# ---- API server and etcd ------------------------------------------------------------------------------------------


def test_api_server_hangs_and_crashes(world: World) -> None:
    before = world.versions()
    control_plane = world.cluster.control_plane
    with world.patrol() as patrol:
        control_plane.pause_apiserver()
        world.cluster.eventually(lambda: not world.replica.leads(), "the end of the lead")
        control_plane.resume_apiserver()
        control_plane.kill_apiserver()
        world.wait_stale("ingresses", "services", "endpoints", "ingressclasses")
        patrol.round()
        control_plane.start_apiserver()
        world.write("after-the-crash")
        world.wait_answers({"after-the-crash": "one"})
        world.wait_in_touch()
        world.wait_address("after-the-crash")
    patrol.check()
    assert world.versions() == before
    world.assert_never_restarted()


def test_etcd_is_gone_for_30_seconds(world: World) -> None:
    """It hangs for half of the time, and is dead for the other half. The API server stays, and can read and write nothing."""
    before = world.versions()
    control_plane = world.cluster.control_plane
    with world.patrol() as patrol:
        began = time.monotonic()
        control_plane.pause_etcd()
        try:
            world.cluster.eventually(lambda: not world.replica.leads(), "the end of the lead")
            time.sleep(max(began + 15 - time.monotonic(), 0))
        finally:
            control_plane.kill_etcd()
        world.proxy.reset()
        assert control_plane.request("GET", "/readyz")[0] == 500
        time.sleep(max(began + 30 - time.monotonic(), 0))
        assert world.replica.readyz()[0] == 200
        patrol.round()
        control_plane.start_etcd()
        world.cluster.eventually(lambda: control_plane.request("GET", "/readyz")[0] == 200, "a ready API server")
        world.write("after-etcd")
        world.wait_answers({"after-etcd": "one"})
        world.wait_in_touch()
        world.wait_address("after-etcd")
    patrol.check()
    assert world.versions() == before
    world.assert_never_restarted()


# ---- 410 and a big list -------------------------------------------------------------------------------------------

ETCD = "http://127.0.0.1:2379/v3/kv"


def ask_etcd(what: str, **body: object) -> Json:
    request = urllib.request.Request(f"{ETCD}/{what}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return dict(json.load(response))


def compact() -> None:
    """etcd forgets everything that was."""
    revision = ask_etcd("range", key="AA==")["header"]["revision"]
    ask_etcd("compaction", revision=revision, physical=True)


def bulk(world: World, requests: Sequence[tuple[str, str, Json | None]]) -> None:
    """(method, Ingress, body): many at once on a few connections."""
    path = world.path("")[:-1]

    async def send_all() -> None:
        left = iter(requests)
        async with Client(world.cluster.kubeconfig) as client:

            async def send_some() -> None:
                for method, name, body in left:
                    if method == "PATCH":
                        await client.patch(f"{path}/{name}", body)
                    else:
                        await client.request(method, path if method == "POST" else f"{path}/{name}", body)

            async with asyncio.TaskGroup() as group:
                for _ in range(16):
                    group.create_task(send_some())

    world.background.start(send_all()).result(300)


def test_history_is_gone_and_the_list_is_long(world: World) -> None:
    """3,000 Ingresses made, others changed and deleted while the controller hears nothing, then compaction and a new API server: 410. The list comes in
    pages, and the world goes on changing meanwhile.
    """
    cluster, count = world.cluster, 3000

    def make(name: str, backend: str = "one") -> tuple[str, str, Json]:
        return "POST", name, dict(json.loads(ingress(name, f"{name}.example", backend, class_name=CLASS)))

    def change(name: str, backend: str) -> tuple[str, str, Json]:
        return "PATCH", name, {"spec": make(name, backend)[2]["spec"]}

    def delete(name: str) -> tuple[str, str, None]:
        return "DELETE", name, None

    expected = {f"old-{number}": "one" for number in range(40)}
    bulk(world, [make(name) for name in expected])
    world.wait_answers(expected)
    before = world.versions()
    with world.patrol() as patrol:
        world.proxy.refuse()
        world.wait_stale("ingresses")
        big = {f"big-{number}": "one" for number in range(count)}
        changed = {f"old-{number}": "two" for number in range(10)}
        gone = {f"old-{number}": "404" for number in range(10, 20)}
        bulk(world, [make(name) for name in big])
        bulk(world, [*(change(name, "two") for name in changed), *(delete(name) for name in gone)])
        compact()
        cluster.control_plane.kill_apiserver()
        cluster.control_plane.start_apiserver()
        compact()
        answers = len(world.proxy.answers)
        world.proxy.accept()
        late: dict[str, str] = {}
        for number in range(30):
            first, last, new = f"big-{number}", f"big-{count - 1 - number}", f"late-{number}"
            late |= {first: "two", last: "404", new: "one"}
            bulk(world, [change(first, "two"), delete(last), make(new)])
            if number % 10 == 0:
                compact()
        world.wait_in_touch()
        assert 410 in {code for _, code in world.proxy.answers[answers:]}
        world.wait_answers({**expected, **changed, **gone, **late})
        world.background.start(check_hosts(world.address, big | late)).result(120)
        patrol.round()
    patrol.check()
    assert world.versions() == before
    world.assert_never_restarted()


async def check_hosts(address: str, expected: Mapping[str, str]) -> None:
    """Every one of many, on a few connections."""
    wrong: dict[str, str] = {}
    left = iter(expected.items())

    async def ask() -> None:
        async with Connection(address) as connection:
            for name, backend in left:
                response = await connection.get(f"{name}.example")
                found = response.json()["service"] if response.status == 200 else str(response.status)
                if found != backend:
                    wrong[name] = found

    await asyncio.gather(*(ask() for _ in range(4)))
    assert not wrong
