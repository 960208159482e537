"""Annotations of one Ingress -> `AnnotationPolicy` and verdicts. Never raises for any text.

A value that can't be used costs only itself: the default is used and a verdict names the annotation and the bad part. Access rules that
can't be kept close the routes of their Ingress instead: they must not fail open.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from ingress.config import NGINX_ANNOTATIONS, OWN_ANNOTATIONS
from ingress.errors import VerdictReason
from ingress.routing.table import (
    CookieAffinity,
    CookieMode,
    LoadBalance,
    RetryOn,
    TrafficPolicy,
    UpstreamProtocol,
)
from ingress.translate.annotations import backend, hosts, values
from ingress.translate.annotations.canary import read_canary
from ingress.translate.annotations.default_backend import NAMES as FALLBACK_NAMES
from ingress.translate.annotations.default_backend import read_fallback
from ingress.translate.annotations.hash_key import parse_hash_key
from ingress.translate.annotations.known import INSTEAD, KNOWN, SNIPPETS, Handling, lookup
from ingress.translate.annotations.policy import (
    DEFAULT_ASK,
    NO_ANNOTATIONS,
    AnnotationPolicy,
    UpstreamAsk,
)
from ingress.translate.annotations.risks import RISKS
from ingress.translate.annotations.snippets import access_directive
from ingress.translate.annotations.tls import ACCESS as TLS_ACCESS
from ingress.translate.annotations.tls import CLOSED, NEVER_REDIRECTED, parse_tls_ask, redirect_feature
from ingress.translate.annotations.tls import NAMES as TLS_NAMES
from ingress.translate.context import NO_CONTEXT, Context
from ingress.translate.features import AnnotationReader, FeatureParser, field_of, parse_features
from ingress.translate.options.model import DEFAULT_OPTIONS, Options, Risk
from ingress.translate.report import Report, shown
from ingress.variables import Part, Variable

OWN_PREFIX = f"{OWN_ANNOTATIONS}/"
NGINX_PREFIX = f"{NGINX_ANNOTATIONS}/"

T = TypeVar("T")

_COOKIE_DETAILS = (
    "affinity-mode",
    "session-cookie-name",
    "session-cookie-path",
    "session-cookie-domain",
    "session-cookie-samesite",
    "session-cookie-secure",
    "session-cookie-expires",
    "session-cookie-max-age",
    "session-cookie-change-on-failure",
    "session-cookie-conditional-samesite-none",
)
_SUBSET = ("upstream-hash-by-subset", "upstream-hash-by-subset-size")
# Of responses, which are streamed: there is no buffer to size and no temporary file. Values are checked all the same.
NO_EFFECT: dict[str, Callable[[str], object]] = {
    "proxy-buffering": values.on_off,
    "proxy-buffer-size": values.size_bytes,
    "proxy-buffers-number": values.positive,
    "proxy-busy-buffers-size": values.size_bytes,
    "proxy-max-temp-file-size": values.size_bytes,
}
READ = frozenset(
    (
        "load-balance",
        "upstream-hash-by",
        *_SUBSET,
        "service-upstream",
        "affinity",
        *_COOKIE_DETAILS,
        "proxy-connect-timeout",
        "proxy-read-timeout",
        "proxy-send-timeout",
        "proxy-body-size",
        "proxy-next-upstream",
        "proxy-next-upstream-tries",
        "proxy-next-upstream-timeout",
        "proxy-request-buffering",
        "client-body-buffer-size",
        *NO_EFFECT,
        *backend.NAMES,
        *TLS_NAMES,
        "enable-access-log",
        "canary",
        *hosts.READ,
        *FALLBACK_NAMES,
    )
)
"""Names that have a parser here; all others are looked up in `known.KNOWN`."""

_LOAD_BALANCE = {
    "round_robin": LoadBalance.ROUND_ROBIN,
    "least_request": LoadBalance.LEAST_REQUEST,
    "ewma": LoadBalance.EWMA,
}
_COOKIE_MODE = {"balanced": CookieMode.BALANCED, "persistent": CookieMode.PERSISTENT}
_DEFAULT_COOKIE = CookieAffinity()
_SUBSET_SIZE = 3
_REQUEST_BUFFER_LIMIT_BYTES = 16 << 20
_ALL_NAMES = sorted({*READ, *KNOWN, *SNIPPETS})
_SUGGESTIONS = 20  # an Ingress with thousands of strange annotations must not cost seconds


def parse_annotations(
    annotations: Mapping[str, str] | None,
    prefixes: Sequence[str],
    *,
    report: Report,
    context: Context = NO_CONTEXT,
    namespace: str = "",
    ingress: str = "",
    ingress_class: str | None = None,
) -> AnnotationPolicy:
    """`prefixes` in order of precedence: the first that has a name decides its value."""
    found: dict[str, tuple[str, str]] = {}
    for prefix in reversed(prefixes) if annotations else ():
        for key, value in (annotations or {}).items():
            if key.startswith(prefix):
                found[key[len(prefix) :]] = (key, value.strip())
    if annotations and NGINX_PREFIX not in prefixes:
        _warn_of_other_prefix(annotations, prefixes[-1], report)
    options = context.options
    if not found and not context.acts_by_option:
        if options is DEFAULT_OPTIONS:
            return NO_ANNOTATIONS
        return AnnotationPolicy(
            options.traffic,
            UpstreamAsk(options.load_balance, service_upstream=options.service_upstream),
            fallback=read_fallback(_Reader({}, report, ()), options),
        )
    reader = _Reader(found, report, context.parsers)
    given = frozenset(found)
    refusal = _refuse_values(reader, options)  # first: nobody reads what is refused
    withheld = given - found.keys()
    if refusal and any(name.startswith("canary") for name in given):
        return AnnotationPolicy(left_out=True)  # half a canary could take all the traffic of the main Ingress
    features = AnnotationReader(
        dict(found),
        report,
        context.options,
        namespace,
        ingress,
        context.objects,
        lambda name: context.allows_middleware(ingress_class, name),
    )
    canary = read_canary(reader)
    if canary is True:
        return AnnotationPolicy(left_out=True)
    if canary:
        return AnnotationPolicy(ask=_upstream_ask(reader, options), canary=canary)
    ask = _upstream_ask(reader, options)
    closed_status, closed_reason = 503, refusal
    host_ask = hosts.read_host_ask(reader)
    traffic = _traffic(reader, options.traffic, options)
    asked = backend.parse_backend(features, report)
    if asked is not backend.NOTHING_ASKED:
        if not refusal:
            closed_status, closed_reason = asked.closed_status, asked.closed_reason
        ask = msgspec.structs.replace(
            ask,
            protocol=asked.protocol,
            tls=asked.tls,
            http_version=asked.http_version,
            connection_header=asked.connection_header,
        )
        if asked.http_version == "1.0":
            # It has no chunked coding, so the length has to be known beforehand; nginx does the same.
            traffic = _with_buffering(traffic, True)
        elif asked.protocol is UpstreamProtocol.GRPC:
            traffic = _with_buffering(traffic, False)  # both sides talk at once
    tls = parse_tls_ask(features, context.settings.https_port, passthrough_enabled=context.settings.ssl_passthrough)
    if withheld & TLS_ACCESS:
        tls = dataclasses.replace(tls, client=CLOSED)  # it would have held for the whole host
    fallback = read_fallback(reader, context.options)
    parsed, refused = parse_features(context.parsers, features)
    if refused:
        closed_status, closed_reason = 503, refused
    for name in sorted(reader.found.keys() - features.used):
        reason = _not_read(reader, name)
        if reason:
            # An access rule outweighs a protocol that isn't spoken: 503 whichever comes first.
            closed_status, closed_reason = 503, closed_reason if closed_status == 503 and closed_reason else reason
    if closed_reason and closed_status == 503:
        parsed = (*parsed, NEVER_REDIRECTED)
    elif tls.redirect is not None:
        parsed = (*parsed, redirect_feature(tls.redirect))
    return AnnotationPolicy(
        traffic,
        ask,
        closed_status,
        closed_reason,
        features=parsed,
        fallback=fallback,
        references=frozenset(features.references),
        host=host_ask,
        tls=tls,
    )


def _warn_of_other_prefix(annotations: Mapping[str, str], prefix: str, report: Report) -> None:
    """One of them is named: somebody may count on its access rules. ingress-nginx's webhook refuses such an Ingress."""
    key = min((key for key in annotations if key.startswith(NGINX_PREFIX)), default=None)
    if key is not None:
        report.warning(
            field_of(key),
            VerdictReason.UNSUPPORTED_ANNOTATION,
            f"Annotations of {NGINX_ANNOTATIONS} are not read here, access rules included: those of {prefix.rstrip('/')} are"
            " (--annotations-prefix).",
            annotations[key],
        )


