"""What the translation of one Ingress may look at besides the Ingress itself and the Services it names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ingress.config import TranslateSettings
from ingress.model import ClusterState, Kind, KubernetesObject, ObjectRef
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
    certificates: CertificateStore = field(default_factory=CertificateStore)
    acts_by_option: bool = field(init=False)  # some parser may act on an Ingress without annotations

    def __post_init__(self) -> None:
        object.__setattr__(self, "acts_by_option", any(parser.by_option(self.options) for parser in self.parsers))


NO_CONTEXT = Context()


def objects_of(state: ClusterState) -> Callable[[ObjectRef], KubernetesObject | None]:
    """Look-ups of the Secrets and ConfigMaps of `state`."""

    def find(ref: ObjectRef) -> KubernetesObject | None:
        key = (ref.namespace, ref.name)
        return state.secrets.get(key) if ref.kind is Kind.SECRET else state.config_maps.get(key)

    return find
