"""Which addresses to publish in the status of Ingresses, and who the other replicas are.

The order of ingress-nginx: addresses that were given; else those of one Service; else those of the nodes that our Pods run on.
"""

import asyncio
import ipaddress
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import cast

import msgspec

from ingress.config import KubeSettings
from ingress.errors import SourceError
from ingress.kube.answers import decode_answer
from ingress.kube.api import Api, NotFound, Unavailable
from ingress.kube.ratelimit import backoff_s
from ingress.model import LoadBalancerIngress

Addresses = tuple[LoadBalancerIngress, ...]

_log = logging.getLogger(__name__)
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")  # RFC 1123, as the API server checks it
_HOST_NAME_LIMIT = 253
_FIRST_BACK_OFF_S = 0.5
_LONGEST_BACK_OFF_S = 30.0
_REPLICAS_PERIOD_S = 10.0

# What differs from one revision of a workload to the next, or from Pod to Pod: neither a rolling upgrade nor the end of one of several
# replicas must look like the end of the last one.
_NOT_SHARED = frozenset(
    {
        "pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "app.kubernetes.io/version",
        "helm.sh/chart",
    }
)
_SHARED_PREFIX = (
    "app.kubernetes.io"  # recommended labels; all others below these domains are Kubernetes' own, such as a Pod's zone
)
_KUBERNETES = ("kubernetes.io", "k8s.io")


