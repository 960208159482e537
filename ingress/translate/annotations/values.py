"""Values of annotations. Each function raises ValueError with the reason as a clause that names the bad part."""

import re

from ingress.routing.table import RetryOn

_SIZE = re.compile(r"([0-9]{1,18})([bkmg]?)", re.ASCII | re.IGNORECASE)
_UNIT = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_DOMAIN = re.compile(r"\.?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)  # RFC 6265 cookie-name is an RFC 9110 token
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_SAME_SITE = {"none": "None", "lax": "Lax", "strict": "Strict"}
_MAX_BYTES = 1 << 62


def boolean(text: str) -> bool:
    """The spellings of Go's strconv.ParseBool, which ingress-nginx uses."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError('it is neither "true" nor "false"')


def on_off(text: str) -> bool:
    """nginx's switches, as ingress-nginx takes them: in lower case only."""
    if text not in ("on", "off"):
        raise ValueError('it is neither "on" nor "off"')
    return text == "on"


def count(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError("it is not a whole number of at most nine digits")
    return int(text)


def positive(text: str) -> int:
    number = count(text)
    if number == 0:
        raise ValueError("it has to be greater than 0")
    return number


def seconds(text: str) -> float:
    """Whole seconds without a unit, greater than 0."""
    if text[-1:] in ("s", "m", "h") and _NUMBER.fullmatch(text[:-1]):
        raise ValueError(f"it has the unit {text[-1]}: write the number of seconds alone")
    return float(positive(text))


def size_bytes(text: str) -> int:
    """Bytes, or with a unit b, k, m or g (powers of 1024)."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("it is not a size: digits and one of the units b, k, m, g")
    size = int(match[1]) * _UNIT[match[2].lower()]
    if size > _MAX_BYTES:
        raise ValueError("it is too large")
    return size


def retry_conditions(text: str) -> tuple[RetryOn, ...]:
    """Conditions in the order of `RetryOn`, each once; none for `off`."""
    words = text.split()
    if not words:
        raise ValueError("it is empty")
    if words == ["off"]:
        return ()
    if "off" in words:
        raise ValueError("off stands alone")
    known = set(RetryOn)
    for word in words:
        if word not in known:
            raise ValueError(f"{word[:40]} is not a condition")
    return tuple(condition for condition in RetryOn if condition in words)


def cookie_name(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError("it is not a cookie name: letters, digits and a few signs, no space or separator (RFC 6265)")
    if len(text) > 256:
        raise ValueError("it is longer than 256 characters")
    return text


def cookie_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("it does not start with /")
    return _cookie_attribute(text)


def cookie_domain(text: str) -> str:
    """Browsers drop a cookie whose domain isn't one, and every request would begin a new session."""
    _cookie_attribute(text)
    if not _DOMAIN.fullmatch(text):
        raise ValueError("it is not a domain")
    return text


def _cookie_attribute(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ValueError("it contains a character that is not printable ASCII")
    if ";" in text or "," in text:
        raise ValueError("it contains ; or ,")
    if len(text) > 1024:
        raise ValueError("it is longer than 1024 characters")
    return text


def same_site(text: str) -> str:
    value = _SAME_SITE.get(text.lower())
    if value is None:
        raise ValueError("it is none of None, Lax and Strict")
    return value
