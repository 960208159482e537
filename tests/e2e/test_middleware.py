"""User middlewares in the real program: loaded by the controller and its workers, counted, and harmless when broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import Pods, Program, Serve, app, eventually, free_port, ingress, listen_text, path, rule, write

CODE = """
import asyncio
from ingress.middleware.api import Middleware, Reply, Request

class Greet(Middleware):
    name = "greet"

    async def on_request(self, request: Request) -> Reply | None:
        await asyncio.sleep(0)
        if request.path == "/hello":
            return Reply(200, f"hello from {request.ingress}")
        request.headers["X-Greeting"] = self.config
        return None

class Broken(Middleware):
    name = "broken"

    def on_request(self, request: Request) -> Reply | None:
        raise RuntimeError("not today")
"""
OWN = "aioingress.io/"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "middleware"
    folder.mkdir()
    (folder / "greet.py").write_text(CODE)
    (folder / "unreadable.py").write_text("def (")
    return folder


@pytest.fixture
def serve(tmp_path: Path, pods: Pods, code: Path) -> Iterator[Serve]:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    annotations = {OWN + "middleware": "greet", OWN + "middleware.greet": "good day"}
    write(
        manifests / "all.yaml",
        ingress("greeted", rule("greeted.test", path("web")), annotations=annotations),
        ingress("broken", rule("broken.test", path("web")), annotations={OWN + "middleware": "broken"}),
        ingress("unknown", rule("unknown.test", path("web")), annotations={OWN + "middleware": "nobody"}),
        ingress("plain", rule("plain.test", path("web"))),
        app("web", pods.some("web", 1)),
    )
    with Serve(manifests, "--middleware-path", str(code), workers=2) as running:
        yield running


def test_middlewares_of_a_folder(serve: Serve) -> None:
    for _ in range(8):  # both workers
        answer = serve.get("greeted.test", "/x")
        assert answer.status == 200
        assert ["X-Greeting", "good day"] in answer.json["headers"]
    hello = serve.get("greeted.test", "/hello")
    assert (hello.status, hello.body) == (200, b"hello from greeted")

    assert serve.get("plain.test").status == 200
    assert serve.get("broken.test").status == 500
    assert serve.get("unknown.test").status == 503
    (verdict,) = serve.verdicts("AccessRuleRejected")
    assert verdict["object"] == "Ingress default/unknown"
    assert verdict["field"] == f"metadata.annotations[{OWN}middleware]"
    assert "no middleware nobody" in verdict["message"]

    calls = {"middleware": "greet", "hook": "request"}
    eventually(lambda: serve.metric("aioingress_middleware_calls_total", **calls) >= 9, "counted")
    assert serve.metric("aioingress_middleware_failures_total", middleware="broken", reason="error") == 1
    assert serve.log("unreadable.py"), serve.stderr


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    arguments = ["serve", "--manifests", str(tmp_path), "--middleware-path", str(tmp_path / "nothing")]
    for flag in ("--http-address", "--https-address", "--admin-address"):
        arguments += [flag, listen_text(("127.0.0.1", free_port("127.0.0.1")))]
    with Program(tmp_path / "output", *arguments) as run:
        assert run.wait() == 2
        assert "--middleware-path" in run.stderr
        assert "neither a Python file nor a folder" in run.stderr
