"""Stand-in for the scheduler and the nodes' kubelets: `python -m tools.envtest.kubelet KUBECONFIG FOLDER`.

Registers the nodes, binds each pending Pod to one, gives it an address, runs its containers, probes them, reports, restarts what crashed, and ends a
deleted Pod with its preStop hook, SIGTERM, its grace period and SIGKILL, in that order.

What runs depends on the image's name: `aioingress` is a real process (the container's command or `ingress serve`, its arguments, environment
and volumes); one with `echo` in it is an HTTP server in this process (`echo`) at each containerPort; anything else just is there. All Pods share
one network namespace, each with an address of its own, so a process of ours is told to listen on that address where it would on all.

FOLDER gets `logs/pods/NAMESPACE_POD/CONTAINER.log`, and `.pid` beside it while a process runs.
"""

import asyncio
import contextlib
import itertools
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.envtest import NODES, NodeAddresses, podspec
from tools.envtest.client import Client, Refused
from tools.envtest.loops import run
from tools.envtest.pods import Pod, owner_of, spread

_log = logging.getLogger(__name__)
Json = Mapping[str, Any]


class Addresses:
    """Of one node's Pods. An address comes round again as late as possible."""

    def __init__(self, prefix: str) -> None:
        first, second, third = (int(part) for part in prefix.split("."))
        self._order = itertools.cycle(
            f"{first}.{second}.{third + high}.{low}" for high in range(16) for low in range(1, 255)
        )
        self._taken: set[str] = set()

    def take(self) -> str:
        address = next(address for address in self._order if address not in self._taken)
        self._taken.add(address)
        return address

    def release(self, address: str) -> None:
        self._taken.discard(address)


class Kubelet:
    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._nodes = {node.name: node for node in NODES}
        self._addresses = {node.name: Addresses(node.pod_prefix) for node in NODES}
        self._objects: dict[str, Json] = {}  # uid -> Pod as the API has it, or as it will have it once bound
        self._pods: dict[str, Pod] = {}
        self._binding: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        for node in NODES:
            await self._register(node)
        try:
            await self._client.follow("/api/v1/pods", self._changed)
        finally:
            for pod in self._pods.values():
                pod.kill()

    async def _register(self, node: NodeAddresses) -> None:
        labels = labels_of(node.name)
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}}
        with contextlib.suppress(Refused):  # there already
            await self._client.request("POST", "/api/v1/nodes", body)
        resources = {"cpu": "16", "memory": "64Gi", "pods": "2000"}
        status = {
            "addresses": [
                {"type": "InternalIP", "address": node.internal},
                {"type": "ExternalIP", "address": node.external},
                {"type": "Hostname", "address": node.name},
            ],
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "nodeInfo": {
                "kubeletVersion": "v1.36.3",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "containerRuntimeVersion": "envtest://1",
                "osImage": "",
                "kernelVersion": "",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
                "kubeProxyVersion": "",
            },
        }
        await self._client.patch(f"/api/v1/nodes/{node.name}/status", {"status": status})

    def _changed(self, new: Json | None, old: Json) -> None:
        uid = old["metadata"]["uid"]
        if new is None:
            self._objects.pop(uid, None)
            if uid in self._pods:
                self._pods.pop(uid).gone()
            return
        before = self._objects.get(uid)
        if "nodeName" not in new["spec"]:
            if before is None or "nodeName" not in before["spec"]:
                self._objects[uid] = new
                self._schedule(uid)
            return
        self._objects[uid] = new
        if uid in self._pods:
            self._pods[uid].update(new)
        elif new["spec"]["nodeName"] in self._nodes and new.get("status", {}).get("phase") not in (
            "Succeeded",
            "Failed",
        ):
            self._run(new)

    def _run(self, pod: Json) -> None:
        node = self._nodes[pod["spec"]["nodeName"]]
        addresses = self._addresses[node.name]
        address, uid = addresses.take(), pod["metadata"]["uid"]

        def ended() -> None:
            addresses.release(address)
            self._pods.pop(uid, None)

        self._pods[uid] = Pod(self._client, pod, node.internal, address, self._folder, ended)

    def _schedule(self, uid: str) -> None:
        pod = self._objects[uid]
        if "deletionTimestamp" in pod["metadata"]:
            return
        fitting = [name for name in self._nodes if podspec.suits(pod, name, labels_of(name))]
        if not fitting:
            _log.warning("no node suits %s", pod["metadata"]["name"])
            return
        owner = owner_of(pod)
        node = min(fitting, key=lambda name: (*spread(self._objects.values(), name, owner), name))
        self._objects[uid] = {**pod, "spec": {**pod["spec"], "nodeName": node}}
        task = asyncio.create_task(self._bind(pod, node))
        self._binding.add(task)
        task.add_done_callback(self._binding.discard)

    async def _bind(self, pod: Json, node: str) -> None:
        metadata = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        with contextlib.suppress(Refused):  # gone, or bound by an attempt whose answer was lost
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
            await self._client.request("POST", path, body)


def labels_of(node: str) -> dict[str, str]:
    return {
        "kubernetes.io/hostname": node,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": "here",
        "topology.kubernetes.io/zone": f"zone-{node[-1]}",
    }


async def main(kubeconfig: Path, folder: Path) -> None:
    async with Client(kubeconfig) as client:
        work = asyncio.create_task(Kubelet(client, folder).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work


if __name__ == "__main__":
    run(main(Path(sys.argv[1]), Path(sys.argv[2])))
