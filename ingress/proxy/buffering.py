"""Request bodies that are taken in before an endpoint is asked (nginx's proxy_request_buffering): whether, how much, and what is sent then.

A slow client then occupies no endpoint, a retry has the whole body, and a chunked body gets a length. Nothing goes to a disk: a body longer than the
bound of its route, or than what is left of the worker's, is streamed from there on.
"""

from functools import partial

from ingress.config import ProxySettings
from ingress.exchange import CHUNKED, LENGTH, Exchange


class BodyBuffers:
    """The account of one worker."""

    __slots__ = ("held_bytes",)

    def __init__(self) -> None:
        self.held_bytes = 0  # of bodies that are waited for, or may have to be sent again

    def begin(self, exchange: Exchange, settings: ProxySettings) -> bool:
        """Hold what comes of the body of `exchange`. False: there is too much of it, or no room."""
        if not self._has_room(exchange, settings, exchange.body_bytes):
            return False
        exchange.body_held = True
        self._count(exchange, exchange.body_bytes)
        exchange.at_end(partial(self.release, exchange))
        return True

    def add(self, exchange: Exchange, size: int, settings: ProxySettings) -> bool:
        """Another `size` bytes of it are there. False: that is enough, and the rest has to be streamed."""
        self._count(exchange, size)
        return self._has_room(exchange, settings, 0)

    def _has_room(self, exchange: Exchange, settings: ProxySettings, more_bytes: int) -> bool:
        return (
            max(exchange.content_length, exchange.body_bytes) <= exchange.route.policy.request_buffer_bytes
            and self.held_bytes + more_bytes <= settings.request_buffers_limit_bytes
        )

    def _count(self, exchange: Exchange, size: int) -> None:
        exchange.held_bytes += size
        self.held_bytes += size

    def release(self, exchange: Exchange) -> None:
        """Its body is of no use any more."""
        self.held_bytes -= exchange.held_bytes
        exchange.held_bytes = 0


def settle_framing(exchange: Exchange, http_version: str) -> bool:
    """Nothing more is waited for: decide how the body is framed. False: HTTP/1.0 has no way to send it without its length."""
    exchange.body_held = False
    exchange.body_whole = exchange.body_complete
    if exchange.body_framing != CHUNKED:
        return True
    old = http_version == "1.0"
    if exchange.body_complete and (old or not exchange.trailers):
        exchange.body_framing = LENGTH  # as nginx sends it: some servers understand nothing else
        exchange.content_length = exchange.body_bytes
        return True
    return not old
