"""A copy of each request to another place (`mirror-target`, `mirror-host`, `mirror-request-body`), whose answer is dropped.

What gets past the access rules is copied, with method, query, fields and body, as ingress-nginx has nginx's mirror do it. What differs: a mirror that
is slow or gone never slows a request down (there it may), because what can't be sent at once and kept small is dropped and counted;
a target without a path gets the path of the request; and the fields about the client's connection are those that endpoints get.
"""

import asyncio
import logging
import re
from collections.abc import Callable

import msgspec

from ingress.exchange import Exchange, Field, iter_fields
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope, Tally
from ingress.middleware.sidecalls import SideCallError, SideCalls, SideTarget, target_of
from ingress.translate import access
from ingress.variables import Evaluate, Part, compile_field_value, is_constant, parse_value

_log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
UNDER_WAY_LIMIT = 64  # copies a target at a time, in each worker
BODY_LIMIT_BYTES = 1 << 20  # of one request; a longer one isn't copied
KEPT_LIMIT_BYTES = 8 << 20  # bodies of all copies of a target together
_NAMES = ("mirror-target", "mirror-host", "mirror-request-body")
# Where a path begins behind the host: nginx's variables that are one need no slash before them.
_PATH = re.compile(r"[/?]|\$\{?(?:request_uri|uri|document_uri)\b", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9\-._~:\[\]${}]{1,512}", re.ASCII)
_NOT_COPIED = frozenset((b"host", b"x-request-id", b"expect"))


class MirrorPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    tls: bool
    authority: tuple[Part, ...]
    path: tuple[Part, ...]  # empty: that of the request
    host: tuple[Part, ...]
    body: bool = True


# ---- parse -------------------------------------------------------------------------------------------------------


def parse(reader: Reader) -> MirrorPolicy | None:
    if not reader.text("mirror-target"):
        for name in _NAMES[1:]:
            if reader.text(name):
                reader.warn(name, "It has no effect without mirror-target.")
        return None
    tls, authority, path, default_host = reader.require("mirror-target", _target, (False, "", "", ""))
    host = reader.take("mirror-host", _host, default_host)
    body = reader.take("mirror-request-body", _on_off, True)
    return MirrorPolicy(tls, parse_value(authority), parse_value(path), parse_value(host), body)


def _target(text: str) -> tuple[bool, str, str, str]:
    """(TLS, authority, path with query, host). Raises ValueError."""
    scheme, separator, rest = text.partition("://")
    found = _PATH.search(rest)
    at = len(rest) if found is None else found.start()
    url = access.url(f"{scheme}{separator}{rest[:at]}/")
    path = rest[at:]
    if path and path[0] == "?":
        path = "/" + path
    if path:
        access.characters(path)
    parse_value(path)
    if is_constant(parse_value(url.authority)):
        target_of(url.authority.encode("ascii"), False)
    return url.scheme == "https", url.authority, path, url.host


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("it is not a host")
    parse_value(text)
    return text


def _on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("it is neither on nor off")
    return text == "on"


# ---- per request -------------------------------------------------------------------------------------------------


class Mirrors:
    """The copies that are under way to one target, in this worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: SideCalls) -> None:
        self._loop = loop
        self._calls = send
        self._tasks: set[asyncio.Task[None]] = set()
        self.under_way = 0
        self.kept_bytes = 0

    def send(self, copy: "Copy", body: bytes) -> None:
        """Takes over the place that `copy` holds."""
        task = self._loop.create_task(self._send(copy, body), name="mirror")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, copy: "Copy", body: bytes) -> None:
        try:
            await self._calls.send(copy.target, copy.method, copy.path, copy.fields, body, timeout_s=TIMEOUT_S)
        except SideCallError as problem:
            _log.info("a copy for a mirror failed: %s", problem)
            copy.counts.failed.value += 1
        else:
            copy.counts.answered.value += 1
        finally:
            copy.leave()


class _Counts:
    def __init__(self, scope: Scope) -> None:
        def tally(outcome: str) -> Tally:
            return scope.services.tally("aioingress_mirrored", scope.route.namespace, scope.route.ingress, outcome)

        self.answered, self.failed, self.dropped = tally("answered"), tally("failed"), tally("dropped")


class Copy:
    """One request's copy, from the moment it has a place until it leaves it. Gathers the body if that is still coming: an `Exchange.body_tap`."""

    __slots__ = ("_chunks", "_gathering", "_mirrors", "_size", "counts", "fields", "method", "path", "target")

    def __init__(
        self,
        mirrors: Mirrors,
        counts: _Counts,
        target: SideTarget,
        exchange: Exchange,
        path: bytes,
        fields: list[Field],
    ) -> None:
        self.target = target
        self.method = exchange.method
        self.path = path
        self.fields = fields
        self.counts = counts
        self._mirrors = mirrors
        self._chunks: list[bytes] = []
        self._size = 0
        self._gathering = True
        mirrors.under_way += 1

    def more(self, chunk: bytes) -> None:
        if not self._gathering:
            return
        size = len(chunk)
        if self._size + size > BODY_LIMIT_BYTES or self._mirrors.kept_bytes + size > KEPT_LIMIT_BYTES:
            self.drop()
            return
        self._chunks.append(chunk)
        self._size += size
        self._mirrors.kept_bytes += size

    def end(self) -> None:
        if self._gathering:
            self._gathering = False
            chunks, self._chunks = self._chunks, []
            self._mirrors.send(self, b"".join(chunks))

    def drop(self) -> None:
        """If it wasn't sent yet it won't be: it is too long, or the request ended before its body did."""
        if self._gathering:
            self._gathering = False
            self.counts.dropped.value += 1
            self.leave()

    def leave(self) -> None:
        self._chunks = []
        self._mirrors.under_way -= 1
        self._mirrors.kept_bytes -= self._size


