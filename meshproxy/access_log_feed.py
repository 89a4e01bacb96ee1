"""The access log for readers on this node (`culvert trace`), as it is written, at a socket that root may open.

Rule 1: the engine never waits for a reader. One that does not take what is written in time is disconnected.
Rule 2: lines are those of standard output, whole and unchanged; a reader gets what comes after it has connected.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final

from meshkit import log

_log = log.logger("access-log-feed")

_MAX_UNREAD_BYTES: Final = 4 << 20
"""For each reader."""
_MAX_READERS: Final = 8


class AccessLogFeed:
    """Serves readers. Construct, then ``run``.

    Args:
        path: of the socket; a stale one is replaced. A process that replaces this one takes it over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readers: set[asyncio.StreamWriter] = set()

    @property
    def readers(self) -> int:
        """How many read now."""
        return len(self._readers)

    async def run(self) -> None:
        """Serve until cancelled; a socket that cannot be made is said once, and nothing depends on it."""
        try:
            server = await asyncio.start_unix_server(self._serve, self._path)
            self._path.chmod(0o600)
            own = self._path.stat().st_ino
        except OSError as error:
            _log.warning("access log cannot be offered to readers on this node", path=str(self._path), error=str(error))
            return
        async with server:
            try:
                await server.serve_forever()
            finally:
                for reader in self._readers:
                    reader.transport.abort()
                with suppress(FileNotFoundError):
                    if self._path.stat().st_ino == own:  # else it is a successor's
                        self._path.unlink()

    def offer(self, lines: bytes) -> None:
        """Hand lines to everybody who reads; does not block."""
        for reader in list(self._readers):
            if reader.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
                reader.transport.abort()
                self._readers.discard(reader)
            else:
                reader.write(lines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._readers) >= _MAX_READERS:
            writer.close()
            return
        self._readers.add(writer)
        try:
            await reader.read()  # readers say nothing; this ends when they go
        except OSError:
            pass
        finally:
            self._readers.discard(writer)
            writer.close()
