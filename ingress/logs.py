"""The program's own log, on stderr: standard `logging`, one line a record, text or JSON.

    2026-11-02T10:00:00.123Z info controller files: read 3 documents path=/etc/ingress changed=2
    {"time":"2026-11-02T10:00:00.123Z","level":"info","role":"controller","area":"files","message":"read 3
    documents",...}

Loggers are `logging.getLogger(__name__)`; the area is that name without the package. Key-value pairs go in with
`extra=kv(path=..., changed=2)`. A record is written by the thread that made it, so that the last words of a dying
process arrive; a stderr that nobody reads costs records (counted, and told once it flows again), never more than a
moment.
"""

import logging
import os
import select
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from ingress.errors import ConfigError, Severity, Verdict

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS = ("text", "json")

_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
_NOISY = ("aiohttp", "asyncio", "kubernetes_asyncio", "urllib3", "watchfiles")
"""Libraries whose info lines are of no use to an operator: warnings and worse only, unless the level is debug."""


def kv(**pairs: object) -> dict[str, object]:
    """For `log.info(..., extra=kv(table=table.id, routes=3))`. Numbers, booleans and None keep their type in JSON."""
    return {"kv": pairs}


def _pairs(record: logging.LogRecord) -> dict[str, Any]:
    pairs = getattr(record, "kv", None)
    return pairs if isinstance(pairs, dict) else {}


def _area(name: str) -> str:
    return "main" if name in ("root", "ingress") else name.removeprefix("ingress.")


def _stamp(created: float) -> str:
    milliseconds = int(created * 1000)
    t = time.gmtime(milliseconds // 1000)
    return (
        f"{t.tm_year}-{t.tm_mon:02d}-{t.tm_mday:02d}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
        f".{milliseconds % 1000:03d}Z"
    )


def _visible(text: str) -> str:
    """No control character, line separator or direction override gets to a terminal; the text stays on one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _value(value: object) -> str:
    """A value of a text line: bare where that is unambiguous, else in quotes."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if text and not any(c in ' "=\\' for c in text) and text.isprintable():
        return text
    return '"' + _visible(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


class TextFormatter(logging.Formatter):
    """`time level role area: message key=value…`; a traceback follows, each line of it indented by `    | `."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role.replace(" ", "-")

    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelno, record.levelname.lower())
        parts = [f"{_stamp(record.created)} {level} {self._role} {_area(record.name)}: {_visible(record.getMessage())}"]
        parts += [f"{key}={_value(value)}" for key, value in _pairs(record).items()]
        line = " ".join(parts)
        details = self._details(record)
        if details:
            # str.splitlines, which knows every line separator: what an exception quotes can't start a line of its own
            line += "".join(f"\n    | {_visible(row)}" for row in details.splitlines())
        return line

    def _details(self, record: logging.LogRecord) -> str:
        parts = []
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)


class JSONFormatter(TextFormatter):
    """One object: time, level, role, area, message, then the pairs (a pair never replaces one of these), then
    `traceback`.
    """

    def __init__(self, role: str) -> None:
        super().__init__(role)
        self._role = role
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _stamp(record.created),
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "role": self._role,
            "area": _area(record.name),
            "message": record.getMessage(),
        }
        for key, value in _pairs(record).items():
            line[key if key not in line else f"{key}_"] = value
        details = self._details(record)
        if details:
            line["traceback"] = details
        try:
            return self._encode(line).decode()
        except Exception:  # a surrogate or something stranger in a value: say it as well as can be
            return self._encode(_repaired(line)).decode()


def _repaired(value: object) -> Any:
    if isinstance(value, dict):
        return {str(_repaired(str(k))): _repaired(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value).encode(errors="backslashreplace").decode()


class DescriptorHandler(logging.Handler):
    """Writes to a file descriptor and waits for its reader no longer than `patience_s`.

    After a record had to be dropped there is no more waiting until the descriptor takes data again: a controller with a
    full stderr pipe runs on at full speed.
    """

    def __init__(self, fd: int, patience_s: float = 0.1) -> None:
        super().__init__()
        self._fd = fd
        self._patience_s = patience_s
        self._dropped = 0
        self._torn = False  # the last record was written in part

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = self._line(record)
        except (
            Exception
        ) as error:  # a wrong format argument is our bug: it may not end what was being logged, nor vanish
            data = self._line(self._own(logging.ERROR, f"unusable record {record.msg!r} of {record.name}: {error!r}"))
        if self._dropped:
            notice = self._own(logging.WARNING, f"{self._dropped} records dropped: nobody read the log")
            if not self._write(self._line(notice), 0.0):
                self._dropped += 1
                return
            self._dropped = 0
        if not self._write(data, self._patience_s):
            self._dropped += 1

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    @staticmethod
    def _own(level: int, message: str) -> logging.LogRecord:
        return logging.LogRecord(__name__, level, __file__, 0, "%s", (message,), None)

    def _write(self, data: bytes, patience_s: float) -> bool:
        """False when nothing or not all of it could be written. A pipe that polls as writable takes PIPE_BUF bytes at
        once.
        """
        deadline = time.monotonic() + patience_s
        view = memoryview(b"\n" + data if self._torn else data)
        poll = select.poll()
        try:
            poll.register(self._fd, select.POLLOUT)
            while view:
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return False
                try:
                    view = view[os.write(self._fd, view[: select.PIPE_BUF]) :]
                    self._torn = bool(view)
                except BlockingIOError:  # somebody else filled it in between
                    continue
        except OSError:  # closed or broken: there is nowhere left to say so
            return False
        return True


def setup_logging(format: str, level: str, role: str = "controller", *, fd: int = 2) -> None:
    """Replace whatever the root logger did. `role` names the process in each line: `controller`, `worker 0`.

    Raise ConfigError for an unknown format or level. Warnings of Python go to the log too (area `py.warnings`).
    """
    if format not in FORMATS:
        raise ConfigError(f"--log-format {format!r} is not one of {', '.join(FORMATS)}")
    if level not in LEVELS:
        raise ConfigError(f"--log-level {level!r} is not one of {', '.join(LEVELS)}")
    handler = DescriptorHandler(fd)
    handler.setFormatter(JSONFormatter(role) if format == "json" else TextFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else max(LEVELS[level], logging.WARNING))
    logging.captureWarnings(True)


class VerdictLog:
    """Logs each verdict once: when it appears (at its severity) and, at info, when it is gone."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._known: frozenset[Verdict] = frozenset()

    def update(self, verdicts: Iterable[Verdict]) -> None:
        """`verdicts` is all that hold now, not a change. One whose message changed is logged again, not as gone."""
        now = frozenset(verdicts)
        fresh, gone = now - self._known, self._known - now
        self._known = now
        for verdict in sorted(fresh):
            level = logging.ERROR if verdict.severity is Severity.ERROR else logging.WARNING
            pairs = {"object": verdict.object, "field": verdict.field, "reason": verdict.reason.value}
            pairs |= {"value": verdict.value} if verdict.value else {}
            pairs |= {"origin": verdict.origin} if verdict.origin else {}
            self._log.log(level, "%s", verdict.message, extra=kv(**pairs))
        places = {(v.object, v.field, v.reason) for v in fresh}
        for verdict in sorted(gone):
            if (verdict.object, verdict.field, verdict.reason) not in places:
                self._log.info(
                    "resolved: %s",
                    verdict.message,
                    extra=kv(object=verdict.object, field=verdict.field, reason=verdict.reason.value),
                )
