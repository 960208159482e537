"""Leader election: the one replica that holds a Lease (coordination.k8s.io/v1) may write statuses and Events.

As client-go's LeaseLock: the clocks of two machines are never compared. A candidate takes the Lease over once its record has not changed for the record's own
duration, by the candidate's own clock since it saw the record first. A holder counts from the moment it *sent* its last successful renewal, and stops leading
half a ttl later if it can't renew: while nobody else may have taken over yet. Every write carries the resourceVersion it is based on.
"""

import asyncio
import enum
import logging
import math
import random
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from ingress.config import KubeSettings
from ingress.errors import SourceError
from ingress.kube.answers import decode_answer
from ingress.kube.api import Api, Conflict, NotFound, Unavailable

_log = logging.getLogger(__name__)
_RELEASE_LIMIT_S = 5.0
_RELEASED_DURATION_S = 1


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What is read of a Lease. `renewTime` belongs to it only so that a renewal is seen as a change."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True):
    spec: LeaseSpec | None = None


class Step(enum.Enum):
    CREATE = enum.auto()  # there is no Lease
    TAKE = enum.auto()  # it was released, or its holder is gone
    RENEW = enum.auto()  # it is ours
    WAIT = enum.auto()  # somebody else's


def next_step(spec: LeaseSpec | None, identity: str, unchanged_s: float, ttl_s: float) -> Step:
    """`spec` None: no such Lease. `unchanged_s`: for how long it has been seen as it is. `ttl_s` counts where the record names no duration."""
    if spec is None:
        return Step.CREATE
    if not spec.holder_identity:
        return Step.TAKE
    if spec.holder_identity == identity:
        return Step.RENEW
    return Step.TAKE if unchanged_s >= (spec.lease_duration_seconds or ttl_s) else Step.WAIT


