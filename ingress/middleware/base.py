"""What a middleware is: one feature, one file, one `SPEC`.

A feature is parsed when configuration changes (in the controller: annotations to a policy of plain data), bound when a table is linked (in
each worker: policy to hooks), and its hooks run per request. Three steps, so that a hook finds everything decided.

    annotations --parse--> policy (in the table) --bind--> Hooks --per request--> DirectResponse | None
"""

import asyncio
import enum
from collections.abc import Callable, Coroutine, Generator, Hashable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ingress.exchange import DirectResponse, ErrorHook, Exchange, RequestHook, ResponseHook
from ingress.middleware.shared import SharedCounts
from ingress.middleware.sidecalls import NO_SIDE_CALLS, SideCalls
from ingress.routing.table import Route

P = TypeVar("P", bound=msgspec.Struct)
L = TypeVar("L")


class Phase(enum.IntEnum):
    """The order in which request hooks act: that of nginx's phases and of the template of ingress-nginx.

    So a redirect by annotation answers before the one to HTTPS, and a CORS preflight meets neither limits nor authentication. Response
    hooks run in the opposite order: the last to see the request is the first to see the response.
    """

    HOST = 10  # blocked user agents and referers, client certificates
    REDIRECT = 20  # app-root, CORS preflight, permanent and temporal redirects
    TLS_REDIRECT = 30
    LIMIT = 40
    ACCESS = 50  # address lists, basic and external authentication; `satisfy: any` joins them
    UPSTREAM = 60  # what the endpoint gets: path, Host, headers; mirror
    USER = 70  # middleware of the cluster's admin


@dataclass(frozen=True, slots=True)
class Hooks:
    """The last four are for `Phase.ACCESS`, whose hooks `middleware.satisfy` joins.

    `admits`: with `satisfy: any`, who passes this check needs no other; False: it can only refuse. `admitted` is called once the request was let in, whichever
    check did it. `challenge` replaces the 401 of any check of the route. `any_suffices`: the route has `satisfy: any`.
    """

    request: RequestHook | None = None
    response: ResponseHook | None = None
    error: ErrorHook | None = None
    admits: bool = True
    admitted: Callable[[Exchange], None] | None = None
    challenge: Callable[[Exchange, DirectResponse], DirectResponse] | None = None
    any_suffices: bool = False


class Later:
    """A coroutine that is made when it is awaited. The client may leave before anybody awaits what a hook returned, and a coroutine that is never
    awaited is a warning."""

    __slots__ = ("_arguments", "_function")

    def __init__(self, function: Callable[..., Coroutine[Any, Any, DirectResponse | None]], *arguments: Any) -> None:
        self._function = function
        self._arguments = arguments

    def __await__(self) -> Generator[Any, Any, DirectResponse | None]:
        return self._function(*self._arguments).__await__()


class Reader(Protocol):
    """The annotations of one Ingress as `parse` sees them; `translate.features.AnnotationReader` is the one there is.

    `take` is for what costs only itself: a bad value is a verdict, and the default is in force. `require` raises AnnotationError instead.
    """

    namespace: str
    ingress: str
    options: Any  # translate.options.Options

    def text(self, name: str) -> str | None: ...

    def take(self, name: str, parse: Callable[[str], L], default: L) -> L: ...

    def require(self, name: str, parse: Callable[[str], L], default: L) -> L: ...

    def warn(self, name: str, message: str) -> None: ...

    def secret(self, name: str, reference: str) -> Any: ...

    def config_map(self, name: str, reference: str) -> Any: ...


class Tally(Protocol):
    """A counter (`metrics.Tally`, which this layer doesn't know)."""

    value: float


class _Unseen:
    value: float = 0


def _unseen_tally(name: str, *labels: str) -> Tally:
    return _Unseen()


@cache
def _own_counts() -> SharedCounts:
    """Where no controller handed any out: a process alone shares them with itself."""
    return SharedCounts.create()


@dataclass(frozen=True, slots=True)
class Services:
    """What a worker has to offer to hooks. One a worker."""

    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]  # monotonic seconds
    wall_clock: Callable[[], float]
    rng: Random
    tally: Callable[..., Tally] = _unseen_tally  # metrics.WorkerMetrics.tally: a counter by family and label values
    side_calls: SideCalls = NO_SIDE_CALLS  # requests of the proxy's own, to hosts that are not endpoints
    shared_counts: Callable[[], SharedCounts] = _own_counts  # what all workers count together


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a policy is being bound. `certificate`: one is configured for the host of the route.

    `live` gives what outlives tables: the object of that key as long as some hook holds it, else a new one."""

    route: Route
    services: Services
    live: Callable[[Hashable, Callable[[], Any]], Any]
    certificate: bool = False


def never(options: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class MiddlewareSpec(Generic[P]):
    """`annotations`: the names, without prefix, that `parse` reads. `parse` returns None where there is nothing to do; what it raises
    (AnnotationError) switches the feature off with a verdict, or closes the routes of the Ingress if `fails_closed`.
    """

    name: str
    phase: Phase
    annotations: tuple[str, ...]
    policy: type[P]
    parse: Callable[[Any], P | None]  # of a Reader
    bind: Callable[[P, Scope], Hooks]
    fails_closed: bool = False
    skips_catch_all: bool = (
        False  # not for the catch-all (`spec.defaultBackend` of an Ingress without rules), as in ingress-nginx
    )
    by_option: Callable[[Any], bool] = (
        never  # of Options: whether it may act on an Ingress with none of its annotations
    )
    hidden: frozenset[str] = frozenset()  # fields of the policy that nobody is shown (dumps, `explain`)
