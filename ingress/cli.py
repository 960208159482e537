"""Flags, environment and exit codes. Parses into `Settings`, calls `app`, prints errors in one line; decides nothing else.

Exit codes: 0 ok, 1 findings (of commands that look for some), 2 usage. An option's environment variable is `INGRESS_` and
the option's name; the command line wins. Kubernetes injects `INGRESS_PORT`, `INGRESS_SERVICE_HOST`,
`INGRESS_SERVICE_PORT...` into every Pod beside a Service named `ingress`, so no option may be called `--port` or
`--service-...`.
"""

import ipaddress
import math
import os
import platform
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ingress import __version__
from ingress.config import (
    CONTROLLER_NAME,
    DEFAULT_CLASS,
    NGINX_ANNOTATIONS,
    NGINX_CLASS,
    NGINX_CONTROLLER_NAME,
    Address,
    ClassSettings,
    KubeSettings,
    ProxySettings,
    Settings,
    TranslateSettings,
    annotation_prefixes,
)
from ingress.errors import ConfigError, IngressError
from ingress.nginxflags import INSTEAD

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_WORKERS_LIMIT = 1024
_SECONDS_LIMIT = 86400.0
_ELECTION_TTL_S = 2.0  # renewed three times within it, over a network
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SELECTOR = re.compile(r"[-A-Za-z0-9_./=!,() ]*")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_DURATION = re.compile(f"(?:{_DURATION_PART.pattern})+")
_ENVIRONMENT = {"auto_envvar_prefix": "INGRESS", "max_content_width": 110, "help_option_names": ["-h", "--help"]}


# ---- types of values ----------------------------------------------------------------------------------------------


class AddressType(click.ParamType[Address]):
    name = "IP:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(str(value))
        except ConfigError as error:
            raise click.BadParameter(str(error), ctx, param) from None


class WorkersType(click.ParamType[int | None]):
    """`auto` becomes None: how many that is, is known where the workers start."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        text = str(value)
        if text == "auto":
            return None
        if text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= _WORKERS_LIMIT:
            return int(text)
        raise click.BadParameter(f"{text!r} is neither 'auto' nor a number from 0 to {_WORKERS_LIMIT}", ctx, param)


class SecondsType(click.ParamType[float]):
    """A number of seconds, or a duration as ingress-nginx's flags have it (`30s`, `1m30s`, `500ms`)."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            seconds = float(text)
        except ValueError:
            parts = _DURATION_PART.findall(text) if _DURATION.fullmatch(text) else []
            seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts) if parts else math.nan
        if not 0 <= seconds <= _SECONDS_LIMIT:  # nan fails too
            raise click.BadParameter(f"{text!r} is not a number of seconds from 0 to {_SECONDS_LIMIT:.0f}", ctx, param)
        return seconds


class ObjectType(click.ParamType[tuple[str, str]]):
    """`NAMESPACE/NAME` of an object of `kind`, as (namespace, name)."""

    name = "NAMESPACE/NAME"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        namespace, _, name = str(value).partition("/")
        if not _NAMESPACE.fullmatch(namespace) or not _OBJECT_NAME.fullmatch(name):
            raise click.BadParameter(
                f"{str(value)!r} is not a {self._kind}: expected NAMESPACE/NAME, such as default/web", ctx, param
            )
        return namespace, name


class NamespaceType(click.ParamType[str]):
    """Empty: all namespaces."""

    name = "NAMESPACE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text and not _NAMESPACE.fullmatch(text):
            raise click.BadParameter(f"{text!r} is not the name of a namespace", ctx, param)
        return text


class SelectorType(click.ParamType[str]):
    """A label selector: only its alphabet is checked here, its grammar by the API server."""

    name = "SELECTOR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not _SELECTOR.fullmatch(text):
            raise click.BadParameter(f"{text!r} is not a label selector, such as team=web,stage!=test", ctx, param)
        return text


class PublishedAddressType(click.ParamType[tuple[str, ...]]):
    """IPs and host names, separated by commas."""

    name = "ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(part.strip() for part in str(value).split(",") if part.strip())
        for text in found:
            try:
                ipaddress.ip_address(text)
            except ValueError:
                if not _OBJECT_NAME.fullmatch(text) or text.replace(".", "").isdigit():
                    raise click.BadParameter(f"{text!r} is neither an IP nor a host name", ctx, param) from None
        return found


class SwitchType(click.ParamType[bool]):
    name = "true|false"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        match str(value).lower():
            case "true" | "1" | "yes" | "on":
                return True
            case "false" | "0" | "no" | "off":
                return False
            case _:
                raise click.BadParameter(f"{str(value)!r} is neither true nor false", ctx, param)


