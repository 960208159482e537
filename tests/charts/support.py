"""Renders the chart and hands out its objects, so that tests can say what they mean rather than what the text looks like."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tools.chart_docs import CHART, RENDER_VERSION

Values = Mapping[str, Any]
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # several times faster where PyYAML was built with libyaml
Object = dict[str, Any]


class Refused(Exception):
    """helm said no; `str()` is what it wrote."""


@dataclass(frozen=True, slots=True)
class Objects:
    items: tuple[Object, ...]

    def of(self, kind: str) -> dict[str, Object]:
        """Name to object."""
        return {item["metadata"]["name"]: item for item in self.items if item["kind"] == kind}

    def one(self, kind: str, name: str | None = None) -> Object:
        found = self.of(kind)
        if name is not None:
            return found[name]
        assert len(found) == 1, f"{kind}: {sorted(found)}"
        return next(iter(found.values()))

    @property
    def kinds(self) -> set[str]:
        return {item["kind"] for item in self.items}

    @property
    def workload(self) -> Object:
        found = [
            item
            for item in self.items
            if item["kind"] in ("Deployment", "DaemonSet")
            and item["metadata"]["labels"]["app.kubernetes.io/component"] == "controller"
        ]
        assert len(found) == 1
        return found[0]

    @property
    def pod(self) -> Object:
        spec: Object = self.workload["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Object:
        container: Object = self.pod["containers"][0]
        return container

    @property
    def args(self) -> list[str]:
        args: list[str] = self.container["args"]
        return args

    def flag(self, name: str) -> str | None:
        """Value of `--name=value`, None if there is none; "" for the bare flag. The last counts, as on the command line."""
        found = None
        for arg in self.args:
            flag, _, value = arg.partition("=")
            if flag == f"--{name}":
                found = value
        return found


@dataclass(slots=True)
class Chart:
    helm: str
    environment: Mapping[str, str]
    chart: Path = CHART
    cache: dict[str, Objects] = field(default_factory=dict)

    def render(self, values: Values | None = None, *, release: str = "web", kube: str = RENDER_VERSION) -> Objects:
        command = ["template", release, str(self.chart), "--namespace", "edge", "--kube-version", kube, "--values", "-"]
        key = json.dumps([release, kube, values or {}])
        if key not in self.cache:
            self.cache[key] = Objects(tuple(_documents(self._run(command, values or {}))))
        return self.cache[key]

    def notes(self, values: Values) -> str:
        """NOTES.txt as an installation shows it; `chart` is a copy that has it as an object."""
        text: str = self.render(values).one("Notes")["text"]
        return text

    def lint(self, values: Values) -> str:
        return self._run(["lint", "--strict", str(self.chart), "--values", "-"], values)

    def _run(self, command: list[str], values: Values) -> str:
        done = subprocess.run(
            [self.helm, *command],
            check=False,
            input=json.dumps(values),
            capture_output=True,
            text=True,
            env=self.environment,
        )
        if done.returncode:
            raise Refused(done.stderr + done.stdout)
        return done.stdout


def _documents(text: str) -> Iterator[Object]:
    for document in yaml.load_all(text, Loader=LOADER):
        if document is not None:
            yield document
