from pathlib import Path

import pytest

from ingress.files.scan import scan
from ingress.files.watch import WatchPlan, link_chain, plan_watch


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "m"
    (root / "sub").mkdir(parents=True)
    (root / "a.yaml").write_text("")
    (tmp_path / "far").mkdir()
    (tmp_path / "far/x.yaml").write_text("")
    (root / "x.yaml").symlink_to("../far/x.yaml")
    return root


def plan(*paths: Path) -> WatchPlan:
    return plan_watch(paths, [scan(path) for path in paths])


def folders(places: frozenset[tuple[str, int, int]]) -> set[str]:
    return {place[0] for place in places}


def test_places(tree: Path) -> None:
    found = plan(tree)
    assert folders(found.deep) == {str(tree)}
    assert folders(found.flat) == {str(tree.parent), str(tree.parent / "far")}


@pytest.mark.parametrize(
    ("reported", "meaning"),
    [
        ("m/a.yaml", "m/a.yaml"),
        ("m/new.yaml", "m/new.yaml"),
        ("m/sub/new.json", "m/sub/new.json"),
        ("far/x.yaml", "m/x.yaml"),
        ("far/y.yaml", False),
        ("m", True),
        ("m/sub", True),
        ("m/..data", True),
        ("m/..2024/a.yaml", True),
        ("m/.git/index", False),
        ("m/.a.yaml.swp", False),
        ("m/4913", False),
        ("m/a.yaml~", False),
        ("mm/a.yaml", False),
        ("elsewhere", False),
    ],
)
def test_meaning(tree: Path, reported: str, meaning: str | bool) -> None:
    base = tree.parent
    found = plan(tree).meaning(str(base / reported))
    assert found == (str(base / meaning) if isinstance(meaning, str) else meaning)


def test_a_new_folder_means_a_full_look(tree: Path) -> None:
    found = plan(tree)
    (tree / "fresh").mkdir()
    assert found.meaning(str(tree / "fresh")) is True


def test_paths_are_reported_as_they_were_given(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    (tree.parent / "link").symlink_to("m")
    assert plan(Path("m")).meaning(str(tree / "a.yaml")) == "m/a.yaml"
    assert plan(Path("link")).meaning(str(tree / "a.yaml")) == "link/a.yaml"
    monkeypatch.chdir(tree)
    assert plan(Path(".")).meaning(str(tree / "a.yaml")) == "./a.yaml"


def test_link_chain(tmp_path: Path) -> None:
    (tmp_path / "r/1").mkdir(parents=True)
    (tmp_path / "r/now").symlink_to("1")
    (tmp_path / "cur").symlink_to("r/now")
    assert link_chain(str(tmp_path / "cur")) == [str(tmp_path / p) for p in ("cur", "r/now", "r/1")]
    (tmp_path / "up").symlink_to("../" + tmp_path.name + "/r")
    assert link_chain(str(tmp_path / "up/now")) == [str(tmp_path / p) for p in ("up", "r/now", "r/1")]
    (tmp_path / "loop").symlink_to("loop")
    assert str(tmp_path / "loop") in link_chain(str(tmp_path / "loop"))
