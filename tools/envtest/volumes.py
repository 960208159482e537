"""A Pod's projected, ConfigMap, Secret, downward API and empty volumes as folders of this machine."""

import asyncio
import base64
import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.envtest.client import Client, Refused
from tools.envtest.podspec import Unresolvable, field_value, resource_value

Json = Mapping[str, Any]
_ROTATE_AT = 0.8  # of a token's life, as the kubelet does
_REFRESH_S = 5.0  # how soon a changed ConfigMap or Secret reaches its volume; the kubelet takes a minute
_numbers = itertools.count()


class ObjectReader:
    """ConfigMaps and Secrets of one namespace, read anew each time."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def data(self, kind: str, name: str) -> dict[str, bytes] | None:
        """`kind`: configmaps or secrets. None when it doesn't exist."""
        try:
            item = await self._client.request("GET", f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        except Refused:
            return None
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in item.get("data", {}).items()}
        texts = {key: value.encode() for key, value in item.get("data", {}).items()}
        return texts | {key: base64.b64decode(value) for key, value in item.get("binaryData", {}).items()}


class Volumes:
    """`prepare` once, then `keep_fresh` beside the containers."""

    def __init__(self, client: Client, pod: Json, folder: Path) -> None:
        self._client = client
        self._pod = pod
        self._folder = folder
        self._reader = ObjectReader(client, pod["metadata"]["namespace"])
        self._rotate_at: dict[str, float] = {}  # volume -> monotonic time
        self._written: dict[str, dict[str, bytes]] = {}
        self._tokens: dict[tuple[str, str], bytes] = {}  # volume, path

    async def prepare(self) -> None:
        """Raises Unresolvable while something that they show doesn't exist."""
        for volume in self._pod["spec"].get("volumes", ()):
            (self._folder / volume["name"]).mkdir(parents=True, exist_ok=True)
            await self._refresh(volume)

    async def keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            for volume in self._pod["spec"].get("volumes", ()):
                kinds = {key for source in _sources(volume) for key in source}
                due = time.monotonic() >= self._rotate_at.get(volume["name"], float("inf"))
                if due or (kinds & {"configMap", "secret"} and "serviceAccountToken" not in kinds):
                    try:
                        await self._refresh(volume)
                    except (Unresolvable, Refused):
                        continue  # what was there stays

    def mounts(self, container: Json) -> list[tuple[Path, str]]:
        """(folder, mount path) of a container, outer paths first."""
        names = {volume["name"] for volume in self._pod["spec"].get("volumes", ())}
        found = [
            (self._folder / item["name"] / item.get("subPath", ""), item["mountPath"])
            for item in container.get("volumeMounts", ())
            if item["name"] in names
        ]
        return sorted(found, key=lambda mount: mount[1])

    async def _refresh(self, volume: Json) -> None:
        files: dict[str, bytes] = {}
        due = time.monotonic() >= self._rotate_at.get(volume["name"], 0.0)
        for source in _sources(volume):
            files |= await self._files(volume["name"], source, due)
        if files != self._written.get(volume["name"]) and "emptyDir" not in volume:
            self._written[volume["name"]] = files
            write_atomically(self._folder / volume["name"], files)

    async def _files(self, volume: str, source: Json, due: bool) -> dict[str, bytes]:
        if "serviceAccountToken" in source:
            key = (volume, source["serviceAccountToken"]["path"])
            if due:
                self._tokens[key] = await self._token(volume, source["serviceAccountToken"])
            return {key[1]: self._tokens[key]}
        if "downwardAPI" in source:
            return {item["path"]: self._downward(item) for item in source["downwardAPI"].get("items", ())}
        for field, kind in (("configMap", "configmaps"), ("secret", "secrets")):
            if field in source:
                reference = source[field]
                name = reference.get("name") or reference.get("secretName")
                data = await self._reader.data(kind, name)
                if data is None and not reference.get("optional"):
                    raise Unresolvable(f"{kind} {name}")
                return _chosen(data or {}, reference, f"{kind} {name}")
        return {}

    async def _token(self, volume: str, source: Json) -> bytes:
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        account = spec.get("serviceAccountName", "default")
        seconds = int(source.get("expirationSeconds", 3600))
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": seconds,
                "audiences": [source["audience"]] if source.get("audience") else [],
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
            },
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
        try:
            answer = await self._client.request("POST", path, request)
        except Refused as error:
            raise Unresolvable(f"token of {account}: {error}") from error
        self._rotate_at[volume] = time.monotonic() + seconds * _ROTATE_AT
        return str(answer["status"]["token"]).encode()

    def _downward(self, item: Json) -> bytes:
        if "fieldRef" in item:
            return field_value(self._pod, item["fieldRef"]["fieldPath"]).encode()
        reference = item["resourceFieldRef"]
        containers = {one["name"]: one for one in self._pod["spec"]["containers"]}
        return resource_value(containers[reference["containerName"]], reference).encode()


def _sources(volume: Json) -> list[Json]:
    if "projected" in volume:
        return list(volume["projected"].get("sources", ()))
    return [volume]


def _chosen(data: Mapping[str, bytes], reference: Json, what: str) -> dict[str, bytes]:
    items = reference.get("items")
    if items is None:
        return dict(data)
    missing = [item["key"] for item in items if item["key"] not in data]
    if missing and not reference.get("optional"):
        raise Unresolvable(f"{what}: {missing[0]}")
    return {item["path"]: data[item["key"]] for item in items if item["key"] in data}


def write_atomically(folder: Path, files: Mapping[str, bytes]) -> None:
    """As the kubelet does it: a reader of several files sees all old or all new ones. `..data` names the folder that counts."""
    fresh = folder / f"..{next(_numbers)}"
    for name, content in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    fresh.mkdir(exist_ok=True)
    data = folder / "..data"
    before = os.readlink(data) if data.is_symlink() else None
    (folder / "..new").symlink_to(fresh.name)
    (folder / "..new").rename(data)
    for top in {name.partition("/")[0] for name in files}:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(f"..data/{top}")
    for entry in list(folder.iterdir()):
        if entry.is_symlink() and not entry.exists():
            entry.unlink()
    if before is not None:
        _remove(folder / before)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
