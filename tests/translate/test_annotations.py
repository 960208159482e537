"""Annotations: what is read, what is refused, and what closes the routes of its Ingress."""

from typing import Any

import pytest

from ingress.config import annotation_prefixes
from ingress.errors import Severity, Verdict, VerdictReason
from ingress.routing.table import (
    AffinityMode,
    Balancing,
    CookieAffinity,
    CookieMode,
    LoadBalance,
    RetryOn,
    Route,
    TrafficPolicy,
    Upstream,
    UpstreamProtocol,
)
from ingress.translate.annotations.known import KNOWN, SNIPPETS, Handling
from ingress.translate.annotations.parse import READ
from ingress.variables import Part, Variable

from .build import Compilation, backend, compiled, ingress, path, reasons, rule, service, slice_of, targets

NGINX = "nginx.ingress.kubernetes.io/"
OWN = "aioingress.io/"


def annotated(
    annotations: dict[str, str], prefix: str = NGINX, svc: dict[str, Any] | None = None, **spec: Any
) -> Compilation:
    return compiled(
        ingress("ing", rule("a.test"), annotations={prefix + k: v for k, v in annotations.items()}, **spec),
        service("web", **(svc or {})),
        slice_of(),
    )


def route_of(result: Compilation) -> Route:
    return result.table.hosts["a.test"].routes[0]  # type: ignore[index]


def upstream_of(result: Compilation) -> Upstream:
    (upstream,) = result.table.upstreams.values()
    return upstream


def verdict_of(result: Compilation, name: str, prefix: str = NGINX) -> Verdict:
    (verdict,) = result.verdicts
    assert verdict.object == "Ingress default/ing"
    assert verdict.field == f"metadata.annotations[{prefix}{name}]"
    return verdict


# ---- traffic ----


@pytest.mark.parametrize(
    ("annotations", "policy"),
    [
        ({}, TrafficPolicy()),
        ({"proxy-connect-timeout": "3"}, TrafficPolicy(connect_timeout_s=3)),
        ({"proxy-read-timeout": "3600"}, TrafficPolicy(read_timeout_s=3600)),
        ({"proxy-send-timeout": " 7\n"}, TrafficPolicy(send_timeout_s=7)),
        ({"proxy-body-size": "0"}, TrafficPolicy(body_limit_bytes=0)),
        ({"proxy-body-size": "8M"}, TrafficPolicy(body_limit_bytes=8 << 20)),
        ({"proxy-body-size": "10k"}, TrafficPolicy(body_limit_bytes=10 << 10)),
        ({"proxy-body-size": "2g"}, TrafficPolicy(body_limit_bytes=2 << 30)),
        ({"proxy-body-size": "512b"}, TrafficPolicy(body_limit_bytes=512)),
        ({"proxy-next-upstream": "off"}, TrafficPolicy(retry_on=())),
        (
            {"proxy-next-upstream": "http_503  error http_503 non_idempotent"},
            TrafficPolicy(retry_on=(RetryOn.ERROR, RetryOn.HTTP_503, RetryOn.NON_IDEMPOTENT)),
        ),
        ({"proxy-next-upstream-tries": "0"}, TrafficPolicy(retry_tries=0)),
        ({"proxy-next-upstream-timeout": "12"}, TrafficPolicy(retry_timeout_s=12)),
        ({"proxy-request-buffering": "off"}, TrafficPolicy(request_buffering=False)),
        ({"proxy-request-buffering": "on"}, TrafficPolicy()),
        ({"client-body-buffer-size": "8k"}, TrafficPolicy()),
        ({"client-body-buffer-size": "4m"}, TrafficPolicy(request_buffer_bytes=4 << 20)),
        ({"client-body-buffer-size": "100g"}, TrafficPolicy(request_buffer_bytes=16 << 20)),
        ({"proxy-request-buffering": "off", "proxy-http-version": "1.0"}, TrafficPolicy()),
        (
            {
                "proxy-buffering": "on",
                "proxy-buffer-size": "8k",
                "proxy-buffers-number": "8",
                "proxy-busy-buffers-size": "16k",
                "proxy-max-temp-file-size": "0",
            },
            TrafficPolicy(),
        ),
    ],
)
@pytest.mark.parametrize("prefix", [NGINX, OWN])
def test_traffic(annotations: dict[str, str], policy: TrafficPolicy, prefix: str) -> None:
    result = annotated(annotations, prefix)
    assert route_of(result).policy == policy
    assert result.verdicts == ()


