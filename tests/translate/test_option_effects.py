"""What options change in the translation of Ingresses."""

import dataclasses
from typing import Any

import pytest

from ingress.config import TranslateSettings
from ingress.errors import Severity
from ingress.middleware.registry import SPECS
from ingress.model import KubernetesObject
from ingress.routing.table import LoadBalance, RetryOn
from ingress.translate import Compilation, compile_table
from tests.translate.build import ingress, path, rule, service, slice_of, state_of
from tests.translate.test_options import NAME, SETTINGS, options

NGINX = "nginx.ingress.kubernetes.io/"


def compiled(*objects: KubernetesObject, resolved: Any = None, **data: str) -> Compilation:
    found = dataclasses.replace(state_of(objects, resolved), config_maps={NAME: options(**data)})
    return compile_table(found, SETTINGS)


def route(built: Compilation, host: str = "a") -> Any:
    return built.table.hosts[host].routes[0]  # type: ignore[index]


def test_load_balance_of_every_upstream() -> None:
    own = ingress("own", rule("b"), annotations={NGINX + "load-balance": "round_robin"})
    built = compiled(ingress("i", rule("a")), own, service(), slice_of(), load_balance="ewma")
    used = {host: built.table.upstreams[route(built, host).upstream].balancing.load_balance for host in ("a", "b")}
    assert used == {"a": LoadBalance.EWMA, "b": LoadBalance.ROUND_ROBIN}


def test_the_default_backend_gets_the_options_too() -> None:
    settings = TranslateSettings(config_map=NAME, default_backend_service=("default", "web"))
    maps = {NAME: options(load_balance="ewma", proxy_read_timeout="9")}
    built = compile_table(dataclasses.replace(state_of([service(), slice_of()]), config_maps=maps), settings)
    default = built.table.default
    assert default is not None
    assert default.policy.read_timeout_s == 9
    assert built.table.upstreams[default.upstream].balancing.load_balance is LoadBalance.EWMA  # type: ignore[index]


def test_annotations_win_over_options() -> None:
    own = ingress("i", rule("a"), annotations={NGINX + "proxy-read-timeout": "3"})
    policy = route(compiled(own, service(), proxy_read_timeout="9", proxy_send_timeout="8")).policy
    assert (policy.read_timeout_s, policy.send_timeout_s) == (3, 8)


def test_retries_of_non_idempotent_requests_hold_whatever_an_annotation_says() -> None:
    own = ingress("i", rule("a"), annotations={NGINX + "proxy-next-upstream": "http_502"})
    policy = route(compiled(own, service(), retry_non_idempotent="true")).policy
    assert policy.retry_on == (RetryOn.HTTP_502, RetryOn.NON_IDEMPOTENT)


@pytest.mark.parametrize(
    ("level", "name", "closed"),
    [
        ("High", "server-alias", False),
        ("Medium", "upstream-hash-by", True),
        ("Low", "proxy-body-size", True),
        ("Low", "proxy-read-timeout", False),
        ("low", "session-cookie-name", True),
    ],
)
def test_risk_level(level: str, name: str, closed: bool) -> None:
    value = {"proxy-body-size": "8m", "proxy-read-timeout": "7", "upstream-hash-by": "$host"}.get(name, "x")
    built = compiled(
        ingress("i", rule("a"), annotations={NGINX + name: value}), service(), annotations_risk_level=level
    )
    assert (route(built).upstream is None) is closed
    errors = [v for v in built.verdicts if v.severity is Severity.ERROR]
    assert bool(errors) is closed
    if closed:
        assert route(built).closed_status == 503
        assert errors[0].field == f"metadata.annotations[{NGINX}{name}]"
        assert "annotations-risk-level" in errors[0].message


def test_a_bad_risk_level_after_a_restart_is_the_default() -> None:
    own = ingress("i", rule("a"), annotations={NGINX + "upstream-hash-by": "$host"})
    built = compiled(own, service(), slice_of(), annotations_risk_level="none")
    assert route(built).upstream is not None
    assert [v.field for v in built.verdicts] == ["data.annotations-risk-level"]


def test_blocked_words() -> None:
    bad = ingress("bad", rule("a"), annotations={NGINX + "session-cookie-name": "x_by_lua"})
    good = ingress("good", rule("b"), annotations={NGINX + "session-cookie-name": "lua", "other.io/x": "by_lua"})
    built = compiled(bad, good, service(), slice_of(), annotation_value_word_blocklist="load_module, by_lua")
    assert route(built, "a").upstream is None
    assert route(built, "b").upstream is not None
    (verdict,) = [v for v in built.verdicts if v.severity is Severity.ERROR]
    assert "annotation-value-word-blocklist" in verdict.message


@pytest.mark.parametrize(
    "data", [{"whitelist_source_range": "10/33"}, {"denylist_source_range": "x"}, {"global_auth_url": "auth"}]
)
def test_a_bad_access_rule_closes_every_route_that_it_is_about(data: dict[str, str]) -> None:
    found = dataclasses.replace(
        state_of([ingress("i", rule("a")), service(), slice_of()]), config_maps={NAME: options(**data)}
    )
    built = compile_table(found, SETTINGS, SPECS)
    assert (route(built).upstream, route(built).closed_status) == (None, 503)


def test_redirects_of_annotations_by_option() -> None:
    own = ingress("i", rule("a"), annotations={NGINX + "permanent-redirect": "/x"})
    found = state_of([own, service(), slice_of()])
    for data, expected in (({}, False), ({"relative_redirects": "true"}, True)):
        built = compile_table(dataclasses.replace(found, config_maps={NAME: options(**data)}), SETTINGS, SPECS)
        (policy,) = [f.policy for f in route(built).features if "relative" in f.policy]
        assert policy["relative"] is expected


def test_strict_paths() -> None:
    paths = (path("/api:batch"), path("/ok/a-b_c.d"), path("/x(.*)", type="ImplementationSpecific"))

    def fields(**data: str) -> list[str]:
        built = compiled(ingress("i", rule("a", *paths)), service(), slice_of(), **data)
        assert len(built.table.hosts["a"].routes) == 3  # type: ignore[index]
        return [v.field for v in built.verdicts if "strict-validate-path-type" in v.message]

    assert fields() == fields(strict_validate_path_type="false") == []
    assert fields(strict_validate_path_type="true") == ["spec.rules[0].http.paths[0].path"]


def test_external_names_by_ipv4_only() -> None:
    external = service("web", type="ExternalName", externalName="db.example")
    resolved = {"db.example": ("2001:db8::1", "192.0.2.1")}
    plain = compiled(ingress("i", rule("a")), external, resolved=resolved)
    only = compiled(ingress("i", rule("a")), external, resolved=resolved, disable_ipv6_dns="true")
    assert len(plain.table.upstreams["default/web:80"].endpoints) == 2  # type: ignore[index]
    assert [e.address for e in only.table.upstreams["default/web:80"].endpoints] == ["192.0.2.1"]  # type: ignore[index]


def test_access_log_of_one_ingress() -> None:
    silent = ingress("i", rule("a"), annotations={NGINX + "enable-access-log": "false"})
    built = compiled(silent, ingress("j", rule("b")), service(), slice_of())
    assert (route(built, "a").policy.access_log, route(built, "b").policy.access_log) == (False, True)
    assert not built.verdicts
