"""Regex mode, rewrites, redirects and aliases in the real program: through the channel to two workers, and back when the annotations go."""

from pathlib import Path

from tests.e2e.support import Pods, Serve, app, eventually, fetch, ingress, path, rule, write

NGINX = "nginx.ingress.kubernetes.io/"


def test_they_come_and_go(folder: Path, pods: Pods) -> None:
    web = pods.some("web", 1)
    write(folder / "web.yaml", app("web", web), ingress("plain", rule("a.test", path("web", "/plain"))))
    annotations = {
        NGINX + "rewrite-target": "/new/$1",
        NGINX + "server-alias": r"b.test, ~^c\d\.test$",
        NGINX + "app-root": "/x/home",
        NGINX + "from-to-www-redirect": "true",
        NGINX + "upstream-vhost": "up.test",
    }
    rewriting = write(
        folder / "rewriting.yaml",
        ingress("rewriting", rule("a.test", path("web", "/x/(.*)", "ImplementationSpecific")), annotations=annotations),
    )
    with Serve(folder, workers=2) as serve:
        address = serve.http
        for host in ("a.test", "b.test", "c7.test"):
            for _ in range(4):  # both workers
                answer = fetch(address, host, "/X/1?q=2")
                assert answer.json["target"] == "/new/1?q=2"
                assert answer.received["host"] == "up.test"
                assert fetch(address, host, "/PLAIN-and-more").status == 200
                assert fetch(address, host, "/").headers["Location"] == f"http://{host}/x/home"
        redirect = fetch(address, "www.a.test", "/x/")
        assert (redirect.status, redirect.headers["Location"]) == (308, "http://a.test:80/x")
        rewriting.unlink()
        # One worker may have the new table a moment before the other.
        eventually(
            lambda: all(fetch(address, "c7.test", "/x/1").status == 404 for _ in range(8)), "the alias gone everywhere"
        )
        assert fetch(address, "b.test", "/plain").status == 404
        assert fetch(address, "www.a.test", "/").status == 404
        assert fetch(address, "a.test", "/PLAIN").status == 404
        assert fetch(address, "a.test", "/plain/x").status == 200
