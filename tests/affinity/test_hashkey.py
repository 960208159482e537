import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.affinity.hashkey import argument_value, compile_hash_key, cookie_value
from ingress.routing.table import HashPart, HashVariable


@dataclass(frozen=True)
class Subject:
    method: bytes = b"GET"
    target: bytes = b"/caf%C3%A9?a=1&User=7"
    path: bytes = b"/caf\xc3\xa9"
    query: bytes = b"a=1&User=7"
    host: bytes = b"toad.example.com"
    client_address: str = "192.0.2.1"
    headers: dict[bytes, bytes] = field(default_factory=dict)

    def header(self, name: bytes) -> bytes | None:
        return self.headers.get(name)


SUBJECT = Subject(headers={b"x-user-id": b"42", b"cookie": b"a=1; session=abc"})


@pytest.mark.parametrize(
    ("variable", "argument", "value"),
    [
        (HashVariable.TEXT, "grün", "grün".encode()),
        (HashVariable.REQUEST_URI, "", b"/caf%C3%A9?a=1&User=7"),
        (HashVariable.URI, "", b"/caf\xc3\xa9"),
        (HashVariable.HOST, "", b"toad.example.com"),
        (HashVariable.REMOTE_ADDR, "", b"192.0.2.1"),
        (HashVariable.REQUEST_METHOD, "", b"GET"),
        (HashVariable.ARGS, "", b"a=1&User=7"),
        (HashVariable.HTTP, "x_user_id", b"42"),
        (HashVariable.HTTP, "X_User_ID", b"42"),
        (HashVariable.HTTP, "x_other", b""),
        (HashVariable.COOKIE, "session", b"abc"),
        (HashVariable.COOKIE, "other", b""),
        (HashVariable.ARG, "user", b"7"),
        (HashVariable.ARG, "USER", b"7"),
        (HashVariable.ARG, "other", b""),
    ],
)
def test_each_variable(variable: HashVariable, argument: str, value: bytes) -> None:
    assert compile_hash_key([HashPart(variable, argument)])(SUBJECT) == value


@pytest.mark.parametrize("variable", HashVariable)
def test_no_variable_fails_on_an_empty_request(variable: HashVariable) -> None:
    empty = Subject(b"", b"", b"", b"", b"", "")
    assert compile_hash_key([HashPart(variable)])(empty) == b""


def test_parts_are_put_together() -> None:
    parts = (HashPart(HashVariable.TEXT, "v1-"), HashPart(HashVariable.HOST), HashPart(HashVariable.COOKIE, "a"))
    assert compile_hash_key(parts)(SUBJECT) == b"v1-toad.example.com1"
    assert compile_hash_key(())(SUBJECT) == b""


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
