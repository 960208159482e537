"""Warnings about certificates that are soon of no use. Pure: the time comes in."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.translate.report import shown
from ingress.translate.tls.hosts import CertificateUse

SOON = timedelta(days=10)  # as in ingress-nginx


def expiry_verdicts(uses: Iterable[CertificateUse], now: datetime) -> tuple[Verdict, ...]:
    """Sorted, each once. The same text every day, so that a certificate is reported once when it comes near and once when it is over."""
    found = set()
    for use in uses:
        problem = _problem(use, now)
        if problem:
            found.add(
                Verdict(
                    object=use.object,
                    field=use.field,
                    reason=VerdictReason.CERTIFICATE_EXPIRY,
                    message=f"The certificate in Secret {use.secret.name} {problem}.",
                    severity=Severity.WARNING,
                    value=shown(use.secret.name),
                    origin=use.origin,
                )
            )
    return tuple(sorted(found))


def _problem(use: CertificateUse, now: datetime) -> str:
    facts = use.facts
    if facts.not_after < now:
        return f"expired on {_day(facts.not_after)}: clients refuse it"
    if facts.not_before > now:
        return f"is not valid before {_day(facts.not_before)}: clients refuse it until then"
    return f"expires on {_day(facts.not_after)}" if facts.not_after < now + SOON else ""


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
