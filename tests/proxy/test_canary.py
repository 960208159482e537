"""Which requests a canary gets: header, cookie, weight, sessions, and several of them, through a real socket."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ingress.proxy.canary import CanarySplit
from ingress.routing.table import (
    AffinityMode,
    Balancing,
    Canary,
    CanaryRule,
    CookieAffinity,
    RoutingTable,
    Upstream,
    UpstreamKey,
)
from ingress.testing import request
from ingress.translate.annotations.canary import _pattern as parse
from tests.proxy.support import Backend, Client, Proxy, table

STICKY = Balancing(affinity=AffinityMode.COOKIE, cookie=CookieAffinity("sid"))


def split(
    main: Sequence[Backend],
    canaries: Sequence[tuple[Sequence[Backend], CanaryRule]],
    balancing: Balancing | None = None,
    id: str = "t1",
) -> RoutingTable:
    made = table(main, balancing=balancing, id=id)
    (host,) = made.hosts.values()
    (route,) = host.routes
    upstreams = dict(made.upstreams)
    found = []
    for number, (backends, rule) in enumerate(canaries):
        key = UpstreamKey(f"default/canary-{number}:80")
        endpoints = tuple(sorted(backend.endpoint for backend in backends))
        upstreams[key] = Upstream(key, "default", f"canary-{number}", "80", endpoints, balancing or Balancing())
        own = msgspec.structs.replace(route, ingress=f"canary-{number}", service=f"canary-{number}", upstream=key)
        found.append(Canary(own, rule))
    route = msgspec.structs.replace(route, canaries=tuple(found))
    return msgspec.structs.replace(
        made, hosts={host.host: msgspec.structs.replace(host, routes=(route,))}, upstreams=upstreams
    )


async def answers(client: Client, count: int, *fields: str) -> Counter[str]:
    return Counter([(await client.get("/", "a", *fields)).body.decode() for _ in range(count)])


@pytest.mark.parametrize(
    ("rule", "fields", "chosen"),
    [
        (CanaryRule(header="X-Canary"), ["X-Canary: always"], True),
        (CanaryRule(header="X-Canary"), ["x-canary: always"], True),
        (CanaryRule(header="X-Canary"), ["X-Canary: Always"], False),
        (CanaryRule(header="X-Canary"), ["X-Canary: never"], False),
        (CanaryRule(header="X-Canary"), [], False),
        (CanaryRule(header="X-Canary", weight=100), ["X-Canary: never"], False),
        (CanaryRule(header="X-Canary", weight=100), ["X-Canary: something"], True),
        (CanaryRule(header="X-Canary", cookie="c"), ["X-Canary: never", "Cookie: c=always"], False),
        (CanaryRule(header="X-Canary", cookie="c"), ["X-Canary: always", "Cookie: c=never"], True),
        (CanaryRule(header="X-Canary", cookie="c"), ["X-Canary: maybe", "Cookie: c=always"], True),
        # a value of its own: always and never mean nothing then
        (CanaryRule(header="X-Canary", header_value="blue"), ["X-Canary: blue"], True),
        (CanaryRule(header="X-Canary", header_value="blue"), ["X-Canary: blues"], False),
        (CanaryRule(header="X-Canary", header_value="blue"), ["X-Canary: always"], False),
        (CanaryRule(header="X-Canary", header_value="blue", weight=100), ["X-Canary: never"], True),
        (CanaryRule(header="X-Canary", header_value="blue", header_pattern="red"), ["X-Canary: red"], False),
        (CanaryRule(header="X-Canary", header_pattern="b.ue"), ["X-Canary: the blue one"], True),
        (CanaryRule(header="X-Canary", header_pattern="^b.ue$"), ["X-Canary: the blue one"], False),
        (CanaryRule(header="X-Canary", header_pattern="^b.ue$"), ["X-Canary: always"], False),
        (CanaryRule(header="X-Canary", cookie="c", header_unusable=True), ["X-Canary: any", "Cookie: c=always"], False),
        (CanaryRule(header="X-Canary", header_unusable=True), ["X-Canary: always"], False),
        (CanaryRule(header="X-Canary", cookie="c", header_unusable=True), ["Cookie: c=always"], True),
        (CanaryRule(cookie="c"), ["Cookie: a=1; c=always; b=2"], True),
        (CanaryRule(cookie="c"), ["Cookie: c=alway"], False),
        (CanaryRule(cookie="c", weight=100), ["Cookie: c=never"], False),
        (CanaryRule(cookie="c", weight=100), ["Cookie: c=perhaps"], True),
        (CanaryRule(weight=100), [], True),
        (CanaryRule(weight=0), [], False),
        (CanaryRule(weight=200, weight_total=200), [], True),
    ],
)
async def test_rules(rule: CanaryRule, fields: list[str], chosen: bool) -> None:
    async with Proxy() as proxy:
        main, canary = await proxy.backend(name="main"), await proxy.backend(name="canary")
        proxy.plane.swap(split([main], [([canary], rule)]))
        expected = "canary" if chosen else "main"
        assert await answers(await proxy.client(), 5, *fields) == {expected: 5}
        labels = {labels[1:3] for labels, stats in proxy.metrics.snapshot().routes.items() if stats.statuses}
        assert labels == {("canary-0", "canary-0") if chosen else ("ingress", "service-0")}


@pytest.mark.parametrize(("weight", "total"), [(10, 100), (50, 100), (1, 1000)])
def test_weights_are_shares(weight: int, total: int) -> None:
    made = _split([CanaryRule(weight=weight, weight_total=total)])
    asked = request()._exchange
    count = 20_000
    got = sum(made.choose(asked) is not None for _ in range(count))
    expected = count * weight / total
    assert abs(got - expected) < 5 * (expected**0.5 + 1)  # five standard deviations, with a fixed seed


def test_several_weights_add_up() -> None:
    made = _split([CanaryRule(weight=20), CanaryRule(weight=30)])
    asked = request()._exchange
    got = Counter(getattr(made.choose(asked), "name", "main") for _ in range(20_000))
    assert abs(got["0"] - 4000) < 300
    assert abs(got["1"] - 6000) < 300


def test_ruled_out_by_name_its_share_goes_to_the_main_route() -> None:
    made = _split([CanaryRule(header="x-a", weight=50), CanaryRule(header="x-b", weight=50)])
    asked = request("GET", "http://a/", {"X-A": "never"})._exchange
    got = Counter(getattr(made.choose(asked), "name", "main") for _ in range(1000))
    assert got["0"] == 0
    assert got["1"] > 400
    assert got["main"] > 400
    chosen = made.choose(request("GET", "http://a/", {"X-A": "never", "X-B": "always"})._exchange)
    assert chosen is not None
    assert chosen.name == "1"


def test_a_pattern_means_the_bytes_of_its_text() -> None:
    for pattern in ("[a-ā]", "^é$"):
        parse(pattern)  # what a canary is checked for is what is bound
        assert _split([CanaryRule(header="x-a", header_pattern=pattern)])
    made = _split([CanaryRule(header="x-a", header_pattern="^é$")])
    asked = request("GET", "http://a/", {"X-A": "é".encode().decode("latin-1")})._exchange
    assert made.choose(asked) is not None
    with pytest.raises(ValueError, match="linear time"):
        parse("[ā-b]")


def _split(rules: Sequence[CanaryRule]) -> CanarySplit[Any]:
    def target(name: str) -> Any:
        upstream = SimpleNamespace(upstream=SimpleNamespace(key=name), serves=True, cookies=None)
        return SimpleNamespace(name=name, upstream=upstream)

    return CanarySplit(target("main"), [(target(str(n)), rule) for n, rule in enumerate(rules)], Random(1))


async def test_without_endpoints_it_gets_nothing() -> None:
    async with Proxy() as proxy:
        main = await proxy.backend(name="main")
        proxy.plane.swap(split([main], [([], CanaryRule(header="X-Canary", weight=100))]))
        assert await answers(await proxy.client(), 3, "X-Canary: always") == {"main": 3}


async def test_a_main_route_without_endpoints_is_helped_by_its_canary() -> None:
    async with Proxy() as proxy:
        canary = await proxy.backend(name="canary")
        proxy.plane.swap(split([], [([canary], CanaryRule(header="X-Canary"))]))
        client = await proxy.client()
        assert (await client.get("/", "a", "X-Canary: always")).body == b"canary"
        assert (await client.get("/", "a")).status == 503


async def test_a_change_of_the_canary_counts_at_once() -> None:
    async with Proxy() as proxy:
        main, canary = await proxy.backend(name="main"), await proxy.backend(name="canary")
        client = await proxy.client()
        for number, weight in enumerate((0, 100, 0)):
            proxy.plane.swap(split([main], [([canary], CanaryRule(weight=weight))], id=f"t{number}"))
            assert await answers(client, 3) == {"canary" if weight else "main": 3}


async def test_bodies_arrive_at_the_canary() -> None:
    async with Proxy() as proxy:
        main, canary = await proxy.backend(name="main"), await proxy.backend(name="canary")
        proxy.plane.swap(split([main], [([canary], CanaryRule(weight=100))]))
        assert (await (await proxy.client()).post(b"x" * 100_000)).body == b"canary"
        assert canary.requests[0].body == b"x" * 100_000


# ---- sessions --------------------------------------------------------------------------------------------------------


async def test_sessions_stay_on_their_side() -> None:
    """A session that began on either side stays there, whatever header, cookie or weight say (ingress-nginx's sticky)."""
    async with Proxy() as proxy:
        mains = [await proxy.backend(name=f"main-{n}") for n in range(3)]
        canaries = [await proxy.backend(name=f"canary-{n}") for n in range(3)]
        proxy.plane.swap(split(mains, [(canaries, CanaryRule(header="X-Canary", weight=50))], STICKY))
        client = await proxy.client()
        for side, header in (("canary", "always"), ("main", "never")):
            first = await client.get("/", "a", f"X-Canary: {header}")
            (cookie,) = first.values("set-cookie")
            session = f"Cookie: {cookie.decode().partition(';')[0]}"
            body = first.body.decode()
            assert body.startswith(side)
            for other in ("always", "never", "x"):
                assert await answers(client, 5, session, f"X-Canary: {other}") == {body: 5}
        assert (await client.get("/", "a", session)).values("set-cookie") == []


async def test_sessions_of_nobody_are_drawn_anew() -> None:
    async with Proxy() as proxy:
        main, canary = await proxy.backend(name="main"), await proxy.backend(name="canary")
        proxy.plane.swap(split([main], [([canary], CanaryRule(header="X-Canary"))], STICKY))
        client = await proxy.client()
        for value in ("sid=", "sid=key", "sid=key|0123456789abcdef0123456789abcdef", "sid=%%%", "other=1"):
            assert await answers(client, 2, f"Cookie: {value}", "X-Canary: always") == {"canary": 2}
