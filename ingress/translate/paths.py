"""Paths of rules: which are taken, and in what form (KEP-1453, validation of the API server)."""

import re

from ingress.routing.path import normalize_rule_path
from ingress.routing.regex import check_pattern
from ingress.routing.table import PathType

# What an ingress-nginx user writes into a path only to have it read as a regular expression.
_REGEX_SIGNS = frozenset("()*$[]|\\^+?")
_STRICT = re.compile(r"/[A-Za-z0-9._/-]*", re.ASCII)  # ingress-nginx's strict-validate-path-type


def parse_rule_path(path: str, literal: bool) -> tuple[str, str]:
    """(normal form, "") or ("", reason). An empty path is `/`. `literal` takes a `?` as a character of the path, not as a query."""
    try:
        return normalize_rule_path((path.replace("?", "%3F") if literal else path) or "/"), ""
    except ValueError as e:
        return "", str(e)


def parse_path_type(text: str | None) -> PathType | None:
    """ImplementationSpecific and no type at all mean Prefix, as in ingress-nginx; None for a value that isn't one."""
    match text:
        case None | "" | "Prefix" | "ImplementationSpecific":
            return PathType.PREFIX
        case "Exact":
            return PathType.EXACT
        case _:
            return None


def looks_like_regex(path: str, path_type: str | None) -> bool:
    """True for an ImplementationSpecific path that was probably meant as a regular expression."""
    return path_type == "ImplementationSpecific" and not _REGEX_SIGNS.isdisjoint(path)


def parse_regex_path(path: str) -> tuple[str, str]:
    """(the path as it is, "") or ("", reason), for a path that is matched as a regular expression."""
    try:
        check_pattern(path)
    except ValueError as e:
        return "", str(e)
    return path, ""


def is_strict_path(path: str) -> bool:
    """Whether ingress-nginx takes it as Exact or Prefix."""
    return _STRICT.fullmatch(path) is not None
