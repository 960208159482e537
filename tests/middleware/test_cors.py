"""CORS: every scenario of ingress-nginx's end-to-end tests, and what is done better."""

import pytest

from ingress.middleware.cors import origin_matcher
from tests.middleware.rules import HOST, Rules, one, problems, serving
from tests.proxy.support import answer

DEFAULT_HEADERS = (
    b"DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization"
)
ON = {"enable-cors": "true"}


def allow(origins: str) -> dict[str, str]:
    return {**ON, "cors-allow-origin": origins}


# ---- parsing ----


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ("*", None),
        ("*, foo.bar.com", None),
        ("      ", None),
        ("https://a.example:8080", ["https://a.example:8080"]),
        ("https://A.Example , null", ["https://a.example", "null"]),
        (
            "http://*.a.example:8080,tauri://localhost,foo://",
            ["http://*.a.example:8080", "tauri://localhost", "foo://"],
        ),
        ("https://a.example,   ,https://b.example,", ["https://a.example", "https://b.example"]),
    ],
)
def test_origins(origins: str, expected: list[str] | None) -> None:
    rules = Rules(allow(origins))
    policy = rules.policy("cors")
    assert policy is not None
    assert policy.get("origins") == (None if expected is None else tuple(expected))
    assert not rules.verdicts()


@pytest.mark.parametrize(
    "bad", ["origin.cors.com:8080", "https://a b", "https://a/path", "https://*.*.a", "(.*)", "a$1", "HTTPS://a"]
)
def test_a_bad_origin_costs_only_itself(bad: str) -> None:
    rules = Rules(allow(f"{bad}, https://good.example"))
    policy = rules.policy("cors")
    assert policy is not None
    assert policy["origins"] == ("https://good.example",)
    assert "is left out" in problems(rules)["cors-allow-origin"]


def test_without_a_good_origin_nobody_is_allowed() -> None:
    rules = Rules(allow("nonsense, other"))
    assert rules.policy("cors") is None
    assert "no origin is allowed" in problems(rules)["cors-allow-origin"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors-allow-methods", "GET; POST"),
        ("cors-allow-methods", "GET\nX: y"),
        ("cors-allow-headers", "X-A: b"),
        ("cors-allow-headers", "*"),
        ("cors-allow-headers", "x" * 5000),
        ("cors-expose-headers", "a$b"),
        ("cors-allow-credentials", "maybe"),
        ("cors-max-age", "1h"),
        ("cors-max-age", "99999999999"),
    ],
)
def test_bad_values_leave_the_default(name: str, value: str) -> None:
    rules = Rules({**ON, name: value})
    assert rules.policy("cors") == {}
    assert list(problems(rules)) == [name]


def test_enable_cors() -> None:
    assert list(problems(Rules({"enable-cors": "yes"}))) == ["enable-cors"]
    assert Rules({"enable-cors": "false"}).policy("cors") is None
    assert "no effect without" in problems(Rules({"cors-max-age": "5"}))["cors-max-age"]


# ---- matching ----


@pytest.mark.parametrize(
    ("origins", "good", "bad"),
    [
        (
            "https://foo.bar.com",
            "https://foo.bar.com HTTPS://FOO.BAR.COM",
            "https://fooxbar.com xhttps://foo.bar.com https://foo.bar.com:8080",
        ),
        ("http://o.com:8080", "http://o.com:8080", "http://o.com http://o.com:80800"),
        (
            "http://*.o.com",
            "http://foo.o.com http://bar-foo.o.com",
            "http://o.com http://.o.com http://a.b.o.com http://a.o.com:80 https://a.o.com http://a_b.o.com",
        ),
        ("http://*.o.com:8080", "http://abc.o.com:8080", "http://abc.o.com http://o.com:8080"),
        ("null", "null NULL", "nulll xnull"),
        ("test://localhost,tauri://localhost:3000", "test://localhost tauri://localhost:3000", "tauri://localhost"),
    ],
)
def test_matching(origins: str, good: str, bad: str) -> None:
    matches = origin_matcher(tuple(origins.split(",")))
    assert [o for o in good.split() if not matches(o.encode())] == []
    assert [o for o in (*bad.split(), "") if matches(o.encode())] == []


# ---- end to end ----


