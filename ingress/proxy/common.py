"""What follows from `ProxySettings` for every request, whatever its route: worked out once when the settings change, then only called.

Where an option asks for nothing, its slot is empty and costs a request one look.
"""

from collections.abc import Callable

from ingress import __version__
from ingress.accesslog import Format
from ingress.config import LogSettings, ProxySettings
from ingress.exchange import Exchange, ResponseHead, ResponseHook
from ingress.logtemplate import HEADER_TIME, RECEIVED, SENT, TemplateFormat
from ingress.middleware.blocks import compile_blocks
from ingress.middleware.headers import for_clients, for_endpoints
from ingress.proxy.http1 import RESPONSE_STARTS, SERVER_TOKEN, ResponseStarts, request_fields, response_fields
from ingress.textmap import compile_entries

DEFAULT_TEMPLATE = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
    " $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr"
    " $upstream_response_length $upstream_response_time $upstream_status $req_id"
)


class LogRules:
    """Which requests are logged, and what of them beside the usual."""

    __slots__ = ("default_backend", "skips", "template")

    def __init__(self, settings: LogSettings) -> None:
        self.skips = compile_entries(settings.skip_urls) if settings.skip_urls else None
        self.default_backend = settings.default_backend
        self.template: TemplateFormat | None = None  # None: that of --log-format
        if settings.format or settings.escape != "default":
            self.template = TemplateFormat(settings.format or DEFAULT_TEMPLATE, settings.escape)

    def format(self, default: Callable[[], Format]) -> Format:
        return default() if self.template is None else self.template


class Common:
    """Immutable once made; `DataPlane` makes another when settings change."""

    __slots__ = (
        "blocks",
        "log",
        "request_fields",
        "response_fields",
        "response_hooks",
        "response_starts",
        "set_fields",
        "settings",
        "started_hooks",
    )

    def __init__(self, settings: ProxySettings, clock: Callable[[], float]) -> None:
        headers = settings.headers
        self.settings = settings
        self.request_fields = request_fields(headers.underscores, headers.ignore_invalid)
        self.response_fields = response_fields(headers.hide, headers.backend_server)
        self.response_starts = RESPONSE_STARTS
        if headers.server_tokens or headers.backend_server:
            token = SERVER_TOKEN + b"/" + __version__.encode() if headers.server_tokens else SERVER_TOKEN
            self.response_starts = ResponseStarts(token, headers.backend_server)
        self.blocks = compile_blocks(settings.blocks)
        self.set_fields = for_endpoints(headers.to_endpoints, headers.original_uri)
        self.log = LogRules(settings.log)
        # Of an endpoint's response, before what its route does; and of every response, after that.
        self.started_hooks: tuple[ResponseHook, ...] = ()
        added = for_clients(headers.to_clients)
        self.response_hooks: tuple[ResponseHook, ...] = () if added is None else (added,)
        if self.log.template is not None and self.log.template.needs_heads:
            self.started_hooks = (_note_received(clock),)
            self.response_hooks += (_note_sent,)


def _note(exchange: Exchange, name: str, value: object) -> None:
    if exchange.notes is None:
        exchange.notes = {}
    exchange.notes[name] = value


def _note_received(clock: Callable[[], float]) -> ResponseHook:
    def note(exchange: Exchange, head: ResponseHead) -> None:
        _note(exchange, HEADER_TIME, clock() - exchange.started)
        _note(exchange, RECEIVED, list(head.fields))

    return note


def _note_sent(exchange: Exchange, head: ResponseHead) -> None:
    _note(exchange, SENT, list(head.fields))
