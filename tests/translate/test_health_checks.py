"""Health checks as the annotations of a Service ask for them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.errors import Severity, VerdictReason
from ingress.model import KubernetesObject, Service
from ingress.routing.table import HealthCheck
from ingress.translate import Compilation
from ingress.translate.health_checks import NAMES, PREFIX, read_health_check
from ingress.translate.report import Report

from .build import compiled, ingress, rule, service, slice_of


def checked(**annotations: str) -> Service:
    named = {PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}
    found = service("web")
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, annotations=named))


def read(**annotations: str) -> tuple[HealthCheck | None, Report]:
    svc = checked(**annotations)
    report = Report(str(svc.ref), "web.yaml:1")
    return read_health_check(svc, report), report


def test_a_service_without_annotations() -> None:
    report = Report("Service default/web", "")
    assert read_health_check(service("web"), report) is None
    assert report.verdicts() == ()


def test_the_path_switches_checks_on() -> None:
    check, report = read(path="/healthz")
    assert check == HealthCheck(
        path="/healthz",
        method="GET",
        host="",
        port=0,
        interval_s=10.0,
        timeout_s=2.0,
        unhealthy_threshold=3,
        healthy_threshold=1,
        statuses=((200, 399),),
    )
    assert report.verdicts() == ()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("path", "/", "path", "/"),
        ("path", " /a%20b?c=d&e=%C3%A4 ", "path", "/a%20b?c=d&e=%C3%A4"),
        ("path", "/" + "a" * 1023, "path", "/" + "a" * 1023),
        ("method", "HEAD", "method", "HEAD"),
        ("method", "get", "method", "GET"),
        ("host", "web.example.com", "host", "web.example.com"),
        ("host", "Web_1.example.com:8080", "host", "Web_1.example.com:8080"),
        ("host", "192.0.2.1", "host", "192.0.2.1"),
        ("host", "[2001:db8::1]", "host", "[2001:db8::1]"),
        ("host", "[2001:db8::1]:8080", "host", "[2001:db8::1]:8080"),
        ("port", "1", "port", 1),
        ("port", "65535", "port", 65535),
        ("interval", "500ms", "interval_s", 0.5),
        ("interval", "5s", "interval_s", 5.0),
        ("interval", "60m", "interval_s", 3600.0),
        ("timeout", "50ms", "timeout_s", 0.05),
        ("timeout", "30s", "timeout_s", 30.0),
        ("unhealthy_threshold", "1", "unhealthy_threshold", 1),
        ("unhealthy_threshold", "100", "unhealthy_threshold", 100),
        ("healthy_threshold", "2", "healthy_threshold", 2),
        ("status", "200", "statuses", ((200, 200),)),
        ("status", "200-204, 301,400-499", "statuses", ((200, 204), (301, 301), (400, 499))),
        ("status", "200-599", "statuses", ((200, 599),)),
    ],
)
def test_good_values(name: str, text: str, field: str, value: object) -> None:
    check, report = read(**{"path": "/", name: text})
    assert report.verdicts() == ()
    assert check is not None
    assert getattr(check, field) == value
    default = HealthCheck("/")
    changed = {f for f in HealthCheck.__struct_fields__ if getattr(check, f) != getattr(default, f)}
    assert changed <= {field}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("method", "POST", "neither GET nor HEAD"),
        ("method", "", "neither GET nor HEAD"),
        ("host", "", "neither a host name nor an address"),
        ("host", "a b", "neither a host name nor an address"),
        ("host", "a\r\nX-Evil: 1", "behind the colon"),
        ("host", "a\nb", "neither a host name nor an address"),
        ("host", "ä.test", "neither a host name nor an address"),
        ("host", "a/b", "neither a host name nor an address"),
        ("host", "user@a", "neither a host name nor an address"),
        ("host", "2001:db8::1", "in brackets"),
        ("host", "[2001:db8::1%eth0]", "neither a host name nor an address"),
        ("host", "[a.test]", "neither a host name nor an address"),
        ("host", "a.test:0", "which is from 1 to 65535"),
        ("host", "a.test:65536", "which is from 1 to 65535"),
        ("host", "a.test:", "which is from 1 to 65535"),
        ("host", "a" * 254, "neither a host name nor an address"),
        ("port", "0", "a number from 1 to 65535"),
        ("port", "65536", "a number from 1 to 65535"),
        ("port", "-1", "a number from 1 to 65535"),
        ("port", "http", "a number from 1 to 65535"),
        ("port", "٨٠", "a number from 1 to 65535"),
        ("interval", "10", "one of the units ms, s, m"),
        ("interval", "1.5s", "one of the units ms, s, m"),
        ("interval", "-5s", "one of the units ms, s, m"),
        ("interval", "1h", "one of the units ms, s, m"),
        ("interval", "499ms", "between 500ms and 3600s"),
        ("interval", "0s", "between 500ms and 3600s"),
        ("interval", "61m", "between 500ms and 3600s"),
        ("timeout", "2", "one of the units ms, s, m"),
        ("timeout", "49ms", "between 50ms and 30s"),
        ("timeout", "31s", "between 50ms and 30s"),
        ("unhealthy_threshold", "0", "a number from 1 to 100"),
        ("unhealthy_threshold", "101", "a number from 1 to 100"),
        ("unhealthy_threshold", "three", "a number from 1 to 100"),
        ("healthy_threshold", "0", "a number from 1 to 100"),
        ("healthy_threshold", "1.0", "a number from 1 to 100"),
        ("status", "", "not a list of statuses"),
        ("status", "2xx", "not a list of statuses"),
        ("status", "200-", "not a list of statuses"),
        ("status", "200;204", "not a list of statuses"),
        ("status", "399-200", "not a range between 200 and 599"),
        ("status", "100-399", "not a range between 200 and 599"),
        ("status", "200-600", "not a range between 200 and 599"),
        ("status", ",".join(["200"] * 21), "more than 20 parts"),
    ],
)
def test_a_bad_value_costs_only_itself(name: str, text: str, why: str) -> None:
    others = {"path": "/healthz", "interval": "7s", "timeout": "1s"}
    check, report = read(**{**others, name: text})
    default = HealthCheck("/healthz", interval_s=7.0, timeout_s=1.0)
    fields = {"interval": "interval_s", "timeout": "timeout_s"}
    if name in fields:
        default = msgspec.structs.replace(default, **{fields[name]: getattr(HealthCheck("/"), fields[name])})
    assert check == default
    (verdict,) = report.verdicts()
    assert verdict.object == "Service default/web"
    assert verdict.field == f"metadata.annotations[{PREFIX}{name.replace('_', '-')}]"
    assert verdict.reason is VerdictReason.INVALID_ANNOTATION
    assert verdict.severity is Severity.ERROR
    assert verdict.origin == "web.yaml:1"
    assert why in verdict.message
    assert "the default is in force" in verdict.message
    assert verdict.value[:20] == text.encode("unicode_escape").decode()[:20] if text.isascii() else verdict.value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not start with /"),
        ("healthz", "does not start with /"),
        ("http://web/healthz", "does not start with /"),
        ("/a b", "a space"),
        ("/a#b", "a #"),
        ("/ä", "not ASCII"),
        ("/a\r\nX-Evil: 1", "a space"),
        ("/a\x7f", "not ASCII"),
        ("/" + "a" * 1024, "longer than 1024"),
    ],
)
def test_a_bad_path_switches_checks_off(text: str, why: str) -> None:
    check, report = read(path=text, port="0")
    assert check is None
    path, port = report.verdicts()
    assert path.field == f"metadata.annotations[{PREFIX}path]"
    assert path.severity is Severity.ERROR
    assert why in path.message
    assert "endpoints are not checked" in path.message
    assert port.field == f"metadata.annotations[{PREFIX}port]"


def test_without_a_path_the_others_have_no_effect() -> None:
    check, report = read(interval="5s", port="8080")
    assert check is None
    assert [v.field for v in report.verdicts()] == [
        f"metadata.annotations[{PREFIX}{name}]" for name in ("interval", "port")
    ]
    assert {v.severity for v in report.verdicts()} == {Severity.WARNING}
    assert all(f"without {PREFIX}path" in v.message for v in report.verdicts())


def test_unknown_names_get_a_suggestion() -> None:
    check, report = read(path="/", intervall="5s", zzz="1")
    assert check == HealthCheck("/")
    first, second = report.verdicts()
    assert f"Is {PREFIX}interval meant?" in first.message
    assert "meant" not in second.message


def test_only_our_own_prefix_and_only_on_services() -> None:
    named = {"nginx.ingress.kubernetes.io/health-check-path": "/", "aioingress.io/health-checks": "/"}
    found = service("web")
    svc = msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, annotations=named))
    report = Report("Service default/web", "")
    assert read_health_check(svc, report) is None
    assert report.verdicts() == ()


def check_of(found: Compilation, key: str = "default/web:80") -> HealthCheck | None:
    return found.table.upstreams[key].health_check  # type: ignore[index]


def web(**annotations: str) -> list[KubernetesObject]:
    return [checked(**annotations), slice_of("web")]


def test_every_upstream_of_the_service_has_it() -> None:
    sticky = {"aioingress.io/affinity": "cookie"}
    found = compiled(
        ingress("a", rule("a.test")), ingress("b", rule("b.test"), annotations=sticky), *web(path="/h", timeout="x")
    )
    assert len(found.table.upstreams) == 2
    assert {u.health_check for u in found.table.upstreams.values()} == {HealthCheck("/h")}
    assert len(found.verdicts) == 1  # each fault once


def test_behind_a_cluster_ip_nothing_is_checked() -> None:
    whole = {"aioingress.io/service-upstream": "true"}
    svc, slices = web(path="/h")
    assert isinstance(svc, Service)
    svc = msgspec.structs.replace(svc, spec=msgspec.structs.replace(svc.spec, cluster_ip="10.96.0.1"))
    found = compiled(ingress("a", rule("a.test"), annotations=whole), svc, slices)
    assert [u.health_check for u in found.table.upstreams.values()] == [None]
    assert [u.endpoints[0].address for u in found.table.upstreams.values()] == ["10.96.0.1"]


@given(st.dictionaries(st.sampled_from([*NAMES, "other"]), st.text(max_size=30), max_size=6))
def test_any_text_is_a_check_or_a_verdict(annotations: dict[str, str]) -> None:
    svc = checked(**annotations)
    report = Report(str(svc.ref), "")
    check = read_health_check(svc, report)
    if check is not None:
        written: Any = msgspec.to_builtins(check)
        for text in (written["path"], written["method"], written["host"]):
            assert text.isascii()
            assert not any(c in text for c in " \r\n\t\0")
        assert msgspec.convert(written, HealthCheck) == check
    fields = {v.field for v in report.verdicts()}
    assert fields <= {f"metadata.annotations[{PREFIX}{name}]" for name in annotations}
