"""Properties: the order of objects is irrelevant, incremental equals from scratch, no annotation text raises."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from ingress.config import ClassSettings, TranslateSettings
from ingress.errors import Severity, VerdictReason
from ingress.model import ClusterState, EndpointSlice, Ingress, IngressClass, Kind, KubernetesObject, ObjectRef
from ingress.routing.regex import check_pattern
from ingress.routing.table import HostRoutes, PathType, Route, RoutingTable, apply_delta, diff_tables
from ingress.translate import Compiler, compile_table
from ingress.translate.annotations import parse_annotations
from ingress.translate.annotations.known import KNOWN, SNIPPETS
from ingress.translate.annotations.parse import READ
from ingress.translate.annotations.tls import NAMES as TLS_NAMES
from ingress.translate.names import parse_host
from ingress.translate.paths import looks_like_regex, parse_rule_path
from ingress.translate.report import Report
from tests.certificates import certificate, secret_of, tls_secret

from .build import backend, config_map, endpoints_of, ingress, ingress_class, path, rule, service, slice_of, state_of

REGEX_MODE = VerdictReason.REGEX_MODE

# A small world, so that objects meet: few names, few hosts, few addresses.
NAMES = st.sampled_from(["a", "b", "c"])
HOSTS = st.sampled_from(["", "x.test", "X.test", "*.test", "y.test", "www.x.test", "10.0.0.1"])
SERVICES = st.sampled_from(["s", "t", "u"])
PORTS = st.sampled_from([80, 81, "http"])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "nonsense", "127.0.0.1"])
TIMES = st.sampled_from([None, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "soon"])
EXTERNAL = st.sampled_from(["e.example.com", "f.example.com", "localhost", "?"])

ANNOTATIONS = st.one_of(
    st.dictionaries(
        st.sampled_from(["aioingress.io/", "nginx.ingress.kubernetes.io/"]).flatmap(
            lambda prefix: st.sampled_from(
                [
                    "load-balance",
                    "affinity",
                    "proxy-read-timeout",
                    "canary",
                    "auth-url",
                    "enable-cors",
                    "backend-protocol",
                    "proxy-ssl-verify",
                    "proxy-ssl-secret",
                    "service-upstream",
                    "auth-tls-secret",
                    "ssl-redirect",
                    "ssl-passthrough",
                ]
            ).map(lambda name: prefix + name)
        ),
        st.sampled_from(["ewma", "cookie", "30", "true", "on", "GRPC", "HTTPS", "nonsense", "good-x"]),
        max_size=2,
    ),
    st.dictionaries(  # those of whole hosts
        st.sampled_from(["use-regex", "rewrite-target", "app-root", "server-alias", "from-to-www-redirect"]).map(
            lambda name: "aioingress.io/" + name
        ),
        st.sampled_from(["true", "/p", "/$1", "alias.test", "www.x.test, y.test", "~^alias", "*.test", "~("]),
        max_size=2,
    ),
)


# Whether a name is that of a good Secret doesn't change: one that was good and is not any more is not forgotten (tls.store).
X, WILD = certificate("x.test"), certificate("*.test", kind="rsa")
SECRETS = st.builds(
    lambda named, namespace: tls_secret(named[1], named[0], namespace, **{"ca.crt": named[1].pem}),
    st.sampled_from([("good-x", X), ("good-wild", WILD)]),
    st.sampled_from(["n", "m"]),
) | st.builds(
    lambda data, namespace: secret_of(data, "bad", namespace),
    st.sampled_from([{}, {"tls.crt": X.pem, "tls.key": WILD.key_pem}, {"tls.crt": "x", "tls.key": "y"}]),
    st.sampled_from(["n", "m"]),
)
SECRET_NAMES = st.sampled_from(["good-x", "good-wild", "bad", "", "no name"])
TLS_ENTRIES = st.builds(
    lambda hosts, secret: {"hosts": hosts, "secretName": secret},
    st.lists(st.sampled_from(["x.test", "X.test", "*.test", "gone.test"]), max_size=2),
    SECRET_NAMES,
)


@st.composite
def ingresses(draw: st.DrawFn) -> Ingress:
    paths = st.builds(
        path,
        st.sampled_from(["/", "/p", "/p/", "bad", "/p(.*)", "/("]),
        SERVICES,
        PORTS,
        st.sampled_from(["Prefix", "Exact", "ImplementationSpecific", "Odd", None]),
    )
    rules = draw(
        st.lists(st.builds(lambda h, p: rule(h, *p), HOSTS, st.lists(paths, min_size=1, max_size=3)), max_size=2)
    )
    spec: dict[str, Any] = {}
    if draw(st.booleans()):
        spec["defaultBackend"] = backend(draw(SERVICES), draw(PORTS))
    if draw(st.booleans()):
        spec["tls"] = draw(st.lists(TLS_ENTRIES, max_size=2))
    return ingress(
        draw(NAMES),
        *rules,
        namespace=draw(st.sampled_from(["n", "m"])),
        created=draw(TIMES),
        annotations=draw(ANNOTATIONS),
        cls=draw(st.sampled_from([None, "mine", "gone", "nginx"])),
        **spec,
    )


def ports(draw: st.DrawFn) -> list[Any]:
    return draw(
        st.lists(
            st.sampled_from(
                [
                    {"port": 80},
                    {"name": "http", "port": 81, "targetPort": 8080},
                    {"name": "u", "port": 53, "protocol": "UDP"},
                ]
            ),
            max_size=2,
            unique_by=lambda p: p["port"],
        )
    )


@st.composite
def services(draw: st.DrawFn) -> KubernetesObject:
    spec: dict[str, Any] = {}
    if draw(st.integers(0, 3)) == 0:
        spec = {"type": "ExternalName", "externalName": draw(EXTERNAL)}
    elif draw(st.booleans()):
        spec = {"sessionAffinity": "ClientIP"}
    return service(draw(SERVICES), *ports(draw), namespace=draw(st.sampled_from(["n", "m"])), portless=True, **spec)


@st.composite
def slices(draw: st.DrawFn) -> KubernetesObject:
    endpoints = [
        {"addresses": [draw(ADDRESSES)], "conditions": {"ready": r, "serving": r is None or True, "terminating": not r}}
        for r in draw(st.lists(st.sampled_from([True, False, None]), max_size=2))
    ]
    names = [{"port": 8080}, {"name": "http", "port": 9090}]
    return slice_of(
        draw(SERVICES),
        *(endpoints or ["10.0.0.3"]),
        ports=draw(st.sampled_from([names[:1], names[1:], names, []])),
        namespace=draw(st.sampled_from(["n", "m"])),
        suffix=draw(st.sampled_from(["1", "2"])),
        type=draw(st.sampled_from(["IPv4", "IPv4", "FQDN"])),
    )


@st.composite
def manual(draw: st.DrawFn) -> KubernetesObject:
    subset = {"addresses": [{"ip": draw(ADDRESSES)}], "ports": [{"port": 8080}]}
    return endpoints_of(draw(SERVICES), subset, namespace=draw(st.sampled_from(["n", "m"])))


@st.composite
def ingress_classes(draw: st.DrawFn) -> IngressClass:
    controller = draw(st.sampled_from(["aioingress.io/ingress-controller", "example.com/other"]))
    return ingress_class(draw(st.sampled_from(["mine", "nginx"])), controller, draw(st.booleans()))


@st.composite
def tcp_services(draw: st.DrawFn) -> KubernetesObject:
    targets = st.builds(
        "{}/{}:{}{}".format, st.sampled_from("nm"), SERVICES, PORTS, st.sampled_from(["", ":PROXY", ":?"])
    )
    return config_map("tcp", draw(st.dictionaries(st.sampled_from(["1", "2", "80", "x"]), targets, max_size=3)), "n")


OBJECTS = st.one_of(
    ingresses(), ingresses(), services(), slices(), manual(), ingress_classes(), tcp_services(), SECRETS
)
RESOLVED = st.dictionaries(
    st.sampled_from(["e.example.com", "f.example.com", "localhost"]),
    st.lists(st.sampled_from(["192.0.2.1", "127.0.0.1"]), max_size=2).map(tuple),
)
SETTINGS = st.sampled_from(
    [
        TranslateSettings(),
        TranslateSettings(default_backend_service=("n", "s"), external_name_loopback=False),
        TranslateSettings(classes=ClassSettings(ingress_class="mine"), external_name_enabled=False),
        TranslateSettings(
            tcp_services=("n", "tcp"),
            reserved_ports=frozenset((80,)),
            default_certificate=("n", "good-wild"),
            ssl_passthrough=True,
        ),
    ]
)

World = dict[ObjectRef, KubernetesObject]
Step = tuple[list[KubernetesObject], list[int], Mapping[str, tuple[str, ...]] | None, bool]
STEPS = st.lists(
    st.tuples(
        st.lists(OBJECTS, max_size=3),  # added or edited
        st.lists(st.integers(0, 20), max_size=2),  # deleted, by position
        st.none() | RESOLVED,
        st.booleans(),  # whether the compiler is told what changed
    ),
    min_size=1,
    max_size=6,
)


def state(world: World, resolved: Mapping[str, tuple[str, ...]]) -> ClusterState:
    return state_of(world.values(), resolved)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=STEPS, config=SETTINGS, start=st.lists(OBJECTS, max_size=12))
def test_incremental_equals_from_scratch(
    steps: list[Step], config: TranslateSettings, start: list[KubernetesObject]
) -> None:
    world: World = {o.ref: o for o in start}
    resolved: Mapping[str, tuple[str, ...]] = {}
    compiler = Compiler(config)
    follower: RoutingTable = compiler.compile(state(world, resolved), None).table
    for added, deleted, addresses, told in steps:
        changed = {o.ref for o in added}
        world.update({o.ref: o for o in added})
        for position in deleted:
            if position < len(world):
                ref = list(world)[position]
                changed.add(ref)
                del world[ref]
        names: frozenset[str] = frozenset()
        if addresses is not None:
            names = frozenset(n for n in {*resolved, *addresses} if resolved.get(n) != addresses.get(n))
            resolved = addresses
        now = state(world, resolved)
        incremental = compiler.compile(now, frozenset(changed) if told else None, names)
        assert incremental == compile_table(now, config)
        follower = apply_delta(follower, diff_tables(follower, incremental.table))
        assert follower == incremental.table


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(objects=st.lists(OBJECTS, max_size=15, unique_by=lambda o: o.ref), config=SETTINGS, seed=st.integers(0, 1 << 30))
def test_the_order_of_objects_is_irrelevant(
    objects: list[KubernetesObject], config: TranslateSettings, seed: int
) -> None:
    shuffled = list(objects)
    random.Random(seed).shuffle(shuffled)
    one = compile_table(state_of(objects), config)
    two = compile_table(state_of(shuffled), config)
    assert one == two
    assert one.table.id == two.table.id


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(objects=st.lists(OBJECTS, max_size=15, unique_by=lambda o: o.ref), config=SETTINGS)
def test_tables_hold_together(objects: list[KubernetesObject], config: TranslateSettings) -> None:
    """Every upstream that a route names is there, and none that no route names; keys say what their values say."""
    result = compile_table(state_of(objects), config)
    table = result.table
    named = {r.upstream for h in table.hosts.values() for r in (*h.routes, h.default) if r is not None}
    named.add(table.default.upstream if table.default is not None else None)
    named |= {tcp.upstream for tcp in table.tcp_services.values()}
    assert named - {None} == set(table.upstreams)
    for host, routes in table.hosts.items():
        assert routes.host == host
        assert {r.host for r in routes.routes} <= {host}
        assert len({(r.path, r.path_type) for r in routes.routes}) == len(routes.routes)
    for key, upstream in table.upstreams.items():
        assert upstream.key == key
        assert list(upstream.endpoints) == sorted(set(upstream.endpoints))
    assert list(result.verdicts) == sorted(set(result.verdicts))
    shown = {key for tls in table.tls_hosts.values() for key in tls.certificates}
    assert set(table.certificates) == shown | {table.default_certificate} - {None}
    for host, tls in table.tls_hosts.items():
        assert tls.host == host
        assert host in table.hosts
        assert not tls.passthrough or tls.passthrough in table.upstreams
        assert table.hosts[host].certificate or not tls.certificates


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    objects=st.lists(OBJECTS, max_size=15, unique_by=lambda o: o.ref),
    namespace=st.sampled_from(["n", "m"]),
    data=st.sampled_from([{}, {"tls.crt": "x", "tls.key": "y"}, {"tls.crt": X.pem, "tls.key": WILD.key_pem}]),
)
def test_a_bad_secret_touches_only_hosts_of_those_who_name_it(
    objects: list[KubernetesObject], namespace: str, data: dict[str, str]
) -> None:
    """And those below a wildcard of theirs, which show its certificate."""
    broken = secret_of(data, "good-wild", namespace)
    before = compile_table(state_of(objects), TranslateSettings()).table
    after = compile_table(state_of([*(o for o in objects if o.ref != broken.ref), broken]), TranslateSettings()).table
    concerned = {
        (r.host or "").lower()
        for o in objects
        if isinstance(o, Ingress)
        and o.metadata.namespace == namespace
        and any(entry.secret_name == "good-wild" for entry in o.spec.tls or ())
        for r in o.spec.rules or ()
    }
    below = {"x.test", "y.test"} if "*.test" in concerned else set()
    for host in set(before.hosts) - concerned - below:
        assert after.hosts[host] == before.hosts[host]
        assert after.tls_hosts.get(host) == before.tls_hosts.get(host)
    for host, routes in before.hosts.items():
        assert after.hosts[host].routes == routes.routes


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(objects=st.lists(OBJECTS, max_size=12, unique_by=lambda o: o.ref), extra=ingresses())
def test_a_newer_ingress_never_changes_the_routes_of_older_ones(
    objects: list[KubernetesObject], extra: Ingress
) -> None:
    """But for regex mode, which is the host's: a newer Ingress that asks for it has their paths matched as regular expressions. Even
    then every one of them is there with all that it had, or a verdict for its owner says why it isn't. And but for canaries, which are asked for.
    """
    newest = ingress_with(extra, name="zz", created="2026-01-01T00:00:00Z")
    before = compile_table(state_of(objects), TranslateSettings()).table
    result = compile_table(state_of([*objects, newest]), TranslateSettings())
    after = result.table
    asks = any(key.endswith(("use-regex", "rewrite-target")) for key in newest.metadata.annotations or {})
    for host, routes in before.hosts.items():
        now = after.hosts[host]
        if now.regex_cause != routes.regex_cause:
            assert asks
            assert not routes.regex_cause
            assert now.regex_cause.startswith(f"{newest.ref} sets ")
        left_out = {v.object for v in result.verdicts if v.reason is REGEX_MODE and v.severity is Severity.ERROR}
        for route in routes.routes:
            found = [r for r in now.routes if is_kept(route, r, newest, routes.regex_cause, now)]
            if not found:
                assert now.regex_cause
                assert not routes.regex_cause
                assert f"Ingress {route.namespace}/{route.ingress}" in left_out
                with pytest.raises(ValueError):
                    check_pattern(route.path)
        assert routes.default is None or now.default in (routes.default, as_pattern(routes.default))
        assert routes.app_root in (None, now.app_root)
    assert before.default is None or after.default == before.default


def as_pattern(route: Route) -> Route:
    return structs.replace(route, pattern=route.path)


def is_kept(old: Route, new: Route, newest: Ingress, cause: str, now: HostRoutes) -> bool:
    """`new` is what became of `old`. In regex mode a path is as written, and a Prefix path leaves the path itself to an Exact one."""
    size = len(old.canaries)
    if any((c.route.namespace, c.route.ingress) != (newest.metadata.namespace, "zz") for c in new.canaries[size:]):
        return False
    pairs = list(zip(old.canaries, new.canaries, strict=False))
    if len(pairs) < size or not all(
        a.rule == b.rule and is_kept(a.route, b.route, newest, cause, now) for a, b in pairs
    ):
        return False
    new = structs.replace(new, canaries=old.canaries)
    if not now.regex_cause:
        return new == old
    exact = any(r.path == new.path and r.path_type is PathType.EXACT for r in now.routes)
    longer = new.path if new.path.endswith("/") else f"{new.path}/"
    if new.pattern not in {new.path, longer if exact and new.path_type is not PathType.EXACT else new.path}:
        return False
    if cause:
        return structs.replace(new, pattern=old.pattern) == old
    normal, _ = parse_rule_path(new.path, looks_like_regex(new.path, new.path_type))
    return normal == old.path and structs.replace(new, path=old.path, pattern="") == old


def ingress_with(original: Ingress, name: str, created: str) -> Ingress:
    meta = original.metadata
    metadata = type(meta)(name=name, namespace=meta.namespace, annotations=meta.annotations, creation_timestamp=created)
    return Ingress(metadata=metadata, spec=original.spec)


NAME_TEXT = st.one_of(st.sampled_from(sorted({*READ, *KNOWN, *SNIPPETS})), st.text(max_size=30))
VALUE_TEXT = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="$${}_abchostuierqp()|;, 0123456789kmg-", max_size=40),
    st.sampled_from(["true", "false", "cookie", "$http_a", "off", "0", "10.0.0.0/8"]),
)


@settings(max_examples=500, deadline=None)
@given(
    annotations=st.dictionaries(
        st.tuples(st.sampled_from(["aioingress.io/", "nginx.ingress.kubernetes.io/", "", "x/"]), NAME_TEXT).map(
            "".join
        ),
        VALUE_TEXT,
        max_size=6,
    )
)
def test_no_annotation_text_raises(annotations: dict[str, str]) -> None:
    report = Report("Ingress a/b", "")
    policy = parse_annotations(annotations, TranslateSettings().annotation_prefixes, report=report)
    for verdict in report.verdicts():
        assert verdict.value.isprintable()
        assert verdict.field.isprintable()
        assert verdict.message.isprintable()
    # Whatever asks for access to be restricted closes the routes, unless it is left out or says it is off.
    names = {key.removeprefix("aioingress.io/") for key in annotations if key.startswith("aioingress.io/")}
    if policy.canary is not None:  # restricted as its main Ingress is, and told so
        return
    if any(name.startswith(("auth-", "whitelist-")) and name not in TLS_NAMES for name in names):
        assert policy.closed_reason or policy.left_out
    if "auth-tls-secret" in names and not policy.left_out:  # there is no Secret in this world
        assert policy.tls.client is not None
        assert policy.tls.client.policy.closed


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40) | st.text(alphabet="/.%2eEfF0aA?#\\:*", max_size=20))
def test_no_host_or_path_raises(text: str) -> None:
    host, refusal = parse_host(text)
    assert not (host and refusal)
    assert host or refusal or text == ""
    for literal in (True, False):
        normal, refusal = parse_rule_path(text, literal)
        assert bool(normal) != bool(refusal)
        if normal:  # a normal form is a fixed point
            assert parse_rule_path(normal, literal) == (normal, "")


def test_kinds_of_slices_are_told_apart_by_service() -> None:
    """The changed set names a slice, not its Service: a slice that moves to another Service is found all the same."""
    config = TranslateSettings()
    objects = [ingress("i", rule("x.test", path("/s", "s"), path("/t", "t"))), service("s"), service("t")]
    first: EndpointSlice = slice_of("s", "10.0.0.1")
    compiler = Compiler(config)
    compiler.compile(state_of([*objects, first]), None)
    labels = {"kubernetes.io/service-name": "t"}
    meta = first.metadata
    moved = EndpointSlice(
        metadata=type(meta)(name=meta.name, namespace=meta.namespace, labels=labels),
        endpoints=first.endpoints,
        ports=first.ports,
    )
    now = replace(state_of([*objects, moved]))
    changed = frozenset([ObjectRef(Kind.ENDPOINT_SLICE, meta.namespace, meta.name)])
    assert compiler.compile(now, changed) == compile_table(now, config)
