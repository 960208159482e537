"""Canary Ingresses: what they come to, whose routes they share, and what they never touch."""

from typing import Any

import pytest

from ingress.errors import Severity, VerdictReason
from ingress.middleware.registry import SPECS
from ingress.model import Kind, KubernetesObject, ObjectRef
from ingress.routing.table import Canary, CanaryRule, Route, UpstreamProtocol
from ingress.translate import Compilation, compile_table
from ingress.translate.compiler import Compiler
from tests.proxy import pki
from tests.translate.build import (
    TranslateSettings,
    addresses,
    compiled,
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
OWN = "aioingress.io/"
OLD, NEW, NEWER = "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"

BACKENDS: tuple[KubernetesObject, ...] = (
    service("web"),
    slice_of("web", "10.0.0.1"),
    service("canary"),
    slice_of("canary", "10.0.1.1", "10.0.1.2"),
    service("other"),
    slice_of("other", "10.0.2.1"),
)


def canary(name: str = "canary", *rules: Any, created: str = NEW, prefix: str = NGINX, **annotations: str) -> Any:
    texts = {prefix + key.replace("_", "-"): value for key, value in {"canary": "true", **annotations}.items()}
    return ingress(name, *(rules or (rule("a.test", path("/", "canary")),)), annotations=texts, created=created)


def main(*rules: Any, **annotations: str) -> Any:
    texts = {NGINX + key.replace("_", "-"): value for key, value in annotations.items()}
    return ingress("main", *(rules or (rule("a.test", path("/", "web")),)), annotations=texts, created=OLD)


def build(*objects: Any) -> Compilation:
    return compiled(*objects, *BACKENDS)


def route(built: Compilation, host: str = "a.test") -> Route:
    return built.table.hosts[host].routes[0]  # type: ignore[index]


def canaries(built: Compilation) -> list[tuple[str, str]]:
    return [(c.route.ingress, c.route.service) for c in route(built).canaries]


@pytest.mark.parametrize("prefix", [NGINX, OWN])
def test_every_rule(prefix: str) -> None:
    built = build(
        main(),
        canary(
            prefix=prefix,
            canary_by_header="X-Canary",
            canary_by_header_value="yes please",
            canary_by_header_pattern="^y",
            canary_by_cookie="canary",
            canary_weight="20",
            canary_weight_total="200",
            affinity_canary_behavior="legacy",
        ),
    )
    assert built.verdicts == ()
    (found,) = route(built).canaries
    assert found.rule == CanaryRule("X-Canary", "yes please", "^y", "canary", 20, 200, False)
    assert (found.route.ingress, found.route.service, found.route.port) == ("canary", "canary", "80")
    assert addresses(built, found.route.upstream) == ["10.0.1.1:8080", "10.0.1.2:8080"]  # type: ignore[arg-type]
    assert (route(built).ingress, route(built).service) == ("main", "web")


def test_totals_up_to_100_have_no_effect() -> None:
    (found,) = route(build(main(), canary(canary_weight="5", canary_weight_total="10"))).canaries
    assert found.rule.weight_total == 100


@pytest.mark.parametrize("created", [OLD, NEW])
def test_age_makes_no_difference(created: str) -> None:
    older = canary(created="2019-01-01T00:00:00Z", canary_weight="10")
    assert canaries(build(older, main())) == [("canary", "canary")]


def test_everything_else_is_inherited() -> None:
    built = build(
        main(proxy_read_timeout="7", limit_rps="3"),
        canary(canary_weight="10", proxy_read_timeout="9", whitelist_source_range="10.0.0.0/8"),
    )
    (found,) = route(built).canaries
    assert found.route.policy == route(built).policy
    assert found.route.features == route(built).features != ()
    (verdict,) = built.verdicts
    assert verdict.severity is Severity.WARNING
    assert f"{NGINX}proxy-read-timeout, {NGINX}whitelist-source-range" in verdict.message


def test_balancing_is_its_own() -> None:
    built = build(main(load_balance="ewma"), canary(canary_weight="10", upstream_hash_by="$remote_addr"))
    (found,) = route(built).canaries
    assert built.table.upstreams[route(built).upstream].balancing.load_balance == "ewma"  # type: ignore[index]
    assert built.table.upstreams[found.route.upstream].balancing.load_balance == "consistent_hash"  # type: ignore[index]


def test_it_is_spoken_to_as_the_main_ingress_says() -> None:
    """Where the Secret of the main Ingress changes, the canary's upstream stays the same by key, and has the new content."""

    def state(data: pki.Pair) -> Any:
        return state_of(
            [
                main(backend_protocol="HTTPS", proxy_ssl_secret="tls", proxy_http_version="1.0"),
                canary(canary_weight="10", backend_protocol="HTTP"),
                *BACKENDS,
                secret("tls", ca_crt=data.pem),
            ]
        )

    first, second = pki.authority(), pki.authority()
    compiler = Compiler(TranslateSettings(), SPECS)
    built = compiler.compile(state(first), None)
    (found,) = route(built).canaries
    upstream = built.table.upstreams[found.route.upstream]  # type: ignore[index]
    assert (upstream.protocol, upstream.http_version) == (UpstreamProtocol.HTTPS, "1.0")
    assert upstream.tls is not None
    assert (upstream.tls.ca, upstream.tls.name) == (first.pem, "canary.default.svc")
    changed = state(second)
    rebuilt = compiler.compile(changed, frozenset((ObjectRef(Kind.SECRET, "default", "tls"),)))
    assert rebuilt == compile_table(changed, TranslateSettings(), SPECS)
    renewed = rebuilt.table.upstreams[upstream.key]
    assert renewed.tls is not None
    assert renewed.tls.ca == second.pem


@pytest.mark.parametrize(("behavior", "sticky"), [("sticky", True), ("legacy", False)])
def test_sessions_are_those_of_the_main_ingress(behavior: str, sticky: bool) -> None:
    built = build(
        main(affinity="cookie", session_cookie_name="sid"),
        canary(canary_weight="10", affinity_canary_behavior=behavior),
    )
    assert built.verdicts == ()
    (found,) = route(built).canaries
    upstream = built.table.upstreams[found.route.upstream]  # type: ignore[index]
    cookie = upstream.balancing.cookie
    assert (cookie.name if cookie is not None else None) == ("sid" if sticky else None)
    assert len(upstream.endpoints) == 2
    assert upstream.key != route(built).upstream


# ---- without a main Ingress ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ((rule("a.test", path("/other", "canary")),), "no main Ingress has this host, path and pathType"),
        ((rule("a.test", path("/", "canary", type="Exact")),), "no main Ingress has this host, path and pathType"),
        ((rule("b.test", path("/", "canary")),), "no main Ingress has this host, path and pathType"),
        ((rule("a.test", path("/", "web")),), "its Service is that of Ingress default/main already"),
        ((rule("a.test", path("/", "missing")),), "its Service can't be used"),
    ],
)
def test_what_has_no_main_route(rules: tuple[Any, ...], why: str) -> None:
    built = build(main(), canary("canary", *rules, canary_weight="10"))
    assert targets(built, "a.test") == {"Prefix /": "web:80"}
    assert route(built).canaries == ()
    assert "b.test" not in built.table.hosts
    found = [v for v in built.verdicts if v.reason is VerdictReason.CANARY_WITHOUT_MAIN]
    assert len(found) == 1
    assert (found[0].object, found[0].field) == ("Ingress default/canary", "spec.rules[0].http.paths[0]")
    assert why in found[0].message


