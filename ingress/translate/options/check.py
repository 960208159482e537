"""The ConfigMap of options (`--configmap`). None is applied yet: each that asks for something gets a warning, so that nobody relies on it."""

from collections.abc import Mapping

from ingress.config import TranslateSettings
from ingress.errors import Verdict, VerdictReason
from ingress.model import ConfigMap
from ingress.model.cluster import NamespacedName
from ingress.translate.annotations.known import OFF, ON
from ingress.translate.report import Report

# Values (lower case) that ask for what is so already.
_HARMLESS: Mapping[str, frozenset[str]] = {
    "allow-snippet-annotations": OFF,
    "allow-cross-namespace-resources": OFF,
    "compute-full-forwarded-for": OFF,
    "disable-access-log": OFF,
    "enable-brotli": OFF,
    "enable-modsecurity": OFF,
    "enable-opentelemetry": OFF,
    "enable-owasp-modsecurity-crs": OFF,
    "enable-real-ip": OFF,
    "force-ssl-redirect": OFF,
    "generate-request-id": ON,
    "load-balance": frozenset(("round_robin",)),
    "proxy-buffering": frozenset(("off",)),
    "server-tokens": OFF,
    "ssl-redirect": OFF,
    "use-forwarded-headers": OFF,
    "use-gzip": OFF,
    "use-proxy-protocol": OFF,
}


def check_options(settings: TranslateSettings, config_maps: Mapping[NamespacedName, ConfigMap]) -> tuple[Verdict, ...]:
    """A ConfigMap that doesn't exist has no options, as in ingress-nginx."""
    if settings.config_map is None:
        return ()
    found = config_maps.get(settings.config_map)
    if found is None or not found.data:
        return ()
    report = Report(str(found.ref), found.origin)
    for name, value in sorted(found.data.items()):
        if value.strip().lower() not in _HARMLESS.get(name, ()):
            report.warning(f"data.{name}", VerdictReason.UNSUPPORTED_FIELD, "The option is not applied yet.", value)
    return report.verdicts()
