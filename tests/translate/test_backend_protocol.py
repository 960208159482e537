"""How backends are spoken to: backend-protocol, proxy-ssl-*, service-upstream and their like. What can't be kept closes the routes."""

from typing import Any

import msgspec
import pytest

from ingress.config import TranslateSettings
from ingress.errors import Severity, VerdictReason
from ingress.model import KubernetesObject, Secret
from ingress.routing.table import AffinityMode, Balancing, Endpoint, LoadBalance, Upstream, UpstreamProtocol
from ingress.routing.tls import UpstreamTLS
from ingress.translate import Compilation
from ingress.translate.compiler import Compiler, compile_table
from tests.proxy import pki
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
ROOT, OTHER = pki.authority(), pki.authority("other")
CLIENT = ROOT.issue("client")
RSA_CLIENT = ROOT.issue("client", kind="rsa")
FULL = secret("tls", ca_crt=ROOT.pem, tls_crt=CLIENT.chain, tls_key=CLIENT.key_pem)


def build(*more: KubernetesObject, svc: dict[str, Any] | None = None, **annotations: str) -> Compilation:
    made = ingress("i", rule("a.test"), annotations={NGINX + k.replace("_", "-"): v for k, v in annotations.items()})
    svc = dict(svc or {})
    return compiled(made, service("web", *svc.pop("ports", ()), **svc), slice_of(), *more)


def upstream_of(result: Compilation) -> Upstream:
    (upstream,) = result.table.upstreams.values()
    return upstream


def tls_of(result: Compilation) -> UpstreamTLS:
    tls = upstream_of(result).tls
    assert tls is not None
    return tls


def https(*more: KubernetesObject, **annotations: str) -> Compilation:
    return build(*more, backend_protocol="HTTPS", **annotations)


def closed(result: Compilation, name: str) -> str:
    """The message; that everything is as it must be where the routes are closed is asserted."""
    assert targets(result, "a.test") == {"Prefix /": "503"}
    assert not result.table.upstreams
    (verdict,) = result.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}{name}]"
    assert (verdict.reason, verdict.severity) == (VerdictReason.ACCESS_RULE_REJECTED, Severity.ERROR)
    return verdict.message


# ---- backend-protocol ----


@pytest.mark.parametrize(
    ("value", "protocol"),
    [
        ("HTTPS", UpstreamProtocol.HTTPS),
        ("https", UpstreamProtocol.HTTPS),
        ("AUTO_HTTP", UpstreamProtocol.AUTO_HTTP),
        ("auto_http", UpstreamProtocol.AUTO_HTTP),
    ],
)
def test_protocols(value: str, protocol: UpstreamProtocol) -> None:
    result = build(backend_protocol=value)
    assert upstream_of(result).protocol is protocol
    assert tls_of(result) == UpstreamTLS(name="web.default.svc")
    assert result.verdicts == ()


def test_tls_by_app_protocol() -> None:
    result = build(FULL, svc={"ports": [{"port": 80, "appProtocol": "https"}]}, proxy_ssl_secret="default/tls")
    assert upstream_of(result).protocol is UpstreamProtocol.HTTPS
    assert tls_of(result).certificate is not None
    assert result.verdicts == ()


def test_the_name_of_an_external_host_is_its_own_and_sent() -> None:
    def external(name: str, **annotations: str) -> UpstreamTLS:
        svc = {"type": "ExternalName", "externalName": name}
        made = ingress(
            "i", rule("a.test"), annotations={NGINX + k.replace("_", "-"): v for k, v in annotations.items()}
        )
        return tls_of(compiled(made, service("web", **svc), resolved={"api.example.com": ["192.0.2.1"]}))

    annotations = {"backend_protocol": "HTTPS"}
    assert external("API.example.com.", **annotations) == UpstreamTLS(name="api.example.com", server_name=True)
    assert external("192.0.2.1", **annotations).name == "192.0.2.1"
    assert not external("api.example.com", **annotations, proxy_ssl_server_name="off").server_name
    assert external("api.example.com", **annotations, proxy_ssl_name="B.test") == UpstreamTLS(
        name="b.test", server_name=True
    )


