"""Keeps `status.loadBalancer.ingress` of every served Ingress equal to the addresses we publish.

An address is a promise: it is written once every worker of this replica serves the Ingress, and the other replicas have had a moment to. Only the
leader writes, behind the traffic and at a limited rate. What others put there is replaced on what we serve, and never touched anywhere else.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ingress.config import KubeSettings
from ingress.errors import SourceError
from ingress.kube.addresses import Addresses
from ingress.kube.answers import decode_answer
from ingress.kube.api import MERGE_PATCH, Api, Conflict, Forbidden, NotFound, Unavailable
from ingress.kube.ratelimit import DelayQueue, TokenBucket, backoff_s, wait_for
from ingress.model import LoadBalancerIngress, ObjectRef

_log = logging.getLogger(__name__)
_IN_FLIGHT = 8
_IN_FLIGHT_AT_END = 32
_FIRST_BACK_OFF_S = 0.5
_LONGEST_BACK_OFF_S = 30.0
_FAILURES_IN_A_ROW = 3  # so many, and the API server is spared altogether for a while
_CONTESTED = 5  # writes of the same addresses, each soon after the one before, that make somebody else a suspect
_SLICE = 200  # objects compared before the event loop gets its turn
_END_LIMIT_S = 10.0
_TAKE_OVER_LIMIT_S = 4.0


class Leadership(Protocol):
    """`leader.LeaderElection`, as far as needed here."""

    @property
    def is_leader(self) -> bool: ...
    def on_change(self, callback: Callable[[bool], None]) -> None: ...
    async def acquire(self, limit_s: float) -> bool: ...
    async def release(self) -> None: ...


class ReplicaCount(Protocol):
    """`addresses.Replicas`, as far as needed here."""

    @property
    def alone(self) -> bool: ...
    async def others(self) -> int: ...


def decide(
    shown: Addresses | None, *, served: bool, publish: Addresses, ours: Collection[LoadBalancerIngress]
) -> Addresses | None:
    """What to write in place of `shown`; None: leave it.

    `shown` None: the object is gone. `publish` empty: not known yet. `ours`: everything we publish or ever published. The order of
    addresses means nothing.
    """
    if shown is None or (served and not publish):
        return None
    if served:
        return publish if frozenset(shown) != frozenset(publish) else None
    kept = tuple(address for address in shown if address not in ours)
    return kept if len(kept) < len(shown) else None


def patch_of(addresses: Addresses, resource_version: str = "") -> dict[str, Any]:
    """The merge patch (RFC 7396); with a resourceVersion it holds for that version only, else 409."""
    entries = [{name: text for name, text in (("ip", a.ip), ("hostname", a.hostname)) if text} for a in addresses]
    patch: dict[str, Any] = {"status": {"loadBalancer": {"ingress": entries or None}}}
    if resource_version:
        patch["metadata"] = {"resourceVersion": resource_version}
    return patch


def path_of(ref: ObjectRef) -> str:
    return f"/apis/networking.k8s.io/v1/namespaces/{ref.namespace}/ingresses/{ref.name}"


@dataclass(slots=True)
class _Written:
    """The last write of an object: who has to write the same again and again waits longer and longer."""

    addresses: Addresses
    at: float
    times: int = 1


@dataclass(slots=True)
class _Refusal:
    """RBAC allows no write in a namespace. One object at a time finds out whether it does by now, at growing intervals."""

    why: str
    until: float
    times: int = 1


class StatusWriter:
    """Told what happens by method calls, which never block; `run` does the writing. Event loop only.

    `observed(ref)`: the addresses that an Ingress shows by what was last read of it; None: there is no such Ingress.
    """

    def __init__(
        self,
        api: Api,
        settings: KubeSettings,
        *,
        election: Leadership,
        replicas: ReplicaCount,
        observed: Callable[[ObjectRef], Addresses | None],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.written = 0  # successful writes
        self.failed = 0
        self._api = api
        self._settings = settings
        self._election = election
        self._replicas = replicas
        self._observed = observed
        self._clock = clock
        self._rng = rng or random.Random()
        self._addresses: Addresses = ()
        self._ours: set[LoadBalancerIngress] = set()
        self._served: dict[ObjectRef, float] = {}  # since when
        self._withdrawn: dict[
            ObjectRef, float
        ] = {}  # since when: was served, still exists, may still show our addresses
        self._queue: DelayQueue[ObjectRef] = DelayQueue()
        self._wake = asyncio.Event()
        self._in_flight: dict[ObjectRef, asyncio.Task[None]] = {}
        self._again: set[ObjectRef] = set()  # in flight, and something happened meanwhile
        self._echo: dict[ObjectRef, Addresses] = {}  # written, but `observed` may not show it yet
        self._last: dict[ObjectRef, _Written] = {}
        self._failures: dict[ObjectRef, int] = {}
        self._failures_in_a_row = 0
        self._held_until = 0.0
        self._trouble = ""
        self._refused: dict[str, _Refusal] = {}  # by namespace
        self._bucket = TokenBucket(settings.status_rate_per_s, max(settings.status_rate_per_s, 1.0), clock())
        self._closing = False
        election.on_change(self.set_leader)

    # ---- what happens ---------------------------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """Why statuses, or those of one namespace, aren't written at the moment: a sentence for people, or empty."""
        return self._trouble or next((refusal.why for refusal in self._refused.values()), "")

    @property
    def pending(self) -> int:
        """Objects to compare or to write."""
        return len(self._queue) + len(self._in_flight)

    def set_served(self, refs: frozenset[ObjectRef]) -> None:
        """All Ingresses of our classes that every worker of this replica serves by now."""
        now = self._clock()
        for ref in sorted(refs - self._served.keys()):
            self._served[ref] = now
            self._withdrawn.pop(ref, None)
            self._last.pop(ref, None)  # perhaps another object under the same name: nobody overwrote anything
            self._enqueue(ref, now)
        for ref in self._served.keys() - refs:
            del self._served[ref]
            self._withdrawn[ref] = now
            self._enqueue(ref, now)

    def set_addresses(self, addresses: Addresses) -> None:
        """What to publish from now on. Empty (not known at the moment) changes nothing."""
        if not addresses or addresses == self._addresses:
            return
        self._addresses = addresses
        self._ours.update(addresses)
        self._compare_all()

    def note(self, refs: Collection[ObjectRef]) -> None:
        """`observed` says something new about these."""
        now = self._clock()
        for ref in refs:
            self._echo.pop(ref, None)
            if ref in self._served or ref in self._withdrawn:
                self._enqueue(ref, now)

    def set_leader(self, leads: bool) -> None:
        if leads:
            self._compare_all()
            return
        self._queue.clear()
        for task in self._in_flight.values():
            task.cancel()

    # ---- the queue ------------------------------------------------------------------------------------------------

    def _enqueue(self, ref: ObjectRef, due: float) -> None:
        if not self._settings.update_status or not self._election.is_leader or self._closing:
            return  # becoming the leader compares everything
        if ref in self._in_flight:
            self._again.add(ref)
            return
        self._queue.add(ref, due)
        self._wake.set()

    def _compare_all(self) -> None:
        now = self._clock()
        for ref in self._served:
            self._enqueue(ref, now)
        for ref in self._withdrawn:
            self._enqueue(ref, now)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._periodically(), name="status:period")
            while True:
                for _ in range(_SLICE):
                    if not self._advance(group):
                        break
                else:
                    await asyncio.sleep(0)
                    continue
                self._wake.clear()
                await wait_for(self._wake, self._idle_s())

    async def _periodically(self) -> None:
        while True:
            await asyncio.sleep(self._settings.status_period_s)
            now = self._clock()
            old = now - 2 * self._settings.status_period_s
            self._echo.clear()
            self._last = {ref: last for ref, last in self._last.items() if last.at > old}
            self._refused = {name: refusal for name, refusal in self._refused.items() if refusal.until > old}
            # Kept for a while even if they show nothing of ours: a write of the leader before us may still be on its way here.
            self._withdrawn = {
                ref: since
                for ref, since in self._withdrawn.items()
                if self._observed(ref) is not None and (since > old or self._target(ref) is not None)
            }
            self._compare_all()

    def _idle_s(self) -> float | None:
        """Until `_advance` may have something to do; None: it will be woken."""
        now = self._clock()
        wait_s = self._queue.wait_s(now)
        if wait_s is None or len(self._in_flight) >= _IN_FLIGHT:
            return None
        return max(wait_s, self._held_until - now, self._bucket.wait_s(now))

    def _advance(self, group: asyncio.TaskGroup) -> bool:
        """Take one object from the queue. False: nothing can be done now."""
        now = self._clock()
        if (
            self._closing
            or not self._election.is_leader
            or now < self._held_until
            or len(self._in_flight) >= _IN_FLIGHT
            or self._bucket.wait_s(now) > 0
        ):
            return False
        ref = self._queue.pop(now)
        if ref is None:
            return False
        if self._target(ref) is None:
            self._failures.pop(ref, None)
            return True
        due = self._due(ref)
        if due > now:
            self._queue.add(ref, due)
            return True
        refusal = self._refused.get(ref.namespace)
        if refusal is not None:
            refusal.times += 1
            refusal.until = now + self._refusal_s(refusal.times)
        self._bucket.take(now)
        task = group.create_task(self._write(ref), name=f"status:{ref}")
        self._in_flight[ref] = task
        task.add_done_callback(lambda _: self._landed(ref))
        return True

    def _landed(self, ref: ObjectRef) -> None:
        del self._in_flight[ref]
        if ref in self._again:
            self._again.discard(ref)
            self._enqueue(ref, self._clock())
        self._wake.set()

    def _shown(self, ref: ObjectRef) -> Addresses | None:
        """As observed, or as we wrote it since."""
        observed = self._observed(ref)
        return observed if observed is None else self._echo.get(ref, observed)

    def _target(self, ref: ObjectRef) -> Addresses | None:
        if ref not in self._served and ref not in self._withdrawn:
            return None
        return decide(self._shown(ref), served=ref in self._served, publish=self._addresses, ours=self._ours)

    def _due(self, ref: ObjectRef) -> float:
        """When it may be written at the earliest."""
        settle_s = self._settings.status_settle_s
        since = self._withdrawn.get(ref)
        if since is None:
            since, settle_s = self._served[ref], 0.0 if self._replicas.alone else settle_s
        due = since + settle_s  # what was withdrawn has it too: an IngressClass that is replaced is gone for a moment
        last = self._last.get(ref)
        if last is not None and last.addresses == self._target(ref):
            due = max(due, last.at + min(2.0 ** (last.times - 1), self._settings.status_period_s))
        refusal = self._refused.get(ref.namespace)
        return due if refusal is None else max(due, refusal.until)

    def _refusal_s(self, times: int) -> float:
        return backoff_s(times, _FIRST_BACK_OFF_S, self._settings.status_period_s, self._rng.random())

    # ---- writing --------------------------------------------------------------------------------------------------

    async def _write(self, ref: ObjectRef) -> None:
        try:
            written = await self._patch(ref)
        except NotFound:
            self._failures.pop(ref, None)  # deleted; `observed` will hear of it
        except Forbidden as error:
            self._refuse(ref, str(error))
        except (Unavailable, Conflict) as error:
            self._retry(ref, error)
        except SourceError as error:
            self.failed += 1
            _log.warning("the status of %s was refused: %s", ref, error)  # the next period tries again
        else:
            self._succeed(ref, written)

    async def _patch(self, ref: ObjectRef) -> Addresses | None:
        """Write it if it is still to be written. Returns what was written."""
        version = ""
        if ref in self._withdrawn:
            # Somebody else's by now: only the version that was looked at is changed.
            found = decode_answer(await self._api.get(path_of(ref)), _IngressStatus)
            shown = found.status.load_balancer.ingress or ()
            target = decide(shown, served=False, publish=(), ours=self._ours) if ref in self._withdrawn else None
            version = found.metadata.resource_version
        else:
            target = self._target(ref)
        if target is None or not self._election.is_leader:
            return None
        await self._api.send("PATCH", f"{path_of(ref)}/status", patch_of(target, version), content_type=MERGE_PATCH)
        return target

    def _succeed(self, ref: ObjectRef, written: Addresses | None) -> None:
        self._failures.pop(ref, None)
        self._failures_in_a_row = 0
        self._trouble = ""
        if written is None:
            return
        if self._refused.pop(ref.namespace, None) is not None:
            _log.info("statuses in namespace %s can be written again", ref.namespace)
            self._compare_all()
        self.written += 1
        self._echo[ref] = written
        now = self._clock()
        last = self._last.get(ref)
        if last is None or last.addresses != written or now - last.at > 2 * self._settings.status_period_s:
            self._last[ref] = _Written(written, now)
            return
        last.at = now
        last.times += 1
        if last.times == _CONTESTED:
            _log.warning("the status of %s is overwritten again and again: is another controller serving it too?", ref)

    def _retry(self, ref: ObjectRef, error: Unavailable | Conflict) -> None:
        self.failed += 1
        failures = self._failures[ref] = self._failures.get(ref, 0) + 1
        now = self._clock()
        delay_s = backoff_s(failures, _FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S, self._rng.random())
        self._again.discard(ref)
        if isinstance(error, Unavailable):
            asked_s = min(error.retry_after_s or 0.0, _LONGEST_BACK_OFF_S)
            delay_s = max(delay_s, asked_s)
            self._failures_in_a_row += 1
            beyond = self._failures_in_a_row - _FAILURES_IN_A_ROW
            if asked_s or beyond >= 0:
                pause_s = backoff_s(
                    beyond // _IN_FLIGHT + 1, _FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S, self._rng.random()
                )
                self._held_until = max(self._held_until, now + max(pause_s, asked_s))
            if self._failures_in_a_row == _FAILURES_IN_A_ROW:
                self._trouble = f"statuses can't be written: {error}"
                _log.warning("%s", self._trouble)
        if self._election.is_leader and not self._closing:
            self._queue.add(ref, now + delay_s)

    def _refuse(self, ref: ObjectRef, message: str) -> None:
        self.failed += 1
        why = f"not allowed to write statuses in namespace {ref.namespace}: {message}"
        refusal = self._refused.get(ref.namespace)
        if refusal is None:
            _log.error("%s", why)
            refusal = self._refused[ref.namespace] = _Refusal(why, self._clock() + self._refusal_s(1))
        refusal.why = why
        self._again.discard(ref)
        if self._election.is_leader and not self._closing:
            self._queue.add(ref, refusal.until)

    # ---- the end --------------------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """No more writes; the last replica takes its addresses back; then the Lease is released. Takes a little more than 10 s at most."""
        self._closing = True
        self._queue.clear()
        for task in self._in_flight.values():
            task.cancel()
        if self._in_flight:
            await asyncio.wait(tuple(self._in_flight.values()))
        try:
            if self._settings.update_status and self._settings.update_status_on_shutdown and self._ours:
                async with asyncio.timeout(_END_LIMIT_S):
                    await self._take_back()
        except TimeoutError:
            _log.warning("not every status could be cleared in %.0f s", _END_LIMIT_S)
        except SourceError as error:
            _log.warning("statuses stay as they are: %s", error)
        finally:
            await self._election.release()

    async def _take_back(self) -> None:
        others = await self._replicas.others()
        if others:
            _log.info("statuses stay as they are: %d other replicas", others)
            return
        if not await self._election.acquire(_TAKE_OVER_LIMIT_S):
            _log.info("statuses stay as they are: another replica holds the lease")
            return
        refs = iter(sorted(self._served.keys() | self._withdrawn.keys()))
        cleared = 0

        async def clear_some() -> None:
            nonlocal cleared
            for ref in refs:
                target = decide(self._shown(ref), served=False, publish=(), ours=self._ours)
                if target is None or not self._election.is_leader:
                    continue
                try:
                    await self._api.send("PATCH", f"{path_of(ref)}/status", patch_of(target), content_type=MERGE_PATCH)
                except NotFound:
                    continue
                except SourceError as error:
                    _log.warning("the status of %s could not be cleared: %s", ref, error)
                    continue
                cleared += 1

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_IN_FLIGHT_AT_END):
                    group.create_task(clear_some(), name="status:clear")
        finally:
            _log.info("last replica: addresses taken back from %d Ingresses", cleared)


class _LoadBalancer(msgspec.Struct, frozen=True, kw_only=True):
    ingress: tuple[LoadBalancerIngress, ...] | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    load_balancer: _LoadBalancer = _LoadBalancer()


class _Metadata(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    resource_version: str = ""


class _IngressStatus(msgspec.Struct, frozen=True, kw_only=True):
    metadata: _Metadata
    status: _Status = _Status()
