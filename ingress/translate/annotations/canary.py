"""Annotations of a canary Ingress: `canary` and `canary-*`, `affinity-canary-behavior`.

A canary takes a share of the requests of another Ingress's path, by header, cookie or weight, and everything else from that Ingress but
how its own Service's endpoints are balanced (ingress-nginx).
"""

import re
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from ingress.errors import VerdictReason
from ingress.expressions import compile_expression
from ingress.routing.table import CanaryRule
from ingress.translate.annotations import values
from ingress.translate.features import field_of
from ingress.translate.report import Report, shown

T = TypeVar("T")

DETAILS = (
    "canary-by-header",
    "canary-by-header-value",
    "canary-by-header-pattern",
    "canary-by-cookie",
    "canary-weight",
    "canary-weight-total",
    "affinity-canary-behavior",
)
# What a canary has of its own besides; the rest of its annotations is its main Ingress's business.
_OWN = frozenset(("canary", *DETAILS, "load-balance", "upstream-hash-by"))
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?", re.ASCII)
_PATTERN_LIMIT = 1024
_TOTAL = 100


class _Taker(Protocol):
    found: dict[str, tuple[str, str]]
    report: Report

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T: ...

    def invalid(self, key: str, value: str, message: str) -> None: ...


def read_canary(reader: _Taker) -> CanaryRule | bool:
    """The rule of a canary; False for an Ingress that is none, True for one that may be meant as one and is left out.

    As a rule of its own it would be in conflict with its main Ingress, or take all of its traffic.
    """
    entry = reader.found.pop("canary", None)
    if entry is None:
        return False
    key, value = entry
    try:
        if not values.boolean(value):
            return False
    except ValueError as e:
        reader.invalid(
            key,
            value,
            f"The value of {shown(key)} can't be used: {e}. The Ingress is left out, as it may be meant as a canary.",
        )
        return True
    compared = any(
        reader.found.get(name, ("", ""))[1] for name in ("canary-by-header-value", "canary-by-header-pattern")
    )
    weight = reader.take("canary-weight", values.count, -1)
    ignored = sorted(full for name, (full, _) in reader.found.items() if name not in _OWN)
    rule = CanaryRule(
        header=reader.take("canary-by-header", _token, ""),
        header_value=reader.take("canary-by-header-value", _text, ""),
        header_pattern=reader.take("canary-by-header-pattern", _pattern, ""),
        cookie=reader.take("canary-by-cookie", _token, ""),
        weight=max(weight, 0),
        # Totals of 100 and less don't take effect in ingress-nginx either.
        weight_total=max(_TOTAL, reader.take("canary-weight-total", values.count, _TOTAL)),
        sticky=reader.take("affinity-canary-behavior", _behavior, True),
    )
    if rule.header and compared and not (rule.header_value or rule.header_pattern):
        rule = msgspec.structs.replace(rule, header_unusable=True)
    if not (rule.header or rule.cookie or weight >= 0):
        reader.report.warning(
            field_of(key),
            VerdictReason.INVALID_ANNOTATION,
            "It gets no request: neither canary-by-header nor canary-by-cookie nor canary-weight is set.",
            value,
        )
    if not rule.header and (rule.header_value or rule.header_pattern):
        reader.report.warning(
            field_of(key),
            VerdictReason.INVALID_ANNOTATION,
            "canary-by-header-value and canary-by-header-pattern have no effect without canary-by-header.",
            value,
        )
    if ignored:
        reader.report.warning(
            field_of(key),
            VerdictReason.INVALID_ANNOTATION,
            f"A canary takes these from its main Ingress, so they have no effect here: {shown(', '.join(ignored))}.",
            value,
        )
    return rule


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError("it is not the name of a header or cookie")
    return text


def _text(text: str) -> str:
    if not _VALUE.fullmatch(text):
        raise ValueError("it is not the value of a header: printable ASCII")
    return text


def _pattern(text: str) -> str:
    if not text or len(text) > _PATTERN_LIMIT:
        raise ValueError(f"it is empty, or longer than {_PATTERN_LIMIT} characters")
    try:
        compile_expression(text)
    except ValueError as e:
        raise ValueError(f"it is not a regular expression that runs in linear time (RE2): {shown(e)}") from None
    return text


def _behavior(text: str) -> bool:
    if text not in ("sticky", "legacy"):
        raise ValueError("it is neither sticky nor legacy")
    return text == "sticky"
