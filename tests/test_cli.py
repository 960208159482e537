"""The command line in process: what becomes of flags and environment, and what a person sees when they are wrong."""

import re
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
import yaml

from ingress import __version__
from ingress.cli import cli, main
from ingress.config import Address, ClassSettings, KubeSettings, ProxySettings, Settings, TranslateSettings
from ingress.errors import ConfigError, SourceError
from ingress.nginxflags import INSTEAD


class App:
    """Stands in for ingress.app: notes what it was called with."""

    def __init__(self):
        self.calls = []
        self.result = 0

    def serve(self, settings):
        self.calls.append(("serve", settings))
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def demo(self, settings, manifests):
        self.calls.append(("demo", settings, manifests))
        return self.result

    @property
    def settings(self) -> Settings:
        (call,) = self.calls
        return call[1]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in os.environ:
        if name.startswith("INGRESS_") or name in ("POD_NAME", "POD_NAMESPACE"):
            monkeypatch.delenv(name)


@pytest.fixture
def app(monkeypatch):
    app = App()
    module = types.ModuleType("ingress.app")
    module.serve, module.demo = app.serve, app.demo
    monkeypatch.setitem(sys.modules, "ingress.app", module)
    return app


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


# ---- what becomes of flags ----------------------------------------------------------------------------------------


def test_defaults_are_those_of_settings(app, folder):
    assert main(["serve", "--manifests", folder]) == 0
    assert app.settings == Settings(manifests=(Path(folder),))


def test_every_flag(app, folder, tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text("")
    arguments = [
        "--manifests", folder, "--manifests", str(file),
        "--http-address", ":80", "--http-address", "[::]:80",
        "--https-address", ":443",
        "--admin-address", "127.0.0.1:9000",
        "--workers", "3",
        "--log-format", "json",
        "--log-level", "warning",
        "--no-access-log",
        "--ingress-class", "edge",
        "--controller-class", "example.com/edge",
        "--watch-ingress-without-class",
        "--annotations-prefix", "edge.example.com",
        "--disable-catch-all",
        "--default-backend-service", "system/fallback",
        "--disable-svc-external-name",
        "--shutdown-grace-period", "7.5",
        "--drain-timeout", "30",
        "--middleware-path", str(file), "--middleware-path", "/opt/middleware",
        "--allow-middleware", "audit", "--allow-middleware", "tenant",
    ]  # fmt: skip
    assert main(["serve", *arguments]) == 0
    assert app.settings == Settings(
        manifests=(Path(folder), file),
        http_addresses=(Address("0.0.0.0", 80), Address("::", 80)),
        https_addresses=(Address("0.0.0.0", 443),),
        admin_addresses=(Address("127.0.0.1", 9000),),
        workers=3,
        log_format="json",
        log_level="warning",
        shutdown_grace_s=7.5,
        translate=TranslateSettings(
            classes=ClassSettings("edge", "example.com/edge", watch_without_class=True),
            annotation_prefixes=("aioingress.io/", "edge.example.com/"),
            catch_all_enabled=False,
            default_backend_service=("system", "fallback"),
            external_name_enabled=False,
            allowed_middleware=("audit", "tenant"),
        ),
        proxy=ProxySettings(drain_timeout_s=30.0, access_log=False, middleware_paths=(str(file), "/opt/middleware")),
    )


def test_own_annotations_alone(app, folder):
    assert main(["serve", "--manifests", folder, "--annotations-prefix", "aioingress.io"]) == 0
    assert app.settings.translate.annotation_prefixes == ("aioingress.io/",)


def test_without_manifests_it_is_a_cluster(app):
    assert main(["serve"]) == 0
    assert app.settings == Settings(
        kube=KubeSettings(),
        translate=TranslateSettings(classes=ClassSettings(standalone=False), external_name_loopback=False),
    )


def test_every_flag_of_a_cluster(app, monkeypatch, tmp_path):
    monkeypatch.setenv("POD_NAME", "aioingress-controller-x")
    monkeypatch.setenv("POD_NAMESPACE", "edge")
    config = tmp_path / "config"
    arguments = [
        "--kubeconfig", str(config), "--context", "staging",
        "--take-over-nginx", "--ingress-class-by-name",
        "--watch-namespace", "shop",
        "--configmap", "edge/options",
        "--tcp-services-configmap", "edge/tcp",
        "--default-ssl-certificate", "edge/tls", "--enable-ssl-passthrough",
        "--update-status=false", "--update-status-on-shutdown=false",
        "--publish-service", "edge/aioingress-controller",
        "--publish-status-address", "192.0.2.1, 2001:db8::1", "--publish-status-address", "lb.example.com",
        "--report-node-internal-ip-address",
        "--election-id", "leader", "--election-ttl", "15s", "--disable-leader-election",
        "--events=false",
    ]  # fmt: skip
    assert main(["serve", *arguments]) == 0
    assert app.settings.translate.classes == ClassSettings(standalone=False, by_name=True, take_over_nginx=True)
    assert app.settings.translate.default_certificate == ("edge", "tls")
    assert app.settings.translate.ssl_passthrough
    assert app.settings.kube == KubeSettings(
        kubeconfig=config,
        context="staging",
        watch_namespace="shop",
        config_map=("edge", "options"),
        tcp_services=("edge", "tcp"),
        default_certificate=("edge", "tls"),
        update_status=False,
        update_status_on_shutdown=False,
        publish_service=("edge", "aioingress-controller"),
        publish_status_addresses=("192.0.2.1", "2001:db8::1", "lb.example.com"),
        report_node_internal_ip=True,
        leader_election=False,
        election_id="leader",
        election_ttl_s=15.0,
        events=False,
        pod_name="aioingress-controller-x",
        pod_namespace="edge",
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30.0), ("2.5", 2.5), ("30s", 30.0), ("1m30s", 90.0), ("1.5m", 90.0), ("2500ms", 2.5)]
)
def test_durations(app, text, seconds):
    assert main(["serve", "--election-ttl", text]) == 0
    assert app.settings.kube.election_ttl_s == seconds


