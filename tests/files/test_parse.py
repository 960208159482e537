import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.files import parse
from ingress.files.parse import ALIAS_LIMIT, NESTING_LIMIT, ParseError, parse_json, parse_yaml, resolve


def values(text: str) -> list[Any]:
    return [document.value for document in parse_yaml(text)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("-80", -80),
        ("+80", 80),
        ("1_000", 1000),
        ("0777", 511),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0b11", -3),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.", 1.0),
        ("1e999", "1e999"),  # no number that JSON could hold
        ("089", 89.0),
        ("1:30", "1:30"),  # base 60 of YAML 1.1, dropped by go-yaml
        ("22:22:22", "22:22:22"),
        ("2001-12-14", "2001-12-14"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("10.0.0.1", "10.0.0.1"),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
        ("+", "+"),
        (".", "."),
        ("_1", "_1"),
        ("0x", "0x"),
        ("true", True),
        ("Yes", True),
        ("on", True),
        ("y", True),
        ("off", False),
        ("n", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nullx", "nullx"),
        ("9" * 300, "9" * 300),
        ("<<", "<<"),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# only a comment\n", []),
        ("---\n---\n", []),
        ("a: 1", [{"a": 1}]),
        ("a: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("%YAML 1.2\n---\na: 1\n...\n---\nb: 1", [{"a": 1}, {"b": 1}]),
        ("'80': \"80\"", [{"80": "80"}]),
        ("80: a\ntrue: b\n1.50: c\non: d", None),
        ("80: a\n1.50: c\non: d", [{"80": "a", "1.50": "c", "true": "d"}]),
        ("a: !!str 80\nb: !!int '80'\nc: !vault 80", [{"a": "80", "b": 80, "c": "80"}]),
        ("!!python/object:os.system {a: 1}", [{"a": 1}]),
        ("a: |\n  x\n  --- y\nb: >-\n  z\n", [{"a": "x\n--- y\n", "b": "z"}]),
        ("a: &x {b: [1]}\nc: *x", [{"a": {"b": [1]}, "c": {"b": [1]}}]),
        ("a: &x 1\n*x : 2", None),
        ("a: &x k\n*x : 2", [{"a": "k", "k": 2}]),
        ("&x a: b\nc: *x", [{"a": "b", "c": "a"}]),
        ("d: &d {a: 1, b: 2}\ne:\n  <<: *d\n  a: 3", [{"d": {"a": 1, "b": 2}, "e": {"a": 3, "b": 2}}]),
        ("e:\n  a: 3\n  <<: [{a: 1, b: 2}, {b: 4, c: 5}]", [{"e": {"a": 3, "b": 2, "c": 5}}]),
        ("'<<': 1", [{"<<": 1}]),
        ("[1, two, {}]", [[1, "two", {}]]),
        ("text", ["text"]),
    ],
)
def test_yaml(text: str, expected: list[Any] | None) -> None:
    if expected is None:
        with pytest.raises(ParseError):
            parse_yaml(text)
    else:
        assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: [1,\n", 2, 0, "flow"),
        ("a: 1\n b: 2\n", 1, 2, "mapping values are not allowed"),
        ("\ta: 1", 0, 0, "cannot start any token"),
        ("a: 1\nb: 2\na: 3\n", 2, 0, "'a' is there twice"),
        ("a: *x", 0, 3, "alias"),
        ("a: &x [*x]", 0, 7, "inside its own anchor"),
        ("~: 1", 0, 0, "null"),
        ("? [a]\n: 1", 0, 2, "key must be text"),
        ("<<: 1", 0, 4, "<<"),
        ("a: 1\n<<: [1]\nb: 2", 1, 4, "<<"),
        ("a: b\x00c", 0, 4, "control characters"),
        ("a: é\nb: é\x01", 1, 4, "control characters"),
        ('"\\ud800"', 0, 3, "Unicode"),
    ],
)
def test_yaml_errors_say_where(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_yaml(text)
    error = caught.value
    assert words in error.problem
    assert (error.line, error.column) == (line, column)
    assert "\n" not in error.problem
    assert str(error).startswith(f"{error.line + 1}:")


def test_lines_of_documents_and_items() -> None:
    first, second = parse_yaml("# c\na: 1\n---\n\nkind: List\nitems:\n- a: 1\n-\n  b: 2\n")
    assert first.line == 1
    assert second.line == 4
    assert [second.item_lines[id(item)] for item in second.value["items"]] == [6, 8]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[a, ", "? ", "- - ? "])
def test_deep_nesting_is_an_error_and_no_crash(opening: str) -> None:
    started = time.process_time()
    with pytest.raises(ParseError):
        parse_yaml(opening * 200_000)
    assert time.process_time() - started < 5.0


def test_the_nesting_limit_is_exact() -> None:
    depth: Any = values("[" * NESTING_LIMIT + "]" * NESTING_LIMIT)[0]
    for _ in range(NESTING_LIMIT - 1):
        depth = depth[0]
    assert depth == []
    with pytest.raises(ParseError, match="nested"):
        parse_yaml("[" * (NESTING_LIMIT + 1) + "]" * (NESTING_LIMIT + 1))


def bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * width) + "]" for i in range(1, levels)]
    return "\n".join(lines)


