"""What a middleware of the cluster's admin is written against. Typed, small, and kept compatible.

    from ingress.middleware.api import Middleware, Reply, Request

    class RequireTenant(Middleware):
        name = "require-tenant"

        def on_request(self, request: Request) -> Reply | None:
            if "X-Tenant" not in request.headers:
                return Reply(400, "the header X-Tenant is missing")
            return None

An Ingress chooses it by `aioingress.io/middleware: require-tenant`; docs/middleware.md tells how it gets there, `ingress.testing` how to test it.
A hook runs in a worker, between the built-in features and the endpoint: address lists and authentication have had their say. Text is str, header
values as Latin-1 (RFC 9110 section 5.5).
"""

import re
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Protocol

from ingress.exchange import COLON, CRLF, DirectResponse, Exchange, Field, FieldPieces, ResponseHead, iter_fields

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PATH = re.compile(rb"/[!$&'()*+,\-./0-9:;=@A-Z_a-z~%]*")
_QUERY = re.compile(rb"[!$&'()*+,\-./0-9:;=@A-Z_a-z~%?\[\]{}|^`\"<>\\]*")
_HOST = re.compile(rb"[A-Za-z0-9\-._~:\[\]]+")
# Framing and what belongs to one hop: the proxy's own (RFC 9110 section 7.6.1).
_OURS = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)


class _Fields(Protocol):
    fields: FieldPieces


class Headers:
    """The header fields of a request on its way to the endpoint, or of a response on its way to the client, in order. Names compare without case.

    Raises ValueError for a name or value that can't be sent, and for fields that frame the message or belong to the connection.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: _Fields) -> None:
        self._owner = owner

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of that name."""
        wanted = name.lower().encode("latin-1", "replace")
        for found, value in iter_fields(self._owner.fields):
            if found.lower() == wanted:
                return value.decode("latin-1")
        return default

    def get_all(self, name: str) -> list[str]:
        wanted = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for found, value in iter_fields(self._owner.fields) if found.lower() == wanted]

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        """In place of all fields of that name."""
        field = field_of(name, value)
        self.remove(name)
        self._append(field)

    def add(self, name: str, value: str) -> None:
        """One more field, whether there are others of that name or not."""
        self._append(field_of(name, value))

    def remove(self, name: str) -> None:
        """All fields of that name; none is fine."""
        wanted = name.lower().encode("latin-1", "replace")
        if wanted in _OURS:
            raise ValueError(f"{name} is the proxy's own")
        kept: FieldPieces = []
        for found, value in iter_fields(self._owner.fields):
            if found.lower() != wanted:
                kept += (found, COLON, value, CRLF)
        self._owner.fields = kept

    def items(self) -> Iterator[tuple[str, str]]:
        for name, value in iter_fields(self._owner.fields):
            yield name.decode("latin-1"), value.decode("latin-1")

    def _append(self, field: Field) -> None:
        self._owner.fields = [*self._owner.fields, field[0], COLON, field[1], CRLF]

    def __repr__(self) -> str:
        return f"Headers({list(self.items())!r})"


def field_of(name: str, value: str) -> Field:
    """The field as bytes. Raises ValueError."""
    raw_name, raw_value = name.encode("utf-8", "replace"), value.encode("latin-1", "replace").strip(b" \t")
    if not _TOKEN.fullmatch(raw_name):
        raise ValueError(f"{name!r} is not the name of a header field")
    if raw_name.lower() in _OURS:
        raise ValueError(f"{name} is the proxy's own")
    if _FORBIDDEN_IN_VALUES.search(raw_value):
        raise ValueError(f"the value of {name} has a control character")
    return raw_name, raw_value


