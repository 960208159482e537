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
        "data": {key.replace("index_", "index."): value for key, value in data.items()},
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


def test_options_about_responses(tmp_path: Path, pods: Pods) -> None:
    web, errors = pods.some("web", 1), pods.some("errors", 1)
    folder = tmp_path / "manifests"
    folder.mkdir()
    write(folder / "apps.yaml", app("web", web), app("errors", errors), service("empty"))
    write(
        folder / "rules.yaml",
        ingress("web", rule("web.test", path("web"), path("empty", "/empty"))),
        annotated("headers", custom_headers="default/more"),
        config_map("more", **{"X-More": "1"}),
    )
    options = write(folder / "options.yaml", config_map("options"))
    arguments = ("--configmap", "default/options", "--default-backend-service", "default/errors")
    accept = {"Accept-Encoding": "gzip, br, zstd"}
    with Serve(folder, *arguments, workers=2) as serve:

        def encoding() -> str | None:
            return serve.get("web.test", "/echo", headers=accept).headers["Content-Encoding"]

        assert encoding() is None
        assert serve.get("web.test", "/status/404").status == 404
        assert serve.get("headers.test").status == 503  # no header is allowed
        for data, expected in (
            ({"use-gzip": "true", "gzip-min-length": "10"}, "gzip"),
            ({"use-gzip": "true", "enable-brotli": "true"}, "br"),
            ({"use-gzip": "true", "gzip-types": "text/css"}, None),
            ({"enable-zstd": "true", "zstd-types": "application/json"}, "zstd"),
            ({"enable-zstd": "true", "zstd-min-length": "100000000"}, None),
        ):
            write(options, config_map("options", **data, **{"server-tokens": "true"}))
            eventually(lambda e=expected: all(encoding() == e for _ in range(8)), f"{data} on every worker")
        write(
            options,
            config_map(
                "options",
                **{
                    "custom-http-errors": "404,503",
                    "global-allowed-response-headers": "X-More",
                    "limit-rate": "100000",
                },
            ),
        )
        eventually(lambda: serve.get("headers.test").status == 200, "the header is allowed")
        eventually(lambda: all(serve.get("web.test", "/status/404").pod == "errors-0" for _ in range(8)), "everywhere")
        assert serve.get("headers.test").headers["X-More"] == "1"
        assert serve.get("web.test", "/empty/echo").pod == "errors-0"
        assert serve.get("web.test", "/status/500").pod == "web-0"
        assert serve.get("web.test", "/bytes/300000").body == serve.get("web.test", "/bytes/300000").body
