"""Text of a manifest -> raw objects with their lines. Pure, and safe for any input.

YAML is read as `kubectl` reads it (YAML 1.1 with go-yaml's choices): timestamps and base-60 numbers stay text,
`yes`/`on`/`y` are true, keys become text, `<<` merges, duplicate keys are an error. libyaml's event stream is used,
not its composer, whose recursion overflows the C stack on deep nesting. Nesting, and what aliases expand to, are
bounded.
"""

import importlib
import json
import re
from typing import Any, NamedTuple

import msgspec
import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

NESTING_LIMIT = 100
ALIAS_LIMIT = 100_000  # nodes of one document that may come from expanding aliases


class ParseError(Exception):
    """The text is not a manifest. `line` and `column` count from 0; `problem` is one line and quotes no values."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"{line + 1}:{column + 1}: {problem}")
        self.problem = problem
        self.line = line
        self.column = column


class RawDocument(NamedTuple):
    """`value` is anything YAML can hold; `line` (from 0) is where it starts; `item_lines` the same for mappings at
    depth two (items of a List), by id.
    """

    value: Any
    line: int
    item_lines: dict[int, int]


# ---- scalars ------------------------------------------------------------------------------------------------------

_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_NUMBER_START = frozenset("0123456789+-.")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,40})")
_BASED = re.compile(r"([-+]?)0(?:[xX]([0-9a-fA-F]{1,40})|[oO]?([0-7]{1,40})|[bB]([01]{1,160}))")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?")


def resolve(text: str) -> Any:
    """Value of a plain scalar: bool, None, int, float, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START or len(text) > 200:
        return text
    digits = text if text[0] == "." else text.replace("_", "")
    if _DECIMAL.fullmatch(digits):
        return int(digits)
    if (based := _BASED.fullmatch(digits)) is not None:
        sign, hexadecimal, octal, binary = based.groups()
        magnitude = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(binary, 2)
        return -magnitude if sign == "-" else magnitude
    if _FLOAT.fullmatch(digits):
        number = float(digits)
        return text if number in (float("inf"), float("-inf")) else number
    return text


# Manifests repeat the same few scalars (`v1`, `Prefix`, `80`, field names): resolving each once saves time, and one
# shared string each saves memory. Emptied when full, so that input can't grow it.
_MEMO_LIMIT = 20_000
_memo: dict[str, Any] = {}


def _plain(text: str) -> Any:
    try:
        return _memo[text]
    except KeyError:
        value = resolve(text)
        if len(text) <= 64:
            if len(_memo) >= _MEMO_LIMIT:
                _memo.clear()
            _memo[text] = value
        return value


_STR_TAG = "tag:yaml.org,2002:str"
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null"))


def _scalar(event: Any) -> Any:
    tag = event.tag
    if tag is None:
        return _plain(event.value) if event.implicit[0] else event.value
    # other tags (`!vault`, `!!binary`, `!!python/…`) never change what is built: the scalar stays text
    return _plain(event.value) if tag in _PLAIN_TAGS else event.value


def _key(event: Any) -> str:
    """Mapping keys become text, as in the JSON that kubectl makes of YAML."""
    value = _scalar(event)
    if type(value) is str:
        return value
    if value is None:
        raise _at("null can't be a mapping key", event.start_mark)
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) is int else str(event.value)


# ---- YAML ---------------------------------------------------------------------------------------------------------


