"""One Ingress, alone: its routes by host, its claim on the catch-all, what it uses, and its verdicts.

A fragment depends on the Ingress and on the Services it names (for their ports), never on other Ingresses or on endpoints: so it stays
as it is while those come and go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from ingress.config import TranslateSettings
from ingress.errors import Verdict, VerdictReason
from ingress.model import Ingress, ObjectRef, Service
from ingress.model.cluster import NamespacedName
from ingress.model.kubernetes import HTTPIngressPath, IngressBackend, IngressRule
from ingress.routing.https import CLIENT_CERTIFICATE, TLS_REDIRECT, ClientCertificate
from ingress.routing.table import (
    ANY_HOST,
    APP_ROOT,
    CanaryRule,
    Fallback,
    Feature,
    HostPattern,
    PathType,
    Route,
    TrafficPolicy,
    UpstreamKey,
)
from ingress.translate.annotations import NO_ANNOTATIONS, AnnotationPolicy, UpstreamAsk, parse_annotations
from ingress.translate.annotations.hosts import NO_HOST_ASK, HostAsk
from ingress.translate.annotations.tls import NO_ASK, TLSAsk
from ingress.translate.backends import upstream_spec
from ingress.translate.context import Context
from ingress.translate.names import is_object_name, parse_host
from ingress.translate.options import DEFAULT_OPTIONS, Options
from ingress.translate.paths import is_strict_path, looks_like_regex, parse_path_type, parse_regex_path, parse_rule_path
from ingress.translate.references import references_of
from ingress.translate.report import Report
from ingress.translate.targets import Target, Targets, Use
from ingress.translate.tls.section import HostCertificates, SectionReader

UNKNOWN_AGE = float("-inf")
"""Objects without creationTimestamp (files) count as older than all others."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A route and the field that asks for it. `path` is as written; `regex_by` the annotation that makes a regular expression of it."""

    route: Route
    field: str
    path: str = "/"
    regex_by: str = ""
    looks_like_regex: bool = False  # without being one


@dataclass(slots=True)
class HostPart:
    """What one Ingress says about one host. All empty: the host exists, and nothing of it is served."""

    placed: list[Placed] = field(default_factory=list)
    default: Placed | None = None
    app_root: Placed | None = None


@dataclass(frozen=True, slots=True)
class Fragment:
    """`created` is seconds since the epoch (`UNKNOWN_AGE` if not known). `services` are all it names, existing or not."""

    ref: ObjectRef
    origin: str
    created: float
    hosts: Mapping[HostPattern, HostPart] = field(default_factory=dict)
    catch_all: Placed | None = None
    uses: Mapping[UpstreamKey, Use] = field(default_factory=dict)
    services: frozenset[NamespacedName] = frozenset()
    verdicts: tuple[Verdict, ...] = ()
    references: frozenset[ObjectRef] = frozenset()  # Secrets and ConfigMaps that decide about it, existing or not
    ask: HostAsk = NO_HOST_ASK
    canary: CanaryRule | None = None  # its routes take a share of others' (`canaries`), and are none by themselves
    certificates: Mapping[HostPattern, HostCertificates] = field(
        default_factory=dict
    )  # of its hosts, by its tls section
    tls_ask: TLSAsk = NO_ASK

    @property
    def name(self) -> str:
        return f"{self.ref.namespace}/{self.ref.name}"


def build_fragment(ingress: Ingress, services: Mapping[NamespacedName, Service], context: Context) -> Fragment:
    """Never raises: a fault of ours in one object costs that object only."""
    report = Report(str(ingress.ref), ingress.origin)
    builder = _Builder(ingress, services, report)
    try:
        return builder.build(context)
    except Exception as e:
        report.error(
            "",
            VerdictReason.INVALID_OBJECT,
            f"It is left out, because compiling it failed ({type(e).__name__}). This is a bug of the controller.",
        )
        # The Services stay listed, so that a change of theirs is a reason to try again.
        return Fragment(
            ingress.ref,
            ingress.origin,
            UNKNOWN_AGE,
            services=frozenset(builder.targets.services),
            verdicts=report.verdicts(),
            references=frozenset(references_of(ingress)),
        )


