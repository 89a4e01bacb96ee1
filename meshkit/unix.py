"""Unix sockets that are never reachable with wider rights than meant, and replace an earlier process's dead socket.

A socket is bound under a private name in the same folder, given its mode and owner, and then renamed.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def claim(path: Path) -> Path:
    """Return the hidden name to bind first.

    Raises:
        FileExistsError: something that is no socket is in the way.
    """
    if path.exists() and not path.is_socket():
        raise FileExistsError(f"{path} is in the way and not a socket; remove it")
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    hidden.unlink(missing_ok=True)
    return hidden


def publish(hidden: Path, path: Path, mode: int, owner: tuple[int, int] | None = None) -> int:
    """Give a bound socket its mode, owner (user and group id) and name; return its inode number for ``published``."""
    hidden.chmod(mode)
    if owner is not None:
        os.chown(hidden, *owner)
    hidden.rename(path)
    return path.stat().st_ino


@contextmanager
def published(path: Path, inode: int) -> Iterator[None]:
    """Remove the name at the end, unless a successor has put its own socket there."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()


def listen(path: Path, kind: socket.SocketKind, *, mode: int = 0o600, backlog: int = 64) -> tuple[socket.socket, int]:
    """Return a listening, non-blocking socket and its inode number.

    Raises:
        OSError: the folder is missing, something is in the way, or it cannot be bound.
    """
    hidden = claim(path)
    listener = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o177)
    try:
        listener.bind(str(hidden))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener, publish(hidden, path, mode)
