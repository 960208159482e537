"""Response headers from a ConfigMap (`custom-headers`), as ingress-nginx 1.15 has them: each must be named in the option
global-allowed-response-headers, replaces what the endpoint sent, and is set on every response, errors of ours included.

The headers may be what an application relies on for its safety (Content-Security-Policy), so a ConfigMap that can't be used closes the routes
(503), there too. What differs: names are compared without regard to case, and a header that frames the message is refused.
"""

import msgspec

from ingress.exchange import Exchange, ResponseHead
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.middleware.fields import RESPONSE_OWN, field_name, field_value
from ingress.translate.features import AnnotationError

_NAME = "custom-headers"


class CustomHeaders(msgspec.Struct, frozen=True):
    fields: tuple[tuple[str, str], ...]  # sorted by name


def parse(reader: Reader) -> CustomHeaders | None:
    reference = reader.text(_NAME)
    if not reference:
        return None
    data = reader.config_map(_NAME, reference).data or {}
    allowed = {name.lower() for name in reader.options.allowed_response_headers}
    fields = []
    for name, value in sorted(data.items()):
        try:
            field_name(name)
            text = field_value(value).decode("ascii")
        except ValueError as e:
            raise AnnotationError(_NAME, f"ConfigMap {reference}: {e}") from e
        if not text:
            raise AnnotationError(_NAME, f"ConfigMap {reference}: the value of {name} is empty")
        if name.lower() in RESPONSE_OWN:
            raise AnnotationError(_NAME, f"ConfigMap {reference}: {name} is the proxy's own")
        if name.lower() not in allowed:
            raise AnnotationError(
                _NAME, f"ConfigMap {reference}: {name} is not in the option global-allowed-response-headers"
            )
        fields.append((name, text))
    return CustomHeaders(tuple(fields)) if fields else None


def bind(policy: CustomHeaders, scope: Scope) -> Hooks:
    fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in policy.fields]
    names = tuple(name for name, _ in fields)

    def set_headers(exchange: Exchange, head: ResponseHead) -> None:
        head.remove(*names)
        for name, value in fields:
            head.add(name, value)

    return Hooks(response=set_headers)


SPEC = MiddlewareSpec("custom-headers", Phase.UPSTREAM, (_NAME,), CustomHeaders, parse, bind, fails_closed=True)
