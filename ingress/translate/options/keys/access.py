"""Who may do what: clients on all routes, authors of Ingresses with their annotations."""

from collections.abc import Callable
from typing import Any

from ingress.translate import access
from ingress.translate.annotations.values import boolean
from ingress.translate.options import values
from ingress.translate.options.keys.base import EMPTY_OR_OFF, NOTHING, Key, differs, no_effect, refused, same

_EFFECT = "tests/translate/test_option_effects.py::"
_CLOSED = "a bad value, with no good one before it, closes the routes it is about (503)"
_SNIPPET = "nginx configuration is never run; what it did has to be said with options or annotations"
_WAF = "there is no web application firewall: requests are NOT inspected; put one in front"


def _text(name: str, default: str, target: str, check: Callable[[str], Any], example: str) -> Key:
    """Checked here for the sake of the verdict, and handed on as text."""

    def parse(text: str) -> str:
        if text:
            check(text)
        return text

    return same(name, default, f"access.{target}", parse, example, note=_CLOSED, fails_closed=True)


def _auth(name: str, default: str, check: Callable[[str], Any], example: str) -> Key:
    return _text(f"global-auth-{name}", default, f"global_auth.{name.replace('-', '_')}", check, example)


KEYS = (
    same("allow-cross-namespace-resources", "false", "allow_cross_namespace_resources", boolean, "true"),
    refused("allow-snippet-annotations", "false", "snippets of nginx configuration are never run", EMPTY_OR_OFF),
    differs(
        "annotations-risk-level",
        "High",
        "risk_limit",
        values.risk,
        "Medium",
        "an annotation above the level closes the routes of its Ingress (503); ingress-nginx keeps the version before it, if it has one",
        _EFFECT + "test_risk_level",
    ),
    differs(
        "annotation-value-word-blocklist",
        "",
        "blocked_words",
        values.items,
        "load_module,lua_package",
        "a value with such a word closes the routes of its Ingress (503); ingress-nginx leaves the Ingress out",
        _EFFECT + "test_blocked_words",
    ),
    differs(
        "strict-validate-path-type",
        "true",
        "strict_paths",
        boolean,
        "true",
        "ingress-nginx's webhook refuses `Exact` and `Prefix` paths with anything but letters, digits and `._-/`; here `true` warns of them",
        _EFFECT + "test_strict_paths",
    ),
    same("service-upstream", "false", "service_upstream", boolean, "true"),
    _text("whitelist-source-range", "", "allow_source_range", access.networks, "192.0.2.0/24"),
    _text("denylist-source-range", "", "deny_source_range", access.networks, "192.0.2.0/24"),
    same("no-auth-locations", "/.well-known/acme-challenge", "access.no_auth_locations", values.text, "/open"),
    _auth("url", "", access.url, "http://auth.example/check"),
    _auth("method", "", access.method, "POST"),
    _auth("signin", "", access.signin, "http://auth.example/in"),
    _auth("signin-redirect-param", "rd", access.redirect_param, "to"),
    _auth("response-headers", "", access.header_names, "X-User"),
    _auth("request-redirect", "", access.header_text, "http://a.example/"),
    _auth("cache-key", "", access.header_text, "$remote_user"),
    _auth("cache-duration", "200 202 401 5m", access.cache_durations, "200 202 10m"),
    _auth("always-set-cookie", "false", boolean, "true"),
    differs(
        "global-auth-snippet",
        "",
        "access.global_auth.snippet",
        values.text,
        "return 403;",
        "never run: it closes the routes that global authentication protects",
    ),
    no_effect("global-external-auth", "", "not an option that can be written; the `global-auth-*` options are"),
    # ---- snippets and modules
    *(
        refused(name, "", _SNIPPET)
        for name in ("main-snippet", "http-snippet", "server-snippet", "location-snippet", "stream-snippet")
    ),
    refused("enable-modsecurity", "false", _WAF, EMPTY_OR_OFF),
    refused("enable-owasp-modsecurity-crs", "false", _WAF, EMPTY_OR_OFF),
    refused("modsecurity-snippet", "", _WAF, NOTHING),
    refused("use-geoip2", "false", "addresses are not looked up in a database", EMPTY_OR_OFF),
    no_effect("geoip2-autoreload-in-minutes", "0", "it has none without `use-geoip2`"),
)
