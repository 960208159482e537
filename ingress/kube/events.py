"""Verdicts as Events on the objects they are about, so that `kubectl describe ingress` shows why something isn't served.

core/v1 Events, as ingress-nginx and the recorder of client-go write them. The name of an Event is a digest of what it says: a new leader that says the same
again is told so by a 409, and repeats nothing.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from cachetools import LRUCache

from ingress.config import CONTROLLER_NAME, KubeSettings
from ingress.errors import SourceError, Verdict
from ingress.kube.api import MERGE_PATCH, Api, Conflict, Forbidden, NotFound, Unavailable
from ingress.kube.ratelimit import DelayQueue, TokenBucket, backoff_s, wait_for
from ingress.model import Kind, ObjectRef

_log = logging.getLogger(__name__)
_MESSAGE_LIMIT_BYTES = 1024
_NAME_LIMIT = 253
_KEPT_S = 3600.0  # how long the API server keeps an Event after its last change (--event-ttl)
_TRIES = 10
_PERIOD_S = 30.0
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 30.0
_REFUSED_S = 300.0
_OBJECTS = 4096  # whose rates are remembered
_CLUSTER_SCOPED = "default"  # the namespace of Events about objects that have none
SYNC = "Sync"

_API_VERSIONS = {
    Kind.INGRESS: "networking.k8s.io/v1",
    Kind.INGRESS_CLASS: "networking.k8s.io/v1",
    Kind.SERVICE: "v1",
    Kind.ENDPOINTS: "v1",
    Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1",
    Kind.SECRET: "v1",
    Kind.CONFIG_MAP: "v1",
}


@dataclass(frozen=True, slots=True)
class Note:
    """What one Event says."""

    ref: ObjectRef
    type: str  # Warning | Normal
    reason: str
    message: str
    field: str = ""

    def name(self, uid: str) -> str:
        """`<object>.<16 hex digits>`: the same for the same words about the same object (not one made anew under its name)."""
        said = "\0".join((uid, self.ref.kind, self.type, self.reason, self.field, self.message))
        digest = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        return f"{self.ref.name[: _NAME_LIMIT - 17].rstrip('-.')}.{digest}"

    @property
    def namespace(self) -> str:
        return self.ref.namespace or _CLUSTER_SCOPED


def parse_object(text: str) -> ObjectRef | None:
    """The object of a verdict, as `str(ObjectRef)` wrote it. None: a file, or a kind that Events can't be about."""
    word, _, rest = text.partition(" ")
    try:
        kind = Kind(word)
    except ValueError:
        return None
    namespace, slash, name = rest.rpartition("/")
    if (
        not name
        or "/" in namespace
        or " " in rest
        or bool(slash) == (kind is Kind.INGRESS_CLASS)
        or (slash and not namespace)
    ):
        return None
    return ObjectRef(kind, namespace, name)


def note_of(verdict: Verdict) -> Note | None:
    """None: it is not about an object of the API server."""
    ref = parse_object(verdict.object)
    if ref is None:
        return None
    value = f" {verdict.value!r}" if verdict.value else ""
    where = f"{verdict.field}{value}".strip()
    message = f"{where}: {verdict.message}" if where else verdict.message
    return Note(ref, "Warning", verdict.reason.value, shorten(message), verdict.field)


def shorten(message: str) -> str:
    """To what an Event may hold, counted in bytes of UTF-8."""
    raw = message.encode()
    if len(raw) <= _MESSAGE_LIMIT_BYTES:
        return message
    return raw[: _MESSAGE_LIMIT_BYTES - 3].decode(errors="ignore") + "…"


