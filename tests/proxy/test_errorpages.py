"""Which kind of page a client gets, and what stands on it."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.proxy import errorpages
from ingress.proxy.errorpages import CONTENT_TYPES, ErrorPages, Kind, preferred_kind
from tests.proxy.support import Proxy, routes

CHROME = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture(scope="module")
def pages() -> ErrorPages:
    return ErrorPages()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, Kind.TEXT),
        (b"", Kind.TEXT),
        (b"*/*", Kind.TEXT),
        (b" */* ; q=0.5", Kind.TEXT),
        (CHROME, Kind.HTML),
        (b"text/html", Kind.HTML),
        (b"TEXT/HTML; charset=utf-8", Kind.HTML),
        (b"text/plain", Kind.TEXT),
        (b"text/*", Kind.TEXT),
        (b"application/json", Kind.JSON),
        (b"application/*", Kind.JSON),
        (b"application/problem+json", Kind.JSON),
        (b"application/json, text/plain, */*", Kind.JSON),  # axios
        (b"text/plain, application/json", Kind.TEXT),
        (b"text/html;q=0.5, application/json;q=0.9", Kind.JSON),
        (b"text/html;q=0.9, application/json;q=0.5", Kind.HTML),
        (b"text/html;q=0.5, text/*;q=0.9", Kind.TEXT),  # text/plain weighs 0.9, text/html 0.5
        (b"text/*;q=0.3, text/html;q=0.7, */*;q=0.5", Kind.HTML),
        (b"*/*, text/html", Kind.HTML),  # equal weights: the one that is named
        (b"text/*, application/json", Kind.JSON),
        (b"*/*, text/plain;q=0", Kind.HTML),
        (b"text/html;q=0, */*;q=0.1", Kind.TEXT),
        (b"text/html;q=0", Kind.TEXT),  # nothing acceptable
        (b"image/png", Kind.TEXT),
        (b"application/grpc", Kind.TEXT),
        (b"text/html;q=1.001, application/json;q=0.1", Kind.JSON),  # not a weight: the range is passed over
        (b"text/html;q=abc", Kind.TEXT),
        (b"text/html;q=-1", Kind.TEXT),
        (b"text/html;q=nan, application/json;q=0.1", Kind.JSON),
        (b"text/html;q=.9, application/json;q=0.1", Kind.JSON),
        (b"text/html;q=0., application/json;q=0.001", Kind.JSON),
        (b"text/html;level=1;q=0.4, application/json;q=0.3", Kind.HTML),
        (b'text/html;x="a,application/json"', Kind.HTML),  # no quoted strings: two ranges, the first whole
        (b"text, html, /, ;;, ,", Kind.TEXT),
        (b"\xff\xfe/\x00, application/json", Kind.JSON),
        (b"*/json", Kind.TEXT),
    ],
)
def test_the_kind_follows_accept(accept: bytes | None, kind: Kind) -> None:
    assert preferred_kind(accept) is kind


@given(st.binary(max_size=3000))
def test_any_bytes_have_an_answer(accept: bytes) -> None:
    assert preferred_kind(accept) in Kind


def test_what_is_beyond_the_limits_is_not_read() -> None:
    assert preferred_kind(b"a/b," * 31 + b"application/json") is Kind.JSON
    assert preferred_kind(b"a/b," * 32 + b"application/json") is Kind.TEXT
    padding = b"a" * (1024 - len(b"application/json,/b,"))
    assert preferred_kind(b"application/json," + padding + b"/b,text/html") is Kind.JSON
    assert preferred_kind(b"a" * 1020 + b"/b,application/json") is Kind.TEXT
    assert preferred_kind(b"a" * 5000) is Kind.TEXT


def test_the_memory_for_accept_values_is_bounded() -> None:
    cached = errorpages._preferred_cached
    cached.cache_clear()
    for i in range(1000):
        assert preferred_kind(b"application/json, x/%d" % i) is Kind.JSON
        assert preferred_kind(b"application/json, x/%d" % i + b"a" * 300) is Kind.JSON
    assert cached.cache_info().currsize == 256
    assert cached.cache_info().misses == 1000  # the long ones never got there


# ---- pages --------------------------------------------------------------------------------------------------------


def test_a_text_page(pages: ErrorPages) -> None:
    assert pages.page(404, None) == (
        b"text/plain; charset=utf-8",
        b"404 Not Found\nNo rule matches this host and path.\n",
    )
    assert pages.page(404, b"*/*", b"abc-123")[1] == (
        b"404 Not Found\nNo rule matches this host and path.\nRequest abc-123\n"
    )


def test_a_json_page(pages: ErrorPages) -> None:
    content_type, body = pages.page(503, b"application/json", b"abc")
    assert content_type == b"application/json"
    assert json.loads(body) == {
        "status": 503,
        "error": "Service Unavailable",
        "message": "No endpoint of the service is ready. Try again in a moment.",
        "request_id": "abc",
    }
    assert "request_id" not in json.loads(pages.page(503, b"application/json")[1])


def test_an_html_page(pages: ErrorPages) -> None:
    content_type, body = pages.page(504, CHROME, b"abc")
    page = body.decode()
    assert content_type == b"text/html; charset=utf-8"
    assert page.startswith("<!doctype html>")
    assert "<title>504 Gateway Timeout</title>" in page
    assert "<p>The service did not answer in time.</p>" in page
    assert "Request abc" in page
    assert len(body) < 1024
    assert not re.search(r"src=|href=|url\(|<script|https?:", page)  # nothing is loaded from anywhere
    assert "Request" not in pages.page(504, CHROME)[1].decode().replace("Request Timeout", "")


@pytest.mark.parametrize(
    ("status", "title", "message"),
    [
        (400, "Bad Request", "not valid HTTP"),
        (404, "Not Found", "No rule matches this host and path"),
        (405, "Method Not Allowed", "method is not allowed"),
        (408, "Request Timeout", "did not arrive in time"),
        (413, "Content Too Large", "body is larger"),
        (414, "URI Too Long", "too long"),
        (431, "Request Header Fields Too Large", "headers are too large or too many"),
        (500, "Internal Server Error", "proxy failed"),
        (502, "Bad Gateway", "could not be reached"),
        (503, "Service Unavailable", "No endpoint of the service is ready"),
        (504, "Gateway Timeout", "did not answer in time"),
        (418, "Client Error", "can't be answered"),
        (599, "Server Error", "can't answer"),
    ],
)
@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_says_status_title_and_reason(
    pages: ErrorPages, status: int, title: str, message: str, kind: Kind
) -> None:
    content_type, body = pages.page(status, b"/".join(kind.value))
    assert content_type == CONTENT_TYPES[kind]
    page = body.decode().replace("&#39;", "'")
    assert str(status) in page
    assert title in page
    assert message in page
    assert body.endswith(b"\n")


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "request_id",
    [b"<script>alert(1)</script>", b'a"b', b"a\r\nb", b"a b", b"\xff", b"a\\b", b"abc\n", b"{{7*7}}", b"a" * 129, b"&"],
)
def test_a_request_id_that_is_not_plain_is_not_shown(pages: ErrorPages, kind: Kind, request_id: bytes) -> None:
    accept = b"/".join(kind.value)
    assert pages.page(404, accept, request_id) == pages.page(404, accept)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "request_id", [b"0123456789abcdef0123456789abcdef", b"Root=1-67891233-abc:x@y/z+w", b"a" * 128]
)
def test_a_plain_request_id_is_shown_each_time_its_own(pages: ErrorPages, kind: Kind, request_id: bytes) -> None:
    accept = b"/".join(kind.value)
    for shown in (request_id, b"other", request_id):
        body = pages.page(502, accept, shown)[1]
        assert body.count(shown) == 1


@given(st.integers(400, 599), st.binary(max_size=200), st.binary(max_size=140))
def test_any_request_gets_a_page_that_its_kind_can_be_read_as(status: int, accept: bytes, request_id: bytes) -> None:
    content_type, body = PAGES.page(status, accept, request_id)
    text = body.decode()
    if content_type == CONTENT_TYPES[Kind.JSON]:
        assert json.loads(text)["status"] == status
    elif content_type == CONTENT_TYPES[Kind.HTML]:
        assert text.count("<html") == text.count("</html>") == 1
    else:
        assert 2 <= len(text.splitlines()) <= 3


PAGES = ErrorPages()


@pytest.mark.parametrize("status", [0, 200, 304, 399, 600])
def test_other_statuses_have_no_page(pages: ErrorPages, status: int) -> None:
    for request_id in (b"", b"abc"):
        with pytest.raises(ValueError, match=f"{status} is not the status of an error"):
            pages.page(status, None, request_id)


def test_a_page_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = ErrorPages()
    first = pages.page(404, CHROME, b"a")[1], pages.page(404, CHROME)[1]
    monkeypatch.setattr(pages, "_render", None)
    assert pages.page(404, CHROME, b"b")[1] == first[0].replace(b"Request a", b"Request b")
    assert pages.page(404, CHROME)[1] is first[1]


async def test_a_closed_route_does_not_promise_that_waiting_helps() -> None:
    async with Proxy() as proxy:
        proxy.plane.swap(routes({"/closed": 503, "/empty": [], "/gone": 404}))
        client = await proxy.client()
        bodies = [(await client.get(target)).body for target in ("/closed", "/empty", "/gone")]
        assert b"until its configuration is put right" in bodies[0]
        assert b"No endpoint of the service is ready" in bodies[1]
        assert b"No rule matches" in bodies[2]
