"""HTTP Ingress controller and layer-7 reverse proxy for Kubernetes."""

__version__ = "0.1.0.dev0"
