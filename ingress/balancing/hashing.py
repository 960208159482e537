"""The one hash that decides which endpoint a key belongs to."""

from hashlib import blake2b


def hash64(data: bytes) -> int:
    """A uniform 64-bit hash, the same in every worker, replica and release (Python's own `hash` is salted per process).

    Changing it moves every session of every hashed upstream while replicas of two releases run side by side.
    About 0.45 µs for an address; zlib.crc32 would save 0.3 µs, but keys with equal tails then share their low bits.
    """
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
