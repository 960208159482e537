"""upstream-vhost, through real sockets."""

import pytest

from ingress.testing import Edge
from tests.middleware.manifests import ingress, services


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("up.bar.test", "up.bar.test"),
        ("up.bar.test:8080", "up.bar.test:8080"),
        ("$host", "a.test"),
        ("$http_host", "A.test:81"),
        ("$service_name.$namespace.svc", "web.default.svc"),
        ("${http_x}.test", "tenant.test"),
        ("$http_other", "A.test:81"),  # nothing came: the client's
    ],
)
async def test_the_host_that_the_endpoint_gets(value: str, host: str) -> None:
    async with Edge(services() + ingress("v", {"upstream-vhost": value})) as edge:
        assert edge.verdicts == ()
        answer = await edge.get("http://A.test:81/", {"X": "tenant"})
        assert answer.received is not None
        assert answer.received.headers["Host"] == host
        assert answer.received.headers["X-Forwarded-Host"] == "A.test:81"


@pytest.mark.parametrize("value", ["a b", "a/b", "a\r\nX: y", "$nope", "\u00e9.test", "a,b"])
async def test_bad_values(value: str) -> None:
    async with Edge(services() + ingress("v", {"upstream-vhost": value})) as edge:
        (verdict,) = edge.verdicts
        assert verdict.field.endswith("/upstream-vhost]")
        answer = await edge.get("http://a.test/")
        assert answer.received is not None
        assert answer.received.headers["Host"] == "a.test"
