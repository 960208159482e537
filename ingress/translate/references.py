"""Which Secrets and ConfigMaps an Ingress names. A source need hold no others.

Of the Ingress's own namespace only: references across namespaces are refused, as in ingress-nginx by default.
"""

from collections.abc import Iterator, Sequence

from ingress.model import Ingress, Kind, ObjectRef
from ingress.translate.names import is_object_name

_ANNOTATIONS: tuple[tuple[str, Kind], ...] = (
    ("auth-secret", Kind.SECRET),
    ("auth-tls-secret", Kind.SECRET),
    ("proxy-ssl-secret", Kind.SECRET),
    ("auth-proxy-set-headers", Kind.CONFIG_MAP),
    ("custom-headers", Kind.CONFIG_MAP),
)


def references_of(ingress: Ingress, prefixes: Sequence[str]) -> frozenset[ObjectRef]:
    """`prefixes` of annotations, as in `parse_annotations`. Names that no object can have are left out."""
    return frozenset(_references(ingress, prefixes))


def _references(ingress: Ingress, prefixes: Sequence[str]) -> Iterator[ObjectRef]:
    namespace = ingress.metadata.namespace
    for tls in ingress.spec.tls or ():
        if is_object_name(tls.secret_name):
            yield ObjectRef(Kind.SECRET, namespace, tls.secret_name)
    annotations = ingress.metadata.annotations
    if not annotations:
        return
    for name, kind in _ANNOTATIONS:
        for prefix in prefixes:
            value = annotations.get(prefix + name)
            if value is None:
                continue
            owner, slash, found = value.strip().rpartition("/")
            if (not slash or owner == namespace) and is_object_name(found):
                yield ObjectRef(kind, namespace, found)
