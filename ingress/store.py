"""Merges the sources, drops what changes nothing, gathers changes for a moment, and hands out `ClusterState`.

A handed-out state is never changed afterwards. The next one shares every mapping whose kind was not touched, so that
one endpoint more costs one copy of one mapping, and a consumer sees by identity what it can skip. Event loop only; one
consumer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.model.cluster import ClusterState, NamespacedName
from ingress.model.kubernetes import EndpointSlice, KubernetesObject
from ingress.model.ref import Kind, ObjectRef


@dataclass(frozen=True, slots=True)
class StoreChange:
    """`changed` names the objects added, changed or removed since the state handed out before (the first: all there
    are).

    `resolved_changed` likewise names the hosts of `state.resolved`. An object whose place in its file moved, and
    nothing else, is replaced in the state (so that verdicts name the right line) but doesn't count as changed.
    """

    state: ClusterState
    changed: frozenset[ObjectRef] = frozenset()
    verdicts: tuple[Verdict, ...] = ()
    resolved_changed: frozenset[str] = frozenset()


class HoldOff:
    """When gathered changes are due: once none came for `hold_off_s`, at the latest `limit_s` after the first. Pure;
    times are seconds.
    """

    def __init__(self, hold_off_s: float, limit_s: float) -> None:
        self._hold_off_s = hold_off_s
        self._limit_s = max(limit_s, hold_off_s)
        self._first: float | None = None
        self._last = 0.0

    def touch(self, now: float) -> None:
        if self._first is None:
            self._first = now
        self._last = now

    def reset(self) -> None:
        self._first = None

    @property
    def due(self) -> float | None:
        """None: nothing is gathered. It only ever moves to later."""
        if self._first is None:
            return None
        return min(self._last + self._hold_off_s, self._first + self._limit_s)


@dataclass(slots=True)
class _Source:
    objects: dict[ObjectRef, KubernetesObject] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()


class Store:
    """Sources are known by name; where two have the same object, the first in the order of names is used."""

    def __init__(
        self,
        hold_off_s: float = 0.02,
        hold_off_limit_s: float = 0.1,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._hold_off = HoldOff(hold_off_s, hold_off_limit_s)
        self._clock = clock
        self._sleep = sleep
        self._wake = asyncio.Event()
        self._sources: dict[str, _Source] = {}
        self._touched: set[ObjectRef] = set()
        self._resolved: dict[str, tuple[str, ...]] = {}
        self._is_first = True
        # as last handed out
        self._current: dict[ObjectRef, KubernetesObject] = {}
        self._slices: dict[NamespacedName, dict[str, EndpointSlice]] = {}  # by Service, then name
        self._state = ClusterState()
        self._verdicts: tuple[Verdict, ...] = ()

    @property
    def state(self) -> ClusterState:
        """As last handed out."""
        return self._state

    @property
    def waiting(self) -> bool:
        """Something was noted since the last `collect`."""
        return self._wake.is_set()

    def update(
        self, source: str, objects: Mapping[ObjectRef, KubernetesObject], verdicts: Sequence[Verdict] = ()
    ) -> None:
        """Everything that `source` knows; an object that it doesn't name any more is gone. An empty update counts as
        the first.
        """
        known = self._source(source)
        old = known.objects
        touched = {ref for ref, found in objects.items() if old.get(ref) is not found}
        touched.update(ref for ref in old if ref not in objects)
        known.objects = dict(objects)
        self._note(known, touched, verdicts)

    def apply(
        self,
        source: str,
        upserts: Mapping[ObjectRef, KubernetesObject],
        removed: Iterable[ObjectRef] = (),
        verdicts: Sequence[Verdict] | None = None,
    ) -> None:
        """Single changes of `source`, for one that is told of them one by one. `verdicts` None: as before."""
        known = self._source(source)
        touched = {ref for ref, found in upserts.items() if known.objects.get(ref) is not found}
        known.objects.update(upserts)
        for ref in removed:
            if known.objects.pop(ref, None) is not None:
                touched.add(ref)
        self._note(known, touched, known.verdicts if verdicts is None else verdicts)

    def set_resolved(self, host: str, addresses: Iterable[str] | None) -> None:
        """Addresses of an ExternalName host, possibly none; None forgets the host."""
        if addresses is None:
            if self._resolved.pop(host, None) is None:
                return
        else:
            found = tuple(addresses)
            if self._resolved.get(host) == found:
                return
            self._resolved[host] = found
        self._gather()

    async def changes(self) -> AsyncIterator[StoreChange]:
        """For ever; waits for the first update of any source."""
        while True:
            await self._wake.wait()
            while (due := self._hold_off.due) is not None and (delay := due - self._clock()) > 0.0:
                await self._sleep(delay)
            change = self.collect()
            if change is not None:
                yield change

    def collect(self) -> StoreChange | None:
        """What changed since the last call, without waiting; None if nothing did."""
        self._hold_off.reset()
        self._wake.clear()
        if self._is_first and not self._sources:
            return None
        changed, state = self._settle()
        resolved_changed = _differences(self._state.resolved, self._resolved)
        if resolved_changed:
            state = replace(state, resolved=dict(self._resolved))
        verdicts = self._all_verdicts()
        self._state = state
        if not (self._is_first or changed or resolved_changed or verdicts != self._verdicts):
            return None
        self._is_first = False
        self._verdicts = verdicts
        return StoreChange(state, frozenset(changed), verdicts, resolved_changed)

    # ---- gathering ------------------------------------------------------------------------------------------------

    def _source(self, name: str) -> _Source:
        known = self._sources.get(name)
        if known is None:
            known = _Source()
            self._sources = dict(sorted({**self._sources, name: known}.items()))
        return known

    def _note(self, source: _Source, touched: set[ObjectRef], verdicts: Sequence[Verdict]) -> None:
        new_verdicts = tuple(verdicts)
        is_new = source.verdicts != new_verdicts
        source.verdicts = new_verdicts
        self._touched |= touched
        if touched or is_new or self._is_first:
            self._gather()

    def _gather(self) -> None:
        self._hold_off.touch(self._clock())
        self._wake.set()

    def _find(self, ref: ObjectRef) -> KubernetesObject | None:
        for source in self._sources.values():
            found = source.objects.get(ref)
            if found is not None:
                return found
        return None

    # ---- the next state -------------------------------------------------------------------------------------------

    def _settle(self) -> tuple[set[ObjectRef], ClusterState]:
        """Bring `_current` up to date: which objects are different, and the state with them."""
        changed: set[ObjectRef] = set()
        replaced: dict[Kind, list[ObjectRef]] = {}
        groups: set[NamespacedName] = set()
        touched, self._touched = self._touched, set()
        for ref in touched:
            old, new = self._current.get(ref), self._find(ref)
            if old is new:
                continue
            if old is None or new is None or not same_content(old, new):
                changed.add(ref)
            if new is None:
                del self._current[ref]
            else:
                self._current[ref] = new
            if ref.kind is Kind.ENDPOINT_SLICE:
                self._regroup(ref, old, new, groups)
            else:
                replaced.setdefault(ref.kind, []).append(ref)
        fields: dict[str, Any] = {_FIELDS[kind]: self._mapping(kind, refs) for kind, refs in replaced.items()}
        if groups:
            fields["slices"] = self._grouped(groups)
        return changed, replace(self._state, **fields) if fields else self._state

    def _mapping(self, kind: Kind, refs: list[ObjectRef]) -> dict[Any, KubernetesObject]:
        mapping: dict[Any, KubernetesObject] = dict(getattr(self._state, _FIELDS[kind]))
        for ref in refs:
            key = ref.name if kind is Kind.INGRESS_CLASS else (ref.namespace, ref.name)
            found = self._current.get(ref)
            if found is None:
                del mapping[key]
            else:
                mapping[key] = found
        return mapping

    def _regroup(
        self, ref: ObjectRef, old: KubernetesObject | None, new: KubernetesObject | None, groups: set[NamespacedName]
    ) -> None:
        if isinstance(old, EndpointSlice) and old.service_name:
            key = (ref.namespace, old.service_name)
            self._slices[key].pop(ref.name, None)
            groups.add(key)
        if isinstance(new, EndpointSlice) and new.service_name:
            key = (ref.namespace, new.service_name)
            self._slices.setdefault(key, {})[ref.name] = new
            groups.add(key)

    def _grouped(self, groups: set[NamespacedName]) -> dict[NamespacedName, tuple[EndpointSlice, ...]]:
        slices = dict(self._state.slices)
        for key in groups:
            members = self._slices[key]
            if members:
                slices[key] = tuple(members[name] for name in sorted(members))
            else:
                del self._slices[key]
                slices.pop(key, None)
        return slices

    def _all_verdicts(self) -> tuple[Verdict, ...]:
        verdicts = [verdict for source in self._sources.values() for verdict in source.verdicts]
        names = list(self._sources)
        for position, name in enumerate(names):
            for other in names[position + 1 :]:
                shared = self._sources[name].objects.keys() & self._sources[other].objects.keys()
                verdicts.extend(
                    Verdict(
                        object=str(ref),
                        field="metadata.name",
                        reason=VerdictReason.DUPLICATE_OBJECT,
                        severity=Severity.WARNING,
                        message=f"The object comes from {name} and from {other}: the first is used",
                        value=ref.name,
                        origin=self._sources[other].objects[ref].origin,
                    )
                    for ref in sorted(shared)
                )
        return tuple(verdicts)


_FIELDS: dict[Kind, str] = {
    Kind.INGRESS: "ingresses",
    Kind.INGRESS_CLASS: "ingress_classes",
    Kind.SERVICE: "services",
    Kind.ENDPOINTS: "endpoints",
    Kind.SECRET: "secrets",
    Kind.CONFIG_MAP: "config_maps",
}

_CONTENT: dict[type[KubernetesObject], tuple[str, ...]] = {}


def same_content(old: KubernetesObject, new: KubernetesObject) -> bool:
    """Equal in all that decides about traffic: not `origin`, and not `resourceVersion`, which every status write
    changes.
    """
    if type(old) is not type(new):
        return False
    names = _CONTENT.get(type(old))
    if names is None:
        names = tuple(name for name in old.__struct_fields__ if name not in ("origin", "metadata"))
        _CONTENT[type(old)] = names
    for name in names:
        a, b = getattr(old, name), getattr(new, name)
        if a is not b and a != b:
            return False
    a, b = old.metadata, new.metadata
    return a is b or a == b or a == msgspec.structs.replace(b, resource_version=a.resource_version)


def _differences(old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    return frozenset(host for host in {**old, **new} if old.get(host) != new.get(host))
