"""Cookies and redirects of endpoints rewritten: nginx's proxy_cookie_domain, proxy_cookie_path and proxy_redirect."""

import pytest

from ingress.translate.options import Options
from tests.middleware.rules import HOST, Rules, one, problems, serving
from tests.proxy.support import answer


async def _rewritten(annotations: dict[str, str], name: str, value: str, options: Options | None = None) -> str:
    upstream = answer(status=302, fields=[(b"X-A", b"1"), (name.encode(), value.encode()), (b"X-B", b"2")])
    async with one(annotations, upstream, options or Options()) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST)
        assert (got.status, got.value("X-A"), got.value("X-B")) == (302, b"1", b"2")
        (found,) = got.values(name)
        return found.decode()


@pytest.mark.parametrize(
    ("rule", "cookie", "expected"),
    [
        ("localhost example.org", "a=b; Domain=localhost; Path=/", "a=b; Domain=example.org; Path=/"),
        ("localhost example.org", "a=b;domain=LOCALHOST", "a=b;domain=example.org"),
        ("localhost example.org", "a=b; Domain=.localhost", "a=b; Domain=.example.org"),  # the dot is not looked at
        (".localhost .example.org", "a=b; Domain=localhost", "a=b; Domain=example.org"),
        ("localhost example.org", "a=b; Domain=sub.localhost", "a=b; Domain=sub.localhost"),  # only the whole
        ("localhost example.org", "localhost=localhost", "localhost=localhost"),
        ("localhost $host", "a=b; Domain=localhost", "a=b; Domain=app.test"),
        ("~^(.+)\\.local$ $1.example.org", "a=b; Domain=Shop.LOCAL; Secure", "a=b; Domain=Shop.example.org; Secure"),
        ("~local example.org", "a=b; Domain=x.local.y", "a=b; Domain=example.org"),  # all of it
        ("off", "a=b; Domain=localhost", "a=b; Domain=localhost"),
    ],
)
async def test_cookie_domain(rule: str, cookie: str, expected: str) -> None:
    assert await _rewritten({"proxy-cookie-domain": rule}, "Set-Cookie", cookie) == expected


@pytest.mark.parametrize(
    ("rule", "cookie", "expected"),
    [
        ("/one/ /", "a=b; Path=/one/two; HttpOnly", "a=b; Path=/two; HttpOnly"),
        ("/one/ /", "a=b; path = /one/", "a=b; path =/"),
        ("/one/ /", "a=/one/; Path=/", "a=/one/; Path=/"),
        ("/one/ /", "a=b; Path=/ONE/", "a=b; Path=/ONE/"),
        ("~*^/one/(.*)$ /$1", "a=b; Path=/ONE/x", "a=b; Path=/x"),
        ("~^/one/(.*)$ /$1", "a=b; Path=/ONE/x", "a=b; Path=/ONE/x"),
        ("~^/u/([^/]+)/ /$http_x_injected/$1", "a=b; Path=/u/7/", "a=b; Path=//7"),
        ("/one/ /", "a=b; Path", "a=b; Path"),
    ],
)
async def test_cookie_path(rule: str, cookie: str, expected: str) -> None:
    assert await _rewritten({"proxy-cookie-path": rule}, "Set-Cookie", cookie) == expected


async def test_a_variable_cannot_add_an_attribute() -> None:
    upstream = answer(fields=[(b"Set-Cookie", b"a=b; Path=/one/")])
    async with one({"proxy-cookie-path": "/one/ /$http_x_evil"}, upstream) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST, "X-Evil: x; Domain=evil.test")
        assert got.value("Set-Cookie") == b"a=b; Path=/one/"


async def test_several_cookies_and_rules() -> None:
    fields = [
        (b"Set-Cookie", b"a=1; Domain=localhost; Path=/one/"),
        (b"set-cookie", b"b=2"),
        (b"SET-COOKIE", b"c=3; path=/one/x"),
    ]
    rules = {"proxy-cookie-domain": "localhost example.org", "proxy-cookie-path": "/one/ /"}
    async with one(rules, answer(fields=fields)) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST)
        assert got.values("Set-Cookie") == [b"a=1; Domain=example.org; Path=/", b"b=2", b"c=3; path=/x"]


