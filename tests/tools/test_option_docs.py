"""The pages about options and annotations say what the code does."""

import pytest

from ingress.translate.options.keys import KEYS
from tools import annotation_docs, option_docs
from tools.tables import ROOT


def test_the_page_is_current() -> None:
    assert option_docs.PAGE.main(["--check"], "", None) == 0
    assert annotation_docs.PAGE.main(["--check"], "", None) == 0


def test_every_option_has_one_row() -> None:
    rendered = option_docs.render()
    for key in KEYS:
        assert rendered.count(f"| `{key.name}` |") == 1


def test_links_of_tests_lead_somewhere() -> None:
    for key in KEYS:
        assert (ROOT / key.test.partition("::")[0]).exists()


def test_cells_cannot_break_the_table() -> None:
    for line in (option_docs.render() + annotation_docs.render()).splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 6, line


def test_a_page_without_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place"):
        option_docs.PAGE.current("# Options\n")
