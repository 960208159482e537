"""What a row of the table of options says."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ingress.translate.annotations.known import OFF, ON
from ingress.translate.options import values


class Status(enum.StrEnum):
    SAME = "same"  # as in ingress-nginx
    DIFFERS = "differs"  # applied; the note says how it differs
    NO_EFFECT = "no effect"  # accepted in silence; the note says why nothing is missing
    REFUSED = "refused"  # an error if it asks for something; the note says what to do instead
    IGNORED = "ignored"  # a warning: ingress-nginx 1.15 ignores it too


@dataclass(frozen=True, slots=True)
class Key:
    """One option. `target` is the field that it sets, as a path within `Options`; empty where several options make one.

    `default` is ingress-nginx's, as its documentation writes it; `example` another value. `harmless`: values in lower case that ask for
    nothing. `reference`: the value names a ConfigMap of header fields. `strict`: entries that can't be used make the list of last
    time stay in force beside what is usable. `fails_closed`: a bad value without a good one before it is handed on as it is, and whoever
    reads it closes the routes that it is about.
    """

    name: str
    status: Status
    default: str = ""
    note: str = ""
    test: str = ""
    target: str = ""
    parse: Callable[[str], Any] = values.text
    example: str = ""
    harmless: frozenset[str] = frozenset()
    reference: bool = False
    strict: bool = False
    fails_closed: bool = False


_TABLE_TEST = "tests/translate/test_option_keys.py::"
SETS_ITS_FIELD = _TABLE_TEST + "test_sets_its_field"
NOTHING: frozenset[str] = frozenset(("",))
EMPTY_OR_OFF = OFF | NOTHING
EMPTY_OR_ON = ON | NOTHING


def same(
    name: str,
    default: str,
    target: str,
    parse: Callable[[str], Any],
    example: str,
    test: str = SETS_ITS_FIELD,
    note: str = "",
    **more: Any,
) -> Key:
    return Key(name, Status.SAME, default, note, test, target, parse, example, **more)


def differs(
    name: str,
    default: str,
    target: str,
    parse: Callable[[str], Any],
    example: str,
    note: str,
    test: str = SETS_ITS_FIELD,
    **more: Any,
) -> Key:
    return Key(name, Status.DIFFERS, default, note, test, target, parse, example, **more)


def no_effect(name: str, default: str, why: str, test: str = _TABLE_TEST + "test_accepted_in_silence") -> Key:
    return Key(name, Status.NO_EFFECT, default, why, test)


def refused(
    name: str,
    default: str,
    instead: str,
    harmless: frozenset[str] = NOTHING,
    test: str = _TABLE_TEST + "test_refused",
) -> Key:
    return Key(name, Status.REFUSED, default, instead, test, harmless=harmless)


def ignored(name: str, default: str, note: str) -> Key:
    return Key(name, Status.IGNORED, default, note, _TABLE_TEST + "test_ignored_by_both")
