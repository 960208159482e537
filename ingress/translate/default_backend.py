"""Which Services answer in place of an Ingress's endpoints: its own default backend, then the controller's."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ingress.config import TranslateSettings
from ingress.errors import VerdictReason
from ingress.model import Service
from ingress.model.cluster import NamespacedName
from ingress.routing.table import Fallback
from ingress.translate.annotations import UpstreamAsk
from ingress.translate.annotations.default_backend import FallbackAsk
from ingress.translate.backends import UpstreamSpec, upstream_spec
from ingress.translate.context import Context
from ingress.translate.features import field_of
from ingress.translate.report import Report


@dataclass(slots=True)
class DefaultBackends:
    """`uses`: upstream, the field that asks for it, and what it means that it has no endpoints (empty: nobody needs to be told).
    `services`: those that were looked at, existing or not."""

    fallback: Fallback | None = None
    uses: list[tuple[UpstreamSpec, str, str]] = field(default_factory=list)
    services: set[NamespacedName] = field(default_factory=set)


def find_default_backends(
    ask: FallbackAsk,
    namespace: str,
    closed: bool,
    context: Context,
    services: Mapping[NamespacedName, Service],
    report: Report,
) -> DefaultBackends:
    """`closed`: an access rule has closed the routes. They stay so: nobody stands in for their endpoints."""
    found = DefaultBackends()
    how = UpstreamAsk(context.options.load_balance)  # as that of unknown hosts, to be one upstream with it
    own = _own(ask, namespace, services, how, report, found) if ask.service else None
    controllers = _controllers(context.settings, services, how, found) if ask.statuses else None
    candidates = (controllers,) if ask.statuses_of_option else (own, controllers)
    upstreams = tuple(dict.fromkeys(spec.key for spec in candidates if spec is not None)) if ask.statuses else ()
    if ask.statuses and not upstreams and not ask.statuses_of_option:
        report.warning(
            field_of(ask.statuses_key),
            VerdictReason.INVALID_ANNOTATION,
            "There is no default backend that could answer: errors are sent as they are.",
            ",".join(map(str, ask.statuses)),
        )
    stand_in = None if closed or own is None else own.key
    if upstreams or stand_in is not None:
        found.fallback = Fallback(ask.statuses, ask.of_endpoints, upstreams, stand_in)
    return found


def _own(
    ask: FallbackAsk,
    namespace: str,
    services: Mapping[NamespacedName, Service],
    how: UpstreamAsk,
    report: Report,
    found: DefaultBackends,
) -> UpstreamSpec | None:
    owner = (namespace, ask.service)
    found.services.add(owner)
    service = services.get(owner)
    where = field_of(ask.service_key)
    if service is None or not service.spec.ports:
        why = "has no port" if service is not None else f"does not exist in namespace {namespace}"
        report.error(
            where,
            VerdictReason.INVALID_ANNOTATION,
            f"The default backend is not used: Service {ask.service} {why}.",
            ask.service,
        )
        return None
    spec = upstream_spec(namespace, ask.service, service.spec.ports[0].port, "", how)
    found.uses.append((spec, where, "It can't answer as the default backend"))
    return spec


def _controllers(
    settings: TranslateSettings, services: Mapping[NamespacedName, Service], how: UpstreamAsk, found: DefaultBackends
) -> UpstreamSpec | None:
    owner = settings.default_backend_service
    if owner is None:
        return None
    found.services.add(owner)
    service = services.get(owner)
    if service is None or not service.spec.ports:
        return None  # reported once, where the fallback of unknown hosts is built
    spec = upstream_spec(*owner, service.spec.ports[0].port, "", how)
    found.uses.append((spec, "", ""))
    return spec
