"""What lasts: tunnels through many changes, bodies of tens of megabytes, flat memory."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.support import (
    Connection,
    Serve,
    WebSocket,
    app,
    content,
    eventually,
    ingress,
    path,
    resident_bytes,
    rule,
    write,
)

MIB = 1 << 20


@pytest.fixture
def live(pods, folder, serve) -> Serve:
    write(folder / "service.yaml", app("web", pods.some("web", 2)))
    write(
        folder / "web.yaml",
        ingress(
            "web", rule("web.test", path("web")), annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "100m"}
        ),
    )
    return serve("--no-access-log", workers=1)


@pytest.mark.parametrize(
    ("sockets", "swaps"), [(200, 30), pytest.param(1000, 100, marks=pytest.mark.slow)], ids=["small", "full"]
)
def test_tunnels_survive_table_swaps(live, folder, sockets, swaps):
    with ThreadPoolExecutor(8) as threads:
        tunnels = list(threads.map(lambda _: WebSocket(live.http, "web.test"), range(sockets)))
        assert live.metric("aioingress_tunnels") == sockets
        before = live.table()["id"]
        seen = {before}
        for number in range(swaps):
            other = ingress("other", rule(f"other-{number}.test", path("web")))
            # the route of the tunnels themselves changes too
            own = ingress("web", rule("web.test", path("web"), path("web", f"/{number}")))
            write(folder / "web.yaml", own)
            write(folder / "other.yaml", other)
            eventually(lambda: live.get(f"other-{number}.test").status == 200)  # noqa: B023 - called at once
            seen.add(live.table()["id"])
            assert tunnels[number % sockets].echo(f"during {number}").endswith(f"during {number}")
        assert len(seen) == swaps + 1
        # even the last one goes on when its route is gone
        (folder / "web.yaml").unlink()
        live.serving("web.test", None)
        answers = list(threads.map(lambda tunnel: tunnel.echo("after"), tunnels))
    assert len(answers) == sockets
    assert all(answer.endswith(": after") for answer in answers)
    assert live.metric("aioingress_tunnels") == sockets
    for tunnel in tunnels:
        tunnel.close()
    eventually(lambda: live.metric("aioingress_tunnels") == 0, "all tunnels are over")


def test_large_bodies_are_intact_and_memory_is_flat(live):
    (worker,) = live.children
    download, upload = 50 * MIB, 20 * MIB
    expected = hashlib.sha256()
    for chunk in content(download):
        expected.update(chunk)
    live.get("web.test", "/bytes/1000000")  # what is allocated once
    before = resident_bytes(worker)
    most = 0
    digest = hashlib.sha256()
    with Connection(live.http) as connection:
        connection.send(f"/bytes/{download}", "web.test")
        with connection.begin() as response:
            while chunk := response.read(256 * 1024):
                digest.update(chunk)
                most = max(most, resident_bytes(worker))
    assert digest.digest() == expected.digest()
    body = b"".join(content(upload))
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, resident_bytes(worker))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answer = live.get("web.test", method="PUT", body=body)
    finally:
        done.set()
        watcher.join()
    assert answer.json["body_bytes"] == upload
    assert answer.json["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert most - before < 30 * MIB


def test_slow_reader_does_not_fill_the_memory(live):
    """Back-pressure: what the client doesn't take stays at the Pod."""
    (worker,) = live.children
    live.get("web.test", "/bytes/1000000")
    before = resident_bytes(worker)
    with Connection(live.http) as connection:
        connection.send(f"/bytes/{50 * MIB}", "web.test")
        with connection.begin() as response:
            assert len(response.read(MIB)) == MIB
            for _ in range(20):
                assert live.get("web.test").status == 200  # the worker is busy with others meanwhile
                assert resident_bytes(worker) - before < 30 * MIB
            assert len(response.read()) == 49 * MIB


def test_download_goes_on_through_changes_and_a_drain(live, folder):
    with Connection(live.http) as connection:
        connection.send(f"/bytes/{20 * MIB}", "web.test")
        with connection.begin() as response:
            size = len(response.read(MIB))
            (folder / "service.yaml").unlink()
            eventually(lambda: live.get("web.test").status == 503, "the Service is gone")
            live.signal(15)
            eventually(lambda: live.readiness()[0] != 200, "draining")
            size += len(response.read())
    assert size == 20 * MIB
    assert live.wait() == 0
