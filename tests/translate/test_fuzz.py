"""Hostile objects: whatever annotations, Secrets and ConfigMaps say, translation never raises, tells no secret, and changes nobody else's part.

The hostile Ingress may name any annotation that there is, with values made for each grammar as well as noise. It lives in a namespace of its own, beside
the Ingresses of others; those must come out as if it were not there. The thorough profile (HYPOTHESIS_PROFILE=thorough) runs it for long.
"""

import string
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingress.config import TranslateSettings
from ingress.middleware.registry import SPECS
from ingress.model import KubernetesObject
from ingress.routing.table import HostPattern, Route, RoutingTable
from ingress.translate import Compilation, compile_table
from ingress.translate.annotations.known import KNOWN, SNIPPETS
from ingress.translate.annotations.parse import READ
from tests.translate.build import config_map, ingress, path, rule, secret, service, slice_of, state_of

PREFIXES = ("nginx.ingress.kubernetes.io/", "aioingress.io/")
NAMES = sorted(
    {*READ, *KNOWN, *SNIPPETS, *(name for spec in SPECS for name in spec.annotations), "middleware.x", "typo"}
)
CANARY = "secret-that-nobody-may-see"

# Pieces of every grammar that values have: numbers, units, lists, hosts, CIDRs, URLs, variables, expressions, references.
PIECES = [
    "true",
    "false",
    "on",
    "off",
    "0",
    "1",
    "-1",
    "10",
    "100",
    "8k",
    "1m",
    "60s",
    "9999999999999",
    "1.5",
    "none",
    "cookie",
    "balanced",
    "persistent",
    "legacy",
    "any",
    "all",
    "basic",
    "digest",
    "auth-file",
    "auth-map",
    "http",
    "https",
    "HTTP",
    "HTTPS",
    "GRPC",
    "GRPCS",
    "FCGI",
    "AUTO_HTTP",
    "error",
    "timeout",
    "http_503",
    "non_idempotent",
    "round_robin",
    "ewma",
    "Strict",
    "Lax",
    "None",
    "*",
    "null",
    "10.0.0.0/8",
    "2001:db8::/32",
    "::1",
    "300.1.1.1",
    "a.test",
    "*.a.test",
    "www.victim.test",
    "victim.test",
    "http://a.test/x",
    "https://$host/$1",
    "ftp://x",
    "//evil.test/",
    "/x",
    "/../",
    "/%2e%2e/",
    "$host",
    "$request_uri",
    "$remote_addr",
    "$http_x_y",
    "${arg_a}",
    "$1",
    "$nonsense",
    "$",
    "(",
    ")",
    "[",
    "a+)+$",
    "(a*)*b",
    "(?=x)",
    "\\1",
    "~^a",
    "~(",
    "^/x(/|$)(.*)",
    "hostile/things",
    "things",
    "other/things",
    "X-Header",
    "X-Header:v",
    "Set-Cookie:",
    "\r\n",
    "\n",
    "\x00",
    "\x7f",
    "é",
    "漢",
    "😀",
    "{}",
    "{{",
    "}}",
    "%s",
    "%n",
    "'",
    '"',
    ";",
    "#",
    "|",
    "&",
    "<",
    ">",
    ",",
    "=",
    ":",
    "proxy_pass",
    "deny",
    "allow",
    "return",
    "403;",
    "lua{",
    "CN=.*",
    "401",
    "404",
    "503,504",
    "200-299",
    "2xx",
    "GET,POST",
    "GET",
    "PURGE",
    "10m,200",
    "30s",
    "1h",
    "TLSv1.2",
    "TLSv1.3",
    "SSLv2",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "!aNULL",
    "DEFAULT",
]

texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=5).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=5).map(",".join),
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    st.text(max_size=40),
    st.text(alphabet=string.printable, max_size=200),
    st.sampled_from(["x" * 10_000, "(" * 2000, "a" * 5000 + "$", ",".join(["10.0.0.0/8"] * 2000), "$host" * 1000]),
)
names = st.sampled_from(NAMES).flatmap(lambda name: st.sampled_from(PREFIXES).map(lambda prefix: prefix + name))
annotations = st.dictionaries(names, texts, max_size=8)
# Features need their switch: one draw in two turns some on.
switches = st.dictionaries(
    st.sampled_from(
        [
            name
            for name in NAMES
            if name.startswith(("enable-", "use-", "auth-", "proxy-ssl", "canary", "affinity", "custom", "limit-"))
        ]
    ).map(lambda name: PREFIXES[0] + name),
    st.sampled_from(["true", "things", "hostile/things", "basic", "cookie", "on", "10", "http://auth.test/x", "503"]),
    max_size=4,
)
paths = st.builds(
    path,
    st.one_of(st.sampled_from(["/", "/x", "/x(/|$)(.*)", "/(", "relative", "", None]), st.text(max_size=20)),
    st.sampled_from(["app", "gone", "Bad Name"]),
    st.sampled_from([80, 81, "http"]),
    st.sampled_from(["Prefix", "Exact", "ImplementationSpecific", "Odd", None]),
)
rules = st.lists(
    st.builds(
        lambda host, found: rule(host, *found),
        st.one_of(
            st.sampled_from(["hostile.test", "*.hostile.test", "", "bad host", "HOSTILE.test"]), st.text(max_size=10)
        ),
        st.lists(paths, max_size=3),
    ),
    max_size=3,
)
tls = st.lists(
    st.fixed_dictionaries(
        {"hosts": st.lists(st.sampled_from(["hostile.test", "*.hostile.test", "bad host", ""]), max_size=2)},
        optional={"secretName": st.sampled_from(["things", "gone", "Bad Name", ""])},
    ),
    max_size=2,
)
values = st.one_of(texts, st.sampled_from(["user:$apr1$x$y", "user:{SHA}x\nother:{PLAIN}y", ":", "a:b:c"]))
KEYS = ("auth", "tls.crt", "tls.key", "ca.crt", "ca.crl", "page", "X-Header", "user")
secrets = st.dictionaries(st.sampled_from(KEYS), st.one_of(values, st.just(CANARY)), max_size=5)
maps = st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=10)), values, max_size=5)
options = st.dictionaries(
    st.sampled_from(
        [
            *(
                [
                    "use-gzip",
                    "ssl-protocols",
                    "proxy-body-size",
                    "log-format-upstream",
                    "custom-http-errors",
                    "global-auth-url",
                    "hsts-max-age",
                    "proxy-real-ip-cidr",
                ]
            ),
            *(
                [
                    "whitelist-source-range",
                    "add-headers",
                    "proxy-set-headers",
                    "keep-alive",
                    "http-snippet",
                    "nonsense",
                    "allow-cross-namespace-resources",
                ]
            ),
        ]
    ),
    values,
    max_size=4,
)