def bind(policy: MirrorPolicy, scope: Scope) -> Hooks:
    services, route = scope.services, scope.route
    mirrors: Mirrors = scope.live(("mirror", policy.authority), lambda: Mirrors(services.loop, services.side_calls))
    counts = _Counts(scope)
    target_for = _target_for(policy, scope)
    host_of = compile_field_value(policy.host)
    path_of = _path_of(policy, scope)

    def copy_request(exchange: Exchange) -> None:
        with_body = policy.body and bool(exchange.body_framing)
        if mirrors.under_way >= UNDER_WAY_LIMIT or (with_body and exchange.content_length > BODY_LIMIT_BYTES):
            counts.dropped.value += 1
            return
        try:
            target = target_for(exchange)
        except ValueError:
            counts.failed.value += 1
            return
        fields = _fields(exchange, host_of(exchange, route), with_body)
        copy = Copy(mirrors, counts, target, exchange, path_of(exchange), fields)
        if with_body:
            for chunk in exchange.body or ():
                copy.more(chunk)
            if not exchange.body_complete:
                exchange.body_tap = copy
                exchange.at_end(copy.drop)
                return
        copy.end()

    return Hooks(request=copy_request)


def _target_for(policy: MirrorPolicy, scope: Scope) -> Callable[[Exchange], SideTarget]:
    """May raise ValueError, where a variable gives no host."""
    authority_of, tls, route = compile_field_value(policy.authority), policy.tls, scope.route
    if is_constant(policy.authority):
        constant = target_of("".join(part.argument for part in policy.authority).encode("ascii"), tls)
        return lambda exchange: constant
    return lambda exchange: target_of(authority_of(exchange, route), tls)


def _path_of(policy: MirrorPolicy, scope: Scope) -> Callable[[Exchange], bytes]:
    route = scope.route
    if not policy.path:
        return lambda exchange: exchange.path + exchange.query
    value_of: Evaluate = compile_field_value(policy.path)
    if not is_constant(policy.path):
        return lambda exchange: value_of(exchange, route)
    path = "".join(part.argument for part in policy.path).encode("ascii")
    if b"?" in path:
        return lambda exchange: path + b"&" + exchange.query[1:] if exchange.query else path
    return lambda exchange: path + exchange.query  # as nginx adds the arguments to a fixed URI


def _fields(exchange: Exchange, host: bytes, with_body: bool) -> list[Field]:
    fields = [(b"Host", host or exchange.authority), (b"X-Request-ID", exchange.request_id)]
    fields.append((b"X-Forwarded-Host", exchange.authority))
    for line in exchange.forwarded.split(b"\r\n"):
        name, colon, value = line.partition(b": ")
        if colon:
            fields.append((name, value))
    fields += (field for field in iter_fields(exchange.fields) if field[0].lower() not in _NOT_COPIED)
    if not with_body:
        fields = [field for field in fields if field[0].lower() not in (b"content-type", b"content-encoding")]
    return fields


SPEC = MiddlewareSpec("mirror", Phase.UPSTREAM, _NAMES, MirrorPolicy, parse, bind)
