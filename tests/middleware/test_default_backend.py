"""Errors that the default backend answers, and its standing in for a Service without endpoints: decisions and every state of a request."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from ingress.routing.table import Canary, CanaryRule, Fallback, HostPattern, HostRoutes, Upstream, UpstreamKey
from ingress.translate.annotations.default_backend import parse_statuses
from ingress.translate.options import Options
from tests.middleware.rules import HOST, Rules, one, problems, serving
from tests.proxy.support import BackendConnection, Client, Request, Script, answer, reply, response, until

ERRORS = {"custom-http-errors": "404,500,502,503,504,413", "default-backend": "errors"}
BOTH = ("web", "errors")


def page(request: Request) -> bytes:
    code = request.value("X-Code") or b"-"
    return response(int(code) if code.isdigit() else 200, b"page of " + code, [(b"X-Page", b"1")])


def failing(status: int = 500, body: bytes = b"broken") -> Script:
    return answer(body, status)


# ---- annotations ----


@pytest.mark.parametrize(
    ("text", "statuses"),
    [("404", (404,)), ("404, 500", (404, 500)), ("503,404,,503", (404, 503)), ("400,599", (400, 599))],
)
def test_statuses(text: str, statuses: tuple[int, ...]) -> None:
    assert parse_statuses(text) == statuses


@pytest.mark.parametrize(
    "text", ["", ",", "200", "404;500", "404 500", "4xx", "600", "x" * 2000, ",".join(["404"] * 500)]
)
def test_bad_statuses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_statuses(text)
    if text:
        rules = Rules({"custom-http-errors": text, "default-backend": "errors"}, services=BOTH)
        assert "custom-http-errors" in problems(rules)
        assert rules.route().fallback == Fallback(stand_in="default/errors:80")  # type: ignore[arg-type]


def test_what_a_route_gets() -> None:
    own, controllers = "default/errors:80", "sys/pages:80"
    everything = {"services": ("web", "errors", "sys/pages"), "default_backend_service": "sys/pages"}

    def fallback(annotations: dict[str, str], **rest: Any) -> Fallback | None:
        rules = Rules(annotations, **rest)
        assert not [v for v in rules.verdicts() if "endpoints" not in v.message], rules.verdicts()
        return rules.route().fallback

    assert fallback({}, **everything) is None
    assert fallback({"default-backend": "errors"}, services=BOTH) == Fallback(stand_in=own)  # type: ignore[arg-type]
    assert fallback({**ERRORS, "custom-http-errors": "404"}, **everything) == Fallback(
        (404,), True, (own, controllers), own
    )  # type: ignore[arg-type]
    assert fallback({"custom-http-errors": "404"}, **everything) == Fallback((404,), True, (controllers,))  # type: ignore[arg-type]
    # The option's statuses go to the controller's default backend.
    options = Options(custom_http_errors=(500,))
    assert fallback({}, options=options, **everything) == Fallback((500,), True, (controllers,))  # type: ignore[arg-type]
    assert fallback({"default-backend": "errors"}, options=options, **everything) == Fallback(
        (500,), True, (controllers,), own
    )  # type: ignore[arg-type]
    assert fallback({"custom-http-errors": "404"}, options=options, **everything) == Fallback(
        (404,), True, (controllers,)
    )  # type: ignore[arg-type]
    # switched off
    off = {"custom-http-errors": "404", "disable-proxy-intercept-errors": "true"}
    assert fallback(off, **everything) == Fallback((404,), False, (controllers,))  # type: ignore[arg-type]
    options = Options(custom_http_errors=(500,), disable_proxy_intercept_errors=True)
    assert fallback({}, options=options, **everything) == Fallback((500,), False, (controllers,))  # type: ignore[arg-type]
    assert fallback({"custom-http-errors": "404"}, options=options, **everything) == Fallback(
        (404,), True, (controllers,)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("annotations", "services", "name", "why"),
    [
        ({"default-backend": "missing"}, ("web",), "default-backend", "Service missing does not exist"),
        ({"default-backend": "a/b"}, ("web",), "default-backend", "not the name"),
        ({"custom-http-errors": "404"}, ("web",), "custom-http-errors", "no default backend"),
        ({"disable-proxy-intercept-errors": "1x"}, ("web",), "disable-proxy-intercept-errors", "neither"),
        (
            {"default-backend": "errors"},
            BOTH,
            "default-backend",
            "It can't answer as the default backend: Service errors",
        ),
        ({"enable-access-log": "2"}, ("web",), "enable-access-log", "neither"),
    ],
)
async def test_verdicts(annotations: dict[str, str], services: tuple[str, ...], name: str, why: str) -> None:
    rules = Rules(annotations, services=services)
    found = problems(rules)
    if "can't answer" not in why:
        assert why in found[name]
    assert rules.route().upstream == "default/web:80"


def test_a_list_without_anybody_to_ask_is_shown() -> None:
    (verdict,) = [v for v in Rules({"custom-http-errors": "404, 500"}).verdicts() if "no default backend" in v.message]
    assert (verdict.field, verdict.value) == (
        "metadata.annotations[aioingress.io/custom-http-errors]",
        "404,500",
    )


def test_a_closed_route_stays_closed() -> None:
    rules = Rules({"default-backend": "errors", "enable-modsecurity": "true"}, services=BOTH)
    route = rules.route()
    assert (route.upstream, route.fallback) == (None, None)


# ---- standing in ----


@pytest.mark.parametrize("exists", [True, False])
async def test_standing_in_for_a_service_without_endpoints(exists: bool) -> None:
    rules = Rules({"default-backend": "errors"}, services=BOTH if exists else ("errors",))
    async with serving(rules, {"errors": answer(b"stand-in")}) as (proxy, backends):
        client = await proxy.client()
        got = await client.get(
            "/alma/armud?x=y", HOST, "X-Request-ID: something-unique", "X-Code: 1", "Accept: text/html"
        )
        assert (got.status, got.body) == (200, b"stand-in")
        (request,) = backends["errors"].requests
        assert request.target == b"/alma/armud?x=y"
        assert request.value("X-Code") == b"503"
        assert request.value("X-Format") == b"text/html"
        assert request.value("X-Namespace") == b"default"
        assert request.value("X-Ingress-Name") == b"ing"
        assert request.value("X-Service-Name") == b"web"
        assert request.value("X-Service-Port") == b"80"
        assert request.value("X-Request-ID") == b"something-unique"
        assert request.value("X-Original-URI") is None
        posted = await client.post(b"body", "/p", HOST)
        assert posted.status == 200
        assert (backends["errors"].requests[1].method, backends["errors"].requests[1].body) == (b"POST", b"body")


async def test_nobody_left_to_stand_in() -> None:
    async with serving(Rules({"default-backend": "errors"}, services=BOTH), {}) as (proxy, _):
        assert (await (await proxy.client()).get("/", HOST)).status == 503


async def test_the_service_comes_back() -> None:
    rules = Rules({"default-backend": "errors"}, services=BOTH)
    async with serving(rules, {"errors": answer(b"stand-in")}) as (proxy, backends):
        client = await proxy.client()
        assert (await client.get("/", HOST)).body == b"stand-in"
        web = await proxy.backend(answer(b"web"))
        proxy.plane.swap(rules.compile({"web": [web], "errors": [backends["errors"]]})[0])
        assert (await client.get("/", HOST)).body == b"web"


# ---- errors of endpoints ----


async def test_an_error_of_an_endpoint() -> None:
    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(), "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        for _ in range(2):  # both connections go on
            got = await client.get(
                "/deep/path?q=1",
                HOST,
                "Accept: application/json",
                "If-None-Match: x",
                "Range: bytes=0-1",
                "Cookie: c=d",
            )
            assert (got.status, got.body, got.value("X-Page")) == (500, b"page of 500", b"1")
        web, errors = backends["web"], backends["errors"]
        assert (web.connections, errors.connections) == (1, 1)
        request = errors.requests[0]
        assert (request.method, request.target) == (b"GET", b"/?q=1")
        assert request.value("Host") == HOST.encode()
        assert request.value("X-Code") == b"500"
        assert request.value("X-Format") == b"application/json"
        assert request.value("X-Original-URI") == b"/deep/path?q=1"
        assert request.value("X-Service-Name") == b"web"
        assert request.value("Cookie") == b"c=d"
        assert request.values("If-None-Match") == request.values("Range") == []
        record = proxy.log.records[0]
        assert (record.status, record.target) == (500, b"/deep/path?q=1")
        assert record.upstream_addr == f"127.0.0.1:{web.port}, 127.0.0.1:{errors.port}"
        assert record.upstream_status == "500, 500"


@pytest.mark.parametrize("status", [200, 301, 401, 403, 505])
async def test_other_statuses_pass(status: int) -> None:
    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(status), "errors": reply(page)}) as (
        proxy,
        backends,
    ):
        got = await (await proxy.client()).get("/", HOST)
        assert (got.status, got.body) == (status, b"broken")
        assert backends["errors"].requests == []


async def test_the_status_is_the_default_backends() -> None:
    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(404), "errors": answer(b"all is well")}) as (
        proxy,
        _,
    ):
        got = await (await proxy.client()).get("/", HOST)
        assert (got.status, got.body) == (200, b"all is well")


async def test_its_own_errors_are_not_asked_about_again() -> None:
    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(404), "errors": failing(500, b"mine")}) as (
        proxy,
        backends,
    ):
        got = await (await proxy.client()).get("/", HOST)
        assert (got.status, got.body) == (500, b"mine")
        assert len(backends["errors"].requests) == 1


async def test_switched_off() -> None:
    annotations = {**ERRORS, "disable-proxy-intercept-errors": "true"}
    async with serving(Rules(annotations, services=BOTH), {"web": failing(404), "errors": reply(page)}) as (
        proxy,
        backends,
    ):
        client = await proxy.client()
        got = await client.get("/", HOST)
        assert (got.status, got.body) == (404, b"broken")
        await backends["web"].refuse()
        for connection in tuple(backends["web"].open):
            connection.reset()
        await until(lambda: not proxy.idle_connections)
        got = await client.get("/", HOST)  # an error of ours
        assert (got.status, got.body) == (502, b"page of 502")


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
async def test_methods(method: str) -> None:
    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(), "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        for _ in range(2):
            got = await client.get("/", HOST, method=method)
            assert got.status == 500
            if method == "HEAD":
                assert got.value("Content-Length") == b"11"
        assert {r.method for r in backends["errors"].requests} == {b"HEAD" if method == "HEAD" else b"GET"}
        assert {r.method for r in proxy.log.records} == {method.encode()}


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
async def test_old_clients(version: str) -> None:
    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(), "errors": reply(page)}) as (proxy, _):
        client = await proxy.client()
        got = await client.request(f"GET / {version}\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        assert (got.status, got.body) == (500, b"page of 500")
        assert await client.closed()


# ---- bodies ----


@pytest.mark.parametrize("size", [0, 100, 65_000, 300_000])
async def test_request_bodies_are_not_sent_on(size: int) -> None:
    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(), "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        for _ in range(2):
            got = await client.post(b"x" * size, "/p", HOST, "Content-Type: text/plain")
            assert (got.status, got.body) == (500, b"page of 500")
        request = backends["errors"].requests[0]
        assert (
            request.values("Content-Length")
            == request.values("Transfer-Encoding")
            == request.values("Content-Type")
            == []
        )
        assert (await client.get("/", HOST)).status == 500


async def test_an_error_before_the_body_is_complete() -> None:
    async def impatient(connection: BackendConnection) -> None:
        while await connection.request(body=False):
            await connection.send(response(500, b"early"))
            await connection.closed()

    async with serving(Rules(ERRORS, services=BOTH), {"web": impatient, "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n".encode() + b"x" * 10)
        got = await client.response()
        assert (got.status, got.body) == (500, b"page of 500")
        await client.send(b"x" * 99_990)
        assert (await client.get("/", HOST)).status == 500  # the rest was read and dropped
        assert [len(r.body) for r in backends["errors"].requests] == [0, 0]


async def test_chunked_request_whose_rest_comes_after_the_error() -> None:
    async def impatient(connection: BackendConnection) -> None:
        await connection.request(body=False)
        await connection.send(response(404, b"early"))
        await connection.closed()

    async with serving(Rules(ERRORS, services=BOTH), {"web": impatient, "errors": reply(page)}) as (proxy, _):
        client = await proxy.client()
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".encode())
        assert (await client.response()).body == b"page of 404"
        await client.send(b"3\r\ndef\r\n0\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.get("/", HOST)).body == b"page of 404"


async def test_expect_continue() -> None:
    async def refuses(connection: BackendConnection) -> None:
        await connection.request(body=False)
        await connection.send(response(404, b"no"))
        await connection.closed()

    async with serving(Rules(ERRORS, services=BOTH), {"web": refuses, "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        got = await client.request(
            f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert (got.status, got.body, got.value("Connection")) == (404, b"page of 404", b"close")
        assert backends["errors"].requests[0].values("Expect") == []


@pytest.mark.parametrize(("size", "kept"), [(0, True), (1000, True), (60_000, True), (200_000, False)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_dropped_body(size: int, kept: bool, chunked: bool) -> None:
    async def script(connection: BackendConnection) -> None:
        while await connection.request():
            if chunked:
                await connection.send(b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n")
                if size:
                    await connection.send(b"%x\r\n%b\r\n" % (size, b"x" * size))
                await connection.send(b"0\r\n\r\n")
            else:
                await connection.send(response(404, b"x" * size))

    async with serving(Rules(ERRORS, services=BOTH), {"web": script, "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get("/", HOST)).body == b"page of 404"
            await until(lambda: proxy.upstream_connections <= proxy.idle_connections)
        assert (backends["web"].connections == 1) is kept


@pytest.mark.parametrize("rest", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"junk"])
async def test_a_dropped_response_that_is_cut_or_followed_by_junk(rest: bytes) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        if rest:
            await connection.send(response(404, b"short") + rest)
            await connection.closed()
        else:
            await connection.send(b"HTTP/1.1 404 No\r\nContent-Length: 100\r\n\r\nonly this")

    async with serving(Rules(ERRORS, services=BOTH), {"web": script, "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        for _ in range(2):
            assert (await client.get("/", HOST)).body == b"page of 404"
            await until(lambda: proxy.upstream_connections <= proxy.idle_connections)
        assert backends["web"].connections == 2  # none was used again


# ---- errors of ours ----


async def test_no_endpoint_no_stand_in() -> None:
    rules = Rules({"custom-http-errors": "503"}, services=("web", "sys/pages"), default_backend_service="sys/pages")
    async with serving(rules, {"sys/pages": reply(page)}) as (proxy, backends):
        got = await (await proxy.client()).get("/x", HOST)
        assert (got.status, got.body) == (503, b"page of 503")
        assert backends["sys/pages"].requests[0].target == b"/"


async def test_refused_connections() -> None:
    rules = Rules(ERRORS, services=BOTH)
    async with serving(rules, {"web": answer(), "errors": reply(page)}) as (proxy, backends):
        await backends["web"].refuse()
        client = await proxy.client()
        for method in ("GET", "POST", "HEAD"):
            got = await client.get("/", HOST, method=method)
            assert got.status == 502


async def test_a_body_that_is_too_large() -> None:
    annotations = {**ERRORS, "proxy-body-size": "10"}
    async with serving(Rules(annotations, services=BOTH), {"web": answer(), "errors": reply(page)}) as (proxy, _):
        client = await proxy.client()
        got = await client.post(b"x" * 100, "/", HOST)
        assert (got.status, got.body, got.value("Connection")) == (413, b"page of 413", b"close")
        client = await proxy.client()
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await client.send(b"5\r\nhello\r\n")
        await client.send(b"ff\r\n" + b"x" * 255 + b"\r\n0\r\n\r\n")
        got = await client.response()
        assert (got.status, got.body) == (413, b"page of 413")


async def test_what_cannot_be_understood_is_answered_by_us() -> None:
    rules = Rules({"custom-http-errors": "400,405", "default-backend": "errors"}, services=BOTH)
    async with serving(rules, {"web": answer(), "errors": reply(page)}) as (proxy, backends):
        client = await proxy.client()
        await client.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        assert (await client.response()).status == 400
        client = await proxy.client()
        assert (await client.get("/", HOST, method="TRACE")).status == 405
        assert backends["errors"].requests == []


async def test_unknown_paths_and_hosts_with_the_option() -> None:
    options = Options(custom_http_errors=(404,))
    rules = Rules(
        {}, options, paths={"/app": "web"}, services=("web", "sys/pages"), default_backend_service="sys/pages"
    )
    first = reply(lambda request: page(request) if request.value("X-Code") else response(404, b"plain"))
    async with serving(rules, {"web": answer(), "sys/pages": first}) as (proxy, backends):
        client = await proxy.client()
        for host in (HOST, "unknown.test"):
            assert (await client.get("/other", host)).body == b"page of 404"
        assert [r.target for r in backends["sys/pages"].requests] == [b"/other", b"/", b"/other", b"/"]


# ---- the default backend fails ----


@pytest.mark.parametrize("fault", ["refuses", "closes", "junk", "gone"])
async def test_when_it_fails_the_original_status_is_sent(fault: str) -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        if fault == "junk":
            await connection.send(b"nonsense\r\n\r\n")

    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(404), "errors": script}) as (proxy, backends):
        if fault == "refuses":
            await backends["errors"].refuse()
        elif fault == "gone":
            proxy.plane.swap(Rules(ERRORS, services=BOTH).compile({"web": [backends["web"]]})[0])
        client = await proxy.client()
        for _ in range(2):
            got = await client.get("/", HOST, "Accept: application/json")
            assert got.status == 404
            assert got.body == (b"broken" if fault == "gone" else got.body)
            if fault != "gone":
                assert b'"status":404' in got.body
            await until(lambda: proxy.upstream_connections <= proxy.idle_connections)


async def test_a_default_backend_that_breaks_off() -> None:
    async def script(connection: BackendConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 404 No\r\nContent-Length: 100\r\n\r\npart")

    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(404), "errors": script}) as (proxy, _):
        client = await proxy.client()
        await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        data = await client.rest()
        assert data.endswith(b"\r\n\r\npart")


# ---- clients that leave ----


@pytest.mark.parametrize("moment", ["before the answer", "in the answer"])
async def test_a_client_that_leaves_meanwhile(moment: str) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def slow(connection: BackendConnection) -> None:
        await connection.request()
        if moment == "in the answer":
            await connection.send(b"HTTP/1.1 404 No\r\nContent-Length: 100\r\n\r\npart")
        asked.set()
        await connection.closed()
        gone.set()

    async with serving(Rules(ERRORS, services=BOTH), {"web": failing(404), "errors": slow}) as (proxy, _):
        client: Client = await proxy.client()
        await client.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await asked.wait()
        client.reset()
        await asyncio.wait_for(gone.wait(), 10)
        await until(lambda: proxy.log.records)
        assert proxy.log.records[0].status == (404 if moment == "in the answer" else 499)


# ---- other features ----


async def test_answers_of_hooks_and_what_belongs_to_their_status() -> None:
    annotations = {
        "custom-http-errors": "503",
        "default-backend": "errors",
        "maintenance": "true",
        "maintenance-retry-after": "60",
        "enable-cors": "true",
    }
    async with serving(Rules(annotations, services=BOTH), {"web": answer(), "errors": reply(page)}) as (
        proxy,
        backends,
    ):
        got = await (await proxy.client()).get("/", HOST)
        assert (got.status, got.body) == (503, b"page of 503")
        assert got.value("Retry-After") == b"60"
        assert got.value("Access-Control-Allow-Origin") == b"*"
        assert backends["web"].requests == []


async def test_a_refused_request_never_reaches_the_service() -> None:
    """Even where its connection is at hand and one to the default backend isn't."""
    async with serving(Rules({}, services=BOTH), {"web": answer(), "errors": reply(page), "auth": auth_server()}) as (
        proxy,
        backends,
    ):
        annotations = {
            "custom-http-errors": "401",
            "default-backend": "errors",
            "auth-url": f"http://127.0.0.1:{backends['auth'].port}/",
        }
        table, _ = Rules(annotations, services=BOTH).compile({name: [backends[name]] for name in BOTH})
        proxy.plane.swap(table)
        client = await proxy.client()
        assert (await client.get("/in", HOST, "X-Ok: 1")).status == 200
        got = await client.get("/out", HOST)
        assert (got.status, got.body) == (401, b"page of 401")
        assert [r.target for r in backends["web"].requests] == [b"/in"]
        assert [r.target for r in backends["errors"].requests] == [b"/"]


