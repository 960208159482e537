import pytest

from bench.micro.runner import Case, calls_for, run_case, timings_table
from bench.support.backend import websocket_accept
from bench.support.client import Answer, ClientError, expect_body, expect_ok, expect_received, parse_head
from bench.support.content import digest


def test_websocket_accept_of_the_rfc() -> None:
    assert websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_head() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Backend:a\r\n\r\n")
    assert head.status == 200
    assert head.fields == {"content-length": "5", "x-backend": "a"}


@pytest.mark.parametrize("raw", [b"\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"junk\r\n\r\n"])
def test_head_that_is_none(raw: bytes) -> None:
    with pytest.raises(ClientError):
        parse_head(raw)


def answer(status: int = 200, size: int = 10, sha256: str | None = None, text: str = "") -> Answer:
    return Answer(status, {}, size, digest(1, 10) if sha256 is None else sha256, text)


def test_expectations() -> None:
    expect_ok(answer())
    expect_body(answer(), 1, 10)
    expect_received(answer(text=f'{{"bytes":10,"sha256":"{digest(1, 10)}"}}'), 1, 10)


def test_disappointments() -> None:
    with pytest.raises(ClientError, match="status 502"):
        expect_ok(answer(status=502))
    with pytest.raises(ClientError, match="9 bytes instead of 10"):
        expect_body(answer(size=9), 1, 10)
    with pytest.raises(ClientError, match="other ones"):
        expect_body(answer(sha256=digest(2, 10)), 1, 10)
    with pytest.raises(ClientError, match="received 3 bytes"):
        expect_received(answer(text='{"bytes":3,"sha256":""}'), 1, 10)


class Clock:
    """Moves only when the timed call moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        self.now += 0.001


def test_calls_fill_a_repeat() -> None:
    clock = Clock()
    assert calls_for(clock.work, 0.04, clock) == 50
    assert calls_for(clock.work, 0.0005, clock) == 1


def test_timing_of_a_case() -> None:
    clock = Clock()
    timing = run_case(Case("work", lambda: clock.work), repeats=3, at_least_s=0.01, clock=clock)
    assert timing.calls == 10
    assert timing.repeats_ns == pytest.approx((1e6, 1e6, 1e6))
    assert "1,000,000" in timings_table([timing])
