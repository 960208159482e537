"""Flags, environment and exit codes. Parses into `Settings`, calls `app`, prints errors in one line; decides nothing else.

Exit codes: 0 ok, 1 findings (of commands that look for some), 2 usage. An option's environment variable is `INGRESS_` and
the option's name; the command line wins. Kubernetes injects `INGRESS_PORT`, `INGRESS_SERVICE_HOST`,
`INGRESS_SERVICE_PORT...` into every Pod beside a Service named `ingress`, so no option may be called `--port` or
`--service-...`.
"""

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
    Address,
    ClassSettings,
    ProxySettings,
    Settings,
    TranslateSettings,
)
from ingress.errors import ConfigError, IngressError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_WORKERS_LIMIT = 1024
_SECONDS_LIMIT = 86400.0
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
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
    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= _SECONDS_LIMIT:  # nan fails too
            raise click.BadParameter(
                f"{str(value)!r} is not a number of seconds from 0 to {_SECONDS_LIMIT:.0f}", ctx, param
            )
        return seconds


class ServiceType(click.ParamType[tuple[str, str]]):
    name = "NAMESPACE/NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        namespace, _, name = str(value).partition("/")
        if not _OBJECT_NAME.fullmatch(namespace) or not _OBJECT_NAME.fullmatch(name):
            raise click.BadParameter(
                f"{str(value)!r} is not a Service: expected NAMESPACE/NAME, such as default/web", ctx, param
            )
        return namespace, name


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
    help="File or folder of YAML manifests, watched live; no cluster is needed. Repeatable.",
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
    help="Listen for HTTPS here. Accepted, but not listened on yet: TLS is still to come. Repeatable.",
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
    help="Take Ingresses whose legacy annotation kubernetes.io/ingress.class has this value. With neither this nor"
    f" --controller-class: no class, {DEFAULT_CLASS} and nginx.",
)
@click.option(
    "--controller-class",
    type=NameType(),
    show_envvar=True,
    help=f"Take Ingresses whose IngressClass names this controller, such as {CONTROLLER_NAME}.",
)
@click.option(
    "--watch-ingress-without-class",
    **SWITCH,
    show_envvar=True,
    help="Take Ingresses without any class too.",
)
@click.option(
    "--default-backend-service",
    type=ServiceType(),
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
def serve(
    manifests: tuple[Path, ...],
    http_address: tuple[Address, ...],
    https_address: tuple[Address, ...],
    admin_address: tuple[Address, ...],
    workers: int | None,
    log_format: str,
    log_level: str,
    access_log: bool,
    ingress_class: str | None,
    controller_class: str | None,
    watch_ingress_without_class: bool,
    default_backend_service: tuple[str, str] | None,
    disable_svc_external_name: bool,
    shutdown_grace_period: float,
    drain_timeout: float,
) -> int:
    """Run the controller and its proxy on a folder of manifests.

    \b
    ingress serve --manifests ./manifests
    ingress serve --manifests ./manifests --http-address 127.0.0.1:8080 --workers 2
    """
    if not manifests:
        raise click.UsageError("missing option '--manifests': reading from a Kubernetes cluster is not available yet")
    _check_listeners(http_address, admin_address)
    settings = Settings(
        manifests=manifests,
        http_addresses=http_address,
        https_addresses=https_address,
        admin_addresses=admin_address,
        workers=workers,
        log_format=log_format,
        log_level=log_level,
        shutdown_grace_s=shutdown_grace_period,
        translate=TranslateSettings(
            classes=ClassSettings(
                ingress_class=ingress_class,
                controller_class=controller_class,
                watch_without_class=watch_ingress_without_class,
            ),
            default_backend_service=default_backend_service,
            external_name_enabled=not disable_svc_external_name,
        ),
        proxy=ProxySettings(drain_timeout_s=drain_timeout, access_log=access_log),
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
    admin_address: tuple[Address, ...],
    workers: int | None,
    manifests: Path | None,
) -> int:
    """Run the controller on sample manifests with three echo backends, and print curl lines to try."""
    _check_listeners(http_address, admin_address)
    settings = Settings(http_addresses=http_address, https_addresses=(), admin_addresses=admin_address, workers=workers)
    from ingress.app import demo as run

    return run(settings, manifests)


def _check_listeners(http: tuple[Address, ...], admin: tuple[Address, ...]) -> None:
    """Raise UsageError for two listeners on one port."""
    named = [("--http-address", address) for address in http] + [("--admin-address", address) for address in admin]
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
    """click's message; a bad value from the environment names the variable instead of the flag."""
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
