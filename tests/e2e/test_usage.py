"""Wrong input: exit code 2 and one line on stderr that names what is wrong."""

import re
import socket

import pytest

from tests.e2e.support import (
    LISTEN,
    Program,
    Serve,
    app,
    eventually,
    fetch,
    free_port,
    ingress,
    listen_text,
    path,
    program,
    replace,
    rule,
    write,
)

OPTIONS = (
    "--manifests",
    "--kubeconfig",
    "--context",
    "--take-over-nginx",
    "--ingress-class-by-name",
    "--watch-namespace",
    "--watch-namespace-selector",
    "--configmap",
    "--tcp-services-configmap",
    "--default-ssl-certificate",
    "--enable-ssl-passthrough",
    "--update-status",
    "--update-status-on-shutdown",
    "--publish-service",
    "--publish-status-address",
    "--report-node-internal-ip-address",
    "--election-id",
    "--election-ttl",
    "--disable-leader-election",
    "--events",
    "--http-address",
    "--https-address",
    "--admin-address",
    "--workers",
    "--log-format",
    "--log-level",
    "--access-log",
    "--no-access-log",
    "--ingress-class",
    "--controller-class",
    "--watch-ingress-without-class",
    "--annotations-prefix",
    "--disable-catch-all",
    "--default-backend-service",
    "--disable-svc-external-name",
    "--shutdown-grace-period",
    "--drain-timeout",
    "--middleware-path",
    "--allow-middleware",
)


def refused(*arguments: str, env: dict[str, str] | None = None) -> str:
    """The line."""
    result = program(*arguments, env=env)
    assert result.returncode == 2, result
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--http-adress", "1.2.3.4:80"], "--http-address"),  # what was meant
        (["--http-address", "nowhere"], "--http-address"),
        (["--http-address", "127.0.0.1:99999"], "--http-address"),
        (["--http-address", "example.com:80"], "example.com"),
        (["--admin-address", "::1:80"], "--admin-address"),
        (["--workers", "many"], "--workers"),
        (["--workers", "-1"], "--workers"),
        (["--log-level", "loud"], "--log-level"),
        (["--drain-timeout", "soon"], "--drain-timeout"),
        (["--shutdown-grace-period", "-1"], "--shutdown-grace-period"),
        (["--default-backend-service", "web"], "--default-backend-service"),
        (["--watch-ingress-without-class=perhaps"], "--watch-ingress-without-class"),
        (["--http-address", "127.0.0.1:8080", "--admin-address", "127.0.0.1:8080"], "--admin-address"),
        (["surplus"], "surplus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_option(tmp_path, options, names):
    line = refused("serve", "--manifests", str(tmp_path), *options)
    assert names in line
    assert line.startswith("ingress serve: ")


def test_manifests_missing_from_the_command_line():
    assert "--manifests" in refused("serve")


def test_manifests_that_do_not_exist(tmp_path):
    line = refused("serve", "--manifests", str(tmp_path / "nowhere"))
    assert "--manifests" in line
    assert str(tmp_path / "nowhere") in line


def test_unknown_and_missing_command():
    assert "frobnicate" in refused("frobnicate")
    assert "serve" in refused()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INGRESS_WORKERS", "many"),
        ("INGRESS_HTTP_ADDRESS", "nowhere"),
        ("INGRESS_LOG_FORMAT", "xml"),
        ("INGRESS_WATCH_INGRESS_WITHOUT_CLASS", "perhaps"),
        ("INGRESS_MANIFESTS", "/nowhere/at/all"),
    ],
)
def test_bad_variable(tmp_path, variable, value):
    arguments = [] if variable == "INGRESS_MANIFESTS" else ["--manifests", str(tmp_path)]
    line = refused("serve", *arguments, env={variable: value})
    assert variable in line
    assert value in line


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("flag", ["--http-address", "--admin-address"])
def test_busy_port(tmp_path, flag, workers):
    addresses = {"--http-address": f"{LISTEN}:{free_port()}", "--admin-address": f"{LISTEN}:{free_port()}"}
    host, _, port = addresses[flag].partition(":")
    with socket.create_server((host, int(port))):
        line = refused(
            "serve",
            "--manifests",
            str(tmp_path),
            "--workers",
            workers,
            *[text for pair in addresses.items() for text in pair],
        )
    assert f"{flag} {addresses[flag]}" in line
    assert "in use" in line


