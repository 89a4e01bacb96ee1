"""Repairs drift: restores rules that another process changed or flushed.

The kernel reports changes (``meshkit.linux.changes``); what it does not report is compared now and then. After each
sign of a change the whole state of that namespace is compared with the plan, so a sign too many costs a comparison
and changes nothing. Our own changes are signs too; so is the repair, whose success is thereby checked.

An incident is said once: it ends when a comparison finds everything as planned, and later repairs of the same pod
within ``_INCIDENT_S`` are counted only.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from meshkit.linux.changes import Changes
from meshkit.log import logger
from meshkit.tasks import Backoff
from nodeagent.capture.host_probes import ProbeExemption
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import PodCapture
from nodeagent.enrolment.captured import Captured, Enrolled

_log = logger("repair")

_TICK_S: Final = 0.25
"""How soon new pods are watched, and how often sizes of iptables tables are compared."""
_SWEEP_S: Final = 30.0
"""Every pod is compared so often without any sign: a rule of iptables that was replaced by another gives none."""
_INCIDENT_S: Final = 10.0
_UNDONE_S: Final = 0.5
"""Longest delay between repairs that another process keeps undoing."""
_AT_ONCE: Final = 4
"""Comparisons at the same time; each takes some milliseconds of a thread."""

_HOST: Final = ""
"""Key of the host among the pods' UIDs."""


@dataclass(slots=True)
class _Watched:
    changes: Changes
    captured: Captured | None
    plan: PodPlan | None
    sizes: tuple[bytes, ...] | None = None  # when all was last found as planned
    compared: float = 0.0
    logged: float = float("-inf")
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.02, cap_s=_UNDONE_S))
    task: asyncio.Task[None] | None = None
    again: bool = False


class Repairs:
    """Watches the namespaces of all captured pods, and the host's."""

    def __init__(
        self,
        capture: PodCapture,
        enrolled: Enrolled,
        exemption: ProbeExemption,
        lock: Callable[[str], asyncio.Lock],
    ) -> None:
        """Watch for one backend.

        Args:
            capture: what has made the rules of pods.
            enrolled: the captured pods.
            exemption: the rules on the host.
            lock: returns the lock that serializes changes of a pod, by UID.
        """
        self._capture = capture
        self._enrolled = enrolled
        self._exemption = exemption
        self._lock = lock
        self._watched: dict[str, _Watched] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.repaired: Counter[str] = Counter({"pod": 0, "host": 0})
        """Repairs, by where."""

    @property
    def settled(self) -> bool:
        """Whether the host is watched and no comparison is under way or wanted."""
        idle = all(watched.task is not None and watched.task.done() for watched in self._watched.values())
        return _HOST in self._watched and idle

    def watches(self, uid: str, plan: PodPlan | None = None) -> bool:
        """Whether a pod is watched, with this plan."""
        watched = self._watched.get(uid)
        return watched is not None and plan in (None, watched.plan)

    async def run(self) -> None:
        """Watch and repair until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._follow()
                now = loop.time()
                for uid, watched in self._watched.items():
                    if watched.changes.sizes() != watched.sizes or now - watched.compared > _SWEEP_S:
                        self._enqueue(uid)
                await asyncio.sleep(_TICK_S)
        finally:
            await self._close()

    async def _follow(self) -> None:
        """Watch exactly the captured pods."""
        for uid in [uid for uid in self._watched if uid != _HOST and self._enrolled.find(uid) is None]:
            self._end(uid)
        for uid in (_HOST, *self._enrolled):
            try:
                await self._begin(uid)
            except OSError as error:
                _log.warning("cannot watch rules, retrying", pod=self._name(uid), reason=str(error))

    async def _begin(self, uid: str) -> None:
        watched = self._watched.get(uid)
        captured = self._enrolled.find(uid)
        # The same pod in a new sandbox has another namespace.
        if watched is not None and watched.captured is captured and (captured is None or watched.plan == captured.plan):
            return
        if uid != _HOST and self._lock(uid).locked():
            return  # the pod is being changed; other repairs must not wait for it
        if uid == _HOST:
            changes, plan = await _subscribe(self._exemption.watch), None
        else:
            async with self._lock(uid):
                captured = self._enrolled.find(uid)
                if captured is None:
                    return
                plan = captured.plan
                changes = await _subscribe(partial(self._capture.watch, captured.sandbox, plan))
        self._end(uid)
        # Its sizes are unknown, so the first comparison comes soon and finds earlier changes.
        self._watched[uid] = _Watched(changes, captured, plan)
        for events in changes.events:
            asyncio.get_running_loop().add_reader(events, self._enqueue, uid)

    def _end(self, uid: str) -> None:
        watched = self._watched.pop(uid, None)
        if watched is None:
            return
        for events in watched.changes.events:
            asyncio.get_running_loop().remove_reader(events)
        watched.changes.close()

    async def _close(self) -> None:
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        for uid in list(self._watched):
            self._end(uid)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _enqueue(self, uid: str) -> None:
        """Enqueue a comparison."""
        watched = self._watched[uid]
        watched.changes.drain()
        watched.again = True
        if watched.task is None or watched.task.done():
            watched.task = asyncio.create_task(self._settle(uid, watched))

    async def _settle(self, uid: str, watched: _Watched) -> None:
        undone = False
        while watched.again and self._watched.get(uid) is watched:
            watched.again = False
            watched.compared = asyncio.get_running_loop().time()
            sizes = watched.changes.sizes()
            try:
                async with self._slots:
                    missing = await (self._exemption.repair() if uid == _HOST else self._repair_pod(uid))
            except OSError as error:
                _log.warning("cannot repair rules, retrying", pod=self._name(uid), reason=str(error))
                watched.again = True
                await asyncio.sleep(watched.backoff.next())
                continue
            if not missing:
                watched.sizes = sizes  # taken before the comparison: later changes are detected
                watched.backoff.reset()
                undone = False
                continue
            self._report(uid, watched, missing)
            # Compare once more, with backoff if another process undoes the repair each time.
            watched.again = True
            if undone:
                await asyncio.sleep(watched.backoff.next())
            undone = True

    async def _repair_pod(self, uid: str) -> tuple[str, ...]:
        async with self._lock(uid):
            captured = self._enrolled.find(uid)
            if captured is None:
                return ()
            return await asyncio.to_thread(self._capture.repair, captured.sandbox, captured.plan)

    def _report(self, uid: str, watched: _Watched, missing: tuple[str, ...]) -> None:
        self.repaired["host" if uid == _HOST else "pod"] += 1
        now = asyncio.get_running_loop().time()
        if now - watched.logged > _INCIDENT_S:
            what = ", ".join(missing)
            _log.warning("another process changed the capture rules, repaired", pod=self._name(uid), what=what)
        watched.logged = now

    def _name(self, uid: str) -> str:
        captured = self._enrolled.find(uid)
        return captured.key if captured else "(host)"


async def _subscribe(watch: Callable[[], Changes]) -> Changes:
    """Subscribe on a thread. Cancelled, it waits for the thread and closes what that has opened."""
    opening = asyncio.ensure_future(asyncio.to_thread(watch))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        with suppress(OSError):
            (await opening).close()
        raise
