"""Expressions of other people: what is refused, and bytes against text."""

import re

import pytest

from ingress.expressions import compile_expression, compile_text_expression


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(a", "missing ): (a"),
        ("(?=a)", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("(a{1,1000}){1,1000}", "invalid repetition size"),
        ("(a{1,1000})" * 90, "too large"),
    ],
)
def test_what_cannot_be_matched_within_bounds_is_refused(expression: str, reason: str) -> None:
    for compile_one in (compile_expression, compile_text_expression):
        with pytest.raises(ValueError, match=re.escape(reason)):
            compile_one(expression)


def test_bytes_are_searched_byte_by_byte_and_text_by_characters() -> None:
    assert compile_expression("^é$").search("é".encode()) is not None
    assert compile_expression("^.$").search("é".encode()) is None
    assert compile_expression("^..$").search("é".encode()) is not None
    assert compile_expression("a.c").search(b"a\xffc") is not None
    assert compile_text_expression("^.$").search("é") is not None


def test_case_and_captures_are_asked_for() -> None:
    assert compile_expression("A(b)").search(b"aB") is None
    assert compile_expression("A(b)", ignore_case=True).search(b"aB")[1] == b"B"
    assert compile_expression("a(b)", captures=False).groups == 0
