"""Basic authentication (RFC 7617) against a Secret: `auth-type`, `auth-secret`, `auth-secret-type`, `auth-realm`.

As ingress-nginx 1.15 does it with auth_basic: 401 with a challenge, and `Authorization` doesn't reach the endpoint. Hashes that are expensive to
verify (bcrypt takes 50 ms and more) are verified in a few threads; who was let in is remembered under a keyed digest of the header as long as
the Secret stays the same, so it costs that once. Nothing here keeps a password.
"""

import asyncio
import base64
import binascii
import hashlib
import os
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor

import msgspec
from cachetools import LRUCache

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware import htpasswd
from ingress.middleware.base import Hooks, Later, MiddlewareSpec, Phase, Reader, Scope
from ingress.model import Secret
from ingress.translate.access import is_exempt, paths
from ingress.translate.features import AnnotationError

TYPE, SECRET, SECRET_TYPE, REALM = NAMES = ("auth-type", "auth-secret", "auth-secret-type", "auth-realm")
REMEMBERED = 1024  # headers, a Secret and worker: only valid ones get there
THREADS = 2
WAITING_LIMIT = (
    64  # verifications under way, a worker: a flood of wrong passwords gets 503, and costs nobody else more than this
)
_HEADER_LIMIT_BYTES = 8192
_FAULTS_SHOWN = 5
_REALM_LIMIT = 256


class BasicAuth(msgspec.Struct, frozen=True):
    """`users` are (name, hash) in the order of the file, the first of a name counts; texts are bytes decoded as latin-1."""

    realm: str
    users: tuple[tuple[str, str], ...]
    exempt: tuple[str, ...] = ()  # prefixes of rule paths that need no authentication

    def __repr__(self) -> str:
        return f"BasicAuth({self.realm!r}, {len(self.users)} users)"


# ---- parse ------------------------------------------------------------------------------------------------------------


def parse(reader: Reader) -> BasicAuth | None:
    kind = reader.text(TYPE)
    reference = reader.text(SECRET)
    if kind is None and reference is None:
        for name in (SECRET_TYPE, REALM):
            if reader.text(name) is not None:
                reader.warn(name, f"It has no effect without {TYPE} and {SECRET}.")
        return None
    if kind is None:
        raise AnnotationError(SECRET, f"{TYPE} is missing, which is to be basic")
    if kind != "basic":
        why = "digest authentication is not supported" if kind == "digest" else "it is not basic"
        raise AnnotationError(TYPE, why)
    if reference is None:
        raise AnnotationError(TYPE, f"{SECRET} is missing")
    form = reader.text(SECRET_TYPE) or "auth-file"
    if form not in ("auth-file", "auth-map"):
        raise AnnotationError(SECRET_TYPE, "it is neither auth-file nor auth-map")
    secret: Secret = reader.secret(SECRET, reference)
    users = _from_file(reader, secret) if form == "auth-file" else _from_map(reader, secret)
    exempt = paths(reader.options.access.no_auth_locations)
    return BasicAuth(reader.take(REALM, realm, ""), users, exempt)


def realm(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise ValueError("it contains a character that is not printable ASCII")
    if len(text) > _REALM_LIMIT:
        raise ValueError(f"it is longer than {_REALM_LIMIT} characters")
    return text


def _from_file(reader: Reader, secret: Secret) -> tuple[tuple[str, str], ...]:
    content = _content(secret, "auth")
    if content is None:
        raise AnnotationError(SECRET, f"Secret {_name(secret)} has no key auth")
    users: dict[str, str] = {}
    faults: list[str] = []
    lines = 0
    for number, user, hashed, fault in htpasswd.parse_file(content):
        lines += 1
        if fault:
            faults.append(f"line {number}: {fault}")
            if user:
                users.setdefault(user, "")  # nobody else gets in under that name either
        elif user in users:
            faults.append(f"line {number}: its user was named before")
        else:
            users[user] = hashed
    return _usable(reader, secret, users, faults, lines)


def _from_map(reader: Reader, secret: Secret) -> tuple[tuple[str, str], ...]:
    users: dict[str, str] = {}
    faults: list[str] = []
    keys = sorted({*(secret.data or ()), *(secret.string_data or ())})
    for key in keys:
        content = (_content(secret, key) or "").rstrip("\r\n")
        hashed = content.partition(":")[0].strip()
        fault = "it has more than one line" if "\n" in content else htpasswd.fault_of(hashed)
        users[key] = "" if fault else hashed
        if fault:
            faults.append(f"key {key[:64]}: {fault}")
    return _usable(reader, secret, users, faults, len(keys))


def _usable(
    reader: Reader, secret: Secret, users: dict[str, str], faults: list[str], entries: int
) -> tuple[tuple[str, str], ...]:
    if not entries:
        raise AnnotationError(SECRET, f"Secret {_name(secret)} names no user")
    if len(users) > htpasswd.USER_LIMIT:
        raise AnnotationError(SECRET, f"Secret {_name(secret)} names more than {htpasswd.USER_LIMIT} users")
    if faults:
        more = f", and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        reader.warn(
            SECRET,
            f"Secret {_name(secret)}: entries that can't be used let nobody in: {'; '.join(faults[:_FAULTS_SHOWN])}{more}.",
        )
    return tuple((user, hashed) for user, hashed in users.items() if hashed)


def _name(secret: Secret) -> str:
    return f"{secret.metadata.namespace}/{secret.metadata.name}"


