"""One host, all Ingresses that have it: its certificate, who has to show one, what plain HTTP gets. The oldest Ingress decides each of these.

The layer of the compiler beside routes: it is put together again with them, and only then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.model import ObjectRef
from ingress.routing.https import CLIENT_CERTIFICATE, HSTS, RedirectWhen, StrictTransport, TLSRedirect
from ingress.routing.table import Feature, HostRoutes, PathType
from ingress.routing.tls import HostPattern, TLSHost
from ingress.translate.annotations.tls import ClientAsk, default_redirect, redirect_feature
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
    client: tuple[Fragment, ClientAsk] | None = None
    redirect: TLSRedirect | None = None
    ciphers, prefer, passthrough = "", None, False
    closed_for: list[str] = []
    verdicts: list[Verdict] = []
    for position, fragment in enumerate(fragments):
        ask = fragment.tls_ask
        if position == 0:
            redirect = ask.redirect
        ciphers = ciphers or ask.ciphers
        if prefer is None:
            prefer = ask.prefer_server_ciphers
        if ask.passthrough:
            passthrough = True
        if ask.client is not None:
            if client is None:
                client = fragment, ask.client
            elif (ask.client.policy, ask.client.auth) != (client[1].policy, client[1].auth):
                closed_for.append(fragment.name)
                verdicts.append(_client_conflict(fragment, ask.client, client[0]))
        own = fragment.certificates.get(host)
        if own is None:
            continue
        if holder is None:
            holder = fragment, own
        elif own.chosen and _keys(own) != _keys(holder[1]):
            verdicts.append(_certificate_conflict(host, fragment, own, holder))
    inherited = above is not None and above.certificate
    if holder is None and client is None and not (ciphers or passthrough or prefer is not None or redirect):
        if inherited or rules.forced:
            return HostTLS(certificate=inherited, features=rules.features(certificate=inherited))
        return NO_TLS
    chosen = holder[1].chosen if holder is not None else above.chosen if above is not None else ()
    certificate = holder is not None or inherited
    features = rules.features(certificate=certificate)
    auth = None
    if client is not None:
        policy = msgspec.structs.replace(client[1].policy, closed_for=tuple(closed_for))
        features = (Feature(CLIENT_CERTIFICATE, msgspec.to_builtins(policy)), *features)
        auth = client[1].auth
    through = ""
    if passthrough:
        through = _root_upstream(routes)
        if not through:
            verdicts.append(_no_root(host, next(f for f in fragments if f.tls_ask.passthrough)))
    tls_host = None
    if holder is not None or auth is not None or ciphers or prefer is not None or through:
        keys = tuple(one.pair.certificate.key for one in chosen)
        tls_host = TLSHost(host, keys, auth, ciphers, prefer, through)
    return HostTLS(
        tls_host,
        certificate,
        features,
        () if redirect is None else (redirect_feature(redirect),),
        chosen,
        () if holder is None else tuple(_use(host, holder[0], one) for one in chosen),
        tuple(verdicts),
    )


def _keys(certificates: HostCertificates) -> frozenset[str]:
    return frozenset(one.pair.certificate.key for one in certificates.chosen)


def _use(host: HostPattern, fragment: Fragment, one: Chosen) -> CertificateUse:
    return CertificateUse(host, one.secret, one.pair.facts, str(fragment.ref), one.field, fragment.origin)


def _root_upstream(routes: HostRoutes) -> str:
    """Only path `/` counts for what is passed through, as in ingress-nginx."""
    found = {route.path_type: route.upstream for route in routes.routes if route.path == "/"}
    return found.get(PathType.PREFIX) or found.get(PathType.EXACT) or ""


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


def _client_conflict(loser: Fragment, ask: ClientAsk, winner: Fragment) -> Verdict:
    return _verdict(
        loser,
        f"metadata.annotations[{ask.key}]",
        VerdictReason.CONFLICT,
        f"Another rule about client certificates holds for a host of it ({why_lost(winner, loser)}), so this one can't be kept: its own paths"
        " there are answered with 403, because access rules must not fail open.",
        "",
    )


def _no_root(host: HostPattern, fragment: Fragment) -> Verdict:
    return _verdict(
        fragment,
        f"metadata.annotations[{fragment.tls_ask.passthrough}]",
        VerdictReason.INVALID_ANNOTATION,
        "TLS is terminated here, because only path / is passed through, and the host has none with a Service.",
        host,
    )
