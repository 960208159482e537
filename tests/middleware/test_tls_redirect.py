"""Redirects to HTTPS: the hook on a bare exchange, then through real sockets."""

from typing import Any

import msgspec
import pytest

from ingress.config import ClientSettings
from ingress.exchange import DirectResponse, Exchange
from ingress.middleware import tls_redirect
from ingress.middleware.base import Scope
from ingress.routing.https import HSTS, TLS_REDIRECT, RedirectWhen, StrictTransport, TLSRedirect
from ingress.routing.table import (
    Feature,
    HostAlias,
    HostPattern,
    HostRoutes,
    PathType,
    Route,
    RoutingTable,
    UpstreamKey,
)
from tests.proxy.support import Proxy, routes

ACME = "/.well-known/acme-challenge"


def route(path: str = "/", **more: Any) -> Route:
    return Route(HostPattern("a.test"), path, PathType.PREFIX, "default", "ing", "web", "80", UpstreamKey("k"), **more)


def location(
    target: bytes,
    policy: TLSRedirect | None = None,
    *,
    scheme: bytes = b"http",
    host: bytes = b"a.test",
    path: str = "/",
    certificate: bool = True,
) -> tuple[int, bytes] | None:
    scope = Scope(route(path), None, None, certificate)  # type: ignore[arg-type]
    hook = tls_redirect.bind(policy or TLSRedirect(), scope).request
    if hook is None:
        return None
    exchange = Exchange(None, "192.0.2.1", scheme, b"", b"GET", target)  # type: ignore[arg-type]
    exchange.host = host
    exchange.path, mark, query = target.partition(b"?")
    exchange.query = mark + query
    answer = hook(exchange)
    if answer is None:
        return None
    assert isinstance(answer, DirectResponse)
    return answer.status, dict(answer.fields).get(b"Location", b"")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", b"https://a.test"),
        (b"/x", b"https://a.test/x"),
        (b"/x/", b"https://a.test/x"),
        (b"/x//", b"https://a.test/x/"),
        (b"/x?a=b", b"https://a.test/x?a=b"),
        (b"/x/?a=b", b"https://a.test/x/?a=b"),
        (b"/x?a=b/", b"https://a.test/x?a=b"),
        (b"/a%2Fb%0d%0aX", b"https://a.test/a%2Fb%0d%0aX"),
        (b"//evil.test/", b"https://a.test//evil.test"),
        (b"*", b"https://a.test"),
    ],
)
def test_targets(target: bytes, expected: bytes) -> None:
    """One slash at the end is cut, even one of the query: so does ingress-nginx."""
    assert location(target) == (308, expected)


def test_a_trailing_slash_may_stay() -> None:
    keep = TLSRedirect(keep_trailing_slash=True)
    assert location(b"/", keep) == (308, b"https://a.test/")
    assert location(b"/x/", keep) == (308, b"https://a.test/x/")


def test_status_and_port() -> None:
    assert location(b"/x", TLSRedirect(status=301, port=8443)) == (301, b"https://a.test:8443/x")


def test_https_goes_through() -> None:
    assert location(b"/", scheme=b"https") is None
    assert location(b"/", TLSRedirect(RedirectWhen.ALWAYS), scheme=b"https") is None


@pytest.mark.parametrize(
    ("when", "certificate", "redirected"),
    [
        (RedirectWhen.CERTIFICATE, True, True),
        (RedirectWhen.CERTIFICATE, False, False),
        (RedirectWhen.ALWAYS, False, True),
        (RedirectWhen.ALWAYS, True, True),
        (RedirectWhen.NEVER, True, False),
    ],
)
def test_when(when: RedirectWhen, certificate: bool, redirected: bool) -> None:
    assert (location(b"/x", TLSRedirect(when), certificate=certificate) is not None) is redirected


@pytest.mark.parametrize(
    ("path", "redirected"),
    [(ACME, False), (f"{ACME}/token", False), ("/", True), ("/.well-known", True), ("/x" + ACME, True)],
)
def test_exempt_paths_have_no_hook(path: str, redirected: bool) -> None:
    policy = TLSRedirect(RedirectWhen.ALWAYS, exempt=("/skip", ACME))
    assert (location(b"/", policy, path=path) is not None) is redirected


def test_without_a_host_there_is_nowhere_to_go() -> None:
    assert location(b"/", TLSRedirect(RedirectWhen.ALWAYS), host=b"") == (400, b"")


# ---- through sockets ----


def feature(name: str, policy: Any) -> Feature:
    return Feature(name, msgspec.to_builtins(policy))


def secured(table: RoutingTable, host: str = "a.test", **changes: Any) -> RoutingTable:
    """The host as the compiler leaves it when it has a certificate."""
    pattern = HostPattern(host)
    features = (feature(TLS_REDIRECT, TLSRedirect(exempt=(ACME,))), feature(HSTS, StrictTransport("max-age=1")))
    made = msgspec.structs.replace(table.hosts[pattern], certificate=True, features=features, **changes)
    return msgspec.structs.replace(table, hosts={**table.hosts, pattern: made})