class _PythonParser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    """Where PyYAML was built without libyaml: an order of magnitude slower, the same events."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)


def _parser_class() -> Any:
    try:
        return importlib.import_module("yaml.cyaml").CParser
    except ImportError:
        return _PythonParser


_Parser = _parser_class()


def parse_yaml(text: str) -> list[RawDocument]:
    """Every document of `text`; empty ones (comments only) are left out. Raise ParseError."""
    return _parse_with(_Parser, text)


def _parse_with(parser: Any, text: str) -> list[RawDocument]:
    try:
        return _build(parser(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = _one_line(": ".join(part for part in (error.context, error.problem) if part) or "not YAML")
        raise ParseError(problem, mark.line if mark else 0, mark.column if mark else 0) from None
    except yaml.reader.ReaderError as error:
        raise _reader_error(text, error) from None


def _reader_error(text: str, error: yaml.reader.ReaderError) -> ParseError:
    position = error.position
    if not isinstance(error.character, str):  # libyaml counts bytes
        position = len(text.encode()[:position].decode(errors="ignore"))
    before = text[:position]
    line = before.count("\n")
    return ParseError(_one_line(str(error.reason)), line, position - (before.rfind("\n") + 1))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _at(problem: str, mark: Any) -> ParseError:
    return ParseError(problem, mark.line, mark.column)


_NO_KEY = object()
_MERGE = object()


class _Frame:
    """One open collection. `key` is what the next value belongs to; `merges` the values of `<<`."""

    __slots__ = ("anchor", "is_map", "key", "merges", "nodes_before", "value")

    def __init__(self, value: Any, is_map: bool, anchor: str | None, nodes_before: int) -> None:
        self.value = value
        self.is_map = is_map
        self.key: Any = _NO_KEY
        self.merges: list[tuple[list[Any], Any]] | None = None
        self.anchor = anchor
        self.nodes_before = nodes_before


class _Anchors:
    """Anchored values of one document with their sizes in nodes, aliases expanded. A size of 0: still open."""

    __slots__ = ("budget", "values")

    def __init__(self) -> None:
        self.values: dict[str, tuple[Any, int]] = {}
        self.budget = ALIAS_LIMIT

    def expand(self, event: Any) -> tuple[Any, int]:
        found = self.values.get(event.anchor)
        if found is None:
            raise _at("alias of an unknown anchor", event.start_mark)
        value, size = found
        if size == 0:
            raise _at("an alias inside its own anchor", event.start_mark)
        self.budget -= size
        if self.budget < 0:
            raise _at(f"aliases expand to more than {ALIAS_LIMIT} nodes", event.start_mark)
        return value, size


def _build(parser: Any) -> list[RawDocument]:
    """One loop over the events with a stack of open collections: no recursion, whatever the nesting."""
    documents: list[RawDocument] = []
    next_event = parser.get_event
    stack: list[_Frame] = []
    anchors = _Anchors()
    item_lines: dict[int, int] = {}
    frame: _Frame | None = None
    root: Any = None
    root_line = 0
    is_empty = True
    nodes = 0
    while True:
        event = next_event()
        kind = type(event)
        if kind is ScalarEvent:
            nodes += 1
            if frame is not None and frame.is_map and frame.key is _NO_KEY:
                if event.value == "<<" and event.implicit[0]:
                    frame.key = _MERGE
                    continue
                key = _key(event)
                if key in frame.value:
                    raise _at(f"the mapping key {key[:80]!r} is there twice", event.start_mark)
                if event.anchor is not None:
                    anchors.values[event.anchor] = (key, 1)
                frame.key = key
                continue
            value = _scalar(event)
            if event.anchor is not None:
                anchors.values[event.anchor] = (value, 1)
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            if len(stack) >= NESTING_LIMIT:
                raise _at(f"nested more than {NESTING_LIMIT} levels deep", event.start_mark)
            is_map = kind is MappingStartEvent
            if frame is not None and frame.is_map and frame.key is _NO_KEY:
                raise _at("a mapping key must be text", event.start_mark)
            value = {} if is_map else []
            if event.anchor is not None:
                anchors.values[event.anchor] = (value, 0)
            if is_map and len(stack) == 2:
                item_lines[id(value)] = event.start_mark.line
            opened = _Frame(value, is_map, event.anchor, nodes)
            nodes += 1
            if frame is None:
                root, root_line, is_empty = value, event.start_mark.line, False
            else:
                _attach(frame, value, event)
            stack.append(opened)
            frame = opened
            continue
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            closed = stack.pop()
            if closed.merges is not None:
                _merge(closed.value, closed.merges)
            if closed.anchor is not None:
                anchors.values[closed.anchor] = (closed.value, nodes - closed.nodes_before)
            frame = stack[-1] if stack else None
            continue
        elif kind is AliasEvent:
            value, size = anchors.expand(event)
            nodes += size
            if frame is not None and frame.is_map and frame.key is _NO_KEY:
                if not isinstance(value, str):
                    raise _at("a mapping key must be text", event.start_mark)
                if value in frame.value:
                    raise _at(f"the mapping key {value[:80]!r} is there twice", event.start_mark)
                frame.key = value
                continue
        elif kind is DocumentStartEvent:
            anchors = _Anchors()
            item_lines = {}
            root, is_empty, nodes = None, True, 0
            continue
        elif kind is DocumentEndEvent:
            if not is_empty:
                documents.append(RawDocument(root, root_line, item_lines))
            continue
        elif kind is StreamEndEvent:
            return documents
        else:  # stream start
            continue
        if frame is None:
            # a document of one scalar; an empty one is no document
            root, root_line = value, event.start_mark.line
            is_empty = value is None
        else:
            _attach(frame, value, event)


def _attach(frame: _Frame, value: Any, event: Any) -> None:
    if not frame.is_map:
        frame.value.append(value)
    elif frame.key is _MERGE:
        sources = value if isinstance(value, list) else [value]
        # a list that is still being filled is judged when the mapping closes
        if not isinstance(value, dict | list):
            raise _at("<< needs a mapping or a list of mappings", event.start_mark)
        if frame.merges is None:
            frame.merges = []
        frame.merges.append((sources, event))
        frame.key = _NO_KEY
    else:
        frame.value[frame.key] = value
        frame.key = _NO_KEY


def _merge(target: dict[str, Any], merges: list[tuple[list[Any], Any]]) -> None:
    """Keys written out win over merged ones, earlier sources over later ones (YAML merge key type)."""
    for sources, event in merges:
        for source in sources:
            if not isinstance(source, dict):
                raise _at("<< needs a mapping or a list of mappings", event.start_mark)
            for key, value in source.items():
                target.setdefault(key, value)


# ---- JSON ---------------------------------------------------------------------------------------------------------

_BYTE = re.compile(r"(?s)(.*?)\s*\(byte (\d+)\)")
_SPACE = re.compile(r"\s*")


def parse_json(text: str) -> list[RawDocument]:
    """One or more JSON values behind each other, as `kubectl` reads them. Raise ParseError."""
    if not text.strip():
        return []
    try:
        return [RawDocument(msgspec.json.decode(text), _line_of(text, 0), {})]
    except msgspec.DecodeError as error:
        first = _json_error(text, error)
    except RecursionError:
        raise ParseError("nested too deeply", 0, 0) from None
    values = _split_json(text)
    if len(values) < 2:
        raise first
    documents = []
    for start, end in values:
        try:
            documents.append(RawDocument(msgspec.json.decode(text[start:end]), _line_of(text, start), {}))
        except msgspec.DecodeError:
            raise first from None
    return documents


def _split_json(text: str) -> list[tuple[int, int]]:
    """Bounds of the values of a JSON stream; empty when it is not one."""
    decoder, bounds, position = json.JSONDecoder(), [], 0
    try:
        while (position := _SPACE.match(text, position).end()) < len(text):  # type: ignore[union-attr]
            start = position
            _, position = decoder.raw_decode(text, start)
            bounds.append((start, position))
    except (ValueError, RecursionError):
        return []
    return bounds


def _line_of(text: str, start: int) -> int:
    position = len(text) - len(text[start:].lstrip()) if start == 0 else start
    return text.count("\n", 0, position)


def _json_error(text: str, error: msgspec.DecodeError) -> ParseError:
    message, line, column = _one_line(str(error)), 0, 0
    if (found := _BYTE.fullmatch(str(error))) is not None:
        message = _one_line(found[1])
        # of characters behind the value it counts one too many
        offset = int(found[2]) - ("trailing" in message)
        before = text.encode()[:offset].decode(errors="ignore")
        line, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
    elif "truncated" in message:
        line = text.count("\n")
        column = len(text) - (text.rfind("\n") + 1)
    return ParseError(message, line, column)
