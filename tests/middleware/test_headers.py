"""`custom-headers` of ingress-nginx, and our own header rules."""

import pytest

from ingress.exchange import ResponseHead, field_pieces
from ingress.middleware.fields import add_vary
from ingress.middleware.header_rules import Action, parse_rule
from ingress.translate.options import Options
from tests.middleware.rules import HOST, Rules, one, problems, serving
from tests.proxy.support import answer

ALLOWED = Options(allowed_response_headers=("My-Custom-Header", "my-custom-header-dollar", "Content-Security-Policy"))
MAPS = {"headers": {"My-Custom-Header": "42", "My-Custom-Header-Dollar": "$remote_addr"}}


# ---- custom-headers ----


async def test_headers_of_a_config_map() -> None:
    upstream = answer(fields=[(b"my-custom-header", b"1"), (b"My-Custom-Header", b"2"), (b"X-Other", b"3")])
    async with one({"custom-headers": "default/headers"}, upstream, ALLOWED, config_maps=MAPS) as (proxy, _):
        client = await proxy.client()
        for method in ("GET", "HEAD"):
            got = await client.get("/", HOST, method=method)
            assert got.status == 200
            assert got.value("My-Custom-Header") == b"42"
            assert got.value("My-Custom-Header-Dollar") == b"$remote_addr"  # literal
            assert got.value("X-Other") == b"3"


async def test_errors_have_them_too() -> None:
    rules = Rules({"custom-headers": "headers"}, ALLOWED, config_maps=MAPS)
    async with serving(rules, {}) as (proxy, _):
        got = await (await proxy.client()).get("/", HOST)
        assert (got.status, got.value("My-Custom-Header")) == (503, b"42")


@pytest.mark.parametrize(
    ("maps", "reference", "why"),
    [
        ({}, "default/headers", "does not exist"),
        (MAPS, "other/headers", "allow-cross-namespace-resources"),
        (MAPS, "a/b/c", "not the name"),
        ({"headers": {"X-Not-Listed": "1"}}, "headers", "global-allowed-response-headers"),
        ({"headers": {"My Custom": "1"}}, "headers", "not the name of a header"),
        ({"headers": {"My-Custom-Header": "a\r\nSet-Cookie: b"}}, "headers", "printable ASCII"),
        ({"headers": {"My-Custom-Header": ""}}, "headers", "is empty"),
        ({"headers": {"Content-Length": "1"}}, "headers", "the proxy's own"),
    ],
)
async def test_what_cannot_be_used_closes_the_routes(maps: dict[str, dict[str, str]], reference: str, why: str) -> None:
    rules = Rules({"custom-headers": reference}, ALLOWED, config_maps=maps)
    assert why in problems(rules)["custom-headers"]
    async with serving(rules, {"web": None}) as (proxy, _):
        assert rules.route().upstream is None
        assert (await (await proxy.client()).get("/", HOST)).status == 503


def test_an_empty_config_map_is_nothing() -> None:
    rules = Rules({"custom-headers": "headers"}, ALLOWED, config_maps={"headers": {}})
    assert rules.policy("custom-headers") is None
    assert not rules.verdicts()


# ---- rules ----


@pytest.mark.parametrize(
    ("line", "action", "name"),
    [
        ("set X-Team: storefront", Action.SET, "X-Team"),
        ("  add Link:</a>; rel=preload  ", Action.ADD, "Link"),
        ("remove X-Powered-By", Action.REMOVE, "X-Powered-By"),
        ("set X-Empty:", Action.SET, "X-Empty"),
        ("set X-Colons: a:b:c", Action.SET, "X-Colons"),
    ],
)
def test_lines(line: str, action: Action, name: str) -> None:
    rule = parse_rule(line, ())
    assert (rule.action, rule.name) == (action, name)


@pytest.mark.parametrize(
    "line",
    [
        "X-Team: a",
        "put X-Team: a",
        "set X-Team",
        "set : a",
        "set X Team: a",
        "remove X-Team: a",
        "set X-Team: \x01",
        "set X-Team: ä",
        "set X-Team: $nonsense",
        "set X-Team: ${host",
        "set X-Team: " + "x" * 5000,
        "set Host: a",
        "add content-length: 1",
        "set Transfer-Encoding: chunked",
        "set X-Forwarded-For: 1.1.1.1",
        "remove Connection",
    ],
)
def test_bad_lines_cost_only_themselves(line: str) -> None:
    rules = Rules({"request-headers": f"set X-First: 1\n{line}\n\nset X-Last: 2"})
    policy = rules.policy("header-rules")
    assert policy is not None
    assert [rule["name"] for rule in policy["request"]] == ["X-First", "X-Last"]
    assert "Line 2 is left out" in problems(rules)["request-headers"]


def test_too_many_lines() -> None:
    rules = Rules({"response-headers": "\n".join(f"set X-{n}: 1" for n in range(70))})
    policy = rules.policy("header-rules")
    assert policy is not None
    assert len(policy["response"]) == 64
    assert "more than 64" in problems(rules)["response-headers"]


async def test_rules_in_both_directions() -> None:
    annotations = {
        "request-headers": "set X-Team: storefront\nset X-Where: $scheme://$host$request_uri\nadd X-Tag: 2\nremove X-Secret\nset X-Team: last",
        "response-headers": "remove X-Powered-By\nadd Link: </style.css>; rel=preload\nset X-Method: $request_method",
    }
    upstream = answer(fields=[(b"x-powered-by", b"x"), (b"Link", b"</a>"), (b"X-Method", b"z")])
    async with one(annotations, upstream) as (proxy, backend):
        client = await proxy.client()
        got = await client.get("/p?q=1", HOST, "x-team: spoofed", "X-Tag: 1", "X-SECRET: s", "X-Kept: k")
        (request,) = backend.requests
        assert request.values("X-Team") == [b"last"]
        assert request.value("X-Where") == b"http://app.test/p?q=1"
        assert request.values("X-Tag") == [b"1", b"2"]
        assert request.value("X-Secret") is None
        assert request.value("X-Kept") == b"k"
        assert got.values("X-Powered-By") == []
        assert got.values("Link") == [b"</a>", b"</style.css>; rel=preload"]
        assert got.value("X-Method") == b"GET"


# ---- Vary ----


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [b"Origin"]),
        ([b"Accept"], [b"Accept", b"Origin"]),
        ([b"accept, ORIGIN"], [b"accept, ORIGIN"]),
        ([b"*"], [b"*"]),
        ([b"X-Origin"], [b"X-Origin", b"Origin"]),
    ],
)
def test_add_vary(before: list[bytes], after: list[bytes]) -> None:
    head = ResponseHead(200, field_pieces((b"Vary", value) for value in before), 0)
    add_vary(head, b"Origin")
    assert head.fields[2::4] == after
