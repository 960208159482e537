"""User middlewares: chosen, allowed, called in order, bounded in time, and their failures contained and counted."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ingress.errors import Severity, VerdictReason
from ingress.exchange import DirectResponse, ResponseHead
from ingress.metrics import WorkerMetrics
from ingress.middleware import loader, user
from ingress.middleware.api import Middleware, Reply, Request, Response
from ingress.middleware.base import Services
from ingress.middleware.user import Caller, chain
from ingress.model import IngressClass, Kind, ObjectRef
from ingress.testing import Edge, request, run
from ingress.translate import Compilation
from ingress.translate.compiler import Compiler
from ingress.translate.context import ALLOWED_MIDDLEWARE
from tests.translate.build import TranslateSettings, compiled, ingress, ingress_class, rule, service, slice_of, state_of

OWN = "aioingress.io/"


class Mark(Middleware):
    """Marks what it sees."""

    name = "mark"

    def __init__(self, config: str) -> None:
        super().__init__(config)
        if config == "bad":
            raise ValueError("bad is bad")

    def on_request(self, request: Request) -> Reply | None:
        request.headers.add("X-Seen", self.config or self.name)
        return Reply(418, self.config) if self.config == "stop" else None

    def on_response(self, request: Request, response: Response) -> None:
        response.headers.add("X-Left", self.config or self.name)


class Later(Mark):
    name = "later"

    async def on_request(self, request: Request) -> Reply | None:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().on_request(request)


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    before = dict(loader.REGISTRY)
    loader.REGISTRY.update({cls.name: cls for cls in (Mark, Later)})
    yield
    loader.REGISTRY.clear()
    loader.REGISTRY.update(before)


# ---- which an Ingress gets ------------------------------------------------------------------------------------------


def build(allowed: tuple[str, ...] = ("*",), **annotations: str) -> Compilation:
    texts = {OWN + key.replace("__", "."): value for key, value in annotations.items()}
    made = ingress("i", rule("a.test"), annotations=texts)
    return compiled(made, service(), slice_of(), parsers=[user.SPEC], allowed_middleware=allowed)


def route(built: Compilation) -> Any:
    return built.table.hosts["a.test"].routes[0]  # type: ignore[index]


def test_named_in_order_with_their_configuration() -> None:
    built = build(middleware="later, mark", middleware__mark="text")
    (feature,) = route(built).features
    assert list(feature.policy["items"]) == [{"name": "later", "config": ""}, {"name": "mark", "config": "text"}]
    assert built.verdicts == ()


@pytest.mark.parametrize(
    ("annotations", "allowed", "field", "why"),
    [
        ({"middleware": "nobody"}, ("*",), "middleware", "there is no middleware nobody (loaded: later, mark)"),
        ({"middleware": "mark"}, (), "middleware", "doesn't allow middleware mark"),
        ({"middleware": "mark"}, ("later",), "middleware", "doesn't allow middleware mark"),
        ({"middleware": "mark, mark"}, ("*",), "middleware", "names one twice"),
        ({"middleware": ",".join(f"m{n}" for n in range(17))}, ("*",), "middleware", "more than 16"),
        ({"middleware": "mark", "middleware__mark": "bad"}, ("*",), "middleware.mark", "bad is bad"),
        ({"middleware": "../../etc/passwd"}, ("*",), "middleware", "there is no middleware"),
    ],
)
def test_what_cannot_be_had_closes_the_routes(
    annotations: dict[str, str], allowed: tuple[str, ...], field: str, why: str
) -> None:
    built = build(allowed, **annotations)
    (verdict,) = built.verdicts
    assert verdict.field == f"metadata.annotations[{OWN}{field}]"
    assert verdict.reason is VerdictReason.ACCESS_RULE_REJECTED
    assert why in verdict.message[:1].lower() + verdict.message[1:]
    assert (route(built).upstream, route(built).closed_status) == (None, 503)


def test_a_constructor_with_a_bug_closes_the_routes() -> None:
    class Broken(Middleware):
        name = "broken"

        def __init__(self, config: str) -> None:
            raise ZeroDivisionError

    loader.REGISTRY["broken"] = Broken
    built = build(middleware="broken")
    assert [v.reason for v in built.verdicts] == [VerdictReason.ACCESS_RULE_REJECTED]
    assert route(built).upstream is None


def test_configuration_of_one_that_is_not_named() -> None:
    built = build(middleware="mark", middleware__later="x")
    (verdict,) = built.verdicts
    assert (verdict.severity, verdict.field) == (Severity.WARNING, f"metadata.annotations[{OWN}middleware.later]")
    assert route(built).upstream is not None


def with_allowance(text: str) -> IngressClass:
    made = ingress_class("mine", "aioingress.io/ingress-controller")
    found = {} if not text else {ALLOWED_MIDDLEWARE: text}
    return type(made)(metadata=type(made.metadata)(name="mine", annotations=found), spec=made.spec)


def test_a_class_allows_and_disallows_while_running() -> None:
    compiler = Compiler(TranslateSettings(allowed_middleware=()), [user.SPEC])
    made = ingress("i", rule("a.test"), annotations={OWN + "middleware": "mark"}, cls="mine")
    changed = frozenset((ObjectRef(Kind.INGRESS_CLASS, "", "mine"),))

    def step(text: str, known: bool = True) -> bool:
        state = state_of((made, service(), slice_of(), with_allowance(text)))
        return route(compiler.compile(state, changed if known else None)).upstream is not None

    assert not step("", known=False)
    assert step("later, mark")
    assert not step("later")
    assert step("*")


# ---- calls ----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def caller(middleware: Middleware, clock: Callable[[], float] | None = None) -> tuple[Caller, WorkerMetrics]:
    metrics = WorkerMetrics()
    loop = asyncio.get_running_loop()
    return Caller(middleware, Services(loop, clock or loop.time, loop.time, Random(1), metrics.tally)), metrics


def failures(metrics: WorkerMetrics) -> dict[tuple[str, ...], float]:
    return {
        labels[2:]: value
        for labels, value in metrics.snapshot().tallies.items()
        if labels[0] == "aioingress_middleware_failures"
    }


class Raises(Middleware):
    name = "raises"

    def on_request(self, request: Request) -> Reply | None:
        raise RuntimeError("bug")

    def on_response(self, request: Request, response: Response) -> None:
        response.headers["X-Half"] = "1"
        raise RuntimeError("bug")

    def on_error(self, request: Request, status: int) -> Reply | None:
        raise RuntimeError("bug")


class RaisesLater(Raises):
    name = "raises-later"

    async def on_request(self, request: Request) -> Reply | None:  # type: ignore[override]
        await asyncio.sleep(0)
        raise RuntimeError("bug")


class Hangs(Middleware):
    name = "hangs"
    time_budget_s = 0.001

    async def on_request(self, request: Request) -> Reply | None:  # type: ignore[override]
        await asyncio.Event().wait()
        return None


class Talks(Middleware):
    name = "talks"

    def on_request(self, request: Request) -> Reply | None:
        return "not a reply"  # type: ignore[return-value]


@pytest.mark.parametrize("cls", [Raises, RaisesLater, Hangs, Talks])
@pytest.mark.parametrize("on_failure", ["refuse", "pass"])
async def test_a_failure_refuses_or_passes_as_declared(
    cls: type[Middleware], on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = type(cls.__name__, (cls,), {"on_failure": on_failure})("")
    called, metrics = caller(made)
    outcome = called.request(request()._exchange)
    if outcome is not None and not isinstance(outcome, DirectResponse):
        outcome = await outcome
    if on_failure == "refuse":
        assert outcome is not None
        assert outcome.status == 500
    else:
        assert outcome is None
    assert failures(metrics) == {("request", "timeout" if cls is Hangs else "error"): 1}
    assert any(made.name in record.getMessage() for record in caplog.records)


async def test_half_a_change_of_a_response_is_none(caplog: pytest.LogCaptureFixture) -> None:
    called, metrics = caller(Raises(""))
    head = ResponseHead(200, [], -1)
    called.response(request()._exchange, head)
    assert head.fields == []
    assert called.error(request()._exchange, 503) is None
    assert failures(metrics) == {("response", "error"): 1, ("error", "error"): 1}


async def test_after_failures_in_a_row_it_is_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    called, metrics = caller(Raises(""), clock)
    for _ in range(7):
        outcome = called.request(request()._exchange)
        assert isinstance(outcome, DirectResponse)
        assert outcome.status == 500  # also while it isn't called
    assert failures(metrics) == {("request", "error"): 5, ("request", "tripped"): 2}
    clock.now += 11
    called.request(request()._exchange)
    assert failures(metrics)["request", "error"] == 6
    assert any(record.levelno == logging.ERROR and "not called" in record.getMessage() for record in caplog.records)


async def test_a_slow_hook_that_cannot_be_cut_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    class Slow(Middleware):
        name = "slow"

        def on_request(self, request: Request) -> Reply | None:
            clock.now += 1.0
            return None

    called, metrics = caller(Slow(""), clock)
    assert called.request(request()._exchange) is None  # its answer is used: it did come
    assert failures(metrics) == {("request", "slow"): 1}
    snapshot = metrics.snapshot().tallies
    assert snapshot["aioingress_middleware_calls", "slow", "request"] == 1
    assert snapshot["aioingress_middleware_seconds", "slow", "request"] == pytest.approx(1.0)


async def test_hooks_that_are_not_overridden_are_not_bound() -> None:
    class Silent(Middleware):
        name = "silent"

    called, _ = caller(Silent(""))
    hooks = chain([called])
    assert (hooks.request, hooks.response, hooks.error) == (None, None, None)


async def test_run_shows_a_failure() -> None:
    outcome = await run(Raises(""))
    assert outcome.failed
    assert outcome.reply is None


# ---- through a socket -----------------------------------------------------------------------------------------------

MANIFESTS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: i
  annotations: {annotations}
spec:
  rules:
    - http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: app, port: {{number: 80}}}}}}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: app}}
spec: {{ports: [{{port: 80}}]}}
"""


