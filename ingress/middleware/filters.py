"""What may stand between the forwarder and the protocol of a response: the base of body filters.

A response hook puts one in front with `BodyFilter.insert`; the one inserted last is the first to see the body. Until it says otherwise, a filter passes
everything on. It may hold back what came, and with it the end of the response; whoever holds back asks the endpoint to wait, so that memory
stays bounded.
"""

from collections.abc import Sequence
from typing import Any, Self

from ingress.exchange import BodyFraming, Downstream, Exchange, Field, FieldPieces


class BodyFilter:
    """Implements `Downstream`. `settle` and `client_gone` are the forwarder's to call, on the outermost filter of an exchange."""

    __slots__ = ("downstream", "exchange", "held_up")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.downstream: Downstream = exchange.downstream
        self.held_up = False  # the endpoint was asked to wait

    def insert(self) -> Self:
        self.exchange.downstream = self.exchange.body_filter = self
        return self

    def leave(self) -> None:
        """Nothing more will pass: step aside. Exchange and filter refer to each other, and what a filter holds may be large: the collector must not
        be what frees it."""
        exchange, inner = self.exchange, self.downstream
        if exchange.body_filter is self:
            exchange.downstream = inner
            exchange.body_filter = inner if isinstance(inner, BodyFilter) else None

    def settle(self, sent: int) -> int:
        """The exchange is over: how many bytes of body the client gets, where `sent` were to be sent."""
        inner = self.downstream
        return inner.settle(sent) if isinstance(inner, BodyFilter) else sent

    def client_gone(self) -> None:
        """Nobody reads any more: forget what is held back."""
        inner = self.downstream
        if isinstance(inner, BodyFilter):
            inner.client_gone()

    def hold_up(self) -> None:
        """Ask the endpoint to wait."""
        connection = self.exchange.upstream_connection
        if connection is not None:
            self.held_up = True
            connection.pause_response()

    def let_go(self) -> None:
        """Ask it to go on. If the client is slower still, the next flush makes it wait again."""
        if self.held_up:
            self.held_up = False
            connection = self.exchange.upstream_connection
            if connection is not None:
                connection.resume_response()

    @property
    def server_port(self) -> int:
        return self.downstream.server_port

    # ---- Downstream ----------------------------------------------------------------------------------------------

    def respond_informational(self, exchange: Exchange, status: int, reason: bytes, fields: FieldPieces) -> None:
        self.downstream.respond_informational(exchange, status, reason, fields)

    def respond_head(
        self,
        exchange: Exchange,
        status: int,
        reason: bytes,
        fields: FieldPieces,
        framing: BodyFraming,
        content_length: int,
    ) -> None:
        self.downstream.respond_head(exchange, status, reason, fields, framing, content_length)

    def respond_body(self, exchange: Exchange, chunk: bytes) -> None:
        self.downstream.respond_body(exchange, chunk)

    def respond_end(self, exchange: Exchange, trailers: Sequence[Field]) -> None:
        self.leave()
        self.downstream.respond_end(exchange, trailers)

    def respond_abort(self, exchange: Exchange) -> None:
        self.downstream.respond_abort(exchange)

    def respond_upgrade(
        self, exchange: Exchange, reason: bytes, fields: FieldPieces, upstream: Any, early: bytes
    ) -> None:
        self.downstream.respond_upgrade(exchange, reason, fields, upstream, early)

    def flush(self) -> None:
        self.downstream.flush()

    def pause_request_body(self) -> None:
        self.downstream.pause_request_body()

    def resume_request_body(self) -> None:
        self.downstream.resume_request_body()
