"""Values of options. Each function raises ValueError with the reason as a clause that names the bad part; `Partly`, if the rest is usable."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeVar

from ingress.request_text import NOT_AVAILABLE, getter, parse_template, variables_of
from ingress.routing.table import LoadBalance
from ingress.textmap import parse_entry
from ingress.translate.annotations.values import count, positive, size_bytes
from ingress.translate.names import is_object_name
from ingress.translate.options.model import Risk
from ingress.translate.report import shown

T = TypeVar("T")

_ENTRIES_LIMIT = 1000
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)
_NGINX_TIME = re.compile(r"(?:[0-9]{1,9}(?:ms|[smhdwMy])?\s*)+", re.ASCII)
_NGINX_PART = re.compile(r"([0-9]+)(ms|[smhdwMy]?)", re.ASCII)
_NGINX_UNITS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2592000, "y": 31536000}
_GO_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+", re.ASCII)
_GO_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", re.ASCII)
_PROTOCOLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_LOG_ONLY = frozenset(
    (
        *("status", "body_bytes_sent", "request_time", "upstream_addr", "upstream_header_time"),
        *("upstream_response_length", "upstream_response_time", "upstream_status"),
    )
)
_LOG_FAMILIES = ("sent_http_", "upstream_http_")
_RISKS = {risk.name.lower(): risk for risk in Risk}
_LOAD_BALANCE = {
    "round_robin": LoadBalance.ROUND_ROBIN,
    "least_request": LoadBalance.LEAST_REQUEST,
    "ewma": LoadBalance.EWMA,
}
_RETRY_LIMIT_BYTES = 16 << 20
_LEAST_REPLAY_BYTES = 65536
_LEAST_RESPONSE_HEAD_BYTES = 131072


class Partly(ValueError):
    """The parts named in the message are left out; `usable` is the value without them."""

    def __init__(self, usable: Any, why: str) -> None:
        super().__init__(why)
        self.usable = usable


def text(value: str) -> str:
    return value


def items(value: str) -> tuple[str, ...]:
    """Separated by commas, trimmed, none empty, each once."""
    found = tuple(dict.fromkeys(item for part in value.split(",") if (item := part.strip())))
    if len(found) > _ENTRIES_LIMIT:
        raise ValueError(f"it has more than {_ENTRIES_LIMIT} entries")
    return found


def each(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """A list of which the bad entries are left out."""

    def parse_list(value: str) -> tuple[T, ...]:
        good: list[T] = []
        bad: list[str] = []
        for item in items(value):
            try:
                good.append(parse(item))
            except ValueError as problem:
                bad.append(f"{shown(item, 40)}: {problem}")
        result = tuple(dict.fromkeys(good))
        if bad:
            raise Partly(result, "; ".join(bad[:5]))
        return result

    return parse_list


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError("it is neither an address nor a CIDR") from None


def _field_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("it is not the name of a header field")
    return value.lower()


networks = each(_network)
field_names = each(_field_name)
map_entries = each(parse_entry)


def field_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("it is not the name of a header field")
    return value


def seconds(value: str) -> float:
    """Whole seconds; a unit is refused with a hint, as ingress-nginx wants a number."""
    if value[-1:] in ("s", "m", "h") and value[:-1].isdigit():
        raise ValueError(f"it has the unit {value[-1]}: write the number of seconds alone")
    return float(positive(value))


def seconds_or_none(value: str) -> float:
    """Like `seconds`; 0 is allowed."""
    return 0.0 if value == "0" else seconds(value)


def nginx_time_s(value: str) -> float:
    """`60`, `240s`, `10m`, `1h30m`."""
    if not _NGINX_TIME.fullmatch(value):
        raise ValueError("it is not a time of nginx, such as 60s, 10m or 1h")
    return float(sum(int(number) * _NGINX_UNITS[unit] for number, unit in _NGINX_PART.findall(value)))


def go_duration_s(value: str) -> float:
    """`5s`, `1m30s`, `500ms`."""
    if not _GO_DURATION.fullmatch(value):
        raise ValueError("it is not a duration, such as 5s or 1m30s")
    return sum(float(number) * _NGINX_UNITS[unit] for number, unit in _GO_PART.findall(value))


def header_buffers(value: str) -> tuple[int, int]:
    """nginx's `number size`."""
    parts = value.split()
    if len(parts) != 2:
        raise ValueError("it is not a number and a size, such as 4 8k")
    number, size = positive(parts[0]), size_bytes(parts[1])
    if not 256 <= size <= 1 << 20 or number > 1024:
        raise ValueError("at most 1024 buffers of 256 bytes to 1 MiB each")
    return number, size


