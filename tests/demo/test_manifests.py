from pathlib import Path

import msgspec
import pytest
import yaml

from ingress.config import Address
from ingress.demo.backends import PODS, DemoPod
from ingress.demo.manifests import ENDPOINTS_FILE, sample_names, write_manifests
from ingress.demo.tour import TOUR, curl_lines, render
from ingress.errors import ConfigError
from ingress.model import EndpointSlice, Ingress, KubernetesObject, Service

PODS_HERE = tuple(DemoPod(name, service, "127.0.0.1", 40_000 + number) for number, (name, service) in enumerate(PODS))
KINDS: dict[str, type[KubernetesObject]] = {"Ingress": Ingress, "Service": Service, "EndpointSlice": EndpointSlice}
EXAMPLES = Path(__file__).parents[2] / "examples"


def load(paths: list[Path]) -> list[KubernetesObject]:
    """Every document as our model reads it, strictly typed; other kinds are left out."""
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [msgspec.convert(document, KINDS[document["kind"]]) for document in documents if document["kind"] in KINDS]


def routes(objects: list[KubernetesObject]) -> dict[tuple[str, str], str]:
    """(host, path) -> Service; every backend's Service and port exist."""
    services = {found.metadata.name: found for found in objects if isinstance(found, Service)}
    result = {}
    for ingress in objects:
        if not isinstance(ingress, Ingress):
            continue
        for rule in ingress.spec.rules or ():
            assert rule.http is not None
            for path in rule.http.paths:
                backend = path.backend.service
                assert backend is not None
                assert backend.port is not None
                ports = services[backend.name].spec.ports
                assert any(backend.port.number == port.port or backend.port.name == port.name for port in ports)
                assert path.path_type == "Prefix"
                assert (rule.host, path.path) not in result
                result[rule.host, path.path] = backend.name
    return result


def test_samples_lead_where_the_tour_says(tmp_path: Path) -> None:
    found = routes(load(write_manifests(tmp_path, PODS_HERE)))
    for step in TOUR:
        path = step.path.partition("?")[0]
        matching = [at for host, at in found if host == step.host and (at in ("/", path) or path.startswith(at + "/"))]
        assert [found[step.host, at] for at in matching] == ([step.service] if step.service else [])
    assert {step.host for step in TOUR} >= {host for host, _ in found}  # every sample is on the tour


def test_every_service_has_the_endpoints_of_its_pods(tmp_path: Path) -> None:
    objects = load(write_manifests(tmp_path, PODS_HERE))
    slices = [found for found in objects if isinstance(found, EndpointSlice)]
    ports = {
        service.metadata.name: {
            piece.ports[0].port
            for piece in slices
            if piece.service_name == service.metadata.name
            and piece.ports
            and piece.ports[0].name == service.spec.ports[0].name
        }
        for service in objects
        if isinstance(service, Service)
    }
    toads = {pod.port for pod in PODS_HERE if pod.service == "toad"}
    assert ports == {"toad": toads, "toad-sticky": toads, "frog": {PODS_HERE[2].port}}
    assert len({piece.metadata.name for piece in slices}) == len(slices) == 5
    for piece in slices:
        assert [endpoint.addresses for endpoint in piece.endpoints or ()] == [("127.0.0.1",)]


def test_only_one_service_has_affinity(tmp_path: Path) -> None:
    services = [found for found in load(write_manifests(tmp_path, PODS_HERE)) if isinstance(found, Service)]
    assert [found.metadata.name for found in services if found.spec.session_affinity == "ClientIP"] == ["toad-sticky"]
    assert all(found.spec.selector is None for found in services)


def test_edited_samples_stay_and_endpoints_are_renewed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_manifests(folder, PODS_HERE)
    edited = folder / sample_names()[1]
    edited.write_text("# mine\n")
    (folder / sample_names()[2]).unlink()
    paths = write_manifests(folder, [DemoPod("toad-new00", "toad", "127.0.0.1", 50_000)])
    assert edited.read_text() == "# mine\n"
    assert (folder / sample_names()[2]).exists()
    assert "port: 50000" in (folder / ENDPOINTS_FILE).read_text()
    assert "40000" not in (folder / ENDPOINTS_FILE).read_text()
    assert sorted(folder.iterdir()) == sorted(paths)


def test_foreign_endpoints_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / ENDPOINTS_FILE).write_text("apiVersion: v1\n")
    with pytest.raises(ConfigError, match=r"demo-endpoints\.yaml was not written by the demo"):
        write_manifests(tmp_path, PODS_HERE)
    assert [path.name for path in tmp_path.iterdir()] == [ENDPOINTS_FILE]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"can't write the manifests to .*/file: File exists"):
        write_manifests(tmp_path / "file", PODS_HERE)


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("0.0.0.0:80", "http://127.0.0.1:80/"),
        ("[::]:8080", "'http://[::1]:8080/'"),
        ("192.0.2.1:8080", "http://192.0.2.1:8080/"),
    ],
)
def test_curl_lines_reach_the_listener(address: str, base: str) -> None:
    lines = curl_lines(Address.parse(address), Address.parse(address))
    assert len(lines) == len(TOUR)
    (over_tls,) = (line for line, step in zip(lines, TOUR, strict=True) if step.https)
    assert over_tls.command == f"curl -k -H 'Host: toad.example.com' {base.replace('http:', 'https:')}"
    assert lines[0].command == f"curl -H 'Host: toad.example.com' {base}"


def test_curl_lines_survive_a_shell() -> None:
    lines = curl_lines(Address("127.0.0.1", 8080), Address("127.0.0.1", 8443))
    assert any(line.command.endswith("'http://127.0.0.1:8080/echo?a=1'") for line in lines)
    for block in render(lines).strip().split("\n\n"):
        comment, command, expected = block.splitlines()
        assert comment.startswith("# ")
        assert command.startswith("curl ")
        assert expected.startswith("#   ")


def test_tour_names_the_pods_that_exist() -> None:
    names = {name for name, _ in PODS}
    said = {word.strip("()") for step in TOUR for word in step.expected.split()}
    assert {word for word in said if word.startswith(("toad-", "frog-")) and word != "toad-…"} == names


def test_cluster_examples_fit_together() -> None:
    objects = load(sorted(EXAMPLES.glob("*.yaml")))
    assert routes(objects) == {("toad.example.com", "/"): "toad", ("sticky.example.com", "/"): "toad-sticky"}
    assert {found.spec.ingress_class_name for found in objects if isinstance(found, Ingress)} == {"aioingress"}
    (deployment,) = (
        document
        for document in yaml.safe_load_all((EXAMPLES / "toad.yaml").read_text(encoding="utf-8"))
        if document["kind"] == "Deployment"
    )
    template = deployment["spec"]["template"]
    assert deployment["spec"]["replicas"] == 4
    container_ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    for service in objects:
        if isinstance(service, Service):
            assert (
                service.spec.selector == template["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
            )
            assert {port.target_port for port in service.spec.ports} <= container_ports


def test_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in text for path in EXAMPLES.glob("*.yaml"))
