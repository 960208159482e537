"""The access log: one line per request, formatted and written by a thread of its own.

The data plane appends one `AccessRecord` per finished request; nothing is formatted or written on its loop. A daemon
thread wakes a moment after the first record, writes what has gathered, and sleeps again when nothing comes. A reader
that is too slow costs log lines (counted in `dropped`), never memory or latency.

Two formats. `text` is ingress-nginx's default log format, so that what parses those logs goes on working; `json` is
one object a line. What a client sent is escaped in both, so that no request can forge a line or a field.
"""

import logging
import os
import re
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from ingress.request_text import local_time

log = logging.getLogger(__name__)


class AccessRecord(NamedTuple):
    """One finished request. `bytes` fields are as the client (or upstream) sent them, unescaped; empty means absent.

    With several tries `upstream_addr` and `upstream_status` hold one value a try, joined by `", "`, in order; the
    length and time are then tuples of as many (a single number is taken as that of the last try). Empty
    `upstream_addr`: none was asked.
    """

    time_s: float  # wall clock (Unix) when the request ended
    remote_addr: str
    method: bytes
    target: bytes  # as in the request line: path and query, undecoded
    version: bytes  # HTTP/1.1
    host: bytes
    status: int
    body_bytes_sent: int
    referer: bytes
    user_agent: bytes
    request_length: int  # line, headers and body
    request_time_s: float
    namespace: str
    ingress: str
    service: str
    port: str
    upstream_addr: str
    upstream_response_length: int | tuple[int, ...]
    upstream_response_time_s: float | tuple[float, ...]
    upstream_status: str
    request_id: bytes
    remote_user: bytes
    extra: tuple[bytes | None, ...] = ()  # what a template has beyond these (`logtemplate.TemplateFormat.captures`)
    main_upstream: str = ""  # of a request that a canary got: what the main Ingress would have sent it to


# ---- text ---------------------------------------------------------------------------------------------------------

_PLAIN = bytes(c for c in range(0x20, 0x7F) if c not in b'"\\')
_ESCAPES = [chr(c) if c in _PLAIN else f"\\x{c:02X}" for c in range(256)]


def escape(value: bytes) -> str:
    r"""As nginx escapes log variables (`escape=default`): `"`, `\` and every byte below 32 or above 126 as `\xHH`."""
    if value.translate(None, _PLAIN):  # what is left when all plain bytes are deleted
        return "".join([_ESCAPES[c] for c in value])
    return value.decode("ascii")


def _escaped(values: tuple[bytes, ...]) -> list[str]:
    """`escape` of each. One check and one decode for all where there is nothing to escape: half the time."""
    joined = b"\0".join(values)
    if joined.translate(None, _PLAIN) == b"\0" * (len(values) - 1):
        return joined.decode("ascii").split("\0")
    return [escape(value) for value in values]


class TextFormat:
    """ingress-nginx's `log-format-upstream` default:

    `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"
    $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr
    $upstream_response_length $upstream_response_time $upstream_status $req_id`

    The upstream name is `namespace-service-port`, `-` where no rule matched; the alternative name is that of a canary, if it got the request.
    """

    __slots__ = ("_second", "_time")

    def __init__(self) -> None:
        self._second = -1
        self._time = ""

    def __call__(self, records: Iterable[AccessRecord]) -> list[bytes]:
        return [self._line(*record) for record in records]

    def _line(
        self,
        time_s: float,
        remote_addr: str,
        method: bytes,
        target: bytes,
        version: bytes,
        host: bytes,
        status: int,
        body_bytes_sent: int,
        referer: bytes,
        user_agent: bytes,
        request_length: int,
        request_time_s: float,
        namespace: str,
        ingress: str,
        service: str,
        port: str,
        upstream_addr: str,
        upstream_response_length: int | tuple[int, ...],
        upstream_response_time_s: float | tuple[float, ...],
        upstream_status: str,
        request_id: bytes,
        remote_user: bytes,
        extra: tuple[bytes | None, ...],
        main_upstream: str,
    ) -> bytes:
        second = int(time_s)
        if second != self._second:
            self._second, self._time = second, local_time(second)
        request = b"%b %b %b" % (method, target, version) if method else b""
        line, from_page, agent, ident, user = _escaped((request, referer, user_agent, request_id, remote_user))
        if not upstream_addr:
            upstream = "- - - -"
        elif isinstance(upstream_response_length, tuple) or isinstance(upstream_response_time_s, tuple):
            lengths = _several(upstream_response_length, "d")
            times = _several(upstream_response_time_s, ".3f")
            upstream = f"{upstream_addr} {lengths} {times} {upstream_status or '-'}"
        else:
            upstream = (
                f"{upstream_addr} {upstream_response_length} {upstream_response_time_s:.3f} {upstream_status or '-'}"
            )
        name, alternative = f"{namespace}-{service}-{port}" if service else "-", ""
        if main_upstream:
            name, alternative = main_upstream, name
        return (
            f'{remote_addr} - {user or "-"} [{self._time}] "{line or "-"}" {status} {body_bytes_sent}'
            f' "{from_page or "-"}" "{agent or "-"}" {request_length} {request_time_s:.3f}'
            f" [{name}] [{alternative}] {upstream} {ident or '-'}\n"
        ).encode()