def manifests(**annotations: str) -> str:
    return MANIFESTS.format(annotations={OWN + key.replace("__", "."): value for key, value in annotations.items()})


@pytest.mark.parametrize("order", ["mark, later", "later, mark"])
async def test_order_through_a_socket(order: str) -> None:
    async with Edge(manifests(middleware=order, middleware__mark="a", middleware__later="b")) as edge:
        assert not edge.errors
        answer = await edge.request("POST", "http://x.test/p", body=b"hello")
        assert (answer.status, answer.service) == (200, "default/app")
        assert answer.received is not None
        assert answer.received.body == b"hello"
        seen = [value for name, value in answer.received.headers.items() if name == "X-Seen"]
        assert seen == (["a"] if order.startswith("mark") else ["b"])  # a mapping shows the first
        assert edge.route("http://x.test/p") is not None


@pytest.mark.parametrize("name", ["mark", "later"])
async def test_a_reply_through_a_socket(name: str) -> None:
    other = "later" if name == "mark" else "mark"
    annotations = {"middleware": f"{name}, {other}", f"middleware__{name}": "stop"}
    async with Edge(manifests(**annotations)) as edge:
        for _ in range(2):
            answer = await edge.get("http://x.test/")
            assert (answer.status, answer.text, answer.service) == (418, "stop", None)
            assert answer.headers["X-Left"]
        assert edge.services["default/app"].received == []