ENVIRONMENT = {
    "INGRESS_HTTP_ADDRESS": (":80  [::]:81", lambda s: s.http_addresses, (Address("0.0.0.0", 80), Address("::", 81))),
    "INGRESS_HTTPS_ADDRESS": (":443", lambda s: s.https_addresses, (Address("0.0.0.0", 443),)),
    "INGRESS_ADMIN_ADDRESS": (":9", lambda s: s.admin_addresses, (Address("0.0.0.0", 9),)),
    "INGRESS_WORKERS": ("0", lambda s: s.workers, 0),
    "INGRESS_LOG_FORMAT": ("json", lambda s: s.log_format, "json"),
    "INGRESS_LOG_LEVEL": ("debug", lambda s: s.log_level, "debug"),
    "INGRESS_ACCESS_LOG": ("false", lambda s: s.proxy.access_log, False),
    "INGRESS_INGRESS_CLASS": ("edge", lambda s: s.translate.classes.ingress_class, "edge"),
    "INGRESS_CONTROLLER_CLASS": ("a/b", lambda s: s.translate.classes.controller_class, "a/b"),
    "INGRESS_WATCH_INGRESS_WITHOUT_CLASS": ("true", lambda s: s.translate.classes.watch_without_class, True),
    "INGRESS_ANNOTATIONS_PREFIX": ("a.b", lambda s: s.translate.annotation_prefixes, ("aioingress.io/", "a.b/")),
    "INGRESS_DISABLE_CATCH_ALL": ("true", lambda s: s.translate.catch_all_enabled, False),
    "INGRESS_DEFAULT_BACKEND_SERVICE": ("a/b", lambda s: s.translate.default_backend_service, ("a", "b")),
    "INGRESS_DISABLE_SVC_EXTERNAL_NAME": ("1", lambda s: s.translate.external_name_enabled, False),
    "INGRESS_ALLOW_MIDDLEWARE": ("audit tenant", lambda s: s.translate.allowed_middleware, ("audit", "tenant")),
    "INGRESS_MIDDLEWARE_PATH": ("/a:/b", lambda s: s.proxy.middleware_paths, ("/a", "/b")),
    "INGRESS_SHUTDOWN_GRACE_PERIOD": ("5", lambda s: s.shutdown_grace_s, 5.0),
    "INGRESS_DRAIN_TIMEOUT": ("6", lambda s: s.proxy.drain_timeout_s, 6.0),
}