@pytest.mark.parametrize(
    ("find", "put", "location", "expected"),
    [
        ("hello.com", "goodbye.com", "hello.com/x", "goodbye.com/x"),
        ("http://hello.com/", "https://goodbye.com/app/", "http://hello.com/x?y=z", "https://goodbye.com/app/x?y=z"),
        ("http://hello.com/", "/", "http://hello.com/x", "/x"),
        ("http://hello.com/", "$scheme://$host/", "http://hello.com/x", "http://app.test/x"),
        ("http://hello.com/", "/", "http://HELLO.com/x", "http://HELLO.com/x"),
        ("~^http://([^/]+)/(.*)$", "https://$1.example.org/$2", "http://a/b/c", "https://a.example.org/b/c"),
        ("~*^HTTP://", "https://fixed/", "http://a/b/c", "https://fixed/"),
        ("off", "goodbye.com", "hello.com", "hello.com"),
        ("default", "goodbye.com", "http://upstream_balancer/x", "http://upstream_balancer/x"),
        ("hello.com", "off", "hello.com", "hello.com"),
    ],
)
async def test_redirects(find: str, put: str, location: str, expected: str) -> None:
    annotations = {"proxy-redirect-from": find, "proxy-redirect-to": put}
    assert not Rules(annotations).verdicts()
    assert await _rewritten(annotations, "Location", location) == expected


@pytest.mark.parametrize(
    ("refresh", "expected"),
    [
        ("5; url=http://a/x", "5; url=/x"),
        ("0;URL='http://a/x'", "0;URL='/x'"),
        ("5", "5"),
        ("5; url=http://b/", "5; url=http://b/"),
    ],
)
async def test_refresh(refresh: str, expected: str) -> None:
    assert (
        await _rewritten({"proxy-redirect-from": "http://a/", "proxy-redirect-to": "/"}, "Refresh", refresh) == expected
    )


async def test_from_alone_does_nothing() -> None:
    assert Rules({"proxy-redirect-from": "hello.com"}).policy("rewriting") is None


async def test_options_are_the_default() -> None:
    options = Options(proxy_cookie_path="/one/ /", proxy_redirect_from="http://a/", proxy_redirect_to="/")
    assert await _rewritten({}, "Set-Cookie", "a=b; Path=/one/x", options) == "a=b; Path=/x"
    assert await _rewritten({}, "Location", "http://a/x", options) == "/x"
    assert (
        await _rewritten({"proxy-cookie-path": "off"}, "Set-Cookie", "a=b; Path=/one/x", options) == "a=b; Path=/one/x"
    )


async def test_answers_of_our_own_are_left_alone() -> None:
    rules = Rules({"proxy-redirect-from": "http://a/", "proxy-redirect-to": "/", "enable-cors": "true"})
    async with serving(rules, {}) as (proxy, _):
        assert (await (await proxy.client()).get("/", HOST)).status == 503


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("proxy-cookie-domain", "localhost", "two words"),
        ("proxy-cookie-domain", "a b c", "two words"),
        ("proxy-cookie-domain", "a b;c", "any of"),
        ("proxy-cookie-domain", "~( b", "regular expression"),
        ("proxy-cookie-domain", "~(a)(?=b) b", "regular expression"),
        ("proxy-cookie-domain", "~ b", "nothing to look for"),
        ("proxy-cookie-path", "~a $1", "no group"),
        ("proxy-cookie-path", "/a /$2", "no group"),
        ("proxy-cookie-path", "/a /$nonsense", "not a variable"),
        ("proxy-cookie-path", "/ä /", "printable ASCII"),
        ("proxy-cookie-path", "/a " + "x" * 2000, "longer"),
        ("proxy-cookie-path", "~" + "(a{1,1000}){1,1000} b", "regular expression"),
    ],
)
def test_bad_values(name: str, value: str, why: str) -> None:
    rules = Rules({name: value})
    assert why in problems(rules)[name]
    assert rules.policy("rewriting") is None


def test_bad_redirects() -> None:
    assert (
        "regular expression"
        in problems(Rules({"proxy-redirect-from": "~(", "proxy-redirect-to": "/"}))["proxy-redirect-to"]
    )


async def test_hostile_text_costs_no_time() -> None:
    cookie = "a=b; Path=/" + "a" * 6000 + "!"
    assert await _rewritten({"proxy-cookie-path": "~^/(a+)+$ /x"}, "Set-Cookie", cookie) == cookie
