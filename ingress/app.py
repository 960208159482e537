"""Composition root: the only module that knows every other. Reads like the architecture.

    source -> store -> compile -> publish to the workers -> acknowledged -> status of the Ingresses
                          |-> verdicts to the log, the admin listener and Events

Order of an end: not ready (for `shutdown_grace_s`, still accepting) while the leader hands over; then the workers drain, and follow
changes until they are done; then everything else stops.
"""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import logging
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from ingress import admin, loops
from ingress.admin import AdminServer, AdminView, Probe
from ingress.config import Address, Settings
from ingress.cpus import available_cpus
from ingress.demo.prepare import prepare
from ingress.demo.tour import curl_lines, render
from ingress.errors import IngressError, Verdict, VerdictReason
from ingress.facts import ClusterFacts, ControllerFacts, SourceFacts, TableCounts, count_table, count_verdicts
from ingress.files.source import FilesSource
from ingress.kube.cluster import Cluster
from ingress.logs import VerdictLog, setup_logging
from ingress.middleware import loader, registry
from ingress.model import ConfigMap, KubernetesObject, ObjectRef
from ingress.proxy.accept import ListenerKind
from ingress.resolver import ExternalNameResolver
from ingress.routing.table import RoutingTable
from ingress.store import Store
from ingress.tls.selfsigned import self_signed
from ingress.translate.compiler import Compilation, Compiler
from ingress.translate.tls.expiry import expiry_verdicts
from ingress.translate.tls.hosts import CertificateUse
from ingress.workers import sockets
from ingress.workers.pool import InProcess, WorkerPool
from ingress.workers.supervisor import Supervisor

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_EXPIRY_PERIOD_S = 86400.0
_REFERENCES_S = 1.0  # how long a build waits for Secrets and ConfigMaps that it is the first to name
_FIRST_LOOKUP_S = 2.0  # how long readiness waits for the addresses of ExternalName Services
_FILES, _KUBERNETES = "files", "kubernetes"


class Source(Protocol):
    """Where the objects come from: `FilesSource`, wrapped, or `Cluster`."""

    async def run(self) -> None:
        """Feed the store, until cancelled."""

    def refer(self, built: Compilation) -> None:
        """What this build names is to be read."""

    def compiled(self, built: Compilation, verdicts: Sequence[Verdict]) -> None:
        """The newest build, before the workers have it. `verdicts` are all there are."""

    @property
    def settled(self) -> bool:
        """Everything that the builds so far named has been read, or is known not to be there."""

    def serving(self, served: frozenset[ObjectRef]) -> None:
        """Every worker routes by a table with these Ingresses."""

    async def withdraw(self) -> None:
        """The controller ends: take back what it promised. Bounded in time."""

    async def close(self) -> None: ...

    def facts(self) -> tuple[SourceFacts, ...]: ...

    def writes(self) -> ClusterFacts | None:
        """What it does in the cluster; None: there is none."""

    @property
    def stale_since(self) -> float | None:
        """Unix time since when it can't be read; None while it can."""

    @property
    def problem(self) -> str:
        """Why it can't be read, in one line; empty while it can."""


