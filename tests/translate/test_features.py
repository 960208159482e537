"""Features: what a parser may read, what becomes of its errors, and what an Ingress is compiled again for."""

from typing import Any

import msgspec
import pytest

from ingress.config import TranslateSettings
from ingress.errors import Severity, VerdictReason
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase
from ingress.model import Kind, ObjectRef
from ingress.routing.table import Feature
from ingress.translate import Compilation
from ingress.translate.compiler import Compiler
from ingress.translate.features import AnnotationError, AnnotationReader
from tests.translate.build import compiled, config_map, ingress, rule, secret, service, slice_of, state_of

NGINX = "nginx.ingress.kubernetes.io/"
OWN = "aioingress.io/"


class Words(msgspec.Struct, frozen=True):
    words: tuple[str, ...]


def number(text: str) -> int:
    if not text.isdigit():
        raise ValueError("it is not a number")
    return int(text)


def parse(reader: AnnotationReader) -> Words | None:
    text = reader.text("words")
    if text == "nothing":
        return None
    if text == "raise":
        raise RuntimeError("bug")
    times = reader.take("words-times", number, 1)
    reader.require("words-strict", number, 0)
    found = (text or "none",)
    reference = reader.text("words-secret")
    if reference is not None:
        found += tuple(sorted(reader.secret("words-secret", reference).data or ()))
    reference = reader.text("words-config")
    if reference is not None:
        found += tuple(sorted(reader.config_map("words-config", reference).data or ()))
    return Words(found * times)


NAMES = ("words", "words-times", "words-strict", "words-secret", "words-config")


def spec(fails_closed: bool = False, **changes: Any) -> MiddlewareSpec[Words]:
    return MiddlewareSpec(
        "words", Phase.UPSTREAM, NAMES, Words, parse, lambda policy, scope: Hooks(), fails_closed, **changes
    )


def build(*more: Any, fails_closed: bool = False, prefix: str = NGINX, **annotations: str) -> Compilation:
    made = ingress("i", rule("a.test"), annotations={prefix + k.replace("_", "-"): v for k, v in annotations.items()})
    return compiled(made, service(), slice_of(), *more, parsers=[spec(fails_closed)])


def features(compilation: Compilation) -> tuple[Feature, ...]:
    (route,) = compilation.table.hosts["a.test"].routes  # type: ignore[index]
    return route.features


def words(compilation: Compilation) -> list[str]:
    (feature,) = features(compilation)
    return list(feature.policy["words"])


@pytest.mark.parametrize("prefix", [NGINX, OWN])
def test_a_policy_becomes_a_feature_of_every_route(prefix: str) -> None:
    built = build(prefix=prefix, words="one", words_times="2")
    assert words(built) == ["one", "one"]
    assert built.verdicts == ()


def test_own_prefix_wins() -> None:
    made = ingress("i", rule("a.test"), annotations={NGINX + "words": "theirs", OWN + "words": "ours"})
    assert words(compiled(made, service(), slice_of(), parsers=[spec()])) == ["ours"]


def test_without_its_annotations_nothing_is_parsed() -> None:
    assert features(build()) == ()
    assert features(build(words="nothing")) == ()


def test_by_option_it_acts_without_annotations() -> None:
    made = ingress("i", rule("a.test"))
    built = compiled(made, service(), slice_of(), parsers=[spec(by_option=lambda options: True)])
    assert words(built) == ["none"]


def test_a_value_that_costs_only_itself() -> None:
    built = build(words="one", words_times="x")
    assert words(built) == ["one"]
    (verdict,) = built.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}words-times]"
    assert (verdict.reason, verdict.value, verdict.severity) == (VerdictReason.INVALID_ANNOTATION, "x", Severity.ERROR)


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({"words": "one", "words_strict": "x"}, "words-strict"),
        ({"words": "one", "words_secret": "missing"}, "words-secret"),
        ({"words": "one", "words_secret": "other/secret"}, "words-secret"),
        ({"words": "one", "words_secret": "No Name"}, "words-secret"),
        ({"words": "one", "words_config": "missing"}, "words-config"),
        ({"words": "raise"}, "words"),
    ],
)
def test_a_feature_that_cannot_be_had(annotations: dict[str, str], names: str) -> None:
    """It is left off with a verdict; an access rule closes the routes."""
    off = build(**annotations)
    assert features(off) == ()
    (verdict,) = off.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}{names}]"
    assert verdict.reason is VerdictReason.INVALID_ANNOTATION
    assert off.table.hosts["a.test"].routes[0].upstream is not None  # type: ignore[index]

    closed = build(fails_closed=True, **annotations)
    (verdict,) = closed.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}{names}]"
    assert verdict.reason is VerdictReason.ACCESS_RULE_REJECTED
    (route,) = closed.table.hosts["a.test"].routes  # type: ignore[index]
    assert (route.upstream, route.closed_status) == (None, 503)


def test_references_are_followed() -> None:
    settings = TranslateSettings()
    compiler = Compiler(settings, [spec()])
    made = ingress("i", rule("a.test"), annotations={NGINX + "words": "x", NGINX + "words-secret": "keys"})
    others = (made, service(), slice_of())

    def step(*objects: Any, changed: bool = True) -> Compilation:
        refs = frozenset((ObjectRef(Kind.SECRET, "default", "keys"),)) if changed else None
        return compiler.compile(state_of((*others, *objects)), refs)

    first = step(changed=False)
    assert features(first) == ()
    assert first.references == {ObjectRef(Kind.SECRET, "default", "keys")}
    assert words(step(secret("keys", a="1"))) == ["x", "a"]
    assert words(step(secret("keys", b="1"))) == ["x", "b"]
    assert features(step()) == ()


def test_another_objects_change_leaves_the_table_alone() -> None:
    compiler = Compiler(TranslateSettings(), [spec()])
    made = ingress("i", rule("a.test"), annotations={NGINX + "words-config": "map"})
    state = state_of((made, service(), slice_of(), config_map("map", {"k": "v"})))
    first = compiler.compile(state, None)
    assert words(first) == ["none", "k"]
    again = compiler.compile(state, frozenset((ObjectRef(Kind.CONFIG_MAP, "default", "other"),)))
    assert again.table is first.table


def test_errors_say_what_and_why() -> None:
    assert str(AnnotationError("words", "it is empty")) == "words: it is empty"
