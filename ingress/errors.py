"""The error taxonomy. Importable from everywhere; imports nothing of the project.

`ConfigError` ends the process at start-up. `SourceError` is handled by the source that met it. A `Verdict` is a value, not an
exception: one object, field or annotation is unusable, and everything else goes live. `ProxyError` ends one request.
"""

import enum

import msgspec


class IngressError(Exception):
    """Base of the exceptions that aioingress raises on purpose."""


class ConfigError(IngressError):
    """Bad flags or settings at start: printed in one line on stderr, exit code 2."""


class SourceError(IngressError):
    """A source of objects (folder, API server) can't be read at the moment; the last good state stays in service."""


class Severity(enum.StrEnum):
    ERROR = "error"  # something asked for is not served
    WARNING = "warning"  # served, but perhaps not as its author expects


class VerdictReason(enum.StrEnum):
    """Why an object, rule or field was not taken as written. CamelCase, because they become Event reasons."""

    PARSE_ERROR = "ParseError"  # a file or document is not YAML or not an object
    INVALID_OBJECT = "InvalidObject"  # a field of the wrong type, or a required one missing
    INVALID_FIELD = "InvalidField"  # a field whose value can't be used
    INVALID_ANNOTATION = "InvalidAnnotation"
    UNSUPPORTED_ANNOTATION = "UnsupportedAnnotation"
    UNSUPPORTED_BACKEND = "UnsupportedBackend"  # resource backends, non-TCP ports
    UNSUPPORTED_FIELD = "UnsupportedField"  # valid, but not served yet
    DUPLICATE_OBJECT = "DuplicateObject"  # the same kind, namespace and name twice
    CANARY_WITHOUT_MAIN = "CanaryWithoutMain"  # nothing to take a share of
    CONFLICT = "Conflict"  # an older Ingress owns the same host, path and type
    REGEX_MODE = "RegexMode"  # paths mean something else because an Ingress of the host uses regular expressions
    SERVICE_NOT_FOUND = "ServiceNotFound"
    SERVICE_PORT_NOT_FOUND = "ServicePortNotFound"
    NO_ENDPOINTS = "NoEndpoints"
    PORT_UNAVAILABLE = "PortUnavailable"  # of a TCP service: somebody else has it, or it needs a permission
    SECRET_NOT_FOUND = "SecretNotFound"
    INVALID_CERTIFICATE = "InvalidCertificate"  # a Secret without usable certificate, or one for other hosts
    CERTIFICATE_EXPIRY = "CertificateExpiry"  # soon, or it has expired already: served all the same
    INGRESS_CLASS_NOT_FOUND = "IngressClassNotFound"
    ACCESS_RULE_REJECTED = "AccessRuleRejected"  # its routes are closed (503): security rules never fail open


class Verdict(msgspec.Struct, frozen=True, order=True):
    """One thing that was not taken as written.

    `object` is `Kind namespace/name` (or a file name); `field` a path such as `spec.rules[0].http.paths[1].backend.service.port`;
    `value` the offending value as text, shortened; `message` a full sentence for its owner; `origin` is `file:line` when known.
    """

    object: str
    field: str
    reason: VerdictReason
    message: str
    severity: Severity = Severity.ERROR
    value: str = ""
    origin: str = ""

    def __str__(self) -> str:
        where = f"{self.object} {self.field}".rstrip()
        origin = f" ({self.origin})" if self.origin else ""
        value = f" [{self.value}]" if self.value else ""
        return f"{where}:{value} {self.message} ({self.reason}){origin}"


class Reason(enum.Enum):
    """Why a request failed. `proxy.reasons.status_of` maps each to a status."""

    BAD_REQUEST = enum.auto()  # ambiguous framing or syntax: 400 and close
    PLAIN_HTTP = enum.auto()  # on a TLS port: 400
    MISDIRECTED = (
        enum.auto()
    )  # a host whose clients are known by certificates, on a connection that was made for another: 421
    URI_TOO_LONG = enum.auto()  # 414
    HEADERS_TOO_LARGE = enum.auto()  # 431
    BODY_TOO_LARGE = enum.auto()  # 413
    METHOD_NOT_ALLOWED = enum.auto()  # CONNECT, TRACE: 405
    REQUEST_TIMEOUT = enum.auto()  # the client was too slow: 408
    NO_ROUTE = enum.auto()  # 404
    NO_ENDPOINT = enum.auto()  # 503
    ROUTE_CLOSED = enum.auto()  # an access rule was rejected: 503
    CONNECT_FAILED = enum.auto()  # 502
    CONNECT_TIMEOUT = enum.auto()  # 504
    TLS_FAILED = enum.auto()  # the handshake with an endpoint, or its certificate: 502
    SEND_TIMEOUT = enum.auto()  # 504
    READ_TIMEOUT = enum.auto()  # 504
    UPSTREAM_CLOSED = enum.auto()  # 502
    UPSTREAM_PROTOCOL = enum.auto()  # not HTTP, or ambiguous: 502
    CLIENT_GONE = enum.auto()  # 499: logged only
    INTERNAL = enum.auto()  # our bug: 500


class ProxyError(IngressError):
    """A request failed; `reason` decides the status, `forward` decides whether another endpoint is tried."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.name.lower()}: {detail}" if detail else reason.name.lower())
        self.reason = reason
        self.detail = detail
