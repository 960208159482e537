"""The admin listener, through a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from ingress.admin import AdminView, Probe, make_app, start
from ingress.admin import server as admin_server
from ingress.admin.dump import HIDDEN, TableDump, VerdictsDump, dump_table, host_pattern
from ingress.config import Address
from ingress.errors import ConfigError, Severity, Verdict, VerdictReason
from ingress.facts import ClusterFacts, ControllerFacts, SourceFacts
from ingress.metrics import MetricsSnapshot, RouteStats
from ingress.routing.table import (
    Balancing,
    Endpoint,
    Feature,
    HealthCheck,
    HostAlias,
    HostPattern,
    HostRoutes,
    LoadBalance,
    PathType,
    Route,
    RoutingTable,
    TrafficPolicy,
    Upstream,
    UpstreamKey,
)


def route(host: str, path: str, service: str | None, **more: object) -> Route:
    made = Route(
        host=HostPattern(host),
        path=path,
        path_type=PathType.PREFIX,
        namespace="shop",
        ingress="web",
        service=service or "gone",
        port="80",
        upstream=UpstreamKey(f"shop/{service}:80") if service else None,
    )
    return msgspec.structs.replace(made, **more)


def upstream(
    service: str, *endpoints: Endpoint, balancing: Balancing | None = None, health_check: HealthCheck | None = None
) -> Upstream:
    key = UpstreamKey(f"shop/{service}:80")
    return Upstream(key, "shop", service, "80", endpoints, balancing or Balancing(), health_check=health_check)


def hosts(*made: HostRoutes) -> dict[HostPattern, HostRoutes]:
    return {h.host: h for h in made}


TABLE = RoutingTable(
    id="t1",
    hosts=hosts(
        HostRoutes(
            HostPattern("shop.example.com"),
            (
                route("shop.example.com", "/", "front", policy=TrafficPolicy(read_timeout_s=5.0)),
                route("shop.example.com", "/old", None, closed_reason="Service shop/gone does not exist"),
            ),
        ),
        HostRoutes(
            HostPattern("*.example.com"),
            (route("*.example.com", "/api", "api"),),
            default=route("*.example.com", "/", "fallback"),
        ),
        HostRoutes(HostPattern(""), (route("", "/any", "any"),)),
    ),
    upstreams={
        u.key: u
        for u in (
            upstream("front", Endpoint("10.0.0.1", 8080), Endpoint("2001:db8::1", 8080)),
            upstream(
                "api",
                balancing=Balancing(load_balance=LoadBalance.EWMA),
                health_check=HealthCheck("/healthz", interval_s=5.0),
            ),
            upstream("fallback"),
            upstream("any"),
            upstream("default"),
        )
    },
    default=route("", "/", "default"),
)
VERDICTS = (
    Verdict("Ingress shop/web", "spec.rules[0]", VerdictReason.SERVICE_NOT_FOUND, "No such Service.", value="gone"),
    Verdict(
        "Secret shop/login",
        "data.auth",
        VerdictReason.INVALID_FIELD,
        "Not base64.",
        severity=Severity.WARNING,
        value="hunter2",
        origin="shop.yaml:9",
    ),
)


FINE = Probe(True)


@dataclass
class State:
    health: Probe = FINE
    readiness: Probe = FINE
    table: RoutingTable = TABLE
    verdicts: Sequence[Verdict] = VERDICTS
    facts: ControllerFacts = field(
        default_factory=lambda: ControllerFacts(
            table_id="t1", table_age_s=2.5, hosts=3, workers_wanted=2, workers_live=2
        )
    )
    snapshot: MetricsSnapshot = field(
        default_factory=lambda: MetricsSnapshot(routes={("shop", "web", "front", "80"): RouteStats({200: 3})})
    )
    workers_answer: bool = True

    async def metrics(self) -> MetricsSnapshot:
        if not self.workers_answer:
            await asyncio.get_running_loop().create_future()
        return self.snapshot

    def view(self) -> AdminView:
        return AdminView(
            health=lambda: self.health,
            readiness=lambda: self.readiness,
            metrics_snapshot=self.metrics,
            table=lambda: self.table,
            verdicts=lambda: self.verdicts,
            facts=lambda: self.facts,
        )


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
async def client(state: State) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(make_app(state.view()))) as client:
        yield client


async def body(client: TestClient, path: str, status: int = 200, **headers: str) -> bytes:
    response = await client.get(path, headers=headers)
    assert response.status == status
    return await response.read()


# ---- probes -------------------------------------------------------------------------------------------------------


async def test_healthz(client: TestClient, state: State) -> None:
    assert await body(client, "/healthz") == b"ok\n"
    state.health = Probe(False, "no worker is alive")
    assert await body(client, "/healthz", 503) == b"no worker is alive\n"


async def test_readyz_says_in_one_line_why_not(client: TestClient, state: State) -> None:
    assert await body(client, "/readyz") == b"ok\n"
    state.readiness = Probe(False, "draining:\n  2 requests left\r\n")
    assert await body(client, "/readyz", 503) == b"draining: 2 requests left\n"
    state.readiness = Probe(False)
    assert await body(client, "/readyz", 503) == b"not ok\n"


# ---- metrics ------------------------------------------------------------------------------------------------------


async def test_metrics_in_the_format_asked_for(client: TestClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(await response.text())
        for sample in family.samples
    }
    assert values["aioingress_requests_total"] == 3
    assert values["aioingress_hosts"] == 3
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert (await response.text()).endswith("# EOF\n")


async def test_metrics_are_compressed_for_who_accepts_it(state: State, client: TestClient) -> None:
    async with ClientSession(auto_decompress=False) as session:
        plain = await session.get(client.make_url("/metrics"), headers={"Accept-Encoding": "identity"})
        packed = await session.get(client.make_url("/metrics"), headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert len(await packed.read()) < len(await plain.read())


async def test_workers_that_do_not_answer_are_not_waited_for_for_ever(
    client: TestClient, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_server, "_METRICS_TIMEOUT_S", 0.01)
    state.workers_answer = False
    assert await body(client, "/metrics", 503) == b"the workers did not answer in time\n"


# ---- dumps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/debug/table", "/routes"])
async def test_the_table_in_full(client: TestClient, path: str) -> None:
    raw = await body(client, path)
    dump = msgspec.json.decode(raw, type=TableDump)
    assert (dump.id, dump.age_s) == ("t1", 2.5)
    assert [h.host for h in dump.hosts] == ["", "*.example.com", "shop.example.com"]
    first, second = dump.hosts[2].routes
    assert (first.path, first.path_type, first.namespace, first.ingress) == ("/", "Prefix", "shop", "web")
    assert (first.service, first.port, first.upstream) == ("front", "80", "shop/front:80")
    assert first.policy == TrafficPolicy(read_timeout_s=5.0)
    assert (first.closed_status, first.closed_reason) == (None, "")
    assert (second.upstream, second.closed_status) == (None, 503)
    assert second.closed_reason == "Service shop/gone does not exist"
    assert dump.hosts[1].default is not None
    assert dump.hosts[1].default.service == "fallback"
    assert dump.default is not None
    assert dump.default.service == "default"
    upstreams = {u.key: u for u in dump.upstreams}
    assert list(upstreams) == [f"shop/{name}:80" for name in ("any", "api", "default", "fallback", "front")]
    assert upstreams[UpstreamKey("shop/front:80")].endpoints == ["10.0.0.1:8080", "[2001:db8::1]:8080"]
    assert upstreams[UpstreamKey("shop/api:80")].balancing.load_balance is LoadBalance.EWMA
    assert upstreams[UpstreamKey("shop/api:80")].health_check == HealthCheck("/healthz", interval_s=5.0)
    assert upstreams[UpstreamKey("shop/front:80")].health_check is None
    assert [v.object for v in dump.verdicts] == ["Ingress shop/web", "Secret shop/login"]
    assert raw.endswith(b"}\n")


@pytest.mark.parametrize(
    ("asked", "patterns", "services", "default"),
    [
        ("shop.example.com", ["shop.example.com"], {"front", "default"}, "default"),
        ("SHOP.Example.com:8080", ["shop.example.com"], {"front", "default"}, "default"),
        ("x.example.com", ["*.example.com"], {"api", "fallback"}, None),
        ("*.example.com", ["*.example.com"], {"api", "fallback"}, None),
        ("a.b.example.com", [""], {"any", "default"}, "default"),
        ("[2001:db8::1]:80", [""], {"any", "default"}, "default"),
        ("", [""], {"any", "default"}, "default"),
    ],
)
async def test_the_table_as_one_host_sees_it(
    client: TestClient, asked: str, patterns: list[str], services: set[str], default: str | None
) -> None:
    response = await client.get("/debug/table", params={"host": asked})
    dump = msgspec.json.decode(await response.read(), type=TableDump)
    assert [h.host for h in dump.hosts] == patterns
    assert {u.service for u in dump.upstreams} == services
    assert (dump.default.service if dump.default else None) == default
    assert len(dump.verdicts) == 2


def test_regex_mode_aliases_and_what_acts_on_a_route() -> None:
    rewrite = Feature("rewrite", {"written": "/x"})
    guard = Feature("basic-auth", {"users": "secret"})
    made = HostRoutes(
        HostPattern("a.test"),
        (route("a.test", "/a(.*)", "front", pattern="/a(.*)", features=(rewrite, guard)),),
        regex_cause="Ingress shop/web sets rewrite-target",
        app_root=route("a.test", "/", None),
    )
    aliases = [
        HostAlias(HostPattern("b.test"), made.host),
        HostAlias(HostPattern("*.c.test"), made.host),
        HostAlias(HostPattern("~^d"), made.host, 1),
    ]
    table = RoutingTable(hosts=hosts(made), aliases={alias.pattern: alias for alias in aliases})
    (host,) = msgspec.json.decode(dump_table(table, ()), type=TableDump).hosts
    assert host.regex_cause == "Ingress shop/web sets rewrite-target"
    assert host.aliases == ["*.c.test", "b.test", "~^d"]
    assert host.app_root is not None
    assert host.routes[0].pattern == "/a(.*)"
    assert [(f.name, f.policy) for f in host.routes[0].features] == [
        ("rewrite", {"written": "/x"}),
        ("basic-auth", {"users": "(hidden)"}),
    ]
    for asked in ("a.test", "B.test:80", "x.c.test", "d1.test", "~^d"):
        assert host_pattern(table, asked) == "a.test", asked
    assert host_pattern(table, "e.test") is None


def test_a_host_that_nothing_answers_for() -> None:
    assert host_pattern(RoutingTable(), "a.example.com") is None


async def test_verdicts_and_what_they_hide(client: TestClient) -> None:
    for path in ("/debug/verdicts", "/debug/table"):
        raw = await body(client, path)
        assert b"hunter2" not in raw
    ingress, secret = msgspec.json.decode(await body(client, "/debug/verdicts"), type=VerdictsDump).verdicts
    assert (ingress.object, ingress.field, ingress.reason) == ("Ingress shop/web", "spec.rules[0]", "ServiceNotFound")
    assert (ingress.severity, ingress.value, ingress.message) == (Severity.ERROR, "gone", "No such Service.")
    assert (secret.value, secret.origin, secret.severity) == (HIDDEN, "shop.yaml:9", Severity.WARNING)


async def test_dumps_before_the_first_table(client: TestClient, state: State) -> None:
    state.table, state.verdicts = RoutingTable(), ()
    dump = msgspec.json.decode(await body(client, "/debug/table"), type=TableDump)
    assert (dump.id, dump.hosts, dump.upstreams, dump.default, dump.verdicts) == ("", [], [], None, [])


async def test_the_index_links_every_page_and_escapes_what_it_shows(client: TestClient, state: State) -> None:
    state.readiness = Probe(False, "<script>alert(1)</script>")
    response = await client.get("/")
    assert response.content_type == "text/html"
    page = await response.text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    for path in ("/healthz", "/readyz", "/metrics", "/debug/table", "/debug/verdicts"):
        assert f'href="{path}"' in page
        assert (await client.get(path)).status in (200, 503)


async def test_the_index_shows_sources_and_the_leader(client: TestClient, state: State) -> None:
    state.facts = replace(
        state.facts,
        sources=(
            SourceFacts("kubernetes/ingresses", True, 1.0),
            SourceFacts("kubernetes/secrets", False, None, "secrets is forbidden: <User> can't list"),
        ),
        cluster=ClusterFacts(leader="pod-1_ab", addresses=2, status_pending=7),
    )
    page = await (await client.get("/")).text()
    assert "kubernetes/ingresses: can be read<" in page
    assert "kubernetes/secrets: can&#39;t be read at the moment: secrets is forbidden: &lt;User&gt;" in page
    assert "pod-1_ab; 2 addresses published," in page
    assert "7 statuses to write" in page


# ---- the listener -------------------------------------------------------------------------------------------------

PATHS = ("/", "/healthz", "/readyz", "/metrics", "/debug/table", "/routes", "/debug/verdicts")


@pytest.mark.parametrize("path", [*PATHS, "/nothing/here"])
async def test_security_headers_on_every_answer(client: TestClient, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        response = await client.request(method, path)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Server"] == "aioingress"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("path", PATHS)
async def test_get_and_head_only(client: TestClient, path: str) -> None:
    head = await client.head(path)
    assert head.status == 200
    assert await head.read() == b""
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        response = await client.request(method, path)
        assert response.status == 405
        assert set(response.headers["Allow"].replace(" ", "").split(",")) == {"GET", "HEAD"}


async def test_a_bug_costs_one_answer_and_shows_nothing(state: State, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Probe:
        raise RuntimeError("secret detail")

    async with TestClient(TestServer(make_app(replace(state.view(), readiness=broken)))) as client:
        assert await body(client, "/readyz", 500) == b"internal error; see the log\n"
        assert await body(client, "/healthz") == b"ok\n"
    assert [r.getMessage() for r in caplog.records] == ["GET /readyz failed"]


async def test_start_listens_on_every_address_until_close(state: State) -> None:
    server = await start(state.view(), [Address("127.0.0.1", 0), Address("::1", 0)])
    assert [a.host for a in server.addresses] == ["127.0.0.1", "::1"]
    async with ClientSession() as session:
        for address in server.addresses:
            assert address.port
            async with session.get(f"http://{address}/healthz") as response:
                assert await response.text() == "ok\n"
    await server.close()
    await server.close()
    for address in server.addresses:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address.host, address.port)


async def test_a_busy_port_is_a_config_error_and_frees_the_other_addresses(state: State) -> None:
    with socket.socket() as busy, socket.socket() as probe:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        probe.bind(("127.0.0.1", 0))
        free = Address("127.0.0.1", probe.getsockname()[1])
        probe.close()
        taken = Address("127.0.0.1", busy.getsockname()[1])
        with pytest.raises(ConfigError) as caught:
            await start(state.view(), [free, taken])
        assert str(caught.value) == f"--admin-address {taken}: cannot listen: Address already in use"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(free.host, free.port)


async def test_an_address_that_is_not_ours_is_a_config_error(state: State) -> None:
    with pytest.raises(ConfigError) as caught:
        await start(state.view(), [Address("192.0.2.1", 8080)])
    assert str(caught.value) == "--admin-address 192.0.2.1:8080: cannot listen: Cannot assign requested address"
