import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.errors import Verdict, VerdictReason
from ingress.model.cluster import ClusterState
from ingress.model.kubernetes import (
    SERVICE_NAME_LABEL,
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
    KubernetesObject,
    ObjectMeta,
    Secret,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
)
from ingress.model.ref import ObjectRef
from ingress.store import HoldOff, Store, StoreChange, same_content


def service(name: str, port: int = 80, origin: str = "", version: str = "") -> Service:
    metadata = ObjectMeta(name=name, namespace="ns", resource_version=version)
    return Service(metadata=metadata, spec=ServiceSpec(ports=(ServicePort(port=port),)), origin=origin)


def slice_(name: str, owner: str, *addresses: str) -> EndpointSlice:
    labels = {SERVICE_NAME_LABEL: owner} if owner else None
    metadata = ObjectMeta(name=name, namespace="ns", labels=labels)
    return EndpointSlice(metadata=metadata, endpoints=(SliceEndpoint(addresses=addresses),))


def by_ref(*objects: KubernetesObject) -> dict[ObjectRef, KubernetesObject]:
    return {found.ref: found for found in objects}


def refs(*objects: KubernetesObject) -> frozenset[ObjectRef]:
    return frozenset(found.ref for found in objects)


def collect(store: Store) -> StoreChange:
    change = store.collect()
    assert change is not None
    return change


VERDICT = Verdict(object="x", field="", reason=VerdictReason.PARSE_ERROR, message="m")


def test_nothing_before_the_first_update() -> None:
    store = Store()
    assert store.collect() is None
    store.update("files", {})
    assert collect(store) == StoreChange(ClusterState())
    assert store.collect() is None


def test_every_kind_has_its_place() -> None:
    meta = ObjectMeta(name="x", namespace="ns")
    objects = [
        Ingress(metadata=meta),
        IngressClass(metadata=ObjectMeta(name="x")),
        Service(metadata=meta),
        Endpoints(metadata=meta),
        Secret(metadata=meta),
        ConfigMap(metadata=meta),
        slice_("x-1", "x", "10.0.0.1"),
    ]
    store = Store()
    store.update("files", by_ref(*objects))
    change = collect(store)
    assert change.changed == refs(*objects)
    key = ("ns", "x")
    assert change.state == ClusterState(
        ingresses={key: objects[0]},  # type: ignore[dict-item]
        ingress_classes={"x": objects[1]},  # type: ignore[dict-item]
        services={key: objects[2]},  # type: ignore[dict-item]
        endpoints={key: objects[3]},  # type: ignore[dict-item]
        secrets={key: objects[4]},  # type: ignore[dict-item]
        config_maps={key: objects[5]},  # type: ignore[dict-item]
        slices={key: (objects[6],)},  # type: ignore[dict-item]
    )
    assert store.state is change.state
    store.update("files", {})
    change = collect(store)
    assert change.changed == refs(*objects)
    assert change.state == ClusterState()


def test_untouched_kinds_share_their_mapping() -> None:
    store = Store()
    ingress = Ingress(metadata=ObjectMeta(name="i", namespace="ns"))
    store.update("files", by_ref(ingress, service("a"), slice_("a-1", "a", "10.0.0.1")))
    before = collect(store).state
    store.update("files", by_ref(ingress, service("a"), slice_("a-1", "a", "10.0.0.2")))
    change = collect(store)
    assert change.changed == refs(slice_("a-1", "a"))
    assert change.state.ingresses is before.ingresses
    assert change.state.services == before.services
    assert change.state.slices is not before.slices
    assert before.slices[("ns", "a")][0].endpoints == (SliceEndpoint(addresses=("10.0.0.1",)),)


def test_slices_are_grouped_by_service_in_order_of_name() -> None:
    store = Store()
    one, two, other = slice_("a-1", "a", "1"), slice_("a-2", "a", "2"), slice_("b-1", "b", "3")
    store.update("files", by_ref(two, other, one, slice_("orphan", "", "4")))
    assert collect(store).state.slices == {("ns", "a"): (one, two), ("ns", "b"): (other,)}
    moved = slice_("a-2", "b", "2")
    store.update("files", by_ref(one, moved, other))
    assert collect(store).state.slices == {("ns", "a"): (one,), ("ns", "b"): (moved, other)}
    store.update("files", by_ref(moved, other))
    assert collect(store).state.slices == {("ns", "b"): (moved, other)}


@pytest.mark.parametrize(
    "again",
    [
        service("a"),
        service("a", origin="f.yaml:9"),
        service("a", version="2"),
    ],
)
def test_updates_that_change_nothing_are_dropped(again: Service) -> None:
    store = Store()
    store.update("files", by_ref(service("a")))
    collect(store)
    store.update("files", by_ref(again))
    assert store.collect() is None