def test_the_own_prefix_wins() -> None:
    result = annotated({OWN + "proxy-read-timeout": "5", NGINX + "proxy-read-timeout": "60000x"}, prefix="")
    assert route_of(result).policy.read_timeout_s == 5
    assert result.verdicts == ()


def test_equal_routes_share_one_policy() -> None:
    result = compiled(
        ingress("ing", rule("a.test", path("/a"), path("/b")), annotations={NGINX + "proxy-body-size": "8m"}),
        service(),
        slice_of(),
    )
    a, b = result.table.hosts["a.test"].routes  # type: ignore[index]
    assert a.policy is b.policy


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("proxy-connect-timeout", "0", "greater than 0"),
        ("proxy-connect-timeout", "-1", "whole number"),
        ("proxy-read-timeout", "60s", "unit s"),
        ("proxy-read-timeout", "", "whole number"),
        ("proxy-read-timeout", "1.5", "whole number"),
        ("proxy-read-timeout", "٣", "whole number"),
        ("proxy-read-timeout", "9" * 5000, "whole number"),
        ("proxy-body-size", "1 m", "not a size"),
        ("proxy-body-size", "1mb", "not a size"),
        ("proxy-body-size", "-1", "not a size"),
        ("proxy-body-size", "999999999999999999g", "too large"),
        ("proxy-next-upstream", "", "empty"),
        ("proxy-next-upstream", "error http_418", "http_418"),
        ("proxy-next-upstream", "off error", "off stands alone"),
        ("proxy-next-upstream-tries", "three", "whole number"),
        ("proxy-next-upstream-timeout", "-1", "whole number"),
        ("load-balance", "ip_hash", "none of round_robin"),
        ("load-balance", "consistent_hash", "upstream-hash-by"),
        ("affinity", "ip", "cookie is the only kind"),
        ("upstream-hash-by", "$nope", "$nope is not a variable"),
        ("upstream-hash-by", "$", "not followed by the name"),
        ("upstream-hash-by", "a${host", "no matching }"),
        ("upstream-hash-by", "${}", "not followed by the name"),
        ("upstream-hash-by", "$http_", "$http_ is not a variable"),
        ("upstream-hash-by", "", "empty"),
        ("upstream-hash-by", "$host\x07", "control character"),
        ("upstream-hash-by", "x" * 1025, "longer than 1024"),
        ("backend-protocol", "GOPHER", "not a protocol"),
        ("proxy-request-buffering", "true", "neither"),
        ("proxy-buffering", "ON", "neither"),
        ("proxy-buffer-size", "8kb", "not a size"),
        ("proxy-buffers-number", "four", "whole number"),
        ("proxy-busy-buffers-size", "-1", "not a size"),
        ("proxy-max-temp-file-size", "", "not a size"),
        ("client-body-buffer-size", "1 m", "not a size"),
        ("service-upstream", "yes", "neither"),
        ("upstream-hash-by-subset", "on", "neither"),
        ("ssl-redirect", "maybe", "neither"),
    ],
)
def test_a_malformed_value_costs_itself(name: str, value: str, part: str) -> None:
    result = annotated({name: value})
    assert route_of(result).policy == TrafficPolicy()
    assert upstream_of(result).key == "default/web:80"
    assert upstream_of(result).balancing == Balancing()
    verdict = verdict_of(result, name)
    assert (verdict.reason, verdict.severity) == (VerdictReason.INVALID_ANNOTATION, Severity.ERROR)
    assert part in verdict.message
    assert len(verdict.value) <= 100


# ---- balancing ----


