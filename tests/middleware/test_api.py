"""What a middleware sees of a request, and what it may do to it."""

import pytest

from ingress.exchange import ResponseHead, field_pieces
from ingress.middleware.api import Headers, Reply, Response
from ingress.testing import request


def test_a_request_as_it_is_routed() -> None:
    asked = request("POST", "https://Shop.Example.com:8443/a%20b?x=1&y", {"Accept": "text/html"}, client_address="::1")
    assert (asked.method, asked.scheme, asked.host, asked.path, asked.query) == (
        "POST",
        "https",
        "shop.example.com",
        "/a%20b",
        "x=1&y",
    )
    assert (asked.client_address, asked.namespace, asked.ingress, asked.service) == ("::1", "default", "test", "app")
    assert asked.upstream_host == "Shop.Example.com:8443"
    assert asked.user == ""
    assert "/a%20b" in repr(asked)


def test_headers_compare_without_case_and_keep_order_and_repeats() -> None:
    head = ResponseHead(200, field_pieces([(b"A", b"1"), (b"b", b"2"), (b"a", b"3")]), -1)
    headers = Headers(head)
    assert headers.get("a") == "1"
    assert headers.get_all("A") == ["1", "3"]
    assert "B" in headers
    assert "c" not in headers
    assert headers.get("c", "none") == "none"
    with pytest.raises(KeyError):
        headers["c"]
    headers["a"] = "4"
    headers.add("C", "é")
    headers.remove("b")
    headers.remove("nothing")
    assert list(headers.items()) == [("a", "4"), ("C", "é")]
    assert head.fields == field_pieces([(b"a", b"4"), (b"C", "é".encode("latin-1"))])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nInjected: yes"),
        ("X", "a\nb"),
        ("X", "a\0b"),
        ("X: Y", "a"),
        ("", "a"),
        ("X\r\n", "a"),
        ("Ünicode", "a"),
        ("Content-Length", "3"),
        ("transfer-encoding", "chunked"),
        ("Connection", "close"),
        ("Host", "other"),
        ("Upgrade", "h2c"),
    ],
)
def test_headers_that_cannot_be_set(name: str, value: str) -> None:
    asked = request("GET", "http://a/", {"X": "before"})
    for change in (asked.headers.__setitem__, asked.headers.add):
        with pytest.raises(ValueError, match=r"not the name|control character|proxy's own"):
            change(name, value)
    assert list(asked.headers.items()) == [("X", "before")]
    with pytest.raises(ValueError, match=r"not the name|control character|proxy's own"):
        Reply(200, "", {name: value})


@pytest.mark.parametrize("name", ["Content-Length", "Host", "connection"])
def test_headers_that_cannot_be_removed(name: str) -> None:
    with pytest.raises(ValueError, match="proxy's own"):
        request().headers.remove(name)


def test_what_the_endpoint_gets_may_be_changed() -> None:
    asked = request("GET", "http://a/old?x=1")
    asked.path, asked.query, asked.upstream_host = "/new%2Fpath", "y=%C3%A9", "internal:8080"
    assert (asked.path, asked.query, asked.upstream_host) == ("/new%2Fpath", "y=%C3%A9", "internal:8080")
    assert asked._exchange.query == b"?y=%C3%A9"
    asked.query = ""
    assert asked._exchange.query == b""


@pytest.mark.parametrize("path", ["", "relative", "/a b", "/a\r\nX: y", "/é", "/a?b", "/a#b", "*", "http://x/"])
def test_paths_that_cannot_be_sent(path: str) -> None:
    asked = request("GET", "http://a/old")
    with pytest.raises(ValueError, match="is not a path"):
        asked.path = path
    assert asked.path == "/old"


@pytest.mark.parametrize("query", ["a b", "a#b", "a\r\n", "é", "\0"])
def test_queries_that_cannot_be_sent(query: str) -> None:
    with pytest.raises(ValueError, match="is not a query"):
        request().query = query


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a\r\nb", "é", "a@b"])
def test_hosts_that_cannot_be_sent(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        request().upstream_host = host


def test_state_is_shared_by_the_hooks_of_one_request() -> None:
    asked = request()
    asked.state["x"] = 1
    assert asked.state == {"x": 1}
    assert request().state == {}


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600])
def test_replies_with_no_final_status(status: int) -> None:
    with pytest.raises(ValueError, match="final response"):
        Reply(status)


def test_a_reply() -> None:
    assert Reply(200, "é").body == "é".encode()
    assert Reply(200, "x").fields == [(b"Content-Type", b"text/plain; charset=utf-8")]
    assert Reply(200, b"{}", {"content-type": "application/json"}).fields == [(b"content-type", b"application/json")]
    assert Reply(302, headers={"Location": "/x"}).fields == [(b"Location", b"/x")]


def test_a_response() -> None:
    head = ResponseHead(404, field_pieces([(b"A", b"1")]), 3)
    response = Response(head)
    response.headers["B"] = "2"
    assert response.status == 404
    assert head.fields == field_pieces([(b"A", b"1"), (b"B", b"2")])


@pytest.mark.parametrize("url", ["ftp://a/", "/path", "http:///x", ""])
def test_requests_for_tests_need_a_url(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http or https URL"):
        request("GET", url)