def test_a_change_that_is_taken_back_in_time_is_dropped() -> None:
    store = Store()
    store.update("files", by_ref(service("a")))
    collect(store)
    store.update("files", by_ref(service("a", 81), service("b")))
    store.update("files", by_ref(service("a")))
    assert store.collect() is None


def test_a_moved_object_has_its_new_origin_in_the_next_state() -> None:
    store = Store()
    store.update("files", by_ref(service("a", origin="f:1"), service("b")))
    collect(store)
    store.update("files", by_ref(service("a", origin="f:2"), service("b")))
    assert store.collect() is None
    store.update("files", by_ref(service("a", origin="f:2"), service("b", 81)))
    change = collect(store)
    assert change.changed == refs(service("b"))
    assert change.state.services[("ns", "a")].origin == "f:2"


def test_verdicts_alone_are_a_change() -> None:
    store = Store()
    store.update("files", by_ref(service("a")))
    before = collect(store).state
    store.update("files", by_ref(service("a")), [VERDICT])
    change = collect(store)
    assert (change.verdicts, change.changed) == ((VERDICT,), frozenset())
    assert change.state == before
    store.update("files", by_ref(service("a")), [VERDICT])
    assert store.collect() is None


def test_sources_are_merged_the_first_by_name_wins() -> None:
    store = Store()
    store.update("b", by_ref(service("x", 2, "b:1"), service("y")))
    store.update("a", by_ref(service("x", 1)))
    change = collect(store)
    assert change.state.services[("ns", "x")].spec.ports[0].port == 1
    assert set(change.state.services) == {("ns", "x"), ("ns", "y")}
    assert [(v.reason, v.origin) for v in change.verdicts] == [(VerdictReason.DUPLICATE_OBJECT, "b:1")]
    store.update("a", {})
    change = collect(store)
    assert change.changed == refs(service("x"))
    assert change.state.services[("ns", "x")].spec.ports[0].port == 2
    assert change.verdicts == ()


def test_single_changes() -> None:
    store = Store()
    store.apply("kube", by_ref(service("a"), service("b")), verdicts=[VERDICT])
    assert collect(store).changed == refs(service("a"), service("b"))
    store.apply("kube", by_ref(service("c")), [service("a").ref, service("never").ref])
    change = collect(store)
    assert change.changed == refs(service("a"), service("c"))
    assert set(change.state.services) == {("ns", "b"), ("ns", "c")}
    assert change.verdicts == (VERDICT,)


def test_resolved_hosts() -> None:
    store = Store()
    store.update("files", by_ref(service("a")))
    before = collect(store).state
    store.set_resolved("x.example", ["10.0.0.1"])
    change = collect(store)
    assert (change.changed, change.resolved_changed) == (frozenset(), {"x.example"})
    assert change.state.resolved == {"x.example": ("10.0.0.1",)}
    assert change.state.services is before.services
    assert before.resolved == {}
    store.set_resolved("x.example", ("10.0.0.1",))
    assert store.collect() is None
    store.set_resolved("x.example", ())
    assert collect(store).state.resolved == {"x.example": ()}
    store.set_resolved("x.example", None)
    change = collect(store)
    assert (change.state.resolved, change.resolved_changed) == ({}, {"x.example"})
    store.set_resolved("y.example", None)
    assert store.collect() is None


def test_the_callers_mapping_is_not_kept() -> None:
    store = Store()
    objects = by_ref(service("a"))
    store.update("files", objects)
    objects.clear()
    assert collect(store).changed == refs(service("a"))


def test_same_content() -> None:
    assert same_content(service("a"), service("a", origin="x", version="9"))
    assert not same_content(service("a"), service("a", 81))
    assert not same_content(service("a"), service("b"))
    assert not same_content(service("a"), Secret(metadata=service("a").metadata))
    newer = msgspec.structs.replace(service("a"), metadata=ObjectMeta(name="a", namespace="ns", labels={"x": "y"}))
    assert not same_content(service("a"), newer)


# ---- hold-off -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("touches", "due"),
    [
        ([], None),
        ([1.0], 1.02),
        ([1.0, 1.01], 1.03),
        ([1.0, 1.01, 1.09], 1.1),
        ([1.0, 5.0], 1.1),
    ],
)
def test_hold_off(touches: list[float], due: float | None) -> None:
    hold_off = HoldOff(0.02, 0.1)
    for now in touches:
        hold_off.touch(now)
    assert hold_off.due == (None if due is None else pytest.approx(due))
    hold_off.reset()
    assert hold_off.due is None


