"""ClusterState -> RoutingTable and verdicts: from scratch, or keeping what did not change.

Three layers, each rebuilt only where something below it changed:

1. fragments: one Ingress with the Services it names (`fragment`);
2. hosts and the catch-all: all fragments that have the host (`conflicts`, `host_layer`);
3. upstreams: a Service port with its endpoints (`backends`, `upstream_layer`).

TLS (`tls.hosts`) is part of layer 2: the certificate of a host is chosen where its routes are.

An endpoint that comes or goes touches layer 3 alone. What comes out equal is the same object as before, so that `diff_tables` and the
workers need not look into it.
"""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from ingress.config import ProxySettings, TranslateSettings
from ingress.errors import Verdict, VerdictReason
from ingress.model import (
    ClusterState,
    Ingress,
    IngressClass,
    Kind,
    KubernetesObject,
    ObjectRef,
    Service,
)
from ingress.model.cluster import NamespacedName
from ingress.routing.table import (
    HostPattern,
    RoutingTable,
    TCPService,
    UpstreamKey,
)
from ingress.translate.classes import Claim, ClassIndex
from ingress.translate.context import Context, allowed_middleware, objects_of
from ingress.translate.digest import TableDigest, part_digest
from ingress.translate.features import FeatureParser
from ingress.translate.fragment import Fragment, build_fallback, build_fragment
from ingress.translate.health_checks import asked_of
from ingress.translate.host_layer import HostLayer
from ingress.translate.options import DEFAULT_OPTIONS
from ingress.translate.options.parse import Good, ParsedOptions, read_options
from ingress.translate.report import Report, VerdictBook
from ingress.translate.tcp_services import TCPFragment, build_tcp_services
from ingress.translate.tls.hosts import CertificateUse
from ingress.translate.tls.layer import TLSLayer
from ingress.translate.upstream_layer import UpstreamLayer

_FALLBACK: NamespacedName = ("\0", "default backend of the controller")  # not the name of any Ingress
_TCP_SERVICES: NamespacedName = ("\0", "TCP services")
_BACKING = frozenset((Kind.SERVICE, Kind.ENDPOINTS, Kind.ENDPOINT_SLICE))
_REFERRED = frozenset((Kind.SECRET, Kind.CONFIG_MAP))
_TCP, _SETTINGS = b"tcp", b"settings"


@dataclass(frozen=True, slots=True)
class Compilation:
    """A table and what was found on the way to it.

    `verdicts` are sorted. `external_names` are the host names of ExternalName Services in use: whoever resolves names keeps them in
    `ClusterState.resolved`. `served` are the Ingresses of our classes, whatever became of their rules; `references` the Secrets and
    ConfigMaps that they and the options name, existing or not; `tcp_namespaces` where the Services of TCP services are, selected or not.
    `certificates` are those in use, by host.
    """

    table: RoutingTable
    verdicts: tuple[Verdict, ...]
    external_names: frozenset[str]
    served: frozenset[ObjectRef]
    references: frozenset[ObjectRef] = frozenset()
    tcp_namespaces: frozenset[str] = frozenset()
    certificates: tuple[CertificateUse, ...] = ()


def compile_table(
    state: ClusterState, settings: TranslateSettings, parsers: Sequence[FeatureParser] = ()
) -> Compilation:
    """From scratch. A pure function of its arguments; the order of the objects in `state` makes no difference."""
    return Compiler(settings, parsers).compile(state, None)


