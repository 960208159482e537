"""Clients that are turned away by options: on every route, and where there is none."""

import pytest

from ingress.routing.table import RoutingTable
from tests.proxy.options import Options
from tests.proxy.support import Proxy, one_backend

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/68.0.3440.106 Safari/537.36"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 11_4_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/11.0"
)


async def statuses(proxy: Proxy, field: str, values: list[str]) -> list[int]:
    client = await proxy.client()
    return [(await client.get("/", "a", f"{field}: {value}")).status for value in values]


async def test_networks() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend)
        client = await proxy.client()
        options.set(block_cidrs="172.16.0.0/12, 127.0.0.1,2001:db8::/32")
        assert (await client.get()).status == 403
        assert (await client.get("/", "nobody")).status == 403
        options.set(block_cidrs="172.16.0.0/12")
        assert (await client.get()).status == 200  # the same connection


async def test_user_agents() -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend).set({"block-user-agents": r"~*chrome\/68\.0\.3440\.106\ safari\/537\.36,AlphaBot"})
        found = await statuses(proxy, "User-Agent", [CHROME, "AlphaBot", "alphabot", "AlphaBot/2", IPHONE])
        assert found == [403, 403, 403, 200, 200]
        assert (await (await proxy.client()).get()).status == 200  # without any


async def test_referers() -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend).set({"block-referers": r"~*example\.com,qwerty"})
        found = await statuses(proxy, "Referer", ["example.com", "http://EXAMPLE.com/x", "qwerty", "qwerty123"])
        assert found == [403, 403, 403, 200]


async def test_where_there_is_no_route() -> None:
    async with Proxy() as proxy:
        options = Options(proxy)
        made = options.set(block_user_agents="bot")
        proxy.plane.swap(RoutingTable("empty", settings=made.settings))
        assert await statuses(proxy, "User-Agent", ["bot", "other"]) == [403, 404]


async def test_a_body_that_was_announced_is_read_and_dropped() -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend).set(block_cidrs="127.0.0.0/8")
        client = await proxy.client()
        assert (await client.post(b"x" * 1000)).status == 403
        assert (await client.post(b"x" * 1000)).status == 403
        assert not backend.requests


@pytest.mark.parametrize("pattern", ["~(a+)+$", "~*(x|xx)*y", "~^(.*a){20}"])
async def test_no_expression_blows_up(pattern: str) -> None:
    """RE2 is linear: what takes other engines years takes no time here."""
    async with one_backend() as (proxy, backend):
        Options(proxy, backend).set(block_user_agents=pattern)
        assert (await statuses(proxy, "User-Agent", ["a" * 4000 + "!"]))[0] in (200, 403)
