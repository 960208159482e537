"""TCP services of the real program: ports that come and go with a ConfigMap, in several workers, next to HTTP."""

import json
import os
import signal
import socket

import pytest

from tests.e2e.support import (
    LISTEN,
    PATIENCE_S,
    Connection,
    app,
    eventually,
    fetch,
    free_port,
    ingress,
    path,
    rule,
    write,
)

TCP = ("--tcp-services-configmap", "edge/tcp")


def tcp_map(data: dict[int | str, str]) -> dict[str, object]:
    metadata = {"name": "tcp", "namespace": "edge"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {str(port): target for port, target in data.items()},
    }


@pytest.fixture
def site(pods, folder):
    """An HTTP service `web` with two Pods, routed and ready to be relayed to."""
    write(folder / "web.yaml", app("web", pods.some("web", 2)), ingress("web", rule("web.test", path("web"))))
    return folder


def answers(port: int) -> bool:
    try:
        return fetch((LISTEN, port), "whatever").status == 200
    except OSError:
        return False


def closed(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((LISTEN, port)) != 0


@pytest.mark.parametrize("workers", [0, 2])
def test_ports_come_and_go(site, serve, workers):
    first, second = free_port(), free_port()
    write(site / "tcp.yaml", tcp_map({first: "default/web:80"}))
    live = serve(*TCP, workers=workers)
    eventually(lambda: answers(first), "open")
    with Connection((LISTEN, first)) as kept:
        assert kept.get("/").status == 200
        write(site / "tcp.yaml", tcp_map({first: "default/web:80", second: "default/web:80"}))
        eventually(lambda: answers(second), "the second too")
        write(site / "tcp.yaml", tcp_map({second: "default/web:80"}))
        eventually(lambda: closed(first), "the first is closed")
        assert kept.get("/").status == 200  # what is under way goes on
        assert [tcp["port"] for tcp in live.table()["tcp_services"]] == [second]
        assert all(answers(second) for _ in range(20))
        (site / "tcp.yaml").unlink()
        eventually(lambda: closed(second), "all closed")
    eventually(lambda: live.metric("aioingress_stream_connections_total", service="web", port=str(second)) > 20)
    eventually(lambda: live.metric("aioingress_stream_received_bytes_total", port=str(second)) > 0)
    eventually(lambda: live.metric("aioingress_streams") == 0)
    assert live.get("web.test").status == 200


def test_the_client_in_the_log(site, serve):
    port, proxied = free_port(), free_port()
    write(site / "tcp.yaml", tcp_map({port: "default/web:80", proxied: "default/web:80:PROXY"}))
    live = serve(*TCP, "--log-format", "json")
    eventually(lambda: answers(port), "open")
    with socket.create_connection((LISTEN, proxied), timeout=PATIENCE_S) as sock:
        sock.sendall(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 8080\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")

    def logged() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in live.stdout.splitlines()]
        return [line for line in lines if line["protocol"] == "TCP" and line["remote_addr"] == "192.168.0.1"]

    (line,) = eventually(logged, "logged")
    assert (line["service"], line["status"]) == ("web", 200)


def test_bad_entries_are_reported_and_cost_only_themselves(site, serve):
    good, taken = free_port(), free_port()
    with socket.socket() as other:
        other.bind((LISTEN, taken))
        other.listen()
        entries = {
            good: "default/web:80",
            taken: "default/web:80",
            "x": "default/web:80",
            free_port(): "default/gone:80",
        }
        write(site / "tcp.yaml", tcp_map(entries))
        live = serve(*TCP, workers=2)
        eventually(lambda: answers(good), "open")
        (verdict,) = eventually(lambda: live.verdicts("PortUnavailable"), "reported")
        assert (verdict["object"], verdict["field"]) == ("ConfigMap edge/tcp", f"data.{taken}")
        assert "Address already in use" in verdict["message"]
        assert eventually(lambda: live.log("Address already in use"))
        assert live.verdicts("ServiceNotFound", "ConfigMap edge/tcp")
        assert live.verdicts("InvalidField", "ConfigMap edge/tcp")
    eventually(lambda: answers(taken), "tried again")
    eventually(lambda: not live.verdicts("PortUnavailable"), "no longer reported")


def test_our_own_ports_are_not_given_away(site, serve):
    write(site / "tcp.yaml", tcp_map({}))
    live = serve(*TCP)
    write(site / "tcp.yaml", tcp_map({live.http[1]: "default/web:80", live.admin[1]: "default/web:80"}))
    eventually(lambda: len(live.verdicts("Conflict")) == 2, "both")
    assert live.get("web.test").status == 200


def test_another_worker_takes_over(site, serve):
    port = free_port()
    write(site / "tcp.yaml", tcp_map({port: "default/web:80"}))
    live = serve(*TCP, workers=1)
    eventually(lambda: answers(port), "open")
    (pid,) = live.children
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: live.children and live.children != [pid] and answers(port), "open again")


def test_connections_are_drained(site, serve):
    port = free_port()
    write(site / "tcp.yaml", tcp_map({port: "default/web:80"}))
    live = serve(*TCP, workers=2)
    eventually(lambda: answers(port), "open")
    with Connection((LISTEN, port)) as kept:
        assert kept.get("/").status == 200
        live.signal(signal.SIGTERM)
        eventually(lambda: closed(port), "nobody is accepted any more")
        assert kept.get("/").status == 200
        kept.send("/delay/0.5")
        assert kept.receive().status == 200
    assert live.wait() == 0
