"""Formats of the access log, what can't be forged in it, and the thread that writes it."""

import json
import logging
import os
import re
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.accesslog import AccessLog, AccessRecord, JSONFormat, TextFormat, escape

RECORD = AccessRecord(
    time_s=1_700_000_000.1234,
    remote_addr="192.0.2.7",
    method=b"GET",
    target=b"/shop/cart?item=1",
    version=b"HTTP/1.1",
    host=b"shop.example.com",
    status=200,
    body_bytes_sent=512,
    referer=b"https://example.com/",
    user_agent=b"curl/8.5.0",
    request_length=345,
    request_time_s=0.01234,
    namespace="shop",
    ingress="web",
    service="frontend",
    port="80",
    upstream_addr="10.244.0.5:8080",
    upstream_response_length=512,
    upstream_response_time_s=0.0119,
    upstream_status="200",
    request_id=b"0123456789abcdef0123456789abcdef",
    remote_user=b"alice",
)
EMPTY = AccessRecord(
    time_s=0.0,
    remote_addr="2001:db8::1",
    method=b"",
    target=b"",
    version=b"",
    host=b"",
    status=400,
    body_bytes_sent=0,
    referer=b"",
    user_agent=b"",
    request_length=0,
    request_time_s=0.0,
    namespace="",
    ingress="",
    service="",
    port="",
    upstream_addr="",
    upstream_response_length=0,
    upstream_response_time_s=0.0,
    upstream_status="",
    request_id=b"",
    remote_user=b"",
)
TRIED_TWICE = RECORD._replace(
    upstream_addr="10.0.0.1:80, 10.0.0.2:80",
    upstream_response_length=(0, 512),
    upstream_response_time_s=(5.0, 0.25),
    upstream_status="502, 200",
)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def text(record: AccessRecord) -> str:
    (line,) = TextFormat()([record])
    assert line.endswith(b"\n")
    return line.decode("ascii")[:-1]


def as_json(record: AccessRecord) -> dict[str, object]:
    (line,) = JSONFormat()([record])
    assert line.endswith(b"}\n")
    decoded = json.loads(line)
    assert isinstance(decoded, dict)
    return decoded


# ---- text ---------------------------------------------------------------------------------------------------------


def test_text_is_the_default_format_of_ingress_nginx() -> None:
    assert text(RECORD) == (
        '192.0.2.7 - alice [14/Nov/2023:22:13:20 +0000] "GET /shop/cart?item=1 HTTP/1.1" 200 512 '
        '"https://example.com/" "curl/8.5.0" 345 0.012 [shop-frontend-80] [] '
        "10.244.0.5:8080 512 0.012 200 0123456789abcdef0123456789abcdef"
    )


def test_text_writes_a_dash_for_what_is_absent() -> None:
    assert text(EMPTY) == ('2001:db8::1 - - [01/Jan/1970:00:00:00 +0000] "-" 400 0 "-" "-" 0 0.000 [-] [] - - - - -')


def test_text_lists_several_tries_as_nginx_does() -> None:
    assert " 10.0.0.1:80, 10.0.0.2:80 0, 512 5.000, 0.250 502, 200 " in text(TRIED_TWICE)
    single = TRIED_TWICE._replace(upstream_response_length=512, upstream_response_time_s=0.25)
    assert " 10.0.0.1:80, 10.0.0.2:80 512 0.250 502, 200 " in text(single)


