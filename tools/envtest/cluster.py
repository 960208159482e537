"""A whole cluster in a network namespace: control plane, nodes, load balancer; kubectl and helm for it.

    with Cluster(binaries, folder) as cluster, cluster.namespace.entered():
        cluster.apply(...)

Everything ends with the thread that entered it, however it ends.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.envtest import NODES, EnvtestError
from tools.envtest.build import Binaries
from tools.envtest.controlplane import ControlPlane
from tools.envtest.netns import NetworkNamespace
from tools.envtest.processes import Child, poll_until, tail

_ROOT = Path(__file__).parents[2]
_COMMAND_LIMIT_S = 180.0
_CONTAINER_LOGS = 12


class CommandFailed(AssertionError):
    """kubectl or helm said no."""


class Cluster:
    """Its folder must not exist yet. Methods are for the thread that is inside of the namespace, except where they say otherwise."""

    def __init__(self, binaries: Binaries, folder: Path, namespace: NetworkNamespace | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.namespace = namespace or NetworkNamespace()
        self.control_plane = ControlPlane(binaries, folder / "control-plane")
        self._binaries = binaries
        self._stand_ins: dict[str, Child] = {}
        self._nodes = folder / "nodes"

    def __enter__(self) -> Self:
        try:
            with self.namespace.entered():
                self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the nodes are there and the default namespace can take Pods."""
        self._nodes.mkdir()
        self.control_plane.start()
        self.start_nodes()
        self.start_load_balancer()
        self.eventually(lambda: len(self.get("/api/v1/nodes")["items"]) == len(NODES), "nodes")
        self.eventually(lambda: self.find("/api/v1/namespaces/default/serviceaccounts/default"), "the service account")

    def stop(self) -> None:
        for child in self._stand_ins.values():
            child.stop()
        self.control_plane.stop()
        self.namespace.close()

    def start_nodes(self) -> None:
        self._stand_in("kubelet", str(self.control_plane.kubeconfig), str(self._nodes))

    def start_load_balancer(self) -> None:
        self._stand_in("loadbalancer", str(self.control_plane.kubeconfig))

    def stop_load_balancer(self) -> None:
        """Its connections end with it. Once started again, it keeps the addresses that the Services then show."""
        self._stand_ins["loadbalancer"].stop()

    def _stand_in(self, name: str, *arguments: str) -> None:
        argv = [sys.executable, "-m", f"tools.envtest.{name}", *arguments]
        env = {**os.environ, "PYTHONPATH": str(_ROOT)}
        log = self.control_plane.logs / f"{name}.log"
        start = self.control_plane.spawner.start
        self._stand_ins[name] = start(name, argv, log, env=env, on_parent_death=signal.SIGTERM)

    # ---- commands ----

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.control_plane.kubeconfig

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Its output. Raises CommandFailed."""
        return self._command(self._binaries.kubectl, arguments, input)

    def helm(self, *arguments: str, input: str | None = None) -> str:
        """Its output. Raises CommandFailed."""
        return self._command(self._binaries.helm, arguments, input)

    def apply(self, *manifests: str | Path, namespace: str = "default") -> None:
        """YAML text, or files of it."""
        texts = [item.read_text() if isinstance(item, Path) else item for item in manifests]
        self.kubectl("apply", "-n", namespace, "-f", "-", input="\n---\n".join(texts))

    def command_environment(self) -> dict[str, str]:
        """For other clients: KUBECONFIG, and a home folder that has nothing of the user's."""
        home = self.folder / "home"
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(home), "KUBECONFIG": str(self.kubeconfig)}

    def _command(self, binary: Path, arguments: Sequence[str], text: str | None) -> str:
        done = subprocess.run(
            [str(binary), *arguments],
            input="" if text is None else text,
            env=self.command_environment(),
            capture_output=True,
            text=True,
            timeout=_COMMAND_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(f"{binary.name} {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    # ---- the API, without a library ----

    def get(self, path: str) -> dict[str, Any]:
        """Raises AssertionError for anything but 200."""
        status, body = self.control_plane.request("GET", path)
        assert status == 200, f"GET {path}: {status} {body.decode()}"
        return dict(json.loads(body))

    def find(self, path: str) -> dict[str, Any] | None:
        """None when there is no such object."""
        status, body = self.control_plane.request("GET", path)
        if status == 404:
            return None
        assert status == 200, f"GET {path}: {status} {body.decode()}"
        return dict(json.loads(body))

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._write("POST", path, body, "application/json")

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A merge patch (RFC 7396)."""
        return self._write("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """No error when it is gone already."""
        body = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        status, answer = self.control_plane.request("DELETE", path, body)
        assert status in (200, 202, 404), f"DELETE {path}: {status} {answer.decode()}"

    def create_namespace(self, name: str) -> None:
        """Returns when it can take Pods."""
        self.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for path in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
            self.eventually(functools.partial(self.find, f"/api/v1/namespaces/{name}/{path}"), path)

    def _write(self, method: str, path: str, body: Mapping[str, Any], content_type: str) -> dict[str, Any]:
        status, answer = self.control_plane.request(method, path, body, content_type)
        assert status in (200, 201), f"{method} {path}: {status} {answer.decode()}"
        return dict(json.loads(answer))

    # ---- waiting and looking ----

    def eventually(self, probe: Callable[[], Any], what: str, within_s: float = 60.0) -> Any:
        """The first true value of `probe`. It blocks: call it by `asyncio.to_thread` inside a loop."""
        deadline = time.monotonic() + within_s
        while True:
            value = probe()
            if value:
                return value
            if not poll_until(deadline, 0.05):
                raise AssertionError(f"not within {within_s:g} s: {what}: {value!r}")

    def pods(self, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """Those that aren't being deleted, by name."""
        query = f"?labelSelector={selector}" if selector else ""
        items = self.get(f"/api/v1/namespaces/{namespace}/pods{query}")["items"]
        return sorted(
            (item for item in items if "deletionTimestamp" not in item["metadata"]),
            key=lambda item: item["metadata"]["name"],
        )

    def wait_rollout(self, kind: str, name: str, namespace: str, within_s: float = 60.0) -> None:
        """`kind`: deployment or daemonset."""
        self.kubectl("rollout", "status", f"{kind}/{name}", "-n", namespace, f"--timeout={within_s:g}s")

    def load_balancer_address(self, namespace: str, service: str) -> str:
        """Of a Service of type LoadBalancer, as soon as it has one."""

        def address() -> str | None:
            found = self.get(f"/api/v1/namespaces/{namespace}/services/{service}")["status"]["loadBalancer"]
            return next((item["ip"] for item in found.get("ingress", ())), None)

        return str(self.eventually(address, f"an address of {namespace}/{service}"))

    def container_log(self, namespace: str, pod: str, container: str) -> Path:
        """What its process has written; the file of an echo container stays empty."""
        return self._nodes / "logs" / "pods" / f"{namespace}_{pod}" / f"{container}.log"

    def container_pid(self, namespace: str, pod: str, container: str) -> int:
        """Of a container of our own image that runs. Raises FileNotFoundError."""
        return int(self.container_log(namespace, pod, container).with_suffix(".pid").read_text())

    def log_tails(self, lines: int = 40) -> str:
        """The end of every log, of containers those written to last, for a failure's report. Needs no namespace."""
        containers = sorted(self._nodes.glob("logs/pods/*/*.log"), key=lambda path: path.stat().st_mtime)
        files = [*self.control_plane.log_files(), *containers[-_CONTAINER_LOGS:]]
        texts = ((path, tail(path, lines)) for path in files)
        return "\n".join(f"==> {path.relative_to(self.folder)} <==\n{text}" for path, text in texts if text)


def check() -> EnvtestError | None:
    """Why no cluster can be had here; None if one can."""
    from tools.envtest import build, netns

    found = build.find_binaries()
    reason = found if isinstance(found, str) else netns.unavailable()
    return EnvtestError(reason) if reason else None