def test_a_closed_route_stays_closed() -> None:
    """A canary must not lead around an access rule that could not be kept."""
    built = build(main(auth_type="basic"), canary(canary_weight="100"))
    assert (route(built).upstream, route(built).canaries) == (None, ())


def test_a_default_backend_is_no_canarys() -> None:
    texts = {NGINX + "canary": "true", NGINX + "canary-weight": "10"}
    backend = {"service": {"name": "canary", "port": {"number": 80}}}
    alone = ingress("canary", annotations=texts, defaultBackend=backend)
    built = build(main(), alone)
    assert built.table.default is None
    assert [v.field for v in built.verdicts] == ["spec.defaultBackend"]


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["yes", "", "maybe"])
def test_what_may_be_meant_as_one_is_left_out(value: str) -> None:
    built = build(main(), canary(canary=value, created="2019-01-01T00:00:00Z", canary_weight="10"))
    assert targets(built, "a.test") == {"Prefix /": "web:80"}
    assert route(built).canaries == ()
    (verdict,) = built.verdicts
    assert (verdict.object, verdict.severity) == ("Ingress default/canary", Severity.ERROR)
    assert verdict.field == f"metadata.annotations[{NGINX}canary]"


def test_canary_off() -> None:
    built = build(canary(canary="false", created=OLD))
    assert targets(built, "a.test") == {"Prefix /": "canary:80"}
    assert built.verdicts == ()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("canary-by-header", "X Canary", "not the name of a header"),
        ("canary-by-header", "X:", "not the name of a header"),
        ("canary-by-header-value", "a\nb", "not the value of a header"),
        ("canary-by-header-pattern", "(?=look)", "linear time"),
        ("canary-by-header-pattern", "(a)\\1", "linear time"),
        ("canary-by-header-pattern", "(", "linear time"),
        ("canary-by-header-pattern", "a" * 1025, "longer than"),
        ("canary-by-cookie", "a b", "not the name of a header or cookie"),
        ("canary-weight", "10%", "not a whole number"),
        ("canary-weight", "-1", "not a whole number"),
        ("canary-weight-total", "many", "not a whole number"),
        ("affinity-canary-behavior", "strict", "neither sticky nor legacy"),
    ],
)
def test_bad_values_cost_only_themselves(name: str, value: str, why: str) -> None:
    annotations = {"canary_by_header": "X-Canary", "canary_weight": "10", name.replace("-", "_"): value}
    built = build(main(), canary(**annotations))
    assert canaries(built) == [("canary", "canary")]
    (verdict,) = [v for v in built.verdicts if v.severity is Severity.ERROR]
    assert verdict.field == f"metadata.annotations[{NGINX}{name}]"
    assert verdict.reason is VerdictReason.INVALID_ANNOTATION
    assert why in verdict.message


