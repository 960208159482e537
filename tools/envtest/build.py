"""Builds the control plane, kubectl and helm from pinned Go modules into the user's cache folder, once a machine.

    python -m tools.envtest.build             build what is missing
    python -m tools.envtest.build --if-go     without Go: do nothing, unless CI is set

Needs nothing but Python and Go. `KUBEBUILDER_ASSETS` (the convention of controller-runtime's envtest) names a folder of ready binaries and
switches building off; what that folder lacks of kubectl and helm is taken from PATH.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.envtest import EnvtestError

_HERE = Path(__file__).parent
_KUBERNETES = ("v1.36.3", "1", "36")
_VERSION_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.git{name}={value}"
    for name, value in zip(("Version", "Major", "Minor"), _KUBERNETES, strict=True)
)


# What `helm template` and `helm lint` take the cluster's version to be, and what `helm version` says.
_HELM_FLAGS = " ".join(
    f"-X helm.sh/helm/v3/{name}={value}"
    for name, value in (
        ("internal/version.version", "v3.22.0"),
        *(
            (f"pkg/{package}.k8sVersion{part}", value)
            for package in ("chartutil", "lint/rules")
            for part, value in zip(("Major", "Minor"), _KUBERNETES[1:], strict=True)
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Module:
    """One go.mod and the commands built from it: their requirements clash, so that they can't share one."""

    name: str
    commands: Mapping[str, str]  # binary -> package
    minutes: int  # on two cores, nothing cached
    ldflags: str = "-s -w"

    @property
    def folder(self) -> Path:
        return _HERE / self.name


MODULES = (
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, 2),
    Module("helm", {"helm": "helm.sh/helm/v3/cmd/helm"}, 2, f"-s -w {_HELM_FLAGS}"),
    Module(
        "kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kubectl")},
        8,
        f"-s -w {_VERSION_FLAGS}",
    ),
)


@dataclass(frozen=True, slots=True)
class Binaries:
    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path
    helm: Path


def find_binaries() -> Binaries | str:
    """Ready binaries, without building; otherwise why there are none, in one line."""
    try:
        assets = os.environ.get("KUBEBUILDER_ASSETS")
        if assets:
            return _from_assets(Path(assets))
        folders = {module.name: _target(module, _go_version()) for module in MODULES}
    except EnvtestError as error:
        return str(error)
    paths = {name: folders[module.name] / name for module in MODULES for name in module.commands}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        return f"not built yet: {', '.join(missing)} (make envtest)"
    return _binaries(paths)


def build(modules: Sequence[Module] = MODULES) -> None:
    """Build what is missing, one line of progress a module. Raises EnvtestError."""
    version = _go_version()
    for module in modules:
        target = _target(module, version)
        if _complete(module, target):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.with_suffix(".lock")):
            if not _complete(module, target):  # somebody else may have built it meanwhile
                _build(module, target)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "aioingress" / "envtest"


def _from_assets(folder: Path) -> Binaries:
    paths = {}
    for module in MODULES:
        for name in module.commands:
            path = folder / name
            if not path.exists() and name in ("kubectl", "helm"):
                path = Path(shutil.which(name) or path)
            if not path.exists():
                raise EnvtestError(f"KUBEBUILDER_ASSETS is {folder}, which has no {name}")
            paths[name] = path.absolute()
    return _binaries(paths)


def _binaries(paths: Mapping[str, Path]) -> Binaries:
    return Binaries(**{name.replace("-", "_"): path for name, path in paths.items()})


def _go_version() -> str:
    """`go1.26.8 linux/amd64`; what the modules' own folder makes of it, since a go line may choose another toolchain."""
    if shutil.which("go") is None:
        raise EnvtestError("no Go to build the control plane with (install Go, or set KUBEBUILDER_ASSETS)")
    done = subprocess.run(["go", "version"], cwd=_HERE / "etcd", capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvtestError(f"go version: {_last_line(done.stderr)}")
    return done.stdout.strip().removeprefix("go version ")


def _target(module: Module, go_version: str) -> Path:
    """Named by all that decides what comes out."""
    digest = hashlib.sha256(f"{go_version}\n{module.ldflags}\n{sorted(module.commands.items())}\n".encode())
    for name in ("go.mod", "go.sum"):
        digest.update((module.folder / name).read_bytes())
    return cache_folder() / f"{module.name}-{digest.hexdigest()[:16]}"


def _complete(module: Module, target: Path) -> bool:
    return all((target / name).exists() for name in module.commands)


def _build(module: Module, target: Path) -> None:
    names = ", ".join(module.commands)
    print(f"envtest: building {names} (once, about {module.minutes} minutes)", file=sys.stderr, flush=True)
    started = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=target.parent))
    try:
        for name, package in module.commands.items():
            argv = ["go", "build", "-trimpath", "-ldflags", module.ldflags, "-o", str(scratch / name), package]
            done = subprocess.run(
                argv,
                cwd=module.folder,
                env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                raise EnvtestError(f"go build {package}: {_last_line(done.stderr)}")
        if target.exists():  # incomplete
            shutil.rmtree(target)
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"envtest: built {names} in {(time.monotonic() - started) / 60:.1f} minutes", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("envtest: waiting for another build", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["failed without a message"])[-1]


def main(argv: Sequence[str]) -> int:
    try:
        if not os.environ.get("KUBEBUILDER_ASSETS"):
            if "--if-go" in argv and shutil.which("go") is None and not os.environ.get("CI"):
                return 0  # the tests will say that they are left out
            build()
        found = find_binaries()
        if isinstance(found, str):
            raise EnvtestError(found)
    except EnvtestError as error:
        print(f"envtest: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
