"""External authentication: a sub-request to `auth-url` decides (the options `global-auth-*` where an Ingress names none).

As ingress-nginx 1.15 with nginx's auth_request: 2xx lets the request in; 401 and 403 are passed on, a 401 as a redirect to `auth-signin` where there is one;
anything else, no answer included, is 500. `auth-response-headers` go to the endpoint from the service's answer and nowhere else: what the client sent under
those names never arrives. Differences are in docs/authentication.md.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ingress.exchange import (
    COLON,
    CRLF,
    DirectResponse,
    Exchange,
    Field,
    ResponseHead,
    field_pieces,
    iter_fields,
    without_fields,
)
from ingress.middleware.auth_cache import Answer, AnswerCache, lifetime_s
from ingress.middleware.auth_rules import NAMES, ExternalAuth, by_option, parse
from ingress.middleware.base import Hooks, Later, MiddlewareSpec, Phase, Scope
from ingress.middleware.sidecalls import SideCallError, SideResponse, SideTarget, target_of
from ingress.translate.access import is_exempt
from ingress.variables import Part, Variable, compile_field_value, compile_value, is_constant

_log = logging.getLogger(__name__)

TIMEOUT_S = 60.0  # nginx's, since the location of ingress-nginx sets none
_NOTE = "external-auth"
# Statuses with which nginx's add_header adds a field, so those whose answers get the service's cookies.
_COOKIE_STATUSES = frozenset((200, 201, 204, 206, 301, 302, 303, 304, 307, 308))
_SPLITTING = b"\r\n\0"
# Set for the sub-request, or not to be sent with it; the client's own never pass.
_OWN = frozenset(
    (
        b"content-length",
        b"host",
        b"x-auth-request-redirect",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-original-method",
        b"x-original-uri",
        b"x-original-url",
        b"x-real-ip",
        b"x-request-id",
        b"x-scheme",
        b"x-sent-from",
    )
)


def bind(policy: ExternalAuth, scope: Scope) -> Hooks:
    if is_exempt(scope.route.path, policy.exempt):
        return Hooks()
    request = _Request(policy, scope)
    names = tuple(name.encode("ascii") for name in policy.response_headers)
    always = policy.always_set_cookie
    send = scope.services.side_calls.send
    cached = _Cached(policy, scope) if policy.cache_key else None

    def check(exchange: Exchange) -> DirectResponse | Awaitable[DirectResponse | None] | None:
        key = b""
        if cached is not None:
            key = cached.key(exchange)
            if key:
                answer = cached.cache.find(key, exchange)
                if answer is not None:
                    return judge(exchange, answer)
        return Later(ask, exchange, key)

    async def ask(exchange: Exchange, key: bytes) -> DirectResponse | None:
        try:
            target, path, fields = request.of(exchange)
            response = await send(target, request.method, path, fields, timeout_s=TIMEOUT_S)
        except (SideCallError, ValueError) as problem:
            _log.info("external authentication for %s failed: %s", scope.route.id, problem)
            return DirectResponse(500)
        answer = _answer(response, names)
        if key and cached is not None:
            cached.keep(key, exchange, answer, response)
        return judge(exchange, answer)

    def judge(exchange: Exchange, answer: Answer) -> DirectResponse | None:
        notes = exchange.notes
        if notes is None:
            notes = exchange.notes = {}
        notes[_NOTE] = answer
        status = answer.status
        if 200 <= status < 300:
            return None
        if status == 401:
            return DirectResponse(401, [(b"WWW-Authenticate", value) for value in answer.challenges])
        if status == 403:
            return DirectResponse(403)
        _log.info("external authentication for %s answered %d", scope.route.id, status)
        return DirectResponse(500)

    lower = frozenset(name.lower() for name in names)

    def admitted(exchange: Exchange) -> None:
        fields = exchange.fields
        if not lower.isdisjoint([name.lower() for name in fields[::4]]):
            fields = without_fields(fields, lower)
        answer: Answer | None = exchange.notes.get(_NOTE) if exchange.notes is not None else None
        if answer is not None and 200 <= answer.status < 300:
            fields = fields.copy()
            for name, value in zip(names, answer.headers, strict=True):
                if value:
                    fields += (name, COLON, value, CRLF)
        exchange.fields = fields

    def cookies(exchange: Exchange, head: ResponseHead) -> None:
        answer: Answer | None = exchange.notes.get(_NOTE) if exchange.notes is not None else None
        if answer is not None and answer.cookies and (always or head.status in _COOKIE_STATUSES):
            head.fields = head.fields + field_pieces((b"Set-Cookie", value) for value in answer.cookies)

    return Hooks(
        request=check,
        response=cookies,
        admitted=admitted if names else None,
        challenge=_sign_in(policy, scope) if policy.signin else None,
    )


def _sign_in(policy: ExternalAuth, scope: Scope) -> Callable[[Exchange, DirectResponse], DirectResponse]:
    location_of = compile_field_value(policy.signin)

    def challenge(exchange: Exchange, response: DirectResponse) -> DirectResponse:
        location = location_of(exchange, scope.route)
        return DirectResponse(302, ((b"Location", location),), b"") if location else response

    return challenge


def _answer(response: SideResponse, names: tuple[bytes, ...]) -> Answer:
    headers: list[bytes | None] = []
    for name in names:
        values = response.values(name.lower())
        headers.append(b", ".join(values).translate(None, _SPLITTING) if values else None)
    return Answer(
        response.status,
        tuple(response.values(b"www-authenticate")),
        tuple(response.values(b"set-cookie")),
        tuple(headers),
    )


class _Request:
    """The sub-request of a policy, but for what depends on the exchange."""

    __slots__ = (
        "_authority",
        "_constant",
        "_dropped",
        "_host",
        "_path",
        "_redirect",
        "_route",
        "_set",
        "_tls",
        "method",
    )

    def __init__(self, policy: ExternalAuth, scope: Scope) -> None:
        self._route = scope.route
        self._tls = policy.tls
        self._authority = compile_field_value(policy.authority)
        self._host = compile_field_value(policy.host)
        self._path = compile_field_value(policy.path)
        self._redirect = compile_field_value(policy.request_redirect) if policy.request_redirect else None
        self._set = tuple((name.encode("ascii"), compile_field_value(parts)) for name, parts in policy.set_headers)
        self._dropped = _OWN | {name.lower() for name, _ in self._set}
        self.method = (policy.method or "GET").encode("ascii")
        self._constant: SideTarget | None = None
        if is_constant(policy.authority):
            self._constant = target_of("".join(part.argument for part in policy.authority).encode("ascii"), self._tls)

    def of(self, exchange: Exchange) -> tuple[SideTarget, bytes, list[Field]]:
        """Raises ValueError where variables give no host."""
        route = self._route
        target = self._constant or target_of(self._authority(exchange, route), self._tls)
        uri = exchange.path + exchange.query  # what the endpoint will get: the service must not judge another path
        address = exchange.client_address.encode("ascii", "replace")
        fields = [
            (b"Host", self._host(exchange, route)),
            (b"X-Request-ID", exchange.request_id),
            (b"X-Original-URL", b"%b://%b%b" % (exchange.scheme, exchange.authority, uri)),
            (b"X-Original-Method", exchange.method),
            (b"X-Original-URI", uri),
            (b"X-Scheme", exchange.scheme),
            (b"X-Sent-From", b"nginx-ingress-controller"),  # services look for it
            (b"X-Real-IP", address),
            (b"X-Forwarded-For", _forwarded_for(exchange.forwarded) or address),
            (b"X-Auth-Request-Redirect", uri if self._redirect is None else self._redirect(exchange, route)),
        ]
        if self._set:
            wanted = {name.lower() for name, _ in self._set}
            fields = [field for field in fields if field[0].lower() not in wanted]
            fields += ((name, value_of(exchange, route)) for name, value_of in self._set)
        fields = [field for field in fields if field[1]]  # an empty value means no field, as with proxy_set_header
        dropped = self._dropped
        fields += (field for field in iter_fields(exchange.fields) if field[0].lower() not in dropped)
        return target, self._path(exchange, route), fields


def _forwarded_for(block: bytes) -> bytes:
    """The value for X-Forwarded-For that the endpoint gets."""
    _, _, rest = block.partition(b"\r\nX-Forwarded-For: ")
    return rest.partition(b"\r\n")[0]


class _Cached:
    """The cache as one location with one policy sees it."""

    __slots__ = ("_constant", "_durations", "_key_of", "_route", "_scope", "_texts", "_wall_clock", "cache")

    def __init__(self, policy: ExternalAuth, scope: Scope) -> None:
        services = scope.services
        self.cache: AnswerCache = scope.live("external-auth-answers", lambda: AnswerCache(services.clock))
        self._wall_clock = services.wall_clock
        self._durations = policy.cache_durations
        self._route = scope.route
        self._constant = is_constant(policy.cache_key)
        # Nobody has verified $remote_user here: who claims to be somebody is told apart by the whole claim, password included.
        parts = tuple(
            Part(Variable.HTTP, "authorization") if part.variable is Variable.REMOTE_USER else part
            for part in policy.cache_key
        )
        self._key_of = compile_value(parts)
        self._texts = sum(len(part.argument.encode()) for part in parts if part.variable is Variable.TEXT)
        route = scope.route
        self._scope = hashlib.sha256(msgspec.msgpack.encode((route.host, route.path, route.path_type, policy))).digest()

    def key(self, exchange: Exchange) -> bytes:
        """Empty where no variable of it has a value: who shows nothing must not share an answer with who shows something else."""
        text = self._key_of(exchange, self._route)
        if not self._constant and len(text) <= self._texts:
            return b""
        return self.cache.key(self._scope, text)

    def keep(self, key: bytes, exchange: Exchange, answer: Answer, response: SideResponse) -> None:
        seconds = lifetime_s(response, self._durations, self._wall_clock())
        if seconds > 0:
            self.cache.keep(key, exchange, answer, response, seconds)


SPEC: MiddlewareSpec[Any] = MiddlewareSpec(
    "external-auth",
    Phase.ACCESS,
    NAMES,
    ExternalAuth,
    parse,
    bind,
    fails_closed=True,
    by_option=by_option,
    hidden=frozenset(("set_headers",)),
)
