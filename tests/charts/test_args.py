"""What the controller is started with."""

from typing import Any

import pytest

from tests.charts.support import Chart

OWN = "$(POD_NAMESPACE)"


def test_defaults_are_exactly_these(chart: Chart) -> None:
    assert chart.render().args == [
        "serve",
        "--workers=2",
        "--log-format=text",
        "--log-level=info",
        "--controller-class=aioingress.io/ingress-controller",
        "--ingress-class=aioingress",
        f"--configmap={OWN}/web-aioingress-controller",
        f"--publish-service={OWN}/web-aioingress-controller",
        "--election-id=web-aioingress-leader",
        "--shutdown-grace-period=5",
        "--drain-timeout=240",
    ]


ADDRESSES = ("http-address", "https-address", "admin-address")
TARGETS = ("publish-status-address", "publish-service", "report-node-internal-ip-address")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {
                "workers": "auto",
                "logFormat": "json",
                "logLevel": "debug",
                "containerPort": {"http": 80, "https": 443, "metrics": 9000},
                "ingressClassResource": {"controllerValue": "example.com/c"},
                "ingressClass": "edge",
                "watchIngressWithoutClass": True,
                "ingressClassByName": True,
                "accessLog": False,
                "events": False,
                "takeOverNginx": {"enabled": True},
                "scope": {"enabled": True},
                "configMapNamespace": "conf",
                "defaultSSLCertificate": "default/tls",
                "updateStatus": False,
                "updateStatusOnShutdown": False,
                "electionTTL": "45s",
                "shutdownGracePeriodSeconds": 0,
                "drainTimeoutSeconds": 1.5,
            },
            {
                "workers": "auto",
                "log-format": "json",
                "log-level": "debug",
                "http-address": "0.0.0.0:80",
                "https-address": "0.0.0.0:443",
                "admin-address": "0.0.0.0:9000",
                "controller-class": "example.com/c",
                "ingress-class": "edge",
                "watch-ingress-without-class": "true",
                "ingress-class-by-name": "true",
                "no-access-log": "",
                "events": "false",
                "take-over-nginx": "true",
                "watch-namespace": OWN,
                "configmap": "conf/web-aioingress-controller",
                "default-ssl-certificate": "default/tls",
                "update-status": "false",
                "update-status-on-shutdown": "false",
                "election-ttl": "45",
                "shutdown-grace-period": "0",
                "drain-timeout": "1.5",
            },
        ),
        ({"metrics": {"port": 9001}, "electionTTL": 45}, {"admin-address": "0.0.0.0:9001", "election-ttl": "45"}),
        ({"metrics": {"port": 10254}, "ingressClass": ""}, dict.fromkeys((*ADDRESSES, "ingress-class"))),
        (
            {"scope": {"enabled": True, "namespace": "team-a", "namespaceSelector": "a=b"}, "workers": 0},
            {"watch-namespace": "team-a", "watch-namespace-selector": None, "workers": "0"},
        ),
        (
            {"scope": {"namespace": "team-a", "namespaceSelector": "a=b"}},
            {"watch-namespace": None, "watch-namespace-selector": "a=b"},
        ),
        (
            {"publishStatusAddress": "192.0.2.1,lb.example.com", "reportNodeInternalIp": True},
            dict.fromkeys(TARGETS) | {"publish-status-address": "192.0.2.1,lb.example.com"},
        ),
        (
            {
                "scope": {"namespaceSelector": "team in (a, b), !c: #d"},
                "electionID": "on",
                "extraArgs": {"x": "a: b #c"},
            },
            {"watch-namespace-selector": "team in (a, b), !c: #d", "election-id": "on", "x": "a: b #c"},
        ),
        ({"publishService": {"enabled": False}}, dict.fromkeys(TARGETS)),
        (
            {"publishService": {"enabled": False}, "reportNodeInternalIp": True},
            dict.fromkeys(TARGETS) | {"report-node-internal-ip-address": "true"},
        ),
        ({"service": {"enabled": False}}, dict.fromkeys(TARGETS)),
        (
            {"service": {"enabled": False}, "publishService": {"pathOverride": "lb/front"}},
            dict.fromkeys(TARGETS) | {"publish-service": "lb/front"},
        ),
        (
            {"service": {"external": {"enabled": False}, "internal": {"enabled": True}}},
            {"publish-service": f"{OWN}/web-aioingress-controller-internal"},
        ),
        ({"disableLeaderElection": True, "electionTTL": 45}, {"disable-leader-election": "true", "election-id": None}),
        (
            {
                "extraArgs": {
                    "disable-svc-external-name": "",
                    "update-status": False,
                    "drain-timeout": 1000000,
                    "default-ssl-certificate": "a/b",
                    "enable-ssl-passthrough": "",
                }
            },
            {
                "disable-svc-external-name": "",
                "update-status": "false",
                "drain-timeout": "1000000",
                "default-ssl-certificate": "a/b",
                "enable-ssl-passthrough": "",
            },
        ),
    ],
)
def test_each_value_has_its_flag(chart: Chart, values: dict[str, Any], expected: dict[str, str | None]) -> None:
    objects = chart.render({"controller": values})
    assert {flag: objects.flag(flag) for flag in expected} == expected
    assert len(objects.args) == len(set(objects.args))


def test_repeated_flag(chart: Chart) -> None:
    addresses = ["0.0.0.0:8080", "[::]:8080"]
    args = chart.render({"controller": {"extraArgs": {"http-address": addresses}}}).args
    assert [arg for arg in args if arg.startswith("--http-address")] == [
        f"--http-address={address}" for address in addresses
    ]


def test_null_gives_the_bare_flag(chart: Chart) -> None:
    assert chart.render({"controller": {"extraArgs": {"no-access-log": None}}}).flag("no-access-log") == ""


def test_tcp_services(chart: Chart) -> None:
    tcp = {"tcp": {"9000": "default/db:5432"}}
    assert chart.render().flag("tcp-services-configmap") is None
    assert chart.render(tcp).flag("tcp-services-configmap") == f"{OWN}/web-aioingress-tcp"
    elsewhere = chart.render(tcp | {"controller": {"tcp": {"configMapNamespace": "conf"}}})
    assert elsewhere.flag("tcp-services-configmap") == "conf/web-aioingress-tcp"
    assert "web-aioingress-tcp" not in elsewhere.of("ConfigMap")


def test_default_backend(chart: Chart) -> None:
    values = {"defaultBackend": {"enabled": True, "image": {"repository": "errors"}}}
    assert chart.render(values).flag("default-backend-service") == f"{OWN}/web-aioingress-defaultbackend"
    assert chart.render().flag("default-backend-service") is None


def test_namespace_override_is_followed_by_the_pods_own_namespace(chart: Chart) -> None:
    objects = chart.render(
        {"namespaceOverride": "front", "rbac": {"scope": True}, "controller": {"scope": {"enabled": True}}}
    )
    assert objects.flag("watch-namespace") == OWN
    assert {role["metadata"]["namespace"] for role in objects.of("Role").values()} == {"front"}
