"""Ids of requests that come without one."""

import os


class RequestIds:
    """32 hexadecimal digits a request, from the system's random source, fetched in bulk."""

    __slots__ = ("_pool",)

    def __init__(self) -> None:
        self._pool: list[bytes] = []

    def next(self) -> bytes:
        pool = self._pool
        if not pool:
            text = os.urandom(16 * 256).hex().encode("ascii")
            pool.extend(text[i : i + 32] for i in range(0, len(text), 32))
        return pool.pop()


def no_id() -> bytes:
    """Where ids are switched off."""
    return b""
