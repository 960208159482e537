"""What the translation of one Ingress may look at besides the Ingress itself and the Services it names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ingress.config import TranslateSettings
from ingress.model import ClusterState, IngressClass, Kind, KubernetesObject, ObjectRef
from ingress.translate.features import FeatureParser
from ingress.translate.options import DEFAULT_OPTIONS, Options
from ingress.translate.tls.store import CertificateStore


def _nothing(ref: ObjectRef) -> KubernetesObject | None:
    return None


@dataclass(frozen=True, slots=True)
class Context:
    """The same for all Ingresses of one compilation."""

    settings: TranslateSettings = field(default_factory=TranslateSettings)
    options: Options = DEFAULT_OPTIONS
    parsers: Sequence[FeatureParser] = ()
    objects: Callable[[ObjectRef], KubernetesObject | None] = _nothing
    classes: Mapping[str, IngressClass] = field(default_factory=dict)
    certificates: CertificateStore = field(default_factory=CertificateStore)
    acts_by_option: bool = field(init=False)  # some parser may act on an Ingress without annotations

    def __post_init__(self) -> None:
        object.__setattr__(self, "acts_by_option", any(parser.by_option(self.options) for parser in self.parsers))

    def allows_middleware(self, ingress_class: str | None, name: str) -> bool:
        """Whether an Ingress of that class may name this user middleware."""
        found = self.classes.get(ingress_class or "")
        allowed = self.settings.allowed_middleware
        if allowed is None:
            allowed = ("*",) if self.settings.classes.standalone else ()
        return _names(name, allowed) or _names(name, allowed_middleware(found))


ALLOWED_MIDDLEWARE = "aioingress.io/allowed-middleware"
"""Annotation of an IngressClass: which user middlewares its Ingresses may name; comma-separated, or `*`."""


def allowed_middleware(found: IngressClass | None) -> tuple[str, ...]:
    text = (found.metadata.annotations or {}).get(ALLOWED_MIDDLEWARE, "") if found is not None else ""
    return tuple(sorted(name for part in text.split(",") if (name := part.strip())))


def _names(name: str, allowed: Sequence[str]) -> bool:
    return name in allowed or "*" in allowed


NO_CONTEXT = Context()


def objects_of(state: ClusterState) -> Callable[[ObjectRef], KubernetesObject | None]:
    """Look-ups of the Secrets and ConfigMaps of `state`."""

    def find(ref: ObjectRef) -> KubernetesObject | None:
        key = (ref.namespace, ref.name)
        return state.secrets.get(key) if ref.kind is Kind.SECRET else state.config_maps.get(key)

    return find
