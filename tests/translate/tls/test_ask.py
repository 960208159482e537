"""What annotations ask for TLS: redirects, client certificates, ciphers, passthrough. Per host, the oldest Ingress decides."""

from typing import Any

import msgspec
import pytest

from ingress.config import TranslateSettings
from ingress.errors import Severity, VerdictReason
from ingress.model import ConfigMap, Ingress, Kind, KubernetesObject, ObjectRef
from ingress.routing.https import ClientCertificate, RedirectWhen, TLSRedirect
from ingress.routing.table import Feature, HostPattern, Route
from ingress.routing.tls import ClientVerify
from ingress.translate import Compilation, Compiler, compile_table
from ingress.translate.annotations.tls import default_redirect
from ingress.translate.options import DEFAULT_OPTIONS, Options
from ingress.translate.tls.hosts import HostRules
from tests.certificates import certificate, issue, revocations, secret_of, tls_secret

from ..build import ingress, path, rule, service, slice_of, state_of

NGINX = "nginx.ingress.kubernetes.io/"
ROOT = issue(common_name="root", ca=True, number=10)
CA = secret_of({"ca.crt": ROOT.pem, "ca.crl": revocations(ROOT)}, "ca")
CERT = tls_secret(certificate("a.test"))
TLS = [{"hosts": ["a.test"], "secretName": "cert"}]


def site(
    name: str = "ing", path_: str = "/", host: str = "a.test", namespace: str = "default", **annotations: str
) -> Ingress:
    named = {f"{NGINX}{key.replace('_', '-')}": value for key, value in annotations.items()}
    year = {"old": "2020", "new": "2022"}.get(name, "2021")
    return ingress(
        name,
        rule(host, path(path_)),
        namespace=namespace,
        annotations=named,
        created=f"{year}-01-01T00:00:00Z",
        tls=TLS,
    )


def compiled(*objects: KubernetesObject, **settings: Any) -> Compilation:
    backends = [part(namespace=n) for n in ("default", "other") for part in (service, slice_of)]
    return compile_table(state_of([*backends, CERT, CA, *objects]), TranslateSettings(**settings))


def policy(features: tuple[Feature, ...], name: str, kind: type) -> Any:
    found = [msgspec.convert(f.policy, kind) for f in features if f.name == name]
    return found[0] if found else None


def client(result: Compilation, host: str = "a.test") -> ClientCertificate | None:
    found: ClientCertificate | None = policy(
        result.table.hosts[HostPattern(host)].features, "client-certificate", ClientCertificate
    )
    return found


def redirect(route: Route) -> TLSRedirect | None:
    found: TLSRedirect | None = policy(route.features, "tls-redirect", TLSRedirect)
    return found


def only_route(result: Compilation) -> Route:
    (route,) = result.table.hosts[HostPattern("a.test")].routes
    return route


# ---- redirects and HSTS ----


def test_hosts_with_a_certificate_have_both_and_others_nothing() -> None:
    result = compiled(site(), ingress("plain", rule("p.test"), namespace="default"))
    host, plain = result.table.hosts[HostPattern("a.test")], result.table.hosts[HostPattern("p.test")]
    assert policy(host.features, "tls-redirect", TLSRedirect) == default_redirect(DEFAULT_OPTIONS, 443)
    assert [f.policy for f in host.features if f.name == "hsts"] == [{"value": "max-age=31536000; includeSubDomains"}]
    assert only_route(result).features == ()
    assert (plain.features, plain.unmatched, plain.certificate) == ((), (), False)
    assert plain.routes[0].features == ()


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"ssl_redirect": "false"}, TLSRedirect(RedirectWhen.NEVER)),
        ({"force_ssl_redirect": "true"}, TLSRedirect(RedirectWhen.ALWAYS)),
        ({"force_ssl_redirect": "true", "ssl_redirect": "false"}, TLSRedirect(RedirectWhen.ALWAYS)),
        ({"preserve_trailing_slash": "true"}, TLSRedirect(keep_trailing_slash=True)),
        ({"use_port_in_redirects": "true"}, TLSRedirect(port=8443)),
        ({"ssl_redirect": "true"}, None),
        ({"force_ssl_redirect": "false"}, None),
    ],
)
def test_what_an_ingress_says(annotations: dict[str, str], expected: TLSRedirect | None) -> None:
    result = compiled(site(**annotations), https_port=8443)
    if expected is not None:
        expected = msgspec.structs.replace(expected, exempt=DEFAULT_OPTIONS.no_tls_redirect_locations)
    assert redirect(only_route(result)) == expected
    host = result.table.hosts[HostPattern("a.test")]
    assert policy(host.unmatched, "tls-redirect", TLSRedirect) == expected
    assert result.verdicts == ()


