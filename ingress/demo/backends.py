"""The demo's Pods: one echo app on several loopback ports, each with the name of a Pod."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from ingress.demo.echo import make_app

ADDRESS = "127.0.0.1"
PODS = (("toad-xueq1", "toad"), ("toad-7hmvb", "toad"), ("frog-4k2zd", "frog"))
"""(name, Service): two Pods to balance over, and another Service to tell paths and hosts apart."""

KEEPALIVE_S = (
    75.0  # longer than the 60 s a proxy keeps an idle connection: it closes first, and never meets one just closed
)
_SHUTDOWN_S = 0.5  # for streams and WebSockets that are still open when the demo ends


@dataclass(frozen=True, slots=True)
class DemoPod:
    name: str
    service: str
    address: str
    port: int


class DemoBackends:
    """`async with DemoBackends() as backends:` serves until the block ends; ports are chosen by the system."""

    def __init__(self, pods: Sequence[tuple[str, str]] = PODS) -> None:
        self._wanted = tuple(pods)
        self._runner: web.AppRunner | None = None
        self.pods: tuple[DemoPod, ...] = ()

    async def __aenter__(self) -> Self:
        names: dict[int, str] = {}

        def name_of(request: web.Request) -> str:
            assert request.transport is not None
            return names[request.transport.get_extra_info("sockname")[1]]

        runner = web.AppRunner(
            make_app(name_of),
            access_log=None,
            handler_cancellation=True,  # a client that leaves ends its /sse or /delay
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        pods = []
        try:
            for name, service in self._wanted:
                listener = socket.create_server((ADDRESS, 0))
                listener.setblocking(False)
                port = listener.getsockname()[1]
                names[port] = name
                pods.append(DemoPod(name, service, ADDRESS, port))
                await web.SockSite(runner, listener).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner, self.pods = runner, tuple(pods)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner, self.pods = None, ()
