"""What a client is told about a request that failed, by reason: the status, the words, and whether its connection can go on."""

from ingress.errors import Reason

# After these the connection to the client can't go on: where the next request begins is unknown, or its body won't be read.
CLOSING = frozenset(
    (
        Reason.BAD_REQUEST,
        Reason.PLAIN_HTTP,
        Reason.MISDIRECTED,
        Reason.URI_TOO_LONG,
        Reason.HEADERS_TOO_LARGE,
        Reason.BODY_TOO_LARGE,
        Reason.METHOD_NOT_ALLOWED,
        Reason.REQUEST_TIMEOUT,
    )
)
# Instead of what the status says in general; in nginx's words where it has some.
MESSAGES = {
    Reason.PLAIN_HTTP: "The plain HTTP request was sent to HTTPS port",
    Reason.ROUTE_CLOSED: "This address is out of service until its configuration is put right.",  # no Service, or a rule that can't be kept
}


def status_of(reason: Reason) -> int:
    """The status that a client gets for `reason` (as ingress-nginx answers)."""
    match reason:
        case Reason.BAD_REQUEST | Reason.PLAIN_HTTP:
            return 400
        case Reason.NO_ROUTE:
            return 404
        case Reason.METHOD_NOT_ALLOWED:
            return 405
        case Reason.REQUEST_TIMEOUT:
            return 408
        case Reason.BODY_TOO_LARGE:
            return 413
        case Reason.URI_TOO_LONG:
            return 414
        case Reason.MISDIRECTED:
            return 421
        case Reason.HEADERS_TOO_LARGE:
            return 431
        case Reason.CLIENT_GONE:
            return 499
        case Reason.INTERNAL:
            return 500
        case Reason.CONNECT_FAILED | Reason.TLS_FAILED | Reason.UPSTREAM_CLOSED | Reason.UPSTREAM_PROTOCOL:
            return 502
        case Reason.NO_ENDPOINT | Reason.ROUTE_CLOSED:
            return 503
        case Reason.CONNECT_TIMEOUT | Reason.SEND_TIMEOUT | Reason.READ_TIMEOUT:
            return 504
