"""Active health checks: endpoints of Services that ask for it are probed, and left out of the balancing while they fail.

A probe is a request on a connection of its own, and ends with the status line of its answer. Every worker probes for itself: what counts is
whether *this* process reaches the endpoint, and there is nothing to agree on. What a result means is `balancing.health`; what an
unhealthy endpoint means for picking is `balancing.ejection.usable`.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from ingress import __version__
from ingress.balancing.base import EndpointState
from ingress.balancing.health import accepts, forget_checks, record_check
from ingress.errors import ProxyError
from ingress.metrics import UpstreamLabels
from ingress.middleware.base import Services
from ingress.proxy.upstream_tls import Sessions
from ingress.proxy.wire import Wire
from ingress.routing.table import HealthCheck, Upstream

_log = logging.getLogger(__name__)

USER_AGENT = f"aioingress-health-check/{__version__}"
WORKER_LIMIT = 256  # probes at once
UPSTREAM_LIMIT = 32  # so that one whose endpoints all hang doesn't hold up the others'
HEAD_LIMIT_BYTES = 16384  # read at most until the status is known
FIRST_WITHIN_S = 10.0  # of a long interval: who has just started should soon know
_JITTER = 0.1  # of the interval, either way: probes of many workers and endpoints don't fall into step
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n\0]*)?\r?\n")
_BEGINNING = b"HTTP/1."


class Checked(Protocol):
    """`proxy.upstream_runtime.UpstreamRuntime`, or one of its parts."""

    @property
    def upstream(self) -> Upstream: ...

    @property
    def name(self) -> str: ...

    @property
    def states(self) -> Iterable[EndpointState]: ...

    @property
    def parts(self) -> "Sequence[Checked]":
        """Those that `states` of it belong to: each has a picker of its own."""

    def rebuild(self, now: float) -> None: ...


class HealthChecks:
    """All health checks of one worker. `gauge` is kept at the number of unhealthy endpoints of each Service that is checked."""

    def __init__(self, services: Services, gauge: dict[UpstreamLabels, int]) -> None:
        self.services = services
        self.room = asyncio.Semaphore(WORKER_LIMIT)
        self._gauge = gauge
        self._checkers: dict[Checked, HealthChecker] = {}
        self._by_service: dict[UpstreamLabels, set[HealthChecker]] = {}
        self._stopped = False

    def follow(self, upstream: Checked) -> None:
        """It was made, or has other endpoints or another check than before. What is known of endpoints that stay is kept."""
        check = upstream.upstream.health_check
        checker = self._checkers.get(upstream)
        if checker is None and (check is None or self._stopped):
            return
        if check is None:
            self.forget(upstream)
            for part in upstream.parts:
                for state in part.states:
                    forget_checks(state)
                part.rebuild(self.services.clock())
            return
        if checker is None:
            checker = self._checkers[upstream] = HealthChecker(self, upstream, check)
            self._by_service.setdefault(checker.labels, set()).add(checker)
        if not self._stopped:
            checker.update(check)
            self.count(checker.labels)

    def forget(self, upstream: Checked) -> None:
        """Its endpoints are checked no more."""
        checker = self._checkers.pop(upstream, None)
        if checker is not None:
            checker.stop()
            checkers = self._by_service[checker.labels]
            checkers.discard(checker)
            if not checkers:
                del self._by_service[checker.labels]
            self.count(checker.labels)

    def stop(self) -> None:
        """No more checks; what was found last stays in force."""
        self._stopped = True
        for checker in self._checkers.values():
            checker.stop()

    def count(self, labels: UpstreamLabels) -> None:
        """Several upstreams of one Service may have the same endpoints: each is counted once."""
        checkers = self._by_service.get(labels)
        if checkers is None:
            self._gauge.pop(labels, None)
        else:
            self._gauge[labels] = len({key for checker in checkers for key in checker.unhealthy})


class _Watch:
    """One endpoint: either `timer` or `task` is there, unless the checks were stopped."""

    __slots__ = ("part", "state", "task", "timer")

    def __init__(self, state: EndpointState, part: Checked) -> None:
        self.state = state
        self.part = part
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.task is not None:
            self.task.cancel()
            self.task = None


class HealthChecker:
    """Of one upstream."""

    def __init__(self, checks: HealthChecks, upstream: Checked, check: HealthCheck) -> None:
        self._checks = checks
        self._upstream = upstream
        self._check = check
        self._room = asyncio.Semaphore(UPSTREAM_LIMIT)
        self._watches: dict[EndpointState, _Watch] = {}
        self.labels = (upstream.upstream.namespace, upstream.upstream.service)

    def update(self, check: HealthCheck) -> None:
        there = {state: part for part in self._upstream.parts for state in part.states}
        for state in self._watches.keys() - there.keys():
            self._watches.pop(state).cancel()
        changed, self._check = check != self._check, check
        for state, part in there.items():
            watch = self._watches.get(state)
            if watch is None:
                watch = self._watches[state] = _Watch(state, part)
            elif changed:
                watch.cancel()
                state.contrary_checks = 0  # answers to another question
            else:
                continue
            self._later(watch, self._checks.services.rng.random() * min(check.interval_s, FIRST_WITHIN_S))

    def stop(self) -> None:
        for watch in self._watches.values():
            watch.cancel()
        self._watches.clear()

    @property
    def unhealthy(self) -> Iterable[str]:
        return (state.key for part in self._upstream.parts for state in part.states if not state.healthy)

    def _later(self, watch: _Watch, delay_s: float) -> None:
        watch.timer = self._checks.services.loop.call_later(delay_s, self._begin, watch)

    def _begin(self, watch: _Watch) -> None:
        watch.timer = None
        watch.task = self._checks.services.loop.create_task(self._run(watch), name=f"health check {watch.state.key}")

    async def _run(self, watch: _Watch) -> None:
        services = self._checks.services
        began = services.loop.time()
        try:
            async with self._room, self._checks.room:
                began = services.loop.time()
                result = await probe(watch.state, self._check, services.loop)
            self._judge(watch, result)
        except Exception:  # a bug of ours must not be held against the endpoint, nor end its checks
            _log.exception("a health check of %s failed by itself", watch.state.key)
        watch.task = None
        pause_s = self._check.interval_s * (1.0 + _JITTER * (2.0 * services.rng.random() - 1.0))
        self._later(watch, max(pause_s - (services.loop.time() - began), 0.0))

    def _judge(self, watch: _Watch, result: "Result") -> None:
        services = self._checks.services
        services.tally("aioingress_health_checks", *self.labels, result.kind).value += 1
        state = watch.state
        if not record_check(state, self._check, result.passed):
            return
        watch.part.rebuild(services.clock())
        self._checks.count(self.labels)
        if state.healthy:
            _log.info("endpoint %s of %s is healthy again: %s", state.key, self._upstream.name, result.why)
            return
        _log.warning("endpoint %s of %s is unhealthy: %s", state.key, self._upstream.name, result.why)
        if not state.shunned:
            _log.warning("all endpoints of %s are unhealthy: requests go to all of them", self._upstream.name)


# ---- one probe ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """`kind` is `passed`, or why not: a label of the metric. `why` is for the log."""

    kind: str
    why: str

    @property
    def passed(self) -> bool:
        return self.kind == "passed"


class Junk(Exception):
    """What came is no answer."""


async def probe(state: EndpointState, check: HealthCheck, loop: asyncio.AbstractEventLoop) -> Result:
    """Ask an endpoint once. Whatever it does is a result."""
    try:
        async with asyncio.timeout(check.timeout_s):
            connection = await _connect(state, check, loop)
            try:
                status = await connection.ask(request_of(state, check))
            finally:
                connection.abort()
    except TimeoutError:
        return Result("timeout", f"no answer within {check.timeout_s:g} s")
    except ProxyError as e:
        return Result("tls", e.detail)
    except OSError as e:
        return Result("refused", f"no connection: {e.strerror or e}")
    except Junk as e:
        return Result("junk", str(e))
    return Result("passed" if accepts(check, status) else "status", f"status {status}")


async def _connect(state: EndpointState, check: HealthCheck, loop: asyncio.AbstractEventLoop) -> "_Connection":
    """As requests are sent to it, but on a connection that is not theirs and resumes no session of theirs."""
    address, port = state.endpoint.address, check.port or state.endpoint.port
    wire: Wire = state.pool.wire
    if wire.tls is not None:
        return await wire.tls.connect(loop, lambda: _Connection(loop), address, port, Sessions())
    _, connection = await loop.create_connection(lambda: _Connection(loop), address, port)
    return connection


def request_of(state: EndpointState, check: HealthCheck) -> bytes:
    """`check` was validated: nothing in it can end a line."""
    host = check.host
    if not host:
        address = state.endpoint.address
        host = f"[{address}]" if ":" in address else address
        host += f":{check.port or state.endpoint.port}"
    lines = (
        f"{check.method} {check.path} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: {USER_AGENT}",
        "Accept: */*",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


class _Connection(asyncio.Protocol):
    """One question, and the status of its answer. Whatever comes after the status line is never looked at."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] = loop.create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes) -> int:
        """Raises Junk, OSError."""
        if self._transport is not None:
            self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        if self._answer.done():
            return
        self._received += data
        try:
            status = status_of(self._received)
        except Junk as e:
            self._fail(e)
        else:
            if status is not None:
                self._answer.set_result(status)

    def eof_received(self) -> bool:
        self._fail(Junk("the connection ended before there was an answer"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(Junk("the connection ended before there was an answer"))

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # retrieved: nobody may have asked yet

    def abort(self) -> None:
        self._answer.cancel()
        if self._transport is not None:
            self._transport.abort()


def status_of(received: bytes) -> int | None:
    """The status of the first answer that isn't informational (RFC 9110 section 15.2); None: more is needed. Raises Junk."""
    rest = received
    while True:
        if not rest.startswith(_BEGINNING[: len(rest)]):
            raise Junk("the answer is not HTTP/1.1")
        line = _STATUS_LINE.match(rest)
        if line is None and b"\n" in rest:
            raise Junk("the answer is not HTTP/1.1")
        if line is not None:
            status = int(line[1])
            if status >= 200 or status == 101:
                return status
            _, end, after = rest.partition(b"\r\n\r\n")
            if end:
                rest = after
                continue
        if len(received) > HEAD_LIMIT_BYTES:
            raise Junk(f"no status within {HEAD_LIMIT_BYTES} bytes")
        return None
