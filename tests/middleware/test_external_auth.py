"""External authentication: parse, the sub-request, what its answers come to. Scenarios of ingress-nginx's auth and global_external_auth tests."""

import asyncio
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.errors import VerdictReason
from ingress.exchange import DirectResponse, Exchange, Field, ResponseHead, field_pieces, iter_fields
from ingress.middleware.sidecalls import SideResponse, SideTarget, request_bytes
from ingress.translate.options.model import GlobalAuth
from tests.middleware.support import (
    PREFIX,
    Bound,
    Call,
    Service,
    Worker,
    basic,
    config_map,
    down,
    exchange,
    options,
    parsed,
    route,
    secret,
)
from tests.middleware.test_htpasswd import SHA

URL = {"auth-url": "http://auth.default.svc.cluster.local:4180/oauth2/auth"}
SIGNIN = {**URL, "auth-signin": "http://$host/auth/start"}


def bound(
    service: Service,
    annotations: dict[str, str] | None = None,
    *objects: object,
    at: str = "/",
    worker: Worker | None = None,
) -> Bound:
    result = parsed(URL if annotations is None else annotations, *objects)  # type: ignore[arg-type]
    assert not result.closed, result.closed
    made = worker or Worker(service)
    return made.bind(result.features, route(at))


async def status(bound: Bound, subject: Exchange) -> int:
    answer = await bound.ask(subject)
    return 0 if answer is None else answer.status


def value(answer: DirectResponse | None, name: bytes) -> bytes | None:
    assert answer is not None
    return dict(answer.fields).get(name)


def after(made: Bound, subject: Exchange, status: int, *fields: Field) -> list[Field]:
    """The fields of the final response."""
    head = ResponseHead(status, field_pieces(fields), -1)
    for hook in made.response:
        hook(subject, head)
    return list(iter_fields(head.fields))


# ---- parse ----


def test_defaults() -> None:
    policy = parsed(URL).policy("external-auth")
    assert (policy.tls, policy.method, policy.signin, policy.response_headers) == (False, "", (), ())
    assert (policy.cache_key, policy.cache_durations, policy.exempt) == ((), (), ("/.well-known/acme-challenge",))
    assert parsed(URL).verdicts == ()
    assert parsed().features == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"auth-url": "https://invalid..auth.url"}, "auth-url"),
        ({"auth-url": ""}, "auth-url"),
        ({"auth-url": "/relative"}, "auth-url"),
        ({"auth-url": "http://a/$no_such_variable"}, "auth-url"),
        ({"auth-url": "http://a/\r\nX: y"}, "auth-url"),
        ({"auth-method": "get"}, "auth-method"),
        ({"auth-method": "CONNECT"}, "auth-method"),
        ({"auth-response-headers": "X Y"}, "auth-response-headers"),
        ({"auth-response-headers": "Host"}, "auth-response-headers"),
        ({"auth-proxy-set-headers": "missing"}, "auth-proxy-set-headers"),
        ({"auth-proxy-set-headers": "other/headers"}, "auth-proxy-set-headers"),
        ({"auth-proxy-set-headers": "bad"}, "auth-proxy-set-headers"),
        ({"auth-cache-duration": "200"}, "auth-cache-duration"),
        ({"auth-snippet": "proxy_set_header My-Custom-Header 42;"}, "auth-snippet"),
    ],
)
def test_what_closes(changes: dict[str, str], field: str) -> None:
    objects = (config_map("bad", {"Bad Name": "x"}), config_map("headers", {}, "other"))
    result = parsed({**URL, **changes}, *objects)
    assert result.closed
    assert result.features == ()
    (verdict,) = result.verdicts
    assert verdict.field == f"metadata.annotations[{PREFIX}{field}]"
    assert verdict.reason is VerdictReason.ACCESS_RULE_REJECTED


