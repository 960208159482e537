"""The real program over TLS: what travels on its connections, what else comes to the port, rotation while everything runs.

Which certificate a host gets by its Ingress is test_certificates.py's.
"""

import hashlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.support import (
    Connection,
    Document,
    Pods,
    Serve,
    WebSocket,
    app,
    content,
    eventually,
    ingress,
    path,
    replace,
    rule,
    write,
)
from tests.tls.support import Authority, client_context, root

ROOT = root()
HOSTS = 1000


def secret(name: str, authority: Authority) -> Document:
    data = {"tls.crt": authority.chain_pem.decode(), "tls.key": authority.key_pem.decode()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "stringData": data,
    }


def site(name: str, host: str, secret_name: str | None = None) -> Document:
    return ingress(name, rule(host, path("web")), tls=[{"hosts": [host], "secretName": secret_name or name}])


class TLSConnection(Connection):
    """As a browser: verifies what it is shown."""

    def __init__(self, live: Serve, host: str, context: ssl.SSLContext | None = None) -> None:
        super().__init__(live.https)
        self.sock = (context or client_context(ROOT)).wrap_socket(self.sock, server_hostname=host)

    @property
    def serial(self) -> str:
        shown = self.sock.getpeercert()  # type: ignore[attr-defined]
        return str(shown["serialNumber"])


@pytest.fixture(scope="module")
def live(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    place = tmp_path_factory.mktemp("tls") / "manifests"
    place.mkdir()
    write(place / "web.yaml", app("web", pods.some("web", 2)))
    write(place / "a.yaml", site("a", "a.test"), secret("a", ROOT.sign("a", ["a.test"])))
    with Serve(place, "--no-access-log", workers=2) as running:
        yield running


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_on_a_connection(live: Serve, version: ssl.TLSVersion) -> None:
    with TLSConnection(live, "a.test", client_context(ROOT, minimum=version, maximum=version)) as connection:
        for number in range(50):
            answer = connection.get(f"/{number}", "a.test")
            assert answer.status == 200
            headers = dict(answer.json["headers"])
            assert headers["X-Forwarded-Proto"] == headers["X-Scheme"] == "https"
            assert headers["X-Forwarded-Port"] == "443"  # whatever the port of the container


def test_a_big_download(live: Serve) -> None:
    with TLSConnection(live, "a.test") as connection:
        for _ in range(2):
            answer = connection.get("/bytes/30000000", "a.test")
            assert hashlib.sha256(answer.body).hexdigest() == hashlib.sha256(b"".join(content(30_000_000))).hexdigest()


def test_an_upload(live: Serve) -> None:
    body = b"".join(content(1_000_000))
    with TLSConnection(live, "a.test") as connection:
        answer = connection.get("/", "a.test", "POST", body=body)
        assert answer.json["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_a_websocket(live: Serve) -> None:
    tunnel = WebSocket(live.https, "a.test", "/ws", TLSConnection(live, "a.test"))
    for number in range(20):
        assert tunnel.echo(f"message {number}").endswith(f": message {number}")
    tunnel.close()


def test_plain_http_on_the_https_port(live: Serve) -> None:
    with Connection(live.https) as connection:
        answer = connection.get("/", "a.test")
        assert answer.status == 400
        assert b"The plain HTTP request was sent to HTTPS port" in answer.body
        assert connection.ended()


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00"]
)
def test_junk_ends_its_own_connection_only(live: Serve, junk: bytes) -> None:
    with Connection(live.https) as connection:
        connection.sock.sendall(junk)
        connection.sock.shutdown(socket.SHUT_WR)
        while connection.sock.recv(100):
            pass
    with TLSConnection(live, "a.test") as connection:
        assert connection.get("/", "a.test").status == 200


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(live: Serve, option: str) -> None:
    command = ["openssl", "s_client", "-connect", "{}:{}".format(*live.https), option, "-cipher", "ALL:@SECLEVEL=0"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    assert b"alert protocol version" in done.stderr


def test_metrics(live: Serve) -> None:
    before = live.metric("aioingress_tls_handshakes_total", protocol="TLSv1.3", outcome="full")
    with TLSConnection(live, "a.test") as connection:
        connection.get("/", "a.test")
        assert live.metric("aioingress_tls_handshakes_total", protocol="TLSv1.3", outcome="full") == before + 1
        assert live.metric("aioingress_tls_connections") == 1
    eventually(lambda: live.metric("aioingress_tls_connections") == 0)


def test_rotation_under_load(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Secret is replaced 100 times while clients come and go; nobody notices but by the certificate."""
    place = tmp_path_factory.mktemp("rotation") / "manifests"
    place.mkdir()
    write(place / "web.yaml", app("web", pods.some("web", 1)), site("a", "a.test"))
    file = write(place / "secret.yaml", secret("a", ROOT.sign("0", ["a.test"])))
    stop = threading.Event()
    seen: set[str] = set()
    faults: list[BaseException] = []
    done = 0

    def come_and_go(live: Serve) -> None:
        nonlocal done
        try:
            while not stop.is_set():
                with TLSConnection(live, "a.test") as connection:
                    seen.add(connection.serial)
                    for _ in range(3):
                        assert connection.get("/", "a.test").status == 200
                        done += 1
        except BaseException as fault:
            faults.append(fault)

    with Serve(place, "--no-access-log", workers=2) as live:
        staying = TLSConnection(live, "a.test")
        clients = [threading.Thread(target=come_and_go, args=(live,)) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            for number in range(1, 101):
                rotated = ROOT.sign(str(number), ["a.test"])
                replace(file, yaml.safe_dump(secret("a", rotated)))
                assert staying.get("/", "a.test").status == 200
                assert not faults
            last = f"{rotated.certificate.serial_number:X}"
            eventually(lambda: any(serial.lstrip("0") == last for serial in seen) or faults, "the last certificate")
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert not faults
        assert done > 100
        assert len(seen) > 3
        assert staying.get("/", "a.test").status == 200
        staying.close()


def test_a_thousand_hosts_with_a_thousand_certificates(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("many") / "manifests"
    place.mkdir()
    names = [f"host-{number:03d}" for number in range(HOSTS)]
    write(place / "web.yaml", app("web", pods.some("web", 1)))
    write(place / "sites.yaml", *(site(name, f"{name}.test") for name in names))
    write(place / "secrets.yaml", *(secret(name, ROOT.sign(name, [f"{name}.test"])) for name in names))
    with Serve(place, "--no-access-log", workers=1) as live:
        for name in names[::50]:
            with TLSConnection(live, f"{name}.test") as connection:  # verifies the name
                assert connection.get("/", f"{name}.test").status == 200
