"""`upstream-hash-by`: text with nginx variables, taken apart into what the data plane evaluates per request."""

from ingress.routing.table import HashPart, HashVariable

_PLAIN = {
    "request_uri": HashVariable.REQUEST_URI,
    "uri": HashVariable.URI,
    "document_uri": HashVariable.URI,
    "host": HashVariable.HOST,
    "remote_addr": HashVariable.REMOTE_ADDR,
    "binary_remote_addr": HashVariable.REMOTE_ADDR,  # the same key in other bytes
    "request_method": HashVariable.REQUEST_METHOD,
    "args": HashVariable.ARGS,
    "query_string": HashVariable.ARGS,
}
# nginx looks up all three without regard to case, so lower case loses nothing.
_WITH_ARGUMENT = (("http_", HashVariable.HTTP), ("cookie_", HashVariable.COOKIE), ("arg_", HashVariable.ARG))
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_LIMIT = 1024


def parse_hash_key(text: str) -> tuple[HashPart, ...]:
    """Raise ValueError with the reason as a clause. `$name` and `${name}` are variables, all else is literal text."""
    if not text:
        raise ValueError("it is empty")
    if len(text) > _LIMIT:
        raise ValueError(f"it is longer than {_LIMIT} characters")
    if not text.isprintable():
        raise ValueError("it contains a control character")
    parts: list[HashPart] = []
    at = 0
    while at < len(text):
        dollar = text.find("$", at)
        if dollar != at:
            end = len(text) if dollar < 0 else dollar
            parts.append(HashPart(HashVariable.TEXT, text[at:end]))
            at = end
            continue
        name, at = _variable_name(text, dollar + 1)
        parts.append(_variable(name))
    return tuple(parts)


def _variable_name(text: str, at: int) -> tuple[str, int]:
    """The name that starts at `at`, behind the `$`, and where the text goes on."""
    braced = text.startswith("{", at)
    start = end = at + braced
    while end < len(text) and text[end] in _NAME:
        end += 1
    if braced and not text.startswith("}", end):
        raise ValueError("a ${ has no matching }")
    if start == end:
        raise ValueError("a $ is not followed by the name of a variable")
    return text[start:end], end + braced


def _variable(name: str) -> HashPart:
    lower = name.lower()
    plain = _PLAIN.get(lower)
    if plain is not None:
        return HashPart(plain)
    for prefix, variable in _WITH_ARGUMENT:
        if lower.startswith(prefix) and len(lower) > len(prefix):
            return HashPart(variable, lower.removeprefix(prefix))
    raise ValueError(f"${name} is not a variable that can be used here")
