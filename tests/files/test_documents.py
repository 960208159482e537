import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.errors import VerdictReason
from ingress.files.documents import Manifest, read_manifest, split
from ingress.model.kubernetes import Ingress
from ingress.model.ref import Kind, ObjectRef


def service(name: str, port: int = 80) -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  - port: {port}\n"


def ref(name: str, kind: Kind = Kind.SERVICE) -> ObjectRef:
    return ObjectRef(kind, "default", name)


def read(text: str | bytes, before: Manifest | None = None, *, is_json: bool = False) -> Manifest:
    data = text.encode() if isinstance(text, str) else text
    return read_manifest("f.yaml", data, before.documents if before else {}, is_json=is_json)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("\n \n", []),
        ("---\n", []),
        ("a", [(0, "a")]),
        ("---\na", [(0, "---\na")]),
        ("a\n---\nb\n", [(0, "a\n"), (1, "---\nb\n")]),
        ("a\n---b\n", [(0, "a\n---b\n")]),
        ("a\n --- b\n", [(0, "a\n --- b\n")]),
        ("a\n--- b\n", [(0, "a\n"), (1, "--- b\n")]),
        ("a\r\n---\r\nb", [(0, "a\r\n"), (1, "---\r\nb")]),
        ("a\n---\n---\nb\n---", [(0, "a\n"), (2, "---\nb\n")]),
        ("%YAML 1.1\n---\na\n---\nb", [(0, "%YAML 1.1\n---\na\n"), (3, "---\nb")]),
        ("a\n...\n%YAML 1.1\n---\nb", [(0, "a\n...\n%YAML 1.1\n---\nb")]),
    ],
)
def test_split(text: str, pieces: list[tuple[int, str]]) -> None:
    assert list(split(text)) == pieces


def test_many_documents_have_their_lines() -> None:
    found = read("# head\n" + service("a") + "---\n" + service("b") + "---\n# c\n\n" + service("c"))
    assert not found.errors
    assert not found.verdicts
    assert [(r.name, o.origin) for r, o in found.objects.items()] == [
        ("a", "f.yaml:2"),
        ("b", "f.yaml:10"),
        ("c", "f.yaml:20"),
    ]


def test_only_the_edited_document_is_decoded_again() -> None:
    first = read("\n---\n".join(service(n) for n in "abc"))
    second = read("\n---\n".join(service(n, 81 if n == "b" else 80) for n in "abc"), first)
    for name in "ac":
        assert second.objects[ref(name)] is first.objects[ref(name)]
    assert second.objects[ref("b")] is not first.objects[ref("b")]


def test_moved_documents_keep_their_content_and_get_a_new_origin() -> None:
    bad = "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec: 3\n"
    first = read(service("a") + "---\n" + service("b") + "---\n" + bad)
    second = read("# one more line\n" + service("a") + "---\n" + service("b") + "---\n" + bad, first)
    assert second.objects[ref("b")].origin == "f.yaml:10"
    assert second.objects[ref("b")].spec is first.objects[ref("b")].spec  # type: ignore[attr-defined]
    assert [v.origin for v in first.verdicts] == ["f.yaml:17"]
    assert [v.origin for v in second.verdicts] == ["f.yaml:18"]


def test_lists() -> None:
    items = "".join("- " + service(n).replace("\n", "\n  ").rstrip() + "\n" for n in "ab")
    found = read("apiVersion: v1\nkind: List\nitems:\n" + items)
    assert [(r.name, o.origin) for r, o in found.objects.items()] == [("a", "f.yaml:4"), ("b", "f.yaml:11")]


def test_typed_lists_pass_on_kind_and_version() -> None:
    found = read(
        "apiVersion: networking.k8s.io/v1\nkind: IngressList\nitems:\n- metadata: {name: a}\n"
        "- {metadata: {name: b}, spec: {rules: [{host: x.example}]}}\n- 3\n"
    )
    assert list(found.objects) == [ref("a", Kind.INGRESS), ref("b", Kind.INGRESS)]
    assert all(type(o) is Ingress for o in found.objects.values())
    assert [(v.object, v.field) for v in found.verdicts] == [("IngressList", "items[2]")]


@pytest.mark.parametrize("items", ["", "items: []", "items: null"])
def test_empty_lists(items: str) -> None:
    found = read(f"apiVersion: v1\nkind: List\n{items}\n")
    assert found == Manifest(documents=found.documents)


def test_lists_nested_without_end() -> None:
    text = "kind: List\nitems: [{kind: Service}]"
    for _ in range(12):
        text = "kind: List\nitems:\n- " + text.replace("\n", "\n  ")
    found = read(text)
    assert [v.field for v in found.verdicts] == ["items"]


