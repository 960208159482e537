"""Streams that compress: gzip, Brotli and Zstandard behind one interface. Their memory is bounded by their window, at most 512 KiB."""

import zlib
from typing import Any, Protocol

import brotli
import zstandard

from ingress.middleware.encoding import Coding

_WINDOW_BITS = 19  # of Brotli and Zstandard: 512 KiB, the brotli_window of nginx's module


class Encoder(Protocol):
    def compress(self, data: bytes) -> bytes: ...

    def sync(self) -> bytes:
        """What is needed to decode everything up to here."""

    def finish(self) -> bytes: ...


class _Gzip:
    __slots__ = ("_stream", "compress")

    def __init__(self, level: int, length: int) -> None:
        bits, memory = 15, 8
        # As nginx: what is known to be short needs neither the whole window nor the whole hash table.
        while length >= 0 and bits > 9 and length < (1 << (bits - 1)) - 262:
            bits, memory = bits - 1, max(memory - 1, 1)
        self._stream = zlib.compressobj(level, zlib.DEFLATED, 16 + bits, memory)
        self.compress = self._stream.compress

    def sync(self) -> bytes:
        return self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._stream.flush()


class _Brotli:
    __slots__ = ("_stream", "compress")

    def __init__(self, level: int, length: int) -> None:
        bits = _WINDOW_BITS if length < 0 else min(max(length.bit_length(), 10), _WINDOW_BITS)
        self._stream: Any = brotli.Compressor(quality=level, lgwin=bits)
        self.compress = self._stream.process

    def sync(self) -> bytes:
        return self._stream.flush()  # type: ignore[no-any-return]

    def finish(self) -> bytes:
        return self._stream.finish()  # type: ignore[no-any-return]


class _Zstd:
    __slots__ = ("_stream", "compress")

    def __init__(self, level: int, length: int) -> None:
        bits = _WINDOW_BITS if length < 0 else min(max(length.bit_length(), 10), _WINDOW_BITS)
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, source_size=max(length, 0), window_log=bits, write_content_size=False
        )
        self._stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        self.compress = self._stream.compress

    def sync(self) -> bytes:
        return self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._stream.flush()


_MAKE: dict[Coding, type[_Gzip | _Brotli | _Zstd]] = {Coding.GZIP: _Gzip, Coding.BROTLI: _Brotli, Coding.ZSTD: _Zstd}


def make_encoder(coding: Coding, level: int, length: int) -> Encoder:
    """`length`: of the whole content in bytes, -1 if not known."""
    return _MAKE[coding](level, length)
