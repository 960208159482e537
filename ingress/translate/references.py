"""Which Secrets an Ingress names in its own fields. Annotations report theirs by themselves (`features.AnnotationReader`)."""

from ingress.model import Ingress, Kind, ObjectRef
from ingress.translate.names import is_object_name


def references_of(ingress: Ingress) -> frozenset[ObjectRef]:
    """The Secrets of its tls section, always of its own namespace. Names that no object can have are left out."""
    return frozenset(
        ObjectRef(Kind.SECRET, ingress.metadata.namespace, tls.secret_name)
        for tls in ingress.spec.tls or ()
        if is_object_name(tls.secret_name)
    )
