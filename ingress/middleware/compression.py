"""Compressed responses (options use-gzip, enable-brotli, and enable-zstd of our own; off by default). When: `encoding.py`. How: `codecs.py`.

What an endpoint sends is compressed as it comes and flushed as often as it was read, so a stream isn't delayed. A long chunk is compressed in slices, one
in each turn of the loop, so that other requests wait for a slice and not for the chunk; meanwhile the endpoint waits. Measured, a slice of 32 KiB:
gzip 1 0.3 ms, gzip 9 0.5 ms, Brotli 4 0.4 ms, zstd 3 0.2 ms; Brotli 11 30 ms, zstd 19 15 ms, which is why these are for build steps.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ingress.exchange import CHUNKED, BodyFraming, Exchange, Field, FieldPieces, ResponseHead, ResponseHook
from ingress.expressions import compile_expression
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.middleware.codecs import Encoder, make_encoder
from ingress.middleware.encoding import Coding, Content, is_old_explorer, may_be_encoded, negotiate, weakened
from ingress.middleware.fields import add_vary
from ingress.middleware.filters import BodyFilter
from ingress.translate.options.model import BROTLI_TYPES, GZIP_TYPES, CodecOptions

SLICE_BYTES = 32768
_DEFAULT_TYPES = {Coding.GZIP: GZIP_TYPES, Coding.BROTLI: BROTLI_TYPES, Coding.ZSTD: GZIP_TYPES}


class Codec(msgspec.Struct, frozen=True, omit_defaults=True):
    """`types` empty: those that the coding has by default; a table of 10,000 Ingresses shouldn't repeat them."""

    coding: Coding
    level: int
    min_length_bytes: int
    types: tuple[str, ...] = ()


class CompressionPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    codecs: tuple[Codec, ...]  # in the order of preference
    gzip_disable: str = ""  # msie6, or a pattern of user agents


def enabled(options: Any) -> bool:
    compression = options.compression
    return not (compression.gzip is compression.brotli is compression.zstd is None)


def parse(reader: Reader) -> CompressionPolicy | None:
    options = reader.options.compression
    chosen = {Coding.BROTLI: options.brotli, Coding.ZSTD: options.zstd, Coding.GZIP: options.gzip}
    codecs = tuple(_codec(coding, chosen[coding]) for coding in Coding if chosen[coding] is not None)
    return CompressionPolicy(codecs, options.gzip_disable) if codecs else None


def _codec(coding: Coding, options: CodecOptions) -> Codec:
    types = () if options.types == _DEFAULT_TYPES[coding] else options.types
    return Codec(coding, options.level, options.min_length_bytes, types)


# ---- per request -------------------------------------------------------------------------------------------------


