"""The life of one Pod: from its binding to a node to its removal from the API."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.envtest import API_SERVER, API_SERVER_PORT, podspec, probes
from tools.envtest.client import Client, Refused
from tools.envtest.podspec import Unresolvable
from tools.envtest.runtimes import Echo, Pause, Process, Runtime, execute
from tools.envtest.volumes import ObjectReader, Volumes

_log = logging.getLogger(__name__)
Json = Mapping[str, Any]
_RETRY_S = 0.2
_BACK_OFF_S, _BACK_OFF_LIMIT_S = 0.5, 10.0  # the kubelet's are 10 s and 5 minutes
_BACK_OFF_RESET_S = 60.0
_LEAST_GRACE_S = 2.0  # after a preStop hook that took all the time there was
_OWN_CONDITIONS = ("PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers")
OUR_IMAGE = "aioingress"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """One container of a Pod: runs, restarts, probes. `changed` is called whenever its status does."""

    def __init__(self, pod: "Pod", spec: Json, changed: Callable[[], None]) -> None:
        self._pod = pod
        self._spec = spec
        self._changed = changed
        self.name: str = spec["name"]
        self.log = pod.logs / f"{self.name}.log"
        self._env: Mapping[str, str] = {}
        self._runtime: Runtime | None = None
        self._stopping = False
        self._state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self._last_state: Json = {}
        self._restarts = 0
        self._started = False
        self._ready = False
        self.exit_code: int | None = None  # of the last run, when there won't be another

    def status(self) -> Json:
        image = self._spec["image"]
        return {
            "name": self.name,
            "image": image,
            "imageID": f"envtest://{image}",
            "containerID": f"envtest://{self._pod.uid}/{self.name}/{self._restarts}",
            "ready": self.ready,
            "started": self._started,
            "restartCount": self._restarts,
            "state": self._state,
            "lastState": self._last_state,
        }

    @property
    def ready(self) -> bool:
        return self._ready and "running" in self._state

    async def run(self, restart_policy: str) -> None:
        """Until it has ended for good."""
        wait_s = 0.0
        while True:
            began = time.monotonic()
            code = await self._run_once()
            if self._asked_to_stop() or restart_policy == "Never" or (restart_policy == "OnFailure" and code == 0):
                self.exit_code = code
                return
            if time.monotonic() - began > _BACK_OFF_RESET_S:
                wait_s = 0.0
            if wait_s:
                self._set({"waiting": {"reason": "CrashLoopBackOff", "message": f"back-off {wait_s:g}s"}})
                await asyncio.sleep(wait_s)
                if self._asked_to_stop():
                    self.exit_code = code
                    return
            wait_s = min(max(_BACK_OFF_S, wait_s * 2), _BACK_OFF_LIMIT_S)
            self._restarts += 1

    async def stop(self, grace_s: float) -> None:
        """preStop, SIGTERM, SIGKILL; together no longer than `grace_s`, or a little more for the signal."""
        self._stopping = True
        await self._end_run(grace_s)

    def kill(self) -> None:
        self._stopping = True
        if self._runtime is not None:
            self._runtime.kill()

    def _asked_to_stop(self) -> bool:
        return self._stopping

    # ---- one run ----

    async def _run_once(self) -> int:
        self._started = self._ready = False
        try:
            self._env = await self._environment()
            self._runtime = self._make()
            await self._runtime.start()
        except OSError as error:
            _log.error("%s/%s: %s", self._pod.name, self.name, error)
            self._ended(now(), 128)
            return 128
        began = now()
        has_startup = podspec.probe_of(self._spec, "startup") is not None
        self._started = not has_startup
        self._ready = not has_startup and podspec.probe_of(self._spec, "readiness") is None
        self._set({"running": {"startedAt": began}})
        probing = asyncio.create_task(self._probe(), name=f"probes:{self._pod.name}/{self.name}")
        try:
            code = await self._runtime.wait()
        finally:
            probing.cancel()
            await asyncio.wait((probing,))
        self._ended(began, code)
        return code

    def _ended(self, began: str, code: int) -> None:
        self._started = self._ready = False
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}
        self._set({"terminated": ended})

    async def _environment(self) -> dict[str, str]:
        """Waits for ConfigMaps and Secrets that aren't there yet."""
        while True:
            found: dict[tuple[str, str], Mapping[str, str] | None] = {}
            for kind, name in podspec.references(self._spec):
                data = await self._pod.reader.data(kind, name)
                found[kind, name] = None if data is None else {key: value.decode() for key, value in data.items()}
            try:
                env = podspec.environment(self._pod.object, self._spec, found)
            except Unresolvable as error:
                self._set({"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}})
                await asyncio.sleep(_RETRY_S)
            else:
                return {"KUBERNETES_SERVICE_HOST": API_SERVER, "KUBERNETES_SERVICE_PORT": str(API_SERVER_PORT), **env}

    def _make(self) -> Runtime:
        repository = podspec.repository(self._spec["image"])
        if repository == OUR_IMAGE:
            return self._our_process()
        if "echo" in repository:
            env = self._env
            names = {
                "namespace": env.get("NAMESPACE", self._pod.namespace),
                "ingress": env.get("INGRESS_NAME", ""),
                "service": env.get("SERVICE_NAME", ""),
                "pod": env.get("POD_NAME", self._pod.name),
                "node": self._pod.node,
            }
            ports = [port["containerPort"] for port in self._spec.get("ports", ())] or [80]
            return Echo(self._pod.address, ports, names)
        return Pause()

    def _our_process(self) -> Process:
        address = self._pod.address
        # the image's entry point; a command takes its place
        argv = [*self._spec.get("command", ("ingress", "serve")), *self._spec.get("args", ())]
        argv = [podspec.on_address(podspec.expand(item, self._env), address) for item in argv]
        env = dict(self._env) | podspec.listener_environment(argv, self._env, address)
        mounts = self._pod.volumes.mounts(self._spec)
        hostname = self._pod.object["spec"].get("hostname", self._pod.name)[:63]
        return Process(argv, env, mounts, hostname, self._pod.folder, self.name, self.log)

    # ---- probes and hooks ----

    async def _probe(self) -> None:
        startup, liveness, readiness = (
            podspec.probe_of(self._spec, name) for name in ("startup", "liveness", "readiness")
        )
        if startup is not None:
            if not await probes.until_started(startup, self._attempt):
                _log.info("%s/%s: startup probe failed", self._pod.name, self.name)
                await self._end_run(self._pod.grace_s)
                return
            self._started = True
            self._ready = readiness is None
            self._changed()
        async with asyncio.TaskGroup() as group:
            if readiness is not None:
                group.create_task(probes.keep_probing(readiness, self._attempt, self._tell_ready, eager=True))
            if liveness is not None:
                group.create_task(probes.keep_probing(liveness, self._attempt, self._tell_alive, eager=False))

    async def _attempt(self, spec: podspec.ProbeSpec) -> bool:
        return await probes.attempt(spec.action, self._spec, self._pod.address, self._execute, spec.timeout_s)

    async def _execute(self, argv: list[str], limit_s: float) -> int:
        return await execute(argv, self._env, self._pod.folder, self.log, limit_s)

    def _tell_ready(self, ready: bool) -> None:
        if ready != self._ready:
            self._ready = ready
            self._changed()

    def _tell_alive(self, alive: bool) -> None:
        if not alive and not self._stopping:
            _log.info("%s/%s: liveness probe failed", self._pod.name, self.name)
            self._pod.go(self._end_run(self._pod.grace_s), "restart")

    async def _end_run(self, grace_s: float) -> None:
        runtime = self._runtime
        if runtime is None or "running" not in self._state:
            return
        deadline = time.monotonic() + grace_s
        hook = self._spec.get("lifecycle", {}).get("preStop")
        if hook and grace_s > 0:
            try:
                async with asyncio.timeout(grace_s):
                    await self._run_hook(hook, grace_s)
            except TimeoutError:
                _log.info("%s/%s: preStop took the whole grace period", self._pod.name, self.name)
        left_s = max(deadline - time.monotonic(), _LEAST_GRACE_S) if grace_s > 0 else 0.0
        await runtime.terminate(left_s)

    async def _run_hook(self, hook: Json, limit_s: float) -> None:
        if "sleep" in hook:
            await asyncio.sleep(float(hook["sleep"]["seconds"]))
        elif "exec" in hook:
            await self._execute(hook["exec"]["command"], limit_s)
        elif "httpGet" in hook:
            with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
                await probes.http_get(hook["httpGet"], self._spec, self._pod.address)

    def _set(self, state: Json) -> None:
        if "terminated" in self._state:
            self._last_state = self._state
        self._state = state
        self._changed()


class Pod:
    """One Pod on one node. `update` with each of its versions; `gone` when the API has no such Pod any more."""

    def __init__(
        self, client: Client, pod: Json, host: str, address: str, folder: Path, ended: Callable[[], None]
    ) -> None:
        metadata = pod["metadata"]
        self._client = client
        self.object: dict[str, Any] = {**pod, "status": {**pod.get("status", {}), "podIP": address, "hostIP": host}}
        self.uid: str = metadata["uid"]
        self.name: str = metadata["name"]
        self.namespace: str = metadata["namespace"]
        self.node: str = pod["spec"]["nodeName"]
        self.address = address
        self._host = host
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.folder = folder / "pods" / self.uid
        self.logs = folder / "logs" / "pods" / f"{self.namespace}_{self.name}"
        self.folder.mkdir(parents=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.reader = ObjectReader(client, self.namespace)
        self.volumes = Volumes(client, pod, self.folder / "volumes")
        self.grace_s = float(pod["spec"].get("terminationGracePeriodSeconds", 30))
        self._policy: str = pod["spec"].get("restartPolicy", "Always")
        self._started_at = now()
        self._since: dict[str, tuple[str, str]] = {}  # condition -> status, since
        self._dirty = asyncio.Event()
        self._deleting = asyncio.Event()
        self._removed = False
        self._ending = False
        self._initialized = not pod["spec"].get("initContainers")
        self._init = [Container(self, spec, self._dirty.set) for spec in pod["spec"].get("initContainers", ())]
        self._containers = [Container(self, spec, self._dirty.set) for spec in pod["spec"]["containers"]]
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._work: asyncio.Task[None] | None = None
        self._main = self.start(self._run(), "main")
        self.update(pod)

    def update(self, pod: Json) -> None:
        self.object = {**pod, "status": {**pod.get("status", {}), "podIP": self.address, "hostIP": self._host}}
        if "deletionTimestamp" in pod["metadata"]:
            self._deleting.set()

    def gone(self) -> None:
        """Removed by force: what still runs is killed."""
        self._removed = True
        self.kill()
        self._main.cancel()

    def kill(self) -> None:
        for container in (*self._init, *self._containers):
            container.kill()

    def go(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """As `start`, for whoever doesn't wait for it."""
        _ = self.start(work, name)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that ends with the Pod."""
        task: asyncio.Task[None] = asyncio.create_task(work, name=f"{name}:{self.namespace}/{self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("%s", task.get_name(), exc_info=task.exception())

    async def _run(self) -> None:
        try:
            reporting = self.start(self._report(), "status")
            self._dirty.set()
            work = self.start(self._live(), "containers")
            deleting = self.start(_wait(self._deleting), "deletion")
            await asyncio.wait((work, deleting), return_when=asyncio.FIRST_COMPLETED)
            await self._deleting.wait()  # one that has completed stays until somebody deletes it
            await self._terminate(work)
            self._ending = True  # the last report, which isn't cut off
            self._dirty.set()
            await asyncio.wait((reporting,))
            await self._remove()
        finally:
            for task in list(self._tasks):
                if task is not asyncio.current_task():
                    task.cancel()
            self.kill()
            self._ended()

    async def _live(self) -> None:
        while True:
            try:
                await self.volumes.prepare()
                break
            except Unresolvable as error:
                _log.info("%s/%s: waits for %s", self.namespace, self.name, error)
                await asyncio.sleep(_RETRY_S)
        fresh = self.start(self.volumes.keep_fresh(), "volumes")
        try:
            for container in self._init:
                await container.run("Never" if self._policy == "Never" else "OnFailure")
                if container.exit_code != 0:
                    return
            self._initialized = True
            async with asyncio.TaskGroup() as group:
                for container in self._containers:
                    group.create_task(container.run(self._policy), name=container.name)
        finally:
            fresh.cancel()

    async def _terminate(self, work: asyncio.Task[None]) -> None:
        grace_s = float(self.object["metadata"].get("deletionGracePeriodSeconds", self.grace_s))
        async with asyncio.TaskGroup() as group:
            for container in (*self._init, *self._containers):
                group.create_task(container.stop(grace_s))
        try:
            await asyncio.wait_for(asyncio.shield(work), 1.0)  # so that the exit codes are known
        except TimeoutError:
            work.cancel()  # it was still waiting for volumes, or for its next try

    async def _remove(self) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        with contextlib.suppress(Refused):
            await self._client.request("DELETE", self._path, body)

    # ---- status ----

    async def _report(self) -> None:
        ending = False
        while not ending:
            await self._dirty.wait()
            self._dirty.clear()
            ending = self._ending
            await self._patch_status()

    async def _patch_status(self) -> None:
        if self._removed:
            return
        patch = {"metadata": {"uid": self.uid}, "status": self._status()}
        with contextlib.suppress(Refused):  # gone
            await self._client.patch(f"{self._path}/status", patch)

    def _status(self) -> Json:
        ready = self._initialized and all(container.ready for container in self._containers)
        gates = {gate["conditionType"] for gate in self.object["spec"].get("readinessGates", ())}
        foreign = [item for item in self.object["status"].get("conditions", ()) if item["type"] not in _OWN_CONDITIONS]
        open_gates = {item["type"] for item in foreign if item["status"] == "True"}
        conditions = {
            "PodReadyToStartContainers": True,
            "Initialized": self._initialized,
            "Ready": ready and gates <= open_gates,
            "ContainersReady": ready,
            "PodScheduled": True,
        }
        return {
            "phase": self._phase(),
            "conditions": [self._condition(name, value) for name, value in conditions.items()] + foreign,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "hostIP": self._host,
            "hostIPs": [{"ip": self._host}],
            "startTime": self._started_at,
            "qosClass": self.object["status"].get("qosClass", "BestEffort"),
            "initContainerStatuses": [container.status() for container in self._init],
            "containerStatuses": [container.status() for container in self._containers],
        }

    def _phase(self) -> str:
        codes = [container.exit_code for container in self._containers]
        failed_init = any(container.exit_code not in (None, 0) for container in self._init)
        if failed_init or (None not in codes and any(codes)):
            return "Failed"
        if None not in codes:
            return "Succeeded"
        started = any("waiting" not in container.status()["state"] for container in self._containers)
        restarted = any(container.status()["restartCount"] for container in self._containers)
        return "Running" if self._initialized and (started or restarted) else "Pending"

    def _condition(self, name: str, value: bool) -> Json:
        status = "True" if value else "False"
        if self._since.get(name, ("", ""))[0] != status:
            self._since[name] = (status, now())
        return {"type": name, "status": status, "lastTransitionTime": self._since[name][1]}


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def spread(pods: Iterable[Json], node: str, owner: str) -> tuple[int, int]:
    """How many Pods of `owner`, and of all, `node` has: the scheduler's order of preference."""
    here = [pod for pod in pods if pod["spec"].get("nodeName") == node]
    return sum(owner_of(pod) == owner for pod in here), len(here)


def owner_of(pod: Json) -> str:
    """uid of its controller; its own without one."""
    owners = [owner["uid"] for owner in pod["metadata"].get("ownerReferences", ()) if owner.get("controller")]
    return str(owners[0] if owners else pod["metadata"]["uid"])
