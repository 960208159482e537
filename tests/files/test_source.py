"""The live source on a real file system. Waiting is polling with a deadline; nothing sleeps for a guess."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ingress.errors import ConfigError, Verdict
from ingress.files import FilesSource, source
from ingress.model.kubernetes import KubernetesObject, Service
from ingress.model.ref import ObjectRef

DEADLINE_S = 10.0


def service(name: str, port: object = 80) -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"


class Sink:
    def __init__(self) -> None:
        self.objects: Mapping[ObjectRef, KubernetesObject] = {}
        self.verdicts: Sequence[Verdict] = ()
        self.history: list[str] = []

    def __call__(self, objects: Mapping[ObjectRef, KubernetesObject], verdicts: Sequence[Verdict]) -> None:
        self.objects, self.verdicts = objects, verdicts
        self.history.append(self.names)

    @property
    def names(self) -> str:
        return "".join(sorted(ref.name for ref in self.objects))

    def port(self, name: str) -> int:
        (found,) = (o for ref, o in self.objects.items() if ref.name == name)
        assert isinstance(found, Service)
        return found.spec.ports[0].port

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 (the condition is the file system's)
                await asyncio.sleep(0.005)

    async def shows(self, names: str) -> None:
        await self.until(lambda: self.names == names)


@asynccontextmanager
async def running(*paths: Path, poll: bool = False) -> AsyncIterator[Sink]:
    sink = Sink()
    files = FilesSource(paths, sink, poll=poll)
    task = asyncio.create_task(files.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            await files.synced.wait()
        yield sink
        assert not task.done()
    finally:
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 3.0


@pytest.fixture(params=["inotify", "poll"])
def poll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Each scenario with events alone (no full look would come in time), and without any."""
    if request.param == "inotify":
        monkeypatch.setattr(source, "RESCAN_S", 1000.0)
    else:
        monkeypatch.setattr(source, "POLL_S", 0.03)
    return request.param == "poll"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(service("a"))
    (folder / "b.yaml").write_text(service("b"))
    return folder


async def test_edits_additions_and_deletions(folder: Path, poll: bool) -> None:
    async with running(folder, poll=poll) as sink:
        assert sink.names == "ab"
        (folder / "a.yaml").write_text(service("a", 81))  # in place
        await sink.until(lambda: sink.port("a") == 81)
        (folder / "c.yaml").write_text(service("c"))
        await sink.shows("abc")
        (folder / "b.yaml").unlink()
        await sink.shows("ac")
        (folder / "c.yaml").rename(folder / "d.yml")
        await sink.until(lambda: any("d.yml" in o.origin for o in sink.objects.values()))
        assert sink.names == "ac"
        (folder / "a.yaml").write_text(service("x"))  # in place, and an object goes
        await sink.shows("cx")


async def test_an_editor_renames_over(folder: Path, poll: bool) -> None:
    async with running(folder, poll=poll) as sink:
        for port in range(81, 86):
            (folder / ".a.yaml.swp").write_text(service("a", port))
            (folder / ".a.yaml.swp").rename(folder / "a.yaml")
            await sink.until(lambda port=port: sink.port("a") == port)
        # with a backup, the file is away for a moment
        (folder / "a.yaml").rename(folder / "a.yaml~")
        (folder / "a.yaml").write_text(service("a", 90))
        (folder / "a.yaml~").unlink()
        await sink.until(lambda: sink.port("a") == 90)
        assert set(sink.history) == {"ab"}


async def test_a_slow_rewrite_in_place_never_drops_anything(folder: Path, poll: bool) -> None:
    text = "---\n".join(service(name, 81) for name in "abcdef")
    (folder / "a.yaml").write_text(text.replace("81", "80"))
    (folder / "b.yaml").unlink()
    async with running(folder, poll=poll) as sink:
        assert sink.names == "abcdef"
        with (folder / "a.yaml").open("w") as file:
            for start in range(0, len(text), 60):
                file.write(text[start : start + 60])
                file.flush()
                await asyncio.sleep(0.02)  # slower than events are gathered
        await sink.until(lambda: all(sink.port(name) == 81 for name in "abcdef"))
        assert set(sink.history) == {"abcdef"}
        assert not sink.verdicts


