"""The environment itself: what the other tests take for granted."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cluster.support import ROOT, Load, echo_deployment, fetch, fetch_until, service
from tools.envtest.cluster import CommandFailed


def ready(pod):
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions", ()))


def deploy(cluster, namespace, *, replicas=2, kind="ClusterIP", **rest):
    cluster.apply(echo_deployment("echo", replicas, **rest), service("echo", kind=kind), namespace=namespace)
    cluster.wait_rollout("deployment", "echo", namespace)


# ---- Pods ---------------------------------------------------------------------------------------------------------


def test_deployment_becomes_ready_on_both_nodes(cluster, namespace):
    deploy(cluster, namespace, replicas=4)
    pods = cluster.pods(namespace)
    assert [ready(pod) for pod in pods] == [True] * 4
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == ["node-1", "node-1", "node-2", "node-2"]
    assert len({pod["status"]["podIP"] for pod in pods}) == 4


async def test_pods_answer_at_their_address(cluster, namespace):
    await asyncio.to_thread(deploy, cluster, namespace)
    for pod in await asyncio.to_thread(cluster.pods, namespace):
        address = pod["status"]["podIP"]
        response = await fetch(address, "echo.example", "/a//b?c=d", port=8080)
        answer = response.json()
        assert answer["pod"] == pod["metadata"]["name"] == response.headers["x-pod"]
        assert (answer["path"], answer["host"], answer["proto"]) == ("/a//b?c=d", "echo.example", "HTTP/1.1")
        assert (answer["namespace"], answer["service"]) == (namespace, "echo")
        assert (await fetch(address, "echo.example", "/?status=503", port=8080)).status == 503


def test_unready_without_its_probe(cluster, namespace):
    container = {
        "name": "echo",
        "image": "echo:1",
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/?status=500", "port": 8080}, "periodSeconds": 1},
    }
    cluster.apply(echo_deployment("echo", 1, pod={"containers": [container]}), service("echo"), namespace=namespace)

    def running():
        return [pod for pod in cluster.pods(namespace) if pod["status"]["phase"] == "Running"]

    pod = cluster.eventually(running, "a running Pod")[0]
    assert not ready(pod)
    assert pod["status"]["containerStatuses"][0]["ready"] is False


def test_deleted_pod_is_replaced_and_leaves_its_address(cluster, namespace):
    deploy(cluster, namespace, replicas=1)
    (pod,) = cluster.pods(namespace)
    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
    cluster.delete(path)
    cluster.eventually(lambda: cluster.find(path) is None, "the end of the Pod")
    with pytest.raises(ConnectionRefusedError), socket.create_connection((pod["status"]["podIP"], 8080), 1):
        pass
    cluster.wait_rollout("deployment", "echo", namespace)
    assert cluster.pods(namespace)[0]["status"]["podIP"] != pod["status"]["podIP"]


def test_daemon_set_has_a_pod_on_each_node(cluster, namespace):
    manifest = json.loads(echo_deployment("echo"))
    manifest["kind"] = "DaemonSet"
    del manifest["spec"]["replicas"], manifest["spec"]["strategy"]
    cluster.apply(json.dumps(manifest), namespace=namespace)
    cluster.eventually(lambda: len([pod for pod in cluster.pods(namespace) if ready(pod)]) == 2, "two ready Pods")
    assert {pod["spec"]["nodeName"] for pod in cluster.pods(namespace)} == {"node-1", "node-2"}


# ---- our own image ------------------------------------------------------------------------------------------------

PROXY = """
apiVersion: v1
kind: Pod
metadata:
  name: proxy
  labels: {app: proxy}
  annotations: {note: "a note"}
spec:
  terminationGracePeriodSeconds: 10
  containers:
    - name: proxy
      image: registry.example/team/aioingress:dev
      args: [--manifests=$(MANIFESTS), --workers=0, --log-format=json]
      env:
        - {name: MANIFESTS, value: /var/run/manifests}
        - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
      ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 10254}]
      readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 1}
      resources: {limits: {cpu: 1500m}}
      volumeMounts: [{name: manifests, mountPath: /var/run/manifests}]
  volumes:
    - name: manifests
      configMap: {name: manifests}
---
apiVersion: v1
kind: Service
metadata: {name: proxy}
spec:
  type: LoadBalancer
  selector: {app: proxy}
  ports: [{name: http, port: 80, targetPort: http}]
