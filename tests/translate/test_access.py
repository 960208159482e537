"""Values of access rules: what is accepted, and what each refusal names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.translate import access


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        ("18.0.0.0/8, 56.0.0.1", ("18.0.0.0/8", "56.0.0.1/32")),
        ("10.1.2.3/8", ("10.0.0.0/8",)),  # as Go's ParseCIDR
        ("2001:db8::/32,10.0.0.1", ("10.0.0.1/32", "2001:db8::/32")),
        ("::1", ("::1/128",)),
        ("::ffff:10.0.0.1", ("10.0.0.1/32",)),
        ("::ffff:10.0.0.0/104", ("10.0.0.0/8",)),
        ("0.0.0.0/0,::/0", ("0.0.0.0/0", "::/0")),
        ("10.0.0.1,10.0.0.1/32", ("10.0.0.1/32",)),
    ],
)
def test_networks(text: str, wanted: tuple[str, ...]) -> None:
    assert access.networks(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10.0.0.0/8,",
        ",",
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/",
        "all",
        "fe80::1%eth0",
        "10.0.0.0/-1",
    ]
    + ["10.0.0.0/8;10.0.0.1", "10.0.0.0/8 10.0.0.1", "::/129", "01.2.3.4", "10.0.0.0/٨", "/8", "1" * 300],
)
def test_bad_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"entry is empty|neither an address"):
        access.networks(text)


@pytest.mark.parametrize(
    ("text", "wanted", "host"),
    [
        ("http://auth", ("http", "auth", "/"), "auth"),
        (
            "http://auth.ns.svc.cluster.local:4180/oauth2/auth",
            ("http", "auth.ns.svc.cluster.local:4180", "/oauth2/auth"),
            "auth.ns.svc.cluster.local",
        ),
        (
            "https://auth.test/check?a=b&c=$request_uri",
            ("https", "auth.test", "/check?a=b&c=$request_uri"),
            "auth.test",
        ),
        ("http://$host/auth", ("http", "$host", "/auth"), "$host"),
        ("http://${host}:$server_port/", ("http", "${host}:$server_port", "/"), "${host}"),
        ("http://[2001:db8::1]:8080/", ("http", "[2001:db8::1]:8080", "/"), "[2001:db8::1]"),
        ("http://[::1]", ("http", "[::1]", "/"), "[::1]"),
        ("http://auth?x=1", ("http", "auth", "/?x=1"), "auth"),
    ],
)
def test_url(text: str, wanted: tuple[str, str, str], host: str) -> None:
    url = access.url(text)
    assert tuple(url) == wanted
    assert url.host == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "auth",
        "/auth",
        "//auth/",
        "ftp://auth",
        "http:///x",
        "http://",
        "https://invalid..auth.url",
        "http://u:p@auth/",
        "http://auth:0/",
    ]
    + [
        "http://auth:99999/",
        "http://auth:/",
        "http://:80/",
        "http://a b/",
        "http://a\r\nX: y/",
        'http://a/"',
        "http://a/#f",
        "http://ä/",
    ]
    + ["http://[::g]/", "http://[::1", "http://a:b:80/", "http://a/\\", "http://" + "a" * 5000, "$scheme://a/"],
)
def test_bad_url(text: str) -> None:
    with pytest.raises(ValueError):
        access.url(text)


def test_signin() -> None:
    for text in (
        "https://$host/oauth2/start?rd=$escaped_request_uri",
        "/login",
        "$scheme://$host/x",
        "$pass_access_scheme://a/",
    ):
        assert access.signin(text) == text
    for text in ("", "login", "javascript:alert(1)", "//\\evil", "http://a\n", "mailto:a@b"):
        with pytest.raises(ValueError):
            access.signin(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("200 202 10m, 401 5m", ((200, 600.0), (202, 600.0), (401, 300.0))),
        ("200 1h 30m", ((200, 5400.0),)),
        ("5m", ((200, 300.0), (301, 300.0), (302, 300.0))),
        ("any 1s", ((0, 1.0),)),
        ("200 500ms", ((200, 0.5),)),
        ("200 0s", ((200, 0.0),)),
        ("200  1M,", ((200, 2592000.0),)),
        ("200 900000000y", ((200, 31536000.0),)),
        ("", access.DEFAULT_CACHE_DURATIONS),
        (" , ", access.DEFAULT_CACHE_DURATIONS),
    ],
)
def test_cache_durations(text: str, wanted: tuple[tuple[int, float], ...]) -> None:
    assert access.cache_durations(text) == wanted


@pytest.mark.parametrize(
    "text", ["200", "5m 200", "200 5", "200 5x", "20 5m", "abc 5m", "2000 5m", "099 5m", "200 5m 401", "-1s"]
)
def test_bad_cache_durations(text: str) -> None:
    with pytest.raises(ValueError):
        access.cache_durations(text)


def test_header_names() -> None:
    assert access.header_names("X-A, x-a,Remote_User ,,Authorization") == ("X-A", "Remote_User", "Authorization")
    assert access.header_names("") == ()
    for text in (
        "X A",
        "X:A",
        "Ä",
        "X\r\nY",
        "Host",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "Upgrade",
        "a" * 300,
    ):
        with pytest.raises(ValueError):
            access.header_names(text)


def test_the_rest() -> None:
    assert access.method("POST") == "POST"
    assert access.redirect_param("rd") == "rd"
    assert access.header_text("a b") == "a b"
    for read, text in (
        (access.method, "post"),
        (access.method, "CONNECT"),
        (access.method, ""),
        (access.redirect_param, "a&b"),
        (access.redirect_param, ""),
        (access.header_text, "a\r\nb"),
        (access.header_text, "ä"),
        (access.header_text, "a" * 5000),
    ):
        with pytest.raises(ValueError):
            read(text)


def test_exempt_paths() -> None:
    prefixes = access.paths("/.well-known/acme-challenge, /noauth,,")
    assert prefixes == ("/.well-known/acme-challenge", "/noauth")
    assert access.is_exempt("/noauth", prefixes)
    assert access.is_exempt("/noauth2/x", prefixes)  # text, as in ingress-nginx
    assert not access.is_exempt("/", prefixes)
    assert not access.is_exempt("/", access.paths(""))


@given(st.text(max_size=60) | st.text("0123456789./:,fx ", max_size=60))
def test_only_value_errors(text: str) -> None:
    for read in (
        access.networks,
        access.url,
        access.signin,
        access.cache_durations,
        access.header_names,
        access.method,
    ):
        try:
            read(text)
        except ValueError as refusal:
            why = str(refusal)
            assert why  # most texts are refused, some are not
