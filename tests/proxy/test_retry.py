"""Whether a request may be sent again, as a table. What then happens on the wire: test_faults.py, test_timeouts.py."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ingress.errors import Reason
from ingress.exchange import Exchange
from ingress.proxy.retry import RetryRule, may_retry, repeatable, tries_left
from ingress.routing.table import RetryOn, TrafficPolicy

ERRORS = (RetryOn.ERROR, RetryOn.TIMEOUT)


def exchange(method: bytes = b"GET", *, attempts: int = 1, discarded: bool = False, **policy: Any) -> Exchange:
    made = Exchange(cast(Any, None), "192.0.2.1", b"http", b"", method, b"/")
    made.route = SimpleNamespace(retry=RetryRule(TrafficPolicy(**policy)))
    made.attempts = attempts
    made.body_discarded = discarded
    made.started = 100.0
    return made


@pytest.mark.parametrize(
    ("method", "reason", "retry_on", "again"),
    [
        (b"GET", Reason.UPSTREAM_CLOSED, ERRORS, True),
        (b"POST", Reason.UPSTREAM_CLOSED, ERRORS, False),
        (b"POST", Reason.UPSTREAM_CLOSED, (*ERRORS, RetryOn.NON_IDEMPOTENT), True),
        (b"POST", Reason.CONNECT_FAILED, ERRORS, True),
        (b"POST", Reason.CONNECT_TIMEOUT, ERRORS, True),
        (b"POST", Reason.TLS_FAILED, ERRORS, True),
        (b"GET", Reason.READ_TIMEOUT, (RetryOn.ERROR,), False),
        (b"GET", Reason.READ_TIMEOUT, (RetryOn.TIMEOUT,), True),
        (b"GET", Reason.UPSTREAM_PROTOCOL, ERRORS, False),
        (b"GET", Reason.UPSTREAM_PROTOCOL, (RetryOn.INVALID_HEADER,), True),
        (b"GET", Reason.CONNECT_FAILED, (), False),
    ],
)
def test_reason_and_method(method: bytes, reason: Reason, retry_on: tuple[RetryOn, ...], again: bool) -> None:
    assert may_retry(exchange(method, retry_on=retry_on), reason, 100.0) is again


@pytest.mark.parametrize("reason", [Reason.CONNECT_FAILED, Reason.UPSTREAM_CLOSED])
def test_what_is_gone_of_the_body_cannot_be_sent_again(reason: Reason) -> None:
    gone = exchange(b"PUT", discarded=True, retry_on=ERRORS)
    assert not repeatable(gone)
    assert not may_retry(gone, reason, 100.0)


def test_tries_and_time_run_out() -> None:
    policy = {"retry_on": ERRORS, "retry_tries": 3, "retry_timeout_s": 5.0}
    assert tries_left(exchange(attempts=2, **policy), 104.9)
    assert not tries_left(exchange(attempts=3, **policy), 104.9)
    assert not tries_left(exchange(attempts=2, **policy), 105.0)
    assert tries_left(exchange(attempts=99, retry_tries=0, retry_timeout_s=0.0), 1e9)


@pytest.mark.parametrize(("tries", "left"), [(3, 0), (1, 1)])
def test_a_refused_connection_is_none_of_the_tries_where_there_are_several(tries: int, left: int) -> None:
    refused = exchange(attempts=1, retry_on=ERRORS, retry_tries=tries)
    assert may_retry(refused, Reason.CONNECT_FAILED, 100.0) is (tries > 1)
    assert refused.attempts == left
