"""One lock for each pod: whatever changes a pod's rules or its state holds it."""

import asyncio
from weakref import WeakValueDictionary


class PodLocks:
    """Locks by UID. One exists while it is held or waited for, so pods that are gone leave nothing behind."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, uid: str) -> asyncio.Lock:
        """Return the lock of a pod. Keep it as long as it matters: ``async with locks.of(uid)`` does."""
        lock = self._locks.get(uid)
        if lock is None:
            lock = self._locks[uid] = asyncio.Lock()
        return lock
