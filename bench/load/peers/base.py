"""What a peer is: a name, a way to find it, and a command for a site."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.load.site import Site
from bench.support.processes import PortAllocator

UPSTREAM_KEEPALIVE = 320  # idle upstream connections kept: ingress-nginx's default, given to everyone


@dataclass(frozen=True, slots=True)
class Finder:
    """Looks for executables: the given folders, then beside the interpreter (PyPI packages), then PATH and sbin."""

    folders: tuple[Path, ...] = ()

    def find(self, name: str) -> Path | None:
        sbin = ("/usr/local/sbin", "/usr/sbin", "/sbin")
        places = (*map(str, self.folders), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), *sbin)
        found = shutil.which(name, path=os.pathsep.join(places))
        return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Launch:
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


class Peer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def install(self) -> str:
        """What a person installs to get it, in a few words."""

    def find(self, finder: Finder) -> Path | None:
        """None when it is not on this machine."""

    def version(self, binary: Path) -> str: ...

    def launch(self, binary: Path, site: Site, folder: Path, port: int, ports: PortAllocator) -> Launch:
        """Write the configuration into `folder`; the command stays in the foreground, listening on 127.0.0.1:`port`."""


def output_of(*argv: str | Path) -> str:
    """stdout and stderr of a short command, empty when it can't run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
