"""System calls that Python 3.11 has no function for. Each raises ``OSError`` with the kernel's reason."""

import ctypes
import os
from enum import IntFlag
from pathlib import Path
from typing import Final

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


def unshare(kinds: Clone) -> None:
    """Give the calling thread new namespaces (a new pid namespace takes effect for its children)."""
    _check(_libc.unshare(ctypes.c_int(kinds)), "unshare")


def setns(descriptor: int, kind: Clone) -> None:
    """Move the calling thread into the namespace that ``descriptor`` refers to."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str | Path, kind: str = "", flags: Mount = Mount.NONE, data: str = "") -> None:
    """Mount ``source`` on ``target``."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, f"mount {kind or flags.name} on {target}")


def unmount(target: str | Path) -> None:
    """Detach what is mounted on ``target`` now; it ends when nobody uses it any more."""
    _check(_libc.umount2(os.fsencode(target), UMOUNT_DETACH), f"unmount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
