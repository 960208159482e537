"""A cluster to play with: `python -m tools.envtest.playground`, until Ctrl-C.

The control plane, this project's chart and the samples of examples/. Pods and Services live in a network namespace; the API server and the
controller's Service are reached from outside by listeners on 127.0.0.1 that relay into it.
"""

import argparse
import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.envtest import API_SERVER, API_SERVER_PORT, EnvtestError, build
from tools.envtest.cluster import Cluster
from tools.envtest.loadbalancer import Backend, Front

_ROOT = Path(__file__).parents[2]
_RELEASE, _NAMESPACE = "aioingress", "aioingress"
_SAMPLES = ("toad.yaml", "toad-ingress.yaml", "toad-sticky.yaml")


class Outside:
    """Listening sockets of the namespace in which this is made, for relaying into the one in which `relay` runs."""

    def __init__(self) -> None:
        self.api = _listener(6443)
        self.http = _listener(8080)
        self.https = _listener(8443)

    async def relay(self, controller: str) -> None:
        """Until SIGINT or SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        tasks: set[asyncio.Task[None]] = set()
        targets = ((self.api, API_SERVER, API_SERVER_PORT), (self.http, controller, 80), (self.https, controller, 443))
        async with contextlib.AsyncExitStack() as stack:
            for sock, host, port in targets:
                backend = Backend([(host, port)])
                server = await loop.create_server(lambda backend=backend: Front(backend, tasks), sock=sock)  # type: ignore[misc]
                stack.callback(server.close)
            await stop.wait()


def _listener(port: int) -> socket.socket:
    """On that port, or on a free one if it is taken."""
    for candidate in (port, 0):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", candidate))
        except OSError:
            sock.close()
            continue
        return sock
    raise EnvtestError("no free port on 127.0.0.1")


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def play(cluster: Cluster, outside: Outside, chart: Path, values: Sequence[str]) -> None:
    """Inside of the cluster's namespace."""
    print("installing the chart", flush=True)
    sets = [item for value in values for item in ("--set", value)]
    create = ("--namespace", _NAMESPACE, "--create-namespace", "--wait", "--timeout", "2m")
    cluster.helm("upgrade", "--install", _RELEASE, str(chart), *create, *sets)
    cluster.apply(*(_ROOT / "examples" / name for name in _SAMPLES))
    cluster.wait_rollout("deployment", "toad", "default")
    services = cluster.get(f"/api/v1/namespaces/{_NAMESPACE}/services")["items"]
    controller = next((item for item in services if item["spec"]["type"] == "LoadBalancer"), None)
    if controller is None:
        raise EnvtestError("the chart made no Service of type LoadBalancer")
    address = cluster.load_balancer_address(_NAMESPACE, controller["metadata"]["name"])
    kubeconfig = cluster.folder / "kubeconfig"
    cluster.control_plane.write_kubeconfig(kubeconfig, server=f"https://127.0.0.1:{_port(outside.api)}")
    print(
        _GREETING.format(
            kubeconfig=kubeconfig,
            http=_port(outside.http),
            https=_port(outside.https),
            logs=cluster.folder,
            address=address,
        ),
        flush=True,
    )
    asyncio.run(outside.relay(address))


_GREETING = """
The cluster is up, its load balancer's address is {address}. From any shell, until Ctrl-C here:

    export KUBECONFIG={kubeconfig}
    kubectl get pods,ingress --all-namespaces
    curl -H 'Host: toad.example.com' http://127.0.0.1:{http}/       # repeat it: four Pods take turns
    curl -k -H 'Host: toad.example.com' https://127.0.0.1:{https}/
    curl -H 'Host: sticky.example.com' http://127.0.0.1:{http}/     # repeat it: one Pod

Logs are below {logs}.
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.envtest.playground", description=__doc__.splitlines()[0])
    parser.add_argument("--chart", type=Path, default=_ROOT / "charts" / "aioingress", help="folder of the chart")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a value of the chart; repeatable"
    )
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="aioingress-cluster-"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        build.build()
        binaries = build.find_binaries()
        if isinstance(binaries, str):
            raise EnvtestError(binaries)
        outside = Outside()
        started = time.monotonic()
        with Cluster(binaries, folder / "cluster") as cluster, cluster.namespace.entered():
            print(f"control plane ready after {time.monotonic() - started:.0f} s", flush=True)
            try:
                play(cluster, outside, options.chart, options.set)
            except AssertionError as error:
                print(cluster.log_tails(), file=sys.stderr)
                raise EnvtestError(str(error)) from error
    except EnvtestError as error:
        print(f"envtest: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