@pytest.mark.parametrize(
    "name", ["ssl_redirect", "force_ssl_redirect", "preserve_trailing_slash", "use_port_in_redirects"]
)
def test_bad_switches(name: str) -> None:
    result = compiled(site(**{name: "yes please"}))
    (verdict,) = result.verdicts
    assert (verdict.field, verdict.value) == (f"metadata.annotations[{NGINX}{name.replace('_', '-')}]", "yes please")
    assert redirect(only_route(result)) is None


def test_the_oldest_speaks_for_what_no_route_takes() -> None:
    result = compiled(site("old", "/a"), site("new", "/b", ssl_redirect="false"))
    host = result.table.hosts[HostPattern("a.test")]
    assert host.unmatched == ()
    assert [redirect(route) is not None for route in host.routes] == [False, True]


def test_a_route_closed_by_an_access_rule_is_not_redirected() -> None:
    """nginx answers 503 before it thinks of one. A missing Service is another matter."""
    closed = compiled(site(auth_secret_of_sorts="x"))
    assert only_route(closed).upstream is None
    assert redirect(only_route(closed)) == TLSRedirect(RedirectWhen.NEVER)
    missing = compile_table(state_of([site(), CERT]), TranslateSettings())
    assert only_route(missing).upstream is None
    assert redirect(only_route(missing)) is None


def test_the_default_backend_of_all_hosts_is_not_redirected() -> None:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    result = compiled(ingress("ing", annotations={f"{NGINX}force-ssl-redirect": "true"}, defaultBackend=backend))
    assert result.table.default is not None
    assert result.table.default.features == ()


@pytest.mark.parametrize(
    ("options", "certificate", "names"),
    [
        (Options(), True, ["tls-redirect", "hsts"]),
        (Options(), False, []),
        (Options(ssl_redirect=False), True, ["hsts"]),
        (Options(hsts=False), True, ["tls-redirect"]),
        (Options(ssl_redirect=False, hsts=False), True, []),
        (Options(force_ssl_redirect=True), False, ["tls-redirect"]),
        (Options(force_ssl_redirect=True), True, ["tls-redirect", "hsts"]),
    ],
)
def test_options(options: Options, certificate: bool, names: list[str]) -> None:
    assert [f.name for f in HostRules(options, 443).features(certificate=certificate)] == names


@pytest.mark.parametrize(
    ("options", "value"),
    [
        (Options(hsts_max_age_s=86400), "max-age=86400; includeSubDomains"),
        (Options(hsts_max_age_s=86400, hsts_include_subdomains=False), "max-age=86400"),
        (Options(hsts_max_age_s=86400, hsts_include_subdomains=False, hsts_preload=True), "max-age=86400; preload"),
        (Options(hsts_preload=True), "max-age=31536000; includeSubDomains; preload"),
    ],
)
def test_hsts(options: Options, value: str) -> None:
    assert HostRules(options, 443).features(certificate=True)[-1].policy == {"value": value}


def test_options_of_redirects() -> None:
    options = Options(
        http_redirect_code=301, preserve_trailing_slash=True, use_port_in_redirects=True, no_tls_redirect_locations=()
    )
    assert default_redirect(options, 444) == TLSRedirect(RedirectWhen.CERTIFICATE, 301, True, 444, ())


# ---- client certificates ----


