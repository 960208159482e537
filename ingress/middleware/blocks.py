"""Clients that are turned away on every route, and where there is none: by address, user agent or referer (403).

The options block-cidrs, block-user-agents and block-referers of ingress-nginx. They hold before a route is known, so this is no feature of
routes: the forwarder asks first of all, and only if there is anything to ask.
"""

import functools
import ipaddress
from collections.abc import Callable

from ingress.config import BlockSettings
from ingress.exchange import Exchange
from ingress.textmap import compile_entries

_ADDRESSES = 4096  # whose outcome is remembered: a client can't make it more


def compile_blocks(settings: BlockSettings) -> Callable[[Exchange], bool] | None:
    """Whether an exchange is to be turned away; None: nobody is."""
    checks: list[Callable[[Exchange], bool]] = []
    if settings.networks:
        checks.append(_by_address(settings.networks))
    for entries, name in ((settings.user_agents, b"user-agent"), (settings.referers, b"referer")):
        if entries:
            checks.append(_by_field(entries, name))
    if not checks:
        return None
    return lambda exchange: any(check(exchange) for check in checks)


def _by_address(texts: tuple[str, ...]) -> Callable[[Exchange], bool]:
    networks = [ipaddress.ip_network(text) for text in texts]

    @functools.lru_cache(maxsize=_ADDRESSES)
    def blocked(text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in networks)

    return lambda exchange: blocked(exchange.client_address)


def _by_field(entries: tuple[str, ...], name: bytes) -> Callable[[Exchange], bool]:
    contains = compile_entries(entries)
    return lambda exchange: contains(exchange.header(name) or b"")
