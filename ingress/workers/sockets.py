"""Listening sockets, bound by the controller and inherited by the workers.

One socket a worker and address, sharing the port by SO_REUSEPORT. Because the controller keeps them open, the connections that the kernel has queued
on a socket survive the worker that served it: its replacement accepts them.
"""

import socket
from collections.abc import Sequence
from typing import NamedTuple

from ingress.config import Address
from ingress.errors import ConfigError
from ingress.proxy.accept import ListenerKind

BACKLOG = 4096


class Listener(NamedTuple):
    kind: ListenerKind
    socket: socket.socket


def bind_all(groups: Sequence[tuple[str, ListenerKind, Sequence[Address]]], workers: int) -> list[list[Listener]]:
    """`bind` for several flags: one list of listeners a worker, in the order of `groups`. Raises ConfigError, with nothing left bound."""
    bound: list[list[Listener]] = [[] for _ in range(max(1, workers))]
    try:
        for flag, kind, addresses in groups:
            for listeners, sockets in zip(bound, bind(flag, addresses, workers), strict=True):
                listeners += (Listener(kind, sock) for sock in sockets)
    except BaseException:
        close(bound)
        raise
    return bound


def close(bound: Sequence[Sequence[Listener]]) -> None:
    for listeners in bound:
        for listener in listeners:
            listener.socket.close()


def bind(flag: str, addresses: Sequence[Address], workers: int) -> list[list[socket.socket]]:
    """One list of sockets a worker, in the order of `addresses`. Raises ConfigError naming flag, address and the reason.

    `workers` 0 counts as one. Port 0 is chosen once and shared.
    """
    count = max(1, workers)
    bound: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        for address in addresses:
            port = address.port
            if port:
                # SO_REUSEPORT would let a second controller share the port unnoticed: an exclusive bind finds the first.
                _bind(flag, address, port, shared=False).close()
            for sockets in bound:
                sock = _bind(flag, address, port, shared=count > 1)
                sockets.append(sock)
                sock.listen(BACKLOG)
                port = sock.getsockname()[1]
    except BaseException:
        for sockets in bound:
            for sock in sockets:
                sock.close()
        raise
    return bound


def _bind(flag: str, address: Address, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind((address.host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(f"{flag} {address}: cannot listen: {error.strerror}") from error
    return sock
