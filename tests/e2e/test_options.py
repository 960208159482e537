"""The options ConfigMap of a running controller: changed under load, on every worker, at the cost of no request."""

import json
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import Connection, Load, Pods, Serve, WebSocket, app, eventually, ingress, path, rule, write


def config_map(name: str = "options", **data: str) -> dict[str, Any]:
    metadata = {"namespace": "edge", "name": name}
    found = {key.replace("_", "-"): value for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": found}


@pytest.fixture(scope="module")
def live(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    place = tmp_path_factory.mktemp("options") / "manifests"
    place.mkdir()
    write(place / "app.yaml", app("toad", [pods.start("toad")]), ingress("toad", rule("toad.test", path("toad"))))
    with Serve(place, "--configmap", "edge/options", workers=2) as running:
        yield running


@pytest.fixture
def place(live: Serve) -> Iterator[Path]:
    yield live.folders[0]
    (live.folders[0] / "options.yaml").unlink(missing_ok=True)
    eventually(lambda: not live.verdicts(about="ConfigMap"), "no options")


def on_every_worker(live: Serve, probe: Any) -> None:
    """`probe` holds for 16 new connections in a row: they go to either worker."""
    eventually(lambda: all(probe() for _ in range(16)), "in force on every worker")


def server(live: Serve) -> str:
    return live.get("toad.test").headers["Server"]


def test_changed_under_load(live: Serve, place: Path) -> None:
    socket = WebSocket(live.http, "toad.test")
    kept = Connection(live.http)
    assert kept.get("/", "toad.test").status == 200
    with Load(live.http, "toad.test") as load:
        load.more(50)
        for number in range(4):
            fields = {"X-Number": str(number)}
            write(
                place / "options.yaml",
                config_map(server_tokens="true", keep_alive_requests="5", add_headers="edge/fields"),
                config_map("fields", **fields),
            )
            on_every_worker(live, lambda n=number: live.get("toad.test").headers.get("X-Number") == str(n))
            load.more(50)
        on_every_worker(live, lambda: server(live).startswith("aioingress/"))
        write(place / "options.yaml", config_map(keep_alive_requests="3"))
        on_every_worker(live, lambda: "X-Number" not in live.get("toad.test").headers)
        load.more(50)
    assert load.failures == []
    assert socket.echo("still there") == "toad: still there"
    assert kept.get("/", "toad.test").status == 200
    socket.close()
    with Connection(live.http) as new:
        closing = [new.get("/", "toad.test").headers.get("Connection") for _ in range(3)]
    assert closing == [None, None, "close"]


def test_a_bad_value_costs_only_itself(live: Serve, place: Path) -> None:
    write(place / "options.yaml", config_map(server_tokens="true", hide_headers="X-Pod"))
    on_every_worker(live, lambda: server(live).startswith("aioingress/"))
    with Load(live.http, "toad.test", "/delay/0") as load:
        write(place / "options.yaml", config_map(server_tokens="perhaps", proxy_body_size="10", use_gizp="true"))
        on_every_worker(live, lambda: "X-Pod" in live.get("toad.test").headers)  # taken back: the default
        load.more(20)
    assert load.failures == []
    found = {v["field"]: v for v in live.verdicts(about="ConfigMap edge/options")}
    assert set(found) == {"data.server-tokens", "data.use-gizp"}
    assert found["data.server-tokens"]["value"] == "perhaps"
    assert found["data.server-tokens"]["severity"] == "error"
    assert "The last good value stays in force: true." in found["data.server-tokens"]["message"]
    assert "Did you mean use-gzip?" in found["data.use-gizp"]["message"]
    assert server(live).startswith("aioingress/")
    assert live.get("toad.test", method="POST", body=b"x" * 11).status == 413
    assert live.log("data.server-tokens")


def test_log_format_and_switch(live: Serve, place: Path) -> None:
    write(place / "options.yaml", config_map(log_format_upstream='{"at": "$request_uri", "to": "$service_name"}'))
    eventually(lambda: logged(live, "/logged"), "logged in the new format")
    assert logged(live, "/logged")[-1] == {"at": "/logged", "to": "toad"}
    write(place / "options.yaml", config_map(disable_access_log="true", server_tokens="true"))
    on_every_worker(live, lambda: server(live).startswith("aioingress/"))
    assert live.get("toad.test", "/silent").status == 200
    write(place / "options.yaml", config_map())
    on_every_worker(live, lambda: server(live) == "aioingress")
    eventually(lambda: live.get("toad.test", "/usual").status == 200 and "/usual" in live.stdout, "logged again")
    assert "/silent" not in live.stdout


def logged(live: Serve, target: str) -> list[Any]:
    live.get("toad.test", target)
    return [json.loads(line) for line in live.stdout.splitlines() if line.startswith('{"at"') and target in line]


def test_shutdown_timeout_of_the_config_map(pods: Pods, tmp_path: Path) -> None:
    """A tunnel that would go on for ever is cut when the time of the ConfigMap is over, not that of the flag."""
    place = tmp_path / "manifests"
    place.mkdir()
    write(place / "app.yaml", app("newt", [pods.start("newt")]), ingress("newt", rule("newt.test", path("newt"))))
    write(place / "options.yaml", config_map(worker_shutdown_timeout="1s"))
    for workers in (0, 1):
        running = Serve(place, "--configmap", "edge/options", "--drain-timeout", "3600", workers=workers)
        socket = WebSocket(running.http, "newt.test")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        socket.close()


def test_ciphers_that_name_none_end_no_handshake(live: Serve, place: Path) -> None:
    write(place / "options.yaml", config_map(server_tokens="true", ssl_ciphers="ECDHE-RSA-AES256-GMC-SHA384"))
    on_every_worker(live, lambda: server(live).startswith("aioingress/"))
    (verdict,) = live.verdicts(about="ConfigMap edge/options")
    assert (verdict["field"], verdict["value"]) == ("data.ssl-ciphers", "ECDHE-RSA-AES256-GMC-SHA384")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for _ in range(4):
        with Connection(live.https) as plain, context.wrap_socket(plain.sock, server_hostname="toad.test") as secure:
            assert secure.version() == "TLSv1.2"


def test_redirects_behind_a_front(live: Serve, place: Path) -> None:
    """test/e2e/settings/tls.go: the host of X-Forwarded-Host without its port, if it is believed."""
    front = {"X-Forwarded-Host": "example.com:80"}

    def location() -> str | None:
        return live.get("toad.test", headers=front).headers["Location"]

    write(place / "options.yaml", config_map(force_ssl_redirect="true"))
    on_every_worker(live, lambda: location() == "https://toad.test")
    write(place / "options.yaml", config_map(force_ssl_redirect="true", use_forwarded_headers="true"))
    on_every_worker(live, lambda: location() == "https://example.com")


def test_another_prefix_of_annotations(pods: Pods, folder: Path, serve: Any) -> None:
    frog = pods.start("frog")
    both = {"edge.test/rewrite-target": "/edge", "nginx.ingress.kubernetes.io/upstream-vhost": "other.test"}
    write(
        folder / "app.yaml",
        app("frog", [frog]),
        ingress("frog", rule("frog.test", path("frog")), annotations=both),
        ingress("own", rule("own.test", path("frog")), annotations={**both, "aioingress.io/rewrite-target": "/own"}),
    )
    running = serve("--annotations-prefix", "edge.test")
    answer = running.get("frog.test")
    assert (answer.json["target"], answer.received["host"]) == ("/edge", "frog.test")
    assert running.get("own.test").json["target"] == "/own"
    fields = {(v["object"], v["field"]) for v in running.verdicts("UnsupportedAnnotation")}
    assert ("Ingress default/frog", "metadata.annotations[nginx.ingress.kubernetes.io/upstream-vhost]") in fields