def _several(value: float | tuple[float, ...], spec: str) -> str:
    return ", ".join([format(v, spec) for v in value]) if isinstance(value, tuple) else format(value, spec)


# ---- JSON ---------------------------------------------------------------------------------------------------------


class _Line(msgspec.Struct):
    """The keys of a JSON line, in their order. Absent text is `""`; upstream keys are null where no upstream was
    asked.
    """

    time: str  # RFC 3339, UTC, milliseconds
    remote_addr: str
    remote_user: str
    method: str
    host: str
    path: str
    query: str
    protocol: str
    status: int
    request_id: str
    duration_s: float
    request_bytes: int
    body_bytes: int
    referer: str
    user_agent: str
    namespace: str
    ingress: str
    service: str
    port: str
    upstream_addr: str | None
    upstream_status: str | None
    upstream_response_bytes: int | tuple[int, ...] | None
    upstream_duration_s: float | tuple[float, ...] | None


def _text(value: bytes) -> str:
    """UTF-8 where it is; else each byte that is not becomes `\\xhh` (a backslash that was there stays as it is)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode(errors="backslashreplace")


_NOT_PLAIN = re.compile("[^\n -~]")


def _escape_invisible(match: re.Match[str]) -> str:
    char = match.group()
    if char.isprintable():
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


class JSONFormat:
    """One object a line, UTF-8, keys as in `_Line`.

    msgspec escapes quotes, backslashes and control characters. What else is not printable (line separators that some
    readers honour, direction overrides, DEL) is written as `\\uHHHH` too: in JSON it can only stand inside a string.
    """

    __slots__ = ("_encode", "_second", "_time")

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._second = -1
        self._time = ""

    def __call__(self, records: Iterable[AccessRecord]) -> list[bytes]:
        return [self._line(record) for record in records]

    def _line(self, r: AccessRecord) -> bytes:
        milliseconds = int(r.time_s * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second, self._time = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        path, _, query = r.target.partition(b"?")
        asked = bool(r.upstream_addr)
        line = self._encode(
            _Line(
                f"{self._time}.{milliseconds % 1000:03d}Z",
                r.remote_addr,
                _text(r.remote_user),
                _text(r.method),
                _text(r.host),
                _text(path),
                _text(query),
                _text(r.version),
                r.status,
                _text(r.request_id),
                round(r.request_time_s, 6),
                r.request_length,
                r.body_bytes_sent,
                _text(r.referer),
                _text(r.user_agent),
                r.namespace,
                r.ingress,
                r.service,
                r.port,
                r.upstream_addr if asked else None,
                r.upstream_status if asked else None,
                r.upstream_response_length if asked else None,
                r.upstream_response_time_s if asked else None,
            )
        )
        if not line.isascii() or b"\x7f" in line:
            line = _NOT_PLAIN.sub(_escape_invisible, line.decode()).encode()
        return line + b"\n"


# ---- writer -------------------------------------------------------------------------------------------------------

Format = Callable[[Iterable[AccessRecord]], list[bytes]]
FORMATS: dict[str, Callable[[], Format]] = {
    "text": TextFormat,
    "json": JSONFormat,
}

_BATCH = 256
"""Records formatted in one go: below 1 ms of the interpreter lock, so that the loop is not held up."""

_RECORD_OVERHEAD_BYTES = 1024
"""What a record weighs in memory beside the texts that its client chose."""


def _weight(r: AccessRecord) -> int:
    """By index, which is faster than by name: target, host, referer, user agent, request id, user."""
    return (
        _RECORD_OVERHEAD_BYTES
        + len(r[3])
        + len(r[5])
        + len(r[8])
        + len(r[9])
        + len(r[20])
        + len(r[21])
        + sum([len(x or b"") for x in r[22]])
    )


def _write_limit_bytes(fd: int) -> int:
    """How much may go into one write so that the lines of several processes on the same descriptor never mix.

    Pipes: POSIX promises it up to PIPE_BUF (a full pipe splits larger writes). Sockets: one buffer of the kernel. Files
    lock the inode, so there the only limit is our own batch.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return select.PIPE_BUF
    if stat.S_ISSOCK(mode):
        return 16 * 1024
    return 1 << 20


class _Switch:
    """Stands among the records where another format begins."""

    __slots__ = ("format",)

    def __init__(self, format: Format) -> None:
        self.format = format