def test_client_certificates() -> None:
    result = compiled(site(auth_tls_secret="default/ca"))
    assert client(result) == ClientCertificate()
    auth = result.table.tls_hosts[HostPattern("a.test")].client_auth
    assert auth is not None
    assert (auth.ca.decode(), auth.verify, auth.depth) == (ROOT.pem, ClientVerify.ON, 1)
    assert auth.crl
    assert ObjectRef(Kind.SECRET, "default", "ca") in result.references
    assert result.verdicts == ()
    assert result.table.hosts[HostPattern("a.test")].routes[0].upstream is not None


def test_details() -> None:
    result = compiled(
        site(
            auth_tls_secret="ca",
            auth_tls_verify_client="optional_no_ca",
            auth_tls_verify_depth="3",
            auth_tls_pass_certificate_to_upstream="true",
            auth_tls_error_page="https://login.test/denied?x=1",
            auth_tls_match_cn="CN=(a|b)",
        )
    )
    assert client(result) == ClientCertificate("optional_no_ca", True, "CN=(a|b)", "https://login.test/denied?x=1")
    auth = result.table.tls_hosts[HostPattern("a.test")].client_auth
    assert auth is not None
    assert (auth.verify, auth.depth) == (ClientVerify.OPTIONAL_NO_CA, 3)
    assert result.verdicts == ()


def test_off_asks_nobody() -> None:
    result = compiled(site(auth_tls_secret="ca", auth_tls_verify_client="off"))
    assert client(result) == ClientCertificate("off")
    assert result.table.tls_hosts[HostPattern("a.test")].client_auth is None


@pytest.mark.parametrize(
    ("annotations", "field", "why"),
    [
        ({"auth_tls_secret": "gone"}, "auth-tls-secret", "Secret default/gone does not exist"),
        ({"auth_tls_secret": "other/ca"}, "auth-tls-secret", "in namespace other"),
        ({"auth_tls_secret": "a b"}, "auth-tls-secret", "not the name of a Secret"),
        ({"auth_tls_secret": ""}, "auth-tls-secret", "not the name of a Secret"),
        ({"auth_tls_secret": "cert"}, "auth-tls-secret", "ca.crt: the Secret has no such key"),
        ({"auth_tls_secret": "junk"}, "auth-tls-secret", "ca.crt: it holds no certificate"),
        ({"auth_tls_secret": "ca", "auth_tls_match_cn": "a"}, "auth-tls-match-cn", "does not start with CN="),
        ({"auth_tls_secret": "ca", "auth_tls_match_cn": "CN=("}, "auth-tls-match-cn", "not a regular expression"),
        ({"auth_tls_secret": "ca", "auth_tls_match_cn": "CN=(?=x)"}, "auth-tls-match-cn", "not a regular expression"),
        ({"auth_tls_secret": "ca", "auth_tls_match_cn": "CN=" + "a" * 1000}, "auth-tls-match-cn", "longer than"),
    ],
)
def test_a_rule_that_cant_be_kept_closes_its_host_and_no_other(
    annotations: dict[str, str], field: str, why: str
) -> None:
    junk = secret_of({"ca.crt": "junk"}, "junk")
    result = compiled(
        site(**annotations), site("b", host="b.test"), junk, secret_of({"ca.crt": ROOT.pem}, "ca", "other")
    )
    assert client(result) == ClientCertificate(closed=True)
    assert client(result, "b.test") is None
    verdict = next(v for v in result.verdicts if "auth" in v.field)
    assert verdict.field == f"metadata.annotations[{NGINX}{field}]"
    assert verdict.severity is Severity.ERROR
    assert why in verdict.message
    assert "403" in verdict.message
    assert [v for v in result.verdicts if v.object == "Ingress default/ing"] == [verdict]