def test_aliases_may_expand_up_to_a_bound() -> None:
    assert len(values(bomb(4, 10))[0]) == 4
    with pytest.raises(ParseError, match=str(ALIAS_LIMIT)):
        parse_yaml(bomb(9, 10))


def test_merges_of_aliases_count_as_well() -> None:
    keys = "\n".join(f"  k{i}: 1" for i in range(1000))
    merges = "\n".join(f"m{i}:\n  <<: *base" for i in range(200))
    with pytest.raises(ParseError, match="expand"):
        parse_yaml(f"base: &base\n{keys}\n{merges}")


def test_aliases_end_with_their_document() -> None:
    with pytest.raises(ParseError, match="alias"):
        parse_yaml("a: &x 1\n---\nb: *x\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n", []),
        ('{"a": 1}', [{"a": 1}]),
        ('{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}]),
        ('[1, "x", null]', [[1, "x", None]]),
    ],
)
def test_json(text: str, expected: list[Any]) -> None:
    assert [document.value for document in parse_json(text)] == expected


def test_json_lines() -> None:
    assert [document.line for document in parse_json('\n\n{"a": 1}\n{"b": 2}')] == [2, 3]
    assert [document.line for document in parse_json('\n\n{"a": 1}')] == [2]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [('{"a" 1}', 0, 5), ('{\n  "é": x}', 1, 7), ('{"a":\n', 1, 0), ('{"a": 1}}', 0, 8), ('{"a": 1} x', 0, 9)],
)
def test_json_errors_say_where(text: str, line: int, column: int) -> None:
    with pytest.raises(ParseError) as caught:
        parse_json(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert "byte" not in caught.value.problem


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000 + " 2"])
def test_json_extremes(text: str) -> None:
    try:
        parse_json(text)
    except ParseError:
        pass


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parser in (parse_yaml, parse_json):
        refused: ParseError | None = None
        try:
            parser(text)
        except ParseError as error:
            refused = error
        assert refused is None or (refused.problem and min(refused.line, refused.column) >= 0)


@given(st.text(alphabet="ab:-?[]{}&*!|>'\"%#,\n <~", max_size=60))
def test_both_parsers_of_yaml_agree(text: str) -> None:
    """With and without libyaml: the same documents wherever both accept the text."""
    outcomes = []
    for parser in (parse._Parser, parse._PythonParser):
        try:
            outcomes.append([document.value for document in parse._parse_with(parser, text)])
        except ParseError:
            return
    assert outcomes[0] == outcomes[1]
