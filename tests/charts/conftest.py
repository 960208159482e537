"""The chart and helm. Rendering is offline: no test here reaches a cluster or a network.

Without helm, tests that need it are left out, which the summary says; with CI set that is a failure.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.charts.support import Chart
from tools.chart_docs import CHART, find_helm

_HERE = Path(__file__).parent
_NO_HELM = "no helm: set HELM, put it on the PATH, or build it (make envtest)"
_left_out = pytest.StashKey[str]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_helm() is not None or os.environ.get("CI"):
        return
    needing = [item for item in items if _HERE in item.path.parents and "chart" in getattr(item, "fixturenames", ())]
    if needing:
        config.stash[_left_out] = f"{len(needing)} tests of the Helm chart left out: {_NO_HELM}"
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if _left_out in config.stash:
        terminalreporter.write_line(config.stash[_left_out], yellow=True)


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    helm = find_helm()
    if helm is None:
        pytest.fail(_NO_HELM, pytrace=False)
    # Neither the repositories and plugins of whoever runs the tests, nor their cluster.
    home = str(tmp_path_factory.mktemp("helm"))
    isolated = dict.fromkeys(("HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"), home)
    return Chart(helm, os.environ | isolated | {"KUBECONFIG": os.devnull})


@pytest.fixture(scope="session")
def noted(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """A copy of the chart with NOTES.txt as an object: without a cluster helm renders manifests only."""
    copy = tmp_path_factory.mktemp("chart") / "aioingress"
    shutil.copytree(CHART, copy)
    notes = copy / "templates" / "NOTES.txt"
    text = notes.read_text()
    notes.unlink()
    (copy / "templates" / "notes.yaml").write_text(
        f'{{{{- define "notes" -}}}}{text}{{{{- end -}}}}\n'
        'kind: Notes\nmetadata: {name: notes}\ntext: {{ include "notes" . | quote }}\n'
    )
    return replace(chart, chart=copy, cache={})
