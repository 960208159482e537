"""The rules of networking.k8s.io/v1: hosts, paths, default backends, classes. The names of the scenarios of the Kubernetes Ingress
conformance suite are kept where there is one. One controller with two workers serves them all; each scenario has hosts of its own.
"""

from collections.abc import Iterator

import pytest

from tests.e2e.support import (
    Pods,
    Serve,
    app,
    backend,
    endpoint_slice,
    fetch,
    ingress,
    ingress_class,
    path,
    rule,
    service,
    write,
)

SERVICES = (
    "foo-exact",
    "foo-prefix",
    "aaa-bbb-prefix",
    "aaa-prefix",
    "foo-mixed-exact",
    "foo-mixed-prefix",
    "slash-prefix",
    "slash-exact",
    "foo-bar-com",
    "wildcard-foo-com",
    "root",
    "api",
    "own-default",
    "v1beta1",
    "extensions",
    "echo-service",
)


@pytest.fixture(scope="module")
def site(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("rules") / "manifests"
    folder.mkdir()
    for name in SERVICES:
        write(folder / f"service-{name}.yaml", app(name, [pods.start(name)]))
    write(
        folder / "scale.yaml", app("scaled", pods.some("scaled", 10)), ingress("scaled", rule("scaled", path("scaled")))
    )
    write(
        folder / "conformance.yaml",
        ingress(
            "path-rules",
            rule("exact-path-rules", path("foo-exact", "/foo", "Exact")),
            rule(
                "prefix-path-rules",
                path("foo-prefix", "/foo"),
                path("aaa-bbb-prefix", "/aaa/bbb"),
                path("aaa-prefix", "/aaa"),
            ),
            rule("mixed-path-rules", path("foo-mixed-prefix", "/foo"), path("foo-mixed-exact", "/foo", "Exact")),
            rule(
                "trailing-slash-path-rules",
                path("slash-prefix", "/aaa/bbb/"),
                path("slash-exact", "/foo/", "Exact"),
            ),
        ),
        ingress(
            "host-rules",
            rule("*.foo.com", path("wildcard-foo-com")),
            rule("foo.bar.com", path("foo-bar-com")),
            annotations={"nginx.ingress.kubernetes.io/ssl-redirect": "false"},
            tls=[{"hosts": ["foo.bar.com"], "secretName": "conformance-tls"}],
        ),
        ingress("unknown-class", rule("unknown-class", path("root")), ingressClassName="some-invalid-class-name"),
        ingress("default-backend", defaultBackend=backend("echo-service")),
    )
    write(
        folder / "more.yaml",
        ingress("exact-host", rule("one.shop.test", path("foo-exact", "/only"))),
        ingress("wild-host", rule("*.shop.test", path("wildcard-foo-com"))),
        ingress(
            "precedence",
            rule("precedence", path("root"), path("api", "/api"), path("foo-exact", "/api", "Exact")),
        ),
        ingress(
            "types",
            rule("implementation-specific", path("root", "/impl", "ImplementationSpecific")),
            rule("no-path-type", path("root", "/none", None)),
            rule("no-path", path("root", None, "ImplementationSpecific")),
        ),
        ingress("fallback", rule("has-default", path("root", "/root")), defaultBackend=backend("own-default")),
        ingress("case", rule("Upper.Example.Test", path("root"))),
    )
    old_rule = {"http": {"paths": [{"path": "/", "backend": {"serviceName": "v1beta1", "servicePort": 80}}]}}
    extensions_rule = {
        "http": {"paths": [{"path": "/e", "backend": {"serviceName": "extensions", "servicePort": "web"}}]}
    }
    write(folder / "named-port.yaml", service("extensions", {"name": "web", "port": 80}))
    (folder / "service-extensions.yaml").unlink()
    pod = pods.start("extensions")
    write(
        folder / "legacy.yaml",
        endpoint_slice("extensions", [pod.address], {"name": "web", "port": pod.port}),
        {
            **ingress("v1beta1", {"host": "v1beta1", **old_rule}),
            "apiVersion": "networking.k8s.io/v1beta1",
        },
        {
            **ingress("extensions", {"host": "extensions", **extensions_rule}),
            "apiVersion": "extensions/v1beta1",
        },
        {
            **ingress("legacy-default", {"host": "legacy-default", **extensions_rule}),
            "apiVersion": "extensions/v1beta1",
            "spec": {
                "rules": [{"host": "legacy-default", **extensions_rule}],
                "backend": {"serviceName": "v1beta1", "servicePort": 80},
            },
        },
    )
    with Serve(folder, "--no-access-log", workers=2) as running:
        yield running


def test_no_verdict_but_the_expected(site):
    assert {(v["object"], v["reason"]) for v in site.verdicts()} == {
        ("Ingress default/unknown-class", "IngressClassNotFound"),
        ("Ingress default/host-rules", "SecretNotFound"),
        ("Ingress default/host-rules", "InvalidCertificate"),  # of the default one: it is for no host of theirs
    }


CATCH_ALL = "echo-service"  # an Ingress with a default backend and no rules: what no rule takes


@pytest.mark.parametrize(
    ("host", "target", "pod"),
    [
        pytest.param("foo.bar.com", "/", "foo-bar-com", id="host-rules/exact-host-with-tls-section-over-plain-http"),
        pytest.param("subdomain.bar.com", "/", CATCH_ALL, id="host-rules/other-subdomain-has-no-rule"),
        pytest.param("bar.foo.com", "/", "wildcard-foo-com", id="host-rules/wildcard-matches-one-label"),
        pytest.param("baz.bar.foo.com", "/", CATCH_ALL, id="host-rules/wildcard-does-not-match-two-labels"),
        pytest.param("foo.com", "/", CATCH_ALL, id="host-rules/wildcard-does-not-match-its-own-domain"),
        pytest.param("foo.bar.com:8080", "/", "foo-bar-com", id="host-rules/port-does-not-count"),
        pytest.param("FOO.bar.COM", "/", "foo-bar-com", id="host-rules/case-of-request-host-does-not-count"),
        pytest.param("upper.example.test", "/", "root", id="host-rules/case-of-rule-host-does-not-count"),
        pytest.param("foo.bar.com.", "/", "foo-bar-com", id="host-rules/trailing-dot-does-not-count"),
        pytest.param("one.shop.test", "/only", "foo-exact", id="host-rules/exact-host-before-wildcard"),
        pytest.param("two.shop.test", "/only", "wildcard-foo-com", id="host-rules/wildcard-takes-the-others"),
        pytest.param("exact-path-rules", "/foo", "foo-exact", id="path-rules/exact-foo-matches-foo"),
        pytest.param("prefix-path-rules", "/foo", "foo-prefix", id="path-rules/prefix-foo-matches-foo"),
        pytest.param("prefix-path-rules", "/foo/", "foo-prefix", id="path-rules/prefix-foo-matches-foo-slash"),
        pytest.param("prefix-path-rules", "/aaa/bbb", "aaa-bbb-prefix", id="path-rules/longest-prefix"),
        pytest.param("prefix-path-rules", "/aaa/bbb/ccc", "aaa-bbb-prefix", id="path-rules/longest-prefix-below"),
        pytest.param("prefix-path-rules", "/aaa/ccc", "aaa-prefix", id="path-rules/shorter-prefix"),
        pytest.param("mixed-path-rules", "/foo", "foo-mixed-exact", id="path-rules/exact-before-prefix"),
        pytest.param(
            "mixed-path-rules", "/foo/", "foo-mixed-prefix", id="path-rules/prefix-where-exact-does-not-match"
        ),
        pytest.param(
            "trailing-slash-path-rules", "/aaa/bbb", "slash-prefix", id="path-rules/prefix-with-slash-matches-without"
        ),
        pytest.param(
            "trailing-slash-path-rules", "/aaa/bbb/", "slash-prefix", id="path-rules/prefix-with-slash-matches-itself"
        ),
        pytest.param(
            "trailing-slash-path-rules", "/foo/", "slash-exact", id="path-rules/exact-with-slash-matches-itself"
        ),
        pytest.param("precedence", "/api", "foo-exact", id="path-rules/equal-length-exact-first"),
        pytest.param("precedence", "/api/x", "api", id="path-rules/below-the-exact-path"),
        pytest.param("precedence", "/apix", "root", id="path-rules/slash-takes-the-rest"),
        pytest.param("precedence", "/api?next=/foo", "foo-exact", id="path-rules/query-takes-no-part"),
        pytest.param("precedence", "//api/./x/../y", "api", id="path-rules/normal-form-of-the-path"),
        pytest.param("precedence", "/%61pi", "foo-exact", id="path-rules/escaped-letter"),
        pytest.param("implementation-specific", "/impl/x", "root", id="path-rules/implementation-specific-is-prefix"),
        pytest.param("no-path-type", "/none/x", "root", id="path-rules/no-path-type-is-prefix"),
        pytest.param("no-path", "/any", "root", id="path-rules/no-path-is-slash"),
        pytest.param("has-default", "/root", "root", id="default-backend/rule-before-it"),
        pytest.param("has-default", "/other", "own-default", id="default-backend/of-an-ingress-with-rules"),
        pytest.param("unknown-class", "/", CATCH_ALL, id="ingress-class/unknown-is-not-served"),
        pytest.param("v1beta1", "/x", "v1beta1", id="legacy/networking-v1beta1"),
        pytest.param("extensions", "/e/x", "extensions", id="legacy/extensions-v1beta1-port-by-name"),
        pytest.param("legacy-default", "/x", "v1beta1", id="legacy/spec-backend"),
    ],
)
def test_served(site, host, target, pod):
    answer = site.get(host, target)
    assert (answer.status, answer.pod) == (200, pod)
    assert answer.received["host"] == host


@pytest.mark.parametrize(
    ("host", "target"),
    [
        pytest.param("exact-path-rules", "/foo/", id="path-rules/exact-foo-does-not-match-foo-slash"),
        pytest.param("exact-path-rules", "/FOO", id="path-rules/exact-is-case-sensitive"),
        pytest.param("exact-path-rules", "/bar", id="path-rules/exact-does-not-match-another"),
        pytest.param("prefix-path-rules", "/FOO", id="path-rules/prefix-is-case-sensitive"),
        pytest.param("prefix-path-rules", "/aaaccc", id="path-rules/prefix-is-by-element"),
        pytest.param("trailing-slash-path-rules", "/foo", id="path-rules/exact-with-slash-does-not-match-without"),
        pytest.param("one.shop.test", "/other", id="host-rules/no-path-of-the-host-does-not-fall-to-the-wildcard"),
    ],
)
def test_not_served(site, host, target):
    """A host that has rules is finished when no path matches: only a default backend of its own Ingress, or the controller's, is left."""
    assert site.get(host, target).pod in ("", CATCH_ALL)
    assert site.get(host, target).pod == CATCH_ALL or site.get(host, target).status == 404


@pytest.mark.parametrize(
    ("method", "host", "target"),
    [
        ("GET", "my-host", "/"),
        ("GET", "my-host", "/sub-path"),
        ("POST", "some-host", "/"),
        ("PUT", "", "/resource"),
        ("DELETE", "some-host", "/"),
        ("PATCH", "my-host", "/"),
    ],
    ids=lambda value: value or "no-host",
)
def test_default_backend(site, method, host, target):
    body = b"content" if method in ("POST", "PUT", "PATCH") else None
    answer = site.get(host, target, method=method, headers={"User-Agent": "conformance/1"}, body=body)
    assert (answer.status, answer.pod) == (200, "echo-service")
    for name in ("Content-Length", "Content-Type", "Date", "Server"):
        assert answer.headers[name], name
    assert (answer.json["method"], answer.json["target"], answer.json["version"]) == (method, target, "1.1")
    assert answer.json["body_bytes"] == len(body or b"")
    assert answer.received["user-agent"] == "conformance/1"
    assert answer.received["host"] == host


def test_load_balancing_ten_endpoints_hundred_requests_ten_pods(site):
    answers = [site.get("scaled") for _ in range(100)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.pod for answer in answers} == {f"scaled-{number}" for number in range(10)}


def test_forwarded_headers(site):
    answer = fetch(
        site.http,
        "precedence",
        "/x?q=%2F&q=2",
        source="127.0.0.9",
        headers={"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7", "X-Custom": "kept"},
    )
    received = answer.received
    assert answer.json["target"] == "/x?q=%2F&q=2"
    assert received["x-real-ip"] == received["x-forwarded-for"] == "127.0.0.9"
    assert received["x-original-forwarded-for"] == "203.0.113.7"
    assert (received["x-forwarded-host"], received["x-forwarded-proto"]) == ("precedence", "http")
    assert received["x-forwarded-port"] == str(site.http[1])
    assert received["x-scheme"] == received["x-forwarded-scheme"] == "http"
    assert len(received["x-request-id"]) == 32
    assert received["x-custom"] == "kept"


def test_without_any_default_backend_unknown_is_404(pods, folder, serve):
    write(
        folder / "all.yaml",
        app("web", [pods.start("web")]),
        ingress("web", rule("foo.bar.com", path("web", "/foo", "Exact")), rule("*.foo.com", path("web"))),
        ingress("any", rule(None, path("web", "/any"))),
    )
    running = serve()
    for host, target in (
        ("subdomain.bar.com", "/"),
        ("baz.bar.foo.com", "/"),
        ("foo.com", "/"),
        ("foo.bar.com", "/foo/"),
        ("foo.bar.com", "/any"),  # the host has rules: rules for any host aren't tried
    ):
        assert running.get(host, target).status == 404, (host, target)
    for host, target in (("foo.bar.com", "/foo"), ("x.foo.com", "/"), ("other.test", "/any"), ("", "/any/x")):
        assert running.get(host, target).pod == "web", (host, target)


def test_default_backend_service_option(pods, folder, serve):
    write(
        folder / "all.yaml",
        app("web", [pods.start("web")]),
        app("errors", [pods.start("errors")], namespace="default"),
        ingress("web", rule("foo.bar.com", path("web", "/foo"))),
    )
    running = serve("--default-backend-service", "default/errors")
    assert running.get("foo.bar.com", "/foo").pod == "web"
    assert running.get("foo.bar.com", "/bar").pod == "errors"
    assert running.get("unknown.test").pod == "errors"


def test_oldest_ingress_keeps_host_path_and_type(pods, folder, serve):
    for name in ("old", "new"):
        write(folder / f"{name}-service.yaml", app(name, [pods.start(name)]))
    write(
        folder / "conflict.yaml",
        ingress("a-new", rule("c.test", path("new"), path("new", "/", "Exact")), created="2026-02-01T00:00:00Z"),
        ingress("z-old", rule("c.test", path("old")), created="2026-01-01T00:00:00Z"),
    )
    running = serve()
    assert running.get("c.test", "/x").pod == "old"
    assert running.get("c.test", "/").pod == "new"  # another type is no conflict
    (verdict,) = running.verdicts("Conflict")
    assert verdict["object"] == "Ingress default/a-new"
    assert "default/z-old" in verdict["message"]
    # the older one goes: the newer takes over
    write(
        folder / "conflict.yaml",
        ingress("a-new", rule("c.test", path("new")), created="2026-02-01T00:00:00Z"),
    )
    running.serving("c.test", "new", "/x")
    assert running.verdicts("Conflict") == []


def by_class(name: str, cls: str | None = None, annotation: str | None = None) -> dict:
    annotations = {"kubernetes.io/ingress.class": annotation} if annotation else None
    spec = {"ingressClassName": cls} if cls else {}
    return ingress(name, rule(f"{name}.test", path("web")), annotations=annotations, **spec)


INGRESSES = (
    by_class("none"),
    by_class("field-aioingress", "aioingress"),
    by_class("field-nginx", "nginx"),
    by_class("field-mine", "mine"),
    by_class("field-theirs", "theirs"),
    by_class("field-missing", "missing"),
    by_class("annotation-nginx", annotation="nginx"),
    by_class("annotation-mine", annotation="mine"),
    by_class("annotation-theirs", annotation="theirs"),
    by_class("field-before-annotation", "theirs", "mine"),
)


@pytest.mark.parametrize(
    ("options", "default", "expected"),
    [
        pytest.param(
            (),
            None,
            {"none", "field-aioingress", "field-nginx", "field-mine", "annotation-nginx", "annotation-mine"},
            id="standalone",
        ),
        pytest.param(
            (),
            "theirs",
            {"field-aioingress", "field-nginx", "field-mine", "annotation-nginx", "annotation-mine"},
            id="standalone-default-class-is-anothers",
        ),
        pytest.param(("--ingress-class", "mine"), None, {"field-mine", "annotation-mine"}, id="ingress-class"),
        pytest.param(
            ("--ingress-class=mine", "--watch-ingress-without-class"),
            None,
            {"none", "field-mine", "annotation-mine"},
            id="without-class",
        ),
        pytest.param(
            ("--ingress-class=mine",),
            "mine",
            {"none", "field-mine", "annotation-mine"},
            id="default-class-is-ours",
        ),
        pytest.param(
            ("--controller-class=other.io/controller",),
            None,
            {"field-theirs", "field-before-annotation", "field-aioingress"},
            id="controller-class",
        ),
    ],
)
def test_classes(pods, folder, serve, options, default, expected):
    write(
        folder / "all.yaml",
        app("web", [pods.start("web")]),
        ingress_class("mine", "aioingress.io/ingress-controller", default=default == "mine"),
        ingress_class("theirs", "other.io/controller", default=default == "theirs"),
        *INGRESSES,
    )
    running = serve(*options, workers=0)
    names = [document["metadata"]["name"] for document in INGRESSES]
    assert {name for name in names if running.get(f"{name}.test").status == 200} == expected
