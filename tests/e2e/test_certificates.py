"""The real program: certificates of Secrets in manifests, redirects, HSTS, client certificates, and that no key is ever shown."""

import ssl
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.certificates import NOW, Issued, certificate, issue, revocations
from tests.e2e.support import Answer, Connection, Document, Pods, Serve, app, eventually, ingress, path, rule, write

NGINX = "nginx.ingress.kubernetes.io/"
A, A_RSA, B = certificate("a.test"), certificate("a.test", kind="rsa"), certificate("b.test", number=1)
WILD, DEFAULT = certificate("*.wild.test", number=2), certificate("default.test", number=3)
ROOT = issue(common_name="clients", ca=True, number=10)
ALICE = issue(common_name="alice", by=ROOT, number=11)
STRANGER = issue(common_name="stranger", number=12)
REVOKED = issue(common_name="bob", by=ROOT, number=13)


def secret(name: str, data: Mapping[str, str], kind: str = "kubernetes.io/tls") -> Document:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "stringData": dict(data)}


def tls_secret(name: str, issued: Issued) -> Document:
    return secret(name, {"tls.crt": issued.pem, "tls.key": issued.key_pem})


def site(name: str, host: str, tls: Any = None, **annotations: str) -> Document:
    spec = {} if tls is None else {"tls": [{"hosts": [host], "secretName": tls}] if isinstance(tls, str) else tls}
    named = {f"{NGINX}{key.replace('_', '-')}": value for key, value in annotations.items()}
    return ingress(name, rule(host, path("web")), annotations=named, **spec)


