"""server-alias and the twins of from-to-www-redirect: which hosts come of them, and who has to step back."""

from typing import Any

import pytest

from ingress.errors import Verdict, VerdictReason
from ingress.model import ObjectRef
from ingress.routing.table import HostAlias, apply_delta, diff_tables
from ingress.translate import Compilation, Compiler
from ingress.translate.annotations.hosts import parse_aliases, twin_of

from .build import TranslateSettings, compiled, ingress, path, rule, service, state_of

PREFIX = "nginx.ingress.kubernetes.io/"
OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def aliased(name: str, aliases: str, *hosts: str, created: str | None = None) -> Any:
    rules = [rule(host, path(f"/{name}")) for host in hosts or ("a.test",)]
    return ingress(name, *rules, annotations={PREFIX + "server-alias": aliases}, created=created)


def aliases_of(result: Compilation) -> dict[str, str]:
    return {alias.pattern: alias.host for alias in result.table.aliases.values()}


def verdicts(result: Compilation) -> list[Verdict]:
    return [v for v in result.verdicts if v.reason is not VerdictReason.NO_ENDPOINTS]


@pytest.mark.parametrize(
    ("text", "aliases"),
    [
        ("bar", ("bar",)),
        (" B.test , a.test,, a.test", ("a.test", "b.test")),
        ("*.b.test", ("*.b.test",)),
        (r"~^www\d+\.b\.test$, x.test", ("x.test", r"~^www\d+\.b\.test$")),
        ("", ()),
    ],
)
def test_parse(text: str, aliases: tuple[str, ...]) -> None:
    assert parse_aliases(text) == aliases


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a_b!", "a_b! can't be used"),
        ("10.0.0.1", "an IP address is not a host name"),
        ("a.*", "a wildcard stands for the whole first label only"),
        ("~", "is empty"),
        ("~a b", "characters that no host has"),
        ("~(", "RE2 understands"),
        ("~(?=a)", "RE2 understands"),
        ("~[ab]{900}[cd]{900}[ef]{900}", "too large"),
        (",".join(f"h{n}.test" for n in range(65)), "more than 64 names"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_aliases(text)
    assert why in str(caught.value)


def test_a_bad_alias_costs_the_annotation_only() -> None:
    result = compiled(service(), aliased("r", "~("))
    (verdict,) = verdicts(result)
    assert verdict.field == f"metadata.annotations[{PREFIX}server-alias]"
    assert result.table.hosts.keys() == {"a.test"}
    assert aliases_of(result) == {}


def test_the_alias_of_one_ingress_is_one_for_all_of_the_host() -> None:
    """test/e2e/annotations/alias.go: different paths of one host, one of the Ingresses has the alias."""
    result = compiled(service(), ingress("app-a", rule("foo", path("/app-a"))), aliased("app-b", "bar", "foo"))
    assert aliases_of(result) == {"bar": "foo"}
    assert verdicts(result) == []


def test_a_host_of_a_rule_is_no_alias() -> None:
    result = compiled(service(), aliased("r", "b.test"), ingress("q", rule("b.test", path("/"))))
    assert aliases_of(result) == {}
    (verdict,) = verdicts(result)
    assert verdict.reason is VerdictReason.CONFLICT
    assert "b.test is no alias of a.test, because it is the host of a rule itself" in verdict.message


def test_its_own_host_is_passed_over() -> None:
    result = compiled(service(), aliased("r", "a.test, c.test"))
    assert aliases_of(result) == {"c.test": "a.test"}
    assert verdicts(result) == []


def test_the_oldest_ingress_has_the_alias() -> None:
    result = compiled(
        service(), aliased("young", "x.test", "a.test", created=YOUNG), aliased("old", "x.test", "b.test", created=OLD)
    )
    assert aliases_of(result) == {"x.test": "b.test"}
    (verdict,) = verdicts(result)
    assert verdict.object == "Ingress default/young"
    assert "one of b.test already" in verdict.message


def test_the_oldest_ingress_decides_about_its_host() -> None:
    """ingress-nginx: aliases of one host are one Ingress's, not joined."""
    result = compiled(service(), aliased("young", "y.test", created=YOUNG), aliased("old", "x.test", created=OLD))
    assert aliases_of(result) == {"x.test": "a.test"}
    (verdict,) = verdicts(result)
    assert verdict.object == "Ingress default/young"
    assert "Ingress default/old has given it others" in verdict.message


def test_expressions_keep_their_order() -> None:
    result = compiled(
        service(), aliased("old", "~^x,~^y", "b.test", created=OLD), aliased("young", "~x", "a.test", created=YOUNG)
    )
    ranks = {alias.pattern: alias.rank for alias in result.table.aliases.values()}
    assert ranks["~^x"] < ranks["~^y"] < ranks["~x"]  # type: ignore[index]


def test_a_twin_goes_before_an_alias() -> None:
    twin = ingress("t", rule("x.test", path("/")), annotations={PREFIX + "from-to-www-redirect": "true"}, created=YOUNG)
    result = compiled(service(), twin, aliased("r", "www.x.test", created=OLD))
    assert aliases_of(result) == {}
    assert "www.x.test" in result.table.hosts
    (verdict,) = verdicts(result)
    assert "from-to-www-redirect redirects it" in verdict.message


@pytest.mark.parametrize(
    ("host", "twin"), [("a.b", "www.a.b"), ("www.a.b", "a.b"), ("wwwa.b", "www.wwwa.b"), ("*.a.b", None), ("", None)]
)
def test_twin_of(host: str, twin: str | None) -> None:
    assert twin_of(host) == twin  # type: ignore[arg-type]


def test_they_come_and_go_with_what_they_depend_on() -> None:
    """Step by step, by deltas: the table is what it would be from scratch."""
    one = aliased("one", "x.test, ~^y")
    taker = ingress("taker", rule("x.test", path("/")))
    twins = ingress("twins", rule("b.test", path("/")), annotations={PREFIX + "from-to-www-redirect": "true"})
    twin_host = ingress("twin-host", rule("www.b.test", path("/")))
    steps: list[list[Any]] = [
        [one],
        [one, taker],
        [one, taker, twins],
        [one, twins],
        [one, twins, twin_host],
        [twins],
        [],
    ]
    compiler = Compiler(TranslateSettings())
    seen: set[ObjectRef] = set()
    table = None
    for objects in steps:
        refs = {o.ref for o in objects}
        result = compiler.compile(state_of([service(), *objects]), frozenset(refs ^ seen))
        seen = refs
        scratch = compiled(service(), *objects, parsers=())
        assert result.table == scratch.table
        assert result.verdicts == scratch.verdicts
        if table is not None:
            assert apply_delta(table, diff_tables(table, result.table)) == result.table
        table = result.table


def test_equal_content_has_an_equal_id_and_other_content_another() -> None:
    ids = {
        compiled(service(), aliased("r", text)).table.id
        for text in ("x.test", "y.test", "x.test,y.test", "~^x", "a.test")
    }
    assert len(ids) == 5
    assert compiled(service(), aliased("r", "x.test")).table.id in ids
    assert HostAlias("x", "y") == HostAlias("x", "y")  # type: ignore[arg-type]


def test_a_verdict_goes_with_the_ingress_that_it_is_about() -> None:
    """Also where no host ever came of it."""
    asks = ingress("asks", rule("*.test"), annotations={PREFIX + "from-to-www-redirect": "true"})
    compiler = Compiler(TranslateSettings())
    assert "has no twin" in str(verdicts(compiler.compile(state_of([asks, service()]), None))[0])
    gone = compiler.compile(state_of([service()]), frozenset((asks.ref,)))
    assert verdicts(gone) == []


def test_the_verdict_of_an_alias_goes_with_the_last_ingress_that_had_one() -> None:
    alias = {"aioingress.io/server-alias": "www.x.test"}
    compiler = Compiler(TranslateSettings())
    first = compiler.compile(
        state_of([ingress("a", rule("www.x.test")), ingress("c", rule(""), annotations=alias)]), None
    )
    assert any("no alias" in verdict.message for verdict in first.verdicts)
    last = compiler.compile(state_of([ingress("a", rule("www.x.test")), ingress("c", rule(""))]), None)
    assert not any("alias" in verdict.message for verdict in last.verdicts)