def test_tls_settings_without_tls_get_a_warning() -> None:
    result = build(FULL, backend_protocol="HTTP", proxy_ssl_secret="default/tls")
    assert upstream_of(result) == upstream_of(build())
    (verdict,) = result.verdicts
    assert verdict.severity is Severity.WARNING
    assert "no effect" in verdict.message


def test_tls_settings_that_the_service_makes_nothing_of() -> None:
    result = build(FULL, proxy_ssl_secret="tls", proxy_ssl_verify="on")
    assert (upstream_of(result).protocol, upstream_of(result).tls) == (UpstreamProtocol.HTTP, None)
    (verdict,) = result.verdicts
    assert (verdict.object, verdict.field) == ("Service default/web", "spec.ports[0].appProtocol")
    assert verdict.severity is Severity.WARNING


# ---- proxy-ssl-* ----


def test_everything_at_once() -> None:
    crl = ROOT.revoke(RSA_CLIENT)
    made = secret("tls", ca_crt=ROOT.pem, ca_crl=crl, tls_crt=CLIENT.chain, tls_key=CLIENT.key_pem)
    result = https(
        made,
        proxy_ssl_secret="default/tls",
        proxy_ssl_verify="on",
        proxy_ssl_verify_depth="2",
        proxy_ssl_name="Web.Test",
        proxy_ssl_server_name="on",
        proxy_ssl_ciphers="HIGH:!AES",
        proxy_ssl_protocols="TLSv1.3 TLSv1.2",
    )
    assert result.verdicts == ()
    tls = tls_of(result)
    assert tls.certificate is not None
    assert tls.certificate.chain == CLIENT.chain
    assert msgspec.structs.replace(tls, certificate=None) == UpstreamTLS(
        True, ROOT.pem, crl, "web.test", True, 2, "HIGH:!AES", ("TLSv1.2", "TLSv1.3")
    )


@pytest.mark.parametrize("reference", ["tls", "default/tls"])
@pytest.mark.parametrize("pair", [CLIENT, RSA_CLIENT], ids=["ec", "rsa"])
def test_a_client_certificate_alone(reference: str, pair: pki.Pair) -> None:
    result = https(secret("tls", tls_crt=pair.chain, tls_key=pair.key_pem), proxy_ssl_secret=reference)
    assert tls_of(result).certificate is not None
    assert not tls_of(result).verify
    assert result.verdicts == ()


def test_names_and_server_names_need_no_secret() -> None:
    tls = tls_of(https(proxy_ssl_name="a.test", proxy_ssl_server_name="on"))
    assert tls == UpstreamTLS(name="a.test", server_name=True)


def test_junk_between_certificates_is_left_out() -> None:
    tls = tls_of(
        https(secret("tls", ca_crt=b"# root\n" + ROOT.pem + b"\nother:\n" + OTHER.pem), proxy_ssl_secret="tls")
    )
    assert tls.ca == ROOT.pem + OTHER.pem