async def test_new_and_removed_subfolders(folder: Path, poll: bool) -> None:
    async with running(folder, poll=poll) as sink:
        (folder / "sub/deep").mkdir(parents=True)
        (folder / "sub/deep/c.yaml").write_text(service("c"))
        await sink.shows("abc")
        (folder / "sub/deep/d.yaml").write_text(service("d"))
        await sink.shows("abcd")
        (folder / "sub").rename(folder / ".hidden")
        await sink.shows("ab")
        (folder / ".hidden").rename(folder / "other")
        await sink.shows("abcd")
        shutil.rmtree(folder / "other")
        await sink.shows("ab")


async def test_a_mounted_config_map_is_swapped(tmp_path: Path, poll: bool) -> None:
    def version(number: int, **files: int) -> None:
        data = tmp_path / f"..{number}"
        data.mkdir()
        for name, port in files.items():
            (data / f"{name}.yaml").write_text(service(name, port))
        (tmp_path / "..data_tmp").symlink_to(data.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        for name in files:
            if not (tmp_path / f"{name}.yaml").is_symlink():
                (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
        if number > 1:
            shutil.rmtree(tmp_path / f"..{number - 1}")

    version(1, a=80, b=80)
    async with running(tmp_path, poll=poll) as sink:
        assert sink.names == "ab"
        for number in range(2, 6):
            version(number, a=80 + number, b=90 + number)
            await sink.until(lambda number=number: sink.port("a") == 80 + number and sink.port("b") == 90 + number)
        assert set(sink.history) == {"ab"}
        version(6, a=80)
        await sink.shows("a")
    async with running(tmp_path / "a.yaml", poll=poll) as sink:  # mounted whole, one file of it named
        version(7, a=7)
        await sink.until(lambda: sink.port("a") == 7)


async def test_a_folder_behind_a_link_is_swapped(tmp_path: Path, poll: bool) -> None:
    for number in (1, 2):
        (tmp_path / f"releases/{number}").mkdir(parents=True)
        (tmp_path / f"releases/{number}/a.yaml").write_text(service("a", number))
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    async with running(current, poll=poll) as sink:
        assert sink.port("a") == 1
        (tmp_path / "new").symlink_to("releases/2")
        (tmp_path / "new").rename(current)
        await sink.until(lambda: sink.port("a") == 2)
        (tmp_path / "releases/2/a.yaml").write_text(service("a", 3))  # the new place is watched now
        await sink.until(lambda: sink.port("a") == 3)
        (tmp_path / "releases/1/a.yaml").write_text(service("a", 9))
        current.unlink()
        current.symlink_to("releases/1")
        await sink.until(lambda: sink.port("a") == 9)
        assert set(sink.history) == {"a"}


async def test_a_folder_that_vanishes_and_comes_back(folder: Path, poll: bool) -> None:
    async with running(folder, poll=poll) as sink:
        os.rename(folder, f"{folder}-away")
        await sink.until(lambda: sink.verdicts)
        assert sink.names == "ab"
        os.mkdir(folder)
        (folder / "a.yaml").write_text(service("a", 81))
        (folder / "b.yaml").write_text(service("b"))
        await sink.until(lambda: sink.port("a") == 81 and not sink.verdicts)
        (folder / "c.yaml").write_text(service("c"))  # the new folder is watched
        await sink.shows("abc")
        assert set(sink.history) == {"ab", "abc"}


async def test_a_single_file(tmp_path: Path, poll: bool) -> None:
    path = tmp_path / "all.txt"
    path.write_text(service("a"))
    (tmp_path / "other.yaml").write_text(service("o"))
    async with running(path, poll=poll) as sink:
        assert sink.names == "a"
        (tmp_path / "new").write_text(service("b"))
        (tmp_path / "new").rename(path)
        await sink.shows("b")
        path.write_text(service("b", 81))
        await sink.until(lambda: sink.port("b") == 81)
        path.unlink()
        await sink.shows("")
        path.write_text(service("c"))
        await sink.shows("c")


async def test_linked_files_and_folders_outside(tmp_path: Path, poll: bool) -> None:
    for name in ("m", "far/sub"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "far/a.yaml").write_text(service("a"))
    (tmp_path / "far/sub/b.yaml").write_text(service("b"))
    (tmp_path / "m/a.yaml").symlink_to(tmp_path / "far/a.yaml")
    (tmp_path / "m/sub").symlink_to("../far/sub")
    async with running(tmp_path / "m", poll=poll) as sink:
        assert sink.names == "ab"
        (tmp_path / "far/a.yaml").write_text(service("a", 81))
        await sink.until(lambda: sink.port("a") == 81)
        (tmp_path / "far/sub/b.yaml").write_text(service("b", 82))
        await sink.until(lambda: sink.port("b") == 82)


async def test_mistakes_are_told_and_hurt_nothing(folder: Path, poll: bool) -> None:
    async with running(folder, poll=poll) as sink:
        (folder / "a.yaml").write_text(service("a") + "---\n{")
        await sink.until(lambda: sink.verdicts)
        assert sink.names == "ab"
        (folder / "b.yaml").write_text(service("b", "x"))
        await sink.until(lambda: len(sink.verdicts) == 2)
        assert sink.names == "ab"
        (folder / "a.yaml").write_text(service("a", 81))
        (folder / "b.yaml").write_text(service("b", 82))
        await sink.until(lambda: not sink.verdicts)
        assert (sink.port("a"), sink.port("b")) == (81, 82)
        assert set(sink.history) == {"ab"}


async def test_a_burst_of_many_files(folder: Path) -> None:
    async with running(folder) as sink:
        for number in range(300):
            (folder / f"n{number}.yaml").write_text(service(f"n{number}"))
        await sink.until(lambda: len(sink.objects) == 302)
        for number in range(300):
            (folder / f"n{number}.yaml").unlink()
        await sink.shows("ab")


async def test_the_full_look_finds_what_no_event_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "RESCAN_S", 0.05)
    monkeypatch.setattr(source, "COST_FACTOR", 1)

    async def deaf(*_: object, **__: object) -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield set()

    monkeypatch.setattr(source.watchfiles, "awatch", deaf)
    async with running(folder) as sink:
        (folder / "c.yaml").write_text(service("c"))
        await sink.shows("abc")


async def test_without_inotify_it_polls_and_later_tries_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(source, "POLL_S", 0.03)
    monkeypatch.setattr(source, "RESTART_S", 0.2)
    real, starts = source.watchfiles.awatch, []

    async def refuse(*paths: str, **options: object) -> AsyncIterator[object]:
        starts.append(paths)
        if len(starts) <= 2:
            raise OSError("OS file watch limit reached")
        async for changes in real(*paths, **options):  # type: ignore[arg-type]
            yield changes

    monkeypatch.setattr(source.watchfiles, "awatch", refuse)
    async with running(folder) as sink:
        (folder / "c.yaml").write_text(service("c"))
        await sink.shows("abc")
        await sink.until(lambda: len(starts) >= 4)
    assert "can't watch" in caplog.text


async def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    files = FilesSource([tmp_path / "nowhere"], Sink())
    with pytest.raises(ConfigError, match=r"--manifests .*nowhere"):
        await files.run()
    assert not files.synced.is_set()


async def test_the_loop_stays_responsive_while_loading(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("---\n".join(service(f"s{n}") for n in range(3000)))
    sink = Sink()
    files = FilesSource([tmp_path], sink)
    task = asyncio.create_task(files.run())
    ticks = 0
    async with asyncio.timeout(60):
        while not files.synced.is_set():
            await asyncio.sleep(0.001)
            ticks += 1
    assert ticks > 10
    assert len(sink.objects) == 3000
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_nothing_is_reported_while_nothing_happens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "POLL_S", 0.01)
    async with running(folder, poll=True) as sink:
        (folder / "notes.txt").write_text("x")
        os.utime(folder / "a.yaml")
        (folder / "b.yaml").write_text(service("b"))  # the same content
        await asyncio.sleep(0.3)  # several looks
        assert sink.history == ["ab"]
