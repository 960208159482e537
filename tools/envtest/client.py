"""The stand-ins' client: requests that are tried again until the API server answers, and a list kept up to date by a watch."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

_log = logging.getLogger(__name__)
_RETRY_S = 0.2
_WATCH_S = 300
Json = dict[str, Any]


class Refused(Exception):
    """The API server said no: `status` is 4xx other than 429."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Client:
    """Administrator's access by the kubeconfig that `controlplane` writes. Enter it before use."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.server: str = cluster["server"]
        self._ssl = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Accept": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=100)
        timeout = aiohttp.ClientTimeout(total=30, sock_connect=5)
        self._session = aiohttp.ClientSession(self.server, connector=connector, timeout=timeout, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Json:
        """Tried again without end while there is no answer, 429 or 5xx. Raises Refused."""
        assert self._session is not None
        data = None if body is None else json.dumps(body).encode()
        while True:
            try:
                headers = {"Content-Type": content_type}
                async with self._session.request(method, path, data=data, headers=headers) as response:
                    answer = await response.read()
                    if response.status < 300:
                        return dict(json.loads(answer))
                    if response.status < 500 and response.status != 429:
                        raise Refused(response.status, _message(answer))
                    _log.info("%s %s: %d %s", method, path, response.status, _message(answer))
            except (aiohttp.ClientError, TimeoutError) as error:
                _log.info("%s %s: %r", method, path, error)
            await asyncio.sleep(_RETRY_S)

    async def patch(self, path: str, body: object) -> Json:
        return await self.request("PATCH", path, body, "application/merge-patch+json")

    async def follow(self, path: str, changed: "Callable[[Json | None, Json], None]") -> None:
        """Keep up with a collection, for ever: `changed(new, old or new)`, with None as new when the object is gone.

        What a broken watch missed comes as changes too. Raises Refused when the collection isn't served.
        """
        known: dict[str, Json] = {}
        while True:
            answer = await self.request("GET", path)
            found = {item["metadata"]["uid"]: item for item in answer["items"]}
            for uid in [uid for uid in known if uid not in found]:
                changed(None, known.pop(uid))
            for uid, item in found.items():
                old = known.get(uid)
                known[uid] = item
                if old is None or old["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                    changed(item, old or item)
            version = answer["metadata"]["resourceVersion"]
            try:
                async for event in self._watch(path, version):
                    item = event["object"]
                    if event["type"] == "ERROR":
                        break  # mostly 410: list again
                    if event["type"] == "BOOKMARK":
                        continue
                    uid = item["metadata"]["uid"]
                    if event["type"] == "DELETED":
                        known.pop(uid, None)
                        changed(None, item)
                    else:
                        old = known.get(uid, item)
                        known[uid] = item
                        changed(item, old)
            except (aiohttp.ClientError, TimeoutError) as error:
                _log.info("watch of %s: %r", path, error)
            await asyncio.sleep(_RETRY_S)

    async def _watch(self, path: str, version: str) -> AsyncIterator[Json]:
        assert self._session is not None
        query: Mapping[str, str] = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "1",
            "timeoutSeconds": str(_WATCH_S),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=90)  # a bookmark comes every minute
        async with self._session.get(path, params=query, timeout=timeout) as response:
            if response.status != 200:
                return
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")
