"""How many streams may be at their beginning at once.

A stream's first answers may be everything there is, and its first request may list everything that the client holds.
After a restart all clients begin at the same moment: let in one by one they cost the memory of a few, together that of
all. Those that wait have sent nothing yet that had to be kept: gRPC's flow control holds it at the client.
"""

import asyncio
from typing import Final

_LIMIT: Final = 8
_TIMEOUT_S: Final = 30.0
"""A client that has not taken its first answers by then gives its place to the next; it is served all the same."""


class Slot:
    """A place among those that begin; ``leave`` may be called any number of times."""

    def __init__(self, places: asyncio.Semaphore, timeout_s: float) -> None:
        self._places: asyncio.Semaphore | None = places
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self.leave)

    def leave(self) -> None:
        """Let the next one begin."""
        places, self._places = self._places, None
        if places is not None:
            self._timer.cancel()
            places.release()


class Admission:
    """Lets streams begin. Used on one event loop only."""

    def __init__(self, *, limit: int = _LIMIT, timeout_s: float = _TIMEOUT_S) -> None:
        self._places = asyncio.Semaphore(limit)
        self._timeout_s = timeout_s

    async def enter(self) -> Slot:
        """Wait for a place."""
        await self._places.acquire()
        return Slot(self._places, self._timeout_s)
