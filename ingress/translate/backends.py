"""From a Service port to the endpoints behind it.

Two steps with different lives. `find_port` needs the Service only and is part of an Ingress's own verdicts; `build_upstream` needs the
addresses as well, and is all that runs when an endpoint comes or goes.

Sources: KEP-752 (EndpointSlice), KEP-1672 (serving and terminating), KEP-3726 (appProtocol); where those leave a choice, ingress-nginx.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from ingress.config import TranslateSettings
from ingress.errors import Verdict, VerdictReason
from ingress.model import ClusterState, Endpoints, EndpointSlice, Service
from ingress.model.kubernetes import EndpointConditions, EndpointPort, ServicePort
from ingress.routing.table import AffinityMode, Balancing, Endpoint, Upstream, UpstreamKey, UpstreamProtocol
from ingress.routing.tls import UpstreamTLS
from ingress.translate.annotations import DEFAULT_ASK, UpstreamAsk
from ingress.translate.annotations.policy import UpstreamTLSAsk
from ingress.translate.health_checks import read_health_check
from ingress.translate.names import is_ip_address, is_localhost_name, normalize_external_name
from ingress.translate.options import DEFAULT_OPTIONS, Options
from ingress.translate.report import Report, shown

_EXTERNAL_NAME = "ExternalName"
_CLIENT_IP_TIMEOUT_S = 10800
_CLIENT_IP_TIMEOUT_LIMIT_S = 86400

_APP_PROTOCOLS = {
    "http": UpstreamProtocol.HTTP,
    "kubernetes.io/ws": UpstreamProtocol.HTTP,
    "https": UpstreamProtocol.HTTPS,
    "kubernetes.io/wss": UpstreamProtocol.HTTPS,
    "kubernetes.io/h2c": UpstreamProtocol.H2C,
    "grpc": UpstreamProtocol.GRPC,
}
_UNSPOKEN = frozenset((UpstreamProtocol.H2C, UpstreamProtocol.GRPC))
_TLS = frozenset((UpstreamProtocol.HTTPS, UpstreamProtocol.AUTO_HTTP))


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """What identifies an upstream: the port as an Ingress names it (`port_number` 0: by name), and how it wants it to be."""

    key: UpstreamKey
    namespace: str
    service: str
    port_number: int
    port_name: str
    ask: UpstreamAsk

    @property
    def port(self) -> str:
        return self.port_name or str(self.port_number)


def upstream_spec(namespace: str, service: str, port_number: int, port_name: str, ask: UpstreamAsk) -> UpstreamSpec:
    """`service` and `port_name` have been validated (no `:`, `/` or `#`; a letter in the name), so that keys can't collide."""
    key = f"{namespace}/{service}:{port_name or port_number}"
    if ask != DEFAULT_ASK:
        key += "#" + hashlib.blake2b(msgspec.msgpack.encode(ask.identity()), digest_size=8).hexdigest()
    return UpstreamSpec(UpstreamKey(key), namespace, service, port_number, port_name, ask)


def find_port(service: Service, number: int, name: str) -> tuple[int, ServicePort] | None:
    """The port of the Service (and its index) that a backend means; None if there is none.

    One number may stand for several protocols (443 over TCP and UDP, for HTTP/3): TCP is preferred. Of an ExternalName Service a number
    that it doesn't list is taken as it is, with index -1, as in ingress-nginx.
    """
    other: tuple[int, ServicePort] | None = None
    for index, port in enumerate(service.spec.ports):
        if port.name == name if name else port.port == number:
            if port.protocol in ("TCP", ""):
                return index, port
            other = other or (index, port)
    if other is None and not name and service.spec.type == _EXTERNAL_NAME:
        return -1, ServicePort(port=number)
    return other


def app_protocol(text: str | None) -> UpstreamProtocol | None:
    """None: not set, or not one that is known."""
    return _APP_PROTOCOLS.get(text.lower()) if text else None