def test_the_limit_is_never_shorter_than_the_hold_off() -> None:
    hold_off = HoldOff(0.5, 0.1)
    hold_off.touch(1.0)
    assert hold_off.due == 1.5


class Time:
    """A clock that only sleeping moves; things happen at their times."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.events: list[tuple[float, object]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until = self.now + max(seconds, 1e-6)  # a sleep takes time, however short
        while self.events and self.events[0][0] <= until:
            self.now, action = self.events.pop(0)
            action()  # type: ignore[operator]
        self.now = until
        await asyncio.sleep(0)


def timed_store() -> tuple[Time, Store, AsyncIterator[StoreChange]]:
    time_ = Time()
    store = Store(0.02, 0.1, clock=time_.clock, sleep=time_.sleep)
    return time_, store, aiter(store.changes())


async def test_changes_are_gathered_until_it_is_quiet() -> None:
    time_, store, changes = timed_store()
    store.update("files", by_ref(service("a")))
    time_.events = [(100.015, lambda: store.update("files", by_ref(service("a"), service("b"))))]
    change = await anext(changes)
    assert change.changed == refs(service("a"), service("b"))
    assert time_.now == pytest.approx(100.035)


async def test_a_steady_stream_of_changes_is_bounded() -> None:
    time_, store, changes = timed_store()
    store.update("files", by_ref(service("a", 1)))
    times: Iterable[int] = range(1, 40)
    time_.events = [(100.0 + n * 0.01, lambda n=n: store.update("files", by_ref(service("a", 1 + n)))) for n in times]
    change = await anext(changes)
    assert time_.now == pytest.approx(100.1, abs=1e-4)
    assert change.state.services[("ns", "a")].spec.ports[0].port in (10, 11)
    store.update("files", by_ref(service("a", 50)))  # the next ones are gathered anew
    await anext(changes)
    assert time_.now == pytest.approx(100.2, abs=1e-4)


async def test_a_change_without_effect_wakes_nobody() -> None:
    _, store, changes = timed_store()
    store.update("files", by_ref(service("a")))
    await anext(changes)
    waiting = asyncio.ensure_future(anext(changes))
    store.update("files", by_ref(service("a", version="2")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    store.update("files", by_ref(service("b")))
    assert (await waiting).changed == refs(service("a"), service("b"))


async def test_a_cancelled_consumer_loses_nothing() -> None:
    _, store, changes = timed_store()
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    store.update("files", by_ref(service("a")))
    assert (await anext(aiter(store.changes()))).changed == refs(service("a"))


# ---- against a model ----------------------------------------------------------------------------------------------

_objects = st.builds(
    lambda kind, name, value: service(name, 80 + value) if kind else slice_(name, f"owner-{value}", str(value)),
    st.booleans(),
    st.sampled_from("abc"),
    st.integers(0, 2),
)
_updates = st.tuples(st.sampled_from(["one", "two"]), st.lists(_objects, max_size=5), st.booleans())


@given(st.lists(_updates, max_size=12))
def test_any_sequence_of_updates_gives_the_state_built_from_scratch(
    updates: list[tuple[str, list[KubernetesObject], bool]],
) -> None:
    store = Store()
    sources: dict[str, dict[ObjectRef, KubernetesObject]] = {}
    known: dict[ObjectRef, KubernetesObject] = {}
    for source, objects, is_collected in updates:
        sources[source] = by_ref(*objects)
        store.update(source, sources[source])
        if not is_collected:
            continue
        merged = {**sources.get("two", {}), **sources.get("one", {})}
        different = {r for r in {**known, **merged} if known.get(r) != merged.get(r)}
        change = store.collect()
        assert (change.changed if change else frozenset()) == different
        fresh = Store()
        fresh.update("files", merged)
        assert store.state == collect(fresh).state
        known = merged


def test_one_endpoint_among_many_is_cheap() -> None:
    """A loose bound, to catch work that grows with the cluster: some 2 ms are normal."""
    store = Store()
    objects: dict[ObjectRef, KubernetesObject] = {}
    for number in range(10_000):
        found = Ingress(metadata=ObjectMeta(name=f"i{number}", namespace="ns"))
        objects[found.ref] = found
    for number in range(2_000):
        objects.update(by_ref(service(f"s{number}"), slice_(f"s{number}-1", f"s{number}", "10.0.0.1")))
    store.update("files", objects)
    collect(store)
    changed = slice_("s7-1", "s7", "10.0.0.2")
    started = time.process_time()
    store.update("files", {**objects, changed.ref: changed})
    change = collect(store)
    assert time.process_time() - started < 0.1
    assert change.changed == refs(changed)
