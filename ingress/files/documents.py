"""One manifest file: bytes -> objects and verdicts, document by document. Pure.

Documents are cached by their text, so that editing one of 10,000 costs the parsing of one. Their lines are kept apart
from their content: when a document only moved, its objects get a new origin, nothing else.
"""

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from ingress.errors import Verdict, VerdictReason
from ingress.files.parse import ParseError, RawDocument, parse_json, parse_yaml
from ingress.model.decode import DecodeError, decode_object
from ingress.model.kubernetes import KubernetesObject
from ingress.model.ref import ObjectRef

ERROR_LIMIT = 20  # parse errors reported of one file
LIST_DEPTH_LIMIT = 8  # Lists inside Lists


class Entry(NamedTuple):
    """One object of a document: decoded, or a verdict that says why not (`ref` None: not even its name is known)."""

    ref: ObjectRef | None
    object: KubernetesObject | None
    verdict: Verdict | None
    line: int  # from 0, within the document


class Document(NamedTuple):
    """A piece of a file between two `---`. `line` is where it starts, from 0; entries carry origins that fit this
    line.
    """

    line: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one file says.

    `objects` and `broken` are by first occurrence; a ref is in one of them. With `errors` the file doesn't parse: then
    the rest is empty except `documents`, which holds the readable ones for the next attempt.
    """

    documents: Mapping[str, Document] = field(default_factory=dict)
    objects: Mapping[ObjectRef, KubernetesObject] = field(default_factory=dict)
    broken: Mapping[ObjectRef, Verdict] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    errors: tuple[Verdict, ...] = ()


EMPTY = Manifest()


def unreadable(name: str, problem: str) -> Verdict:
    """The verdict for a file or folder that can't be read at all."""
    return Verdict(object=name, field="", reason=VerdictReason.PARSE_ERROR, message=problem, origin=name)


def duplicate(ref: ObjectRef, used: str, ignored: str) -> Verdict:
    """`used` and `ignored` are origins."""
    return Verdict(
        object=str(ref),
        field="metadata.name",
        reason=VerdictReason.DUPLICATE_OBJECT,
        message=f"The object is defined twice: the one at {used} is used, the one at {ignored} is ignored",
        value=ref.name,
        origin=ignored,
    )


def read_manifest(name: str, data: bytes, cached: Mapping[str, Document], *, is_json: bool = False) -> Manifest:
    """Never raises for any bytes. `name` is the file as verdicts show it; `cached` the documents of its previous
    version.
    """
    try:
        text = _decode(data)
    except ParseError as error:
        return Manifest(documents=cached, errors=(_parse_verdict(name, error, 0),))
    documents: dict[str, Document] = {}
    pieces: list[Document] = []
    errors: list[Verdict] = []
    for line, piece in [(0, text)] if is_json else split(text):
        document = documents.get(piece) or cached.get(piece)
        if document is None:
            try:
                document = _read_document(name, piece, line, is_json)
            except ParseError as error:
                if len(errors) < ERROR_LIMIT:
                    errors.append(_parse_verdict(name, error, line))
                continue
        elif document.line != line:
            document = _moved(name, document, line)
        documents[piece] = document
        pieces.append(document)
    if errors:
        return Manifest(documents={**cached, **documents}, errors=tuple(errors))
    return _collect(documents, pieces)


def _collect(documents: dict[str, Document], pieces: list[Document]) -> Manifest:
    objects: dict[ObjectRef, KubernetesObject] = {}
    broken: dict[ObjectRef, Verdict] = {}
    verdicts: list[Verdict] = []
    for document in pieces:
        for ref, found, verdict, _ in document.entries:
            if ref is not None and (ref in objects or ref in broken):
                used = objects[ref].origin if ref in objects else broken[ref].origin
                ignored = found.origin if found is not None else verdict.origin if verdict is not None else ""
                verdicts.append(duplicate(ref, used, ignored))
                continue
            if verdict is not None:
                verdicts.append(verdict)
                if ref is not None:
                    broken[ref] = verdict
            elif ref is not None and found is not None:
                objects[ref] = found
    return Manifest(documents, objects, broken, tuple(verdicts))


# ---- text ---------------------------------------------------------------------------------------------------------

# At column 0 these three characters always end a document, in a block scalar too (YAML 1.2.2 section 9.1.2).
_MARKER = "\n---"
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)


