"""What endpoints say about where they live, rewritten for clients: `proxy-cookie-domain`, `proxy-cookie-path`, `proxy-redirect-from`, `-to`.

Semantics of nginx's directives of those names. A rule is `off`, or what to look for and what to put there:

- cookie domain: the whole attribute, without regard to case and to a dot before either;
- cookie path and redirect: the beginning of the attribute, or of the URL in Location and Refresh;
- `~pattern` (`~*pattern` without regard to case; domains always): a regular expression, found anywhere in the text, all of which is then
  replaced. Replacements may name its groups, `$1` to `$9`. Patterns are RE2: linear in the text, whatever is in it.

Replacements may have variables. Only responses of endpoints are touched. `proxy-redirect-from: default` does nothing, as in ingress-nginx, whose
upstream has a name that no endpoint can know.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from ingress.exchange import COLON, CRLF, Exchange, FieldPieces, ResponseHead, iter_fields
from ingress.expressions import compile_expression
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.variables import Part, RuleNames, Variable, compile_field_value, parse_value

_LIMIT = 1024
_COOKIE_LIMIT = 65536  # a Set-Cookie beyond it passes as it is
_REFRESH = re.compile(rb"\A[^;,]*[;,]\s*url=(['\"]?)", re.IGNORECASE)


class Rewrite(msgspec.Struct, frozen=True):
    """`find`: text, or a pattern behind `~` or `~*`."""

    find: str
    replacement: tuple[Part, ...]


class RewritingPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    cookie_domain: Rewrite | None = None
    cookie_path: Rewrite | None = None
    redirect: Rewrite | None = None


# ---- parse -------------------------------------------------------------------------------------------------------


def _compile(pattern: str, ignore_case: bool) -> Any:
    try:
        return compile_expression(pattern, ignore_case=ignore_case)
    except ValueError as problem:
        raise ValueError(f"its pattern is not a regular expression of RE2: {problem}") from None


def _pattern(find: str, ignore_case: bool) -> Any:
    """None for literal text."""
    if not find.startswith("~"):
        return None
    if find.startswith("~*"):
        return _compile(find[2:], True)
    return _compile(find[1:], ignore_case)


def _rewrite(find: str, replacement: str, forbidden: str, ignore_case: bool = False) -> Rewrite:
    for text in (find, replacement):
        if len(text) > _LIMIT:
            raise ValueError(f"it is longer than {_LIMIT} characters")
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("it has characters other than printable ASCII")
    if any(c in replacement for c in forbidden):
        raise ValueError(f"what is put there must not have any of {forbidden}")
    if find in ("~", "~*", ""):
        raise ValueError("there is nothing to look for")
    pattern = _pattern(find, ignore_case)
    groups = 0 if pattern is None else pattern.groups
    parts = parse_value(replacement)
    for part in parts:
        if part.variable is Variable.CAPTURE and int(part.argument) > groups:
            raise ValueError(f"${part.argument} is no group of its pattern")
    return Rewrite(find, parts)


def parse_cookie_domain(text: str) -> Rewrite | None:
    """`off` or `FROM TO`. Raises ValueError."""
    words = _two_words(text)
    return None if words is None else _rewrite(words[0], words[1], ";,", ignore_case=True)


def parse_cookie_path(text: str) -> Rewrite | None:
    words = _two_words(text)
    return None if words is None else _rewrite(words[0], words[1], ";,")


def _two_words(text: str) -> tuple[str, str] | None:
    words = text.split()
    if words == ["off"]:
        return None
    if len(words) != 2:
        raise ValueError("it is neither off nor two words: what to look for, and what to put there")
    return words[0], words[1]


def _redirect(reader: Reader) -> Rewrite | None:
    names = "proxy-redirect-from", "proxy-redirect-to"
    find = reader.text(names[0]) or reader.options.proxy_redirect_from
    replacement = reader.text(names[1]) or reader.options.proxy_redirect_to
    if find in ("off", "default") or replacement == "off":
        return None
    at_fault = next((name for name in reversed(names) if reader.text(name) is not None), None)
    if at_fault is None:
        return _default(find, lambda _: _rewrite(find, replacement, ""))
    return reader.take(at_fault, lambda _: _rewrite(find, replacement, ""), None)


def parse(reader: Reader) -> RewritingPolicy | None:
    options = reader.options
    domain = reader.take(
        "proxy-cookie-domain", parse_cookie_domain, _default(options.proxy_cookie_domain, parse_cookie_domain)
    )
    path = reader.take("proxy-cookie-path", parse_cookie_path, _default(options.proxy_cookie_path, parse_cookie_path))
    redirect = _redirect(reader)
    if domain is None and path is None and redirect is None:
        return None
    return RewritingPolicy(domain, path, redirect)


def _default(text: str, parse_rule: Callable[[str], Rewrite | None]) -> Rewrite | None:
    try:
        return parse_rule(text)
    except ValueError:
        return None  # reported where the option is read


def acts(options: Any) -> bool:
    return (
        options.proxy_cookie_domain != "off"
        or options.proxy_cookie_path != "off"
        or not (options.proxy_redirect_from in ("off", "default") or options.proxy_redirect_to == "off")
    )


# ---- bind --------------------------------------------------------------------------------------------------------

Put = Callable[[Exchange, Any], bytes]
"""What is put there: of the request, and the match if there is a pattern."""

Replace = Callable[[bytes, Exchange], bytes | None]
"""The text rewritten; None: it doesn't apply."""