@pytest.mark.parametrize(
    ("value", "algorithm"),
    [
        ("round_robin", LoadBalance.ROUND_ROBIN),
        ("least_request", LoadBalance.LEAST_REQUEST),
        ("ewma", LoadBalance.EWMA),
    ],
)
def test_load_balance(value: str, algorithm: LoadBalance) -> None:
    result = annotated({"load-balance": value})
    assert upstream_of(result).balancing == Balancing(algorithm)
    assert ("#" in upstream_of(result).key) == (algorithm is not LoadBalance.ROUND_ROBIN)
    assert result.verdicts == ()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("$request_uri", [(Variable.REQUEST_URI, "")]),
        ("$uri", [(Variable.URI, "")]),
        ("${host}", [(Variable.HOST, "")]),
        ("$binary_remote_addr", [(Variable.REMOTE_ADDR, "")]),
        ("$request_method$args", [(Variable.REQUEST_METHOD, ""), (Variable.ARGS, "")]),
        ("$http_X_User_Id", [(Variable.HTTP, "x_user_id")]),
        ("${cookie_sid}x", [(Variable.COOKIE, "sid"), (Variable.TEXT, "x")]),
        ("a-$arg_id-b", [(Variable.TEXT, "a-"), (Variable.ARG, "id"), (Variable.TEXT, "-b")]),
        ("${request_uri}-text", [(Variable.REQUEST_URI, ""), (Variable.TEXT, "-text")]),
    ],
)
def test_hash_by(text: str, parts: list[tuple[Variable, str]]) -> None:
    result = annotated({"upstream-hash-by": text, "load-balance": "ewma"})
    assert upstream_of(result).balancing == Balancing(LoadBalance.CONSISTENT_HASH, tuple(Part(v, a) for v, a in parts))
    assert result.verdicts == ()


def test_hash_by_without_a_variable_is_done_and_warned_of() -> None:
    result = annotated({"upstream-hash-by": "request_uri"})
    assert upstream_of(result).balancing.hash_key == (Part(Variable.TEXT, "request_uri"),)
    assert verdict_of(result, "upstream-hash-by").severity is Severity.WARNING


def test_cookie_affinity() -> None:
    plain = upstream_of(annotated({"affinity": "cookie"})).balancing
    assert plain == Balancing(affinity=AffinityMode.COOKIE, cookie=CookieAffinity())
    result = annotated(
        {
            "affinity": "cookie",
            "affinity-mode": "persistent",
            "session-cookie-name": "route",
            "session-cookie-path": "/app",
            "session-cookie-domain": "example.com",
            "session-cookie-samesite": "strict",
            "session-cookie-secure": "True",
            "session-cookie-expires": "172800",
            "session-cookie-max-age": "3600",
            "session-cookie-change-on-failure": "true",
        }
    )
    assert upstream_of(result).balancing.cookie == CookieAffinity(
        "route", CookieMode.PERSISTENT, "/app", "example.com", "Strict", 3600, 172800, True, True
    )
    assert result.verdicts == ()


@pytest.mark.parametrize(("text", "secure"), [("true", True), ("false", None)])
def test_a_session_cookie_of_https_is_always_secure(text: str, secure: bool | None) -> None:
    """`false` is ingress-nginx's default, by which the request decides."""
    result = annotated({"affinity": "cookie", "session-cookie-secure": text})
    assert upstream_of(result).balancing.cookie == CookieAffinity(secure=secure)
    assert result.verdicts == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("affinity-mode", "sticky"),
        ("session-cookie-name", "a b"),
        ("session-cookie-name", "a;b"),
        ("session-cookie-name", ""),
        ("session-cookie-name", "näme"),
        ("session-cookie-name", "n" * 257),
        ("session-cookie-path", "app"),
        ("session-cookie-path", "/;HttpOnly"),
        ("session-cookie-path", "/a\r\nSet-Cookie: x"),
        ("session-cookie-domain", "a,b"),
        ("session-cookie-domain", ""),
        ("session-cookie-domain", "https://example.com"),
        ("session-cookie-domain", "*.example.com"),
        ("session-cookie-samesite", "Loose"),
        ("session-cookie-secure", "yes"),
        ("session-cookie-expires", "tomorrow"),
        ("session-cookie-max-age", "0"),
        ("session-cookie-max-age", "-1"),
        ("session-cookie-change-on-failure", ""),
    ],
)
def test_bad_cookie_attributes(name: str, value: str) -> None:
    result = annotated({"affinity": "cookie", name: value})
    assert upstream_of(result).balancing.cookie == CookieAffinity()
    assert verdict_of(result, name).reason is VerdictReason.INVALID_ANNOTATION


