"""Hosts, paths and default backends of one Ingress."""

from typing import Any

import pytest

from ingress.errors import Severity, VerdictReason
from ingress.model import Ingress
from ingress.routing.table import ANY_HOST, PathType

from .build import Compilation, backend, compiled, ingress, only, path, reasons, rule, service, slice_of, targets


def web(*objects: Ingress) -> Compilation:
    return compiled(*objects, service(), slice_of(), service("api"), slice_of("api", "10.0.0.2"))


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("foo.com", "foo.com"),
        ("FOO.Com", "foo.com"),
        ("*.foo.com", "*.foo.com"),
        ("localhost", "localhost"),
        ("1.2.3", "1.2.3"),
        ("a" * 63 + ".x", "a" * 63 + ".x"),
        ("", ANY_HOST),
    ],
)
def test_hosts_that_are_taken(written: str, host: str) -> None:
    result = web(ingress("ing", rule(written)))
    assert list(result.table.hosts) == [host]
    assert result.table.hosts[host].routes[0].host == host  # type: ignore[index]
    assert result.verdicts == ()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("*", "a lone * is not a host"),
        ("10.0.0.1", "an IP address is not a host name"),
        ("[::1]", "an IP address is not a host name"),
        ("::1", "an IP address is not a host name"),
        ("foo.com:80", "a host has no port"),
        ("http://foo.com", "a host has no scheme"),
        ("foo.com/x", "a host has no path"),
        ("a.*.com", "a wildcard stands for the whole first label only"),
        ("*foo.com", "a wildcard stands for the whole first label only"),
        ("*.*.com", "a wildcard stands for the whole first label only"),
        ("*.", "a wildcard stands for the whole first label only"),
        ("*.10.0.0.1:80", "a host has no port"),
        ("foo..com", "it is not a DNS name"),
        ("foo.com.", "it is not a DNS name"),
        ("-foo.com", "it is not a DNS name"),
        ("foo_bar.com", "it is not a DNS name"),
        ("foo.com\n", "it is not a DNS name"),
        ("bücher.example", "it is not ASCII"),
        ("a" * 64 + ".com", "longer than 63"),
        (".".join(["a" * 60] * 5), "longer than 253"),
        ("~^foo.*", "a wildcard stands"),
    ],
)
def test_hosts_that_are_refused(host: str, reason: str) -> None:
    result = web(ingress("ing", rule(host), rule("good.com")))
    assert list(result.table.hosts) == ["good.com"]
    verdict = only(result)
    assert (verdict.field, verdict.reason, verdict.severity) == (
        "spec.rules[0].host",
        VerdictReason.INVALID_FIELD,
        Severity.ERROR,
    )
    assert reason in verdict.message
    assert "\n" not in verdict.value


@pytest.mark.parametrize(
    ("written", "path_type", "normal", "normal_type"),
    [
        ("/foo", "Exact", "/foo", PathType.EXACT),
        ("/foo", "Prefix", "/foo", PathType.PREFIX),
        ("/foo", "ImplementationSpecific", "/foo", PathType.PREFIX),
        ("/foo", None, "/foo", PathType.PREFIX),
        (None, "Exact", "/", PathType.EXACT),
        (None, None, "/", PathType.PREFIX),
        ("", "Prefix", "/", PathType.PREFIX),
        ("/foo/", "Prefix", "/foo/", PathType.PREFIX),
        ("/%7euser/%c3%a9", "Prefix", "/~user/%C3%A9", PathType.PREFIX),
        ("/é", "Exact", "/%C3%A9", PathType.EXACT),
        ("/a:b(c)", "Exact", "/a:b(c)", PathType.EXACT),
        ("/" + "a" * 4095, "Prefix", "/" + "a" * 4095, PathType.PREFIX),
    ],
)
def test_paths_that_are_taken(written: str | None, path_type: str | None, normal: str, normal_type: PathType) -> None:
    result = web(ingress("ing", rule("a.test", path(written, type=path_type))))
    (route,) = result.table.hosts["a.test"].routes  # type: ignore[index]
    assert (route.path, route.path_type) == (normal, normal_type)
    assert result.verdicts == ()


