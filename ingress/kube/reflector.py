"""List, then watch, for ever: a copy of one collection that follows the API server (KEP-956 bookmarks).

    list ──► watch ──► (ended, cut) ──► watch from the last resourceVersion
      ▲                 (410 Gone) ─────────────────────────┐
      └─────────────────────────────────────────────────────┘

What was seen last stays while the API server is away. A relist is compared with what is known, so that an object that didn't
change stays the same object.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from ingress.errors import SourceError, Verdict
from ingress.kube.api import Api, NotFound, ResourceExpired, Unavailable
from ingress.kube.decode import Addresses, Event, Item, Undecodable
from ingress.kube.discovery import Resource
from ingress.model.kubernetes import KubernetesObject
from ingress.model.ref import Kind, ObjectRef
from ingress.store import same_content

BACKOFF_S = 0.1
BACKOFF_LIMIT_S = 30.0
REFUSED_LIMIT_S = 10.0  # RBAC that was repaired should be noticed soon
REFUSALS_IN_DOUBT = 6  # in a row, within some seconds, before the log says so of what could be read
RETRY_AFTER_LIMIT_S = 120.0
WATCH_S = (240.0, 480.0)  # asked of the server; different every time, so that not all watches end at once
IDLE_S = 150.0  # a bookmark is due every minute (KEP-956): silence means that nobody is there any more, and costs a new watch at most
SHORT_WATCH_S = 1.0  # one that ends sooner, without a word, counts as a failure
STALE_S = 300.0  # the API server keeps history for 5 minutes: after a longer silence the version is of no use
EXPIRED_PAGES_LIMIT = 2  # continue tokens that expired before a list is asked for in one piece

_log = logging.getLogger(__name__)


class WatchApi(Api, Protocol):
    """An `Api` whose watch can tell which lines came together."""

    def batches(
        self, path: str, query: Mapping[str, str], *, idle_timeout_s: float
    ) -> AsyncGenerator[Sequence[bytes], None]:
        """As `watch`, but all lines that are there at once; first none, as soon as the server has accepted the watch."""
        ...


@dataclass(slots=True)
class Timing:
    """Clock, sleep and chance, to be replaced in tests. `clock` is monotonic, `wall` is Unix time."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)


@dataclass(slots=True)
class Batch:
    """What one list or one read of a watch changed. `verdicts`: whether those of the reflector changed. `statuses`: the
    Ingresses that came, went, or show another status.
    """

    upserts: dict[ObjectRef, KubernetesObject] = field(default_factory=dict)
    removed: set[ObjectRef] = field(default_factory=set)
    verdicts: bool = False
    statuses: set[ObjectRef] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removed or self.verdicts or self.statuses)


