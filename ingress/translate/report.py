"""Verdicts: collected about one object (`Report`), and kept by what they come from (`VerdictBook`)."""

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.translate.bag import SortedBag

_VALUE_LIMIT = 100
_NAME_LIMIT = 512  # namespace/name and the longest annotation key fit, and are never cut


def shown(text: object, limit: int = _VALUE_LIMIT) -> str:
    """Untrusted text as it may appear in a log line or an Event: one line, printable, at most `limit` characters."""
    printable = str(text)
    if not printable.isprintable():
        printable = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in printable[: 2 * limit]
        )
    return printable if len(printable) <= limit else printable[: limit - 1] + "…"


class Report:
    """Verdicts about the object named `object` (as `str(ObjectRef)` gives it), which was read at `origin`."""

    __slots__ = ("_found", "object", "origin")

    def __init__(self, object: str, origin: str) -> None:
        self.object = shown(object, _NAME_LIMIT)
        self.origin = origin
        self._found: list[Verdict] = []

    def error(self, field: str, reason: VerdictReason, message: str, value: object = "") -> None:
        """Something asked for is not served."""
        self._add(field, reason, message, Severity.ERROR, value)

    def warning(self, field: str, reason: VerdictReason, message: str, value: object = "") -> None:
        """It is served, but perhaps not as its author expects."""
        self._add(field, reason, message, Severity.WARNING, value)

    def _add(self, field: str, reason: VerdictReason, message: str, severity: Severity, value: object) -> None:
        self._found.append(
            Verdict(
                object=self.object,
                field=shown(field, _NAME_LIMIT),
                reason=reason,
                message=message,
                severity=severity,
                value=shown(value),
                origin=self.origin,
            )
        )

    def verdicts(self) -> tuple[Verdict, ...]:
        """In the order found, each once."""
        return tuple(dict.fromkeys(self._found))


class VerdictBook:
    """All verdicts, by what they come from, so that one part can be replaced without touching the others."""

    __slots__ = ("_all", "_parts", "_sorted")

    def __init__(self) -> None:
        self._parts: dict[tuple[str, object], tuple[Verdict, ...]] = {}
        self._sorted: SortedBag[Verdict] = SortedBag()
        self._all: tuple[Verdict, ...] | None = None

    def __contains__(self, part: tuple[str, object]) -> bool:
        return part in self._parts

    def put(self, part: tuple[str, object], verdicts: tuple[Verdict, ...]) -> None:
        """Replace the verdicts of `part`."""
        old = self._parts.get(part, ())
        if old == verdicts:
            return
        self._all = None
        for verdict in old:
            self._sorted.remove(verdict)
        for verdict in verdicts:
            self._sorted.add(verdict)
        if verdicts:
            self._parts[part] = verdicts
        else:
            del self._parts[part]

    def all(self) -> tuple[Verdict, ...]:
        """Sorted, each once: two upstreams of one Service find the same faults."""
        if self._all is None:
            items = self._sorted.items()
            self._all = tuple(v for at, v in enumerate(items) if at == 0 or items[at - 1] != v)
        return self._all
