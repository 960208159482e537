"""What is believed, when: real files, time as an argument."""

import os
from pathlib import Path

import pytest

from ingress.errors import ConfigError, VerdictReason
from ingress.files import load
from ingress.files.manifests import EMPTY_SETTLE_S, MISSING_S, SETTLE_S, Manifests, Outcome
from ingress.files.scan import check_paths, display


def service(name: str, port: object = 80) -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"


def names(manifests: Manifests) -> str:
    return "".join(sorted(ref.name for ref in manifests.objects()))


def replace(path: Path, text: str) -> None:
    """As an editor does: a new file renamed over the old."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


class Bench:
    """A folder, and looks at it at chosen times."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests = Manifests([folder])

    def rescan(self, now: float) -> Outcome:
        return self.manifests.rescan(now)

    def look(self, *files: str, now: float) -> Outcome:
        return self.manifests.look([str(self.folder / file) for file in files], now)

    @property
    def names(self) -> str:
        return names(self.manifests)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "a.yaml").write_text(service("a"))
    (tmp_path / "b.yaml").write_text(service("b"))
    bench = Bench(tmp_path)
    assert bench.rescan(0.0) == Outcome(changed=True)
    assert bench.names == "ab"
    return bench


def test_unchanged(bench: Bench) -> None:
    assert bench.rescan(1.0) == Outcome(changed=False)
    assert bench.look("a.yaml", now=1.0) == Outcome(changed=False)
    (bench.folder / "a.yaml").touch()
    assert bench.look("a.yaml", now=1.0) == Outcome(changed=False)


def test_replacements_and_additions_are_taken_at_once(bench: Bench) -> None:
    replace(bench.folder / "a.yaml", service("c"))
    (bench.folder / "d.yml").write_text(service("d"))
    assert bench.look("a.yaml", "d.yml", now=1.0) == Outcome(changed=True)
    assert bench.names == "bcd"
    with (bench.folder / "b.yaml").open("a") as file:
        file.write("---\n" + service("e"))
    assert bench.look("b.yaml", now=1.0) == Outcome(changed=True)
    assert bench.names == "bcde"


def test_an_edit_in_place_that_drops_objects_must_stand_still(bench: Bench) -> None:
    (bench.folder / "a.yaml").write_text(service("c"))
    assert bench.look("a.yaml", now=1.0).again_in_s is not None
    assert bench.names == "ab"
    assert not bench.look(now=1.0 + SETTLE_S / 2).changed
    assert bench.look(now=1.0 + SETTLE_S) == Outcome(changed=True)
    assert bench.names == "bc"


def test_a_file_cut_to_nothing_and_written_again_drops_nothing(bench: Bench) -> None:
    path = bench.folder / "a.yaml"
    path.write_text("")
    bench.look("a.yaml", now=1.0)
    bench.rescan(1.0 + SETTLE_S)
    assert bench.names == "ab"
    path.write_text(service("a")[:-20])
    bench.look("a.yaml", now=1.2)
    assert bench.manifests.verdicts() == []
    path.write_text(service("a", 81))
    assert bench.look("a.yaml", now=1.25) == Outcome(changed=True)
    assert bench.names == "ab"
    path.write_text("")
    bench.look("a.yaml", now=2.0)
    bench.look(now=2.0 + EMPTY_SETTLE_S)
    assert bench.names == "b"


def test_a_file_that_does_not_parse_keeps_its_last_good_content(bench: Bench) -> None:
    path = bench.folder / "a.yaml"
    replace(path, service("c") + "---\na: [1\n")
    assert bench.look("a.yaml", now=1.0) == Outcome(changed=True)
    assert bench.names == "ab"
    (verdict,) = bench.manifests.verdicts()
    assert verdict.reason is VerdictReason.PARSE_ERROR
    assert verdict.origin == f"{path}:7:1"
    assert not bench.rescan(2.0).changed
    replace(path, service("c"))
    assert bench.rescan(3.0) == Outcome(changed=True)
    assert bench.names == "bc"
    assert bench.manifests.verdicts() == []


