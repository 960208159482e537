"""Default backends in whole tables: their upstreams come, go and are reported like those of rules."""

from ingress.config import TranslateSettings
from ingress.errors import VerdictReason
from ingress.middleware.registry import SPECS
from ingress.translate import Compiler, compile_table

from .build import compiled, ingress, path, rule, service, slice_of, state_of

ANNOTATIONS = {"aioingress.io/default-backend": "errors", "aioingress.io/custom-http-errors": "404"}


def test_upstreams_of_default_backends_are_in_the_table() -> None:
    result = compiled(
        ingress("ing", rule("a.test"), annotations=ANNOTATIONS),
        service("web"),
        slice_of("web", "10.0.0.1"),
        service("errors", 8080, 9090),
        slice_of("errors", "10.0.0.2"),
        service("pages", namespace="sys"),
        slice_of("pages", "10.0.0.3", namespace="sys"),
        default_backend_service=("sys", "pages"),
    )
    assert not result.verdicts
    assert sorted(result.table.upstreams) == ["default/errors:8080", "default/web:80", "sys/pages:80"]
    (route,) = result.table.hosts["a.test"].routes  # type: ignore[index]
    assert route.fallback is not None
    assert route.fallback.upstreams == ("default/errors:8080", "sys/pages:80")
    assert route.fallback.stand_in == "default/errors:8080"


def test_without_endpoints_its_author_is_told() -> None:
    result = compiled(
        ingress("ing", rule("a.test"), annotations=ANNOTATIONS), service("web"), slice_of("web"), service("errors")
    )
    (verdict,) = result.verdicts
    assert verdict.reason is VerdictReason.NO_ENDPOINTS
    assert verdict.field == "metadata.annotations[aioingress.io/default-backend]"
    assert verdict.message.startswith("It can't answer as the default backend: Service errors has no endpoints")


def test_a_service_that_is_both_is_reported_as_the_backend_of_its_path() -> None:
    result = compiled(ingress("ing", rule("a.test", path("/", "errors")), annotations=ANNOTATIONS), service("errors"))
    (verdict,) = result.verdicts
    assert verdict.message.startswith("Requests are answered with 503: Service errors")


def test_step_by_step_it_comes_to_the_same_table() -> None:
    settings = TranslateSettings(default_backend_service=("sys", "pages"))
    compiler = Compiler(settings, SPECS)
    objects = {
        "ing": ingress("ing", rule("a.test"), annotations=ANNOTATIONS),
        "web": service("web"),
        "web slice": slice_of("web", "10.0.0.1"),
    }
    steps: list[tuple[str, object]] = [
        ("errors", service("errors")),
        ("errors slice", slice_of("errors", "10.0.0.2")),
        ("pages", service("pages", namespace="sys")),
        ("pages slice", slice_of("pages", "10.0.0.3", namespace="sys")),
        ("ing", ingress("ing", rule("a.test"))),
        ("ing", ingress("ing", rule("a.test"), annotations=ANNOTATIONS)),
        ("errors", None),
        ("pages", None),
    ]
    compiler.compile(state_of(objects.values()), None)
    for name, made in steps:
        changed = objects.get(name) or made
        if made is None:
            del objects[name]
        else:
            objects[name] = made  # type: ignore[assignment]
        state = state_of(objects.values())
        step = compiler.compile(state, frozenset((changed.ref,)))  # type: ignore[union-attr]
        scratch = compile_table(state, settings, SPECS)
        assert step.table == scratch.table
        assert step.verdicts == scratch.verdicts
    assert list(step.table.upstreams) == ["default/web:80"]
