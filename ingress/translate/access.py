"""Values of access rules, in annotations and options alike. Each function raises ValueError with the reason as a clause that names the bad part.

The accepted forms are those of ingress-nginx 1.15 (internal/net/ipnet.go, annotations/authreq, annotations/parser/validators.go), less what it
would have written into nginx.conf.
"""

import ipaddress
import re
from typing import NamedTuple

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_HEADER = re.compile(r"[A-Za-z0-9\-_]{1,256}", re.ASCII)
_URL = re.compile(r"(https?)://([^/?#]+)([/?].*)?", re.ASCII)
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~/:,?&=$%+{}\[\];@!*()']+", re.ASCII)
_PARAMETER = re.compile(r"[A-Za-z0-9\-._~]{1,128}", re.ASCII)
_STATUS = re.compile(r"[0-9]{3}", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d|w|M|y)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2592000, "y": 31536000}
_USUAL_STATUSES = (200, 301, 302)  # of a proxy_cache_valid without statuses
ANY_STATUS = 0
DEFAULT_CACHE_DURATIONS = ((200, 300.0), (202, 300.0), (401, 300.0))
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


def networks(text: str) -> tuple[str, ...]:
    """Addresses and CIDRs separated by commas, as sorted CIDRs without duplicates. Bits behind the prefix don't count, as in Go's ParseCIDR."""
    found: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, None] = {}
    for part in text.split(","):
        found[_network(part.strip())] = None
    return tuple(str(n) for n in sorted(found, key=lambda n: (n.version, int(n.network_address), n.prefixlen)))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    address, slash, prefix = text.partition("/")
    # The library takes masks, zones and no prefix at all; nginx doesn't.
    if not text or "%" in address or (slash and not (prefix.isascii() and prefix.isdigit())):
        raise ValueError(f"{text[:60]!r} is neither an address nor a CIDR" if text else "an entry is empty")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is neither an address nor a CIDR") from None
    if network.version == 6 and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped  # ::ffff:10.0.0.1 is the client 10.0.0.1
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


class URL(NamedTuple):
    """A URL whose parts may have variables. `authority` as written; `path` with the query, not empty."""

    scheme: str
    authority: str
    path: str

    @property
    def host(self) -> str:
        """Without port, as ingress-nginx sends it in Host."""
        if self.authority.startswith("["):
            return self.authority.partition("]")[0] + "]"
        return self.authority.rpartition(":")[0] if ":" in self.authority else self.authority


def url(text: str) -> URL:
    """`http://` or `https://`, a host, perhaps a port, path and query. Variables stay as they are."""
    characters(text)
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError("it is not a URL: http:// or https:// and a host")
    scheme, authority, path = match[1], match[2], match[3] or "/"
    if "@" in authority:
        raise ValueError("it has a user name in front of the host")
    if ".." in authority:
        raise ValueError("its host has two dots in a row")
    literal = authority.startswith("[")
    host, colon, port = authority.rpartition(":") if not literal or not authority.endswith("]") else (authority, "", "")
    if colon and "$" not in port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("its port is not a number from 1 to 65535")
    if colon and not host:
        raise ValueError("it has no host")
    if literal:
        try:
            ipaddress.IPv6Address((host if colon else authority).strip("[]"))
        except ValueError:
            raise ValueError("its brackets hold no IPv6 address") from None
    elif ":" in host:
        raise ValueError("its host is not one")
    return URL(scheme, authority, path if path.startswith("/") else "/" + path)


def signin(text: str) -> str:
    """Where to send a browser: a URL, or a path of this host."""
    characters(text)
    if not text.startswith("/"):
        url(text.replace("$scheme://", "http://", 1).replace("$pass_access_scheme://", "http://", 1))
    return text


def characters(text: str) -> None:
    if len(text) > 4096:
        raise ValueError("it is longer than 4096 characters")
    if not _URL_CHARACTERS.fullmatch(text):
        bad = next((c for c in text if not _URL_CHARACTERS.fullmatch(c)), "")
        raise ValueError(f"a URL can't contain {bad!r}" if bad else "it is empty")


def method(text: str) -> str:
    if text not in _METHODS:
        raise ValueError(f"it is none of {', '.join(sorted(_METHODS))}")
    return text


def redirect_param(text: str) -> str:
    if not _PARAMETER.fullmatch(text):
        raise ValueError("it is not the name of a query parameter: letters, digits, - . _ ~")
    return text


def header_name(text: str) -> str:
    """A name that may be set on a request: framing and Host are the proxy's own."""
    if not _HEADER.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not the name of a header")
    if text.lower() in _HOP_BY_HOP:
        raise ValueError(f"{text} can't be set: it is the proxy's own")
    return text


def header_names(text: str) -> tuple[str, ...]:
    """Separated by commas; empty entries don't count. Each once, whatever its case."""
    names = {part.strip().lower(): header_name(part.strip()) for part in reversed(text.split(",")) if part.strip()}
    return tuple(reversed(names.values()))


def header_text(text: str) -> str:
    """The value of a header: visible ASCII and spaces."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("it contains a character that is not printable ASCII")
    if len(text) > 4096:
        raise ValueError("it is longer than 4096 characters")
    return text


def cache_durations(text: str) -> tuple[tuple[int, float], ...]:
    """`200 202 10m, 401 5m` as (status, seconds), in order: the first that fits counts. `any` is `ANY_STATUS`; no status means 200, 301 and 302."""
    found: list[tuple[int, float]] = []
    for item in text.split(","):
        words = item.split()
        if not words:
            continue
        statuses: list[int] = []
        seconds: float | None = None
        for word in words:
            duration = _DURATION.fullmatch(word)
            if duration is not None:
                seconds = (seconds or 0.0) + int(duration[1]) * _SECONDS[duration[2]]
            elif seconds is not None:
                raise ValueError(f"{word[:20]!r} stands behind a duration")
            elif word == "any":
                statuses.append(ANY_STATUS)
            elif _STATUS.fullmatch(word) and word >= "100":
                statuses.append(int(word))
            else:
                raise ValueError(f"{word[:20]!r} is neither a status nor a duration such as 5m")
        if seconds is None:
            raise ValueError(f"{item.strip()[:40]!r} has no duration")
        found += ((status, min(seconds, 31536000.0)) for status in statuses or _USUAL_STATUSES)
    return tuple(found) or DEFAULT_CACHE_DURATIONS


def paths(text: str) -> tuple[str, ...]:
    """Prefixes of rule paths, separated by commas; empty entries don't count."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def is_exempt(rule_path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a rule needs no authentication: a prefix of its path as text, as in ingress-nginx; the path of the request plays no part."""
    return rule_path.startswith(prefixes)