@pytest.mark.parametrize(
    ("zone", "stamp"),
    [
        ("UTC", "14/Nov/2023:22:13:20 +0000"),
        ("<+0530>-5:30", "15/Nov/2023:03:43:20 +0530"),
        ("EST5", "14/Nov/2023:17:13:20 -0500"),
    ],
)
def test_time_local_has_the_offset_of_the_zone(zone: str, stamp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert f"[{stamp}]" in text(RECORD)


def test_the_time_moves_on_between_records() -> None:
    first, second = TextFormat()([RECORD, RECORD._replace(time_s=RECORD.time_s + 61)])
    assert b":22:13:20 " in first
    assert b":22:14:21 " in second
    first, second = JSONFormat()([RECORD, RECORD._replace(time_s=RECORD.time_s + 61)])
    assert b'"2023-11-14T22:13:20.123Z"' in first
    assert b'"2023-11-14T22:14:21.123Z"' in second


@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        (b"plain ~!", "plain ~!"),
        (b'a"b', "a\\x22b"),
        (b"a\\b", "a\\x5Cb"),
        (b"a\r\nb", "a\\x0D\\x0Ab"),
        (b"\x00\x1b\x7f", "\\x00\\x1B\\x7F"),
        ("é".encode(), "\\xC3\\xA9"),
        (b"\xff", "\\xFF"),
        (b"", ""),
    ],
)
def test_escape_is_that_of_nginx(raw: bytes, escaped: str) -> None:
    assert escape(raw) == escaped


LINE = re.compile(
    r'[0-9.]+ - (?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+ \[[^]]+\] "(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})*" 200 512'
    r' "(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+" "(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+" 345 0\.012 \[shop-frontend-80\] \[\]'
    r" 10\.244\.0\.5:8080 512 0\.012 200 (?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+"
)


@given(st.binary(), st.binary(), st.binary(), st.binary(), st.binary(), st.binary(), st.binary(min_size=1))
def test_no_bytes_forge_a_line_or_a_quoted_field(
    target: bytes, referer: bytes, agent: bytes, request_id: bytes, user: bytes, host: bytes, method: bytes
) -> None:
    record = RECORD._replace(
        method=method,
        target=target,
        referer=referer,
        user_agent=agent,
        request_id=request_id,
        remote_user=user,
        host=host,
    )
    assert LINE.fullmatch(text(record))
    (line,) = JSONFormat()([record])
    assert len(line.decode().splitlines()) == 1
    assert all(char.isprintable() for char in line.decode()[:-1])
    assert json.loads(line)["status"] == 200


# ---- JSON ---------------------------------------------------------------------------------------------------------


def test_json_keys_and_values() -> None:
    assert as_json(RECORD) == {
        "time": "2023-11-14T22:13:20.123Z",
        "remote_addr": "192.0.2.7",
        "remote_user": "alice",
        "method": "GET",
        "host": "shop.example.com",
        "path": "/shop/cart",
        "query": "item=1",
        "protocol": "HTTP/1.1",
        "status": 200,
        "request_id": "0123456789abcdef0123456789abcdef",
        "duration_s": 0.01234,
        "request_bytes": 345,
        "body_bytes": 512,
        "referer": "https://example.com/",
        "user_agent": "curl/8.5.0",
        "namespace": "shop",
        "ingress": "web",
        "service": "frontend",
        "port": "80",
        "upstream_addr": "10.244.0.5:8080",
        "upstream_status": "200",
        "upstream_response_bytes": 512,
        "upstream_duration_s": 0.0119,
    }


def test_json_of_a_request_that_asked_no_upstream_and_of_one_that_asked_two() -> None:
    none = as_json(EMPTY)
    assert [none[key] for key in none if key.startswith("upstream_")] == [None] * 4
    assert (none["path"], none["query"], none["service"]) == ("", "", "")
    two = as_json(TRIED_TWICE)
    assert two["upstream_addr"] == "10.0.0.1:80, 10.0.0.2:80"
    assert two["upstream_response_bytes"] == [0, 512]
    assert two["upstream_duration_s"] == [5.0, 0.25]


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"a\xffb", "a\\xffb"),
        ("/Straße/日本".encode(), "/Straße/日本"),
        (b'"},\n{"', '"},\n{"'),
        ("a\u2028b\u202ec\x7f\x85".encode(), "a\u2028b\u202ec\x7f\x85"),
        ("\U000e0001\U0001f600".encode(), "\U000e0001\U0001f600"),
    ],
)
def test_json_keeps_any_text(raw: bytes, value: str) -> None:
    assert as_json(RECORD._replace(user_agent=raw))["user_agent"] == value


def test_json_writes_what_is_not_printable_as_escapes() -> None:
    (line,) = JSONFormat()([RECORD._replace(user_agent="a\u2028\U000e0001\x7f日".encode())])
    assert '"a\\u2028\\udb40\\udc01\\u007f日"' in line.decode()


