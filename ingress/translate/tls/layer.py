"""The compiler's memory of TLS: what each host came to, which certificates are in use, the default one. Kept up host by host."""

from collections.abc import Callable, Sequence

import msgspec

from ingress.config import TranslateSettings
from ingress.errors import VerdictReason
from ingress.model import Kind, KubernetesObject, ObjectRef
from ingress.routing.table import HostRoutes
from ingress.routing.tls import Certificate, CertificateKey, HostPattern, TLSHost
from ingress.translate.digest import TableDigest, part_digest
from ingress.translate.fragment import Fragment
from ingress.translate.options import Options
from ingress.translate.report import Report, VerdictBook
from ingress.translate.tls.hosts import (
    NO_TLS,
    CertificateUse,
    HostRules,
    HostTLS,
    is_special,
    merge_tls,
    wildcard_above,
)
from ingress.translate.tls.inspect import KeyPair, covers
from ingress.translate.tls.store import CertificateStore

_HOST, _DEFAULT = b"tls", b"default-tls"


def _inherited(wildcard: HostTLS) -> tuple[object, ...]:
    """What the hosts below a wildcard depend on."""
    return wildcard.certificate, wildcard.chosen, is_special(wildcard.host)


class TLSLayer:
    def __init__(
        self, settings: TranslateSettings, options: Options, digest: TableDigest, verdicts: VerdictBook
    ) -> None:
        self.store = CertificateStore()
        self._fallback: Certificate | None = settings.fallback_certificate
        self._https_port = settings.https_port
        self._options = options
        self._rules = HostRules(options, settings.https_port)
        self._digest = digest
        self._verdicts = verdicts
        self._merged: dict[HostPattern, HostTLS] = {}  # those with something to say
        self._digests: dict[HostPattern, bytes] = {}
        self._held: dict[CertificateKey, tuple[Certificate, int]] = {}  # and by how many hosts
        self._default_ref = (
            None if settings.default_certificate is None else ObjectRef(Kind.SECRET, *settings.default_certificate)
        )
        self.references: frozenset[ObjectRef] = (
            frozenset() if self._default_ref is None else frozenset((self._default_ref,))
        )
        self._default: Certificate | None = None
        self._default_pair: KeyPair | None = None
        self._default_digest: bytes | None = None
        self._changed = True
        self._changed_wildcards: set[HostPattern] = set()

    def use_options(self, options: Options) -> None:
        """Those in force. When they are others, all hosts have to be merged again."""
        if options is not self._options:
            self._options = options
            self._rules = HostRules(options, self._https_port)

    # ---- hosts ----

    def merge(self, routes: HostRoutes, fragments: Sequence[Fragment]) -> HostRoutes:
        """`routes` with what TLS adds to them. `fragments` in order of precedence; a wildcard comes before the hosts that it covers."""
        host = routes.host
        wildcard = wildcard_above(host)
        above = self._merged.get(wildcard) if wildcard is not None else None
        new = merge_tls(host, fragments, routes, above, self._rules)
        self._put(host, new)
        if new is NO_TLS:
            return routes
        return msgspec.structs.replace(
            routes, certificate=new.certificate, features=new.features, unmatched=new.unmatched
        )

    def remove(self, host: HostPattern) -> None:
        self._put(host, NO_TLS)

    def _put(self, host: HostPattern, new: HostTLS) -> None:
        old = self._merged.get(host, NO_TLS)
        if new is old or new == old:
            return
        for one in new.chosen:  # first, so that what stays never counts 0
            self._hold(one.pair.certificate, +1)
        for one in old.chosen:
            self._hold(one.pair.certificate, -1)
        self._verdicts.put(("tls", host), new.verdicts)
        if host.startswith("*.") and _inherited(old) != _inherited(new):
            self._changed_wildcards.add(host)
        if (old.host, old.uses) != (new.host, new.uses):
            self._changed = True
            digest = None if new.host is None else part_digest(_HOST, new.host)
            self._digest.replace(self._digests.pop(host, None), digest)
            if digest is not None:
                self._digests[host] = digest
        if new is NO_TLS:
            del self._merged[host]
        else:
            self._merged[host] = new

    def _hold(self, certificate: Certificate, by: int) -> None:
        held, count = self._held.get(certificate.key, (certificate, 0))
        if count + by:
            self._held[certificate.key] = held, count + by
        else:
            del self._held[certificate.key]

    def changed_wildcards(self) -> set[HostPattern]:
        """Those whose certificate is another one since the last call."""
        found, self._changed_wildcards = self._changed_wildcards, set()
        return found

    def is_certified(self, name: HostPattern, host: HostPattern) -> bool:
        """Whether the certificate that is configured for `host` is for `name` too."""
        merged = self._merged.get(host, NO_TLS)
        if merged.chosen or not merged.certificate or self._default_pair is None:
            return any(covers(one.pair.facts.names, name) for one in merged.chosen)
        return covers(self._default_pair.facts.names, name)

    def forget(self, secret: ObjectRef) -> None:
        """No Ingress names it any more."""
        if secret != self._default_ref:
            self.store.forget(secret)

    # ---- the default certificate ----

    def update_default(self, objects: Callable[[ObjectRef], KubernetesObject | None]) -> bool:
        """Look at its Secret again; True if it is another one."""
        pair: KeyPair | None = None
        ref = self._default_ref
        if ref is not None:
            report = Report(str(ref), "")
            found = self.store.find(ref, objects)
            pair = found.pair
            if found.why:
                instead = (
                    "a self-signed certificate is shown" if pair is None else "the one that it held before stays in use"
                )
                what = "There is no such Secret" if found.missing else f"It can't be used, {found.why}"
                reason = VerdictReason.SECRET_NOT_FOUND if found.missing else VerdictReason.INVALID_CERTIFICATE
                report.error(
                    "data", reason, f"{what}: {instead} to clients of hosts without a certificate of their own."
                )
            self._verdicts.put(("default certificate", ""), report.verdicts())
        default = self._fallback if pair is None else pair.certificate
        if default == self._default:
            return False
        self._changed = True
        self._default, self._default_pair = default, pair
        # The fallback is made anew at every start, and replicas with one configuration shall have one id.
        text = "" if default is None else "self-signed" if pair is None else default.key
        digest = part_digest(_DEFAULT, text) if text else None
        self._digest.replace(self._default_digest, digest)
        self._default_digest = digest
        return True

    @property
    def default_certificate(self) -> CertificateKey | None:
        return None if self._default is None else self._default.key

    # ---- the result ----

    def changed(self) -> bool:
        """Since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def certificates(self) -> dict[CertificateKey, Certificate]:
        found = {key: certificate for key, (certificate, _) in self._held.items()}
        if self._default is not None:
            found[self._default.key] = self._default
        return found

    def hosts(self) -> dict[HostPattern, TLSHost]:
        return {host: merged.host for host, merged in self._merged.items() if merged.host is not None}

    def uses(self) -> tuple[CertificateUse, ...]:
        """Sorted by host."""
        found = [use for host in sorted(self._merged) for use in self._merged[host].uses]
        if self._default_pair is not None and self._default_ref is not None:
            facts = self._default_pair.facts
            found.append(CertificateUse(HostPattern(""), self._default_ref, facts, str(self._default_ref), "data"))
        return tuple(found)