class _Reader:
    """Hands out each annotation once; what is left over was not read by anything. `found`: name -> (full key, value)."""

    __slots__ = ("_parsers", "_suggestions", "found", "report")

    def __init__(self, found: dict[str, tuple[str, str]], report: Report, parsers: Sequence[FeatureParser]) -> None:
        self.found = found
        self._parsers = parsers
        self.report = report
        self._suggestions = _SUGGESTIONS

    def key(self, name: str) -> str:
        """The annotation as written, prefix included; asked before `take`."""
        entry = self.found.get(name)
        return name if entry is None else entry[0]

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T:
        entry = self.found.pop(name, None)
        if entry is None:
            return default
        key, value = entry
        try:
            return parse(value)
        except ValueError as e:
            self.invalid(key, value, f"The value of {shown(key)} is not used: {shown(e)}. The default is in force.")
            return default

    def invalid(self, key: str, value: str, message: str) -> None:
        self.report.error(field_of(key), VerdictReason.INVALID_ANNOTATION, message, value)

    def unsupported(self, key: str, value: str, message: str) -> None:
        self.report.warning(field_of(key), VerdictReason.UNSUPPORTED_ANNOTATION, message, value)

    def suggestion(self, name: str) -> str:
        """` Did you mean X?`, or nothing."""
        if self._suggestions == 0:
            return ""
        self._suggestions -= 1
        close = difflib.get_close_matches(name[:80], self._all_names(), n=1, cutoff=0.75)
        return f" Did you mean {close[0]}?" if close else ""

    def _all_names(self) -> list[str]:
        return sorted({*_ALL_NAMES, *(name for parser in self._parsers for name in parser.annotations)})