def header_buffer(value: str) -> int:
    size = size_bytes(value)
    if size > 1 << 20:
        raise ValueError("it is more than 1 MiB")
    return size


def replay_bytes(value: str) -> int:
    """How much of a body is kept for a second try."""
    return max(_LEAST_REPLAY_BYTES, min(size_bytes(value), _RETRY_LIMIT_BYTES))


def response_head_bytes(value: str) -> int:
    """A minimum: what nginx's default buffer has no room for is still passed on."""
    return max(_LEAST_RESPONSE_HEAD_BYTES, min(size_bytes(value), 1 << 22))


def at_least_one(value: str) -> int:
    return max(1, count(value))


def switch(value: str) -> bool:
    """`on` or `off`."""
    if value in ("on", "off"):
        return value == "on"
    raise ValueError("it is neither on nor off")


def protocols(value: str) -> tuple[str, ...]:
    words = value.split()
    if not words:
        raise ValueError("it is empty")
    for word in words:
        if word not in _PROTOCOLS:
            raise ValueError(f"{shown(word, 40)} is none of {', '.join(_PROTOCOLS)}")
    return tuple(protocol for protocol in _PROTOCOLS if protocol in words)


def risk(value: str) -> Risk:
    found = _RISKS.get(value.lower())
    if found is None:
        raise ValueError("it is none of Critical, High, Medium and Low")
    return found


def load_balance(value: str) -> LoadBalance:
    found = _LOAD_BALANCE.get(value)
    if found is None:
        raise ValueError(f"it is none of {', '.join(_LOAD_BALANCE)}")
    return found


def config_map_name(value: str) -> tuple[str, str]:
    namespace, slash, name = value.partition("/")
    if not slash or not is_object_name(namespace) or not is_object_name(name):
        raise ValueError("it does not name a ConfigMap: expected NAMESPACE/NAME")
    return namespace, name


def redirect_code(value: str) -> int:
    if value not in ("301", "302", "307", "308"):
        raise ValueError("it is none of 301, 302, 307 and 308")
    return int(value)


def status_code(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 400 <= int(value[:4]) <= 599):
        raise ValueError("it is not a status from 400 to 599")
    return int(value)


def _intercepted(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 300 <= int(value[:4]) <= 599):
        raise ValueError("it is not a status from 300 to 599")
    return int(value)


def error_codes(value: str) -> tuple[int, ...]:
    """Sorted."""
    try:
        return tuple(sorted(_error_codes(value)))
    except Partly as problem:
        raise Partly(tuple(sorted(problem.usable)), str(problem)) from None


_error_codes = each(_intercepted)


def level(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = count(value)
        if not low <= number <= high:
            raise ValueError(f"it is not a number from {low} to {high}")
        return number

    return parse


def words(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value.split()))


def off_or_pair(value: str) -> str:
    """`off`, or what and by what it is replaced."""
    if value != "off" and len(value.split()) != 2:
        raise ValueError("it is neither off nor two words")
    return value


def log_format(value: str) -> str:
    """Checked: every variable exists. `\\t`, quotes and backslashes as nginx's configuration has them in a quoted text."""
    template = value.strip("\r\n")
    unknown = unknown_log_variables(template)
    if unknown:
        raise ValueError(f"there is no variable {', '.join('$' + shown(name, 40) for name in unknown[:5])}")
    return template


def unknown_log_variables(template: str) -> list[str]:
    return [
        name
        for name in variables_of(parse_template(template))
        if name not in _LOG_ONLY
        and name not in NOT_AVAILABLE
        and not any(name.startswith(family) and len(name) > len(family) for family in _LOG_FAMILIES)
        and getter(name) is None
    ]


def without_value(template: str) -> list[str]:
    """Variables of nginx that a log shows as `-`."""
    return [name for name in variables_of(parse_template(template)) if name in NOT_AVAILABLE]
