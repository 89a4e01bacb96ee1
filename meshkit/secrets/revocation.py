"""The mesh's revocation lists, read from the file that Kubernetes projects into this pod whenever it changes.

Without the file there is no list. An invalid file changes nothing: the last good lists stay in force, and one log line
says why, not one for each poll.
"""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshkit import files, revocation
from meshkit.log import logger

_log = logger("secrets")

POLL_S: Final = 2.0


class RevocationFile:
    """Reads the file. Call ``look`` once before serving, then run ``follow``.

    Attributes:
        lists: number of lists in force.
        failures: invalid contents since the start.
    """

    def __init__(self, file: Path, changed: Callable[[bytes], None]) -> None:
        """``changed`` is called with the lists, PEM, at each change; with empty bytes when the file is removed."""
        self._file = file
        self._changed = changed
        self._seen: bytes | str = b""
        self._pem = b""
        self.lists = 0
        self.failures = 0

    async def follow(self, *, poll_s: float = POLL_S) -> None:
        """Take each new content, looking every ``poll_s`` seconds, until cancelled."""
        async for content in files.follow(self._file, poll_s=poll_s):
            await self._take(content)

    async def look(self) -> None:
        """Read once; invalid content raises nothing."""
        await self._take(await asyncio.to_thread(files.read, self._file))

    async def _take(self, content: bytes | OSError) -> None:
        if isinstance(content, OSError):
            self._refused(str(content), str(content))
            return
        digest = hashlib.sha256(content).digest()
        if digest == self._seen:
            return
        try:
            lists = await asyncio.to_thread(revocation.read, content)
        except revocation.BadRevocationLists as error:
            self._refused(digest, str(error))
            return
        self._seen = digest
        pem = revocation.render(lists).encode()
        if pem == self._pem:
            return
        self._pem, self.lists = pem, len(lists)
        _log.info("revocation lists have changed", file=self._file, lists=self.lists)
        self._changed(pem)

    def _refused(self, seen: bytes | str, reason: str) -> None:
        if seen == self._seen:
            return
        self._seen = seen
        self.failures += 1
        _log.error(
            "revocation lists cannot be used, those in force stay", file=self._file, reason=reason, lists=self.lists
        )
