"""The compiler's memory of upstreams: who names each, what each was built from, and what it came to. Kept up upstream by upstream."""

from collections.abc import Iterable, KeysView, Mapping

from ingress.config import TranslateSettings
from ingress.errors import Severity, Verdict, VerdictReason
from ingress.model import ClusterState, Endpoints, EndpointSlice, Kind
from ingress.model.cluster import NamespacedName
from ingress.routing.table import Upstream, UpstreamKey
from ingress.translate.backends import BuiltUpstream, UpstreamSpec, build_upstream
from ingress.translate.digest import TableDigest, part_digest
from ingress.translate.fragment import Fragment
from ingress.translate.options import Options
from ingress.translate.report import Report, VerdictBook, shown

_UPSTREAM = b"upstream"
_NOTHING = BuiltUpstream(Upstream(UpstreamKey(""), "", "", ""))


class UpstreamLayer:
    def __init__(
        self, settings: TranslateSettings, options: Options, digest: TableDigest, verdicts: VerdictBook
    ) -> None:
        self._settings = settings
        self._options = options
        self._digest = digest
        self._verdicts = verdicts
        self._references: dict[UpstreamKey, int] = {}  # how often hosts and the catch-all name it
        # Ingresses that name it, even if they lost their paths; and as what
        self._users: dict[UpstreamKey, dict[NamespacedName, UpstreamSpec]] = {}
        self._derived: dict[UpstreamKey, UpstreamSpec] = {}  # of upstreams that no fragment names (`canaries`)
        self._built: dict[UpstreamKey, BuiltUpstream] = {}
        self._upstreams: dict[UpstreamKey, Upstream] = {}
        self._upstream_digests: dict[UpstreamKey, bytes] = {}
        self._by_service: dict[NamespacedName, set[UpstreamKey]] = {}
        self._backing: dict[NamespacedName, tuple[tuple[EndpointSlice, ...], Endpoints | None]] = {}
        self._by_external_name: dict[str, set[UpstreamKey]] = {}
        self._addresses: dict[str, tuple[str, ...] | None] = {}

    def use_options(self, options: Options) -> None:
        """What is built from now on is built by these."""
        self._options = options

    @property
    def keys(self) -> KeysView[UpstreamKey]:
        """Of all that are built."""
        return self._built.keys()

    @property
    def external_names(self) -> frozenset[str]:
        return frozenset(self._by_external_name)

    def upstreams(self) -> dict[UpstreamKey, Upstream]:
        """A copy: a table that was handed out is never written to again."""
        return dict(self._upstreams)

    # ---- who names them ----

    def use(self, key: UpstreamKey, ingress: NamespacedName, spec: UpstreamSpec) -> None:
        self._users.setdefault(key, {})[ingress] = spec

    def release(self, key: UpstreamKey, ingress: NamespacedName) -> None:
        users = self._users[key]
        users.pop(ingress, None)
        if not users:
            del self._users[key]

    def derive(self, specs: Mapping[UpstreamKey, UpstreamSpec], wanted: set[UpstreamKey]) -> None:
        """Take upstreams that no fragment names; those that are new or differ go into `wanted`: the same by key may have other content of a
        Secret."""
        wanted |= {key for key, spec in specs.items() if self._derived.get(key, spec) != spec}
        self._derived.update(specs)

    def count(self, upstreams: Iterable[UpstreamKey], by: int, wanted: set[UpstreamKey]) -> None:
        """Count references; those that appear or disappear go into `wanted`."""
        references = self._references
        for key in upstreams:
            count = references.get(key, 0) + by
            references[key] = count
            if count == 0 or (count == 1 and by == 1):
                wanted.add(key)

    # ---- what changed ----

    def changed(
        self,
        state: ClusterState,
        kinds: set[Kind] | None,
        services: Iterable[NamespacedName],
        resolved_changed: frozenset[str],
        *,
        unknown: bool,
    ) -> set[UpstreamKey]:
        stale: set[UpstreamKey] = set()
        for owner in services:
            stale |= self._by_service.get(owner, set())
        if kinds is None or Kind.ENDPOINTS in kinds or Kind.ENDPOINT_SLICE in kinds:
            for owner, (slices, endpoints) in self._backing.items():
                new_slices = state.slices.get(owner, ())
                new_endpoints = state.endpoints.get(owner)
                if new_endpoints is not endpoints or not _same_items(new_slices, slices):
                    self._backing[owner] = (new_slices, new_endpoints)
                    stale |= self._by_service[owner]
        if unknown or resolved_changed:
            for name, addresses in self._addresses.items():
                new_addresses = state.resolved.get(name)
                if new_addresses != addresses:
                    self._addresses[name] = new_addresses
                    stale |= self._by_external_name[name]
        return stale

    # ---- building ----

    def update(self, state: ClusterState, keys: Iterable[UpstreamKey], recheck: set[NamespacedName]) -> bool:
        """Build those of `keys` anew that something names, and forget the others; True if any of them came out differently. Users of those
        that lost or gained their last endpoint go into `recheck`."""
        changed = False
        for key in keys:
            old = self._built.get(key)
            new = self._build(key, state) if self._references.get(key) else None
            if new is None:
                self._references.pop(key, None)
                self._derived.pop(key, None)
            if old is None and new is None:
                continue
            if (old.why_empty if old is not None else None) != (new.why_empty if new is not None else None):
                recheck.update(self._users.get(key, ()))
            self._index(key, old, new, state)
            self._verdicts.put(("upstream", key), new.verdicts if new is not None else ())
            if new is None:
                changed = True
                del self._built[key], self._upstreams[key]
                self._digest.replace(self._upstream_digests.pop(key), None)
                continue
            self._built[key] = new
            if old is None or old.upstream != new.upstream:
                changed = True
                self._upstreams[key] = new.upstream
                digest = part_digest(_UPSTREAM, new.upstream)
                self._digest.replace(self._upstream_digests.get(key), digest)
                self._upstream_digests[key] = digest
        return changed

    def _build(self, key: UpstreamKey, state: ClusterState) -> BuiltUpstream | None:
        users = self._users.get(key)
        spec = next(iter(users.values())) if users else self._derived.get(key)
        if spec is None:
            return None
        try:
            return build_upstream(spec, state, self._settings, self._options)
        except Exception as e:
            report = Report(f"Service {spec.namespace}/{spec.service}", "")
            report.error(
                "",
                VerdictReason.INVALID_OBJECT,
                f"It is without endpoints, because compiling it failed ({type(e).__name__}). This is a bug of the controller.",
            )
            upstream = Upstream(key, spec.namespace, spec.service, spec.port)
            return BuiltUpstream(upstream, report.verdicts(), "could not be compiled")

    def has_endpoints(self, spec: UpstreamSpec, state: ClusterState) -> bool:
        """Whether it would have any."""
        try:
            return bool(build_upstream(spec, state, self._settings, self._options).upstream.endpoints)
        except Exception:  # a bug of ours: it is met where the upstream is built too, and reported there
            return False

    def _index(
        self, key: UpstreamKey, old: BuiltUpstream | None, new: BuiltUpstream | None, state: ClusterState
    ) -> None:
        """Keep up who has to be built again when endpoints or addresses change."""
        upstream = (new or old or _NOTHING).upstream
        owner = (upstream.namespace, upstream.service)
        if old is None:
            self._by_service.setdefault(owner, set()).add(key)
            self._backing.setdefault(owner, (state.slices.get(owner, ()), state.endpoints.get(owner)))
        if new is None:
            keys = self._by_service[owner]
            keys.discard(key)
            if not keys:
                del self._by_service[owner], self._backing[owner]
        old_name = old.external_name if old is not None else ""
        new_name = new.external_name if new is not None else ""
        if old_name and old_name != new_name:
            keys = self._by_external_name[old_name]
            keys.discard(key)
            if not keys:
                del self._by_external_name[old_name], self._addresses[old_name]
        if new_name:
            self._by_external_name.setdefault(new_name, set()).add(key)
            self._addresses.setdefault(new_name, state.resolved.get(new_name))

    def report_empty(self, key: NamespacedName, fragment: Fragment | None) -> None:
        """A warning for each Service port that an Ingress uses and that has no endpoints."""
        verdicts: list[Verdict] = []
        for upstream, use in fragment.uses.items() if fragment is not None else ():
            built = self._built.get(upstream)
            if fragment is not None and built is not None and built.why_empty and use.consequence:
                verdicts.append(
                    Verdict(
                        object=str(fragment.ref),
                        field=use.field,
                        reason=VerdictReason.NO_ENDPOINTS,
                        message=f"{use.consequence}: Service {use.spec.service} {built.why_empty}.",
                        severity=Severity.WARNING,
                        value=shown(f"{use.spec.service}:{use.spec.port}"),
                        origin=fragment.origin,
                    )
                )
        self._verdicts.put(("empty", key), tuple(verdicts))


def _same_items(a: tuple[EndpointSlice, ...], b: tuple[EndpointSlice, ...]) -> bool:
    return a is b or (len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True)))
