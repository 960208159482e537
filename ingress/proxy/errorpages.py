"""The bodies of the responses that the proxy makes itself: HTML, JSON or plain text, as the request's Accept asks.

Without a preference (no Accept, or `*/*`, which is what curl, health checkers and most HTTP libraries send) the
answer is plain text: whoever did not ask for a page is a program or a terminal. Browsers name `text/html`, API
clients `application/json`, and get that. Where nothing that we have is acceptable, plain text is sent all the same: a
reader is better off with it than with nothing (RFC 9110 section 12.4.1 allows disregarding Accept).

Pages are rendered once per status, kind and presence of a request id, and only cut and joined afterwards: a flood of
404 must not cost more than the requests that it imitates.
"""

import enum
import re
from collections.abc import Iterator
from functools import lru_cache

import jinja2
import msgspec


class Kind(enum.Enum):
    """The value is the media type, split for comparison. The order is the preference among equals."""

    TEXT = (b"text", b"plain")
    HTML = (b"text", b"html")
    JSON = (b"application", b"json")


CONTENT_TYPES = {
    Kind.TEXT: b"text/plain; charset=utf-8",
    Kind.HTML: b"text/html; charset=utf-8",
    Kind.JSON: b"application/json",
}

# Reason phrases of RFC 9110 section 15 and RFC 6585; http.HTTPStatus has those of whichever RFC its Python version
# knew.
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    425: "Too Early",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

_MESSAGES = {
    400: "The request is not valid HTTP, or could be read in more than one way.",
    401: "This address asks for a login.",
    403: "Access to this address is not allowed.",
    404: "No rule matches this host and path.",
    405: "This method is not allowed here.",
    408: "The request did not arrive in time.",
    413: "The request body is larger than this address accepts.",
    414: "The address in the request line is too long.",
    417: "The expectation in the request can't be met.",
    421: "This connection can't be used for this host.",
    429: "Too many requests came from here. Try again later.",
    431: "The request headers are too large or too many.",
    500: "The proxy failed to handle the request.",
    501: "This is not something that the proxy can do.",
    502: "The service could not be reached, or did not answer with valid HTTP.",
    503: "No endpoint of the service is ready. Try again in a moment.",
    504: "The service did not answer in time.",
    505: "This version of HTTP is not supported.",
}


def title_of(status: int) -> str:
    """The reason phrase; a general word for a status without one."""
    return _TITLES.get(status) or ("Client Error" if status < 500 else "Server Error")


def message_of(status: int) -> str:
    """One sentence for the reader of the page."""
    fallback = "The request can't be answered." if status < 500 else "The service can't answer this request."
    return _MESSAGES.get(status, fallback)


# ---- Accept -------------------------------------------------------------------------------------------------------

_ACCEPT_LIMIT_BYTES = 1024
_ACCEPT_LIMIT_RANGES = 32
_QVALUE = re.compile(rb"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")  # RFC 9110 section 12.4.2


def _media_ranges(accept: bytes) -> Iterator[tuple[bytes, bytes, float]]:
    """(type, subtype, weight) of each well-formed range, lower case. Others, and what exceeds the limits, are passed
    over.

    Quoted strings are not looked for: no media type of ours has parameters, and a comma in one at worst adds a range.
    """
    if len(accept) > _ACCEPT_LIMIT_BYTES:
        accept = accept[:_ACCEPT_LIMIT_BYTES].rpartition(b",")[0]
    for item in accept.lower().split(b",", _ACCEPT_LIMIT_RANGES)[:_ACCEPT_LIMIT_RANGES]:
        media, *parameters = item.split(b";")
        main, slash, sub = media.strip(b" \t").partition(b"/")
        if not slash:
            continue
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.strip(b" \t").partition(b"=")
            if name == b"q":
                weight = float(value) if _QVALUE.fullmatch(value) else -1.0
                break
        if weight >= 0.0:
            yield main, sub, weight


