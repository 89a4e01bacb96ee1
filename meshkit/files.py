"""Follows files that another program replaces, such as the files that Kubernetes projects into a pod.

Polled, because a projected folder is replaced by switching a symbolic link, which a watch of the file does not see.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path


def read(file: Path) -> bytes | OSError:
    """Return the content of a file, empty where there is none; or why it cannot be read. Blocks."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        return error


async def follow(file: Path, *, poll_s: float) -> AsyncIterator[bytes | OSError]:
    """Yield what ``read`` returns, at once and whenever it has changed, looking every ``poll_s`` seconds."""
    last: bytes | str | None = None
    while True:
        found = await asyncio.to_thread(read, file)
        seen = str(found) if isinstance(found, OSError) else found
        if seen != last:
            last = seen
            yield found
        await asyncio.sleep(poll_s)
