"""Where the binaries come from."""

import pytest

from tools.envtest import EnvtestError, build

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm")


def touch(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).touch(mode=0o755)
    return folder


def test_assets(tmp_path, monkeypatch):
    folder = touch(tmp_path / "assets", *NAMES)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))
    found = build.find_binaries()
    assert found.kube_apiserver == folder / "kube-apiserver"
    assert found.helm == folder / "helm"


def test_assets_with_helm_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(touch(tmp_path / "assets", *NAMES[:-1])))
    monkeypatch.setenv("PATH", str(touch(tmp_path / "bin", "helm")))
    assert build.find_binaries().helm == tmp_path / "bin" / "helm"


def test_assets_incomplete(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(touch(tmp_path / "assets", "etcd")))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.find_binaries() == f"KUBEBUILDER_ASSETS is {tmp_path / 'assets'}, which has no helm"


def test_without_go(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no Go" in build.find_binaries()
    with pytest.raises(EnvtestError, match="no Go"):
        build.build()


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_command_without_go(tmp_path, monkeypatch, ci, code):
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    assert build.main(["--if-go"]) == code


FAKE_GO = """#!/bin/sh
case "$1" in
version) echo "go version go1.99 linux/amd64" ;;
build)
    while [ "$1" != -o ]; do shift; done
    echo "built $3" > "$2"
    echo "$3" >> "$LOG" ;;
esac
"""


@pytest.fixture
def fake_go(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "go").write_text(FAKE_GO)
    (folder / "go").chmod(0o755)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_builds_once(fake_go, tmp_path):
    assert build.find_binaries().startswith("not built yet: etcd, helm, kube-apiserver")
    build.build()
    found = build.find_binaries()
    assert found.kubectl.read_text() == "built k8s.io/kubernetes/cmd/kubectl\n"
    assert found.kubectl.is_relative_to(tmp_path / "cache" / "aioingress" / "envtest")
    build.build()
    assert len(fake_go.read_text().splitlines()) == len(NAMES)


def test_failed_build_leaves_nothing(fake_go, tmp_path):
    script = tmp_path / "bin" / "go"
    script.write_text(FAKE_GO.replace("build)", "build) echo 'no such module' >&2; exit 1;"))
    with pytest.raises(EnvtestError, match="no such module"):
        build.build()
    left = [path for path in (tmp_path / "cache" / "aioingress" / "envtest").iterdir() if path.suffix != ".lock"]
    assert left == []
