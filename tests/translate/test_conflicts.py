"""Several Ingresses, one host: the oldest wins, and every loser hears about it."""

from ingress.config import TranslateSettings
from ingress.errors import Severity, VerdictReason
from ingress.model import EndpointSlice, Kind, KubernetesObject, ObjectRef
from ingress.translate.compiler import Compiler, compile_table

from .build import (
    Compilation,
    backend,
    compiled,
    ingress,
    only,
    path,
    reasons,
    rule,
    service,
    slice_of,
    state_of,
    targets,
)

OLD, NEW = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"


def world(*objects: KubernetesObject) -> Compilation:
    pods = [o for name in ("one", "two") for o in (service(name), slice_of(name))]
    return compiled(*objects, *pods, service("one", namespace="z"), slice_of("one", namespace="z"))


def test_the_oldest_wins() -> None:
    result = world(
        ingress("a", rule("a.test", path("/x", "one")), created=NEW, origin="a.yaml:1"),
        ingress("b", rule("a.test", path("/x", "two")), created=OLD),
    )
    assert targets(result, "a.test") == {"Prefix /x": "two:80"}
    verdict = only(result)
    assert (verdict.object, verdict.field, verdict.reason, verdict.severity, verdict.origin) == (
        "Ingress default/a",
        "spec.rules[0].http.paths[0]",
        VerdictReason.CONFLICT,
        Severity.ERROR,
        "a.yaml:1",
    )
    assert "Ingress default/b" in verdict.message
    assert verdict.value == "a.test/x (Prefix)"
    assert list(result.table.upstreams) == ["default/two:80"]


def test_a_missing_timestamp_counts_as_oldest() -> None:
    result = world(
        ingress("a", rule("a.test", path("/", "one")), created=OLD), ingress("b", rule("a.test", path("/", "two")))
    )
    assert targets(result, "a.test") == {"Prefix /": "two:80"}
    assert "no creationTimestamp" in only(result).message


def test_times_are_compared_as_times() -> None:
    result = world(
        ingress("a", rule("a.test", path("/", "one")), created="2024-01-01T02:00:00+05:00"),
        ingress("b", rule("a.test", path("/", "two")), created="2024-01-01T00:00:00Z"),
    )
    assert targets(result, "a.test") == {"Prefix /": "one:80"}


def test_an_unreadable_timestamp_is_said() -> None:
    result = world(ingress("a", rule("a.test", path("/", "one")), created="yesterday"))
    assert targets(result, "a.test") == {"Prefix /": "one:80"}
    assert (only(result).field, only(result).value) == ("metadata.creationTimestamp", "yesterday")


def test_of_equals_the_last_name_wins() -> None:
    result = world(
        ingress("a", rule("a.test", path("/", "one")), created=OLD),
        ingress("b", rule("a.test", path("/", "two")), created=OLD),
    )
    assert targets(result, "a.test") == {"Prefix /": "two:80"}
    result = world(
        ingress("a", rule("a.test", path("/", "one")), namespace="z"), ingress("b", rule("a.test", path("/", "two")))
    )
    assert result.table.hosts["a.test"].routes[0].namespace == "z"  # type: ignore[index]


def test_a_broken_old_ingress_keeps_its_path() -> None:
    result = world(
        ingress("a", rule("a.test", path("/", "gone")), created=OLD),
        ingress("b", rule("a.test", path("/", "two")), created=NEW),
    )
    assert targets(result, "a.test") == {"Prefix /": "503"}
    assert sorted(reasons(result)) == [VerdictReason.CONFLICT, VerdictReason.SERVICE_NOT_FOUND]


def test_what_is_no_conflict() -> None:
    result = world(
        ingress("a", rule("a.test", path("/foo", "one"), path("/foo/", "two"), path("/foo", "two", type="Exact"))),
        ingress("b", rule("a.test", path("/Foo", "one"))),
        ingress("c", rule("*.test", path("/foo", "one"))),
        ingress("d", rule("", path("/foo", "one"))),
    )
    assert targets(result, "a.test") == {
        "Exact /foo": "two:80",
        "Prefix /foo": "one:80",
        "Prefix /foo/": "two:80",
        "Prefix /Foo": "one:80",
    }
    assert result.verdicts == ()


