"""Which Ingresses are ours.

Order as in ingress-nginx: `spec.ingressClassName`, then the legacy annotation `kubernetes.io/ingress.class`, then Ingresses without
any class.
"""

import enum
from collections.abc import Mapping

from ingress.config import CONTROLLER_NAME, DEFAULT_CLASS, NGINX_CLASS, NGINX_CONTROLLER_NAME, ClassSettings
from ingress.model import Ingress, IngressClass

LEGACY_ANNOTATION = "kubernetes.io/ingress.class"
DEFAULT_CLASS_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"


class Claim(enum.Enum):
    OURS = enum.auto()
    FOREIGN = enum.auto()  # another controller's: nothing to say about it
    UNKNOWN_CLASS = enum.auto()  # names an IngressClass that does not exist: nobody's


class ClassIndex:
    """Decides for one set of IngressClasses; `claim` is a few dictionary look-ups.

    With neither flag set in standalone mode, the classes `aioingress` and `nginx` need no IngressClass object, and an
    Ingress without class is ours unless the default class is somebody else's. Otherwise a class is ours when its `spec.controller` is
    `controller_class`; standalone, and with `by_name` (for those who may not read IngressClasses), also when it has no object and is
    called `ingress_class`. `take_over_nginx` adds the controller and the class name of ingress-nginx to either.
    """

    __slots__ = ("_foreign", "_legacy_by_object", "_names", "_needs_no_object", "_ours", "_without_class")

    def __init__(self, classes: Mapping[str, IngressClass], settings: ClassSettings) -> None:
        open_house = settings.standalone and settings.ingress_class is None and settings.controller_class is None
        if open_house:
            self._names = frozenset((DEFAULT_CLASS, NGINX_CLASS))
            controllers = frozenset((CONTROLLER_NAME, NGINX_CONTROLLER_NAME))
        else:
            self._names = frozenset((settings.ingress_class or DEFAULT_CLASS,))
            controllers = frozenset((settings.controller_class or CONTROLLER_NAME,))
        if settings.take_over_nginx:
            self._names |= {NGINX_CLASS}
            controllers |= {NGINX_CONTROLLER_NAME}
        self._needs_no_object = self._names if settings.standalone or settings.by_name else frozenset[str]()
        self._legacy_by_object = open_house
        self._ours = frozenset(name for name, c in classes.items() if c.spec.controller in controllers)
        self._foreign = frozenset(classes) - self._ours
        defaults = frozenset(name for name, c in classes.items() if _is_default(c))
        # Several defaults: the API server takes the newest; one of ours among them is enough for us, so that nothing is unserved.
        # The explicit flag also takes Ingresses that are older than a foreign default class, as it does in ingress-nginx.
        self._without_class = (
            bool(defaults & self._ours) or settings.watch_without_class or (open_house and not defaults)
        )

    def claim(self, ingress: Ingress) -> Claim:
        name = ingress.spec.ingress_class_name
        if name:
            if name in self._ours:
                return Claim.OURS
            if name in self._foreign:
                return Claim.FOREIGN
            return Claim.OURS if name in self._needs_no_object else Claim.UNKNOWN_CLASS
        legacy = ingress.metadata.annotations.get(LEGACY_ANNOTATION) if ingress.metadata.annotations else None
        if legacy:
            return Claim.OURS if self._accepts_legacy(legacy) else Claim.FOREIGN
        return Claim.OURS if self._without_class else Claim.FOREIGN

    def _accepts_legacy(self, name: str) -> bool:
        # With flags the annotation is compared as text, as in ingress-nginx: it is older than IngressClass objects.
        if not self._legacy_by_object:
            return name in self._names
        return name in self._ours or (name in self._names and name not in self._foreign)


def _is_default(ingress_class: IngressClass) -> bool:
    return (ingress_class.metadata.annotations or {}).get(DEFAULT_CLASS_ANNOTATION) == "true"
