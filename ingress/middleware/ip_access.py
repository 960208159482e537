"""Client address lists: `denylist-source-range` and `whitelist-source-range` (`allowlist-source-range`), and the options of these names.

Deny is looked at before allow; who is refused gets 403. An annotation replaces the option's list. CIDR text per RFC 4632 and RFC 4291; the address is
`exchange.client_address`, which was settled before. Follows ngx_http_access_module: with a deny list alone, who isn't on it is neither
let in nor refused, which matters to `satisfy: any`.
"""

import msgspec

from ingress.exchange import DirectResponse, Exchange
from ingress.middleware.base import Hooks, MiddlewareSpec, Phase, Reader, Scope
from ingress.routing.networks import NetworkSet
from ingress.translate.access import networks
from ingress.translate.features import OptionError
from ingress.translate.options import Options

ALLOW = ("allowlist-source-range", "whitelist-source-range")  # the first wins where both are set
DENY = "denylist-source-range"
NOBODY: tuple[str, ...] = ()


class IPAccess(msgspec.Struct, frozen=True):
    """CIDRs, sorted. `allow` None: everybody who isn't denied; never empty."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


def parse(reader: Reader) -> IPAccess | None:
    allow: tuple[str, ...] | None = None
    options: Options = reader.options
    found = [(name, text) for name in ALLOW if (text := reader.text(name)) is not None]
    if found:
        if len(found) > 1 and found[0][1] != found[1][1]:
            reader.warn(ALLOW[1], f"It has no effect, because {ALLOW[0]} is set too.")
        allow = reader.require(found[0][0], networks, NOBODY)
    elif options.access.allow_source_range:
        allow = _of_option("whitelist-source-range", options.access.allow_source_range)
    if reader.text(DENY) is not None:
        deny = reader.require(DENY, networks, NOBODY)
    elif options.access.deny_source_range:
        deny = _of_option(DENY, options.access.deny_source_range)
    else:
        deny = NOBODY
    return IPAccess(allow, deny) if allow is not None or deny else None


def _of_option(name: str, text: str) -> tuple[str, ...]:
    try:
        return networks(text)
    except ValueError as e:
        raise OptionError(name, str(e)) from e


def bind(policy: IPAccess, scope: Scope) -> Hooks:
    deny = scope.live(("networks", policy.deny), lambda: NetworkSet(policy.deny)) if policy.deny else None
    allow = None
    if policy.allow is not None:
        allow = scope.live(("networks", policy.allow), lambda: NetworkSet(policy.allow or ()))
    denied = None if deny is None else deny.contains
    allowed = None if allow is None else allow.contains

    def check(exchange: Exchange) -> DirectResponse | None:
        address = exchange.client_address
        try:
            if (denied is None or not denied(address)) and (allowed is None or allowed(address)):
                return None
        except ValueError:  # no address at all: nobody a list could let in
            pass
        return DirectResponse(403)

    return Hooks(request=check, admits=policy.allow is not None)


def by_option(options: Options) -> bool:
    return bool(options.access.allow_source_range or options.access.deny_source_range)


SPEC = MiddlewareSpec(
    "ip-access", Phase.ACCESS, (*ALLOW, DENY), IPAccess, parse, bind, fails_closed=True, by_option=by_option
)
