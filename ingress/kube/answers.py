"""What the API server answers, as far as a reader needs it."""

from typing import TypeVar

import msgspec

from ingress.kube.api import Unavailable

T = TypeVar("T")


def decode_answer(raw: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Raise Unavailable for what doesn't have the shape of `kind`: something else than an API server answered."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"the API server's answer can't be read: {error}") from error
