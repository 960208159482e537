"""The program's own log: one line a record, whatever is in it, and no waiting for a reader that stalls."""

import json
import logging
import os
import select
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.errors import ConfigError, Severity, Verdict, VerdictReason
from ingress.logs import DescriptorHandler, JSONFormatter, TextFormatter, VerdictLog, kv, setup_logging


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    noisy = logging.getLogger("aiohttp"), logging.getLogger("aiohttp").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    noisy[0].setLevel(noisy[1])
    logging.captureWarnings(False)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def read(pipe: tuple[int, int]) -> Callable[[], str]:
    os.set_blocking(pipe[0], False)

    def everything() -> str:
        data = b""
        try:
            while chunk := os.read(pipe[0], 1 << 16):
                data += chunk
        except BlockingIOError:
            pass
        return data.decode()

    return everything


def record(message: str, *args: object, name: str = "ingress.files", **pairs: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, __file__, 1, message, args, None)
    made.created = 1_700_000_000.123
    if pairs:
        made.kv = pairs
    return made


def test_a_text_line() -> None:
    line = TextFormatter("controller").format(
        record("read %d documents", 3, path="/etc/in gress", changed=2, ok=True, what=None, empty="", quote='a"b\\')
    )
    assert line == (
        "2023-11-14T22:13:20.123Z info controller files: read 3 documents "
        r'path="/etc/in gress" changed=2 ok=true what=- empty="" quote="a\"b\\"'
    )


def test_a_json_line() -> None:
    line = JSONFormatter("worker 0").format(record("read %d", 3, path=Path("/etc"), changed=2, time="x"))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "role": "worker 0",
        "area": "files",
        "message": "read 3",
        "path": "/etc",
        "changed": 2,
        "time_": "x",
    }


@pytest.mark.parametrize(
    ("name", "area"),
    [("ingress.proxy.link", "proxy.link"), ("ingress", "main"), ("root", "main"), ("aiohttp.server", "aiohttp.server")],
)
def test_the_area_is_the_module(name: str, area: str) -> None:
    assert f" worker-1 {area}: x" in TextFormatter("worker 1").format(record("x", name=name))


@given(st.text(), st.text(), st.text())
def test_no_message_or_value_starts_a_line_of_its_own(message: str, value: str, key: str) -> None:
    text = TextFormatter("controller").format(record("%s", message, key=value))
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    decoded = json.loads(JSONFormatter("controller").format(record("%s", message, **{"k" + key: value})))
    assert decoded["message"] == message
    assert decoded["k" + key] == value


def test_a_surrogate_is_written_as_an_escape() -> None:
    assert json.loads(JSONFormatter("c").format(record("%s", "a\udcffb", pair="\udcff")))["message"] == "a\\udcffb"
    assert "a\\udcffb" in TextFormatter("c").format(record("%s", "a\udcffb"))


def failed_record() -> logging.LogRecord:
    made = record("failed")
    try:
        raise ValueError("first\n2026-01-01T00:00:00.000Z error forged: line\u2028another")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    return made


def test_a_traceback_stays_inside_its_json_object() -> None:
    line = JSONFormatter("controller").format(failed_record())
    assert "\n" not in line
    traceback = json.loads(line)["traceback"]
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert "ValueError: first\n2026-01-01" in traceback


def test_a_traceback_in_text_is_indented_whatever_it_quotes() -> None:
    first, *rest = TextFormatter("controller").format(failed_record()).splitlines()
    assert first.endswith("files: failed")
    assert len(rest) >= 5
    assert all(row.startswith("    | ") for row in rest)


def test_setup_writes_to_the_descriptor_with_role_and_level(pipe: tuple[int, int], read: Callable[[], str]) -> None:
    setup_logging("text", "info", "worker 0", fd=pipe[1])
    log = logging.getLogger("ingress.app")
    log.debug("not this")
    log.info("this", extra=kv(n=1))
    logging.getLogger("aiohttp.access").info("nor this")
    logging.getLogger("aiohttp.server").warning("but this")
    lines = read().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "info worker-0 app: this n=1",
        "warning worker-0 aiohttp.server: but this",
    ]


def test_debug_shows_libraries_too(pipe: tuple[int, int], read: Callable[[], str]) -> None:
    setup_logging("json", "debug", fd=pipe[1])
    logging.getLogger("aiohttp.server").debug("x")
    assert json.loads(read()) | {"time": ""} == {
        "time": "",
        "level": "debug",
        "role": "controller",
        "area": "aiohttp.server",
        "message": "x",
    }


def test_setup_replaces_what_was_there_and_takes_python_warnings(
    pipe: tuple[int, int], read: Callable[[], str]
) -> None:
    setup_logging("json", "info", fd=pipe[1])
    setup_logging("text", "warning", fd=pipe[1])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert read().count("py.warnings: ") == 1


