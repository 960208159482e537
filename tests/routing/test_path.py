import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.routing.path import decoded_view, normalize_path, normalize_rule_path


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/b/", b"/a/b/"),
        (b"//a///b", b"/a/b"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/..a", b"/..a"),
        (b"/.well-known/acme-challenge/x", b"/.well-known/acme-challenge/x"),
        (b"/%61", b"/a"),
        (b"/%7euser", b"/~user"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/%2e%2e/x/%2E/y/..%2f", b"/x/y/..%2F"),
        (b"/a%20b", b"/a%20b"),
        ("/ü".encode(), b"/%C3%BC"),
        (b"/%c3%bc", b"/%C3%BC"),
        (b"/{a}|b", b"/{a}|b"),
    ],
)
def test_normal_form(raw: bytes, normal: bytes) -> None:
    if raw.startswith(b"/%2e%2e"):
        with pytest.raises(ValueError, match="above the root"):
            normalize_path(raw)
        raw = b"/q" + raw
    assert normalize_path(raw) == normal


@pytest.mark.parametrize("bad", [b"", b"a", b"*", b"/..", b"/a/../../b", b"/%2e%2e", b"/%", b"/%4", b"/%zz", b"/%00"])
def test_what_has_no_normal_form(bad: bytes) -> None:
    with pytest.raises(ValueError, match="it "):
        normalize_path(bad)


@given(st.binary(max_size=40).map(lambda b: b"/" + b))
def test_normal_form_is_stable_and_clean(raw: bytes) -> None:
    try:
        normal = normalize_path(raw)
    except ValueError:
        return
    assert normalize_path(normal) == normal
    assert normal.startswith(b"/")
    assert b"//" not in normal
    assert not any(segment in (b".", b"..") for segment in normal.split(b"/"))


@pytest.mark.parametrize(
    ("path", "view"),
    [
        (b"/a/b", None),
        (b"/a%2Fb", b"/a/b"),
        (b"/x%2F..%2Fadmin", b"/admin"),
        (b"/a%5Cb", b"/a/b"),
        (b"/a\\..\\b", b"/b"),
    ],
)
def test_decoded_view(path: bytes, view: bytes | None) -> None:
    assert decoded_view(path) == view


def test_a_decoded_view_above_the_root_is_refused() -> None:
    with pytest.raises(ValueError, match="above the root"):
        decoded_view(b"/..%2F..")


@pytest.mark.parametrize(
    ("path", "normal"),
    [("/", "/"), ("/foo/", "/foo/"), ("/ü", "/%C3%BC"), ("/%7Ex", "/~x"), ("/api:batch", "/api:batch")],
)
def test_rule_paths(path: str, normal: str) -> None:
    assert normalize_rule_path(path) == normal


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "foo",
        "//",
        "/a//b",
        "/./a",
        "/../a",
        "/a/..",
        "/a/.",
        "/a%2Fb",
        "/a b",
        "/a\n",
        "/a?b",
        "/a#b",
        "/%2e%2e/a",
        "/" + "a" * 5000,
    ],
)
def test_rule_paths_that_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="it "):
        normalize_rule_path(bad)
