"""Limits over several worker processes: together they let through what one would."""

import concurrent.futures
import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.support import Connection, Pods, Serve, app, eventually, ingress, path, rule, write

NGINX = "nginx.ingress.kubernetes.io/"
RATE, SECONDS = 200, 2.0


def manifests(folder: Path, pods: Pods, **annotations: str) -> Path:
    made = folder / "manifests"
    made.mkdir()
    texts = {NGINX + name.replace("_", "-"): value for name, value in annotations.items()}
    write(
        made / "all.yaml",
        ingress("web", rule("web.test", path("web")), annotations=texts),
        app("web", pods.some("web", 1)),
    )
    return made


@pytest.mark.parametrize(("workers", "connections"), [(1, 1), (2, 8), (4, 1), (4, 8)])
def test_the_rate_is_that_of_all_workers_together(tmp_path: Path, pods: Pods, workers: int, connections: int) -> None:
    """Counted against the time that the flood really took, so a slow machine changes nothing."""
    folder = manifests(tmp_path, pods, limit_rps=str(RATE), limit_burst_multiplier="1")
    with Serve(folder, workers=workers) as serve:
        began = time.monotonic()

        def flood(_: int) -> tuple[int, int]:
            passed = refused = 0
            while time.monotonic() - began < SECONDS:
                with Connection(serve.http) as connection:
                    for _ in range(500):  # below what a connection may carry
                        status = connection.get("/", "web.test").status
                        passed, refused = passed + (status == 200), refused + (status == 503)
                        if time.monotonic() - began >= SECONDS:
                            break
            return passed, refused

        with concurrent.futures.ThreadPoolExecutor(connections) as pool:
            outcomes = list(pool.map(flood, range(connections)))
        took_s = time.monotonic() - began
        passed, refused = map(sum, zip(*outcomes, strict=True))
        assert refused, "the flood was no flood"
        assert passed <= 1.05 * (RATE * took_s + RATE + 1)
        assert passed >= 0.9 * (RATE * SECONDS + RATE)  # clients that share two cores with it may leave a token unused
        assert serve.metric("aioingress_limited_total", ingress="web", limit="rate") == refused


def test_connections_are_counted_over_all_workers_and_end_with_a_killed_one(tmp_path: Path, pods: Pods) -> None:
    folder = manifests(tmp_path, pods, limit_connections="6")
    with Serve(folder, workers=3) as serve:
        waiting = [Connection(serve.http) for _ in range(6)]
        for connection in waiting:
            connection.send("/delay/30", "web.test")
        eventually(lambda: serve.metric("aioingress_requests_in_flight") >= 6, "six under way")
        assert serve.get("web.test").status == 503
        for pid in serve.children:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: _all_pass(serve), "what they held is free")
        for connection in waiting:
            connection.close()


def _all_pass(serve: Serve) -> bool:
    try:
        return all(serve.get("web.test").status == 200 for _ in range(3))
    except OSError:  # their successors are on their way
        return False
