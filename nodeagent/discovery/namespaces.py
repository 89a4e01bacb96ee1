"""Network namespaces of running pods, found through the processes in their cgroups.

Kubernetes does not expose a pod's network namespace. A pod's UID is part of the cgroup path of each of its processes,
whatever the runtime and the cgroup driver (``pod<uid>``, with dashes or with underscores).
"""

import os
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from meshkit.linux import syscalls

_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")


def find(uids: set[str], proc: Path = Path("/proc")) -> dict[str, int]:
    """Return open descriptors of the namespaces of these pods, by UID; the caller closes them.

    Pods without a running process, and processes that share the host's network, are not found.
    """
    host = _inode(proc / "1" / "ns" / "net")
    found: dict[str, int] = {}
    for process in _processes(proc):
        if len(found) == len(uids):
            break
        uid = _pod_of(process)
        if uid is None or uid not in uids or uid in found:
            continue
        with suppress(OSError):  # the process may end while we look at it
            descriptor = os.open(process / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_ino == host:
                os.close(descriptor)
            else:
                found[uid] = descriptor
    return found


def processes(uids: Set[str], proc: Path = Path("/proc")) -> frozenset[int]:
    """Return the processes of these pods, in all their containers."""
    return frozenset(int(process.name) for process in _processes(proc) if _pod_of(process) in uids)


def open_path(path: str, root: Path = Path("/proc/1/root")) -> int:
    """Open a namespace by the path that the container runtime gave to its network plugins; the caller closes it.

    Raises:
        OSError: it is gone.
    """
    return syscalls.open_in_root(root, path)


def _processes(proc: Path) -> Iterator[Path]:
    return (entry for entry in proc.iterdir() if entry.name.isdecimal())


def _pod_of(process: Path) -> str | None:
    try:
        match = _POD.search((process / "cgroup").read_text())
    except OSError:
        return None
    return match.group(1).replace("_", "-") if match else None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
