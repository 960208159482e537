"""The middlewares of examples/, tested as their readers would test their own: with `ingress.testing` alone."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ingress.middleware import loader
from ingress.testing import Edge, request, run

FOLDER = Path(__file__).parents[2] / "examples" / "middleware"


@pytest.fixture(scope="module")
def example() -> Callable[[str], Any]:
    """A class of the examples, by its name."""
    before = dict(loader.REGISTRY)
    loader.install([FOLDER])
    found = dict(loader.REGISTRY)
    loader.REGISTRY.clear()
    loader.REGISTRY.update(before)
    return found.__getitem__


def module_of(cls: type) -> ModuleType:
    import sys

    return sys.modules[cls.__module__]


MANIFESTS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop
  annotations:
    aioingress.io/middleware: {name}
    aioingress.io/middleware.{name}: {config}
spec:
  ingressClassName: aioingress
  rules:
    - host: "*.shop.example.com"
      http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: shop, port: {{number: 80}}}}}}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: shop}}
spec: {{ports: [{{port: 80}}]}}
"""


# ---- tenant -------------------------------------------------------------------------------------------------------


async def test_tenant_alone(example: Callable[[str], Any]) -> None:
    middleware = example("tenant")("acme globex")
    outcome = await run(middleware, request("GET", "https://ACME.shop.example.com/", {"x-tenant": "globex"}))
    assert outcome.reply is None
    assert outcome.request.headers.get_all("X-Tenant") == ["acme"]
    refused = await run(middleware, request("GET", "https://nobody.shop.example.com/"))
    assert refused.reply is not None
    assert refused.reply.status == 404


async def test_tenant_in_a_manifest(example: Callable[[str], Any]) -> None:
    async with Edge(MANIFESTS.format(name="tenant", config="acme"), middleware=[example("tenant")]) as edge:
        assert not edge.errors
        answer = await edge.get("http://acme.shop.example.com/cart?x=1", {"X-Tenant": "other"})
        assert (answer.status, answer.service) == (200, "default/shop")
        assert answer.received is not None
        assert answer.received.headers["X-Tenant"] == "acme"
        assert answer.received.target == "/cart?x=1"
        stranger = await edge.get("http://globex.shop.example.com/")
        assert (stranger.status, stranger.service, stranger.text) == (404, None, "no such tenant")


async def test_tenant_without_tenants_closes_its_route(example: Callable[[str], Any]) -> None:
    async with Edge(MANIFESTS.format(name="tenant", config="''"), middleware=[example("tenant")]) as edge:
        (error,) = edge.errors
        assert "the list of tenants is empty" in error
        assert (await edge.get("http://acme.shop.example.com/")).status == 503


# ---- signed links -------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef\n")
    return path


async def test_signed_links(example: Callable[[str], Any], key: Path) -> None:
    cls = example("signed-links")
    middleware, sign = cls(str(key)), module_of(cls).sign

    async def ask(path: str, expires: int, *, signed_path: str = "", more: str = "") -> Any:
        signature = sign(b"0123456789abcdef", signed_path or path, str(expires)).decode()
        url = f"https://example.com{path}?a=1&expires={expires}&signature={signature}{more}"
        return await run(middleware, request("GET", url))

    future, past = int(time.time()) + 3600, int(time.time()) - 3600
    good = await ask("/files/a%20b", future)
    assert good.reply is None
    assert good.request.query == "a=1"
    for outcome in (
        await ask("/files/a", past),
        await ask("/files/b", future, signed_path="/files/a"),
        await ask("/files/a", future, more="0"),
        await run(middleware, request("GET", "https://example.com/files/a")),
        await run(middleware, request("GET", "https://example.com/files/a?expires=x&signature=y")),
        await run(middleware, request("GET", f"https://example.com/files/a?expires={future}&signature=%C3%BC")),
    ):
        assert outcome.reply is not None
        assert outcome.reply.status == 403


@pytest.mark.parametrize(("content", "why"), [(None, "can't be read"), (b"short", "shorter than 16 bytes")])
def test_signed_links_without_a_key(
    example: Callable[[str], Any], tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        example("signed-links")(str(path))


# ---- problem details ----------------------------------------------------------------------------------------------


async def test_problem_details_alone(example: Callable[[str], Any]) -> None:
    outcome = await run(example("problem-details")("0"), status=504, error=True)
    assert outcome.reply is not None
    assert json.loads(outcome.reply.body)["title"] == "Gateway Timeout"
    assert outcome.response is not None
    assert outcome.response["Content-Type"] == "application/problem+json"
    assert outcome.response["Server-Timing"].startswith("total;dur=")


async def test_problem_details_in_a_manifest(example: Callable[[str], Any]) -> None:
    manifests = MANIFESTS.format(name="problem-details", config="'60'")
    async with Edge(manifests, middleware=[example("problem-details")], without_endpoints=["default/shop"]) as edge:
        answer = await edge.get("http://a.shop.example.com/")
        assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
        assert json.loads(answer.body)["status"] == 503
    async with Edge(manifests, middleware=[example("problem-details")]) as edge:
        edge.services["default/shop"].status = 500
        edge.services["default/shop"].body = b"the application's own"
        answer = await edge.get("http://a.shop.example.com/")
        assert (answer.status, answer.body) == (500, b"the application's own")
