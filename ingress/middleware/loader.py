"""Middlewares of the cluster's admin: from files that are mounted, and from packages that are installed.

Nothing that an Ingress says is ever imported: an annotation only names what was loaded here.
"""

import importlib.util
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from ingress.errors import ConfigError
from ingress.middleware.api import Middleware

ENTRY_POINTS = "aioingress.middleware"
"""Group of entry points: each a subclass of `Middleware`, under the name by which Ingresses know it."""

_NAME = re.compile(
    r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
)  # together with `middleware.` at most the 63 of an annotation
_log = logging.getLogger(__name__)

REGISTRY: dict[str, type[Middleware]] = {}
"""By name; filled by `install`, once a process."""


def install(paths: Iterable[Path]) -> None:
    """Load everything. What can't be imported is logged and left out: routes that name it are closed, and nothing else is concerned.

    Raises ConfigError for a path that is neither a Python file nor a folder.
    """
    REGISTRY.clear()
    for place, found in _classes(paths):
        name = getattr(found, "name", "")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            _log.error("middleware %s of %s: its name %r is not one: a-z, 0-9, -", found.__name__, place, name)
        elif name in REGISTRY and REGISTRY[name] is not found:
            _log.error("middleware %s of %s: there is another of this name, which is used", name, place)
        else:
            REGISTRY[name] = found
    if REGISTRY:
        _log.info("middlewares: %s", ", ".join(sorted(REGISTRY)))


def _classes(paths: Iterable[Path]) -> Iterator[tuple[str, type[Middleware]]]:
    for path in paths:
        for file in _files(path):
            module = _import(file)
            for value in vars(module).values() if module is not None else ():
                if isinstance(value, type) and issubclass(value, Middleware) and value.__module__ == module.__name__:  # type: ignore[union-attr]
                    yield str(file), value
    for point in entry_points(group=ENTRY_POINTS):
        try:
            value = point.load()
            if not (isinstance(value, type) and issubclass(value, Middleware)):
                raise TypeError(f"{point.value} is not a subclass of Middleware")
        except Exception:
            _log.exception("middleware %s could not be loaded", point.name)
            continue
        yield f"entry point {point.name}", value


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.glob("*.py") if not p.name.startswith(("_", ".")))
    if path.is_file() and path.suffix == ".py":
        return [path]
    raise ConfigError(f"--middleware-path {path}: it is neither a Python file nor a folder")


def _import(file: Path) -> ModuleType | None:
    name = f"aioingress_middleware_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        _log.error("middleware file %s can't be imported", file)
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception:
        del sys.modules[name]
        _log.exception("middleware file %s could not be imported", file)
        return None
    return module
