"""server-alias, through real sockets: ingress-nginx's scenarios, wildcards and regular expressions, and what has precedence."""

import pytest

from ingress.testing import Edge
from tests.middleware.manifests import ingress, services


async def test_the_scenarios_of_ingress_nginx() -> None:
    async with Edge(services() + ingress("foo", None, host="foo")) as edge:
        assert (await edge.get("http://foo/")).status == 200
        assert (await edge.get("http://bar/")).status == 404
    async with Edge(services() + ingress("foo", {"server-alias": "bar"}, host="foo")) as edge:
        for host in ("foo", "bar"):
            answer = await edge.get(f"http://{host}/")
            assert answer.received is not None
            assert answer.received.headers["Host"] == host
    both = ingress("app-a", None, "/app-a", host="foo") + ingress(
        "app-b", {"server-alias": "bar"}, "/app-b", host="foo"
    )
    async with Edge(services() + both) as edge:
        for host in ("foo", "bar"):
            assert (await edge.get(f"http://{host}/app-a")).status == 200


ALIASES = r"*.wild.test, ~^www\d+\.b\.test$, ~evil, exact.test"


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("a.test", "web"),
        ("exact.test", "web"),
        ("EXACT.test:8080", "web"),
        ("x.wild.test", "web"),
        ("x.y.wild.test", "old"),  # one label, as a wildcard of a rule
        ("www12.b.test", "web"),
        ("WWW1.B.test:80", "web"),
        ("www.b.test", "old"),
        ("not-evil-at-all.test", "web"),  # not anchored, as in nginx
        ("evil.real.test", "api"),  # a wildcard of a rule goes before an expression
        ("other.test", "old"),
    ],
)
async def test_who_answers(host: str, service: str) -> None:
    manifests = (
        ingress("a", {"server-alias": ALIASES})
        + ingress("wild", None, host="*.real.test", service="api")
        + ingress("any", None, host="", service="old")
    )
    async with Edge(services() + manifests) as edge:
        assert edge.verdicts == ()
        assert (await edge.get(f"http://{host}/")).service == f"default/{service}"


async def test_an_alias_has_the_rules_of_its_host() -> None:
    manifests = ingress("a", {"server-alias": "b.test", "rewrite-target": "/$1", "app-root": "/x/home"}, "/x/(.*)")
    async with Edge(services() + manifests) as edge:
        answer = await edge.get("http://b.test/X/y")
        assert answer.received is not None
        assert answer.received.target == "/y"
        assert (await edge.get("http://b.test/")).headers["Location"] == "http://b.test/x/home"
        assert (await edge.get("http://b.test/z")).status == 404
