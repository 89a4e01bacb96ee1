"""Finding many namespaces with one look at the process table."""

import asyncio
import os
from collections.abc import Callable

from nodeagent.discovery import namespaces

Find = Callable[[set[str]], dict[str, int]]


class NamespaceFinder:
    """Answers all concurrent lookups with one scan: a label on a namespace looks up all its pods at once."""

    def __init__(self, find: Find = namespaces.find) -> None:
        self._find = find
        self._waiting: dict[str, list[asyncio.Future[int | None]]] = {}
        self._scan: asyncio.Task[None] | None = None

    async def open(self, uid: str) -> int | None:
        """Return an open descriptor of a pod's namespace, which the caller closes; ``None`` when it has none now."""
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(uid, []).append(answer)
        if self._scan is None or self._scan.done():
            self._scan = asyncio.create_task(self._answer())
        return await answer

    async def _answer(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            found = await asyncio.to_thread(self._find, set(waiting))
            for uid, answers in waiting.items():
                descriptor = found.get(uid)
                for answer in answers:
                    if not answer.cancelled():
                        answer.set_result(None if descriptor is None else os.dup(descriptor))
                if descriptor is not None:
                    os.close(descriptor)