@pytest.mark.parametrize(
    "name", ["auth-method", "auth-signin", "auth-response-headers", "auth-cache-key", "auth-snippet"]
)
def test_details_without_url_close(name: str) -> None:
    assert parsed({name: "GET"}).closed


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("auth-signin", "not a url"),
        ("auth-signin-redirect-param", "a&b"),
        ("auth-request-redirect", "ä"),
        ("auth-always-set-cookie", "maybe"),
        ("auth-cache-key", "$nope"),
        ("enable-global-auth", "maybe"),
        ("auth-keepalive", "-1"),
        ("auth-keepalive-timeout", "1m"),
        ("auth-keepalive-requests", "x"),
        ("auth-keepalive-share-vars", "x"),
    ],
)
def test_what_costs_only_itself(name: str, bad: str) -> None:
    result = parsed({**URL, name: bad})
    assert (result.closed, result.fields) == ("", [name])
    assert result.policy("external-auth") == parsed(URL).policy("external-auth")


def test_a_constant_cache_key_is_told() -> None:
    assert parsed({**URL, "auth-cache-key": "foo"}).fields == ["auth-cache-key"]
    assert parsed({**URL, "auth-cache-key": "$http_authorization"}).fields == []


@given(
    st.text(max_size=80),
    st.sampled_from(["auth-url", "auth-signin", "auth-cache-key", "auth-response-headers", "auth-cache-duration"]),
)
def test_any_value_is_used_or_told(text: str, name: str) -> None:
    result = parsed({**URL, name: text})
    assert result.features or result.closed


# ---- the sub-request ----


async def test_the_sub_request() -> None:
    service = Service()
    subject = exchange(
        b"/a%20b?x=1",
        (b"Cookie", b"session=1"),
        (b"Content-Type", b"text/plain"),
        (b"X-Original-URL", b"http://spoofed/"),
        (b"x-original-method", b"GET"),
        (b"X-Auth-Request-Redirect", b"/spoofed"),
        (b"X-Sent-From", b"spoofed"),
        (b"X-Empty", b""),
        basic("user", "password"),
        method=b"POST",
        scheme=b"https",
        host=b"a.test:8443",
    )
    assert await status(bound(service), subject) == 0
    (call,) = service.calls
    assert call.target == SideTarget("auth.default.svc.cluster.local", 4180)
    assert (call.method, call.path) == (b"GET", b"/oauth2/auth")
    assert call.fields == [
        (b"Host", b"auth.default.svc.cluster.local"),
        (b"X-Request-ID", subject.request_id),
        (b"X-Original-URL", b"https://a.test:8443/a%20b?x=1"),
        (b"X-Original-Method", b"POST"),
        (b"X-Original-URI", b"/a%20b?x=1"),
        (b"X-Scheme", b"https"),
        (b"X-Sent-From", b"nginx-ingress-controller"),
        (b"X-Real-IP", b"192.0.2.1"),
        (b"X-Forwarded-For", b"192.0.2.1"),
        (b"X-Auth-Request-Redirect", b"/a%20b?x=1"),
        (b"Cookie", b"session=1"),
        (b"Content-Type", b"text/plain"),
        (b"X-Empty", b""),
        basic("user", "password"),
    ]
    request_bytes(call.method, call.path, call.fields, b"")


async def test_method_headers_and_redirect_as_asked() -> None:
    service = Service()
    annotations = {
        **URL,
        "auth-method": "POST",
        "auth-request-redirect": "https://a.test/after",
        "auth-proxy-set-headers": "default/auth-headers",
    }
    headers = config_map(
        "auth-headers", {"My-Custom-Header": "42", "X-Host": "$host", "X-Scheme": "mine", "X-Nothing": ""}
    )
    made = bound(service, annotations, headers)
    await status(made, exchange(b"/", (b"My-Custom-Header", b"spoofed"), (b"x-nothing", b"spoofed")))
    (call,) = service.calls
    assert call.method == b"POST"
    assert call.value(b"X-Auth-Request-Redirect") == b"https://a.test/after"
    assert (call.value(b"My-Custom-Header"), call.value(b"X-Host"), call.value(b"X-Scheme")) == (
        b"42",
        b"a.test",
        b"mine",
    )
    assert call.value(b"X-Nothing") is None


