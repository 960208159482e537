"""The real program behind a load balancer: options of the ConfigMap that say who the client is, switched while it serves."""

import json
import socket

from tests.e2e.support import PATIENCE_S, Serve, app, eventually, ingress, path, rule, write


def options(**data: str) -> dict[str, object]:
    metadata = {"name": "options", "namespace": "edge"}
    named = {name.replace("_", "-"): value for name, value in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": named}


def exchange(live: Serve, data: bytes) -> dict[str, str]:
    """What the Pod received of a request; nothing where the connection was closed."""
    with socket.create_connection(live.http, timeout=PATIENCE_S) as sock:
        sock.sendall(data)
        answer = b""
        try:
            while piece := sock.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        return {}
    return {name.lower(): value for name, value in json.loads(body)["headers"]}


REQUEST = b"GET / HTTP/1.1\r\nHost: web.test\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"


def test_options_are_live(pods, folder, serve):
    write(folder / "web.yaml", app("web", pods.some("web", 1)), ingress("web", rule("web.test", path("web"))))
    live = serve("--configmap", "edge/options", workers=2)
    assert exchange(live, REQUEST)["x-real-ip"].startswith("127.")

    def becomes(address: str, data: bytes) -> dict[str, str]:
        """By every worker."""

        def probe() -> dict[str, str]:
            found = [exchange(live, data) for _ in range(8)]
            return found[0] if all(one.get("x-real-ip") == address for one in found) else {}

        return eventually(probe, address)

    write(folder / "options.yaml", options(use_forwarded_headers="true"))
    assert becomes("203.0.113.9", REQUEST)["x-forwarded-proto"] == "https"
    write(folder / "options.yaml", options(use_forwarded_headers="true", proxy_real_ip_cidr="10.0.0.0/8"))
    eventually(lambda: all(exchange(live, REQUEST)["x-real-ip"].startswith("127.") for _ in range(8)), "not trusted")
    write(folder / "options.yaml", options(use_proxy_protocol="true"))
    assert becomes("192.0.2.7", HEADER + REQUEST)["x-forwarded-proto"] == "https"
    assert exchange(live, REQUEST) == {}
    write(folder / "options.yaml", options())
    eventually(lambda: all(exchange(live, REQUEST) for _ in range(8)), "without a header again")
    assert not live.verdicts()