async def test_redirects() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        table = secured(routes({"/": [backend], ACME: [backend], "/closed": 503, "/empty": []}, host="a.test"))
        proxy.plane.swap(table)
        client = await proxy.client()
        for target, expected in (
            (b"/x/?a=1", b"https://a.test/x/?a=1"),
            (b"/closed", b"https://a.test/closed"),
            (b"/empty", b"https://a.test/empty"),
        ):
            await client.send(b"GET %b HTTP/1.1\r\nHost: A.test:8080\r\n\r\n" % target)
            found = await client.response()
            assert (found.status, found.value("location")) == (308, expected)
            assert (
                found.value("strict-transport-security") is None
            )  # over plain HTTP it means nothing (RFC 6797 section 7.2)
        await client.send(b"GET /.well-known/acme-challenge/t HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert (await client.response()).body == b"b0"
        await client.send(b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc")
        assert (await client.response()).status == 308


@pytest.mark.parametrize(
    ("trusted", "fields", "expected"),
    [
        # test/e2e/settings/tls.go
        (True, "X-Forwarded-Host: example.com:80", b"https://example.com/x"),
        (True, "X-Forwarded-Host: Example.com, other.test", b"https://example.com/x"),
        (True, "X-Forwarded-Host: [2001:db8::1]:80", b"https://[2001:db8::1]/x"),
        (True, "X-Forwarded-Host: not a host", b"https://a.test/x"),
        (True, "X-Other: 1", b"https://a.test/x"),
        (False, "X-Forwarded-Host: example.com:80", b"https://a.test/x"),
    ],
)
async def test_host_that_a_front_names(trusted: bool, fields: str, expected: bytes) -> None:
    async with Proxy(client=ClientSettings(forwarded_headers=trusted)) as proxy:
        proxy.plane.swap(secured(routes({"/": [await proxy.backend()]}, host="a.test")))
        answer = await (await proxy.client()).get("/x", "a.test", fields)
        assert (answer.status, answer.value("location")) == (308, expected)


async def test_what_no_route_takes_is_redirected_as_well() -> None:
    """The server that ingress-nginx makes for a host has a location / in any case."""
    async with Proxy() as proxy:
        backend, other = await proxy.backend(), await proxy.backend()
        table = secured(routes({"/x": [backend]}, host="a.test"))
        proxy.plane.swap(table)
        client = await proxy.client()

        async def status(target: str = "/", host: str = "a.test") -> int:
            await client.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return (await client.response()).status

        assert (await status(), await status("/x"), await status(host="b.test")) == (308, 308, 404)
        # another default backend: linked again for this host
        default = routes({"/": [other]}, id="t2")
        (fallback,) = default.hosts[HostPattern("")].routes
        swapped = msgspec.structs.replace(
            table, id="t2", default=fallback, upstreams={**table.upstreams, **default.upstreams}
        )
        proxy.plane.swap(swapped)
        assert (await status(), await status(host="b.test")) == (308, 200)
        never = (feature(TLS_REDIRECT, TLSRedirect(RedirectWhen.NEVER)),)
        proxy.plane.swap(msgspec.structs.replace(secured(swapped, unmatched=never), id="t3"))
        assert (await status(), await status("/x")) == (200, 308)


async def test_a_route_of_its_own_mind() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        table = routes({"/": [backend], "/plain": [backend]}, host="a.test")
        host = table.hosts[HostPattern("a.test")]
        never = (feature(TLS_REDIRECT, TLSRedirect(RedirectWhen.NEVER)),)
        changed = tuple(msgspec.structs.replace(r, features=never) if r.path == "/plain" else r for r in host.routes)
        proxy.plane.swap(secured(table, routes=changed))
        client = await proxy.client()
        for target, status in ((b"/", 308), (b"/plain", 200)):
            await client.send(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % target)
            assert (await client.response()).status == status


async def test_aliases_are_redirected_if_the_certificate_is_for_them() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        table = secured(routes({"/": [backend]}, host="a.test"))
        names = [HostAlias(HostPattern("b.test"), HostPattern("a.test"), certificate=True)]
        names.append(HostAlias(HostPattern("c.test"), HostPattern("a.test")))
        proxy.plane.swap(msgspec.structs.replace(table, aliases={alias.pattern: alias for alias in names}))
        client = await proxy.client()
        found = await client.get("/x", "b.test")
        assert (found.status, found.value("location")) == (308, b"https://b.test/x")
        assert (await client.get("/x", "c.test")).status == 200


async def test_hosts_without_tls_have_no_hooks() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        proxy.plane.swap(routes({"/": [backend]}, host="a.test"))
        snapshot = proxy.plane.forwarder.snapshot
        assert snapshot is not None
        _, trie = snapshot.host(b"a.test")
        assert trie is not None
        found = trie.match(b"/")
        assert found is not None
        assert (found.request_hooks, found.response_hooks) == ((), ())
        assert trie.default is None


async def test_a_delta_that_changes_the_default_only() -> None:
    async with Proxy() as proxy:
        backend = await proxy.backend()
        table = secured(
            routes({"/x": [backend]}, host="a.test"),
            unmatched=(feature(TLS_REDIRECT, TLSRedirect(RedirectWhen.NEVER)),),
        )
        runtime = proxy.plane.runtime
        from ingress.routing.table import diff_tables

        proxy.plane.swap(table)
        fallback = msgspec.structs.replace(table.hosts[HostPattern("a.test")].routes[0], host=HostPattern(""), path="/")
        after = msgspec.structs.replace(table, id="t2", default=fallback)
        before = proxy.plane.forwarder.snapshot
        assert before is not None
        linked = runtime.link_delta(before, diff_tables(table, after))
        for snapshot, status in ((before, 404), (linked, 0)):
            _, trie = snapshot.host(b"a.test")
            assert trie is not None
            assert trie.default is not None
            assert trie.default.status == status
            assert len(trie.default.response_hooks) == 1  # HSTS on 404s too
        assert HostRoutes(HostPattern("x"), ()).features == ()
