from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.scale.cluster import Cluster
from bench.support.content import BLOCK_BYTES, blocks, digest
from bench.support.manifests import ManifestFolder, endpoint_slice, ingress, service, to_yaml
from ingress.model import EndpointSlice, Ingress, Service

TEXT = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc"]), max_size=12)
SCALARS = TEXT | st.integers(-1000, 100000) | st.booleans() | st.none()
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=12
)


@given(st.dictionaries(TEXT, TREES, min_size=1, max_size=4))
def test_yaml_reads_back(document: dict[str, Any]) -> None:
    assert list(yaml.safe_load_all(to_yaml([document, document]))) == [document, document]


@pytest.mark.parametrize("text", ["true", "No", "null", "1", "1.5", "", "~", "a: b", "- a", "#a", "/x", "*.a.com", "y"])
def test_yaml_keeps_strings_strings(text: str) -> None:
    assert yaml.safe_load(to_yaml([{"key": text}])) == {"key": text}


def test_objects_are_what_the_model_reads() -> None:
    rules = [("a.example.com", [("/", "web"), ("/x", "api")])]
    route = msgspec.convert(ingress("main", rules, annotations={"k": "v"}), Ingress)
    assert route.metadata.annotations == {"k": "v"}
    assert route.spec.rules is not None
    http = route.spec.rules[0].http
    assert http is not None
    assert [(path.path, path.path_type) for path in http.paths] == [("/", "Prefix"), ("/x", "Prefix")]
    backend = http.paths[1].backend.service
    assert backend is not None
    assert backend.name == "api"
    assert msgspec.convert(service("api"), Service).metadata.name == "api"
    slice_ = msgspec.convert(endpoint_slice("api", ["127.0.0.1", "127.0.0.2"], 81), EndpointSlice)
    assert slice_.service_name == "api"
    assert slice_.endpoints is not None
    assert [one.addresses for one in slice_.endpoints] == [("127.0.0.1",), ("127.0.0.2",)]


def test_files_appear_whole_and_nothing_else_does(tmp_path: Any) -> None:
    folder = ManifestFolder(tmp_path / "manifests")
    folder.write("a.yaml", [service("one")])
    inode = (folder.path / "a.yaml").stat().st_ino
    folder.write("a.yaml", [service("two")])
    assert [entry.name for entry in folder.path.iterdir()] == ["a.yaml"]
    assert (folder.path / "a.yaml").stat().st_ino != inode  # renamed into place, not written into
    assert yaml.safe_load((folder.path / "a.yaml").read_text())["metadata"]["name"] == "two"


def test_cluster_addresses_are_distinct() -> None:
    cluster = Cluster()
    addresses = [address for number in range(cluster.services) for address in cluster.addresses(number)]
    assert len(set(addresses)) == len(addresses) == cluster.endpoints == 20_000
    assert all(0 < int(part) < 255 or part == "0" for address in addresses for part in address.split("."))


@pytest.mark.parametrize("cluster", [Cluster(), Cluster(hosts=3, services=7), Cluster(hosts=100, services=200)])
def test_sample_has_no_service_twice(cluster: Cluster) -> None:
    sample = cluster.sample(7)
    assert len(sample) == len({cluster.service_of(index) for index in sample}) == 7
    assert cluster.ingresses - 1 in sample


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5])
def test_content_has_its_size_and_depends_on_the_seed(size: int) -> None:
    assert sum(map(len, blocks(1, size))) == size
    assert digest(1, size) == digest(1, size)
    if size > 8:
        assert digest(1, size) != digest(2, size)


def test_content_blocks_differ() -> None:
    first, second, third = blocks(1, 3 * BLOCK_BYTES)
    assert len({first, second, third}) == 3