@pytest.mark.parametrize(
    ("format", "level", "message"),
    [
        ("xml", "info", "--log-format 'xml' is not one of text, json"),
        ("text", "loud", "--log-level 'loud' is not one of debug, info, warning, error"),
    ],
)
def test_an_unknown_format_or_level_is_a_config_error(format: str, level: str, message: str) -> None:
    before = logging.getLogger().handlers[:]
    with pytest.raises(ConfigError) as caught:
        setup_logging(format, level)
    assert str(caught.value) == message
    assert logging.getLogger().handlers == before


def test_a_wrong_format_argument_is_told_and_does_not_raise(pipe: tuple[int, int], read: Callable[[], str]) -> None:
    setup_logging("json", "info", fd=pipe[1])
    logging.getLogger("ingress.app").info("%d documents", "three")
    line = json.loads(read())
    assert (line["level"], line["area"]) == ("error", "logs")
    assert "'%d documents' of ingress.app: TypeError" in line["message"]


def fill(fd: int) -> None:
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)


def handler(fd: int, patience_s: float) -> logging.Logger:
    made = DescriptorHandler(fd, patience_s)
    made.setFormatter(TextFormatter("controller"))
    log = logging.Logger("ingress.test", logging.DEBUG)
    log.addHandler(made)
    return log


def test_a_reader_that_stalls_is_waited_for_once_and_the_loss_is_told(
    pipe: tuple[int, int], read: Callable[[], str]
) -> None:
    fill(pipe[1])
    log = handler(pipe[1], patience_s=0.05)
    started = time.monotonic()
    for _ in range(1000):
        log.info("lost")
    assert time.monotonic() - started < 5  # 1000 times the patience would be 50 s
    read()
    log.info("after")
    lines = read().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "warning controller logs: 1000 records dropped: nobody read the log",
        "info controller test: after",
    ]


def test_a_record_cut_short_does_not_swallow_the_next(pipe: tuple[int, int], read: Callable[[], str]) -> None:
    log = handler(pipe[1], patience_s=0.01)
    log.info("a" * 200_000)
    assert read().endswith("aaa")
    log.info("after")
    first, second, third = read().splitlines()
    assert first == ""
    assert "1 records dropped" in second
    assert third.endswith("test: after")


def test_a_long_record_arrives_whole_when_it_is_read(pipe: tuple[int, int], tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    handler(fd, patience_s=0.01).info("a" * 200_000)
    os.close(fd)
    assert (tmp_path / "log").read_text().endswith("a" * 200_000 + "\n")


def test_a_closed_descriptor_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = handler(writer, patience_s=0.01)
    log.info("x")
    os.close(writer)
    log.info("y")
    assert not select.select([], [], [], 0)[1]


# ---- verdicts -----------------------------------------------------------------------------------------------------

MISSING = Verdict(
    "Ingress shop/web",
    "spec.rules[0].http.paths[0].backend.service.name",
    VerdictReason.SERVICE_NOT_FOUND,
    "Service shop/cart does not exist.",
    value="cart",
    origin="shop.yaml:12",
)
WARNING = Verdict("Ingress shop/api", "metadata", VerdictReason.CONFLICT, "older one wins", severity=Severity.WARNING)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    def read() -> list[tuple[str, str]]:
        lines = [(r.levelname, r.getMessage()) for r in caplog.records]
        caplog.clear()
        return lines

    caplog.set_level(logging.INFO, "ingress.translate")
    return read


def test_a_verdict_is_logged_once_and_once_more_when_it_is_gone(said: Callable[[], list[tuple[str, str]]]) -> None:
    verdicts = VerdictLog(logging.getLogger("ingress.translate"))
    verdicts.update([MISSING, WARNING, MISSING])
    assert said() == [("WARNING", "older one wins"), ("ERROR", "Service shop/cart does not exist.")]
    verdicts.update([WARNING, MISSING])
    assert said() == []
    verdicts.update([WARNING])
    assert said() == [("INFO", "resolved: Service shop/cart does not exist.")]
    verdicts.update([WARNING, MISSING])
    assert said() == [("ERROR", "Service shop/cart does not exist.")]


def test_a_verdict_that_changes_its_message_is_not_called_resolved(said: Callable[[], list[tuple[str, str]]]) -> None:
    verdicts = VerdictLog(logging.getLogger("ingress.translate"))
    verdicts.update([MISSING])
    said()
    verdicts.update([Verdict(MISSING.object, MISSING.field, MISSING.reason, "Service shop/basket does not exist.")])
    assert said() == [("ERROR", "Service shop/basket does not exist.")]


def test_a_verdict_names_object_field_reason_value_and_origin(pipe: tuple[int, int], read: Callable[[], str]) -> None:
    setup_logging("text", "info", fd=pipe[1])
    VerdictLog(logging.getLogger("ingress.translate")).update([MISSING])
    assert read().split(" ", 1)[1] == (
        'error controller translate: Service shop/cart does not exist. object="Ingress shop/web" '
        "field=spec.rules[0].http.paths[0].backend.service.name reason=ServiceNotFound value=cart origin=shop.yaml:12\n"
    )
