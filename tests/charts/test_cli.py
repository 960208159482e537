"""Whatever the chart starts the controller with, its command line accepts."""

from typing import Any

import click
import pytest
import yaml

from ingress.cli import cli
from tests.charts.support import Chart
from tests.charts.test_schema import IGNORED, NGINX_VALUES

SERVE = cli.commands["serve"]


def parse(args: list[str]) -> dict[str, Any]:
    """Parameters of `ingress serve`; raise click.UsageError for what it refuses."""
    assert args[0] == "serve"
    expanded = [arg.replace("$(POD_NAMESPACE)", "edge") for arg in args[1:]]
    return SERVE.make_context("ingress serve", expanded).params


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "tcp": {"9000": "default/db:5432"},
            "rbac": {"scope": True},
            "controller": {
                "workers": "auto",
                "logFormat": "json",
                "logLevel": "warning",
                "accessLog": False,
                "containerPort": {"http": 80, "https": 443, "metrics": 9000},
                "watchIngressWithoutClass": True,
                "takeOverNginx": {"enabled": True},
                "scope": {"enabled": True},
                "defaultSSLCertificate": "default/tls",
                "events": False,
                "updateStatus": False,
                "updateStatusOnShutdown": False,
                "electionTTL": "45s",
                "drainTimeoutSeconds": 1.5,
                "extraArgs": {"disable-svc-external-name": "", "http-address": ["0.0.0.0:80", "[::]:80"]},
            },
            "defaultBackend": {"enabled": True, "image": {"repository": "errors"}},
        },
        {
            "controller": {
                "workers": 0,
                "scope": {"namespaceSelector": "team in (a, b),!legacy"},
                "publishStatusAddress": "192.0.2.1,lb.example.com",
                "disableLeaderElection": True,
            }
        },
        {"controller": {"publishService": {"enabled": False}, "reportNodeInternalIp": True}},
        yaml.safe_load(NGINX_VALUES.read_text()),
    ],
    ids=["defaults", "namespaced", "selected", "nodes", "ingress-nginx"],
)
def test_args_are_accepted(chart: Chart, values: dict[str, Any]) -> None:
    assert parse(chart.render(values).args)


def test_args_mean_what_the_values_say(chart: Chart) -> None:
    values = {
        "workers": 3,
        "containerPort": {"http": 80},
        "takeOverNginx": {"enabled": True},
        "extraArgs": {"disable-svc-external-name": None},
        "electionTTL": "45s",
        "accessLog": False,
    }
    parsed = parse(chart.render({"controller": values}).args)
    assert parsed["workers"] == 3
    assert [str(address) for address in parsed["http_address"]] == ["0.0.0.0:80"]
    assert [str(address) for address in parsed["admin_address"]] == ["0.0.0.0:10254"]
    assert parsed["take_over_nginx"] is True
    assert parsed["disable_svc_external_name"] is True
    assert parsed["election_ttl"] == 45
    assert parsed["access_log"] is False
    assert parsed["publish_service"] == ("edge", "web-aioingress-controller")
    assert parsed["configmap"] == ("edge", "web-aioingress-controller")


def test_a_flag_that_nobody_knows_is_the_controllers_to_refuse(chart: Chart) -> None:
    args = chart.render({"controller": {"extraArgs": {"no-such-flag": "1"}}}).args
    with pytest.raises(click.NoSuchOption, match="--no-such-flag"):
        parse(args)


def test_no_flag_is_dropped_that_the_controller_has() -> None:
    known = {option.removeprefix("--") for parameter in SERVE.params for option in parameter.opts}
    assert not known & IGNORED["flags"].keys()
