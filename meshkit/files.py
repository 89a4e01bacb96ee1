"""Files that others read: replaced as a whole, so that not even a power cut leaves half of one, and followed.

Following is polled, because a folder that Kubernetes projects into a pod is replaced by switching a symbolic link,
which a watch of the file does not see.
"""

import asyncio
import os
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


def replace(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file; after a power cut it is the old one or the new one, and the new one once this has returned.

    It is written beside the old one, under a name that begins with a dot.

    Raises:
        OSError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.new")
    with beside.open("wb") as opened:
        os.fchmod(opened.fileno(), mode)
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())  # or the name may come to the disk without the bytes
    beside.rename(file)
    keep_names(file.parent)


def keep_names(folder: Path) -> None:
    """Return when no power cut can undo a new name, a renaming or a removal in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