def _retries(retry_on: tuple[RetryOn, ...], options: Options) -> tuple[RetryOn, ...]:
    """`retry-non-idempotent` holds whatever an annotation says about retries."""
    if not options.retry_non_idempotent or not retry_on or RetryOn.NON_IDEMPOTENT in retry_on:
        return retry_on
    return (*retry_on, RetryOn.NON_IDEMPOTENT)


def _refuse_values(reader: _Reader, options: Options) -> str:
    """The reason to close the routes where the operator doesn't allow an annotation or what it says; such annotations are not read."""
    if options.risk_limit >= Risk.HIGH and not options.blocked_words:
        return ""  # nearly always
    reason = ""
    for name, (key, value) in sorted(reader.found.items()):
        why = ""
        risk = RISKS.get(name, Risk.LOW)
        word = next((word for word in options.blocked_words if word in value), None)
        if options.risk_limit < risk < Risk.CRITICAL:  # what is critical has its own rules, and is never run anyway
            why = f"Its risk is {risk.name.capitalize()}, and annotations-risk-level is {options.risk_limit.name.capitalize()}"
        elif word is not None:
            why = f"Its value has {shown(word, 40)}, which annotation-value-word-blocklist forbids"
        if why:
            del reader.found[name]
            reason = reason or _close(reader, key, value, why)
    return reason


