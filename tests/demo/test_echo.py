import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from ingress.demo.backends import PODS, DemoBackends


@pytest.fixture
async def backends() -> AsyncIterator[DemoBackends]:
    async with DemoBackends() as running:
        yield running


@pytest.fixture
async def client(backends: DemoBackends) -> AsyncIterator[aiohttp.ClientSession]:
    """Talks to the first Pod."""
    pod = backends.pods[0]
    async with aiohttp.ClientSession(f"http://{pod.address}:{pod.port}") as session:
        yield session


async def test_each_pod_answers_with_its_name(backends: DemoBackends) -> None:
    assert [(pod.name, pod.service) for pod in backends.pods] == list(PODS)
    assert len({pod.port for pod in backends.pods}) == len(PODS)
    async with aiohttp.ClientSession() as session:
        for pod in backends.pods:
            async with session.get(f"http://{pod.address}:{pod.port}/any/path?x=1") as response:
                assert response.status == 200
                assert response.content_type == "text/plain"
                assert await response.text() == f"You've hit {pod.name}\n"


async def test_nothing_listens_afterwards() -> None:
    async with DemoBackends() as backends:
        port = backends.pods[0].port
    assert backends.pods == ()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize(
    ("path", "headers"), [("/echo", {}), ("/toad/echo", {}), ("/?verbose", {}), ("/x", {"Accept": "application/json"})]
)
async def test_details(client: aiohttp.ClientSession, path: str, headers: dict[str, str]) -> None:
    async with client.put(path, data=b"x" * 70_000, headers={"X-One": "1", **headers}) as response:
        assert response.content_type == "application/json"
        details = await response.json()
    assert details["pod"] == PODS[0][0]
    assert details["method"] == "PUT"
    assert details["path"] == path.partition("?")[0]
    assert details["body_bytes"] == 70_000
    assert details["headers"]["X-One"] == "1"
    assert details["client"].startswith("127.0.0.1:")
    assert details["http_version"] == "1.1"


async def test_details_keep_what_is_repeated_and_encoded(client: aiohttp.ClientSession) -> None:
    url = str(client._base_url).rstrip("/")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"GET /a%2Fb/echo?q=1&q=2&r=%20 HTTP/1.1\r\nHost: x\r\nA: 1\r\nA: 2\r\nConnection: close\r\n\r\n")
    details = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    writer.close()
    assert details["path"] == "/a%2Fb/echo"
    assert details["query"] == {"q": ["1", "2"], "r": " "}
    assert details["headers"]["A"] == ["1", "2"]
    assert details["headers"]["Host"] == "x"


@pytest.mark.parametrize("status", [200, 404, 503, 599])
async def test_status(client: aiohttp.ClientSession, status: int) -> None:
    async with client.get(f"/toad/status/{status}") as response:
        assert response.status == status
        assert await response.text() == f"{status} from {PODS[0][0]}\n"


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_status_without_body(client: aiohttp.ClientSession, status: int) -> None:
    async with client.get(f"/status/{status}") as response:
        assert response.status == status
        assert await response.read() == b""


@pytest.mark.parametrize("path", ["/status/100", "/status/600", "/status/abc", "/status/5030", "/statu/503", "/xecho"])
async def test_what_only_looks_like_an_action_is_a_path(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as response:
        assert (response.status, await response.text()) == (200, f"You've hit {PODS[0][0]}\n")


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1_000_000])
async def test_bytes(client: aiohttp.ClientSession, size: int) -> None:
    async with client.get(f"/bytes/{size}") as response:
        assert response.headers["Content-Length"] == str(size)
        assert len(await response.read()) == size
    async with client.head(f"/bytes/{size}") as response:
        assert response.headers["Content-Length"] == str(size)


async def test_too_many_bytes(client: aiohttp.ClientSession) -> None:
    async with client.get("/bytes/1073741825") as response:
        assert response.status == 400


async def test_delay(client: aiohttp.ClientSession) -> None:
    started = asyncio.get_running_loop().time()
    async with client.get("/delay/0.2") as response:
        assert await response.text() == f"You've hit {PODS[0][0]}\n"
    assert asyncio.get_running_loop().time() - started > 0.19


async def test_events_arrive_one_by_one(client: aiohttp.ClientSession) -> None:
    async with client.get("/toad/sse?interval=0.05") as response:
        assert response.content_type == "text/event-stream"
        for number in (1, 2, 3):
            event = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 10)
            assert event == f"id: {number}\ndata: {PODS[0][0]} {number}\n\n".encode()


async def test_events_end_after_count(client: aiohttp.ClientSession) -> None:
    async with client.get("/sse?count=3&interval=0") as response:
        assert (await response.text()).count("\n\n") == 3


@pytest.mark.parametrize("query", ["count=x", "count=-1", "interval=nan", "interval=-1", "interval=61", "interval="])
async def test_bad_event_parameters(client: aiohttp.ClientSession, query: str) -> None:
    async with client.get(f"/sse?{query}") as response:
        assert response.status == 400


async def test_websocket_echo(client: aiohttp.ClientSession) -> None:
    async with client.ws_connect("/toad") as socket:
        await socket.send_str("grün")
        assert await socket.receive_str(timeout=10) == "grün"
        await socket.send_bytes(b"\x00\xff" * 10_000)
        assert await socket.receive_bytes(timeout=10) == b"\x00\xff" * 10_000
        assert await socket.close()


async def test_open_streams_do_not_hold_up_the_end() -> None:
    backends = DemoBackends()
    await backends.__aenter__()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{backends.pods[0].port}") as session:
        socket = await session.ws_connect("/")
        stream = await session.get("/sse")
        await stream.content.readuntil(b"\n\n")
        await asyncio.wait_for(backends.__aexit__(None, None, None), 10)
        stream.close()
        await socket.close()
