"""A host in regex mode, as ingress-nginx has it: `use-regex` or an effective `rewrite-target` of one Ingress makes regular expressions of
the paths of all Ingresses there. Their owners are told, because it can change what their paths mean.
"""

from collections.abc import Iterable, Sequence

import msgspec

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.routing.regex import HOST_PROGRAM_LIMIT, check_pattern
from ingress.routing.table import HostPattern, PathType, Route
from ingress.translate.fragment import Fragment, Placed
from ingress.translate.report import shown

Owned = tuple[Fragment, Placed]


def find_cause(owned: Iterable[Owned]) -> Owned | None:
    """The first of `owned` (oldest Ingress first) that asks for regex mode."""
    for entry in owned:
        if entry[1].regex_by:
            return entry
    return None


def describe(cause: Owned) -> str:
    fragment, placed = cause
    return f"{fragment.ref} sets {placed.regex_by}"


def regex_routes(
    host: HostPattern, owned: Sequence[Owned], cause: Owned
) -> tuple[tuple[Route, ...], tuple[Verdict, ...]]:
    """Routes in order of precedence: the longest path (as written) first, of equals the one that sorts last, then the oldest."""
    exact = {placed.path for _, placed in owned if placed.route.path_type is PathType.EXACT}
    why = describe(cause)
    verdicts: list[Verdict] = []
    routes: list[Route] = []
    told: set[int] = set()
    left = HOST_PROGRAM_LIMIT
    for fragment, placed in owned:
        pattern = _pattern(placed, exact)
        try:
            left -= check_pattern(pattern)
            if left < 0:
                raise ValueError("the regular expressions of the host are too large, all together")
        except ValueError as e:
            message = f"The path is left out: {e}. Paths of {host or '*'} are regular expressions, because {why}."
            verdicts.append(_verdict(fragment, placed, Severity.ERROR, message, placed.path))
            continue
        if id(fragment) not in told and _means_something_else(placed):
            told.add(id(fragment))
            message = (
                "It is matched as a regular expression, at the beginning of a path and without regard to case, "
                f"like all paths of {host or '*'}, because {why}."
            )
            what = f"{placed.path} ({placed.route.path_type})"
            verdicts.append(_verdict(fragment, placed, Severity.WARNING, message, what))
        routes.append(msgspec.structs.replace(placed.route, path=placed.path, pattern=pattern))
    routes.sort(key=lambda route: route.path, reverse=True)  # stable
    routes.sort(key=lambda route: -len(route.path))
    return tuple(routes), tuple(verdicts)


def _pattern(placed: Placed, exact: set[str]) -> str:
    """ingress-nginx makes two locations of a plain Prefix path, `/a/` and `= /a`; the second only where no Exact path is there already. As
    regular expressions they come to `^/a`, and to `^/a/`."""
    if placed.regex_by or placed.route.path_type is PathType.EXACT or placed.path not in exact:
        return placed.path
    return placed.path if placed.path.endswith("/") else f"{placed.path}/"


def _means_something_else(placed: Placed) -> bool:
    """A Prefix path `/` matches everything, in either mode."""
    if placed.route.path_type is PathType.EXACT:
        return True
    return not placed.regex_by and placed.path != "/"


def _verdict(fragment: Fragment, placed: Placed, severity: Severity, message: str, value: str) -> Verdict:
    return Verdict(
        object=str(fragment.ref),
        field=f"{placed.field}.path",
        reason=VerdictReason.REGEX_MODE,
        message=message,
        severity=severity,
        value=shown(value),
        origin=fragment.origin,
    )