class Manifests:
    """The standalone source: a folder needs no answer."""

    settled = True
    stale_since = None
    problem = ""

    def __init__(self, settings: Settings, sink: Callable[..., None]) -> None:
        self._sink = sink
        self._files = FilesSource(settings.manifests, self._read)
        self._synced_at: float | None = None

    def _read(self, objects: Mapping[ObjectRef, KubernetesObject], verdicts: Sequence[Verdict]) -> None:
        self._synced_at = time.time()
        self._sink(_FILES, objects, verdicts)

    async def run(self) -> None:
        await self._files.run()

    def refer(self, built: Compilation) -> None:
        pass

    def compiled(self, built: Compilation, verdicts: Sequence[Verdict]) -> None:
        pass

    def serving(self, served: frozenset[ObjectRef]) -> None:
        pass

    async def withdraw(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def facts(self) -> tuple[SourceFacts, ...]:
        return (SourceFacts(_FILES, self._files.synced.is_set(), self._synced_at),)

    def writes(self) -> None:
        return None


class Controller:
    """One `ingress serve`, from its settings to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.hold_off_s, settings.hold_off_limit_s)
        listeners = (*settings.http_addresses, *settings.https_addresses, *settings.admin_addresses)
        ports = frozenset(address.port for address in listeners if address.port)
        translate = dataclasses.replace(
            settings.translate,
            proxy=settings.proxy,
            reserved_ports=ports,
            fallback_certificate=self_signed(datetime.now(UTC)),
            https_port=settings.https_addresses[0].port if settings.https_addresses else 443,
        )
        self._compiler = Compiler(translate, registry.SPECS)
        self._resolver = ExternalNameResolver(self._store.set_resolved)
        self._source: Source | None = None
        self._pool: WorkerPool | None = None
        self._admin: AdminServer | None = None
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        # what the admin listener shows: all of one build
        self._table = RoutingTable()
        self._counts: TableCounts = count_table(self._table)
        self._built: Compilation | None = None
        self._found: tuple[Verdict, ...] = ()  # by the sources and the compiler, less those that time brings
        self._verdicts: tuple[Verdict, ...] = ()  # all there are
        self._certificates: tuple[CertificateUse, ...] = ()
        self._published_at = time.monotonic()
        self._synced = False
        self._config_errors = 0
        # what was served in generations that some worker hasn't acknowledged: oldest first
        self._served: deque[tuple[int, frozenset[ObjectRef]]] = deque()
        self._generation = 0
        self._verdict_log = VerdictLog(_log)
        self._addresses: list[tuple[ListenerKind, tuple[str, int]]] = []
        self.started = asyncio.Event()

    async def ready(self) -> None:
        """Wait until /readyz would say so."""
        while self._pool is None or not self._readiness(self._pool).ok:  # noqa: ASYNC110 - made of several states
            await asyncio.sleep(0.02)

    @property
    def http_addresses(self) -> Sequence[tuple[str, int]]:
        """Where the workers listen, ports chosen by the system included. Empty before the start."""
        return [address for kind, address in self._addresses if kind is ListenerKind.HTTP]

    @property
    def https_addresses(self) -> Sequence[tuple[str, int]]:
        return [address for kind, address in self._addresses if kind is ListenerKind.HTTPS]

    async def run(self) -> int:
        """Serve until a signal (or `stop`), then drain. Returns the exit code; raises IngressError for what can't start."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        workers = available_cpus() if settings.workers is None else settings.workers
        async with contextlib.AsyncExitStack() as ending:
            for number in _SIGNALS:  # first: whoever sees a port open may signal
                loop.add_signal_handler(number, self.stop)
                ending.callback(loop.remove_signal_handler, number)
            loader.install(map(Path, settings.proxy.middleware_paths))
            self._source = await self._connect()
            ending.push_async_callback(self._source.close)
            bound = sockets.bind_all(
                (
                    ("--http-address", ListenerKind.HTTP, settings.http_addresses),
                    ("--https-address", ListenerKind.HTTPS, settings.https_addresses),
                ),
                workers,
            )
            self._addresses = [(listener.kind, listener.socket.getsockname()[:2]) for listener in bound[0]]
            if workers:
                self._pool = Supervisor(settings.proxy, bound, settings.log_format, settings.log_level)
            else:
                self._pool = InProcess(settings.proxy, bound[0], settings.log_format, loop)
            self._pool.on_acknowledged = self._on_acknowledged
            self._pool.on_port_failures = self._report
            try:
                self._admin = await admin.start(self._view(), settings.admin_addresses)
            except BaseException:
                sockets.close(bound)
                raise
            ending.push_async_callback(self._admin.close)
            for kind, (host, port) in self._addresses:
                _log.info("listening on %s://%s with %s", kind, Address(host, port), _serving(workers))
            return await self._run(self._pool, self._source)

    async def _connect(self) -> Source:
        kube = self._settings.kube
        if kube is None:
            return Manifests(self._settings, self._store.update)
        return await Cluster.connect(kube, functools.partial(self._store.apply, _KUBERNETES))

    async def _run(self, pool: WorkerPool, source: Source) -> int:
        work = asyncio.create_task(self._work(pool, source), name="work")
        stopping = asyncio.create_task(self._stopping.wait(), name="stop")
        self.started.set()
        await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        try:
            if work.done():
                pool.kill()
                work.result()
                return 1
            await self._drain(pool, source)
            return 1 if self._forced.is_set() else 0
        except BaseExceptionGroup as group:
            raise _first_cause(group) from group
        finally:
            work.cancel()
            await asyncio.wait((work,))

    async def _work(self, pool: WorkerPool, source: Source) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(source.run(), name="source")
            group.create_task(self._resolver.run(), name="resolver")
            group.create_task(self._translate(pool, source, group), name="translate")
            group.create_task(self._watch_expiry(), name="expiry")
            group.create_task(pool.run(), name="workers")

    async def _translate(self, pool: WorkerPool, source: Source, group: asyncio.TaskGroup) -> None:
        first = True
        held_until: float | None = None
        async for change in self._store.changes():
            began = time.monotonic()
            try:
                built = self._compiler.compile(change.state, change.changed, change.resolved_changed)
            except Exception:
                _log.exception("a change could not be translated; the table before it stays in service")
                continue
            self._resolver.set_hosts(built.external_names)
            held_until = await self._hold(source, built, held_until)
            if held_until is not None:
                continue
            if first or built.table.id != self._table.id:
                self._generation = pool.publish(built.table)
                self._published_at = time.monotonic()
                self._counts = count_table(built.table)
                took_ms = (time.monotonic() - began) * 1000
                _log.info(
                    "table %s: %d hosts, %d routes, %d upstreams, %d endpoints, in %.0f ms",
                    built.table.id or "-",
                    *_sizes(self._counts),
                    took_ms,
                )
            self._certificates, self._found = built.certificates, (*change.verdicts, *built.verdicts)
            self._table, self._built = built.table, built
            self._count_config_errors(self._found)
            self._served.append((self._generation, built.served))
            self._on_acknowledged(pool.acknowledged)
            self._report()
            if first:
                first = False
                # What the sources and the compiler hold lives as long as the process: out of the collector's sight, whose full
                # rounds would take a tenth of a second at 10,000 Ingresses, in the middle of an edit.
                gc.set_threshold(20000, 20, 100)
                gc.freeze()
                group.create_task(self._settle(source, built.external_names), name="first-lookups")

    async def _hold(self, source: Source, built: Compilation, held_until: float | None) -> float | None:
        """Wait for what this build is the first to name: a Secret that hasn't been read yet isn't missing.

        A time: it has come, and with it another build, which is to be published instead; not for longer than that. None: publish this one.
        """
        was_settled = source.settled
        source.refer(built)
        if not was_settled or source.settled:
            return None
        deadline = time.monotonic() + _REFERENCES_S if held_until is None else held_until
        await _until_settled(source, deadline)
        return deadline if self._store.waiting and time.monotonic() < deadline else None

    def _all_verdicts(self) -> tuple[Verdict, ...]:
        """Of the newest build, of the certificates that it uses as time goes, and of the ports that the workers can't have."""
        tcp = self._settings.translate.tcp_services
        failures = self._pool.port_failures if self._pool is not None and tcp is not None else {}
        ports = (_port_verdict(tcp, *failure) for failure in sorted(failures.items()))
        return (*self._found, *expiry_verdicts(self._certificates, datetime.now(UTC)), *ports)

    async def _watch_expiry(self) -> None:
        """Certificates come to their end without any change of an object."""
        while True:
            await asyncio.sleep(_EXPIRY_PERIOD_S)
            if self._all_verdicts() != self._verdicts:
                self._report()

    async def _settle(self, source: Source, names: frozenset[str]) -> None:
        """The first sync counts when what it named (ExternalName hosts, Secrets) was looked up, or could not be in reasonable time."""
        deadline = time.monotonic() + _FIRST_LOOKUP_S
        while time.monotonic() < deadline and not (  # noqa: ASYNC110 - made of several states
            source.settled and all(name in self._store.state.resolved for name in names)
        ):
            await asyncio.sleep(0.02)
        self._synced = True

    def _on_acknowledged(self, generation: int) -> None:
        served: frozenset[ObjectRef] | None = None
        while self._served and self._served[0][0] <= generation:
            served = self._served.popleft()[1]
        if served is not None and self._source is not None:
            self._source.serving(served)

    def _report(self) -> None:
        """To the log, the admin listener and the source: what the newest build is not, and which ports the workers can't have."""
        if self._built is None or self._source is None:
            return
        self._verdicts = self._all_verdicts()
        self._verdict_log.update(self._verdicts)
        self._source.compiled(self._built, self._verdicts)

    def _count_config_errors(self, verdicts: Sequence[Verdict]) -> None:
        unreadable = (VerdictReason.PARSE_ERROR, VerdictReason.INVALID_OBJECT)
        known = frozenset(self._verdicts)
        self._config_errors += sum(1 for v in verdicts if v.reason in unreadable and v not in known)

    # ---- end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """What a signal does: the first drains, the second cuts."""
        if self._stopping.is_set():
            _log.warning("second signal: cutting what is under way")
            self._forced.set()
            if self._pool is not None:
                self._pool.kill()
        else:
            _log.info("draining; signal again to cut")
            self._stopping.set()

    async def _drain(self, pool: WorkerPool, source: Source) -> None:
        withdrawal = asyncio.create_task(source.withdraw(), name="withdraw")
        if self._settings.shutdown_grace_s:
            try:
                async with asyncio.timeout(self._settings.shutdown_grace_s):
                    await self._forced.wait()
            except TimeoutError:
                pass
        proxy = self._table.settings or self._settings.proxy
        await pool.drain(proxy.drain_timeout_s)
        if self._forced.is_set():
            withdrawal.cancel()
        await asyncio.wait((withdrawal,))
        if not withdrawal.cancelled() and (problem := withdrawal.exception()) is not None:
            _log.error("what was published could not be taken back", exc_info=problem)

    # ---- admin ---------------------------------------------------------------------------------------------------

    def _view(self) -> AdminView:
        pool = self._pool
        assert pool is not None
        return AdminView(
            health=lambda: Probe(True) if pool.alive else Probe(False, "no worker is alive"),
            readiness=lambda: self._readiness(pool),
            metrics_snapshot=pool.metrics,
            table=lambda: self._table,
            verdicts=lambda: self._verdicts,
            facts=lambda: self._facts(pool),
        )

    def _readiness(self, pool: WorkerPool) -> Probe:
        if self._stopping.is_set():
            return Probe(False, "draining")
        if not self._synced:
            problem = self._source.problem if self._source is not None else ""
            return Probe(False, f"the first sync is not complete{': ' if problem else ''}{problem}")
        if not pool.ready:
            return Probe(False, f"{pool.live} of {pool.wanted} workers serve")
        since = self._source.stale_since if self._source is not None else None
        if since is not None:
            # Still ready: the last table serves, and a restart would only lose it.
            return Probe(True, f"stale: no contact with the API server for {time.time() - since:.0f} s")
        return Probe(True)

    def _facts(self, pool: WorkerPool) -> ControllerFacts:
        source = self._source
        return ControllerFacts(
            table_id=self._table.id,
            table_age_s=time.monotonic() - self._published_at,
            hosts=self._counts.hosts,
            routes=self._counts.routes,
            upstreams=self._counts.upstreams,
            endpoints=self._counts.endpoints,
            verdicts=count_verdicts(self._verdicts),
            workers_wanted=pool.wanted,
            workers_live=pool.live,
            worker_restarts=pool.restarts,
            sources=source.facts() if source is not None else (),
            cluster=source.writes() if source is not None else None,
            config_errors=self._config_errors,
            certificates=self._certificates,
        )


def _port_verdict(config_map: tuple[str, str] | None, port: int, reason: str) -> Verdict:
    return Verdict(
        object=str(ObjectRef(ConfigMap.kind, *(config_map or ("", "")))),
        field=f"data.{port}",
        reason=VerdictReason.PORT_UNAVAILABLE,
        message=f"The port can't be opened, and is tried again: {reason}.",
        value=str(port),
    )


def _serving(workers: int) -> str:
    if not workers:
        return "the controller itself"
    return "1 worker" if workers == 1 else f"{workers} workers"


def _sizes(counts: TableCounts) -> tuple[int, int, int, int]:
    return counts.hosts, counts.routes, counts.upstreams, counts.endpoints


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """An error of ours, if there is one in the group: that is what the user can act on."""
    ours = group.subgroup(IngressError)
    found: BaseException = ours if ours is not None else group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _raise_file_limit() -> None:
    """Use all the file descriptors that the system grants: two a proxied connection, and the usual soft limit is 1,024. Workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as problem:
            _log.warning("at most %d connections and files can be open: %s", soft, problem)


def serve(settings: Settings) -> int:
    """`ingress serve`. Returns the exit code; raises IngressError for what can't start."""
    setup_logging(settings.log_format, settings.log_level)
    _raise_file_limit()

    async def main() -> int:
        return await Controller(settings).run()

    return loops.run(main())


async def _until_settled(source: Source, deadline: float) -> None:
    while not source.settled and time.monotonic() < deadline:  # noqa: ASYNC110 - made of several states
        await asyncio.sleep(0.005)


def demo(settings: Settings, manifests: Path | None) -> int:
    """`ingress demo`: the same with backends and manifests of its own. Prints the curl lines to try once they work."""
    setup_logging(settings.log_format, settings.log_level)
    _raise_file_limit()

    async def main() -> int:
        async with prepare(manifests) as demonstration:
            controller = Controller(dataclasses.replace(settings, manifests=(demonstration.folder,)))
            tour = asyncio.create_task(_show_tour(controller, demonstration.folder), name="tour")
            try:
                return await controller.run()
            finally:
                tour.cancel()

    return loops.run(main())


async def _show_tour(controller: Controller, folder: Path) -> None:
    await controller.started.wait()
    await controller.ready()
    http, https = (Address(*found[0]) for found in (controller.http_addresses, controller.https_addresses))
    print(render(curl_lines(http, https)), flush=True)
    print(f"# The manifests are in {folder}: edit one and see the change at once. Ctrl-C ends the demo.", flush=True)
