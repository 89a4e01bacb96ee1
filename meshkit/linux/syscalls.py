"""System calls that Python 3.11 has no function for. Each raises ``OSError`` with the kernel's reason."""

import ctypes
import os
from enum import IntFlag
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Clone(IntFlag):
    """Kinds of namespaces (``linux/sched.h``)."""

    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000


class Mount(IntFlag):
    """Flags of ``mount`` (``linux/mount.h``)."""

    NONE = 0
    RDONLY = 1 << 0
    NOSUID = 1 << 1
    NODEV = 1 << 2
    NOEXEC = 1 << 3
    REMOUNT = 1 << 5
    BIND = 1 << 12
    REC = 1 << 14
    PRIVATE = 1 << 18
    SHARED = 1 << 20


UMOUNT_DETACH: Final = 2
_SYS_OPENAT2: Final = 437  # the same on every architecture: it is newer than the numbers that differ
_RESOLVE_IN_ROOT: Final = 0x10


def unshare(kinds: Clone) -> None:
    """Give the calling thread new namespaces (a new pid namespace takes effect for its children)."""
    _check(_libc.unshare(ctypes.c_int(kinds)), "unshare")


def setns(descriptor: int, kind: Clone) -> None:
    """Move the calling thread into the namespace that ``descriptor`` refers to."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: str | Path, path: str) -> int:
    """Open ``path`` for reading as a process whose root is ``root`` would see it; the caller closes the descriptor.

    Joining the two would not do: absolute links on the way (``/var/run``) would lead out of ``root``.
    """
    how = _OpenHow(os.O_RDONLY | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        result: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(base),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        number = ctypes.get_errno()
    finally:
        os.close(base)
    if result < 0:
        raise OSError(number, os.strerror(number), f"{path} in {root}")
    return result


def mount(source: str, target: str | Path, kind: str = "", flags: Mount = Mount.NONE, data: str = "") -> None:
    """Mount ``source`` on ``target``."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, f"mount {kind or flags.name} on {target}")


def unmount(target: str | Path) -> None:
    """Detach the mount on ``target`` now; it ends with its last user (``MNT_DETACH``)."""
    _check(_libc.umount2(os.fsencode(target), UMOUNT_DETACH), f"unmount {target}")


def die_with_parent(number: int) -> None:
    """Have the kernel send this process the signal ``number`` when the thread that made it ends."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(number)), "prctl(PR_SET_PDEATHSIG)")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
