"""permanent-redirect, temporal-redirect, relative-redirects, use-port-in-redirects, app-root, from-to-www-redirect, through real sockets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.exchange import DirectResponse, Exchange, field_pieces
from ingress.middleware import redirects
from ingress.middleware.base import Scope
from ingress.routing.table import HostPattern, PathType, Route
from ingress.testing import Answer, Edge
from ingress.translate.annotations.targets import parse_redirect
from tests.middleware.manifests import ingress, services


async def ask(manifests: str, url: str = "http://a.test/", headers: dict[str, str] | None = None) -> Answer:
    async with Edge(services() + manifests) as edge:
        assert edge.errors == []
        return await edge.get(url, headers)


def redirected(answer: Answer) -> tuple[int, str | None]:
    assert answer.service is None
    return answer.status, answer.headers.get("Location")


# ---- permanent and temporal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "url", "expected"),
    [
        # test/e2e/annotations/redirect.go
        ({"permanent-redirect": "http://r.test"}, "http://a.test/", (301, "http://r.test")),
        (
            {"permanent-redirect": "http://r.test", "permanent-redirect-code": "302"},
            "http://a.test/",
            (302, "http://r.test"),
        ),
        # test/e2e/annotations/relativeredirects.go
        (
            {"permanent-redirect": "/something", "relative-redirects": "false"},
            "http://a.test/",
            (301, "http://a.test/something"),
        ),
        ({"permanent-redirect": "/something", "relative-redirects": "true"}, "http://a.test/", (301, "/something")),
        # edges
        (
            {"permanent-redirect": "http://r.test", "permanent-redirect-code": "308"},
            "http://a.test/",
            (308, "http://r.test"),
        ),
        ({"temporal-redirect": "https://t.test/x"}, "http://a.test/y?z", (302, "https://t.test/x")),
        (
            {"temporal-redirect": "https://t.test", "temporal-redirect-code": "307"},
            "http://a.test/",
            (307, "https://t.test"),
        ),
        (
            {"temporal-redirect": "https://t.test", "permanent-redirect": "https://p.test"},
            "http://a.test/",
            (302, "https://t.test"),
        ),
        (
            {"permanent-redirect": "https://r.test$request_uri"},
            "http://a.test/x?y=%20z",
            (301, "https://r.test/x?y=%20z"),
        ),
        ({"permanent-redirect": "$scheme://r.test:8443$uri"}, "http://a.test/x/../y?z", (301, "http://r.test:8443/y")),
        ({"permanent-redirect": "https://$host.r.test/"}, "http://A.test:80/", (301, "https://a.test.r.test/")),
        (
            {"permanent-redirect": "https://r.test/?rd=$escaped_request_uri"},
            "http://a.test/x?y=1&z",
            (301, "https://r.test/?rd=%2Fx%3Fy%3D1%26z"),
        ),
        ({"permanent-redirect": "/s"}, "http://a.test:8080/", (301, "http://a.test/s")),
        (
            {"permanent-redirect": "/s", "use-port-in-redirects": "true"},
            "http://a.test:8080/",
            (301, "http://a.test:8080/s"),
        ),
        ({"permanent-redirect": "/s", "use-port-in-redirects": "true"}, "http://a.test/", (301, "http://a.test/s")),
        ({"permanent-redirect": "$request_uri"}, "http://a.test//evil.test/", (301, "http://a.test//evil.test/")),
        (
            {"permanent-redirect": "$request_uri", "relative-redirects": "true"},
            "http://a.test//evil.test/",
            (301, "/evil.test/"),
        ),
        ({"permanent-redirect": "https://r.test/$http_x"}, "http://a.test/", (301, "https://r.test/a%20b%09c")),
        ({"permanent-redirect": "http://r.test", "permanent-redirect-code": "300"}, "http://a.test/", (300, None)),
    ],
)
async def test_redirects(annotations: dict[str, str], url: str, expected: tuple[int, str | None]) -> None:
    answer = await ask(ingress("r", annotations), url, {"X": "a b\tc"})
    assert redirected(answer) == expected
    if expected[1] is None:
        assert answer.text == "http://r.test"


async def test_groups_of_the_path() -> None:
    manifests = ingress("r", {"use-regex": "true", "permanent-redirect": "https://r.test/$2/$1"}, "/x/(a|b)/(.*)")
    assert redirected(await ask(manifests, "http://a.test/X/a/c%20d")) == (301, "https://r.test/c%20d/a")


async def test_only_its_own_paths() -> None:
    manifests = ingress("r", {"permanent-redirect": "http://r.test"}, "/old") + ingress("w", None, "/")
    async with Edge(services() + manifests) as edge:
        assert (await edge.get("http://a.test/old/x")).status == 301
        assert (await edge.get("http://a.test/new")).service == "default/web"


async def test_it_answers_where_the_service_does_not_exist() -> None:
    async with Edge(services("other") + ingress("r", {"permanent-redirect": "http://r.test"})) as edge:
        assert redirected(await edge.get("http://a.test/")) == (301, "http://r.test")


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        ("permanent-redirect", "javascript:alert(1)", "neither an http or https URL nor a path"),
        ("permanent-redirect", "ftp://r.test", "neither an http or https URL nor a path"),
        ("permanent-redirect", "r.test", "neither an http or https URL nor a path"),
        ("permanent-redirect", "http:r.test", "neither an http or https URL nor a path"),
        ("permanent-redirect", "https://", "it has no host"),
        ("permanent-redirect", "https://r.test/$nope", "$nope is not a variable"),
        ("permanent-redirect", "https://r.test/\u00e9", "not printable ASCII"),
        ("permanent-redirect", "https://r.test/a\r\nX: y", "not printable ASCII"),
        ("permanent-redirect", 'https://r.test/"', "has to be percent-encoded"),
        ("temporal-redirect", "/x", "it is not an http or https URL"),
        ("temporal-redirect", "mailto:a", "neither an http or https URL nor a path"),
    ],
)
async def test_bad_targets_do_not_redirect(annotation: str, value: str, why: str) -> None:
    async with Edge(services() + ingress("r", {annotation: value})) as edge:
        (verdict,) = edge.verdicts
        assert verdict.field == f"metadata.annotations[nginx.ingress.kubernetes.io/{annotation}]"
        assert why in verdict.message
        assert (await edge.get("http://a.test/")).service == "default/web"


@pytest.mark.parametrize(
    ("annotation", "value", "status"),
    [
        ("permanent-redirect-code", "299", 301),
        ("permanent-redirect-code", "309", 301),
        ("permanent-redirect-code", "x", 301),
        ("temporal-redirect-code", "308", 302),
        ("relative-redirects", "maybe", 301),
        ("use-port-in-redirects", "maybe", 301),
    ],
)
async def test_bad_details_leave_the_default(annotation: str, value: str, status: int) -> None:
    target = "temporal-redirect" if annotation.startswith("temporal") else "permanent-redirect"
    async with Edge(services() + ingress("r", {target: "http://r.test", annotation: value})) as edge:
        (verdict,) = edge.verdicts
        assert verdict.field.endswith(f"/{annotation}]")
        assert redirected(await edge.get("http://a.test/")) == (status, "http://r.test")


async def test_empty_values_ask_for_nothing() -> None:
    manifests = ingress(
        "r", {"permanent-redirect": "", "temporal-redirect": "", "rewrite-target": "", "upstream-vhost": ""}
    )
    assert (await ask(manifests)).service == "default/web"


# ---- app-root -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.test/", (302, "http://a.test/foo")),
        ("http://A.test:8080/", (302, "http://A.test:8080/foo")),
        ("http://a.test/?q=1", (302, "http://a.test/foo")),
        ("http://a.test//", (302, "http://a.test/foo")),
        ("http://a.test/x/..", (302, "http://a.test/foo")),
    ],
)
async def test_app_root(url: str, expected: tuple[int, str]) -> None:
    assert redirected(await ask(ingress("r", {"app-root": "/foo"}), url)) == expected


async def test_app_root_is_for_the_root_alone() -> None:
    assert (await ask(ingress("r", {"app-root": "/foo"}), "http://a.test/foo")).service == "default/web"


@pytest.mark.parametrize(
    "others",
    [
        "",
        ingress("exact", None, "=/"),
        ingress("prefix", None, "/"),
        ingress("regex", {"use-regex": "true"}, "/.*"),
        ingress("redirect", {"permanent-redirect": "http://r.test"}, "/"),
    ],
    ids=["none", "exact", "prefix", "regex", "redirect"],
)
async def test_app_root_belongs_to_the_host(others: str) -> None:
    """Whoever has `/`, and also if nobody has."""
    async with Edge(services() + ingress("r", {"app-root": "/foo"}, "/foo") + others) as edge:
        assert redirected(await edge.get("http://a.test/")) == (302, "http://a.test/foo")
        assert (await edge.get("http://a.test/foo")).service == "default/web"


async def test_the_oldest_app_root_counts() -> None:
    manifests = ingress("young", {"app-root": "/young"}, "/young", created="2026-02-01T00:00:00Z") + ingress(
        "old", {"app-root": "/old"}, "/old", created="2026-01-01T00:00:00Z"
    )
    async with Edge(services() + manifests) as edge:
        assert redirected(await edge.get("http://a.test/")) == (302, "http://a.test/old")
        (verdict,) = edge.verdicts
        assert (verdict.object, verdict.reason) == ("Ingress default/young", "Conflict")
        assert verdict.field == "metadata.annotations[nginx.ingress.kubernetes.io/app-root]"


@pytest.mark.parametrize("value", ["foo", "https://x.test/", "/a b", "/$nope", "/\u00e9"])
async def test_bad_app_roots(value: str) -> None:
    async with Edge(services() + ingress("r", {"app-root": value})) as edge:
        (verdict,) = edge.verdicts
        assert verdict.field.endswith("/app-root]")
        assert (await edge.get("http://a.test/")).service == "default/web"


# ---- from-to-www-redirect -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "url", "location"),
    [
        # test/e2e/annotations/fromtowwwredirect.go
        ("bar.test", "http://www.bar.test/foo", "http://bar.test:80/foo"),
        ("www.bar.test", "http://bar.test/", "http://www.bar.test:80"),
        ("bar.test", "http://www.bar.test/foo/?a=b", "http://bar.test:80/foo/?a=b"),
        ("bar.test", "http://WWW.bar.test:8080/foo/", "http://bar.test:8080/foo"),
        ("bar.test", "http://www.bar.test/a/../b", "http://bar.test:80/a/../b"),
        ("bar.test", "http://www.bar.test//evil.test", "http://bar.test:80//evil.test"),
    ],
)
async def test_the_twin_of_a_host(host: str, url: str, location: str) -> None:
    manifests = ingress("r", {"from-to-www-redirect": "true"}, host=host)
    assert redirected(await ask(manifests, url)) == (308, location)
    assert (await ask(manifests, f"http://{host}/")).service == "default/web"


async def test_no_twin_where_it_is_a_host_itself() -> None:
    manifests = ingress("r", {"from-to-www-redirect": "true"}) + ingress("w", None, host="www.a.test", service="old")
    async with Edge(services() + manifests) as edge:
        (verdict,) = edge.verdicts
        assert "www.a.test is the host of a rule itself" in verdict.message
        assert (await edge.get("http://www.a.test/")).service == "default/old"


@pytest.mark.parametrize("host", ["*.a.test", ""])
async def test_hosts_without_a_twin(host: str) -> None:
    async with Edge(services() + ingress("r", {"from-to-www-redirect": "true"}, host=host)) as edge:
        (verdict,) = edge.verdicts
        assert "has no twin" in verdict.message
        assert len(edge.table.hosts) == 1


async def test_a_twin_goes_before_a_wildcard() -> None:
    manifests = ingress("r", {"from-to-www-redirect": "true"}) + ingress("w", None, host="*.a.test", service="old")
    assert redirected(await ask(manifests, "http://www.a.test/x")) == (308, "http://a.test:80/x")


async def test_a_bad_switch_is_off() -> None:
    async with Edge(services() + ingress("r", {"from-to-www-redirect": "maybe"})) as edge:
        (verdict,) = edge.verdicts
        assert verdict.field.endswith("/from-to-www-redirect]")
        assert (await edge.get("http://www.a.test/")).status == 404


# ---- nothing gets out of the header line ----------------------------------------------------------------------------


class _Nowhere:
    server_port = 80


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_any_request_gives_one_line_on_the_right_host(field: bytes, target: bytes, query: bytes) -> None:
    """Even if the listener let through what it refuses."""
    exchange = Exchange(
        _Nowhere(), "192.0.2.1", b"http", b"", target=b"/" + target, fields=field_pieces([(b"X", field)])
    )  # type: ignore[arg-type]
    exchange.host = exchange.authority = b"a.test"
    exchange.query = b"?" + query
    exchange.captures = (field,)
    route = Route(HostPattern("a.test"), "/", PathType.PREFIX, "n", "i", "s", "80", None)
    scope = Scope(route, None, None)  # type: ignore[arg-type]
    for text in ("https://r.test/$http_x?$args$1", "$request_uri", "/$http_x"):
        for relative in (False, True):
            hook = redirects.bind(redirects.Redirect(parse_redirect(text), 301, relative), scope).request
            assert hook is not None
            answer = hook(exchange)
            assert isinstance(answer, DirectResponse)
            location = dict(answer.fields)[b"Location"]
            assert not location.translate(None, bytes(range(0x21, 0x7F)))
            if text.startswith("https"):
                assert location.startswith(b"https://r.test/")
            elif relative:
                assert location[:1] == b"/"
                assert location[1:2] not in (b"/", b"\\")
            else:
                assert location.startswith(b"http://a.test/")
