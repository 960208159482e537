"""Worker processes as seen from outside: crash, replacement, drain, signals."""

import http.client
import os
import signal
import socket
import threading
import time

import pytest

from tests.e2e.support import (
    Connection,
    Load,
    Serve,
    WebSocket,
    app,
    eventually,
    ingress,
    path,
    rule,
    running,
    write,
)


@pytest.fixture
def site(pods, folder):
    """Manifests for `web.test` with two Pods."""
    write(folder / "web.yaml", app("web", pods.some("web", 2)), ingress("web", rule("web.test", path("web"))))
    return folder


def connections_by_worker(live: Serve, per_worker: int = 1) -> dict[int, list[Connection]]:
    """Kept connections, by the worker that accepted them: the kernel spreads new ones over the sockets."""
    found: dict[int, list[Connection]] = {pid: [] for pid in live.children}
    for _ in range(200):
        connection = Connection(live.http)
        assert connection.get("/", "web.test").status == 200
        found[owner_of(live, connection)].append(connection)
        if all(len(c) >= per_worker for c in found.values()):
            return found
    raise AssertionError({pid: len(c) for pid, c in found.items()})


def owner_of(live: Serve, connection: Connection) -> int:
    """The worker at the other end of a connection, by the inode of its socket."""
    host, port = connection.sock.getsockname()[:2]
    server_host, server_port = live.http
    local, remote = _hex(server_host, server_port), _hex(host, port)
    with open("/proc/net/tcp") as table:
        (inode,) = [fields[9] for line in table if (fields := line.split())[1:3] == [local, remote]]
    for pid in live.children:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") == f"socket:[{inode}]":
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError(f"no worker has socket {inode}")


def _hex(host: str, port: int) -> str:
    return f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_same_behaviour_with_any_number(site, serve, workers):
    live = serve(workers=workers)
    assert len(live.children) == workers
    answers = [live.get("web.test") for _ in range(20)]
    assert {a.pod for a in answers} == {"web-0", "web-1"}
    assert live.get("other.test").status == 404
    assert live.ask("/healthz").status == 200
    assert live.metric("aioingress_requests_total") == 21
    assert live.metric("aioingress_workers", state="wanted") == workers
    with Connection(live.http) as kept:
        assert kept.get("/", "web.test").status == kept.get("/", "web.test").status == 200
    assert live.stop() == 0


@pytest.mark.parametrize(
    ("workers", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)], ids=["one-process", "two-workers"]
)
def test_drain(site, serve, workers, number):
    """The request under way ends well, idle connections are told, nobody listens, all processes end."""
    live = serve(workers=workers)
    children = live.children
    slow, kept = Connection(live.http), Connection(live.http)
    assert kept.get("/", "web.test").headers["Connection"] is None
    slow.send("/delay/1", "web.test")
    eventually(lambda: live.metric("aioingress_requests_in_flight") == 1)
    live.signal(number)
    eventually(lambda: live.readiness() == (503, "draining"))
    eventually(lambda: not listening(live), "listening ends")
    answer = kept.get("/", "web.test")
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert kept.ended()
    answer = slow.receive()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert slow.ended()
    assert live.wait() == 0
    assert not any(running(pid) for pid in children)
    assert live.log(" error ") == []