@pytest.fixture(scope="module")
def live(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    place = tmp_path_factory.mktemp("certificates") / "manifests"
    place.mkdir()
    write(place / "web.yaml", app("web", [pods.start("web")]))
    write(place / "default.yaml", tls_secret("default", DEFAULT))
    write(
        place / "sites.yaml",
        site("a", "a.test", "a"),
        tls_secret("a", A),
        site("b", "b.test", "b", ssl_redirect="false"),
        tls_secret("b", B),
        site("wild", "*.wild.test", [{"secretName": "wild"}]),
        site("below", "plain.wild.test"),
        tls_secret("wild", WILD),
        site("gone", "gone.test", "gone"),
        site("forced", "forced.test", force_ssl_redirect="true"),
        site("plain", "plain.test"),
        ingress("acme", rule("a.test", path("web", "/.well-known/acme-challenge/token"))),
        ingress("empty", rule("a.test", path("nobody", "/empty"))),
    )
    write(
        place / "clients.yaml",
        secret("clients", {"ca.crt": ROOT.pem, "ca.crl": revocations(ROOT, REVOKED)}, "Opaque"),
        site("on", "on.test", auth_tls_secret="default/clients", auth_tls_pass_certificate_to_upstream="true"),
        site("optional", "optional.test", auth_tls_secret="clients", auth_tls_verify_client="optional"),
        site("match", "match.test", auth_tls_secret="clients", auth_tls_match_cn="CN=(bob|alice)$"),
        site("page", "page.test", auth_tls_secret="clients", auth_tls_error_page="https://login.test/denied"),
        site("closed", "closed.test", auth_tls_secret="default/missing"),
    )
    with Serve(place, "--default-ssl-certificate", "default/default", "--no-access-log", workers=2) as running:
        yield running


def over_tls(
    live: Serve, host: str, target: str = "/", *, name: str | None = "", client: Issued | None = None,
    headers: Mapping[str, str] | None = None, folder: Path | None = None, ciphers: str = "",
) -> tuple[x509.Certificate, Answer]:  # fmt: skip
    """The certificate that is shown, and the answer. `name` None: no SNI; empty: the host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if ciphers:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    if client is not None:
        assert folder is not None
        file = folder / f"{client.certificate.serial_number}.pem"
        file.write_text(client.pem + client.key_pem)
        context.load_cert_chain(file)
    with Connection(live.https) as connection:
        secured = context.wrap_socket(connection.sock, server_hostname=host if name == "" else name)
        connection.sock = secured
        with secured:
            der = secured.getpeercert(binary_form=True)
            assert der is not None
            return x509.load_der_x509_certificate(der), connection.get(target, host, headers=headers)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("a.test", A),
        ("b.test", B),
        ("x.wild.test", WILD),
        ("plain.wild.test", WILD),
        ("x.y.wild.test", DEFAULT),
        ("gone.test", DEFAULT),
        ("plain.test", DEFAULT),
        ("unknown.test", DEFAULT),
    ],
)
def test_the_certificate_of_a_host(live: Serve, host: str, shown: Issued) -> None:
    found, answer = over_tls(live, host)
    assert found == shown.certificate
    assert answer.status == (404 if host in ("unknown.test", "x.y.wild.test") else 200)


def test_without_a_name_the_default_certificate(live: Serve) -> None:
    found, answer = over_tls(live, "a.test", name=None)
    assert (found, answer.status) == (DEFAULT.certificate, 200)


@pytest.mark.parametrize(
    ("host", "target", "location"),
    [
        ("a.test", "/x/?y=1", "https://a.test/x/?y=1"),
        ("a.test:8080", "/", "https://a.test"),
        ("gone.test", "/", "https://gone.test"),  # its Secret is missing: the default certificate counts
        ("forced.test", "/x", "https://forced.test/x"),
        ("x.wild.test", "/", "https://x.wild.test"),
        ("plain.wild.test", "/", "https://plain.wild.test"),
        ("a.test", "/empty", "https://a.test/empty"),
        ("b.test", "/", None),
        ("plain.test", "/", None),
        ("a.test", "/.well-known/acme-challenge/token", None),
    ],
)
def test_redirects(live: Serve, host: str, target: str, location: str | None) -> None:
    answer = live.get(host, target)
    assert (answer.status, answer.headers.get("Location")) == ((200, None) if location is None else (308, location))
    assert "Strict-Transport-Security" not in answer.headers


@pytest.mark.parametrize(
    ("host", "target", "status", "promised"),
    [
        ("a.test", "/", 200, True),
        ("a.test", "/empty", 503, True),
        ("b.test", "/", 200, True),
        ("plain.test", "/", 200, False),
    ],
)
def test_hsts(live: Serve, host: str, target: str, status: int, promised: bool) -> None:
    _, answer = over_tls(live, host, target)
    assert answer.status == status
    expected = ["max-age=31536000; includeSubDomains"] if promised else None
    assert answer.headers.get_all("Strict-Transport-Security") == expected


# ---- client certificates ----


@pytest.mark.parametrize(
    ("host", "client", "status"),
    [
        ("on.test", None, 400),
        ("on.test", STRANGER, 400),
        ("on.test", REVOKED, 400),
        ("on.test", ALICE, 200),
        ("optional.test", None, 200),
        ("optional.test", STRANGER, 400),
        ("optional.test", ALICE, 200),
        ("match.test", ALICE, 200),
        ("match.test", None, 400),
        ("page.test", None, 302),
        ("page.test", ALICE, 200),
        ("closed.test", ALICE, 403),
        ("closed.test", None, 403),
        ("a.test", STRANGER, 200),
    ],
)
def test_client_certificates(live: Serve, host: str, client: Issued | None, status: int, tmp_path: Path) -> None:
    _, answer = over_tls(live, host, client=client, folder=tmp_path)
    assert answer.status == status
    if status == 302:
        assert answer.headers["Location"] == "https://login.test/denied"
    if status == 400:
        said = b"No required SSL certificate was sent" if client is None else b"The SSL certificate error"
        assert said in answer.body


def test_a_bad_rule_closes_its_host_over_plain_http_too(live: Serve) -> None:
    assert [live.get("closed.test", target).status for target in ("/", "/nothing")] == [403, 403]
    assert live.get("plain.test").status == 200
    (verdict,) = live.verdicts("InvalidAnnotation", "default/closed")
    assert verdict["field"] == f"metadata.annotations[{NGINX}auth-tls-secret]"


def test_what_the_endpoint_hears(live: Serve, tmp_path: Path) -> None:
    spoofed = {"ssl-client-verify": "SUCCESS", "SSL-Client-Subject-DN": "CN=root", "ssl-client-cert": "x"}
    _, answer = over_tls(live, "on.test", client=ALICE, folder=tmp_path, headers=spoofed)
    received = answer.received
    assert received["ssl-client-verify"] == "SUCCESS"
    assert (received["ssl-client-subject-dn"], received["ssl-client-issuer-dn"]) == ("CN=alice", "CN=clients")
    assert received["ssl-client-cert"].startswith("-----BEGIN%20CERTIFICATE-----%0A")
    _, answer = over_tls(live, "optional.test", headers=spoofed)
    assert [name for name in answer.received if name.startswith("ssl-")] == ["ssl-client-verify"]
    assert answer.received["ssl-client-verify"] == "NONE"


def test_a_host_that_asks_for_certificates_is_not_reached_by_the_name_of_another(live: Serve) -> None:
    _, answer = over_tls(live, "on.test", name="a.test")
    assert answer.status == 421


# ---- changes ----


def test_rotation_a_late_secret_and_garbage(live: Serve) -> None:
    place = live.folders[0]

    def shown(host: str) -> list[Issued]:
        found = [over_tls(live, host)[0] for _ in range(6)]  # either worker
        return [one for one in (DEFAULT, *made) if all(one.certificate == c for c in found)]

    first, second, late = (certificate("live.test", number=n) for n in (20, 21, 22))
    made = (first, second, late)
    write(place / "live.yaml", site("live", "live.test", "live"))
    eventually(lambda: shown("live.test") == [DEFAULT], "no Secret yet")
    write(place / "live-secret.yaml", tls_secret("live", first))
    eventually(lambda: shown("live.test") == [first], "the Secret has come")
    write(place / "live-secret.yaml", tls_secret("live", second))
    eventually(lambda: shown("live.test") == [second], "rotated")
    write(place / "live-secret.yaml", secret("live", {"tls.crt": "garbage", "tls.key": second.key_pem}))
    eventually(lambda: live.verdicts("InvalidCertificate", "default/live"), "garbage is told")
    assert shown("live.test") == [second]
    (place / "live-secret.yaml").unlink()
    eventually(lambda: shown("live.test") == [DEFAULT], "deleted")
    (place / "live.yaml").unlink()


# ---- what is shown ----


def test_metrics_and_expiry(live: Serve) -> None:
    place = live.folders[0]
    soon = issue("soon.test", not_after=NOW + timedelta(days=3))
    write(place / "soon.yaml", site("soon", "soon.test", "soon"), tls_secret("soon", soon))
    eventually(lambda: live.verdicts("CertificateExpiry", "default/soon"), "a warning")
    assert len(live.verdicts("CertificateExpiry")) == 1
    labels = {"host": "soon.test", "secret_name": "soon", "namespace": "default"}
    assert live.metric("aioingress_ssl_expire_time_seconds", **labels) == (NOW + timedelta(days=3)).timestamp()
    assert live.metric("aioingress_ssl_certificate_info", public_key_algorithm="ECDSA", **labels) == 1
    assert live.metric("aioingress_ssl_expire_time_seconds", host="_") == (NOW + timedelta(days=90)).timestamp()
    (place / "soon.yaml").unlink()
    eventually(lambda: not live.verdicts("CertificateExpiry"), "it is gone")


def test_the_dump(live: Serve) -> None:
    found = live.table("?host=a.test")
    (host,) = found["tls_hosts"]
    (shown,) = host["certificates"]
    assert shown["names"] == ["a.test"]
    assert int(shown["serial_number"], 16) == A.certificate.serial_number
    assert found["default_certificate"]["names"] == ["default.test"]
    assert found["hosts"][0]["certificate"] is True
    (asking,) = live.table("?host=on.test")["tls_hosts"]
    assert (asking["client_verify"], asking["client_verify_depth"]) == ("on", 1)


def test_no_key_is_ever_shown(live: Serve) -> None:
    place = live.folders[0]
    write(place / "bad.yaml", site("bad", "bad.test", "bad"), secret("bad", {"tls.crt": A.pem, "tls.key": B.key_pem}))
    eventually(lambda: live.verdicts("InvalidCertificate", "default/bad"), "bad")
    shown = "".join(live.ask(target).body.decode() for target in ("/debug/table", "/debug/verdicts", "/metrics", "/"))
    shown += live.stderr + live.stdout
    (place / "bad.yaml").unlink()
    for issued in (A, B, WILD, DEFAULT):
        body = "".join(issued.key_pem.splitlines()[1:-1])
        assert all(body[at : at + 24] not in shown for at in range(0, len(body) - 24, 12))
    assert "PRIVATE KEY" not in shown


def test_without_any_secret_a_self_signed_certificate(pods: Pods, serve: Any, folder: Path) -> None:
    write(folder / "all.yaml", app("web", [pods.start("web")]), site("a", "a.test", [{"hosts": ["a.test"]}]))
    running = serve(workers=2)
    found = {over_tls(running, "a.test")[0] for _ in range(8)}
    (shown,) = found
    assert "aioingress default certificate" in shown.subject.rfc4514_string()
    assert running.get("a.test").status == 308
    assert over_tls(running, "a.test")[1].status == 200
