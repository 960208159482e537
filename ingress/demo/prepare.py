"""Everything that the demo needs besides the controller: backends that answer and manifests that lead to them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ingress.demo.backends import DemoBackends, DemoPod
from ingress.demo.manifests import write_manifests


@dataclass(frozen=True, slots=True)
class Demo:
    folder: Path
    manifests: tuple[Path, ...]
    pods: tuple[DemoPod, ...]


@asynccontextmanager
async def prepare(folder: Path | None = None) -> AsyncIterator[Demo]:
    """Backends serve and `folder` has the manifests while the block runs; without a folder, a temporary one that goes with it.

    Raise ConfigError when the folder can't be used.
    """
    home = TemporaryDirectory(prefix="ingress-demo-") if folder is None else nullcontext(folder)
    async with DemoBackends() as backends:
        with home as place:
            yield _write(Path(place), backends.pods)


def _write(folder: Path, pods: tuple[DemoPod, ...]) -> Demo:
    # Resolved: a watched path with a symbolic link in it (macOS's /tmp) reports its events under the real one.
    folder = folder.resolve()
    return Demo(folder, tuple(write_manifests(folder, pods)), pods)