class Request:
    """A request whose route is settled. `path`, `query`, `upstream_host` and `headers` may be changed: that is what the endpoint gets."""

    __slots__ = ("_exchange", "headers")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.headers = Headers(exchange)

    @property
    def method(self) -> str:
        return self._exchange.method.decode("latin-1")

    @property
    def scheme(self) -> str:
        """`http` or `https`, as the client came (or as a trusted proxy in front says)."""
        return self._exchange.scheme.decode("latin-1")

    @property
    def host(self) -> str:
        """Lower case, without port."""
        return self._exchange.host.decode("latin-1")

    @property
    def path(self) -> str:
        """In normal form, percent-encoded, without query."""
        return self._exchange.path.decode("latin-1")

    @path.setter
    def path(self, value: str) -> None:
        raw = value.encode("utf-8", "replace")
        if not _PATH.fullmatch(raw):
            raise ValueError(f"{value!r} is not a path: / first, other characters percent-encoded")
        self._exchange.path = raw

    @property
    def query(self) -> str:
        """Without its question mark."""
        return self._exchange.query[1:].decode("latin-1")

    @query.setter
    def query(self, value: str) -> None:
        raw = value.encode("utf-8", "replace")
        if not _QUERY.fullmatch(raw):
            raise ValueError(f"{value!r} is not a query: no spaces, no #, other characters percent-encoded")
        self._exchange.query = b"?" + raw if raw else b""

    @property
    def upstream_host(self) -> str:
        """The Host that the endpoint gets."""
        return (self._exchange.upstream_authority or self._exchange.authority).decode("latin-1")

    @upstream_host.setter
    def upstream_host(self, value: str) -> None:
        raw = value.encode("utf-8", "replace")
        if not _HOST.fullmatch(raw):
            raise ValueError(f"{value!r} is not a host")
        self._exchange.upstream_authority = raw

    @property
    def client_address(self) -> str:
        """IP of the client, as settled for logs and limits."""
        return self._exchange.client_address

    @property
    def request_id(self) -> str:
        return self._exchange.request_id.decode("latin-1")

    @property
    def user(self) -> str:
        """Who authenticated (basic authentication); empty for nobody."""
        return self._exchange.remote_user.decode("latin-1")

    @property
    def namespace(self) -> str:
        """Of the Ingress that the request is routed by."""
        return str(self._exchange.route.route.namespace)

    @property
    def ingress(self) -> str:
        return str(self._exchange.route.route.ingress)

    @property
    def service(self) -> str:
        return str(self._exchange.route.route.service)

    @property
    def state(self) -> dict[str, Any]:
        """What the hooks of one request leave for each other: shared by all middlewares, so use your own name as key."""
        notes = self._exchange.notes
        if notes is None:
            notes = self._exchange.notes = {}
        found: dict[str, Any] = notes.setdefault("user", {})
        return found

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.scheme}://{self.host}{self.path}>"


class Response:
    """The head of the response: an endpoint's, or an answer of the proxy. Its body streams by and can't be seen."""

    __slots__ = ("_head", "headers")

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self.headers = Headers(head)

    @property
    def status(self) -> int:
        return self._head.status

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class Reply:
    """An answer instead of the endpoint's, or of the proxy's error page. Raises ValueError for what can't be sent."""

    __slots__ = ("body", "fields", "status")

    def __init__(
        self,
        status: int,
        body: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
        content_type: str = "text/plain; charset=utf-8",
    ) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not the status of a final response")
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        self.fields = [field_of(name, value) for name, value in (headers or {}).items()]
        if self.body and not any(name.lower() == b"content-type" for name, _ in self.fields):
            self.fields.append(field_of("Content-Type", content_type))

    def direct(self) -> DirectResponse:
        return DirectResponse(self.status, self.fields, self.body)

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"


class Middleware:
    """Base class. One instance an Ingress, configuration and worker; it lives on while tables change and its Ingress still names it.

    `config` is the text of the annotation `aioingress.io/middleware.<name>`, empty without one; raise ValueError for what can't be used: the Ingress
    gets a verdict. Override the hooks you need; the others cost nothing.

    A hook that raises, or outlasts its time budget, has failed: with `on_failure = "refuse"` the client gets 500, with `"pass"` the request goes on as if
    the hook were not there. Choose "refuse" for whatever guards something. After five failures in a row it isn't called for ten seconds, and counts as failed.

    An async hook is cut at its budget. One that isn't async can't be: it holds up every request of its worker, so keep it to microseconds.
    """

    name: ClassVar[str]
    """What Ingresses call it: lower-case letters, digits and hyphens."""
    time_budget_s: ClassVar[float] = 0.1
    on_failure: ClassVar[Literal["refuse", "pass"]] = "refuse"

    def __init__(self, config: str) -> None:
        self.config = config

    def on_request(self, request: Request) -> "Reply | Awaitable[Reply | None] | None":
        """Before an endpoint is chosen. A Reply ends the request here; None lets it go on. May be `async def`."""
        return None

    def on_response(self, request: Request, response: Response) -> None:
        """When the head of the response is known, before it is sent: an endpoint's, or an answer of the proxy or of a middleware."""

    def on_error(self, request: Request, status: int) -> Reply | None:
        """When the proxy itself can't serve the request (502, 503, 504, 413 ...). A Reply is sent in place of the error page."""
        return None
