"""Text with nginx's variables that the operator of the controller writes: log formats and header fields of the options ConfigMap.

`ingress.variables` says what a variable means; here are the few more that need a clock, the process or a finished request, and which values
are missing rather than empty. Taken apart when configuration changes, filled in per request by plain functions of an exchange
(`exchange.Exchange`, which this module, below it, doesn't import); a value is never looked into for further variables.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ingress.variables import Variable, compile_value, parse_value

Getter = Callable[[Any], bytes | None]
"""Of an exchange. None: nginx would say "not found", and a log shows `-`."""


class Part(NamedTuple):
    """Literal text, or the name of a variable."""

    text: str
    is_variable: bool


_VARIABLE = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))", re.ASCII)
_TEXT_LIMIT = 8192
_PARTS_LIMIT = 200


def parse_template(text: str) -> tuple[Part, ...]:
    """Raises ValueError, with a clause that names the bad part."""
    if len(text) > _TEXT_LIMIT:
        raise ValueError(f"it is longer than {_TEXT_LIMIT} characters")
    parts: list[Part] = []
    position = 0
    while position < len(text):
        at = text.find("$", position)
        if at < 0:
            parts.append(Part(text[position:], False))
            break
        if at > position:
            parts.append(Part(text[position:at], False))
        match = _VARIABLE.match(text, at)
        if match is None:
            raise ValueError(f"the $ at character {at + 1} is not followed by the name of a variable")
        parts.append(Part(match[1] or match[2], True))
        position = match.end()
    if len(parts) > _PARTS_LIMIT:
        raise ValueError(f"it has more than {_PARTS_LIMIT} parts")
    return tuple(parts)


def variables_of(parts: Sequence[Part]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.text for part in parts if part.is_variable))


# ---- values ---------------------------------------------------------------------------------------------------------

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# The reader moves what a client claimed about itself out of the way, before a hook or a log sees it.
_MOVED = {b"x-forwarded-for": b"x-original-forwarded-for", b"x-forwarded-host": b"x-original-forwarded-host"}


def local_time(second: int) -> str:
    """nginx's `$time_local`, with English month names whatever the locale: `02/Nov/2026:10:00:00 +0000`."""
    t = time.localtime(second)
    offset = t.tm_gmtoff // 60
    sign = "-" if offset < 0 else "+"
    hours, minutes = divmod(abs(offset), 60)
    return (
        f"{t.tm_mday:02d}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
        f" {sign}{hours:02d}{minutes:02d}"
    )


def iso_time(second: int) -> str:
    """nginx's `$time_iso8601`."""
    return datetime.fromtimestamp(second).astimezone().isoformat(timespec="seconds")


def _header(name: bytes) -> Getter:
    name = _MOVED.get(name, name)
    separator = b"; " if name == b"cookie" else b", "

    def get(exchange: Any) -> bytes | None:
        if name == b"host":
            return bytes(exchange.authority) or None
        if name == b"x-request-id":
            return bytes(exchange.request_id) or None
        values = exchange.header_values(name)
        return separator.join(values) if values else None

    return get


class _NoRule:
    """Where there is no route yet."""

    host = path = namespace = ingress = service = port = ""


_NO_RULE = _NoRule()


def _of_variables(name: str) -> Getter | None:
    """As values of annotations have it; None for a name that they don't have."""
    try:
        (part,) = parse_value(f"${{{name}}}")
    except ValueError:
        return None
    if part.variable is Variable.CAPTURE:
        return None
    evaluate = compile_value((part,))
    return lambda exchange: evaluate(exchange, _NO_RULE if exchange.route is None else exchange.route.route) or None


def upstream_name(exchange: Any) -> bytes | None:
    rule = None if exchange.route is None else exchange.route.route
    return None if rule is None or not rule.service else f"{rule.namespace}-{rule.service}-{rule.port}".encode()


def request_line(exchange: Any) -> bytes | None:
    return b"%b %b %b" % (exchange.method, exchange.target, protocol(exchange)) if exchange.method else None


def protocol(exchange: Any) -> bytes:
    version = exchange.version
    return b"HTTP/1.1" if version == 11 else b"HTTP/1.0" if version == 10 else b"HTTP/2.0"