@pytest.mark.parametrize(
    ("url", "target", "host", "path"),
    [
        ("https://auth.test", SideTarget("auth.test", 443, True), b"auth.test", b"/"),
        ("http://$host/check?u=$request_uri", SideTarget("a.test", 80), b"a.test", b"/check?u=/x?y=1"),
        ("https://$host:8443/$request_method", SideTarget("a.test", 8443, True), b"a.test", b"/GET"),
        ("http://[2001:db8::1]:81/", SideTarget("2001:db8::1", 81), b"[2001:db8::1]", b"/"),
    ],
)
async def test_urls(url: str, target: SideTarget, host: bytes, path: bytes) -> None:
    service = Service()
    assert await status(bound(service, {"auth-url": url}), exchange(b"/x?y=1")) == 0
    (call,) = service.calls
    assert (call.target, call.value(b"Host"), call.path) == (target, host, path)


@pytest.mark.parametrize("header", [b"", b"a b", b"user@evil", b"evil:port", b"evil:70000", b"[::1"])
async def test_a_host_from_a_variable_must_be_one(header: bytes) -> None:
    service = Service()
    made = bound(service, {"auth-url": "http://$http_x_host/"})
    assert await status(made, exchange(b"/", (b"X-Host", header))) == 500
    assert not service.calls


# ---- answers ----


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [(200, 0), (204, 0), (299, 0), (401, 401), (403, 403)]
    + [(s, 500) for s in (300, 302, 304, 400, 404, 407, 429, 500, 503, 999)],
)
async def test_statuses(answer: int, wanted: int) -> None:
    assert await status(bound(Service(SideResponse(answer))), exchange()) == wanted


async def test_no_answer_lets_nobody_in() -> None:
    assert await status(bound(Service(down())), exchange()) == 500
    with pytest.raises(ZeroDivisionError):  # a bug: the forwarder answers 500
        await status(bound(Service(ZeroDivisionError())), exchange())


async def test_the_challenge_of_the_service_is_passed_on() -> None:
    service = Service(
        SideResponse(401, ((b"WWW-Authenticate", b"Bearer"), (b"www-authenticate", b"Basic"), (b"X", b"y")))
    )
    answer = await bound(service).ask(exchange())
    assert answer is not None
    assert answer.fields == ((b"WWW-Authenticate", b"Bearer"), (b"WWW-Authenticate", b"Basic"))


async def test_response_headers_come_from_the_service_alone() -> None:
    service = Service(
        SideResponse(200, ((b"x-user", b"jane"), (b"X-Group", b"a"), (b"x-group", b"b"), (b"X-Other", b"no")))
    )
    made = bound(service, {**URL, "auth-response-headers": "X-User, X-Group, X-Absent, Authorization"})
    subject = exchange(
        b"/",
        (b"X-USER", b"spoofed"),
        (b"x-user", b"again"),
        (b"X-Absent", b"spoofed"),
        basic("a", "b"),
        (b"X-Mine", b"1"),
    )
    assert await status(made, subject) == 0
    assert list(iter_fields(subject.fields)) == [(b"X-Mine", b"1"), (b"X-User", b"jane"), (b"X-Group", b"a, b")]


async def test_without_that_list_the_clients_headers_stay() -> None:
    subject = exchange(b"/", (b"X-User", b"client"))
    assert await status(bound(Service(SideResponse(200, ((b"X-User", b"jane"),)))), subject) == 0
    assert list(iter_fields(subject.fields)) == [(b"X-User", b"client")]


async def test_line_breaks_of_the_service_do_not_pass() -> None:
    made = bound(
        Service(SideResponse(200, ((b"X-User", b"a\r\nX-Admin: 1"),))), {**URL, "auth-response-headers": "X-User"}
    )
    subject = exchange()
    assert await status(made, subject) == 0
    assert list(iter_fields(subject.fields)) == [(b"X-User", b"aX-Admin: 1")]


# ---- signing in ----


