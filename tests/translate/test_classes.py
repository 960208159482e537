"""Which Ingresses are ours: field, legacy annotation, default class; with and without flags."""

import pytest

from ingress.config import ClassSettings
from ingress.errors import Severity, VerdictReason
from ingress.model import IngressClass

from .build import compiled, ingress, ingress_class, only, rule, service, slice_of

OURS = "aioingress.io/ingress-controller"
NGINX = "k8s.io/ingress-nginx"
OTHER = "example.com/other"
LEGACY = "kubernetes.io/ingress.class"

STANDALONE = ClassSettings()
CLUSTER = ClassSettings(standalone=False)
BY_NAME = ClassSettings(standalone=False, by_name=True)
BOTH = ClassSettings(standalone=False, take_over_nginx=True)
TAKE_OVER = ClassSettings(ingress_class="nginx", controller_class=NGINX)


def served(
    settings: ClassSettings, *classes: IngressClass, cls: str | None = None, legacy: str | None = None
) -> tuple[bool, list[VerdictReason]]:
    annotations = {LEGACY: legacy} if legacy is not None else None
    result = compiled(
        ingress("ing", rule("a.test"), cls=cls, annotations=annotations),
        service(),
        slice_of(),
        *classes,
        classes=settings,
    )
    assert bool(result.served) == ("a.test" in result.table.hosts)
    return bool(result.served), [v.reason for v in result.verdicts]


MISSING = [VerdictReason.INGRESS_CLASS_NOT_FOUND]


@pytest.mark.parametrize(
    ("cls", "classes", "expected"),
    [
        (None, [], (True, [])),
        ("", [], (True, [])),
        ("aioingress", [], (True, [])),
        ("nginx", [], (True, [])),
        ("other", [], (False, MISSING)),
        ("other", [ingress_class("other", OTHER)], (False, [])),
        ("mine", [ingress_class("mine", OURS)], (True, [])),
        ("mine", [ingress_class("mine", NGINX)], (True, [])),
        ("nginx", [ingress_class("nginx", NGINX)], (True, [])),
        ("nginx", [ingress_class("nginx", OTHER)], (False, [])),
        ("aioingress", [ingress_class("aioingress", OTHER)], (False, [])),
        ("Nginx", [], (False, MISSING)),
    ],
)
def test_standalone_by_field(
    cls: str | None, classes: list[IngressClass], expected: tuple[bool, list[VerdictReason]]
) -> None:
    assert served(STANDALONE, *classes, cls=cls) == expected


@pytest.mark.parametrize(
    ("legacy", "classes", "expected"),
    [
        ("nginx", [], True),
        ("aioingress", [], True),
        ("", [], True),
        ("traefik", [], False),
        ("mine", [ingress_class("mine", OURS)], True),
        ("nginx", [ingress_class("nginx", OTHER)], False),
    ],
)
def test_standalone_by_legacy_annotation(legacy: str, classes: list[IngressClass], expected: bool) -> None:
    assert served(STANDALONE, *classes, legacy=legacy) == (expected, [])


def test_field_comes_before_legacy_annotation() -> None:
    assert served(STANDALONE, ingress_class("other", OTHER), cls="other", legacy="nginx") == (False, [])
    assert served(STANDALONE, cls="nginx", legacy="traefik") == (True, [])


@pytest.mark.parametrize(
    ("settings", "classes", "expected"),
    [
        (STANDALONE, [ingress_class("mine", OURS, default=True)], True),
        (STANDALONE, [ingress_class("other", OTHER, default=True)], False),
        (STANDALONE, [ingress_class("other", OTHER)], True),
        (STANDALONE, [ingress_class("other", OTHER, default=True), ingress_class("mine", OURS, default=True)], True),
        (CLUSTER, [], False),
        (CLUSTER, [ingress_class("mine", OURS, default=True)], True),
        (CLUSTER, [ingress_class("mine", NGINX, default=True)], False),
        (CLUSTER, [ingress_class("mine", OURS)], False),
        (ClassSettings(standalone=False, watch_without_class=True), [], True),
        (TAKE_OVER, [], False),
        (TAKE_OVER, [ingress_class("nginx", NGINX, default=True)], True),
    ],
)
def test_without_class(settings: ClassSettings, classes: list[IngressClass], expected: bool) -> None:
    assert served(settings, *classes) == (expected, [])


@pytest.mark.parametrize(
    ("settings", "cls", "classes", "expected"),
    [
        (CLUSTER, "aioingress", [], (False, MISSING)),
        (BY_NAME, "aioingress", [], (True, [])),
        (BY_NAME, "aioingress", [ingress_class("aioingress", OTHER)], (False, [])),
        (BY_NAME, "other", [], (False, MISSING)),
        (BOTH, "aioingress", [ingress_class("aioingress", OURS)], (True, [])),
        (BOTH, "nginx", [ingress_class("nginx", NGINX)], (True, [])),
        (BOTH, "edge", [ingress_class("edge", NGINX)], (True, [])),
        (BOTH, "nginx", [ingress_class("nginx", OTHER)], (False, [])),
        (BOTH, "nginx", [], (False, MISSING)),
        (CLUSTER, "aioingress", [ingress_class("aioingress", OURS)], (True, [])),
        (CLUSTER, "nginx", [ingress_class("nginx", NGINX)], (False, [])),
        (CLUSTER, "nginx", [], (False, MISSING)),
        (TAKE_OVER, "nginx", [ingress_class("nginx", NGINX)], (True, [])),
        (TAKE_OVER, "nginx", [ingress_class("nginx", OTHER)], (False, [])),
        (TAKE_OVER, "nginx", [], (True, [])),
        (TAKE_OVER, "internal", [ingress_class("internal", NGINX)], (True, [])),
        (TAKE_OVER, "aioingress", [], (False, MISSING)),
    ],
)
def test_with_flags_by_field(
    settings: ClassSettings, cls: str, classes: list[IngressClass], expected: tuple[bool, list[VerdictReason]]
) -> None:
    assert served(settings, *classes, cls=cls) == expected


@pytest.mark.parametrize(
    ("settings", "legacy", "expected"),
    [
        (CLUSTER, "aioingress", True),
        (CLUSTER, "nginx", False),
        (BOTH, "nginx", True),
        (BOTH, "aioingress", True),
        (TAKE_OVER, "nginx", True),
        (TAKE_OVER, "x", False),
    ],
)
def test_with_flags_the_legacy_annotation_is_compared_as_text(
    settings: ClassSettings, legacy: str, expected: bool
) -> None:
    assert served(settings, ingress_class("nginx", OTHER), legacy=legacy) == (expected, [])


def test_verdict_names_the_missing_class() -> None:
    verdict = only(compiled(ingress("ing", rule("a.test"), cls="gone", origin="a.yaml:3")))
    assert (verdict.object, verdict.field, verdict.value, verdict.severity, verdict.origin) == (
        "Ingress default/ing",
        "spec.ingressClassName",
        "gone",
        Severity.WARNING,
        "a.yaml:3",
    )
