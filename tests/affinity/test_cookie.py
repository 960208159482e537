from http.cookies import SimpleCookie
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.affinity.cookie import (
    StickyCookie,
    decode,
    encode,
    endpoint_digest,
    endpoint_digests,
    new_key,
    parse_cookie_header,
    set_cookie,
    upstream_digest,
)
from ingress.routing.table import CookieAffinity

session_keys = st.from_regex(r"[A-Za-z0-9._~-]{1,128}", fullmatch=True)
UPSTREAM = "default/toad:80"


@given(session_keys, st.text())
def test_decode_undoes_encode(key: str, upstream: str) -> None:
    upstream = upstream.encode("utf-8", "replace").decode()
    assert decode(encode(key, upstream)) == StickyCookie(key, upstream_digest(upstream))


@given(st.randoms(use_true_random=False), st.text(alphabet="abc/:0123456789#", max_size=40))
def test_own_keys_can_be_encoded(rng: Random, upstream: str) -> None:
    assert decode(encode(new_key(rng), upstream)) is not None
    assert decode(encode(endpoint_digest(upstream, "10.0.0.1:80"), upstream)) is not None


@given(st.binary(max_size=400))
def test_any_bytes_decode_or_are_none(value: bytes) -> None:
    cookie = decode(value)
    if cookie is not None:
        assert cookie.key.encode() in value
        assert encode(cookie.key, UPSTREAM)


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        (b"1700000000.123.45.678901|0123456789abcdef", ("1700000000.123.45.678901", "0123456789abcdef")),
        (b"abc", ("abc", "")),
        (b"abc%7Cdef", ("abc", "def")),
        (b"abc%7cdef", ("abc", "def")),
    ],
)
def test_values_of_other_makers(value: bytes, decoded: tuple[str, str]) -> None:
    assert decode(value) == decoded


@pytest.mark.parametrize(
    "value",
    [b"", b"|", b"abc|", b"|abc", b"a|b|c", b"a b", b"a\n", b"\nabc", b"a;b", b"\xff", b"x" * 129, b"a|" + b"f" * 65],
)
def test_garbage_is_absent(value: bytes) -> None:
    assert decode(value) is None


@pytest.mark.parametrize("key", ["", "a|b", "a b", "a;b", "ü", "a\n", "x" * 129])
def test_bad_keys_are_not_encoded(key: str) -> None:
    with pytest.raises(ValueError, match="not a session key"):
        encode(key, UPSTREAM)


def test_upstream_digest_is_the_double_md5_of_ingress_nginx() -> None:
    """md5(hex of md5(name) + name), computed with md5sum."""
    assert upstream_digest("default-toad-80") == MD5


MD5 = "9b7cf169cf4088b47e624f81d8f4ef7f"


def test_digests_lead_back_to_endpoints_and_hide_them() -> None:
    keys = [f"10.0.0.{number}:8080" for number in range(200)]
    table = endpoint_digests(UPSTREAM, keys)
    assert [table[endpoint_digest(UPSTREAM, key)] for key in keys] == keys
    assert not any("10.0" in digest for digest in table)


def test_digests_depend_on_upstream_and_secret() -> None:
    digests = {
        endpoint_digest(UPSTREAM, "10.0.0.1:80"),
        endpoint_digest("default/frog:80", "10.0.0.1:80"),
        endpoint_digest(UPSTREAM, "10.0.0.1:80", b"secret"),
        endpoint_digest(UPSTREAM, "10.0.0.1:8"),
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([], None),
        ([b""], None),
        ([b"route=1"], b"1"),
        ([b"a=0; route=1; b=2"], b"1"),
        ([b"a=0;route=1;b=2"], b"1"),
        ([b"a=0", b"b=1; route=2"], b"2"),
        ([b"route=1; route=2", b"route=3"], b"1"),
        ([b'route="1 2"'], b"1 2"),
        ([b'route="'], b'"'),
        ([b'route=""'], b""),
        ([b"route="], b""),
        ([b"route"], None),
        ([b"; ;;route=x;"], b"x"),
        ([b" \t route \t = \t 1 \t "], b"1"),
        ([b"myroute=1; route2=2; Route=3"], None),
        ([b"other=route=1"], None),
        ([b"route=a=b"], b"a=b"),
        ([b"a=\xff\x00; route=\xfe"], b"\xfe"),
    ],
)
def test_parse_cookie_header(headers: list[bytes], value: bytes | None) -> None:
    assert parse_cookie_header(headers, b"route") == value


