"""Metrics Service, ServiceMonitor, alerts and dashboard. Both name only metrics that exist."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.charts.support import Chart, Objects
from tools.chart_docs import ROOT

NAME = "web-aioingress-controller"
JOB = f"{NAME}-metrics"


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """Names of series: a histogram has three."""
    rows = re.findall(r"^\| `(aioingress_\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    return {
        f"{name}{suffix}"
        for name, kind in rows
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }


def monitored(chart: Chart, **metrics: Any) -> Objects:
    parts = {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")}
    return chart.render({"controller": {"metrics": {"enabled": True, **(parts | metrics)}}})


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\baioingress_\w+", re.sub(r'"[^"]*"', '""', expression)))


def test_off_by_default_but_the_port_is_there(chart: Chart) -> None:
    objects = chart.render()
    assert not objects.kinds & {"ServiceMonitor", "PrometheusRule"}
    assert objects.of("Service").keys() == {NAME}


def test_parts_need_the_whole(chart: Chart) -> None:
    parts = {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")}
    objects = chart.render({"controller": {"metrics": parts}})
    assert objects.kinds == chart.render().kinds
    assert objects.of("ConfigMap").keys() == {NAME}


def test_service(chart: Chart) -> None:
    service = monitored(chart, service={"annotations": {"prometheus.io/scrape": "true"}}).one("Service", JOB)
    assert service["spec"]["type"] == "ClusterIP"
    assert service["spec"]["ports"] == [{"name": "metrics", "port": 10254, "protocol": "TCP", "targetPort": "metrics"}]
    assert service["metadata"]["annotations"] == {"prometheus.io/scrape": "true"}


def test_service_monitor(chart: Chart) -> None:
    labels = {"release": "prometheus"}
    objects = monitored(
        chart, serviceMonitor={"enabled": True, "additionalLabels": labels, "scrapeInterval": "15s", "namespace": "mon"}
    )
    monitor = objects.one("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["metadata"]["namespace"] == "mon"
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint == {"port": "metrics", "path": "/metrics", "interval": "15s", "honorLabels": True}
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["edge"]}
    selector = monitor["spec"]["selector"]["matchLabels"]
    assert selector.items() <= objects.one("Service", JOB)["metadata"]["labels"].items()


def test_alerts_use_metrics_that_exist(chart: Chart, documented: set[str]) -> None:
    [group] = monitored(chart).one("PrometheusRule")["spec"]["groups"]
    rules = {rule["alert"]: rule for rule in group["rules"]}
    assert rules.keys() >= {"AioingressSourceStale", "AioingressConfigErrors", "AioingressWorkerCrashLoop"}
    assert rules.keys() >= {"AioingressNoLeader", "AioingressServerErrors", "AioingressDown"}
    for name, rule in rules.items():
        used = metrics_in(rule["expr"])
        assert used, name
        assert used <= documented, name
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert not re.search(r"\b(JOB|NAMESPACE|LEASE)\b", json.dumps(rule)), name
        assert rule["expr"].count(f'job="{JOB}"') == rule["expr"].count("aioingress_"), name


def test_alert_for_the_lease_of_this_release(chart: Chart) -> None:
    def alerts(**controller: Any) -> dict[str, Any]:
        metrics = {"enabled": True, "prometheusRule": {"enabled": True}}
        rule = chart.render({"controller": {"metrics": metrics, **controller}}).one("PrometheusRule")
        return {rule["alert"]: rule for rule in rule["spec"]["groups"][0]["rules"]}

    assert (
        "in edge has held the Lease lock"
        in alerts(electionID="lock")["AioingressNoLeader"]["annotations"]["description"]
    )
    assert "AioingressNoLeader" not in alerts(disableLeaderElection=True)


def test_own_rules_replace_the_alerts(chart: Chart) -> None:
    rules = [{"alert": "Mine", "expr": "vector(1)"}]
    rule = monitored(chart, prometheusRule={"enabled": True, "rules": rules}).one("PrometheusRule")
    assert rule["spec"]["groups"][0]["rules"] == rules


def expressions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "definition"):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for item in node:
            yield from expressions(item)


def test_dashboard_uses_metrics_that_exist(chart: Chart, documented: set[str]) -> None:
    found = monitored(chart).one("ConfigMap", f"{NAME}-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(found["data"]["aioingress.json"])
    used = set().union(*(metrics_in(expression) for expression in expressions(dashboard)))
    assert used <= documented
    assert len(used) > 20
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(identifiers) == len(set(identifiers))
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["targets"], panel["title"]


def test_dashboard_can_go_where_grafana_looks(chart: Chart) -> None:
    values = {"enabled": True, "namespace": "grafana", "labels": {"grafana_dashboard": None, "dash": "yes"}}
    found = monitored(chart, dashboard=values).one("ConfigMap", f"{NAME}-dashboard")
    assert found["metadata"]["namespace"] == "grafana"
    assert found["metadata"]["labels"]["dash"] == "yes"
    assert "grafana_dashboard" not in found["metadata"]["labels"]
