"""One host, all Ingresses that have it: its certificate, who has to show one, what plain HTTP gets. The oldest Ingress decides each of these.

The layer of the compiler beside routes: it is put together again with them, and only then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.model import ObjectRef
from ingress.routing.https import CLIENT_CERTIFICATE, HSTS, NO_RULE, ClientCertificate, RedirectWhen, StrictTransport
from ingress.routing.table import Feature, HostRoutes, PathType
from ingress.routing.tls import ClientAuth, HostPattern, TLSHost
from ingress.translate.annotations.tls import NO_ASK, ClientAsk, default_redirect, redirect_feature
from ingress.translate.conflicts import why_lost
from ingress.translate.fragment import Fragment
from ingress.translate.report import shown
from ingress.translate.tls.inspect import CertificateFacts
from ingress.translate.tls.section import Chosen, HostCertificates


@dataclass(frozen=True, slots=True)
class CertificateUse:
    """A certificate that some host shows. `object` and `field` say who asked for it. `host` empty: the default certificate."""

    host: HostPattern
    secret: ObjectRef
    facts: CertificateFacts
    object: str
    field: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class HostTLS:
    """`certificate`: one is configured for the host, its own, its wildcard's or the default one: plain HTTP may be redirected, and HSTS is sent.

    `features` act on everything of the host, `unmatched` in place of those of the same name on what no route of it takes.
    """

    host: TLSHost | None = None
    certificate: bool = False
    features: tuple[Feature, ...] = ()
    unmatched: tuple[Feature, ...] = ()
    chosen: tuple[Chosen, ...] = ()
    uses: tuple[CertificateUse, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


NO_TLS = HostTLS()


class HostRules:
    """What the options say about all hosts, prepared once."""

    def __init__(self, options: Any, https_port: int) -> None:
        self.redirect = default_redirect(options, https_port)
        self._redirect = redirect_feature(self.redirect)
        parts = [f"max-age={options.hsts_max_age_s}"]
        if options.hsts_include_subdomains:
            parts.append("includeSubDomains")
        if options.hsts_preload:
            parts.append("preload")
        self._hsts = Feature(HSTS, msgspec.to_builtins(StrictTransport("; ".join(parts)))) if options.hsts else None
        self.forced = self.redirect.when is RedirectWhen.ALWAYS

    def features(self, *, certificate: bool) -> tuple[Feature, ...]:
        redirected = self.forced or (certificate and self.redirect.when is RedirectWhen.CERTIFICATE)
        found = [self._redirect] if redirected else []
        if certificate and self._hsts is not None:
            found.append(self._hsts)
        return tuple(found)


def wildcard_above(host: HostPattern) -> HostPattern | None:
    """The wildcard that stands in for `host` where it has no certificate of its own."""
    label, dot, parent = host.partition(".")
    return HostPattern(f"*.{parent}") if dot and label != "*" else None


def merge_tls(
    host: HostPattern, fragments: Sequence[Fragment], routes: HostRoutes, above: HostTLS | None, rules: HostRules
) -> HostTLS:
    """`fragments` are those that have the host, in order of precedence; `above` is what its wildcard came to."""
    holder: tuple[Fragment, HostCertificates] | None = None
    verdicts: list[Verdict] = []
    asked = False
    for fragment in fragments:
        asked = asked or fragment.tls_ask is not NO_ASK
        own = fragment.certificates.get(host)
        if own is None:
            continue
        if holder is None:
            holder = fragment, own
        elif own.chosen and _keys(own) != _keys(holder[1]):
            verdicts.append(_certificate_conflict(host, fragment, own, holder))
    if holder is None and not asked and above is None:
        return HostTLS(features=rules.features(certificate=False)) if rules.forced else NO_TLS
    above = above or NO_TLS
    chosen = holder[1].chosen if holder is not None else above.chosen
    certificate = holder is not None or above.certificate
    features = rules.features(certificate=certificate)
    rule, auth = _client_rule(host, fragments, verdicts) if asked else (None, None)
    if rule is not None:
        features = (Feature(CLIENT_CERTIFICATE, msgspec.to_builtins(rule)), *features)
    ciphers, prefer = _server_options(fragments) if asked else ("", None)
    through = _passthrough(host, fragments, routes, verdicts) if asked else ""
    keys = tuple(one.pair.certificate.key for one in chosen)
    tls_host: TLSHost | None = TLSHost(host, keys, auth, ciphers, prefer, through)
    if holder is None and not is_special(tls_host) and not is_special(above.host):
        tls_host = None  # a look-up of the name ends at the wildcard, which says the same
    redirect = fragments[0].tls_ask.redirect
    unmatched = () if redirect is None else (redirect_feature(redirect),)
    uses = () if holder is None else tuple(_use(host, holder[0], one) for one in chosen)
    return HostTLS(
        tls_host, certificate, features, unmatched, () if tls_host is None else chosen, uses, tuple(verdicts)
    )


def is_special(host: TLSHost | None) -> bool:
    """Whether there is more to it than certificates."""
    return host is not None and host != TLSHost(host.host, host.certificates)


def _of_owner(fragments: Sequence[Fragment]) -> Sequence[Fragment]:
    """Those of the namespace that had the host first. Others share its certificate and its paths, but weaken or close nothing for it."""
    return [fragment for fragment in fragments if fragment.ref.namespace == fragments[0].ref.namespace]


def _client_rule(
    host: HostPattern, fragments: Sequence[Fragment], verdicts: list[Verdict]
) -> tuple[ClientCertificate | None, ClientAuth | None]:
    """The oldest rule of the owner's namespace holds for all paths; whoever has another one finds its own paths closed."""
    winner = next(((f, f.tls_ask.client) for f in _of_owner(fragments) if f.tls_ask.client is not None), None)
    closed_for = []
    for fragment in fragments:
        ask = fragment.tls_ask.client
        if ask is None or (winner is not None and (ask.policy, ask.auth) == (winner[1].policy, winner[1].auth)):
            continue
        closed_for.append(fragment.name)
        if winner is not None:
            why = f"the rule of another Ingress holds for this host: {why_lost(winner[0], fragment)}"
        else:
            why = f"this host belongs to another namespace: {why_lost(fragments[0], fragment)}"
        verdicts.append(_client_conflict(host, fragment, ask, why))
    if winner is None:
        return (ClientCertificate(NO_RULE, closed_for=tuple(closed_for)) if closed_for else None), None
    return msgspec.structs.replace(winner[1].policy, closed_for=tuple(closed_for)), winner[1].auth


