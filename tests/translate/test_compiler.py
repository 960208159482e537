"""The incremental compiler: it rebuilds what changed, keeps the rest as it is, and survives faults."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct

from ingress.config import TranslateSettings
from ingress.errors import VerdictReason
from ingress.model import ClusterState, KubernetesObject, ObjectRef, Service
from ingress.routing.table import HealthCheck, apply_delta, diff_tables
from ingress.translate import Compiler, compile_table, compiler, fragment, host_layer, upstream_layer

from .build import addresses, backend, ingress, ingress_class, path, reasons, rule, service, slice_of, state_of, targets


def objects() -> list[KubernetesObject]:
    result: list[KubernetesObject] = [
        ingress(f"ing-{i}", rule(f"h{i % 3}.test", path(f"/{i}", f"svc-{i % 4}"))) for i in range(6)
    ]
    for i in range(4):
        result += [service(f"svc-{i}"), slice_of(f"svc-{i}", f"10.0.{i}.1")]
    return result


def edited(state: ClusterState, *new: KubernetesObject) -> tuple[ClusterState, frozenset[ObjectRef]]:
    """The state with objects replaced (slices: those of their Service as a whole)."""
    extra = state_of(new)
    names = ("ingresses", "ingress_classes", "services", "endpoints", "slices")
    merged: dict[str, Any] = {name: {**getattr(state, name), **getattr(extra, name)} for name in names}
    return replace(state, **merged), frozenset(o.ref for o in new)


@pytest.fixture
def state() -> ClusterState:
    return state_of(objects())


def test_nothing_changed_gives_the_same_table(state: ClusterState) -> None:
    compiler_ = Compiler(TranslateSettings())
    first = compiler_.compile(state, None)
    for changed in (None, frozenset[ObjectRef]()):
        again = compiler_.compile(replace(state), changed)
        assert again.table is first.table
        assert again.verdicts is first.verdicts
        assert again.served is first.served


def test_equal_objects_give_the_same_parts(state: ClusterState) -> None:
    """A relist brings new objects with the same content."""
    compiler_ = Compiler(TranslateSettings())
    first = compiler_.compile(state, None)
    again = compiler_.compile(state_of(reversed(objects())), None)
    assert again.table is first.table


def test_one_goes_as_another_comes(state: ClusterState) -> None:
    """As many Ingresses as before, but not the same ones."""
    compiler_ = Compiler(TranslateSettings())
    compiler_.compile(state, None)
    new, changed = edited(state, ingress("ing-new", rule("new.test", path("/", "svc-0"))))
    gone = next(iter(state.ingresses))
    new = replace(new, ingresses={key: found for key, found in new.ingresses.items() if key != gone})
    changed |= {state.ingresses[gone].ref}
    found = compiler_.compile(new, changed)
    assert found.table == compile_table(new, TranslateSettings()).table
    assert {ref.name for ref in found.served} == {name for _, name in new.ingresses}


def test_an_edited_ingress_touches_its_hosts_only(state: ClusterState) -> None:
    compiler_ = Compiler(TranslateSettings())
    old = compiler_.compile(state, None)
    state, changed = edited(state, ingress("ing-0", rule("h0.test", path("/new", "svc-0"))))
    new = compiler_.compile(state, changed)
    delta = diff_tables(old.table, new.table)
    assert list(delta.hosts) == ["h0.test"]
    assert delta.upstreams == {}
    assert new.table.upstreams is old.table.upstreams
    for host in ("h1.test", "h2.test"):
        assert new.table.hosts[host] is old.table.hosts[host]  # type: ignore[index]
    assert targets(old, "h0.test") == {"Prefix /0": "svc-0:80", "Prefix /3": "svc-3:80"}
    assert targets(new, "h0.test") == {"Prefix /3": "svc-3:80", "Prefix /new": "svc-0:80"}


def test_an_endpoint_touches_its_upstream_only(state: ClusterState) -> None:
    compiler_ = Compiler(TranslateSettings())
    old = compiler_.compile(state, None)
    state, changed = edited(state, slice_of("svc-1", "10.0.1.1", "10.0.1.2"))
    new = compiler_.compile(state, changed)
    assert new.table.hosts is old.table.hosts
    assert list(diff_tables(old.table, new.table).upstreams) == ["default/svc-1:80"]
    assert new.table.upstreams["default/svc-0:80"] is old.table.upstreams["default/svc-0:80"]  # type: ignore[index]
    assert addresses(new, "default/svc-1:80") == ["10.0.1.1:8080", "10.0.1.2:8080"]
    assert new.table.id != old.table.id


def test_what_others_write_into_a_service_touches_nothing(state: ClusterState, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_ = Compiler(TranslateSettings())
    old = compiler_.compile(state, None)
    svc = state.services["default", "svc-1"]
    written = Service(
        metadata=type(svc.metadata)(name="svc-1", namespace="default", resource_version="9"), spec=svc.spec
    )
    state, changed = edited(state, written)
    monkeypatch.setattr(compiler, "build_fragment", None)
    monkeypatch.setattr(upstream_layer, "build_upstream", None)
    assert compiler_.compile(state, changed).table is old.table


def with_annotations(state: ClusterState, name: str, **annotations: str) -> Service:
    svc = state.services["default", name]
    named = {f"aioingress.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return replace_struct(svc, metadata=replace_struct(svc.metadata, annotations=named or None))


def test_a_health_check_touches_the_upstreams_of_its_service_only(
    state: ClusterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler_ = Compiler(TranslateSettings())
    old = compiler_.compile(state, None)
    state, changed = edited(state, with_annotations(state, "svc-1", health_check_path="/healthz"))
    with monkeypatch.context() as patched:
        patched.setattr(compiler, "build_fragment", None)
        new = compiler_.compile(state, changed)
    delta = diff_tables(old.table, new.table)
    assert list(delta.upstreams) == ["default/svc-1:80"]
    assert delta.upstreams["default/svc-1:80"].health_check == HealthCheck("/healthz")  # type: ignore[index]
    assert delta.hosts == {}
    assert apply_delta(old.table, delta) == new.table
    assert new.table.id != old.table.id
    assert new.table.id == compile_table(state, TranslateSettings()).table.id
    # others' annotations beside it change nothing
    other = with_annotations(state, "svc-1", health_check_path="/healthz", other="x")
    state, changed = edited(state, other)
    monkeypatch.setattr(upstream_layer, "build_upstream", None)
    assert compiler_.compile(state, changed).table is new.table


def test_a_health_check_is_switched_off_and_its_verdicts_go(state: ClusterState) -> None:
    compiler_ = Compiler(TranslateSettings())
    old = compiler_.compile(state, None)
    state, changed = edited(state, with_annotations(state, "svc-1", health_check_path="/", health_check_port="0"))
    (verdict,) = compiler_.compile(state, changed).verdicts
    assert verdict.object == "Service default/svc-1"
    state, changed = edited(state, with_annotations(state, "svc-1"))
    found = compiler_.compile(state, changed)
    assert found.table == old.table
    assert found.verdicts == ()


def test_the_last_endpoint_goes_and_comes_back(state: ClusterState) -> None:
    compiler_ = Compiler(TranslateSettings())
    full = compiler_.compile(state, None)
    empty_state, changed = edited(state, slice_of("svc-1", {"addresses": ["10.0.1.1"], "conditions": {"ready": False}}))
    empty = compiler_.compile(empty_state, changed)
    assert [v.object for v in empty.verdicts] == ["Ingress default/ing-1", "Ingress default/ing-5"]
    back = compiler_.compile(state, changed)
    assert back == full
    assert back.table.id == full.table.id


def test_tables_that_were_handed_out_stay_as_they_are(state: ClusterState) -> None:
    compiler_ = Compiler(TranslateSettings())
    old = compiler_.compile(state, None)
    before = (dict(old.table.hosts), dict(old.table.upstreams))
    state, changed = edited(state, ingress("ing-0", rule("other.test")), slice_of("svc-1", "10.0.1.9"))
    new = compiler_.compile(state, changed)
    assert (old.table.hosts, old.table.upstreams) == before
    assert apply_delta(old.table, diff_tables(old.table, new.table)) == new.table


def test_a_service_that_appears_opens_the_route() -> None:
    compiler_ = Compiler(TranslateSettings())
    state = state_of([ingress("ing", rule("a.test"))])
    missing = compiler_.compile(state, None)
    assert targets(missing, "a.test") == {"Prefix /": "503"}
    state, changed = edited(state, service(), slice_of())
    found = compiler_.compile(state, changed)
    assert targets(found, "a.test") == {"Prefix /": "web:80"}
    assert found.verdicts == ()


def test_a_class_change_adds_and_removes_routes() -> None:
    compiler_ = Compiler(TranslateSettings())
    mine, other = ingress_class("c", "aioingress.io/ingress-controller"), ingress_class("c", "example.com/other")
    state = state_of([ingress("ing", rule("a.test"), cls="c"), service(), slice_of()])
    assert reasons(compiler_.compile(state, None)) == [VerdictReason.INGRESS_CLASS_NOT_FOUND]
    for ingress_class_, served in ((mine, 1), (other, 0), (mine, 1)):
        state, changed = edited(state, ingress_class_)
        result = compiler_.compile(state, changed)
        assert (len(result.served), len(result.table.hosts)) == (served, served)
        assert result.verdicts == ()


def test_resolved_names() -> None:
    compiler_ = Compiler(TranslateSettings())
    external = service("web", 80, type="ExternalName", externalName="x.example.com")
    state = state_of([ingress("ing", rule("a.test")), external])
    assert compiler_.compile(state, None).external_names == {"x.example.com"}
    state = replace(state, resolved={"x.example.com": ("192.0.2.1",)})
    assert addresses(compiler_.compile(state, frozenset(), frozenset(["x.example.com"]))) == ["192.0.2.1:80"]
    state, changed = edited(state, ingress("ing", rule("a.test", path("/", "gone"))))
    assert compiler_.compile(state, changed).external_names == frozenset()


def test_the_catch_all_changes_hands() -> None:
    compiler_ = Compiler(TranslateSettings(default_backend_service=("default", "web")))
    state = state_of([service(), slice_of(), service("api"), slice_of("api")])
    own = compiler_.compile(state, None).table.default
    assert own is not None
    assert (own.ingress, own.service) == ("", "web")
    with_claim, changed = edited(state, ingress("ing", defaultBackend=backend("api")))
    claimed = compiler_.compile(with_claim, changed)
    assert claimed.table.default is not None
    assert claimed.table.default.service == "api"
    assert list(claimed.table.upstreams) == ["default/api:80"]
    assert compiler_.compile(state, changed).table.default == own


def test_nothing_is_remembered_of_what_is_gone(state: ClusterState) -> None:
    compiler_ = Compiler(TranslateSettings())
    more = [
        ingress("e", rule("e.test", path("/", "ext"))),
        service("ext", type="ExternalName", externalName="x.example.com"),
        ingress("all", defaultBackend=backend("gone")),
        ingress("lost", rule("h0.test", path("/0", "svc-1")), created="2026-01-01T00:00:00Z"),
        ingress("odd", rule("a.test"), cls="nowhere"),
    ]
    compiler_.compile(edited(state, *more)[0], None)
    empty = compiler_.compile(ClusterState(), None)
    assert empty == compile_table(ClusterState(), TranslateSettings())
    for holder in (compiler_._memory, compiler_._memory._hosts, compiler_._memory._upstreams):
        assert {name: value for name, value in vars(holder).items() if isinstance(value, dict) and value} == {}


def test_the_id_depends_on_content_alone(state: ClusterState) -> None:
    one = compile_table(state, TranslateSettings()).table
    two = compile_table(state_of(reversed(objects())), TranslateSettings()).table
    assert one.id == two.id
    other, _ = edited(state, slice_of("svc-1", "10.0.1.7"))
    assert compile_table(other, TranslateSettings()).table.id != one.id
    assert len(one.id) == 32


def test_a_fault_of_ours_costs_one_ingress(state: ClusterState, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fragment.parse_annotations

    def broken(annotations: Any, *args: Any, **kwargs: Any) -> Any:
        if annotations and "boom" in annotations:
            raise RuntimeError("secret text")
        return real(annotations, *args, **kwargs)

    monkeypatch.setattr(fragment, "parse_annotations", broken)
    state, _ = edited(state, ingress("ing-0", rule("h0.test"), annotations={"boom": ""}))
    result = compile_table(state, TranslateSettings())
    assert targets(result, "h0.test") == {"Prefix /3": "svc-3:80"}
    (verdict,) = result.verdicts
    assert (verdict.object, verdict.reason) == ("Ingress default/ing-0", VerdictReason.INVALID_OBJECT)
    assert "RuntimeError" in verdict.message
    assert "secret" not in verdict.message


def test_a_fault_of_ours_costs_one_upstream(state: ClusterState, monkeypatch: pytest.MonkeyPatch) -> None:
    real = upstream_layer.build_upstream

    def broken(spec: Any, *args: Any) -> Any:
        if spec.service == "svc-1":
            raise RuntimeError
        return real(spec, *args)

    monkeypatch.setattr(upstream_layer, "build_upstream", broken)
    result = compile_table(state, TranslateSettings())
    assert addresses(result, "default/svc-1:80") == []
    assert addresses(result, "default/svc-0:80") == ["10.0.0.1:8080"]
    assert set(reasons(result)) == {VerdictReason.INVALID_OBJECT, VerdictReason.NO_ENDPOINTS}


def test_after_a_failed_call_the_next_starts_from_scratch(state: ClusterState, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_ = Compiler(TranslateSettings())
    compiler_.compile(state, None)
    state, changed = edited(state, ingress("ing-0", rule("h9.test", path("/", "svc-0"))))
    with monkeypatch.context() as patch:
        patch.setattr(host_layer, "merge_host", None)
        with pytest.raises(TypeError):
            compiler_.compile(state, changed)
    assert compiler_.compile(state, frozenset()) == compile_table(state, TranslateSettings())
