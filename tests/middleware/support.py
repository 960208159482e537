"""Features of an Ingress without a cluster: annotations to policies, policies to hooks, hooks on bare exchanges."""

import asyncio
import base64
import dataclasses
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Any, cast

import msgspec

from ingress.errors import Verdict
from ingress.exchange import DirectResponse, Exchange, Field, field_pieces
from ingress.middleware import registry
from ingress.middleware.base import Hooks, Phase, Scope, Services
from ingress.middleware.satisfy import join
from ingress.middleware.sidecalls import NO_SIDE_CALLS, SideCallError, SideCalls, SideResponse, SideTarget
from ingress.model import ConfigMap, KubernetesObject, ObjectRef, Secret
from ingress.routing.table import Feature, HostPattern, PathType, Route
from ingress.translate.features import AnnotationReader, parse_features
from ingress.translate.options import DEFAULT_OPTIONS, Options
from ingress.translate.options.model import AccessOptions
from ingress.translate.report import Report

PREFIX = "nginx.ingress.kubernetes.io/"


@dataclasses.dataclass
class Parsed:
    features: tuple[Feature, ...]
    closed: str  # why the routes are closed; empty: they are open
    verdicts: tuple[Verdict, ...]

    def policy(self, name: str) -> Any:
        """The policy of that feature as its struct; None: there is none."""
        for feature in self.features:
            if feature.name == name:
                return msgspec.convert(feature.policy, registry.BY_NAME[name].policy)
        return None

    @property
    def fields(self) -> list[str]:
        return [v.field.removeprefix(f"metadata.annotations[{PREFIX}").rstrip("]") for v in self.verdicts]


def parsed(
    annotations: Mapping[str, str] | None = None, *objects: KubernetesObject, options: Options = DEFAULT_OPTIONS
) -> Parsed:
    """As the translation of an Ingress `default/ing` does it, with all parsers."""
    found = {name: (PREFIX + name, value.strip()) for name, value in (annotations or {}).items()}
    report = Report("Ingress default/ing", "")
    known: dict[ObjectRef, KubernetesObject] = {o.ref: o for o in objects}
    reader = AnnotationReader(found, report, options, "default", "ing", known.get)
    features, closed = parse_features(registry.SPECS, reader)
    return Parsed(features, closed, report.verdicts())


def options(**access: Any) -> Options:
    return dataclasses.replace(DEFAULT_OPTIONS, access=AccessOptions(**access))


def secret(name: str = "users", namespace: str = "default", **data: str | bytes) -> Secret:
    encoded = {
        key: base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
        for key, value in data.items()
    }
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "data": encoded}, Secret)


def config_map(name: str, data: Mapping[str, str], namespace: str = "default") -> ConfigMap:
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace}, "data": dict(data)}, ConfigMap)


def route(path: str = "/", host: str = "a.test", features: tuple[Feature, ...] = ()) -> Route:
    return Route(HostPattern(host), path, PathType.PREFIX, "default", "ing", "web", "80", None, features=features)


def exchange(
    path: bytes = b"/",
    *fields: Field,
    method: bytes = b"GET",
    address: str = "192.0.2.1",
    host: bytes = b"a.test",
    scheme: bytes = b"http",
) -> Exchange:
    target = path
    path, mark, query = path.partition(b"?")
    forwarded = f"\r\nX-Real-IP: {address}\r\nX-Forwarded-For: {address}\r\nX-Forwarded-Port: 80\r\n".encode()
    made = Exchange(cast(Any, None), address, scheme, forwarded, method, target, field_pieces(fields))
    made.path, made.query = path, mark + query
    made.authority = made.host = host
    made.request_id = b"0123456789abcdef0123456789abcdef"
    return made


def basic(user: str, password: str) -> Field:
    return b"Authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode())


@dataclasses.dataclass
class Call:
    target: SideTarget
    method: bytes
    path: bytes
    fields: list[Field]
    timeout_s: float

    def value(self, name: bytes) -> bytes | None:
        values = [value for field, value in self.fields if field.lower() == name.lower()]
        assert len(values) < 2, (name, values)
        return values[0] if values else None


class Service:
    """An authentication service that answers what it is told to."""

    def __init__(self, answer: SideResponse | Exception | Callable[[Call], SideResponse] | None = None) -> None:
        self.answer = SideResponse(200) if answer is None else answer
        self.calls: list[Call] = []
        self.gate: asyncio.Event | None = None  # answers wait for it

    async def send(
        self,
        target: SideTarget,
        method: bytes,
        path: bytes,
        fields: Iterable[Field],
        body: bytes = b"",
        *,
        timeout_s: float,
        body_limit_bytes: int = 0,
    ) -> SideResponse:
        call = Call(target, method, path, list(fields), timeout_s)
        self.calls.append(call)
        assert body == b""
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, SideResponse) else answer(call)


def down() -> SideCallError:
    return SideCallError("nobody listens")


class Worker:
    """What a linked table lives in: services, and objects that outlive tables."""

    def __init__(self, side_calls: SideCalls = NO_SIDE_CALLS, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.now = 1000.0
        self.objects: dict[Hashable, Any] = {}
        self.services = Services(
            cast(Any, loop), lambda: self.now, lambda: self.now, random.Random(1), side_calls=side_calls
        )

    def live(self, key: Hashable, make: Callable[[], Any]) -> Any:
        return self.objects.setdefault(key, None) or self.objects.__setitem__(key, make()) or self.objects[key]

    def bind(self, features: Iterable[Feature], at: Route | None = None) -> "Bound":
        scope = Scope(at or route(), self.services, self.live)
        hooks: list[Hooks] = []
        for feature in sorted(features, key=lambda f: registry.order(f.name)):
            spec = registry.BY_NAME[feature.name]
            assert spec.phase is Phase.ACCESS
            hooks.append(spec.bind(msgspec.convert(feature.policy, spec.policy), scope))
        return Bound(hooks)


class Bound:
    """The hooks of a route, as `proxy.link` joins them."""

    def __init__(self, hooks: list[Hooks]) -> None:
        self.request = join(hooks)
        self.response = [h.response for h in hooks if h.response is not None]

    def now(self, subject: Exchange) -> DirectResponse | None:
        """Of hooks that must not wait."""
        for hook in self.request:
            outcome = hook(subject)
            if outcome is not None:
                assert type(outcome) is DirectResponse, "it waits"
                return outcome
        return None

    async def ask(self, subject: Exchange) -> DirectResponse | None:
        for hook in self.request:
            outcome = hook(subject)
            if outcome is not None and type(outcome) is not DirectResponse:
                outcome = await cast(Awaitable[DirectResponse | None], outcome)
            if outcome is not None:
                return cast(DirectResponse, outcome)
        return None


def fields_of(response: DirectResponse) -> list[Field]:
    return list(response.fields)