async def test_any_origin() -> None:
    async with one(ON) as (proxy, backend):
        client = await proxy.client()
        for origin in ((), ("Origin: test.origin.com",)):
            got = await client.get("/", HOST, *origin)
            assert (got.status, got.body) == (200, b"b0")
            assert got.value("Access-Control-Allow-Origin") == b"*"
            assert got.value("Access-Control-Allow-Credentials") == b"true"
            assert got.value("Access-Control-Allow-Methods") == b"GET, PUT, POST, DELETE, PATCH, OPTIONS"
            assert got.value("Access-Control-Allow-Headers") == DEFAULT_HEADERS
            assert got.value("Access-Control-Max-Age") == b"1728000"
            assert got.value("Access-Control-Expose-Headers") is None
            assert got.value("Vary") is None
        assert len(backend.requests) == 2


async def test_all_settings() -> None:
    annotations = {
        **allow("https://origin.cors.com:8080, http://*.origin.com"),
        "cors-allow-methods": "POST, GET",
        "cors-allow-headers": "DNT, User-Agent",
        "cors-allow-credentials": "false",
        "cors-expose-headers": "X-One, X-Two",
        "cors-max-age": "200",
    }
    upstream = answer(
        fields=[(b"access-control-allow-origin", b"*"), (b"Access-Control-Max-Age", b"1"), (b"Vary", b"Cookie")]
    )
    async with one(annotations, upstream) as (proxy, _):
        client = await proxy.client()
        got = await client.get("/", HOST, "Origin: HTTP://a.Origin.com")
        assert got.value("Access-Control-Allow-Origin") == b"HTTP://a.Origin.com"  # as the client wrote it
        assert got.value("Access-Control-Allow-Credentials") is None
        assert got.value("Access-Control-Allow-Methods") == b"POST, GET"
        assert got.value("Access-Control-Allow-Headers") == b"DNT, User-Agent"
        assert got.value("Access-Control-Expose-Headers") == b"X-One, X-Two"
        assert got.value("Access-Control-Max-Age") == b"200"
        assert got.values("Vary") == [b"Cookie", b"Origin"]
        other = await client.get("/", HOST, "Origin: http://no.origin.org")
        assert other.value("Access-Control-Allow-Origin") == b"*"  # what the endpoint says
        assert other.value("Access-Control-Max-Age") == b"1"
        assert other.values("Vary") == [b"Cookie", b"Origin"]


@pytest.mark.parametrize(
    ("origin", "status"), [("Origin: https://a.test", 204), ("Origin: https://b.test", 200), ("X: y", 200)]
)
async def test_preflight(origin: str, status: int) -> None:
    async with one(allow("https://a.test")) as (proxy, backend):
        client = await proxy.client()
        for _ in range(2):
            got = await client.get("/x", HOST, origin, "Access-Control-Request-Method: PUT", method="OPTIONS")
            assert got.status == status
            assert got.values("Vary") == [b"Origin"]
            if status == 204:
                assert got.value("Access-Control-Allow-Origin") == b"https://a.test"
                assert got.value("Access-Control-Allow-Methods")
                assert got.value("Content-Length") is None
            else:
                assert got.value("Access-Control-Allow-Origin") is None
        assert len(backend.requests) == (0 if status == 204 else 2)


async def test_with_any_origin_every_options_request_is_answered() -> None:
    async with one(ON) as (proxy, backend):
        client = await proxy.client()
        got = await client.get("/", HOST, method="OPTIONS")
        assert (got.status, got.value("Access-Control-Allow-Origin")) == (204, b"*")
        body = await client.post(b"x" * 10, "/", HOST, method="OPTIONS")
        assert body.status == 204
        assert (await client.get("/", HOST)).status == 200  # the connection goes on
        assert len(backend.requests) == 1


async def test_errors_of_ours_have_the_fields_too() -> None:
    rules = Rules(allow("https://a.test"))
    async with serving(rules, {}) as (proxy, _):
        client = await proxy.client()
        got = await client.get("/", HOST, "Origin: https://a.test")
        assert (got.status, got.value("Access-Control-Allow-Origin")) == (503, b"https://a.test")
        assert got.values("Vary") == [b"Accept", b"Origin"]
        head = await client.get("/", HOST, "Origin: https://a.test", method="HEAD")
        assert (head.status, head.value("Access-Control-Allow-Origin")) == (503, b"https://a.test")
        old = await client.request(b"OPTIONS / HTTP/1.0\r\nHost: app.test\r\nOrigin: https://a.test\r\n\r\n")
        assert (old.status, old.value("Connection")) == (204, b"close")