def _tls(attribute: str) -> Getter:
    def get(exchange: Any) -> bytes | None:
        value = getattr(exchange.tls, attribute, None)
        if isinstance(value, bytes):
            return value or None
        return str(value).encode() if value else None

    return get


def _appended_forwarded_for(exchange: Any) -> bytes:
    return b", ".join((*exchange.header_values(_MOVED[b"x-forwarded-for"]), exchange.client_address.encode()))


_HOST_NAME = socket.gethostname().encode()

OF_REQUEST: dict[str, Getter] = {
    "content_length": lambda x: b"%d" % x.content_length if x.body_framing == 1 else None,
    "content_type": _header(b"content-type"),
    "hostname": lambda x: _HOST_NAME,
    "msec": lambda x: b"%.3f" % time.time(),
    "pid": lambda x: b"%d" % os.getpid(),
    "proxy_add_x_forwarded_for": _appended_forwarded_for,
    "proxy_alternative_upstream_name": lambda x: b"",
    "proxy_host": upstream_name,
    "proxy_upstream_name": upstream_name,
    "realip_remote_addr": lambda x: x.client_address.encode(),
    "request": request_line,
    "request_length": lambda x: b"%d" % (x.head_length() + x.body_bytes),
    "ssl_cipher": _tls("cipher"),
    "ssl_protocol": _tls("protocol"),
    "ssl_server_name": _tls("server_name"),
    "time_iso8601": lambda x: iso_time(int(time.time())).encode(),
    "time_local": lambda x: local_time(int(time.time())).encode(),
}
"""Beside what `ingress.variables` has: what needs a clock or the process, and what only logs want."""

NOT_AVAILABLE = frozenset(
    (
        *("bytes_sent", "connection", "connection_requests", "connection_time", "connections_active"),
        *("geoip2_city", "geoip2_city_country_code", "geoip2_city_country_name", "gzip_ratio"),
        *("limit_rate", "nginx_version", "opentelemetry_span_id", "opentelemetry_trace_id", "pipe"),
        *("proxy_port", "proxy_protocol_addr", "proxy_protocol_port", "proxy_protocol_server_addr"),
        *("proxy_protocol_server_port", "realip_remote_port", "remote_port", "request_body", "request_completion"),
        *("server_addr", "ssl_client_fingerprint", "ssl_client_i_dn", "ssl_client_s_dn", "ssl_client_serial"),
        *("ssl_client_verify", "ssl_curve", "ssl_early_data", "ssl_session_id", "ssl_session_reused"),
        *("tcpinfo_rtt", "tcpinfo_rttvar", "upstream_bytes_received", "upstream_bytes_sent", "upstream_cache_status"),
        *("upstream_connect_time", "upstream_first_byte_time", "upstream_queue_time"),
    )
)
"""nginx has them, here they have no value: a log shows `-`."""


def getter(name: str) -> Getter | None:
    """The function for a variable of a request; None for a name that is not one."""
    if name.startswith("http_") and len(name) > 5:
        return _header(name.removeprefix("http_").lower().replace("_", "-").encode("ascii"))
    return OF_REQUEST.get(name) or _of_variables(name)


_BREAKS = b"\r\n\0"


def compile_template(parts: Sequence[Part]) -> Callable[[Any], bytes]:
    """From an exchange to the text, as the value of a header field: variables without a value are empty, line breaks can't come through.

    Raises ValueError for a name that is not a variable of a request.
    """
    pieces: list[bytes | Getter] = []
    for part in parts:
        if not part.is_variable:
            pieces.append(part.text.encode().translate(None, _BREAKS))
            continue
        get = getter(part.text)
        if get is None and part.text not in NOT_AVAILABLE:
            raise ValueError(f"there is no variable ${part.text} here")
        pieces.append(b"" if get is None else get)
    if all(isinstance(piece, bytes) for piece in pieces):
        constant = b"".join(piece for piece in pieces if isinstance(piece, bytes))
        return lambda exchange: constant

    def fill(exchange: Any) -> bytes:
        text = b"".join([piece if isinstance(piece, bytes) else piece(exchange) or b"" for piece in pieces])
        return text.translate(None, _BREAKS)

    return fill