@dataclass(frozen=True, slots=True)
class BuiltUpstream:
    """`why_empty` completes "Service x ..." where there are no endpoints and its owner should know why; `external_name`
    is to be kept resolved.
    """

    upstream: Upstream
    verdicts: tuple[Verdict, ...] = ()
    why_empty: str = ""
    external_name: str = ""


def build_upstream(
    spec: UpstreamSpec, state: ClusterState, settings: TranslateSettings, options: Options = DEFAULT_OPTIONS
) -> BuiltUpstream:
    """The Service and its port exist (`find_port`); if not, the upstream has no endpoints."""
    owner = (spec.namespace, spec.service)
    service = state.services.get(owner)
    found = find_port(service, spec.port_number, spec.port_name) if service is not None else None
    if service is None or found is None:
        upstream = Upstream(spec.key, spec.namespace, spec.service, spec.port)
        return BuiltUpstream(upstream, why_empty="has no such port")
    index, port = found
    report = Report(str(service.ref), service.origin)
    target = _target_port(port, index, report)
    external_name, protocol_hint = "", None
    verdicts: tuple[Verdict, ...] = ()
    endpoints: set[Endpoint] = set()
    cluster_ip = _cluster_address(service) if spec.ask.service_upstream else None
    balancing = _balancing(spec, service, report)
    if cluster_ip is not None:
        # One endpoint: nothing to balance, and the cluster chooses the Pod of each connection.
        endpoints, why_empty, balancing = {Endpoint(cluster_ip, port.port)}, "", Balancing()
    elif service.spec.type == _EXTERNAL_NAME:
        number = port.port if target is None else target
        endpoints, why_empty, external_name = _external(service, number, state.resolved, settings, report)
        if options.disable_ipv6_dns:
            endpoints = {endpoint for endpoint in endpoints if ":" not in endpoint.address}
            why_empty = why_empty or ("" if endpoints else "has no IPv4 address, and disable-ipv6-dns is on")
    elif slices := state.slices.get(owner):
        endpoints, why_empty, protocol_hint, verdicts = _from_slices(slices, port, target)
    elif (manual := state.endpoints.get(owner)) is not None:
        endpoints, why_empty, protocol_hint, verdicts = _from_endpoints(manual, port, target)
    else:
        why_empty = "has no endpoints: neither EndpointSlice nor Endpoints exist for it"
    protocol = _protocol(spec, port, index, protocol_hint, report)
    if spec.ask.tls is not None and protocol not in _TLS:
        report.warning(
            f"spec.ports[{index}].appProtocol",
            VerdictReason.INVALID_FIELD,
            "An Ingress has annotations proxy-ssl-*, but neither its backend-protocol nor this field says https: they have no effect.",
            port.app_protocol or "",
        )
    upstream = Upstream(
        spec.key,
        spec.namespace,
        spec.service,
        spec.port,
        tuple(sorted(endpoints)),
        balancing,
        protocol,
        _tls(spec.ask.tls, service) if protocol in _TLS else None,
        spec.ask.http_version,
        spec.ask.connection_header,
        # Behind a cluster IP there is no telling which Pod answers a check.
        read_health_check(service, report) if cluster_ip is None else None,
    )
    return BuiltUpstream(upstream, report.verdicts() + verdicts, "" if endpoints else why_empty, external_name)


# ---- ports --------------------------------------------------------------------------------------------------------


def _target_port(port: ServicePort, index: int, report: Report) -> int | None:
    """The numeric target port; None when it is the name of a container port, which only the slices know."""
    target = port.target_port
    if isinstance(target, str) and target.isascii() and target.isdigit() and len(target) <= 5:
        target = int(target)
    if target is None or target == "" or target == 0:
        return port.port
    if isinstance(target, str):
        return None
    if 1 <= target <= 65535:
        return target
    report.error(
        f"spec.ports[{index}].targetPort",
        VerdictReason.INVALID_FIELD,
        "It is not a port: 1 to 65535, or a name.",
        target,
    )
    return None