def listening(live: Serve) -> bool:
    try:
        socket.create_connection(live.http, 5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("workers", [0, 2])
def test_second_signal_cuts(site, serve, workers):
    live = serve(workers=workers)
    children = live.children
    slow = Connection(live.http)
    slow.send("/delay/30", "web.test")
    eventually(lambda: live.metric("aioingress_requests_in_flight") == 1)
    live.signal(signal.SIGTERM)
    eventually(lambda: not listening(live))
    started = time.monotonic()
    live.signal(signal.SIGTERM)
    assert live.wait() == 1
    assert time.monotonic() - started < 5
    assert slow.ended()
    assert not any(running(pid) for pid in children)


@pytest.mark.parametrize("workers", [0, 2])
def test_drain_timeout_closes_what_is_left(site, serve, workers):
    live = serve("--drain-timeout", "0.5", workers=workers)
    slow = Connection(live.http)
    slow.send("/delay/30", "web.test")
    tunnel = WebSocket(live.http, "web.test")
    eventually(lambda: live.metric("aioingress_requests_in_flight") >= 1)
    started = time.monotonic()
    live.signal(signal.SIGTERM)
    assert live.wait() == 0
    assert time.monotonic() - started < 5
    assert slow.ended()
    assert live.log("still open after 0.5 s")
    tunnel.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_grace_period_goes_on_accepting(site, serve, workers):
    live = serve("--shutdown-grace-period", "1", workers=workers)
    live.signal(signal.SIGTERM)
    eventually(lambda: live.readiness() == (503, "draining"))
    answer = live.get("web.test")
    assert (answer.status, answer.headers["Connection"]) == (200, None)
    assert live.ask("/healthz").status == 200
    eventually(lambda: not listening(live))
    assert live.wait() == 0


def test_second_signal_in_the_grace_period(site, serve):
    live = serve("--shutdown-grace-period", "60")
    live.signal(signal.SIGTERM)
    eventually(lambda: live.readiness() == (503, "draining"))
    live.signal(signal.SIGINT)
    assert live.wait(5) == 1


def test_tunnels_go_on_while_draining(site, serve):
    live = serve(workers=1)
    tunnel = WebSocket(live.http, "web.test")
    live.signal(signal.SIGTERM)
    eventually(lambda: not listening(live))
    for _ in range(3):
        assert tunnel.echo("still here").endswith(": still here")
    assert live.process.poll() is None
    tunnel.close()
    assert live.wait() == 0


def test_drain_loses_no_request_under_load(site, serve):
    """Requests that were accepted, or waited in a queue, are answered; a refused connection is what a client sees afterwards."""
    live = serve("--no-access-log", workers=2)
    with Load(live.http, "web.test", clients=6) as load:
        load.more(100)
        live.signal(signal.SIGTERM)
        assert live.wait() == 0
    assert [f for f in load.failures if "ConnectionRefused" not in f] == []


def test_killed_worker_is_replaced(site, serve):
    """The other worker's clients notice nothing, and what was queued for the dead one is answered by its successor."""
    live = serve(workers=2)
    by_worker = connections_by_worker(live, 2)
    victim, other = live.children
    before = live.metric("aioingress_requests_total")
    os.kill(victim, signal.SIGSTOP)  # so that connections gather in its queue
    waiting = [Connection(live.http) for _ in range(20)]
    for connection in waiting:
        connection.send("/", "web.test")
    os.kill(victim, signal.SIGKILL)
    for connection in by_worker[other]:
        assert connection.get("/", "web.test").status == 200
    for connection in by_worker[victim]:
        assert connection.ended()
    assert [connection.receive().status for connection in waiting] == [200] * 20
    eventually(lambda: live.readiness()[0] == 200)
    assert other in live.children
    assert len(live.children) == 2
    assert live.metric("aioingress_requests_total") >= before + 20
    assert live.metric("aioingress_worker_restarts_total") == 1
    (line,) = live.log("starting another")
    assert f"pid {victim}" in line
    assert "SIGKILL" in line
    assert {live.get("web.test").pod for _ in range(20)} == {"web-0", "web-1"}


def test_not_ready_without_all_workers(site, serve):
    live = serve(workers=2)
    seen = []
    os.kill(live.children[0], signal.SIGKILL)
    eventually(lambda: seen.append(live.readiness()) or seen[-1][0] == 503, "not ready")
    assert seen[-1][1] == "1 of 2 workers serve"
    assert live.ask("/healthz").status == 200
    eventually(lambda: live.readiness()[0] == 200, "ready again")


def test_terminated_worker_is_replaced_without_loss(site, serve):
    live = serve("--no-access-log", workers=2)
    with Load(live.http, "web.test", clients=6) as load:
        for _ in range(2):
            for pid in live.children:
                load.more(50)
                os.kill(pid, signal.SIGTERM)
                eventually(lambda pid=pid: not running(pid), "it ends")
                eventually(lambda: live.readiness()[0] == 200 and len(live.children) == 2)
        load.more(50)
    assert load.failures == []
    assert live.metric("aioingress_worker_restarts_total") == 4
    assert live.metric("aioingress_requests_total", status="200") == load.answers


def test_terminated_worker_finishes_its_requests(site, serve):
    live = serve(workers=1)
    (pid,) = live.children
    slow = Connection(live.http)
    slow.send("/delay/1", "web.test")
    eventually(lambda: live.metric("aioingress_requests_in_flight") == 1)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: len(live.children) == 2, "its successor starts at once")
    assert live.get("web.test").status == 200
    assert slow.receive().status == 200
    eventually(lambda: live.children and pid not in live.children)
    assert len(live.children) == 1


def test_metrics_never_fall(site, serve):
    live = serve("--no-access-log", workers=2)
    counters = ("aioingress_requests_total", "aioingress_connections_accepted_total", "aioingress_response_bytes_total")
    last = dict.fromkeys(counters, 0.0)
    sent = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        for _ in range(25):
            assert live.get("web.test").status == 200
            sent += 1
        last = rising(live, last)
        assert last["aioingress_requests_total"] == sent
        pid = live.children[0]
        os.kill(pid, number)
        while running(pid) or live.readiness()[0] != 200:
            last = rising(live, last)
        last = rising(live, last)
        assert last["aioingress_requests_total"] == sent


