"""Network namespaces: named ones (as ``ip netns`` keeps them), and running a function inside any of them.

A namespace belongs to a thread. ``run`` therefore uses a thread of its own that ends inside the other namespace, and
never moves a thread that other code may use.
"""

import errno
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from meshkit.linux import syscalls
from meshkit.linux.syscalls import Clone, Mount

NAMED: Final = Path("/run/netns")
"""Where ``ip netns`` looks for names."""
_SO_NETNS_COOKIE: Final = 71

T = TypeVar("T")


def path(name: str) -> Path:
    """Return where a named namespace is."""
    return NAMED / name


def names() -> frozenset[str]:
    """Return the names that there are."""
    return frozenset(entry.name for entry in NAMED.iterdir()) if NAMED.is_dir() else frozenset()


def create(name: str) -> Path:
    """Make a named namespace with loopback down and return its path.

    Raises:
        FileExistsError: the name is taken.
    """
    handle = path(name)
    NAMED.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked():
        _share()
        handle.touch(mode=0o444, exist_ok=False)

    def make() -> None:
        syscalls.unshare(Clone.NEWNET)
        syscalls.mount(f"/proc/self/task/{threading.get_native_id()}/ns/net", handle, flags=Mount.BIND)

    try:
        _in_thread(make)
    except BaseException:
        handle.unlink(missing_ok=True)
        raise
    return handle


def delete(name: str) -> bool:
    """Remove a name and say whether it was there; the namespace ends with its last process."""
    handle = path(name)
    if not handle.exists():
        return False
    with _locked():
        with suppress(OSError):  # a crash between touch and mount leaves a plain file
            syscalls.unmount(handle)
        handle.unlink(missing_ok=True)
        if not names():
            with suppress(OSError):  # older versions have made no mount of it
                syscalls.unmount(NAMED)
    return True


@contextmanager
def _locked() -> Iterator[None]:
    """Keep others from making or ending the mount of the folder; ``ip netns add`` takes the same lock."""
    folder = os.open(NAMED, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _share() -> None:
    """Make the folder a mount that is shared, as ``ip netns add`` does.

    Else that command would lay one over the folder later, and names that are there by then could not be deleted.
    """
    try:
        syscalls.mount("none", NAMED, flags=Mount.SHARED | Mount.REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # it is no mount
            raise
        syscalls.mount(str(NAMED), NAMED, flags=Mount.BIND | Mount.REC)
        syscalls.mount("none", NAMED, flags=Mount.SHARED | Mount.REC)


def run(target: Path | int, work: Callable[[], T]) -> T:
    """Run ``work`` inside a namespace, in a thread of its own, and return what it returns or raise what it raises.

    Args:
        target: path of a namespace, or an open descriptor of one (which stays the caller's).
        work: sockets that it opens stay in that namespace when used elsewhere.
    """

    def enter() -> T:
        if isinstance(target, int):
            syscalls.setns(target, Clone.NEWNET)
        else:
            descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(descriptor, Clone.NEWNET)
            finally:
                os.close(descriptor)
        return work()

    return _in_thread(enter)


def cookie() -> int:
    """Return the number by which the kernel names the calling thread's namespace, in its life to no other.

    Raises:
        OSError: the kernel is older than 5.14.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        try:
            return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError as error:
            raise OSError(error.errno, "namespaces have no cookies, which Linux 5.14 has brought") from error


def inode() -> int:
    """Return the inode number of the calling thread's namespace: no other namespace that exists has it."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def scratch(work: Callable[[], T]) -> T:
    """Run ``work`` inside a new, private namespace that ends with it."""

    def enter() -> T:
        syscalls.unshare(Clone.NEWNET)
        return work()

    return _in_thread(enter)


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
