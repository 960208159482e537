"""Annotations of Ingresses: parse what is supported, refuse the rest visibly."""

from ingress.translate.annotations.parse import parse_annotations
from ingress.translate.annotations.policy import DEFAULT_ASK, NO_ANNOTATIONS, AnnotationPolicy, UpstreamAsk

__all__ = ["DEFAULT_ASK", "NO_ANNOTATIONS", "AnnotationPolicy", "UpstreamAsk", "parse_annotations"]
