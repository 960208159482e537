"""Cross-origin resource sharing (`enable-cors`, `cors-*`), as the template of ingress-nginx 1.15 builds it.

A request whose Origin is allowed gets the Access-Control fields on its response, in place of those of the endpoint, whatever the method and
the status; an OPTIONS request from such an origin is answered with 204 and never reaches an endpoint. With `*` both hold for every request, also
without Origin. What differs: origins are compared as a whole (nginx's expression isn't anchored at its beginning), a list in which no origin is
usable allows nobody (there: everybody), `Vary: Origin` is sent where the answer depends on it, and a 204 has no Content-Length
(RFC 9110 section 8.6).
"""

import re
from collections.abc import Callable

import msgspec

from ingress.exchange import DirectResponse, Exchange, ResponseHead
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.middleware.fields import add_vary
from ingress.translate.annotations import values

_METHODS = "GET, PUT, POST, DELETE, PATCH, OPTIONS"
_HEADERS = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization"
_MAX_AGE_S = 1728000
_LIMIT = 4096  # characters of a list

_ORIGIN = re.compile(r"[a-z]+://(?:\*\.)?[A-Za-z0-9\-.]*(?::[0-9]+)?|null", re.ASCII)
_METHOD_LIST = re.compile(r"[A-Za-z][A-Za-z, ]*", re.ASCII)
_HEADER_LIST = re.compile(r"[A-Za-z0-9\-_, ]+", re.ASCII)
_EXPOSE_LIST = re.compile(r"[A-Za-z0-9\-_*][A-Za-z0-9\-_*, ]*", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_LABEL = re.compile(rb"[a-z0-9\-]+")


class CORSPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """`origins`: lower case; empty for any (`*`)."""

    origins: tuple[str, ...] = ()
    methods: str = _METHODS
    headers: str = _HEADERS
    credentials: bool = True
    expose: str = ""
    max_age_s: int = _MAX_AGE_S


ANNOTATIONS = (
    "enable-cors",
    "cors-allow-origin",
    "cors-allow-methods",
    "cors-allow-headers",
    "cors-allow-credentials",
    "cors-expose-headers",
    "cors-max-age",
)


def parse(reader: Reader) -> CORSPolicy | None:
    if not reader.take("enable-cors", values.boolean, False):
        for name in ANNOTATIONS[1:]:
            if reader.text(name) is not None:
                reader.warn(name, 'It has no effect without enable-cors: "true".')
        return None
    origins = _origins(reader)
    policy = CORSPolicy(
        origins or (),
        reader.take("cors-allow-methods", _list(_METHOD_LIST), _METHODS),
        reader.take("cors-allow-headers", _list(_HEADER_LIST), _HEADERS),
        reader.take("cors-allow-credentials", values.boolean, True),
        reader.take("cors-expose-headers", _list(_EXPOSE_LIST), ""),
        reader.take("cors-max-age", _seconds, _MAX_AGE_S),
    )
    return policy if origins is not None else None


def _origins(reader: Reader) -> tuple[str, ...] | None:
    """Empty: all. None: nobody, because none of the list is usable."""
    name = "cors-allow-origin"
    text = reader.text(name)
    if not text:
        return ()
    items = [item for item in (item.strip() for item in text.split(",")) if item]
    if "*" in items:
        return ()
    good = []
    for item in items:
        if _ORIGIN.fullmatch(item):
            good.append(item.lower())
        else:
            reader.warn(
                name,
                f"{_shown(item)} is left out: it is no origin (scheme://host[:port], with *. for one label, or null).",
            )
    if not good:
        if items:
            reader.warn(name, "None of its origins can be used: no origin is allowed.")
        return None if items else ()
    return tuple(dict.fromkeys(good))


def _shown(text: str) -> str:
    return text[:60].encode("unicode_escape").decode("ascii")


def _list(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def parse_list(text: str) -> str:
        if len(text) > _LIMIT:
            raise ValueError(f"it is longer than {_LIMIT} characters")
        if not pattern.fullmatch(text):
            raise ValueError("it is not a list of names, separated by commas")
        return text

    return parse_list


def _seconds(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError("it is not a whole number of at most nine digits")
    return int(text)


def origin_matcher(origins: tuple[str, ...]) -> Callable[[bytes], bool]:
    """Whether an Origin, as the client wrote it, is one of `origins`. `*.` stands for exactly one label."""
    exact = frozenset(origin.encode("ascii") for origin in origins if "*." not in origin)
    wild = []
    for origin in origins:
        before, star, after = origin.partition("*.")
        if star:
            wild.append((before.encode("ascii"), b"." + after.encode("ascii")))

    def matches(origin: bytes) -> bool:
        origin = origin.lower()
        if origin in exact:
            return True
        for before, after in wild:
            if (
                len(origin) > len(before) + len(after)
                and origin.startswith(before)
                and origin.endswith(after)
                and _LABEL.fullmatch(origin, len(before), len(origin) - len(after))
            ):
                return True
        return False

    return matches


def bind(policy: CORSPolicy, scope: Scope) -> Hooks:
    fields = [(b"Access-Control-Allow-Credentials", b"true")] if policy.credentials else []
    fields.append((b"Access-Control-Allow-Methods", policy.methods.encode("ascii")))
    fields.append((b"Access-Control-Allow-Headers", policy.headers.encode("ascii")))
    if policy.expose:
        fields.append((b"Access-Control-Expose-Headers", policy.expose.encode("ascii")))
    fields.append((b"Access-Control-Max-Age", b"%d" % policy.max_age_s))
    names = (b"Access-Control-Allow-Origin", *(name for name, _ in fields))
    matches = origin_matcher(policy.origins) if policy.origins else None

    def allowed(exchange: Exchange) -> bytes | None:
        """What Access-Control-Allow-Origin is to be; None: nothing."""
        if matches is None:
            return b"*"
        origin = exchange.header(b"origin")
        return origin if origin is not None and matches(origin) else None

    def answer_preflight(exchange: Exchange) -> DirectResponse | None:
        if exchange.method == b"OPTIONS" and allowed(exchange) is not None:
            return DirectResponse(204, (), b"")
        return None

    def allow_origin(exchange: Exchange, head: ResponseHead) -> None:
        origin = allowed(exchange)
        if origin is not None:
            head.remove(*names)
            head.add(b"Access-Control-Allow-Origin", origin)
            for name, value in fields:
                head.add(name, value)
        if matches is not None:
            add_vary(head, b"Origin")

    return Hooks(request=answer_preflight, response=allow_origin)


SPEC = MiddlewareSpec("cors", Phase.REDIRECT, ANNOTATIONS, CORSPolicy, parse, bind)
