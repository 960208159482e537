"""The guards of conftest.py: a guard that doesn't bite is worse than none."""

import asyncio
import socket
import threading
import time

import pytest

FORBIDDEN = "loopback interface"


@pytest.fixture
def bites(forbidden_io):
    """Forget what the test provoked on purpose; fail if it provoked nothing."""
    yield
    assert forbidden_io, "the guard didn't notice"
    forbidden_io.clear()


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.com", b"example.com"])
def test_lookup_of_other_machine(bites, host):
    with pytest.raises(RuntimeError, match=FORBIDDEN):
        socket.getaddrinfo(host, 80)


def test_connect_to_other_machine(bites):
    with socket.socket() as sock, pytest.raises(RuntimeError, match=FORBIDDEN):
        sock.connect(("192.0.2.1", 80))


def test_datagram_to_other_machine(bites):
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(RuntimeError, match=FORBIDDEN):
        sock.sendto(b"x", ("192.0.2.1", 53))


async def test_loop_connects_to_other_machine(bites):
    with pytest.raises(RuntimeError, match=FORBIDDEN):
        await asyncio.open_connection("192.0.2.1", 80)


async def test_sleep_in_loop(bites):
    with pytest.raises(RuntimeError, match=r"time\.sleep\(0\.001\) inside an event loop"):
        time.sleep(0.001)  # noqa: ASYNC251


async def test_blocking_connect_in_loop(bites):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket() as client,
        pytest.raises(RuntimeError, match="blocking connect"),
    ):
        client.connect(server.getsockname())


async def test_blocking_lookup_in_loop(bites):
    with pytest.raises(RuntimeError, match="blocking look-up"):
        socket.getaddrinfo("localhost", 80)


async def test_what_is_allowed():
    def elsewhere() -> None:
        time.sleep(0.001)
        socket.getaddrinfo("localhost", 80)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(2))
        writer.close()
        await writer.wait_closed()

    await asyncio.to_thread(elsewhere)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"hi")
        assert await reader.read() == b"hi"
        writer.close()
        await writer.wait_closed()


def test_violation_in_other_thread_counts(bites):
    def run() -> None:
        with socket.socket() as sock, pytest.raises(RuntimeError):
            sock.connect(("192.0.2.1", 80))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_caught_violation_still_fails(pytester_run):
    result = pytester_run(
        """
        import socket

        def test_swallows():
            try:
                socket.getaddrinfo("example.com", 80)
            except Exception:
                pass
        """
    )
    assert "forbidden: a look-up to 'example.com'" in result
    assert "1 passed, 1 error" in result


def test_pure_folder_has_no_sockets(pytester_run):
    result = pytester_run(
        """
        import socket

        def test_opens():
            socket.socket()
        """,
        folder="tests/routing",
    )
    assert "this folder's tests are of code without I/O" in result
    assert "1 failed" in result


@pytest.fixture
def pytester_run(tmp_path, request):
    """Run pytest in a child on one test file under a copy of the guards; its output as text."""
    import os
    import shutil
    import subprocess
    import sys
    import textwrap

    def run(source: str, folder: str = "tests") -> str:
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(request.config.rootpath / "conftest.py", tmp_path)
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        )
        (tmp_path / folder / "test_it.py").write_text(textwrap.dedent(source))
        child = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return child.stdout + child.stderr

    return run
