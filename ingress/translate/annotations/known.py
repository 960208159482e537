"""Every annotation of ingress-nginx 1.15, and what happens to those that are not read yet.

Names are without prefix. The ones that are read have their parser in `parse.py` and no row here.
"""

import enum
from dataclasses import dataclass


class Handling(enum.Enum):
    UNSUPPORTED = enum.auto()  # a warning: the Ingress is served without it
    ACCESS_RULE = enum.auto()  # an error, and the routes of the Ingress are closed: security rules never fail open
    NO_EFFECT = (
        enum.auto()
    )  # accepted: there is nothing for it to do in a proxy that streams and has no buffers to size
    CANARY_ONLY = enum.auto()  # a warning: the Ingress is no canary
    NOT_READ_BY_NGINX = enum.auto()  # a warning: it has never worked


@dataclass(frozen=True, slots=True)
class Known:
    """`harmless` values (lower case) ask for nothing that isn't so already; `consequence` completes the warning."""

    handling: Handling
    consequence: str = ""
    harmless: frozenset[str] = frozenset()


OFF = frozenset(("false", "f", "0", "off"))
ON = frozenset(("true", "t", "1", "on"))

_PLAIN = "the Ingress is served without it"
_NO_LIMIT = "requests are not limited"


def _unsupported(consequence: str = _PLAIN, harmless: frozenset[str] = frozenset()) -> Known:
    return Known(Handling.UNSUPPORTED, consequence, harmless)


_ACCESS = Known(Handling.ACCESS_RULE)
_SWITCHED_ACCESS = Known(Handling.ACCESS_RULE, harmless=OFF)
_NO_EFFECT = Known(Handling.NO_EFFECT)
_CANARY_ONLY = Known(Handling.CANARY_ONLY)
_NOT_READ = Known(Handling.NOT_READ_BY_NGINX)

KNOWN: dict[str, Known] = {
    # routing
    # sessions and balancing (the rest is read)
    "affinity-canary-behavior": _CANARY_ONLY,
    # canary (canary itself is read)
    "canary-by-header": _CANARY_ONLY,
    "canary-by-header-value": _CANARY_ONLY,
    "canary-by-header-pattern": _CANARY_ONLY,
    "canary-by-cookie": _CANARY_ONLY,
    "canary-weight": _CANARY_ONLY,
    "canary-weight-total": _CANARY_ONLY,
    # authentication; whatever else starts with auth- is treated alike (see `lookup`)
    # web application firewall: an access rule by intent
    "enable-modsecurity": _SWITCHED_ACCESS,
    "enable-owasp-core-rules": _SWITCHED_ACCESS,
    "modsecurity-transaction-id": _ACCESS,
    "modsecurity-snippet": _ACCESS,
    # protocol towards the backend (the rest is read)
    "fastcgi-index": _unsupported("FastCGI is not spoken"),
    "fastcgi-params-configmap": _unsupported("FastCGI is not spoken"),
    # limits
    "global-rate-limit": _unsupported(f"{_NO_LIMIT}; limit-rps limits them in each replica"),
    "global-rate-limit-window": _unsupported(_NO_LIMIT),
    "global-rate-limit-key": _unsupported(_NO_LIMIT),
    "global-rate-limit-ignored-cidrs": _unsupported(_NO_LIMIT),
    "http2-push-preload": _NO_EFFECT,
    # logs, traces
    "enable-rewrite-log": _unsupported("there is no such log", OFF),
    "enable-opentelemetry": _unsupported("requests are not traced", OFF),
    "opentelemetry-trust-incoming-span": _unsupported("requests are not traced"),
    "opentelemetry-operation-name": _unsupported("requests are not traced"),
    # not annotations of ingress-nginx, but often seen
    "secure-backends": _NOT_READ,
    "enable-websockets": _NOT_READ,
    "websocket-services": _NOT_READ,
    "session-cookie-hash": _NOT_READ,
    "client-max-body-size": _NOT_READ,
    "proxy-pass-headers": _NOT_READ,
    "use-forwarded-headers": _NOT_READ,
    "large-client-header-buffers": _NOT_READ,
    "add-base-url": _NOT_READ,
    "grpc-backend": _NOT_READ,
}

SNIPPETS = frozenset(("configuration-snippet", "server-snippet", "stream-snippet"))
"""Raw nginx configuration. It is never run; what it says decides whether leaving it out is safe (`snippets.py`)."""

INSTEAD = {
    "client-max-body-size": "proxy-body-size",
    "secure-backends": 'backend-protocol: "HTTPS"',
    "grpc-backend": 'backend-protocol: "GRPC"',
}
"""What the author of such an annotation was looking for."""


def lookup(name: str) -> Known | None:
    """The row for an annotation that is not read; None for a name that ingress-nginx doesn't have."""
    known = KNOWN.get(name)
    if known is None and name.startswith("auth-"):
        return _ACCESS  # a misspelt access rule is still meant as one
    return known