# ---- writer -------------------------------------------------------------------------------------------------------


class Pipe:
    """A pipe that nobody reads until asked."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fill(self) -> int:
        """Write until nothing more fits."""
        os.set_blocking(self.writer, False)
        written = 0
        try:
            while True:
                written += os.write(self.writer, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(self.writer, True)
            return written

    def read(self, at_least: int) -> bytes:
        data = b""
        while len(data) < at_least and select.select([self.reader], [], [], 10)[0]:
            data += os.read(self.reader, 1 << 16)
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.reader, pipe.writer):
        try:
            os.close(fd)
        except OSError:
            pass


def read_now(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    except BlockingIOError:
        pass
    return data


def test_flush_writes_what_was_taken_in_order(pipe: Pipe) -> None:
    access = AccessLog("text", pipe.writer, interval_s=3600)
    access.start()
    for i in range(20):
        access.write(RECORD._replace(request_id=b"%d" % i))
    assert access.flush(10)
    lines = read_now(pipe.reader).decode().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == [str(i) for i in range(20)]
    assert access.close(10)
    assert access.dropped == 0


def test_records_are_written_without_anybody_asking(pipe: Pipe) -> None:
    access = AccessLog("json", pipe.writer, interval_s=0.001)
    access.start()
    for i in range(3):  # the thread falls asleep in between
        access.write(RECORD._replace(request_id=b"r%d" % i))
        assert b'"r%d"' % i in pipe.read(1)
    assert access.close(10)


def test_close_writes_the_rest_and_refuses_and_counts_what_comes_later(pipe: Pipe) -> None:
    access = AccessLog("text", pipe.writer, interval_s=3600)
    access.start()
    access.write(RECORD)
    assert access.close(10)
    access.write(RECORD)
    assert read_now(pipe.reader).count(b"\n") == 1
    assert access.dropped == 1
    assert access.close(10)


def test_without_a_thread_flush_and_close_write_themselves(pipe: Pipe) -> None:
    access = AccessLog("text", pipe.writer)
    access.write(RECORD)
    assert access.flush()
    access.write(RECORD)
    assert access.close()
    assert read_now(pipe.reader).count(b"\n") == 2


def test_start_twice_makes_one_thread(pipe: Pipe) -> None:
    access = AccessLog("text", pipe.writer)
    before = threading.active_count()
    access.start()
    access.start()
    assert threading.active_count() == before + 1
    assert access.close(10)
    assert threading.active_count() == before


def test_a_reader_that_stalls_costs_lines_beyond_the_bound_and_nothing_else(pipe: Pipe) -> None:
    filled = pipe.fill()
    access = AccessLog("text", pipe.writer, limit_records=100, interval_s=0.001)
    access.start()
    for _ in range(1000):
        access.write(RECORD)
    refused = access.dropped
    assert 1000 - 100 - 256 <= refused <= 900  # the bound, and at most one batch in the writer's hands
    assert not access.flush(0.01)
    line = len(text(RECORD)) + 1
    data = pipe.read(filled + (1000 - refused) * line)
    assert data[filled:] == (text(RECORD) + "\n").encode() * (1000 - refused)
    assert access.flush(10)
    assert access.close(10)
    assert access.dropped == refused


def test_close_does_not_wait_for_ever_for_a_reader_that_stalls(pipe: Pipe) -> None:
    filled = pipe.fill()
    access = AccessLog("text", pipe.writer, interval_s=0.001)
    access.start()
    for _ in range(400):
        access.write(RECORD)
    assert not access.close(0.05)
    assert access.dropped >= 400 - 256
    pipe.read(filled + 400 * (len(text(RECORD)) + 1))  # lets the thread end


def test_memory_is_bounded_by_bytes_too(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    access = AccessLog("text", fd, limit_bytes=1 << 20)
    long = RECORD._replace(target=b"/" + b"a" * 8000)
    client = long.target + long.host + long.referer + long.user_agent + long.request_id + long.remote_user
    fitting = (1 << 20) // (1024 + len(client))
    for _ in range(1000):
        access.write(long)
    assert access.dropped == 1000 - fitting
    assert access.flush()
    access.write(long)  # there is room again
    assert access.flush()
    assert access.dropped == 1000 - fitting
    os.close(fd)
    assert (tmp_path / "log").read_bytes().count(b"\n") == fitting + 1


def test_by_default_the_limit_in_bytes_leaves_room_for_the_limit_in_records() -> None:
    access = AccessLog("text", -1)
    for _ in range(65536 + 10):
        access.write(RECORD)
    assert access.dropped == 10


def test_a_closed_descriptor_loses_lines_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    access = AccessLog("text", -1)
    access.write(RECORD)
    assert access.flush()
    assert access.dropped == 1
    assert [r.getMessage() for r in caplog.records] == ["the access log can't be written: Bad file descriptor"]


def test_lines_of_several_processes_on_one_pipe_never_mix(pipe: Pipe) -> None:
    """Three writers, a reader that lets the pipe run full: every line arrives whole."""
    logs = [AccessLog("text", pipe.writer, interval_s=0.001) for _ in range(3)]
    each = 2000
    for number, access in enumerate(logs):
        access.start()
        for _ in range(each):
            access.write(RECORD._replace(remote_user=b"w%d" % number))
    data = pipe.read(3 * each * len(text(RECORD._replace(remote_user=b"w0")) + "\n"))
    lines = data.decode().splitlines()
    expected = {text(RECORD._replace(remote_user=b"w%d" % number)) for number in range(3)}
    assert {line: lines.count(line) for line in expected} == dict.fromkeys(expected, each)
    assert len(lines) == 3 * each
    assert all(access.close(10) for access in logs)


def test_a_non_blocking_descriptor_is_waited_for(pipe: Pipe) -> None:
    filled = pipe.fill()
    os.set_blocking(pipe.writer, False)
    access = AccessLog("text", pipe.writer, interval_s=0.001)
    access.start()
    access.write(RECORD)
    assert pipe.read(filled + 1).endswith(text(RECORD).encode() + b"\n")
    assert access.close(10)
    assert access.dropped == 0


def test_a_line_longer_than_a_pipe_takes_arrives_whole(pipe: Pipe) -> None:
    long = RECORD._replace(target=b"/" + b"a" * 200_000)
    access = AccessLog("text", pipe.writer, interval_s=0.001)
    access.start()
    access.write(RECORD)
    access.write(long)
    access.write(RECORD)
    expected = "".join(text(r) + "\n" for r in (RECORD, long, RECORD)).encode()
    assert pipe.read(len(expected)) == expected
    assert access.close(10)


def test_a_file_gets_every_line(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    access = AccessLog("text", fd)
    access.start()
    for _ in range(3000):
        access.write(RECORD)
    assert access.close(10)
    os.close(fd)
    assert path.read_text() == (text(RECORD) + "\n") * 3000


def test_a_broken_descriptor_is_reported_once_and_its_lines_are_counted(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    os.close(pipe.reader)
    access = AccessLog("text", pipe.writer)
    with caplog.at_level(logging.INFO, "ingress.accesslog"):
        for _ in range(3):
            access.write(RECORD)
            access.flush()
        reader, writer = os.pipe()
        os.dup2(writer, pipe.writer)
        access.write(RECORD)
        access.flush()
    assert access.dropped == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the access log can't be written: Broken pipe",
        "the access log is written again",
    ]
    assert os.read(reader, 1 << 16).count(b"\n") == 1
    os.close(reader)
    os.close(writer)


def test_a_record_that_can_not_be_formatted_costs_itself_only(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    access = AccessLog("text", pipe.writer)
    for record in (RECORD, RECORD._replace(request_time_s="soon"), RECORD):  # type: ignore[arg-type]
        access.write(record)
    access.flush()
    assert read_now(pipe.reader) == (text(RECORD) + "\n").encode() * 2
    assert access.dropped == 1
    assert len(caplog.records) == 1


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(KeyError):
        AccessLog("xml")
