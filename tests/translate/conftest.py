"""`pytest tests/translate --update-golden` rewrites the expected output of the golden cases; read the diff before you commit it."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", default=False, help="rewrite tests/translate/cases/*.out.yaml"
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    # The option is missing where this file is collected late (pytest started above tests/translate).
    return bool(request.config.getoption("--update-golden", default=False))
