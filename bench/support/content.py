"""Bodies that both ends make up from a seed, so that a digest can be checked without keeping the body."""

import hashlib
import random
from collections.abc import Iterator

BLOCK_BYTES = 64 * 1024


def blocks(seed: int, size: int) -> Iterator[bytes]:
    """`size` bytes; each block starts with its offset, so that a lost, doubled or swapped one changes the digest."""
    base = random.Random(seed).randbytes(BLOCK_BYTES)
    for index in range(0, size, BLOCK_BYTES):
        yield (index.to_bytes(8, "big") + base[8:])[: size - index]


def digest(seed: int, size: int) -> str:
    """SHA-256, hexadecimal."""
    sha = hashlib.sha256()
    for block in blocks(seed, size):
        sha.update(block)
    return sha.hexdigest()
