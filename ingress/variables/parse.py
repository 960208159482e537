"""Text with `$name` and `${name}` -> parts. What isn't a known variable is refused by name, never passed on as text."""

import enum

import msgspec


class Variable(enum.StrEnum):
    """Named as in nginx, without the dollar; those of ingress-nginx's template among them. `TEXT` is none: literal text."""

    TEXT = "text"
    CAPTURE = "capture"  # argument: 1 to 9
    HTTP = "http"  # argument: header name, lower case, with - as _
    COOKIE = "cookie"  # argument: name, lower case
    ARG = "arg"  # argument: name, lower case
    # the request
    REQUEST_URI = "request_uri"
    ESCAPED_REQUEST_URI = "escaped_request_uri"
    URI = "uri"
    ARGS = "args"
    IS_ARGS = "is_args"
    REQUEST_METHOD = "request_method"
    REQUEST_ID = "request_id"
    SERVER_PROTOCOL = "server_protocol"
    HOST = "host"
    BEST_HTTP_HOST = "best_http_host"
    SCHEME = "scheme"
    PASS_ACCESS_SCHEME = "pass_access_scheme"
    # the client and its connection
    REMOTE_ADDR = "remote_addr"
    REMOTE_USER = "remote_user"
    SERVER_PORT = "server_port"
    PASS_PORT = "pass_port"
    # the rule
    SERVER_NAME = "server_name"
    NAMESPACE = "namespace"
    INGRESS_NAME = "ingress_name"
    SERVICE_NAME = "service_name"
    SERVICE_PORT = "service_port"
    LOCATION_PATH = "location_path"
    PROXY_UPSTREAM_NAME = "proxy_upstream_name"


class Part(msgspec.Struct, frozen=True):
    variable: Variable
    argument: str = ""  # the text, or the name of the header, cookie or query argument


_WITH_ARGUMENT = (("http_", Variable.HTTP), ("cookie_", Variable.COOKIE), ("arg_", Variable.ARG))
_SYNONYMS = {
    "document_uri": Variable.URI,
    "query_string": Variable.ARGS,
    "binary_remote_addr": Variable.REMOTE_ADDR,  # the same address in other bytes
    "the_real_ip": Variable.REMOTE_ADDR,  # of ingress-nginx before 1.0
    "req_id": Variable.REQUEST_ID,
    "pass_server_port": Variable.SERVER_PORT,
    "proxy_host": Variable.PROXY_UPSTREAM_NAME,
}
_ARGUMENT_ONLY = (Variable.TEXT, Variable.CAPTURE, Variable.HTTP, Variable.COOKIE, Variable.ARG)
_PLAIN = {**{v.value: v for v in Variable if v not in _ARGUMENT_ONLY}, **_SYNONYMS}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CAPTURES = frozenset("123456789")
LENGTH_LIMIT = 2048  # characters
PARTS_LIMIT = 64  # so that what a request can blow it up to stays bounded


def parse_value(text: str) -> tuple[Part, ...]:
    """Raise ValueError with the reason as a clause, which names a variable that isn't known. Empty text has no parts.

    `$1` to `$9` are captures and, as in nginx, one digit long. nginx has no way to write a literal dollar, so there is none here.
    """
    if len(text) > LENGTH_LIMIT:
        raise ValueError(f"it is longer than {LENGTH_LIMIT} characters")
    if not text.isprintable():
        raise ValueError("it contains a control character")
    parts: list[Part] = []
    at = 0
    while at < len(text):
        dollar = text.find("$", at)
        if dollar != at:
            end = len(text) if dollar < 0 else dollar
            parts.append(Part(Variable.TEXT, text[at:end]))
            at = end
        elif text[at + 1 : at + 2] in _CAPTURES:
            parts.append(Part(Variable.CAPTURE, text[at + 1]))
            at += 2
        else:
            name, at = _name(text, at + 1)
            parts.append(_variable(name))
    if len(parts) > PARTS_LIMIT:
        raise ValueError(f"it has more than {PARTS_LIMIT} parts")
    return tuple(parts)


def is_constant(parts: tuple[Part, ...]) -> bool:
    """Whether no variable is in it."""
    return all(part.variable is Variable.TEXT for part in parts)


def _name(text: str, at: int) -> tuple[str, int]:
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


def _variable(name: str) -> Part:
    if name in _CAPTURES:
        return Part(Variable.CAPTURE, name)  # ${1}
    lower = name.lower()  # nginx looks names up without regard to case
    plain = _PLAIN.get(lower)
    if plain is not None:
        return Part(plain)
    for prefix, variable in _WITH_ARGUMENT:
        if lower.startswith(prefix) and len(lower) > len(prefix):
            return Part(variable, lower.removeprefix(prefix))
    raise ValueError(f"${name} is not a variable that can be used here")