@pytest.mark.parametrize(
    ("signin", "param", "location"),
    [
        ("http://$host/auth/start", None, "http://a.test/auth/start?rd=http://a.test:81{}"),
        ("http://$host/auth/start", "orig", "http://a.test/auth/start?orig=http://a.test:81{}"),
        ("https://login/?x=1", None, "https://login/?x=1&rd=http://a.test:81{}"),
        ("https://login/?rd=$escaped_request_uri", None, "https://login/?rd={}"),
        ("https://login/?rd=", None, "https://login/?rd=&rd=http://a.test:81{}"),
        ("https://login/?rd=x", "orig", "https://login/?rd=x&orig=http://a.test:81{}"),
        ("/login", None, "/login?rd=http://a.test:81{}"),
    ],
)
async def test_who_is_not_signed_in_is_redirected(signin: str, param: str | None, location: str) -> None:
    annotations = {**URL, "auth-signin": signin, **({"auth-signin-redirect-param": param} if param else {})}
    subject = exchange(b"/?a=b&c=d", host=b"a.test:81")
    subject.host = b"a.test"
    answer = await bound(Service(SideResponse(401, ((b"WWW-Authenticate", b"Bearer"),))), annotations).ask(subject)
    assert answer is not None
    assert answer.status == 302
    assert answer.fields == ((b"Location", location.format(quote_plus("/?a=b&c=d")).encode()),)


async def test_only_a_401_is_redirected() -> None:
    assert await status(bound(Service(SideResponse(403)), SIGNIN), exchange()) == 403
    assert await status(bound(Service(down()), SIGNIN), exchange()) == 500


@given(st.binary(max_size=60))
def test_nothing_breaks_out_of_the_location(target: bytes) -> None:
    subject = exchange(b"/" + target, host=b"a.test")
    answer = asyncio.run(bound(Service(SideResponse(401)), SIGNIN).ask(subject))
    location = value(answer, b"Location")
    assert location is not None
    assert location.startswith(b"http://a.test/auth/start?rd=http://a.test%2F")
    assert not set(location) & set(b"\r\n\0 <>\"'")
    assert location.count(b"?") == 1
    assert location.count(b"&") == 0


# ---- cookies ----

COOKIES = ((b"Set-Cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2"))


@pytest.mark.parametrize(
    ("status_", "always", "wanted"),
    [(200, "", 2), (302, "", 2), (503, "", 0), (404, "", 0), (503, "true", 2), (404, "true", 2)],
)
async def test_cookies_of_the_service(status_: int, always: str, wanted: int) -> None:
    made = bound(Service(SideResponse(200, COOKIES)), {**URL, **({"auth-always-set-cookie": always} if always else {})})
    subject = exchange()
    assert await status(made, subject) == 0
    assert (
        after(made, subject, status_, (b"X", b"y"))
        == [(b"X", b"y"), (b"Set-Cookie", b"a=1; Path=/"), (b"Set-Cookie", b"b=2")][: 1 + wanted]
    )


async def test_cookies_come_with_the_redirect_but_not_with_a_refusal() -> None:
    made = bound(Service(SideResponse(401, COOKIES)), SIGNIN)
    subject = exchange()
    assert await status(made, subject) == 302
    assert len(after(made, subject, 302)) == 2
    assert after(made, subject, 401) == []


# ---- with others ----

USERS = secret(auth=f"uname:{SHA}")
BASIC = {"auth-type": "basic", "auth-secret": "users"}


async def test_any_of_basic_and_external() -> None:
    service = Service(SideResponse(401, ((b"X-User", b"failed"),)))
    made = bound(service, {**SIGNIN, **BASIC, "satisfy": "any", "auth-response-headers": "X-User"}, USERS)
    subject = exchange(b"/", basic("uname", "secret"), (b"X-User", b"spoofed"))
    assert await status(made, subject) == 0
    assert subject.fields == []  # neither the password nor what the client claims to be
    assert not service.calls
    answer = await made.ask(exchange(b"/?a=b"))
    assert value(answer, b"Location") == b"http://a.test/auth/start?rd=http://a.test%2F%3Fa%3Db"
    service.answer = SideResponse(200, ((b"X-User", b"jane"),))
    subject = exchange(b"/", (b"X-User", b"spoofed"))
    assert await status(made, subject) == 0
    assert list(iter_fields(subject.fields)) == [(b"X-User", b"jane")]
    service.answer = down()
    assert await status(made, exchange()) == 500


async def test_all_of_basic_and_external() -> None:
    service = Service()
    made = bound(service, {**SIGNIN, **BASIC}, USERS)
    assert await status(made, exchange()) == 302  # error_page 401 is for basic's 401 too
    assert not service.calls
    subject = exchange(b"/", basic("uname", "secret"))
    assert await status(made, subject) == 0
    assert service.calls[0].value(b"Authorization") == basic("uname", "secret")[1]
    assert subject.fields == []
    service.answer = SideResponse(403)
    assert await status(made, exchange(b"/", basic("uname", "secret"))) == 403