class ElectionType(click.ParamType[str]):
    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not _OBJECT_NAME.fullmatch(text):
            raise click.BadParameter(f"{text!r} is not the name of a Lease", ctx, param)
        return text


class AnnotationsPrefixType(click.ParamType[str]):
    """What stands before the slash of an annotation's name: a DNS name."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not _OBJECT_NAME.fullmatch(text) or ".." in text:
            raise click.BadParameter(
                f"{text!r} is not the prefix of annotations: expected a DNS name without a slash, such as {NGINX_ANNOTATIONS}",
                ctx,
                param,
            )
        return text


class NameType(click.ParamType[str]):
    """Not empty, nothing but visible ASCII: what an API server takes as class or controller name."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not re.fullmatch(r"[!-~]{1,253}", text):
            raise click.BadParameter(f"{text!r} is not a name", ctx, param)
        return text


ADDRESS = AddressType()
SWITCH: dict[str, Any] = {
    "type": SwitchType(),
    "is_flag": False,
    "flag_value": True,
    "default": False,
    "metavar": "[=true|false]",
}
"""`--x`, `--x=true` and `--x=false`, as ingress-nginx's flags are written. Off by default."""
SWITCH_ON = SWITCH | {"default": True, "show_default": "true"}
SERVICE = ObjectType("Service")
CONFIG_MAP = ObjectType("ConfigMap")
SECRET = ObjectType("Secret")


# ---- commands -----------------------------------------------------------------------------------------------------


@click.group(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, message=f"aioingress %(version)s (Python {platform.python_version()})")
def cli() -> None:
    """HTTP Ingress controller and layer-7 reverse proxy for Kubernetes."""


