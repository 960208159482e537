"""What is made from the chart is up to date, and the plain manifest says nothing of Helm."""

import json

import pytest
import yaml

import ingress
from ingress.config import CONTROLLER_NAME, DEFAULT_CLASS, NGINX_CLASS, NGINX_CONTROLLER_NAME
from tests.charts.support import Chart, Refused
from tools.chart_docs import CHART, MANIFEST, ROOT, derived, insert_table, make_schema, make_table, read_values


def test_schema_and_table_are_up_to_date() -> None:
    for path, text in derived(None).items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is out of date: make manifest"


def test_manifest_is_up_to_date(chart: Chart) -> None:
    assert MANIFEST.read_text() == derived(chart.helm)[MANIFEST], "deploy/aioingress.yaml is out of date: make manifest"


def test_manifest_is_complete_and_not_helms() -> None:
    text = MANIFEST.read_text()
    documents = list(yaml.safe_load_all(text))
    assert documents[0]["kind"] == "Namespace"
    name = documents[0]["metadata"]["name"]
    assert {document["metadata"].get("namespace", name) for document in documents} == {name}
    assert {"Deployment", "Service", "IngressClass", "ClusterRole"} <= {document["kind"] for document in documents}
    assert "helm" not in text.lower()
    for document in documents:
        assert "heritage" not in document["metadata"]["labels"]


def test_versions_and_names_agree_with_the_controller(chart: Chart) -> None:
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert metadata["appVersion"] == ingress.__version__
    assert chart.render().container["image"] == f"aioingress:{ingress.__version__}"
    values = yaml.safe_load((CHART / "values.yaml").read_text())["controller"]
    assert values["ingressClassResource"]["controllerValue"] == CONTROLLER_NAME
    assert values["ingressClassResource"]["name"] == values["ingressClass"] == DEFAULT_CLASS
    assert values["takeOverNginx"]["className"] == NGINX_CLASS
    classes = chart.render({"controller": {"takeOverNginx": {"createClass": True}}}).of("IngressClass")
    assert classes[NGINX_CLASS]["spec"]["controller"] == NGINX_CONTROLLER_NAME


def test_lint(chart: Chart) -> None:
    assert "0 chart(s) failed" in chart.lint({})
    with pytest.raises(Refused):
        chart.lint({"controller": {"kind": 1}})


def test_kubernetes_that_is_too_old_is_refused(chart: Chart) -> None:
    assert chart.render(kube="1.21.0").kinds
    with pytest.raises(Refused, match=r"1\.20\.15"):
        chart.render(kube="1.20.15")


class TestTool:
    TEXT = """\
# a header, which describes nothing

# -- First.
first: 1

group:
  # -- Second | third.
  # @schema {"enum": ["a", "b"]}
  second: a
  # -- Anything goes.
  # @schema {"additionalProperties": true}
  free:
    key: value
"""

    def test_schema(self) -> None:
        schema = make_schema(read_values(self.TEXT), {"group.third": "gone"})
        assert schema["properties"] == {
            "first": {"type": "integer", "description": "First."},
            "group": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "second": {"type": "string", "enum": ["a", "b"], "description": "Second | third."},
                    "free": {"type": "object", "additionalProperties": True, "description": "Anything goes."},
                    "third": {"description": "No effect; accepted from ingress-nginx's values: gone."},
                },
            },
        }
        with pytest.raises(ValueError, match=r"group\.second is a value of the chart"):
            make_schema(read_values(self.TEXT), {"group.second": "gone"})

    def test_values(self) -> None:
        first, group = read_values(self.TEXT)
        assert (first.path, first.default, first.description, first.schema) == (("first",), 1, "First.", {})
        second, free = group.children
        assert second.path == ("group", "second")
        assert second.schema == {"enum": ["a", "b"]}
        assert free.children == ()
        assert free.default == {"key": "value"}

    def test_table(self) -> None:
        table = make_table(read_values(self.TEXT))
        assert "| `first` | `1` | First. |\n" in table
        assert '| `group.free` | `{"key": "value"}` | Anything goes. |\n' in table
        assert "| `group` |" not in table

    def test_mistakes_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"a\.b has no description"):
            read_values("a:\n  b: 1\n")
        with pytest.raises(ValueError, match="a: bad @schema"):
            read_values("# -- A.\n# @schema {\na: 1\n")
        with pytest.raises(ValueError, match="has no <!-- values"):
            insert_table("nothing", "table")

    def test_schema_is_closed_at_every_level(self) -> None:
        schema = json.loads((CHART / "values.schema.json").read_text())
        open_by_design = {"global", "admissionWebhooks"}

        def closed(node: dict[str, object], name: str) -> None:
            properties = node.get("properties")
            if isinstance(properties, dict):
                assert node["additionalProperties"] is (name in open_by_design), name
                for key, child in properties.items():
                    closed(child, key)

        closed(schema, "")
