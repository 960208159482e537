"""Everything that one replica does with its API server, composed: what it reads, the election, and what the leader writes."""

import asyncio
from collections.abc import Sequence

from ingress.config import KubeSettings
from ingress.errors import Verdict
from ingress.facts import ClusterFacts, SourceFacts
from ingress.kube.addresses import AddressReader, Replicas
from ingress.kube.client import KubeClient
from ingress.kube.events import EventRecorder
from ingress.kube.leader import LeaderElection, new_identity
from ingress.kube.source import KubeSource, Sink
from ingress.kube.status import StatusWriter
from ingress.model import ObjectRef
from ingress.translate.compiler import Compilation


class Cluster:
    """The source of a controller that runs for a cluster. Made by `connect`; `close` it at the end."""

    def __init__(self, client: KubeClient, settings: KubeSettings, sink: Sink) -> None:
        self._client = client
        self._settings = settings
        self._source = KubeSource(client, settings, sink)
        self._election = LeaderElection(client, settings, new_identity(settings.pod_name))
        self._replicas = Replicas(client, settings)
        self._status = StatusWriter(
            client,
            settings,
            election=self._election,
            replicas=self._replicas,
            observed=self._source.status_of,
        )
        self._addresses = AddressReader(client, settings, self._replicas, self._status.set_addresses)
        self._events = EventRecorder(client, settings, election=self._election, find=self._find)
        self._source.on_status_change = self._status.note
        self._served: frozenset[ObjectRef] | None = None

    @classmethod
    async def connect(cls, settings: KubeSettings, sink: Sink) -> "Cluster":
        """Raise ConfigError if there is no usable configuration. The API server isn't asked for anything yet."""
        return cls(await KubeClient.connect(settings), settings, sink)

    async def run(self) -> None:
        """Until cancelled. What is written waits for the first complete read, so that it never competes with it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._source.run(), name="kube:source")
            await self._source.synced.wait()
            if self._settings.update_status or self._settings.events:
                group.create_task(self._election.run(), name="kube:election")
            if self._settings.update_status:
                group.create_task(self._replicas.run(), name="kube:replicas")
                group.create_task(self._addresses.run(), name="kube:addresses")
                group.create_task(self._status.run(), name="kube:status")
            if self._settings.events:
                group.create_task(self._events.run(), name="kube:events")

    # ---- what the controller tells --------------------------------------------------------------------------------

    def refer(self, built: Compilation) -> None:
        self._source.set_references(built.references)

    def compiled(self, built: Compilation, verdicts: Sequence[Verdict]) -> None:
        self._source.set_references(built.references)
        self._source.follow_services(built.tcp_namespaces)
        self._events.update(verdicts)

    def serving(self, served: frozenset[ObjectRef]) -> None:
        if served is self._served:
            return  # most changes are of routes and endpoints: comparing 10,000 names each time would take milliseconds
        self._served = served
        self._status.set_served(served)
        self._events.served(served)

    async def withdraw(self) -> None:
        """No more writes, except that the last replica removes its addresses; then another may lead."""
        await self._status.shutdown()

    async def close(self) -> None:
        await self._client.close()

    # ---- what the controller asks ---------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        return self._source.settled

    @property
    def stale_since(self) -> float | None:
        return self._source.stale_since

    @property
    def problem(self) -> str:
        return next(iter(self._source.errors().values()), "")

    def facts(self) -> tuple[SourceFacts, ...]:
        return self._source.facts()

    def writes(self) -> ClusterFacts:
        return ClusterFacts(
            is_leader=self._election.is_leader,
            leader=self._election.holder,
            addresses=len(self._addresses.addresses),
            status_writes={"ok": self._status.written, "failed": self._status.failed},
            status_pending=self._status.pending,
            events={"ok": self._events.sent, "dropped": self._events.dropped},
        )

    def _find(self, ref: ObjectRef) -> tuple[str, str] | None:
        found = self._source.object_of(ref)
        return None if found is None else (found.metadata.uid, found.metadata.resource_version)