def rising(live: Serve, last: dict[str, float]) -> dict[str, float]:
    now = {name: live.metric(name) for name in last}
    assert all(now[name] >= value for name, value in last.items()), (last, now)
    return now


def test_controller_killed_workers_end(site, serve):
    """What is under way is finished; nothing of it stays behind."""
    live = serve(workers=2)
    children = live.children
    slow = Connection(live.http)
    slow.send("/delay/1", "web.test")
    eventually(lambda: live.metric("aioingress_requests_in_flight") == 1)
    live.signal(signal.SIGKILL)
    live.wait()
    assert slow.receive().status == 200
    eventually(lambda: not any(running(pid) for pid in children), "workers end")
    assert not listening(live)


def test_not_ready_before_the_first_sync(site):
    live = Serve(site, workers=2, wait_ready=False)
    seen = []
    try:
        eventually(lambda: seen.append(live.readiness()) or seen[-1][0] == 200)
    finally:
        assert live.stop() == 0
    assert any(status == 503 for status, _ in seen), seen
    assert {reason for status, reason in seen if status == 503} <= {
        "the first sync is not complete",
        "0 of 2 workers serve",
        "1 of 2 workers serve",
    }


def test_connections_before_readiness_wait(site):
    """The port is open before the workers are up: an early client waits and gets its route, not a 404."""
    live = Serve(site, workers=2, wait_ready=False)
    try:
        eventually(lambda: listening(live), "bound")
        assert [live.get("web.test").status for _ in range(8)] == [200] * 8
    finally:
        live.stop()


@pytest.mark.parametrize("delay_s", [0.2, 0.5, 0.7])
def test_signal_while_starting(site, delay_s):
    """Whatever is just being started ends, soon, and without a traceback."""
    live = Serve(site, workers=2, wait_ready=False)
    eventually(lambda: listening(live) or live.process.poll() is not None, "bound")
    time.sleep(delay_s - 0.2)
    children = live.children
    live.signal(signal.SIGTERM)
    assert live.wait(5) == 0
    assert "Traceback" not in live.stderr
    eventually(lambda: not any(running(pid) for pid in children))


def test_signal_while_a_worker_is_restarted(site, serve):
    live = serve(workers=2)
    for _ in range(3):  # the pause before a restart grows
        eventually(lambda: live.readiness()[0] == 200)
        os.kill(live.children[0], signal.SIGKILL)
        eventually(lambda: live.readiness()[0] == 503)
    live.signal(signal.SIGTERM)
    assert live.wait(5) == 0


def test_interrupt_of_the_whole_group(site, serve):
    """Ctrl-C in a terminal reaches the workers too: they leave it to the controller."""
    live = serve(workers=2)
    slow = Connection(live.http)
    slow.send("/delay/1", "web.test")
    eventually(lambda: live.metric("aioingress_requests_in_flight") == 1)
    os.killpg(live.process.pid, signal.SIGINT)
    assert slow.receive().status == 200
    assert live.wait() == 0


def test_termination_of_the_whole_group(site, serve):
    """As a service manager does it that signals every process of the unit."""
    live = serve(workers=2)
    slow = Connection(live.http)
    slow.send("/delay/1", "web.test")
    eventually(lambda: live.metric("aioingress_requests_in_flight") == 1)
    os.killpg(live.process.pid, signal.SIGTERM)
    assert slow.receive().status == 200
    assert live.wait() == 0
    assert "Traceback" not in live.stderr


def test_stuck_worker_does_not_stop_the_metrics(site, serve):
    live = serve(workers=2)
    for _ in range(20):
        live.get("web.test")
    assert live.metric("aioingress_requests_total") == 20
    stuck = live.children[0]
    os.kill(stuck, signal.SIGSTOP)
    try:
        assert live.metric("aioingress_requests_total") == 20
        assert live.readiness()[0] == 200
    finally:
        os.kill(stuck, signal.SIGCONT)


def test_parallel_clients_with_worker_crashes(site, serve):
    """New connections never see the crash of a worker that had not accepted them; only what it was serving is lost."""
    live = serve("--no-access-log", workers=2)
    stop = threading.Event()
    refused: list[str] = []

    def connect() -> None:
        while not stop.wait(0.002):
            try:
                with Connection(live.http) as connection:
                    connection.get("/", "web.test")
            except ConnectionRefusedError as error:
                refused.append(repr(error))
            except (OSError, http.client.HTTPException):
                pass  # under way in the worker that was killed

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            os.kill(live.children[0], signal.SIGKILL)
            eventually(lambda: live.readiness()[0] == 503)
            eventually(lambda: live.readiness()[0] == 200)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert refused == []
