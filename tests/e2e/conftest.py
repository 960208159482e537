"""What the black-box tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.support import Pods, Serve, close_connections


@pytest.fixture(scope="session")
def pods() -> Iterator[Pods]:
    found = Pods()
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For the manifests of one test; what the program prints goes beside it."""
    place = tmp_path / "manifests"
    place.mkdir()
    return place


@pytest.fixture(autouse=True)
def no_connection_left() -> Iterator[None]:
    yield
    close_connections()


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Serve]]:
    """Start `ingress serve` on `folder` with these options; ended with the test."""
    started: list[Serve] = []

    def start(*options: str, **rest: object) -> Serve:
        started.append(Serve(rest.pop("manifests", folder), *options, **rest))
        return started[-1]

    yield start
    close_connections()  # before the end, which waits a second for idle ones
    for one in started:
        one.stop()