def test_implementation_specific_is_prefix() -> None:
    result = world(
        ingress("a", rule("a.test", path("/", "one", type="ImplementationSpecific")), created=NEW),
        ingress("b", rule("A.TEST", path("/", "two")), created=OLD),
    )
    assert targets(result, "a.test") == {"Prefix /": "two:80"}
    assert reasons(result) == [VerdictReason.CONFLICT]


def test_differently_written_equal_paths_are_in_conflict() -> None:
    result = world(ingress("a", rule("a.test", path("/~x", "one"), path("/%7Ex", "two"))))
    assert targets(result, "a.test") == {"Prefix /~x": "one:80"}
    assert only(result).field == "spec.rules[0].http.paths[1]"


def test_twice_in_one_ingress_the_first_counts() -> None:
    result = world(ingress("a", rule("a.test", path("/", "one")), rule("a.test", path("/", "two"))))
    assert targets(result, "a.test") == {"Prefix /": "one:80"}
    assert only(result).field == "spec.rules[1].http.paths[0]"
    assert "the same Ingress" in only(result).message


def test_only_what_is_taken_is_lost() -> None:
    result = world(
        ingress("a", rule("a.test", path("/x", "one")), created=OLD),
        ingress("b", rule("a.test", path("/x", "two"), path("/y", "two")), created=NEW),
    )
    assert targets(result, "a.test") == {"Prefix /x": "one:80", "Prefix /y": "two:80"}


def test_default_backends_of_one_host() -> None:
    result = world(
        ingress("a", rule("a.test", path("/a", "one")), created=NEW, defaultBackend=backend("one")),
        ingress("b", rule("a.test", path("/b", "one")), created=OLD, defaultBackend=backend("two")),
    )
    default = result.table.hosts["a.test"].default  # type: ignore[index]
    assert default is not None
    assert default.service == "two"
    verdict = only(result)
    assert (verdict.object, verdict.field, verdict.reason) == (
        "Ingress default/a",
        "spec.defaultBackend",
        VerdictReason.CONFLICT,
    )


def test_catch_alls() -> None:
    result = world(
        ingress("a", defaultBackend=backend("one"), created=NEW),
        ingress("b", defaultBackend=backend("two"), created=OLD),
    )
    assert result.table.default is not None
    assert result.table.default.service == "two"
    assert (only(result).object, only(result).reason) == ("Ingress default/a", VerdictReason.CONFLICT)


def test_a_catch_all_without_endpoints_comes_last() -> None:
    """And gets it back with its first endpoint: at every compile, whatever changed."""
    claims = (
        ingress("old", defaultBackend=backend("one"), created=OLD),
        ingress("new", defaultBackend=backend("two"), created=NEW),
    )
    compiler = Compiler(TranslateSettings())
    endpoint_slices = ObjectRef(Kind.ENDPOINT_SLICE, "default", "x")

    def default_of(*slices: EndpointSlice) -> tuple[str, Compilation]:
        state = state_of((*claims, service("one"), service("two"), *slices))
        built = compiler.compile(state, frozenset((endpoint_slices,)))
        assert built == compile_table(state, TranslateSettings())
        assert built.table.default is not None
        return built.table.default.service, built

    one, two = slice_of("one", "10.0.0.1"), slice_of("two", "10.0.0.2")
    assert default_of(one, two)[0] == "one"
    name, built = default_of(two)
    assert name == "two"
    (verdict,) = (v for v in built.verdicts if v.reason is VerdictReason.CONFLICT)
    assert verdict.object == "Ingress default/old"
    assert "its Service has no endpoints, and that of Ingress default/new has" in verdict.message
    assert default_of()[0] == "one"  # nobody has any: the oldest again
    assert default_of(one)[0] == "one"