OF_A_CLUSTER = {
    "INGRESS_KUBECONFIG": ("/etc/kube", lambda s: s.kube.kubeconfig, Path("/etc/kube")),
    "INGRESS_CONTEXT": ("staging", lambda s: s.kube.context, "staging"),
    "INGRESS_TAKE_OVER_NGINX": ("true", lambda s: s.translate.classes.take_over_nginx, True),
    "INGRESS_INGRESS_CLASS_BY_NAME": ("true", lambda s: s.translate.classes.by_name, True),
    "INGRESS_WATCH_NAMESPACE": ("shop", lambda s: s.kube.watch_namespace, "shop"),
    "INGRESS_WATCH_NAMESPACE_SELECTOR": ("a in (b,c)", lambda s: s.kube.watch_namespace_selector, "a in (b,c)"),
    "INGRESS_CONFIGMAP": ("a/b", lambda s: s.kube.config_map, ("a", "b")),
    "INGRESS_TCP_SERVICES_CONFIGMAP": ("a/b", lambda s: s.kube.tcp_services, ("a", "b")),
    "INGRESS_DEFAULT_SSL_CERTIFICATE": ("a/b", lambda s: s.kube.default_certificate, ("a", "b")),
    "INGRESS_ENABLE_SSL_PASSTHROUGH": ("true", lambda s: s.translate.ssl_passthrough, True),
    "INGRESS_UPDATE_STATUS": ("false", lambda s: s.kube.update_status, False),
    "INGRESS_UPDATE_STATUS_ON_SHUTDOWN": ("false", lambda s: s.kube.update_status_on_shutdown, False),
    "INGRESS_PUBLISH_SERVICE": ("a/b", lambda s: s.kube.publish_service, ("a", "b")),
    "INGRESS_PUBLISH_STATUS_ADDRESS": (
        "192.0.2.1,a.b",
        lambda s: s.kube.publish_status_addresses,
        ("192.0.2.1", "a.b"),
    ),
    "INGRESS_REPORT_NODE_INTERNAL_IP_ADDRESS": ("true", lambda s: s.kube.report_node_internal_ip, True),
    "INGRESS_ELECTION_ID": ("leader", lambda s: s.kube.election_id, "leader"),
    "INGRESS_ELECTION_TTL": ("1m", lambda s: s.kube.election_ttl_s, 60.0),
    "INGRESS_DISABLE_LEADER_ELECTION": ("true", lambda s: s.kube.leader_election, False),
    "INGRESS_EVENTS": ("false", lambda s: s.kube.events, False),
}


@pytest.mark.parametrize("name", OF_A_CLUSTER)
def test_environment_of_a_cluster(app, monkeypatch, name):
    value, read, expected = OF_A_CLUSTER[name]
    monkeypatch.setenv(name, value)
    assert main(["serve"]) == 0
    assert read(app.settings) == expected


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_environment(app, folder, monkeypatch, name):
    value, read, expected = ENVIRONMENT[name]
    monkeypatch.setenv(name, value)
    assert main(["serve", "--manifests", folder]) == 0
    assert read(app.settings) == expected


def test_manifests_from_environment(app, tmp_path, monkeypatch):
    """A path may contain spaces: several are separated as in PATH."""
    spaced, other = tmp_path / "my files", tmp_path / "other"
    spaced.mkdir()
    other.mkdir()
    monkeypatch.setenv("INGRESS_MANIFESTS", f"{spaced}:{other}")
    assert main(["serve"]) == 0
    assert app.settings.manifests == (spaced, other)


def test_every_option_has_a_tested_environment_variable():
    serve = {f"INGRESS_{p.name.upper()}" for p in cli.commands["serve"].params}
    assert serve == {*ENVIRONMENT, *OF_A_CLUSTER, "INGRESS_MANIFESTS"}


