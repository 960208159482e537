"""use-regex, rewrite-target and x-forwarded-prefix, through real sockets: ingress-nginx's own scenarios, then the edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.exchange import DirectResponse, Exchange, field_pieces
from ingress.middleware import rewrite
from ingress.middleware.base import Scope
from ingress.routing.path import normalize_path
from ingress.routing.table import HostPattern, PathType, Route
from ingress.testing import Edge
from ingress.translate.annotations.targets import parse_rewrite_target
from tests.middleware.manifests import ingress, services


async def sent(manifests: str, target: str, *, host: str = "a.test", headers: dict[str, str] | None = None) -> str:
    """What the endpoint got for `target`, or the status of an answer of the proxy's own."""
    async with Edge(services() + manifests) as edge:
        answer = await edge.get(f"http://{host}{target}", headers)
        return answer.received.target if answer.received is not None else str(answer.status)


# ---- scenarios of ingress-nginx's test/e2e/annotations/rewrite.go and xforwardedprefix.go ---------------------------


async def test_a_rewrite_of_everything() -> None:
    manifests = ingress("r", {"rewrite-target": "/", "enable-rewrite-log": "true"}, "/something")
    assert await sent(manifests, "/something") == "/"


async def test_the_longest_path_goes_first() -> None:
    plain = ingress("kube-lego", None, "/.well-known/acme/challenge")
    rewritten = ingress("rewrite-index", {"rewrite-target": "/new/backend"})
    for manifests in (plain, plain + rewritten):
        assert await sent(manifests, "/.well-known/acme/challenge") == "/.well-known/acme/challenge"
    assert await sent(plain + rewritten, "/other") == "/new/backend"


async def test_a_plain_path_beside_a_regular_expression() -> None:
    manifests = ingress("plain", None, "/foo") + ingress(
        "regex", {"use-regex": "true", "rewrite-target": "/new/backend"}, "/foo.+"
    )
    assert await sent(manifests, "/foo") == "/foo"
    assert await sent(manifests, "/foo/bar") == "/new/backend"


async def test_the_longest_text_is_not_the_longest_match() -> None:
    manifests = ingress("plain", None, "/foo/bar/bar") + ingress(
        "regex", {"use-regex": "true", "rewrite-target": "/new/backend"}, "/foo/bar/[a-z]{3}"
    )
    assert await sent(manifests, "/foo/bar/bar") == "/new/backend"


async def test_groups() -> None:
    manifests = ingress("regex", {"use-regex": "true", "rewrite-target": "/new/backend/$1"}, "/foo/bar/(.+)")
    assert await sent(manifests, "/foo/bar/bar") == "/new/backend/bar"


@pytest.mark.parametrize(("prefix", "sent_prefix"), [("/test/value", "/test/value"), ("", None), ("/a b", "/ab")])
async def test_forwarded_prefix(prefix: str, sent_prefix: str | None) -> None:
    manifests = ingress("x", {"x-forwarded-prefix": prefix, "rewrite-target": "/foo"})
    async with Edge(services() + manifests) as edge:
        answer = await edge.get("http://a.test/")
        assert answer.received is not None
        assert answer.received.headers.get("X-Forwarded-Prefix") == sent_prefix


