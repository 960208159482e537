"""What is done to responses, in the real program with several workers: policies on their way through files, tables and processes."""

from pathlib import Path
from typing import Any

from tests.e2e.support import Pods, Serve, app, eventually, ingress, path, replace, rule, service, write

NGINX = "nginx.ingress.kubernetes.io/"
OWN = "aioingress.io/"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {key.replace("_", "."): value for key, value in data.items()},
    }


def annotated(name: str, service_name: str = "web", prefix: str = NGINX, **annotations: str) -> dict[str, Any]:
    texts = {prefix + key.replace("_", "-"): value for key, value in annotations.items()}
    return ingress(name, rule(f"{name}.test", path(service_name)), annotations=texts)


def test_responses_of_several_ingresses(tmp_path: Path, pods: Pods) -> None:
    web, errors, shadow = pods.some("web", 1), pods.some("errors", 1), pods.some("shadow", 1)
    folder = tmp_path / "manifests"
    folder.mkdir()
    write(folder / "apps.yaml", app("web", web), app("errors", errors), service("empty"))
    write(
        folder / "rules.yaml",
        annotated("cors", enable_cors="true", cors_allow_origin="https://*.shop.test"),
        annotated("errors", custom_http_errors="404,503", default_backend="errors"),
        annotated("standin", "empty", default_backend="errors"),
        annotated("rewritten", prefix=OWN, request_headers="set X-Team: a", response_headers="set X-Answer: $host"),
        annotated("mirrored", mirror_target=f"http://127.0.0.1:{shadow[0].port}$request_uri"),
        annotated("closed", prefix=OWN, maintenance="true", maintenance_page="page"),
        annotated("headers", custom_headers="default/nothing"),
    )
    page = write(folder / "page.yaml", config_map("page", index_html="<h1>Back at noon</h1>"))
    with Serve(folder, workers=2) as serve:
        # the table came through whole: each worker answers the same
        for _ in range(4):
            preflight = serve.get("cors.test", method="OPTIONS", headers={"Origin": "https://a.shop.test"})
            assert preflight.status == 204
            assert preflight.headers["Access-Control-Allow-Origin"] == "https://a.shop.test"
            assert (
                "Access-Control-Allow-Origin"
                not in serve.get("cors.test", headers={"Origin": "https://a.test"}).headers
            )

            replaced = serve.get("errors.test", "/status/404")
            assert (replaced.status, replaced.pod) == (200, "errors-0")  # it answers with 200 itself
            assert serve.get("errors.test", "/status/500").status == 500
            assert serve.get("errors.test").pod == "web-0"

            received = serve.get("standin.test", "/echo").received
            assert received["x-code"] == "503"
            assert received["x-service-name"] == "empty"

            answer = serve.get("rewritten.test", "/echo")
            assert answer.received["x-team"] == "a"
            assert answer.headers["X-Answer"] == "rewritten.test"

            assert serve.get("headers.test").status == 503
            closed = serve.get("closed.test")
            assert (closed.status, closed.body) == (503, b"<h1>Back at noon</h1>")
            assert serve.get("mirrored.test", "/a?b=c").pod == "web-0"
        eventually(lambda: serve.metric("aioingress_mirrored_total", outcome="answered") == 4, "copies were answered")

        (verdict,) = [v for v in serve.verdicts(about="Ingress default/headers") if "custom-headers" in v["field"]]
        assert "does not exist" in verdict["message"]

        # a ConfigMap that an annotation names is live
        replace(page, page.read_text().replace("noon", "one"))
        eventually(lambda: serve.get("closed.test").body == b"<h1>Back at one</h1>", "the new page")
