"""`ingress demo`: echo backends on loopback ports, sample manifests for them, and the curl lines to try.

`python -m ingress.demo` runs one such backend on its own, as the Pods of examples/ do.
"""
