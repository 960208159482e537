"""Counts that all workers of a machine share: leaky buckets and concurrency, in memory that the controller makes and its workers map.

Tables of fixed size: sets of eight slots, chosen by a keyed digest, so that clients can neither grow them nor aim at one set. A worker that counts takes
a record lock on the set (fcntl, released by the kernel if it dies); refusing a request takes none.

Times are the machine's monotonic clock, the same in all its processes.
"""

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

WORKERS_LIMIT = 32
"""Columns of the concurrency table: processes that count at one time, those that drain included."""

_SETS = 4096
_WAYS = 8
_KEY_BYTES = 16

_BUCKET = struct.Struct("<Qdd")  # digest, time of the last request, excess
_BUCKETS_AT = _KEY_BYTES
_USE = struct.Struct(f"<Q{WORKERS_LIMIT}H")  # digest, requests under way by worker
_USES_AT = _BUCKETS_AT + _SETS * _WAYS * _BUCKET.size
_SIZE = _USES_AT + _SETS * _WAYS * _USE.size  # 3.1 MiB, of which only what is used becomes resident
_COLUMN = struct.Struct("<H")
_MOST = 0xFFFF

Bucket = tuple[int, float, float]
"""Digest of zone and client, requests a second, burst."""


class SharedCounts:
    """One a controller: `create` there, and `SharedCounts(fd, index)` in each worker. `index` is the worker's column."""

    def __init__(self, fd: int, index: int = 0) -> None:
        """Raises ValueError for a column that isn't there."""
        if not 0 <= index < WORKERS_LIMIT:
            raise ValueError(f"there is no column {index}")
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self._key = bytes(self._memory[:_KEY_BYTES])
        self._column = 8 + 2 * index

    @classmethod
    def create(cls) -> "SharedCounts":
        fd = os.memfd_create("aioingress-counts", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        os.pwrite(fd, os.urandom(_KEY_BYTES), 0)
        return cls(fd)

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)

    def digest(self, zone: str, client: str) -> int:
        """Of a client in a zone; not 0."""
        text = f"{zone}\0{client}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=self._key).digest(), "little") or 1

    # ---- rates -----------------------------------------------------------------------------------------------------

    def take(self, buckets: Sequence[Bucket], now: float) -> bool:
        """Count one request in every bucket, or in none: False if one of them is over its burst.

        A bucket drains at its rate and holds `burst` beyond the request that began it (ngx_http_limit_req_module, nodelay).
        """
        if any(self._excess(bucket, now) > bucket[2] for bucket in buckets):
            return False
        with self._locked(_set_of(bucket[0]) for bucket in buckets):
            excesses = [self._excess(bucket, now) for bucket in buckets]
            if any(excess > bucket[2] for excess, bucket in zip(excesses, buckets, strict=True)):
                return False  # another worker was quicker
            for excess, (digest, _, _) in zip(excesses, buckets, strict=True):
                at = self._find(_BUCKETS_AT, _BUCKET.size, digest)
                if at is None:
                    at = self._free_bucket(digest)
                _BUCKET.pack_into(self._memory, at, digest, now, excess)
        return True

    def _excess(self, bucket: Bucket, now: float) -> float:
        """What the bucket would hold with one request more."""
        digest, rate, _ = bucket
        at = self._find(_BUCKETS_AT, _BUCKET.size, digest)
        if at is None:
            return 0.0
        found, last, excess = _BUCKET.unpack_from(self._memory, at)
        if found != digest:
            return 0.0  # given to another client meanwhile
        held: float = excess - rate * max(0.0, now - last) + 1.0
        return max(0.0, held)

    def _free_bucket(self, digest: int) -> int:
        """An empty slot of its set, or that of the client who has been silent longest."""
        start = _BUCKETS_AT + _set_of(digest) * _WAYS * _BUCKET.size
        slots = range(start, start + _WAYS * _BUCKET.size, _BUCKET.size)
        return min(slots, key=lambda at: _BUCKET.unpack_from(self._memory, at)[1])

    # ---- concurrency -----------------------------------------------------------------------------------------------

    def enter(self, digest: int, limit: int) -> bool:
        """Count one more request under way, unless there are `limit` already: then False. Each True is followed by one `leave`."""
        memory = self._memory
        at = self._find(_USES_AT, _USE.size, digest)
        if at is not None and sum(_USE.unpack_from(memory, at)[1:]) >= limit:
            return False
        with self._locked((_SETS + _set_of(digest),)):
            at = self._find(_USES_AT, _USE.size, digest)
            if at is None:
                at = self._free_use(digest)
                if at is None:
                    return limit > 0  # eight busier clients share the set: one is let in uncounted, rather than refused
            counts = _USE.unpack_from(memory, at)[1:]
            own = counts[(self._column - 8) // 2]
            if sum(counts) >= limit or own == _MOST:
                return False
            _COLUMN.pack_into(memory, at + self._column, own + 1)
        return True

    def leave(self, digest: int) -> None:
        with self._locked((_SETS + _set_of(digest),)):
            at = self._find(_USES_AT, _USE.size, digest)
            if at is None:
                return
            (own,) = _COLUMN.unpack_from(self._memory, at + self._column)
            if own:
                _COLUMN.pack_into(self._memory, at + self._column, own - 1)

    def forget_column(self, index: int) -> None:
        """A worker is gone: what it counted as under way is not. Called by the controller before the column is used again."""
        column = 8 + 2 * index
        for number in range(_SETS):
            start = _USES_AT + number * _WAYS * _USE.size
            slots = range(start, start + _WAYS * _USE.size, _USE.size)
            if not any(_COLUMN.unpack_from(self._memory, at + column)[0] for at in slots):
                continue
            with self._locked((_SETS + number,)):
                for at in slots:
                    _COLUMN.pack_into(self._memory, at + column, 0)

    def _free_use(self, digest: int) -> int | None:
        """A slot of its set whose client has nothing under way, made its own."""
        start = _USES_AT + _set_of(digest) * _WAYS * _USE.size
        for at in range(start, start + _WAYS * _USE.size, _USE.size):
            if not any(_USE.unpack_from(self._memory, at)[1:]):
                _USE.pack_into(self._memory, at, digest, *([0] * WORKERS_LIMIT))
                return at
        return None

    # ---- slots -----------------------------------------------------------------------------------------------------

    def _find(self, base: int, size: int, digest: int) -> int | None:
        memory = self._memory
        wanted = digest.to_bytes(8, "little")
        start = base + _set_of(digest) * _WAYS * size
        for at in range(start, start + _WAYS * size, size):
            if memory[at : at + 8] == wanted:
                return at
        return None

    @contextmanager
    def _locked(self, numbers: Iterable[int]) -> Iterator[None]:
        """Hold the sets of these numbers; in order, so that no two workers wait for each other."""
        held = []
        try:
            for number in sorted(set(numbers)):
                fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, number)
                held.append(number)
            yield
        finally:
            for number in held:
                fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, number)


def _set_of(digest: int) -> int:
    return digest % _SETS
