"""Where requests are sent or redirected to: text with variables, checked when configuration changes.

All raise ValueError with the reason as a clause. Redirects lead to http and https alone, or to a path.
"""

import re
from urllib.parse import urlsplit

import msgspec

from ingress.variables import Part, Variable, parse_value

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_ESCAPED_DOT = re.compile("%2e", re.IGNORECASE | re.ASCII)
_UNSAFE = frozenset(' "<>\\^`{|}')


class RewriteTarget(msgspec.Struct, frozen=True):
    """`path` and `query` of the new request, or of a redirect if `redirects`. `keep_query`: the request's own is appended."""

    path: tuple[Part, ...]
    query: tuple[Part, ...] = ()  # without its question mark
    keep_query: bool = True
    redirects: bool = False  # nginx: a target with a scheme is answered with 302


def parse_rewrite_target(text: str) -> RewriteTarget:
    """nginx's `rewrite` replacement: what follows a `?` is put before the request's own query, and a `?` at the end drops that."""
    if not text:
        raise ValueError("it is empty")
    _check_characters(text)
    redirects = text.startswith(("http://", "https://", "$scheme", "${scheme}"))
    if not redirects and _SCHEME.match(text):
        raise ValueError("it has a scheme that is neither http nor https")
    keep_query = not text.endswith("?")
    path, _, query = text.removesuffix("?").partition("?")
    if not path:
        raise ValueError("it has no path")
    if not redirects:
        path = _ESCAPED_DOT.sub(".", path if path.startswith(("/", "$")) else f"/{path}")
    if not redirects and any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError("it has a dot segment")
    if _MALFORMED_ESCAPE.search(text):
        raise ValueError("it has a % that is not followed by two hexadecimal digits")
    return RewriteTarget(parse_value(path), parse_value(query), keep_query, redirects)


def parse_redirect(text: str) -> tuple[Part, ...]:
    """An http or https URL, or a path; variables may stand for a part of it or for the whole."""
    if not text:
        raise ValueError("it is empty")
    _check_characters(text)
    parts = parse_value(text)
    if parts[0].variable is Variable.TEXT and not text.startswith("/"):
        _check_url(text, variable_follows=len(parts) > 1)
    return parts


def parse_absolute_redirect(text: str) -> tuple[Part, ...]:
    """Like `parse_redirect`, without paths: what ingress-nginx requires of temporal-redirect."""
    parts = parse_redirect(text)
    if text.startswith("/"):
        raise ValueError("it is not an http or https URL")
    return parts


def _check_url(text: str, *, variable_follows: bool) -> None:
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1].lower() not in ("http", "https") or not text[scheme.end() :].startswith("//"):
        raise ValueError("it is neither an http or https URL nor a path that starts with /")
    try:
        host = urlsplit(text).netloc
    except ValueError as e:
        raise ValueError("it is not a URL") from e
    if not host and not variable_follows:
        raise ValueError("it has no host")


def parse_app_root(text: str) -> str:
    """A path; it may have variables."""
    _check_characters(text)
    if not text.startswith("/"):
        raise ValueError("it is not a path that starts with /")
    parse_value(text)
    return text


def parse_upstream_host(text: str) -> tuple[Part, ...]:
    """A host, with a port or not; it may have variables."""
    if not text:
        raise ValueError("it is empty")
    _check_characters(text)
    if any(c in "/?#@," for c in text):
        raise ValueError("it has a character that no host has")
    return parse_value(text)


def parse_prefix(text: str) -> tuple[Part, ...]:
    """Value of X-Forwarded-Prefix; none if empty."""
    text = text.replace(" ", "")
    _check_characters(text)
    return parse_value(text)


def _check_characters(text: str) -> None:
    """Text that goes into a request line or a header as it stands."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("it contains a character that is not printable ASCII: write it percent-encoded")
    bad = _UNSAFE.intersection(re.sub(r"\$\{[A-Za-z0-9_]*\}", "", text))
    if bad:
        raise ValueError(f"it contains {min(bad)!r}, which has to be percent-encoded")