@pytest.mark.parametrize(
    ("made", "annotations", "name", "part"),
    [
        (None, {"proxy_ssl_secret": "default/tls"}, "proxy-ssl-secret", "does not exist"),
        (FULL, {"proxy_ssl_secret": "other/tls"}, "proxy-ssl-secret", "allow-cross-namespace-resources"),
        (FULL, {"proxy_ssl_secret": "a/b/c"}, "proxy-ssl-secret", "not the name of a Secret"),
        (FULL, {"proxy_ssl_secret": ""}, "proxy-ssl-secret", "not the name of a Secret"),
        (secret("tls"), {"proxy_ssl_secret": "tls"}, "proxy-ssl-secret", "holds neither"),
        (secret("tls", tls_crt=CLIENT.pem), {"proxy_ssl_secret": "tls"}, "proxy-ssl-secret", "only one of"),
        (
            secret("tls", tls_crt=CLIENT.pem, tls_key=RSA_CLIENT.key_pem),
            {"proxy_ssl_secret": "tls"},
            "proxy-ssl-secret",
            "does not belong",
        ),
        (
            secret("tls", tls_crt="junk", tls_key=CLIENT.key_pem),
            {"proxy_ssl_secret": "tls"},
            "proxy-ssl-secret",
            "tls.crt holds no certificate",
        ),
        (
            secret("tls", tls_crt=CLIENT.pem, tls_key="junk"),
            {"proxy_ssl_secret": "tls"},
            "proxy-ssl-secret",
            "tls.key is not a private key",
        ),
        (secret("tls", ca_crt="junk"), {"proxy_ssl_secret": "tls"}, "proxy-ssl-secret", "ca.crt holds no certificate"),
        (
            secret("tls", ca_crt=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            {"proxy_ssl_secret": "tls"},
            "proxy-ssl-secret",
            "ca.crt holds no certificate",
        ),
        (
            secret("tls", ca_crt=ROOT.pem, ca_crl="junk"),
            {"proxy_ssl_secret": "tls"},
            "proxy-ssl-secret",
            "ca.crl holds no revocation list",
        ),
        (
            secret("tls", tls_crt=CLIENT.chain, tls_key=CLIENT.key_pem),
            {"proxy_ssl_secret": "tls", "proxy_ssl_verify": "on"},
            "proxy-ssl-secret",
            "no ca.crt to verify by",
        ),
        (None, {"proxy_ssl_verify": "on"}, "proxy-ssl-verify", "no proxy-ssl-secret"),
        (FULL, {"proxy_ssl_secret": "tls", "proxy_ssl_verify": "true"}, "proxy-ssl-verify", "neither"),
    ],
)
def test_what_cannot_be_kept_closes_the_routes(
    made: Secret | None, annotations: dict[str, str], name: str, part: str
) -> None:
    assert part in closed(https(*(() if made is None else (made,)), **annotations), name)


def test_data_that_is_not_base64() -> None:
    made = msgspec.convert({"metadata": {"name": "tls", "namespace": "default"}, "data": {"ca.crt": "%"}}, Secret)
    assert "not base64" in closed(https(made, proxy_ssl_secret="tls"), "proxy-ssl-secret")


def test_other_ingresses_are_served() -> None:
    bad = ingress(
        "bad",
        rule("a.test", path("/x")),
        annotations={NGINX + "proxy-ssl-verify": "on", NGINX + "backend-protocol": "HTTPS"},
    )
    result = compiled(bad, ingress("good", rule("a.test", path("/y"))), service("web"), slice_of())
    assert targets(result, "a.test") == {"Prefix /x": "503", "Prefix /y": "web:80"}


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("proxy-ssl-name", "a b", "neither a DNS name nor an IP"),
        ("proxy-ssl-name", "", "neither a DNS name"),
        ("proxy-ssl-name", "a..b", "neither a DNS name"),
        ("proxy-ssl-name", "x" * 64, "neither a DNS name"),
        ("proxy-ssl-name", "*.test", "neither a DNS name"),
        ("proxy-ssl-name", "$host", "neither a DNS name"),
        ("proxy-ssl-name", "a\r\nb", "neither a DNS name"),
        ("proxy-ssl-server-name", "yes", "neither"),
        ("proxy-ssl-verify-depth", "0", "from 1 to 100"),
        ("proxy-ssl-verify-depth", "-1", "from 1 to 100"),
        ("proxy-ssl-verify-depth", "٣", "from 1 to 100"),
        ("proxy-ssl-ciphers", "", "list of ciphers"),
        ("proxy-ssl-ciphers", "DEFAULT@SECLEVEL=0", "list of ciphers"),
        ("proxy-ssl-ciphers", "A;B", "list of ciphers"),
        ("proxy-ssl-ciphers", "NONSENSE", "no cipher of this list"),
        ("proxy-ssl-protocols", "SSLv3 TLSv1.2", "SSLv3"),
        ("proxy-ssl-protocols", "", "empty"),
        ("proxy-http-version", "2", "neither 1.0 nor 1.1"),
        ("connection-proxy-header", "upgrade", "neither close nor keep-alive"),
        ("connection-proxy-header", "close\r\nX: y", "neither"),
    ],
)
def test_a_malformed_value_costs_itself(name: str, value: str, part: str) -> None:
    result = https(**{name.replace("-", "_"): value})
    assert tls_of(result) == UpstreamTLS(name="web.default.svc")
    assert upstream_of(result).http_version == "1.1"
    assert upstream_of(result).connection_header == ""
    (verdict,) = result.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}{name}]"
    assert (verdict.reason, verdict.severity) == (VerdictReason.INVALID_ANNOTATION, Severity.ERROR)
    assert part in verdict.message


