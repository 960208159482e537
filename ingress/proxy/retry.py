"""Whether a request may be sent again: nginx's `proxy_next_upstream`, in the form the forwarder asks for."""

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
