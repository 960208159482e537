"""The maintenance page: for everybody but those who do the work, and never failing open."""

import json

import pytest

from ingress.middleware.maintenance import address_matcher
from tests.middleware.rules import HOST, Rules, one, problems
from tests.proxy.support import until

ON = {"maintenance": "true"}
PAGES = {"pages": {"index.html": "<h1>Back at noon</h1>\u00e4", "other": "x"}}


async def test_the_built_in_page() -> None:
    async with one({**ON, "maintenance-retry-after": "3600"}) as (proxy, backend):
        client = await proxy.client()
        for method in ("GET", "POST", "HEAD"):
            got = await client.get("/x", HOST, "Accept: application/json", method=method)
            assert got.status == 503
            assert got.value("Retry-After") == b"3600"
            assert got.value("Cache-Control") == b"no-store"
            if method == "GET":
                assert json.loads(got.body)["status"] == 503
        assert backend.requests == []
        await until(lambda: len(proxy.log.records) == 3)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("index.html", b"text/html; charset=utf-8"),
        ("index.json", b"application/json"),
        ("index.txt", b"text/plain; charset=utf-8"),
    ],
)
async def test_a_page_of_ones_own(key: str, kind: bytes) -> None:
    maps = {"pages": {key: "Back at noon \u00e4", "zzz": "not this"}}
    async with one({**ON, "maintenance-page": "pages"}, config_maps=maps) as (proxy, _):
        client = await proxy.client()
        got = await client.get("/", HOST)
        assert (got.status, got.body, got.value("Content-Type")) == (503, "Back at noon \u00e4".encode(), kind)
        assert got.values("Retry-After") == []
        old = await client.request(f"GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        assert (old.status, old.body) == (503, got.body)


@pytest.mark.parametrize(
    ("allow", "status"), [("127.0.0.0/8", 200), ("10.0.0.0/8, 127.0.0.1", 200), ("10.0.0.0/8", 503), ("::/0", 503)]
)
async def test_who_gets_through(allow: str, status: int) -> None:
    async with one({**ON, "maintenance-allow": allow}) as (proxy, _):
        assert (await (await proxy.client()).get("/", HOST)).status == status


async def test_switched_off() -> None:
    async with one({"maintenance": "false", "maintenance-page": "missing", "maintenance-allow": "x"}) as (proxy, _):
        assert (await (await proxy.client()).get("/", HOST)).status == 200
    assert not Rules({"maintenance": "false", "maintenance-page": "missing"}).verdicts()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("maintenance-page", "missing", "does not exist"),
        ("maintenance-page", "empty", "none of index.html"),
        ("maintenance-page", "large", "larger than"),
        ("maintenance-retry-after", "1h", "whole number"),
        ("maintenance-retry-after", "0", "greater than 0"),
        ("maintenance-allow", "10.0.0.0/8, nonsense", "no address"),
    ],
)
def test_bad_details_leave_it_in_force(name: str, value: str, why: str) -> None:
    rules = Rules({**ON, name: value}, config_maps={"empty": {}, "large": {"index.html": "x" * 200_000}})
    assert why in problems(rules)[name]
    policy = rules.policy("maintenance")
    assert policy is not None
    assert policy.get("allowed", ()) == (("10.0.0.0/8",) if name == "maintenance-allow" else ())


def test_a_bad_switch() -> None:
    rules = Rules({"maintenance": "yes"})
    assert rules.policy("maintenance") is None
    assert list(problems(rules)) == ["maintenance"]


def test_addresses() -> None:
    matches = address_matcher(("10.0.0.0/8", "2001:db8::/32"))
    assert [a for a in ("10.1.2.3", "2001:db8::1", "11.0.0.1", "::1", "unix", "") if matches(a)] == [
        "10.1.2.3",
        "2001:db8::1",
    ]
