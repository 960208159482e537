"""Who may do what: clients on all routes, authors of Ingresses with their annotations."""

from ingress.translate.annotations.values import boolean
from ingress.translate.options import values
from ingress.translate.options.keys.base import EMPTY_OR_OFF, NOTHING, differs, no_effect, refused, same

_EFFECT = "tests/translate/test_option_effects.py::"
_CLOSED = "a bad value closes the routes it protects (503), instead of leaving them open"
_SNIPPET = "nginx configuration is never run; what it did has to be said with options or annotations"
_WAF = "there is no web application firewall: requests are NOT inspected; put one in front"

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
    same("whitelist-source-range", "", "access.allow_source_range", values.text, "192.0.2.0/24", note=_CLOSED),
    same("denylist-source-range", "", "access.deny_source_range", values.text, "192.0.2.0/24", note=_CLOSED),
    same("no-auth-locations", "/.well-known/acme-challenge", "access.no_auth_locations", values.text, "/open"),
    same("global-auth-url", "", "access.global_auth.url", values.text, "http://auth.example/check", note=_CLOSED),
    same("global-auth-method", "", "access.global_auth.method", values.text, "POST", note=_CLOSED),
    same("global-auth-signin", "", "access.global_auth.signin", values.text, "http://auth.example/in", note=_CLOSED),
    same("global-auth-signin-redirect-param", "rd", "access.global_auth.signin_redirect_param", values.text, "to"),
    same("global-auth-response-headers", "", "access.global_auth.response_headers", values.text, "X-User"),
    same("global-auth-request-redirect", "", "access.global_auth.request_redirect", values.text, "http://a.example/"),
    same("global-auth-cache-key", "", "access.global_auth.cache_key", values.text, "$remote_user"),
    same(
        "global-auth-cache-duration", "200 202 401 5m", "access.global_auth.cache_duration", values.text, "200 202 10m"
    ),
    same("global-auth-always-set-cookie", "false", "access.global_auth.always_set_cookie", values.text, "true"),
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