# ---- edges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "target", "asked", "got"),
    [
        ("/something(/|$)(.*)", "/$2", "/something", "/"),
        ("/something(/|$)(.*)", "/$2", "/something/", "/"),
        ("/something(/|$)(.*)", "/$2", "/something/new?a=1&b", "/new?a=1&b"),
        ("/SomeThing(/|$)(.*)", "/$2", "/something/New", "/New"),
        ("/x(/(.*))?", "/y/$2", "/x", "/y/"),  # a group that took no part is empty
        ("/x/(.*)", "/y/$1/$2/$9", "/x/a", "/y/a/"),
        ("/(a)(b)(c)(d)(e)(f)(g)(h)(i)", "/$9$8$7$6$5$4$3$2$1", "/abcdefghi", "/ihgfedcba"),
        ("/x/(.*)", "/$10", "/x/a", "/a0"),  # one digit, as in nginx
        ("/x/(.*)", "$1", "/x/a", "/a"),
        ("/x/(.*)", "y/$1", "/x/a", "/y/a"),
        ("/x(.*)", "/$1", "/x/a", "/a"),  # normal form: nginx sends //a
        ("/x", "/y", "/x/anything?q", "/y?q"),
        ("/x/(.*)", "/$1", "/x/a%20b%2Fc%C3%A9", "/a%20b%2Fc%C3%A9"),
        ("/x/(.*)", "/y?id=$1", "/x/7", "/y?id=7"),
        ("/x/(.*)", "/y?id=$1", "/x/7?a=b", "/y?id=7&a=b"),
        ("/x/(.*)", "/y?id=$1?", "/x/7?a=b", "/y?id=7"),
        ("/x/(.*)", "/y/$1?", "/x/7?a=b", "/y/7"),
        ("/x/(.*)", "/y?id=$1", "/x/1&admin=1+2", "/y?id=1%26admin=1%2B2"),  # a group stays one argument
        ("/x", "/$host/$request_method", "/x", "/a.test/GET"),
        ("/x", "/y/$arg_q", "/x?q=a%3Fb", "/y/a%3Fb?q=a%3Fb"),
        ("/x", "/y$request_uri", "/x?a=1", "/y/x%3Fa=1?a=1"),  # a variable begins no query
        ("/x", "/y/$http_user", "/x", "/y/100%25%20sure%3F"),
        ("/x", "/y/$namespace/$ingress_name/$service_name/$service_port", "/x", "/y/default/r/web/80"),
        ("/a|/b/(.*)", "/$1", "/q/b/c", "/c"),  # ^/a|/b/(.*), as nginx reads it
        ("/files(.*)", "/data/$1", "/files../secret", "400"),
        ("/files/(.*)", "/data/$1", "/files/..%2Fsecret", "400"),  # refused before: two meanings
        ("/x/(.*)", "/%41/$1", "/x/a", "/A/a"),
        ("/x/(.*)", "/a%2eb/$1", "/x/c", "/a.b/c"),
        ("/x/(...)-(.*)", "/y/$2", "/x/%25-a", "/y/a"),
        ("/x/(.)(.*)", "/y/$2", "/x/%C3%A9", "/y/C3%A9"),
        ("/x/(.*)(.)", "/y/$1", "/x/%C3%A9", "400"),  # half an escape
        ("/x/(.)(.)(.*)", "/y/$1$3/$1$3", "/x/%C2e%C2e", "400"),  # %2e, put together
    ],
)
async def test_targets(path: str, target: str, asked: str, got: str) -> None:
    manifests = ingress("r", {"rewrite-target": target}, path) + ingress("q", None, "/data", "/files")
    assert await sent(manifests, asked, headers={"User": "100% sure?"}) == got


async def test_a_target_that_is_the_path_changes_nothing() -> None:
    manifests = ingress("r", {"rewrite-target": "/foo"}, "/foo")
    async with Edge(services() + manifests) as edge:
        assert (await edge.get("http://a.test/foo/bar")).received.target == "/foo/bar"  # type: ignore[union-attr]
        assert (await edge.get("http://a.test/FOO")).status == 404
        assert edge.table.hosts["a.test"].regex_cause == ""  # type: ignore[index]


async def test_no_rewrite_where_the_host_is_in_regex_mode_for_another_reason() -> None:
    manifests = ingress("r", {"rewrite-target": "/foo"}, "/foo") + ingress("q", {"use-regex": "true"}, "/x")
    assert await sent(manifests, "/foo/bar") == "/foo/bar"


@pytest.mark.parametrize(
    ("target", "asked", "location"),
    [
        ("https://new.test/$1", "/x/a?b=c", "https://new.test/a?b=c"),
        ("http://new.test", "/x/", "http://new.test"),
        ("$scheme://new.test/$1", "/x/a%20b", "http://new.test/a%20b"),
        ("https://new.test/y?id=$1", "/x/7?a=b", "https://new.test/y?id=7&a=b"),
        ("https://new.test/y?id=$1?", "/x/7?a=b", "https://new.test/y?id=7"),
    ],
)
async def test_a_target_with_a_scheme_redirects(target: str, asked: str, location: str) -> None:
    async with Edge(services() + ingress("r", {"rewrite-target": target}, "/x/(.*)")) as edge:
        answer = await edge.get(f"http://a.test{asked}")
        assert (answer.status, answer.headers["Location"], answer.service) == (302, location, None)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("ftp://x", "it has a scheme that is neither http nor https"),
        ("javascript:alert(1)", "it has a scheme that is neither http nor https"),
        ("/$nope", "$nope is not a variable that can be used here"),
        ("/a b", "it contains ' ', which has to be percent-encoded"),
        ("/a%zz", "it has a % that is not followed by two hexadecimal digits"),
        ("/é", "not printable ASCII"),
        ("/a/../b", "it has a dot segment"),
        ("/a/%2E%2e/b", "it has a dot segment"),
        ("?a=b", "it has no path"),
    ],
)
async def test_bad_targets(target: str, why: str) -> None:
    """Without its target the Ingress is served as it is, and the host is not in regex mode."""
    async with Edge(services() + ingress("r", {"rewrite-target": target}, "/x")) as edge:
        (verdict,) = edge.verdicts
        assert verdict.field == "metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]"
        assert why in verdict.message
        assert (await edge.get("http://a.test/x/y")).received.target == "/x/y"  # type: ignore[union-attr]
        assert (await edge.get("http://a.test/X")).status == 404