def _server_options(fragments: Sequence[Fragment]) -> tuple[str, bool | None]:
    """Ciphers and who prefers them: each from the oldest that says so."""
    asks = [fragment.tls_ask for fragment in _of_owner(fragments)]
    ciphers = next((ask.ciphers for ask in asks if ask.ciphers), "")
    return ciphers, next((a.prefer_server_ciphers for a in asks if a.prefer_server_ciphers is not None), None)


def _passthrough(host: HostPattern, fragments: Sequence[Fragment], routes: HostRoutes, verdicts: list[Verdict]) -> str:
    """The upstream that TLS connections go to. Only path `/` counts, as in ingress-nginx, and only its own Ingress can ask for it."""
    asking = {fragment.name: fragment for fragment in fragments if fragment.tls_ask.passthrough}
    if not asking:
        return ""
    roots = {route.path_type: route for route in routes.routes if route.path == "/" and route.upstream is not None}
    root = roots.get(PathType.PREFIX) or roots.get(PathType.EXACT)
    through = "" if root is None or f"{root.namespace}/{root.ingress}" not in asking else str(root.upstream)
    if not through:
        fragment = next(iter(asking.values()))
        verdicts.append(
            _verdict(
                fragment,
                f"metadata.annotations[{fragment.tls_ask.passthrough}]",
                VerdictReason.INVALID_ANNOTATION,
                "TLS is terminated here: only path / is passed through, and this Ingress has none with a Service for the host.",
                host,
            )
        )
    return through


def _keys(certificates: HostCertificates) -> frozenset[str]:
    return frozenset(one.pair.certificate.key for one in certificates.chosen)


def _use(host: HostPattern, fragment: Fragment, one: Chosen) -> CertificateUse:
    return CertificateUse(host, one.secret, one.pair.facts, str(fragment.ref), one.field, fragment.origin)


def _verdict(fragment: Fragment, field: str, reason: VerdictReason, message: str, value: object) -> Verdict:
    return Verdict(
        object=str(fragment.ref),
        field=field,
        reason=reason,
        message=message,
        severity=Severity.ERROR,
        value=shown(value),
        origin=fragment.origin,
    )


def _certificate_conflict(
    host: HostPattern, loser: Fragment, own: HostCertificates, holder: tuple[Fragment, HostCertificates]
) -> Verdict:
    why = why_lost(holder[0], loser)
    return _verdict(
        loser,
        own.field,
        VerdictReason.CONFLICT,
        f"Its certificate is not used for this host: {why}.",
        host,
    )


def _client_conflict(host: HostPattern, loser: Fragment, ask: ClientAsk, why: str) -> Verdict:
    return _verdict(
        loser,
        f"metadata.annotations[{ask.key}]",
        VerdictReason.CONFLICT,
        f"Its own paths are answered with 403, because access rules must not fail open: {why}.",
        host,
    )