def build_fallback(
    settings: TranslateSettings, services: Mapping[NamespacedName, Service], options: Options = DEFAULT_OPTIONS
) -> Fragment | None:
    """The default backend of the controller as a fragment of its own; None if none is set.

    A Service that is missing or without ports gives a fragment that claims nothing: unknown hosts get the built-in 404, as
    in ingress-nginx.
    """
    if settings.default_backend_service is None:
        return None
    namespace, name = owner = settings.default_backend_service
    service = services.get(owner)
    report = Report(f"Service {namespace}/{name}", "" if service is None else service.origin)
    ref = ObjectRef(Service.kind, namespace, name)
    watched = frozenset((owner,))
    if service is None or not service.spec.ports:
        if service is None:
            report.error(
                "",
                VerdictReason.SERVICE_NOT_FOUND,
                "The default backend Service does not exist: unknown hosts get 404.",
            )
        else:
            report.error(
                "spec.ports",
                VerdictReason.SERVICE_PORT_NOT_FOUND,
                "The default backend Service has no port: unknown hosts get 404.",
            )
        return Fragment(ref, report.origin, UNKNOWN_AGE, services=watched, verdicts=report.verdicts())
    spec = upstream_spec(namespace, name, service.spec.ports[0].port, "", UpstreamAsk(options.load_balance))
    statuses = options.custom_http_errors
    fallback = Fallback(statuses, not options.disable_proxy_intercept_errors, (spec.key,)) if statuses else None
    route = Route(
        ANY_HOST, "/", PathType.PREFIX, namespace, "", name, spec.port, spec.key, options.traffic, fallback=fallback
    )
    return Fragment(
        ref, report.origin, UNKNOWN_AGE, catch_all=Placed(route, ""), uses={spec.key: Use(spec, "")}, services=watched
    )