def _preferred(accept: bytes) -> Kind:
    """RFC 9110 section 12.5.1: for each kind the most specific range that covers it counts; then the heaviest kind
    wins, among equals the one named most exactly, then the one named first.
    """
    best: dict[Kind, tuple[int, float, int]] = {}  # specificity, weight, how early
    for index, (main, sub, weight) in enumerate(_media_ranges(accept)):
        for kind in Kind:
            kind_main, kind_sub = kind.value
            if main == kind_main and (sub == kind_sub or (kind is Kind.JSON and sub.endswith(b"+json"))):
                specificity = 3
            elif main == kind_main and sub == b"*":
                specificity = 2
            elif main == sub == b"*":
                specificity = 1
            else:
                continue
            known = best.get(kind)
            if known is None or specificity > known[0]:
                best[kind] = (specificity, weight, -index)
    acceptable = [
        (weight, specificity, early, kind) for kind, (specificity, weight, early) in best.items() if weight > 0
    ]
    if not acceptable:
        return Kind.TEXT
    heaviest = max(entry[:3] for entry in acceptable)
    return next(kind for kind in Kind if kind in best and (best[kind][1], best[kind][0], best[kind][2]) == heaviest)


_preferred_cached = lru_cache(maxsize=256)(_preferred)


def preferred_kind(accept: bytes | None) -> Kind:
    """What to answer to this Accept value (several header lines joined by commas). Any bytes are taken; nothing is
    raised.

    Short values are remembered, at most 256 of them at 256 bytes: browsers and libraries send the same few.
    """
    if not accept or accept == b"*/*":
        return Kind.TEXT
    return _preferred_cached(accept) if len(accept) <= 256 else _preferred(accept)


# ---- pages --------------------------------------------------------------------------------------------------------

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
"""Ids that are shown: harmless in HTML, JSON and a terminal. Others are left out of the page."""

_PLACE = "REQUEST-ID-GOES-HERE"


class ErrorPages:
    """Renders and remembers. One per process; not shared between threads."""

    def __init__(self) -> None:
        loader = jinja2.PackageLoader("ingress.proxy")
        # Autoescape for the text template too would turn the apostrophe of "can't" into an entity; nothing in it is
        # untrusted.
        environment = jinja2.Environment(
            loader=loader,
            autoescape=jinja2.select_autoescape(("html",)),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        self._html = environment.get_template("error.html")
        self._text = environment.get_template("error.txt")
        self._without_id: dict[tuple[int, Kind, str], bytes] = {}
        self._around_id: dict[tuple[int, Kind, str], tuple[bytes, bytes]] = {}

    def page(
        self, status: int, accept: bytes | None, request_id: bytes = b"", message: str = ""
    ) -> tuple[bytes, bytes]:
        """(content type, body) for a status from 400 to 599; ValueError for another.

        `accept` is the raw value of the request's Accept, None without one. A request id that is not plain (it may be
        the client's) is not shown. `message` is one of a few fixed sentences, in place of the status' own. Caches hold
        at most 200 statuses in three kinds, and those sentences.
        """
        kind = preferred_kind(accept)
        key = (status, kind, message)
        if request_id and _REQUEST_ID.fullmatch(request_id):
            around = self._around_id.get(key)
            if around is None:
                before, place, after = self._render(status, kind, _PLACE, message).partition(_PLACE.encode())
                assert place
                around = self._around_id[key] = (before, after)
            return CONTENT_TYPES[kind], around[0] + request_id + around[1]
        body = self._without_id.get(key)
        if body is None:
            body = self._without_id[key] = self._render(status, kind, "", message)
        return CONTENT_TYPES[kind], body

    def _render(self, status: int, kind: Kind, request_id: str, message: str) -> bytes:
        if not 400 <= status <= 599:
            raise ValueError(f"{status} is not the status of an error")
        title, message = title_of(status), message or message_of(status)
        if kind is Kind.JSON:
            fields = {"status": status, "error": title, "message": message}
            if request_id:
                fields["request_id"] = request_id
            return msgspec.json.encode(fields) + b"\n"
        template = self._html if kind is Kind.HTML else self._text
        return template.render(status=status, title=title, message=message, request_id=request_id).encode()