@pytest.mark.parametrize(
    ("annotations", "unusable"),
    [
        ({"canary_by_header_pattern": "[][**da?$&*"}, True),
        ({"canary_by_header_value": "a\nb"}, True),
        ({"canary_by_header_value": "a\nb", "canary_by_header_pattern": "^b"}, False),
        ({"canary_by_header_value": "b", "canary_by_header_pattern": "["}, False),
        ({"canary_by_header_value": "", "canary_by_header_pattern": ""}, False),
        ({}, False),
    ],
)
def test_what_a_header_is_compared_with_cannot_be_used(annotations: dict[str, str], unusable: bool) -> None:
    """ingress-nginx: its sender stays with the main Ingress, whatever cookie and weight say."""
    built = build(main(), canary(canary_by_header="X-Canary", **annotations))
    assert route(built).canaries[0].rule.header_unusable is unusable
    assert not [v for v in built.verdicts if "b'" in v.message]


def test_a_weight_of_0_is_a_rule() -> None:
    """Tools for gradual releases begin and end with it."""
    assert build(main(), canary(canary_weight="0")).verdicts == ()


def test_its_details_on_another_ingress() -> None:
    built = build(main(canary_weight="10"))
    (verdict,) = built.verdicts
    assert verdict.message == 'It has no effect without canary: "true", in ingress-nginx neither.'


def test_a_service_without_endpoints_gets_nothing_and_costs_nothing() -> None:
    ends = canary("canary", rule("a.test", path("/", "empty")), canary_weight="10")
    built = build(main(), ends, service("empty"))
    (verdict,) = [v for v in built.verdicts if v.reason is VerdictReason.NO_ENDPOINTS]
    assert verdict.message.startswith("The canary gets no request: Service empty")


def test_without_any_rule_it_says_so() -> None:
    built = build(main(), canary())
    assert canaries(built) == [("canary", "canary")]
    (verdict,) = built.verdicts
    assert "It gets no request" in verdict.message


# ---- several ---------------------------------------------------------------------------------------------------------


def test_several_share_in_order_of_age() -> None:
    second = canary("second", rule("a.test", path("/", "other")), created=NEWER, canary_weight="30")
    built = build(second, canary(canary_weight="20"), main())
    assert canaries(built) == [("canary", "canary"), ("second", "other")]
    assert built.verdicts == ()


def test_weights_beyond_the_total() -> None:
    second = canary("second", rule("a.test", path("/", "other")), created=NEWER, canary_weight="90")
    built = build(second, canary(canary_weight="20"), main())
    (verdict,) = built.verdicts
    assert (verdict.object, verdict.severity) == ("Ingress default/second", Severity.WARNING)
    assert "more than 100" in verdict.message


# ---- in regex mode ---------------------------------------------------------------------------------------------------


def test_in_regex_mode() -> None:
    built = build(
        main(rule("a.test", path("/x(/|$)(.*)", "web", type="ImplementationSpecific")), rewrite_target="/$2"),
        canary(
            "canary", rule("a.test", path("/x(/|$)(.*)", "canary", type="ImplementationSpecific")), canary_weight="5"
        ),
    )
    assert canaries(built) == [("canary", "canary")]
    (found,) = route(built).canaries
    assert found.route.pattern == route(built).pattern != ""
    assert found.route.features == route(built).features


# ---- while running ---------------------------------------------------------------------------------------------------


def test_step_by_step_is_from_scratch() -> None:
    compiler = Compiler(TranslateSettings())
    steps: list[tuple[Any, ...]] = [
        (main(affinity="cookie"),),
        (main(affinity="cookie"), canary(canary_weight="10")),
        (main(), canary(canary_weight="10")),
        (canary(canary_weight="10"),),
        (main(), canary(canary_weight="20"), canary("b", rule("a.test", path("/", "other")), canary_weight="5")),
        (main(affinity="cookie"), canary("b", rule("a.test", path("/", "other")), canary_weight="5")),
        (main(),),
        (),
    ]
    for objects in steps:
        state = state_of((*objects, *BACKENDS))
        built = compiler.compile(state, None)
        fresh = Compiler(TranslateSettings()).compile(state, None)
        assert built.table == fresh.table
        assert built.verdicts == fresh.verdicts


def test_endpoints_of_a_canary_change_without_its_routes() -> None:
    compiler = Compiler(TranslateSettings())
    objects = (main(affinity="cookie"), canary(canary_weight="10"), *BACKENDS[:3])
    first = compiler.compile(state_of((*objects, slice_of("canary", "10.0.1.1"))), None)
    second = compiler.compile(state_of((*objects, slice_of("canary", "10.0.1.9"))), None)
    assert first.table.hosts is second.table.hosts
    (found,) = route(second).canaries
    assert isinstance(found, Canary)
    assert addresses(second, found.route.upstream) == ["10.0.1.9:8080"]  # type: ignore[arg-type]