def test_flags_of_ingress_nginx_are_told_from_ours():
    ours = {option.lstrip("-") for p in cli.commands["serve"].params for option in p.opts}
    assert not ours & INSTEAD.keys()
    named = {flag for why in INSTEAD.values() for flag in re.findall(r"--([a-z-]+)", why)}
    assert named - {"version"} <= ours
    chart = Path(__file__).parents[1] / "charts" / "aioingress" / "files" / "ignored.yaml"
    assert yaml.safe_load(chart.read_text())["flags"].keys() <= INSTEAD.keys()


def test_no_option_collides_with_what_kubernetes_injects():
    for command in cli.commands.values():
        for param in command.params:
            assert not param.name.startswith(("port", "service_"))


def test_command_line_wins_over_environment(app, folder, monkeypatch):
    monkeypatch.setenv("INGRESS_WORKERS", "9")
    monkeypatch.setenv("INGRESS_HTTP_ADDRESS", "127.0.0.1:1 127.0.0.1:2")
    assert main(["serve", "--manifests", folder, "--workers", "auto", "--http-address", ":5"]) == 0
    assert app.settings.workers is None
    assert app.settings.http_addresses == (Address("0.0.0.0", 5),)


def test_empty_variable_counts_as_not_set(app, folder, monkeypatch):
    monkeypatch.setenv("INGRESS_WORKERS", "")
    monkeypatch.setenv("INGRESS_ACCESS_LOG", "")
    assert main(["serve", "--manifests", folder]) == 0
    assert app.settings == Settings(manifests=(Path(folder),))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--watch-ingress-without-class=true"], True),
        (["--watch-ingress-without-class=false"], False),
        (["--watch-ingress-without-class", "--no-access-log"], True),
        (["--watch-ingress-without-class"], True),
        ([], False),
    ],
)
def test_switch_as_written_for_ingress_nginx(app, folder, arguments, expected):
    assert main(["serve", "--manifests", folder, *arguments]) == 0
    assert app.settings.translate.classes.watch_without_class is expected


def test_demo_defaults(app):
    assert main(["demo"]) == 0
    expected = Settings(
        http_addresses=(Address("127.0.0.1", 8080),),
        https_addresses=(Address("127.0.0.1", 8443),),
        admin_addresses=(Address("127.0.0.1", 10254),),
        workers=1,
    )
    assert app.calls == [("demo", expected, None)]


def test_demo_flags(app, tmp_path):
    kept = tmp_path / "not" / "there" / "yet"
    arguments = ["--http-address", ":1", "--admin-address", ":2", "--workers", "0", "--manifests", str(kept)]
    assert main(["demo", *arguments]) == 0
    ((_, settings, manifests),) = app.calls
    assert (settings.http_addresses, settings.admin_addresses) == ((Address("0.0.0.0", 1),), (Address("0.0.0.0", 2),))
    assert settings.workers == 0
    assert manifests == kept


def test_demo_does_not_write_to_the_manifests_of_serve(app, folder, monkeypatch):
    monkeypatch.setenv("INGRESS_MANIFESTS", folder)
    assert main(["demo"]) == 0
    assert app.calls[0][2] is None


def test_result_of_app_is_the_exit_code(app, folder):
    app.result = 1
    assert main(["serve", "--manifests", folder]) == 1


# ---- what a person sees -------------------------------------------------------------------------------------------

