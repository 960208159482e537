"""The source of objects that reads manifests: first everything, then every change, until cancelled.

inotify (through watchfiles) says where to look; a full look by file signature every few seconds finds what it missed
(queue overflow, network file systems), and takes over at a quicker pace where there is no inotify. Reading and parsing
happen in a worker thread.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import watchfiles

from ingress.errors import Verdict
from ingress.files.manifests import Manifests, Outcome
from ingress.files.scan import check_paths
from ingress.files.watch import Place, WatchPlan, plan_watch
from ingress.model.kubernetes import KubernetesObject
from ingress.model.ref import ObjectRef

RESCAN_S = 5.0
POLL_S = 0.5  # between full looks while nothing can be watched
RESTART_S = 30.0  # between attempts to watch again
FOLLOW_UP_S = 0.2  # after a change of folders: what was created while the watch on a new folder was being set up
STEP_MS = 20  # events are handed over when none came for this long …
DEBOUNCE_MS = 100  # … or the first is this old
COST_FACTOR = 100  # full looks take at most 1 % of a CPU, however many files there are
POLL_COST_FACTOR = 10
STORM_COST_FACTOR = 3

Sink = Callable[[Mapping[ObjectRef, KubernetesObject], Sequence[Verdict]], None]

_log = logging.getLogger(__name__)
logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts every batch of events at INFO


def load(paths: Sequence[Path], flag: str = "--manifests") -> tuple[dict[ObjectRef, KubernetesObject], list[Verdict]]:
    """Read `paths` once. Raise ConfigError, naming `flag`, for a path that doesn't exist or can't be read. A pipe may
    be given as well.
    """
    check_paths(paths, flag)
    manifests = Manifests(paths, streams=True)
    manifests.rescan(0.0)
    return manifests.objects(), manifests.verdicts()


class FilesSource:
    """`sink` gets all objects and verdicts at once, in the event loop: when loaded, and whenever something is
    different.
    """

    def __init__(self, paths: Sequence[Path], sink: Sink, *, flag: str = "--manifests", poll: bool = False) -> None:
        """`poll`: don't use inotify."""
        self.synced = asyncio.Event()  # the first load was handed over
        self._paths = tuple(paths)
        self._sink = sink
        self._flag = flag
        self._poll = poll
        self._manifests = Manifests(self._paths)
        self._reported: set[str] = set()  # by the watchers, not looked at yet
        self._wake = asyncio.Event()
        self._watched: tuple[frozenset[Place], frozenset[Place]] = (frozenset(), frozenset())
        self._watchers: list[asyncio.Task[None]] = []
        self._is_blind = poll  # nothing can be watched
        self._restart_at = 0.0
        self._rescan_cost_s = 0.0

    async def run(self) -> None:
        """Load, then follow changes until cancelled. Raise ConfigError for a path that doesn't exist at the start."""
        await asyncio.to_thread(check_paths, self._paths, self._flag)
        plan, _ = await self._rescan(publish=True)
        self.synced.set()
        async with asyncio.TaskGroup() as group:
            await self._follow(group, plan)

    async def _follow(self, group: asyncio.TaskGroup, plan: WatchPlan) -> None:
        again_in_s: float | None = None  # files in doubt want another look
        rescan_at = 0.0  # at once: there may have been changes between the load and the start of the watch
        not_before = 0.0  # a storm of events doesn't become a storm of full looks
        while True:
            if await self._watch(group, plan):
                rescan_at = min(rescan_at, time.monotonic() + FOLLOW_UP_S)
            now = time.monotonic()
            await self._wait((rescan_at if again_in_s is None else min(rescan_at, now + again_in_s)) - now)
            reported, self._reported = self._reported, set()
            files, structural = _meanings(plan, reported)
            now = time.monotonic()
            if structural:
                rescan_at = min(rescan_at, max(now, not_before))
            if now < rescan_at and (files or again_in_s is not None):
                outcome = await self._look(files)
                again_in_s = outcome.again_in_s
                if outcome.rescan:
                    rescan_at = now
            if now >= rescan_at:
                plan, outcome = await self._rescan(publish=False)
                again_in_s = outcome.again_in_s
                now = time.monotonic()
                not_before = now + STORM_COST_FACTOR * self._rescan_cost_s
                rescan_at = now + (FOLLOW_UP_S if structural else self._rescan_interval_s())

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _rescan_interval_s(self) -> float:
        if self._is_blind:
            return max(POLL_S, POLL_COST_FACTOR * self._rescan_cost_s)
        return max(RESCAN_S, COST_FACTOR * self._rescan_cost_s)

    async def _rescan(self, *, publish: bool) -> tuple[WatchPlan, Outcome]:
        def work() -> tuple[WatchPlan, Outcome, float]:
            # CPU time of this thread, not elapsed time: a busy machine doesn't make looking dearer
            started = time.thread_time()
            outcome = self._manifests.rescan(time.monotonic())
            cost_s = time.thread_time() - started
            return plan_watch(self._paths, self._manifests.scans), outcome, 0.0 if outcome.changed else cost_s

        plan, outcome, cost_s = await asyncio.to_thread(work)
        if cost_s:
            self._rescan_cost_s = cost_s
        if publish or outcome.changed:
            await self._publish()
        return plan, outcome

    async def _look(self, files: Iterable[str]) -> Outcome:
        outcome = await asyncio.to_thread(self._manifests.look, files, time.monotonic())
        if outcome.changed:
            await self._publish()
        return outcome

    async def _publish(self) -> None:
        objects, verdicts = await asyncio.to_thread(lambda: (self._manifests.objects(), self._manifests.verdicts()))
        self._sink(objects, verdicts)

    # ---- watching -------------------------------------------------------------------------------------------------

    async def _watch(self, group: asyncio.TaskGroup, plan: WatchPlan) -> bool:
        """Watch the places of `plan`; return whether the watch is new, and may have missed something."""
        wanted = (plan.deep, plan.flat)
        now = time.monotonic()
        retry = self._is_blind and now >= self._restart_at
        if self._poll or (wanted == self._watched and not retry):
            return False
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._is_blind = False
        self._watched = wanted
        self._restart_at = now + RESTART_S
        self._watchers = [
            group.create_task(self._report(places, recursive), name=f"files-watch:{'deep' if recursive else 'flat'}")
            for places, recursive in ((plan.deep, True), (plan.flat, False))
            if places
        ]
        return True

    async def _report(self, places: frozenset[Place], recursive: bool) -> None:
        folders = sorted(place[0] for place in places)
        try:
            async for changes in watchfiles.awatch(
                *folders,
                watch_filter=None,
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                rust_timeout=1000,
                recursive=recursive,
                ignore_permission_denied=True,
                debug=False,
            ):
                self._reported.update(path for _, path in changes)
                self._wake.set()
        except (OSError, RuntimeError) as error:
            if not isinstance(error, FileNotFoundError):  # gone since it was listed: the next look tells
                _log.warning("can't watch %s, looking every %.1f s instead: %s", ", ".join(folders), POLL_S, error)
            self._is_blind = True
            self._wake.set()


def _meanings(plan: WatchPlan, reported: Iterable[str]) -> tuple[set[str], bool]:
    files: set[str] = set()
    rescan = False
    for path in reported:
        meaning = plan.meaning(path)
        if meaning is True:
            rescan = True
        elif meaning is not False:
            files.add(meaning)
    return files, rescan