class Compressor(BodyFilter):
    """Compresses what passes."""

    __slots__ = ("_encoder", "_handle", "_loop", "_pending", "_queue", "_saved", "_tail", "_trailers")

    def __init__(self, exchange: Exchange, encoder: Encoder, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(exchange)
        self._encoder: Encoder | None = encoder  # None: the stream is finished, or given up
        self._loop = loop
        self._pending = False  # something went in since the last sync
        self._queue: deque[bytes] = deque()  # slices that wait for their turn
        self._handle: asyncio.Handle | None = None
        self._saved = 0
        self._tail = b""  # what ends the stream
        self._trailers: Sequence[Field] | None = None  # the response ends behind the queue

    def respond_head(
        self,
        exchange: Exchange,
        status: int,
        reason: bytes,
        fields: FieldPieces,
        framing: BodyFraming,
        content_length: int,
    ) -> None:
        self.downstream.respond_head(exchange, status, reason, fields, CHUNKED, -1)

    def respond_body(self, exchange: Exchange, chunk: bytes) -> None:
        size = len(chunk)
        if not self._queue:
            if size <= SLICE_BYTES:
                self._compress(chunk)
                return
            self._compress(chunk[:SLICE_BYTES])
            self._queue.extend(chunk[at : at + SLICE_BYTES] for at in range(SLICE_BYTES, size, SLICE_BYTES))
            self._handle = self._loop.call_soon(self._next)
        else:
            self._queue.extend(chunk[at : at + SLICE_BYTES] for at in range(0, size, SLICE_BYTES))
        self.hold_up()

    def respond_end(self, exchange: Exchange, trailers: Sequence[Field]) -> None:
        if self._queue:
            self._trailers = trailers
            return
        tail = self._finish()
        if tail:
            self.downstream.respond_body(exchange, tail)
        super().respond_end(exchange, trailers)

    def respond_abort(self, exchange: Exchange) -> None:
        self._sync()
        self._forget()
        self.downstream.respond_abort(exchange)

    def flush(self) -> None:
        if not self._queue:
            self._sync()
        self.downstream.flush()

    def settle(self, sent: int) -> int:
        if not self._queue:
            self._finish()
        return super().settle(max(sent - self._saved, 0))

    def client_gone(self) -> None:
        self._forget()
        super().client_gone()

    # ----

    def _compress(self, data: bytes) -> None:
        encoder = self._encoder
        if encoder is None:
            return
        out = encoder.compress(data)
        self._pending = True
        self._saved += len(data) - len(out)
        if out:
            self.downstream.respond_body(self.exchange, out)

    def _sync(self) -> None:
        if self._pending and self._encoder is not None:
            self._pending = False
            out = self._encoder.sync()
            self._saved -= len(out)
            if out:
                self.downstream.respond_body(self.exchange, out)

    def _finish(self) -> bytes:
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            self._tail = encoder.finish()
            self._saved -= len(self._tail)
        return self._tail

    def _next(self) -> None:
        self._handle = None
        self._compress(self._queue.popleft())
        if self._queue:
            self._handle = self._loop.call_soon(self._next)
            self.downstream.flush()
            return
        self.let_go()
        if self._trailers is not None:
            self.respond_end(self.exchange, self._trailers)
        self.flush()

    def _forget(self) -> None:
        self._encoder = None
        self._queue.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def bind(policy: CompressionPolicy, scope: Scope) -> Hooks:
    return Hooks(response=_hook(policy, scope.services.loop))


@lru_cache(maxsize=64)
def _hook(policy: CompressionPolicy, loop: asyncio.AbstractEventLoop) -> ResponseHook:
    """One for all routes of equal policy."""
    everything = tuple(codec for codec in policy.codecs if "*" in codec.types)
    by_type: dict[bytes, tuple[Codec, ...]] = {}
    for codec in policy.codecs:
        for media_type in ("text/html", *(codec.types or _DEFAULT_TYPES[codec.coding])):
            key = media_type.lower().encode("ascii", "replace")
            if codec not in by_type.get(key, ()):
                by_type[key] = (*by_type.get(key, ()), codec)
    for key, codecs in by_type.items():
        by_type[key] = tuple(c for c in policy.codecs if c in codecs or c in everything)
    levels = {codec.coding: codec.level for codec in policy.codecs}
    refuses = _user_agents(policy.gzip_disable)

    def compress(exchange: Exchange, head: ResponseHead) -> None:
        if not may_be_encoded(exchange, head):
            return
        content = Content(head)
        codecs = by_type.get(content.media_type, everything)
        length = head.content_length
        if length >= 0:
            codecs = tuple(codec for codec in codecs if length >= codec.min_length_bytes)
        if not codecs or content.encoded or content.fixed:
            return
        add_vary(head, b"Accept-Encoding")
        accept = exchange.header(b"accept-encoding")
        if accept is None:
            return
        available = tuple(codec.coding for codec in codecs)
        if refuses is not None and refuses(exchange.header(b"user-agent") or b""):
            available = tuple(coding for coding in available if coding is not Coding.GZIP)
        coding = negotiate(accept, available)
        if coding is None:
            return
        head.remove(b"Accept-Ranges", b"Content-Encoding", *((b"ETag",) if content.etag else ()))
        head.add(b"Content-Encoding", coding.value.encode("ascii"))
        if etag := weakened(content.etag):
            head.add(b"ETag", etag)
        Compressor(exchange, make_encoder(coding, levels[coding], length), loop).insert()

    return compress


def _user_agents(text: str) -> Any:
    """Whether gzip is kept from a user agent; None: from nobody."""
    if not text:
        return None
    if text == "msie6":
        return is_old_explorer
    try:
        return compile_expression(text, ignore_case=True).search
    except ValueError:
        return None  # reported where the option is read


SPEC = MiddlewareSpec("compression", Phase.HOST, (), CompressionPolicy, parse, bind, by_option=enabled)