def split(text: str) -> Iterator[tuple[int, str]]:
    """Pieces of a YAML stream with their first lines (from 0). Each is a YAML stream of its own: directives stay with
    their document.
    """
    starts = [0]
    at = -1
    while (at := text.find(_MARKER, at + 1)) >= 0:  # a regular expression takes ten times as long
        if text[at + 4 : at + 5] in ("", " ", "\t", "\r", "\n"):
            starts.append(at + 1)
    starts.append(len(text))
    line = 0
    held = ""
    for start, end in pairwise(starts):
        part = text[start:end]
        piece = held + part
        held = ""
        if "%" in part and end < len(text) and _DIRECTIVE.search(part) is not None:
            held = piece
            continue
        if piece and not piece.isspace() and piece.rstrip() != "---":
            yield line, piece
        line += piece.count("\n")


def _decode(data: bytes) -> str:
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n")
        column = len(before) - (before.rfind(b"\n") + 1)
        raise ParseError(f"not {encoding.removesuffix('-sig').upper()} text", line, column) from None


def _parse_verdict(name: str, error: ParseError, line: int) -> Verdict:
    return Verdict(
        object=name,
        field="",
        reason=VerdictReason.PARSE_ERROR,
        message=f"The file can't be read: {error.problem}",
        origin=f"{name}:{line + error.line + 1}:{error.column + 1}",
    )


def _origin(name: str, line: int) -> str:
    return f"{name}:{line + 1}"


# ---- documents ----------------------------------------------------------------------------------------------------


def _read_document(name: str, text: str, line: int, is_json: bool) -> Document:
    """Raise ParseError with a line relative to the document."""
    entries: list[Entry] = []
    for raw in _parse(text, is_json):
        if not isinstance(raw.value, Mapping):
            raise ParseError("not a Kubernetes object: expected a mapping with apiVersion and kind", raw.line, 0)
        entries.extend(_entries(name, raw.value, raw.line, line, raw, 0))
    return Document(line, tuple(entries))


def _parse(text: str, is_json: bool) -> list[RawDocument]:
    if is_json:
        return parse_json(text)
    if text.startswith("{"):
        try:
            return parse_json(text)
        except ParseError:
            pass  # a flow mapping of YAML
    return parse_yaml(text)


def _entries(
    name: str, value: Mapping[str, Any], line: int, base: int, document: RawDocument, depth: int
) -> Iterator[Entry]:
    kind = value.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and (kind == "List" or "items" in value):
        yield from _items(name, value, kind, line, base, document, depth)
        return
    try:
        found = decode_object(value, _origin(name, base + line))
    except DecodeError as error:
        yield Entry(error.ref, None, error.verdict, line)
    else:
        if found is not None:
            yield Entry(found.ref, found, None, line)


def _items(
    name: str, value: Mapping[str, Any], kind: str, line: int, base: int, document: RawDocument, depth: int
) -> Iterator[Entry]:
    """Items of a typed list (`IngressList`) come without kind and version of their own: they have those of the list."""
    items = value.get("items")
    if items is None:
        return
    if not isinstance(items, list) or depth >= LIST_DEPTH_LIMIT:
        yield _list_entry(name, kind, "items", line, base)
        return
    inherited = {} if kind == "List" else {"kind": kind.removesuffix("List"), "apiVersion": value.get("apiVersion")}
    for index, item in enumerate(items):
        if isinstance(item, Mapping):
            item_line = document.item_lines.get(id(item), line)
            yield from _entries(
                name, {**inherited, **item} if inherited else item, item_line, base, document, depth + 1
            )
        else:
            yield _list_entry(name, kind, f"items[{index}]", line, base)


def _list_entry(name: str, kind: str, where: str, line: int, base: int) -> Entry:
    verdict = Verdict(
        object=kind,
        field=where,
        reason=VerdictReason.INVALID_OBJECT,
        message="Expected a list of objects" if where == "items" else "Expected an object",
        origin=_origin(name, base + line),
    )
    return Entry(None, None, verdict, line)


def _moved(name: str, document: Document, line: int) -> Document:
    entries = []
    for ref, found, verdict, offset in document.entries:
        origin = _origin(name, line + offset)
        if found is not None:
            found = msgspec.structs.replace(found, origin=origin)
        if verdict is not None:
            verdict = msgspec.structs.replace(verdict, origin=origin)
        entries.append(Entry(ref, found, verdict, offset))
    return Document(line, tuple(entries))
