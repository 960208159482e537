"""Field names and values that come from manifests, and small edits of responses. Pure."""

import re

from ingress.exchange import ResponseHead, iter_fields

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)  # RFC 9110 section 5.6.2

VALUE_LIMIT = 4096
# What frames a message or belongs to a single hop is the proxy's own (RFC 9110 section 7.6.1, RFC 9112 section 6).
FRAMING = frozenset(
    (
        "connection",
        "content-length",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
RESPONSE_OWN = FRAMING | {"server", "date"}
"""Response fields that no rule may touch: the proxy writes them itself."""
REQUEST_OWN = FRAMING | {
    "expect",
    "host",
    "proxy",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-original-forwarded-for",
    "x-original-forwarded-host",
    "x-real-ip",
    "x-request-id",
    "x-scheme",
}
"""Request fields that no rule may touch: who reads them must be able to rely on them."""


def field_name(text: str) -> bytes:
    """Raises ValueError with a clause."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text[:60].encode('unicode_escape').decode('ascii')} is not the name of a header")
    return text.encode("ascii")


def field_value(text: str) -> bytes:
    """Visible ASCII, spaces and tabs, without those around it: never a line break. Raises ValueError with a clause."""
    text = text.strip(" \t")
    if len(text) > VALUE_LIMIT:
        raise ValueError(f"a value is longer than {VALUE_LIMIT} characters")
    if not text.isascii() or not all(c == "\t" or c.isprintable() for c in text):
        raise ValueError("a value has characters other than printable ASCII")
    return text.encode("ascii")


def add_vary(head: ResponseHead, name: bytes) -> None:
    """Name a request field that the response depends on; once, and not where `*` says it all."""
    wanted = name.lower()
    for field, value in iter_fields(head.fields):
        if len(field) == 4 and field.lower() == b"vary":
            named = [item.strip() for item in value.lower().split(b",")]
            if wanted in named or b"*" in named:
                return
    head.add(b"Vary", name)