def auth_server() -> Script:
    return reply(lambda request: response(200 if request.value("X-Ok") else 401, b""))


async def test_an_unreachable_service_and_default_backend() -> None:
    rules = Rules(ERRORS, services=BOTH)
    async with serving(rules, {"web": answer(), "errors": answer()}) as (proxy, backends):
        await backends["web"].refuse()
        await backends["errors"].refuse()
        got = await (await proxy.client()).get("/", HOST)
        assert got.status == 502


# ---- access log ----


@pytest.mark.parametrize(("value", "records"), [("true", 1), ("false", 0)])
async def test_the_access_log_can_be_switched_off(value: str, records: int) -> None:
    async with one({"enable-access-log": value}) as (proxy, _):
        assert (await (await proxy.client()).get("/", HOST)).status == 200
        await until(lambda: proxy.plane.forwarder.in_flight == 0)
        assert len(proxy.log.records) == records


async def test_a_canary_has_the_default_backend_of_its_main_ingress() -> None:
    rules = Rules(ERRORS, services=BOTH)
    async with serving(rules, {"web": answer(b"main"), "errors": reply(page)}) as (proxy, backends):
        canary = await proxy.backend(failing(404), "canary")
        table = rules.compile({"web": [backends["web"]], "errors": [backends["errors"]]})[0]
        host = HostPattern(HOST)
        (main,) = table.hosts[host].routes
        key = UpstreamKey("default/canary:80")
        route = replace(main, ingress="canary", service="canary", upstream=key)
        main = replace(main, canaries=(Canary(route, CanaryRule(header="X-Canary")),))
        table.hosts[host] = HostRoutes(host, (main,))
        table.upstreams[key] = Upstream(key, "default", "canary", "80", (canary.endpoint,))
        proxy.plane.swap(table)
        client = await proxy.client()
        assert (await client.get("/", HOST)).body == b"main"
        got = await client.get("/", HOST, "X-Canary: always")
        assert (got.status, got.body) == (404, b"page of 404")
        assert backends["errors"].requests[0].value("X-Service-Name") == b"canary"
