"""cert-manager's HTTP-01 flow, played by hand: a solver appears on a host that redirects everything to https, then the certificate does."""

import ssl

import pytest
from cryptography import x509

from tests.certificates import Issued, certificate
from tests.e2e.support import Answer, Connection, Serve, app, eventually, ingress, path, rule, write

HOST = "shop.test"
TOKEN = "/.well-known/acme-challenge/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
NGINX = "nginx.ingress.kubernetes.io/"
ISSUED, RENEWED = certificate(HOST, number=21), certificate(HOST, number=22)


def secret(name: str, issued: Issued | None) -> dict[str, object]:
    """cert-manager makes it when it has the certificate; before, there is none, or one with the key alone under another name."""
    data = {"tls.key": issued.key_pem, "tls.crt": issued.pem} if issued is not None else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "type": "kubernetes.io/tls",
        "stringData": data,
    }


def main_ingress(**annotations: str) -> dict[str, object]:
    return ingress(
        "shop",
        rule(HOST, path("shop")),
        annotations={
            f"{NGINX}force-ssl-redirect": "true",
            "cert-manager.io/cluster-issuer": "letsencrypt",
            **{f"{NGINX}{name.replace('_', '-')}": value for name, value in annotations.items()},
        },
        tls=[{"hosts": [HOST], "secretName": "shop-tls"}],
    )


def solver(kind: str) -> dict[str, object]:
    """As cert-manager writes it: the host, one path, no TLS, its own annotation on address lists."""
    return ingress(
        "cm-acme-http-solver-x7k2p",
        rule(HOST, path("cm-acme-http-solver-9xq4t", TOKEN, kind, 8089)),
        annotations={f"{NGINX}whitelist-source-range": "0.0.0.0/0,::/0"},
    )


def over_https(live: Serve, target: str = "/") -> tuple[x509.Certificate, Answer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Connection(live.https) as connection:
        connection.sock = context.wrap_socket(connection.sock, server_hostname=HOST)
        with connection.sock:
            der = connection.sock.getpeercert(binary_form=True)
            assert der is not None
            return x509.load_der_x509_certificate(der), connection.get(target, HOST)


def redirected(answer: Answer, target: str) -> bool:
    return answer.status == 308 and answer.headers["Location"] == f"https://{HOST}{target}"


@pytest.mark.parametrize("kind", ["Exact", "ImplementationSpecific"])
def test_http01(pods, folder, serve, kind):
    shop, challenge = pods.start("shop"), pods.start("solver")
    write(folder / "shop.yaml", app("shop", [shop]), main_ingress())
    live = serve(workers=2)
    eventually(lambda: live.get(HOST).status == 308, "the host redirects")
    assert redirected(live.get(HOST, "/cart"), "/cart")

    # The order: a solver of its own, Pod, Service and Ingress.
    solving = app("cm-acme-http-solver-9xq4t", [challenge])
    solving[0]["spec"]["ports"] = [{"port": 8089}]
    write(folder / "solver.yaml", solving, solver(kind))

    def solved() -> bool:
        answer = live.get(HOST, TOKEN)
        return answer.status == 200 and answer.pod == challenge.name

    eventually(solved, "the challenge is answered over plain http")
    assert all(solved() for _ in range(10))  # by every worker
    assert redirected(live.get(HOST, "/cart"), "/cart")
    assert redirected(live.get(HOST, "/"), "/") or redirected(live.get(HOST, "/"), "")
    assert not live.verdicts(about="Ingress default/cm-acme")

    # The certificate is there; cert-manager takes the solver away.
    write(folder / "secret.yaml", secret("shop-tls", ISSUED))
    eventually(lambda: over_https(live)[0] == ISSUED.certificate, "the certificate is shown")
    (folder / "solver.yaml").unlink()
    eventually(lambda: live.get(HOST, TOKEN).status != 200, "the challenge is gone")
    found, answer = over_https(live, "/cart")
    assert (found, answer.status, answer.pod) == (ISSUED.certificate, 200, shop.name)
    assert redirected(live.get(HOST, "/cart"), "/cart")

    # The renewal: the same again, now with a certificate in place, and nobody is disconnected.
    write(folder / "solver.yaml", solving, solver(kind))
    eventually(solved, "the challenge of the renewal")
    with Connection(live.http) as kept:
        assert kept.get(TOKEN, HOST).status == 200
        write(folder / "secret.yaml", secret("shop-tls", RENEWED))
        eventually(lambda: over_https(live)[0] == RENEWED.certificate, "the renewed certificate is shown")
        assert kept.get(TOKEN, HOST).status == 200


def test_a_challenge_in_the_ingress_itself(pods, folder, serve):
    """`acme.cert-manager.io/http01-edit-in-place`: the path is added to the Ingress that wants the certificate."""
    shop, challenge = pods.start("shop"), pods.start("solver")
    edited = main_ingress()
    edited["spec"]["rules"] = [rule(HOST, path("shop"), path("solver", TOKEN, "Exact"))]
    write(folder / "shop.yaml", app("shop", [shop]), app("solver", [challenge]), edited)
    live = serve()
    eventually(lambda: live.get(HOST, TOKEN).status == 200, "the challenge")
    assert redirected(live.get(HOST, "/cart"), "/cart")
