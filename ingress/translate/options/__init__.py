"""The ConfigMap of options (`--configmap`): its keys, their values, what they come to."""

from ingress.translate.options.model import DEFAULT_OPTIONS, Options, Risk

__all__ = ["DEFAULT_OPTIONS", "Options", "Risk"]
