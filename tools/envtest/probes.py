"""Probes and the HTTP half of hooks, as a kubelet sends them."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tools.envtest.podspec import ProbeSpec, port_number

Json = Mapping[str, Any]
Execute = Callable[[list[str], float], Awaitable[int]]
_EAGER_S = 0.25  # until a container is ready for the first time: nobody gains by waiting a whole period


async def attempt(action: Json, container: Json, address: str, execute: Execute, timeout_s: float) -> bool:
    """One probe: whether it succeeded."""
    try:
        async with asyncio.timeout(timeout_s):
            if "httpGet" in action:
                return 200 <= await http_get(action["httpGet"], container, address) < 400
            if "tcpSocket" in action:
                target = action["tcpSocket"]
                _, writer = await asyncio.open_connection(
                    target.get("host", address), port_number(container, target["port"])
                )
                writer.close()
                return True
            if "exec" in action:
                return await execute(action["exec"]["command"], timeout_s) == 0
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, ssl.SSLError):
        return False
    return False


async def http_get(target: Json, container: Json, address: str) -> int:
    """The status of the answer. Raises OSError, ValueError and IncompleteReadError."""
    host, port = target.get("host", address), port_number(container, target["port"])
    context = None
    if target.get("scheme") == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        headers = {"Host": f"{address}:{port}", "User-Agent": "kube-probe/1.36", "Accept": "*/*", "Connection": "close"}
        headers.update({item["name"]: item["value"] for item in target.get("httpHeaders", ())})
        lines = [f"GET {target.get('path') or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return int((await reader.readuntil(b"\r\n")).split()[1])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until_started(spec: ProbeSpec, probe: Callable[[ProbeSpec], Awaitable[bool]]) -> bool:
    """A startup probe: True at its first success, False when the time of all its tries is over."""
    await asyncio.sleep(spec.initial_delay_s)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + spec.failure_threshold * spec.period_s
    while not await probe(spec):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(min(spec.period_s, _EAGER_S))
    return True


async def keep_probing(
    spec: ProbeSpec, probe: Callable[[ProbeSpec], Awaitable[bool]], tell: Callable[[bool], None], *, eager: bool
) -> None:
    """For ever: `tell` of each verdict, which takes as many equal answers in a row as its threshold says.

    `eager`: until the first True, ask more often than the period says.
    """
    await asyncio.sleep(spec.initial_delay_s)
    last, streak, ever = None, 0, False
    while True:
        answer = await probe(spec)
        streak = streak + 1 if answer == last else 1
        last = answer
        if streak >= (spec.success_threshold if answer else spec.failure_threshold):
            tell(answer)
            ever = ever or answer
        await asyncio.sleep(min(spec.period_s, _EAGER_S) if eager and not ever else spec.period_s)
