"""Kernel settings of the network namespace that the calling thread is in (see ``netns.run``).

A container that is not privileged sees ``/proc/sys`` read-only, whatever capabilities it has. A thread with a mount
namespace of its own may mount ``/proc`` anew and write there; no other process sees that.
"""

import errno
from pathlib import Path
from typing import Final

from meshkit.linux import syscalls
from meshkit.linux.syscalls import Clone, Mount

_ROOT: Final = Path("/proc/sys")


def read(name: str) -> str | None:
    """Return the value of ``name``; ``None`` where this kernel has no such setting."""
    try:
        return (_ROOT / name).read_text().strip()
    except FileNotFoundError:
        return None


def write(name: str, value: str) -> None:
    """Set ``name`` (as ``net/ipv4/tcp_migrate_req``); call it in a thread that ends soon after, as ``netns.run`` does.

    Raises:
        FileNotFoundError: this kernel has no such setting.
        OSError: it cannot be written.
    """
    setting = _ROOT / name
    if setting.read_text().strip() == value:
        return
    try:
        setting.write_text(value)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        syscalls.unshare(Clone.NEWNS)
        syscalls.mount("none", "/", flags=Mount.REC | Mount.PRIVATE)
        syscalls.mount("proc", "/proc", "proc", Mount.NOSUID | Mount.NODEV | Mount.NOEXEC)
        setting.write_text(value)
