"""The decisions about one request: match, pick, send, retry, answer. The same for every protocol and for both paths.

Where an idle connection is at hand, a request is matched and written upstream in the call that parsed it, without a task. Where a
connection must be made, a task makes it and then calls the same `_send`. All state changes are synchronous, so a
cancellation can only hit the connect.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from ingress.accesslog import AccessLog
from ingress.balancing import ejection, ewma
from ingress.balancing.base import EndpointState
from ingress.config import ProxySettings
from ingress.errors import ProxyError, Reason
from ingress.exchange import (
    DirectResponse,
    Exchange,
    FieldPieces,
    RequestHook,
    ResponseHead,
)
from ingress.metrics import WorkerMetrics
from ingress.proxy import answers, interception
from ingress.proxy.access_record import access_record
from ingress.proxy.buffering import BodyBuffers, settle_framing
from ingress.proxy.common import Common
from ingress.proxy.errorpages import ErrorPages
from ingress.proxy.link import Runtime
from ingress.proxy.matching import certificate_holds, find_unusual
from ingress.proxy.reasons import CLOSING, MESSAGES, status_of
from ingress.proxy.request_ids import RequestIds, no_id
from ingress.proxy.retry import IDEMPOTENT, may_retry, repeatable, tries_left
from ingress.proxy.snapshot import LinkedRoute, Snapshot
from ingress.proxy.upstream import UpstreamConnection
from ingress.proxy.upstream_runtime import UpstreamRuntime
from ingress.routing.path import is_normal

_log = logging.getLogger(__name__)
_REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE"))
_QUESTION_MARK = ord("?")


class Forwarder:
    """One a worker. `snapshot` is swapped by the control plane and read once a request."""

    def __init__(
        self,
        settings: ProxySettings,
        runtime: Runtime,
        metrics: WorkerMetrics,
        error_pages: ErrorPages,
        access_log: AccessLog | None,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runtime = runtime
        self._metrics = metrics
        self._error_pages = error_pages
        self._log_sink = access_log
        self._loop = loop
        self._clock = clock
        self._random_id = RequestIds().next
        self.snapshot: Snapshot | None = None
        self.in_flight = 0
        self.buffers = BodyBuffers()
        self.use(Common(settings, clock))

    def use(self, common: Common) -> None:
        """Serve by other settings from the next request on."""
        self.settings = settings = common.settings
        self._blocks = common.blocks
        self._set_fields = common.set_fields
        self._started_hooks = common.started_hooks
        self.response_hooks = common.response_hooks  # of every response
        self._request_id = self._random_id if settings.headers.generate_request_id else no_id
        self._log_rules = common.log
        self._access_log = self._log_sink if settings.access_log else None

    # ---- request -------------------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Serve a request whose head is complete. Returns at once; the answer goes to `exchange.downstream`."""
        self.in_flight += 1
        exchange.started = now = self._clock()
        if not exchange.request_id:
            exchange.request_id = self._request_id()
        error = exchange.error
        if error is not None:
            self._reject(exchange, error)
            return
        snapshot = self.snapshot
        if snapshot is None:
            self._reject(exchange, Reason.NO_ENDPOINT)
            return
        target = exchange.target
        try:
            exchange.host, trie = snapshot.host(exchange.host or exchange.authority)
            if not is_normal(target):
                route = find_unusual(snapshot, trie, exchange)
            else:
                path = target
                if _QUESTION_MARK in target:
                    path = target[: target.index(b"?")]
                    exchange.query = target[len(path) :]
                exchange.path = path
                route = snapshot.not_found if trie is None else trie.match(path) or trie.default or snapshot.not_found
        except ValueError as problem:
            _log.debug("400 for %r %r: %s", exchange.authority, target, problem)
            self._reject(exchange, Reason.BAD_REQUEST)
            return
        exchange.route = route
        if snapshot.asks_certificates and exchange.tls is not None and not certificate_holds(exchange, snapshot):
            self._reject(exchange, Reason.MISDIRECTED)
            return
        if exchange.method in _REFUSED_METHODS:
            self._reject(exchange, Reason.METHOD_NOT_ALLOWED)
            return
        blocks = self._blocks
        if blocks is not None and blocks(exchange):
            self.respond(exchange, 403)
            return
        limit = route.body_limit_bytes
        if exchange.body_framing and limit and (exchange.content_length > limit or exchange.body_bytes > limit):
            self._reject(exchange, Reason.BODY_TOO_LARGE)
            return
        hooks = route.request_hooks
        if not hooks or self._run_hooks(exchange, hooks, 0):
            self._proxy(exchange, exchange.route, now)  # a canary may have been chosen

    def _proxy(self, exchange: Exchange, route: LinkedRoute, now: float) -> None:
        """Send a request that every hook let pass to an endpoint."""
        upstream = route.upstream
        if upstream is None:
            if not self._stand_in(exchange, route, now):
                self.respond(exchange, route.status, MESSAGES[Reason.ROUTE_CLOSED] if route.status == 503 else "")
            return
        exchange.upstream = upstream
        if exchange.body_framing and route.policy.request_buffering and not self._take_body_in(exchange):
            return
        self._choose(exchange, upstream, now)

    def _choose(self, exchange: Exchange, upstream: UpstreamRuntime, now: float) -> None:
        picker = upstream.picker
        if picker is None:
            upstream = exchange.upstream = upstream.variant(exchange.scheme)
            picker = upstream.picker
            if picker is None:
                if not upstream.servable:
                    self._reject(exchange, Reason.UPSTREAM_PROTOCOL)
                elif not self._stand_in(exchange, exchange.route, now):
                    self._reject(exchange, Reason.NO_ENDPOINT)
                return
        if self._set_fields is not None:
            self._set_fields(exchange)
        self._attempt(exchange, upstream.pick_sticky(exchange, now, picker) if upstream.sticky else picker.pick(now, 0))

    def _ask(self, exchange: Exchange, upstream: UpstreamRuntime, now: float) -> None:
        """Send a request to one of `upstream`, which has endpoints."""
        exchange.upstream = upstream = upstream if upstream.picker is not None else upstream.variant(exchange.scheme)
        picker = upstream.picker
        assert picker is not None
        self._attempt(exchange, upstream.pick_sticky(exchange, now, picker) if upstream.sticky else picker.pick(now, 0))

    # ---- default backend -----------------------------------------------------------------------------------------

    def _stand_in(self, exchange: Exchange, route: LinkedRoute, now: float) -> bool:
        """Whether the default backend takes a request for which there is no endpoint."""
        fallback = route.fallback
        if fallback is None or fallback.stand_in is None or fallback.stand_in.picker is None:
            return False
        interception.introduce(exchange, route)
        if self._set_fields is not None:
            self._set_fields(exchange)
        self._ask(exchange, fallback.stand_in, now)
        return True

    def _intercept(self, exchange: Exchange, route: LinkedRoute, status: int, dropped: DirectResponse | None) -> bool:
        """Whether the default backend is asked about a response with `status` instead of sending it."""
        fallback = route.fallback
        if fallback is None or exchange.response_started:
            return False
        upstream = interception.default_backend(exchange, fallback, status)
        if upstream is None:
            return False
        interception.turn(exchange, route, status, dropped)
        exchange.downstream.resume_request_body()  # the rest of it is read and dropped
        self._ask(exchange, upstream, self._clock())
        return True

    # ---- request buffering ----------------------------------------------------------------------------------------

    def _take_body_in(self, exchange: Exchange) -> bool:
        """Have the body before an endpoint is asked. False: it is waited for, or the request was answered."""
        if exchange.body_complete or not self.buffers.begin(exchange, self.settings):
            return self._settle_framing(exchange)
        if exchange.expects_continue:
            exchange.expects_continue = False  # it is us who want the body
            exchange.downstream.respond_informational(exchange, 100, b"Continue", [])
            exchange.downstream.flush()
        exchange.downstream.resume_request_body()  # it may have been paused while a hook was waited for
        return False

    def _body_taken_in(self, exchange: Exchange) -> None:
        """As much of the body is there as is waited for: it goes to an endpoint, and the rest, if there is any, behind it."""
        if self._settle_framing(exchange):
            self._choose(exchange, exchange.upstream, self._clock())

    def _settle_framing(self, exchange: Exchange) -> bool:
        upstream: UpstreamRuntime = exchange.upstream
        if settle_framing(exchange, upstream.upstream.http_version):
            return True
        self._reject(exchange, Reason.BODY_TOO_LARGE)
        return False

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def _run_hooks(self, exchange: Exchange, hooks: Sequence[RequestHook], position: int) -> bool:
        """Whether all from `position` on let the request pass. If not, it was answered, or waits for one of them."""
        try:
            for at in range(position, len(hooks)):
                outcome = hooks[at](exchange)
                if outcome is None:
                    continue
                if type(outcome) is DirectResponse:
                    self.answer(exchange, outcome)
                else:
                    waiting = self._await_hook(exchange, hooks, at, cast(Awaitable[DirectResponse | None], outcome))
                    exchange.task = self._loop.create_task(waiting)
                return False
        except Exception:
            self._hook_failed(exchange)
            return False
        return True

    async def _await_hook(
        self, exchange: Exchange, hooks: Sequence[RequestHook], position: int, work: Awaitable[DirectResponse | None]
    ) -> None:
        try:
            outcome = await work
            if outcome is not None:
                if not exchange.finished:
                    exchange.task = None
                    # Here, so that an answer that can't be made is a 500 and not a silence.
                    self.answer(exchange, outcome)
                    exchange.downstream.flush()
                return  # it need not be finished: the default backend may be asked for the body of the answer
        except Exception:
            exchange.task = None
            if not exchange.finished:
                self._hook_failed(exchange)
            return
        exchange.task = None
        if exchange.finished:
            return
        if self._run_hooks(exchange, hooks, position + 1):
            self._proxy(exchange, exchange.route, self._clock())
        exchange.downstream.flush()

    def _hook_failed(self, exchange: Exchange) -> None:
        """A bug of ours must not let a request pass that a rule would have refused."""
        _log.exception("a middleware failed: %s %r", exchange.method.decode("latin-1"), exchange.target)
        self._reject(exchange, Reason.INTERNAL)

    def response_head(self, exchange: Exchange, status: int, fields: FieldPieces, content_length: int) -> FieldPieces:
        """`fields` as the hooks of its route and those of every response want them. Only asked where there are any."""
        head = ResponseHead(status, fields, content_length)
        if exchange.endpoint is not None:
            for hook in self._started_hooks:
                hook(exchange, head)
        if exchange.route is not None:
            for hook in exchange.route.response_hooks:
                hook(exchange, head)
        for hook in self.response_hooks:
            hook(exchange, head)
        return head.fields

    def request_body(self, exchange: Exchange, chunk: bytes) -> None:
        """More of the body of an exchange that was handed to `handle`; `exchange.body_bytes` counts it already."""
        if exchange.finished or exchange.intercepted is not None:
            return
        limit = exchange.route.body_limit_bytes if exchange.route is not None else 0
        if limit and exchange.body_bytes > limit:
            self._cancel_attempt(exchange)
            self._reject(exchange, Reason.BODY_TOO_LARGE)
            return
        if exchange.body_tap is not None:
            exchange.body_tap.more(chunk)
        kept = exchange.body
        connection = exchange.upstream_connection
        if connection is None:
            if kept is None:
                kept = exchange.body = []
            kept.append(chunk)
            if exchange.body_held:
                if not self.buffers.add(exchange, len(chunk), self.settings):
                    self._body_taken_in(exchange)
            elif exchange.body_bytes > self.settings.replay_limit_bytes:
                exchange.downstream.pause_request_body()
            return
        if not exchange.body_discarded:
            if exchange.response_started or exchange.body_bytes > self.settings.replay_limit_bytes:
                exchange.body = None
                exchange.body_discarded = True
            elif kept is None:
                exchange.body = [chunk]
            else:
                kept.append(chunk)
        connection.send_body(exchange, chunk)

    def request_end(self, exchange: Exchange) -> None:
        """The body is complete (`exchange.body_complete` is set, and `exchange.trailers`)."""
        if exchange.finished:
            return
        tap, exchange.body_tap = exchange.body_tap, None
        if tap is not None:
            tap.end()
        if exchange.body_held:
            self._body_taken_in(exchange)
            return
        connection = exchange.upstream_connection
        if connection is not None:
            connection.send_end(exchange)

    def client_gone(self, exchange: Exchange) -> None:
        """The client's connection was lost: what is under way for it upstream is given up."""
        if exchange.body_filter is not None:
            exchange.body_filter.client_gone()
        if exchange.finished:
            return
        self._cancel_attempt(exchange)
        if not exchange.response_started:
            exchange.status = status_of(Reason.CLIENT_GONE)
        self.finish(exchange)

    def request_refused(self, exchange: Exchange, reason: Reason) -> None:
        """The rest of the body can't be had: it's malformed (400), or the client was too slow (408)."""
        if not exchange.finished:
            self._cancel_attempt(exchange)
            self._reject(exchange, reason)

    # ---- attempts ------------------------------------------------------------------------------------------------

    def _attempt(self, exchange: Exchange, endpoint: EndpointState) -> None:
        exchange.endpoint = endpoint
        exchange.attempts += 1
        endpoint.inflight += 1
        idle: list[UpstreamConnection] = endpoint.pool.idle
        while idle:
            connection = idle.pop()
            # What can't be sent twice must not be sent into a connection that the endpoint has closed already.
            if exchange.method in IDEMPOTENT or not connection.peer_has_closed():
                if exchange.body_framing:
                    self._send_body(exchange, connection)
                else:
                    connection.send(exchange)
                return
            connection.close()
        self._open(exchange, endpoint)

    def _open(self, exchange: Exchange, endpoint: EndpointState) -> None:
        exchange.task = self._loop.create_task(self._connect(exchange, endpoint))

    async def _connect(self, exchange: Exchange, endpoint: EndpointState) -> None:
        timeout_s = exchange.route.policy.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                connection = await endpoint.pool.connect()
        except TimeoutError:
            error = ProxyError(Reason.CONNECT_TIMEOUT, f"no connection within {timeout_s:g} s")
        except OSError as problem:
            error = ProxyError(Reason.CONNECT_FAILED, problem.strerror or str(problem))
        except ProxyError as problem:
            error = problem
        else:
            exchange.task = None
            endpoint.reached = True
            exchange.upstream.unreachable_since = None
            if exchange.finished:
                connection.close()
            else:
                self._send_body(exchange, connection)
            return
        exchange.task = None
        if not exchange.finished:
            self._failed(exchange, error, reused=False)
            exchange.downstream.flush()

    def _send_body(self, exchange: Exchange, connection: UpstreamConnection) -> None:
        """Begin an exchange that has a body: what was kept of it goes out now."""
        exchange.downstream.resume_request_body()  # it may have been paused while there was no connection
        connection.send(exchange)
        if exchange.body_bytes > self.settings.replay_limit_bytes and not exchange.body_whole:
            exchange.body = None
            exchange.body_discarded = True

    def _cancel_attempt(self, exchange: Exchange) -> None:
        """Give the current attempt up; synchronous, safe to call in any state."""
        task, exchange.task = exchange.task, None
        if task is not None:
            task.cancel()
        connection, exchange.upstream_connection = exchange.upstream_connection, None
        if connection is not None:
            connection.detach()
        self._leave_endpoint(exchange)

    def _leave_endpoint(self, exchange: Exchange) -> None:
        endpoint = exchange.endpoint
        if endpoint is not None:
            endpoint.inflight -= 1
            exchange.endpoint = None

    def upstream_failed(self, exchange: Exchange, connection: UpstreamConnection, error: ProxyError) -> None:
        """A connection failed under an exchange; it is closed already."""
        exchange.upstream_connection = None
        self._failed(exchange, error, reused=connection.requests > 1)
        exchange.downstream.flush()

    def _failed(self, exchange: Exchange, error: ProxyError, reused: bool) -> None:
        endpoint, upstream, reason = exchange.endpoint, exchange.upstream, error.reason
        assert endpoint is not None
        self._leave_endpoint(exchange)
        if exchange.response_started:
            upstream.stats.failed(reason.name.lower())
            exchange.downstream.respond_abort(exchange)
            self.finish(exchange)
            return
        now = self._clock()
        if reused and reason is Reason.UPSTREAM_CLOSED:
            # A kept connection that the endpoint had closed: no sign of ill health, and no attempt used up. Once a request: the new
            # connection is not a reused one.
            if repeatable(exchange):
                upstream.stats.retries += 1
                exchange.endpoint = endpoint
                endpoint.inflight += 1
                self._open(exchange, endpoint)
                return
        else:
            upstream.stats.failed(reason.name.lower())
            if self.runtime.record_failure(upstream, endpoint, now):
                upstream.stats.ejections += 1
                _log.warning("endpoint %s of %s ejected: %s", endpoint.key, upstream.name, error)
        self._note_attempt(exchange, endpoint, status_of(reason), now)
        if may_retry(exchange, reason, now):
            other = self._other_endpoint(exchange, endpoint, now)
            if other is not None:
                upstream.stats.retries += 1
                self._attempt(exchange, other)
                return
            if reason is Reason.CONNECT_FAILED and self._await_endpoints(exchange, upstream, now):
                return
        tried = exchange.tried or ()
        _log.info(
            "%s %r: %s of %s failed after %d tries: %s",
            exchange.method.decode("latin-1"),
            exchange.target,
            endpoint.key,
            upstream.name,
            len(tried) + (endpoint not in tried),
            error,
        )
        self._reject(exchange, reason)

    def _other_endpoint(self, exchange: Exchange, failed: EndpointState, now: float) -> EndpointState | None:
        tried = exchange.tried
        if tried is None:
            tried = exchange.tried = []
        tried.append(failed)
        upstream: UpstreamRuntime = exchange.upstream
        return upstream.pick_other(exchange, now, tried)

    def _await_endpoints(self, exchange: Exchange, upstream: UpstreamRuntime, now: float) -> bool:
        """Every endpoint refuses: they have gone faster than their successors were announced, which can take a second while the control plane
        recovers. Nothing was sent, so the request waits for other endpoints, as long as making a connection may take since the first
        request that met this; then, or if none was ever reached, requests fail at once. False: this one does.
        """
        if not upstream.reached:
            return False
        if upstream.unreachable_since is None:
            upstream.unreachable_since = now
        left_s = upstream.unreachable_since + exchange.route.policy.connect_timeout_s - now
        if left_s <= 0:
            return False
        exchange.task = self._loop.create_task(self._wait_for_endpoints(exchange, upstream, left_s))
        return True

    async def _wait_for_endpoints(self, exchange: Exchange, upstream: UpstreamRuntime, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await upstream.other_endpoints()
        except TimeoutError:
            pass
        exchange.task = None
        if exchange.finished:
            return
        exchange.tried = None
        picker = upstream.picker
        now = self._clock()
        if picker is None:
            if exchange.intercepted is not None or not self._stand_in(exchange, exchange.route, now):
                self._reject(exchange, Reason.NO_ENDPOINT)
            exchange.downstream.flush()
            return
        upstream.stats.retries += 1
        self._attempt(exchange, upstream.pick_sticky(exchange, now, picker) if upstream.sticky else picker.pick(now, 0))
        exchange.downstream.flush()

    # ---- response ------------------------------------------------------------------------------------------------

    def response_started(self, exchange: Exchange, connection: UpstreamConnection, status: int) -> bool:
        """The final response's head is there. False: another endpoint is asked instead."""
        endpoint, route, upstream = exchange.endpoint, exchange.route, exchange.upstream
        assert endpoint is not None
        if status in route.retry.statuses and exchange.intercepted is None and repeatable(exchange):
            now = self._clock()
            if tries_left(exchange, now):
                other = self._other_endpoint(exchange, endpoint, now)
                if other is not None:
                    self._note_attempt(exchange, endpoint, status, now)
                    exchange.upstream_connection = None
                    connection.detach()
                    self._leave_endpoint(exchange)
                    upstream.stats.retries += 1
                    self._attempt(exchange, other)
                    return False
        if endpoint.consecutive_failures or endpoint.ejections:
            ejection.record_success(endpoint)
        if upstream.observes_latency:
            now = self._clock()
            ewma.observe(endpoint, now, now - exchange.started)
        if status >= 300 and route.fallback is not None and self._replaced(exchange, route, connection, status):
            return False
        exchange.status = status
        exchange.response_started = True
        if exchange.body is not None:  # it won't be sent again, and the response may take long
            exchange.body = None
            exchange.body_discarded = True
            self.buffers.release(exchange)
        return True

    def _replaced(self, exchange: Exchange, route: LinkedRoute, connection: UpstreamConnection, status: int) -> bool:
        """Whether the default backend answers in place of an endpoint's response."""
        fallback = route.fallback
        if fallback is None or not fallback.of_endpoints:
            return False
        if interception.default_backend(exchange, fallback, status) is None:
            return False
        assert exchange.endpoint is not None
        self._note_attempt(exchange, exchange.endpoint, status, 0.0)
        exchange.upstream_connection = None
        connection.drop_response()
        self._leave_endpoint(exchange)
        return self._intercept(exchange, route, status, None)

    def upgraded(self, exchange: Exchange, connection: UpstreamConnection) -> None:
        """101: the exchange lasts as long as the tunnel."""
        exchange.status = 101
        exchange.response_started = True
        self._metrics.tunnels_open += 1

    def tunnel_closed(self, exchange: Exchange) -> None:
        if not exchange.finished:
            exchange.upstream_connection = None
            self._metrics.tunnels_open -= 1
            self.finish(exchange)

    def _reject(self, exchange: Exchange, reason: Reason) -> None:
        if reason in CLOSING:
            exchange.keep_alive = False
            if reason is not Reason.BODY_TOO_LARGE:  # of these no default backend could make anything
                self._write_answer(
                    exchange, answers.error_response(exchange, status_of(reason), MESSAGES.get(reason, ""))
                )
                return
        elif exchange.intercepted is not None:  # the default backend failed: the fault that it was asked about counts
            self.respond(exchange, exchange.intercepted.status)
            return
        self.respond(exchange, status_of(reason), MESSAGES.get(reason, ""))

    def respond(self, exchange: Exchange, status: int, message: str = "") -> None:
        """Answer with the error page of `status` (and `message`, if it isn't the usual), or make the failure visible where an answer has begun."""
        self.answer(exchange, answers.error_response(exchange, status, message))

    def answer(self, exchange: Exchange, response: DirectResponse) -> None:
        """Answer by ourselves, or make the failure visible where an answer has begun. An answer that brings no body of its own may be left to
        the default backend."""
        route: LinkedRoute | None = exchange.route
        if (
            route is None
            or route.fallback is None
            or response.body is not None
            or not self._intercept(exchange, route, response.status, response)
        ):
            self._write_answer(exchange, response)

    def _write_answer(self, exchange: Exchange, response: DirectResponse) -> None:
        if exchange.response_started:
            exchange.downstream.respond_abort(exchange)
            self.finish(exchange)
            return
        status = response.status
        route: LinkedRoute | None = exchange.route
        pieces, body = answers.compose(exchange, response, self._error_pages)
        exchange.status = status
        exchange.response_started = True
        if self.response_hooks or (route is not None and route.response_hooks):
            try:
                pieces = self.response_head(exchange, status, pieces, len(body))
            except Exception:
                _log.exception("a middleware failed on an answer with status %d", status)
        answers.send(exchange, status, pieces, body)
        downstream = exchange.downstream
        self.finish(exchange)
        downstream.respond_end(exchange, ())
        downstream.flush()

    # ---- accounts ------------------------------------------------------------------------------------------------

    def _note_attempt(self, exchange: Exchange, endpoint: EndpointState, status: int, now: float) -> None:
        if self._access_log is not None:
            if exchange.log is None:
                exchange.log = []
            exchange.log.append((endpoint.key, status))

    def finish(self, exchange: Exchange) -> None:
        """The exchange is over, however it ended: count it, log it, let go of what it held."""
        exchange.finished = True
        exchange.upstream_connection = None
        self.in_flight -= 1
        route: LinkedRoute | None = exchange.route
        if route is None:
            snapshot = self.snapshot
            route = None if snapshot is None else snapshot.not_found
        duration_s = self._clock() - exchange.started
        if exchange.body_filter is not None:
            exchange.response_bytes = exchange.body_filter.settle(exchange.response_bytes)
        if route is not None:
            route.stats.observe(exchange.status, duration_s, exchange.body_bytes, exchange.response_bytes)
        if self._access_log is not None:
            self._log_access(self._access_log, exchange, route, duration_s)
        endpoint = exchange.endpoint
        if endpoint is not None:
            endpoint.inflight -= 1
            exchange.endpoint = None
        exchange.body = None
        if exchange.cleanups is not None:
            for cleanup in exchange.cleanups:
                cleanup()
            exchange.cleanups = None

    def _log_access(self, log: AccessLog, exchange: Exchange, route: LinkedRoute | None, duration_s: float) -> None:
        rules = self._log_rules
        if route is not None and not (route.policy.access_log and (route.route.ingress or rules.default_backend)):
            return
        if rules.skips is not None and rules.skips(exchange.target):
            return
        extra: tuple[bytes | None, ...] = ()
        if rules.template is not None and rules.template.captures:
            try:
                extra = tuple([capture(exchange) for capture in rules.template.captures])
            except Exception:  # our bug; the request is over, and its line is written without these
                _log.exception("a variable of the log format failed")
                extra = (None,) * len(rules.template.captures)
        log.write(access_record(exchange, route, duration_s, extra))