def test_cookie_attributes_without_affinity() -> None:
    result = annotated({"session-cookie-name": "route"})
    assert upstream_of(result).balancing == Balancing()
    assert verdict_of(result, "session-cookie-name").severity is Severity.WARNING


def test_cookie_affinity_comes_before_that_of_the_service() -> None:
    svc = {"sessionAffinity": "ClientIP"}
    assert upstream_of(annotated({"affinity": "cookie"}, svc=svc)).balancing.affinity is AffinityMode.COOKIE
    both = upstream_of(annotated({"load-balance": "ewma"}, svc=svc)).balancing
    assert (both.load_balance, both.affinity) == (LoadBalance.EWMA, AffinityMode.CLIENT_IP)
    # What the Service says alone is no reason for an upstream of its own.
    assert upstream_of(annotated({}, svc=svc)).key == "default/web:80"


def test_equal_asks_share_an_upstream_and_others_do_not() -> None:
    result = compiled(
        ingress("a", rule("a.test"), annotations={NGINX + "load-balance": "ewma"}),
        ingress("b", rule("b.test"), annotations={OWN + "load-balance": "ewma"}),
        ingress("c", rule("c.test")),
        ingress("d", rule("d.test"), annotations={OWN + "affinity": "cookie"}),
        service(),
        slice_of(),
    )
    a, b, c, d = (result.table.hosts[f"{h}.test"].routes[0].upstream for h in "abcd")  # type: ignore[index]
    assert a == b
    assert len({a, c, d}) == 3
    assert c == "default/web:80"
    assert set(result.table.upstreams) == {a, c, d}


# ---- protocol of the backend ----


def test_backend_protocol_http_says_nothing_new() -> None:
    result = annotated({"backend-protocol": "http"})
    assert upstream_of(result).key == "default/web:80"
    assert result.verdicts == ()


def test_backend_protocol_outranks_app_protocol() -> None:
    ports = {"ports": [{"port": 80, "appProtocol": "https"}]}
    result = compiled(
        ingress("ing", rule("a.test"), annotations={NGINX + "backend-protocol": "HTTP"}),
        service("web", *ports["ports"]),
        slice_of(),
    )
    assert upstream_of(result).protocol is UpstreamProtocol.HTTP
    assert result.verdicts == ()


@pytest.mark.parametrize("value", ["grpc", "GRPC"])
def test_backend_protocols_that_are_not_served_yet(value: str) -> None:
    result = annotated({"backend-protocol": value})
    assert upstream_of(result).protocol is UpstreamProtocol.GRPC
    assert verdict_of(result, "backend-protocol").severity is Severity.WARNING


@pytest.mark.parametrize("value", ["GRPCS", "FCGI"])
def test_backend_protocols_that_have_no_upstream_close_the_routes(value: str) -> None:
    result = annotated({"backend-protocol": value})
    assert targets(result, "a.test") == {"Prefix /": "502"}
    assert value in route_of(result).closed_reason
    assert verdict_of(result, "backend-protocol").severity is Severity.ERROR


# ---- access rules ----

ACCESS = sorted(name for name, known in KNOWN.items() if known.handling is Handling.ACCESS_RULE)


