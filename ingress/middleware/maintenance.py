"""A page instead of the application (`aioingress.io/maintenance: "true"`): status 503, for everybody but those who do the work.

`maintenance-page`: a ConfigMap with the page, under the key `index.html`, `index.json` or `index.txt`, which says its type (without it: our own page);
`maintenance-retry-after`: seconds; `maintenance-allow`: addresses and networks that get through. Nothing here fails open: with a page that can't
be used the built-in one is sent, and an address that can't be read lets nobody in.
"""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import msgspec

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.translate.annotations import values
from ingress.translate.features import AnnotationError

_PAGE_LIMIT_BYTES = 131072
_KINDS = {
    "index.html": "text/html; charset=utf-8",
    "index.json": "application/json",
    "index.txt": "text/plain; charset=utf-8",
}
ANNOTATIONS = ("maintenance", "maintenance-page", "maintenance-retry-after", "maintenance-allow")


class MaintenancePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    page: str | None = None
    content_type: str = ""
    retry_after_s: int = 0  # 0: not said
    allowed: tuple[str, ...] = ()  # networks in canonical form


def parse(reader: Reader) -> MaintenancePolicy | None:
    if not reader.take("maintenance", values.boolean, False):
        return None  # the others may be ready for the day on which they are needed
    page, content_type = _page(reader)
    return MaintenancePolicy(
        page, content_type, reader.take("maintenance-retry-after", values.positive, 0), _networks(reader)
    )


def _page(reader: Reader) -> tuple[str | None, str]:
    name = "maintenance-page"
    reference = reader.text(name)
    if not reference:
        return None, ""
    try:
        data = reader.config_map(name, reference).data or {}
    except AnnotationError as e:
        reader.warn(name, f"The built-in page is shown: {e.why}.")
        return None, ""
    for key, content_type in _KINDS.items():
        if key in data:
            if len(data[key].encode()) > _PAGE_LIMIT_BYTES:
                reader.warn(name, f"The built-in page is shown: the page is larger than {_PAGE_LIMIT_BYTES} bytes.")
                return None, ""
            return data[key], content_type
    reader.warn(name, f"The built-in page is shown: the ConfigMap has none of {', '.join(_KINDS)}.")
    return None, ""


def _networks(reader: Reader) -> tuple[str, ...]:
    found = []
    for item in (reader.text("maintenance-allow") or "").split(","):
        item = item.strip()
        if not item:
            continue
        try:
            found.append(str(ip_network(item, strict=False)))
        except ValueError:
            reader.warn("maintenance-allow", f"{item[:60]!r} is left out: it is no address and no network.")
    return tuple(dict.fromkeys(found))


def address_matcher(networks: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a textual address is in one of `networks`."""
    parsed: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]

    def matches(address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found.version == network.version and found in network for network in parsed)

    return matches


def bind(policy: MaintenancePolicy, scope: Scope) -> Hooks:
    fields = [(b"Cache-Control", b"no-store")]
    if policy.retry_after_s:
        fields.append((b"Retry-After", b"%d" % policy.retry_after_s))
    body = None if policy.page is None else policy.page.encode()
    if body is not None:
        fields.append((b"Content-Type", policy.content_type.encode("ascii")))
    allowed = address_matcher(policy.allowed)

    def show_page(exchange: Exchange) -> DirectResponse | None:
        if policy.allowed and allowed(exchange.client_address):
            return None
        return DirectResponse(503, fields, body)

    return Hooks(request=show_page)


SPEC = MiddlewareSpec("maintenance", Phase.LIMIT, ANNOTATIONS, MaintenancePolicy, parse, bind)
