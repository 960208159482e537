"""Parts -> a function of the request and its rule. Compiled once, when a table is linked; a part of a value costs a call.

A variable without a value is empty, as in nginx. All values are as they came or in the path's normal form, so none can hold CR, LF or NUL that
the listener has not refused; `compile_field_value` makes sure once more, because one mistake would split a header.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from ingress.variables.parse import Part, Variable

_SEPARATOR = re.compile(rb"[;,]")
_SPLITTING = b"\r\n\0"
FIELD_LIMIT_BYTES = 16384  # of a value that goes into a header; the rest is cut off


class Subject(Protocol):
    """The request; `exchange.Exchange` is one. Bytes are as received unless said otherwise."""

    @property
    def method(self) -> bytes: ...
    @property
    def target(self) -> bytes:
        """Path and query as the client sent them."""

    @property
    def path(self) -> bytes:
        """In normal form, or what a rewrite has made of it; without query."""

    @property
    def query(self) -> bytes:
        """With its question mark; empty if there is none."""

    @property
    def authority(self) -> bytes: ...
    @property
    def host(self) -> bytes:
        """Lower case, without port."""

    @property
    def scheme(self) -> bytes: ...
    @property
    def version(self) -> int: ...
    @property
    def server_port(self) -> int: ...
    @property
    def client_address(self) -> str: ...
    @property
    def request_id(self) -> bytes: ...
    @property
    def remote_user(self) -> bytes: ...
    @property
    def captures(self) -> Sequence[bytes]:
        """Groups of the regular expression that matched last, from the first on."""

    def header(self, name: bytes) -> bytes | None:
        """The field `name` (lower case, with hyphens)."""


class RuleNames(Protocol):
    """The rule; `routing.table.Route` is one."""

    @property
    def host(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def ingress(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def port(self) -> str: ...


Evaluate = Callable[[Subject, RuleNames], bytes]


def compile_value(parts: Sequence[Part]) -> Evaluate:
    """The function from a request to the value. No parts give the empty value."""
    functions = tuple(_compile_part(part) for part in parts)
    if len(functions) == 1:
        return functions[0]
    return lambda subject, rule: b"".join([function(subject, rule) for function in functions])


def compile_field_value(parts: Sequence[Part]) -> Evaluate:
    """The same for what becomes the value of a header: without CR, LF and NUL, at most `FIELD_LIMIT_BYTES`."""
    value_of = compile_value(parts)
    if all(part.variable is Variable.TEXT for part in parts):
        constant = b"".join(part.argument.encode("utf-8", "replace") for part in parts).translate(None, _SPLITTING)
        return lambda subject, rule: constant
    return lambda subject, rule: value_of(subject, rule).translate(None, _SPLITTING)[:FIELD_LIMIT_BYTES]


def _compile_part(part: Part) -> Evaluate:
    argument = part.argument.encode("utf-8", "replace")
    match part.variable:
        case Variable.TEXT:
            return lambda subject, rule: argument
        case Variable.CAPTURE:
            position = int(argument or b"1") - 1
            return lambda subject, rule: subject.captures[position] if position < len(subject.captures) else b""
        case Variable.HTTP:
            field = argument.lower().replace(b"_", b"-")
            return lambda subject, rule: subject.header(field) or b""
        case Variable.COOKIE:
            cookie = argument.lower()
            return lambda subject, rule: cookie_value(subject.header(b"cookie") or b"", cookie)
        case Variable.ARG:
            name = argument.lower()
            return lambda subject, rule: argument_value(subject.query[1:], name)
        case Variable.REQUEST_URI:
            return lambda subject, rule: subject.target
        case Variable.ESCAPED_REQUEST_URI:
            return lambda subject, rule: escape_uri_component(subject.target)
        case Variable.URI:
            return lambda subject, rule: subject.path
        case Variable.ARGS:
            return lambda subject, rule: subject.query[1:]
        case Variable.IS_ARGS:
            return lambda subject, rule: b"?" if len(subject.query) > 1 else b""
        case Variable.REQUEST_METHOD:
            return lambda subject, rule: subject.method
        case Variable.REQUEST_ID:
            return lambda subject, rule: subject.request_id
        case Variable.SERVER_PROTOCOL:
            return lambda subject, rule: b"HTTP/%d.%d" % divmod(subject.version, 10)
        case Variable.HOST:
            return lambda subject, rule: subject.host
        case Variable.BEST_HTTP_HOST:
            return lambda subject, rule: subject.authority
        case Variable.SCHEME | Variable.PASS_ACCESS_SCHEME:
            return lambda subject, rule: subject.scheme
        case Variable.REMOTE_ADDR:
            return lambda subject, rule: subject.client_address.encode()
        case Variable.REMOTE_USER:
            return lambda subject, rule: subject.remote_user
        case Variable.SERVER_PORT | Variable.PASS_PORT:
            return lambda subject, rule: b"%d" % subject.server_port
        case Variable.SERVER_NAME:
            return lambda subject, rule: rule.host.encode() or b"_"
        case Variable.NAMESPACE:
            return lambda subject, rule: rule.namespace.encode()
        case Variable.INGRESS_NAME:
            return lambda subject, rule: rule.ingress.encode()
        case Variable.SERVICE_NAME:
            return lambda subject, rule: rule.service.encode()
        case Variable.SERVICE_PORT:
            return lambda subject, rule: rule.port.encode()
        case Variable.LOCATION_PATH:
            return lambda subject, rule: rule.path.encode("utf-8", "replace")
        case Variable.PROXY_UPSTREAM_NAME:
            return lambda subject, rule: f"{rule.namespace}-{rule.service}-{rule.port}".encode()
        case _:
            assert_never(part.variable)


_ESCAPED = {
    code: b"%%%02X" % code
    for code in range(256)
    if code not in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
}
_NEEDS_ESCAPE = re.compile(rb"[^A-Za-z0-9\-._~]")


def escape_uri_component(text: bytes) -> bytes:
    """All but letters, digits and `-._~` percent-encoded: nginx's NGX_ESCAPE_URI_COMPONENT, which set_escape_uri uses."""
    return _NEEDS_ESCAPE.sub(lambda match: _ESCAPED[match[0][0]], text)


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
    percent-decoded. `query` is without its question mark.
    """
    if not query or name not in query.lower():
        return b""
    for pair in query.split(b"&"):
        found, equals, value = pair.partition(b"=")
        if equals and found.lower() == name:
            return value
    return b""
