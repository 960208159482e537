"""Whether a request may be sent again: nginx's `proxy_next_upstream`, in the form the forwarder asks for."""

from ingress.errors import Reason
from ingress.exchange import Exchange
from ingress.routing.table import RetryOn, TrafficPolicy

_STATUS_RETRIES = {
    RetryOn.HTTP_403: 403,
    RetryOn.HTTP_404: 404,
    RetryOn.HTTP_429: 429,
    RetryOn.HTTP_500: 500,
    RetryOn.HTTP_502: 502,
    RetryOn.HTTP_503: 503,
    RetryOn.HTTP_504: 504,
}
_TIMEOUTS = frozenset((Reason.CONNECT_TIMEOUT, Reason.READ_TIMEOUT, Reason.SEND_TIMEOUT))
_NOTHING_SENT = frozenset((Reason.CONNECT_FAILED, Reason.CONNECT_TIMEOUT, Reason.TLS_FAILED))
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class RetryRule:
    """`TrafficPolicy.retry_*` in the form the forwarder asks for. Shared by the routes of equal policy."""

    __slots__ = ("invalid_header", "non_idempotent", "on_error", "on_timeout", "statuses", "timeout_s", "tries")

    def __init__(self, policy: TrafficPolicy) -> None:
        self.on_error = RetryOn.ERROR in policy.retry_on
        self.on_timeout = RetryOn.TIMEOUT in policy.retry_on
        self.invalid_header = RetryOn.INVALID_HEADER in policy.retry_on
        self.non_idempotent = RetryOn.NON_IDEMPOTENT in policy.retry_on
        self.statuses = frozenset(_STATUS_RETRIES[r] for r in policy.retry_on if r in _STATUS_RETRIES)
        self.tries = policy.retry_tries
        self.timeout_s = policy.retry_timeout_s

    def method_allows(self, method: bytes) -> bool:
        """Whether a request of this method may be sent a second time (RFC 9110 section 9.2.2)."""
        return self.non_idempotent or method in IDEMPOTENT


def may_retry(exchange: Exchange, reason: Reason, now: float) -> bool:
    """The only decision about sending a request again (nginx's proxy_next_upstream). Takes an attempt back that cost nothing."""
    rule: RetryRule = exchange.route.retry
    if reason in _TIMEOUTS:
        wanted = rule.on_timeout
    elif reason is Reason.UPSTREAM_PROTOCOL:
        wanted = rule.invalid_header
    else:
        wanted = rule.on_error
    if not wanted:
        return False
    if reason is Reason.CONNECT_FAILED and rule.tries != 1:
        # Nobody got it, and it took no time: not one of the tries. When a Service shrinks, most of its endpoints may refuse at once
        # before we hear that they are gone.
        exchange.attempts -= 1
    if not tries_left(exchange, now):
        return False
    return (reason in _NOTHING_SENT and not exchange.body_discarded) or repeatable(exchange)


def tries_left(exchange: Exchange, now: float) -> bool:
    rule: RetryRule = exchange.route.retry
    if rule.tries and exchange.attempts >= rule.tries:
        return False
    return not rule.timeout_s or now - exchange.started < rule.timeout_s


def repeatable(exchange: Exchange) -> bool:
    """Whether what an endpoint may have acted on can be sent a second time."""
    rule: RetryRule = exchange.route.retry
    return not exchange.body_discarded and rule.method_allows(exchange.method)
