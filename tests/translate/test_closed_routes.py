"""A route that an access rule has closed answers 503, and nothing else of its Ingress acts on it."""

import pytest

from ingress.translate.annotations.tls import NEVER_REDIRECTED
from tests.translate.build import compiled, ingress, path, rule, service, slice_of

NGINX = "nginx.ingress.kubernetes.io/"


@pytest.mark.parametrize("service_name", ["web", "gone"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("permanent-redirect", "https://elsewhere.test/"),
        ("temporal-redirect", "https://elsewhere.test/"),
        ("rewrite-target", "https://elsewhere.test/"),
        ("limit-rps", "5"),
        ("upstream-vhost", "inner.test"),
    ],
)
def test_no_feature_acts_on_it(name: str, value: str, service_name: str) -> None:
    annotations = {NGINX + "whitelist-source-range": "nonsense", NGINX + name: value}
    built = compiled(
        ingress("i", rule("a.test", path("/", service_name)), annotations=annotations), service(), slice_of()
    )
    (route,) = built.table.hosts["a.test"].routes  # type: ignore[index]
    assert (route.upstream, route.closed_status) == (None, 503)
    assert route.features == (NEVER_REDIRECTED,)


def test_a_missing_service_leaves_redirects_in_force() -> None:
    annotations = {NGINX + "permanent-redirect": "https://elsewhere.test/"}
    built = compiled(ingress("i", rule("a.test", path("/", "gone")), annotations=annotations))
    (route,) = built.table.hosts["a.test"].routes  # type: ignore[index]
    assert (route.upstream, len(route.features)) == (None, 1)