@given(st.lists(st.binary()), st.binary())
def test_any_header_and_name_parse(headers: list[bytes], name: bytes) -> None:
    value = parse_cookie_header(headers, name)
    assert value is None or any(value in header for header in headers)


def test_scan_is_bounded() -> None:
    assert parse_cookie_header([b"a=1; " * 10_000 + b"route=1"], b"route") is None


@given(session_keys, st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True))
def test_what_is_set_is_what_comes_back(key: str, name: str) -> None:
    field = set_cookie(CookieAffinity(name=name), encode(key, UPSTREAM), path="/", https=False, now_epoch=0.0)
    pair = field.partition(b";")[0]
    found = parse_cookie_header([b"first=1; " + pair], name.encode())
    assert found is not None
    assert decode(found) == (key, upstream_digest(UPSTREAM))


def test_set_cookie_least() -> None:
    field = set_cookie(CookieAffinity(), b"k|d", path="/app", https=False, now_epoch=0.0)
    assert field == b"INGRESSCOOKIE=k|d; Path=/app; HttpOnly"


def test_set_cookie_most() -> None:
    policy = CookieAffinity(
        name="route", path="/own", domain="example.com", same_site="Lax", max_age_s=3600, expires_s=10, secure=True
    )
    assert set_cookie(policy, b"k|d", path="/app", https=False, now_epoch=784111777.0) == (
        b"route=k|d; Path=/own; Domain=example.com; Expires=Sun, 06 Nov 1994 08:49:47 GMT; Max-Age=3600; "
        b"Secure; HttpOnly; SameSite=Lax"
    )


@pytest.mark.parametrize(
    ("secure", "https", "expected"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_secure_follows_the_request_unless_said_otherwise(secure: bool | None, https: bool, expected: bool) -> None:
    field = set_cookie(CookieAffinity(secure=secure), b"k", path="/", https=https, now_epoch=0.0)
    assert (b"Secure" in field.split(b"; ")) is expected


@given(st.text(min_size=1), st.text(), st.text(), st.text(), st.text())
def test_no_text_adds_an_attribute_or_a_line(name: str, own_path: str, domain: str, same_site: str, path: str) -> None:
    policy = CookieAffinity(name=name, path=own_path, domain=domain, same_site=same_site, max_age_s=1)
    field = set_cookie(policy, b"k|d", path=path, https=True, now_epoch=0.0)
    assert all(0x20 <= byte < 0x7F for byte in field)
    attributes = field.split(b";")[1:]
    names = [attribute.partition(b"=")[0].strip() for attribute in attributes]
    assert names == [
        b"Path",
        *([b"Domain"] if domain else []),
        b"Max-Age",
        b"Secure",
        b"HttpOnly",
        *([b"SameSite"] if same_site else []),
    ]


@pytest.mark.parametrize("seconds", [-(10**12), 10**12])
def test_expiry_beyond_what_a_date_can_say(seconds: int) -> None:
    field = set_cookie(CookieAffinity(expires_s=seconds), b"k", path="/", https=False, now_epoch=1.7e9)
    assert (
        b"Expires=Thu, 01 Jan 1970 00:00:00 GMT" if seconds < 0 else b"Expires=Fri, 31 Dec 9999 23:59:59 GMT"
    ) in field


def test_standard_library_reads_the_same() -> None:
    policy = CookieAffinity(path="/a", max_age_s=5, same_site="Strict")
    cookie = SimpleCookie(set_cookie(policy, b"k", path="/", https=True, now_epoch=0.0).decode())["INGRESSCOOKIE"]
    assert (cookie.value, cookie["path"], cookie["max-age"], cookie["samesite"]) == ("k", "/a", "5", "Strict")
    assert cookie["secure"] is True
    assert cookie["httponly"] is True
