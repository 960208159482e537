"""Header fields, and who is turned away because of one."""

from ingress.translate.annotations.values import boolean
from ingress.translate.options import values
from ingress.translate.options.keys.base import EMPTY_OR_OFF, differs, no_effect, refused, same

_LIVE = "tests/proxy/test_options_headers.py::"
_BLOCK = "tests/proxy/test_options_blocks.py::"
_RE2 = "regular expressions are RE2's (no look-around); a bad entry is left out, and the list before it stays in force as well"

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
    same(
        "proxy-protocol-header-timeout", "5s", "proxy.client.proxy_protocol_timeout_s", values.go_duration_s, "1m30s"
    ),
    no_effect(
        "forwarded-for-proxy-protocol-header", "X-Forwarded-For-Proxy-Protocol", "an inner detail of nginx's configuration"
    ),
    refused(
        "forwarded-host-header",
        "X-Forwarded-Host",
        "`X-Forwarded-Host` is what moves to `X-Original-Forwarded-Host`",
        frozenset(("", "x-forwarded-host")),
    ),
    # ---- bodies of responses
    same("use-gzip", "false", "gzip.enabled", boolean, "true"),
    same("gzip-level", "1", "gzip.level", values.level(1, 9), "5"),
    same("gzip-min-length", "256", "gzip.min_length", values.level(0, 1 << 30), "1000"),
    same("gzip-types", "", "gzip.types", values.words, "text/plain"),
    refused("gzip-disable", "", "every client that accepts gzip gets it"),
    same("enable-brotli", "false", "brotli.enabled", boolean, "true"),
    same("brotli-level", "4", "brotli.level", values.level(0, 11), "6"),
    same("brotli-min-length", "20", "brotli.min_length", values.level(0, 1 << 30), "1000"),
    same("brotli-types", "", "brotli.types", values.words, "text/plain"),
    same("custom-http-errors", "", "custom_http_errors", values.error_codes, "404,503"),
    same("disable-proxy-intercept-errors", "false", "disable_proxy_intercept_errors", boolean, "true"),
    refused(
        "proxy-cookie-domain", "off", "set the annotation on the Ingresses that need it", frozenset(("", "off"))
    ),
    refused("proxy-cookie-path", "off", "set the annotation on the Ingresses that need it", frozenset(("", "off"))),
    refused("proxy-redirect-from", "off", "set the annotation on the Ingresses that need it", frozenset(("", "off"))),
    refused("proxy-redirect-to", "off", "set the annotation on the Ingresses that need it", frozenset(("", "off"))),
    refused("limit-rate", "0", "set the annotation on the Ingresses that need it", frozenset(("", "0"))),
    refused("limit-rate-after", "0", "set the annotation on the Ingresses that need it", frozenset(("", "0"))),
    same("limit-req-status-code", "503", "limit_req_status", values.status_code, "429"),
    same("limit-conn-status-code", "503", "limit_conn_status", values.status_code, "429"),
    refused("limit-conn-zone-variable", "$binary_remote_addr", "limits are per client address", frozenset(("", "$binary_remote_addr"))),
    no_effect("default-type", "text/html", "a response without Content-Type is passed on without one"),
    refused(
        "app-root", "", "set the annotation on the Ingresses that need it: ingress-nginx has it among the options by mistake", EMPTY_OR_OFF
    ),
)
