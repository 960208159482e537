"""One echo backend on its own: `python -m ingress.demo [--address H:P] [--name NAME]`.

The name defaults to that of the host: in a Pod, the Pod's.
"""

import argparse
import asyncio
import signal
import socket
import sys

from aiohttp import web

from ingress.config import Address
from ingress.demo.backends import KEEPALIVE_S
from ingress.demo.echo import make_app
from ingress.errors import ConfigError

_GRACE_S = 20.0  # for requests in progress after SIGTERM; less than a Pod's default grace period of 30 s


async def serve(address: Address, name: str) -> None:
    """Until SIGTERM or SIGINT; then stop listening, finish what is in progress, return. Raise OSError if it can't listen."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        make_app(lambda request: name),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=_GRACE_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
        host, port = runner.addresses[0][:2]
        print(f"{name} listens on {Address(host, port)}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ingress.demo", description="An echo backend: answers with its name."
    )
    parser.add_argument("--address", default="0.0.0.0:8080", metavar="H:P", help="default: %(default)s")
    parser.add_argument("--name", default=socket.gethostname(), help="default: the name of this host")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(serve(Address.parse(arguments.address), arguments.name))
    except ConfigError as error:
        parser.error(f"--address: {error}")
    except OSError as error:
        print(f"{parser.prog}: can't listen on {arguments.address}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
