"""The id of a table: a digest of its content that costs little to keep up to date and doesn't depend on any order."""

import hashlib

import msgspec

from ingress.config import ProxySettings
from ingress.translate.bag import SortedBag

_SIZE = 16
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def part_digest(label: bytes, part: msgspec.Struct | ProxySettings | str) -> bytes:
    """Digest of one struct or text of a table; `label` (at most 16 bytes) tells apart parts that could have the same encoding."""
    return hashlib.blake2b(_encoder.encode(part), digest_size=_SIZE, person=label).digest()


class TableDigest:
    """Digest over the digests of all parts.

    They are kept sorted and hashed as a whole: adding or XORing them would be O(1), but whoever may write many objects could then
    construct two tables with one id. At 12,000 parts an update copies and hashes 192 kB, well below a millisecond.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: SortedBag[bytes] = SortedBag()

    def replace(self, old: bytes | None, new: bytes | None) -> None:
        """None: there was no such part, or there is none any more."""
        if old is not None:
            self._parts.remove(old)
        if new is not None:
            self._parts.add(new)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return hashlib.blake2b(b"".join(self._parts.items()), digest_size=_SIZE).hexdigest()