class Link:
    """What the reflectors of one API server share: the log says once that it is lost and once that it is back, and the first
    that gets through wakes the others.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._failing: set[str] = set()
        self._lost_at = 0.0
        self._woken = asyncio.Event()

    def failed(self, name: str, error: Exception) -> None:
        if not self._failing:
            self._lost_at = self._timing.clock()
            _log.warning("lost the API server: %s; what was read last stays in service", error)
        self._failing.add(name)

    def works(self, name: str) -> None:
        if name not in self._failing:
            return
        self._failing.discard(name)
        if not self._failing:
            _log.warning("the API server is back after %.1f s", self._timing.clock() - self._lost_at)
        self.wake()

    def wake(self) -> None:
        """End every pause."""
        self._woken.set()
        self._woken = asyncio.Event()

    def forget(self, name: str) -> None:
        """It doesn't try any more."""
        self._failing.discard(name)

    async def pause(self, delay_s: float) -> None:
        """Until the time is over, or some reflector gets through again."""
        if delay_s <= 0.0:
            return
        waits = (asyncio.ensure_future(self._timing.sleep(delay_s)), asyncio.ensure_future(self._woken.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def backoff_s(failures: int, limit_s: float, rng: random.Random) -> float:
    """The wait after that many failures (from 1): doubling, with jitter between half and all of it."""
    return min(limit_s, BACKOFF_S * 2.0 ** min(failures - 1, 30)) * rng.uniform(0.5, 1.0)


class Reflector:
    """Follows one collection. `deliver` is called in the event loop: after every list (even without a change), after every
    read of the watch that changed something, and with an empty batch when the server refuses.
    """

    def __init__(
        self,
        name: str,
        api: WatchApi,
        locate: Callable[[], Awaitable[Resource]],
        deliver: "Callable[[Reflector, Batch], None]",
        link: Link,
        timing: Timing,
        *,
        required: bool,
        page_size: int,
    ) -> None:
        """`locate`: asked at the start, and again after a 404 (an API group may come or go with an upgrade)."""
        self.name = name
        self.required = required
        self.objects: dict[ObjectRef, KubernetesObject] = {}
        self.verdicts: dict[ObjectRef, Verdict] = {}
        self.statuses: dict[ObjectRef, Addresses] = {}  # of every Ingress, usable or not
        # for people
        self.listed = False  # at least once
        self.refused = False  # the answer to the last request was Forbidden, NotFound or the like
        self.connected = False
        self.last_contact: float | None = None  # Unix time
        self.error = ""  # of the last attempt, if that failed
        self.relists = 0
        self.restarts = 0  # of the watch, without a list
        self._api = api
        self._locate = locate
        self._deliver = deliver
        self._link = link
        self._timing = timing
        self._page_size = page_size
        self._resource: Resource | None = None
        self._version = ""  # empty: list
        self._fresh = False  # listed, and not watched since
        self._failures = 0
        self._refusals = 0
        self._contact_at = timing.clock()
        self._shown = ""
        self._reading = asyncio.Lock()  # a list, or the GET of single objects
        self._fetching: dict[
            ObjectRef, str
        ] = {}  # version of what the watch said since the GET was sent, empty: nothing
        self._fetched: dict[ObjectRef, str] = {}  # version that a GET brought: the watch may still be behind it

    @property
    def started(self) -> bool:
        """A list was asked for: what is wanted from now on may be missing in it."""
        return self._resource is not None

    @property
    def settled(self) -> bool:
        """The first list is there, or was refused."""
        return self.listed or self.refused

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._link.pause(await self._attempt())
        finally:
            self.connected = False
            self._link.forget(self.name)

    async def _attempt(self) -> float:
        """One list or watch, to its end. How long to wait before the next."""
        began = self._timing.clock()
        if self._version and began - self._contact_at > STALE_S:
            self._version = ""
        try:
            if not self._version:
                await self._list()
                return 0.0
            healthy = await self._watch()
        except ResourceExpired as error:
            self._version = ""
            _log.debug("%s: listing again: %s", self.name, error)
            self._failures += 1
            return 0.0 if self._failures == 1 else backoff_s(self._failures - 1, BACKOFF_LIMIT_S, self._timing.rng)
        except (Unavailable, Undecodable) as error:
            if isinstance(error, Undecodable):
                self._version = ""
            return self._unavailable(error)
        except SourceError as error:
            if isinstance(error, NotFound):
                self._resource, self._version = None, ""
            return self._refused(error)
        self._contact()
        if healthy:
            return 0.0
        self._failures += 1
        return backoff_s(self._failures, BACKOFF_LIMIT_S, self._timing.rng)

    # ---- list -----------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        if self._resource is None:
            self._resource = await self._locate()
        # Never while an object is fetched: which of the two answers is newer could not be told.
        async with self._reading:
            self._fetched.clear()
            items, self._version = await self._pages(self._resource)
            self.relists += self.listed
            self.listed = self._fresh = True
        batch = Batch()
        self._replace(items, batch)
        self._deliver(self, batch)

    async def _pages(self, resource: Resource) -> tuple[list[Item], str]:
        items: list[Item] = []
        query = {**resource.query, "limit": str(self._page_size)}
        expired = 0
        while True:
            try:
                page = resource.decoder.page(await self._api.get(resource.path, query))
            except ResourceExpired:
                expired += 1
                if expired > EXPIRED_PAGES_LIMIT:
                    raise
                items.clear()
                query = dict(resource.query)
                if expired < EXPIRED_PAGES_LIMIT:
                    query["limit"] = str(self._page_size)
                continue
            self._contact()
            items += page.items
            if not page.continue_token:
                return items, page.version
            query["continue"] = page.continue_token

    def _replace(self, items: Iterable[Item], batch: Batch) -> None:
        listed: set[ObjectRef] = set()
        for item in items:
            self._put(item, batch)
            listed.add(item.ref)
        for ref in (*self.objects, *self.verdicts, *self.statuses):
            if ref not in listed:
                self._drop(ref, batch)

    # ---- watch ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> bool:
        """Whether it was of use before it ended: said something, or lasted."""
        resource = self._resource
        assert resource is not None
        limit_s = self._timing.rng.uniform(*WATCH_S)
        query = {
            **resource.query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(limit_s)),
        }
        healthy, opened_at = False, math.inf
        try:
            async with aclosing(self._api.batches(resource.path, query, idle_timeout_s=IDLE_S)) as batches:
                async for lines in batches:
                    self._contact()
                    if opened_at == math.inf:
                        opened_at = self._contact_at
                        self.restarts += not self._fresh
                        self._fresh = False
                    if not lines:
                        continue
                    events, fault = resource.decoder.events(lines)
                    if events:
                        healthy = True
                        self._take_all(events)
                    if fault is not None:
                        raise fault
        finally:
            healthy = healthy or self._timing.clock() - opened_at >= SHORT_WATCH_S
            if healthy:
                self._failures = 0
        return healthy

    def _take_all(self, events: Sequence[Event]) -> None:
        batch = Batch()
        for event in events:
            self._take(event, batch)
        if batch:
            self._deliver(self, batch)

    def _take(self, event: Event, batch: Batch) -> None:
        if event.version:
            self._version = event.version
        item = event.item
        if item is None:
            return
        ref = item.ref
        if ref in self._fetching:
            self._fetching[ref] = item.version
        if self._fetched and (held := self._fetched.get(ref)) is not None:
            if _older(item.version, held):
                return
            del self._fetched[ref]
        if event.deleted:
            self._drop(ref, batch)
        else:
            self._put(item, batch)

    # ---- single objects -------------------------------------------------------------------------------------------

    async def fetch(self, ref: ObjectRef, path: str) -> None:
        """GET one object that the decoder dropped until now, because nobody wanted it. Raise SourceError, except NotFound."""
        async with self._reading:
            resource = self._resource
            if resource is None or not self.listed:
                return  # the list is still to come, and brings it
            self._fetching[ref] = ""
            try:
                item = resource.decoder.single(await self._api.get(path))
                seen = self._fetching[ref]
            except NotFound:
                return
            finally:
                del self._fetching[ref]
            if item is None or item.ref != ref or (seen and not _older(seen, item.version)):
                return  # the watch is ahead
            batch = Batch()
            self._put(item, batch)
            self._fetched[ref] = item.version
        if batch:
            self._deliver(self, batch)

    def forget(self, refs: Iterable[ObjectRef]) -> None:
        """They aren't wanted any more."""
        batch = Batch()
        for ref in refs:
            self._drop(ref, batch)
            self._fetched.pop(ref, None)
        if batch:
            self._deliver(self, batch)

    def _put(self, item: Item, batch: Batch) -> None:
        ref, new = item.ref, item.object
        old = self.objects.get(ref)
        if new is None:
            assert item.verdict is not None
            verdict = _kept(item.verdict) if old is not None else item.verdict
            if self.verdicts.get(ref) != verdict:
                self.verdicts[ref] = verdict
                batch.verdicts = True
        else:
            if self.verdicts.pop(ref, None) is not None:
                batch.verdicts = True
            if old is None or not same_content(old, new):
                self.objects[ref] = new
                batch.upserts[ref] = new
                batch.removed.discard(ref)
        if ref.kind is Kind.INGRESS and self.statuses.get(ref) != item.status:
            self.statuses[ref] = item.status
            batch.statuses.add(ref)

    def _drop(self, ref: ObjectRef, batch: Batch) -> None:
        if self.objects.pop(ref, None) is not None:
            batch.upserts.pop(ref, None)
            batch.removed.add(ref)
        if self.verdicts.pop(ref, None) is not None:
            batch.verdicts = True
        if self.statuses.pop(ref, None) is not None:
            batch.statuses.add(ref)

    # ---- state ----------------------------------------------------------------------------------------------------

    def _contact(self) -> None:
        self._contact_at = self._timing.clock()
        self.last_contact = self._timing.wall()
        if not self.connected or self.error:
            if self._shown:
                _log.info("%s: can be read again", self.name)
            if self.refused:
                self._link.wake()  # what was refused to the others may be granted, too
            self.connected, self.refused, self.error, self._shown, self._refusals = True, False, "", "", 0
            self._link.works(self.name)

    def _unavailable(self, error: SourceError) -> float:
        self._failures += 1
        self.error = str(error)
        # A watch that is cut is everyday life (load balancers, upgrades): only if it can't be resumed the server is lost.
        if self._failures > 1 or not self.listed:
            self.connected = False
            self._link.failed(self.name, error)
        delay_s = backoff_s(self._failures, BACKOFF_LIMIT_S, self._timing.rng)
        if isinstance(error, Unavailable) and error.retry_after_s is not None:
            return max(delay_s, min(error.retry_after_s, RETRY_AFTER_LIMIT_S))
        return delay_s

    def _refused(self, error: SourceError) -> float:
        self._refusals += 1
        self.error = str(error)
        self.connected = False
        self._link.works(self.name)  # it did answer
        # An API server that has just started refuses what it hasn't read the rules for yet.
        in_doubt = self.listed and self._refusals < REFUSALS_IN_DOUBT
        if self._shown != self.error and not in_doubt:
            self._shown = self.error
            _log.log(logging.ERROR if self.required else logging.WARNING, "%s can't be read: %s", self.name, error)
        if not self.refused:
            self.refused = True
            self._deliver(self, Batch())
        return backoff_s(self._refusals, REFUSED_LIMIT_S, self._timing.rng)


def _older(version: str, than: str) -> bool:
    """Versions are compared as numbers where they are numbers (KEP-5504); others are taken as they come."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)


def _kept(verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, message=f"{verdict.message}. The last good version stays in service")
