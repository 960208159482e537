"""The key of `upstream-hash-by`: text and request variables put together, with nginx's meaning of each variable.

Compiled once per upstream; evaluated per request. A variable without a value is empty, as in nginx: requests that
lack a header that is all of the key share one endpoint.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from ingress.routing.table import HashPart, HashVariable

_SEPARATOR = re.compile(rb"[;,]")


class HashSubject(Protocol):
    """What a key can be made of. Bytes are as received unless said otherwise."""

    @property
    def method(self) -> bytes: ...
    @property
    def target(self) -> bytes:
        """Path and query as the client sent them ($request_uri)."""

    @property
    def path(self) -> bytes:
        """Normalised and percent-decoded, without query ($uri)."""

    @property
    def query(self) -> bytes:
        """Without the question mark; empty if there is none ($args)."""

    @property
    def host(self) -> bytes:
        """Lower case, without port ($host)."""

    @property
    def client_address(self) -> str: ...

    def header(self, name: bytes) -> bytes | None:
        """The field `name` (lower case, with hyphens); repeated fields as one, joined with `, ` (Cookie: `; `)."""


Evaluate = Callable[[HashSubject], bytes]


def compile_hash_key(parts: Sequence[HashPart]) -> Evaluate:
    """The function from a request to its key. No parts give the empty key."""
    functions = tuple(_compile_part(part) for part in parts)
    if len(functions) == 1:
        return functions[0]
    return lambda subject: b"".join([function(subject) for function in functions])


def _compile_part(part: HashPart) -> Evaluate:
    argument = part.argument.encode("utf-8", "replace")
    match part.variable:
        case HashVariable.TEXT:
            return lambda subject: argument
        case HashVariable.REQUEST_URI:
            return lambda subject: subject.target
        case HashVariable.URI:
            return lambda subject: subject.path
        case HashVariable.HOST:
            return lambda subject: subject.host
        case HashVariable.REMOTE_ADDR:
            return lambda subject: subject.client_address.encode()
        case HashVariable.REQUEST_METHOD:
            return lambda subject: subject.method
        case HashVariable.ARGS:
            return lambda subject: subject.query
        case HashVariable.HTTP:
            field = argument.lower().replace(b"_", b"-")
            return lambda subject: subject.header(field) or b""
        case HashVariable.COOKIE:
            cookie = argument.lower()
            return lambda subject: cookie_value(subject.header(b"cookie") or b"", cookie)
        case HashVariable.ARG:
            name = argument.lower()
            return lambda subject: argument_value(subject.query, name)
        case _:
            assert_never(part.variable)


def cookie_value(header: bytes, name: bytes) -> bytes:
    """nginx's `$cookie_name`: `name` is lower case and compared without case; the value reaches to the next `;`, as
    it stands.

    Quotes are part of it. A comma ends a pair that isn't the one looked for, which keeps joined fields apart.
    """
    lowered = header.lower()
    if name not in lowered:
        return b""
    start = 0
    while True:
        if lowered.startswith(name, start):
            after = _past_spaces(header, start + len(name))
            if header.startswith(b"=", after):
                begin = _past_spaces(header, after + 1)
                end = header.find(b";", begin)
                return header[begin:] if end < 0 else header[begin:end]
        separator = _SEPARATOR.search(header, start)
        if separator is None:
            return b""
        start = _past_spaces(header, separator.end())


def _past_spaces(text: bytes, position: int) -> int:
    while text.startswith(b" ", position):
        position += 1
    return position


def argument_value(query: bytes, name: bytes) -> bytes:
    """nginx's `$arg_name`: `name` is lower case and compared without case; the first that has a `=`; not
    percent-decoded.
    """
    if not query or name not in query.lower():
        return b""
    for pair in query.split(b"&"):
        found, equals, value = pair.partition(b"=")
        if equals and found.lower() == name:
            return value
    return b""