def _put(parts: tuple[Part, ...], route: RuleNames) -> Put:
    functions: list[Put] = [_put_part(part, route) for part in parts]
    if len(functions) == 1:
        return functions[0]
    return lambda exchange, match: b"".join([function(exchange, match) for function in functions])


def _put_part(part: Part, route: RuleNames) -> Put:
    if part.variable is Variable.CAPTURE:
        group = int(part.argument)
        return lambda exchange, match: match[group] or b""
    value_of = compile_field_value((part,))
    return lambda exchange, match: value_of(exchange, route)


def _by_pattern(pattern: Any, put: Put) -> Replace:
    def replace(text: bytes, exchange: Exchange) -> bytes | None:
        match = pattern.search(text)
        return None if match is None else put(exchange, match)

    return replace


def _by_prefix(find: bytes, put: Put) -> Replace:
    return lambda text, exchange: put(exchange, None) + text[len(find) :] if text.startswith(find) else None


def _by_domain(find: bytes, put: Put) -> Replace:
    find = find.removeprefix(b".").lower()

    def replace(text: bytes, exchange: Exchange) -> bytes | None:
        dot = b"." if text.startswith(b".") else b""
        return dot + put(exchange, None).removeprefix(b".") if text[len(dot) :].lower() == find else None

    return replace


def replacer(rule: Rewrite, route: RuleNames, domain: bool = False) -> Replace:
    pattern = _pattern(rule.find, domain)
    put = _put(rule.replacement, route)
    if pattern is not None:
        return _by_pattern(pattern, put)
    find = rule.find.encode("ascii")
    return _by_domain(find, put) if domain else _by_prefix(find, put)


def rewrite_cookie(value: bytes, attributes: dict[bytes, Replace], exchange: Exchange) -> bytes:
    """A Set-Cookie with its attributes rewritten; everything else stays as it is, byte by byte. `attributes`: by lower-case name."""
    if len(value) > _COOKIE_LIMIT:
        return value
    parts = value.split(b";")
    changed = False
    for index in range(1, len(parts)):
        name, equals, text = parts[index].partition(b"=")
        replace = attributes.get(name.strip(b" \t").lower())
        if replace is None or not equals:
            continue
        stripped = text.strip(b" \t")
        new = replace(stripped, exchange)
        if new is not None and b";" not in new:
            parts[index] = name + equals + new
            changed = True
    return b";".join(parts) if changed else value


def rewrite_refresh(value: bytes, replace: Replace, exchange: Exchange) -> bytes:
    """`5; url=http://a/` with its URL rewritten."""
    match = _REFRESH.match(value)
    if match is None:
        return value
    new = replace(value[match.end() :], exchange)
    return value if new is None else value[: match.end()] + new


def bind(policy: RewritingPolicy, scope: Scope) -> Hooks:
    attributes: dict[bytes, Replace] = {}
    if policy.cookie_domain is not None:
        attributes[b"domain"] = replacer(policy.cookie_domain, scope.route, domain=True)
    if policy.cookie_path is not None:
        attributes[b"path"] = replacer(policy.cookie_path, scope.route)
    redirect = None if policy.redirect is None else replacer(policy.redirect, scope.route)

    def rewritten(name: bytes, value: bytes, exchange: Exchange) -> bytes:
        if attributes and name == b"set-cookie":
            return rewrite_cookie(value, attributes, exchange)
        if redirect is not None:
            if name == b"location":
                return redirect(value, exchange) or value
            if name == b"refresh":
                return rewrite_refresh(value, redirect, exchange)
        return value

    lengths = frozenset(map(len, (b"set-cookie", b"location", b"refresh")))

    def rewrite(exchange: Exchange, head: ResponseHead) -> None:
        if exchange.endpoint is None:
            return  # an answer of our own
        fields: FieldPieces | None = None
        for index, (name, value) in enumerate(iter_fields(head.fields)):
            if len(name) in lengths:
                new = rewritten(name.lower(), value, exchange)
                if new is not value:
                    if fields is None:
                        fields = list(head.fields)
                    fields[4 * index : 4 * index + 4] = (name, COLON, new, CRLF)
        if fields is not None:
            head.fields = fields

    return Hooks(response=rewrite)


SPEC = MiddlewareSpec(
    "rewriting",
    Phase.UPSTREAM,
    ("proxy-cookie-domain", "proxy-cookie-path", "proxy-redirect-from", "proxy-redirect-to"),
    RewritingPolicy,
    parse,
    bind,
    by_option=acts,
)
