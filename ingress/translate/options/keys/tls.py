"""TLS towards clients, redirects to it, and the protocols above it."""

from ingress.translate.annotations.values import boolean, count
from ingress.translate.ciphers import parse_ciphers
from ingress.translate.options import values
from ingress.translate.options.keys.base import EMPTY_OR_OFF, EMPTY_OR_ON, no_effect, refused, same

_LIVE = "tests/proxy/test_options_tls.py::"
_STREAM = "tests/proxy/test_streams.py::"
_NEW = "applied to connections accepted from then on"

KEYS = (
    same(
        "ssl-protocols",
        "TLSv1.2 TLSv1.3",
        "proxy.tls.protocols",
        values.protocols,
        "TLSv1.3",
        _LIVE + "test_protocols",
        _NEW,
    ),
    same(
        "ssl-ciphers",
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384",
        "proxy.tls.ciphers",
        parse_ciphers,
        "ECDHE-RSA-AES128-GCM-SHA256",
        _LIVE + "test_ciphers",
        "of TLS 1.2 and older; " + _NEW,
    ),
    same(
        "ssl-session-tickets",
        "false",
        "proxy.tls.session_tickets",
        boolean,
        "true",
        _LIVE + "test_settings_of_sessions_are_taken",
        _NEW,
    ),
    same(
        "ssl-session-timeout",
        "10m",
        "proxy.tls.session_timeout_s",
        values.nginx_time_s,
        "5m",
        _LIVE + "test_settings_of_sessions_are_taken",
        _NEW,
    ),
    same(
        "ssl-reject-handshake",
        "false",
        "proxy.tls.reject_unknown_hosts",
        boolean,
        "true",
        _LIVE + "test_unknown_hosts_are_refused",
    ),
    refused(
        "ssl-session-cache",
        "true",
        "each worker keeps sessions of its own; the cache can't be switched off",
        EMPTY_OR_ON,
    ),
    no_effect("ssl-session-cache-size", "10m", "OpenSSL's default size is in force"),
    refused("ssl-session-ticket-key", "", "each worker makes a key of its own: leave session tickets off to be safe"),
    refused("ssl-dh-param", "", "there are no parameters for DHE, so its suites are never chosen"),
    no_effect("ssl-ecdh-curve", "auto", "OpenSSL chooses"),
    refused("ssl-early-data", "false", "early data can be replayed: it is never accepted", EMPTY_OR_OFF),
    no_effect("ssl-buffer-size", "4k", "OpenSSL's records are as large as what is written"),
    refused("enable-ocsp", "false", "OCSP responses are not stapled", EMPTY_OR_OFF),
    no_effect("proxy-ssl-location-only", "false", "`proxy-ssl-*` always acts on the routes of its own Ingress only"),
    # ---- redirects and HSTS
    same("ssl-redirect", "true", "ssl_redirect", boolean, "false"),
    same("force-ssl-redirect", "false", "force_ssl_redirect", boolean, "true"),
    same("http-redirect-code", "308", "http_redirect_code", values.redirect_code, "301"),
    same(
        "no-tls-redirect-locations", "/.well-known/acme-challenge", "no_tls_redirect_locations", values.items, "/open"
    ),
    same("preserve-trailing-slash", "false", "preserve_trailing_slash", boolean, "true"),
    same("use-port-in-redirects", "false", "use_port_in_redirects", boolean, "true"),
    same(
        "relative-redirects",
        "false",
        "relative_redirects",
        boolean,
        "true",
        "tests/translate/test_option_effects.py::test_redirects_of_annotations_by_option",
    ),
    same("hsts", "true", "hsts", boolean, "false"),
    same("hsts-max-age", "31536000", "hsts_max_age_s", count, "600"),
    same("hsts-include-subdomains", "true", "hsts_include_subdomains", boolean, "false"),
    same("hsts-preload", "false", "hsts_preload", boolean, "true"),
    # ---- HTTP/2
    refused("use-http2", "true", "HTTP/2 is not spoken yet", EMPTY_OR_ON | EMPTY_OR_OFF),
    no_effect("http2-max-concurrent-streams", "128", "HTTP/2 is not spoken yet"),
    no_effect(
        "http2-max-field-size", "", "large-client-header-buffers is what bounds header fields, in ingress-nginx too"
    ),
    no_effect(
        "http2-max-header-size", "", "large-client-header-buffers is what bounds header fields, in ingress-nginx too"
    ),
    no_effect("http2-max-requests", "0", "keep-alive-requests is what bounds a connection, in ingress-nginx too"),
    # ---- TCP services
    same(
        "proxy-stream-timeout",
        "600s",
        "proxy.stream.idle_timeout_s",
        values.nginx_time_s,
        "60s",
        _STREAM + "test_silence",
    ),
    same(
        "proxy-stream-next-upstream",
        "true",
        "proxy.stream.next_upstream",
        boolean,
        "false",
        _STREAM + "test_how_many_are_tried",
    ),
    same(
        "proxy-stream-next-upstream-timeout",
        "600s",
        "proxy.stream.next_upstream_timeout_s",
        values.nginx_time_s,
        "5s",
        _STREAM + "test_how_long_is_tried",
    ),
    same(
        "proxy-stream-next-upstream-tries",
        "3",
        "proxy.stream.next_upstream_tries",
        count,
        "1",
        _STREAM + "test_how_many_are_tried",
    ),
    no_effect("proxy-stream-responses", "1", "it is about UDP, which is not served"),
)