class AccessLog:
    """Takes records from one thread, writes lines to `fd` from another.

    Bounds: `limit_records`, and `limit_bytes` of estimated memory (long URLs and headers count). Beyond either,
    records are dropped and counted. `fd` may be blocking or not, is shared with other processes, and is never closed
    here.
    """

    def __init__(
        self,
        format: str = "text",
        fd: int = 1,
        *,
        limit_records: int = 65536,
        limit_bytes: int = 96 << 20,
        interval_s: float = 0.1,
    ) -> None:
        """`format` is a key of FORMATS. Nothing is written until `start`; call that in the process that logs (after a
        fork).
        """
        self.default = FORMATS[format]
        self._format: Format = self.default()
        self._fd = fd
        self._limit_records = limit_records
        self._limit_bytes = limit_bytes
        self._interval_s = interval_s
        self._pending: deque[AccessRecord | _Switch] = deque()
        # Weights: the one counter is written by the loop's thread only, the other by the writer's only. Their
        # difference is the memory in use, and each is a position in the stream of records as well (a record weighs
        # more than nothing).
        self._taken_bytes = 0
        self._done_bytes = 0
        self._refused = 0  # written by the loop's thread
        self._lost = 0  # written by the writer's thread
        self._awake = False  # the writer is about to look at `_pending`
        self._wake = threading.Event()
        self._hurry = threading.Event()  # somebody waits in flush or close
        self._stopping = False
        self._passed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failing = False

    @property
    def dropped(self) -> int:
        """Records that never became a line: the reader was too slow, or the descriptor broken."""
        return self._refused + self._lost

    def write(self, record: AccessRecord) -> None:
        """Hot path: below 0.5 us, no lock but the one that wakes the writer, at most ten times a second."""
        weight = _weight(record)
        pending = self._pending
        if len(pending) >= self._limit_records or self._taken_bytes - self._done_bytes + weight > self._limit_bytes:
            self._refused += 1
            return
        self._taken_bytes += weight
        pending.append(record)
        if not self._awake:
            self._awake = True
            self._wake.set()

    def use(self, format: Format) -> None:
        """Write what is logged from now on in this format; what was logged before keeps the one before."""
        self._pending.append(_Switch(format))

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float = 1.0) -> bool:
        """Wait until what was taken so far is written (or lost); False after `timeout_s`. Blocks: not for the loop."""
        target = self._taken_bytes
        if self._thread is None:
            self._drain()
            return True
        deadline = time.monotonic() + timeout_s
        self._hurry.set()
        self._wake.set()
        with self._passed:
            return self._passed.wait_for(
                lambda: self._done_bytes >= target, timeout=max(0.0, deadline - time.monotonic())
            )

    def close(self, timeout_s: float = 5.0) -> bool:
        """Take no more, write what is left, end the thread; False when that took too long (a reader that stalls).
        What is left then counts as dropped and ends with the process.
        """
        self._limit_records = 0
        self._stopping = True
        thread, self._thread = self._thread, None
        if thread is None:
            self._drain()
            return True
        self._hurry.set()
        self._wake.set()
        thread.join(timeout_s)
        if not thread.is_alive():
            return True
        self._refused += len(self._pending)
        return False

    # ---- the writer's thread

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()  # idle: nothing wakes us
            self._hurry.wait(self._interval_s)  # gather a batch, unless somebody waits
            self._wake.clear()
            self._hurry.clear()
            self._awake = False  # before looking: a record appended from here on sets `_wake` again
            self._drain()
        self._drain()

    def _drain(self) -> None:
        pending = self._pending
        while pending:
            batch: list[AccessRecord] = []
            switch: _Switch | None = None
            while pending and switch is None and len(batch) < _BATCH:
                entry = pending.popleft()
                if isinstance(entry, _Switch):
                    switch = entry
                else:
                    batch.append(entry)
            self._write_lines(self._lines(batch))
            self._done_bytes += sum(map(_weight, batch))
            if switch is not None:
                self._format = switch.format
        with self._passed:
            self._passed.notify_all()

    def _lines(self, batch: Sequence[AccessRecord]) -> list[bytes]:
        try:
            return self._format(batch)
        except Exception:  # our bug; it must not silence the log of all other requests
            log.exception("an access record could not be formatted")
        lines = []
        for record in batch:
            try:
                lines += self._format((record,))
            except Exception:
                self._lost += 1
        return lines

    def _write_lines(self, lines: Sequence[bytes]) -> None:
        start, size = 0, 0
        try:
            limit = _write_limit_bytes(self._fd)
            for end, line in enumerate(lines):
                if size + len(line) > limit and size:
                    self._write(b"".join(lines[start:end]))
                    start, size = end, 0
                size += len(line)
            if size:
                self._write(b"".join(lines[start:]))
        except OSError as error:
            self._lost += len(lines) - start
            if not self._failing:
                log.error("the access log can't be written: %s", error.strerror)
            self._failing = True
        else:
            if self._failing:
                log.info("the access log is written again")
            self._failing = False

    def _write(self, data: bytes) -> None:
        """All of it, also to a descriptor that somebody made non-blocking. Raise OSError."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
