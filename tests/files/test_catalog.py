from ingress.errors import VerdictReason
from ingress.files.catalog import Catalog
from ingress.files.documents import Manifest, read_manifest
from ingress.model.kubernetes import Service
from ingress.model.ref import Kind, ObjectRef

A = ObjectRef(Kind.SERVICE, "default", "a")


def manifest(file: str, port: object, name: str = "a") -> Manifest:
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    return read_manifest(file, text.encode(), {})


def port(catalog: Catalog) -> int | None:
    found = catalog.objects().get(A)
    return found.spec.ports[0].port if isinstance(found, Service) else None


def test_the_first_file_by_path_wins_whatever_the_order_of_events() -> None:
    catalog = Catalog()
    assert catalog.put("b", manifest("b", 2))
    assert port(catalog) == 2
    assert catalog.put("a", manifest("a", 1))
    assert catalog.put("c", manifest("c", 3))
    assert port(catalog) == 1
    assert [(v.reason, v.origin) for v in catalog.verdicts()] == [
        (VerdictReason.DUPLICATE_OBJECT, "b:1"),
        (VerdictReason.DUPLICATE_OBJECT, "c:1"),
    ]
    assert "a:1 is used" in catalog.verdicts()[0].message
    assert "b:1 is ignored" in catalog.verdicts()[0].message
    assert catalog.remove("a")
    assert port(catalog) == 2
    assert len(catalog.verdicts()) == 1
    catalog.remove("c")
    assert catalog.verdicts() == []
    catalog.remove("b")
    assert catalog.objects() == {}


def test_no_change_is_no_change() -> None:
    catalog = Catalog()
    content = manifest("a", 1)
    assert catalog.put("a", content)
    assert not catalog.put("a", content)
    broken = manifest("b", "x", "b")
    assert catalog.put("b", broken)
    assert not catalog.put("b", broken)
    assert not catalog.remove("nothing")


def test_a_broken_object_stays_in_its_last_good_version() -> None:
    catalog = Catalog()
    catalog.put("a", manifest("a", 1))
    assert catalog.put("a", manifest("a", "x"))
    assert port(catalog) == 1
    assert [v.reason for v in catalog.verdicts()] == [VerdictReason.INVALID_OBJECT]
    catalog.put("a", manifest("a", "y"))
    assert port(catalog) == 1
    catalog.put("a", manifest("a", 2))
    assert port(catalog) == 2
    assert catalog.verdicts() == []


def test_a_broken_object_that_never_was_good_gives_way_to_the_next_file() -> None:
    catalog = Catalog()
    catalog.put("a", manifest("a", "x"))
    assert port(catalog) is None
    catalog.put("b", manifest("b", 2))
    assert port(catalog) == 2
    catalog.put("b", manifest("b", 3))
    assert port(catalog) == 3


def test_a_broken_object_whose_definition_goes_is_gone() -> None:
    catalog = Catalog()
    catalog.put("a", manifest("a", 1))
    catalog.put("a", manifest("a", "x"))
    catalog.put("a", Manifest())
    assert port(catalog) is None


def test_a_renamed_file_with_a_broken_object_keeps_the_good_version() -> None:
    catalog = Catalog()
    catalog.put("a", manifest("a", 1))
    catalog.put("b", manifest("b", "x"))
    catalog.remove("a")
    assert port(catalog) == 1


def test_drops() -> None:
    catalog = Catalog()
    catalog.put("a", manifest("a", 1))
    assert not catalog.drops("a", manifest("a", 2))
    assert not catalog.drops("a", manifest("a", "x"))
    assert catalog.drops("a", manifest("a", 1, "other"))
    assert not catalog.drops("b", Manifest())


def test_the_copy_is_the_callers() -> None:
    catalog = Catalog()
    catalog.put("a", manifest("a", 1))
    catalog.objects().clear()
    assert port(catalog) == 1
