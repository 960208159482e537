"""The ConfigMap of TCP services (`--tcp-services-configmap`): ports whose connections are relayed to a Service as they are.

`data` as in ingress-nginx: `"5432": namespace/service:port[:PROXY][:PROXY]`, the first PROXY for connections that begin with a PROXY header, the second for
endpoints that want one; `ns/svc:80::PROXY` has the second alone. The port is a number or a name. Every entry stands for itself: one that can't be used is
reported, and its port stays closed.
"""

from dataclasses import dataclass, field

from ingress.config import TranslateSettings
from ingress.errors import VerdictReason
from ingress.model import ClusterState, ConfigMap, ObjectRef, Service
from ingress.model.cluster import NamespacedName
from ingress.routing.table import TCPService, UpstreamProtocol
from ingress.translate.annotations import UpstreamAsk
from ingress.translate.backends import UpstreamSpec, find_port, upstream_spec
from ingress.translate.fragment import UNKNOWN_AGE, Fragment
from ingress.translate.names import is_object_name, is_port_name
from ingress.translate.report import Report, shown
from ingress.translate.targets import Use

_PROXY = "PROXY"
_CLOSED = "Its port stays closed"
# Whatever the Service's appProtocol says: nobody here speaks it.
_ASK = UpstreamAsk(protocol=UpstreamProtocol.HTTP)


class Refused(Exception):
    """Raised inside the parsing of an entry: reason and sentence of its verdict."""

    def __init__(self, reason: VerdictReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Target:
    """The value of an entry, taken apart. `port_number` 0: by name."""

    namespace: str
    service: str
    port_number: int
    port_name: str
    accept_proxy_protocol: bool
    send_proxy_protocol: bool


@dataclass(frozen=True, slots=True)
class TCPFragment(Fragment):
    """What the ConfigMap says, seen as an Ingress without rules: it names Services and uses upstreams as one does."""

    tcp: dict[int, TCPService] = field(default_factory=dict)


def build_tcp_services(settings: TranslateSettings, state: ClusterState) -> TCPFragment | None:
    """None without such a ConfigMap in the settings."""
    if settings.tcp_services is None:
        return None
    ref = ObjectRef(ConfigMap.kind, *settings.tcp_services)
    found = state.config_maps.get(settings.tcp_services)
    report = Report(str(ref), "" if found is None else found.origin)
    tcp: dict[int, TCPService] = {}
    uses: dict[str, Use] = {}
    services: set[NamespacedName] = set()
    if found is None:
        report.warning(
            "", VerdictReason.INVALID_FIELD, "It does not exist: no port is open for TCP services.", str(ref)
        )
    data = found.data or {} if found is not None else {}
    for key, value in sorted(data.items()):
        where = f"data.{shown(key)}"
        try:
            port = _port(key, settings)
            target = parse_target(value)
            owner = (target.namespace, target.service)
            services.add(owner)
            spec = _spec(target, state.services.get(owner))
        except Refused as refused:
            report.error(where, refused.reason, f"{_CLOSED}: {refused.message}.", value)
            continue
        uses.setdefault(spec.key, Use(spec, where, "Connections are closed at once"))
        tcp[port] = TCPService(port, spec.key, target.accept_proxy_protocol, target.send_proxy_protocol)
    return TCPFragment(
        ref,
        report.origin,
        UNKNOWN_AGE,
        uses=uses,  # type: ignore[arg-type]  # UpstreamKey is a str
        services=frozenset(services),
        verdicts=report.verdicts(),
        references=frozenset((ref,)),
        tcp=tcp,
    )


def _port(key: str, settings: TranslateSettings) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= 5 and key[0] != "0" and int(key) <= 65535):
        raise Refused(VerdictReason.INVALID_FIELD, "the key is not a port: 1 to 65535")
    port = int(key)
    if port in settings.reserved_ports:
        raise Refused(VerdictReason.CONFLICT, "the controller itself listens there")
    return port


def parse_target(value: str) -> Target:
    """Raises Refused."""
    name, *words = (word.strip() for word in value.split(":"))
    namespace, slash, service = name.partition("/")
    if not slash or not words or len(words) > 3:
        raise Refused(VerdictReason.INVALID_FIELD, "it is not of the form namespace/service:port[:PROXY][:PROXY]")
    if not is_object_name(namespace) or not is_object_name(service):
        raise Refused(VerdictReason.INVALID_FIELD, "these are not names of a namespace and a Service")
    port, *flags = words
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    if not 1 <= number <= 65535 and not is_port_name(port):
        raise Refused(VerdictReason.INVALID_FIELD, "its port is neither 1 to 65535 nor a name")
    if any(flag.upper() not in ("", _PROXY) for flag in flags):
        raise Refused(VerdictReason.INVALID_FIELD, "behind the port there can only be PROXY")
    accept, send = ([flag != "" for flag in flags] + [False, False])[:2]
    return Target(namespace, service, number, "" if number else port, accept, send)


def _spec(target: Target, service: Service | None) -> UpstreamSpec:
    text = f"{target.namespace}/{target.service}"
    port = target.port_name or target.port_number
    if service is None:
        raise Refused(VerdictReason.SERVICE_NOT_FOUND, f"there is no Service {text}")
    found = find_port(service, target.port_number, target.port_name)
    if found is None:
        have = ", ".join(f"{p.name or 'unnamed'} {p.port}" for p in service.spec.ports[:10]) or "none"
        raise Refused(
            VerdictReason.SERVICE_PORT_NOT_FOUND, f"Service {text} has no port {port} (its ports: {shown(have)})"
        )
    if found[1].protocol not in ("TCP", ""):
        raise Refused(
            VerdictReason.UNSUPPORTED_BACKEND, f"port {port} of Service {text} is {shown(found[1].protocol)}, not TCP"
        )
    return upstream_spec(target.namespace, target.service, target.port_number, target.port_name, _ASK)
