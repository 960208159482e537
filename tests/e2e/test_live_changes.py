"""What is written to the folder is in service a moment later, on every worker, and costs no request."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import (
    Connection,
    Load,
    Pods,
    Serve,
    app,
    eventually,
    ingress,
    path,
    replace,
    rule,
    service,
    slices,
    write,
)


def documents(name: str, service_name: str | None = None) -> dict:
    return ingress(name, rule(f"{name}.test", path(service_name or name)))


@pytest.fixture(scope="module")
def live(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A controller with two workers; every test has files of its own."""
    place = tmp_path_factory.mktemp("live") / "manifests"
    place.mkdir()
    for name in ("toad", "frog"):
        write(place / f"service-{name}.yaml", app(name, [pods.start(name)]))
    write(place / "still.yaml", documents("still", "toad"))
    with Serve(place, "--no-access-log", workers=2) as running:
        yield running


@pytest.fixture
def place(live: Serve) -> Path:
    return live.folders[0]


@pytest.fixture(autouse=True)
def others_go_on(live: Serve) -> Iterator[None]:
    yield
    assert live.get("still.test").pod == "toad"


def on_every_worker(live: Serve, host: str, pod: str | None) -> None:
    """New connections go to either worker: a worker that is behind would show within so many."""
    live.serving(host, pod)
    eventually(lambda: len(tables(live)) == 1, "workers agree")
    answers = [live.get(host) for _ in range(16)]
    assert {answer.pod for answer in answers} == {pod or ""}


def tables(live: Serve) -> set[str]:
    return {
        dict(labels)["id"]
        for (name, labels), value in live.metrics().items()
        if name == "aioingress_worker_tables" and value
    }


def test_file_is_added_edited_and_deleted(live, place):
    assert live.get("added.test").status == 404
    file = write(place / "added.yaml", documents("added", "toad"))
    on_every_worker(live, "added.test", "toad")
    file.write_text(file.read_text().replace("name: toad", "name: frog"))  # in place
    on_every_worker(live, "added.test", "frog")
    file.unlink()
    on_every_worker(live, "added.test", None)


def test_editor_renames_over(live, place):
    file = write(place / "renamed.yaml", documents("renamed", "toad"))
    live.serving("renamed.test", "toad")
    backup = place / "renamed.yaml~"  # vim: the old one aside, then the new one in its place
    file.rename(backup)
    write(place / "renamed.yaml", documents("renamed", "frog"))
    backup.unlink()
    on_every_worker(live, "renamed.test", "frog")
    file.unlink()


def test_file_moves_out_and_in(live, place, tmp_path):
    file = write(place / "moved.yaml", documents("moved", "toad"))
    live.serving("moved.test", "toad")
    file.rename(tmp_path / "moved.yaml")
    live.serving("moved.test", None)
    (tmp_path / "moved.yaml").rename(file)
    live.serving("moved.test", "toad")
    file.unlink()


def test_broken_file_keeps_its_last_good_content(live, place):
    file = write(place / "broken.yaml", documents("broken", "toad"))
    live.serving("broken.test", "toad")
    replace(file, "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: broken\n")
    (verdict,) = eventually(lambda: live.verdicts("ParseError"), "a verdict")
    assert "broken.yaml" in verdict["object"] + verdict["origin"]
    assert live.get("broken.test").pod == "toad"
    write(place / "meanwhile.yaml", documents("meanwhile", "frog"))
    on_every_worker(live, "meanwhile.test", "frog")
    (line,) = live.log("reason=ParseError")
    assert f"{file}:" in line
    assert " error controller " in line
    assert live.metric("aioingress_config_errors_total") == 1
    write(file, documents("broken", "frog"))
    on_every_worker(live, "broken.test", "frog")
    assert live.verdicts("ParseError") == []
    file.unlink()
    (place / "meanwhile.yaml").unlink()


def test_broken_object_costs_that_object_only(live, place):
    file = write(place / "objects.yaml", documents("first", "toad"), documents("second", "toad"))
    live.serving("second.test", "toad")
    broken = documents("first", "frog")
    broken["spec"]["rules"] = "none"
    write(file, broken, documents("second", "frog"))
    live.serving("second.test", "frog")
    assert live.get("first.test").pod == "toad"
    (verdict,) = live.verdicts("InvalidObject")
    assert verdict["object"] == "Ingress default/first"
    assert "spec.rules" in verdict["field"]
    file.unlink()
    live.serving("second.test", None)
    assert live.verdicts("InvalidObject") == []


def test_change_of_class_adds_and_removes_routes(live, place):
    write(place / "class.yaml", documents("class", "toad"))
    live.serving("class.test", "toad")
    write(
        place / "class.yaml",
        documents("class", "toad")
        | {"spec": {"ingressClassName": "another", "rules": documents("class", "toad")["spec"]["rules"]}},
    )
    live.serving("class.test", None)
    write(place / "class.yaml", documents("class", "toad"))
    live.serving("class.test", "toad")
    (place / "class.yaml").unlink()