async def test_a_failing_middleware_hurts_its_own_routes_only(caplog: pytest.LogCaptureFixture) -> None:
    loader.REGISTRY["raises"] = Raises
    good = manifests().replace("name: i\n", "name: good\n").replace("- http:", "- host: good.test\n      http:")
    async with Edge(manifests(middleware="raises") + "---" + good) as edge:
        assert (await edge.get("http://x.test/")).status == 500
        assert (await edge.get("http://good.test/")).status == 200


# ---- files and packages ---------------------------------------------------------------------------------------------


def test_loading_leaves_out_what_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = "from ingress.middleware.api import Middleware\n"
    (tmp_path / "good.py").write_text(head + "class A(Middleware):\n    name = 'good'\n")
    (tmp_path / "syntax.py").write_text("def (")
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "unnamed.py").write_text(head + "class A(Middleware):\n    name = 'Not A Name'\n")
    (tmp_path / "zz_double.py").write_text(head + "class B(Middleware):\n    name = 'good'\n")
    (tmp_path / "_private.py").write_text("1 / 0")
    (tmp_path / "notes.txt").write_text("not code")
    loader.install([tmp_path])
    assert list(loader.REGISTRY) == ["good"]
    assert loader.REGISTRY["good"].__name__ == "A"
    text = caplog.text
    assert "syntax.py" in text
    assert "raises.py" in text
    assert "Not A Name" in text
    assert "there is another of this name" in text
    loader.install([tmp_path / "good.py"])
    assert list(loader.REGISTRY) == ["good"]


@pytest.mark.parametrize("name", ["missing", "missing.py", "file.txt"])
def test_a_path_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(
        loader.ConfigError, match=f"--middleware-path .*{name}: it is neither a Python file nor a folder"
    ):
        loader.install([tmp_path / name])


def test_entry_points(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Point:
        def __init__(self, name: str, value: Any) -> None:
            self.name, self.value = name, repr(value)
            self._value = value

        def load(self) -> Any:
            if isinstance(self._value, Exception):
                raise self._value
            return self._value

    points = [Point("mark", Mark), Point("broken", ImportError("no such module")), Point("wrong", int)]
    monkeypatch.setattr(loader, "entry_points", lambda group: points if group == loader.ENTRY_POINTS else [])
    loader.install([])
    assert dict(loader.REGISTRY) == {"mark": Mark}
    assert "middleware broken could not be loaded" in caplog.text
    assert "middleware wrong could not be loaded" in caplog.text