def test_nobody_sees_the_key() -> None:
    result = https(FULL, proxy_ssl_secret="tls", proxy_ssl_verify="on")
    assert b"PRIVATE" in msgspec.msgpack.encode(result.table)  # the workers do
    assert "PRIVATE" not in repr(result.table)
    assert "PRIVATE" not in str(result.verdicts)


# ---- identity of upstreams ----


def test_other_wishes_are_other_upstreams() -> None:
    wishes: list[dict[str, str]] = [
        {},
        {"backend-protocol": "HTTPS"},
        {"backend-protocol": "AUTO_HTTP"},
        {"backend-protocol": "HTTPS", "proxy-ssl-server-name": "on"},
        {"backend-protocol": "HTTPS", "proxy-ssl-server-name": "off"},
        {"backend-protocol": "HTTPS", "proxy-ssl-secret": "tls"},
        {"backend-protocol": "HTTPS", "proxy-ssl-secret": "tls", "proxy-ssl-verify": "on"},
        {"backend-protocol": "HTTPS", "proxy-ssl-secret": "tls2"},
        {"proxy-http-version": "1.0"},
        {"connection-proxy-header": "close"},
        {"service-upstream": "true"},
    ]
    objects = [
        ingress(
            f"i{number}-{twin}", rule(f"h{number}-{twin}.test"), annotations={NGINX + k: v for k, v in wish.items()}
        )
        for number, wish in enumerate(wishes)
        for twin in "ab"
    ]
    twin_secret = msgspec.structs.replace(FULL, metadata=msgspec.structs.replace(FULL.metadata, name="tls2"))
    result = compiled(*objects, service("web"), slice_of(), FULL, twin_secret)
    assert result.verdicts == ()
    assert len(result.table.upstreams) == len(wishes)
    for number in range(len(wishes)):
        a, b = (result.table.hosts[f"h{number}-{twin}.test"].routes[0].upstream for twin in "ab")  # type: ignore[index]
        assert a == b


def test_a_rotation_keeps_the_upstream_and_changes_its_content() -> None:
    """By the key sessions live on: a new certificate must not end them."""

    def state(*more: KubernetesObject) -> Any:
        annotations = {"backend-protocol": "HTTPS", "proxy-ssl-secret": "tls", "proxy-ssl-verify": "on"}
        made = [
            ingress(name, rule(f"{name}.test"), annotations={NGINX + k: v for k, v in annotations.items()})
            for name in ("a", "b")
        ]
        return state_of([*made, service("web"), slice_of(), *more])

    compiler = Compiler(TranslateSettings())
    first = compiler.compile(state(FULL), None)
    rotated = secret("tls", ca_crt=ROOT.pem + OTHER.pem)
    second = compiler.compile(state(rotated), frozenset((rotated.ref,)))
    assert second.table.upstreams.keys() == first.table.upstreams.keys()
    assert tls_of(second).ca == ROOT.pem + OTHER.pem
    assert tls_of(second).certificate is None
    assert second == compile_table(state(rotated), TranslateSettings())
    assert second.table.id != first.table.id
    gone = compiler.compile(state(), frozenset((rotated.ref,)))
    assert targets(gone, "a.test") == {"Prefix /": "503"}
    assert rotated.ref in gone.references
    assert compiler.compile(state(FULL), frozenset((rotated.ref,))).table == first.table