@cli.command(
    context_settings=_ENVIRONMENT,
    epilog="An option given on the command line wins over its environment variable; an empty variable counts as not set. Several"
    f" addresses in a variable are separated by spaces, several paths by '{os.pathsep}'. Signals: the first SIGTERM or SIGINT stops"
    " accepting and finishes the requests under way, the second stops at once.",
)
@click.option(
    "--manifests",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    show_envvar=True,
    help="Standalone: take the objects from this file or folder of YAML manifests, watched live, instead of a cluster. Repeatable.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    show_envvar=True,
    help="Reach the cluster as this file says. Without it: the service account of the Pod, else $KUBECONFIG, else ~/.kube/config.",
)
@click.option(
    "--context", type=NameType(), show_envvar=True, help="Context of the kubeconfig; default: its current one."
)
@click.option(
    "--http-address",
    multiple=True,
    type=ADDRESS,
    default=["0.0.0.0:8080"],
    show_default=True,
    show_envvar=True,
    help="Listen for HTTP here. Repeatable.",
)
@click.option(
    "--https-address",
    multiple=True,
    type=ADDRESS,
    default=["0.0.0.0:8443"],
    show_default=True,
    show_envvar=True,
    help="Listen for HTTPS here. Repeatable.",
)
@click.option(
    "--admin-address",
    multiple=True,
    type=ADDRESS,
    default=["0.0.0.0:10254"],
    show_default=True,
    show_envvar=True,
    help="Serve health, readiness, metrics and the routing table here. Repeatable.",
)
@click.option(
    "--workers",
    type=WorkersType(),
    metavar="auto|N",
    default="auto",
    show_default=True,
    show_envvar=True,
    help="Worker processes; auto: as many as the cgroup has CPUs; 0: everything in one process.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    show_envvar=True,
    help="Format of the log and the access log.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    show_envvar=True,
    help="Least severe level that is logged.",
)
@click.option(
    "--access-log/--no-access-log",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Write a line for each request.",
)
@click.option(
    "--ingress-class",
    type=NameType(),
    show_envvar=True,
    help="Take Ingresses whose legacy annotation kubernetes.io/ingress.class has this value. In a cluster:"
    f" {DEFAULT_CLASS} by default. Standalone, with neither this nor --controller-class: no class, {DEFAULT_CLASS} and nginx.",
)
@click.option(
    "--controller-class",
    type=NameType(),
    show_envvar=True,
    help=f"Take Ingresses whose IngressClass names this controller; default: {CONTROLLER_NAME}.",
)
@click.option(
    "--take-over-nginx",
    **SWITCH,
    show_envvar=True,
    help=f"Take the Ingresses of ingress-nginx too: class {NGINX_CLASS}, controller {NGINX_CONTROLLER_NAME}.",
)
@click.option(
    "--ingress-class-by-name",
    **SWITCH,
    show_envvar=True,
    help="Take Ingresses that name the class of --ingress-class even if there is no such IngressClass, or none may be read.",
)
@click.option(
    "--watch-ingress-without-class",
    **SWITCH,
    show_envvar=True,
    help="Take Ingresses without any class too.",
)
@click.option(
    "--annotations-prefix",
    type=AnnotationsPrefixType(),
    default=NGINX_ANNOTATIONS,
    show_default=True,
    show_envvar=True,
    help="Read annotations of this prefix. Those of aioingress.io are always read, and win.",
)
@click.option(
    "--disable-catch-all",
    **SWITCH,
    show_envvar=True,
    help="Leave Ingresses with a spec.defaultBackend out.",
)
@click.option(
    "--watch-namespace",
    type=NamespaceType(),
    default="",
    show_envvar=True,
    help="Read objects of this namespace only; default: of all.",
)
@click.option(
    "--watch-namespace-selector",
    type=SelectorType(),
    default="",
    show_envvar=True,
    help="Read objects of namespaces with these labels only, such as team=web.",
)
@click.option(
    "--configmap",
    type=CONFIG_MAP,
    show_envvar=True,
    help="ConfigMap of options, under the names of ingress-nginx's; a change is in force at once. Standalone: one of the manifests.",
)
@click.option(
    "--tcp-services-configmap",
    type=CONFIG_MAP,
    show_envvar=True,
    help="ConfigMap of TCP services: ports that are relayed as they are, PORT: NAMESPACE/SERVICE:PORT[:PROXY][:PROXY].",
)
@click.option(
    "--default-ssl-certificate",
    type=SECRET,
    show_envvar=True,
    help="Secret with the certificate for hosts without one. Default: a self-signed one, made at the start.",
)
@click.option(
    "--enable-ssl-passthrough",
    **SWITCH,
    show_envvar=True,
    help="Let Ingresses ask (annotation ssl-passthrough) that TLS connections for their hosts go to the backend unopened.",
)
@click.option(
    "--update-status",
    **SWITCH_ON,
    show_envvar=True,
    help="Write our addresses to the status of Ingresses. One replica at a time does it, the leader.",
)
@click.option(
    "--update-status-on-shutdown",
    **SWITCH_ON,
    show_envvar=True,
    help="The last replica removes the addresses when it ends.",
)
@click.option(
    "--publish-service",
    type=SERVICE,
    show_envvar=True,
    help="Service in front of the controller, whose addresses are published. Without it and --publish-status-address: those of the"
    " nodes that run the controller.",
)
@click.option(
    "--publish-status-address",
    multiple=True,
    type=PublishedAddressType(),
    show_envvar=True,
    help="Publish these IPs and host names, separated by commas. Repeatable.",
)
@click.option(
    "--report-node-internal-ip-address",
    **SWITCH,
    show_envvar=True,
    help="Publish the internal addresses of nodes rather than the external ones.",
)
@click.option(
    "--election-id",
    type=ElectionType(),
    default="aioingress-leader",
    show_default=True,
    show_envvar=True,
    help="Name of the Lease by which replicas elect their leader, in the namespace of the Pod.",
)
@click.option(
    "--election-ttl",
    type=SecondsType(),
    default="30",
    show_default=True,
    show_envvar=True,
    help="A leader that hasn't renewed the Lease for so long is replaced.",
)
@click.option(
    "--disable-leader-election",
    **SWITCH,
    show_envvar=True,
    help="This replica always leads. For a single one.",
)
@click.option(
    "--events",
    **SWITCH_ON,
    show_envvar=True,
    help="Write an Event on the object for everything that was not taken as written.",
)
@click.option(
    "--default-backend-service",
    type=SERVICE,
    show_envvar=True,
    help="Service (its first port) that answers for unknown hosts and paths; without it: 404.",
)
@click.option(
    "--disable-svc-external-name",
    **SWITCH,
    show_envvar=True,
    help="Refuse Services of type ExternalName as backends.",
)
@click.option(
    "--shutdown-grace-period",
    type=SecondsType(),
    default="0",
    show_default=True,
    show_envvar=True,
    help="After the first signal, report not ready but go on accepting for so long.",
)
@click.option(
    "--drain-timeout",
    type=SecondsType(),
    default="240",
    show_default=True,
    show_envvar=True,
    help="Then wait so long for requests and tunnels under way before closing them.",
)
@click.option(
    "--middleware-path",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    show_envvar=True,
    help="Python file, or folder of them, with middlewares for Ingresses to choose. Repeatable.",
)
@click.option(
    "--allow-middleware",
    multiple=True,
    metavar="NAME",
    show_envvar=True,
    help="A middleware that every Ingress may choose, or *; others are allowed by their IngressClass. Repeatable. Default with --manifests: *.",
)
def serve(
    manifests: tuple[Path, ...],
    kubeconfig: Path | None,
    context: str | None,
    http_address: tuple[Address, ...],
    https_address: tuple[Address, ...],
    admin_address: tuple[Address, ...],
    workers: int | None,
    log_format: str,
    log_level: str,
    access_log: bool,
    ingress_class: str | None,
    controller_class: str | None,
    take_over_nginx: bool,
    ingress_class_by_name: bool,
    watch_ingress_without_class: bool,
    annotations_prefix: str,
    disable_catch_all: bool,
    watch_namespace: str,
    watch_namespace_selector: str,
    configmap: tuple[str, str] | None,
    tcp_services_configmap: tuple[str, str] | None,
    default_ssl_certificate: tuple[str, str] | None,
    enable_ssl_passthrough: bool,
    update_status: bool,
    update_status_on_shutdown: bool,
    publish_service: tuple[str, str] | None,
    publish_status_address: tuple[tuple[str, ...], ...],
    report_node_internal_ip_address: bool,
    election_id: str,
    election_ttl: float,
    disable_leader_election: bool,
    events: bool,
    default_backend_service: tuple[str, str] | None,
    disable_svc_external_name: bool,
    shutdown_grace_period: float,
    drain_timeout: float,
    middleware_path: tuple[Path, ...],
    allow_middleware: tuple[str, ...],
) -> int:
    """Run the controller and its proxy: for a Kubernetes cluster, or on a folder of manifests.

    \b
    ingress serve --publish-service ingress/aioingress-controller
    ingress serve --kubeconfig ~/.kube/config --context staging
    ingress serve --manifests ./manifests --http-address 127.0.0.1:8080 --workers 2
    """
    if manifests and (kubeconfig or context):
        raise click.UsageError("--manifests needs no cluster: leave out --kubeconfig and --context, or --manifests")
    if watch_namespace and watch_namespace_selector:
        raise click.UsageError("--watch-namespace and --watch-namespace-selector: only one of them can choose")
    if election_ttl < _ELECTION_TTL_S:
        raise click.UsageError(f"--election-ttl {election_ttl:g}: at least {_ELECTION_TTL_S:g} seconds")
    _check_listeners(http_address, https_address, admin_address)
    kube = KubeSettings(
        kubeconfig=kubeconfig,
        context=context,
        watch_namespace=watch_namespace,
        watch_namespace_selector=watch_namespace_selector,
        config_map=configmap,
        default_certificate=default_ssl_certificate,
        tcp_services=tcp_services_configmap,
        update_status=update_status,
        update_status_on_shutdown=update_status_on_shutdown,
        publish_service=publish_service,
        publish_status_addresses=tuple(address for group in publish_status_address for address in group),
        report_node_internal_ip=report_node_internal_ip_address,
        leader_election=not disable_leader_election,
        election_id=election_id,
        election_ttl_s=election_ttl,
        events=events,
        pod_name=os.environ.get("POD_NAME", ""),
        pod_namespace=os.environ.get("POD_NAMESPACE", ""),
    )
    settings = Settings(
        manifests=manifests,
        http_addresses=http_address,
        https_addresses=https_address,
        admin_addresses=admin_address,
        workers=workers,
        log_format=log_format,
        log_level=log_level,
        shutdown_grace_s=shutdown_grace_period,
        kube=None if manifests else kube,
        translate=TranslateSettings(
            classes=ClassSettings(
                ingress_class=ingress_class,
                controller_class=controller_class,
                watch_without_class=watch_ingress_without_class,
                standalone=bool(manifests),
                by_name=ingress_class_by_name,
                take_over_nginx=take_over_nginx,
            ),
            annotation_prefixes=annotation_prefixes(annotations_prefix),
            catch_all_enabled=not disable_catch_all,
            default_backend_service=default_backend_service,
            config_map=configmap,
            tcp_services=tcp_services_configmap,
            external_name_loopback=bool(manifests),
            external_name_enabled=not disable_svc_external_name,
            default_certificate=default_ssl_certificate,
            ssl_passthrough=enable_ssl_passthrough,
            allowed_middleware=allow_middleware or None,
        ),
        proxy=ProxySettings(
            drain_timeout_s=drain_timeout,
            access_log=access_log,
            middleware_paths=tuple(str(path) for path in middleware_path),
        ),
    )
    from ingress.app import (
        serve as run,
    )  # late: --help and a mistyped flag don't wait for the event loop and its libraries

    return run(settings)