async def test_a_prefix_without_a_rewrite_is_not_sent() -> None:
    async with Edge(services() + ingress("r", {"x-forwarded-prefix": "/p"})) as edge:
        (verdict,) = edge.verdicts
        assert "no effect without rewrite-target" in verdict.message
        answer = await edge.get("http://a.test/")
        assert answer.received is not None
        assert "X-Forwarded-Prefix" not in answer.received.headers


async def test_a_prefix_replaces_what_the_client_sent_and_may_have_groups() -> None:
    manifests = ingress("r", {"rewrite-target": "/$2", "x-forwarded-prefix": "/$1"}, "/(a|b)/(.*)")
    async with Edge(services() + manifests) as edge:
        answer = await edge.get("http://a.test/B/c", {"x-forwarded-prefix": "/evil"})
        assert answer.received is not None
        assert answer.received.target == "/c"
        assert answer.received.headers["X-Forwarded-Prefix"] == "/B"


async def test_the_default_backend_of_an_ingress_is_rewritten_too() -> None:
    """ingress-nginx: the implicit / of the host carries the annotations."""
    manifests = ingress("r", {"rewrite-target": "/y/$1"}, "/x/(.*)", default="old")
    assert await sent(manifests, "/x/1") == "/y/1"
    assert await sent(manifests, "/other/path?q") == "/y/?q"


async def test_the_catch_all_is_neither_rewritten_nor_redirected() -> None:
    catch_all = """---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: all
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /x
    nginx.ingress.kubernetes.io/permanent-redirect: http://x
    nginx.ingress.kubernetes.io/upstream-vhost: up.test
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
"""
    async with Edge(services() + catch_all) as edge:
        answer = await edge.get("http://unknown.test/a")
        assert answer.received is not None
        assert answer.received.target == "/a"
        assert answer.received.headers["Host"] == "up.test"


async def test_own_prefix_wins() -> None:
    text = ingress("r", {"rewrite-target": "/nginx"}, "/x").replace(
        '"annotations": {', '"annotations": {"aioingress.io/rewrite-target": "/own", '
    )
    assert await sent(text, "/x") == "/own"


_REQUEST = st.text("/.ab%41?é\\", max_size=20).map(lambda text: ("/" + text).encode())


@given(
    st.sampled_from(["/(.*)", "/a(.*)", "/([^/]*)/?(.*)", "/(.)(.)(.*)", "/"]),
    st.sampled_from(["/$1", "$1", "/x/$2/$1", "/x$1?y=$2", "/$http_x", "/$request_uri$arg_a", "/./$1"]),
    _REQUEST,
    st.binary(max_size=20),
)
def test_what_the_endpoint_gets_is_always_a_path_in_normal_form(
    path: str, written: str, asked: bytes, field: bytes
) -> None:
    try:
        target = parse_rewrite_target(written)
        normal = normalize_path(asked.partition(b"?")[0])
    except ValueError:
        return
    exchange = Exchange(None, "192.0.2.1", b"http", b"", target=asked, fields=field_pieces([(b"X", field)]))  # type: ignore[arg-type]
    exchange.path = normal
    route = Route(HostPattern("a"), path, PathType.PREFIX, "n", "i", "s", "80", None, pattern=path)
    hook = rewrite.bind(rewrite.Rewrite(written, target), Scope(route, None, None)).request  # type: ignore[arg-type]
    assert hook is not None
    answer = hook(exchange)
    if answer is not None:
        assert isinstance(answer, DirectResponse)
        assert answer.status == 400
        return
    assert normalize_path(exchange.path) == exchange.path
    assert not set(exchange.path) & set(b" ?#\r\n\0")
    assert not exchange.query.translate(None, bytes(range(0x21, 0x7F)))
