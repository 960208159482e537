"""Text with nginx's variables (`$name`, `${name}`): taken apart when configuration changes, filled in per request.

Used where an operator writes such text: log formats and header fields of the options ConfigMap. Only the names below exist, each a plain
function of an exchange; a value is never looked into for further variables. A request's exchange is described by `exchange.Exchange`,
which this module, below it, doesn't import.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

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
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# The reader moves what a client claimed about itself out of the way, before a hook or a log sees it.
_MOVED = {b"x-forwarded-for": b"x-original-forwarded-for", b"x-forwarded-host": b"x-original-forwarded-host"}
_FORWARDED_PORT = re.compile(rb"(?:^|\n)X-Forwarded-Port: ([0-9]+)")


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


def _argument(name: bytes) -> Getter:
    def get(exchange: Any) -> bytes | None:
        for pair in exchange.query[1:].split(b"&"):
            key, equals, value = pair.partition(b"=")
            if equals and key.lower() == name:
                return bytes(value)
        return None

    return get


def _cookie(name: bytes) -> Getter:
    def get(exchange: Any) -> bytes | None:
        for field in exchange.header_values(b"cookie"):
            for pair in field.split(b";"):
                key, equals, value = pair.strip().partition(b"=")
                if equals and key.lower() == name:
                    return bytes(value)
        return None

    return get


def _of_route(attribute: str) -> Getter:
    def get(exchange: Any) -> bytes | None:
        rule = None if exchange.route is None else exchange.route.route
        value: str = "" if rule is None else getattr(rule, attribute)
        return value.encode() or None

    return get


def upstream_name(exchange: Any) -> bytes | None:
    rule = None if exchange.route is None else exchange.route.route
    return None if rule is None or not rule.service else f"{rule.namespace}-{rule.service}-{rule.port}".encode()


def request_line(exchange: Any) -> bytes | None:
    return b"%b %b %b" % (exchange.method, exchange.target, protocol(exchange)) if exchange.method else None


def protocol(exchange: Any) -> bytes:
    version = exchange.version
    return b"HTTP/1.1" if version == 11 else b"HTTP/1.0" if version == 10 else b"HTTP/2.0"


def _port(exchange: Any) -> bytes | None:
    match = _FORWARDED_PORT.search(exchange.forwarded)
    return match[1] if match else None


def _escaped_uri(exchange: Any) -> bytes:
    return b"".join(b"%c" % c if c in _UNRESERVED else b"%%%02X" % c for c in exchange.target)


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
_PID = b"%d"

OF_REQUEST: dict[str, Getter] = {
    "args": lambda x: x.query[1:] or None,
    "best_http_host": lambda x: x.authority or None,
    "content_length": lambda x: b"%d" % x.content_length if x.body_framing == 1 else None,
    "content_type": _header(b"content-type"),
    "document_uri": lambda x: x.path,
    "escaped_request_uri": _escaped_uri,
    "host": lambda x: x.host or None,
    "hostname": lambda x: _HOST_NAME,
    "ingress_name": _of_route("ingress"),
    "is_args": lambda x: b"?" if len(x.query) > 1 else b"",
    "location_path": _of_route("path"),
    "msec": lambda x: b"%.3f" % time.time(),
    "namespace": _of_route("namespace"),
    "pass_access_scheme": lambda x: x.scheme,
    "pass_port": _port,
    "pass_server_port": _port,
    "pid": lambda x: _PID % os.getpid(),
    "proxy_add_x_forwarded_for": _appended_forwarded_for,
    "proxy_alternative_upstream_name": lambda x: b"",
    "proxy_host": upstream_name,
    "proxy_upstream_name": upstream_name,
    "query_string": lambda x: x.query[1:] or None,
    "realip_remote_addr": lambda x: x.client_address.encode(),
    "remote_addr": lambda x: x.client_address.encode(),
    "remote_user": lambda x: x.remote_user or None,
    "req_id": lambda x: x.request_id or None,
    "request": request_line,
    "request_id": lambda x: x.request_id or None,
    "request_length": lambda x: b"%d" % (x.head_length() + x.body_bytes),
    "request_method": lambda x: x.method or None,
    "request_uri": lambda x: x.target,
    "scheme": lambda x: x.scheme,
    "server_name": lambda x: (_of_route("host")(x) or b"_"),
    "server_port": _port,
    "server_protocol": protocol,
    "service_name": _of_route("service"),
    "service_port": _of_route("port"),
    "ssl_cipher": _tls("cipher"),
    "ssl_protocol": _tls("protocol"),
    "ssl_server_name": _tls("server_name"),
    "the_real_ip": lambda x: x.client_address.encode(),
    "time_iso8601": lambda x: iso_time(int(time.time())).encode(),
    "time_local": lambda x: local_time(int(time.time())).encode(),
    "uri": lambda x: x.path,
}
"""What is known when a request is proxied, and later."""

_FAMILIES = {"http_": _header, "cookie_": _cookie, "arg_": _argument}

NOT_AVAILABLE = frozenset(
    (
        *("binary_remote_addr", "bytes_sent", "connection", "connection_requests", "connection_time", "connections_active"),
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
    found = OF_REQUEST.get(name)
    if found is None:
        for prefix, make in _FAMILIES.items():
            if name.startswith(prefix) and len(name) > len(prefix):
                argument = name.removeprefix(prefix).lower()
                return make((argument.replace("_", "-") if prefix == "http_" else argument).encode("ascii"))
    return found


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