@pytest.mark.parametrize("prefix", [NGINX, OWN])
@pytest.mark.parametrize("name", [*ACCESS, "auth-made-up"])
def test_access_rules_close_the_routes_of_their_ingress(name: str, prefix: str) -> None:
    result = compiled(
        ingress(
            "ing",
            rule("a.test", path("/x"), path("/y")),
            rule("b.test"),
            annotations={prefix + name: "true"},
            defaultBackend=backend(),
        ),
        ingress("catch-all", annotations={prefix + name: "10.0.0.0/8"}, defaultBackend=backend()),
        ingress("good", rule("a.test", path("/z"))),
        service(),
        slice_of(),
    )
    assert targets(result, "a.test") == {"Prefix /x": "503", "Prefix /y": "503", "Prefix /z": "web:80"}
    assert targets(result, "b.test") == {"Prefix /": "503"}
    for default in (result.table.hosts["b.test"].default, result.table.default):  # type: ignore[index]
        assert default is not None
        assert default.upstream is None
        assert default.closed_status == 503
        assert prefix + name in default.closed_reason
    assert {(v.object, v.reason, v.severity) for v in result.verdicts} == {
        ("Ingress default/ing", VerdictReason.ACCESS_RULE_REJECTED, Severity.ERROR),
        ("Ingress default/catch-all", VerdictReason.ACCESS_RULE_REJECTED, Severity.ERROR),
    }


def test_an_access_rule_without_value_closes_too() -> None:
    assert targets(annotated({"whitelist-source-range": ""}), "a.test") == {"Prefix /": "503"}


def test_an_access_rule_outweighs_a_protocol() -> None:
    result = annotated({"backend-protocol": "FCGI", "auth-url": "ftp://auth"})
    assert targets(result, "a.test") == {"Prefix /": "503"}
    assert "auth-url" in route_of(result).closed_reason


@pytest.mark.parametrize("name", ["enable-modsecurity", "enable-owasp-core-rules"])
def test_a_firewall_that_is_switched_off_asks_for_nothing(name: str) -> None:
    result = annotated({name: "false"})
    assert targets(result, "a.test") == {"Prefix /": "web:80"}
    assert result.verdicts == ()


@pytest.mark.parametrize(
    ("snippet", "closed"),
    [
        ("more_set_headers 'X-A: allow all;';", False),
        ('add_header X-Deny "1";', False),
        ("# deny all;\nproxy_set_header X 1;", False),
        ("deny all;", True),
        ("add_header X 1;\n  allow 10.0.0.0/8;\n  deny all;", True),
        ("if ($http_x) { return 403; }", True),
        ("location /admin { auth_basic on; }", True),
        ("access_by_lua_block { x() }", True),
        ("return 302 /x;", False),
        ("include /etc/nginx/x.conf;", True),
    ],
)
@pytest.mark.parametrize("name", sorted(SNIPPETS))
def test_snippets_that_restrict_access_close_the_routes(name: str, snippet: str, closed: bool) -> None:
    result = annotated({name: snippet})
    assert targets(result, "a.test") == {"Prefix /": "503" if closed else "web:80"}
    assert reasons(result) == [VerdictReason.ACCESS_RULE_REJECTED if closed else VerdictReason.UNSUPPORTED_ANNOTATION]


def test_canary_rules_without_canary() -> None:
    assert "without canary" in verdict_of(annotated({"canary-weight": "10"}), "canary-weight").message


# ---- everything else ----


@pytest.mark.parametrize(
    "name", sorted(name for name, known in KNOWN.items() if known.handling is Handling.UNSUPPORTED)
)
def test_what_is_not_supported_is_said_and_served_without(name: str) -> None:
    result = annotated({name: "something"})
    assert targets(result, "a.test") == {"Prefix /": "web:80"}
    verdict = verdict_of(result, name)
    assert (verdict.reason, verdict.severity, verdict.value) == (
        VerdictReason.UNSUPPORTED_ANNOTATION,
        Severity.WARNING,
        "something",
    )
    for harmless in KNOWN[name].harmless:
        assert annotated({name: harmless.upper()}).verdicts == ()