@cli.command(context_settings=_ENVIRONMENT)
@click.option(
    "--http-address",
    multiple=True,
    type=ADDRESS,
    default=["127.0.0.1:8080"],
    show_default=True,
    show_envvar=True,
    help="Listen for HTTP here. Repeatable.",
)
@click.option(
    "--https-address",
    multiple=True,
    type=ADDRESS,
    default=["127.0.0.1:8443"],
    show_default=True,
    show_envvar=True,
    help="Listen for HTTPS here, with a certificate made at the start. Repeatable.",
)
@click.option(
    "--admin-address",
    multiple=True,
    type=ADDRESS,
    default=["127.0.0.1:10254"],
    show_default=True,
    show_envvar=True,
    help="Serve health, readiness, metrics and the routing table here. Repeatable.",
)
@click.option(
    "--workers",
    type=WorkersType(),
    metavar="auto|N",
    default="1",
    show_default=True,
    show_envvar=True,
    help="Worker processes; auto: as many as the cgroup has CPUs; 0: everything in one process.",
)
@click.option(
    "--manifests",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="INGRESS_DEMO_MANIFESTS",  # not that of serve: the demo writes here
    allow_from_autoenv=False,
    show_envvar=True,
    help="Write the sample manifests to this folder and leave them there to be edited; default: a temporary one.",
)
def demo(
    http_address: tuple[Address, ...],
    https_address: tuple[Address, ...],
    admin_address: tuple[Address, ...],
    workers: int | None,
    manifests: Path | None,
) -> int:
    """Run the controller on sample manifests with three echo backends, and print curl lines to try."""
    _check_listeners(http_address, https_address, admin_address)
    settings = Settings(
        http_addresses=http_address, https_addresses=https_address, admin_addresses=admin_address, workers=workers
    )
    from ingress.app import demo as run

    return run(settings, manifests)


