"""Active health checks as an operator meets them: annotations of a Service, two workers, endpoints that fail and recover."""

import pytest

from tests.e2e.support import Pod, Pods, app, eventually, ingress, path, rule, slices, write

PREFIX = "aioingress.io/health-check-"


def with_checks(documents: list, **annotations: str) -> list:
    service, *rest = documents
    named = {PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}
    return [{**service, "metadata": {**service["metadata"], "annotations": named}}, *rest]


@pytest.fixture
def site(pods: Pods, folder, serve):
    found = pods.some("web", 3)
    write(folder / "web.yaml", with_checks(app("web", found), path="/status/204", interval="500ms", timeout="2s"))
    write(folder / "ingress.yaml", ingress("web", rule("web.test", path("web"))))
    return serve(workers=2), found


def answering(live, count: int = 20) -> set[str]:
    """Pods that answer requests on new connections, which both workers get."""
    answers = [live.get("web.test") for _ in range(count)]
    assert {answer.status for answer in answers} == {200}  # at any moment
    return {answer.pod for answer in answers}


def names(found: list[Pod]) -> set[str]:
    return {pod.name for pod in found}


def test_out_and_back(site, pods, folder):
    live, found = site
    assert live.verdicts() == []
    eventually(lambda: live.metric("aioingress_health_checks_total", service="web", result="passed") >= 6)
    assert live.metric("aioingress_unhealthy_endpoints", namespace="default", service="web") == 0
    (upstream,) = live.table()["upstreams"]
    assert upstream["health_check"]["path"] == "/status/204"
    assert upstream["health_check"]["interval_s"] == 0.5
    asked = [target for target in pods.arrived if target == "/status/204"]
    assert asked
    assert answering(live) == names(found)

    pods.stop(found[0])
    eventually(lambda: live.metric("aioingress_unhealthy_endpoints", service="web") == 1, "found unhealthy")
    eventually(lambda: live.stderr.count("is unhealthy: no connection") >= 2, "by both workers")
    failures = live.metric("aioingress_upstream_failures_total", service="web")
    assert answering(live) == names(found[1:])
    assert live.metric("aioingress_upstream_failures_total", service="web") == failures  # nobody met it
    # the failures of checks go on, the lines in the log don't
    failed = live.metric("aioingress_health_checks_total", service="web", result="refused")
    eventually(lambda: live.metric("aioingress_health_checks_total", service="web", result="refused") > failed + 2)
    assert live.stderr.count("is unhealthy") == 2

    pods.start(found[0].name, port=found[0].port)
    eventually(lambda: live.stderr.count("is healthy again") >= 2, "found healthy by both workers")
    eventually(lambda: answering(live) == names(found))
    assert live.metric("aioingress_unhealthy_endpoints", service="web") == 0


def test_annotations_are_edited(site, pods, folder):
    live, found = site
    before = live.table()["id"]
    # a status that the Pods don't answer with: all fail, and all are used
    documents = app("web", found)
    write(folder / "web.yaml", with_checks(documents, path="/status/204", interval="500ms", status="200"))
    eventually(lambda: live.metric("aioingress_unhealthy_endpoints", service="web") == 3, "all unhealthy")
    assert live.table()["id"] != before
    eventually(lambda: "requests go to all of them" in live.stderr)
    assert answering(live) == names(found)
    # a bad value is a verdict on the Service, a bad path switches the checks off
    write(folder / "web.yaml", with_checks(documents, path="status", interval="fast"))
    eventually(lambda: len(live.verdicts(about="Service default/web")) == 2)
    fields = {verdict["field"] for verdict in live.verdicts()}
    assert fields == {f"metadata.annotations[{PREFIX}path]", f"metadata.annotations[{PREFIX}interval]"}
    eventually(lambda: live.table()["upstreams"][0]["health_check"] is None)
    eventually(lambda: ("aioingress_unhealthy_endpoints", "web") not in series(live), "no gauge without checks")
    assert answering(live) == names(found)
    # endpoints come and go beside it
    write(folder / "web.yaml", with_checks([documents[0], *slices("web", found[1:])], path="/status/204"))
    eventually(lambda: answering(live) == names(found[1:]))


def series(live) -> set[tuple[str, str]]:
    return {(name, dict(labels).get("service", "")) for name, labels in live.metrics()}
