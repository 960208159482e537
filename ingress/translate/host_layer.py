"""The compiler's memory of hosts: which fragments have each, what it came to, its other names, and who answers for all others. Kept up host
by host."""

from collections.abc import Iterable

import msgspec

from ingress.model import ClusterState
from ingress.model.cluster import NamespacedName
from ingress.routing.table import HostAlias, HostPattern, HostRoutes, Route, UpstreamKey
from ingress.translate.conflicts import by_precedence, choose_catch_all, merge_host
from ingress.translate.derived import derive_hosts
from ingress.translate.digest import TableDigest, part_digest
from ingress.translate.fragment import Fragment
from ingress.translate.options import Options
from ingress.translate.report import VerdictBook
from ingress.translate.tls.hosts import wildcard_above
from ingress.translate.tls.layer import TLSLayer
from ingress.translate.upstream_layer import UpstreamLayer

_HOST, _DEFAULT, _ALIAS = b"host", b"default", b"alias"


class HostLayer:
    def __init__(
        self,
        options: Options,
        digest: TableDigest,
        verdicts: VerdictBook,
        tls: TLSLayer,
        upstreams: UpstreamLayer,
    ) -> None:
        self._options = options
        self._digest = digest
        self._verdicts = verdicts
        self._tls = tls
        self._upstreams = upstreams
        self._members: dict[HostPattern, dict[NamespacedName, Fragment]] = {}
        self._hosts: dict[HostPattern, HostRoutes] = {}
        self._host_digests: dict[HostPattern, bytes] = {}
        self._deriving: dict[NamespacedName, Fragment] = {}  # that ask for hosts besides those of rules
        self.aliases: dict[HostPattern, HostAlias] = {}
        self._twins: dict[HostPattern, HostRoutes] = {}
        self._derived_digests: dict[tuple[bytes, HostPattern], bytes] = {}
        self._claimants: dict[NamespacedName, Fragment] = {}  # of the catch-all
        self.default: Route | None = None
        self._default_digest: bytes | None = None

    def use_options(self, options: Options) -> None:
        """What is put together from now on is by these."""
        self._options = options

    def hosts(self) -> dict[HostPattern, HostRoutes]:
        """A copy: a table that was handed out is never written to again."""
        return {**self._hosts, **self._twins}

    @property
    def is_contested(self) -> bool:
        """Whether there are several claims on the catch-all."""
        return len(self._claimants) > 1

    def replace(self, key: NamespacedName, old: Fragment | None, new: Fragment | None) -> set[HostPattern]:
        """Take `new` (None: it is gone) in place of `old`; the hosts concerned."""
        dirty: set[HostPattern] = set()
        if old is not None:
            for host in old.hosts:
                dirty.add(host)
                if new is None or host not in new.hosts:
                    del self._members[host][key]
            self._claimants.pop(key, None)
            self._deriving.pop(key, None)
        if new is None:
            return dirty
        for host in new.hosts:
            dirty.add(host)
            self._members.setdefault(host, {})[key] = new
        if new.catch_all is not None:
            self._claimants[key] = new
        if new.canary is None and (new.ask.aliases or new.ask.www_twin):
            self._deriving[key] = new
        return dirty

    def merge(self, dirty: Iterable[HostPattern], wanted: set[UpstreamKey]) -> bool:
        """Put hosts together anew; True if any came out differently. Upstreams that came or went are added to `wanted`."""
        self._tls.use_options(self._options)
        wildcards, exact = [], set()
        for host in dirty:
            if host.startswith("*."):
                wildcards.append(host)
            else:
                exact.add(host)
        changed = self._merge(wildcards, wanted)
        below = self._tls.changed_wildcards()
        if below:  # whoever has no certificate of its own shows that of its wildcard
            exact |= {host for host in self._members if wildcard_above(host) in below}
        return self._merge(exact, wanted) or changed

    def _merge(self, hosts: Iterable[HostPattern], wanted: set[UpstreamKey]) -> bool:
        changed = False
        for host in hosts:
            members = self._members[host]
            old = self._hosts.get(host)
            if members:
                fragments = by_precedence(members.values())
                merged = merge_host(host, fragments)
                new: HostRoutes | None = None
                if merged.routes is not None:
                    new = self._tls.merge(merged.routes, [f for f in fragments if f.canary is None])
                else:
                    self._tls.remove(host)
                self._upstreams.derive(merged.derived, wanted)
                self._verdicts.put(("host", host), merged.verdicts)
            else:
                del self._members[host]
                new = None
                self._tls.remove(host)
                self._verdicts.put(("host", host), ())
            if new == old:
                continue
            changed = True
            self._upstreams.count(_upstreams_of_host(new), +1, wanted)  # first, so that what stays never counts 0
            self._upstreams.count(_upstreams_of_host(old), -1, wanted)
            if new is None:
                del self._hosts[host]
                self._digest.replace(self._host_digests.pop(host, None), None)
            else:
                self._hosts[host] = new
                digest = part_digest(_HOST, new)
                self._digest.replace(self._host_digests.get(host), digest)
                self._host_digests[host] = digest
        return changed

    def derive(self) -> bool:
        """Aliases and twins, all anew: few Ingresses ask for them, and each depends on which hosts there are."""
        if not (self._deriving or self.aliases or self._twins or ("derived", "") in self._verdicts):
            return False
        derived = derive_hosts(self._deriving.values(), self._hosts, self._options.http_redirect_code)
        self._verdicts.put(("derived", ""), tuple(derived.verdicts))
        derived.aliases = {
            name: msgspec.structs.replace(alias, certificate=self._tls.is_certified(name, alias.host))
            for name, alias in derived.aliases.items()
        }
        if derived.aliases == self.aliases and derived.twins == self._twins:
            return False
        digests = {(_ALIAS, name): part_digest(_ALIAS, alias) for name, alias in derived.aliases.items()}
        digests |= {(_HOST, name): part_digest(_HOST, routes) for name, routes in derived.twins.items()}
        for key in digests.keys() | self._derived_digests.keys():
            self._digest.replace(self._derived_digests.get(key), digests.get(key))
        self.aliases, self._twins, self._derived_digests = derived.aliases, derived.twins, digests
        return True

    def choose_catch_all(self, fallback_key: NamespacedName, wanted: set[UpstreamKey], state: ClusterState) -> bool:
        """`fallback_key`: whose claim counts where there is no other."""
        fallback = self._claimants.get(fallback_key)
        default, verdicts = choose_catch_all(
            (f for key, f in self._claimants.items() if key != fallback_key),
            lambda fragment: self._is_served(fragment, state),
        )
        self._verdicts.put(("catch-all", ""), verdicts)
        if default is None and fallback is not None and fallback.catch_all is not None:
            default = fallback.catch_all.route
        if default == self.default:
            return False
        self._upstreams.count(_upstreams_of_route(default), +1, wanted)
        self._upstreams.count(_upstreams_of_route(self.default), -1, wanted)
        self.default = default
        digest = part_digest(_DEFAULT, default) if default is not None else None
        self._digest.replace(self._default_digest, digest)
        self._default_digest = digest
        return True

    def _is_served(self, fragment: Fragment, state: ClusterState) -> bool:
        """Whether there is an endpoint behind its claim on the catch-all."""
        route = fragment.catch_all.route if fragment.catch_all is not None else None
        use = fragment.uses.get(route.upstream) if route is not None and route.upstream is not None else None
        return use is not None and self._upstreams.has_endpoints(use.spec, state)


def _upstreams_of_host(host: HostRoutes | None) -> Iterable[UpstreamKey]:
    if host is None:
        return
    for route in host.routes:
        yield from _upstreams_of_route(route)
        for canary in route.canaries:
            yield from _upstreams_of_route(canary.route)
    yield from _upstreams_of_route(host.default)


def _upstreams_of_route(route: Route | None) -> Iterable[UpstreamKey]:
    if route is None:
        return
    if route.upstream is not None:
        yield route.upstream
    if route.fallback is not None:
        yield from route.fallback.upstreams
        if route.fallback.stand_in is not None:
            yield route.fallback.stand_in