@pytest.mark.parametrize(
    ("written", "path_type", "reason"),
    [
        ("foo", "Prefix", "does not start with /"),
        ("*", "ImplementationSpecific", "does not start with /"),
        ("/a//b", "Prefix", "contains //"),
        ("/a/./b", "Exact", "contains /./"),
        ("/a/../b", "Exact", "contains /../"),
        ("/a/..", "Prefix", "ends in a dot segment"),
        ("/a/.", "Prefix", "ends in a dot segment"),
        ("/a/%2e%2e/b", "Prefix", "escaped dot segment"),
        ("/a%2fb", "Prefix", "contains %2f"),
        ("/a%2Fb", "Prefix", "contains %2f"),
        ("/a%zz", "Prefix", "not followed by two hexadecimal digits"),
        ("/a%00", "Prefix", "NUL"),
        ("/a\x00", "Prefix", "control character"),
        ("/a b", "Prefix", "white space"),
        ("/a?b=c", "Prefix", "contains ? or #"),
        ("/a#b", "ImplementationSpecific", "contains ? or #"),
        ("/" + "a" * 4096, "Prefix", "longer than 4096"),
    ],
)
def test_paths_that_are_refused(written: str, path_type: str, reason: str) -> None:
    result = web(ingress("ing", rule("a.test", path(written, type=path_type), path("/good", "api"))))
    assert targets(result, "a.test") == {"Prefix /good": "api:80"}
    verdict = only(result)
    assert (verdict.field, verdict.reason) == ("spec.rules[0].http.paths[0].path", VerdictReason.INVALID_FIELD)
    assert reason in verdict.message
    assert len(verdict.value) <= 100
    assert verdict.value.isprintable()


def test_an_unknown_path_type_costs_that_path_only() -> None:
    result = web(ingress("ing", rule("a.test", path("/a", type="Regex"), path("/b"))))
    assert targets(result, "a.test") == {"Prefix /b": "web:80"}
    assert (only(result).field, only(result).value) == ("spec.rules[0].http.paths[0].pathType", "Regex")


@pytest.mark.parametrize("written", ["/a(/|$)(.*)", "/v[12]", "/api/?(.*)", "/a+", "/x\\.php", "/^a", "/a|b"])
def test_a_path_that_looks_like_a_regex_is_served_literally(written: str) -> None:
    result = web(ingress("ing", rule("a.test", path(written, type="ImplementationSpecific"))))
    (route,) = result.table.hosts["a.test"].routes  # type: ignore[index]
    assert route.path == written.replace("?", "%3F")
    assert route.path_type is PathType.PREFIX
    verdict = only(result)
    assert (verdict.severity, verdict.reason, verdict.value) == (
        Severity.WARNING,
        VerdictReason.INVALID_FIELD,
        written,
    )


def test_rules_of_one_host_are_put_together() -> None:
    result = web(ingress("ing", rule("A.test", path("/a")), rule("a.test", path("/b", "api"))))
    assert targets(result, "a.test") == {"Prefix /a": "web:80", "Prefix /b": "api:80"}


def test_a_host_whose_paths_were_all_refused_stays_known() -> None:
    result = web(ingress("ing", rule("a.test", path("nope"))), ingress("any", rule("")))
    assert result.table.hosts["a.test"].routes == ()  # type: ignore[index]
    assert result.table.hosts["a.test"].default is None  # type: ignore[index]
    assert targets(result, "") == {"Prefix /": "web:80"}


@pytest.mark.parametrize("http", [None, {"paths": []}])
def test_a_rule_without_paths_goes_to_the_default_backend(http: object) -> None:
    result = web(ingress("ing", {"host": "a.test", "http": http}, defaultBackend=backend("api")))
    host = result.table.hosts["a.test"]  # type: ignore[index]
    assert host.routes == ()
    assert host.default is not None
    assert host.default.service == "api"
    assert result.table.default is None


