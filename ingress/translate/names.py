"""Names as the API server validates them (RFC 1123), and hosts of rules (KEP-1453).

Sources that read files take whatever was written, so these checks are made here: object names become parts of upstream keys, and
a name with `/` or `:` in it could pose as another object.
"""

import ipaddress
import re

from ingress.routing.table import ANY_HOST, HostPattern

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[-.a-z0-9]*[a-z0-9])?", re.ASCII)
# ServicePort names are DNS labels; a name without a letter could be taken for a number.
_PORT_NAME = re.compile(r"(?=[^a-zA-Z]*[a-zA-Z])[a-zA-Z0-9](?:[-_.a-zA-Z0-9]*[a-zA-Z0-9])?", re.ASCII)
# Looser than host names: underscores are common in DNS, and the resolver has the last word.
_RESOLVABLE = re.compile(r"[a-z0-9_](?:[-a-z0-9_.]*[a-z0-9_])?", re.ASCII)


def is_object_name(name: str) -> bool:
    """True for a DNS subdomain of at most 253 characters (names of Services, Ingresses, namespaces)."""
    return len(name) <= 253 and _OBJECT_NAME.fullmatch(name) is not None


def is_port_name(name: str) -> bool:
    return len(name) <= 63 and _PORT_NAME.fullmatch(name) is not None


def is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def normalize_external_name(name: str) -> str | None:
    """`externalName` as the key under which its addresses are looked up: lower case, no final dot. None if it can't be a DNS name."""
    name = name.lower().removesuffix(".")
    return name if len(name) <= 253 and ".." not in name and _RESOLVABLE.fullmatch(name) else None


def is_localhost_name(name: str) -> bool:
    """True for `localhost` and its subdomains (RFC 6761 section 6.3) and for what old hosts files call so. Wants a normalised name."""
    return name in ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback") or name.endswith(
        ".localhost"
    )


def parse_host(text: str) -> tuple[HostPattern, str]:
    """The pattern for the host of a rule and "", or ("", reason) with the reason as a clause.

    Empty: any host. Otherwise a DNS name, or `*.` and a DNS name; upper case is accepted, though the API server refuses it.
    """
    if text == "":
        return ANY_HOST, ""
    host = text.lower()
    name = host.removeprefix("*.")
    if len(name) <= 253 and _DNS_NAME.fullmatch(name) and not (name[-1].isdigit() and is_ip_address(host)):
        return HostPattern(host), ""
    return ANY_HOST, _why_no_host(host)


def _why_no_host(host: str) -> str:
    if host == "*":
        return "a lone * is not a host: leave the host out to mean any"
    if is_ip_address(host.removeprefix("[").removesuffix("]")):
        return "an IP address is not a host name"
    name, colon, port = host.rpartition(":")
    if colon and port.isascii() and port.isdigit() and name:
        return "a host has no port: requests are matched without it"
    if "://" in host:
        return "a host has no scheme"
    if "/" in host:
        return "a host has no path"
    if "*" in host:
        return "a wildcard stands for the whole first label only, as in *.example.com"
    if len(host) > 253:
        return "it is longer than 253 characters"
    if any(len(label) > 63 for label in host.split(".")):
        return "one of its labels is longer than 63 characters"
    if not host.isascii():
        return "it is not ASCII: write international names in their xn-- form"
    return "it is not a DNS name: labels of letters, digits and hyphens, separated by dots"