@pytest.mark.parametrize(
    ("name", "value", "default"),
    [
        ("verify_client", "sometimes", ClientCertificate()),
        ("verify_depth", "-1", ClientCertificate()),
        ("pass_certificate_to_upstream", "maybe", ClientCertificate()),
        ("error_page", "@named", ClientCertificate()),
        ("error_page", "/denied", ClientCertificate()),
        ("error_page", "javascript://x/%0aalert(1)", ClientCertificate()),
        ("error_page", "https://x.test/\r\nSet-Cookie: a", ClientCertificate()),
        ("error_page", "http:///x", ClientCertificate()),
        ("error_page", "https://[x", ClientCertificate()),
    ],
)
def test_bad_details_leave_the_strict_default(name: str, value: str, default: ClientCertificate) -> None:
    result = compiled(site(auth_tls_secret="ca", **{f"auth_tls_{name}": value}))
    assert client(result) == default
    auth = result.table.tls_hosts[HostPattern("a.test")].client_auth
    assert auth is not None
    assert (auth.verify, auth.depth) == (ClientVerify.ON, 1)
    (verdict,) = result.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}auth-tls-{name.replace('_', '-')}]"


def test_a_depth_of_nought_is_the_default_as_in_ingress_nginx() -> None:
    result = compiled(site(auth_tls_secret="ca", auth_tls_verify_depth="0"))
    auth = result.table.tls_hosts[HostPattern("a.test")].client_auth
    assert auth is not None
    assert auth.depth == 1


def test_details_alone_do_nothing_as_in_ingress_nginx() -> None:
    result = compiled(site(auth_tls_verify_client="on", auth_tls_match_cn="CN=x"))
    assert client(result) is None
    assert [v.reason for v in result.verdicts] == [VerdictReason.INVALID_ANNOTATION] * 2
    assert all("no effect without auth-tls-secret" in v.message for v in result.verdicts)


def test_the_oldest_rule_holds_and_another_closes_its_own_paths() -> None:
    old, new = (
        site("old", "/old", auth_tls_secret="ca"),
        site("new", "/new", auth_tls_secret="ca", auth_tls_match_cn="CN=x"),
    )
    result = compiled(old, new, site("plain", "/plain"))
    assert client(result) == ClientCertificate(closed_for=("default/new",))
    conflict = next(v for v in result.verdicts if v.reason is VerdictReason.CONFLICT)
    assert (conflict.object, conflict.field) == ("Ingress default/new", f"metadata.annotations[{NGINX}auth-tls-secret]")
    assert "403" in conflict.message


def test_equal_rules_are_no_conflict() -> None:
    result = compiled(site("old", "/old", auth_tls_secret="ca"), site("new", "/new", auth_tls_secret="default/ca"))
    assert client(result) == ClientCertificate()
    assert result.verdicts == ()


def test_a_rule_without_hosts_closes_the_default_backend() -> None:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    result = compiled(ingress("ing", annotations={f"{NGINX}auth-tls-secret": "ca"}, defaultBackend=backend))
    assert result.table.default is not None
    assert policy(result.table.default.features, "client-certificate", ClientCertificate).closed
    assert result.verdicts[0].reason is VerdictReason.ACCESS_RULE_REJECTED


def test_another_namespace_closes_nothing_but_its_own() -> None:
    """A host belongs to whoever had it first."""
    for reference in ("other/gone", "other/ca"):
        theirs = site("new", "/theirs", namespace="other", auth_tls_secret=reference)
        result = compiled(site("old", "/"), theirs, secret_of({"ca.crt": ROOT.pem}, "ca", "other"))
        assert client(result) == ClientCertificate("", closed_for=("other/new",))
        assert result.table.tls_hosts[HostPattern("a.test")].client_auth is None
        conflict = next(v for v in result.verdicts if v.reason is VerdictReason.CONFLICT)
        assert "belongs to another namespace: Ingress default/old has it already" in conflict.message


def test_another_namespace_does_not_choose_ciphers() -> None:
    result = compiled(site("old", "/"), site("new", "/n", namespace="other", ssl_ciphers="NULL"))
    assert result.table.tls_hosts[HostPattern("a.test")].ciphers == ""


@pytest.mark.parametrize(
    "annotations", [{"auth_tls_secret": "ca"}, {"ssl_passthrough": "true"}, {"ssl_ciphers": "HIGH"}]
)
def test_what_a_wildcard_asks_does_not_spread_to_hosts_of_their_own(annotations: dict[str, str]) -> None:
    """The look-up of a name without entry would end at the wildcard's."""
    wild = ingress(
        "wild", rule("*.test"), annotations={f"{NGINX}{k.replace('_', '-')}": v for k, v in annotations.items()}
    )
    result = compiled(wild, ingress("plain", rule("p.test")), ssl_passthrough=True)
    own = result.table.tls_hosts[HostPattern("p.test")]
    assert (own.client_auth, own.passthrough, own.ciphers) == (None, "", "")
    assert not result.table.hosts[HostPattern("p.test")].certificate
    assert client(result, "p.test") is None