BAD = [
    ([], "ingress: missing command: serve or demo; see 'ingress --help'"),
    (["srve"], "ingress: no such command 'srve'. Did you mean 'serve'?; see 'ingress --help'"),
    (["--bad"], "ingress: no such option '--bad'; see 'ingress --help'"),
    (
        ["serve", "--manifests", ".", "--context", "x"],
        "ingress serve: --manifests needs no cluster: leave out --kubeconfig",
    ),
    (["serve", "--watch-namespace", "a", "--watch-namespace-selector", "b"], "only one of them can choose;"),
    (
        ["serve", "--watch-namespace", "a.b"],
        "invalid value for '--watch-namespace': 'a.b' is not the name of a namespace;",
    ),
    (["serve", "--watch-namespace-selector", "a&b"], "'a&b' is not a label selector, such as team=web,stage!=test;"),
    (
        ["serve", "--configmap", "web"],
        "invalid value for '--configmap': 'web' is not a ConfigMap: expected NAMESPACE/NAME",
    ),
    (["serve", "--publish-service", "a.b/c"], "'a.b/c' is not a Service: expected NAMESPACE/NAME"),
    (["serve", "--publish-status-address", "a, B_c"], "'B_c' is neither an IP nor a host name;"),
    (["serve", "--publish-status-address", "1.2.3.456"], "'1.2.3.456' is neither an IP nor a host name;"),
    (["serve", "--election-id", "A b"], "invalid value for '--election-id': 'A b' is not the name of a Lease;"),
    (["serve", "--election-ttl", "1"], "ingress serve: --election-ttl 1: at least 2 seconds;"),
    (["serve", "--election-ttl", "30x"], "'30x' is not a number of seconds from 0 to 86400;"),
    (["serve", "--update-status=si"], "invalid value for '--update-status': 'si' is neither true nor false;"),
    (["serve", "--manifest", "x"], "ingress serve: no such option '--manifest'. Did you mean '--manifests'?;"),
    (
        ["serve", "--http-port=80"],
        "ingress serve: no such option '--http-port' (a flag of ingress-nginx): use --http-address;",
    ),
    (["serve", "-v=2"], "ingress serve: no such option '-v' (a flag of ingress-nginx): use --log-level;"),
    (["serve", "--enable-metrics"], "leave it out: metrics are always served, at --admin-address;"),
    (
        ["demo", "--http-port=80"],
        "ingress demo: no such option '--http-port'. (Did you mean one of: '--http-address', '--https-address'?);",
    ),
    (["serve", "--manifests"], "ingress serve: option '--manifests' requires an argument;"),
    (
        ["serve", "--manifests", "/no/such"],
        "ingress serve: invalid value for '--manifests': Path '/no/such' does not exist;",
    ),
    (["serve", "--manifests", ".", "more"], "ingress serve: got unexpected extra argument (more);"),
    (
        ["serve", "--workers", "many"],
        "invalid value for '--workers': 'many' is neither 'auto' nor a number from 0 to 1024;",
    ),
    (["serve", "--workers", "-1"], "'-1' is neither 'auto' nor a number from 0 to 1024;"),
    (["serve", "--workers", "1025"], "'1025' is neither 'auto' nor a number from 0 to 1024;"),
    (["serve", "--workers", "9" * 5000], "is neither 'auto' nor a number from 0 to 1024;"),
    (
        ["serve", "--http-address", "8080"],
        "invalid value for '--http-address': '8080' is not an address: expected IP:PORT",
    ),
    (["serve", "--admin-address", "a\nb:1"], "invalid value for '--admin-address': 'a\\nb:1' is not an address"),
    (["serve", "--log-format", "xml"], "invalid value for '--log-format': 'xml' is not one of 'text', 'json';"),
    (["serve", "--log-level", "trace"], "'trace' is not one of 'debug', 'info', 'warning', 'error';"),
    (
        ["serve", "--annotations-prefix", "edge.example.com/"],
        "'--annotations-prefix': 'edge.example.com/' is not the prefix of annotations: expected a DNS name without a slash",
    ),
    (["serve", "--annotations-prefix", ""], "'' is not the prefix of annotations"),
    (["serve", "--annotations-prefix", "Edge"], "'Edge' is not the prefix of annotations"),
    (["serve", "--ingress-class", ""], "invalid value for '--ingress-class': '' is not a name;"),
    (["serve", "--controller-class", "a b"], "invalid value for '--controller-class': 'a b' is not a name;"),
    (["serve", "--watch-ingress-without-class=si"], "'--watch-ingress-without-class': 'si' is neither true nor false;"),
    (
        ["serve", "--default-backend-service", "web"],
        "'web' is not a Service: expected NAMESPACE/NAME, such as default/web;",
    ),
    (["serve", "--default-backend-service", "A/b"], "'A/b' is not a Service"),
    (["serve", "--default-backend-service", "a/b/c"], "'a/b/c' is not a Service"),
    (["serve", "--drain-timeout", "nan"], "'--drain-timeout': 'nan' is not a number of seconds from 0 to 86400;"),
    (["serve", "--drain-timeout", "-1"], "'-1' is not a number of seconds from 0 to 86400;"),
    (["serve", "--shutdown-grace-period", "4d"], "'4d' is not a number of seconds from 0 to 86400;"),
    (["serve", "--access-log=x"], "option '--access-log' does not take a value;"),
    (
        ["serve", "--manifests", ".", "--http-address", ":8080", "--admin-address", "127.0.0.1:8080"],
        "ingress serve: --http-address 0.0.0.0:8080 and --admin-address 127.0.0.1:8080 overlap: each needs a port of its own;",
    ),
    (
        ["serve", "--manifests", ".", "--http-address", ":8443"],
        "ingress serve: --http-address 0.0.0.0:8443 and --https-address 0.0.0.0:8443 overlap: each needs a port of its own;",
    ),
    (
        ["demo", "--manifests", __file__],
        f"ingress demo: invalid value for '--manifests': Directory '{__file__}' is a file;",
    ),
    (["demo", "--http-address", "127.0.0.1:10254"], "ingress demo: --http-address 127.0.0.1:10254 and --admin-address"),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD)
