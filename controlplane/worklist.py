"""Objects that something must be done about: each once, however often it was named, and again until it is done."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeVar

from meshkit.kube import Conflict, KubeError
from meshkit.log import logger
from meshkit.tasks import Backoff

_log = logger("controlplane.worklist")
KeyT = TypeVar("KeyT")


class WorkList(Generic[KeyT]):
    """Collects keys at any time and works on them while ``run`` runs. What is cancelled half way stays on the list.

    Args:
        task: what is done, for log lines.
        backoff: waits before what has failed is tried again; no other key waits for it longer than that.
    """

    def __init__(self, task: str, backoff: Backoff | None = None) -> None:
        self._task = task
        self._backoff = backoff or Backoff(first_s=0.5, cap_s=30.0)
        self._due: OrderedDict[KeyT, None] = OrderedDict()
        self._wake = asyncio.Event()

    def add(self, key: KeyT) -> None:
        """Put a key on the list."""
        self._due[key] = None
        self._wake.set()

    def __len__(self) -> int:
        return len(self._due)

    async def run(self, work: Callable[[KeyT], Awaitable[None]]) -> NoReturn:
        """Work on the keys until cancelled; ``work`` fails by raising."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            failed = await self._round(work)
            if not failed:
                self._backoff.reset()
                continue
            await asyncio.sleep(self._backoff.next())
            for key in failed:
                self.add(key)

    async def _round(self, work: Callable[[KeyT], Awaitable[None]]) -> list[KeyT]:
        """Work on all keys once; return those that failed. One line is logged, however many they are."""
        failed: list[KeyT] = []
        reason = ""
        while self._due:
            key, _ = self._due.popitem(last=False)
            try:
                await work(key)
            except Conflict as error:
                failed.append(key)
                _log.debug("changed in between, will look again", task=self._task, reason=str(error))
            except KubeError as error:
                failed.append(key)
                reason = reason or str(error)
            except asyncio.CancelledError:
                for undone in (*failed, key):
                    self.add(undone)
                raise
            except Exception:  # one object that nobody foresaw must not stop the work on others
                failed.append(key)
                _log.exception("failed, will retry", task=self._task, key=str(key))
        if reason:
            _log.warning("not written, will retry", task=self._task, failed=len(failed), reason=reason)
        return failed