def parse_created(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time, `UNKNOWN_AGE` for none, None if it can't be read."""
    if not text:
        return UNKNOWN_AGE
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


class _Builder:
    """State while one Ingress is taken apart."""

    def __init__(self, ingress: Ingress, services: Mapping[NamespacedName, Service], report: Report) -> None:
        self.ingress = ingress
        self._report = report
        self._namespace = ingress.metadata.namespace
        self._name = ingress.metadata.name
        self.targets = Targets(self._namespace, services, report)
        self._policy: AnnotationPolicy = NO_ANNOTATIONS
        self._fallback: Fallback | None = None
        self._strict_paths = False

    def build(self, context: Context) -> Fragment:
        ingress, spec, report = self.ingress, self.ingress.spec, self._report
        created = parse_created(ingress.metadata.creation_timestamp)
        if created is None:
            report.warning(
                "metadata.creationTimestamp",
                VerdictReason.INVALID_FIELD,
                "It is not an RFC 3339 time: the Ingress counts as older than all others.",
                ingress.metadata.creation_timestamp,
            )
            created = UNKNOWN_AGE
        if not self._has_valid_name():
            return Fragment(ingress.ref, ingress.origin, created, verdicts=report.verdicts())
        if spec.default_backend is not None and not context.settings.catch_all_enabled:
            report.error(
                "spec.defaultBackend",
                VerdictReason.UNSUPPORTED_FIELD,
                "It is left out as a whole: this controller takes no Ingress with a default backend (--disable-catch-all).",
            )
            return Fragment(ingress.ref, ingress.origin, created, verdicts=report.verdicts())
        self._strict_paths = context.options.strict_paths
        self._policy = parse_annotations(
            ingress.metadata.annotations,
            context.settings.annotation_prefixes,
            report=report,
            context=context,
            namespace=self._namespace,
            ingress=self._name,
            ingress_class=spec.ingress_class_name,
        )
        self.targets.policy = self._policy
        references = self._policy.references | references_of(ingress)
        if self._policy.left_out:
            return Fragment(ingress.ref, ingress.origin, created, verdicts=report.verdicts(), references=references)
        self._fallback = self.targets.default_backends(context)
        rules = spec.rules or ()
        hosts, catch_all = self._hosts(rules), None
        if self._policy.host.app_root:
            for host, part in hosts.items():
                part.app_root = self._app_root(host)
        if self._policy.canary is not None:
            if spec.default_backend is not None:
                report.warning(
                    "spec.defaultBackend",
                    VerdictReason.UNSUPPORTED_FIELD,
                    "A canary has no default backend of its own: it has no effect.",
                )
        elif spec.default_backend is not None:
            default = self._default_backend(spec.default_backend)
            if default is not None:
                if not rules:
                    route = self._catch_all(self._route(ANY_HOST, "/", PathType.PREFIX, default), context)
                    catch_all = Placed(self._of_no_host(route), "spec.defaultBackend")
                for host, part in hosts.items():
                    part.default = Placed(self._route(host, "/", PathType.PREFIX, default), "spec.defaultBackend")
        elif not rules:
            report.error(
                "spec",
                VerdictReason.INVALID_OBJECT,
                "It has neither rules nor a default backend, so it serves nothing.",
            )
        certificates: Mapping[HostPattern, HostCertificates] = {}
        if spec.tls and self._policy.canary is None:  # a canary's host is that of its main Ingress
            section = SectionReader(ingress, context.certificates, context.objects, report)
            certificates = section.read(hosts, self._policy.host.names_besides(hosts))
        return Fragment(
            ingress.ref,
            ingress.origin,
            created,
            hosts,
            catch_all,
            self.targets.uses,
            frozenset(self.targets.services),
            report.verdicts(),
            references,
            self._policy.host,
            self._policy.canary,
            certificates,
            self._policy.tls,
        )

    def _of_no_host(self, route: Route) -> Route:
        """Hosts redirect to HTTPS and ask for certificates. The default backend of all hosts does neither, as in ingress-nginx; a rule about
        client certificates can't be kept there, so that it closes it."""
        features = tuple(f for f in route.features if f.name != TLS_REDIRECT)
        client = self._policy.tls.client
        if client is not None:
            features = (Feature(CLIENT_CERTIFICATE, msgspec.to_builtins(ClientCertificate(closed=True))), *features)
            self._report.error(
                f"metadata.annotations[{client.key}]",
                VerdictReason.ACCESS_RULE_REJECTED,
                "Without rules there is no host whose clients could be asked for a certificate: the default backend is closed (403).",
            )
        return route if features == route.features else msgspec.structs.replace(route, features=features)

    def _catch_all(self, route: Route, context: Context) -> Route:
        """Without the features that ingress-nginx doesn't apply to a catch-all: redirects and rewrites."""
        skipped = {parser.name for parser in context.parsers if parser.skips_catch_all}
        kept = tuple(feature for feature in route.features if feature.name not in skipped)
        return route if kept == route.features else msgspec.structs.replace(route, features=kept)

    def _app_root(self, host: HostPattern) -> Placed:
        ask = self._policy.host
        feature = Feature(APP_ROOT, {"target": ask.app_root})
        route = Route(
            host,
            "/",
            PathType.EXACT,
            self._namespace,
            self._name,
            "",
            "",
            None,
            self._policy.traffic,
            404,
            features=(feature,),
        )
        return Placed(route, ask.fields["app-root"])

    def _has_valid_name(self) -> bool:
        for label, text in (("namespace", self._namespace), ("name", self._name)):
            if not is_object_name(text) and not (label == "namespace" and text == ""):
                self._report.error(
                    f"metadata.{label}",
                    VerdictReason.INVALID_OBJECT,
                    f"It is not a {label}: lower-case letters, digits, hyphens and dots. The Ingress is left out.",
                    text,
                )
                return False
        return True

    # ---- rules ----

    def _hosts(self, rules: tuple[IngressRule, ...]) -> dict[HostPattern, HostPart]:
        hosts: dict[HostPattern, HostPart] = {}
        for index, rule in enumerate(rules):
            host, refusal = parse_host(rule.host)
            if refusal:
                self._report.error(
                    f"spec.rules[{index}].host",
                    VerdictReason.INVALID_FIELD,
                    f"The rule is left out: {refusal}.",
                    rule.host,
                )
                continue
            part = hosts.get(host)
            if part is None:
                part = hosts[host] = HostPart()  # known from now on, even if none of its paths is usable
            for position, path in enumerate(rule.http.paths) if rule.http is not None else ():
                placed = self._path(host, path, f"spec.rules[{index}].http.paths[{position}]")
                if placed is not None:
                    part.placed.append(placed)
        return hosts

    def _path(self, host: HostPattern, path: HTTPIngressPath, where: str) -> Placed | None:
        """None for a path that is left out."""
        path_type = parse_path_type(path.path_type)
        if path_type is None:
            self._report.error(
                f"{where}.pathType",
                VerdictReason.INVALID_FIELD,
                "It is none of Exact, Prefix and ImplementationSpecific: the path is left out.",
                path.path_type,
            )
            return None
        written = path.path or "/"
        ask = self._policy.host
        regex_by = ask.regex_by(written) if ask is not NO_HOST_ASK else ""
        like_regex = looks_like_regex(path.path, path.path_type)
        if regex_by or (
            like_regex and self._policy.canary is not None
        ):  # a canary's path is its main Ingress's, as written
            normal, refusal = parse_regex_path(written)
        else:
            normal, refusal = parse_rule_path(path.path, like_regex)
        if refusal:
            self._report.error(
                f"{where}.path", VerdictReason.INVALID_FIELD, f"The path is left out: {refusal}.", path.path
            )
            return None
        target = self.targets.target(
            path.backend, f"{where}.backend", "the path is left out, and its requests go to the default backend"
        )
        if target is None:
            return None
        if regex_by and path.path_type in ("Exact", "Prefix") and not is_strict_path(written):
            self._report.warning(
                f"{where}.pathType",
                VerdictReason.INVALID_FIELD,
                f"Its path is taken as a regular expression because of {regex_by}; ingress-nginx refuses such a path of this type when the "
                "Ingress is applied. ImplementationSpecific is the type for it.",
                written,
            )
        elif self._strict_paths and path.path_type in ("Exact", "Prefix") and not is_strict_path(path.path or "/"):
            self._report.warning(
                f"{where}.path",
                VerdictReason.INVALID_FIELD,
                "Exact and Prefix paths should have letters, digits and ._-/ only (strict-validate-path-type). It is served.",
                path.path,
            )
        cookie = self._policy.ask.cookie
        if regex_by and cookie is not None and not cookie.path and not is_strict_path(written):
            self._report.warning(
                f"{where}.path",
                VerdictReason.INVALID_ANNOTATION,
                "It is the path of the session cookie too, and no browser sends that for a regular expression: set session-cookie-path.",
                written,
            )
        return Placed(
            self._route(host, normal, path_type, target), where, written, regex_by, like_regex and not regex_by
        )

    def _default_backend(self, backend: IngressBackend) -> Target | None:
        return self.targets.target(backend, "spec.defaultBackend", "the Ingress has no default backend")

    def _route(self, host: HostPattern, path: str, path_type: PathType, target: Target) -> Route:
        policy = self._policy
        if policy.closed_reason:
            # Nothing else acts on such a route, as in ingress-nginx: a redirect would be a way around the rule. What stays says so of
            # the redirect to HTTPS too, which is the host's.
            features = tuple(feature for feature in policy.features if feature.name == TLS_REDIRECT)
            return self._closed(host, path, path_type, target, policy.closed_status, policy.closed_reason, features)
        if target.upstream is None:
            return self._closed(host, path, path_type, target, 503, target.closed_reason, policy.features)
        return Route(
            host,
            path,
            path_type,
            self._namespace,
            self._name,
            target.service,
            target.port,
            target.upstream,
            policy.traffic,
            features=policy.features,
            fallback=self._fallback,
        )

    def _closed(
        self,
        host: HostPattern,
        path: str,
        path_type: PathType,
        target: Target,
        status: int,
        reason: str,
        features: tuple[Feature, ...],
    ) -> Route:
        traffic: TrafficPolicy = self._policy.traffic
        return Route(
            host,
            path,
            path_type,
            self._namespace,
            self._name,
            target.service,
            target.port,
            None,
            traffic,
            status,
            reason,
            features=features,
            fallback=self._fallback,
        )
