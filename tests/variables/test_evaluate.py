"""Each variable's meaning; what becomes a header can't split it; hostile input costs linear time."""

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.variables import (
    Part,
    Variable,
    argument_value,
    compile_field_value,
    compile_value,
    cookie_value,
    escape_uri_component,
    parse_value,
)


@dataclass(frozen=True)
class Subject:
    method: bytes = b"GET"
    target: bytes = b"/caf%c3%a9?a=1&User=7"
    path: bytes = b"/caf%C3%A9"
    query: bytes = b"?a=1&User=7"
    authority: bytes = b"Toad.example.com:8080"
    host: bytes = b"toad.example.com"
    scheme: bytes = b"https"
    version: int = 11
    server_port: int = 8443
    client_address: str = "192.0.2.1"
    request_id: bytes = b"0123"
    remote_user: bytes = b"ann"
    captures: tuple[bytes, ...] = (b"one", b"")
    headers: dict[bytes, bytes] = field(default_factory=dict)

    def header(self, name: bytes) -> bytes | None:
        return self.headers.get(name)


@dataclass(frozen=True)
class Rule:
    host: str = "*.example.com"
    path: str = "/caf"
    namespace: str = "shop"
    ingress: str = "web"
    service: str = "cafe"
    port: str = "http"


SUBJECT = Subject(headers={b"x-user-id": b"42", b"cookie": b"a=1; session=abc"})
RULE = Rule()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("gr\u00fcn", "gr\u00fcn".encode()),
        ("$request_uri", b"/caf%c3%a9?a=1&User=7"),
        ("$escaped_request_uri", b"%2Fcaf%25c3%25a9%3Fa%3D1%26User%3D7"),
        ("$uri", b"/caf%C3%A9"),
        ("$document_uri", b"/caf%C3%A9"),
        ("$args", b"a=1&User=7"),
        ("$query_string", b"a=1&User=7"),
        ("$is_args", b"?"),
        ("$host", b"toad.example.com"),
        ("$best_http_host", b"Toad.example.com:8080"),
        ("$remote_addr", b"192.0.2.1"),
        ("$the_real_ip", b"192.0.2.1"),
        ("$remote_user", b"ann"),
        ("$request_method", b"GET"),
        ("$request_id", b"0123"),
        ("$req_id", b"0123"),
        ("$server_protocol", b"HTTP/1.1"),
        ("$scheme://$pass_access_scheme", b"https://https"),
        ("$server_port $pass_port", b"8443 8443"),
        ("$server_name", b"*.example.com"),
        ("$namespace/$ingress_name/$service_name/$service_port", b"shop/web/cafe/http"),
        ("$proxy_upstream_name", b"shop-cafe-http"),
        ("$location_path", b"/caf"),
        ("$http_x_user_id", b"42"),
        ("$http_X_User_ID", b"42"),
        ("$http_x_other", b""),
        ("$cookie_session", b"abc"),
        ("$cookie_other", b""),
        ("$arg_a", b"1"),
        ("$arg_user", b"7"),
        ("$arg_USER", b"7"),
        ("$arg_other", b""),
        ("[$1][$2][$3][${1}]", b"[one][][][one]"),
        ("$12", b"one2"),
        ("v1-${host}x", b"v1-toad.example.comx"),
        ("", b""),
    ],
)
def test_each_variable(text: str, value: bytes) -> None:
    assert compile_value(parse_value(text))(SUBJECT, RULE) == value
    assert compile_field_value(parse_value(text))(SUBJECT, RULE) == value


@pytest.mark.parametrize("variable", Variable)
def test_no_variable_fails_on_an_empty_request(variable: Variable) -> None:
    empty = Subject(b"", b"", b"", b"", b"", b"", b"", 11, 0, "", b"", b"", ())
    nothing = {Variable.SERVER_PROTOCOL: b"HTTP/1.1", Variable.SERVER_PORT: b"0", Variable.PASS_PORT: b"0"}
    rule = Rule("", "", "", "", "", "")
    expected = nothing.get(variable, b"")
    expected = {Variable.SERVER_NAME: b"_", Variable.PROXY_UPSTREAM_NAME: b"--"}.get(variable, expected)
    assert compile_value([Part(variable)])(empty, rule) == expected


def test_a_header_can_not_be_split() -> None:
    hostile = Subject(headers={b"x": b"a\r\nSet-Cookie: b\0"}, captures=(b"\nc",))
    assert compile_field_value(parse_value("$http_x;$1"))(hostile, RULE) == b"aSet-Cookie: b;c"
    assert compile_field_value((Part(Variable.TEXT, "a\r\nb"),))(hostile, RULE) == b"ab"


def test_a_header_has_an_end() -> None:
    long = Subject(target=b"/" + b"x" * 8000)
    assert len(compile_field_value(parse_value("$request_uri" * 60))(long, RULE)) == 16384


@given(st.binary())
def test_escaped_text_is_safe_in_a_query(text: bytes) -> None:
    escaped = escape_uri_component(text)
    assert not escaped.translate(None, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%")
    assert len(escaped) <= 3 * len(text)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"id=1", b"1"),
        (b"ID=1", b"1"),
        (b"a=0; id=1; b=2", b"1"),
        (b"a=0;id=1;b=2", b"1"),
        (b"id = 1; b=2", b"1"),
        (b'id="1"', b'"1"'),
        (b"id=1,2; b=3", b"1,2"),
        (b"a=0, id=1", b"1"),
        (b"id=; a=1", b""),
        (b"xid=1", b""),
        (b"idx=1", b""),
        (b"id", b""),
        (b"id; id=2", b"2"),
        (b"a=id=1", b""),
        (b";;; id=1", b"1"),
        (b"", b""),
    ],
)
def test_cookie_value(header: bytes, value: bytes) -> None:
    assert cookie_value(header, b"id") == value


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (b"id=1", b"1"),
        (b"ID=1", b"1"),
        (b"a=0&id=1&id=2", b"1"),
        (b"id=%41+b", b"%41+b"),
        (b"id&id=2", b"2"),
        (b"id=a=b", b"a=b"),
        (b"xid=1&idx=2", b""),
        (b"id=", b""),
        (b"", b""),
    ],
)
def test_argument_value(query: bytes, value: bytes) -> None:
    assert argument_value(query, b"id") == value


@given(st.binary(), st.binary(max_size=3))
def test_any_bytes_have_a_value(text: bytes, name: bytes) -> None:
    name = name.lower()
    assert cookie_value(text, name) in text
    assert argument_value(text, name) in text


@given(
    st.lists(
        st.tuples(st.from_regex(rb"[a-z]{1,3}", fullmatch=True), st.from_regex(rb"[a-z0-9=\"%]{0,5}", fullmatch=True)),
        max_size=8,
    ),
    st.from_regex(rb"[a-z]{1,3}", fullmatch=True),
)
def test_well_formed_lists_agree_with_a_plain_search(pairs: list[tuple[bytes, bytes]], name: bytes) -> None:
    expected = next((value for found, value in pairs if found == name), b"")
    assert cookie_value(b"; ".join(b"%s=%s" % pair for pair in pairs), name) == expected
    assert argument_value(b"&".join(b"%s=%s" % pair for pair in pairs), name) == expected


def test_a_hostile_cookie_header_costs_linear_time() -> None:
    """32 kB of separators, the most that the listener lets through: quadratic code takes seconds."""
    header = b"; " * 16_000 + b"xid"
    started = time.perf_counter()
    assert cookie_value(header, b"id") == b""
    assert time.perf_counter() - started < 1.0