def test_usage_error_is_one_line(app, capsys, arguments, expected):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1
    assert err.endswith("--help'\n")
    assert app.calls == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("INGRESS_WORKERS", "x", "invalid value for INGRESS_WORKERS: 'x' is neither 'auto' nor a number"),
        ("INGRESS_HTTP_ADDRESS", ":80 web", "invalid value for INGRESS_HTTP_ADDRESS: 'web' is not an address"),
        ("INGRESS_MANIFESTS", "/no/such", "invalid value for INGRESS_MANIFESTS: Path '/no/such' does not exist;"),
        ("INGRESS_ACCESS_LOG", "maybe", "invalid value for INGRESS_ACCESS_LOG: 'maybe' is not a valid boolean;"),
        (
            "INGRESS_DISABLE_SVC_EXTERNAL_NAME",
            "?",
            "invalid value for INGRESS_DISABLE_SVC_EXTERNAL_NAME: '?' is neither",
        ),
    ],
)
def test_bad_variable_is_named(app, capsys, monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert main(["serve"]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert app.calls == []


def test_bad_variable_of_demo_is_named(app, capsys, monkeypatch):
    monkeypatch.setenv("INGRESS_DEMO_MANIFESTS", __file__)
    assert main(["demo"]) == 2
    assert "invalid value for INGRESS_DEMO_MANIFESTS: Directory" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConfigError, SourceError])
def test_error_of_app_is_one_line(app, capsys, folder, error):
    app.result = error("--http-address 0.0.0.0:8080:\naddress in use\x1b[31m")
    assert main(["serve", "--manifests", folder]) == 2
    assert capsys.readouterr().err == "ingress: --http-address 0.0.0.0:8080: address in use [31m\n"


def test_bug_in_app_is_not_hidden(app, folder):
    app.result = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["serve", "--manifests", folder])


def test_interrupt_has_no_traceback(app, capsys, folder):
    app.result = KeyboardInterrupt()
    assert main(["serve", "--manifests", folder]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_help_is_complete(capsys):
    for name, command in cli.commands.items():
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        for param in command.params:
            assert isinstance(param, click.Option)
            assert max(param.opts, key=len) in text
            assert param.help
            assert f"INGRESS_{param.name.upper()}" in text or str(param.envvar) in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"aioingress {__version__} (Python 3.")


def test_module_runs_without_the_data_plane():
    """--help answers before anything heavy is imported."""
    code = "import sys; from ingress.cli import main; main(['serve', '--help']); sys.exit('asyncio' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 0, child.stderr
    child = subprocess.run(
        [sys.executable, "-m", "ingress", "serve", "--workers", "x"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 2
    assert child.stderr.startswith("ingress serve: invalid value for '--workers'")
