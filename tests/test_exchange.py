"""`Exchange`: defaults that are nobody else's, look-ups of fields, the size of a head."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.exchange import BodyFraming, Exchange, Field, field_pieces, iter_fields, without_fields


def exchange(**changes: object) -> Exchange:
    made = Exchange(None, "192.0.2.1", b"http", b"")  # type: ignore[arg-type]
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_defaults() -> None:
    made = exchange()
    assert (made.version, made.keep_alive, made.finished, made.response_started) == (11, True, False, False)
    assert (made.body_framing, made.body, made.body_bytes) == (BodyFraming.NONE, None, 0)
    assert made.endpoint is made.upstream is made.route is None


def test_nothing_is_shared_between_two() -> None:
    one, two = exchange(), exchange()
    one.fields += field_pieces([(b"X", b"y")])
    assert two.fields == []
    assert one != two
    assert len({one, two}) == 2  # by identity


@pytest.mark.parametrize(
    ("name", "first", "every"),
    [
        (b"x-a", b"1", [b"1", b"3"]),
        (b"x-b", b"2", [b"2"]),
        (b"x-empty", b"", [b""]),
        (b"x", None, []),
        (b"host", b"a:80", []),
        (b"x-aa", None, []),
    ],
)
def test_fields(name: bytes, first: bytes | None, every: list[bytes]) -> None:
    fields = [(b"X-A", b"1"), (b"x-b", b"2"), (b"x-A", b"3"), (b"X-Empty", b"")]
    made = exchange(fields=field_pieces(fields), authority=b"a:80")
    assert made.header(name) == first
    assert made.header_values(name) == every


@given(st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4))))
def test_pieces_are_what_goes_over_the_wire_and_come_apart_again(fields: list[Field]) -> None:
    pieces = field_pieces(fields)
    assert list(iter_fields(pieces)) == fields
    assert b"".join(pieces) == b"".join(b"%b: %b\r\n" % field for field in fields)


def test_without_fields() -> None:
    pieces = field_pieces([(b"A", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert list(iter_fields(without_fields(pieces, {b"a"}))) == [(b"b", b"2")]


def test_the_length_of_a_head() -> None:
    made = exchange(method=b"GET", target=b"/x?y", authority=b"a", fields=field_pieces([(b"X-A", b"1")]))
    assert made.head_length() == len(b"GET /x?y HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n")


def test_the_framings_are_the_numbers_that_the_hot_path_compares() -> None:
    assert (BodyFraming.NONE, BodyFraming.LENGTH, BodyFraming.CHUNKED) == (0, 1, 2)


def test_repr_names_what_a_log_line_needs() -> None:
    made = exchange(method=b"GET", target=b"/x", authority=b"a", status=502, attempts=2)
    assert repr(made) == "<Exchange b'GET' b'a' b'/x' status=502 attempts=2>"
