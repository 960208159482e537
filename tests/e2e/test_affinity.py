"""Session affinity over several workers: the same Pod, whichever worker takes the connection."""

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.support import (
    Connection,
    Pod,
    Pods,
    Serve,
    app,
    eventually,
    ingress,
    path,
    rule,
    running,
    write,
)

CLIENTS = [f"127.0.0.{number}" for number in range(1, 13)]


@pytest.fixture(scope="module")
def backends(pods: Pods) -> list[Pod]:
    return pods.some("sticky", 6)


@pytest.fixture(scope="module")
def live(backends: list[Pod], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    place = tmp_path_factory.mktemp("affinity") / "manifests"
    place.mkdir()
    publish(place, "shared", backends[:3])
    write(
        place / "cookie.yaml",
        app("cookie", backends[:3]),
        ingress(
            "cookie",
            rule("cookie.test", path("cookie")),
            annotations={
                "nginx.ingress.kubernetes.io/affinity": "cookie",
                "nginx.ingress.kubernetes.io/session-cookie-name": "route",
            },
        ),
    )
    with Serve(place, "--no-access-log", workers=2) as running:
        yield running


def publish(place, name: str, backends: Sequence[Pod], timeout_s: int | None = 600) -> None:
    """A Service with ClientIP affinity and its Ingress; None: without affinity."""
    spec = (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout_s}}}
        if timeout_s
        else {"sessionAffinity": "None"}
    )
    write(place / f"{name}.yaml", app(name, backends, **spec), ingress(name, rule(f"{name}.test", path(name))))


def pods_of(live: Serve, client: str, host: str, connections: int = 16) -> set[str]:
    """Who answers on so many new connections, which the kernel spreads over both workers."""
    answers = [live.get(host, source=client) for _ in range(connections)]
    assert {a.status for a in answers} == {200}
    return {a.pod for a in answers}


def only(found: set[str]) -> str:
    (pod,) = found
    return pod


def endpoints(live: Serve, host: str) -> int:
    upstreams = live.table(f"?host={host}")["upstreams"]
    return len(upstreams[0]["endpoints"]) if upstreams else 0


def settled(live: Serve, host: str, count: int) -> None:
    def probe() -> bool:
        ids = {
            dict(labels)["id"]
            for (name, labels), value in live.metrics().items()
            if name == "aioingress_worker_tables" and value
        }
        return endpoints(live, host) == count and ids == {live.table()["id"]}

    eventually(probe, f"{count} endpoints on every worker")


def test_same_pod_on_every_worker(live):
    first = {client: only(pods_of(live, client, "shared.test")) for client in CLIENTS}
    assert len(set(first.values())) > 1, "clients are spread over the Pods"
    assert {client: only(pods_of(live, client, "shared.test", 4)) for client in CLIENTS} == first


def test_stays_when_endpoints_join_and_moves_when_its_own_leaves(live, backends):
    place = live.folders[0]
    publish(place, "scaled", backends[:2])
    live.serving("scaled.test", only(pods_of_first(live, "scaled.test")))
    settled(live, "scaled.test", 2)
    # once each, so that only one worker knows: the other one has to be told
    first = {client: only(pods_of(live, client, "scaled.test", 1)) for client in CLIENTS}
    time.sleep(0.2)  # workers tell each other twenty times a second
    publish(place, "scaled", backends)
    settled(live, "scaled.test", 6)
    assert {client: only(pods_of(live, client, "scaled.test", 6)) for client in CLIENTS} == first
    newcomers = {only(pods_of(live, f"127.0.1.{number}", "scaled.test", 2)) for number in range(1, 40)}
    assert newcomers & {pod.name for pod in backends[2:]}, "who comes later may meet a new Pod"
    publish(place, "scaled", backends[1:])
    settled(live, "scaled.test", 5)
    after = {client: only(pods_of(live, client, "scaled.test", 6)) for client in CLIENTS}
    gone = backends[0].name
    assert gone not in after.values()
    assert {c: p for c, p in after.items() if first[c] != gone} == {c: p for c, p in first.items() if p != gone}


def pods_of_first(live: Serve, host: str) -> set[str]:
    eventually(lambda: live.get(host).status == 200, host)
    return {live.get(host).pod}


