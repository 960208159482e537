"""Header fields in ConfigMaps of their own: what `proxy-set-headers` and `add-headers` name."""

import re

from ingress.errors import VerdictReason
from ingress.model import ConfigMap
from ingress.request_text import compile_template, parse_template
from ingress.translate.report import Report, shown

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)
_FIELDS_LIMIT = 200
_FRAMING = frozenset(
    (
        *("connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    )
)
_OWN = {
    "proxy-set-headers": _FRAMING | {"host", "x-forwarded-host"},
    "add-headers": _FRAMING | {"date", "server"},
}


def header_fields(option: str, found: ConfigMap, report: Report) -> tuple[tuple[str, str], ...]:
    """The fields for `option`, in the order of their names; those that can't be sent are left out, with a verdict in `report` (about `found`)."""
    fields: list[tuple[str, str]] = []
    for name, value in sorted((found.data or {}).items()):
        why = _refusal(option, name, value)
        if not why and len(fields) == _FIELDS_LIMIT:
            why = f"there are more than {_FIELDS_LIMIT} fields"
        if why:
            report.error(
                f"data.{shown(name)}", VerdictReason.INVALID_FIELD, f"The header field is left out: {why}.", value
            )
        else:
            fields.append((name, value.strip()))
    return tuple(fields)


def _refusal(option: str, name: str, value: str) -> str:
    if not _TOKEN.fullmatch(name):
        return "its name is not a token of RFC 9110"
    if name.lower() in _OWN[option]:
        return "it is the proxy's own to set"
    if not all(c == "\t" or c.isprintable() for c in value.strip()):
        return "its value has a control character"
    try:
        compile_template(parse_template(value))
    except ValueError as problem:
        return str(problem)
    return ""
