"""The tls section of one Ingress: which of its certificates is for which of its hosts.

As in ingress-nginx: an entry that lists the host decides; failing that, any entry whose certificate is for the host; failing that, the default
certificate. Only Secrets of the Ingress's own namespace. One thing more: several entries for one host with keys of different kinds are all served.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ingress.errors import VerdictReason
from ingress.model import Ingress, Kind, KubernetesObject, ObjectRef
from ingress.routing.tls import HostPattern
from ingress.translate.names import is_object_name
from ingress.translate.report import Report, shown
from ingress.translate.tls.inspect import KeyPair, covers
from ingress.translate.tls.store import CertificateStore

_NAMES_SHOWN = 5
_DEFAULT = "clients get the default certificate"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A key pair, its Secret, and the field that names it."""

    secret: ObjectRef
    pair: KeyPair
    field: str


@dataclass(frozen=True, slots=True)
class HostCertificates:
    """For one host. `chosen` has at most one of each kind of key; empty: the default certificate. `field` is where the host gets it from."""

    chosen: tuple[Chosen, ...]
    field: str = "spec.tls"


class SectionReader:
    def __init__(
        self,
        ingress: Ingress,
        store: CertificateStore,
        objects: Callable[[ObjectRef], KubernetesObject | None],
        report: Report,
    ) -> None:
        self._entries = ingress.spec.tls or ()
        self._namespace = ingress.metadata.namespace
        self._store = store
        self._objects = objects
        self._report = report
        self._found: dict[int, Chosen | None] = {}  # by position
        self._used: set[int] = set()

    def read(
        self, hosts: Iterable[HostPattern], besides: tuple[HostPattern, ...] = ()
    ) -> dict[HostPattern, HostCertificates]:
        """`hosts` are those of the Ingress's rules, `besides` other names for them (aliases, twins). Reports what is wrong with the section."""
        if not self._entries:
            return {}
        listed: dict[str, list[int]] = {}
        for position, entry in enumerate(self._entries):
            self._find(position)
            for host in entry.hosts:
                listed.setdefault(host.lower(), []).append(position)
        result = {}
        named = [host for host in hosts if host]
        for host in named:
            positions = listed.get(host)
            result[host] = self._by_certificate(host) if positions is None else self._by_entry(host, positions)
        self._report_unused(frozenset(named), besides)
        return result

    def _find(self, position: int) -> None:
        """Look the Secret of an entry up; the verdict on it, if there is one, is given once however many hosts it has."""
        entry, field = self._entries[position], f"spec.tls[{position}].secretName"
        self._found[position] = None
        name = entry.secret_name
        if not name:
            return
        if not is_object_name(name):
            self._report.error(
                field, VerdictReason.INVALID_FIELD, f"It is not the name of a Secret: {_DEFAULT} for its hosts.", name
            )
            return
        ref = ObjectRef(Kind.SECRET, self._namespace, name)
        found = self._store.find(ref, self._objects)
        if found.why:
            instead = (
                f"{_DEFAULT} for its hosts"
                if found.pair is None
                else "the certificate that it held before stays in use"
            )
            reason = VerdictReason.SECRET_NOT_FOUND if found.missing else VerdictReason.INVALID_CERTIFICATE
            what = found.why if found.missing else f"Secret {shown(name)} can't be used, {found.why}"
            self._report.error(field, reason, f"{what[:1].upper()}{what[1:]}: {instead}.", name)
        if found.pair is not None:
            for remark in found.pair.remarks:
                self._report.warning(field, VerdictReason.INVALID_CERTIFICATE, remark, name)
            self._found[position] = Chosen(ref, found.pair, field)

    def _by_entry(self, host: HostPattern, positions: list[int]) -> HostCertificates:
        good: list[Chosen] = []
        first = positions[0]
        field = f"spec.tls[{first}]"
        for position in positions:
            self._used.add(position)
            chosen = self._found[position]
            if chosen is None:
                continue
            if covers(chosen.pair.facts.names, host):
                good.append(chosen)
                continue
            names = ", ".join(chosen.pair.facts.names[:_NAMES_SHOWN]) or "no host at all"
            more = ", …" if len(chosen.pair.facts.names) > _NAMES_SHOWN else ""
            self._report.error(
                f"spec.tls[{position}].hosts",
                VerdictReason.INVALID_CERTIFICATE,
                f"The certificate in Secret {chosen.secret.name} is not for this host, but for {shown(names + more, 300)}: {_DEFAULT}.",
                host,
            )
        return HostCertificates(_one_of_a_kind(good), field)

    def _by_certificate(self, host: HostPattern) -> HostCertificates:
        good = []
        for position, chosen in self._found.items():
            if chosen is not None and covers(chosen.pair.facts.names, host):
                good.append(chosen)
                self._used.add(position)
        if not good:
            self._report.warning(
                "spec.tls",
                VerdictReason.INVALID_CERTIFICATE,
                f"No entry lists this host, and no certificate is for it: {_DEFAULT}.",
                host,
            )
        return HostCertificates(_one_of_a_kind(good), good[0].field if good else "spec.tls")

    def _report_unused(self, hosts: frozenset[HostPattern], besides: tuple[HostPattern, ...]) -> None:
        for position, entry in enumerate(self._entries):
            for index, text in enumerate(entry.hosts):
                name = text.lower()
                other_name = covers(besides, name)
                if name in hosts or (
                    position in self._used and (other_name or any(covers((name,), host) for host in hosts))
                ):
                    continue
                if other_name:
                    why = "It is another name of a host of the Ingress, and clients get the certificate of that host."
                else:
                    why = "No rule of the Ingress has this host: nothing is served for it."
                self._report.warning(f"spec.tls[{position}].hosts[{index}]", VerdictReason.INVALID_FIELD, why, text)
            if not entry.hosts and position not in self._used and self._found[position] is not None:
                self._report.warning(
                    f"spec.tls[{position}]",
                    VerdictReason.INVALID_FIELD,
                    f"Its certificate is for no host of the Ingress's rules, so it is not used: {_DEFAULT}. Rules without a host have no other.",
                    entry.secret_name,
                )


def _one_of_a_kind(chosen: list[Chosen]) -> tuple[Chosen, ...]:
    """The first of each kind of key."""
    kinds: dict[str, Chosen] = {}
    for one in chosen:
        kinds.setdefault(one.pair.facts.key_algorithm, one)
    return tuple(kinds.values())
