"""What is about nginx itself, its modules, or the network of the Pod."""

from ingress.translate.annotations.values import boolean
from ingress.translate.options.keys.base import EMPTY_OR_OFF, ignored, no_effect, refused, same

_TRACING = "it has none without `enable-opentelemetry`"
_JAEGER = "Jaeger went with OpenTracing in ingress-nginx 1.10"

KEYS = (
    refused("bind-address", "", "`--http-address` and `--https-address` say where to listen"),
    refused("bind-address-ipv4", "", "`--http-address` and `--https-address` say where to listen"),
    refused("bind-address-ipv6", "", "`--http-address` and `--https-address` say where to listen"),
    refused(
        "disable-ipv6",
        "false",
        "only the addresses of `--http-address` and `--https-address` are listened on; leave IPv6 ones out",
        EMPTY_OR_OFF,
    ),
    same(
        "disable-ipv6-dns",
        "false",
        "disable_ipv6_dns",
        boolean,
        "true",
        "tests/translate/test_option_effects.py::test_external_names_by_ipv4_only",
        "for hosts of ExternalName Services",
    ),
    no_effect("server-name-hash-max-size", "1024", "there is no such table"),
    no_effect("server-name-hash-bucket-size", "", "there is no such table"),
    no_effect("map-hash-bucket-size", "64", "there is no such table"),
    no_effect("variables-hash-bucket-size", "256", "there is no such table"),
    no_effect("variables-hash-max-size", "2048", "there is no such table"),
    no_effect("lua-shared-dicts", "", "there is no Lua"),
    no_effect("grpc-buffer-size-kb", "0", "responses are streamed"),
    no_effect(
        "nginx-status-ipv4-whitelist", "127.0.0.1", "the admin listener has no such page; metrics have its figures"
    ),
    no_effect("nginx-status-ipv6-whitelist", "::1", "the admin listener has no such page; metrics have its figures"),
    # ---- tracing
    refused("enable-opentelemetry", "false", "requests are not traced yet", EMPTY_OR_OFF),
    no_effect("opentelemetry-config", "/etc/ingress-controller/telemetry/opentelemetry.toml", _TRACING),
    no_effect("opentelemetry-operation-name", "", _TRACING),
    no_effect("opentelemetry-trust-incoming-span", "true", _TRACING),
    no_effect("otlp-collector-host", "", _TRACING),
    no_effect("otlp-collector-port", "4317", _TRACING),
    no_effect("otel-service-name", "nginx", _TRACING),
    no_effect("otel-sampler", "AlwaysOn", _TRACING),
    no_effect("otel-sampler-ratio", "0.01", _TRACING),
    no_effect("otel-sampler-parent-based", "true", _TRACING),
    no_effect("otel-max-queuesize", "2048", _TRACING),
    no_effect("otel-schedule-delay-millis", "5000", _TRACING),
    no_effect("otel-max-export-batch-size", "512", _TRACING),
    # ---- in the documentation of ingress-nginx, not in its source
    ignored("use-geoip", "true", "the module went with nginx 1.18"),
    *(
        ignored(f"jaeger-{name}", default, _JAEGER)
        for name, default in (
            ("collector-host", ""),
            ("collector-port", "6831"),
            ("endpoint", ""),
            ("service-name", "nginx"),
            ("propagation-format", "jaeger"),
            ("sampler-type", "const"),
            ("sampler-param", "1"),
            ("sampler-host", "http://127.0.0.1"),
            ("sampler-port", "5778"),
            ("trace-context-header-name", "uber-trace-id"),
            ("debug-header", "uber-debug-id"),
            ("baggage-header", "jaeger-baggage"),
            ("trace-baggage-header-prefix", "uberctx-"),
        )
    ),
)
