"""10,000 Ingresses (1,000 hosts of 10 paths), 2,000 Services, 20,000 endpoints: what a change costs, as a share of the whole.

CPU time of this process, and ratios only: the machine may be busy with anything else.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest

from ingress.config import TranslateSettings
from ingress.model import ClusterState, Ingress, Kind, KubernetesObject, ObjectRef
from ingress.model.kubernetes import IngressTLS
from ingress.routing.table import diff_tables
from ingress.translate import Compilation, Compiler
from tests.certificates import issue, tls_secret

from .build import ingress, path, rule, service, slice_of, state_of

pytestmark = pytest.mark.slow


def make_ingress(i: int, path_: str) -> Ingress:
    return ingress(
        f"ing-{i}",
        rule(f"h{i % 1000}.example.com", path(path_, f"svc-{i % 2000}")),
        namespace=f"ns{i % 20}",
        annotations={"nginx.ingress.kubernetes.io/proxy-read-timeout": "30", "example.com/other": "x"},
        created=f"2026-01-01T00:{i % 60:02}:00Z",
    )


@pytest.fixture(scope="module")
def state() -> ClusterState:
    objects: list[KubernetesObject] = [make_ingress(i, f"/p{i // 1000}") for i in range(10_000)]
    for i in range(2000):
        addresses = [f"10.{i % 250}.{i // 250}.{k + 1}" for k in range(10)]
        objects += [
            service(f"svc-{i}", namespace=f"ns{i % 20}"),
            slice_of(f"svc-{i}", *addresses, namespace=f"ns{i % 20}"),
        ]
    return state_of(objects)


def timed(work: Callable[[], Compilation]) -> tuple[float, Compilation]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def edits(state: ClusterState) -> Iterator[tuple[ClusterState, ObjectRef]]:
    for n in range(31):
        i = n * 37
        new = make_ingress(i, f"/edited-{n}")
        key = (new.metadata.namespace, new.metadata.name)
        yield replace(state, ingresses={**state.ingresses, key: new}), new.ref


def endpoint_changes(state: ClusterState) -> Iterator[tuple[ClusterState, ObjectRef]]:
    for n in range(31):
        new = slice_of(f"svc-{n}", f"10.200.0.{n + 1}", namespace=f"ns{n % 20}")
        key = (new.metadata.namespace, new.service_name)
        yield (
            replace(state, slices={**state.slices, key: (new,)}),
            ObjectRef(Kind.ENDPOINT_SLICE, key[0], new.metadata.name),
        )


def test_from_scratch(state: ClusterState) -> None:
    result = Compiler(TranslateSettings()).compile(state, None)
    assert (len(result.table.hosts), len(result.table.upstreams), result.verdicts) == (1000, 2000, ())


@pytest.mark.parametrize(
    ("changes", "hosts", "upstreams", "share"), [(edits, 1, 0, 1 / 30), (endpoint_changes, 0, 1, 1 / 60)]
)
def test_one_change(
    state: ClusterState,
    changes: Callable[[ClusterState], Iterator[tuple[ClusterState, ObjectRef]]],
    hosts: int,
    upstreams: int,
    share: float,
) -> None:
    compiler = Compiler(TranslateSettings())
    whole, _ = timed(lambda: compiler.compile(state, None))
    times = []
    for changed_state, ref in changes(state):
        before = compiler.compile(state, frozenset([ref])).table
        took, after = timed(lambda s=changed_state, r=ref: compiler.compile(s, frozenset([r])))  # type: ignore[misc]
        delta = diff_tables(before, after.table)
        assert (len(delta.hosts), len(delta.upstreams)) == (hosts, upstreams)
        times.append(took)
    assert statistics.median(times) < share * whole


@pytest.fixture(scope="module")
def state_with_tls(state: ClusterState) -> ClusterState:
    """The same with a Secret a host: each of the 1,000 is named by ten Ingresses."""
    named = {}
    for key, old in state.ingresses.items():
        host = (old.spec.rules or ())[0].host
        entry = IngressTLS(hosts=(host,), secret_name=host)
        named[key] = msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, tls=(entry,)))
    secrets = {}
    for i in range(1000):
        host, namespace = f"h{i}.example.com", f"ns{i % 20}"
        secrets[namespace, host] = tls_secret(issue(host, kind="rsa", number=i % 4), host, namespace)
    return replace(state, ingresses=named, secrets=secrets)


def test_a_thousand_certificates(state_with_tls: ClusterState) -> None:
    compiler = Compiler(TranslateSettings())
    took, result = timed(lambda: compiler.compile(state_with_tls, None))
    assert (len(result.table.certificates), len(result.table.tls_hosts), result.verdicts) == (1000, 1000, ())
    assert took < 3.0
    times = []
    for n in range(21):
        key = (f"ns{n % 20}", f"h{n}.example.com")
        secret = tls_secret(issue(key[1], kind="rsa", number=(n + 1) % 4), key[1], key[0])
        now = replace(state_with_tls, secrets={**state_with_tls.secrets, key: secret})
        before = compiler.compile(state_with_tls, frozenset([secret.ref])).table
        took, after = timed(lambda s=now, r=secret.ref: compiler.compile(s, frozenset([r])))  # type: ignore[misc]
        delta = diff_tables(before, after.table)
        assert (len(delta.certificates), len(delta.tls_hosts), len(delta.hosts)) == (1, 1, 0)
        times.append(took)
    assert statistics.median(times) < 0.030