@pytest.mark.parametrize(("first", "second"), [(1, "1"), (2, "2"), (0, "2"), (2, "0")])
def test_http_port_of_another_controller(folder, serve, first, second):
    """Both use SO_REUSEPORT: without care they would share the connections."""
    running = serve(workers=first)
    taken = listen_text(running.http)
    line = refused(
        "serve",
        "--manifests",
        str(folder),
        "--workers",
        second,
        "--http-address",
        taken,
        "--admin-address",
        f"{LISTEN}:{free_port()}",
    )
    assert f"--http-address {taken}" in line
    assert running.get("any").status == 404


def test_admin_port_of_another_controller(folder, serve):
    running = serve(workers=1)
    taken = listen_text(running.admin)
    line = refused(
        "serve", "--manifests", str(folder), "--http-address", f"{LISTEN}:{free_port()}", "--admin-address", taken
    )
    assert f"--admin-address {taken}" in line


@pytest.mark.parametrize("listen", ["0.0.0.0", "127.0.0.1"])
def test_http_port_taken_on_all_addresses(folder, listen):
    port = free_port("0.0.0.0")
    with socket.create_server(("0.0.0.0", port)):
        line = refused(
            "serve",
            "--manifests",
            str(folder),
            "--workers",
            "2",
            "--http-address",
            f"{listen}:{port}",
            "--admin-address",
            f"{LISTEN}:{free_port()}",
        )
    assert f"--http-address {listen}:{port}" in line


def test_environment_instead_of_options(pods, folder, tmp_path):
    write(folder / "all.yaml", app("web", [pods.start("web")]), ingress("web", rule("web.test", path("web"))))
    more = write(tmp_path / "more.yaml", ingress("more", rule("more.test", path("web"))))
    first, second = f"{LISTEN}:{free_port()}", f"{LISTEN}:{free_port()}"
    env = {
        "INGRESS_MANIFESTS": f"{tmp_path / 'nowhere'}",  # the command line wins
        "INGRESS_LOG_FORMAT": "json",
        "INGRESS_ACCESS_LOG": "false",
        "INGRESS_INGRESS_CLASS": "",  # empty: not set
        "INGRESS_PORT": "tcp://10.0.0.1:80",  # Kubernetes sets these beside a Service named ingress
        "INGRESS_SERVICE_HOST": "10.0.0.1",
    }
    with Serve([folder, more], env=env, outputs=tmp_path) as running:
        assert running.get("more.test").pod == "web"
        assert all(line.startswith("{") for line in running.stderr.splitlines())
    assert running.stdout == ""
    env = {
        "INGRESS_MANIFESTS": f"{folder}:{more}",
        "INGRESS_HTTP_ADDRESS": f"{first} {second}",
        "INGRESS_WORKERS": "1",
        "INGRESS_INGRESS_CLASS": "somebody",
        "INGRESS_WATCH_INGRESS_WITHOUT_CLASS": "true",
    }
    admin = (LISTEN, free_port())

    def ready() -> bool:
        try:
            return fetch(admin, "admin", "/readyz").status == 200
        except OSError:
            return False

    with Program(tmp_path, "serve", "--admin-address", listen_text(admin), env=env):
        eventually(ready)
        for text in (first, second):
            host, _, port = text.partition(":")
            assert fetch((host, int(port)), "more.test").pod == "web"


@pytest.mark.parametrize("command", [[], ["serve"], ["demo"]])
def test_help(command):
    result = program(*command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ingress")
    if command == ["serve"]:
        for option in OPTIONS:
            assert re.search(rf"^\s+(--[a-z-]+ / )?{option}\b", result.stdout, re.MULTILINE), option
            if option != "--no-access-log":
                assert "INGRESS_" + option[2:].upper().replace("-", "_") in result.stdout
        assert set(re.findall(r"^\s+(--[a-z-]+)", result.stdout, re.MULTILINE)) <= {*OPTIONS}


def test_version():
    result = program("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"aioingress \d+\.\S+ \(Python \d.*\)\n", result.stdout)


def test_unreadable_manifest_is_named(folder, serve):
    """Not an error of the command line: the rest is served."""
    replace(folder / "bytes.yaml", "\x00\x01")
    running = serve()
    (verdict,) = running.verdicts()
    assert "bytes.yaml" in verdict["object"] + verdict["origin"]
