"""What is asked of external authentication: annotations `auth-*` and options `global-auth-*` -> `ExternalAuth`."""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qs

import msgspec

from ingress.middleware.base import Reader
from ingress.middleware.sidecalls import target_of
from ingress.translate import access
from ingress.translate.annotations import values
from ingress.translate.features import AnnotationError, OptionError
from ingress.translate.options import Options
from ingress.translate.options.model import GlobalAuth
from ingress.variables import Part, is_constant, parse_value

T = TypeVar("T")
Parts = tuple[Part, ...]

URL, GLOBAL, SNIPPET = "auth-url", "enable-global-auth", "auth-snippet"
_DETAILS = (
    "auth-method",
    "auth-signin",
    "auth-signin-redirect-param",
    "auth-response-headers",
    "auth-proxy-set-headers",
    "auth-request-redirect",
    "auth-always-set-cookie",
    "auth-cache-key",
    "auth-cache-duration",
)
# Connections are always kept and shared here; these are read so that a value that nginx would refuse is told.
_KEEPALIVE = ("auth-keepalive", "auth-keepalive-requests", "auth-keepalive-timeout", "auth-keepalive-share-vars")
NAMES = (URL, GLOBAL, SNIPPET, *_DETAILS, *_KEEPALIVE)
DEFAULT_REDIRECT_PARAM = "rd"
_ORIGINAL = "$pass_access_scheme://$http_host$escaped_request_uri"


class ExternalAuth(msgspec.Struct, frozen=True):
    """`authority` is where to connect to, `host` what Host says. Empty `signin`: a 401 stays one. Empty `cache_key`: nothing is cached."""

    tls: bool
    authority: Parts
    host: Parts
    path: Parts
    method: str = ""
    signin: Parts = ()  # the redirect parameter included
    response_headers: tuple[str, ...] = ()
    set_headers: tuple[tuple[str, Parts], ...] = ()  # on the sub-request
    request_redirect: Parts = ()  # of X-Auth-Request-Redirect; empty: the URI of the request
    always_set_cookie: bool = False
    cache_key: Parts = ()
    cache_durations: tuple[tuple[int, float], ...] = ()
    exempt: tuple[str, ...] = ()  # prefixes of rule paths that need no authentication


def by_option(options: Options) -> bool:
    return bool(options.access.global_auth.url)


def parse(reader: Reader) -> ExternalAuth | None:
    options: Options = reader.options
    wanted = reader.take(GLOBAL, values.boolean, True)
    if reader.text(SNIPPET) is not None:
        raise AnnotationError(
            SNIPPET, "snippets of nginx configuration are not run, and the authentication depends on it"
        )
    _keepalive(reader)
    details = [name for name in _DETAILS if reader.text(name) is not None]
    exempt = access.paths(options.access.no_auth_locations)
    if reader.text(URL) is not None:
        return _of_annotations(reader, exempt)
    if options.access.global_auth.url and wanted:
        for name in details:
            reader.warn(
                name, f"It has no effect without {URL}: the global authentication is in force as the options say."
            )
        return _of_options(options.access.global_auth, exempt)
    if details:
        raise AnnotationError(details[0], f"{URL} is missing")
    return None


def _of_annotations(reader: Reader, exempt: tuple[str, ...]) -> ExternalAuth:
    url = reader.require(URL, _url, _NO_URL)
    param = reader.take("auth-signin-redirect-param", access.redirect_param, DEFAULT_REDIRECT_PARAM)
    nothing: Parts = ()
    key = reader.take("auth-cache-key", _parts, nothing)
    if key and is_constant(key):
        reader.warn(
            "auth-cache-key", "It names no variable: all users of a path get the answer that the first one got."
        )
    return ExternalAuth(
        url[0],
        url[1],
        url[2],
        url[3],
        method=reader.require("auth-method", access.method, ""),
        signin=reader.take("auth-signin", lambda text: signin(text, param), nothing),
        response_headers=reader.require("auth-response-headers", access.header_names, ()),
        set_headers=_set_headers(reader),
        request_redirect=reader.take("auth-request-redirect", _header, nothing),
        always_set_cookie=reader.take("auth-always-set-cookie", values.boolean, False),
        cache_key=key,
        cache_durations=reader.require(
            "auth-cache-duration", access.cache_durations, access.DEFAULT_CACHE_DURATIONS if key else ()
        ),
        exempt=exempt,
    )


def _of_options(texts: GlobalAuth, exempt: tuple[str, ...]) -> ExternalAuth:
    if texts.snippet:
        raise OptionError("global-auth-snippet", "snippets of nginx configuration are not run")
    url = _option("url", texts.url, _url, _NO_URL)
    param = _option("signin-redirect-param", texts.signin_redirect_param, access.redirect_param, DEFAULT_REDIRECT_PARAM)
    nothing: Parts = ()
    key = _option("cache-key", texts.cache_key, _parts, nothing)
    return ExternalAuth(
        url[0],
        url[1],
        url[2],
        url[3],
        method=_option("method", texts.method, access.method, ""),
        signin=_option("signin", texts.signin, lambda text: signin(text, param), nothing),
        response_headers=_option("response-headers", texts.response_headers, access.header_names, ()),
        request_redirect=_option("request-redirect", texts.request_redirect, _header, nothing),
        always_set_cookie=_option("always-set-cookie", texts.always_set_cookie, values.boolean, False),
        cache_key=key,
        cache_durations=_option(
            "cache-duration",
            texts.cache_duration,
            access.cache_durations,
            access.DEFAULT_CACHE_DURATIONS if key else (),
        ),
        exempt=exempt,
    )


def _option(name: str, text: str, read: Callable[[str], T], default: T) -> T:
    if not text:
        return default
    try:
        return read(text)
    except ValueError as e:
        raise OptionError(f"global-auth-{name}", str(e)) from e


_NO_URL: tuple[bool, Parts, Parts, Parts] = (False, (), (), ())


def _url(text: str) -> tuple[bool, Parts, Parts, Parts]:
    """TLS, authority, host and path."""
    url = access.url(text)
    authority = parse_value(url.authority)
    if is_constant(authority):
        target_of(url.authority.encode("ascii"), False)  # what a worker will have to make of it
    return url.scheme == "https", authority, parse_value(url.host), parse_value(url.path)


def _parts(text: str) -> Parts:
    return parse_value(text)


def _header(text: str) -> Parts:
    return parse_value(access.header_text(text))


def signin(text: str, param: str) -> Parts:
    """The redirect parameter is added, unless the URL has it with a value."""
    url = access.signin(text)
    _, mark, query = url.partition("?")
    if parse_qs(query, max_num_fields=100).get(param):
        return parse_value(url)
    separator = "&" if query else "" if mark else "?"
    return parse_value(f"{url}{separator}{param}={_ORIGINAL}")


def _set_headers(reader: Reader) -> tuple[tuple[str, Parts], ...]:
    name = "auth-proxy-set-headers"
    reference = reader.text(name)
    if reference is None:
        return ()
    found: list[tuple[str, Parts]] = []
    for header, value in sorted((reader.config_map(name, reference).data or {}).items()):
        try:
            found.append((access.header_name(header), _header(value.strip())))
        except ValueError as e:
            raise AnnotationError(name, f"ConfigMap {reference}, key {header[:60]}: {e}") from e
    return tuple(found)


def _keepalive(reader: Reader) -> None:
    for name in _KEEPALIVE[:3]:
        reader.take(name, _count, 0)
    reader.take(_KEEPALIVE[3], values.boolean, False)


def _count(text: str) -> int:
    return values.count(text)