def _matching_ports(ports: Iterable[EndpointPort] | None, port: ServicePort, target: int | None) -> list[EndpointPort]:
    """Ports of a slice or subset that belong to the Service port.

    By name; an unnamed Service port is the only one of its Service, so the sole port of the slice is meant, whatever it
    is called. If no name matches, a numeric target port is used, as in ingress-nginx.
    """
    tcp = [p for p in ports or () if p.protocol in (None, "", "TCP")]
    named = [p for p in tcp if (p.name or "") == port.name]
    if named:
        return named
    if not port.name and len(tcp) == 1:
        return tcp
    if tcp and target is not None:
        return [EndpointPort(port=target, app_protocol=tcp[0].app_protocol)]
    return []


def _numbers(ports: Iterable[EndpointPort], target: int | None, report: Report, field: str) -> Iterator[int]:
    for port in ports:
        number = target if port.port is None else port.port  # null: all ports, so the target port is one of them
        if number is None:
            report.error(
                field,
                VerdictReason.INVALID_FIELD,
                "A port without number needs a numeric targetPort in the Service.",
                port.name or "",
            )
        elif not 1 <= number <= 65535:
            report.error(field, VerdictReason.INVALID_FIELD, "It is not a port: 1 to 65535.", number)
        else:
            yield number


# ---- EndpointSlices and Endpoints ---------------------------------------------------------------------------------

_Found = tuple[set[Endpoint], str, str | None, tuple[Verdict, ...]]
"""Endpoints, why there are none, an appProtocol, verdicts."""


def _from_slices(slices: tuple[EndpointSlice, ...], port: ServicePort, target: int | None) -> _Found:
    ready: set[Endpoint] = set()
    draining: set[Endpoint] = set()
    not_ready = False
    matched = False
    hints: set[str] = set()
    verdicts: list[Verdict] = []
    for piece in slices:
        report = Report(str(piece.ref), piece.origin)
        version = {"IPv4": 4, "IPv6": 6}.get(piece.address_type)
        if version is None:
            _refuse_address_type(piece, report)
            verdicts += report.verdicts()
            continue
        ports = _matching_ports(piece.ports, port, target)
        matched = matched or bool(ports)
        hints.update(p.app_protocol for p in ports if p.app_protocol)
        numbers = tuple(_numbers(ports, target, report, "ports"))
        for index, endpoint in enumerate(piece.endpoints or ()) if numbers else ():
            conditions = endpoint.conditions
            if conditions is None or conditions.ready is not False:
                usable = ready
            elif _is_draining(conditions):
                usable = draining
            else:
                not_ready = True
                continue
            # All addresses of an endpoint are fungible, and consumers use the first (KEP-752).
            text = endpoint.addresses[0] if endpoint.addresses else ""
            address = _address(text, version)
            if address is None:
                report.error(
                    f"endpoints[{index}].addresses[0]",
                    VerdictReason.INVALID_FIELD,
                    f"It is not an {piece.address_type} address that can be connected to: the endpoint is left out.",
                    text,
                )
                continue
            for number in numbers:
                usable.add(Endpoint(address, number))
        verdicts += report.verdicts()
    if not matched:
        why = f"has no endpoints: {_no_such_port(port, 'EndpointSlice')}"
    elif not_ready:
        why = "has no ready endpoints"
    else:
        why = "has no endpoints"
    return ready or draining, why, min(hints, default=None), tuple(verdicts)


def _is_draining(conditions: EndpointConditions) -> bool:
    """Not ready any more, but still able to answer: used only where nothing else is left (KEP-1672)."""
    return conditions.serving is True and conditions.terminating is True


def _refuse_address_type(piece: EndpointSlice, report: Report) -> None:
    if piece.address_type == "FQDN":
        report.warning(
            "addressType",
            VerdictReason.UNSUPPORTED_BACKEND,
            "Endpoints that are host names are not used: make the Service an ExternalName instead.",
            piece.address_type,
        )
    else:
        report.error("addressType", VerdictReason.INVALID_FIELD, "It is neither IPv4 nor IPv6.", piece.address_type)