def test_default_backend_alone_is_the_catch_all() -> None:
    result = web(ingress("ing", defaultBackend=backend("api")))
    assert result.table.hosts == {}
    default = result.table.default
    assert default is not None
    assert (default.host, default.path, default.path_type, default.upstream) == (
        "",
        "/",
        PathType.PREFIX,
        "default/api:80",
    )
    assert list(result.table.upstreams) == ["default/api:80"]


def test_default_backend_beside_rules_serves_the_own_hosts_only() -> None:
    result = web(ingress("ing", rule("a.test"), rule("b.test"), defaultBackend=backend("api")))
    assert result.table.default is None
    for host in ("a.test", "b.test"):
        default = result.table.hosts[host].default  # type: ignore[index]
        assert default is not None
        assert (default.host, default.service) == (host, "api")


@pytest.mark.parametrize("rules", [(), (rule("a.test"),)])
def test_no_default_backends_allowed(rules: tuple[Any, ...]) -> None:
    """--disable-catch-all leaves the whole Ingress out, as in ingress-nginx: its rules too."""
    result = compiled(
        ingress("ing", *rules, defaultBackend=backend()),
        ingress("other", rule("b.test")),
        service("web"),
        slice_of(),
        catch_all_enabled=False,
    )
    assert result.table is not None
    assert result.table.default is None
    assert set(result.table.hosts) == {"b.test"}
    (verdict,) = result.verdicts
    assert (verdict.object, verdict.field) == ("Ingress default/ing", "spec.defaultBackend")
    assert "--disable-catch-all" in verdict.message


def test_neither_rules_nor_default_backend() -> None:
    result = web(ingress("ing"))
    assert (only(result).field, only(result).reason) == ("spec", VerdictReason.INVALID_OBJECT)


def test_resource_backends_are_left_to_the_default_backend() -> None:
    resource = {"resource": {"apiGroup": "k8s.example.com", "kind": "Bucket", "name": "static"}}
    paths = {"path": "/static", "pathType": "Prefix", "backend": resource}
    result = web(ingress("ing", rule("a.test", paths, path("/b")), defaultBackend=backend("api")))
    assert targets(result, "a.test") == {"Prefix /b": "web:80"}
    verdict = only(result)
    assert (verdict.field, verdict.reason, verdict.severity, verdict.value) == (
        "spec.rules[0].http.paths[0].backend.resource",
        VerdictReason.UNSUPPORTED_BACKEND,
        Severity.WARNING,
        "Bucket static",
    )


def test_a_resource_as_default_backend() -> None:
    result = web(ingress("ing", defaultBackend={"resource": {"kind": "Bucket", "name": "static"}}))
    assert result.table.default is None
    assert only(result).field == "spec.defaultBackend.resource"


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ({}, "spec.rules[0].http.paths[0].backend"),
        (
            {**backend(), "resource": {"kind": "Bucket", "name": "static"}},
            "spec.rules[0].http.paths[0].backend",
        ),
        (backend("Not_A_Name"), "spec.rules[0].http.paths[0].backend.service.name"),
        (backend("a/b"), "spec.rules[0].http.paths[0].backend.service.name"),
        ({"service": {"name": "web"}}, "spec.rules[0].http.paths[0].backend.service.port"),
        (
            {"service": {"name": "web", "port": {"number": 80, "name": "http"}}},
            "spec.rules[0].http.paths[0].backend.service.port",
        ),
        (backend("web", 70000), "spec.rules[0].http.paths[0].backend.service.port"),
        (backend("web", "80"), "spec.rules[0].http.paths[0].backend.service.port"),
    ],
)
def test_backends_that_make_no_sense_answer_503(written: dict[str, object], field: str) -> None:
    result = web(ingress("ing", rule("a.test", {"path": "/a", "backend": written}, path("/b"))))
    assert targets(result, "a.test") == {"Prefix /a": "503", "Prefix /b": "web:80"}
    assert (only(result).field, only(result).reason) == (field, VerdictReason.INVALID_FIELD)


