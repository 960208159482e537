"""Every annotation of ingress-nginx 1.15.1: what becomes of it here, its default, and the test that proves it. docs/annotations.md is made from this.

Not read while translating: the parsers are. tests/translate/test_catalog.py holds this against them, so that it can't be out of date.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Status(enum.StrEnum):
    SAME = "same"
    DIFFERS = "differs"
    NO_EFFECT = "no effect"  # accepted: there is nothing for it to do
    REFUSED = "refused"  # a verdict says what to do instead


@dataclass(frozen=True, slots=True)
class Row:
    """`test` is `file::function`; `note` says how it differs, or what to do instead."""

    name: str
    default: str
    test: str
    note: str = ""
    status: Status = Status.SAME


def _group(test: str, *rows: tuple[str, ...]) -> tuple[Row, ...]:
    """Rows that the same file proves: (name, default, function[, note[, status]])."""
    made = []
    for name, default, function, *rest in rows:
        note = rest[0] if rest else ""
        status = Status(rest[1]) if len(rest) > 1 else (Status.DIFFERS if note else Status.SAME)
        file, _, last = function.rpartition("::")
        made.append(Row(name, default, f"{file or test}::test_{last}", note, status))
    return tuple(made)


_SAME, _NONE, _REFUSED = "same", "no effect", "refused"
_RE2 = "expressions run in linear time (RE2): look-around and back-references are a verdict"
_STREAMED = "bodies are streamed: there is no buffer to size"
_SNIPPET = "raw nginx configuration is never run; one that restricts access closes the routes of its Ingress. Write a [middleware](middleware.md)"
_WAF = "there is no web application firewall: the routes of the Ingress are closed (503), because they were to be protected"

_T = "tests/translate/test_annotations.py"
_REDIRECTS = "tests/middleware/test_redirects.py"
_REWRITE = "tests/middleware/test_rewrite.py"
_DERIVED = "tests/translate/test_derived.py"
_TLS_ASK = "tests/translate/tls/test_ask.py"
_TLS_REDIRECT = "tests/middleware/test_tls_redirect.py"
_EXTERNAL = "tests/middleware/test_external_auth.py"
_BASIC = "tests/middleware/test_basic_auth.py"
_UPSTREAM_TLS = "tests/proxy/test_upstream_tls.py"
_PROTOCOL = "tests/translate/test_backend_protocol.py"
_CANARY = "tests/proxy/test_canary.py"
_LIMIT = "tests/middleware/test_rate_limit.py"
_CORS = "tests/middleware/test_cors.py"
_FAULTS = "tests/proxy/test_faults.py"
_BUFFERING = "tests/proxy/test_request_buffering.py"

GROUPS: dict[str, tuple[Row, ...]] = {
    "Routing": (
        *_group(
            "tests/translate/test_regex_mode.py",
            ("use-regex", "false", "it_agrees_with_a_naive_matcher", _RE2),
        ),
        *_group(
            _REWRITE,
            ("rewrite-target", "", "groups", f"{_RE2}; the result is sent in normal form"),
            ("x-forwarded-prefix", "", "forwarded_prefix"),
        ),
        *_group(
            _REDIRECTS,
            ("app-root", "", "app_root"),
            ("permanent-redirect", "", "redirects"),
            ("permanent-redirect-code", "301", "bad_details_leave_the_default"),
            ("temporal-redirect", "", "redirects"),
            ("temporal-redirect-code", "302", "bad_details_leave_the_default"),
            ("relative-redirects", "false", "redirects"),
            (
                "from-to-www-redirect",
                "false",
                "the_twin_of_a_host",
                "a wildcard host has no twin, and a verdict says so",
            ),
            (
                "use-port-in-redirects",
                "false",
                "redirects",
                "the port is the one that the client used: that of the container is another",
            ),
        ),
        *_group(
            _DERIVED, ("server-alias", "", "the_oldest_ingress_has_the_alias", f"a wildcard covers one label; {_RE2}")
        ),
        *_group("tests/middleware/test_upstream_vhost.py", ("upstream-vhost", "", "the_host_that_the_endpoint_gets")),
        *_group(_PROTOCOL, ("service-upstream", "false", "service_upstream")),
        *_group(
            "tests/middleware/test_default_backend.py",
            ("default-backend", "", "standing_in_for_a_service_without_endpoints"),
        ),
    ),
    "TLS towards clients": (
        *_group(
            _TLS_REDIRECT,
            ("ssl-redirect", "true", "redirects"),
            ("force-ssl-redirect", "false", "redirects"),
            ("preserve-trailing-slash", "false", "a_trailing_slash_may_stay"),
        ),
        *_group(
            _TLS_ASK,
            ("ssl-passthrough", "false", "passthrough"),
            ("ssl-ciphers", "", "ciphers"),
            ("ssl-prefer-server-ciphers", "true", "ciphers"),
            ("auth-tls-secret", "", "client_certificates"),
            ("auth-tls-verify-depth", "1", "details"),
        ),
        *_group(
            "tests/middleware/test_client_certificate.py",
            ("auth-tls-verify-client", "on", "verify"),
            ("auth-tls-pass-certificate-to-upstream", "false", "the_certificate_goes_along_when_asked_for"),
            ("auth-tls-error-page", "", "error_page"),
            ("auth-tls-match-cn", "", "the_name_is_searched_for", _RE2),
        ),
    ),
    "Sessions and balancing": (
        *_group(
            _T,
            ("affinity", "", "cookie_affinity"),
            ("affinity-mode", "balanced", "cookie_affinity"),
            ("session-cookie-name", "INGRESSCOOKIE", "cookie_affinity"),
            ("session-cookie-path", "path of the rule", "cookie_affinity"),
            ("session-cookie-domain", "", "cookie_affinity"),
            ("session-cookie-samesite", "", "cookie_affinity"),
            ("session-cookie-expires", "", "cookie_affinity"),
            ("session-cookie-max-age", "", "cookie_affinity"),
            ("session-cookie-change-on-failure", "false", "cookie_affinity"),
            ("load-balance", "round_robin", "load_balance", "least_request may be chosen too"),
            ("upstream-hash-by", "", "hash_by"),
        ),
        *_group(
            "tests/affinity/test_cookie.py",
            ("session-cookie-secure", "as the request", "secure_follows_the_request_unless_said_otherwise"),
        ),
        *_group("tests/affinity/test_same_site.py", ("session-cookie-conditional-samesite-none", "false", "browsers")),
        *_group(
            "tests/balancing/test_hash_subset.py",
            ("upstream-hash-by-subset", "false", "a_key_has_a_few_endpoints"),
            ("upstream-hash-by-subset-size", "3", "a_key_has_a_few_endpoints"),
        ),
    ),
    "Canaries": _group(
        _CANARY,
        (
            "canary",
            "false",
            "tests/translate/test_canaries.py::everything_else_is_inherited",
            "several canaries may share a path: ingress-nginx takes one",
        ),
        ("canary-by-header", "", "rules"),
        ("canary-by-header-value", "", "rules"),
        ("canary-by-header-pattern", "", "rules", _RE2),
        ("canary-by-cookie", "", "rules"),
        ("canary-weight", "0", "weights_are_shares"),
        ("canary-weight-total", "100", "weights_are_shares"),
        ("affinity-canary-behavior", "sticky", "sessions_stay_on_their_side"),
    ),
    "External authentication": _group(
        _EXTERNAL,
        ("auth-url", "", "the_sub_request"),
        ("auth-method", "GET", "method_headers_and_redirect_as_asked"),
        ("auth-signin", "", "who_is_not_signed_in_is_redirected"),
        ("auth-signin-redirect-param", "rd", "who_is_not_signed_in_is_redirected"),
        ("auth-response-headers", "", "response_headers_come_from_the_service_alone"),
        ("auth-proxy-set-headers", "", "method_headers_and_redirect_as_asked"),
        ("auth-request-redirect", "URI of the request", "method_headers_and_redirect_as_asked"),
        ("auth-always-set-cookie", "false", "cookies_come_with_the_redirect_but_not_with_a_refusal"),
        ("auth-cache-key", "", "a_hit_asks_nobody_and_does_not_wait"),
        ("auth-cache-duration", "200 202 401 5m", "tests/middleware/test_auth_cache.py::lifetime"),
        (
            "auth-keepalive",
            "0",
            "defaults",
            "connections to the service are kept and bounded by the proxy itself",
            _NONE,
        ),
        ("auth-keepalive-requests", "1000", "defaults", "as auth-keepalive", _NONE),
        ("auth-keepalive-timeout", "60", "defaults", "as auth-keepalive", _NONE),
        ("auth-keepalive-share-vars", "false", "defaults", "there are no variables of nginx to share", _NONE),
        ("auth-snippet", "", "what_closes", f"{_SNIPPET}", _REFUSED),
        ("enable-global-auth", "true", "options_are_for_ingresses_without_their_own"),
    ),
    "Basic authentication and address lists": (
        *_group(
            _BASIC,
            ("auth-type", "", "what_closes", "basic; digest is refused, and closes the routes"),
            ("auth-secret", "", "a_file"),
            ("auth-secret-type", "auth-file", "a_map"),
            ("auth-realm", "", "the_challenge_cannot_be_broken_out_of"),
        ),
        *_group("tests/middleware/test_satisfy.py", ("satisfy", "all", "as_nginx")),
        *_group(
            "tests/middleware/test_ip_access.py",
            ("whitelist-source-range", "", "both_names_of_the_allow_list"),
            ("allowlist-source-range", "", "both_names_of_the_allow_list"),
            ("denylist-source-range", "", "deny_goes_before_allow"),
        ),
    ),
    "TLS and protocol towards endpoints": (
        *_group(
            _PROTOCOL,
            (
                "backend-protocol",
                "HTTP",
                "protocols",
                "HTTP, HTTPS and AUTO_HTTP; GRPC and GRPCS are answered with 502, FCGI closes the routes",
            ),
        ),
        *_group(
            _UPSTREAM_TLS,
            ("proxy-ssl-secret", "", "client_certificate"),
            ("proxy-ssl-verify", "off", "verification"),
            ("proxy-ssl-verify-depth", "1", "depth"),
            ("proxy-ssl-name", "", "server_name_indication"),
            ("proxy-ssl-server-name", "off", "server_name_indication"),
            ("proxy-ssl-ciphers", "DEFAULT", "ciphers"),
            ("proxy-ssl-protocols", "TLSv1.2 TLSv1.3", "protocols"),
        ),
        *_group(
            _BUFFERING,
            ("proxy-http-version", "1.1", "http_1_0"),
            ("connection-proxy-header", "", "connection_header"),
        ),
        *_group(
            _T,
            (
                "fastcgi-index",
                "",
                "what_is_not_supported_is_said_and_served_without",
                "FastCGI is not spoken: put a server that speaks HTTP before it",
                _REFUSED,
            ),
            (
                "fastcgi-params-configmap",
                "",
                "what_is_not_supported_is_said_and_served_without",
                "as fastcgi-index",
                _REFUSED,
            ),
        ),
    ),
    "Limits": (
        *_group(
            _LIMIT,
            ("limit-rps", "0", "rates"),
            ("limit-rpm", "0", "rates"),
            ("limit-burst-multiplier", "5", "rates"),
            ("limit-connections", "0", "connections_are_requests_under_way"),
            ("limit-allowlist", "", "who_is_exempt_and_what_others_get"),
            ("limit-whitelist", "", "the_old_spelling_of_the_allowlist"),
        ),
        *_group(
            "tests/middleware/test_limit_rate.py",
            ("limit-rate", "0", "the_schedule"),
            ("limit-rate-after", "0", "the_schedule"),
        ),
        *_group(
            _T,
            *(
                (
                    name,
                    "",
                    "what_is_not_supported_is_said_and_served_without",
                    "gone from ingress-nginx since 1.12: limit-rps counts a replica's requests",
                    _REFUSED,
                )
                for name in (
                    "global-rate-limit",
                    "global-rate-limit-window",
                    "global-rate-limit-key",
                    "global-rate-limit-ignored-cidrs",
                )
            ),
        ),
    ),
    "CORS": _group(
        _CORS,
        ("enable-cors", "false", "preflight"),
        ("cors-allow-origin", "*", "origins"),
        ("cors-allow-methods", "GET, PUT, POST, DELETE, PATCH, OPTIONS", "all_settings"),
        (
            "cors-allow-headers",
            "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
            "all_settings",
        ),
        ("cors-allow-credentials", "true", "all_settings"),
        ("cors-expose-headers", "", "all_settings"),
        ("cors-max-age", "1728000", "all_settings"),
    ),
    "Time-outs, retries, bodies": (
        *_group(
            "tests/proxy/test_timeouts.py",
            ("proxy-read-timeout", "60", "read_timeout_is_between_two_reads"),
            ("proxy-send-timeout", "60", "send_timeout"),
        ),
        *_group(
            _FAULTS,
            ("proxy-connect-timeout", "5", "connect_timeout"),
            ("proxy-next-upstream", "error timeout", "retries_can_be_turned_off"),
            ("proxy-next-upstream-tries", "3", "no_more_than_three_tries", "a refused connection is not a try"),
            ("proxy-next-upstream-timeout", "0", "no_retry_after_the_time_for_retries"),
        ),
        *_group(
            _BUFFERING,
            ("proxy-body-size", "1m", "a_limit_is_kept_while_waiting"),
            (
                "proxy-request-buffering",
                "on",
                "a_slow_client_occupies_no_endpoint",
                "bodies longer than the buffer are streamed: nothing is written to disk",
            ),
            ("client-body-buffer-size", "8k", "the_bound_of_a_route"),
        ),
        *_group(
            _T,
            *(
                (name, default, "what_has_nothing_to_do_here_is_accepted", _STREAMED, _NONE)
                for name, default in (
                    ("proxy-buffering", "off"),
                    ("proxy-buffer-size", "4k"),
                    ("proxy-buffers-number", "4"),
                    ("proxy-busy-buffers-size", ""),
                    ("proxy-max-temp-file-size", "1024m"),
                )
            ),
        ),
        *_group(
            "tests/middleware/test_rewriting.py",
            ("proxy-cookie-domain", "off", "cookie_domain", _RE2),
            ("proxy-cookie-path", "off", "cookie_path", _RE2),
            ("proxy-redirect-from", "off", "redirects", _RE2),
            ("proxy-redirect-to", "off", "redirects"),
        ),
    ),
    "Errors, headers, mirrors, logs": (
        *_group(
            "tests/middleware/test_default_backend.py",
            ("custom-http-errors", "", "an_error_of_an_endpoint"),
            ("disable-proxy-intercept-errors", "false", "switched_off"),
        ),
        *_group("tests/middleware/test_headers.py", ("custom-headers", "", "headers_of_a_config_map")),
        *_group(
            "tests/middleware/test_mirror.py",
            (
                "mirror-target",
                "",
                "a_copy_of_a_request",
                "a slow mirror never slows the request: what it can't take is dropped and counted",
            ),
            ("mirror-host", "", "a_copy_of_a_request"),
            ("mirror-request-body", "on", "bodies"),
        ),
        *_group("tests/proxy/test_options_log.py", ("enable-access-log", "true", "one_route_is_not_logged")),
        *_group(
            _T,
            (
                "enable-rewrite-log",
                "false",
                "what_is_not_supported_is_said_and_served_without",
                "there is no such log; `/debug/table` shows the rewrites",
                _REFUSED,
            ),
            (
                "enable-opentelemetry",
                "",
                "what_is_not_supported_is_said_and_served_without",
                "requests are not traced",
                _REFUSED,
            ),
            (
                "opentelemetry-trust-incoming-span",
                "true",
                "what_is_not_supported_is_said_and_served_without",
                "as enable-opentelemetry",
                _REFUSED,
            ),
            (
                "opentelemetry-operation-name",
                "",
                "what_is_not_supported_is_said_and_served_without",
                "as enable-opentelemetry",
                _REFUSED,
            ),
            (
                "http2-push-preload",
                "false",
                "what_has_nothing_to_do_here_is_accepted",
                "no browser takes pushed responses any more",
                _NONE,
            ),
        ),
    ),
    "Web application firewall and snippets": _group(
        _T,
        ("enable-modsecurity", "false", "access_rules_close_the_routes_of_their_ingress", _WAF, _REFUSED),
        ("enable-owasp-core-rules", "false", "access_rules_close_the_routes_of_their_ingress", _WAF, _REFUSED),
        ("modsecurity-transaction-id", "", "access_rules_close_the_routes_of_their_ingress", _WAF, _REFUSED),
        ("modsecurity-snippet", "", "access_rules_close_the_routes_of_their_ingress", _WAF, _REFUSED),
        ("configuration-snippet", "", "snippets_that_restrict_access_close_the_routes", _SNIPPET, _REFUSED),
        ("server-snippet", "", "snippets_that_restrict_access_close_the_routes", _SNIPPET, _REFUSED),
        ("stream-snippet", "", "snippets_that_restrict_access_close_the_routes", _SNIPPET, _REFUSED),
    ),
    "Never were annotations of ingress-nginx, but often seen": _group(
        _T,
        *(
            (name, "", "what_ingress_nginx_ignores_too", note, _NONE)
            for name, note in (
                ("secure-backends", 'ingress-nginx ignores it too: backend-protocol: "HTTPS"'),
                ("enable-websockets", "ingress-nginx ignores it too: WebSockets need nothing"),
                ("websocket-services", "ingress-nginx ignores it too: WebSockets need nothing"),
                ("session-cookie-hash", "ingress-nginx ignores it too"),
                ("client-max-body-size", "ingress-nginx ignores it too: proxy-body-size"),
                ("proxy-pass-headers", "ingress-nginx ignores it too"),
                ("use-forwarded-headers", "ingress-nginx ignores it too: it is an [option](options.md)"),
                ("large-client-header-buffers", "ingress-nginx ignores it too: it is an [option](options.md)"),
                ("add-base-url", "ingress-nginx ignores it too"),
                ("grpc-backend", "ingress-nginx ignores it too"),
            )
        ),
    ),
}


def rows() -> Iterator[Row]:
    for group in GROUPS.values():
        yield from group