def _upstream_ask(reader: _Reader, options: Options) -> UpstreamAsk:
    load_balance = reader.take("load-balance", _load_balance, options.load_balance)
    hash_by = reader.found.get("upstream-hash-by")
    hash_key: tuple[Part, ...] = reader.take("upstream-hash-by", parse_hash_key, ())
    if hash_key:
        load_balance = LoadBalance.CONSISTENT_HASH  # wins over load-balance, as in ingress-nginx
        if hash_by is not None and all(part.variable is Variable.TEXT for part in hash_key):
            key, value = hash_by
            reader.report.warning(
                field_of(key),
                VerdictReason.INVALID_ANNOTATION,
                "It names no variable, so that all requests have the same key and go to the same endpoint.",
                value,
            )
    affinity = reader.found.get("affinity")
    cookie = _cookie(reader) if reader.take("affinity", _affinity, False) else None
    for name in _COOKIE_DETAILS:
        entry = reader.found.pop(name, None)
        if entry is not None:
            reader.report.warning(
                field_of(entry[0]),
                VerdictReason.INVALID_ANNOTATION,
                'It has no effect without affinity: "cookie".',
                entry[1],
            )
    subset_size = _hash_subset(reader, bool(hash_key))
    service_upstream = reader.take("service-upstream", values.boolean, options.service_upstream)
    if service_upstream and cookie is not None and affinity is not None:
        reader.unsupported(
            *affinity, "It has no effect with service-upstream: the cluster chooses the Pod of each connection."
        )
    ask = UpstreamAsk(load_balance, hash_key, cookie, service_upstream=service_upstream, hash_subset_size=subset_size)
    return DEFAULT_ASK if ask == DEFAULT_ASK else ask


def _hash_subset(reader: _Reader, hashed: bool) -> int:
    """0: a key stands for one endpoint."""
    given = [entry for name in _SUBSET if (entry := reader.found.get(name)) is not None]
    wanted = reader.take("upstream-hash-by-subset", values.boolean, False)
    size = reader.take("upstream-hash-by-subset-size", values.count, 0) or _SUBSET_SIZE  # 0 too means the default there
    if wanted and not hashed:
        reader.unsupported(*given[0], "It has no effect without upstream-hash-by.")
    return size if wanted and hashed else 0


def _load_balance(text: str) -> LoadBalance:
    algorithm = _LOAD_BALANCE.get(text)
    if algorithm is not None:
        return algorithm
    if text == LoadBalance.CONSISTENT_HASH:
        raise ValueError("consistent hashing is asked for with upstream-hash-by")
    raise ValueError(f"it is none of {', '.join(_LOAD_BALANCE)}")


def _affinity(text: str) -> bool:
    if text != "cookie":
        raise ValueError("cookie is the only kind of affinity")
    return True


def _cookie_mode(text: str) -> CookieMode:
    mode = _COOKIE_MODE.get(text)
    if mode is None:
        raise ValueError("it is neither balanced nor persistent")
    return mode


def _secure(text: str) -> bool | None:
    """`false` is the default in ingress-nginx: the cookie of an https request is Secure all the same."""
    return values.boolean(text) or None


def _cookie(reader: _Reader) -> CookieAffinity:
    nothing: int | None = None
    as_request: bool | None = None
    return CookieAffinity(
        name=reader.take("session-cookie-name", values.cookie_name, _DEFAULT_COOKIE.name),
        mode=reader.take("affinity-mode", _cookie_mode, _DEFAULT_COOKIE.mode),
        path=reader.take("session-cookie-path", values.cookie_path, ""),
        domain=reader.take("session-cookie-domain", values.cookie_domain, ""),
        same_site=reader.take("session-cookie-samesite", values.same_site, ""),
        max_age_s=reader.take("session-cookie-max-age", values.positive, nothing),
        expires_s=reader.take("session-cookie-expires", values.positive, nothing),
        secure=reader.take("session-cookie-secure", _secure, as_request),
        change_on_failure=reader.take("session-cookie-change-on-failure", values.boolean, False),
        conditional_same_site_none=reader.take("session-cookie-conditional-samesite-none", values.boolean, False),
    )


