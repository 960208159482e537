"""Access rules through the real program: manifests with a Secret, two workers, and what happens when the Secret changes or goes."""

import base64
from pathlib import Path

import bcrypt
import pytest

from tests.e2e.support import Pods, Serve, app, eventually, ingress, path, rule, write

NGINX = "nginx.ingress.kubernetes.io/"


def users(**passwords: str) -> dict:
    lines = [f"{user}:{bcrypt.hashpw(p.encode(), bcrypt.gensalt(4)).decode()}\n" for user, p in passwords.items()]
    data = {"auth": base64.b64encode("".join(lines).encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users", "namespace": "default"}, "data": data}


def status(running: Serve, user: str = "", password: str = "", host: str = "basic.test") -> int:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {encoded}"} if user else {}
    return running.get(host, headers=headers).status


def test_a_secret_through_its_life(pods: Pods, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "manifests"
    place.mkdir()
    annotations = {NGINX + "auth-type": "basic", NGINX + "auth-secret": "users", NGINX + "auth-realm": "Keep out"}
    auth = pods.start("auth")
    write(
        place / "site.yaml",
        app("web", [pods.start("web")]),
        ingress("basic", rule("basic.test", path("web")), annotations=annotations),
        ingress("open", rule("open.test", path("web"))),
        ingress(
            "asks",
            rule("asks.test", path("web")),
            annotations={NGINX + "auth-url": f"http://{auth.address}:{auth.port}/"},
        ),
        ingress("near", rule("near.test", path("web")), annotations={NGINX + "whitelist-source-range": "127.0.0.0/8"}),
        ingress("far", rule("far.test", path("web")), annotations={NGINX + "whitelist-source-range": "192.0.2.0/24"}),
    )
    secret = write(place / "secret.yaml", users(jane="first"))
    with Serve(place, workers=2) as running:
        refused = running.get("basic.test")
        assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="Keep out"')
        assert status(running, "jane", "wrong") == 401
        for _ in range(6):  # on both workers
            assert status(running, "jane", "first") == 200
        assert {h: status(running, host=f"{h}.test") for h in ("open", "asks", "near", "far")} == {
            "open": 200,
            "asks": 200,
            "near": 200,
            "far": 403,
        }
        shown = running.ask("/debug/table").body
        assert b"basic-auth" in shown
        assert b"$2b$" not in shown
        write(secret, users(jane="second", joe="x"))
        eventually(lambda: all(status(running, "jane", "second") == 200 for _ in range(8)))
        assert [status(running, "jane", "first") for _ in range(8)] == [401] * 8
        secret.unlink()
        eventually(lambda: all(status(running, "jane", "second") == 503 for _ in range(8)))
        assert running.verdicts("AccessRuleRejected", "default/basic")
        assert status(running, host="open.test") == 200
        write(secret, users(jane="third"))
        eventually(lambda: all(status(running, "jane", "third") == 200 for _ in range(8)))
        assert "$2b$" not in running.stderr + running.stdout
        assert any(" jane " in line for line in running.stdout.splitlines())
