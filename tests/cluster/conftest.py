"""Tests on a real API server: docs/testing.md.

They run last, each inside of the cluster's network namespace (the main thread enters it before a test's set-up and leaves it after its
tear-down). Without what the cluster needs they are left out, which the summary says; with CI set that is a failure.
"""

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.support import Release, install_chart
from tools.envtest import EnvtestError
from tools.envtest.build import find_binaries
from tools.envtest.cluster import Cluster, check
from tools.envtest.netns import NetworkNamespace

_HERE = Path(__file__).parent
_network = pytest.StashKey[NetworkNamespace]()
_cluster = pytest.StashKey[Cluster]()
_left_out = pytest.StashKey[str]()


def pytest_itemcollected(item: pytest.Item) -> None:
    if _HERE in item.path.parents:
        item.add_marker(pytest.mark.kube)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Last: the cluster would take CPU from tests that watch the clock."""
    kube = [item for item in items if _HERE in item.path.parents]
    if not kube:
        return
    others = [item for item in items if _HERE not in item.path.parents]
    problem = check()
    if problem is not None and not os.environ.get("CI"):
        config.stash[_left_out] = f"{len(kube)} tests on a real API server left out: {problem}"
        config.hook.pytest_deselected(items=kube)
        kube = []
    items[:] = others + kube


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if _left_out in config.stash:
        terminalreporter.write_line(config.stash[_left_out], yellow=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    stash = item.config.stash
    if _network not in stash:
        try:
            stash[_network] = NetworkNamespace()
        except EnvtestError:
            return (yield)  # the cluster's fixture will say why
    with stash[_network].entered():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and _cluster in item.config.stash:
        report.sections.append(("the cluster's logs", item.config.stash[_cluster].log_tails()))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """One for all tests: leave it as you found it. Its methods block: in async tests call them by `asyncio.to_thread`."""
    binaries = find_binaries()
    if isinstance(binaries, str):
        pytest.fail(binaries, pytrace=False)
    namespace = pytestconfig.stash.get(_network, None)
    with Cluster(binaries, tmp_path_factory.mktemp("envtest") / "cluster", namespace) as found:
        pytestconfig.stash[_cluster] = found
        yield found


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh one, which can take Pods. Its deletion isn't waited for."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.create_namespace(name)
    yield name
    cluster.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def chart(cluster: Cluster, namespace: str) -> Iterator[Callable[..., Release]]:
    """Install the project's chart into the test's namespace: `chart(values, release="name")`; uninstalled with the test."""
    releases: list[Release] = []

    def install(values: dict[str, Any] | None = None, release: str = "aioingress", wait: bool = True) -> Release:
        releases.append(install_chart(cluster, release, namespace, values or {}, wait=wait))
        return releases[-1]

    yield install
    for one in reversed(releases):
        one.uninstall()
