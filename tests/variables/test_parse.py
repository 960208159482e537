"""Text with variables, taken apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.variables import Part, Variable, is_constant, parse_value


def test_parts() -> None:
    assert parse_value("https://${host}$request_uri?a=$arg_B&c") == (
        Part(Variable.TEXT, "https://"),
        Part(Variable.HOST),
        Part(Variable.REQUEST_URI),
        Part(Variable.TEXT, "?a="),
        Part(Variable.ARG, "b"),
        Part(Variable.TEXT, "&c"),
    )
    assert parse_value("") == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a$", "a $ is not followed by the name of a variable"),
        ("$-a", "a $ is not followed by the name of a variable"),
        ("${host", "a ${ has no matching }"),
        ("${}", "a $ is not followed by the name of a variable"),
        ("$nope", "$nope is not a variable that can be used here"),
        ("$text", "$text is not a variable that can be used here"),
        ("$http_", "$http_ is not a variable that can be used here"),
        ("$hostname", "$hostname is not a variable that can be used here"),
        ("$0", "$0 is not a variable that can be used here"),
        ("a\nb", "it contains a control character"),
        ("x" * 2049, "it is longer than 2048 characters"),
        ("$host" * 65, "it has more than 64 parts"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_value(text)
    assert str(caught.value) == why


def test_constants() -> None:
    assert is_constant(parse_value("a b"))
    assert not is_constant(parse_value("a $host"))


@given(st.text(max_size=50) | st.text("$ab{}1_", max_size=20))
def test_any_text_has_parts_or_a_reason(text: str) -> None:
    try:
        parts = parse_value(text)
    except ValueError:
        return
    assert is_constant(parts) == ("$" not in text)
