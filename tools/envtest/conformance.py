"""The Ingress conformance suite against this project: `python -m tools.envtest.conformance CHECKOUT [SUITE ARGUMENTS...]`.

CHECKOUT is a clone of kubernetes-sigs/ingress-controller-conformance, built as it is. The exit code is the suite's. It wants an Ingress with a
`tls` section to answer over plain HTTP too, so the redirect to HTTPS is off. About a quarter of an hour.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.envtest import EnvtestError, build
from tools.envtest.cluster import Cluster

_ROOT = Path(__file__).parents[2]
_CLASS = "conformance"
_NAMESPACE = "aioingress"
_PERIOD_S = 1.0
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
    suite = subprocess.Popen([*argv, *arguments], cwd=checkout, env=cluster.command_environment())
    try:
        while suite.poll() is None:
            clear_terminating(cluster)
            time.sleep(_PERIOD_S)
    finally:
        suite.terminate()
        suite.wait()
    return suite.returncode


def clear_terminating(cluster: Cluster) -> None:
    """Delete the Ingresses of namespaces that are being deleted.

    The suite goes on as soon as it has asked for a namespace's end, and reckons that its Ingresses are gone when the next scenario sends. Since Kubernetes
    1.33 a namespace's Pods go first and all else five seconds after the last of them (KEP-5080): the older Ingress, its Pods gone, would still own the host.
    """
    for namespace in cluster.get("/api/v1/namespaces")["items"]:
        if "deletionTimestamp" not in namespace["metadata"]:
            continue
        path = f"/apis/networking.k8s.io/v1/namespaces/{namespace['metadata']['name']}/ingresses"
        if cluster.get(path)["items"]:
            cluster.delete(path)


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0].startswith("-"):
        print("usage: python -m tools.envtest.conformance CHECKOUT [SUITE ARGUMENTS...]", file=sys.stderr)
        return 2
    checkout = Path(argv[0]).absolute()
    chart = Path(os.environ.get("CHART", _ROOT / "charts" / "aioingress"))
    folder = Path(tempfile.mkdtemp(prefix="aioingress-conformance-"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