def _from_endpoints(manual: Endpoints, port: ServicePort, target: int | None) -> _Found:
    ready: set[Endpoint] = set()
    not_ready = False
    matched = False
    hints: set[str] = set()
    report = Report(str(manual.ref), manual.origin)
    for index, subset in enumerate(manual.subsets or ()):
        ports = _matching_ports(subset.ports, port, target)
        matched = matched or bool(ports)
        hints.update(p.app_protocol for p in ports if p.app_protocol)
        not_ready = not_ready or bool(subset.not_ready_addresses)
        numbers = tuple(_numbers(ports, target, report, f"subsets[{index}].ports"))
        for position, entry in enumerate(subset.addresses or ()) if numbers else ():
            address = _address(entry.ip, None)
            if address is None:
                report.error(
                    f"subsets[{index}].addresses[{position}].ip",
                    VerdictReason.INVALID_FIELD,
                    "It is not an IP address that can be connected to: the endpoint is left out.",
                    entry.ip,
                )
                continue
            for number in numbers:
                ready.add(Endpoint(address, number))
    if not matched:
        why = f"has no endpoints: {_no_such_port(port, 'Endpoints')}"
    elif not_ready:
        why = "has no ready endpoints"
    else:
        why = "has no endpoints"
    return ready, why, min(hints, default=None), report.verdicts()


def _no_such_port(port: ServicePort, where: str) -> str:
    return (
        f"no TCP port of its {where} is called {shown(port.name)}"
        if port.name
        else f"its {where} lists no TCP port for it"
    )


