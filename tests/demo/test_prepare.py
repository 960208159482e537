import asyncio
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
import yaml

from ingress.demo.manifests import ENDPOINTS_FILE
from ingress.demo.prepare import prepare
from ingress.errors import ConfigError


async def test_manifests_lead_to_backends_that_answer() -> None:
    async with prepare() as demo, aiohttp.ClientSession() as session:
        seen = set()
        for piece in yaml.safe_load_all((demo.folder / ENDPOINTS_FILE).read_text()):
            address, port = piece["endpoints"][0]["addresses"][0], piece["ports"][0]["port"]
            async with session.get(f"http://{address}:{port}/") as response:
                assert await response.text() == f"You've hit {piece['endpoints'][0]['targetRef']['name']}\n"
            seen.add((address, port))
        assert seen == {(pod.address, pod.port) for pod in demo.pods}
        assert all(path.is_file() for path in demo.manifests)
    assert not demo.folder.exists()


async def test_given_folder_stays(tmp_path: Path) -> None:
    async with prepare(tmp_path / "kept") as demo:
        assert demo.folder.name == "kept"
    assert (tmp_path / "kept" / ENDPOINTS_FILE).is_file()


async def test_unusable_folder_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = asyncio.all_tasks()
    with pytest.raises(ConfigError, match="can't write the manifests"):
        async with prepare(tmp_path / "file"):
            pass
    assert asyncio.all_tasks() == before


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ingress.demo", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_backend_on_its_own(number: signal.Signals) -> None:
    process = await start("--address", "127.0.0.1:0", "--name", "toad-a1b2c")
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        assert line.startswith("toad-a1b2c listens on 127.0.0.1:")
        async with aiohttp.ClientSession(f"http://{line.split()[-1]}") as session:
            async with session.get("/") as response:
                assert await response.text() == "You've hit toad-a1b2c\n"
            stream = await session.get("/sse?interval=0.3&count=2")
            await stream.content.readuntil(b"\n\n")
            process.send_signal(number)
            assert b"id: 2" in await stream.read()  # what is in progress is finished
            assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [("nonsense", 2, b"--address: 'nonsense' is not an address"), ("192.0.2.1:1", 1, b"can't listen on 192.0.2.1:1")],
)
async def test_one_backend_that_can_not_start(address: str, code: int, message: bytes) -> None:
    process = await start("--address", address)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == code
    assert message in errors
    assert b"Traceback" not in errors
