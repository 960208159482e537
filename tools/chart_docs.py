"""Makes what is derived from the chart: `python -m tools.chart_docs` writes values.schema.json, the table of values in the chart's
README.md, and (with helm) deploy/aioingress.yaml; `--check` only compares and exits with 1 if something is out of date.

In values.yaml a comment `# -- TEXT` above a key is its description, `# @schema JSON` adds to the schema that follows from the
default. A mapping whose default is empty, or whose `@schema` has additionalProperties, is free-form: one row, any key. Without a
description of its own such a mapping is both: keys that are described, and any others.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "aioingress"
MANIFEST = ROOT / "deploy" / "aioingress.yaml"
TABLE_START, TABLE_END = "<!-- values: start -->\n", "<!-- values: end -->\n"
RENDER_VERSION = "1.31.0"
"""Kubernetes version that offline rendering assumes."""

HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")

_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


@dataclass(frozen=True, slots=True)
class Value:
    """A key of values.yaml: its path, its default, what its comments say, and the keys below it unless it is free-form."""

    path: tuple[str, ...]
    default: Any
    description: str
    schema: dict[str, Any]
    children: tuple["Value", ...]

    @property
    def is_leaf(self) -> bool:
        return not self.children


def read_values(text: str) -> tuple[Value, ...]:
    """Top-level values in the order of the file. Raise ValueError for a key without description or with a bad `@schema`."""
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(document, yaml.MappingNode)
    return tuple(_children(document, yaml.safe_load(text), text.splitlines(), ()))


def _children(
    node: yaml.MappingNode, defaults: dict[str, Any], lines: list[str], path: tuple[str, ...]
) -> Iterator[Value]:
    for key_node, value_node in node.value:
        key = str(key_node.value)
        here = (*path, key)
        default = defaults[key]
        description, schema = _comment(lines, key_node.start_mark.line, here)
        children: tuple[Value, ...] = ()
        if (
            isinstance(value_node, yaml.MappingNode)
            and default
            and ("additionalProperties" not in schema or not description)
        ):
            children = tuple(_children(value_node, default, lines, here))
        elif not description:
            raise ValueError(f"{'.'.join(here)} has no description")
        yield Value(here, default, description, schema, children)


def _comment(lines: list[str], line: int, path: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    description, schema = "", {}
    for text in _comment_lines(lines, line):
        if text.startswith("# -- "):
            description = text.removeprefix("# -- ")
        elif text.startswith("# @schema "):
            try:
                schema = json.loads(text.removeprefix("# @schema "))
            except ValueError as error:
                raise ValueError(f"{'.'.join(path)}: bad @schema: {error}") from None
    return description, schema


def _comment_lines(lines: list[str], line: int) -> Iterator[str]:
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        yield lines[line].strip()


# ---- schema -------------------------------------------------------------------------------------------------------


def make_schema(values: tuple[Value, ...], ignored: dict[str, str]) -> dict[str, Any]:
    """JSON schema of the values (draft 7). `ignored`: dotted path to reason, accepted with any content."""
    schema: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart aioingress",
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: _schema_of(value) for value in values},
    }
    for path, reason in ignored.items():
        *parents, name = path.split(".")
        target: Any = schema
        for parent in parents:
            target = target["properties"][parent]
        if name in target["properties"]:
            raise ValueError(f"{path} is a value of the chart, and ignored")
        target["properties"][name] = {"description": f"No effect; accepted from ingress-nginx's values: {reason}."}
    return schema


def _schema_of(value: Value) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": value.description} if value.description else {}
    schema["type"] = _JSON_TYPES[type(value.default)]
    if value.children:
        schema["additionalProperties"] = False
        schema["properties"] = {child.path[-1]: _schema_of(child) for child in value.children}
    schema |= value.schema
    return schema


# ---- table --------------------------------------------------------------------------------------------------------


def make_table(values: tuple[Value, ...]) -> str:
    """Markdown: one row a value."""
    rows = ["| value | default | meaning |\n", "|---|---|---|\n"]
    for value in _leaves(values):
        default = json.dumps(value.default, ensure_ascii=False)
        rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {value.description} |\n")
    return "".join(rows)


def _leaves(values: tuple[Value, ...]) -> Iterator[Value]:
    for value in values:
        if value.is_leaf:
            yield value
        else:
            yield from _leaves(value.children)


def insert_table(readme: str, table: str) -> str:
    """Raise ValueError if the marks are missing."""
    before, start, rest = readme.partition(TABLE_START)
    _, end, after = rest.partition(TABLE_END)
    if not start or not end:
        raise ValueError(f"README.md has no {TABLE_START.strip()} and {TABLE_END.strip()}")
    return f"{before}{start}\n{table}\n{end}{after}"


# ---- manifest -----------------------------------------------------------------------------------------------------


def render(helm: str, *arguments: str, release: str = "aioingress", namespace: str = "aioingress") -> str:
    """`helm template` of the chart; raise CalledProcessError with helm's words in `stderr`."""
    command = [helm, "template", release, str(CHART), "--namespace", namespace, "--kube-version", RENDER_VERSION]
    return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout


def make_manifest(rendered: str, namespace: str = "aioingress") -> str:
    """What `kubectl apply -f` takes: the namespace first, and nothing that says the objects were Helm's."""
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    for document in documents:
        labels = document["metadata"]["labels"]
        for label in HELM_LABELS:
            labels.pop(label, None)
    first = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"app.kubernetes.io/name": "aioingress"}},
    }
    header = (
        "# aioingress with the chart's default values, for kubectl apply -f. Made from charts/aioingress by: make manifest\n"
        "# The image has to be one that the nodes can pull: replace the value of image, or use kustomize.\n"
    )
    return header + yaml.safe_dump_all([first, *documents], sort_keys=False, width=200, explicit_start=True)


# ---- command ------------------------------------------------------------------------------------------------------


def find_helm() -> str | None:
    """$HELM, helm in $KUBEBUILDER_ASSETS, on the PATH, or the newest that `make envtest` built."""
    if (named := os.environ.get("HELM")) is not None:
        return named if Path(named).is_file() else None
    if (assets := os.environ.get("KUBEBUILDER_ASSETS")) and (Path(assets) / "helm").is_file():
        return str(Path(assets) / "helm")
    if found := shutil.which("helm"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aioingress" / "envtest"
    built = [path for path in cache.glob("*/helm") if path.is_file() and os.access(path, os.X_OK)]
    return str(max(built, key=lambda path: path.stat().st_mtime)) if built else None


def derived(helm: str | None) -> dict[Path, str]:
    """Path to wanted content of everything that is made; without helm, all but the manifest."""
    values = read_values((CHART / "values.yaml").read_text())
    ignored = yaml.safe_load((CHART / "files" / "ignored.yaml").read_text())["values"]
    schema = json.dumps(make_schema(values, ignored), indent=2, ensure_ascii=False) + "\n"
    readme = insert_table((CHART / "README.md").read_text(), make_table(values))
    wanted = {CHART / "values.schema.json": schema, CHART / "README.md": readme}
    if helm is not None:
        wanted[MANIFEST] = make_manifest(render(helm, "--skip-schema-validation"))
    return wanted


def main(arguments: list[str]) -> int:
    helm = find_helm()
    stale = []
    for path, text in derived(helm).items():
        if not path.exists() or path.read_text() != text:
            stale.append(path)
            if "--check" not in arguments:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
    verb = "out of date" if "--check" in arguments else "written"
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {verb}")
    if helm is None:
        print("deploy/aioingress.yaml: left as it is, there is no helm (set HELM to one)", file=sys.stderr)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
