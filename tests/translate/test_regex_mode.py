"""Regex mode of a host: who switches it on, what it does to the paths of others, in which order, and what their owners are told."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.errors import Severity, VerdictReason
from ingress.routing.regex import RegexPaths, check_pattern
from ingress.routing.table import HostRoutes, Route
from ingress.translate import Compilation, regex_mode

from .build import compiled, ingress, path, rule, service

PREFIX = "nginx.ingress.kubernetes.io/"
HOST = "a.test"


def asks(name: str = "r", *paths: dict[str, Any], created: str | None = None, **annotations: str) -> Any:
    return ingress(
        name,
        rule(HOST, *paths),
        created=created,
        annotations={PREFIX + key.replace("_", "-"): value for key, value in annotations.items()},
    )


def routes_of(compilation: Compilation) -> HostRoutes:
    return compilation.table.hosts[HOST]  # type: ignore[index]


def patterns(compilation: Compilation) -> list[str]:
    return [route.pattern for route in routes_of(compilation).routes]


def impl(p: str, service: str = "web") -> dict[str, Any]:
    return path(p, service, type="ImplementationSpecific")


@pytest.mark.parametrize(
    ("annotations", "cause"),
    [
        ({"use_regex": "true"}, "Ingress default/r sets use-regex"),
        ({"use_regex": "false"}, ""),
        ({"use_regex": "maybe"}, ""),
        ({"rewrite_target": "/x"}, "Ingress default/r sets rewrite-target"),
        ({"rewrite_target": "/x", "use_regex": "true"}, "Ingress default/r sets rewrite-target"),
        ({"rewrite_target": "/foo"}, ""),  # the path itself: nothing to do
        ({"rewrite_target": "/foo", "use_regex": "true"}, "Ingress default/r sets use-regex"),
        ({"rewrite_target": "/$nope"}, ""),  # can't be used
        ({"rewrite_target": ""}, ""),
        ({"rewrite_target": "https://x.test"}, "Ingress default/r sets rewrite-target"),
    ],
)
def test_what_switches_it_on(annotations: dict[str, str], cause: str) -> None:
    result = compiled(service(), asks("r", path("/foo"), **annotations))
    assert routes_of(result).regex_cause == cause
    assert patterns(result) == (["/foo"] if cause else [""])


def test_other_hosts_stay_as_they_are() -> None:
    result = compiled(service(), asks("r", impl("/x.*"), use_regex="true"), ingress("q", rule("b.test", path("/x"))))
    assert result.table.hosts["b.test"].regex_cause == ""  # type: ignore[index]
    assert not result.verdicts or {v.reason for v in result.verdicts} == {VerdictReason.NO_ENDPOINTS}


def test_it_is_on_for_all_ingresses_of_the_host_and_they_are_told() -> None:
    result = compiled(
        service(),
        asks("r", impl("/api/(.*)"), rewrite_target="/$1"),
        ingress("plain", rule(HOST, path("/login"), path("/logout"))),
        ingress("root", rule(HOST, path("/"))),
        ingress("exact", rule(HOST, path("/foo", type="Exact"))),
    )
    assert patterns(result) == ["/api/(.*)", "/logout", "/login", "/foo", "/"]
    told = {v.object: v for v in result.verdicts if v.reason is VerdictReason.REGEX_MODE}
    assert told.keys() == {"Ingress default/plain", "Ingress default/exact"}  # a prefix / means the same in either mode
    verdict = told["Ingress default/plain"]
    assert verdict.severity is Severity.WARNING
    assert verdict.field == "spec.rules[0].http.paths[0].path"
    assert verdict.value == "/login (Prefix)"
    assert "because Ingress default/r sets rewrite-target" in verdict.message


def test_the_order_is_by_length_then_backwards() -> None:
    result = compiled(service(), asks("r", *(impl(p) for p in ("/a", "/ccc", "/bbb", "/dd.*", "/")), use_regex="true"))
    assert patterns(result) == ["/dd.*", "/ccc", "/bbb", "/a", "/"]


def test_of_equal_paths_the_oldest_comes_first() -> None:
    young = ingress("young", rule(HOST, path("/x")), created="2026-01-02T00:00:00Z")
    old = asks("old", path("/x", type="Exact"), created="2026-01-01T00:00:00Z", use_regex="true")
    result = compiled(service(), young, old)
    # ingress-nginx: /x as Exact is there already, so the Prefix path is /x/ alone.
    assert patterns(result) == ["/x", "/x/"]
    assert [route.ingress for route in routes_of(result).routes] == ["old", "young"]
    assert [route.path for route in routes_of(result).routes] == ["/x", "/x"]


def test_the_same_path_twice_is_a_conflict_in_regex_mode_too() -> None:
    old = asks("old", impl("/x(.*)"), created="2026-01-01T00:00:00Z", use_regex="true")
    young = asks("young", impl("/x(.*)"), created="2026-01-02T00:00:00Z", use_regex="true")
    result = compiled(service(), young, old)
    assert [route.ingress for route in routes_of(result).routes] == ["old"]
    assert [v.object for v in result.verdicts if v.reason is VerdictReason.CONFLICT] == ["Ingress default/young"]


def test_who_lost_its_path_does_not_switch_it_on() -> None:
    old = ingress("old", rule(HOST, path("/x")), created="2026-01-01T00:00:00Z")
    young = asks("young", path("/x"), created="2026-01-02T00:00:00Z", use_regex="true")
    assert routes_of(compiled(service(), young, old)).regex_cause == ""


@pytest.mark.parametrize("bad", ["/(", "/a(?=b)", r"/(a)\1", "/a b", "/é", "x"])
def test_a_path_that_can_not_be_used_is_left_out(bad: str) -> None:
    result = compiled(service(), asks("r", impl(bad), impl("/ok"), use_regex="true"))
    assert patterns(result) == ["/ok"]
    (verdict,) = (v for v in result.verdicts if v.reason is VerdictReason.INVALID_FIELD)
    assert verdict.severity is Severity.ERROR
    assert verdict.field == "spec.rules[0].http.paths[0].path"
    assert "The path is left out" in verdict.message


def test_a_literal_path_of_another_that_is_no_expression_is_left_out_and_says_why() -> None:
    result = compiled(service(), asks("r", impl("/ok"), use_regex="true"), ingress("q", rule(HOST, path("/a(b"))))
    assert patterns(result) == ["/ok"]
    (verdict,) = (v for v in result.verdicts if v.reason is VerdictReason.REGEX_MODE)
    assert (verdict.object, verdict.severity) == ("Ingress default/q", Severity.ERROR)
    assert "because Ingress default/r sets use-regex" in verdict.message


def test_expressions_of_a_host_have_a_size_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex_mode, "HOST_PROGRAM_LIMIT", 60)
    old = asks("old", impl("/a(.*)"), impl("/b(.*)"), created="2026-01-01T00:00:00Z", use_regex="true")
    result = compiled(service(), old, asks("young", impl("/c[a-z]{50}"), created="2026-01-02T00:00:00Z"))
    assert patterns(result) == ["/b(.*)", "/a(.*)"]
    (verdict,) = (v for v in result.verdicts if v.reason is VerdictReason.REGEX_MODE)
    assert verdict.object == "Ingress default/young"
    assert "too large, all together" in verdict.message


def test_without_regex_mode_an_expression_is_literal_with_a_warning() -> None:
    result = compiled(service(), ingress("q", rule(HOST, impl("/a(/|$)(.*)"))))
    (verdict,) = (v for v in result.verdicts if v.reason is not VerdictReason.NO_ENDPOINTS)
    assert "matched literally" in verdict.message
    # Another Ingress switches regex mode on: then it is one, and the warning would be wrong.
    both = compiled(service(), ingress("q", rule(HOST, impl("/a(/|$)(.*)"))), asks("r", impl("/b"), use_regex="true"))
    assert not [v for v in both.verdicts if "matched literally" in v.message]
    assert patterns(both) == ["/a(/|$)(.*)", "/b"]


@pytest.mark.parametrize(
    ("kind", "text", "warned"),
    [
        ("Prefix", "/x(/|$)(.*)", True),
        ("Exact", "/x.+", True),
        ("Prefix", "/api:batch", True),
        ("Prefix", "/x", False),
        ("ImplementationSpecific", "/x(/|$)(.*)", False),
        (None, "/x(/|$)(.*)", False),
    ],
)
def test_types_that_admission_would_refuse(kind: str | None, text: str, warned: bool) -> None:
    """strict-validate-path-type: what is in the cluster all the same is served as ingress-nginx serves it."""
    result = compiled(service(), asks("r", path(text, type=kind), use_regex="true"))
    assert patterns(result) == [text]
    assert any(v.field.endswith("pathType") for v in result.verdicts) is warned


@pytest.mark.parametrize(
    ("annotations", "warned"),
    [
        ({"affinity": "cookie", "use_regex": "true"}, True),
        ({"affinity": "cookie", "use_regex": "true", "session_cookie_path": "/"}, False),
        ({"use_regex": "true"}, False),
        ({"affinity": "cookie"}, False),
    ],
)
def test_a_session_cookie_needs_a_path_of_its_own(annotations: dict[str, str], warned: bool) -> None:
    result = compiled(service(), asks("r", impl("/x(.*)"), **annotations))
    assert any("set session-cookie-path" in v.message for v in result.verdicts) is warned


def test_the_default_of_the_host_is_rewritten_with_the_rest() -> None:
    rules = rule(HOST, impl("/x/(.*)"))
    ing = ingress(
        "r",
        rules,
        annotations={PREFIX + "rewrite-target": "/$1"},
        defaultBackend={"service": {"name": "web", "port": {"number": 80}}},
    )
    default = routes_of(compiled(service(), ing)).default
    assert default is not None
    assert default.pattern == "/"


def test_app_root_conflicts_only_if_different() -> None:
    one = asks("one", path("/1"), app_root="/x")
    two = asks("two", path("/2"), app_root="/x")
    result = compiled(service(), one, two)
    assert only_regex_free(result) == []
    assert routes_of(result).app_root is not None
    three = asks("a-three", path("/3"), app_root="/y")
    (verdict,) = only_regex_free(compiled(service(), one, two, three))
    assert (verdict.object, verdict.reason) == ("Ingress default/a-three", VerdictReason.CONFLICT)


def only_regex_free(result: Compilation) -> list[Any]:
    return [v for v in result.verdicts if v.reason is not VerdictReason.NO_ENDPOINTS]


# ---- the whole of it against a naive matcher ------------------------------------------------------------------------

_PATHS = st.sampled_from(
    ["/", "/a", "/A", "/a/", "/a/b", "/ab", "/a.*", "/a(/|$)(.*)", "/[ab]", "/a|/b", "/a$", "/b+c"]
)
_PLACED = st.lists(
    st.tuples(_PATHS, st.sampled_from(["Prefix", "Exact", "ImplementationSpecific"])), min_size=1, max_size=5
)
_REQUESTS = st.text("/abcAB", max_size=6).map(lambda text: "/" + text)


def naive(written: list[tuple[str, str]], asked: str) -> str | None:
    """ingress-nginx: all paths `~* ^path`, the longest first, of equals the last by name."""
    for text in sorted({p for p, _ in written}, key=lambda p: (len(p), p), reverse=True):
        if re.search(f"^{text}", asked, re.IGNORECASE):
            return text
    return None


@given(_PLACED, _REQUESTS)
def test_it_agrees_with_a_naive_matcher(written: list[tuple[str, str]], asked: str) -> None:
    result = compiled(service(), asks("r", *(path(p, type=kind) for p, kind in written), use_regex="true"))
    index: RegexPaths[Route] = RegexPaths()
    for route in routes_of(result).routes:
        check_pattern(route.pattern)
        index.add(route.pattern, route)
    index.finish()
    found = index.match(asked.encode())
    assert (None if found is None else found.path) == naive(written, asked)


# ---- canaries -------------------------------------------------------------------------------------------------------


def test_a_canary_need_not_repeat_what_makes_its_path_an_expression() -> None:
    main = asks("main", impl("/x(/(.*))?"), rewrite_target="/$2")
    canary = asks("canary", impl("/x(/(.*))?", "next"), canary="true", canary_weight="10")
    (route,) = routes_of(compiled(service(), service("next"), main, canary)).routes
    assert [c.route.service for c in route.canaries] == ["next"]
    assert route.canaries[0].route.pattern == route.pattern == "/x(/(.*))?"


def test_a_canary_asks_nothing_of_its_host() -> None:
    main = ingress("main", rule(HOST, path("/x")))
    annotations = {"use_regex": "true", "app_root": "/y", "server_alias": "b.test", "from_to_www_redirect": "true"}
    canary = asks("canary", path("/x", "next"), canary="true", canary_weight="10", **annotations)
    result = compiled(service(), service("next"), main, canary)
    assert result.table.hosts.keys() == {HOST}
    assert result.table.aliases == {}
    assert routes_of(result).regex_cause == ""
    assert routes_of(result).app_root is None
