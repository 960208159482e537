"""`custom-http-errors`, `default-backend`, `disable-proxy-intercept-errors`: what one Ingress asks for, before Services are looked up."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ingress.translate.annotations.values import boolean
from ingress.translate.names import is_object_name
from ingress.translate.options.model import Options

T = TypeVar("T")
_CODES = 200  # as many as there are


class Reader(Protocol):
    def key(self, name: str) -> str: ...

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T: ...


@dataclass(frozen=True, slots=True)
class FallbackAsk:
    """`service`: of the namespace of the Ingress; empty: none. `statuses_of_option`: they are the option's, not the Ingress's own, and go to the
    default backend of the controller only."""

    service: str = ""
    service_key: str = ""  # the annotation that names it, prefix included
    statuses_key: str = ""
    statuses: tuple[int, ...] = ()
    statuses_of_option: bool = False
    of_endpoints: bool = True


NAMES = ("custom-http-errors", "default-backend", "disable-proxy-intercept-errors")


def read_fallback(reader: Reader, options: Options) -> FallbackAsk | None:
    """None: nothing is asked for."""
    keys = reader.key("default-backend"), reader.key("custom-http-errors")
    service = reader.take("default-backend", _service, "")
    nothing: tuple[int, ...] = ()
    own = reader.take("custom-http-errors", parse_statuses, nothing)
    disabled = reader.take("disable-proxy-intercept-errors", boolean, False)
    statuses = own or options.custom_http_errors
    if not statuses and not service:
        return None
    return FallbackAsk(
        service,
        *keys,
        statuses,
        statuses_of_option=not own,
        # The Ingress's own list also overrides the option's switch, as its own proxy_intercept_errors does in nginx.
        of_endpoints=not disabled and (bool(own) or not options.disable_proxy_intercept_errors),
    )


def _service(text: str) -> str:
    if not is_object_name(text):
        raise ValueError("it is not the name of a Service")
    return text


def parse_statuses(text: str) -> tuple[int, ...]:
    """Numbers from 400 to 599, separated by commas; sorted, each once. Raises ValueError."""
    items = [item for item in (item.strip() for item in text.split(",")) if item]
    if not items:
        raise ValueError("it names no status")
    for item in items[:_CODES]:
        if not re.fullmatch(r"[45][0-9]{2}", item, re.ASCII):
            raise ValueError(f"{item[:40]} is not a status from 400 to 599")
    if len(items) > _CODES:
        raise ValueError(f"it names more than {_CODES} statuses")
    return tuple(sorted({int(item) for item in items}))
