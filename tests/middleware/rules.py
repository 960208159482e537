"""From annotations to a running proxy: an Ingress with its Services, compiled as the controller does it, in front of scripted backends.

async with rules({"enable-cors": "true"}) as (proxy, backend):
    client = await proxy.client()
    response = await client.get("/", "app.test", "Origin: https://a.example")
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ingress.config import TranslateSettings
from ingress.errors import Verdict
from ingress.middleware.registry import SPECS
from ingress.model import ConfigMap, Kind, ObjectRef
from ingress.routing.table import HostPattern, HostRoutes, Route, RoutingTable
from ingress.translate.backends import build_upstream
from ingress.translate.conflicts import merge_host
from ingress.translate.context import Context
from ingress.translate.fragment import Fragment, build_fallback, build_fragment
from ingress.translate.options import DEFAULT_OPTIONS, Options
from tests.proxy.support import Backend, Proxy, Script
from tests.translate.build import config_map, ingress, path, rule, service, slice_of, state_of

HOST = "app.test"
OWN = "aioingress.io/"


@dataclass(frozen=True)
class Rules:
    """One Ingress `default/ing` for `app.test`. `paths`: path -> Service; `services`: those that exist; of namespace default unless `ns/name`."""

    annotations: Mapping[str, str]
    options: Options = DEFAULT_OPTIONS
    paths: Mapping[str, str] | None = None
    services: Sequence[str] = ("web",)
    config_maps: Mapping[str, Mapping[str, str]] | None = None
    default_backend_service: str = ""

    def compile(self, backends: Mapping[str, Sequence[Backend]]) -> tuple[RoutingTable, tuple[Verdict, ...]]:
        known = {_names(name): service(_names(name)[1], namespace=_names(name)[0]) for name in self.services}
        slices: list[Any] = []
        for name, instances in backends.items():
            namespace, own = _names(name)
            for number, instance in enumerate(instances):
                slices.append(
                    slice_of(own, "127.0.0.1", ports=(instance.port,), namespace=namespace, suffix=f"{number}")
                )
        state = state_of([*known.values(), *slices])
        settings = TranslateSettings(
            default_backend_service=_names(self.default_backend_service) if self.default_backend_service else None
        )
        maps = {_names(name): config_map(_names(name)[1], data) for name, data in (self.config_maps or {}).items()}

        def find(ref: ObjectRef) -> ConfigMap | None:
            return maps.get((ref.namespace, ref.name)) if ref.kind is Kind.CONFIG_MAP else None

        made = ingress(
            "ing",
            rule(HOST, *(path(p, svc) for p, svc in (self.paths or {"/": "web"}).items())),
            annotations={
                OWN + "proxy-request-buffering": "off",  # what comes while a body streams is the hard part
                **{(k if "/" in k else OWN + k): v for k, v in self.annotations.items()},
            },
        )
        fragment = build_fragment(made, known, Context(settings, self.options, SPECS, find))
        fallback = build_fallback(settings, known, self.options)
        fragments: list[Fragment] = [fragment] if fallback is None else [fragment, fallback]
        hosts: dict[HostPattern, HostRoutes] = {host: merge_host(host, [fragment]).routes for host in fragment.hosts}
        upstreams = {
            key: build_upstream(use.spec, state, settings).upstream for f in fragments for key, use in f.uses.items()
        }
        catch_all = None if fallback is None or fallback.catch_all is None else fallback.catch_all.route
        return RoutingTable("t1", hosts, upstreams, catch_all), fragment.verdicts

    def verdicts(self) -> tuple[Verdict, ...]:
        return self.compile({})[1]

    def route(self) -> Route:
        return self.compile({})[0].hosts[HostPattern(HOST)].routes[0]

    def policy(self, feature: str) -> dict[str, Any] | None:
        """What a middleware made of the annotations; None: nothing."""
        return next((f.policy for f in self.route().features if f.name == feature), None)


def _names(text: str) -> tuple[str, str]:
    namespace, _, name = text.rpartition("/")
    return namespace or "default", name


def problems(rules: Rules) -> dict[str, str]:
    """Verdicts as annotation name -> message; several messages are joined."""
    found: dict[str, str] = {}
    for verdict in rules.verdicts():
        name = verdict.field.removeprefix(f"metadata.annotations[{OWN}").removesuffix("]")
        found[name] = f"{found[name]} {verdict.message}" if name in found else verdict.message
    return found


@asynccontextmanager
async def serving(rules: Rules, scripts: Mapping[str, Script | None], **changes: Any) -> AsyncIterator[Any]:
    """(proxy, {Service: backend}); a Service without a script has no endpoint."""
    async with Proxy(**changes) as proxy:
        backends = {name: await proxy.backend(script, name) for name, script in scripts.items() if script is not None}
        table, _ = rules.compile({name: [backend] for name, backend in backends.items()})
        proxy.plane.swap(table)
        yield proxy, backends


@asynccontextmanager
async def one(
    annotations: Mapping[str, str], script: Script | None = None, options: Options = DEFAULT_OPTIONS, **rest: Any
) -> AsyncIterator[tuple[Proxy, Backend]]:
    """Everything of `app.test` to one backend."""
    rules = Rules(annotations, options, config_maps=rest.pop("config_maps", None))
    async with Proxy(**rest) as proxy:
        backend = await proxy.backend(script)
        proxy.plane.swap(rules.compile({"web": [backend]})[0])
        yield proxy, backend