VICTIMS: tuple[KubernetesObject, ...] = (
    ingress(
        "victim",
        rule("victim.test", path("/", "app"), path("/x", "app", type="Exact")),
        namespace="others",
        created="2020-01-01T00:00:00Z",
        annotations={PREFIXES[0] + "proxy-read-timeout": "7", PREFIXES[0] + "limit-rps": "5"},
    ),
    ingress("plain", rule("plain.test", path("/", "app")), namespace="others", created="2020-01-01T00:00:00Z"),
    ingress(
        "fallback",
        namespace="others",
        created="2020-01-01T00:00:00Z",
        defaultBackend={"service": {"name": "app", "port": {"number": 80}}},
    ),
    service("app", namespace="others"),
    slice_of("app", "10.9.9.9", namespace="others"),
    secret("things", "others", auth="user:{PLAIN}password"),
)
BACKENDS: tuple[KubernetesObject, ...] = (
    service("app", {"port": 80, "name": "http"}, namespace="hostile"),
    slice_of("app", "10.1.1.1", ports=[{"port": 8080, "name": "http"}], namespace="hostile"),
)
OPTIONS = ("edge", "options")


def build(*objects: KubernetesObject) -> Compilation:
    settings = TranslateSettings(config_map=OPTIONS)
    return compile_table(state_of(objects), settings, SPECS)


def of_others(table: RoutingTable) -> dict[str, Any]:
    """Everything in a table that belongs to the victims, or to nobody."""
    hosts = {name: table.hosts.get(HostPattern(name)) for name in ("victim.test", "plain.test")}
    aliases = {name: table.aliases.get(name) for name in ("victim.test", "plain.test")}  # type: ignore[call-overload]
    upstreams = {key: u for key, u in table.upstreams.items() if u.namespace == "others"}
    return {"hosts": hosts, "aliases": aliases, "upstreams": upstreams, "default": table.default}


def check(built: Compilation) -> None:
    for verdict in built.verdicts:
        assert "bug of the controller" not in verdict.message, verdict
        assert CANARY not in repr(verdict), "a verdict tells a secret"
        assert all(c.isprintable() for c in f"{verdict.object}{verdict.field}{verdict.value}{verdict.message}"), verdict
    for host in built.table.hosts.values():
        for route in host.routes:
            assert isinstance(route, Route)
    # It travels to the workers as it is.
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(built.table), type=RoutingTable).id == built.table.id


@given(annotations, switches, rules, tls, secrets, st.sampled_from(["Opaque", "kubernetes.io/tls", "x"]), maps)
@example(
    {PREFIXES[0] + "server-alias": "victim.test,*.test,~.*"}, {}, [rule("hostile.test", path())], [], {}, "Opaque", {}
)
@example({PREFIXES[0] + "from-to-www-redirect": "true"}, {}, [rule("www.victim.test", path())], [], {}, "Opaque", {})
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_hostile_ingress_harms_nobody(
    found: dict[str, str],
    on: dict[str, str],
    made_rules: list[Any],
    made_tls: list[Any],
    in_secret: dict[str, str],
    kind: str,
    in_map: dict[str, str],
) -> None:
    hostile = ingress(
        "hostile",
        *made_rules,
        namespace="hostile",
        created="2024-01-01T00:00:00Z",
        annotations={**found, **on},
        **({"tls": made_tls} if made_tls else {}),
    )
    things = secret("things", "hostile", kind, **{key.replace(".", "_"): value for key, value in in_secret.items()})
    built = build(hostile, things, config_map("things", in_map, "hostile"), *BACKENDS, *VICTIMS)
    check(built)
    assert of_others(built.table) == of_others(build(*BACKENDS, *VICTIMS).table)


@given(options)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_hostile_options_do_not_raise(data: dict[str, str]) -> None:
    """They may change everybody's routes: that is what options are for. They never take a route away."""
    built = build(config_map("options", data, "edge"), *VICTIMS)
    check(built)
    assert {"victim.test", "plain.test"} <= set(built.table.hosts)
