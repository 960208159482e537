"""Which Secrets and ConfigMaps an Ingress names, and how the compiler adds them up."""

from ingress.config import ClassSettings, TranslateSettings
from ingress.model import Ingress, Kind, ObjectRef
from ingress.model.cluster import ClusterState
from ingress.model.decode import decode_object
from ingress.translate.compiler import Compiler
from ingress.translate.references import references_of


def ingress(name: str = "web", *, tls: tuple[str, ...] = (), cls: str = "aioingress", **annotations: str) -> Ingress:
    found = decode_object(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {
                "name": name,
                "namespace": "shop",
                "annotations": {key.replace("_", "-").replace("--", "/"): value for key, value in annotations.items()},
            },
            "spec": {"ingressClassName": cls, "tls": [{"hosts": ["a.test"], "secretName": secret} for secret in tls]},
        },
        "",
    )
    assert isinstance(found, Ingress)
    return found


def secret(name: str) -> ObjectRef:
    return ObjectRef(Kind.SECRET, "shop", name)


def test_tls_sections() -> None:
    assert references_of(ingress(tls=("a", "b", "a", "", "Not A Name"))) == {secret("a"), secret("b")}


def test_the_compiler_adds_up_those_of_our_classes() -> None:
    settings = TranslateSettings(classes=ClassSettings())
    compiler = Compiler(settings)

    def references(*ingresses: Ingress) -> frozenset[ObjectRef]:
        state = ClusterState(ingresses={(i.metadata.namespace, i.metadata.name): i for i in ingresses})
        return compiler.compile(state, None).references

    both = ingress("a", tls=("one", "shared")), ingress("b", tls=("shared",))
    assert references(*both) == {secret("one"), secret("shared")}
    assert references(*both, ingress("c", tls=("foreign",), cls="traefik")) == {secret("one"), secret("shared")}
    assert references(both[1]) == {secret("shared")}
    assert references(ingress("b", tls=("shared",), cls="traefik")) == frozenset()
    assert references(ingress("b", tls=("new",))) == {secret("new")}
    assert references() == frozenset()
