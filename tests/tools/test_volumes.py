"""A Pod's volumes as folders."""

import base64

import pytest

from tools.envtest.client import Refused
from tools.envtest.podspec import Unresolvable
from tools.envtest.volumes import Volumes, write_atomically


class FakeClient:
    """Objects by path; counts the tokens it gives."""

    def __init__(self, objects):
        self.objects = objects
        self.requests = []

    async def request(self, method, path, body=None):
        self.requests.append((method, path, body))
        if path not in self.objects:
            raise Refused(404, path)
        return self.objects[path]


OBJECTS = {
    "/api/v1/namespaces/shop/configmaps/kube-root-ca.crt": {"data": {"ca.crt": "CA"}},
    "/api/v1/namespaces/shop/configmaps/files": {
        "data": {"a": "1"},
        "binaryData": {"b": base64.b64encode(b"\xff").decode()},
    },
    "/api/v1/namespaces/shop/secrets/keys": {"data": {"k": base64.b64encode(b"secret").decode()}},
    "/api/v1/namespaces/shop/serviceaccounts/robot/token": {"status": {"token": "TOKEN"}},
}
SOURCES = [
    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
]


def pod(*volumes):
    metadata = {"name": "web-0", "namespace": "shop", "uid": "u1"}
    return {"metadata": metadata, "spec": {"serviceAccountName": "robot", "volumes": list(volumes), "containers": []}}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("..")}


async def test_service_account_volume(tmp_path):
    client = FakeClient(OBJECTS)
    await Volumes(client, pod({"name": "access", "projected": {"sources": SOURCES}}), tmp_path).prepare()
    assert contents(tmp_path / "access") == {"token": b"TOKEN", "ca.crt": b"CA", "namespace": b"shop"}
    (request,) = [body for method, _, body in client.requests if method == "POST"]
    assert request["spec"]["expirationSeconds"] == 3607
    assert request["spec"]["boundObjectRef"] == {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "u1"}


async def test_token_is_asked_for_once_until_it_is_due(tmp_path):
    client = FakeClient(OBJECTS)
    volumes = Volumes(client, pod({"name": "access", "projected": {"sources": SOURCES}}), tmp_path)
    await volumes.prepare()
    await volumes.prepare()
    assert [method for method, _, _ in client.requests].count("POST") == 1


async def test_config_map_and_secret(tmp_path):
    volumes = Volumes(
        FakeClient(OBJECTS),
        pod(
            {"name": "files", "configMap": {"name": "files"}},
            {"name": "keys", "secret": {"secretName": "keys", "items": [{"key": "k", "path": "deep/k"}]}},
            {"name": "maybe", "configMap": {"name": "absent", "optional": True}},
            {"name": "scratch", "emptyDir": {}},
        ),
        tmp_path,
    )
    await volumes.prepare()
    assert contents(tmp_path / "files") == {"a": b"1", "b": b"\xff"}
    assert (tmp_path / "keys" / "deep" / "k").read_bytes() == b"secret"
    assert contents(tmp_path / "maybe") == contents(tmp_path / "scratch") == {}
    container = {"volumeMounts": [{"name": "keys", "mountPath": "/x/y"}, {"name": "files", "mountPath": "/x"}]}
    assert volumes.mounts(container) == [(tmp_path / "files", "/x"), (tmp_path / "keys", "/x/y")]


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "v", "configMap": {"name": "absent"}},
        {"name": "v", "secret": {"secretName": "keys", "items": [{"key": "other", "path": "p"}]}},
        {"name": "v", "projected": {"sources": [{"secret": {"name": "absent"}}]}},
    ],
)
async def test_missing(tmp_path, volume):
    with pytest.raises(Unresolvable):
        await Volumes(FakeClient(OBJECTS), pod(volume), tmp_path).prepare()


def test_write_atomically(tmp_path):
    write_atomically(tmp_path, {"a": b"1", "b/c": b"2"})
    before = (tmp_path / "..data").resolve()
    write_atomically(tmp_path, {"a": b"3", "d": b"4"})
    assert contents(tmp_path) == {"a": b"3", "d": b"4"}
    assert not before.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("..")) == ["a", "d"]
