"""Keeps one task for each thing that objects want to be fetched from outside, while they want it."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Generic, NoReturn, TypeVar

W = TypeVar("W", bound=Hashable)


class Followers(Generic[W]):
    """Follows what is wanted. Construct, then ``run`` as a task.

    Args:
        wanted: returns everything that is wanted now.
        follow: fetches one thing again and again until cancelled.
        gone: is called when a thing is not wanted any more.
    """

    def __init__(
        self,
        wanted: Callable[[], Iterable[W]],
        follow: Callable[[W], Coroutine[Any, Any, NoReturn]],
        gone: Callable[[W], None],
    ) -> None:
        self._wanted = wanted
        self._follow = follow
        self._gone = gone
        self._changed = asyncio.Event()
        self._following: dict[W, asyncio.Task[NoReturn]] = {}

    def changed(self, *_: object) -> None:
        """Note that other things may be wanted; a handler of any collection."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        try:
            while True:
                self._changed.clear()
                self._reconcile()
                await self._changed.wait()
        finally:
            for task in self._following.values():
                task.cancel()
            await asyncio.gather(*self._following.values(), return_exceptions=True)

    def _reconcile(self) -> None:
        wanted = set(self._wanted())
        for gone in self._following.keys() - wanted:
            self._following.pop(gone).cancel()
            self._gone(gone)
        for new in wanted - self._following.keys():
            self._following[new] = asyncio.create_task(self._follow(new))
