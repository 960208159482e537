"""Health checks that a Service asks for by annotations of its own: `aioingress.io/health-check-path` switches them on, the others say how.

The Service and not the Ingress has them: it is the owner of the application who knows what tells that an endpoint works, and all Ingresses
share the answer. A bad value costs only itself, but for the path, without which there is nothing to ask for.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from ingress.errors import VerdictReason
from ingress.model import Service
from ingress.routing.table import HealthCheck
from ingress.translate.features import field_of
from ingress.translate.names import is_ip_address
from ingress.translate.report import Report, shown

T = TypeVar("T")

PREFIX = "aioingress.io/health-check-"
NAMES = (
    "path",
    "method",
    "host",
    "port",
    "interval",
    "timeout",
    "unhealthy-threshold",
    "healthy-threshold",
    "status",
)

_DEFAULT = HealthCheck(path="/")
_PATH = re.compile(r"/[!-\"$-~]{0,1023}", re.ASCII)  # visible, without a fragment: it becomes a request target
_LABEL = r"[A-Za-z0-9_](?:[-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,6})(ms|s|m)", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000}
_STATUS_RANGE = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?", re.ASCII)
_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.5, 3600.0
_SHORTEST_TIMEOUT_S, _LONGEST_TIMEOUT_S = 0.05, 30.0
_THRESHOLD_LIMIT = 100


def asked_of(annotations: Mapping[str, str] | None) -> dict[str, str]:
    """What there is about health checks among the annotations of a Service, by full name. Empty for nearly all."""
    if not annotations:
        return {}
    return {name: value for name, value in annotations.items() if name.startswith(PREFIX)}


def read_health_check(service: Service, report: Report) -> HealthCheck | None:
    """None: it asks for none, or its path can't be used."""
    asked = asked_of(service.metadata.annotations)
    if not asked:
        return None
    _complain_of_unknown(asked, report)
    text = asked.get(PREFIX + "path")
    if text is None:
        for key, value in sorted(asked.items()):
            if key.removeprefix(PREFIX) in NAMES:
                report.warning(
                    field_of(key),
                    VerdictReason.INVALID_ANNOTATION,
                    f"It has no effect without {PREFIX}path, which switches the checks on.",
                    value,
                )
        return None
    values = _Values(asked, report)
    path = values.take("path", _path, "", "endpoints are not checked")
    check = HealthCheck(
        path,
        values.take("method", _method, _DEFAULT.method),
        values.take("host", _host, _DEFAULT.host),
        values.take("port", _port, _DEFAULT.port),
        values.take("interval", _interval_s, _DEFAULT.interval_s),
        values.take("timeout", _timeout_s, _DEFAULT.timeout_s),
        values.take("unhealthy-threshold", _threshold, _DEFAULT.unhealthy_threshold),
        values.take("healthy-threshold", _threshold, _DEFAULT.healthy_threshold),
        values.take("status", _statuses, _DEFAULT.statuses),
    )
    return check if path else None


def _complain_of_unknown(asked: Mapping[str, str], report: Report) -> None:
    for key, value in sorted(asked.items()):
        name = key.removeprefix(PREFIX)
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f" Is {PREFIX}{near[0]} meant?" if near else ""
            report.warning(
                field_of(key),
                VerdictReason.INVALID_ANNOTATION,
                f"There is no such annotation of a Service.{hint}",
                value,
            )


class _Values:
    def __init__(self, asked: Mapping[str, str], report: Report) -> None:
        self._asked = asked
        self._report = report

    def take(self, name: str, parse: Callable[[str], T], default: T, consequence: str = "the default is in force") -> T:
        text = self._asked.get(PREFIX + name)
        if text is None:
            return default
        try:
            return parse(text.strip())
        except ValueError as e:
            self._report.error(
                field_of(PREFIX + name),
                VerdictReason.INVALID_ANNOTATION,
                f"The value of {PREFIX}{name} is not used: {shown(e)}; {consequence}.",
                text,
            )
            return default


# ---- values: each raises ValueError with the reason as a clause ------------------------------------------------------


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("it does not start with /")
    if len(text) > 1024:
        raise ValueError("it is longer than 1024 characters")
    if not _PATH.fullmatch(text):
        raise ValueError("it contains a space, a # or a character that is not ASCII: such have to be written as %XX")
    return text


def _method(text: str) -> str:
    if text.upper() not in ("GET", "HEAD"):
        raise ValueError("it is neither GET nor HEAD")
    return text.upper()


def _host(text: str) -> str:
    """As it goes into the field Host: a name or an address (IPv6 in brackets), perhaps with a port."""
    name, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        name, colon, port = text, "", ""
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("what stands behind the colon is not a port, which is from 1 to 65535")
    if ":" in name and not name.startswith("["):
        raise ValueError("an IPv6 address has to be written in brackets")
    address = name.removeprefix("[").removesuffix("]")
    if name.startswith("[") and name.endswith("]") and ":" in address and "%" not in address and is_ip_address(address):
        return text
    if not _HOST.fullmatch(name):
        raise ValueError("it is neither a host name nor an address")
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError("it is not a port: a number from 1 to 65535")
    return int(text)


def _seconds(text: str, least: float, most: float) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("it is not a duration: a whole number and one of the units ms, s, m")
    found = int(match[1]) * _UNIT_MS[match[2]] / 1000
    if not least <= found <= most:
        raise ValueError(f"it is not between {_duration(least)} and {_duration(most)}")
    return found


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def _interval_s(text: str) -> float:
    return _seconds(text, _SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S)


def _timeout_s(text: str) -> float:
    return _seconds(text, _SHORTEST_TIMEOUT_S, _LONGEST_TIMEOUT_S)


def _threshold(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= _THRESHOLD_LIMIT):
        raise ValueError(f"it is not a number from 1 to {_THRESHOLD_LIMIT}")
    return int(text)


def _statuses(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges, both ends included, in the order written."""
    found = []
    for part in text.split(","):
        match = _STATUS_RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError("it is not a list of statuses and ranges of them, such as 200-299,401")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 200 <= first <= last <= 599:
            raise ValueError(f"{part.strip()} is not a range between 200 and 599")
        found.append((first, last))
    if len(found) > 20:
        raise ValueError("it has more than 20 parts")
    return tuple(found)