def event_of(note: Note, uid: str, resource_version: str, instance: str, now: str) -> dict[str, Any]:
    """`eventTime` is left out: with it the API server applies rules under which `kubectl describe` shows no count."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": note.name(uid), "namespace": note.namespace},
        "involvedObject": {
            "apiVersion": _API_VERSIONS[note.ref.kind],
            "kind": note.ref.kind.value,
            "namespace": note.ref.namespace,
            "name": note.ref.name,
            "uid": uid,
            "resourceVersion": resource_version,
            "fieldPath": note.field,
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": CONTROLLER_NAME},
        "reportingComponent": CONTROLLER_NAME,
        "reportingInstance": instance,
    }


class Leadership(Protocol):
    """`leader.LeaderElection`, as far as needed here."""

    @property
    def is_leader(self) -> bool: ...
    def on_change(self, callback: Callable[[bool], None]) -> None: ...


@dataclass(slots=True)
class _Lane:
    """Notes that wait, and how fast they go. Warnings never wait behind news."""

    limit: int
    bucket: TokenBucket
    queue: DelayQueue[Note] = field(default_factory=DelayQueue)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    held_until: float = 0.0
    failures: int = 0  # in a row: the API server isn't there


@dataclass(slots=True)
class _Sent:
    """What became of a note. Kept while it holds, and as long as its Event may exist."""

    uid: str = ""  # of the object; empty: not sent
    count: int = 0
    at: float = 0.0
    holds: bool = True
    waits: bool = False
    failures: int = 0


class EventRecorder:
    """Told of verdicts by method calls, which never block; `run` sends. Only the leader sends.

    `find(ref)`: uid and resourceVersion of an object, None if there is none (then there is nothing to attach an Event to).
    """

    def __init__(
        self,
        api: Api,
        settings: KubeSettings,
        *,
        election: Leadership,
        find: Callable[[ObjectRef], tuple[str, str] | None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
        queue_limit: int = 1000,
    ) -> None:
        self.sent = 0  # created or counted up
        self.dropped = 0  # for want of room in the queue, or refused too often
        self._api = api
        self._enabled = settings.events
        self._instance = settings.pod_name
        self._election = election
        self._find = find
        self._clock = clock
        self._wall = wall
        self._rng = rng or random.Random()
        now = clock()
        self._warnings = _Lane(queue_limit, TokenBucket(5.0, 25, now))
        self._news = _Lane(100, TokenBucket(1.0, 10, now))
        self._known: dict[Note, _Sent] = {}
        self._served: frozenset[ObjectRef] | None = None
        self._of_object: LRUCache[ObjectRef, TokenBucket] = LRUCache(_OBJECTS)
        self._refused: dict[str, float] = {}  # namespace: until when
        self._verdicts: frozenset[Verdict] = frozenset()
        self._current: Counter[Note] = Counter()  # by verdicts: two may say the same about a field
        election.on_change(self.set_leader)

    # ---- what happens ---------------------------------------------------------------------------------------------

    def update(self, verdicts: Sequence[Verdict]) -> None:
        """All verdicts of the newest compile, not a change."""
        if not self._enabled:
            return
        before, self._verdicts = self._verdicts, frozenset(verdicts)
        now = self._clock()
        for verdict in sorted(self._verdicts - before):
            note = note_of(verdict)
            if note is not None:
                self._current[note] += 1
                if self._current[note] == 1:
                    self._holds(self._warnings, note, now)
        for verdict in before - self._verdicts:
            note = note_of(verdict)
            if note is not None:
                self._current[note] -= 1
                if not self._current[note]:
                    del self._current[note]
                    self._ceased(note)

    def served(self, refs: frozenset[ObjectRef]) -> None:
        """All Ingresses that are served now. The first call is how things were found, and no news."""
        before, self._served = self._served, refs
        if not self._enabled or before is None:
            return
        now = self._clock()
        for ref in sorted(before - refs):
            self._ceased(_sync_note(ref))
        if self._election.is_leader:
            for ref in sorted(refs - before):
                self._holds(self._news, _sync_note(ref), now)

    def set_leader(self, leads: bool) -> None:
        for lane in (self._warnings, self._news):
            lane.queue.clear()
        for known in self._known.values():
            known.waits = False
        if leads:
            now = self._clock()
            for note in self._current:
                if not self._known[note].uid:
                    self._holds(self._warnings, note, now)

    # ---- the queues -----------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        return len(self._warnings.queue) + len(self._news.queue)

    def _holds(self, lane: _Lane, note: Note, now: float) -> None:
        known = self._known.setdefault(note, _Sent())
        known.holds = True
        known.failures = 0
        if not self._election.is_leader or known.waits:
            return
        known.waits = True
        lane.queue.add(note, now)
        if len(lane.queue) > lane.limit:
            dropped = lane.queue.drop_first()
            assert dropped is not None
            self._known[dropped].waits = False
            self._give_up(self._known[dropped])
        lane.wake.set()

    def _give_up(self, known: _Sent) -> None:
        """Not again before it has ceased to hold."""
        self.dropped += 1
        known.failures = _TRIES

    def _ceased(self, note: Note) -> None:
        known = self._known.get(note)
        if known is None:
            return
        known.holds = False
        if not known.uid and not known.waits:
            del self._known[note]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._periodically(), name="events:period")
            group.create_task(self._drain(self._warnings), name="events:warnings")
            group.create_task(self._drain(self._news), name="events:news")

    async def _periodically(self) -> None:
        """Objects that were not known yet, or were made anew under their name, without a compile that would have said so."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            now = self._clock()
            self._known = {
                note: known
                for note, known in self._known.items()
                if known.holds or known.waits or now - known.at <= _KEPT_S
            }
            for note in self._current:
                known = self._known[note]
                found = self._find(note.ref)
                if found is not None and not known.waits and found[0] != known.uid and known.failures < _TRIES:
                    self._holds(self._warnings, note, now)

    async def _drain(self, lane: _Lane) -> None:
        while True:
            now = self._clock()
            wait_s = lane.queue.wait_s(now)
            if wait_s is not None:
                wait_s = max(wait_s, lane.bucket.wait_s(now), lane.held_until - now)
            if wait_s is None or wait_s > 0:
                lane.wake.clear()
                await wait_for(lane.wake, wait_s)
                continue
            note = lane.queue.pop(now)
            if note is not None:
                await self._consider(lane, note, now)

    async def _consider(self, lane: _Lane, note: Note, now: float) -> None:
        known = self._known[note]
        known.waits = False
        found = self._find(note.ref)
        if not known.holds:
            self._ceased(note)
            return
        if found is None or not self._election.is_leader:
            return
        bucket = self._of_object.get(note.ref)
        if bucket is None:
            bucket = self._of_object[note.ref] = TokenBucket(3 / 60, 10, now)
        due = max(now + bucket.wait_s(now), self._refused.get(note.namespace, 0.0))
        if due > now:
            self._later(lane, note, known, due)
            return
        lane.bucket.take(now)
        bucket.take(now)
        await self._send(lane, note, known, *found)

    def _later(self, lane: _Lane, note: Note, known: _Sent, due: float) -> None:
        known = self._known.setdefault(note, known)  # forgotten while it was being sent
        known.waits = True
        lane.queue.add(note, due)

    # ---- sending --------------------------------------------------------------------------------------------------

    async def _send(self, lane: _Lane, note: Note, known: _Sent, uid: str, resource_version: str) -> None:
        try:
            if known.uid == uid and self._clock() - known.at < _KEPT_S:
                await self._count_up(note, known, uid, resource_version)
            else:
                await self._create(note, known, uid, resource_version)
        except Forbidden as error:
            if note.namespace not in self._refused:
                _log.warning("not allowed to write Events in namespace %s: %s", note.namespace, error)
            until = self._refused[note.namespace] = self._clock() + _REFUSED_S
            if known.holds and self._election.is_leader:
                self._later(lane, note, known, until)
        except Unavailable as error:
            lane.failures += 1
            delay_s = backoff_s(lane.failures, _FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S, self._rng.random())
            delay_s = max(delay_s, min(error.retry_after_s or 0.0, _LONGEST_BACK_OFF_S))
            lane.held_until = self._clock() + delay_s
            self._retry(lane, note, known, delay_s)
        except NotFound:
            self._give_up(known)  # the namespace goes, and the object with it
        except SourceError as error:
            self._give_up(known)
            _log.warning("an Event about %s was refused: %s", note.ref, error)
        else:
            lane.failures = 0
            known.uid = uid
            known.at = self._clock()
            known.failures = 0
            self._refused.pop(note.namespace, None)

    def _retry(self, lane: _Lane, note: Note, known: _Sent, delay_s: float) -> None:
        known.failures += 1
        if known.failures >= _TRIES:
            self._give_up(known)
        elif self._election.is_leader and known.holds:
            self._later(lane, note, known, self._clock() + delay_s)

    async def _create(self, note: Note, known: _Sent, uid: str, resource_version: str) -> None:
        event = event_of(note, uid, resource_version, self._instance, self._now())
        try:
            await self._api.send("POST", f"/api/v1/namespaces/{note.namespace}/events", event)
        except Conflict:
            if known.uid == uid:  # said before, and ceased for a while; kept longer than expected
                await self._count_up(note, known, uid, resource_version)
            else:
                known.count = 1  # the leader before us said so, or we did and the answer was lost
            return
        known.count = 1
        self.sent += 1

    async def _count_up(self, note: Note, known: _Sent, uid: str, resource_version: str) -> None:
        patch = {"count": known.count + 1, "lastTimestamp": self._now()}
        path = f"/api/v1/namespaces/{note.namespace}/events/{note.name(uid)}"
        try:
            await self._api.send("PATCH", path, patch, content_type=MERGE_PATCH)
        except NotFound:
            known.uid = ""
            await self._create(note, known, uid, resource_version)
            return
        known.count += 1
        self.sent += 1

    def _now(self) -> str:
        return self._wall().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sync_note(ref: ObjectRef) -> Note:
    return Note(ref, "Normal", SYNC, "Now served")