class Compiler:
    """`compile` gives what `compile_table` would, and remembers what it can use again at the next call.

    Unchanged objects are recognised by identity, so a source should keep the object it has while nothing is new about it.
    One thing depends on the past: where the value of an option can't be used, the last good one stays in force.
    """

    def __init__(self, settings: TranslateSettings, parsers: Sequence[FeatureParser] = ()) -> None:
        """`parsers`: of the features that routes may have (`middleware.registry.SPECS`)."""
        self._settings = settings
        self._parsers = parsers
        self._memory = _Memory(settings, parsers)

    def compile(
        self, state: ClusterState, changed: frozenset[ObjectRef] | None, resolved_changed: frozenset[str] = frozenset()
    ) -> Compilation:
        """`changed` are the objects that differ from the last call (None: not known); `resolved_changed` the host names.

        They only say which kinds to look at: within a kind every object is compared, which costs a dictionary look-up each.
        """
        try:
            return self._memory.compile(state, changed, resolved_changed)
        except Exception:
            # Half-way updated, it must not be used again.
            self._memory = _Memory(self._settings, self._parsers, self._memory.good_options)
            raise


class _Memory:
    """What `Compiler` knows from its earlier calls, and how it is brought up to date."""

    def __init__(
        self,
        settings: TranslateSettings,
        parsers: Sequence[FeatureParser],
        good_options: Mapping[str, Good] | None = None,
    ) -> None:
        self._settings = settings
        self._parsers = parsers
        self.good_options = good_options or {}
        self._parsed_options = ParsedOptions()
        self._options = DEFAULT_OPTIONS
        self._proxy: ProxySettings | None = None
        self._proxy_digest: bytes | None = None
        self._result: Compilation | None = None
        self._verdicts = VerdictBook()
        self._digest = TableDigest()
        # Layer 3
        self._upstreams = UpstreamLayer(settings, self._options, self._digest, self._verdicts)
        # Layer 1
        self._class_objects: dict[str, IngressClass] = {}
        self._classes = ClassIndex({}, settings.classes)
        self._ingresses: dict[NamespacedName, Ingress] = {}  # all of them, ours or not, as last seen
        self._served: dict[NamespacedName, ObjectRef] = {}
        self._served_changed = True
        self._objects: dict[ObjectRef, KubernetesObject | None] = {}  # all that fragments refer to, as last seen
        self._referrers: dict[ObjectRef, set[NamespacedName]] = {}  # to Ingresses
        self._references_changed = True
        self._fragments: dict[NamespacedName, Fragment] = {}
        self._services: dict[NamespacedName, Service | None] = {}  # all that fragments name, as last seen
        self._named_by: dict[NamespacedName, set[NamespacedName]] = {}  # Service -> Ingresses
        # Layer 2
        self._tls = TLSLayer(settings, self._options, self._digest, self._verdicts)
        self._hosts = HostLayer(self._options, self._digest, self._verdicts, self._tls, self._upstreams)
        self._tcp: dict[int, TCPService] = {}
        self._tcp_digests: dict[int, bytes] = {}

    def compile(
        self, state: ClusterState, changed: frozenset[ObjectRef] | None, resolved_changed: frozenset[str] = frozenset()
    ) -> Compilation:
        first = self._result is None
        kinds = None if changed is None or first else {ref.kind for ref in changed}
        stale_options = self._read_options(state) if kinds is None or Kind.CONFIG_MAP in kinds else False

        # Each layer hands the next what it has to do again.
        ingresses = self._changed_ingresses(state, kinds)
        if stale_options:
            ingresses |= self._fragments.keys()  # all that were compiled by other options
        services, rechecked = self._changed_services(state, kinds)
        for owner in services:
            ingresses |= self._named_by.get(owner, set())
        for ref in self._changed_objects(state, kinds):
            ingresses |= self._referrers[ref]
        stale_upstreams = self._upstreams.changed(
            state, kinds, services | rechecked, resolved_changed, unknown=kinds is None
        )
        if stale_options:
            stale_upstreams |= self._upstreams.keys

        dirty_hosts: set[HostPattern] = set()
        recheck: set[NamespacedName] = set()  # Ingresses whose upstreams may have lost or gained their last endpoint
        if first:
            ingresses |= {_FALLBACK, _TCP_SERVICES}
        catch_all_dirty = first
        for key in ingresses:
            catch_all_dirty |= self._replace_fragment(key, state, dirty_hosts, stale_upstreams)
            recheck.add(key)

        wanted: set[UpstreamKey] = set()  # upstreams that came or went
        redone = (kinds is None or Kind.SECRET in kinds) and self._tls.update_default(objects_of(state))
        hosts_changed = self._hosts.merge(dirty_hosts, wanted)
        if dirty_hosts or redone:
            hosts_changed |= self._hosts.derive()
        if self._hosts.is_contested and (kinds is None or kinds & _BACKING or resolved_changed):
            catch_all_dirty = True  # who has endpoints decides
        default_changed = catch_all_dirty and self._hosts.choose_catch_all(_FALLBACK, wanted, state)
        tcp_changed = _TCP_SERVICES in ingresses and self._replace_tcp_services(wanted)
        upstreams_changed = self._upstreams.update(state, stale_upstreams | wanted, recheck)
        for key in recheck:
            self._upstreams.report_empty(key, self._fragments.get(key))
        settings_changed = self._replace_proxy()
        return self._publish(hosts_changed, default_changed, upstreams_changed, tcp_changed or settings_changed)

    # ---- options ----

    def _read_options(self, state: ClusterState) -> bool:
        """Take the options of `state`; True if anything that is compiled here depends on what changed about them."""
        before = self._parsed_options
        parsed = read_options(self._settings, state.config_maps, self.good_options, objects_of(state))
        self._parsed_options = parsed
        self.good_options = parsed.good
        self._verdicts.put(("options", ""), parsed.verdicts)
        self._references_changed |= parsed.references != before.references
        old, self._options = self._options, parsed.options
        self._upstreams.use_options(parsed.options)
        self._hosts.use_options(parsed.options)
        # What only the workers read costs no compilation.
        return dataclasses.replace(old, proxy=None) != dataclasses.replace(parsed.options, proxy=None)

    def _replace_proxy(self) -> bool:
        proxy = self._options.proxy
        if proxy == self._proxy:
            return False
        self._proxy = proxy
        digest = part_digest(_SETTINGS, proxy) if proxy is not None else None
        self._digest.replace(self._proxy_digest, digest)
        self._proxy_digest = digest
        return True

    # ---- what changed ----

    def _changed_ingresses(self, state: ClusterState, kinds: set[Kind] | None) -> set[NamespacedName]:
        changed: set[NamespacedName] = set()
        if kinds is None or Kind.INGRESS_CLASS in kinds:
            objects = dict(state.ingress_classes)
            if not _same_objects(objects, self._class_objects):
                before, self._class_objects = self._class_objects, objects
                allowances = {
                    name
                    for name in before.keys() | objects.keys()
                    if allowed_middleware(before.get(name)) != allowed_middleware(objects.get(name))
                }
                self._classes = ClassIndex(objects, self._settings.classes)
                # Only those whose class was decided differently need a new fragment.
                for key, ingress in self._ingresses.items():
                    claim = self._classes.claim(ingress)
                    if (
                        ingress.spec.ingress_class_name in allowances
                        or (claim is Claim.OURS) != (key in self._served)
                        or (claim is Claim.UNKNOWN_CLASS) != (("class", key) in self._verdicts)
                    ):
                        changed.add(key)
        if kinds is None or Kind.INGRESS in kinds:
            changed |= _not_as_seen(self._ingresses, state.ingresses)
        return changed

    def _changed_services(
        self, state: ClusterState, kinds: set[Kind] | None
    ) -> tuple[set[NamespacedName], set[NamespacedName]]:
        """Those that matter to Ingresses and to upstreams; and those of which only the health check changed, which matters to upstreams alone."""
        changed: set[NamespacedName] = set()
        rechecked: set[NamespacedName] = set()
        if kinds is not None and Kind.SERVICE not in kinds:
            return changed, rechecked
        for owner, seen in self._services.items():
            service = state.services.get(owner)
            if service is seen:
                continue
            self._services[owner] = service
            # A Service is written for many reasons (load balancer status, annotations of others) that mean nothing here.
            if service is None or seen is None or service.spec != seen.spec or service.origin != seen.origin:
                changed.add(owner)
            elif service.metadata.annotations != seen.metadata.annotations and asked_of(
                service.metadata.annotations
            ) != asked_of(seen.metadata.annotations):
                rechecked.add(owner)
        return changed, rechecked

    def _changed_objects(self, state: ClusterState, kinds: set[Kind] | None) -> list[ObjectRef]:
        """Secrets and ConfigMaps that some fragment refers to."""
        if kinds is not None and not kinds & _REFERRED:
            return []
        find = objects_of(state)
        changed = []
        for ref, seen in self._objects.items():
            found = find(ref)
            if found is not seen:
                self._objects[ref] = found
                changed.append(ref)
        return changed

    # ---- layer 1 ----

    def _replace_fragment(
        self, key: NamespacedName, state: ClusterState, dirty_hosts: set[HostPattern], stale: set[UpstreamKey]
    ) -> bool:
        """Build the fragment anew and mark the hosts and upstreams concerned; True if the catch-all is concerned."""
        old = self._fragments.get(key)
        new = self._fragment(key, state)
        self._refer(key, old, new, state)
        dirty_hosts |= self._hosts.replace(key, old, new)
        if old is not None:
            for owner in old.services if new is None else old.services - new.services:
                self._forget_service(owner, key)
            for upstream in old.uses:
                self._upstreams.release(upstream, key)
        if new is None:
            self._fragments.pop(key, None)
            self._verdicts.put(("object", key), ())
            return old is not None and old.catch_all is not None
        self._fragments[key] = new
        for owner in new.services:
            self._services.setdefault(owner, state.services.get(owner))
            self._named_by.setdefault(owner, set()).add(key)
        for upstream, use in new.uses.items():
            self._upstreams.use(upstream, key, use.spec)
            before = None if old is None else old.uses.get(upstream)
            if before is not None and before.spec != use.spec:
                stale.add(upstream)  # the same by key, with other content of a Secret
        self._verdicts.put(("object", key), new.verdicts)
        return new.catch_all is not None or (old is not None and old.catch_all is not None)

    def _fragment(self, key: NamespacedName, state: ClusterState) -> Fragment | None:
        """None for an Ingress that is gone or not ours, and where there is no default backend."""
        if key == _FALLBACK:
            return build_fallback(self._settings, state.services, self._options)
        if key == _TCP_SERVICES:
            return build_tcp_services(self._settings, state)
        ingress = state.ingresses.get(key)
        if ingress is None:
            self._ingresses.pop(key, None)
            self._serve(key, None)
            self._verdicts.put(("class", key), ())
            return None
        self._ingresses[key] = ingress
        claim = self._classes.claim(ingress)
        self._verdicts.put(("class", key), _class_verdicts(ingress) if claim is Claim.UNKNOWN_CLASS else ())
        if claim is not Claim.OURS:
            self._serve(key, None)
            return None
        self._serve(key, ingress.ref)
        context = Context(
            self._settings, self._options, self._parsers, objects_of(state), self._class_objects, self._tls.store
        )
        return build_fragment(ingress, state.services, context)

    def _serve(self, key: NamespacedName, ref: ObjectRef | None) -> None:
        if (key in self._served) == (ref is not None):
            return
        self._served_changed = True
        if ref is not None:
            self._served[key] = ref
        else:
            del self._served[key]

    def _refer(self, key: NamespacedName, old: Fragment | None, new: Fragment | None, state: ClusterState) -> None:
        before = frozenset[ObjectRef]() if old is None else old.references
        after = frozenset[ObjectRef]() if new is None else new.references
        if before == after:
            return
        self._references_changed = True
        find = objects_of(state)
        for ref in after - before:
            self._objects.setdefault(ref, find(ref))
            self._referrers.setdefault(ref, set()).add(key)
        for ref in before - after:
            referrers = self._referrers[ref]
            referrers.discard(key)
            if not referrers:
                del self._referrers[ref], self._objects[ref]
                self._tls.forget(ref)

    def _forget_service(self, owner: NamespacedName, ingress: NamespacedName) -> None:
        users = self._named_by[owner]
        users.discard(ingress)
        if not users:
            del self._named_by[owner]
            del self._services[owner]

    # ---- layer 2 ----

    def _replace_tcp_services(self, wanted: set[UpstreamKey]) -> bool:
        fragment = self._fragments.get(_TCP_SERVICES)
        old, new = self._tcp, fragment.tcp if isinstance(fragment, TCPFragment) else {}
        if new == old:
            return False
        self._upstreams.count((service.upstream for service in new.values()), +1, wanted)
        self._upstreams.count((service.upstream for service in old.values()), -1, wanted)
        self._tcp = new
        digests = {port: part_digest(_TCP, service) for port, service in new.items()}
        for port in old.keys() | new.keys():
            self._digest.replace(self._tcp_digests.get(port), digests.get(port))
        self._tcp_digests = digests
        return True

    # ---- the result ----

    def _publish(
        self, hosts_changed: bool, default_changed: bool, upstreams_changed: bool, others_changed: bool
    ) -> Compilation:
        last = self._result
        tls_changed = self._tls.changed()
        changed = hosts_changed or default_changed or upstreams_changed or others_changed or tls_changed
        if last is None or changed:
            # The dictionaries of a table that was handed out are never written to again.
            table = RoutingTable(
                id=self._digest.hexdigest(),
                hosts=self._hosts.hosts() if last is None or hosts_changed else last.table.hosts,
                aliases=self._hosts.aliases,
                upstreams=self._upstreams.upstreams() if last is None or upstreams_changed else last.table.upstreams,
                default=self._hosts.default,
                tcp_services=self._tcp,
                certificates=self._tls.certificates() if last is None or tls_changed else last.table.certificates,
                tls_hosts=self._tls.hosts() if last is None or tls_changed else last.table.tls_hosts,
                default_certificate=self._tls.default_certificate,
                settings=self._proxy,
            )
        else:
            table = last.table
        verdicts = self._verdicts.all()
        external_names = self._upstreams.external_names
        if self._served_changed or last is None:
            served = frozenset(self._served.values())
            self._served_changed = False
        else:
            served = last.served
        if self._references_changed or last is None:
            references = frozenset(self._objects) | self._tls.references | self._parsed_options.references
            self._references_changed = False
        else:
            references = last.references
        tcp = self._fragments.get(_TCP_SERVICES)
        tcp_namespaces = frozenset(namespace for namespace, _ in tcp.services) if tcp is not None else frozenset()
        uses = self._tls.uses() if last is None or tls_changed else last.certificates
        self._result = Compilation(table, verdicts, external_names, served, references, tcp_namespaces, uses)
        return self._result


def _class_verdicts(ingress: Ingress) -> tuple[Verdict, ...]:
    report = Report(str(ingress.ref), ingress.origin)
    report.warning(
        "spec.ingressClassName",
        VerdictReason.INGRESS_CLASS_NOT_FOUND,
        "There is no IngressClass of this name: the Ingress is not served.",
        ingress.spec.ingress_class_name or "",
    )
    return report.verdicts()


def _not_as_seen(seen: Mapping[NamespacedName, Ingress], now: Mapping[NamespacedName, Ingress]) -> set[NamespacedName]:
    """Keys whose object is another one, is new or is gone. Without a line of Python for an object: there may be 10,000, at every edit."""
    changed = set(compress(now, map(operator.is_not, map(seen.get, now), now.values())))
    if len(seen) + len(changed - seen.keys()) > len(now):
        changed |= seen.keys() - now.keys()
    return changed


def _same_objects(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    return len(a) == len(b) and all(b.get(name) is value for name, value in a.items())