def micro_time(moment: datetime) -> str:
    """`metav1.MicroTime`: UTC, always six digits."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_identity(pod_name: str) -> str:
    """Unique to this process: a container that restarts in the same Pod is another candidate."""
    return f"{pod_name or socket.gethostname()}_{secrets.token_hex(4)}"


class LeaderElection:
    """One candidate. `run` campaigns; `is_leader` may be asked at any time and is exact, `on_change` tells of each change.

    `holder` is the identity in the Lease as last seen, empty if none. Errors of the API server are logged once and retried.
    """

    def __init__(
        self,
        api: Api,
        settings: KubeSettings,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        self.identity = identity
        self._api = api
        self._enabled = settings.leader_election
        self._name = settings.election_id
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{settings.pod_namespace or 'default'}/leases"
        self._ttl_s = settings.election_ttl_s
        self._renew_deadline_s = self._ttl_s / 2
        self._renew_period_s = self._ttl_s / 6
        self._retry_period_s = self._ttl_s / 15
        self._clock = clock
        self._wall = wall
        self._rng = rng or random.Random()
        self._callbacks: list[Callable[[bool], None]] = []
        self._told = False
        self._leads_until = -math.inf
        self._lease: dict[str, Any] | None = None  # as last read or written; None: to be read
        self._spec: LeaseSpec | None = None
        self._observed_at = -math.inf
        self._problem = ""
        self._retry_after_s = 0.0
        self._campaign: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def is_leader(self) -> bool:
        return self._clock() < self._leads_until

    @property
    def holder(self) -> str:
        if not self._enabled:
            return self.identity if self.is_leader else ""
        return (self._spec.holder_identity if self._spec is not None else None) or ""

    def on_change(self, callback: Callable[[bool], None]) -> None:
        """Called with `is_leader` after each change; the first time when this replica becomes the leader."""
        self._callbacks.append(callback)

    async def run(self) -> None:
        """Until cancelled, or until `acquire` or `release` took over."""
        if self._stopped:
            return
        self._campaign = asyncio.create_task(self._campaigning(), name="leader:campaign")
        try:
            await asyncio.wait((self._campaign,))
            if not self._campaign.cancelled():
                self._campaign.result()
        finally:
            self._campaign.cancel()

    async def acquire(self, limit_s: float) -> bool:
        """For the end of the process: no more campaign, but lead for up to another half ttl if the Lease is ours, free or left behind within `limit_s`."""
        await self._stop()
        if not self._enabled:
            return self.is_leader
        self._lease = None
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    if await self._try() and self.is_leader:
                        return True
                    await asyncio.sleep(min(self._retry_period_s, 0.5))
        except TimeoutError:
            return False

    async def release(self) -> None:
        """Stop leading for good and let the next one take over at once. Takes a few seconds at most."""
        await self._stop()
        self._leads_until = -math.inf
        self._tell("shutting down")
        if not self._enabled:
            return
        try:
            async with asyncio.timeout(_RELEASE_LIMIT_S):
                await self._hand_back()
        except (SourceError, TimeoutError) as error:
            _log.info(
                "lease %s could not be released, another replica takes over within %.0f s: %s",
                self._name,
                self._ttl_s,
                str(error) or "no answer",
            )

    # ---- the campaign ---------------------------------------------------------------------------------------------

    async def _campaigning(self) -> None:
        if not self._enabled:
            self._leads_until = math.inf
            self._tell("")
            await asyncio.Event().wait()
        while True:
            succeeded = await self._try()
            await asyncio.sleep(self._pause_s(succeeded))
            self._tell("the lease could not be renewed in time")

    async def _stop(self) -> None:
        self._stopped = True
        if self._campaign is not None and not self._campaign.done():
            self._campaign.cancel()
            await asyncio.wait((self._campaign,))

    def _pause_s(self, succeeded: bool) -> float:
        now = self._clock()
        jitter = 1.0 + 0.2 * self._rng.random()
        if now < self._leads_until:
            pause = self._renew_period_s if succeeded else self._retry_period_s * jitter
            return min(pause, self._leads_until - now)
        return max(self._retry_period_s * jitter, min(self._retry_after_s, self._ttl_s))

    async def _try(self) -> bool:
        """One attempt to take or keep the Lease, or a look at who has it. False: the API server didn't do its part."""
        self._retry_after_s = 0.0
        # A request that hangs must leave time for another before the renewal is too late.
        limit_s = self._renew_period_s
        left_s = self._leads_until - self._clock()
        if left_s > 0:
            limit_s = min(limit_s, left_s)
        problem = ""
        try:
            async with asyncio.timeout(limit_s):
                await self._attempt()
        except TimeoutError:
            problem = "no answer in time"
        except SourceError as error:
            problem = str(error)
            if isinstance(error, Unavailable) and error.retry_after_s is not None:
                self._retry_after_s = error.retry_after_s
        if problem:
            self._lease = None  # whether a write took effect is unknown
        if problem != self._problem:
            if problem:
                _log.warning("leader election, lease %s: %s", self._name, problem)
            else:
                _log.info("leader election works again")
            self._problem = problem
        self._tell("the lease could not be renewed in time")
        return not problem

    async def _attempt(self) -> None:
        if self._lease is None or not self.is_leader:
            await self._read()
        try:
            await self._step()
        except (Conflict, NotFound) as error:
            # Changed or deleted since it was read. A leader looks again at once: somebody may only have put a label on it.
            self._lease = None
            if not self.is_leader:
                if isinstance(error, NotFound):
                    raise
                return  # somebody else was quicker
            await self._read()
            await self._step()

    async def _step(self) -> None:
        step = next_step(self._spec, self.identity, self._clock() - self._observed_at, self._ttl_s)
        if step is not Step.WAIT:
            await self._write(step)

    async def _read(self) -> None:
        try:
            raw = await self._api.get(f"{self._path}/{self._name}")
        except NotFound:
            self._lease = self._spec = None
            self._leads_until = -math.inf  # deleted under us: taken anew, like by any other candidate
            return
        self._observe(raw)

    async def _write(self, step: Step) -> None:
        sent_at = self._clock()
        now = micro_time(self._wall())
        spec: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._ttl_s),
            "renewTime": now,
        }
        if step is not Step.RENEW:
            spec["acquireTime"] = now
        if step is Step.TAKE:
            spec["leaseTransitions"] = ((self._spec.lease_transitions if self._spec is not None else None) or 0) + 1
        if step is Step.CREATE:
            spec["leaseTransitions"] = 0
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": spec,
            }
            raw = await self._api.send("POST", self._path, body)
        else:
            raw = await self._put(spec)
        self._observe(raw)
        self._leads_until = sent_at + self._renew_deadline_s

    async def _put(self, changes: dict[str, Any]) -> bytes:
        assert self._lease is not None
        spec = {**(self._lease.get("spec") or {}), **changes}
        return await self._api.send("PUT", f"{self._path}/{self._name}", {**self._lease, "spec": spec})

    def _observe(self, raw: bytes) -> None:
        spec = decode_answer(raw, _Lease).spec or LeaseSpec()
        lease = decode_answer(raw, dict[str, Any])
        if spec != self._spec:
            self._spec = spec
            self._observed_at = self._clock()
        self._lease = lease
        if spec.holder_identity != self.identity and self._leads_until > -math.inf:
            self._leads_until = -math.inf
            self._tell(f"{spec.holder_identity or 'nobody'} holds the lease")

    async def _hand_back(self) -> None:
        while True:
            await self._read()
            if self._spec is None or self._spec.holder_identity != self.identity:
                return
            now = micro_time(self._wall())
            try:
                raw = await self._put(
                    {
                        "holderIdentity": None,
                        "leaseDurationSeconds": _RELEASED_DURATION_S,
                        "renewTime": now,
                        "acquireTime": now,
                    }
                )
            except Conflict:
                continue
            self._observe(raw)
            return

    def _tell(self, why: str) -> None:
        leads = self.is_leader
        if leads == self._told:
            return
        self._told = leads
        if leads:
            _log.info("leading: this replica writes statuses and Events")
        else:
            _log.info("not leading any more: %s", why)
        for callback in self._callbacks:
            callback(leads)
