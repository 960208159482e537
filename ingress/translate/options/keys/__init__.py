"""Every key of ingress-nginx's ConfigMap (1.15): what it sets, what its values mean, and the test that proves it."""

from ingress.translate.options.keys import access, connections, headers, logs, others, tls
from ingress.translate.options.keys.base import Key, Status

GROUPS: dict[str, tuple[Key, ...]] = {
    "Connections, limits, retries": connections.KEYS,
    "Header fields and bodies": headers.KEYS,
    "Access log": logs.KEYS,
    "TLS, redirects, protocols": tls.KEYS,
    "Access": access.KEYS,
    "Others": others.KEYS,
}
KEYS: tuple[Key, ...] = tuple(key for group in GROUPS.values() for key in group)
BY_NAME: dict[str, Key] = {key.name: key for key in KEYS}

__all__ = ["BY_NAME", "GROUPS", "KEYS", "Key", "Status"]