def test_kept_connection_sees_the_change(live, place):
    """A request on a connection that is older than the table is routed by the new one."""
    write(place / "kept.yaml", documents("kept", "toad"))
    live.serving("kept.test", "toad")
    connections = [Connection(live.http) for _ in range(8)]
    assert {c.get("/", "kept.test").pod for c in connections} == {"toad"}
    write(place / "kept.yaml", documents("kept", "frog"))
    on_every_worker(live, "kept.test", "frog")
    assert {c.get("/", "kept.test").pod for c in connections} == {"frog"}
    for connection in connections:
        connection.close()
    (place / "kept.yaml").unlink()


def test_endpoints_change_without_a_failed_request(live, place, pods):
    """Pods come and go as in a rolling update: a Pod leaves the slices before it ends."""
    generation = pods.some("gen-0", 2)
    write(place / "rolling.yaml", service("rolling"), documents("rolling"), slices("rolling", generation))
    live.serving("rolling.test", "gen-0-0")
    with Load(live.http, "rolling.test") as load:
        for number in range(1, 6):
            new = pods.some(f"gen-{number}", 2)
            for wave in ([*generation, new[0]], [generation[1], *new], new):
                write(place / "rolling.yaml", service("rolling"), documents("rolling"), slices("rolling", wave))
                on_every_worker_route_to(live, {pod.name for pod in wave})
            load.more(20)
            for pod in generation:
                pods.stop(pod)
            generation = new
            load.more(20)
    assert load.failures == []
    assert load.pods >= {f"gen-{number}-{index}" for number in range(6) for index in range(2)}
    (place / "rolling.yaml").unlink()


def on_every_worker_route_to(live: Serve, names: set[str]) -> None:
    def settled() -> bool:
        if len(live.table("?host=rolling.test")["upstreams"][0]["endpoints"]) != len(names):
            return False
        return tables(live) == {live.table()["id"]}

    eventually(settled, f"all workers route to {names}")


def test_scale_to_zero_and_back(live, place, pods):
    pod = pods.start("scaled")
    write(place / "zero.yaml", service("zero"), documents("zero"), slices("zero", [pod]))
    live.serving("zero.test", "scaled")
    write(place / "zero.yaml", service("zero"), documents("zero"))
    eventually(lambda: live.get("zero.test").status == 503, "no endpoint")
    assert live.verdicts("NoEndpoints", "Ingress default/zero")
    write(place / "zero.yaml", service("zero"), documents("zero"), slices("zero", [pod]))
    live.serving("zero.test", "scaled")
    assert live.verdicts("NoEndpoints") == []
    (place / "zero.yaml").unlink()


def test_hundred_changes_at_once(live, place):
    for number in range(100):
        write(place / f"many-{number:03}.yaml", documents(f"many-{number}", "toad"))
    for number in range(100):
        live.serving(f"many-{number}.test", "toad")
    for file in place.glob("many-*.yaml"):
        file.unlink()
    live.serving("many-99.test", None)
    eventually(lambda: len(live.table()["hosts"]) == 1, "all are gone")


def test_symlink_swap_as_of_a_mounted_configmap(pods, folder, serve):
    """..data points to a folder with the time in its name; the files are links through it. One rename swaps all."""

    def publish(name: str, pod: str) -> None:
        version = folder / name
        version.mkdir()
        write(version / "ingress.yaml", documents("mounted", pod))
        write(version / "services.yaml", app(pod, [pods.start(pod)]))
        (folder / "..data_tmp").symlink_to(name)
        os.replace(folder / "..data_tmp", folder / "..data")

    publish("..2026_01_01", "heron")
    for name in ("ingress.yaml", "services.yaml"):
        (folder / name).symlink_to(f"..data/{name}")
    running = serve(workers=2)
    assert running.get("mounted.test").pod == "heron"
    assert running.verdicts() == []
    publish("..2026_01_02", "egret")
    running.serving("mounted.test", "egret")
    for version, pod in (("..2026_01_03", "stork"), ("..2026_01_04", "crane")):
        publish(version, pod)
        running.serving("mounted.test", pod)
    assert running.verdicts() == []


def test_single_file_and_folder_together(pods, folder, tmp_path, serve):
    alone = write(tmp_path / "alone.yaml", app("alone", [pods.start("alone")]), documents("alone"))
    write(folder / "in.yaml", documents("in", "alone"))
    running = serve(manifests=[alone, folder])
    assert running.get("alone.test").pod == running.get("in.test").pod == "alone"
    write(alone, app("alone", [pods.start("other")]), documents("alone"))
    running.serving("alone.test", "other")


def test_empty_folder_is_ready_and_filled_later(pods, folder, serve):
    running = serve()
    assert running.get("late.test").status == 404
    write(folder / "late.yaml", app("late", [pods.start("late")]), documents("late"))
    running.serving("late.test", "late")


def test_broken_file_at_the_start(pods, folder, serve):
    """Nothing good to keep: the others are served, and it joins them when it is repaired."""
    write(folder / "good.yaml", app("good", [pods.start("good")]), documents("good"))
    replace(folder / "bad.yaml", "{{ not yaml")
    running = serve()
    assert running.get("good.test").pod == "good"
    assert [v["reason"] for v in running.verdicts()] == ["ParseError"]
    write(folder / "bad.yaml", documents("bad", "good"))
    running.serving("bad.test", "good")
