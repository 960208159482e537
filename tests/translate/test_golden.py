"""Whole manifests -> whole tables, written so that a person can read the difference.

`cases/<name>.in.yaml` holds the objects, and before them an optional document with `settings:` (fields of TranslateSettings)
and `resolved:` (host name to addresses). Expected output is in `cases/<name>.out.yaml`.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ingress.config import TranslateSettings
from ingress.routing.table import Balancing, HostRoutes, Route, RoutingTable, TrafficPolicy, Upstream, UpstreamProtocol
from ingress.routing.tls import TLSHost
from ingress.translate import Compilation, compile_table
from ingress.translate.tls.inspect import facts_of_chain

from .build import decode, state_of

CASES = Path(__file__).parent / "cases"


def compile_case(text: str) -> Compilation:
    settings: dict[str, Any] = {}
    resolved: dict[str, Any] = {}
    objects = []
    for document in yaml.safe_load_all(text):
        if "kind" in document:
            objects.append(decode(document))
        else:
            settings = document.get("settings", {})
            resolved = document.get("resolved", {})
    return compile_table(state_of(objects, resolved), msgspec.convert(settings, TranslateSettings))


def changed_fields(value: msgspec.Struct, default: msgspec.Struct) -> dict[str, Any]:
    builtins: dict[str, Any] = msgspec.to_builtins(value)
    return {k: v for k, v in builtins.items() if getattr(value, k) != getattr(default, k)}


def route_text(route: Route) -> str:
    target = f"{route.closed_status} ({route.closed_reason})" if route.upstream is None else route.upstream
    return f"{target}  <- {route.namespace}/{route.ingress}"


def host_view(host: HostRoutes) -> dict[str, Any]:
    view: dict[str, Any] = {}
    for route in host.routes:
        view[f"{route.path_type} {route.path}"] = route_text(route)
        policy = changed_fields(route.policy, TrafficPolicy())
        if policy:
            view[f"{route.path_type} {route.path} policy"] = policy
        if route.features:
            view[f"{route.path_type} {route.path} features"] = {f.name: f.policy for f in route.features}
    if host.default is not None:
        view["default"] = route_text(host.default)
    for name in ("features", "unmatched"):
        features = getattr(host, name)
        if features:
            view[name] = {feature.name: feature.policy for feature in features}
    return view


def upstream_view(upstream: Upstream) -> dict[str, Any]:
    view: dict[str, Any] = {"endpoints": [f"{e.address} {e.port}" for e in upstream.endpoints]}
    balancing = changed_fields(upstream.balancing, Balancing())
    if balancing:
        view["balancing"] = balancing
    if upstream.protocol is not UpstreamProtocol.HTTP:
        view["protocol"] = str(upstream.protocol)
    if upstream.health_check is not None:
        view["health_check"] = msgspec.to_builtins(upstream.health_check)
    return view


def tls_view(table: RoutingTable, host: TLSHost) -> dict[str, Any]:
    """Certificates by the names that they are for: their bytes say nothing to a reader."""
    found = [", ".join(facts_of_chain(table.certificates[key].chain).names) for key in host.certificates]
    view: dict[str, Any] = {"certificates": found or "default"}
    if host.client_auth is not None:
        view["client_auth"] = f"{host.client_auth.verify}, depth {host.client_auth.depth}"
    return view | {name: getattr(host, name) for name in ("ciphers", "passthrough") if getattr(host, name)}


def render(result: Compilation) -> str:
    table = result.table
    tls = {str(host): tls_view(table, table.tls_hosts[host]) for host in sorted(table.tls_hosts)}
    view = {
        "hosts": {host or "(any)": host_view(table.hosts[host]) for host in sorted(table.hosts)},
        "default": route_text(table.default) if table.default is not None else None,
        "upstreams": {str(key): upstream_view(table.upstreams[key]) for key in sorted(table.upstreams)},
        **({"tls_hosts": tls} if tls else {}),
        "external_names": sorted(result.external_names),
        "served": sorted(str(ref) for ref in result.served),
        "verdicts": [f"{v.severity}: {v}" for v in result.verdicts],
    }
    return yaml.safe_dump(view, sort_keys=False, width=140, allow_unicode=True)


@pytest.mark.parametrize("case", sorted(CASES.glob("*.in.yaml")), ids=lambda p: p.name.removesuffix(".in.yaml"))
def test_golden(case: Path, update_golden: bool) -> None:
    rendered = render(compile_case(case.read_text(encoding="utf-8")))
    expected = case.with_name(case.name.replace(".in.yaml", ".out.yaml"))
    if update_golden:
        expected.write_text(rendered, encoding="utf-8")
    assert rendered == expected.read_text(encoding="utf-8")


def test_every_expectation_has_a_case() -> None:
    ins = {p.name.removesuffix(".in.yaml") for p in CASES.glob("*.in.yaml")}
    outs = {p.name.removesuffix(".out.yaml") for p in CASES.glob("*.out.yaml")}
    assert ins == outs
    assert ins