def test_missing_service_and_missing_port_answer_503() -> None:
    result = web(
        ingress(
            "ing", rule("a.test", path("/ok"), path("/gone", "gone"), path("/port", "web", 81), path("/n", "web", "x"))
        )
    )
    assert targets(result, "a.test") == {
        "Prefix /ok": "web:80",
        "Prefix /gone": "503",
        "Prefix /port": "503",
        "Prefix /n": "503",
    }
    gone = next(r for r in result.table.hosts["a.test"].routes if r.path == "/gone")  # type: ignore[index]
    assert (gone.service, gone.port, gone.upstream) == ("gone", "80", None)
    assert "no Service gone" in gone.closed_reason
    assert [(v.field, v.reason, v.value) for v in result.verdicts] == [
        ("spec.rules[0].http.paths[1].backend.service.name", VerdictReason.SERVICE_NOT_FOUND, "gone"),
        ("spec.rules[0].http.paths[2].backend.service.port", VerdictReason.SERVICE_PORT_NOT_FOUND, "81"),
        ("spec.rules[0].http.paths[3].backend.service.port", VerdictReason.SERVICE_PORT_NOT_FOUND, "x"),
    ]


def test_a_service_of_another_namespace_is_not_found() -> None:
    result = compiled(ingress("ing", rule("a.test")), service(namespace="other"), slice_of(namespace="other"))
    assert targets(result, "a.test") == {"Prefix /": "503"}
    assert reasons(result) == [VerdictReason.SERVICE_NOT_FOUND]


@pytest.mark.parametrize(("name", "namespace"), [("a/b", "default"), ("a\nb", "default"), ("ing", "x/y"), ("", "d")])
def test_names_that_could_pose_as_another_object_are_refused(name: str, namespace: str) -> None:
    result = web(ingress(name, rule("a.test"), namespace=namespace), ingress("good", rule("b.test")))
    assert list(result.table.hosts) == ["b.test"]
    assert only(result).reason is VerdictReason.INVALID_OBJECT
    assert only(result).object.isprintable()


# ---- the controller's own default backend ----


def test_controller_default_backend_uses_the_first_port() -> None:
    result = compiled(
        service("fallback", 8080, {"port": 9090, "name": "other"}, namespace="infra"),
        slice_of("fallback", "10.0.0.9", namespace="infra"),
        default_backend_service=("infra", "fallback"),
    )
    default = result.table.default
    assert default is not None
    assert (default.ingress, default.namespace, default.upstream) == ("", "infra", "infra/fallback:8080")
    assert result.verdicts == ()


def test_an_ingress_comes_before_the_controller_default_backend() -> None:
    result = compiled(
        service("fallback", namespace="infra"),
        ingress("ing", defaultBackend=backend()),
        service(),
        slice_of(),
        default_backend_service=("infra", "fallback"),
    )
    assert result.table.default is not None
    assert result.table.default.upstream == "default/web:80"
    assert list(result.table.upstreams) == ["default/web:80"]
    assert result.verdicts == ()


def test_a_missing_controller_default_backend_means_404() -> None:
    result = compiled(default_backend_service=("infra", "fallback"))
    assert result.table.default is None
    assert (only(result).object, only(result).reason) == ("Service infra/fallback", VerdictReason.SERVICE_NOT_FOUND)


def test_a_controller_default_backend_without_ports_or_endpoints() -> None:
    no_port = compiled(
        service("fallback", namespace="infra", portless=True),
        default_backend_service=("infra", "fallback"),
    )
    assert reasons(no_port) == [VerdictReason.SERVICE_PORT_NOT_FOUND]
    empty = compiled(service("fallback", namespace="infra"), default_backend_service=("infra", "fallback"))
    assert reasons(empty) == [VerdictReason.NO_ENDPOINTS]
    assert empty.table.default is not None
