"""Header fields by options: live, on every route and every answer."""

import pytest

from ingress import __version__
from tests.proxy.options import Options
from tests.proxy.support import Fields, Proxy, Request, answer, one_backend

OWN = answer(b"ok", 200, [(b"Server", b"backend/1"), (b"X-Powered-By", b"PHP"), (b"X-Frame-Options", b"none")])


async def test_server_tokens() -> None:
    async with one_backend(OWN) as (proxy, backend):
        options = Options(proxy, backend)
        options.set()
        assert (await (await proxy.client()).get()).value("server") == b"aioingress"
        options.set(server_tokens="true")
        token = b"aioingress/" + __version__.encode()
        client = await proxy.client()
        assert (await client.get()).value("server") == token
        assert (await client.get("/%00")).value("server") == token  # ours too


async def test_server_of_the_endpoint() -> None:
    async with one_backend(OWN) as (proxy, backend):
        options = Options(proxy, backend)
        options.set(allow_backend_server_header="true")
        client = await proxy.client()
        assert (await client.get()).value("server") == b"backend/1"
        backend.script = answer(b"ok")  # for new connections
        assert (await client.get("/%00")).value("server") == b"aioingress"


async def test_no_server_of_the_endpoint() -> None:
    async with one_backend(answer(b"ok")) as (proxy, backend):
        Options(proxy, backend).set(allow_backend_server_header="true")
        assert (await (await proxy.client()).get()).value("server") == b"aioingress"


async def test_hidden_fields() -> None:
    async with one_backend(OWN) as (proxy, backend):
        options = Options(proxy, backend)
        options.set()
        client = await proxy.client()
        assert (await client.get()).value("x-powered-by") == b"PHP"
        options.set(hide_headers="X-Powered-By, x-frame-options, Content-Length")
        found = await client.get()  # the same connection, on both sides
        assert found.values("x-powered-by") == found.values("x-frame-options") == []
        assert (found.body, backend.connections) == (b"ok", 1)
        options.set()
        assert (await client.get()).value("x-powered-by") == b"PHP"


def sent(request: Request, name: str) -> list[bytes]:
    return request.values(name)


async def test_fields_for_endpoints() -> None:
    fields = {
        "X-Fixed": "1",
        "X-Request-Start": "t=${msec}",
        "X-Client": "$remote_addr $http_user_agent",
        "X-Forwarded-Proto": "https",
        "X-Real-IP": "",
        "X-Request-ID": "id-$request_method",
    }
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend, fields=fields)
        options.set(proxy_set_headers="edge/fields")
        assert not options.parsed.verdicts
        client = await proxy.client()
        await client.get("/", "a", "X-Fixed: mine", "x-fixed: again", "User-Agent: test", "X-Other: stays")
        (request,) = backend.requests
        assert request.values("x-fixed") == [b"1"]
        assert request.value("x-client") == b"127.0.0.1 test"
        assert request.values("x-forwarded-proto") == [b"https"]
        assert request.value("x-request-id") == b"id-GET"
        assert (request.value("x-request-start") or b"").startswith(b"t=1")
        assert request.values("x-real-ip") == []
        assert request.value("x-other") == b"stays"
        assert request.value("x-forwarded-for") == b"127.0.0.1"
        options.set()
        await client.get("/", "a", "X-Fixed: mine")
        assert backend.requests[-1].values("x-fixed") == [b"mine"]
        assert backend.requests[-1].value("x-real-ip") == b"127.0.0.1"


async def test_fields_for_clients() -> None:
    fields = {"X-Frame-Options": "DENY", "X-Id": "$req_id", "X-Powered-By": "", "Set-Cookie": "a=b"}
    async with one_backend(OWN) as (proxy, backend):
        options = Options(proxy, backend, fields=fields)
        options.set(add_headers="edge/fields")
        assert not options.parsed.verdicts
        client = await proxy.client()
        found = await client.get("/", "a", "X-Request-ID: abc")
        assert found.values("x-frame-options") == [b"DENY"]
        assert found.value("x-id") == b"abc"
        assert found.values("x-powered-by") == []
        assert found.value("set-cookie") == b"a=b"
        ours = await client.get("/%00")  # answers of our own get them too, with and without a route
        assert (ours.status, ours.values("x-frame-options")) == (400, [b"DENY"])
        refused = await (await proxy.client()).request(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (refused.status, refused.value("x-frame-options")) == (400, b"DENY")
        options.set()
        assert (await (await proxy.client()).get()).value("x-frame-options") == b"none"


async def test_a_value_cannot_break_a_head() -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend, fields={"X-A": "$http_b"}).set(
            proxy_set_headers="edge/fields", add_headers="edge/fields"
        )
        found = await (await proxy.client()).get("/", "a", "B: x\ty\xff")
        assert found.value("x-a") == b"x\ty\xff"
        assert found.value("x-a") == backend.requests[0].value("x-a")


async def test_request_ids_are_not_made_up() -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend)
        options.set(generate_request_id="false")
        client = await proxy.client()
        await client.get()
        await client.get("/", "a", "X-Request-ID: mine")
        assert [r.values("x-request-id") for r in backend.requests] == [[], [b"mine"]]
        assert (await client.get("/%00")).status == 400
        options.set()
        await (await proxy.client()).get()
        assert len(backend.requests[-1].value("x-request-id") or b"") == 32


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({}, []),
        ({"enable-underscores-in-headers": "true"}, [b"X_Under"]),
        ({"ignore-invalid-headers": "false"}, [b"X_Under", b"X.Dot"]),
    ],
)
async def test_names(options: dict[str, str], passed: list[bytes]) -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend).set(options)
        await (await proxy.client()).get("/", "a", "X_Under: 1", "X.Dot: 2", "X-Forwarded-For: 6.6.6.6")
        fields: Fields = backend.requests[0].fields
        assert [name for name, _ in fields if name in (b"X_Under", b"X.Dot")] == passed
        assert backend.requests[0].values("x-forwarded-for") == [b"127.0.0.1"]


async def _of_new_connections(option: dict[str, str], field: str) -> None:
    async with one_backend() as (proxy, backend):
        options = Options(proxy, backend)
        options.set()
        old = await proxy.client()
        await old.get()
        options.set(option)
        await (await proxy.client()).get("/", "a", f"{field}: 1")
        await old.get("/", "a", f"{field}: 1")
        assert [request.values(field) for request in backend.requests] == [[], [b"1"], []]


async def test_underscores_of_new_connections() -> None:
    await _of_new_connections({"enable-underscores-in-headers": "true"}, "X_Under")


async def test_invalid_names_of_new_connections() -> None:
    await _of_new_connections({"ignore-invalid-headers": "false"}, "X.Dot")


async def test_original_uri() -> None:
    async with one_backend() as (proxy, backend):
        Options(proxy, backend).set(proxy_add_original_uri_header="true")
        await (await proxy.client()).get("/a/../b?c=%2f", "a", "X-Original-URI: /forged")
        assert backend.requests[0].values("x-original-uri") == [b"/a/../b?c=%2f"]
        assert backend.requests[0].target == b"/b?c=%2f"


async def test_without_options_nothing_is_called() -> None:
    async with Proxy() as proxy:
        common = proxy.plane.common
        assert common.blocks is common.set_fields is common.log.template is common.log.skips is None
        assert common.response_hooks == common.started_hooks == ()
