"""Who may import what, where the import-linter contracts of pyproject.toml don't reach: single modules and outside packages."""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ingress

PACKAGE = Path(ingress.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

PURE = ("errors", "config", "model", "variables", "routing", "translate", "balancing", "affinity", "exchange")
IMPURE_LIBRARIES = ("aiohttp", "kubernetes_asyncio", "ssl", "asyncio", "uvloop", "httptools")

AIOHTTP_API = {"web", "abc", "client", "hdrs", "typedefs"}
"""Submodules that are documented, or re-exported whole; any other may change with a patch release."""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported dotted name with its line, wherever in the module; `from a import b` counts as `a` and as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def violations(name: str, source: str) -> list[str]:
    """`line: what is wrong` for each import of module `name` that breaks a rule."""
    found = []
    pure = within(name, tuple(f"ingress.{module}" for module in PURE))
    for imported, line in imports_of(ast.parse(source)):
        head, _, rest = imported.partition(".")
        if imported.startswith("."):
            found.append(f"{line}: {imported}: imports are absolute")
        if pure and head in IMPURE_LIBRARIES:
            found.append(f"{line}: {imported}: {name} is pure")
        if head == "kubernetes_asyncio" and not within(name, ("ingress.kube",)):
            found.append(f"{line}: {imported}: only ingress.kube talks to the API server")
        submodule = rest.partition(".")[0]
        internal = head == "aiohttp" and submodule not in AIOHTTP_API and is_module(f"aiohttp.{submodule}")
        if internal and name != "ingress.proxy.listener":
            found.append(f"{line}: {imported}: only ingress.proxy.listener touches aiohttp's internals")
    return found


@cache
def is_module(name: str) -> bool:
    return not name.endswith(".") and importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports(path):
    assert violations(name_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("ingress.routing.trie", "import asyncio", 1),
        ("ingress.routing.trie", "from aiohttp import web", 2),  # the package and its submodule
        ("ingress.exchange", "def f():\n    import ssl", 1),
        ("ingress.exchanger", "import ssl", 0),
        ("ingress.proxy.forward", "from aiohttp.web_protocol import RequestHandler", 2),
        ("ingress.proxy.forward", "from aiohttp import web_protocol", 1),
        ("ingress.proxy.forward", "import aiohttp.base_protocol", 1),
        ("ingress.proxy.listener", "from aiohttp.web_protocol import RequestHandler", 0),
        ("ingress.admin.server", "from aiohttp import web, ClientSession, request", 0),
        ("ingress.files.source", "import kubernetes_asyncio.config", 1),
        ("ingress.kube.client", "import kubernetes_asyncio.config", 0),
        ("ingress.app", "from . import cli", 2),
    ],
)
def test_rules_bite(name, source, count):
    assert len(violations(name, source)) == count