def test_a_file_that_never_parsed_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text(service("b"))
    objects, verdicts = load([tmp_path])
    assert [ref.name for ref in objects] == ["b"]
    assert len(verdicts) == 1


def test_a_deleted_file_goes_after_a_moment(bench: Bench) -> None:
    (bench.folder / "a.yaml").unlink()
    outcome = bench.look("a.yaml", now=1.0)
    assert not outcome.changed
    assert outcome.again_in_s is not None
    assert bench.names == "ab"
    assert bench.look(now=1.0 + MISSING_S).rescan
    assert bench.rescan(1.0 + MISSING_S) == Outcome(changed=True)
    assert bench.names == "b"


def test_a_file_away_for_a_moment_drops_nothing(bench: Bench) -> None:
    path = bench.folder / "a.yaml"
    path.rename(bench.folder / "a.yaml~")
    bench.look("a.yaml", now=1.0)
    bench.rescan(1.1)
    (bench.folder / "a.yaml~").rename(path)
    bench.look("a.yaml", now=1.12)
    assert not bench.look(now=1.0 + MISSING_S).rescan
    bench.rescan(5.0)
    assert bench.names == "ab"


def test_a_folder_that_vanishes_keeps_everything(bench: Bench) -> None:
    away = bench.folder.with_name("away")
    bench.folder.rename(away)
    bench.look("a.yaml", "b.yaml", now=1.0)
    for now in (1.0, 2.0, 60.0):
        bench.look(now=now)
        bench.rescan(now)
        assert bench.names == "ab"
    assert [v.object for v in bench.manifests.verdicts()] == [str(bench.folder)]
    away.rename(bench.folder)
    (bench.folder / "a.yaml").unlink()
    bench.rescan(61.0)
    bench.rescan(62.0)
    assert bench.names == "b"
    assert bench.manifests.verdicts() == []


def test_a_single_file_that_vanishes_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(service("a"))
    manifests = Manifests([path])
    manifests.rescan(0.0)
    assert names(manifests) == "a"
    path.unlink()
    manifests.rescan(1.0)
    assert names(manifests) == "a"
    manifests.rescan(1.0 + MISSING_S)
    assert names(manifests) == ""


def test_what_counts_as_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    for name in ("a.yaml", "sub/b.yml", "sub/deep/c.json", "d.YAML", "e.yaml/f.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(service(Path(name).stem) if not name.endswith("json") else JSON.replace("NAME", "c"))
    for name in (
        ".h.yaml",
        ".git/h.yaml",
        "h.yaml~",
        "#h.yaml#",
        "#h.yaml",
        "~h.yaml",
        "h.txt",
        "h",
        "h.yaml.bak",
        "h.yaml.swp",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(service("h"))
    manifests = Manifests([folder])
    manifests.rescan(0.0)
    assert names(manifests) == "abcdf"


JSON = '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "NAME"}}'


def config_map(folder: Path, version: str, **files: str) -> None:
    """As the kubelet mounts a ConfigMap: visible links, `..data` swapped by a rename."""
    data = folder / f"..{version}"
    data.mkdir(parents=True)
    for name, text in files.items():
        (data / f"{name}.yaml").write_text(text)
    old = os.readlink(folder / "..data") if (folder / "..data").is_symlink() else None
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")
    for name in files:
        link = folder / f"{name}.yaml"
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}.yaml")
    for link in folder.glob("*.yaml"):
        if not link.exists():
            link.unlink()
    if old is not None:
        for file in (folder / old).iterdir():
            file.unlink()
        (folder / old).rmdir()


def test_a_mounted_config_map(tmp_path: Path) -> None:
    config_map(tmp_path, "1", a=service("a"), b=service("b"))
    bench = Bench(tmp_path)
    bench.rescan(0.0)
    assert bench.names == "ab"
    assert bench.manifests.verdicts() == []
    config_map(tmp_path, "2", a=service("x"), c=service("c"))
    bench.rescan(1.0)
    assert bench.names == "bcx"
    bench.rescan(1.0 + MISSING_S)
    assert bench.names == "cx"


def test_a_file_under_two_names_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    (tmp_path / "c.yaml").hardlink_to(tmp_path / "a.yaml")
    (tmp_path / "loop").symlink_to(".")
    manifests = Manifests([tmp_path, tmp_path / "a.yaml"])
    manifests.rescan(0.0)
    assert names(manifests) == "a"
    assert manifests.verdicts() == []
    (tmp_path / "0.yaml").symlink_to("a.yaml")
    assert manifests.look([str(tmp_path / "0.yaml")], 1.0).rescan
    manifests.rescan(1.0)
    assert names(manifests) == "a"
    assert manifests.verdicts() == []


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.yaml").write_text(service("a"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m/link").symlink_to("../real")
    (tmp_path / "m/nothing.yaml").symlink_to("../nowhere")
    manifests = Manifests([tmp_path / "m"])
    manifests.rescan(0.0)
    assert [o.origin for o in manifests.objects().values()] == [f"{tmp_path}/m/link/a.yaml:1"]
    assert manifests.verdicts() == []


