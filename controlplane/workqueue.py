"""A de-duplicating, retrying work queue, as client-go's."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, NoReturn, TypeVar

from controlplane.graph.collection import Collection
from meshkit.kube import Conflict, KubeError
from meshkit.log import logger
from meshkit.tasks import Backoff

_log = logger("controlplane.workqueue")
KeyT = TypeVar("KeyT")
ItemT = TypeVar("ItemT")


class WorkQueue(Generic[KeyT]):
    """Keys may be added at any time; ``run`` reconciles them. A key whose reconciliation is cancelled stays queued.

    Args:
        task: the task's name, for log lines.
        backoff: delays before failed keys are retried; the other keys of that round wait as long.
    """

    def __init__(self, task: str, backoff: Backoff | None = None) -> None:
        self._task = task
        self._backoff = backoff or Backoff(first_s=0.5, cap_s=30.0)
        self._queue: OrderedDict[KeyT, None] = OrderedDict()
        self._wake = asyncio.Event()
        self._present: list[Callable[[], Iterable[KeyT]]] = []

    def follow(self, collection: Collection[ItemT, Any], key_of: Callable[[ItemT], KeyT]) -> None:
        """Enqueue the key of each value that changes, and those of all values whenever ``run`` begins."""
        collection.add_handler(lambda item, _, __: self.add(key_of(item)))
        self._present.append(lambda: map(key_of, collection.keys()))

    def add(self, key: KeyT) -> None:
        """Enqueue a key."""
        self._queue[key] = None
        self._wake.set()

    def __len__(self) -> int:
        return len(self._queue)

    async def run(self, work: Callable[[KeyT], Awaitable[None]]) -> NoReturn:
        """Reconcile keys until cancelled; ``work`` fails by raising."""
        for present in self._present:
            for key in present():
                self.add(key)
        while True:
            await self._wake.wait()
            self._wake.clear()
            failed = await self._drain(work)
            if not failed:
                self._backoff.reset()
                continue
            await asyncio.sleep(self._backoff.next())
            for key in failed:
                self.add(key)

    async def _drain(self, work: Callable[[KeyT], Awaitable[None]]) -> list[KeyT]:
        """Reconcile all queued keys once; return those that failed, which are logged in one line."""
        failed: list[KeyT] = []
        reason = ""
        while self._queue:
            key, _ = self._queue.popitem(last=False)
            try:
                await work(key)
            except Conflict as error:
                failed.append(key)
                _log.debug("object changed meanwhile, retrying", task=self._task, reason=str(error))
            except KubeError as error:
                failed.append(key)
                reason = reason or str(error)
            except asyncio.CancelledError:
                for undone in (*failed, key):
                    self.add(undone)
                raise
            except Exception:  # one unforeseen object must not stop the others
                failed.append(key)
                _log.exception("reconciliation failed, retrying", task=self._task, key=str(key))
        if reason:
            _log.warning("write failed, retrying", task=self._task, failed=len(failed), reason=reason)
        return failed


def named(what: str, key: ItemT) -> tuple[str, ItemT]:
    """Return a key with the name of its collection, for a queue that follows several."""
    return what, key