def test_the_same_object_twice_in_a_file() -> None:
    found = read(service("a") + "---\n" + service("a", 81) + "---\n" + service("a", 82))
    assert found.objects[ref("a")].origin == "f.yaml:1"
    assert [(v.reason, v.origin) for v in found.verdicts] == [
        (VerdictReason.DUPLICATE_OBJECT, "f.yaml:9"),
        (VerdictReason.DUPLICATE_OBJECT, "f.yaml:17"),
    ]
    assert all("f.yaml:1 is used" in v.message and v.origin in v.message for v in found.verdicts)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        (service("a") + "---\na: [1,\n", "f.yaml:10:1"),
        (service("a") + "---\njust text\n", "f.yaml:9:1"),
        (service("a") + "---\n- 1\n", "f.yaml:9:1"),
        (service("a").encode() + b"# \xff\n", "f.yaml:8:3"),
        (b"\xff\xfea", "f.yaml:1:3"),
        (service("a") + "x: \x00\n", "f.yaml:8:4"),
    ],
)
def test_a_file_that_does_not_parse_says_where_and_gives_nothing(text: str | bytes, origin: str) -> None:
    found = read(text)
    assert not found.objects
    assert [(v.reason, v.origin) for v in found.errors] == [(VerdictReason.PARSE_ERROR, origin)]
    assert "\n" not in str(found.errors[0])


def test_every_broken_document_is_named_up_to_a_limit() -> None:
    assert len(read("---\n[\n" * 3).errors) == 3
    assert len(read("".join(f"---\n[ # {n}\n" for n in range(300))).errors) == 20


def test_readable_documents_of_a_broken_file_are_kept_for_the_next_attempt() -> None:
    first = read(service("a") + "---\n" + service("b"))
    broken = read(service("a") + "---\n" + service("b") + "---\n[", first)
    fixed = read(service("a") + "---\n" + service("b") + "---\n" + service("c"), broken)
    assert fixed.objects[ref("a")] is first.objects[ref("a")]
    assert list(fixed.objects) == [ref(n) for n in "abc"]


def test_an_object_that_does_not_decode_hurts_only_itself() -> None:
    bad = "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec: {ports: [{port: x}]}\n"
    found = read(service("a") + "---\n" + bad + "---\nkind: Deployment\n---\nx: 1\n")
    assert list(found.objects) == [ref("a")]
    assert list(found.broken) == [ref("bad")]
    assert [(v.object, v.field, v.origin) for v in found.verdicts] == [
        ("Service default/bad", "spec.ports[0].port", "f.yaml:9"),
        ("object", "kind", "f.yaml:17"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str) -> None:
    assert list(read(service("a").encode(encoding)).objects) == [ref("a")]


def test_json() -> None:
    text = '\n{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},\n\t"spec":{"ports":[{"port":80}]}}'
    for is_json in (True, False):
        found = read(text if is_json else text.lstrip(), is_json=is_json)
        assert [(r, o.origin) for r, o in found.objects.items()] == [(ref("a"), f"f.yaml:{1 + is_json}")]
    (error,) = read('{"a":\n x}', is_json=True).errors
    assert error.origin == "f.yaml:2:2"
    assert list(read("{kind: Service, apiVersion: v1, metadata: {name: a}}").objects) == [ref("a")]


def test_a_timestamp_stays_text() -> None:
    found = read(service("a").replace("name: a", "name: a\n  creationTimestamp: 2024-01-01T00:00:00Z"))
    assert found.objects[ref("a")].metadata.creation_timestamp == "2024-01-01T00:00:00Z"


def test_an_alias_bomb_in_a_field_that_is_read() -> None:
    text = (
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nspec:\n  rules:\n"
        "  - &r {http: {paths: &p [" + ", ".join(["{backend: {}}"] * 1000) + "]}}\n" + "  - *r\n" * 1000
    )
    started = time.process_time()
    assert "aliases expand" in read(text).errors[0].message
    assert time.process_time() - started < 2.0


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(data: bytes, is_json: bool) -> None:
    found = read(data, is_json=is_json)
    assert not (found.errors and found.objects)


_words = st.sampled_from(
    [
        "kind: ",
        "List",
        "Ingress",
        "Service",
        "apiVersion: v1",
        "metadata:",
        "name: a",
        "items:",
        "- ",
        "\n",
        "  ",
        "---\n",
    ]
    + [
        "spec: ",
        "rules: ",
        "&a ",
        "*a ",
        "<<: ",
        "{",
        "}",
        "[",
        "]",
        "null",
        "80",
        "'",
        "#",
        "%YAML 1.1\n",
        "...\n",
        ", ",
    ]
)


@settings(max_examples=300)
@given(st.lists(_words, max_size=40).map("".join))
def test_any_near_manifest(text: str) -> None:
    read(service("a") + "---\n" + text)
    read(text)