def test_what_is_no_file_is_a_verdict_and_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "self.yaml").symlink_to("self.yaml")
    (tmp_path / "a.yaml").write_text(service("a"))
    manifests = Manifests([tmp_path])
    manifests.rescan(0.0)
    assert names(manifests) == "a"
    assert {Path(v.object).name for v in manifests.verdicts()} == {"pipe.yaml", "self.yaml"}


def test_an_unreadable_file_keeps_its_last_good_content(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.folder / "a.yaml"
    path.chmod(0)
    real = os.open

    def refuse(opened: str, *rest: object) -> int:
        """As for anybody but root, whom the mode does not stop."""
        if opened == str(path) and not path.stat().st_mode & 0o400:
            raise PermissionError(13, "Permission denied")
        return real(opened, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    assert bench.rescan(1.0).changed
    assert bench.names == "ab"
    assert "Permission denied" in bench.manifests.verdicts()[0].message
    (bench.folder / "a.yaml").chmod(0o600)
    bench.rescan(2.0)
    assert bench.manifests.verdicts() == []


def test_an_unreadable_folder_keeps_what_was_below(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sub = bench.folder / "sub"
    sub.mkdir()
    (sub / "s.yaml").write_text(service("s"))
    bench.rescan(1.0)
    real = os.scandir

    def refuse(path: str) -> object:
        if path == str(sub):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for now in (2.0, 3.0):
        bench.rescan(now)
        assert bench.names == "abs"
    assert [v.object for v in bench.manifests.verdicts()] == [str(sub)]


def test_a_pipe_can_be_loaded(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, service("a").encode())
    os.close(writer)
    try:
        objects, verdicts = load([Path(f"/dev/fd/{reader}")])
    finally:
        os.close(reader)
    assert [ref.name for ref in objects] == ["a"]
    assert verdicts == []


@pytest.mark.parametrize("flag", ["--manifests", "OLD"])
def test_a_path_that_does_not_exist(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{flag} .*/nowhere: No such file or directory$"):
        load([tmp_path, tmp_path / "nowhere"], flag)
    with pytest.raises(ConfigError, match="not a path"):
        check_paths([Path("a\0b")])


def test_file_names_are_shown_printable(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"x\xff\n.yaml")).write_text("[")
    (verdict,) = load([tmp_path])[1]
    assert str(verdict).isprintable()
    assert display("a/b.yaml") == "a/b.yaml"


def test_files_are_taken_by_path(tmp_path: Path) -> None:
    for name in ("b.yaml", "a/z.yaml", "c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(service("same", 80))
    objects, verdicts = load([tmp_path])
    assert [o.origin for o in objects.values()] == [f"{tmp_path}/a/z.yaml:1"]
    assert [v.origin for v in verdicts] == [f"{tmp_path}/b.yaml:1", f"{tmp_path}/c.yaml:1"]