def _traffic(reader: _Reader, default: TrafficPolicy, options: Options) -> TrafficPolicy:
    policy = TrafficPolicy(
        connect_timeout_s=reader.take("proxy-connect-timeout", values.seconds, default.connect_timeout_s),
        send_timeout_s=reader.take("proxy-send-timeout", values.seconds, default.send_timeout_s),
        read_timeout_s=reader.take("proxy-read-timeout", values.seconds, default.read_timeout_s),
        body_limit_bytes=reader.take("proxy-body-size", values.size_bytes, default.body_limit_bytes),
        retry_on=_retries(reader.take("proxy-next-upstream", values.retry_conditions, default.retry_on), options),
        retry_tries=reader.take("proxy-next-upstream-tries", values.count, default.retry_tries),
        retry_timeout_s=float(reader.take("proxy-next-upstream-timeout", values.count, int(default.retry_timeout_s))),
        request_buffering=reader.take("proxy-request-buffering", values.on_off, default.request_buffering),
        # It decides in nginx what goes to a file. Here nothing does: a larger value lets more be held, a smaller one is no reason to hold less.
        request_buffer_bytes=max(
            default.request_buffer_bytes,
            min(reader.take("client-body-buffer-size", values.size_bytes, 0), _REQUEST_BUFFER_LIMIT_BYTES),
        ),
        access_log=reader.take("enable-access-log", values.boolean, default.access_log),
    )
    for name, parse in NO_EFFECT.items():
        reader.take(name, parse, None)
    return default if policy == default else policy


def _with_buffering(traffic: TrafficPolicy, wanted: bool) -> TrafficPolicy:
    if traffic.request_buffering is wanted:
        return traffic
    return msgspec.structs.replace(traffic, request_buffering=wanted)


def _not_read(reader: _Reader, name: str) -> str:
    """Give the verdict on an annotation without parser; the reason to close the routes, if there is one."""
    key, value = reader.found[name]
    if name in SNIPPETS:
        directive = access_directive(value)
        if directive is not None:
            return _close(
                reader, key, value, f"The directive {shown(directive)} in it restricts access, and snippets are not run"
            )
        reader.unsupported(
            key,
            value,
            "Snippets of nginx configuration are not run: the Ingress is served without it. Headers are set by request-headers and response-headers, "
            "redirects by permanent-redirect, all else by a middleware in Python.",
        )
        return ""
    known = lookup(name)
    if known is None:
        _unknown(reader, name, key, value)
        return ""
    if value.lower() in known.harmless:
        return ""
    match known.handling:
        case Handling.ACCESS_RULE:
            return _close(reader, key, value, "This access rule is not supported yet")
        case Handling.UNSUPPORTED:
            reader.unsupported(key, value, f"This annotation is not supported yet: {known.consequence}.")
        case Handling.CANARY_ONLY:
            reader.unsupported(key, value, 'It has no effect without canary: "true", in ingress-nginx neither.')
        case Handling.NOT_READ_BY_NGINX:
            instead = INSTEAD.get(name)
            hint = f" {instead} is the annotation that does it." if instead else ""
            reader.unsupported(key, value, f"This annotation has no effect: ingress-nginx ignores it too.{hint}")
        case Handling.NO_EFFECT:
            pass
    return ""


def _close(reader: _Reader, key: str, value: str, why: str) -> str:
    reader.report.error(
        field_of(key),
        VerdictReason.ACCESS_RULE_REJECTED,
        f"{why}: all routes of the Ingress are closed (503), because access rules must not fail open.",
        value,
    )
    return f"access rule not supported: {shown(key)}"


def _unknown(reader: _Reader, name: str, key: str, value: str) -> None:
    if key.startswith(OWN_PREFIX):
        message = "There is no such annotation: it has no effect."
    else:
        message = "There is no such annotation: it has no effect, in ingress-nginx neither."
    reader.unsupported(key, value, message + reader.suggestion(name))
