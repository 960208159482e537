"""The source of objects that follows an API server: first everything at once, then every change.

    Ingress, Service, EndpointSlice (or Endpoints), Namespace with a selector    required: nothing is handed on before all were listed
    IngressClass                                                                 optional: a namespaced installation may not read it
    Secret, ConfigMap                                                            optional, and only those that something refers to

What exists in the cluster is kept by the reflectors; what of it is handed on (namespaces that are selected, objects that are
referenced) is decided here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from ingress.config import KubeSettings
from ingress.errors import SourceError, Verdict
from ingress.facts import SourceFacts
from ingress.kube.api import Forbidden
from ingress.kube.decode import Addresses
from ingress.kube.discovery import Resource, endpoints_kind, path_of, plural, resource
from ingress.kube.reflector import (
    BACKOFF_LIMIT_S,
    Batch,
    Link,
    Reflector,
    Timing,
    WatchApi,
    backoff_s,
)
from ingress.model.kubernetes import KubernetesObject
from ingress.model.ref import Kind, ObjectRef

_log = logging.getLogger(__name__)

# Most Secrets of most clusters: releases of Helm, hundreds of kilobytes each, and credentials that no Ingress can use.
_UNUSABLE_SECRETS = (
    "helm.sh/release.v1",
    "kubernetes.io/service-account-token",
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
    "bootstrap.kubernetes.io/token",
)
SECRETS_SELECTOR = ",".join(f"type!={unusable}" for unusable in _UNUSABLE_SECRETS)

Locate = Callable[[], Awaitable[Resource]]
Deliver = Callable[[Reflector, Batch], None]


class Sink(Protocol):
    """In production `functools.partial(store.apply, "kubernetes")`. `verdicts` None: as before."""

    def __call__(
        self,
        upserts: Mapping[ObjectRef, KubernetesObject],
        removed: Iterable[ObjectRef] = (),
        verdicts: Sequence[Verdict] | None = None,
    ) -> None: ...


class KubeSource:
    """Run it with `run`. Everything else may be called from the event loop at any time, before the start as well."""

    def __init__(self, api: WatchApi, settings: KubeSettings, sink: Sink, *, timing: Timing | None = None) -> None:
        self.synced = asyncio.Event()  # the first complete state was handed over
        self.on_status_change: Callable[[set[ObjectRef]], None] | None = None
        """Told after the sink: Ingresses that came, went or show another status. First: all there are."""
        self._api = api
        self._settings = settings
        self._sink = sink
        self._timing = Timing() if timing is None else timing
        self._link = Link(self._timing)
        self._started_at = self._timing.wall()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reflectors: dict[str, Reflector] = {}
        self._selected: frozenset[str] | None = None  # namespaces; None: all
        self._followed: frozenset[str] = frozenset()  # namespaces whose Services count all the same

        self._ingresses = self._collection(Kind.INGRESS, required=True)
        self._collection(Kind.SERVICE, required=True)
        self._add("endpoints", self._locate_endpoints, self._changed, required=True)
        self._collection(Kind.INGRESS_CLASS, required=False)
        if settings.watch_namespace_selector and not settings.watch_namespace:
            self._selected = frozenset()
            namespaces = resource(Kind.NAMESPACE, query={"labelSelector": settings.watch_namespace_selector})
            self._add("namespaces", _always(namespaces), self._namespaces_changed, required=True)
        pinned = (
            (Kind.CONFIG_MAP, settings.config_map),
            (Kind.CONFIG_MAP, settings.tcp_services),
            (Kind.SECRET, settings.default_certificate),
        )
        self._pinned = frozenset(ObjectRef(kind, *name) for kind, name in pinned if name is not None)
        self._references: frozenset[ObjectRef] = frozenset()
        self._missing: dict[ObjectRef, None] = {}  # referenced since the list of Secrets: to be fetched, in this order
        self._wake_fetcher = asyncio.Event()
        self.set_references(frozenset())
        self._first = tuple(self._reflectors.values())

    async def run(self) -> None:
        """Until cancelled. With the API server gone, it goes on trying and what was handed over last stays."""
        self._started_at = self._timing.wall()
        async with asyncio.TaskGroup() as group:
            self._group = group
            for reflector in self._reflectors.values():
                self._start(reflector)
            await self._fetch_missing()

    # ---- what others ask ------------------------------------------------------------------------------------------

    def set_references(self, refs: frozenset[ObjectRef]) -> None:
        """The Secrets and ConfigMaps that the compiled state refers to, existing or not. Cheap if they are the same as before.

        Those of the settings are always among them.
        """
        refs |= self._pinned
        if refs == self._references:
            return
        added, gone = refs - self._references, self._references - refs
        self._references = refs
        self._drop_references(gone)
        shared = False
        for ref in sorted(added):
            if not self._is_shared(ref):
                # One or a few: a watch on the name alone needs no right to read the others, and hears nothing of their changes
                # (ConfigMaps are where controllers like to keep what changes all the time).
                only = {"fieldSelector": f"metadata.name={ref.name}"}
                self._optional(_name_of(ref), resource(ref.kind, ref.namespace, only))
            elif not shared:
                shared = True
                if plural(Kind.SECRET) not in self._reflectors:
                    self._open_secrets()
        secrets = self._reflectors.get(plural(Kind.SECRET))
        if secrets is not None and secrets.started:
            self._missing |= dict.fromkeys(ref for ref in sorted(added) if self._is_shared(ref))
            self._wake_fetcher.set()

    def follow_services(self, namespaces: frozenset[str]) -> None:
        """Hand on the Services of these namespaces, with their endpoints, selected or not: those of TCP services may be anywhere."""
        if namespaces == self._followed:
            return
        before, self._followed = self._followed, namespaces
        if self._selected is None or not self.synced.is_set():
            return
        concerned = (before ^ namespaces) - self._selected
        found = [
            (ref, o) for ref, o in self._all_objects() if ref.namespace in concerned and ref.kind in _SERVICE_KINDS
        ]
        upserts = {ref: o for ref, o in found if self._is_selected(ref)}
        self._sink(upserts, [ref for ref, _ in found if ref not in upserts], self._collect_verdicts())

    @property
    def settled(self) -> bool:
        """Every referenced object is loaded, or known not to exist or not to be readable."""
        if self._missing:
            return False
        return all(self._reflector_of(ref).settled for ref in self._references)

    def object_of(self, ref: ObjectRef) -> KubernetesObject | None:
        """As last seen, whether its namespace is selected or not; a Secret or ConfigMap only while referenced."""
        for reflector in self._reflectors.values():
            found = reflector.objects.get(ref)
            if found is not None:
                return found
        return None

    def uid_of(self, ref: ObjectRef) -> str | None:
        found = self.object_of(ref)
        return None if found is None else found.metadata.uid

    def status_of(self, ref: ObjectRef) -> Addresses | None:
        """`status.loadBalancer.ingress` of an Ingress as last seen; None: it doesn't exist."""
        return self._ingresses.statuses.get(ref)

    def facts(self) -> tuple[SourceFacts, ...]:
        """One a collection that is read: `kubernetes/ingresses` …"""
        return tuple(
            SourceFacts(
                f"kubernetes/{reflector.name}",
                reflector.listed and reflector.connected,
                reflector.last_contact,
                reflector.error,
            )
            for reflector in self._reflectors.values()
        )

    def errors(self) -> dict[str, str]:
        """Collections whose last request failed, with what the API server, or the network, said."""
        return {
            f"kubernetes/{reflector.name}": reflector.error
            for reflector in self._reflectors.values()
            if reflector.error and not reflector.connected
        }

    @property
    def stale_since(self) -> float | None:
        """Unix time of the last contact if a required collection can't be followed at the moment, else None."""
        times = [
            self._started_at if reflector.last_contact is None else reflector.last_contact
            for reflector in self._reflectors.values()
            if reflector.required and not reflector.connected
        ]
        return min(times, default=None)

    # ---- reflectors -----------------------------------------------------------------------------------------------

    def _add(self, name: str, locate: Locate, deliver: Deliver, *, required: bool) -> Reflector:
        reflector = Reflector(
            name,
            self._api,
            locate,
            deliver,
            self._link,
            self._timing,
            required=required,
            page_size=self._settings.page_size,
        )
        self._reflectors[name] = reflector
        self._start(reflector)
        return reflector

    def _collection(self, kind: Kind, *, required: bool) -> Reflector:
        namespace = "" if kind is Kind.INGRESS_CLASS else self._settings.watch_namespace
        return self._add(plural(kind), _always(resource(kind, namespace)), self._changed, required=required)

    def _optional(self, name: str, where: Resource) -> None:
        self._add(name, _always(where), self._changed, required=False)

    def _open_secrets(self) -> None:
        where = resource(
            Kind.SECRET,
            self._settings.watch_namespace,
            {"fieldSelector": SECRETS_SELECTOR},
            wanted=lambda ref: ref in self._references,
        )
        self._optional(plural(Kind.SECRET), where)

    async def _locate_endpoints(self) -> Resource:
        return resource(await endpoints_kind(self._api), self._settings.watch_namespace)

    def _start(self, reflector: Reflector) -> None:
        if self._group is not None:
            name = reflector.name
            self._tasks[name] = self._group.create_task(reflector.run(), name=f"reflector:{name}")

    def _close(self, name: str) -> None:
        reflector = self._reflectors.pop(name)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        reflector.forget((*reflector.objects, *reflector.verdicts))

    # ---- references -----------------------------------------------------------------------------------------------

    def _is_shared(self, ref: ObjectRef) -> bool:
        """Whether the watch on all Secrets covers it: there may be thousands."""
        namespace = self._settings.watch_namespace
        return ref.kind is Kind.SECRET and (not namespace or namespace == ref.namespace)

    def _reflector_of(self, ref: ObjectRef) -> Reflector:
        return self._reflectors[plural(Kind.SECRET) if self._is_shared(ref) else _name_of(ref)]

    def _drop_references(self, gone: Iterable[ObjectRef]) -> None:
        shared = []
        for ref in gone:
            if self._is_shared(ref):
                shared.append(ref)
                self._missing.pop(ref, None)
            else:
                self._close(_name_of(ref))
        if not shared:
            return
        if any(self._is_shared(ref) for ref in self._references):
            self._reflectors[plural(Kind.SECRET)].forget(shared)
        else:
            self._close(plural(Kind.SECRET))

    async def _fetch_missing(self) -> None:
        """One after the other: a burst is rare, and the list brings the many of the start."""
        failures = 0
        while True:
            while not self._missing:
                self._wake_fetcher.clear()
                await self._wake_fetcher.wait()
            ref = next(iter(self._missing))
            try:
                await self._reflector_of(ref).fetch(ref, path_of(ref.kind, ref.namespace, ref.name))
            except Forbidden as error:
                _log.warning("%s can't be read: %s", ref, error)
            except SourceError as error:
                failures += 1
                _log.debug("%s: %s", ref, error)
                if self._missing.pop(ref, True) is None:
                    self._missing[ref] = None  # to the end: it must not hold up the others
                await self._link.pause(backoff_s(failures, BACKOFF_LIMIT_S, self._timing.rng))
                continue
            failures = 0
            self._missing.pop(ref, None)

    # ---- changes --------------------------------------------------------------------------------------------------

    def _changed(self, reflector: Reflector, batch: Batch) -> None:
        if not self.synced.is_set():
            self._sync()
            return
        upserts: Mapping[ObjectRef, KubernetesObject] = batch.upserts
        removed: Iterable[ObjectRef] = batch.removed
        if self._selected is not None:
            upserts = {ref: found for ref, found in upserts.items() if self._is_selected(ref)}
            removed = [ref for ref in removed if self._is_selected(ref)]
        verdicts = self._collect_verdicts() if batch.verdicts else None
        if upserts or removed or verdicts is not None:
            self._sink(upserts, removed, verdicts)
        if batch.statuses and self.on_status_change is not None:
            self.on_status_change(batch.statuses)

    def _sync(self) -> None:
        """Hand over everything, once every required collection was listed and every optional one listed or refused."""
        if not all(reflector.listed if reflector.required else reflector.settled for reflector in self._first):
            return
        self._select()
        objects = dict(self._selected_objects())
        self._sink(objects, (), self._collect_verdicts())
        self.synced.set()
        counts = (f"{len(reflector.objects)} {reflector.name}" for reflector in self._reflectors.values())
        _log.info("in sync with the API server: %s", ", ".join(counts))
        if self.on_status_change is not None:
            self.on_status_change(set(self._ingresses.statuses))

    def _collect_verdicts(self) -> tuple[Verdict, ...]:
        return tuple(
            verdict
            for reflector in self._reflectors.values()
            for ref, verdict in sorted(reflector.verdicts.items())
            if self._is_selected(ref)
        )

    # ---- namespaces -----------------------------------------------------------------------------------------------

    def _namespaces_changed(self, reflector: Reflector, batch: Batch) -> None:
        if not self.synced.is_set():
            self._sync()
            return
        before = self._selected or frozenset()
        self._select()
        after = self._selected or frozenset()
        appeared, vanished = after - before, before - after
        if not appeared and not vanished:
            return
        upserts = {ref: found for ref, found in self._all_objects() if ref.namespace in appeared}
        removed = [ref for ref, _ in self._all_objects() if ref.namespace in vanished and not self._is_selected(ref)]
        self._sink(upserts, removed, self._collect_verdicts())

    def _select(self) -> None:
        if self._selected is not None:
            self._selected = frozenset(ref.name for ref in self._reflectors["namespaces"].objects)

    def _is_selected(self, ref: ObjectRef) -> bool:
        """Objects of the cluster always are, and so is what the settings and the selected Ingresses refer to."""
        return (
            self._selected is None
            or not ref.namespace
            or ref.namespace in self._selected
            or ref.kind in _REFERENCED_KINDS
            or (ref.kind in _SERVICE_KINDS and ref.namespace in self._followed)
        )

    def _all_objects(self) -> Iterator[tuple[ObjectRef, KubernetesObject]]:
        for reflector in self._reflectors.values():
            if reflector.name != "namespaces":
                yield from reflector.objects.items()

    def _selected_objects(self) -> Iterator[tuple[ObjectRef, KubernetesObject]]:
        return ((ref, found) for ref, found in self._all_objects() if self._is_selected(ref))


_REFERENCED_KINDS = (Kind.SECRET, Kind.CONFIG_MAP)
_SERVICE_KINDS = (Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.ENDPOINTS)


def _always(where: Resource) -> Locate:
    async def locate() -> Resource:
        return where

    return locate


def _name_of(ref: ObjectRef) -> str:
    return f"{plural(ref.kind)}/{ref.namespace}/{ref.name}"
