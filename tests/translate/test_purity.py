"""`translate` decides and does nothing: no I/O, no clock, no environment, no chance."""

import ast
from pathlib import Path

import ingress.translate

FORBIDDEN = {
    "aiohttp", "asyncio", "http", "importlib", "kubernetes_asyncio", "logging", "os", "pathlib", "random", "secrets", "socket",
    "ssl", "subprocess", "sys", "threading", "time", "uuid",
}  # fmt: skip
CLOCKS = {"now", "today", "utcnow"}
ALLOWED_PARTS = {
    "config",
    "errors",
    "expressions",
    "model",
    "request_text",
    "routing",
    "textmap",
    "translate",
    "variables",
}


def test_imports_and_calls() -> None:
    files = sorted(Path(ingress.translate.__file__).parent.rglob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, file
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute):
                assert node.attr not in CLOCKS, (file, node.lineno)
            elif isinstance(node, ast.Name):
                assert node.id not in {"open", "eval", "exec", "print", "input"}, (file, node.lineno)
            for name in names:
                top, _, rest = name.partition(".")
                assert top not in FORBIDDEN, (file, name)
                assert top != "ingress" or rest.partition(".")[0] in ALLOWED_PARTS, (file, name)
