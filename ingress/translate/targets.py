"""Where the backends of one Ingress lead: which upstreams its routes use, which Services that depends on, and why a route is closed."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ingress.errors import VerdictReason
from ingress.model import Service
from ingress.model.cluster import NamespacedName
from ingress.model.kubernetes import IngressBackend
from ingress.routing.table import Fallback, UpstreamKey, UpstreamProtocol
from ingress.translate.annotations import NO_ANNOTATIONS, AnnotationPolicy, UpstreamAsk
from ingress.translate.backends import UpstreamSpec, app_protocol, find_port, upstream_spec
from ingress.translate.context import Context
from ingress.translate.default_backend import find_default_backends
from ingress.translate.names import is_object_name, is_port_name
from ingress.translate.report import Report, shown

UNANSWERED = "Requests are answered with 503"
_NOT_CHOSEN = "The canary gets no request"


@dataclass(frozen=True, slots=True)
class Use:
    """An upstream that the Ingress sends traffic to, and the first field that asks for it."""

    spec: UpstreamSpec
    field: str
    consequence: str = UNANSWERED  # of having no endpoints; empty: nobody needs to be told


@dataclass(frozen=True, slots=True)
class Target:
    """Where a backend leads: an upstream, or a status with the reason."""

    service: str = ""
    port: str = ""
    upstream: UpstreamKey | None = None
    closed_reason: str = ""


class Targets:
    """Of one Ingress. `services` and `uses` grow with every backend that is asked for; `policy` is what its annotations came to."""

    def __init__(self, namespace: str, services: Mapping[NamespacedName, Service], report: Report) -> None:
        self.services: set[NamespacedName] = set()  # all it names, existing or not
        self.uses: dict[UpstreamKey, Use] = {}
        self.policy: AnnotationPolicy = NO_ANNOTATIONS
        self._namespace = namespace
        self._known = services
        self._report = report
        self._targets: dict[tuple[str, int, str], Target] = {}

    def target(self, backend: IngressBackend, where: str, consequence: str) -> Target | None:
        """None for a backend that isn't a Service, with `consequence` in the verdict. A Service that can't be used closes the route."""
        service = backend.service
        if service is None:
            if backend.resource is not None:
                kind = f"{backend.resource.kind} {backend.resource.name}"
                self._report.warning(
                    f"{where}.resource",
                    VerdictReason.UNSUPPORTED_BACKEND,
                    f"Only Services can be backends: {consequence}.",
                    kind,
                )
                return None
            return self._unusable(where, VerdictReason.INVALID_FIELD, "it names no Service", "", "", "")
        if backend.resource is not None:
            return self._unusable(
                where,
                VerdictReason.INVALID_FIELD,
                "it names both a Service and a resource",
                "",
                shown(service.name),
                "",
            )
        number, name = (service.port.number, service.port.name) if service.port is not None else (0, "")
        key = (service.name, number, name)
        target = self._targets.get(key)
        if target is None:
            target = self._service_target(service.name, number, name, f"{where}.service")
            if target.upstream is not None:
                self._targets[key] = target  # faults are reported wherever they stand, successes looked up once
        return target

    def _service_target(self, service_name: str, number: int, name: str, where: str) -> Target:
        port = shown(name or (number or ""))
        service_text = shown(service_name)
        field = f"{where}.name"
        if not is_object_name(service_name):
            return self._unusable(
                field, VerdictReason.INVALID_FIELD, "it is not the name of a Service", service_name, service_text, port
            )
        owner = (self._namespace, service_name)
        self.services.add(owner)
        service = self._known.get(owner)
        if service is None:
            return self._unusable(
                field,
                VerdictReason.SERVICE_NOT_FOUND,
                f"there is no Service {service_text} in namespace {self._namespace}",
                service_name,
                service_text,
                port,
            )
        refusal = _port_refusal(number, name)
        field = f"{where}.port"
        if refusal:
            return self._unusable(field, VerdictReason.INVALID_FIELD, refusal, port, service_text, port)
        found = find_port(service, number, name)
        if found is None:
            have = ", ".join(f"{p.name or 'unnamed'} {p.port}" for p in service.spec.ports[:10]) or "none"
            return self._unusable(
                field,
                VerdictReason.SERVICE_PORT_NOT_FOUND,
                f"Service {service_text} has no port {port} (its ports: {shown(have)})",
                port,
                service_text,
                port,
            )
        index, service_port = found
        if index < 0 and service.spec.ports:
            self._report.warning(
                field,
                VerdictReason.SERVICE_PORT_NOT_FOUND,
                f"ExternalName Service {service_text} lists no port {port}: requests go to that port all the same, as in ingress-nginx.",
                port,
            )
        if service_port.protocol not in ("TCP", ""):
            return self._unusable(
                field,
                VerdictReason.UNSUPPORTED_BACKEND,
                f"port {port} of Service {service_text} is {shown(service_port.protocol)}, and HTTP needs TCP",
                port,
                service_text,
                port,
            )
        ask = self.policy.ask
        if ask.protocol is UpstreamProtocol.HTTP and app_protocol(service_port.app_protocol) in (
            None,
            UpstreamProtocol.HTTP,
        ):
            ask = msgspec.structs.replace(ask, protocol=None)  # asks for what is so anyway: no upstream of its own
        spec = upstream_spec(self._namespace, service_name, number, name, ask)
        consequence = UNANSWERED if self.policy.canary is None else _NOT_CHOSEN
        if not self.policy.closed_reason and self.uses.get(spec.key, _UNUSED).consequence != consequence:
            self.uses[spec.key] = Use(spec, where, consequence)
        return Target(service_name, spec.port, spec.key)

    def default_backends(self, context: Context) -> Fallback | None:
        """The default backends that its routes have."""
        policy = self.policy
        if policy.fallback is None or policy.canary is not None:
            return None  # a canary has those of its main Ingress
        found = find_default_backends(
            policy.fallback, self._namespace, bool(policy.closed_reason), context, self._known, self._report
        )
        self.services |= found.services
        for spec, where, consequence in found.uses:
            self.uses.setdefault(spec.key, Use(spec, where, consequence))
        return found.fallback

    def _unusable(self, field: str, reason: VerdictReason, why: str, value: str, service: str, port: str) -> Target:
        self._report.error(field, reason, f"Requests are answered with 503: {why}.", value)
        return Target(service, port, None, f"{reason}: {why}")


_UNUSED = Use(upstream_spec("", "", 0, "", UpstreamAsk()), "", "")


def _port_refusal(number: int, name: str) -> str:
    if name and number:
        return "the port has both a number and a name"
    if name:
        return "" if is_port_name(name) else "it is not the name of a port"
    if number == 0:
        return "the port is missing"
    return "" if 1 <= number <= 65535 else "it is not a port: 1 to 65535"