def _address(text: str, version: int | None) -> str | None:
    """Canonical text of an address; None if it isn't one, is of the other family, or can't be a destination."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if version is not None and address.version != version:
        return None
    if address.is_unspecified or address.is_multicast or "%" in text:
        return None
    return str(address)


# ---- ExternalName -------------------------------------------------------------------------------------------------


def _external(
    service: Service,
    port: int,
    resolved: Mapping[str, tuple[str, ...]],
    settings: TranslateSettings,
    report: Report,
) -> tuple[set[Endpoint], str, str]:
    """Endpoints, why there are none, and the name to keep resolved (empty for none)."""
    nothing: set[Endpoint] = set()
    text = service.spec.external_name
    field = "spec.externalName"
    if not settings.external_name_enabled:
        report.error("spec.type", VerdictReason.UNSUPPORTED_BACKEND, "ExternalName Services are switched off.", text)
        return nothing, "is of type ExternalName, which is switched off", ""
    if is_ip_address(text):
        address = _external_address(text, settings)
        if address is None:
            report.error(
                field, VerdictReason.INVALID_FIELD, "It is an address of the proxy itself, which is refused.", text
            )
            return nothing, "has an externalName that is refused", ""
        return {Endpoint(address, port)}, "", ""
    name = normalize_external_name(text)
    if name is None:
        report.error(field, VerdictReason.INVALID_FIELD, "It is not a DNS name.", text)
        return nothing, "has an externalName that is not a DNS name", ""
    if is_localhost_name(name) and not settings.external_name_loopback:
        report.error(field, VerdictReason.INVALID_FIELD, "It names the proxy itself, which is refused.", text)
        return nothing, "has an externalName that is refused", ""
    addresses = resolved.get(name)
    if addresses is None:  # not looked up yet: nothing to complain about
        return nothing, "", name
    usable = {a for a in (_external_address(text, settings) for text in addresses) if a is not None}
    if addresses and not usable:
        report.error(field, VerdictReason.INVALID_FIELD, "It resolves to the proxy itself, which is refused.", text)
        return nothing, f"has no endpoints: {shown(name)} resolves to nothing but refused addresses", name
    return {Endpoint(a, port) for a in usable}, f"has no endpoints: {shown(name)} could not be resolved", name


def _external_address(text: str, settings: TranslateSettings) -> str | None:
    """Canonical text; None for what leads back to this host: loopback, and the unspecified address, which Linux connects to loopback."""
    canonical = _address(text, None)
    if canonical is None or settings.external_name_loopback:
        return canonical
    address = ipaddress.ip_address(canonical)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    inner = mapped or address
    return None if inner.is_loopback or inner.is_unspecified else canonical


# ---- what the Service says about traffic --------------------------------------------------------------------------


def _protocol(spec: UpstreamSpec, port: ServicePort, index: int, hint: str | None, report: Report) -> UpstreamProtocol:
    """The Ingress's annotation, else the Service's appProtocol, else that of its endpoints, else HTTP."""
    if spec.ask.protocol is not None:
        return spec.ask.protocol
    text = port.app_protocol or hint
    protocol = app_protocol(text)
    field = f"spec.ports[{index}].appProtocol"
    if protocol is None:
        if text and "/" not in text:  # with a prefix it is a vendor's own, and meant for somebody else
            report.warning(
                field, VerdictReason.INVALID_FIELD, "It is not a protocol that is known here: HTTP is used.", text
            )
        return UpstreamProtocol.HTTP
    if protocol in _UNSPOKEN:
        report.warning(
            field,
            VerdictReason.UNSUPPORTED_BACKEND,
            "Backends that speak this protocol are not supported yet: requests are answered with 502.",
            text,
        )
    return protocol


def _tls(ask: UpstreamTLSAsk | None, service: Service) -> UpstreamTLS:
    """With the name that the Ingress leaves open: the external name, or else the name that the Service has inside the cluster.

    nginx would verify and send the name of its own upstream block there, which no certificate has. A host outside the cluster may well need
    SNI to know which one is meant, so it gets it unless the Ingress says no.
    """
    external = service.spec.type == _EXTERNAL_NAME
    asked = UpstreamTLS() if ask is None else ask.tls
    server_name = external if ask is None or ask.server_name is None else ask.server_name
    name = asked.name
    if not name and external:
        text = service.spec.external_name
        name = text if is_ip_address(text) else normalize_external_name(text) or ""
    elif not name:
        name = f"{service.metadata.name}.{service.metadata.namespace}.svc"
    return msgspec.structs.replace(asked, name=name, server_name=server_name)


def _cluster_address(service: Service) -> str | None:
    """None: it is headless, or an ExternalName. Requests go to the endpoints then, as in ingress-nginx."""
    text = service.spec.cluster_ip
    return None if not text or service.spec.type == _EXTERNAL_NAME else _address(text, None)


def _balancing(spec: UpstreamSpec, service: Service, report: Report) -> Balancing:
    """Cookie affinity of the Ingress comes before the ClientIP affinity of the Service."""
    ask = spec.ask
    timeout_s = _client_ip_timeout_s(service, report)
    if ask.cookie is not None:
        return Balancing(ask.load_balance, ask.hash_key, AffinityMode.COOKIE, cookie=ask.cookie)
    if timeout_s is not None:
        return Balancing(ask.load_balance, ask.hash_key, AffinityMode.CLIENT_IP, timeout_s)
    return Balancing(ask.load_balance, ask.hash_key, hash_subset_size=ask.hash_subset_size)


def _client_ip_timeout_s(service: Service, report: Report) -> int | None:
    """None: no affinity."""
    kind = service.spec.session_affinity
    if kind in ("", "None"):
        return None
    if kind != "ClientIP":
        report.error(
            "spec.sessionAffinity",
            VerdictReason.INVALID_FIELD,
            "It is neither None nor ClientIP: there is no affinity.",
            kind,
        )
        return None
    config = service.spec.session_affinity_config
    timeout_s = config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
    if timeout_s is None:
        return _CLIENT_IP_TIMEOUT_S
    if 1 <= timeout_s <= _CLIENT_IP_TIMEOUT_LIMIT_S:
        return timeout_s
    report.error(
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        VerdictReason.INVALID_FIELD,
        f"It is not between 1 and {_CLIENT_IP_TIMEOUT_LIMIT_S}: {_CLIENT_IP_TIMEOUT_S} is used.",
        timeout_s,
    )
    return _CLIENT_IP_TIMEOUT_S