# ---- ciphers and passthrough ----


def test_ciphers() -> None:
    result = compiled(
        site("old", "/old", ssl_prefer_server_ciphers="false"),
        site("new", "/new", ssl_ciphers="HIGH:!aNULL:@SECLEVEL=1", ssl_prefer_server_ciphers="true"),
    )
    found = result.table.tls_hosts[HostPattern("a.test")]
    assert (found.ciphers, found.prefer_server_ciphers) == ("HIGH:!aNULL:@SECLEVEL=1", False)


@pytest.mark.parametrize("text", ["", "a b", "x;y", "HIGH'", "a" * 2000, "HIGH\n", "NONSENSE", "HIGH:!ALL", "+HIGH"])
def test_bad_ciphers(text: str) -> None:
    result = compiled(site(ssl_ciphers=text + "\u00a0"))
    assert result.table.tls_hosts[HostPattern("a.test")].ciphers == ("HIGH" if text == "HIGH\n" else "")
    assert len(result.verdicts) == (0 if text == "HIGH\n" else 1)


def test_passthrough() -> None:
    result = compiled(site("old", "/a"), site("new", "/", ssl_passthrough="true"), ssl_passthrough=True)
    assert result.table.tls_hosts[HostPattern("a.test")].passthrough == "default/web:80"
    assert result.verdicts == ()


def test_passthrough_needs_the_flag() -> None:
    result = compiled(site(ssl_passthrough="true"))
    assert result.table.tls_hosts[HostPattern("a.test")].passthrough == ""
    assert "--enable-ssl-passthrough is not set" in result.verdicts[0].message


def test_passthrough_is_for_the_ingress_that_has_the_path() -> None:
    result = compiled(site("old", "/"), site("new", "/n", ssl_passthrough="true"), ssl_passthrough=True)
    assert result.table.tls_hosts[HostPattern("a.test")].passthrough == ""
    assert result.verdicts[0].object == "Ingress default/new"


def test_passthrough_needs_the_path() -> None:
    result = compiled(site(path_="/a", ssl_passthrough="true"), ssl_passthrough=True)
    assert result.table.tls_hosts[HostPattern("a.test")].passthrough == ""
    assert "only path / is passed through" in result.verdicts[0].message


# ---- what the operator says ----


def options_map(**data: str) -> ConfigMap:
    values = {key.replace("_", "-"): value for key, value in data.items()}
    return msgspec.convert({"metadata": {"name": "options", "namespace": "system"}, "data": values}, ConfigMap)


def test_options_are_followed() -> None:
    compiler = Compiler(TranslateSettings(config_map=("system", "options")))
    backends = [service(), slice_of(), CERT, site()]
    for data, names in (
        ({}, ["tls-redirect", "hsts"]),
        ({"ssl_redirect": "false"}, ["hsts"]),
        ({"ssl_redirect": "false", "hsts": "false"}, []),
        ({"hsts": "true"}, ["tls-redirect", "hsts"]),
    ):
        result = compiler.compile(state_of([*backends, options_map(**data)]), None)
        assert [f.name for f in result.table.hosts[HostPattern("a.test")].features] == names


@pytest.mark.parametrize(
    "data", [{"annotations_risk_level": "Medium"}, {"annotation_value_word_blocklist": "CN=alice,lua"}]
)
def test_a_refused_part_of_the_rule_closes_the_host(data: dict[str, str]) -> None:
    """It would have held for the paths of other Ingresses too."""
    asking = site("old", "/old", auth_tls_secret="ca", auth_tls_match_cn="CN=alice")
    result = compiled(asking, site("new", "/new"), options_map(**data), config_map=("system", "options"))
    assert client(result) == ClientCertificate(closed=True)