def _content(secret: Secret, key: str) -> str | None:
    """The bytes of a key as latin-1; None: there is no such key. Raises AnnotationError."""
    if secret.string_data and key in secret.string_data:  # a manifest's; wins over data, as in the API server
        return secret.string_data[key].encode("utf-8", "replace").decode("latin-1")
    encoded = (secret.data or {}).get(key)
    if encoded is None:
        return None
    try:
        return base64.b64decode("".join(encoded.split()), validate=True).decode("latin-1")
    except (binascii.Error, ValueError):
        raise AnnotationError(SECRET, f"Secret {_name(secret)}: its key {key[:64]} is not base64") from None


# ---- per worker -------------------------------------------------------------------------------------------------------


class _Verifiers:
    """The threads of a worker. `waiting` counts what was asked for and is not done, also what nobody waits for any more."""

    __slots__ = ("__weakref__", "_threads", "waiting")

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self.waiting = 0

    def start(self, loop: asyncio.AbstractEventLoop, hashed: str, password: bytes) -> "asyncio.Future[bool]":
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self.waiting += 1
        work = loop.run_in_executor(self._threads, htpasswd.verify, hashed, password)
        work.add_done_callback(self._done)
        return work

    def _done(self, work: "asyncio.Future[bool]") -> None:
        self.waiting -= 1
        if not work.cancelled():
            work.exception()  # seen: the client may have left


class _Users:
    """The users of one version of a Secret, in one worker."""

    __slots__ = ("__weakref__", "_keyed", "admitted", "hashes", "stand_in")

    def __init__(self, users: tuple[tuple[str, str], ...]) -> None:
        self.hashes: dict[bytes, str] = {}
        for user, hashed in users:
            self.hashes.setdefault(user.encode("latin-1", "replace"), hashed)
        # Verified for users that don't exist, so that the time it takes doesn't tell them from those that do: a slow one, if there is any.
        slow = next((hashed for _, hashed in users if htpasswd.is_slow(hashed)), "")
        self.stand_in = slow or (users[0][1] if users else "{SHA}" + "A" * 27 + "=")
        self.admitted: LRUCache[bytes, bytes] = LRUCache(REMEMBERED)  # keyed digest of a header -> user
        self._keyed = hashlib.blake2b(digest_size=16, key=os.urandom(32))

    def digest(self, header: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(header)
        return keyed.digest()


def bind(policy: BasicAuth, scope: Scope) -> Hooks:
    if is_exempt(scope.route.path, policy.exempt):
        return Hooks()
    version = hashlib.sha256(msgspec.msgpack.encode(policy.users)).digest()
    users: _Users = scope.live(("basic-auth", version), lambda: _Users(policy.users))
    verifiers: _Verifiers = scope.live("basic-auth-verifiers", _Verifiers)
    loop = scope.services.loop
    admitted = users.admitted
    quoted = policy.realm.replace("\\", "\\\\").replace('"', '\\"')
    challenge = ((b"WWW-Authenticate", f'Basic realm="{quoted}"'.encode("ascii")),)

    def refuse() -> DirectResponse:
        return DirectResponse(401, challenge)

    def check(exchange: Exchange) -> DirectResponse | Awaitable[DirectResponse | None] | None:
        header = exchange.header(b"authorization")
        if header is None:
            return refuse()
        digest = users.digest(header)
        user = admitted.get(digest)
        if user is not None:
            exchange.remote_user = user
            return None
        credentials = decode(header)
        if credentials is None:
            return refuse()
        name, password = credentials
        known = users.hashes.get(name)
        hashed = users.stand_in if known is None else known
        if htpasswd.is_slow(hashed):
            if verifiers.waiting >= WAITING_LIMIT:
                return DirectResponse(503, ((b"Retry-After", b"1"),))
            work = verifiers.start(loop, hashed, password)
            return Later(verify, exchange, digest, name, known is not None, work)
        return settle(exchange, digest, name, htpasswd.verify(hashed, password) and known is not None)

    def settle(exchange: Exchange, digest: bytes, name: bytes, right: bool) -> DirectResponse | None:
        if not right:
            return refuse()
        admitted[digest] = name
        exchange.remote_user = name
        return None

    async def verify(
        exchange: Exchange, digest: bytes, name: bytes, known: bool, work: "asyncio.Future[bool]"
    ) -> DirectResponse | None:
        # Shielded: a thread can't be stopped, and must count as long as it works.
        return settle(exchange, digest, name, await asyncio.shield(work) and known)

    return Hooks(request=check, admitted=_strip)


def _strip(exchange: Exchange) -> None:
    fields = exchange.fields
    for at in range(
        len(fields) - 4, -4, -4
    ):  # in place of remove_fields: a third of its cost, for what nearly every request has
        if len(fields[at]) == 13 and fields[at].lower() == b"authorization":
            fields = fields[:at] + fields[at + 4 :]
    exchange.fields = fields


def decode(header: bytes) -> tuple[bytes, bytes] | None:
    """User and password of an Authorization field; None if it has none."""
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic" or len(header) > _HEADER_LIMIT_BYTES:
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return None
    user, colon, password = text.partition(b":")
    return (user, password) if colon else None


SPEC = MiddlewareSpec(
    "basic-auth",
    Phase.ACCESS,
    NAMES,
    BasicAuth,
    parse,
    bind,
    fails_closed=True,
    hidden=frozenset(("users",)),
)