def test_restart_of_a_worker_keeps_it(live, backends):
    """The successor is told what the others know, also of clients that only its predecessor had seen."""
    place = live.folders[0]
    publish(place, "restart", backends[:2])
    pods_of_first(live, "restart.test")
    settled(live, "restart.test", 2)
    first = {client: only(pods_of(live, client, "restart.test", 1)) for client in CLIENTS}
    time.sleep(0.2)  # workers tell each other twenty times a second
    publish(place, "restart", backends)  # from here on the ring alone would move many of them
    settled(live, "restart.test", 6)
    for number in (signal.SIGKILL, signal.SIGTERM):
        for pid in live.children:
            os.kill(pid, number)
            eventually(lambda pid=pid: not running(pid) and live.readiness()[0] == 200)
    assert {client: only(pods_of(live, client, "restart.test", 6)) for client in CLIENTS} == first


def test_timeout(live, backends):
    """A client that stays away longer than timeoutSeconds is a new one; one that keeps coming isn't."""
    place = live.folders[0]
    publish(place, "short", backends[:1], timeout_s=1)
    pods_of_first(live, "short.test")
    settled(live, "short.test", 1)
    for client in CLIENTS:
        assert only(pods_of(live, client, "short.test", 1)) == "sticky-0"
    publish(place, "short", backends, timeout_s=1)
    settled(live, "short.test", 6)
    keeper = CLIENTS[0]
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        assert only(pods_of(live, keeper, "short.test", 1)) == "sticky-0"
        time.sleep(0.1)
    moved = {only(pods_of(live, client, "short.test", 4)) for client in CLIENTS[1:]}
    assert moved - {"sticky-0"}, "eleven clients on six Pods"


def test_affinity_is_switched_on_and_off_live(live, backends):
    place = live.folders[0]
    publish(place, "switch", backends[:3], timeout_s=None)
    pods_of_first(live, "switch.test")
    settled(live, "switch.test", 3)
    assert len(pods_of(live, CLIENTS[0], "switch.test")) == 3
    publish(place, "switch", backends[:3], timeout_s=600)
    eventually(lambda: len(pods_of(live, CLIENTS[0], "switch.test")) == 1, "sticky")
    first = {client: only(pods_of(live, client, "switch.test", 6)) for client in CLIENTS}
    publish(place, "switch", backends[:3], timeout_s=300)  # another timeout moves nobody
    time.sleep(0.3)
    assert {client: only(pods_of(live, client, "switch.test", 6)) for client in CLIENTS} == first
    publish(place, "switch", backends[:3], timeout_s=None)
    eventually(lambda: len(pods_of(live, CLIENTS[0], "switch.test")) == 3, "taking turns again")


@pytest.mark.parametrize("workers", [0, 3])
def test_client_ip_with_any_number_of_workers(backends, folder, serve, workers):
    publish(folder, "web", backends)
    running = serve("--no-access-log", workers=workers)
    first = {client: only(pods_of(running, client, "web.test", 8)) for client in CLIENTS}
    assert len(set(first.values())) > 1
    assert {client: only(pods_of(running, client, "web.test", 8)) for client in CLIENTS} == first


def test_client_ip_on_kept_connections(live):
    """Many requests on many connections at once, from one address."""
    expected = only(pods_of(live, CLIENTS[3], "shared.test", 1))
    connections = [Connection(live.http, CLIENTS[3]) for _ in range(10)]
    assert {c.get("/", "shared.test").pod for c in connections for _ in range(3)} == {expected}


def test_cookie_over_two_workers(live):
    seen = set()
    for _ in range(12):
        answer = live.get("cookie.test")
        found = re.match(r"route=([^;]+);.*HttpOnly", answer.headers["Set-Cookie"])
        assert found, answer.headers["Set-Cookie"]
        again = [live.get("cookie.test", headers={"Cookie": f"a=b; route={found[1]}"}) for _ in range(8)]
        assert {a.pod for a in again} == {answer.pod}
        assert {a.headers["Set-Cookie"] for a in again} == {None}
        seen.add(answer.pod)
    assert len(seen) > 1


@pytest.mark.parametrize("cookie", ["route=", "route=forged", "route=1.2|3", "route=%00%ff"])
def test_forged_cookie_gets_a_session_of_its_own(live, cookie):
    answer = live.get("cookie.test", headers={"Cookie": cookie})
    assert answer.status == 200
    assert answer.pod.startswith("sticky-")