async def test_any_with_an_allowed_address() -> None:
    service = Service(SideResponse(401))
    made = bound(
        service, {**URL, "whitelist-source-range": "192.0.2.0/24", "satisfy": "any", "auth-response-headers": "X-User"}
    )
    subject = exchange(b"/", (b"x-user", b"spoofed"))
    assert await status(made, subject) == 0
    assert (service.calls, subject.fields) == ([], [])
    assert await status(made, exchange(address="198.51.100.1")) == 401


async def test_any_with_a_deny_list_still_asks_everybody() -> None:
    service = Service(SideResponse(401))
    made = bound(service, {**URL, "denylist-source-range": "198.51.100.0/24", "satisfy": "any"})
    assert await status(made, exchange()) == 401
    service.answer = SideResponse(200)
    assert await status(made, exchange()) == 0
    assert await status(made, exchange(address="198.51.100.1")) == 0  # as in nginx: any means any


async def test_exempt_rules() -> None:
    service = Service(SideResponse(401))
    assert await status(bound(service, at="/.well-known/acme-challenge/x"), exchange()) == 0
    assert await status(bound(service, SIGNIN, at="/"), exchange(b"/.well-known/acme-challenge/x")) == 302


# ---- global ----

GLOBAL = GlobalAuth(
    url="http://auth.test/check",
    response_headers="Foo, Bar",
    method="GET",
    request_redirect="Foo-Redirect",
    signin="http://foo.com/login",
    cache_key="foo",
    cache_duration="200 201 401 30m",
    always_set_cookie="true",
)


def test_options_are_for_ingresses_without_their_own() -> None:
    on = options(global_auth=GLOBAL)
    policy = parsed(options=on).policy("external-auth")
    assert policy.response_headers == ("Foo", "Bar")
    assert (policy.method, policy.always_set_cookie) == ("GET", True)
    assert policy.cache_durations == ((200, 1800.0), (201, 1800.0), (401, 1800.0))
    assert parsed({"enable-global-auth": "false"}, options=on).features == ()
    assert parsed({"enable-global-auth": "true"}, options=on).policy("external-auth") == policy
    assert parsed({"enable-global-auth": "nonsense"}, options=on).policy("external-auth") == policy
    assert parsed({"enable-global-auth": "true"}).features == ()
    assert parsed(URL, options=on).policy("external-auth") == parsed(URL).policy("external-auth")
    detail = parsed({"auth-signin": "http://a/"}, options=on)
    assert (detail.policy("external-auth"), detail.fields) == (policy, ["auth-signin"])


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("url", "nonsense"),
        ("method", "get"),
        ("signin", " "),
        ("signin_redirect_param", "&"),
        ("response_headers", "A B"),
    ]
    + [
        ("request_redirect", "ä"),
        ("cache_key", "$x"),
        ("cache_duration", "x"),
        ("always_set_cookie", "x"),
        ("snippet", "x"),
    ],
)
def test_a_bad_option_closes_whom_it_is_to_protect(field: str, bad: str) -> None:
    on = options(global_auth=GlobalAuth(**{"url": "http://auth.test/", field: bad}))
    result = parsed(options=on)
    key = "global-auth-" + field.replace("_", "-")
    assert key in result.closed
    (verdict,) = result.verdicts
    assert key in verdict.message
    assert not parsed({"enable-global-auth": "false"}, options=on).closed
    assert not parsed(URL, options=on).closed


def test_exemption_by_option() -> None:
    on = options(global_auth=GlobalAuth(url="http://auth.test/"), no_auth_locations="/bar")
    features = parsed(options=on).features
    worker = Worker(Service(SideResponse(401)))
    assert asyncio.run(status(worker.bind(features, route("/foo")), exchange())) == 401
    assert asyncio.run(status(worker.bind(features, route("/bar")), exchange())) == 0


# ---- cache ----

CACHED = {
    **SIGNIN,
    "auth-cache-key": "$http_authorization",
    "auth-cache-duration": "200 401 30m",
    "auth-response-headers": "X-User",
}
ME = basic("user", "password")


