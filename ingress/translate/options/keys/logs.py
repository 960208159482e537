"""The access log."""

from ingress.translate.annotations.values import boolean
from ingress.translate.options import values
from ingress.translate.options.keys.base import EMPTY_OR_OFF, differs, no_effect, refused, same

_LIVE = "tests/proxy/test_options_log.py::"
_OUT = "the access log goes to standard output; collect it there"
DEFAULT_FORMAT = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
    " $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr"
    " $upstream_response_length $upstream_response_time $upstream_status $req_id"
)

KEYS = (
    same(
        "disable-access-log", "false", "", boolean, "true", _LIVE + "test_switched_live", "`--no-access-log` stays off"
    ),
    same("disable-http-access-log", "false", "", boolean, "true", _LIVE + "test_switched_live"),
    same("disable-stream-access-log", "false", "", boolean, "true", "tests/proxy/test_streams.py::test_what_is_logged"),
    differs(
        "log-format-upstream",
        DEFAULT_FORMAT,
        "proxy.log.format",
        values.log_format,
        "$status $request_uri",
        "wins over `--log-format`; variables of nginx that have no value here are named in a warning and logged as `-`",
        _LIVE + "test_format_changed_live",
    ),
    same("log-format-escape-json", "false", "", boolean, "true", _LIVE + "test_escapes"),
    same("log-format-escape-none", "false", "", boolean, "true", _LIVE + "test_escapes"),
    refused(
        "log-format-stream",
        "[$remote_addr] [$time_local] $protocol $status $bytes_sent $bytes_received $session_time",
        "connections of TCP services are logged in a format of their own",
    ),
    differs(
        "skip-access-log-urls",
        "",
        "proxy.log.skip_urls",
        values.map_entries,
        "/healthz",
        "regular expressions are RE2's",
        _LIVE + "test_skipped_urls",
    ),
    differs(
        "enable-access-log-for-default-backend",
        "false",
        "proxy.log.default_backend",
        boolean,
        "false",
        "requests that no Ingress asked for are logged unless this is `false`",
        _LIVE + "test_default_backend",
    ),
    refused(
        "access-log-path",
        "/var/log/nginx/access.log",
        _OUT,
        frozenset(("", "/dev/stdout", "/var/log/nginx/access.log")),
    ),
    refused("http-access-log-path", "", _OUT, frozenset(("", "/dev/stdout", "/var/log/nginx/access.log"))),
    refused("stream-access-log-path", "", _OUT, frozenset(("", "/dev/stdout", "/var/log/nginx/access.log"))),
    refused("access-log-params", "", "lines are written as they come, in batches of a tenth of a second"),
    refused("enable-auth-access-log", "false", "requests to an authentication service are not logged", EMPTY_OR_OFF),
    refused("enable-syslog", "false", _OUT, EMPTY_OR_OFF),
    no_effect("syslog-host", "", "it has none without `enable-syslog`"),
    no_effect("syslog-port", "514", "it has none without `enable-syslog`"),
    refused(
        "error-log-path",
        "/var/log/nginx/error.log",
        "the log goes to standard error",
        frozenset(("", "/dev/stderr", "/var/log/nginx/error.log")),
    ),
    no_effect("error-log-level", "notice", "`--log-level` sets the level of the log"),
    refused("debug-connections", "", "`--log-level debug` names what is refused and why"),
)
