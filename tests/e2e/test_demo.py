"""`ingress demo` as somebody meets it who has just installed it."""

import re
import shlex
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingress.demo.tour import TOUR, Step
from tests.e2e.support import (
    LISTEN,
    Answer,
    Connection,
    Program,
    WebSocket,
    eventually,
    fetch,
    free_port,
    listen_text,
    replace,
    running,
)

PODS = {"toad": {"toad-xueq1", "toad-7hmvb"}, "toad-sticky": {"toad-xueq1", "toad-7hmvb"}, "frog": {"frog-4k2zd"}}


class Demo(Program):
    def __init__(self, outputs: Path, *options: str) -> None:
        self.http, self.https, self.admin = ((LISTEN, free_port()) for _ in range(3))
        listeners = {"http": self.http, "https": self.https, "admin": self.admin}
        addresses = [word for name, at in listeners.items() for word in (f"--{name}-address", listen_text(at))]
        super().__init__(outputs, "demo", *addresses, *options)
        eventually(lambda: "Ctrl-C ends the demo" in self.stdout or self.process.poll() is not None, "the tour")
        assert self.process.poll() is None, self.stderr

    def get(self, host: str, target: str = "/") -> Answer:
        return fetch(self.http, host, target)

    def get_over_tls(self, host: str, target: str = "/") -> Answer:
        with Connection(self.https) as connection:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection.sock = context.wrap_socket(connection.sock)  # as curl to an address: without a name
            return connection.get(target, host)

    def pod(self, host: str, target: str = "/") -> str:
        """`You've hit NAME`."""
        answer = self.get(host, target)
        return answer.body.decode().removeprefix("You've hit ").strip() if answer.status == 200 else ""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    place = tmp_path_factory.mktemp("demo")
    with Demo(place, "--manifests", str(place / "manifests")) as found:
        yield found


@pytest.fixture
def manifests(demo: Demo) -> Path:
    (place,) = re.findall(r"^# The manifests are in (.*): edit one", demo.stdout, re.MULTILINE)
    return Path(place)


@pytest.mark.parametrize("step", TOUR, ids=lambda step: f"{'https:' * step.https}{step.host}{step.path}")
def test_every_step_of_the_tour(demo, step: Step):
    get = demo.get_over_tls if step.https else demo.get
    answers = [get(step.host, step.path) for _ in range(1 if "sse" in step.path else 6)]
    if step.service is None:
        assert {a.status for a in answers} == {404}
        return
    assert {a.status for a in answers} == {200}
    if step.path.startswith("/echo"):
        details = answers[0].json
        assert details["pod"] in PODS[step.service]
        assert (details["method"], details["path"], details["query"]) == ("GET", "/echo", {"a": "1"})
        assert {"X-Request-ID", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Host"} <= {*details["headers"]}
    elif step.path.startswith("/sse"):
        assert answers[0].headers["Content-Type"].startswith("text/event-stream")
        assert len(re.findall(rb"^data: ", answers[0].body, re.MULTILINE)) == 3
    else:
        found = {a.body.decode().removeprefix("You've hit ").strip() for a in answers}
        assert found == (found & PODS[step.service] if step.service == "toad-sticky" else PODS[step.service])
        assert len(found) == (1 if step.service == "toad-sticky" else len(PODS[step.service]))


def test_prints_the_curl_line_of_every_step(demo):
    lines = [shlex.split(line) for line in demo.stdout.splitlines() if line.startswith("curl ")]
    urls = {False: f"http://{listen_text(demo.http)}", True: f"https://{listen_text(demo.https)}"}
    assert [line[-1] for line in lines] == [urls[step.https] + step.path for step in TOUR]
    assert [line[-2] for line in lines] == [f"Host: {step.host}" for step in TOUR]


def test_websocket(demo):
    assert WebSocket(demo.http, "toad.example.com").echo("hello") == "hello"


def test_edited_manifest_is_live(demo, manifests):
    """The suggestion that the first sample makes to its reader."""
    file = manifests / "1-one-host.yaml"
    replace(file, file.read_text().replace("host: toad.example.com", "host: newt.example.com"))
    eventually(lambda: demo.pod("newt.example.com"), "the new host")
    assert demo.get("toad.example.com").status == 404
    replace(file, file.read_text().replace("host: newt.example.com", "host: toad.example.com"))
    eventually(lambda: demo.pod("toad.example.com"), "the old host")


def test_endpoint_not_ready_is_live(demo, manifests):
    file = manifests / "demo-endpoints.yaml"
    before = file.read_text()
    head, *slices = before.split("---\n")
    replace(
        file,
        "---\n".join(
            [head, *(s.replace("ready: true", "ready: false") if "name: toad-xueq1" in s else s for s in slices)]
        ),
    )
    eventually(lambda: {demo.pod("toad.example.com") for _ in range(6)} == {"toad-7hmvb"}, "one Pod is left")
    replace(file, before)
    eventually(lambda: {demo.pod("toad.example.com") for _ in range(6)} == PODS["toad"], "both")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_ends_it(tmp_path, workers):
    demo = Demo(tmp_path, "--workers", workers)
    (place,) = re.findall(r"^# The manifests are in (.*): edit one", demo.stdout, re.MULTILINE)
    assert Path(place).is_dir()
    children = demo.children
    demo.signal(signal.SIGINT)
    assert demo.wait() == 0
    assert not any(running(pid) for pid in children)
    assert "Traceback" not in demo.stderr
    assert not Path(place).exists(), "a temporary folder goes with the demo"


def test_quiet_before_the_tour(demo):
    """No warning about its own samples."""
    assert [line for line in demo.stderr.splitlines() if line.split()[1] in ("warning", "error")] == []
