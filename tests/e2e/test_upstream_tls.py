"""TLS to Pods and to hosts outside, from manifests to the wire; and what becomes of it when a Secret changes."""

import base64
from collections.abc import Callable
from pathlib import Path

from tests.e2e.support import (
    Connection,
    Document,
    Pods,
    Serve,
    WebSocket,
    app,
    eventually,
    fetch,
    ingress,
    path,
    rule,
    service,
    write,
)
from tests.proxy import pki

ROOT, OTHER = pki.authority(), pki.authority("other")
NGINX = "nginx.ingress.kubernetes.io/"


def secret(name: str, **data: bytes) -> Document:
    """Keys with `_` for `.`."""
    encoded = {key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}


def over_tls(name: str, host: str, service_name: str, **annotations: str) -> Document:
    named = {NGINX + key.replace("_", "-"): value for key, value in annotations.items()}
    return ingress(name, rule(host, path(service_name)), annotations={NGINX + "backend-protocol": "HTTPS", **named})


def test_from_manifests_to_the_wire(serve: Callable[..., Serve], folder: Path, pods: Pods) -> None:
    seen: list[str | None] = []
    context = ROOT.issue(names=["web.default.svc", "localhost"]).server(clients=ROOT)
    context.sni_callback = lambda connection, name, context: seen.append(name)
    pod = pods.start("secure", tls=context)
    client = ROOT.issue("proxy")
    whole = {"ca_crt": ROOT.pem, "tls_crt": client.chain, "tls_key": client.key_pem}
    secrets = folder / "secrets.yaml"
    write(secrets, secret("tls", ca_crt=OTHER.pem, tls_crt=client.chain, tls_key=client.key_pem))
    write(
        folder / "site.yaml",
        app("web", [pod]),
        service("outside", pod.port, type="ExternalName", externalName="localhost"),
        over_tls("verified", "verified.test", "web", proxy_ssl_secret="default/tls", proxy_ssl_verify="on"),
        over_tls("blind", "blind.test", "web", proxy_ssl_secret="tls"),
        over_tls("without", "without.test", "web"),
        ingress(
            "outside",
            rule("outside.test", path("outside", port=pod.port)),
            annotations={
                NGINX + "backend-protocol": "https",
                NGINX + "proxy-ssl-secret": "default/tls",
                NGINX + "proxy-ssl-verify": "on",
                NGINX + "upstream-vhost": "inside.example",
            },
        ),
    )
    program = serve()
    status = {host: fetch(program.http, f"{host}.test").status for host in ("verified", "blind", "without", "outside")}
    assert status == {"verified": 502, "blind": 200, "without": 502, "outside": 502}
    # the right CA
    write(secrets, secret("tls", **whole))
    eventually(lambda: fetch(program.http, "verified.test").status == 200, "the new CA is in force")
    seen.clear()
    answer = eventually(lambda: (a := fetch(program.http, "outside.test")).status == 200 and a, "the host outside")
    assert "localhost" in seen  # SNI: the external name
    assert answer.received["host"] == "inside.example"  # which SNI and verification don't care about
    # gone, and back: fails closed, for its routes only
    secrets.unlink()
    eventually(lambda: fetch(program.http, "verified.test").status == 503, "no Secret")
    assert fetch(program.http, "blind.test").status == 503
    assert fetch(program.http, "without.test").status == 502
    write(secrets, secret("tls", **whole))
    eventually(lambda: fetch(program.http, "verified.test").status == 200, "the Secret is back")
    shown = next(u["tls"] for u in program.table()["upstreams"] if u["service"] == "web" and u["tls"]["verify"])
    assert (shown["name"], shown["client_certificate"]) == ("web.default.svc", True)
    assert b"BEGIN" not in program.ask("/debug/table").body


def test_websockets_and_large_bodies(serve: Callable[..., Serve], folder: Path, pods: Pods) -> None:
    pod = pods.start("secure", tls=ROOT.issue(kind="rsa").server())
    write(folder / "site.yaml", app("web", [pod]), over_tls("web", "web.test", "web"))
    program = serve()
    socket = WebSocket(program.http, "web.test")
    assert socket.echo("hello") == "secure: hello"
    socket.close()
    with Connection(program.http) as connection:
        answer = connection.get("/bytes/3000000", "web.test")
        assert len(answer.body) == 3_000_000
        body = b"x" * 1_000_000
        assert connection.get("/", "web.test", "POST", body=body).json["body_bytes"] == len(body)
