"""Access rules in a whole compilation: whose routes close, when, and that it heals."""

from typing import Any

import pytest

from ingress.config import TranslateSettings
from ingress.errors import VerdictReason
from ingress.model import Kind, ObjectRef
from ingress.translate import Compilation
from ingress.translate.compiler import Compiler
from tests.translate.build import compiled, ingress, path, rule, secret, service, slice_of, state_of, targets

NGINX = "nginx.ingress.kubernetes.io/"
SHA = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
BASIC = {NGINX + "auth-type": "basic", NGINX + "auth-secret": "users"}


def build(annotations: dict[str, str], *objects: Any) -> Compilation:
    return compiled(
        ingress("guarded", rule("a.test", path("/x"), path("/y")), annotations=annotations),
        ingress("other", rule("a.test", path("/z")), rule("b.test")),
        service(),
        slice_of(),
        *objects,
    )


@pytest.mark.parametrize(
    "annotations",
    [
        BASIC,
        {NGINX + "auth-url": "https://invalid..auth.url"},
        {NGINX + "auth-url": "http://a/", NGINX + "auth-snippet": "x"},
        {NGINX + "whitelist-source-range": "10.0.0.0/8,x"},
        {NGINX + "denylist-source-range": "x"},
        {NGINX + "auth-uri": "http://a/"},
        {"aioingress.io/auth-url": "x", NGINX + "auth-url": "http://a/"},
    ],
)
def test_only_its_own_routes_close(annotations: dict[str, str]) -> None:
    result = build(annotations)
    assert targets(result, "a.test") == {"Prefix /x": "503", "Prefix /y": "503", "Prefix /z": "web:80"}
    assert targets(result, "b.test") == {"Prefix /": "web:80"}
    assert {v.object for v in result.verdicts} == {"Ingress default/guarded"}
    assert {v.reason for v in result.verdicts} == {VerdictReason.ACCESS_RULE_REJECTED}


def test_features_are_of_its_own_routes() -> None:
    result = build(
        {**BASIC, NGINX + "satisfy": "any", NGINX + "whitelist-source-range": "10.0.0.0/8"},
        secret("users", auth=f"a:{SHA}"),
    )
    assert result.verdicts == ()
    found = {r.path: [f.name for f in r.features] for r in result.table.hosts["a.test"].routes}  # type: ignore[index]
    assert found == {
        "/x": ["ip-access", "basic-auth", "satisfy"],
        "/y": ["ip-access", "basic-auth", "satisfy"],
        "/z": [],
    }


def test_a_secret_that_comes_changes_and_goes() -> None:
    compiler = Compiler(TranslateSettings(), _parsers())
    ref = ObjectRef(Kind.SECRET, "default", "users")
    fixed = (ingress("guarded", rule("a.test"), annotations=BASIC), service(), slice_of())

    def step(*objects: Any, first: bool = False) -> Compilation:
        return compiler.compile(state_of((*fixed, *objects)), None if first else frozenset((ref,)))

    before = step(first=True)
    assert targets(before, "a.test") == {"Prefix /": "503"}
    assert ref in before.references
    there = step(secret("users", auth=f"a:{SHA}"))
    assert targets(there, "a.test") == {"Prefix /": "web:80"}
    changed = step(secret("users", auth=f"b:{SHA}"))
    assert changed.table.id != there.table.id
    empty = step(secret("users", auth=""))
    assert targets(empty, "a.test") == {"Prefix /": "503"}
    gone = step()
    assert targets(gone, "a.test") == {"Prefix /": "503"}
    assert [v.reason for v in gone.verdicts] == [VerdictReason.ACCESS_RULE_REJECTED]


def _parsers() -> Any:
    from ingress.middleware.registry import SPECS

    return SPECS
