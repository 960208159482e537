"""Header fields, and who is turned away because of one."""

from collections.abc import Callable
from typing import Any

from ingress.translate.annotations.values import boolean, count
from ingress.translate.options import values
from ingress.translate.options.keys.base import EMPTY_OR_OFF, Key, differs, no_effect, refused, same

_LIVE = "tests/proxy/test_options_headers.py::"
_BLOCK = "tests/proxy/test_options_blocks.py::"
_RE2 = "regular expressions are RE2's (no look-around); a bad entry is left out, and the list before it stays in force as well"
_OURS = "ingress-nginx has no such option"


def _codec(name: str, default: str, parse: Callable[[str], Any], example: str, note: str = "") -> Key:
    """Several make one field: `parse.compression`."""
    return same(name, default, "", parse, example, note=note, needs="compression")


KEYS = (
    differs(
        "server-tokens",
        "false",
        "proxy.headers.server_tokens",
        boolean,
        "true",
        "off: `Server: aioingress` instead of no field; on: with our version",
        _LIVE + "test_server_tokens",
    ),
    same(
        "allow-backend-server-header",
        "false",
        "proxy.headers.backend_server",
        boolean,
        "true",
        _LIVE + "test_server_of_the_endpoint",
    ),
    same("hide-headers", "", "proxy.headers.hide", values.field_names, "X-Powered-By", _LIVE + "test_hidden_fields"),
    differs(
        "proxy-set-headers",
        "",
        "proxy.headers.to_endpoints",
        values.config_map_name,
        "edge/to-endpoints",
        "replaces the fields of that name, ours about the client included (nginx sends both); those that frame a message can't be set",
        _LIVE + "test_fields_for_endpoints",
        reference=True,
    ),
    same(
        "add-headers",
        "",
        "proxy.headers.to_clients",
        values.config_map_name,
        "edge/to-clients",
        _LIVE + "test_fields_for_clients",
        "replaces the fields of that name, on every response",
        reference=True,
    ),
    same(
        "generate-request-id",
        "true",
        "proxy.headers.generate_request_id",
        boolean,
        "false",
        _LIVE + "test_request_ids_are_not_made_up",
    ),
    same(
        "enable-underscores-in-headers",
        "false",
        "proxy.headers.underscores",
        boolean,
        "true",
        _LIVE + "test_underscores_of_new_connections",
        "applied to connections accepted from then on",
    ),
    same(
        "ignore-invalid-headers",
        "true",
        "proxy.headers.ignore_invalid",
        boolean,
        "false",
        _LIVE + "test_invalid_names_of_new_connections",
        "applied to connections accepted from then on",
    ),
    same(
        "proxy-add-original-uri-header",
        "false",
        "proxy.headers.original_uri",
        boolean,
        "true",
        _LIVE + "test_original_uri",
    ),
    same(
        "global-allowed-response-headers",
        "",
        "allowed_response_headers",
        values.field_names,
        "X-Frame-Options",
        note="what the annotation `custom-headers` may set",
    ),
    # ---- who is turned away
    same(
        "block-cidrs",
        "",
        "proxy.blocks.networks",
        values.networks,
        "192.0.2.0/24",
        _BLOCK + "test_networks",
        "403; a bad entry is left out, and the list before it stays in force as well",
        strict=True,
    ),
    differs(
        "block-user-agents",
        "",
        "proxy.blocks.user_agents",
        values.map_entries,
        "~*bot",
        _RE2,
        _BLOCK + "test_user_agents",
        strict=True,
    ),
    differs(
        "block-referers",
        "",
        "proxy.blocks.referers",
        values.map_entries,
        "~*spam",
        _RE2,
        _BLOCK + "test_referers",
        strict=True,
    ),
    # ---- who the client is
    same("use-forwarded-headers", "false", "proxy.client.forwarded_headers", boolean, "true"),
    same("compute-full-forwarded-for", "false", "proxy.client.full_forwarded_for", boolean, "true"),
    same("forwarded-for-header", "X-Forwarded-For", "proxy.client.forwarded_for_header", values.field_name, "X-Client"),
    same("enable-real-ip", "false", "proxy.client.real_ip", boolean, "true"),
    same(
        "proxy-real-ip-cidr",
        "0.0.0.0/0",
        "proxy.client.trusted_networks",
        values.networks,
        "192.0.2.0/24",
        note="a bad entry is left out; with none left, nobody is trusted",
    ),
    same("use-proxy-protocol", "false", "proxy.client.proxy_protocol", boolean, "true"),
    same("proxy-protocol-header-timeout", "5s", "proxy.client.proxy_protocol_timeout_s", values.go_duration_s, "1m30s"),
    no_effect(
        "forwarded-for-proxy-protocol-header",
        "X-Forwarded-For-Proxy-Protocol",
        "an inner detail of nginx's configuration",
    ),
    refused(
        "forwarded-host-header",
        "X-Forwarded-Host",
        "`X-Forwarded-Host` is what moves to `X-Original-Forwarded-Host`",
        frozenset(("", "x-forwarded-host")),
    ),
    # ---- bodies of responses
    _codec("use-gzip", "false", boolean, "true"),
    _codec("gzip-level", "1", values.level(1, 9), "5"),
    _codec("gzip-min-length", "256", values.level(0, 1 << 30), "1000"),
    _codec("gzip-types", "", values.words, "text/plain"),
    same("gzip-disable", "", "compression.gzip_disable", values.text, "msie6"),
    _codec("enable-brotli", "false", boolean, "true"),
    _codec("brotli-level", "4", values.level(0, 11), "6"),
    _codec("brotli-min-length", "20", values.level(0, 1 << 30), "1000"),
    _codec("brotli-types", "", values.words, "text/plain"),
    _codec("enable-zstd", "false", boolean, "true", _OURS),
    _codec("zstd-level", "3", values.level(1, 19), "6", _OURS),
    _codec("zstd-min-length", "256", values.level(0, 1 << 30), "1000", _OURS),
    _codec("zstd-types", "", values.words, "text/plain", _OURS),
    same("custom-http-errors", "", "custom_http_errors", values.error_codes, "404,503"),
    same("disable-proxy-intercept-errors", "false", "disable_proxy_intercept_errors", boolean, "true"),
    same("proxy-cookie-domain", "off", "proxy_cookie_domain", values.off_or_pair, "a.example b.example"),
    same("proxy-cookie-path", "off", "proxy_cookie_path", values.off_or_pair, "/a /b"),
    same("proxy-redirect-from", "off", "proxy_redirect_from", values.text, "http://a.example/"),
    same("proxy-redirect-to", "off", "proxy_redirect_to", values.text, "http://b.example/"),
    same("limit-rate", "0", "limit_rate_kb", count, "100", note="KiB a second of each response"),
    same(
        "limit-rate-after",
        "0",
        "limit_rate_after_kb",
        count,
        "100",
        note="KiB of each response that are not slowed down",
    ),
    same("limit-req-status-code", "503", "limit_req_status", values.status_code, "429"),
    same("limit-conn-status-code", "503", "limit_conn_status", values.status_code, "429"),
    refused(
        "limit-conn-zone-variable",
        "$binary_remote_addr",
        "limits are per client address",
        frozenset(("", "$binary_remote_addr")),
    ),
    no_effect("default-type", "text/html", "a response without Content-Type is passed on without one"),
    refused(
        "app-root",
        "",
        "set the annotation on the Ingresses that need it: ingress-nginx has it among the options by mistake",
        EMPTY_OR_OFF,
    ),
)