class _Read(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base: as far as needed here. What the API server leaves out or gives as null has its default."""


class _Metadata(_Read, frozen=True, rename="camel", kw_only=True):
    name: str = ""
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    resource_version: str = ""


class _LoadBalancerStatus(_Read, frozen=True, rename="camel", kw_only=True):
    ingress: tuple[LoadBalancerIngress, ...] | None = None


class _ServiceStatus(_Read, frozen=True, rename="camel", kw_only=True):
    load_balancer: _LoadBalancerStatus | None = None


class _ServiceSpec(_Read, frozen=True, rename="camel", kw_only=True):
    type: str = "ClusterIP"
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    external_ips: tuple[str, ...] | None = msgspec.field(default=None, name="externalIPs")
    external_name: str | None = None


class PublishedService(_Read, frozen=True, rename="camel", kw_only=True):
    spec: _ServiceSpec | None = None
    status: _ServiceStatus | None = None


class _PodSpec(_Read, frozen=True, rename="camel", kw_only=True):
    node_name: str | None = None


class _PodStatus(_Read, frozen=True, rename="camel", kw_only=True):
    phase: str | None = None


class Pod(_Read, frozen=True, rename="camel", kw_only=True):
    metadata: _Metadata
    spec: _PodSpec | None = None
    status: _PodStatus | None = None

    @property
    def phase(self) -> str:
        return (self.status.phase if self.status is not None else None) or ""

    @property
    def node_name(self) -> str:
        return (self.spec.node_name if self.spec is not None else None) or ""

    @property
    def stays(self) -> bool:
        """It serves or is about to."""
        return self.metadata.deletion_timestamp is None and self.phase in ("Running", "Pending")


class _PodList(_Read, frozen=True, rename="camel", kw_only=True):
    items: tuple[Pod, ...] | None = None


class _NodeAddress(_Read, frozen=True, rename="camel", kw_only=True):
    type: str
    address: str


class _NodeStatus(_Read, frozen=True, rename="camel", kw_only=True):
    addresses: tuple[_NodeAddress, ...] | None = None


class Node(_Read, frozen=True, rename="camel", kw_only=True):
    status: _NodeStatus | None = None


class _WatchEvent(_Read, frozen=True, rename="camel", kw_only=True):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"null")


# ---- what to publish: pure ----------------------------------------------------------------------------------------


def parse_address(text: str) -> LoadBalancerIngress | None:
    """An IP in its canonical form, or a host name in lower case. None: neither."""
    text = text.strip()
    try:
        return LoadBalancerIngress(ip=str(ipaddress.ip_address(text))) if "%" not in text else None
    except ValueError:
        pass
    name = text.lower().removesuffix(".")
    if len(name) <= _HOST_NAME_LIMIT and _HOST_NAME.fullmatch(name):
        return LoadBalancerIngress(hostname=name)
    return None


def arrange(addresses: Iterable[LoadBalancerIngress]) -> Addresses:
    """Each once; IPv4, IPv6, host names, each in order. What the API server would refuse is left out."""
    found = set()
    for address in addresses:
        ip = parse_address(address.ip) if address.ip else None
        host = parse_address(address.hostname) if address.hostname else None
        kept = LoadBalancerIngress(
            ip=ip.ip if ip is not None else "", hostname=host.hostname if host is not None else ""
        )
        if kept.ip or kept.hostname:
            found.add(kept)
    return tuple(sorted(found, key=_order))


def _order(address: LoadBalancerIngress) -> tuple[int, int, str]:
    if not address.ip:
        return (9, 0, address.hostname)
    ip = ipaddress.ip_address(address.ip)
    return (ip.version, int(ip), address.hostname)


def addresses_of_text(texts: Iterable[str]) -> Addresses:
    """What was given on the command line. What is neither IP nor host name is left out."""
    return arrange(found for text in texts if (found := parse_address(text)) is not None)


def addresses_of_service(service: PublishedService) -> Addresses:
    """Empty: it has none (yet)."""
    spec = service.spec or _ServiceSpec()
    external = [LoadBalancerIngress(ip=ip) for ip in spec.external_ips or ()]
    match spec.type:
        case "LoadBalancer":
            balancer = service.status.load_balancer if service.status is not None else None
            return arrange([*((balancer.ingress if balancer is not None else None) or ()), *external])
        case "ExternalName":
            return addresses_of_text([spec.external_name or ""])
        case _:  # NodePort, ClusterIP; a headless Service has "None" for its address
            ip = spec.cluster_ip or ""
            return arrange(external) or (arrange([LoadBalancerIngress(ip=ip)]) if ip != "None" else ())


def addresses_of_nodes(nodes: Iterable[Node], internal: bool) -> Addresses:
    """ExternalIP of each, or InternalIP (if asked for, or if it has no other)."""
    found: list[LoadBalancerIngress] = []
    for node in nodes:
        by_type: dict[str, list[LoadBalancerIngress]] = {}
        for address in (node.status.addresses if node.status is not None else None) or ():
            by_type.setdefault(address.type, []).append(LoadBalancerIngress(ip=address.address))
        inside, outside = by_type.get("InternalIP", []), by_type.get("ExternalIP", [])
        found += inside if internal else outside or inside
    return arrange(found)


def identifying_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that all replicas of our workload share, whatever their revision."""
    return {name: value for name, value in sorted(labels.items()) if _is_shared(name)}


def _is_shared(label: str) -> bool:
    prefix, slash, _ = label.rpartition("/")
    if label in _NOT_SHARED:
        return False
    return not slash or prefix == _SHARED_PREFIX or not f".{prefix}".endswith(tuple(f".{name}" for name in _KUBERNETES))


# ---- reading ------------------------------------------------------------------------------------------------------


class Replicas:
    """The Pods with our own Pod's labels in our namespace: all replicas of this controller, old and new.

    Outside a Pod there is only this process.
    """

    def __init__(self, api: Api, settings: KubeSettings) -> None:
        self._api = api
        self._pod_name = settings.pod_name
        self._path = f"/api/v1/namespaces/{settings.pod_namespace or 'default'}/pods"
        self._labels: dict[str, str] | None = None
        self._problem = ""
        self.alone = not self._pod_name  # as last seen by `run`; until known, there may be others

    async def pods(self) -> tuple[Pod, ...]:
        """All, ourselves included. Raises SourceError."""
        if not self._pod_name:
            return ()
        if self._labels is None:
            pod = decode_answer(await self._api.get(f"{self._path}/{self._pod_name}"), Pod)
            self._labels = identifying_labels(pod.metadata.labels or {})
        if not self._labels:  # an empty selector would mean every Pod of the namespace
            return (decode_answer(await self._api.get(f"{self._path}/{self._pod_name}"), Pod),)
        selector = ",".join(f"{name}={value}" for name, value in self._labels.items())
        return decode_answer(await self._api.get(self._path, {"labelSelector": selector}), _PodList).items or ()

    async def others(self) -> int:
        """How many other replicas serve or are about to. Raises SourceError."""
        return sum(pod.stays and pod.metadata.name != self._pod_name for pod in await self.pods())

    async def run(self) -> None:
        """Keep `alone` up to date, until cancelled. With no answer, the last one counts."""
        while self._pod_name:
            problem = ""
            try:
                self.alone = await self.others() == 0
            except SourceError as error:
                problem = str(error)
            if problem and problem != self._problem:
                _log.warning("can't see the other replicas: %s", problem)
            self._problem = problem
            await asyncio.sleep(_REPLICAS_PERIOD_S)


class AddressReader:
    """Keeps the addresses to publish up to date and hands each new set to `on_change`. An empty set is never handed on: there is nothing to publish yet,
    or an address is being replaced.
    """

    def __init__(
        self,
        api: Api,
        settings: KubeSettings,
        replicas: Replicas,
        on_change: Callable[[Addresses], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.addresses: Addresses = ()
        self._api = api
        self._settings = settings
        self._replicas = replicas
        self._on_change = on_change
        self._clock = clock
        self._rng = rng or random.Random()
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        settings = self._settings
        if settings.publish_status_addresses:
            await self._publish_given(settings.publish_status_addresses)
            return
        failures = 0
        while True:
            began = self._clock()
            try:
                if settings.publish_service is not None:
                    await self._follow_service(*settings.publish_service)
                else:
                    await self._read_nodes()
            except SourceError as error:
                self._complain(f"can't read the addresses to publish: {error}")
                if self._clock() - began > _LONGEST_BACK_OFF_S:
                    failures = 0  # a watch that broke after a while is no repeated failure
                failures += 1
                delay_s = backoff_s(failures, _FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S, self._rng.random())
                if isinstance(error, Unavailable) and error.retry_after_s is not None:
                    delay_s = max(delay_s, min(error.retry_after_s, _LONGEST_BACK_OFF_S))
                await asyncio.sleep(delay_s)
            else:
                failures = 0

    async def _publish_given(self, texts: tuple[str, ...]) -> None:
        for text in texts:
            if parse_address(text) is None:
                _log.error("--publish-status-address %r is neither an IP nor a host name: not published", text)
        self._take(addresses_of_text(texts), "none of the addresses to publish is usable")
        await asyncio.Event().wait()

    async def _follow_service(self, namespace: str, name: str) -> None:
        """One look, then a watch for one period."""
        path = f"/api/v1/namespaces/{namespace}/services"
        period_s = max(self._settings.status_period_s, 1.0)
        try:
            service = decode_answer(await self._api.get(f"{path}/{name}"), PublishedService)
        except NotFound:
            self._take((), f"Service {namespace}/{name} to publish addresses of does not exist")
        else:
            self._take_service(service)
        # Without a resourceVersion the watch starts with the object as it is: nothing is missed in between. (The object's own
        # may be too old to start from, if it didn't change for long.)
        query = {"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": f"{period_s:.0f}"}
        began = self._clock()
        watch = cast("AsyncGenerator[bytes, None]", self._api.watch(path, query, idle_timeout_s=period_s + 30.0))
        async with aclosing(watch) as lines:
            async for line in lines:
                event = decode_answer(line, _WatchEvent)
                if event.type == "ERROR":
                    break
                if event.type in ("ADDED", "MODIFIED"):
                    self._take_service(decode_answer(event.object, PublishedService))
                elif event.type == "DELETED":
                    self._take((), f"Service {namespace}/{name} to publish addresses of was deleted")
        if self._clock() - began < 1.0:  # ended at once: not in a tight loop
            await asyncio.sleep(1.0)

    async def _read_nodes(self) -> None:
        if not self._settings.pod_name:
            self._take((), "no addresses to publish: neither a Service nor addresses are given, and this is not a Pod")
        else:
            names = {pod.node_name for pod in await self._replicas.pods() if pod.phase == "Running" and pod.node_name}
            nodes = []
            for name in sorted(names):
                try:
                    nodes.append(decode_answer(await self._api.get(f"/api/v1/nodes/{name}"), Node))
                except NotFound:
                    continue  # just removed
            found = addresses_of_nodes(nodes, self._settings.report_node_internal_ip)
            self._take(found, "no addresses to publish: no node of our Pods has any")
        await asyncio.sleep(self._settings.status_period_s)

    def _take_service(self, service: PublishedService) -> None:
        namespace, name = self._settings.publish_service or ("", "")
        self._take(addresses_of_service(service), f"Service {namespace}/{name} has no address to publish")

    def _take(self, found: Addresses, none_yet: str) -> None:
        if not found:
            self._complain(none_yet)
            return
        self._problem = ""
        if found != self.addresses:
            self.addresses = found
            _log.info("addresses to publish: %s", ", ".join(address.ip or address.hostname for address in found))
            self._on_change(found)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            _log.warning("%s", problem)
