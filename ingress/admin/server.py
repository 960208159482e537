"""The aiohttp application of the admin addresses, and its listeners. GET and HEAD only."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence

import jinja2
from aiohttp import web

from ingress import __version__
from ingress.admin.dump import dump_table, dump_verdicts
from ingress.admin.view import AdminView, Probe
from ingress.config import Address
from ingress.errors import ConfigError
from ingress.exposition import render

log = logging.getLogger(__name__)

LINKS = (
    ("/healthz", "whether the process should live on"),
    ("/readyz", "whether it should get traffic, and if not, why"),
    ("/metrics", "Prometheus metrics"),
    ("/debug/table", "the routing table as JSON; ?host=NAME for what answers for one host"),
    ("/debug/verdicts", "what was not taken as written, and why"),
)

_HEADERS = {
    "Server": "aioingress",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
}

_METRICS_TIMEOUT_S = 8.0
"""Below the 10 s that Prometheus waits by default."""

_INDEX = jinja2.Environment(loader=jinja2.PackageLoader("ingress.admin"), autoescape=True).get_template("index.html")


class _Handlers:
    def __init__(self, view: AdminView) -> None:
        self._view = view

    async def index(self, _: web.Request) -> web.Response:
        view = self._view
        page = _INDEX.render(
            version=__version__,
            health=_line(view.health()),
            readiness=_line(view.readiness()),
            facts=view.facts(),
            verdicts=len(view.verdicts()),
            links=LINKS,
        )
        return web.Response(text=page, content_type="text/html")

    async def health(self, _: web.Request) -> web.Response:
        return _probe(self._view.health())

    async def readiness(self, _: web.Request) -> web.Response:
        return _probe(self._view.readiness())

    async def metrics(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_METRICS_TIMEOUT_S):
                snapshot = await self._view.metrics_snapshot()
        except TimeoutError:
            return web.Response(status=503, text="the workers did not answer in time\n")
        accept = ",".join(request.headers.getall("Accept", ()))
        content_type, body = await asyncio.to_thread(render, snapshot, self._view.facts(), accept)
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def table(self, request: web.Request) -> web.Response:
        view = self._view
        table, verdicts, age_s = view.table(), view.verdicts(), view.facts().table_age_s
        host = request.query.get("host")
        return _json(await asyncio.to_thread(dump_table, table, verdicts, age_s=age_s, host=host))

    async def verdicts(self, _: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(dump_verdicts, self._view.verdicts()))


def _line(probe: Probe) -> str:
    """One line whatever the reason holds."""
    reason = " ".join(probe.reason.split())
    if probe.ok:
        return f"ok ({reason})" if reason else "ok"
    return reason or "not ok"


def _probe(probe: Probe) -> web.Response:
    return web.Response(status=200 if probe.ok else 503, text=_line(probe) + "\n")


def _json(body: bytes) -> web.Response:
    response = web.Response(body=body, content_type="application/json")
    response.enable_compression()
    return response


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _contain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Our bug costs one answer, without details for the asker."""
    try:
        return await handler(request)
    except (web.HTTPException, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return web.Response(status=500, text="internal error; see the log\n")


def make_app(view: AdminView) -> web.Application:
    """The application without a listener."""
    handlers = _Handlers(view)
    app = web.Application(middlewares=[_contain], client_max_size=1024)
    app.on_response_prepare.append(_add_headers)
    app.add_routes(
        [
            web.get("/", handlers.index),
            web.get("/healthz", handlers.health),
            web.get("/readyz", handlers.readiness),
            web.get("/metrics", handlers.metrics),
            web.get("/debug/table", handlers.table),
            web.get("/routes", handlers.table),
            web.get("/debug/verdicts", handlers.verdicts),
        ]
    )
    return app


class AdminServer:
    """Listening until `close`. `addresses` are those really bound, in the order asked for (a port 0 is settled by
    then).
    """

    def __init__(self, runner: web.AppRunner, addresses: tuple[Address, ...]) -> None:
        self._runner = runner
        self.addresses = addresses

    async def close(self) -> None:
        """Stop listening; requests under way get a moment to end. Calling it again does nothing."""
        await self._runner.cleanup()


async def start(view: AdminView, addresses: Sequence[Address]) -> AdminServer:
    """Raise ConfigError when an address can't be bound; none of the others is left bound then."""
    runner = web.AppRunner(make_app(view), access_log=None, shutdown_timeout=2.0, handle_signals=False)
    await runner.setup()
    bound = []
    try:
        for address in addresses:
            site = web.TCPSite(runner, address.host, address.port)
            try:
                await site.start()
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise ConfigError(f"--admin-address {address}: cannot listen: {reason}") from error
            bound.append(Address(address.host, site.port))
    except BaseException:
        await runner.cleanup()
        raise
    return AdminServer(runner, tuple(bound))
