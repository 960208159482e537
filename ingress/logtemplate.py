"""Log lines by a template with nginx's variables: what `log-format-upstream` asks for, compiled once.

A line is made on the writer's thread from an `accesslog.AccessRecord` (`record` below; this module is beneath it). What a record doesn't
hold is read off the exchange when it ends (`captures`) and travels in `record.extra`, in that order.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from ingress.request_text import NOT_AVAILABLE, Getter, getter, iso_time, local_time, parse_template, variables_of

# ---- escaping -------------------------------------------------------------------------------------------------------

_PLAIN = bytes(c for c in range(0x20, 0x7F) if c not in b'"\\')
_ESCAPES = [b"%c" % c if c in _PLAIN else b"\\x%02X" % c for c in range(256)]
_JSON_PLAIN = bytes(c for c in range(0x20, 0x100) if c not in b'"\\')
_JSON_SHORT = {0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0C: b"\\f", 0x0D: b"\\r", 0x22: b'\\"', 0x5C: b"\\\\"}
_JSON_ESCAPES = [_JSON_SHORT.get(c, b"%c" % c if c in _JSON_PLAIN else b"\\u%04X" % c) for c in range(256)]
_BREAKS = re.compile(rb"[\r\n\0]")


def escape_default(value: bytes) -> bytes:
    r"""`"`, `\` and every byte below 32 or above 126 as `\xHH`."""
    return b"".join([_ESCAPES[c] for c in value]) if value.translate(None, _PLAIN) else value


def escape_json(value: bytes) -> bytes:
    """What can't stand in a string of JSON; bytes above 126 stay as they are, as in nginx."""
    return b"".join([_JSON_ESCAPES[c] for c in value]) if value.translate(None, _JSON_PLAIN) else value


def escape_none(value: bytes) -> bytes:
    """Nothing, but for what would end the line."""
    return _BREAKS.sub(lambda match: b"\\x%02X" % match[0][0], value)


_ESCAPING: dict[str, tuple[Callable[[bytes], bytes], bytes]] = {  # the function, and what stands for "not found"
    "default": (escape_default, b"-"),
    "json": (escape_json, b""),
    "none": (escape_none, b""),
}

# ---- values ---------------------------------------------------------------------------------------------------------

OfRecord = Callable[[Any], bytes | None]


def _several(value: Any, form: str) -> bytes:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join([format(v, form) for v in values]).encode()


def _upstream(record: Any) -> bytes | None:
    return f"{record.namespace}-{record.service}-{record.port}".encode() if record.service else None


_OF_RECORD: dict[str, OfRecord] = {
    "body_bytes_sent": lambda r: b"%d" % r.body_bytes_sent,
    "http_host": lambda r: r.host or None,
    "http_referer": lambda r: r.referer or None,
    "http_user_agent": lambda r: r.user_agent or None,
    "ingress_name": lambda r: r.ingress.encode() or None,
    "msec": lambda r: b"%.3f" % r.time_s,
    "namespace": lambda r: r.namespace.encode() or None,
    "proxy_alternative_upstream_name": lambda r: _upstream(r) or b"" if r.main_upstream else b"",
    "proxy_upstream_name": lambda r: r.main_upstream.encode() or _upstream(r),
    "remote_addr": lambda r: r.remote_addr.encode(),
    "remote_user": lambda r: r.remote_user or None,
    "req_id": lambda r: r.request_id or None,
    "request": lambda r: b"%b %b %b" % (r.method, r.target, r.version) if r.method else None,
    "request_id": lambda r: r.request_id or None,
    "request_length": lambda r: b"%d" % r.request_length,
    "request_method": lambda r: r.method or None,
    "request_time": lambda r: b"%.3f" % r.request_time_s,
    "request_uri": lambda r: r.target,
    "server_protocol": lambda r: r.version,
    "service_name": lambda r: r.service.encode() or None,
    "service_port": lambda r: r.port.encode() or None,
    "status": lambda r: b"%03d" % r.status,
    "time_iso8601": lambda r: iso_time(int(r.time_s)).encode(),
    "time_local": lambda r: local_time(int(r.time_s)).encode(),
    "upstream_addr": lambda r: r.upstream_addr.encode() or None,
    "upstream_response_length": lambda r: _several(r.upstream_response_length, "d") if r.upstream_addr else None,
    "upstream_response_time": lambda r: _several(r.upstream_response_time_s, ".3f") if r.upstream_addr else None,
    "upstream_status": lambda r: r.upstream_status.encode() or None,
}

SENT, RECEIVED, HEADER_TIME = "log.sent", "log.received", "log.header-time"
"""Notes of an exchange: the fields of the response as sent and as received, and when its head was there (seconds since the start)."""


def _of_head(note: str, name: bytes) -> Getter:
    def get(exchange: Any) -> bytes | None:
        pieces = (exchange.notes or {}).get(note, ())
        values = [v for n, v in zip(pieces[::4], pieces[2::4], strict=True) if n.lower() == name]
        return b", ".join(values) if values else None

    return get


def _header_time(exchange: Any) -> bytes | None:
    found = (exchange.notes or {}).get(HEADER_TIME)
    return None if found is None else b"%.3f" % found


def _nothing(exchange: Any) -> None:
    return None


def _captured(name: str) -> tuple[Getter, bool]:
    """The function, and whether it needs notes about heads. Raises ValueError."""
    for prefix, note in (("sent_http_", SENT), ("upstream_http_", RECEIVED)):
        if name.startswith(prefix):
            return _of_head(note, name.removeprefix(prefix).lower().replace("_", "-").encode("ascii")), True
    if name == "upstream_header_time":
        return _header_time, True
    found = getter(name)
    if found is None:
        if name not in NOT_AVAILABLE:
            raise ValueError(f"there is no variable ${name}")
        return _nothing, False
    return found, False


_QUOTED = re.compile(r"\\([\"'\\tnr])")
_UNQUOTED = {"t": "\t", "n": "\n", "r": "\r"}


def _literal(text: str) -> bytes:
    """As nginx reads text within quotes."""
    return _QUOTED.sub(lambda match: _UNQUOTED.get(match[1], match[1]), text).encode()


class TemplateFormat:
    """`captures` are evaluated when a request ends; `needs_heads`: they read the notes SENT, RECEIVED and HEADER_TIME."""

    def __init__(self, template: str, escape: str = "default") -> None:
        """Raises ValueError for a variable that doesn't exist."""
        self._escape, self._absent = _ESCAPING[escape]
        parts = parse_template(template)
        captured = [name for name in variables_of(parts) if name not in _OF_RECORD]
        functions = [_captured(name) for name in captured]
        self.captures: tuple[Getter, ...] = tuple(function for function, _ in functions)
        self.needs_heads = any(needs for _, needs in functions)
        # Literal bytes, a function of the record, or a position in its extra.
        self._parts: list[bytes | OfRecord | int] = [
            _literal(part.text) if not part.is_variable else _OF_RECORD.get(part.text) or captured.index(part.text)
            for part in parts
        ]

    def __call__(self, records: Iterable[Any]) -> list[bytes]:
        return [self._line(record) for record in records]

    def _line(self, record: Any) -> bytes:
        escape, absent = self._escape, self._absent
        line: list[bytes] = []
        for part in self._parts:
            if isinstance(part, bytes):
                line.append(part)
                continue
            value = record.extra[part] if isinstance(part, int) else part(record)
            line.append(absent if value is None else escape(value))
        line.append(b"\n")
        return b"".join(line)
