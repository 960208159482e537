"""`upstream-hash-by`: text with nginx variables, taken apart into what the data plane evaluates per request."""

from ingress.variables import Part, parse_value

_LIMIT = 1024


def parse_hash_key(text: str) -> tuple[Part, ...]:
    """Raise ValueError with the reason as a clause. `$name` and `${name}` are variables, all else is literal text."""
    if not text:
        raise ValueError("it is empty")
    if len(text) > _LIMIT:
        raise ValueError(f"it is longer than {_LIMIT} characters")
    return parse_value(text)