@pytest.mark.parametrize("name", sorted(name for name, k in KNOWN.items() if k.handling is Handling.NOT_READ_BY_NGINX))
def test_what_ingress_nginx_ignores_too(name: str) -> None:
    verdict = verdict_of(annotated({name: "x"}), name)
    assert verdict.severity is Severity.WARNING
    assert "ingress-nginx ignores it too" in verdict.message
    if name == "client-max-body-size":
        assert "proxy-body-size" in verdict.message


@pytest.mark.parametrize("name", sorted(name for name, k in KNOWN.items() if k.handling is Handling.NO_EFFECT))
def test_what_has_nothing_to_do_here_is_accepted(name: str) -> None:
    assert annotated({name: "off"}).verdicts == ()


@pytest.mark.parametrize(
    ("prefix", "name", "hint"),
    [
        (OWN, "load-balancing", "Did you mean load-balance?"),
        (NGINX, "proxy-body-sise", "Did you mean proxy-body-size?"),
        (OWN, "xyz", "it has no effect."),
        (NGINX, "xyz", "in ingress-nginx neither."),
        (NGINX, "", "no effect"),
    ],
)
def test_unknown_names(prefix: str, name: str, hint: str) -> None:
    verdict = verdict_of(annotated({name: "x"}, prefix), name, prefix)
    assert (verdict.reason, verdict.severity) == (VerdictReason.UNSUPPORTED_ANNOTATION, Severity.WARNING)
    assert hint in verdict.message


def test_names_are_given_in_full_and_values_are_cut() -> None:
    key = OWN + "x" * 200
    result = compiled(ingress("i" * 253, rule("a.test"), namespace="n" * 63, annotations={key: "v" * 5000}))
    verdict = next(v for v in result.verdicts if v.field.startswith("metadata"))
    assert verdict.object == f"Ingress {'n' * 63}/{'i' * 253}"
    assert verdict.field == f"metadata.annotations[{key}]"
    assert len(verdict.value) == 100


def test_thousands_of_unknown_names_are_all_said() -> None:
    result = annotated({f"load-balanc{i}": "x" for i in range(2000)})
    assert len(result.verdicts) == 2000
    assert sum("Did you mean" in v.message for v in result.verdicts) == 20


def test_annotations_of_others_are_none_of_our_business() -> None:
    assert annotated({"cert-manager.io/cluster-issuer": "x", "auth-url": "y"}, prefix="").verdicts == ()


def test_no_name_is_both_read_and_in_the_table() -> None:
    assert READ.isdisjoint(KNOWN)
    assert SNIPPETS.isdisjoint(KNOWN)


# ---- another prefix ----


def by_prefix(**annotations: str) -> Compilation:
    """Keyword `edge`, `nginx`, `own`: the value of proxy-read-timeout under that prefix."""
    prefixes = {"edge": "edge.test/", "nginx": NGINX, "own": OWN}
    found = {f"{prefixes[name]}proxy-read-timeout": value for name, value in annotations.items()}
    return compiled(
        ingress("ing", rule("a.test"), annotations=found),
        service("web"),
        slice_of(),
        annotation_prefixes=annotation_prefixes("edge.test"),
    )


def test_another_prefix_is_read_instead_of_that_of_ingress_nginx() -> None:
    result = by_prefix(edge="7")
    assert route_of(result).policy.read_timeout_s == 7.0
    assert result.verdicts == ()


def test_ours_win_over_another_prefix() -> None:
    assert route_of(by_prefix(edge="7", own="8")).policy.read_timeout_s == 8.0


def test_annotations_of_the_prefix_that_is_not_read_are_named() -> None:
    result = by_prefix(nginx="9", own="8")
    assert route_of(result).policy.read_timeout_s == 8.0
    verdict = verdict_of(result, "proxy-read-timeout")
    assert (verdict.severity, verdict.reason, verdict.value) == (
        Severity.WARNING,
        VerdictReason.UNSUPPORTED_ANNOTATION,
        "9",
    )
    assert "those of edge.test are (--annotations-prefix)" in verdict.message


def test_a_bad_value_under_another_prefix_is_named_as_written() -> None:
    assert verdict_of(by_prefix(edge="soon"), "proxy-read-timeout", "edge.test/").value == "soon"