"""
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "manifests"},
    "data": {"nothing.yaml": "# no object\n"},
}


def start_proxy(cluster, namespace):
    cluster.apply(json.dumps(CONFIG_MAP), PROXY, namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/pods/proxy"
    return cluster.eventually(lambda: ready(pod := cluster.get(path)) and pod, "a ready Pod")


async def test_our_image_is_the_real_process(cluster, namespace):
    pod = await asyncio.to_thread(start_proxy, cluster, namespace)
    address = await asyncio.to_thread(cluster.load_balancer_address, namespace, "proxy")
    response = await fetch_until(address, "nobody.example", status=404)
    assert response.headers["server"]
    process = Path("/proc", str(cluster.container_pid(namespace, "proxy", "proxy")))
    variables = dict(item.split("=", 1) for item in (process / "environ").read_text().split("\0") if item)
    assert variables["NOTE"] == "a note"
    assert variables["POD_IP"] == pod["status"]["podIP"]
    assert variables["CPUS"] == "2"
    assert variables["HOSTNAME"] == "proxy"
    account = process / "root/run/secrets/kubernetes.io/serviceaccount"  # /var/run is a link to /run
    assert {item.name for item in account.iterdir() if not item.name.startswith("..")} == {
        "token",
        "ca.crt",
        "namespace",
    }
    assert (account / "namespace").read_text() == namespace
    assert '"listening' in cluster.container_log(namespace, "proxy", "proxy").read_text()
    assert (process / "root/run/manifests/nothing.yaml").read_text() == "# no object\n"
    assert not os.path.exists("/run/manifests")  # noqa: ASYNC240 - nor on the machine itself


def test_crashed_container_is_restarted(cluster, namespace):
    start_proxy(cluster, namespace)
    os.kill(cluster.container_pid(namespace, "proxy", "proxy"), 9)
    path = f"/api/v1/namespaces/{namespace}/pods/proxy"
    cluster.eventually(lambda: cluster.get(path)["status"]["containerStatuses"][0]["restartCount"] == 1, "a restart")
    pod = cluster.eventually(lambda: ready(pod := cluster.get(path)) and pod, "a ready Pod")
    assert pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


def test_failed_liveness_probe_restarts(cluster, namespace):
    """Its preStop hook leaves a trace, so the end was an orderly one."""
    container = {
        "name": "main",
        "image": "aioingress",
        "command": ["python", "-c", "import time; print('started', flush=True); time.sleep(600)"],
        "livenessProbe": {"exec": {"command": ["sh", "-c", "exit 1"]}, "periodSeconds": 1, "failureThreshold": 3},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo $SAY"]}}},
        "env": [{"name": "SAY", "value": "goodbye"}],
    }
    pod = {"metadata": {"name": "sick"}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 3}}
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}), namespace=namespace)
    log = cluster.container_log(namespace, "sick", "main")
    cluster.eventually(lambda: log.exists() and log.read_text().startswith("started\ngoodbye\nstarted\n"), "a restart")


def test_token_is_the_service_account_s(cluster, namespace):
    token = cluster.control_plane.token_for(namespace, "default")
    kubeconfig = cluster.folder / f"{namespace}.kubeconfig"
    cluster.control_plane.write_kubeconfig(kubeconfig, token)
    with pytest.raises(CommandFailed, match=f"system:serviceaccount:{namespace}:default.*cannot list"):
        cluster.kubectl("--kubeconfig", str(kubeconfig), "get", "pods", "-n", namespace)


# ---- the load balancer --------------------------------------------------------------------------------------------


async def test_load_balancer_takes_turns(cluster, namespace):
    await asyncio.to_thread(deploy, cluster, namespace, replicas=4, kind="LoadBalancer")
    address = await asyncio.to_thread(cluster.load_balancer_address, namespace, "echo")
    await fetch_until(address, "echo.example")
    async with asyncio.timeout(30):  # until it has heard of all four
        while len({(await fetch(address, "echo.example")).pod for _ in range(4)}) < 4:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_rollout_behind_the_load_balancer(cluster, namespace, keep_alive):
    """Nothing is lost with the stand-ins alone, so that what gets lost in other tests is ours."""
    await asyncio.to_thread(deploy, cluster, namespace, kind="LoadBalancer")
    address = await asyncio.to_thread(cluster.load_balancer_address, namespace, "echo")
    await fetch_until(address, "echo.example")
    async with Load(address, "echo.example", keep_alive=keep_alive) as load:
        await load.reach(50)
        await asyncio.to_thread(cluster.kubectl, "rollout", "restart", "deployment/echo", "-n", namespace)
        await asyncio.to_thread(cluster.wait_rollout, "deployment", "echo", namespace)
        await load.reach(50)
    failed = [item for item in load.failures if not (keep_alive and "Closed" in item.what)]
    assert not failed
    assert load.stale <= load.connections * 2  # a server's end closes idle connections


async def test_cluster_ip(cluster, namespace):
    await asyncio.to_thread(deploy, cluster, namespace, replicas=1)
    found = await asyncio.to_thread(cluster.get, f"/api/v1/namespaces/{namespace}/services/echo")
    assert (await fetch_until(found["spec"]["clusterIP"], "echo.example")).pod.startswith("echo-")


async def test_refusing_endpoint_is_passed_over(cluster, namespace):
    await asyncio.to_thread(deploy, cluster, namespace, replicas=1)
    (pod,) = await asyncio.to_thread(cluster.pods, namespace)
    selectorless = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "manual"}}
    selectorless["spec"] = {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]}
    endpoints = [{"addresses": [address]} for address in ("10.88.252.9", pod["status"]["podIP"])]
    endpoint_slice = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "manual-1", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    }
    await asyncio.to_thread(cluster.apply, json.dumps(selectorless), json.dumps(endpoint_slice), namespace=namespace)
    address = await asyncio.to_thread(cluster.load_balancer_address, namespace, "manual")
    await fetch_until(address, "echo.example")
    assert {(await fetch(address, "echo.example")).status for _ in range(4)} == {200}


# ---- faults -------------------------------------------------------------------------------------------------------


def test_api_server_restart(cluster, namespace):
    deploy(cluster, namespace)
    before = {pod["metadata"]["uid"] for pod in cluster.pods(namespace)}
    cluster.control_plane.kill_apiserver()
    with pytest.raises(CommandFailed, match="refused"):
        cluster.kubectl("get", "pods")
    starter = threading.Thread(target=cluster.control_plane.start_apiserver)
    starter.start()
    starter.join()  # what it has started stays
    assert {pod["metadata"]["uid"] for pod in cluster.pods(namespace)} == before
    cluster.kubectl("scale", "deployment/echo", "--replicas=3", "-n", namespace)
    cluster.eventually(lambda: len([pod for pod in cluster.pods(namespace) if ready(pod)]) == 3, "three ready Pods")


def test_etcd_comes_back_with_its_data(cluster, namespace):
    control_plane = cluster.control_plane
    control_plane.kill_etcd()
    with pytest.raises((OSError, AssertionError)):
        control_plane.request("GET", f"/api/v1/namespaces/{namespace}/pods", timeout_s=1)
    control_plane.start_etcd()

    def answers():
        try:
            return cluster.find(f"/api/v1/namespaces/{namespace}") is not None
        except (OSError, AssertionError):
            return False

    cluster.eventually(answers, "an answer")


def replaced(cluster, namespace, name):
    """A probe for the ready Pods, once there are some and `name` isn't among them nor the API's list."""

    def found():
        pods = cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        return pods if all(pod["metadata"]["name"] != name and ready(pod) for pod in pods) else None

    return found


async def test_older_api_server(cluster, namespace):
    """Without EndpointSlices the load balancer goes by Endpoints."""
    await asyncio.to_thread(deploy, cluster, namespace, replicas=1, kind="LoadBalancer")
    address = await asyncio.to_thread(cluster.load_balancer_address, namespace, "echo")
    older = cluster.control_plane.without_apis("discovery.k8s.io/v1")
    await asyncio.to_thread(older.__enter__)
    try:
        path = "/apis/discovery.k8s.io/v1/endpointslices"
        assert (await asyncio.to_thread(cluster.control_plane.request, "GET", path))[0] == 404
        before = (await fetch_until(address, "echo.example")).pod
        await asyncio.to_thread(cluster.delete, f"/api/v1/namespaces/{namespace}/pods/{before}")
        (pod,) = await asyncio.to_thread(cluster.eventually, replaced(cluster, namespace, before), "another Pod")
        assert (await fetch_until(address, "echo.example")).pod == pod["metadata"]["name"]
    finally:
        await asyncio.to_thread(older.__exit__, None, None, None)
    assert (await asyncio.to_thread(cluster.control_plane.request, "GET", path))[0] == 200


# ---- isolation ----------------------------------------------------------------------------------------------------


def test_nothing_reaches_outside():
    with pytest.raises(OSError, match="unreachable"), socket.create_connection(("192.0.2.1", 80), 1):
        pass
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


ABANDONED = """
import os, signal, sys
from pathlib import Path
from tools.envtest.build import find_binaries
from tools.envtest.cluster import Cluster
with Cluster(find_binaries(), Path(sys.argv[1])) as cluster, cluster.namespace.entered():
    cluster.apply(Path(sys.argv[2]).read_text())
    cluster.eventually(lambda: cluster.container_log("default", "proxy", "proxy").with_suffix(".pid").exists(), "a process")
    print("up", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def processes_of(folder):
    """Those that were started with something of `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if (
                str(folder).encode() in path.read_bytes()
                or str(folder).encode() in (path.parent / "environ").read_bytes()
            ):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_nothing_is_left_when_its_owner_is_killed(tmp_path):
    manifest = tmp_path / "pod.yaml"
    manifest.write_text("\n---\n".join([json.dumps(CONFIG_MAP), PROXY]))
    folder = tmp_path / "cluster"
    argv = [sys.executable, "-c", ABANDONED, str(folder), str(manifest)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "up\n", done.stderr
    deadline = time.monotonic() + 10
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(folder) == []