def by_password(call: Call) -> SideResponse:
    return SideResponse(200, ((b"X-User", b"me"),)) if call.value(b"Authorization") == ME[1] else SideResponse(401)


async def test_a_hit_asks_nobody_and_does_not_wait() -> None:
    service = Service(by_password)
    made = bound(service, CACHED)
    assert await status(made, exchange(b"/", ME)) == 0
    service.answer = down()
    subject = exchange(b"/other", ME, (b"X-User", b"spoofed"))
    assert made.now(subject) is None
    assert (b"X-User", b"me") in list(iter_fields(subject.fields))
    assert len(service.calls) == 1
    assert await status(made, exchange(b"/", basic("user", "other"))) == 500  # another user is not in it
    assert await status(made, exchange(b"/")) == 500


async def test_a_refusal_is_kept_too_and_faults_are_not() -> None:
    service = Service(by_password)
    made = bound(service, CACHED)
    assert await status(made, exchange(b"/x", basic("user", "wrong"))) == 302
    refused = made.now(exchange(b"/y", basic("user", "wrong")))
    assert value(refused, b"Location") == b"http://a.test/auth/start?rd=http://a.test%2Fy"  # this request's
    service.answer = SideResponse(500)
    for _ in range(2):
        assert await status(made, exchange(b"/", basic("x", "y"))) == 500
    assert len(service.calls) == 3


async def test_hosts_and_locations_share_nothing() -> None:
    service = Service()
    worker = Worker(service)
    fixed = parsed({**URL, "auth-cache-key": "fixed"}).features
    other = parsed({**URL, "auth-cache-key": "fixed", "auth-method": "POST"}).features
    assert await status(worker.bind(fixed, route("/foo")), exchange()) == 0
    service.answer = down()
    assert await status(worker.bind(fixed, route("/foo")), exchange()) == 0
    for made in (
        worker.bind(fixed, route("/bar")),
        worker.bind(fixed, route("/foo", "different.test")),
        worker.bind(other, route("/foo")),
    ):
        assert await status(made, exchange()) == 500


async def test_it_ends() -> None:
    service = Service()
    worker = Worker(service)
    made = bound(service, {**URL, "auth-cache-key": "fixed", "auth-cache-duration": "200 10s"}, worker=worker)
    for now, calls in ((0.0, 1), (9.0, 1), (11.0, 2)):
        worker.now = 1000.0 + now
        assert await status(made, exchange()) == 0
        assert len(service.calls) == calls


async def test_who_claims_to_be_a_user_is_not_taken_for_him() -> None:
    """`$remote_user` is what the client says, to nginx: with another password it must not find the user's answer."""
    service = Service(by_password)
    made = bound(service, {**CACHED, "auth-cache-key": "$remote_user"})
    assert await status(made, exchange(b"/", ME)) == 0
    assert await status(made, exchange(b"/", basic("user", "stolen name"))) == 302
    assert await status(made, exchange(b"/")) == 302


async def test_without_any_value_nothing_is_kept() -> None:
    service = Service()
    made = bound(service, {**URL, "auth-cache-key": "k-$cookie_session"})
    for n in range(3):
        assert await status(made, exchange(b"/", basic("a", "b"))) == 0
        assert len(service.calls) == n + 1


async def test_cookies_are_not_shared() -> None:
    service = Service(SideResponse(200, COOKIES))
    made = bound(service, CACHED)
    for n in range(2):
        assert await status(made, exchange(b"/", ME)) == 0
        assert len(service.calls) == n + 1


async def test_cancelled_while_asking_lets_nobody_in_and_keeps_nothing() -> None:
    service = Service()
    service.gate = asyncio.Event()
    made = bound(service, {**CACHED, **BASIC}, USERS)
    subject = exchange(b"/", basic("uname", "secret"))
    task = asyncio.ensure_future(made.ask(subject))
    await asyncio.sleep(0)
    assert len(service.calls) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (b"Authorization", basic("uname", "secret")[1]) in list(iter_fields(subject.fields))  # not admitted
    service.gate.set()
    await status(made, exchange(b"/", basic("uname", "secret")))
    assert len(service.calls) == 2
