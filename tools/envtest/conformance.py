"""The Ingress conformance suite against this project: `python -m tools.envtest.conformance CHECKOUT [SUITE ARGUMENTS...]`.

CHECKOUT is a clone of kubernetes-sigs/ingress-controller-conformance, built as it is. The exit code is the suite's. It wants an Ingress with a
`tls` section to answer over plain HTTP too, so the redirect to HTTPS is off. Some minutes, one of which is a pause of the suite's own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.envtest import EnvtestError, build
from tools.envtest.cluster import Cluster

_ROOT = Path(__file__).parents[2]
_CLASS = "conformance"
_NAMESPACE = "aioingress"
_VALUES = {
    "controller": {
        "ingressClassResource": {"name": _CLASS},
        "config": {"ssl-redirect": "false"},
        "service": {"type": "LoadBalancer"},
    }
}
_MODULE = "sigs.k8s.io/ingress-controller-conformance"


def compile_suite(checkout: Path, target: Path) -> None:
    """Raises EnvtestError."""
    try:
        module = (checkout / "go.mod").read_text().split()[1]
    except (OSError, IndexError):
        module = ""
    if module != _MODULE:
        raise EnvtestError(f"{checkout} is no checkout of {_MODULE}")
    print("envtest: building the conformance suite (2 minutes the first time)", file=sys.stderr, flush=True)
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    argv = ["go", "test", "-c", "-trimpath", "-o", str(target), "."]
    done = subprocess.run(argv, cwd=checkout, env=env, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise EnvtestError(f"go test -c: {done.stderr.strip()}")


def run_suite(cluster: Cluster, binary: Path, checkout: Path, chart: Path, arguments: Sequence[str]) -> int:
    """Inside of the cluster's namespace. The suite's exit code."""
    install = ("upgrade", "--install", "aioingress", str(chart), "--namespace", _NAMESPACE, "--create-namespace")
    cluster.helm(*install, "--wait", "--timeout", "2m", "--values", "-", input=json.dumps(_VALUES))
    argv = [str(binary), f"--ingress-class={_CLASS}", "--wait-time-for-ingress-status=1m", "--wait-time-for-ready=1m"]
    # it reads its features and writes reports relative to where it runs
    return subprocess.run([*argv, *arguments], cwd=checkout, env=cluster.command_environment(), check=False).returncode


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0].startswith("-"):
        print("usage: python -m tools.envtest.conformance CHECKOUT [SUITE ARGUMENTS...]", file=sys.stderr)
        return 2
    checkout = Path(argv[0]).absolute()
    chart = Path(os.environ.get("CHART", _ROOT / "charts" / "aioingress"))
    folder = Path(tempfile.mkdtemp(prefix="aioingress-conformance-"))
    try:
        build.build()
        binaries = build.find_binaries()
        if isinstance(binaries, str):
            raise EnvtestError(binaries)
        compile_suite(checkout, folder / "suite")
        with Cluster(binaries, folder / "cluster") as cluster, cluster.namespace.entered():
            try:
                code = run_suite(cluster, folder / "suite", checkout, chart, argv[1:])
            except AssertionError as error:
                print(cluster.log_tails(), file=sys.stderr)
                raise EnvtestError(str(error)) from error
            if code:
                print(cluster.log_tails(), file=sys.stderr)
            return code
    except EnvtestError as error:
        print(f"envtest: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