def _check_listeners(http: tuple[Address, ...], https: tuple[Address, ...], admin: tuple[Address, ...]) -> None:
    """Raise UsageError for two listeners on one port."""
    flags = (("--http-address", http), ("--https-address", https), ("--admin-address", admin))
    named = [(flag, address) for flag, addresses in flags for address in addresses]
    for (flag, address), (other_flag, other) in combinations(named, 2):
        if address.overlaps(other):
            raise click.UsageError(f"{flag} {address} and {other_flag} {other} overlap: each needs a port of its own")


# ---- the process's entry point ------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run the command line (`sys.argv` without the program by default); returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments:
            raise click.UsageError(f"missing command: {' or '.join(sorted(cli.commands, reverse=True))}")
        code = cli.main(args=arguments, prog_name="ingress", standalone_mode=False)
    except click.UsageError as error:
        path = _command_path(error, arguments)
        return _fail(f"{path}: {_one_line(_describe(error))}; see '{path} --help'")
    except click.ClickException as error:
        return _fail(f"ingress: {_one_line(error.format_message())}")
    except IngressError as error:
        return _fail(f"ingress: {_one_line(str(error))}")
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def _command_path(error: click.UsageError, arguments: list[str]) -> str:
    """`ingress serve`. click leaves some errors of its parser without a context."""
    if error.ctx is not None:
        return error.ctx.command_path
    return f"ingress {arguments[0]}" if arguments and arguments[0] in cli.commands else "ingress"


def _describe(error: click.UsageError) -> str:
    """click's message; a bad value from the environment names the variable instead of the flag, and a flag of ingress-nginx what there is instead."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None and error.ctx.command is serve:
        instead = INSTEAD.get(error.option_name.lstrip("-"))
        if instead is not None:
            return f"no such option '{error.option_name}' (a flag of ingress-nginx): {instead}"
    if type(error) is not click.BadParameter or not isinstance(error.param, click.Option) or error.ctx is None:
        return error.format_message()
    option = error.param
    name = f"'{max(option.opts, key=len)}'"
    if error.ctx.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT:
        name = str(option.envvar or f"{error.ctx.auto_envvar_prefix}_{option.name.upper()}")
    return f"invalid value for {name}: {error.message.partition(' Recognized values')[0]}"


def _fail(line: str) -> int:
    print(line, file=sys.stderr)
    return EXIT_USAGE


def _one_line(message: str) -> str:
    """Printable, not ending in a full stop, starting in lower case unless it starts with a name or a flag."""
    text = "".join(char if char.isprintable() else " " for char in message).strip().rstrip(".")
    first, second = text[:1], text[1:2]
    return first.lower() + text[1:] if second.islower() else text
