"""From an answer of the API server, or the lack of one, to the errors of `api`. Pure; texts are one short printable line."""

import msgspec

from ingress.errors import SourceError
from ingress.kube.api import Conflict, Forbidden, NotFound, Rejected, ResourceExpired, Unavailable

_ENDING = "NamespaceTerminating"  # a cause of 403 (apimachinery, meta and core types)
TEXT_LIMIT = 400  # characters; the longest common message (RBAC, with a service account) has about 250


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None
    causes: list[_Cause] | None = None


class Status(msgspec.Struct):
    """`meta/v1.Status`, which the API server answers with when it refuses, and sends in ERROR events of a watch."""

    code: int = 0
    message: str = ""
    reason: str = ""
    details: _Details | None = None


def fault(code: int, message: str, retry_after_s: float | None = None) -> SourceError:
    """The error for HTTP status `code`."""
    text = printable(message)
    match code:
        case 401:
            return Forbidden(f"the API server doesn't accept the credentials (401 {text or 'Unauthorized'})")
        case 403:
            return Forbidden(text or "403 Forbidden")
        case 404:
            return NotFound(text or "404 Not Found")
        case 409:
            return Conflict(text or "409 Conflict")
        case 410:
            return ResourceExpired(text or "410 Gone")
        case _ if 400 <= code < 500 and code not in (408, 425, 429):
            return Rejected(f"{code} {text}".rstrip())
    # 3xx is none of the API server's answers: something in front of it, which may go away, sent that.
    return Unavailable(f"the API server answered {code} {text}".rstrip(), retry_after_s)


def fault_of_answer(code: int, body: bytes, retry_after: str = "") -> SourceError:
    """The error for an HTTP answer. `retry_after` is the header, of which only seconds are understood."""
    status = read_status(body)
    if status is None:
        first = body[:TEXT_LIMIT].decode("utf-8", "replace").strip().partition("\n")[0]
        return fault(code, "" if first.startswith("<") else first, _seconds(retry_after))
    seconds = _seconds(retry_after)
    if seconds is None and status.details is not None:
        seconds = status.details.retry_after_seconds
    if code == 403 and status.details is not None and any(c.reason == _ENDING for c in status.details.causes or ()):
        code = 404  # nobody's rights: the namespace is being deleted, and takes no new objects
    return fault(code, status.message or status.reason, seconds)


def fault_of_event(body: bytes) -> SourceError:
    """The error for the object of an ERROR event. Some servers send reason Expired with another code than 410."""
    status = read_status(body)
    if status is None:
        return Unavailable("the API server ended the watch with an error that can't be read")
    code = 410 if status.reason in ("Expired", "Gone") else status.code
    seconds = None if status.details is None else status.details.retry_after_seconds
    return fault(code, status.message or status.reason, seconds)


def read_status(body: bytes) -> Status | None:
    try:
        return _STATUS.decode(body)
    except msgspec.DecodeError:
        return None


def printable(text: str) -> str:
    """`text` on one line, shortened, without control characters."""
    if len(text) > TEXT_LIMIT:
        text = text[: TEXT_LIMIT - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text).strip()


def _seconds(header: str) -> float | None:
    return float(header) if header.isascii() and header.isdigit() and len(header) < 10 else None


_STATUS = msgspec.json.Decoder(Status)
