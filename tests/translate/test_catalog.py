"""docs/annotations.md is made from the catalog, and the catalog agrees with the parsers and with the tests that it names."""

import re
from functools import cache
from pathlib import Path

import pytest

from ingress.middleware.registry import SPECS
from ingress.translate.annotations.canary import DETAILS
from ingress.translate.annotations.catalog import Row, Status, rows
from ingress.translate.annotations.known import KNOWN, SNIPPETS, Handling
from ingress.translate.annotations.parse import READ
from tools.annotation_docs import PAGE

ROOT = Path(__file__).parents[2]
ROWS = tuple(rows())
IMPLEMENTED = {*READ, *DETAILS, *(name for spec in SPECS for name in spec.annotations)}
OWN = re.compile(r"middleware|maintenance.*|request-headers|response-headers|health-check-.*")
"""Annotations of ours that ingress-nginx doesn't have."""


@cache
def functions(file: str) -> frozenset[str]:
    path = ROOT / file
    return (
        frozenset(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
        if path.exists()
        else frozenset()
    )


def test_the_page_is_up_to_date() -> None:
    text = PAGE.path.read_text(encoding="utf-8")
    assert text == PAGE.current(text), "run `make manifest`"


def test_every_name_stands_once() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    missing = {name for name in {*IMPLEMENTED, *KNOWN, *SNIPPETS} - set(names) if not OWN.fullmatch(name)}
    assert not missing


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_test_exists(row: Row) -> None:
    file, _, function = row.test.partition("::")
    assert function in functions(file), f"{row.name}: there is no {row.test}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_status_is_true(row: Row) -> None:
    if row.status in (Status.SAME, Status.DIFFERS):
        assert row.name in IMPLEMENTED, "nothing reads it"
        assert bool(row.note) == (row.status is Status.DIFFERS), "a difference is explained, and only that"
        return
    assert row.note
    if row.name in IMPLEMENTED:
        return  # read, to be refused or to be nothing
    if row.status is Status.NO_EFFECT:
        assert KNOWN[row.name].handling in (Handling.NO_EFFECT, Handling.NOT_READ_BY_NGINX)
    else:
        assert row.name in SNIPPETS or KNOWN[row.name].handling in (Handling.UNSUPPORTED, Handling.ACCESS_RULE)