# ---- service-upstream ----


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::1"])
def test_service_upstream(address: str) -> None:
    svc = {"clusterIP": address, "ports": [{"port": 80, "targetPort": 8080}], "sessionAffinity": "ClientIP"}
    result = build(svc=svc, service_upstream="true", load_balance="ewma")
    upstream = upstream_of(result)
    assert upstream.endpoints == (Endpoint(address, 80),)
    assert upstream.balancing == Balancing()
    assert result.verdicts == ()


@pytest.mark.parametrize("svc", [{"clusterIP": "None"}, {"clusterIP": ""}, {}])
def test_service_upstream_without_cluster_ip(svc: dict[str, Any]) -> None:
    result = build(svc=svc, service_upstream="true")
    assert upstream_of(result).endpoints == (Endpoint("10.0.0.1", 8080),)


def test_service_upstream_of_an_external_name() -> None:
    made = ingress("i", rule("a.test"), annotations={NGINX + "service-upstream": "true"})
    result = compiled(made, service("web", type="ExternalName", externalName="192.0.2.1"))
    assert upstream_of(result).endpoints == (Endpoint("192.0.2.1", 80),)


def test_service_upstream_has_no_sessions() -> None:
    result = build(svc={"clusterIP": "10.1.2.3"}, service_upstream="true", affinity="cookie")
    assert upstream_of(result).balancing.affinity is AffinityMode.NONE
    (verdict,) = result.verdicts
    assert verdict.field == f"metadata.annotations[{NGINX}affinity]"
    assert verdict.severity is Severity.WARNING


def test_service_upstream_off_is_nothing_new() -> None:
    assert upstream_of(build(service_upstream="false")) == upstream_of(build())


# ---- subsets ----


@pytest.mark.parametrize(
    ("annotations", "size"),
    [
        ({}, 0),
        ({"upstream_hash_by_subset": "true"}, 3),
        ({"upstream_hash_by_subset": "true", "upstream_hash_by_subset_size": "0"}, 3),
        ({"upstream_hash_by_subset": "true", "upstream_hash_by_subset_size": "5"}, 5),
        ({"upstream_hash_by_subset": "false", "upstream_hash_by_subset_size": "5"}, 0),
    ],
)
def test_subsets(annotations: dict[str, str], size: int) -> None:
    result = build(upstream_hash_by="$request_uri", **annotations)
    balancing = upstream_of(result).balancing
    assert (balancing.load_balance, balancing.hash_subset_size) == (LoadBalance.CONSISTENT_HASH, size)
    assert result.verdicts == ()


def test_subsets_of_what() -> None:
    result = build(upstream_hash_by_subset="true")
    assert upstream_of(result).balancing == Balancing()
    (verdict,) = result.verdicts
    assert "without upstream-hash-by" in verdict.message


def test_a_malformed_subset_size() -> None:
    result = build(upstream_hash_by="$uri", upstream_hash_by_subset="true", upstream_hash_by_subset_size="many")
    assert upstream_of(result).balancing.hash_subset_size == 3
    assert len(result.verdicts) == 1


def test_config_maps_are_no_secrets() -> None:
    assert "does not exist" in closed(https(config_map("tls", {}), proxy_ssl_secret="tls"), "proxy-ssl-secret")
