"""Access rules in a whole compilation: whose routes close, when, and that it heals."""

from typing import Any

import pytest

from ingress.config import TranslateSettings
from ingress.errors import VerdictReason
from ingress.model import Kind, ObjectRef
from ingress.translate import Compilation
from ingress.translate.compiler import Compiler
from tests.translate.build import (
    compiled,
    config_map,
    ingress,
    path,
    rule,
    secret,
    service,
    slice_of,
    state_of,
    targets,
)

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


def with_options(data: dict[str, str], **annotations: str) -> Compilation:
    own = {NGINX + name.replace("_", "-"): value for name, value in annotations.items()}
    return compiled(
        ingress("guarded", rule("a.test", path("/foo")), annotations=own),
        ingress("other", rule("a.test", path("/bar"))),
        service(),
        slice_of(),
        config_map("options", data, "edge"),
        config_map=("edge", "options"),
    )


def policies(result: Compilation) -> dict[str, dict[str, Any]]:
    return {r.path: {f.name: f.policy for f in r.features} for r in result.table.hosts["a.test"].routes}  # type: ignore[index]


def test_global_authentication_by_options() -> None:
    data = {
        "global-auth-url": "http://auth.test/check",
        "global-auth-response-headers": "Foo, Bar",
        "no-auth-locations": "/bar",
    }
    everywhere = policies(with_options(data))
    for where in ("/foo", "/bar"):
        policy = everywhere[where]["external-auth"]
        assert list(policy["response_headers"]) == ["Foo", "Bar"]
        assert list(policy["exempt"]) == ["/bar"]
    opted_out = policies(with_options(data, enable_global_auth="false"))
    assert "external-auth" not in opted_out["/foo"]
    assert "external-auth" in opted_out["/bar"]


def test_address_lists_by_options() -> None:
    data = {"whitelist-source-range": "10.0.0.0/8", "denylist-source-range": "10.1.0.0/16"}
    made = policies(with_options(data, whitelist_source_range="11.0.0.0/8"))
    assert made["/bar"]["ip-access"] == {"allow": ("10.0.0.0/8",), "deny": ("10.1.0.0/16",)}
    assert made["/foo"]["ip-access"] == {"allow": ("11.0.0.0/8",), "deny": ("10.1.0.0/16",)}


@pytest.mark.parametrize("option", ["whitelist-source-range", "denylist-source-range", "global-auth-url"])
def test_a_bad_option_opens_nothing(option: str) -> None:
    result = with_options({option: "nonsense"})
    assert targets(result, "a.test") == {"Prefix /foo": "503", "Prefix /bar": "503"}


def test_a_snippet_in_the_options_closes() -> None:
    result = with_options({"global-auth-url": "http://a/", "global-auth-snippet": "x"}, enable_global_auth="false")
    assert targets(result, "a.test") == {"Prefix /foo": "web:80", "Prefix /bar": "503"}
