"""The chart and helm. Rendering is offline: no test here reaches a cluster or a network."""

import os
import shutil
from dataclasses import replace

import pytest

from tests.charts.support import Chart
from tools.chart_docs import CHART, find_helm


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    helm = find_helm()
    if helm is None:
        reason = "no helm: set HELM or KUBEBUILDER_ASSETS, put it on the PATH, or build it with: make cluster"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
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
